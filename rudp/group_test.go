package rudp

// Endpoints on workers.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// group listens on workers of a runtime of the test's own, or skips where there are none.
func group(t testing.TB, workers int) *Group {
	t.Helper()
	return groupOn(t, veloq.Config{Workers: workers})
}

func groupOn(t testing.TB, config veloq.Config) *Group {
	t.Helper()
	cfg := serverConfig()
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.RootCAs = clientConfig().TLS.RootCAs // to dial, too
	rt, err := veloq.New(config)
	if err != nil {
		t.Skip("no workers here: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, rt.Close()) })
	g, err := ListenOn(rt, "udp4", "127.0.0.1:0", cfg)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOTSUP) {
		t.Skip("no datagrams on workers here: ", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = g.Shutdown(ctx)
	})
	return g
}

func TestGroup_ManyClients(t *testing.T) {
	g := group(t, 2)
	const clients = 24
	var served sync.WaitGroup
	go func() {
		for {
			s, err := g.Accept()
			if err != nil {
				return
			}
			served.Add(1)
			go func() {
				defer served.Done()
				_, err := io.Copy(s, s)
				assert.NoError(t, err)
				s.Close()
			}()
		}
	}()
	data := someBytes(1 << 20)
	dial := dialer(t)
	var all sync.WaitGroup
	for range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			c, err := dial(g.Addr())
			if !assert.NoError(t, err) {
				return
			}
			go func() {
				_, _ = c.Write(data)
				_ = c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(data, got))
			c.Close()
		}()
	}
	all.Wait()
	accepted := uint64(0)
	for _, e := range g.Endpoints() {
		accepted += e.Stats().Accepted
	}
	assert.EqualValues(t, clients, accepted)
	require.NoError(t, g.Close())
	require.NoError(t, g.Close())
	_, err := g.Accept()
	is2(t, err, "accept", net.ErrClosed)
	require.NoError(t, g.Shutdown(testContext(t)))
	served.Wait()
}

// Goal: a client that migrates to an address which the kernel gives to another worker keeps its
// connection. Among enough ports some hash to the other worker.
func TestGroup_MigratedClientsAreForwarded(t *testing.T) {
	needUDP(t) // migrating opens sockets
	g := group(t, 2)
	c, err := dialer(t)(g.Addr())
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Endpoint().Close()) }()
	s, err := g.AcceptStream()
	require.NoError(t, err)
	if len(g.Endpoints()) < 2 {
		t.Skip("one socket here: nothing to forward")
	}
	forwarded := func() (n uint64) {
		for _, e := range g.Endpoints() {
			n += e.Stats().Forwarded
		}
		return n
	}
	buf := make([]byte, 5)
	for range 30 {
		require.NoError(t, c.Migrate(testContext(t), netip.MustParseAddrPort("127.0.0.1:0")))
		_, err = c.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(s, buf)
		require.NoError(t, err)
		_, err = s.Write(buf)
		require.NoError(t, err)
		_, err = io.ReadFull(c, buf)
		require.NoError(t, err)
		if forwarded() > 20 {
			return
		}
	}
	assert.Positive(t, forwarded(), "30 ports, all on one worker: one chance in 2^30")
}

// Goal: a group dials as well as it listens, and from the same address. All answers of one peer reach one
// worker's socket, so that those for the other's connections are forwarded.
func TestGroup_Dial(t *testing.T) {
	one, other := group(t, 2), group(t, 2)
	for _, g := range []*Group{one, other} {
		go func() {
			for {
				s, err := g.AcceptStream()
				if err != nil {
					return
				}
				go func() {
					_, err := io.Copy(s, s)
					assert.NoError(t, err)
					_ = s.Close()
				}()
			}
		}()
	}
	data := someBytes(300_000)
	var all sync.WaitGroup
	for i := range 12 {
		from, to := one, other
		if i%2 == 1 {
			from, to = other, one
		}
		all.Go(func() {
			c, err := from.Dial(testContext(t), to.Addr().String())
			if !assert.NoError(t, err) {
				return
			}
			assert.Equal(t, from.Addr().String(), c.LocalAddr().String())
			all.Go(func() {
				_, err := c.Write(data)
				assert.NoError(t, err)
				_ = c.CloseWrite()
			})
			got, err := io.ReadAll(c)
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(data, got))
			assert.ErrorIs(t, c.Migrate(testContext(t), netip.AddrPort{}), ErrNotMigratable)
			assert.NoError(t, c.Close())
		})
	}
	all.Wait()
	if len(one.Endpoints()) > 1 {
		forwarded := uint64(0)
		for _, e := range append(one.Endpoints(), other.Endpoints()...) {
			forwarded += e.Stats().Forwarded
		}
		assert.Positive(t, forwarded)
	}
	require.NoError(t, one.Close())
	_, err := one.Dial(testContext(t), other.Addr().String())
	is2(t, err, "dial", net.ErrClosed)
}

