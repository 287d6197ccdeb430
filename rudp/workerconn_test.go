package rudp

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// workerConn is a PacketConn on a worker's datagram socket: for clients where package net opens no UDP
// socket. Its queues are bounded and lose what they have no room for.
type workerConn struct {
	veloq.DatagramHandlerBase
	rt     *veloq.Runtime
	server *veloq.DatagramServer
	opened chan *veloq.Datagram
	d      *veloq.Datagram
	in     chan memDatagram
	closed chan struct{}
	once   sync.Once
}

func newWorkerConn(t testing.TB) *workerConn {
	t.Helper()
	rt, err := veloq.New(veloq.Config{Workers: 1})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, rt.Close()) })
	c := &workerConn{
		rt: rt, opened: make(chan *veloq.Datagram, 1), in: make(chan memDatagram, 4096),
		closed: make(chan struct{}),
	}
	c.server, err = (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp4",
		"127.0.0.1:0", c)
	require.NoError(t, err)
	c.d = <-c.opened
	return c
}

func (c *workerConn) OnOpen(_ *veloq.Context, d *veloq.Datagram) { c.opened <- d }

func (c *workerConn) OnPackets(_ *veloq.Context, _ *veloq.Datagram, ps []veloq.Packet) {
	for i := range ps {
		from := net.UDPAddrFromAddrPort(unmapped(ps[i].From))
		ps[i].Segments(func(b []byte) bool {
			select {
			case c.in <- memDatagram{from, append([]byte(nil), b...)}:
			default:
			}
			return true
		})
	}
}

func (c *workerConn) ReadFrom(p []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(p, d.data), d.from, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *workerConn) WriteTo(p []byte, to net.Addr) (int, error) {
	addr, _ := addrPort(to)
	p = append([]byte(nil), p...)
	return len(p), veloq.Go(c.rt, func(*veloq.Context) {
		_ = c.d.TrySend(&veloq.Message{Data: p, To: addr})
	})
}

func (c *workerConn) LocalAddr() net.Addr             { return c.server.Addr() }
func (c *workerConn) SetReadDeadline(time.Time) error { return nil }

func (c *workerConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.server.Close()
	})
	return nil
}

// dialer returns how clients dial: by sockets of their own, or where package net opens none over a
// worker's.
func dialer(t testing.TB) func(addr net.Addr) (*Stream, error) {
	t.Helper()
	if netUDP() == nil {
		return func(addr net.Addr) (*Stream, error) {
			return Dial(testContext(t), "udp", addr.String(), clientConfig())
		}
	}
	e, err := NewEndpoint(newWorkerConn(t), clientConfig())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Close()) })
	return func(addr net.Addr) (*Stream, error) { return e.Dial(testContext(t), addr.String()) }
}

// dialGroup connects to a group.
func dialGroup(t testing.TB, g *Group) (c, s *Stream) {
	t.Helper()
	c, err := dialer(t)(g.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { c.Endpoint().Close() })
	s, err = g.AcceptStream()
	require.NoError(t, err)
	return c, s
}
