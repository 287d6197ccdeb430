// Command echo sends back what it receives. It prints the address it listens on as its first line.
//
//	echo -addr 127.0.0.1:9000 -door task -workers 1
//	nc 127.0.0.1 9000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	_ "net/http/pprof"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/veloq/veloq"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:9000", "`address` to listen on")
	door := flag.String("door", "task", "task, handler, or net: a goroutine a connection, which only -stage concerns")
	stage := flag.String("stage", "", "with -door net: whether small writes go out together, auto, on or off")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	driver := flag.String("driver", "auto", "auto, uring, epoll or iocp")
	spin := flag.Duration("spin", 0, "how long an idle worker looks for work before it sleeps")
	pin := flag.Bool("pin", false, "tie worker i to CPU i")
	buffers := flag.Int("buffers", 0, "receive buffers of 64 KiB a worker; 0 is veloq's default")
	report := flag.Bool("report", false, "print on stderr what the driver got, and at the end what it did")
	debug := flag.String("debug", "", "`address` of a pprof server; none when empty")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *debug != "" {
		go func() { fmt.Fprintln(os.Stderr, "debug:", http.ListenAndServe(*debug, nil)) }()
	}
	if *door == "net" {
		return serveNet(*addr, *stage)
	}
	d, err := veloq.ParseDriver(*driver)
	if err != nil {
		return err
	}
	rt, err := veloq.New(veloq.Config{
		Workers: *workers, Driver: d, Spin: *spin, PinCPU: *pin, BufferCount: *buffers,
	})
	if err != nil {
		return err
	}
	defer rt.Close()
	if *report {
		fmt.Fprint(os.Stderr, rt.Report())
	}
	server, err := start(rt, *door, *addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Println(server.Addr())

	<-ctx.Done()
	stop() // a second signal ends the program at once
	if *report {
		for i, st := range rt.Stats() {
			fmt.Fprintf(os.Stderr, "worker %d: %+v\n", i, st)
		}
	}
	grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := rt.Shutdown(grace); err != nil {
		fmt.Fprintln(os.Stderr, "echo: connections were cut off:", err)
	}
	return nil
}

func start(rt *veloq.Runtime, door, addr string) (*veloq.Server, error) {
	var lc veloq.ListenConfig
	switch door {
	case "task":
		return lc.Start(context.Background(), rt, "tcp", addr, echoTask)
	case "handler":
		return lc.StartHandler(context.Background(), rt, "tcp", addr, echoHandler{})
	}
	return nil, fmt.Errorf("no door %q: task, handler or net", door)
}

// echoTask reads as blocking code does; while it waits its worker serves the others.
func echoTask(_ *veloq.Context, s *veloq.Stream) error {
	for {
		lease, err := s.ReadLease()
		if err != nil {
			return err
		}
		_, err = s.WriteLease(lease)
		if err != nil {
			return err
		}
	}
}

// echoHandler is called by the worker. A peer that does not read what it sent for is not read from.
type echoHandler struct{ veloq.HandlerBase }

func (echoHandler) OnData(_ *veloq.Context, s *veloq.Stream, data veloq.Lease) error {
	n, err := s.WriteLease(data.Retain())
	if n < data.Len() {
		return backlog(s, data, n, err)
	}
	return err
}

// backlog keeps what the stream would not take, and pauses until it does.
func backlog(s *veloq.Stream, data veloq.Lease, n int, err error) error {
	if !errors.Is(err, veloq.ErrFull) {
		return err
	}
	rest := append([]byte(nil), data.Bytes()[n:]...)
	s.SetUserData(rest)
	return s.PauseRead()
}

func (echoHandler) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	rest, _ := s.UserData().([]byte)
	n, err := s.Write(rest)
	s.SetUserData(rest[n:])
	if err == nil {
		_ = s.ResumeRead()
	} else if !errors.Is(err, veloq.ErrFull) {
		_ = s.Close()
	}
}
