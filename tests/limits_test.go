package tests

// What the runtime takes it gives back, and where the system or the configuration has no more to give
// it waits, without spinning, and goes on.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/debugtag"
)

// childReport is what a serving child tells.
type childReport struct {
	Addr  string
	Stats veloq.WorkerStats
	Conns int
	FDs   int
	Heap  int // bytes of Go's heap and stacks in use
	RSS   int
}

// childServe is an echo server that reports on request. It is configured by the environment: CHILD_DOOR,
// and CHILD_FDS for how many descriptors there are beyond those in use before it listens.
func childServe() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(2)
		}
	}
	// Go's own descriptors must not be the ones that are missing later.
	first, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fail(first.Close())
	rt, err := veloq.New(veloq.Config{Workers: 1})
	fail(err)
	// Before the accept is armed: the kernel looks at the limit then, and not again.
	if extra, _ := strconv.Atoi(os.Getenv("CHILD_FDS")); extra > 0 {
		fail(limitDescriptors(currentUsage().fds + extra))
	}
	lc := veloq.ListenConfig{}
	var srv *veloq.Server
	ctx := context.Background()
	if os.Getenv("CHILD_DOOR") == "handler" {
		srv, err = lc.StartHandler(ctx, rt, "tcp", "127.0.0.1:0", &echoHandler{})
	} else {
		srv, err = lc.Start(ctx, rt, "tcp", "127.0.0.1:0", smallEchoTask)
	}
	fail(err)
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		r := childReport{Addr: srv.Addr().String(), Stats: totals(rt), Conns: srv.Conns()}
		r.FDs = currentUsage().fds
		if in.Text() == "memory" {
			settleMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			r.Heap, r.RSS = int(m.HeapAlloc+m.StackInuse), rssBytes()
		}
		fail(out.Encode(r))
	}
	srv.Close()
	fail(rt.Close())
}

// smallEchoTask keeps nothing on the heap while it waits: what an idle connection costs at least.
func smallEchoTask(_ *veloq.Context, s *veloq.Stream) error {
	for {
		l, err := s.ReadLease()
		if err != nil {
			return err
		}
		_, err = s.WriteLease(l)
		if err != nil {
			return err
		}
	}
}

// Goal: after many connections everything is as before the first: descriptors, goroutines, slots,
// buffers, timers; and the memory is flat from the first fifth on.
func TestLimits_ConnectEchoClose(t *testing.T) {
	noLeak(t)
	combinations := len(shapes()) * len(doors)
	cycles := sized(100_000, 5_000, 800) / combinations
	var wg sync.WaitGroup
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		srv := startEcho(t, rt, sh.listen, door)
		before := holds(rt)
		round := func(n int) {
			for c := range 8 {
				wg.Go(func() {
					for i := range n / 8 {
						if err := cycle(srv.Addr().String(), (c+i)%3); err != nil {
							t.Errorf("cycle: %v", err)
							return
						}
					}
				})
			}
			wg.Wait()
			settled(t, rt, before)
			settleMemory()
		}
		round(cycles / 5)
		warm, began := rssBytes(), currentUsage()
		round(cycles * 4 / 5)
		grown := rssBytes() - warm
		now := currentUsage()
		require.LessOrEqual(t, now.fds, began.fds)
		// Coroutines are kept for the next tasks: at most as many as there were tasks at once.
		require.LessOrEqual(t, now.goroutines, began.goroutines+16)
		t.Logf("%d bytes of memory more after %d cycles more", grown, cycles*4/5)
		if !raceEnabled {
			// The collector's and the allocator's slack, not growth: 4 MiB however many the cycles.
			require.LessOrEqual(t, grown, 4<<20)
		}
	})
}

// cycle is one connection: echo, and an end of one of three ways.
func cycle(addr string, end int) error {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := roundTrip(conn, []byte("0123456789abcdef")); err != nil {
		return err
	}
	switch end {
	case 1:
		_ = conn.(*net.TCPConn).SetLinger(0)
	case 2:
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // bare
			return fmt.Errorf("after FIN: %w", err)
		}
	}
	return nil
}

