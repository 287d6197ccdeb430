//go:build linux

// Command bench measures rudp beside TCP, quic-go and kcp-go on a simulated link: the sockets are
// real, the packets cross a tunnel device in a network namespace of the program's own, and a relay
// with a seed gives them rate, queue, delay and loss.
//
//	go run .                        # all tables; -peers, -time, -rtt, -loss, -n narrow it down
//	go run . -mode loopback         # throughput and CPU time without a link
//	go run . -mode compete          # two flows at once, for all pairs and queues
//	go run . -svg goodput.svg       # the chart too
//
// It needs Linux, /dev/net/tun and the right to make a network namespace, and ends with 77 where it
// has them not. Run it on a machine that has nothing else to do.
package main

// This file changes if what is measured, or in which order, does.

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	mode, svg string
	peers     string
	time      time.Duration
	rtts      []time.Duration
	losses    []float64
	buffers   []float64 // queues of compete, in bandwidth-delay products
	burst     float64
	reorder   float64
	duplicate float64
	extra     time.Duration
	seed      uint64
	n         int
	rate      float64
	queue     int
	tunnel    *tunnel
	port      int
}

func main() {
	o := options{port: 20_000}
	flag.StringVar(&o.mode, "mode", "all", "goodput, objects, pings, rebind, all (of these), compete or loopback")
	flag.StringVar(&o.svg, "svg", "", "write goodput's chart to this `file`")
	flag.StringVar(&o.peers, "peers", "", "only peers whose name contains one of these, comma-separated")
	flag.DurationVar(&o.time, "time", 5*time.Second, "how long each goodput is measured")
	rtts := flag.String("rtt", "20ms,50ms", "round-trip times")
	losses := flag.String("loss", "0,1,5,10", "percent lost, each way")
	buffers := flag.String("buffers", "0.5,2", "compete's queues, in bandwidth-delay products")
	flag.Float64Var(&o.burst, "burst", 1, "mean length of a run of losses")
	flag.Float64Var(&o.reorder, "reorder", 0, "share of packets that come -extra later")
	flag.Float64Var(&o.duplicate, "duplicate", 0, "share of packets that come again -extra later")
	flag.DurationVar(&o.extra, "extra", 2*time.Millisecond, "see -reorder and -duplicate")
	flag.Uint64Var(&o.seed, "seed", 1, "of the link")
	flag.IntVar(&o.n, "n", 20, "objects, and a tenth of the pings")
	flag.Float64Var(&o.rate, "rate", 100e6, "bits a second")
	flag.IntVar(&o.queue, "queue", 375_000, "bytes that may wait at the link")
	flag.Parse()
	for _, s := range strings.Split(*rtts, ",") {
		d, err := time.ParseDuration(s)
		fail(err)
		o.rtts = append(o.rtts, d)
	}
	for _, s := range strings.Split(*losses, ",") {
		p, err := strconv.ParseFloat(s, 64)
		fail(err)
		o.losses = append(o.losses, p/100)
	}
	for _, s := range strings.Split(*buffers, ",") {
		b, err := strconv.ParseFloat(s, 64)
		fail(err)
		o.buffers = append(o.buffers, b)
	}
	if o.mode == "loopback" {
		o.loopback()
		return
	}
	if !inside() {
		return
	}
	var err error
	if o.tunnel, err = newTunnel(); err != nil {
		fmt.Println("skipped:", err)
		os.Exit(77)
	}
	modes := []struct {
		name string
		run  func(*options)
	}{{"goodput", (*options).goodput}, {"objects", (*options).objects}, {"pings", (*options).pings}, {"rebind", (*options).rebind}}
	found := o.mode == "compete"
	if found {
		o.compete()
	}
	for _, m := range modes {
		if o.mode == "all" || o.mode == m.name {
			m.run(&o)
			found = true
		}
	}
	if !found {
		fail(fmt.Errorf("no mode %q", o.mode))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o *options) chosen() []peer {
	return slices.DeleteFunc(peers(), func(p peer) bool { return !o.wanted(p.name) })
}

// wanted says whether -peers names the peer, or none.
func (o *options) wanted(name string) bool {
	if o.peers == "" {
		return true
	}
	for _, part := range strings.Split(o.peers, ",") {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// link sets the tunnel up for a run and returns the server's port.
func (o *options) link(rtt time.Duration, loss float64) int {
	o.port++
	c := linkConfig{
		Rate: o.rate, Queue: o.queue, Delay: rtt / 2, Loss: loss, Burst: o.burst,
		Reorder: o.reorder, Duplicate: o.duplicate, Extra: o.extra,
	}
	o.tunnel.set(c, c, o.seed, o.port)
	return o.port
}

// row is one peer's line of goodput.
type row struct {
	name  string
	cells []cell // by round-trip time, then loss
}

type cell struct {
	mbit, wire, drop float64
	err              error
}

func (o *options) goodput() {
	fmt.Printf("Goodput in Mbit/s, %v each; in brackets wire bytes a stream byte. %.0f Mbit/s, queue %d B, loss each way, seed %d.\n\n|",
		o.time, o.rate/1e6, o.queue, o.seed)
	for _, rtt := range o.rtts {
		for _, loss := range o.losses {
			fmt.Printf(" | %v %g %%", rtt, 100*loss)
		}
	}
	fmt.Print(" | tail drop |\n|---")
	fmt.Println(strings.Repeat("|---", len(o.rtts)*len(o.losses)+1) + "|")
	var rows []row
	for _, p := range o.chosen() {
		r := row{name: p.name}
		fmt.Printf("| %s", p.name)
		worst := 0.0
		for _, rtt := range o.rtts {
			for _, loss := range o.losses {
				c := o.transfer(p, rtt, loss)
				r.cells = append(r.cells, c)
				if c.err != nil {
					fmt.Printf(" | %v", c.err)
					continue
				}
				worst = max(worst, c.drop)
				fmt.Printf(" | %.1f (%.2f)", c.mbit, c.wire)
			}
		}
		fmt.Printf(" | %.1f %% |\n", 100*worst)
		rows = append(rows, r)
	}
	fmt.Println()
	if o.svg != "" {
		fail(os.WriteFile(o.svg, []byte(chart(rows, o.rtts, o.losses)), 0o644))
	}
}