func TestGroup_RuntimeCloses(t *testing.T) {
	rt, err := veloq.New(veloq.Config{Workers: 2})
	if err != nil {
		t.Skip("no workers here: ", err)
	}
	g, err := ListenOn(rt, "udp4", "127.0.0.1:0", serverConfig())
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOTSUP) {
		_ = rt.Close()
		t.Skip("no datagrams on workers here: ", err)
	}
	require.NoError(t, err)
	c, err := dialer(t)(g.Addr())
	require.NoError(t, err)
	s, err := g.AcceptStream()
	require.NoError(t, err)
	read := make(chan error, 1)
	go func() { read <- errOf(s.Read(make([]byte, 1))) }()
	require.NoError(t, rt.Close())
	is(t, <-read, "read", veloq.ErrClosed, false)
	_, err = g.Accept()
	is2(t, err, "accept", net.ErrClosed)
	require.NoError(t, g.Shutdown(testContext(t)))
	require.NoError(t, c.Endpoint().Close())
	_, err = ListenOn(rt, "udp4", "127.0.0.1:0", serverConfig())
	is2(t, err, "listen", veloq.ErrClosed)
}

// Goal: a group that closes refuses those who wait for Accept, each on the worker that has it. What waits is
// kept in one place for all workers (-race).
func TestGroup_CloseRefusesWaiting(t *testing.T) {
	dial := dialer(t)
	for range 10 {
		g := group(t, 2)
		var clients []*Stream
		for range 8 {
			c, err := dial(g.Addr())
			require.NoError(t, err)
			clients = append(clients, c)
		}
		require.NoError(t, g.Close())
		for _, c := range clients {
			_, err := c.Read(make([]byte, 1))
			is(t, err, "read", syscall.ECONNRESET, false)
			require.NoError(t, c.Close())
		}
		require.NoError(t, g.Shutdown(testContext(t)))
	}
}

// mutedConn is a socket that stops sending.
type mutedConn struct {
	PacketConn
	muted atomic.Bool
}

func (c *mutedConn) WriteTo(p []byte, to net.Addr) (int, error) {
	if c.muted.Load() {
		return len(p), nil
	}
	return c.PacketConn.WriteTo(p, to)
}

// Goal: a peer that has lost its state ends the connections of every worker. All that it sends comes to one
// worker's socket, and a stateless reset does not say whose it is.
func TestGroup_StatelessReset(t *testing.T) {
	needUDP(t)
	g := group(t, 2)
	cfg := serverConfig()
	cfg.StatelessResetKey = [32]byte{1, 2, 3}
	peer := func(addr string) (*Endpoint, *mutedConn) {
		pc, err := net.ListenPacket("udp4", addr)
		require.NoError(t, err)
		muted := &mutedConn{PacketConn: pc}
		e, err := NewEndpoint(muted, cfg)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, e.Close()) })
		_, err = e.Listen()
		require.NoError(t, err)
		return e, muted
	}
	before, conn := peer("127.0.0.1:0")
	var streams []*Stream
	for range 4 {
		s, err := g.Dial(testContext(t), before.Addr().String())
		require.NoError(t, err)
		require.NoError(t, s.SetReadDeadline(time.Now().Add(patience)))
		streams = append(streams, s)
	}
	for _, s := range streams { // else it sends what no reset answers
		await(t, "confirmation", func() (ok bool) {
			s.endpoint.do(func(mono.Time) { ok = s.conn != nil && s.conn.Confirmed() })
			return ok
		})
	}
	conn.muted.Store(true)
	require.NoError(t, before.Close())
	_, _ = peer(before.Addr().String())
	for _, s := range streams {
		_, _ = s.Write([]byte("are you there?")) // what it had to send before may have brought the reset
		_, err := s.Read(make([]byte, 1))
		is(t, err, "read", syscall.ECONNRESET, false)
	}
	await(t, "all tokens are forgotten", func() bool {
		g.resets.mu.RLock()
		defer g.resets.mu.RUnlock()
		return len(g.resets.owner) == 0
	})
}

