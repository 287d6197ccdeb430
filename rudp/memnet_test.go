package rudp

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// memNet carries datagrams between sockets in memory, at once and without loss but for what cut
// says. With it tests run in virtual time.
type memNet struct {
	mu      sync.Mutex
	sockets map[netip.AddrPort]*memConn
	cut     atomic.Bool // nothing arrives
}

type memDatagram struct {
	from net.Addr
	data []byte
}

// memConn is a PacketConn and nothing more: no offload, no address ports.
type memConn struct {
	net      *memNet
	addr     *net.UDPAddr
	in       chan memDatagram
	closed   chan struct{}
	once     sync.Once
	failWith atomic.Pointer[error]
	failed   chan struct{}
	closeN   atomic.Int32
}

func newMemNet() *memNet { return &memNet{sockets: map[netip.AddrPort]*memConn{}} }

func (n *memNet) socket(addr string) *memConn {
	a := netip.MustParseAddrPort(addr)
	c := &memConn{
		net: n, addr: net.UDPAddrFromAddrPort(a), in: make(chan memDatagram, 4096), closed: make(chan struct{}),
		failed: make(chan struct{}),
	}
	n.mu.Lock()
	n.sockets[a] = c
	n.mu.Unlock()
	return c
}

func (c *memConn) ReadFrom(p []byte) (int, net.Addr, error) {
	if err := c.failWith.Load(); err != nil {
		return 0, nil, *err
	}
	select {
	case d := <-c.in:
		return copy(p, d.data), d.from, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case <-c.failed:
		return 0, nil, *c.failWith.Load()
	}
}

// fail makes every read from now on fail.
func (c *memConn) fail(err error) {
	c.failWith.Store(&err)
	close(c.failed)
}

func (c *memConn) WriteTo(p []byte, to net.Addr) (int, error) {
	if len(p) > 1500 {
		return 0, os.ErrInvalid
	}
	c.net.mu.Lock()
	dst := c.net.sockets[to.(*net.UDPAddr).AddrPort()]
	c.net.mu.Unlock()
	if dst != nil && !c.net.cut.Load() {
		select {
		case dst.in <- memDatagram{c.addr, append([]byte(nil), p...)}:
		default:
		}
	}
	return len(p), nil
}

func (c *memConn) LocalAddr() net.Addr             { return c.addr }
func (c *memConn) SetReadDeadline(time.Time) error { return nil }

func (c *memConn) Close() error {
	c.closeN.Add(1)
	c.once.Do(func() { close(c.closed) })
	return nil
}

// world is two endpoints on a memNet.
type world struct {
	net            *memNet
	client, server *Endpoint
	cs, ss         *memConn
	l              *Listener
}

func newWorld(t testing.TB, client, server *Config) *world {
	t.Helper()
	w := &world{net: newMemNet()}
	w.cs, w.ss = w.net.socket("10.0.0.1:1000"), w.net.socket("10.0.0.2:2000")
	var err error
	w.client, err = NewEndpoint(w.cs, client)
	require.NoError(t, err)
	w.server, err = NewEndpoint(w.ss, server)
	require.NoError(t, err)
	w.l, err = w.server.Listen()
	require.NoError(t, err)
	return w
}

// connect makes a connection from client to server.
func (w *world) connect(t testing.TB) (c, s *Stream) {
	t.Helper()
	c, err := w.client.Dial(testContext(t), "10.0.0.2:2000")
	require.NoError(t, err)
	s, err = w.l.AcceptStream()
	require.NoError(t, err)
	return c, s
}

// virtual runs a test of two endpoints in virtual time. All goroutines must have ended when it
// returns.
func virtual(t *testing.T, client, server *Config, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, client, server)
		test(t, w)
		require.NoError(t, w.client.Close())
		require.NoError(t, w.server.Close())
	})
}
