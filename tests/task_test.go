package tests

// Tasks: starting, joining, cancelling, sleeping, and how a runtime's end meets them.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

func twoWorkers(t *testing.T) *veloq.Runtime {
	return newRuntime(t, veloq.Config{Workers: 2})
}

// Goal: a task's result reaches whoever waits: tasks of the same and of another worker, goroutines.
func TestTask_SpawnAndJoin(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	n := sized(100_000, 10_000, 1_000)
	for _, target := range []int{0, 1} {
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			for i := range n {
				h := veloq.SpawnTo(c, target, func(c *veloq.Context) (int, error) {
					if c.Worker() != target {
						return 0, fmt.Errorf("runs on worker %d", c.Worker())
					}
					return i, errAfter(i)
				})
				got, err := h.Join(c)
				if !errors.Is(err, errAfter(i)) || (got != i) {
					return fmt.Errorf("joined %d, %w; want %d", got, err, i)
				}
				// Again, and by the other ways.
				if again, err2, ok := h.TryResult(); !ok || again != i || !errors.Is(err2, err) {
					return fmt.Errorf("second result %d, %w, %v", again, err2, ok)
				}
			}
			return nil
		}))
	}
	// Many at once over the mesh, more than an edge holds, several joiners each.
	var ran atomic.Int64
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		handles := make([]*veloq.JoinHandle[int], n)
		for i := range handles {
			handles[i] = veloq.SpawnTo(c, 1, func(*veloq.Context) (int, error) { ran.Add(1); return i, nil })
		}
		second := veloq.Spawn(c, func(c *veloq.Context) (int, error) {
			sum := 0
			for _, h := range handles {
				v, err := h.Join(c)
				if err != nil {
					return 0, err
				}
				sum += v
			}
			return sum, nil
		})
		for i, h := range handles {
			if v, err := h.Join(c); err != nil || v != i {
				return fmt.Errorf("%d: %d, %w", i, v, err)
			}
		}
		sum, err := second.Join(c)
		if sum != n*(n-1)/2 {
			return fmt.Errorf("sum %d", sum)
		}
		return err
	}))
	require.Equal(t, int64(n), ran.Load())
	for i := range n / 10 {
		h := veloq.Spawn(rt, func(*veloq.Context) (int, error) { return i, nil })
		v, err := h.Wait(soon(t))
		require.NoError(t, err)
		require.Equal(t, i, v)
	}
	settled(t, rt, held{})
}

var errOdd = errors.New("odd")

func errAfter(i int) error {
	if i%2 == 1 {
		return errOdd
	}
	return nil
}

// Goal: joins that can't be, or are given up.
func TestTask_JoinGivenUp(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	release := make(chan struct{})
	slow := veloq.SpawnTo(rt, 1, func(c *veloq.Context) (int, error) {
		for {
			if err := c.Sleep(time.Millisecond); err != nil {
				return 0, err
			}
			select {
			case <-release:
				return 7, nil
			default:
			}
		}
	})
	_, _, ok := slow.TryResult()
	require.False(t, ok)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	_, err := slow.Wait(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	joiner := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { return slow.Join(c) })
	sleeper := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { return 0, c.Sleep(patience) })
	joiner.Cancel()
	require.ErrorIs(t, join(t, joiner), context.Canceled)
	sleeper.Cancel()
	sleeper.Cancel()
	require.ErrorIs(t, join(t, sleeper), context.Canceled)
	sleeper.Cancel() // after its end
	close(release)
	v, err := slow.Wait(soon(t))
	require.NoError(t, err)
	require.Equal(t, 7, v)
	var self *veloq.JoinHandle[int]
	started := make(chan struct{})
	self = veloq.Spawn(rt, func(c *veloq.Context) (int, error) { <-started; return self.Join(c) })
	close(started)
	require.ErrorIs(t, join(t, self), veloq.ErrJoinSelf)
	started = make(chan struct{})
	self = veloq.Spawn(rt, func(c *veloq.Context) (int, error) { <-started; return self.Wait(c) })
	close(started)
	require.ErrorIs(t, join(t, self), veloq.ErrJoinSelf)
	settled(t, rt, held{})
}

