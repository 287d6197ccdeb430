// Package interop holds rudp's core against quic-go over real UDP sockets. It is a module of its own, so
// that quic-go is in nobody's go.mod.
package interop

// This file changes if how the core is driven by a goroutine does.

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

type datagram struct {
	path core.Path
	data []byte
}

// driver owns an endpoint and its sockets on one goroutine.
type driver struct {
	t        testing.TB
	endpoint *core.Endpoint
	start    time.Time
	in       chan datagram
	calls    chan func(now mono.Time)
	done     chan struct{}
	wg       sync.WaitGroup
	mu       sync.Mutex
	sockets  map[netip.AddrPort]*net.UDPConn
	accepted chan *pipe
}

func newDriver(t testing.TB, cfg core.Config, accept bool) *driver {
	t.Helper()
	e, err := core.NewEndpoint(&cfg, accept)
	require.NoError(t, err)
	d := &driver{
		t: t, endpoint: e, start: time.Now().Add(-time.Hour), in: make(chan datagram, 1024),
		calls: make(chan func(mono.Time)), done: make(chan struct{}),
		sockets: map[netip.AddrPort]*net.UDPConn{}, accepted: make(chan *pipe, 16),
	}
	d.wg.Add(1)
	go d.run()
	t.Cleanup(d.close)
	return d
}

func (d *driver) now() mono.Time { return mono.Time(time.Since(d.start)) }

func (d *driver) close() {
	close(d.done)
	d.mu.Lock()
	for _, s := range d.sockets {
		_ = s.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// socket opens a UDP socket on loopback.
func (d *driver) socket() netip.AddrPort {
	s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(d.t, err)
	local := s.LocalAddr().(*net.UDPAddr).AddrPort()
	d.mu.Lock()
	d.sockets[local] = s
	d.mu.Unlock()
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		for {
			b := make([]byte, 2048)
			n, from, err := s.ReadFromUDPAddrPort(b)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			select {
			case d.in <- datagram{core.Path{Local: local, Remote: from}, b[:n]}:
			case <-d.done:
				return
			}
		}
	}()
	return local
}

func (d *driver) run() {
	defer d.wg.Done()
	timer := time.NewTimer(time.Hour)
	buf := make([]byte, core.SendMax)
	for {
		select {
		case <-d.done:
			return
		case g := <-d.in:
			d.endpoint.Recv(d.now(), g.path, core.NotECT, g.data)
		case f := <-d.calls:
			f(d.now())
		case <-timer.C:
			d.endpoint.Tick(d.now())
		}
		for again := true; again; {
			again = false
			for {
				b := d.endpoint.Send(d.now(), buf)
				if b.N == 0 {
					break
				}
				d.mu.Lock()
				s := d.sockets[b.Path.Local]
				d.mu.Unlock()
				for at := 0; at < b.N; at += b.Segment {
					_, _ = s.WriteToUDPAddrPort(buf[at:min(at+b.Segment, b.N)], b.Path.Remote)
				}
			}
			for c := d.endpoint.Accept(); c != nil; c = d.endpoint.Accept() {
				d.accepted <- d.pipe(c)
			}
			for c := d.endpoint.Next(); c != nil; c = d.endpoint.Next() {
				if p, ok := c.User.(*pipe); ok {
					p.events(c.Events(), d.now())
					again = true
				}
			}
		}
		timer.Reset(time.Duration(min(max(d.endpoint.Deadline()-d.now(), 0), mono.Time(time.Hour))))
	}
}

// do runs f on the driver's goroutine.
func (d *driver) do(f func(now mono.Time)) {
	finished := make(chan struct{})
	d.calls <- func(now mono.Time) { f(now); close(finished) }
	<-finished
}

// pipe is a blocking stream over a connection.
type pipe struct {
	d         *driver
	c         *core.Conn
	readable  chan struct{}
	writable  chan struct{}
	connected chan struct{}
	closed    chan struct{}
	migrated  chan struct{}
}

func (d *driver) pipe(c *core.Conn) *pipe {
	p := &pipe{
		d: d, c: c, readable: make(chan struct{}, 1), writable: make(chan struct{}, 1), connected: make(chan struct{}),
		closed: make(chan struct{}), migrated: make(chan struct{}, 8),
	}
	c.User = p
	return p
}

func (p *pipe) events(e core.Events, _ mono.Time) {
	if e&core.EventConnected != 0 {
		close(p.connected)
	}
	if e&core.EventClosed != 0 {
		close(p.closed)
	}
	if e&core.EventMigrated != 0 {
		p.migrated <- struct{}{}
	}
	for _, kick := range []chan struct{}{p.readable, p.writable} {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
}

// dial connects and waits for the handshake.
func (d *driver) dial(to netip.AddrPort) *pipe {
	local := d.socket()
	var p *pipe
	d.do(func(now mono.Time) {
		c, err := d.endpoint.Dial(now, core.Path{Local: local, Remote: to}, nil)
		if err != nil {
			d.t.Error(err)
			return
		}
		p = d.pipe(c)
	})
	require.NotNil(d.t, p)
	select {
	case <-p.connected:
	case <-p.closed:
		require.NoError(d.t, p.err())
	case <-time.After(20 * time.Second):
		d.t.Fatal("no handshake")
	}
	return p
}

func (p *pipe) err() (err error) {
	p.d.do(func(mono.Time) { err = p.c.Err() })
	return err
}

func (p *pipe) CloseWrite() (err error) {
	p.d.do(func(now mono.Time) { err = p.c.CloseWrite(now) })
	return err
}

func (p *pipe) Close() error {
	p.d.do(func(now mono.Time) { p.c.Close(now) })
	return nil
}

var _ io.ReadWriteCloser = (*pipe)(nil)

var errDone = errors.New("driver is done")

// tryDo is do that ends with the driver.
func (p *pipe) tryDo(f func(now mono.Time)) bool {
	finished := make(chan struct{})
	select {
	case p.d.calls <- func(now mono.Time) { f(now); close(finished) }:
		<-finished
		return true
	case <-p.d.done:
		return false
	}
}

func (p *pipe) stats() (s core.Stats) {
	p.d.do(func(mono.Time) { s = p.c.Stats() })
	return s
}

// await tries until it is done or has failed.
func (p *pipe) await(kick chan struct{}, try func(now mono.Time) (done bool, err error)) error {
	for {
		var done bool
		var err error
		if !p.tryDo(func(now mono.Time) { done, err = try(now) }) {
			return errDone
		}
		if done || err != nil {
			return err
		}
		select {
		case <-kick:
		case <-p.d.done:
			return errDone
		}
	}
}

func (p *pipe) Read(b []byte) (n int, err error) {
	err = p.await(p.readable, func(now mono.Time) (bool, error) {
		n, err = p.c.Read(now, b)
		return n > 0, err
	})
	return n, err
}

func (p *pipe) Write(b []byte) (n int, err error) {
	err = p.await(p.writable, func(now mono.Time) (bool, error) {
		m, err := p.c.Write(now, b[n:])
		n += m
		return n == len(b), err
	})
	return n, err
}
