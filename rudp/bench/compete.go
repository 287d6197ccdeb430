//go:build linux

package main

// This file changes if how flows are set against each other does.

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// contests are pairs of peers on one bottleneck. TCP's own are what the others are held against.
var contests = [][2]string{
	{"rudp, bbr", "TCP, CUBIC"},
	{"rudp, cubic", "TCP, CUBIC"},
	{"TCP, BBR", "TCP, CUBIC"},
	{"TCP, CUBIC", "TCP, CUBIC"},
	{"rudp, bbr", "rudp, bbr"},
	{"rudp, cubic", "rudp, cubic"},
	{"rudp, bbr", "rudp, cubic"},
	{"rudp, bbr", "TCP, BBR"},
}

const (
	// headStart is how long the first flow is alone.
	headStart = 2 * time.Second
	// settling is how long both have before they are measured.
	settling = 5 * time.Second
)

// outcome is what two flows got, in Mbit/s, and what became of the queue.
type outcome struct {
	first, second float64
	wait          time.Duration
	drop          float64
}

// compete prints a table of contests: for every queue, as a share of the path's bandwidth-delay product. The
// flow that begins has an advantage, so each of a pair begins once, and the mean counts.
func (o *options) compete() {
	rtt := o.rtts[0]
	product := o.rate / 8 * rtt.Seconds()
	fmt.Printf("Two flows at once over %v in each order, %.0f Mbit/s, %v, loss %g %%, seed %d: what each "+
		"got in Mbit/s (the first one's share), mean wait in the queue, share dropped there.\n\n| |",
		o.time, o.rate/1e6, rtt, 100*o.losses[0], o.seed)
	for _, share := range o.buffers {
		fmt.Printf(" queue of %g products |", share)
	}
	fmt.Print("\n|---" + strings.Repeat("|---", len(o.buffers)) + "|\n")
	for _, names := range contests {
		if !o.wanted(names[0]) && !o.wanted(names[1]) {
			continue
		}
		fmt.Printf("| %s against %s", names[0], names[1])
		for _, share := range o.buffers {
			o.queue = int(share * product)
			got, err := o.bothOrders(peerNamed(names[0]), peerNamed(names[1]), rtt)
			if err != nil {
				fmt.Printf(" | %v", err)
				continue
			}
			fmt.Printf(" | %.1f : %.1f (%.0f %%), %v, %.2f %%", got.first, got.second,
				100*got.first/(got.first+got.second), got.wait.Round(time.Millisecond), 100*got.drop)
		}
		fmt.Println(" |")
	}
	fmt.Println()
}

func (o *options) bothOrders(a, b peer, rtt time.Duration) (outcome, error) {
	x, err := o.contest(a, b, rtt)
	if err != nil {
		return outcome{}, err
	}
	y, err := o.contest(b, a, rtt)
	if err != nil {
		return outcome{}, err
	}
	return outcome{(x.first + y.second) / 2, (x.second + y.first) / 2, (x.wait + y.wait) / 2, (x.drop + y.drop) / 2}, nil
}

// contest lets the first begin and the second join.
func (o *options) contest(first, second peer, rtt time.Duration) (outcome, error) {
	o.port++ // the second's: link takes the next one, and these two are both the servers'
	port := o.link(rtt, o.losses[0])
	o.tunnel.serve(port-1, port)
	var sinks [2]*sink
	for i, p := range []peer{first, second} {
		at := strconv.Itoa(port - i)
		client, server, end, err := open(p, net.JoinHostPort(localIP, at), net.JoinHostPort(remoteIP, at))
		if err != nil {
			return outcome{}, fmt.Errorf("%s: %w", p.name, err)
		}
		defer end()
		sinks[i] = newSink(server)
		go pour(client)
		if i == 0 {
			time.Sleep(headStart)
		}
	}
	time.Sleep(settling)
	before, _ := o.tunnel.stats()
	counts := [2]int64{sinks[0].bytes.Load(), sinks[1].bytes.Load()}
	begin := time.Now()
	time.Sleep(o.time)
	seconds := time.Since(begin).Seconds()
	after, _ := o.tunnel.stats()
	packets := max(after.Packets-before.Packets, 1)
	return outcome{
		first:  float64(sinks[0].bytes.Load()-counts[0]) * 8 / seconds / 1e6,
		second: float64(sinks[1].bytes.Load()-counts[1]) * 8 / seconds / 1e6,
		wait:   (after.Waited - before.Waited) / time.Duration(packets),
		drop:   float64(after.Dropped-before.Dropped) / float64(packets),
	}, nil
}

func peerNamed(name string) peer {
	for _, p := range peers() {
		if p.name == name {
			return p
		}
	}
	panic("no peer " + name)
}