// Goal: sleeps end in their order, none before its time, the longest possible one not at all.
func TestTask_Sleep(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	n := sized(100_000, 10_000, 1_000)
	var early, latest atomic.Int64
	handles := make([]*veloq.JoinHandle[int], n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range handles {
		d := time.Duration(r.IntN(200_000)) * time.Microsecond
		handles[i] = veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
			began := time.Now()
			err := c.Sleep(d)
			late := time.Since(began) - d
			if late < 0 {
				early.Add(1)
			}
			for old := latest.Load(); int64(late) > old && !latest.CompareAndSwap(old, int64(late)); old = latest.Load() {
			}
			return 0, err
		})
	}
	for _, h := range handles {
		require.NoError(t, join(t, h))
	}
	require.Zero(t, early.Load(), "sleeps that ended too early")
	t.Logf("latest of %d sleepers: %v", n, time.Duration(latest.Load()))
	var order []int
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		var hs []*veloq.LocalHandle[int]
		for i := range 20 {
			hs = append(hs, veloq.SpawnLocal(c, func(c *veloq.Context) (int, error) {
				err := c.Sleep(time.Duration(20-i) * 5 * time.Millisecond)
				order = append(order, 20-i)
				return 0, err
			}))
		}
		for _, h := range hs {
			if _, err := h.Join(c); err != nil {
				return err
			}
		}
		return nil
	}))
	// In what order is for those only whose ends lie apart by more than the machine was late.
	require.Len(t, order, 20)
	for _, forever := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, 1 << 62} {
		h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { return 0, c.Sleep(forever) })
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error { return c.Sleep(5 * time.Millisecond) }))
		_, err, ended := h.TryResult()
		require.False(t, ended, "Sleep(%v) ended: %v", forever, err)
		h.Cancel()
		require.ErrorIs(t, join(t, h), context.Canceled)
	}
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		return errors.Join(c.Sleep(0), c.Sleep(-time.Hour), c.Sleep(math.MinInt64))
	}))
	settled(t, rt, held{})
}

// Goal: tasks that yield take turns, and I/O goes on beside tasks that do nothing else.
func TestTask_YieldIsFair(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	var stop atomic.Bool
	var counts [8]int
	handles := make([]*veloq.JoinHandle[int], len(counts))
	for i := range handles {
		handles[i] = veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
			for !stop.Load() {
				counts[i]++
				if err := c.Yield(); err != nil {
					return 0, err
				}
			}
			return 0, nil
		})
	}
	conn := dial(t, srv.Addr())
	for range 200 {
		require.NoError(t, roundTrip(conn, []byte("beside busy tasks")))
	}
	stop.Store(true)
	least, most := math.MaxInt, 0
	for i, h := range handles {
		require.NoError(t, join(t, h))
		least, most = min(least, counts[i]), max(most, counts[i])
	}
	require.Less(t, most-least, 1000+most/2, "%v", counts)
	require.NoError(t, conn.Close())
	settled(t, rt, held{slots: 1})
}

// Goal: a Context is a context.Context for goroutines: values, Done, Err, derived ones.
func TestTask_ContextForGoroutines(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	type key struct{}
	base := context.WithValue(context.Background(), key{}, "from Start")
	got := make(chan *veloq.Context, 1)
	srv, err := (&veloq.ListenConfig{}).Start(base, rt, "tcp", "127.0.0.1:0",
		func(c *veloq.Context, s *veloq.Stream) error {
			got <- c
			_, err := s.Read(make([]byte, 1))
			return err
		})
	require.NoError(t, err)
	conn := dial(t, srv.Addr())
	c := await(t, "the connection's context", got)
	require.Equal(t, "from Start", c.Value(key{}))
	require.Nil(t, c.Value("other"))
	require.NoError(t, c.Err())
	require.Same(t, rt, c.Runtime())
	derived, cancel := context.WithTimeout(context.WithValue(c, key{}, "derived"), patience)
	defer cancel()
	back, ok := veloq.FromContext(derived)
	require.True(t, ok)
	require.Same(t, c, back)
	_, ok = veloq.FromContext(context.Background())
	require.False(t, ok)
	require.NoError(t, conn.Close())
	await(t, "Done of an ended task", c.Done())
	require.ErrorIs(t, c.Err(), context.Canceled)
	await(t, "Done of a derived context", derived.Done())
	bounded(t, "Server.Close", srv.Close)

	h := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		got <- c
		return 0, c.Sleep(patience)
	})
	c = await(t, "task's context", got)
	done := c.Done()
	h.Cancel()
	await(t, "Done of a cancelled task", done)
	require.ErrorIs(t, c.Err(), context.Canceled)
	require.ErrorIs(t, join(t, h), context.Canceled)
	h = veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		got <- c
		return 0, c.Sleep(patience)
	})
	c = await(t, "task's context", got)
	bounded(t, "Close", func() { _ = rt.Close() })
	await(t, "Done at the runtime's end", c.Done())
	require.ErrorIs(t, c.Err(), veloq.ErrClosed)
	require.ErrorIs(t, join(t, h), veloq.ErrClosed)
}

