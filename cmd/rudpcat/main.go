// Command rudpcat is netcat for rudp: standard input goes to the peer, what the peer sends to
// standard output. The end of standard input ends this half of the stream; rudpcat ends when both
// halves have.
//
//	rudpcat -l 127.0.0.1:4433            # prints its address and pin on standard error, takes one peer
//	rudpcat -pin <pin> 127.0.0.1:4433
//
// It exits with 0 if both halves ended well, 1 if not, 2 for a wrong command line.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
)

type options struct {
	listen    bool
	pin, alpn string
	timeout   time.Duration
	stats     bool
	migrate   time.Duration
	addr      string
}

func main() {
	var o options
	flag.BoolVar(&o.listen, "l", false, "listen for one peer")
	flag.StringVar(&o.pin, "pin", "", "the listener's `pin`; without it its certificate must be one the system trusts")
	flag.StringVar(&o.alpn, "alpn", "", "application `protocol`; default "+rudp.DefaultALPN)
	flag.DurationVar(&o.timeout, "timeout", 0, "how long connecting may take; 0: 10 s")
	flag.BoolVar(&o.stats, "v", false, "tell counters in the end")
	flag.DurationVar(&o.migrate, "migrate-every", 0, "move to another port again and again; 0: never")
	flag.Parse()
	o.addr = flag.Arg(0)
	if err := o.check(); err != nil {
		fmt.Fprintln(os.Stderr, "rudpcat:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, &o, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "rudpcat:", err)
		os.Exit(1)
	}
}

func (o *options) check() error {
	switch {
	case flag.NArg() != 1:
		return errors.New("one address, please")
	case o.listen && (o.pin != "" || o.migrate != 0):
		return errors.New("-pin and -migrate-every are for the side that connects")
	case o.timeout < 0 || o.migrate < 0:
		return errors.New("times must not be negative")
	}
	return nil
}

func run(ctx context.Context, o *options, in io.Reader, out, notes io.Writer) error {
	s, err := open(ctx, o, notes)
	if err != nil {
		return err
	}
	end := context.AfterFunc(ctx, func() { _ = s.Reset(0) })
	defer end()
	if o.migrate > 0 {
		moving, stop := context.WithCancel(ctx)
		defer stop()
		go migrate(moving, s, o.migrate, notes)
	}
	err = join(s, in, out)
	if o.stats {
		_ = s.Drain(ctx) // so that the counters are the last ones
		st := s.Stats()
		fmt.Fprintf(notes, "rudpcat: sent %d B in %d packets, %d lost; received %d B; round trip %v\n",
			st.StreamSent, st.PacketsSent, st.PacketsLost, st.StreamReceived, st.RTT)
	}
	if err != nil {
		_ = s.Reset(1)
	}
	return errors.Join(err, s.Close(), s.Endpoint().Shutdown(ctx))
}

// open connects, or waits for the one peer.
func open(ctx context.Context, o *options, notes io.Writer) (*rudp.Stream, error) {
	cfg := &rudp.Config{TLS: &tls.Config{}, HandshakeTimeout: o.timeout}
	var err error
	switch {
	case o.listen:
		var pinned string
		if cfg.TLS, pinned, err = pin.Server(); err == nil {
			o.protocol(cfg.TLS)
			return accept(ctx, o.addr, cfg, pinned, notes)
		}
	case o.pin != "":
		cfg.TLS, err = pin.Client(o.pin)
	}
	if err != nil {
		return nil, err
	}
	o.protocol(cfg.TLS)
	return rudp.Dial(ctx, "udp", o.addr, cfg)
}

func (o *options) protocol(t *tls.Config) {
	if o.alpn != "" {
		t.NextProtos = []string{o.alpn}
	}
}

func accept(ctx context.Context, addr string, cfg *rudp.Config, pinned string, notes io.Writer) (*rudp.Stream, error) {
	l, err := rudp.Listen("udp", addr, cfg)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(notes, "rudpcat: listening on %v, pin %s\n", l.Addr(), pinned)
	defer context.AfterFunc(ctx, func() { _ = l.Endpoint().Close() })()
	s, err := l.AcceptStream()
	if err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	return s, l.Close() // no second one
}

// join moves bytes both ways until both ways have ended. What fails first ends the other.
func join(s *rudp.Stream, in io.Reader, out io.Writer) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(s, in)
		sent <- errors.Join(err, s.CloseWrite())
	}()
	if _, err := io.Copy(out, s); err != nil {
		return err // standard input can't be woken: it is left to the end of the process
	}
	return <-sent
}

func migrate(ctx context.Context, s *rudp.Stream, every time.Duration, notes io.Writer) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		from := s.LocalAddr()
		switch err := s.Migrate(ctx, netip.AddrPort{}); {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default:
			fmt.Fprintln(notes, "rudpcat:", err)
			continue
		}
		fmt.Fprintf(notes, "rudpcat: moved from %v to %v\n", from, s.LocalAddr())
	}
}
