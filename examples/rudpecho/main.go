// Command rudpecho is an echo server on rudp: what comes in on a stream goes out again.
//
//	rudpecho -addr 127.0.0.1:4433
//
// It makes itself a certificate and prints its pin, which clients need:
//
//	rudpcat -pin <pin> 127.0.0.1:4433
//
// On SIGINT it takes no more connections and delivers what it owes, for five seconds at most.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:4433", "`address` to listen on")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "rudpecho: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rudpecho:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string, out io.Writer) error {
	tlsConfig, pinned, err := pin.Server()
	if err != nil {
		return err
	}
	l, err := rudp.Listen("udp", addr, &rudp.Config{TLS: tlsConfig})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on %v\npin %s\n", l.Addr(), pinned)
	go serve(l)
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return l.Endpoint().Shutdown(ctx)
}

func serve(l *rudp.Listener) {
	for {
		s, err := l.AcceptStream()
		if err != nil {
			return // the endpoint is shutting down
		}
		go echo(s)
	}
}

func echo(s *rudp.Stream) {
	defer s.Close()
	if _, err := io.Copy(s, s); err != nil {
		log.Printf("%v: %v", s.RemoteAddr(), err)
	}
}
