package tests

// What the build tag veloq_debug finds of leases, and of connections that nobody closed; and that
// connections which are dropped are closed in every build.

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/debugtag"
)

func needDebug(t *testing.T) {
	t.Helper()
	if !debugtag.Enabled {
		t.Skip("for -tags veloq_debug")
	}
}

// found collects what Config.OnMisuse gets.
type found struct {
	mu  sync.Mutex
	all []*veloq.MisuseError
}

func (f *found) add(e *veloq.MisuseError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, e)
}

func (f *found) list() []*veloq.MisuseError {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*veloq.MisuseError(nil), f.all...)
}

// collect runs the collector until n finds are there.
func (f *found) collect(t *testing.T, n int) []*veloq.MisuseError {
	t.Helper()
	eventually(t, "finds", func() (bool, any) {
		runtime.GC()
		return len(f.list()) >= n, f.list()
	})
	return f.list()
}

// mistake runs fn and returns the error that it panics with.
func mistake(fn func()) (err error) {
	defer func() { err, _ = recover().(error) }()
	fn()
	return nil
}

// leaseOf has the echo server send n bytes back and returns them as a lease, which is all of them if n
// is small.
func leaseOf(t *testing.T, s *veloq.Stream, n int) veloq.Lease {
	_, err := s.Write(make([]byte, n))
	require.NoError(t, err)
	l, err := s.ReadLease()
	require.NoError(t, err)
	return l
}

// dialed opens a stream to the echo server that is closed at the end of fn.
func dialed(t *testing.T, c *veloq.Context, addr net.Addr, fn func(s *veloq.Stream)) {
	s, err := c.Dial("tcp", addr.String())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	fn(s)
}

//go:noinline
func loseALease(t *testing.T, s *veloq.Stream) { require.NotNil(t, leaseOf(t, s, 10).Bytes()) }

//go:noinline
func loseARetained(t *testing.T, s *veloq.Stream) {
	l := leaseOf(t, s, 10)
	l.Retain()
	l.Release()
}

//go:noinline
func loseAPacket(t *testing.T, d *veloq.Datagram) {
	require.NoError(t, d.SendTo([]byte("x"), d.LocalAddr().(*net.UDPAddr).AddrPort()))
	p, err := d.Recv()
	require.NoError(t, err)
	require.Equal(t, []byte("x"), p.Data.Bytes())
}

// Goal: a lease that is dropped is reported with the stack that got it and the stream it is of, counted,
// and shown; so are a retained one and a packet.
func TestLease_LostIsReported(t *testing.T) {
	needDebug(t)
	var finds found
	rt := newRuntime(t, veloq.Config{Workers: 1, OnMisuse: finds.add})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	lose := func(fn func(s *veloq.Stream, d *veloq.Datagram)) (of string) {
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			d, err := c.ListenDatagram("udp", "127.0.0.1:0")
			require.NoError(t, err)
			dialed(t, c, srv.Addr(), func(s *veloq.Stream) {
				fn(s, d)
				of = s.LocalAddr().String() + "<-" + s.RemoteAddr().String()
			})
			return d.Close()
		}))
		return of
	}
	of := lose(func(s *veloq.Stream, _ *veloq.Datagram) { loseALease(t, s) })
	first := finds.collect(t, 1)[0]
	t.Log(first)
	require.Equal(t, "lease of stream "+of+" on worker 0", first.Of)
	require.Equal(t, "lost without a Release", first.What)
	require.Contains(t, first.Before, "veloq.(*Stream).ReadLease")
	require.Contains(t, first.Before, "tests.loseALease")

	lose(func(s *veloq.Stream, _ *veloq.Datagram) { loseARetained(t, s) })
	second := finds.collect(t, 2)[1]
	require.Contains(t, second.What, "1 holds lost")
	require.Contains(t, second.Before, "veloq.Lease.Retain")

	lose(func(_ *veloq.Stream, d *veloq.Datagram) { loseAPacket(t, d) })
	third := finds.collect(t, 3)[2]
	require.Contains(t, third.Of, "lease of datagram socket 127.0.0.1:")
	require.Contains(t, third.Before, "tests.loseAPacket")

	require.EqualValues(t, 3, rt.Stats()[0].LeasesLost)
	snap, err := rt.Snapshot(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, finds.list(), snap.Misuses)
	var out strings.Builder
	require.NoError(t, rt.Dump(&out))
	require.Contains(t, out.String(), "misuse of "+first.Of+": lost without a Release")
	require.Contains(t, out.String(), "tests.loseALease")
}

