package rudp

// Moves: a client's own, and a NAT's.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/mono"
)

func TestMigrate_MidTransfer(t *testing.T) {
	c, s, _ := pair(t, clientConfig(), serverConfig())
	data := someBytes(24 << 20)
	sent := make(chan error, 1)
	half := make(chan struct{})
	go func() {
		_, err := c.Write(data[:len(data)/2])
		close(half)
		if err == nil {
			_, err = c.Write(data[len(data)/2:])
		}
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(s)
		got <- b
	}()
	<-half
	before := c.LocalAddr()
	require.NoError(t, c.Migrate(testContext(t), netip.AddrPort{}))
	first := c.LocalAddr()
	assert.NotEqual(t, before.String(), first.String())
	require.NoError(t, c.Migrate(testContext(t), netip.MustParseAddrPort("127.0.0.1:0")), "again")
	assert.NotEqual(t, first.String(), c.LocalAddr().String())
	require.NoError(t, <-sent)
	assert.True(t, bytes.Equal(data, <-got))
	assert.Equal(t, c.LocalAddr().(Addr).Port(), s.RemoteAddr().(Addr).Port(), "the server has followed")
	_, err := s.Write([]byte("back"))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	assert.Equal(t, "back", string(b))
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}

func TestMigrate_AtOnceAfterDial(t *testing.T) {
	for range 20 {
		l := listen(t, serverConfig())
		c, err := Dial(testContext(t), "udp", l.Addr().String(), clientConfig())
		require.NoError(t, err)
		require.NoError(t, c.Migrate(testContext(t), netip.AddrPort{}), "it waits for the handshake's confirmation")
		require.NoError(t, c.Endpoint().Close())
	}
}

// A peer that closes while a migration is under way ends that too, and no end of stream is an error of Migrate.
func TestMigrate_PeerCloses(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, s := w.connect(t)
		k, err := newSocket(w.net.socket("10.0.0.3:1001"))
		require.NoError(t, err)
		m := &migration{socket: k, result: make(chan error, 1)}
		require.NoError(t, c.CloseWrite())
		time.Sleep(time.Second) // confirmed, and nothing is under way
		w.client.post(func(now mono.Time) {
			w.net.mu.Lock()
			delete(w.net.sockets, k.local) // what is sent there is lost
			w.net.mu.Unlock()
			c.migrate(m, true, now)
		})
		require.NoError(t, s.Close())
		assert.ErrorIs(t, <-m.result, net.ErrClosed)
	})
}

func TestMigrate_Refusals(t *testing.T) {
	c, s, _ := pair(t, clientConfig(), serverConfig())
	is(t, s.Migrate(testContext(t), netip.AddrPort{}), "migrate", ErrNotMigratable, false)
	var addr *net.AddrError
	assert.ErrorAs(t, c.Migrate(testContext(t), netip.MustParseAddrPort("[::1]:0")), &addr)
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	err = c.Migrate(testContext(t), taken.LocalAddr().(*net.UDPAddr).AddrPort())
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "migrate", op.Op)
	_, err = c.Write([]byte("still here"))
	require.NoError(t, err)
	n, err := s.Read(make([]byte, 20))
	require.NoError(t, err)
	assert.Equal(t, 10, n)
	require.NoError(t, c.Close())
	await(t, "the end", func() bool { return s.Drain(context.Background()) != nil || s.final.Load() != nil })
	is(t, c.Migrate(testContext(t), netip.AddrPort{}), "migrate", net.ErrClosed, false)
}

