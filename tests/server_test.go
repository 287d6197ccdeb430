package tests

// Servers: what their callbacks' Context knows, and several addresses of one.

import (
	"context"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// A contextHandler hands out the Context of each of its calls.
type contextHandler struct{ calls chan *veloq.Context }

func (h contextHandler) OnOpen(c *veloq.Context, _ *veloq.Stream) { h.calls <- c }

func (h contextHandler) OnData(c *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	h.calls <- c
	_, err := s.Write(l.Bytes())
	return err
}

func (h contextHandler) OnWritable(c *veloq.Context, _ *veloq.Stream) { h.calls <- c }

func (h contextHandler) OnClose(c *veloq.Context, _ *veloq.Stream, _ error) { h.calls <- c }

// A datagramContextHandler is one for datagrams.
type datagramContextHandler struct {
	veloq.DatagramHandlerBase
	calls chan *veloq.Context
}

func (h datagramContextHandler) OnOpen(c *veloq.Context, _ *veloq.Datagram) { h.calls <- c }

func (h datagramContextHandler) OnPackets(c *veloq.Context, _ *veloq.Datagram, _ []veloq.Packet) {
	h.calls <- c
}

func (h datagramContextHandler) OnClose(c *veloq.Context, _ *veloq.Datagram, _ error) { h.calls <- c }

// Goal: all calls of a server on one worker get the same Context, which sees the values of the ctx that
// the server was started with and ends with the server; another server's is another.
func TestServer_HandlerContext(t *testing.T) {
	noLeak(t)
	type key struct{}
	rt := newRuntime(t, veloq.Config{Workers: 1})
	start := func(value string) (*veloq.Server, chan *veloq.Context) {
		h := contextHandler{calls: make(chan *veloq.Context, 10)}
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), key{}, value), patience)
		defer cancel() // its end does not concern the server
		srv, err := (&veloq.ListenConfig{}).StartHandler(ctx, rt, "tcp", "127.0.0.1:0", h)
		require.NoError(t, err)
		return srv, h.calls
	}
	one, oneCalls := start("one")
	two, twoCalls := start("two")
	used := func(srv *veloq.Server, calls chan *veloq.Context, value string) *veloq.Context {
		conn := dial(t, srv.Addr())
		c := await(t, "OnOpen", calls)
		require.Equal(t, value, c.Value(key{}))
		require.Nil(t, c.Value("other"))
		require.NoError(t, c.Err())
		_, ok := c.Deadline()
		require.False(t, ok, "the server has none")
		require.Same(t, rt, c.Runtime())
		derived, cancel := context.WithCancel(c)
		defer cancel()
		back, ok := veloq.FromContext(derived)
		require.True(t, ok)
		require.Same(t, c, back)
		require.NoError(t, roundTrip(conn, []byte("hello")))
		require.Same(t, c, await(t, "OnData", calls))
		require.NoError(t, conn.Close())
		require.Same(t, c, await(t, "OnClose", calls))
		return c
	}
	c := used(one, oneCalls, "one")
	require.Same(t, c, used(one, oneCalls, "one"), "an allocation for each connection")
	other := used(two, twoCalls, "two")
	require.NotSame(t, c, other)
	done := c.Done()
	bounded(t, "Server.Close", one.Close)
	await(t, "Done of an ended server", done)
	require.ErrorIs(t, c.Err(), context.Canceled)
	require.NoError(t, other.Err(), "the other one goes on")
	bounded(t, "Runtime.Close", func() { _ = rt.Close() })
	await(t, "Done at the runtime's end", other.Done())
	require.ErrorIs(t, other.Err(), veloq.ErrClosed)
	require.Equal(t, "two", other.Value(key{}))
}