// keeper retains what it gets and passes it on.
type keeper struct {
	veloq.HandlerBase
	got chan veloq.Lease
}

func (k *keeper) OnData(_ *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	k.got <- l.Retain()
	_, err := s.WriteLease(l.Retain())
	return err
}

// properEnds gives leases back in every way that there is.
func properEnds(t *testing.T, c *veloq.Context, addr net.Addr, elsewhere chan<- veloq.Lease, m *veloq.Mesh[veloq.Lease]) {
	dialed(t, c, addr, func(s *veloq.Stream) {
		leaseOf(t, s, 10).Release()
		elsewhere <- leaseOf(t, s, 10)
		require.NoError(t, m.Send(c, 1, leaseOf(t, s, 10)))
		for _, n := range []int{100, 10_000} { // copied, and sent from where it lies
			_, err := s.WriteLease(leaseOf(t, s, n))
			require.NoError(t, err)
			_, err = s.Skip(n) // what the lease was not all of, and what it came back as
			require.NoError(t, err)
		}
		l := leaseOf(t, s, 10)
		l.Slice(2, 5).Release()
		l = leaseOf(t, s, 10)
		kept := l.Retain()
		l.Release()
		require.Len(t, kept.Bytes(), 10)
		l.Release() // its copy's hold
		require.Nil(t, kept.Bytes())
		late := leaseOf(t, s, 10)
		require.NoError(t, s.Close())
		_, err := s.WriteLease(late)
		require.ErrorIs(t, err, net.ErrClosed)
	})
	d, err := c.ListenDatagram("udp", "127.0.0.1:0")
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, d.SendTo([]byte("x"), d.LocalAddr().(*net.UDPAddr).AddrPort()))
	}
	p, err := d.Recv()
	require.NoError(t, err)
	p.Release()
	_, _, err = d.ReadFromAddrPort(make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, d.Close()) // with one unread
}

// Goal: nothing is said of leases that are given back, by whatever way and wherever. A lease that is lost
// after them shows that the collector would have found them.
func TestLease_ProperEndsAreNotReported(t *testing.T) {
	needDebug(t)
	var finds found
	rt := newRuntime(t, veloq.Config{Workers: 2, OnMisuse: finds.add})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	h := &keeper{got: make(chan veloq.Lease, 100)}
	kept := startHandler(t, rt, veloq.ListenConfig{}, h)
	m := newMesh[veloq.Lease](t, rt, veloq.MeshConfig{})
	received := veloq.SpawnTo(rt, 1, func(c *veloq.Context) (struct{}, error) {
		l, _, err := m.Recv(c)
		if err == nil {
			require.Len(t, l.Bytes(), 10)
			l.Release()
		}
		return struct{}{}, err
	})
	elsewhere := make(chan veloq.Lease, 1)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		properEnds(t, c, srv.Addr(), elsewhere, m)
		if runtime.GOOS == "windows" {
			return nil
		}
		s, err := c.Dial("tcp", kept.Addr().String())
		require.NoError(t, err)
		_, err = s.WriteString("to and fro")
		require.NoError(t, err)
		_, err = s.Peek(10)
		require.NoError(t, err)
		conn, err := s.Detach()
		require.NoError(t, err)
		return conn.Close()
	}))
	require.NoError(t, join(t, received))
	(<-elsewhere).Release()
	if runtime.GOOS != "windows" {
		(<-h.got).Release()
	}
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		dialed(t, c, srv.Addr(), func(s *veloq.Stream) { loseALease(t, s) })
		return nil
	}))
	finds.collect(t, 1)
	runtime.GC()
	runtime.GC()
	require.Len(t, finds.list(), 1, "of the one that was lost: %v", finds.list())
	require.Contains(t, finds.list()[0].Before, "tests.loseALease")
}

// rude gives back what is the worker's, and keeps what it did not retain.
type rude struct {
	veloq.HandlerBase
	mistakes chan error
	kept     chan veloq.Lease
}

func (r *rude) OnData(_ *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	r.mistakes <- mistake(l.Release)
	r.mistakes <- mistake(func() { _, _ = s.WriteLease(l) })
	r.kept <- l
	return nil
}

