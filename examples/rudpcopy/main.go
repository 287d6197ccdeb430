// Command rudpcopy copies a file to another system over rudp, with a progress bar, and checks that
// what arrived is what was sent.
//
//	rudpcopy -serve 127.0.0.1:4433 -dir /tmp/in       # prints its address and pin
//	rudpcopy -pin <pin> [-migrate-after 10000000] file 127.0.0.1:4433
//
// With -migrate-after the sender moves to another port after so many bytes, as a laptop does that
// changes networks: the copy goes on.
//
// It exits with 0 if the file is there and its checksum is right, 1 if not, 2 for a wrong command
// line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
)

type options struct {
	serve, dir   string
	pin          string
	migrateAfter int64
	file, to     string
}

func main() {
	var o options
	flag.StringVar(&o.serve, "serve", "", "receive files at this `address`")
	flag.StringVar(&o.dir, "dir", ".", "where received files go")
	flag.StringVar(&o.pin, "pin", "", "the receiver's `pin`")
	flag.Int64Var(&o.migrateAfter, "migrate-after", 0, "move to another port after so many `bytes`; 0: never")
	flag.Parse()
	o.file, o.to = flag.Arg(0), flag.Arg(1)
	if err := o.check(flag.NArg()); err != nil {
		fmt.Fprintln(os.Stderr, "rudpcopy:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.serve != "" {
		err = receive(ctx, &o, os.Stdout)
	} else {
		err = send(ctx, &o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rudpcopy:", err)
		os.Exit(1)
	}
}

func (o *options) check(args int) error {
	switch {
	case o.serve != "" && args == 0:
		return nil
	case o.serve != "":
		return errors.New("-serve takes no file")
	case args != 2 || o.pin == "":
		return errors.New("a file, an address and the receiver's -pin are needed")
	case o.migrateAfter < 0:
		return errors.New("-migrate-after must not be negative")
	}
	return nil
}

// receive takes files until ctx ends.
func receive(ctx context.Context, o *options, out io.Writer) error {
	tlsConfig, pinned, err := pin.Server()
	if err != nil {
		return err
	}
	l, err := rudp.Listen("udp", o.serve, &rudp.Config{TLS: tlsConfig})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on %v\npin %s\n", l.Addr(), pinned)
	defer context.AfterFunc(ctx, func() { _ = l.Endpoint().Close() })()
	for {
		s, err := l.AcceptStream()
		if err != nil {
			return nil
		}
		go func() {
			name, err := takeFile(s, o.dir)
			if err != nil {
				_ = s.Reset(1)
				fmt.Fprintf(os.Stderr, "rudpcopy: from %v: %v\n", s.RemoteAddr(), err)
				return
			}
			_ = s.Close()
			fmt.Fprintf(out, "%s from %v\n", name, s.RemoteAddr())
		}()
	}
}

// send copies one file and waits for the receiver's checksum.
func send(ctx context.Context, o *options, out io.Writer) (err error) {
	f, err := os.Open(o.file)
	if err != nil {
		return err
	}
	defer f.Close()
	tlsConfig, err := pin.Client(o.pin)
	if err != nil {
		return err
	}
	s, err := rudp.Dial(ctx, "udp", o.to, &rudp.Config{TLS: tlsConfig})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = s.Reset(1) })()
	defer func() { err = errors.Join(err, s.Close(), s.Endpoint().Shutdown(ctx)) }()
	b := &bar{out: out}
	moved := make(chan error, 1)
	if o.migrateAfter > 0 {
		b.at, b.reached = o.migrateAfter, func() { go func() { moved <- migrate(ctx, s, out) }() }
	} else {
		moved <- nil
	}
	if err := giveFile(s, f, b); err != nil {
		return err
	}
	if !b.wasReached() {
		return fmt.Errorf("the file is shorter than -migrate-after %d", o.migrateAfter)
	}
	return <-moved
}

func migrate(ctx context.Context, s *rudp.Stream, out io.Writer) error {
	from := s.LocalAddr()
	if err := s.Migrate(ctx, netip.AddrPort{}); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nmoved from %v to %v\n", from, s.LocalAddr())
	return nil
}