// Goal: a handler's Context too is done when the runtime ends.
func TestTask_HandlerContextDoneAtClose(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	h := &contextKeeper{got: make(chan *veloq.Context, 1)}
	srv := startHandler(t, rt, veloq.ListenConfig{}, h)
	dial(t, srv.Addr())
	c := await(t, "handler's context", h.got)
	done := c.Done()
	bounded(t, "Close", func() { _ = rt.Close() })
	await(t, "Done", done)
	require.ErrorIs(t, c.Err(), veloq.ErrClosed)
}

type contextKeeper struct {
	echoHandler
	got chan *veloq.Context
}

func (h *contextKeeper) OnOpen(c *veloq.Context, _ *veloq.Stream) { h.got <- c }

// Goal: Close ends thousands of tasks wherever they wait, and tells each.
func TestTask_CloseEndsAll(t *testing.T) {
	noLeak(t)
	n := sized(20_000, 3_000, 500)
	for _, sh := range shapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newRuntime(t, sh.config)
			ended := make(chan error, n)
			srv, err := sh.listen.Start(context.Background(), rt, "tcp", "127.0.0.1:0",
				func(_ *veloq.Context, s *veloq.Stream) error {
					_, err := s.Read(make([]byte, 1))
					return err
				})
			require.NoError(t, err)
			var ready atomic.Int64
			handles := make([]*veloq.JoinHandle[int], n)
			for i := range handles {
				handles[i] = veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
					ready.Add(1)
					if i%50 != 0 {
						return 0, c.Sleep(patience)
					}
					s, err := c.Dial("tcp", srv.Addr().String())
					if err != nil {
						return 0, err
					}
					_, err = s.Read(make([]byte, 1)) // left open: the runtime closes it
					return 0, err
				})
			}
			eventually(t, "all run", func() (bool, any) { return ready.Load() == int64(n), ready.Load() })
			bounded(t, "Close", func() { _ = rt.Close() })
			close(ended)
			for _, h := range handles {
				_, err, ok := h.TryResult()
				require.True(t, ok)
				// A reader may hear first of the other end, which another worker closed.
				if !errors.Is(err, veloq.ErrClosed) && !errors.Is(err, net.ErrClosed) &&
					!errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("at Close: %v", err)
				}
			}
			bounded(t, "Server.Close", srv.Close)
		})
	}
}

// Goal: an idle runtime ends at once.
func TestTask_CloseIsPrompt(t *testing.T) {
	noLeak(t)
	began := time.Now()
	for range 5 {
		for _, workers := range []int{1, 2} {
			rt := newRuntime(t, veloq.Config{Workers: workers})
			srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
			require.NoError(t, roundTrip(dial(t, srv.Addr()), []byte("x")))
			require.NoError(t, rt.Close())
		}
	}
	require.Less(t, time.Since(began), 5*time.Second) // ten graces, were they waited for
}

// Goal: a task that begins its own runtime's end is told that it can't wait for it, and ends with it.
func TestTask_CloseFromTask(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	h := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		if err := c.Runtime().Close(); !errors.Is(err, veloq.ErrNotTask) {
			return 0, fmt.Errorf("Close from a task: %w", err)
		}
		if err := c.Sleep(patience); !errors.Is(err, veloq.ErrClosed) {
			return 0, fmt.Errorf("Sleep: %w", err)
		}
		return 5, nil
	})
	v, err := h.Wait(soon(t))
	require.NoError(t, err)
	require.Equal(t, 5, v)
	bounded(t, "Close", func() { require.NoError(t, rt.Close()) })
}

// Goal: where only a task closes the runtime, that ends as a whole, and those who wait for its end hear of it.
func TestTask_CloseFromTaskIsEnough(t *testing.T) {
	needDriver(t)
	noLeak(t)
	rt, err := veloq.New(veloq.Config{Workers: 2, WatchdogAfter: time.Second})
	require.NoError(t, err)
	m := newMesh[int](t, rt, veloq.MeshConfig{})
	h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) {
		if err := m.Send(c, 1, 1); err != nil { // which nobody receives
			return 0, err
		}
		return 0, c.Runtime().Close()
	})
	require.ErrorIs(t, join(t, h), veloq.ErrNotTask)
	require.ErrorIs(t, m.Drain(soon(t)), veloq.ErrClosed)
}