// Goal: a hold that is given back twice, given away twice or used afterwards panics where that is done,
// with the stack of the call before; its bytes are gone at once.
func TestLease_MisusePanics(t *testing.T) {
	needDebug(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	r := &rude{mistakes: make(chan error, 2), kept: make(chan veloq.Lease, 1)}
	handled := startHandler(t, rt, veloq.ListenConfig{}, r)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		dialed(t, c, srv.Addr(), func(s *veloq.Stream) {
			holder := leaseOf(t, s, 10) // so that the buffer does not go back
			l := leaseOf(t, s, 10)
			l.Release()
			require.Nil(t, l.Bytes())
			err := mistake(l.Release)
			require.ErrorContains(t, err, "released though its last hold was given back")
			require.ErrorContains(t, err, "TestLease_MisusePanics")
			require.ErrorContains(t, err, "veloq.Lease.Release")
			require.ErrorContains(t, mistake(func() { l.Retain() }), "retained after")
			l = leaseOf(t, s, 10)
			_, err = s.WriteLease(l)
			require.NoError(t, err)
			err = mistake(l.Release)
			require.ErrorContains(t, err, "released though")
			require.ErrorContains(t, err, "veloq.(*Stream).WriteLease")
			err = mistake(func() { _, _ = s.WriteLease(l) })
			require.ErrorContains(t, err, "given to WriteLease though")
			require.Len(t, holder.Bytes(), 10)
			holder.Release()
		})
		dialed(t, c, handled.Addr(), func(s *veloq.Stream) {
			_, err := s.WriteString("hello")
			require.NoError(t, err)
			for range 2 {
				for len(r.mistakes) == 0 {
					require.NoError(t, c.Yield())
				}
				require.ErrorContains(t, <-r.mistakes, "by a handler that did not retain it")
			}
		})
		return nil
	}))
	l := <-r.kept
	require.Nil(t, l.Bytes())
	require.ErrorContains(t, mistake(l.Release), "released though")
	require.Equal(t, totals(rt).Buffers, totals(rt).BuffersFree)
}

// A dropped is an object of the net door that makeOne opens and drops, and how the end of its descriptor
// shows.
type dropped struct {
	name, of string
	// makeOne opens one, uses it and drops it. closed is asked until it reports true.
	makeOne func(t *testing.T, rt *veloq.Runtime) (closed func() bool)
}

// atEnd reports of a connection's peer whether it sees the end.
func atEnd(t *testing.T, peer net.Conn) func() bool {
	return func() bool {
		require.NoError(t, peer.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := io.Copy(io.Discard, peer)
		return err == nil
	}
}

// dropConn has a listener of package net accept one connection of the net door, which is dropped after
// it wrote.
func dropConn(t *testing.T, rt *veloq.Runtime, network string) func() bool {
	l, err := net.Listen(network, anyAddress(t, network))
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	conn, err := rt.Dial(network, l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Hour)))
	peer, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	for range 100 {
		_, err = conn.Write([]byte("x"))
		require.NoError(t, err)
	}
	got := make([]byte, 100)
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	return atEnd(t, peer)
}

func dropAccepted(t *testing.T, rt *veloq.Runtime) func() bool {
	l, err := rt.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	peer, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	_, err = l.Accept()
	require.NoError(t, err)
	return atEnd(t, peer)
}

func dropDetached(t *testing.T, rt *veloq.Runtime) func() bool {
	sharesSockets(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		s, err := c.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		_, err = s.Detach()
		return err
	}))
	peer, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	return atEnd(t, peer)
}

func dropListener(t *testing.T, _ *veloq.Runtime) func() bool {
	l, err := veloq.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	return func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}
}

func dropPacketConn(t *testing.T, rt *veloq.Runtime) func() bool {
	if runtime.GOOS == "windows" {
		t.Skip("package net's datagrams there, which Wine has not")
	}
	c, err := rt.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	address := c.LocalAddr()
	_, err = c.WriteTo([]byte("to itself"), address)
	require.NoError(t, err)
	_, _, err = c.ReadFrom(make([]byte, 20))
	require.NoError(t, err)
	return func() bool {
		again, err := veloq.ListenPacket("udp", address.String())
		if err == nil {
			_ = again.Close()
		}
		return err == nil
	}
}

