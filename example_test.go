//go:build cgo && (linux || windows)

package veloq_test

// What the package documentation and the README show. tests/docs_test.go holds the README's code
// against this file.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/veloq/veloq"
)

// freeAddr returns an address that nobody listens on.
func freeAddr() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// say sends words to an echo server, which may be about to start, and returns what comes back.
func say(addr, words string) string {
	conn, err := net.Dial("tcp", addr)
	for err != nil {
		time.Sleep(time.Millisecond)
		conn, err = net.Dial("tcp", addr)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, words)
	back := make([]byte, len(words))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err.Error()
	}
	return string(back)
}

// A server on the task door: each connection is a task, which reads as blocking code does. Read and
// Write park the task, and its worker serves the others meanwhile.
func Example_taskServer() {
	addr := freeAddr()
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		fmt.Println(say(addr, "hello"))
		stop()
	}()

	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	err = rt.Serve(ctx, "tcp", addr, func(_ *veloq.Context, s *veloq.Stream) error {
		buf := make([]byte, 16<<10)
		for {
			n, err := s.Read(buf)
			if err != nil {
				return err // io.EOF when the peer is through; the stream is closed either way
			}
			if _, err := s.Write(buf[:n]); err != nil {
				return err
			}
		}
	})
	fmt.Println("served:", err)
	// Output:
	// hello
	// served: <nil>
}

// echo is a handler: its worker calls it when bytes are there.
type echo struct{ veloq.HandlerBase }

// OnData gets what arrived. To return an error closes the stream: here also ErrFull, which a peer
// brings about that sends and does not read.
func (echo) OnData(_ *veloq.Context, s *veloq.Stream, data veloq.Lease) error {
	_, err := s.WriteLease(data.Retain())
	return err
}

// A server on the handler door: callbacks on a worker, no task and no buffer for a connection that
// rests.
func Example_handlerServer() {
	addr := freeAddr()
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		fmt.Println(say(addr, "hello"))
		stop()
	}()

	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	err = rt.ServeHandler(ctx, "tcp", addr, echo{})
	fmt.Println("served:", err)
	// Output:
	// hello
	// served: <nil>
}

// Tasks are spawned from anywhere by the Runtime, and by a task's Context for its worker or one without
// work. A task
// joins by Join, which parks it; a goroutine by Wait, which blocks it.
func ExampleSpawn() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	total := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		var parts []*veloq.JoinHandle[int]
		for i := range 4 {
			parts = append(parts, veloq.Spawn(c, func(c *veloq.Context) (int, error) {
				return i * i, c.Sleep(time.Millisecond)
			}))
		}
		sum := 0
		for _, p := range parts {
			n, err := p.Join(c)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	})
	fmt.Println(total.Wait(context.Background()))
	// Output: 14 <nil>
}

// A panic ends its task alone and is carried to who joins it.
func ExampleJoinHandle_Wait() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	broken := veloq.Spawn(rt, func(*veloq.Context) (int, error) { panic("no") })
	_, err = broken.Wait(context.Background())
	var panicked *veloq.PanicError
	fmt.Println(errors.As(err, &panicked), panicked.Value)
	// Output: true no
}

// A client on the task door.
func ExampleContext_Dial() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	answer := veloq.Spawn(rt, func(c *veloq.Context) (string, error) {
		ln, err := c.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer ln.Close()
		err = veloq.Go(c, func(*veloq.Context) {
			s, err := ln.Accept()
			if err != nil {
				return
			}
			defer s.Close()
			_, _ = s.WriteString("welcome")
		})
		if err != nil {
			return "", err
		}
		s, err := c.Dial("tcp", ln.Addr().String())
		if err != nil {
			return "", err
		}
		defer s.Close()
		all, err := io.ReadAll(s)
		return string(all), err
	})
	fmt.Println(answer.Wait(context.Background()))
	// Output: welcome <nil>
}

// A deadline ends a read that waits. Bytes that come later are not lost: set a later deadline, or
// none, and read on.
func ExampleStream_SetReadDeadline() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	late := make(chan struct{})
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		<-late
		_, _ = io.WriteString(conn, "late")
	}()
	client := veloq.Spawn(rt, func(c *veloq.Context) (string, error) {
		s, err := c.Dial("tcp", ln.Addr().String())
		if err != nil {
			return "", err
		}
		defer s.Close()
		if err := s.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return "", err
		}
		buf := make([]byte, 4)
		_, err = s.Read(buf)
		fmt.Println("timed out:", errors.Is(err, os.ErrDeadlineExceeded))
		close(late)
		if err := s.SetReadDeadline(time.Time{}); err != nil {
			return "", err
		}
		_, err = s.ReadFull(buf)
		return string(buf), err
	})
	fmt.Println(client.Wait(context.Background()))
	// Output:
	// timed out: true
	// late <nil>
}