// Goal: a path that leads nowhere is given up, and the connection stays where it was. To loopback
// no path from another address is dead, so the peer is cut off from the new socket by a relay that
// knows one client.
func TestMigrate_DeadPath(t *testing.T) {
	c, s, _ := relayed(t, true)
	before := c.LocalAddr()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	is(t, c.Migrate(ctx, netip.AddrPort{}), "migrate", context.DeadlineExceeded, true)
	replaced := make(chan error, 1)
	go func() { replaced <- c.Migrate(testContext(t), netip.AddrPort{}) }()
	await(t, "the first of two migrations", func() bool {
		begun := false
		c.endpoint.do(func(mono.Time) { begun = c.migration != nil })
		return begun
	})
	is(t, c.Migrate(testContext(t), netip.AddrPort{}), "migrate", ErrPathFailed, false)
	is(t, <-replaced, "migrate", ErrReplaced, false)
	assert.Equal(t, before, c.LocalAddr())
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	n, err := s.Read(make([]byte, 2))
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Equal(t, 4, len(socketsOf(c.endpoint)), "the sockets linger")
}

func socketsOf(e *Endpoint) (list []*socket) {
	e.do(func(mono.Time) { list = append(list, e.sockets...) })
	return list
}

// Sockets that nobody uses any more are closed after a while.
func TestMigrate_SocketsClose(t *testing.T) {
	c, _, _ := pair(t, clientConfig(), serverConfig())
	for range 3 {
		require.NoError(t, c.Migrate(testContext(t), netip.AddrPort{}))
	}
	assert.Len(t, socketsOf(c.endpoint), 4)
	await(t, "two of four close", func() bool { return len(socketsOf(c.endpoint)) == 2 })
}

func TestStream_NATRebinds(t *testing.T) {
	c, s, r := relayed(t, false)
	data := someBytes(8 << 20)
	go func() {
		_, _ = c.Write(data[:4<<20])
		r.rebind()
		_, _ = c.Write(data[4<<20:])
		_ = c.CloseWrite()
	}()
	before := s.RemoteAddr()
	assert.True(t, bytes.Equal(data, readAll(t, s)))
	assert.NotEqual(t, before.String(), s.RemoteAddr().String())
}

// relay is a NAT: what a client sends leaves from a socket of its own for that client.
type relay struct {
	front  *net.UDPConn
	server netip.AddrPort
	only   bool // one client, the others' datagrams are lost
	mu     sync.Mutex
	back   map[netip.AddrPort]*net.UDPConn
	all    sync.WaitGroup
}

// relayed is a connection over a relay.
func relayed(t *testing.T, only bool) (c, s *Stream, r *relay) {
	t.Helper()
	l := listen(t, serverConfig())
	r = newRelay(t, l.Addr().(Addr).AddrPort, only)
	c, err := Dial(testContext(t), "udp", r.addr().String(), clientConfig())
	require.NoError(t, err)
	t.Cleanup(func() { c.Endpoint().Close() })
	s, err = l.AcceptStream()
	require.NoError(t, err)
	return c, s, r
}

func newRelay(t *testing.T, server netip.AddrPort, only bool) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r := &relay{front: front, server: server, only: only, back: map[netip.AddrPort]*net.UDPConn{}}
	_ = front.SetReadBuffer(4 << 20)
	r.all.Add(1)
	go r.forward()
	t.Cleanup(func() {
		front.Close()
		r.rebind()
		r.all.Wait()
	})
	return r
}

func (r *relay) addr() net.Addr { return r.front.LocalAddr() }

func (r *relay) forward() {
	defer r.all.Done()
	buf := make([]byte, 2048)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		r.mu.Lock()
		out := r.back[from]
		if out == nil && (!r.only || len(r.back) == 0) {
			if out, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err == nil {
				r.back[from] = out
				r.all.Add(1)
				go r.answer(out, from)
			}
		}
		if out != nil {
			_, _ = out.WriteToUDPAddrPort(buf[:n], r.server)
		}
		r.mu.Unlock()
	}
}

func (r *relay) answer(out *net.UDPConn, client netip.AddrPort) {
	defer r.all.Done()
	buf := make([]byte, 2048)
	for {
		n, _, err := out.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = r.front.WriteToUDPAddrPort(buf[:n], client)
		}
	}
}

// rebind forgets all clients: they come from other ports from now on.
func (r *relay) rebind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, out := range r.back {
		out.Close()
	}
	clear(r.back)
}