// Goal: without descriptors the server waits, by ever longer pauses and not by spinning, serves those
// it has, and takes the others once descriptors are free.
func TestLimits_AcceptWithoutDescriptors(t *testing.T) {
	if !hasDescriptorLimit {
		t.Skip("no limit on descriptors that a process could lower")
	}
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			const room, clients = 20, 50
			c := startChild(t, "serve", "CHILD_DOOR="+door, "CHILD_FDS="+strconv.Itoa(room))
			var began, now childReport
			c.ask("stats", &began)
			addr, err := net.ResolveTCPAddr("tcp", began.Addr)
			require.NoError(t, err)
			conns := make([]*net.TCPConn, clients)
			for i := range conns {
				conns[i] = dial(t, addr)
			}
			polls := uint64(0)
			eventually(t, "backoffs", func() (bool, any) {
				c.ask("stats", &now)
				polls++
				return now.Stats.AcceptBackoffs >= 5, now
			})
			// 5 + 10 + 20 + 40 ms have passed at least. A poll is a turn, a pause ends in a few.
			crossings := now.Stats.Crossings - began.Stats.Crossings
			t.Logf("%d connections of %d, %d pauses, %d crossings, %d polls", now.Conns, clients,
				now.Stats.AcceptBackoffs, crossings, polls)
			require.LessOrEqual(t, crossings, 3*polls+8*now.Stats.AcceptBackoffs+clients)
			require.LessOrEqual(t, now.Stats.AcceptBackoffs, uint64(12))
			require.Less(t, now.Conns, clients)
			require.GreaterOrEqual(t, now.Conns, room/2)
			for _, conn := range conns[:now.Conns] {
				require.NoError(t, roundTrip(conn, []byte("served without descriptors left")))
			}
			for len(conns) > 0 {
				// Those that are served leave, and others come in their place.
				n := min(room/2, len(conns))
				for _, conn := range conns[:n] {
					require.NoError(t, roundTrip(conn, []byte("served in the end")))
					require.NoError(t, conn.Close())
				}
				conns = conns[n:]
			}
			eventually(t, "all gone", func() (bool, any) {
				c.ask("stats", &now)
				return now.Conns == 0, now
			})
			require.Equal(t, uint64(clients), now.Stats.Accepted)
		})
	}
}

// Goal: what an idle connection costs on each door, and that all still answer. Method: the server is a
// process of its own, so that its memory is that of the connections; each has echoed once.
func TestLimits_IdleConnections(t *testing.T) {
	n := min(sized(10_000, 10_000, 1000), descriptorsMax()-500)
	// Bars of the design, and what else a connection costs in the process: growth of tables, and the
	// stack of its coroutine.
	bars := map[string]float64{"handler": 0.5, "task": 3.5}
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			c := startChild(t, "serve", "CHILD_DOOR="+door)
			var before, after childReport
			c.ask("memory", &before)
			addr, err := net.ResolveTCPAddr("tcp", before.Addr)
			require.NoError(t, err)
			conns := make([]*net.TCPConn, n)
			for i := range conns {
				conns[i] = dial(t, addr)
				require.NoError(t, roundTrip(conns[i], []byte("hello")))
			}
			c.ask("memory", &after)
			require.Equal(t, n, after.Conns)
			heap := float64(after.Heap-before.Heap) / float64(n) / 1024
			rss := float64(after.RSS-before.RSS) / float64(n) / 1024
			t.Logf("%d idle connections: heap and stacks %.2f KiB, RSS %.2f KiB each", n, heap, rss)
			if n >= 5000 {
				// Instrumented builds have larger frames, and so larger stacks: twice the bar there.
				bar := bars[door]
				if raceEnabled || debugtag.Enabled || os.Getenv("VELOQ_INSTRUMENTED") != "" {
					bar *= 2
				}
				require.LessOrEqual(t, heap, bar)
				require.LessOrEqual(t, rss, 2*bar)
			}
			for i, conn := range conns {
				require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
				require.NoError(t, roundTrip(conn, []byte("still here")), "connection %d", i)
				_ = conn.Close()
			}
		})
	}
}