// Goal: Shutdown waits for connections and tasks to end by themselves, for as long as it may.
func TestTask_Shutdown(t *testing.T) {
	noLeak(t)
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := twoWorkers(t)
			srv := startEcho(t, rt, veloq.ListenConfig{}, door)
			conn := dial(t, srv.Addr())
			require.NoError(t, roundTrip(conn, []byte("before")))
			over := make(chan error, 1)
			go func() { over <- rt.Shutdown(soon(t)) }()
			eventually(t, "listening ended", func() (bool, any) {
				c, err := net.Dial("tcp", srv.Addr().String())
				if err == nil {
					_ = c.Close()
				}
				return err != nil, err
			})
			require.NoError(t, roundTrip(conn, []byte("served to the end")))
			require.Empty(t, over)
			require.NoError(t, conn.Close())
			require.NoError(t, await(t, "Shutdown", over))

			rt = twoWorkers(t)
			srv = startEcho(t, rt, veloq.ListenConfig{}, door)
			conn = dial(t, srv.Addr())
			require.NoError(t, roundTrip(conn, []byte("before")))
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, rt.Shutdown(ctx), context.DeadlineExceeded)
			_, err := conn.Read(make([]byte, 1))
			require.Error(t, err) // closed with the runtime
		})
	}
}

// Goal: a Shutdown that waits for tasks ends when somebody else closes the runtime, which unwinds them.
func TestTask_ShutdownWhileClosed(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	running := make(chan struct{})
	require.NoError(t, veloq.Go(rt, func(c *veloq.Context) {
		close(running)
		for {
			_ = c.Sleep(patience) // takes no notice of the end
		}
	}))
	await(t, "task", running)
	over := make(chan error, 1)
	go func() { over <- rt.Shutdown(context.Background()) }()
	bounded(t, "Close", func() { require.NoError(t, rt.Close()) })
	require.NoError(t, await(t, "Shutdown", over))
}

// Goal: Serve ends with its context, and its connections' tasks are cancelled.
func TestTask_ServeEndsWithContext(t *testing.T) {
	noLeak(t)
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		addr := closedPort(t)
		ended := make(chan error, 1)
		seen := make(chan error, 1)
		go func() {
			if door == "task" {
				ended <- sh.listen.Serve(ctx, rt, "tcp", addr, func(c *veloq.Context, s *veloq.Stream) error {
					err := echoTask(c, s)
					seen <- err
					return err
				})
			} else {
				ended <- sh.listen.ServeHandler(ctx, rt, "tcp", addr, &closeTeller{seen: seen})
			}
		}()
		var conn net.Conn
		eventually(t, "listening", func() (bool, any) {
			var err error
			conn, err = net.Dial("tcp", addr)
			return err == nil, err
		})
		defer func() { _ = conn.Close() }()
		require.NoError(t, roundTrip(conn, []byte("x")))
		cancel()
		require.ErrorIs(t, await(t, "the connection's end", seen), context.Canceled)
		require.NoError(t, await(t, "Serve's end", ended))
		settled(t, rt, held{})
	})
}

type closeTeller struct {
	echoHandler
	seen chan error
}

func (h *closeTeller) OnClose(_ *veloq.Context, _ *veloq.Stream, err error) { h.seen <- err }

// Goal: tasks that take no notice of the end are unwound, and their deferred calls run.
func TestTask_IgnoringCancellationIsUnwound(t *testing.T) {
	noLeak(t)
	waits := map[string]func(c *veloq.Context, s *veloq.Stream, l *veloq.Listener){
		"sleep":  func(c *veloq.Context, _ *veloq.Stream, _ *veloq.Listener) { _ = c.Sleep(time.Hour) },
		"yield":  func(c *veloq.Context, _ *veloq.Stream, _ *veloq.Listener) { _ = c.Yield() },
		"read":   func(_ *veloq.Context, s *veloq.Stream, _ *veloq.Listener) { _, _ = s.Read(make([]byte, 1)) },
		"accept": func(_ *veloq.Context, _ *veloq.Stream, l *veloq.Listener) { _, _ = l.Accept() },
		"listen": func(c *veloq.Context, _ *veloq.Stream, _ *veloq.Listener) {
			_, _ = c.Listen("tcp", "127.0.0.1:0") // and never closes it
			_ = c.Yield()
		},
	}
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needDriver(t)
			rt, err := veloq.New(veloq.Config{Workers: 1})
			require.NoError(t, err)
			var deferred atomic.Int64
			started := make(chan struct{}, 3)
			hs := make([]*veloq.JoinHandle[int], 3)
			for i := range hs {
				hs[i] = veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
					defer deferred.Add(1)
					l, err := c.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						return 0, err
					}
					defer func() { _ = l.Close() }()
					s, err := c.Dial("tcp", l.Addr().String())
					if err != nil {
						return 0, err
					}
					defer func() { _ = s.Close() }()
					started <- struct{}{}
					if name == "listen" {
						for c.Err() == nil {
							_ = c.Sleep(time.Millisecond)
						}
					}
					for {
						wait(c, s, l)
					}
				})
			}
			for range hs {
				await(t, "start", started)
			}
			bounded(t, "Close", func() { _ = rt.Close() })
			require.Equal(t, int64(len(hs)), deferred.Load())
			for _, h := range hs {
				require.Error(t, join(t, h))
			}
		})
	}
}