// A scope's tasks end before it does: the first failure cancels the others, and Scope returns it.
func ExampleScope() {
	rt, err := veloq.New(veloq.Config{Workers: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	work := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		var left, right *veloq.JoinHandle[int]
		err := veloq.Scope(c, func(s *veloq.TaskScope) error {
			left = veloq.SpawnTo(s, 0, func(*veloq.Context) (int, error) { return 20, nil })
			right = veloq.SpawnTo(s, 1, func(*veloq.Context) (int, error) { return 22, nil })
			return nil
		})
		if err != nil {
			return 0, err
		}
		l, _, _ := left.TryResult()
		r, _, _ := right.TryResult()
		fmt.Println("both:", l+r)
		err = veloq.Scope(c, func(s *veloq.TaskScope) error {
			_ = s.Go(func(c *veloq.Context) error { return c.Sleep(time.Hour) })
			_ = s.Go(func(*veloq.Context) error { return errors.New("one fails") })
			return nil
		})
		return 0, err
	})
	fmt.Println(work.Wait(context.Background()))
	// Output:
	// both: 42
	// 0 one fails
}

// Timeout bounds everything that a part of a task waits for.
func ExampleTimeout() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	work := veloq.Spawn(rt, func(c *veloq.Context) (string, error) {
		replies := veloq.NewChan[string](1)
		err := veloq.Timeout(c, 10*time.Millisecond, func(c *veloq.Context) error {
			_, err := replies.Recv(c)
			return err
		})
		return "no reply", err
	})
	fmt.Println(work.Wait(context.Background()))
	// Output: no reply veloq: timed out after 10ms
}

// Select takes the first that is ready: here a value, before the time is over.
func ExampleSelect() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	numbers := veloq.NewChan[int](8)
	work := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		n := 0
		i, err := veloq.Select(c, numbers.RecvCase(&n), c.After(time.Hour))
		if i == 1 {
			return 0, os.ErrDeadlineExceeded
		}
		return n, err
	})
	_ = numbers.Send(context.Background(), 7) // a goroutine
	fmt.Println(work.Wait(context.Background()))
	// Output: 7 <nil>
}

// SpawnBlocking has calls that block made elsewhere: the worker goes on.
func ExampleSpawnBlocking() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	work := veloq.Spawn(rt, func(c *veloq.Context) (bool, error) {
		file := veloq.SpawnBlocking(c, func(context.Context) ([]byte, error) { return os.ReadFile("go.mod") })
		text, err := file.Join(c)
		return len(text) > 0, err
	})
	fmt.Println(work.Wait(context.Background()))
	// Output: true <nil>
}

// Package net's own server, unchanged, over a listener of the net door.
func ExampleListen() {
	addr := freeAddr()
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		fmt.Println(visit("http://" + addr))
	}()

	ln, err := veloq.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	err = srv.Serve(ln)
	fmt.Println(err)
	// Output:
	// hello
	// http: Server closed
}

// visit gets a page from a server which may be about to start.
func visit(url string) string {
	resp, err := http.Get(url)
	for err != nil {
		time.Sleep(time.Millisecond)
		resp, err = http.Get(url)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

type pongs struct{ veloq.DatagramHandlerBase }

func (pongs) OnPackets(_ *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	for i := range ps {
		_ = d.SendTo(append([]byte("pong to "), ps[i].Data.Bytes()...), ps[i].From)
	}
}

// Datagrams: a handler that answers, and a task that asks.
func ExampleListenConfig_StartDatagramHandler() {
	rt, err := veloq.New(veloq.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	server, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", pongs{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := veloq.Spawn(rt, func(c *veloq.Context) (string, error) {
		d, err := c.DialDatagram("udp", server.Addr().String())
		if err != nil {
			return "", err
		}
		defer d.Close()
		if err := d.Send([]byte("ping")); err != nil {
			return "", err
		}
		p, err := d.Recv()
		if err != nil {
			return "", err
		}
		defer p.Release()
		return string(p.Data.Bytes()), nil
	})
	fmt.Println(client.Wait(context.Background())) // pong to ping <nil>
}