// Goal: leases that fill the whole buffer group hold the others up only until they are released, also
// when that happens on another goroutine.
func TestLimits_BufferGroupExhausted(t *testing.T) {
	noLeak(t)
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, tinyConfig())
			var mu sync.Mutex
			var kept []veloq.Lease
			keep := func(l veloq.Lease) {
				mu.Lock()
				defer mu.Unlock()
				kept = append(kept, l)
			}
			var hoard *veloq.Server
			if door == "task" {
				hoard = startTasks(t, rt, veloq.ListenConfig{}, func(_ *veloq.Context, s *veloq.Stream) error {
					for {
						l, err := s.ReadLease()
						if err != nil {
							return err
						}
						keep(l)
					}
				})
			} else {
				hoard = startHandler(t, rt, veloq.ListenConfig{}, &hoarder{keep: keep})
			}
			before := holds(rt)
			echo := startEcho(t, rt, veloq.ListenConfig{}, door)
			hog := dial(t, hoard.Addr())
			// More than all buffers hold; what doesn't fit stays in the kernel.
			_, err := hog.Write(make([]byte, 8<<10))
			require.NoError(t, err)
			eventually(t, "every buffer held", func() (bool, any) {
				s := rt.Stats()[0]
				return s.BuffersFree == 0 && s.NoBuffers > 0, s
			})
			const clients = 20
			results := make(chan error, clients)
			for range clients {
				conn := dial(t, echo.Addr())
				go func() { results <- roundTrip(conn, []byte("patience")) }()
			}
			// They stand; a worker that waits for buffers must not spin meanwhile.
			first := totals(rt)
			polls := uint64(0)
			eventually(t, "receives without buffers", func() (bool, any) {
				polls++
				return totals(rt).NoBuffers >= clients/2 && polls > 50, totals(rt)
			})
			require.LessOrEqual(t, totals(rt).Turns-first.Turns, 4*polls+20*clients)
			select {
			case err := <-results:
				t.Fatalf("answered without a buffer: %v", err)
			default:
			}
			// Released again and again, since the hoarder goes on.
			var stop atomic.Bool
			released := make(chan struct{})
			go func() {
				defer close(released)
				for !stop.Load() {
					mu.Lock()
					for _, l := range kept {
						l.Release()
					}
					kept = nil
					mu.Unlock()
					runtime.Gosched()
				}
			}()
			for range clients {
				require.NoError(t, await(t, "echo after the release", results))
			}
			require.NoError(t, hog.Close())
			echo.Close()
			settled(t, rt, before)
			stop.Store(true)
			<-released
		})
	}
}

type hoarder struct {
	veloq.HandlerBase
	keep func(veloq.Lease)
}

func (h *hoarder) OnData(_ *veloq.Context, _ *veloq.Stream, l veloq.Lease) error {
	h.keep(l.Retain())
	return nil
}

// Goal: bytes that a task was shown by Peek and Next stay as they are until its next read, also when
// other streams run out of buffers meanwhile.
func TestLimits_PeekedBytesStayWhileBuffersRunOut(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, tinyConfig())
	echo := startEcho(t, rt, veloq.ListenConfig{}, "handler")
	var wrong atomic.Int32
	var spilled atomic.Bool
	done := make(chan struct{})
	holder := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, s *veloq.Stream) error {
		defer close(done)
		b, err := s.Next(900)
		if err != nil {
			return err
		}
		for !spilled.Load() {
			if err := c.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		if err := newPattern(11).check(b); err != nil {
			wrong.Add(1)
		}
		rest, err := s.Next(1100)
		if err != nil {
			return err
		}
		p := newPattern(11)
		p.next(900)
		if err := p.check(rest); err != nil {
			wrong.Add(2)
		}
		return nil
	})
	conn := dial(t, holder.Addr())
	_, err := conn.Write(newPattern(11).next(2000))
	require.NoError(t, err)
	eventually(t, "bytes shown", func() (bool, any) { h := holds(rt); return h.streams == 1, h })
	other := dial(t, echo.Addr())
	go func() {
		junk := make([]byte, 4000)
		for {
			if _, err := other.Write(junk); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, other) }()
	// Streams that nobody reads make the group run out.
	idle := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, _ *veloq.Stream) error {
		return c.Sleep(patience)
	})
	for range 8 {
		full := dial(t, idle.Addr())
		_, err := full.Write(make([]byte, 2000))
		require.NoError(t, err)
	}
	eventually(t, "spills", func() (bool, any) { s := totals(rt); return s.Spills > 0, s })
	start := totals(rt)
	eventually(t, "traffic after the spills", func() (bool, any) {
		s := totals(rt)
		return s.Completions > start.Completions+500, s
	})
	spilled.Store(true)
	await(t, "holder", done)
	require.Zero(t, wrong.Load(), "1: the first bytes changed, 2: the later ones are wrong")
	_ = other.Close()
}