// panics collects what OnPanic gets.
func panics() (func(*veloq.PanicError), chan *veloq.PanicError) {
	ch := make(chan *veloq.PanicError, 1000)
	return func(pe *veloq.PanicError) { ch <- pe }, ch
}

// Goal: a task's panic goes to who joins it, or to OnPanic where nobody can or does.
func TestTask_Panic(t *testing.T) {
	noLeak(t)
	onPanic, reported := panics()
	rt := newRuntime(t, veloq.Config{Workers: 2, OnPanic: onPanic})
	boom := errors.New("boom")
	h := veloq.Spawn(rt, func(*veloq.Context) (int, error) { return explode(boom) })
	_, err := h.Wait(soon(t))
	checkPanic(t, err, boom)
	_, err, _ = h.TryResult()
	checkPanic(t, err, boom)
	for _, target := range []int{0, 1} {
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			_, err := veloq.SpawnTo(c, target, func(*veloq.Context) (int, error) { return explode(boom) }).Join(c)
			checkPanic(t, err, boom)
			return nil
		}))
	}
	require.Empty(t, reported)
	require.NoError(t, veloq.Go(rt, func(*veloq.Context) { _, _ = explode(boom) }))
	checkPanic(t, await(t, "OnPanic of Go", reported), boom)
	func() {
		veloq.Spawn(rt, func(*veloq.Context) (int, error) { return explode("dropped") })
	}()
	reportedDropped(t, reported)
	// A nil panic and a runtime error are panics as well.
	_, err = veloq.Spawn(rt, func(*veloq.Context) (int, error) { panic(nil) }).Wait(soon(t))
	var pe *veloq.PanicError
	require.ErrorAs(t, err, &pe)
	_, err = veloq.Spawn(rt, func(*veloq.Context) (int, error) { var p *int; return *p, nil }).Wait(soon(t))
	var re runtime.Error
	require.ErrorAs(t, err, &re)
	settled(t, rt, held{})
	require.Empty(t, reported)
}

// reportedDropped waits until the collector has found the dropped handle of explode("dropped").
func reportedDropped(t *testing.T, reported <-chan *veloq.PanicError) {
	t.Helper()
	var pe *veloq.PanicError
	eventually(t, "OnPanic of a dropped handle", func() (bool, any) {
		runtime.GC()
		select {
		case pe = <-reported:
			return true, nil
		default:
			return false, nil
		}
	})
	require.Equal(t, "dropped", pe.Value)
}

//go:noinline
func explode(value any) (int, error) { panic(value) }

func checkPanic(t *testing.T, err, value error) {
	t.Helper()
	var pe *veloq.PanicError
	if !assert.ErrorAs(t, err, &pe) {
		return
	}
	assert.ErrorIs(t, err, value)
	assert.Contains(t, string(pe.Stack), "tests.explode")
	assert.Contains(t, err.Error(), "boom")
}

// Goal: Goexit ends its task and nothing else, however often.
func TestTask_Goexit(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	n := sized(200_000, 5_000, 500)
	var deferred atomic.Int64
	for range n {
		h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) {
			defer deferred.Add(1)
			_ = c.Yield()
			runtime.Goexit()
			return 1, nil
		})
		_, err := h.Wait(soon(t))
		require.ErrorIs(t, err, veloq.ErrGoexit)
	}
	require.Equal(t, int64(n), deferred.Load())
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error { return c.Yield() }))
	settled(t, rt, held{})
}

// Goal: without OnPanic the program ends as by a goroutine's panic, with the stack of the one to blame.
func TestTask_PanicCrashesByDefault(t *testing.T) {
	for part, function := range map[string]string{
		"panic-task": "tests.taskThatPanics", "panic-handler": "tests.panickingHandler",
	} {
		t.Run(part, func(t *testing.T) {
			c := startChild(t, part)
			for range c.lines { //nolint:revive // to its end
			}
			err := c.cmd.Wait()
			require.Error(t, err)
			text := c.stderr.String()
			require.Contains(t, text, "on purpose")
			require.Contains(t, text, function)
			require.Contains(t, text, "panic")
			require.False(t, strings.Contains(text, "no child part"))
		})
	}
}
