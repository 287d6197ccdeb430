// Command client loads an echo server from tasks: each connection is one task that sends a request,
// waits for its echo and checks every byte.
//
//	client -addr 127.0.0.1:9000 -c 64 -n 10000 -size 64
//
// It exits with 0 if every byte came back, 1 if anything failed, 2 for a wrong command line.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/veloq/veloq"
)

// sizeMax keeps a request within what a stream receives ahead of its reader (Config.ReadLimit), so
// that writing it never waits for reading its echo.
const sizeMax = 128 << 10

type load struct {
	addr        string
	connections int
	requests    int // of each connection
	size        int // bytes
	timeout     time.Duration
}

func main() {
	l := load{}
	flag.StringVar(&l.addr, "addr", "127.0.0.1:9000", "`address` of the echo server")
	flag.IntVar(&l.connections, "c", 64, "connections")
	flag.IntVar(&l.requests, "n", 1000, "requests of each connection")
	flag.IntVar(&l.size, "size", 64, "`bytes` of a request")
	flag.DurationVar(&l.timeout, "timeout", 10*time.Second, "how long a dial or an echo may take")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	flag.Parse()
	if err := l.check(); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(2)
	}
	if err := run(&l, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func (l *load) check() error {
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case l.connections < 1 || l.requests < 1 || l.timeout <= 0:
		return errors.New("-c, -n and -timeout must be positive")
	case l.size < 1 || l.size > sizeMax:
		return fmt.Errorf("-size must be 1 to %d", sizeMax)
	}
	return nil
}

func run(l *load, workers int) error {
	rt, err := veloq.New(veloq.Config{Workers: workers})
	if err != nil {
		return err
	}
	defer rt.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	begin := time.Now()
	handles := make([]*veloq.JoinHandle[int], l.connections)
	for i := range handles {
		handles[i] = veloq.Spawn(rt, func(c *veloq.Context) (int, error) { return l.connection(c, i) })
	}
	done := 0
	for _, h := range handles {
		n, failure := h.Wait(ctx)
		done += n
		if failure != nil {
			err = errors.Join(err, failure)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	took := time.Since(begin)
	fmt.Printf("%d connections, %d requests of %d bytes in %v: %.0f requests/s, %.1f MB/s each way\n",
		l.connections, done, l.size, took.Round(time.Millisecond),
		float64(done)/took.Seconds(), float64(done*l.size)/took.Seconds()/1e6)
	return err
}

// connection is the task of one connection. It returns how many requests came back right.
func (l *load) connection(c *veloq.Context, id int) (int, error) {
	d := veloq.Dialer{Timeout: l.timeout}
	s, err := d.DialStream(c, "tcp", l.addr)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	request, echo := make([]byte, l.size), make([]byte, l.size)
	for n := range l.requests {
		fill(request, id, n)
		if err := s.SetDeadline(time.Now().Add(l.timeout)); err != nil {
			return n, err
		}
		if _, err := s.Write(request); err != nil {
			return n, err
		}
		if _, err := s.ReadFull(echo); err != nil {
			return n, fmt.Errorf("connection %d, request %d: %w", id, n, err)
		}
		if !bytes.Equal(request, echo) {
			return n, fmt.Errorf("connection %d, request %d: wrong bytes came back", id, n)
		}
	}
	return l.requests, nil
}

// fill writes bytes that differ between connections and between requests, so that lost, repeated or
// crossed ones are seen.
func fill(p []byte, id, n int) {
	x := uint64(id)<<32 ^ uint64(n) ^ 0x9e3779b97f4a7c15
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x)
	}
}
