// Command udp compares what one received datagram costs a server: veloq's handler, package net's
// ReadMsgUDP and x/net's ReadBatch (recvmmsg), each with a socket on loopback that this program floods or
// feeds at a rate. Every sample gets a fresh server process, pinned to CPU 0 with GOMAXPROCS=1, and the
// servers take turns; the sender is pinned to CPU 1.
//
//	go run ./udp                    # 1,200 bytes, as fast as the sender can and at 100,000 a second
//	go run ./udp -gso 10            # the sender's kernel cuts: with GRO on they come together
//	go run ./udp -servers veloq,go -rounds 9 -rates 50000
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

type sample struct {
	cpu     time.Duration // of the server process
	packets uint64        // that it received
	sent    uint64
	seconds float64
}

func (s sample) perPacket() float64 { return float64(s.cpu.Nanoseconds()) / float64(max(s.packets, 1)) }

type options struct {
	size, gso, rounds int
	seconds           float64
	pin               bool
}

func main() {
	var o options
	serve := flag.String("serve", "", "be the server of that name instead: "+strings.Join(serverNames(), ", "))
	names := flag.String("servers", strings.Join(serverNames(), ","), "which, in this order")
	rates := flag.String("rates", "0,100000", "datagrams a second, 0 for as many as the sender can")
	flag.IntVar(&o.size, "size", 1200, "payload bytes")
	flag.IntVar(&o.gso, "gso", 1, "datagrams that the sender's kernel cuts one send into")
	flag.IntVar(&o.rounds, "rounds", 5, "samples of each")
	flag.Float64Var(&o.seconds, "seconds", 1, "that a sample takes")
	flag.BoolVar(&o.pin, "pin", true, "one CPU each (taskset)")
	flag.Parse()
	if *serve != "" {
		runServer(*serve)
		return
	}
	for rate := range strings.SplitSeq(*rates, ",") {
		perSecond, err := strconv.Atoi(rate)
		if err != nil {
			fail(err)
		}
		compare(&o, strings.Split(*names, ","), perSecond)
	}
}

// compare prints one table, with the medians.
func compare(o *options, names []string, rate int) {
	all := map[string][]sample{}
	for range o.rounds {
		for _, name := range names {
			s, err := measure(o, name, rate)
			if err != nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
			all[name] = append(all[name], s)
		}
	}
	fmt.Printf("\n%d bytes, %d to a send, %s\n\n", o.size, o.gso, map[bool]string{true: "flood", false: strconv.Itoa(rate) + "/s"}[rate == 0])
	fmt.Printf("| server | CPU ns/packet | min..max | received/s | of those sent | of go |\n|---|--:|--:|--:|--:|--:|\n")
	base := 0.0
	if list, ok := all["go"]; ok {
		base = median(list).perPacket()
	}
	for _, name := range names {
		list := all[name]
		m := median(list)
		slices.SortFunc(list, func(a, b sample) int { return int(a.perPacket() - b.perPacket()) })
		fmt.Printf("| %s | %.0f | %.0f..%.0f | %.0f | %.0f %% | %.2f |\n", name, m.perPacket(), list[0].perPacket(),
			list[len(list)-1].perPacket(), float64(m.packets)/m.seconds, 100*float64(m.packets)/float64(m.sent),
			m.perPacket()/base)
	}
}

func median(list []sample) sample {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b sample) int { return int(a.perPacket() - b.perPacket()) })
	return sorted[len(sorted)/2]
}

// measure takes one sample of a fresh server.
func measure(o *options, name string, rate int) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	command := []string{self, "-serve", name}
	if o.pin {
		command = append([]string{"taskset", "-c", "0"}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return sample{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return sample{}, err
	}
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	defer func() {
		_ = in.Close() // its end
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return sample{}, io.ErrUnexpectedEOF
	}
	l, err := startLoad(lines.Text(), o, rate)
	if err != nil {
		return sample{}, err
	}
	defer l.stop()
	mark := func() (s sample, err error) {
		if _, err = fmt.Fprintln(in, "mark"); err != nil {
			return s, err
		}
		if !lines.Scan() {
			return s, io.ErrUnexpectedEOF
		}
		_, err = fmt.Sscan(lines.Text(), &s.cpu, &s.packets)
		s.sent = l.sent.Load()
		return s, err
	}
	time.Sleep(300 * time.Millisecond) // warm up
	begun := time.Now()
	from, err := mark()
	if err != nil {
		return sample{}, err
	}
	time.Sleep(time.Duration(o.seconds * float64(time.Second)))
	to, err := mark()
	return sample{
		cpu: to.cpu - from.cpu, packets: to.packets - from.packets, sent: to.sent - from.sent,
		seconds: time.Since(begun).Seconds(),
	}, err
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
