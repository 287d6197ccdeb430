// Command http is a small HTTP/1.1 server: fasthttp parses and answers, veloq's task door brings the
// bytes. It prints the address it listens on as its first line.
//
//	http -addr 127.0.0.1:8080 -workers 1
//	curl http://127.0.0.1:8080/hello
//
// A task's Stream is a net.Conn, so fasthttp's ServeConn runs in it as it is: it starts no goroutine
// for a connection, and it parses, calls the handler and writes on the worker. What follows from that:
//
//   - A handler must not block: the worker's other connections wait as long as it does. Channels,
//     mutexes that are held for long, files and databases belong into a goroutine.
//   - Parts of fasthttp that hand the connection to a goroutine or wait for one don't fit: Hijack,
//     SetBodyStreamWriter, TimeoutHandler and the compressing handlers.
//   - End the server by the runtime's Shutdown: fasthttp's own would close connections from outside
//     their worker.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/veloq/veloq"
)

var _ net.Conn = (*veloq.Stream)(nil)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	idle := flag.Duration("idle", time.Minute, "how long a connection may rest between requests")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	rt, err := veloq.New(veloq.Config{Workers: *workers})
	if err != nil {
		return err
	}
	defer rt.Close()
	web := &fasthttp.Server{
		Handler:            route,
		Name:               "veloq",
		IdleTimeout:        *idle,
		ReadTimeout:        30 * time.Second,
		WriteTimeout:       30 * time.Second,
		MaxRequestBodySize: bodyMax,
		Logger:             silent{},
	}
	var lc veloq.ListenConfig
	server, err := lc.Start(context.Background(), rt, "tcp", *addr,
		func(_ *veloq.Context, s *veloq.Stream) error { return web.ServeConn(s) })
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Println(server.Addr())

	<-ctx.Done()
	stop() // a second signal ends the program at once
	grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	// Connections that rest between two requests are cut off when the grace is over.
	if err := rt.Shutdown(grace); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// silent drops what fasthttp logs of connections that end early.
type silent struct{}

func (silent) Printf(string, ...any) {}

const (
	bodyMax  = 4 << 20
	bytesMax = 64 << 20
)

func route(ctx *fasthttp.RequestCtx) {
	switch path := string(ctx.Path()); path {
	case "/hello":
		ctx.SetBodyString("hello, world\n")
	case "/echo":
		ctx.SetContentTypeBytes(ctx.Request.Header.ContentType())
		ctx.SetBody(ctx.PostBody())
	case "/bytes":
		sendBytes(ctx)
	default:
		ctx.Error("no "+path+" here: /hello, /echo, /bytes?n=N\n", fasthttp.StatusNotFound)
	}
}

// sendBytes answers with n bytes that it makes while it sends them: the body is read in the task, which
// parks whenever the client is slower.
func sendBytes(ctx *fasthttp.RequestCtx) {
	n, err := strconv.Atoi(string(ctx.QueryArgs().Peek("n")))
	if err != nil || n < 0 || n > bytesMax {
		ctx.Error(fmt.Sprintf("n must be 0 to %d\n", bytesMax), fasthttp.StatusBadRequest)
		return
	}
	ctx.SetContentType("application/octet-stream")
	ctx.SetBodyStream(io.LimitReader(&pattern{}, int64(n)), n)
}

// pattern yields bytes with a period that is prime, so that a lost or repeated block is seen.
type pattern struct{ n int }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte((p.n + i) % 251)
	}
	p.n += len(b)
	return len(b), nil
}