// Goal: ServeHandler's callbacks see the values and the Deadline of its ctx.
func TestServer_ServeHandlerContext(t *testing.T) {
	noLeak(t)
	type key struct{}
	rt := newRuntime(t, veloq.Config{Workers: 2})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String() // free a moment ago
	require.NoError(t, l.Close())
	end := time.Now().Add(patience)
	base, cancelBase := context.WithDeadline(context.WithValue(context.Background(), key{}, 7), end)
	defer cancelBase()
	ctx, cancel := context.WithCancel(base)
	defer cancel()
	h := contextHandler{calls: make(chan *veloq.Context, 10)}
	served := make(chan error, 1)
	go func() { served <- rt.ServeHandler(ctx, "tcp", address, h) }()
	eventually(t, "the server listens", func() (bool, any) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil, err
	})
	c := await(t, "OnOpen", h.calls)
	assert.Equal(t, 7, c.Value(key{}))
	at, ok := c.Deadline()
	assert.True(t, ok)
	assert.True(t, at.Equal(end))
	cancel()
	require.NoError(t, await(t, "ServeHandler", served))
	await(t, "Done", c.Done())
}

// Goal: the same of datagram servers.
func TestDatagramServer_HandlerContext(t *testing.T) {
	noLeak(t)
	type key struct{}
	rt := newRuntime(t, veloq.Config{Workers: 1})
	h := datagramContextHandler{calls: make(chan *veloq.Context, 10)}
	ctx := context.WithValue(context.Background(), key{}, "datagrams")
	srv, err := (&veloq.ListenConfig{}).StartDatagramHandler(ctx, rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	c := await(t, "OnOpen", h.calls)
	assert.Equal(t, "datagrams", c.Value(key{}))
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.DialDatagram("udp", srv.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
		_, err = d.Write([]byte("hello"))
		return err
	}))
	require.Same(t, c, await(t, "OnPackets", h.calls))
	bounded(t, "Close", srv.Close)
	require.Same(t, c, await(t, "OnClose", h.calls))
	await(t, "Done", c.Done())
	require.ErrorIs(t, c.Err(), context.Canceled)
}

// Goal: one server on several addresses of several networks serves all of them alike, tells their
// addresses, and ends all at once.
func TestServer_SeveralAddresses(t *testing.T) {
	noLeak(t)
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		before := holds(rt)
		srv := startEcho(t, rt, sh.listen, door)
		first := srv.Addr()
		require.Equal(t, []net.Addr{first}, srv.Addrs())
		path := socketPath(t)
		added, err := srv.Add(t.Context(), "tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		want := []net.Addr{first, added}
		if runtime.GOOS != "windows" { // where workers have no unix sockets
			at, err := srv.Add(t.Context(), "unix", path)
			require.NoError(t, err)
			require.Equal(t, path, at.String())
			want = append(want, at)
		}
		require.Equal(t, want, srv.Addrs())
		require.Equal(t, first, srv.Addr())

		// What is refused changes nothing.
		_, err = srv.Add(t.Context(), "tcp", first.String())
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		_, err = srv.Add(t.Context(), "udp", "127.0.0.1:0")
		require.ErrorAs(t, err, new(net.UnknownNetworkError))
		require.Equal(t, want, srv.Addrs())

		var conns []net.Conn
		for i := range 4 {
			for _, at := range want {
				conn, err := net.DialTimeout(at.Network(), at.String(), patience)
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
				require.NoError(t, roundTrip(conn, []byte{byte(i), 'x'}), "%v", at)
				require.Equal(t, at.String(), conn.RemoteAddr().String())
				conns = append(conns, conn)
			}
		}
		require.Equal(t, len(conns), srv.Conns())
		bounded(t, "Server.Close", srv.Close)
		for _, conn := range conns {
			_, err := conn.Read(make([]byte, 1))
			require.Error(t, err)
		}
		require.NoFileExists(t, path)
		_, err = srv.Add(t.Context(), "tcp", "127.0.0.1:0")
		require.ErrorIs(t, err, net.ErrClosed)
		settled(t, rt, before)
	})
}