// Goal: MaxConns is a bound, not a guess, and those beyond it are served once there is room.
func TestLimits_MaxConns(t *testing.T) {
	noLeak(t)
	forAll(t, func(t *testing.T, sh shape, door string) {
		const bound = 3
		rt := newRuntime(t, sh.config)
		lc := sh.listen
		lc.MaxConns = bound
		var now, most atomic.Int64
		enter := func() {
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
		}
		var srv *veloq.Server
		if door == "task" {
			srv = startTasks(t, rt, lc, func(c *veloq.Context, s *veloq.Stream) error {
				enter()
				defer now.Add(-1)
				return echoTask(c, s)
			})
		} else {
			srv = startHandler(t, rt, lc, &countedEcho{enter: enter, leave: func() { now.Add(-1) }})
		}
		const clients = 40
		results := make(chan error, clients)
		// All at once, so that they wait in the kernel's queue together.
		for range clients {
			conn := dial(t, srv.Addr())
			go func() {
				err := roundTrip(conn, []byte("one of few"))
				_ = conn.Close()
				results <- err
			}()
		}
		for range clients {
			require.NoError(t, await(t, "a client beyond MaxConns", results))
		}
		require.LessOrEqual(t, most.Load(), int64(bound*rt.Workers()))
		eventually(t, "no connection", func() (bool, any) { return srv.Conns() == 0, srv.Conns() })
	})
}

type countedEcho struct {
	echoHandler
	enter, leave func()
}

func (h *countedEcho) OnOpen(*veloq.Context, *veloq.Stream)         { h.enter() }
func (h *countedEcho) OnClose(*veloq.Context, *veloq.Stream, error) { h.leave() }

// Goal: with one listening socket the bound is the server's: an end on a worker that has no listener
// makes room too.
func TestLimits_MaxConnsFreedOnOtherWorker(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2})
	srv := startEcho(t, rt, veloq.ListenConfig{Accept: veloq.AcceptSpread, MaxConns: 1}, "task")
	for round := range 20 {
		a, b := dial(t, srv.Addr()), dial(t, srv.Addr())
		require.NoError(t, roundTrip(a, []byte("a")), "round %d", round)
		require.NoError(t, roundTrip(b, []byte("b")), "round %d", round)
		third := dial(t, srv.Addr())
		leaving, staying := a, b
		if round%2 == 1 {
			leaving, staying = b, a
		}
		require.NoError(t, leaving.Close())
		require.NoError(t, roundTrip(third, []byte("third")), "round %d", round)
		require.NoError(t, staying.Close())
		require.NoError(t, third.Close())
		eventually(t, "no connection", func() (bool, any) { return srv.Conns() == 0, srv.Conns() })
	}
}

// Goal: a full inbox refuses tasks with ErrFull, and takes them again once the worker has caught up.
func TestLimits_InboxFull(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1, InboxLimit: 10})
	held, release := make(chan struct{}), make(chan struct{})
	blocker := veloq.Spawn(rt, func(*veloq.Context) (int, error) {
		close(held)
		<-release // holds the worker, as no task should
		return 0, nil
	})
	await(t, "the blocking task", held)
	var ran atomic.Int64
	count := func(*veloq.Context) { ran.Add(1) }
	for range 10 {
		require.NoError(t, veloq.Go(rt, count))
	}
	require.ErrorIs(t, veloq.Go(rt, count), veloq.ErrFull)
	refused := veloq.Spawn(rt, func(*veloq.Context) (int, error) { ran.Add(1); return 0, nil })
	_, err, ok := refused.TryResult()
	require.True(t, ok)
	require.ErrorIs(t, err, veloq.ErrFull)
	require.ErrorIs(t, join(t, refused), veloq.ErrFull)
	close(release)
	require.NoError(t, join(t, blocker))
	eventually(t, "inbox emptied", func() (bool, any) { return ran.Load() == 10, ran.Load() })
	require.NoError(t, veloq.Go(rt, count))
	eventually(t, "one more", func() (bool, any) { return ran.Load() == 11, ran.Load() })
	require.NoError(t, join(t, veloq.Spawn(rt, func(*veloq.Context) (int, error) { return 0, nil })))
}
