//go:build linux

package main

// This file changes if how one figure is measured does.

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/veloq/veloq/rudp"
)

// open listens, connects, and returns both ends. The client's first byte has been read: some peers
// accept only then.
func open(p peer, local, remote string) (client, server net.Conn, end func(), err error) {
	l, err := p.listen(local)
	if err != nil {
		return nil, nil, nil, err
	}
	type accepted struct {
		c   net.Conn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		got <- accepted{c, err}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	client, err = p.dial(ctx, remote)
	if err == nil {
		_, err = client.Write([]byte{1})
	}
	if err != nil {
		_ = l.Close()
		return nil, nil, nil, err
	}
	select {
	case a := <-got:
		server, err = a.c, a.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	return client, server, func() {
		for _, c := range []net.Conn{client, server} {
			if s, ok := c.(*rudp.Stream); ok {
				_ = s.Endpoint().Close() // not what is left to deliver
			} else if c != nil {
				_ = c.Close()
			}
		}
		_ = l.Close()
	}, err
}

func (o *options) open(p peer, rtt time.Duration, loss float64) (client, server net.Conn, end func(), err error) {
	port := strconv.Itoa(o.link(rtt, loss))
	return open(p, net.JoinHostPort(localIP, port), net.JoinHostPort(remoteIP, port))
}

// pour writes until the connection ends.
func pour(c net.Conn) {
	for buf := make([]byte, 64<<10); ; {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// sink counts what arrives, and the longest pause.
type sink struct {
	bytes  atomic.Int64
	last   atomic.Int64 // time of the last arrival, in ns since begun
	pause  atomic.Int64
	begun  time.Time
	closed chan struct{}
}

func newSink(c net.Conn) *sink {
	s := &sink{begun: time.Now(), closed: make(chan struct{})}
	go func() {
		defer close(s.closed)
		buf := make([]byte, 256<<10)
		for {
			n, err := c.Read(buf)
			s.bytes.Add(int64(n))
			now := int64(time.Since(s.begun))
			s.pause.Store(max(s.pause.Load(), now-s.last.Load()))
			s.last.Store(now)
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (o *options) transfer(p peer, rtt time.Duration, loss float64) cell {
	begin := time.Now()
	client, server, end, err := o.open(p, rtt, loss)
	if err != nil {
		return cell{err: err}
	}
	defer end()
	s := newSink(server)
	go pour(client)
	time.Sleep(o.time - time.Since(begin))
	got := float64(s.bytes.Load())
	up, down := o.tunnel.stats()
	return cell{
		mbit: got * 8 / time.Since(begin).Seconds() / 1e6,
		wire: float64(up.Bytes+down.Bytes) / max(got, 1),
		drop: float64(up.Dropped) / float64(max(up.Packets, 1)),
	}
}

func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(int(q*float64(len(list))), len(list)-1)].Round(time.Millisecond)
}

// objects times 200 kB from the dial to the last byte.
func (o *options) objects() {
	const size = 200_000
	fmt.Printf("200 kB at 50 ms from the dial to the last byte, %d times, p50 (p99); TCP is without TLS.\n\n", o.n)
	fmt.Println("| | 0 % | 5 % |\n|---|---|---|")
	for _, p := range o.chosen() {
		fmt.Printf("| %s", p.name)
		for i, loss := range []float64{0, 0.05} {
			var times []time.Duration
			var failed error
			for n := range o.n {
				o.seed += uint64(1 + i + n)
				begin := time.Now()
				client, server, end, err := o.open(p, 50*time.Millisecond, loss)
				if err == nil {
					go func() { _, _ = server.Write(make([]byte, size)) }()
					_ = client.SetReadDeadline(time.Now().Add(dialTimeout))
					_, err = io.ReadFull(client, make([]byte, size))
					times = append(times, time.Since(begin))
					end()
				}
				if err != nil {
					failed = err
				}
			}
			fmt.Printf(" | %v (%v)", quantile(times, 0.5), quantile(times, 0.99))
			if failed != nil {
				fmt.Printf(" %v", failed)
			}
		}
		fmt.Println(" |")
	}
	fmt.Println()
}

// pings times 64 bytes there and back.
func (o *options) pings() {
	fmt.Printf("64 bytes there and back at 50 ms and 5 %% loss, %d times.\n\n| | p50 | p99 |\n|---|---|---|\n", 10*o.n)
	for _, p := range o.chosen() {
		client, server, end, err := o.open(p, 50*time.Millisecond, 0.05)
		if err != nil {
			fmt.Printf("| %s | %v | |\n", p.name, err)
			continue
		}
		go func() { _, _ = io.Copy(server, server) }()
		var times []time.Duration
		buf := make([]byte, 64)
		for range 10 * o.n {
			begin := time.Now()
			_ = client.SetDeadline(begin.Add(dialTimeout))
			if _, err = client.Write(buf); err == nil {
				_, err = io.ReadFull(client, buf)
			}
			if err != nil {
				break
			}
			times = append(times, time.Since(begin))
		}
		end()
		fmt.Printf("| %s | %v | %v |\n", p.name, quantile(times, 0.5), quantile(times, 0.99))
	}
	fmt.Println()
}

// rebind gives the client another port in the middle of a transfer, as a NAT does.
func (o *options) rebind() {
	fmt.Print("A NAT gives the client another port in mid-transfer, 20 ms: the longest silence after it.\n\n| | silence | went on |\n|---|---|---|\n")
	for _, p := range o.chosen() {
		if p.tcp {
			continue // a NAT that forgets a TCP connection ends it
		}
		client, server, end, err := o.open(p, 20*time.Millisecond, 0)
		if err != nil {
			fmt.Printf("| %s | %v | |\n", p.name, err)
			continue
		}
		s := newSink(server)
		go pour(client)
		time.Sleep(2 * time.Second)
		s.pause.Store(0)
		before := s.bytes.Load()
		o.tunnel.rebind()
		time.Sleep(5 * time.Second)
		silence := max(time.Duration(s.pause.Load()), time.Since(s.begun)-time.Duration(s.last.Load()))
		fmt.Printf("| %s | %v | %v |\n", p.name, silence.Round(time.Millisecond), s.bytes.Load() > before+10_000_000)
		end()
	}
	fmt.Println()
}

// loopback is speed without a link: both ends in this process.
func (o *options) loopback() {
	fmt.Printf("Loopback, %v each.\n\n| | Gbit/s | CPU s/GB |\n|---|---|---|\n", o.time)
	for _, p := range o.chosen() {
		o.port++
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port))
		client, server, end, err := open(p, addr, addr)
		if err != nil {
			fmt.Printf("| %s | %v | |\n", p.name, err)
			continue
		}
		s := newSink(server)
		go pour(client)
		time.Sleep(o.time / 5)
		bytes, cpu, begin := s.bytes.Load(), cpuTime(), time.Now()
		time.Sleep(o.time)
		moved := float64(s.bytes.Load() - bytes)
		fmt.Printf("| %s | %.2f | %.2f |\n", p.name, moved*8/time.Since(begin).Seconds()/1e9,
			(cpuTime()-cpu).Seconds()/(moved/1e9))
		end()
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