// Goal: MaxConns counts the connections of all addresses together, and one that ends lets the next in,
// whichever address it waits at.
func TestServer_MaxConnsOfSeveralAddresses(t *testing.T) {
	noLeak(t)
	for _, accept := range []veloq.AcceptMode{veloq.AcceptReusePort, veloq.AcceptSpread} {
		rt := newRuntime(t, veloq.Config{Workers: 1})
		var served, most int // of the one worker's tasks
		lc := veloq.ListenConfig{MaxConns: 2, Accept: accept}
		srv := startTasks(t, rt, lc, func(c *veloq.Context, s *veloq.Stream) error {
			served++
			most = max(most, served)
			defer func() { served-- }()
			return echoTask(c, s)
		})
		second, err := srv.Add(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		a, b := dial(t, srv.Addr()), dial(t, second)
		require.NoError(t, roundTrip(a, []byte("a")))
		require.NoError(t, roundTrip(b, []byte("b")))
		// An address may hold one that was accepted before the bound was seen: none is served beyond.
		c, d := dial(t, srv.Addr()), dial(t, second)
		for range 3 {
			require.NoError(t, roundTrip(a, []byte("a")))
		}
		require.Equal(t, 2, srv.Conns())
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		require.NoError(t, roundTrip(c, []byte("c")))
		require.NoError(t, roundTrip(d, []byte("d")))
		bounded(t, "Server.Close", srv.Close)
		require.Equal(t, 2, most)
	}
}

// Goal: it counts them together also where one address has a socket on each worker, and another one for
// all, whose connections came to one worker; and all who wait are served in the end.
func TestServer_MaxConnsOfMixedAddresses(t *testing.T) {
	noLeak(t)
	path := workerSocketPath(t)
	rt := newRuntime(t, veloq.Config{Workers: 2})
	srv := startEcho(t, rt, veloq.ListenConfig{MaxConns: 1}, "handler")
	_, err := srv.Add(t.Context(), "unix", path)
	require.NoError(t, err)
	var load []*veloq.JoinHandle[struct{}]
	for range 8 { // so that the first worker is the one with fewer
		load = append(load, veloq.SpawnTo(rt, 1, func(c *veloq.Context) (struct{}, error) {
			return struct{}{}, c.Sleep(time.Hour)
		}))
	}
	eventually(t, "load", func() (bool, any) { n := holds(rt).tasks; return n == len(load), n })
	var conns []net.Conn
	open := func(network, address string) {
		conn, err := net.Dial(network, address)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		conns = append(conns, conn)
	}
	for range 2 {
		open("unix", path)
		require.NoError(t, roundTrip(conns[len(conns)-1], []byte("u")))
	}
	for range 16 {
		open("tcp", srv.Addr().String())
		require.NoError(t, roundTrip(conns[0], []byte("0"))) // the first worker's; the other had time
		require.Equal(t, 2, srv.Conns())
	}
	for i, conn := range conns {
		require.NoError(t, roundTrip(conn, []byte("in turn")), "connection %d", i)
		require.NoError(t, conn.Close())
	}
	for _, h := range load {
		h.Cancel()
		require.ErrorIs(t, join(t, h), context.Canceled)
	}
}

// Goal: an Add that meets the server's end either has its address ended with the server, or fails with
// net.ErrClosed and leaves nothing.
func TestServer_AddRacesWithClose(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2})
	before := holds(rt)
	var added, refused int
	for range sized(500, 100, 30) {
		srv, err := (&veloq.ListenConfig{}).Start(t.Context(), rt, "tcp", "127.0.0.1:0", echoTask)
		require.NoError(t, err)
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			srv.Close()
		}()
		for {
			at, err := srv.Add(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				require.ErrorIs(t, err, net.ErrClosed)
				refused++
				break
			}
			added++
			require.Contains(t, srv.Addrs(), at)
		}
		await(t, "Close", closed)
	}
	t.Logf("%d added, %d refused", added, refused)
	require.Positive(t, refused)
	settled(t, rt, before)
}