// Goal: a runtime that closes while a group begins ends the group, whether its endpoints have opened or not.
func TestGroup_RuntimeClosesAtOnce(t *testing.T) {
	for i := range 30 {
		rt, err := veloq.New(veloq.Config{Workers: 2})
		if err != nil {
			t.Skip("no workers here: ", err)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			for range i * 50 {
				runtime.Gosched()
			}
			assert.NoError(t, rt.Close())
		}()
		g, err := ListenOn(rt, "udp4", "127.0.0.1:0", serverConfig())
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOTSUP) {
			t.Skip("no datagrams on workers here: ", err)
		}
		if err == nil {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, err := g.Accept()
				is2(t, err, "accept", net.ErrClosed)
				_, err = g.Dial(context.Background(), "127.0.0.1:1")
				is2(t, err, "dial", net.ErrClosed)
			}()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatal("Accept or Dial waits forever")
			}
		}
		<-closed
	}
}

func TestGroup_Refusals(t *testing.T) {
	g := group(t, 1)
	_, err := ListenOn(g.rt, "tcp", "127.0.0.1:0", serverConfig())
	assert.ErrorAs(t, err, new(net.UnknownNetworkError))
	_, err = ListenOn(g.rt, "udp", "127.0.0.1:0", clientConfig())
	assert.ErrorIs(t, err, ErrConfig, "no certificate")
	_, err = ListenOn(g.rt, "udp", "127.0.0.1:0", nil)
	assert.ErrorIs(t, err, ErrConfig)
	_, err = ListenOn(g.rt, "udp", "nowhere", serverConfig())
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "rudp", op.Net)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = g.Dial(ended, "127.0.0.1:1")
	is2(t, err, "dial", context.Canceled)
}

// Written bytes are delivered by Shutdown, as by an endpoint's.
func TestGroup_ShutdownDelivers(t *testing.T) {
	g := group(t, 2)
	c, err := dialer(t)(g.Addr())
	require.NoError(t, err)
	s, err := g.AcceptStream()
	require.NoError(t, err)
	_, err = s.Write(make([]byte, 800_000))
	require.NoError(t, err)
	got := make(chan int, 1)
	go func() {
		n, err := reads(c)
		assert.Equal(t, io.EOF, err)
		got <- n
	}()
	require.NoError(t, g.Shutdown(testContext(t)))
	assert.Equal(t, 800_000, <-got)
	require.NoError(t, c.Endpoint().Close())
}

func BenchmarkGroup_Bulk(b *testing.B) {
	g := group(b, 1)
	c, err := dialer(b)(g.Addr())
	require.NoError(b, err)
	b.Cleanup(func() { c.Endpoint().Close() })
	s, err := g.AcceptStream()
	require.NoError(b, err)
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, s)
		close(done)
	}()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.CloseWrite()
	<-done
	b.StopTimer()
}

// Packet buffers that several datagrams in one don't fit: they come one by one then, and nothing is lost for
// good.
func TestGroup_SmallPacketBuffers(t *testing.T) {
	g := groupOn(t, veloq.Config{Workers: 1, PacketSize: 2048})
	c, err := dialer(t)(g.Addr())
	require.NoError(t, err)
	s, err := g.AcceptStream()
	require.NoError(t, err)
	data := someBytes(4 << 20)
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	assert.True(t, bytes.Equal(data, readAll(t, s)))
	require.NoError(t, s.Close())
	require.NoError(t, c.Close())
}

// Goal: a socket's queue that is full holds a batch back and loses none. WriteHigh is less than one batch.
func TestGroup_FullQueue(t *testing.T) {
	g := groupOn(t, veloq.Config{Workers: 1, WriteHigh: 16 << 10})
	c, err := dialer(t)(g.Addr())
	require.NoError(t, err)
	s, err := g.AcceptStream()
	require.NoError(t, err)
	data := someBytes(8 << 20)
	go func() {
		_, _ = s.Write(data)
		_ = s.CloseWrite()
	}()
	assert.True(t, bytes.Equal(data, readAll(t, c)))
	assert.Zero(t, s.Endpoint().Stats().Unsent)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}