// Goal: the descriptor of a connection or listener of the net door that is dropped is closed by the
// collector, whatever was done with it; the debug build reports it with the stack that opened it.
func TestNetDoor_DroppedIsClosed(t *testing.T) {
	for _, d := range []dropped{
		{"tcp", "*veloq.TCPConn 127.0.0.1:", func(t *testing.T, rt *veloq.Runtime) func() bool { return dropConn(t, rt, "tcp") }},
		{"unix", "*veloq.UnixConn ", func(t *testing.T, rt *veloq.Runtime) func() bool {
			needNetwork(t, "unix")
			return dropConn(t, rt, "unix")
		}},
		{"accepted", "*veloq.TCPConn 127.0.0.1:", dropAccepted},
		{"detached", "*veloq.TCPConn 127.0.0.1:", dropDetached},
		{"packets", "*veloq.UDPConn 127.0.0.1:", dropPacketConn},
		{"listener", "", dropListener}, // of no runtime: reported on stderr
	} {
		for _, stage := range []veloq.StageMode{veloq.StageOff, veloq.StageOn} {
			t.Run(d.name+"/"+stage.String(), func(t *testing.T) {
				var finds found
				rt := newRuntime(t, veloq.Config{Workers: 1, Stage: stage, OnMisuse: finds.add})
				closed := d.makeOne(t, rt)
				eventually(t, "closed by the collector", func() (bool, any) {
					runtime.GC()
					return closed(), nil
				})
				if !debugtag.Enabled || d.of == "" {
					require.Empty(t, finds.list())
					return
				}
				e := finds.collect(t, 1)[0]
				require.Contains(t, e.Of, d.of)
				require.Contains(t, e.What, "dropped without a Close")
				require.Regexp(t, `tests\.drop[A-Z]|moveOut`, e.Before)
				require.Len(t, finds.list(), 1)
			})
		}
	}
}

// Goal: nothing is said of what was closed, attached to a worker, or handed out as package net's.
func TestNetDoor_ClosedIsNotReported(t *testing.T) {
	needDebug(t)
	var finds found
	rt := newRuntime(t, veloq.Config{Workers: 1, OnMisuse: finds.add})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	opened := func() *veloq.TCPConn {
		conn, err := rt.Dial("tcp", srv.Addr().String())
		require.NoError(t, err)
		return conn.(*veloq.TCPConn)
	}
	require.NoError(t, opened().Close())
	under := opened().NetConn()
	if runtime.GOOS != "windows" {
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			s, err := veloq.Attach(c, opened())
			require.NoError(t, err)
			return s.Close()
		}))
	}
	l, err := rt.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	dropAccepted(t, rt)
	finds.collect(t, 1)
	runtime.GC()
	runtime.GC()
	require.Len(t, finds.list(), 1, "of the one that was dropped: %v", finds.list())
	require.NoError(t, roundTrip(under, []byte("still open")))
	require.NoError(t, under.Close())
}

//go:noinline
func leaveOpen(t *testing.T, c *veloq.Context) {
	l, err := c.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, err = c.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	_, err = c.ListenDatagram("udp", "127.0.0.1:0")
	require.NoError(t, err)
}

// Goal: what a task opened and left open when it ended is named with the stack that opened it, now and at
// the runtime's end; what a scope owns, what lives on in another task and what is in use is not.
func TestRuntime_LeftSocketsAreNamed(t *testing.T) {
	needDebug(t)
	var finds found
	rt := newRuntime(t, veloq.Config{Workers: 1, OnMisuse: finds.add})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	var reader *veloq.JoinHandle[int]
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		leaveOpen(t, c)
		handed, err := c.Dial("tcp", srv.Addr().String())
		require.NoError(t, err)
		reader = veloq.SpawnTo(c, 0, func(*veloq.Context) (int, error) { return handed.Read(make([]byte, 1)) })
		return veloq.Scope(c, func(s *veloq.TaskScope) error {
			owned, err := c.Dial("tcp", srv.Addr().String())
			require.NoError(t, err)
			return s.Own(owned)
		})
	}))
	eventually(t, "the reader waits", func() (bool, any) {
		n := rt.Stats()[0].SocketsLeft
		return n == 3, n
	})
	snap, err := rt.Snapshot(t.Context(), -1)
	require.NoError(t, err)
	left := 0
	for _, conn := range snap.Conns {
		if conn.Left {
			left++
			require.Contains(t, conn.Created, "tests.leaveOpen")
		}
	}
	require.Equal(t, 3, left)
	var out bytes.Buffer
	require.NoError(t, rt.Dump(&out))
	require.Equal(t, 3, strings.Count(out.String(), " left open by a task that has ended"))
	require.Empty(t, finds.list())
	require.NoError(t, rt.Close())
	require.ErrorIs(t, join(t, reader), net.ErrClosed)
	kinds := map[string]bool{}
	for _, e := range finds.list() {
		kind, _, _ := strings.Cut(e.Of, " ")
		kinds[kind] = true
		require.Contains(t, e.What, "left open by the task that opened it")
		require.Contains(t, e.Before, "tests.leaveOpen")
	}
	require.Equal(t, map[string]bool{"stream": true, "listener": true, "datagram": true}, kinds)
	require.Len(t, finds.list(), 3)
}
