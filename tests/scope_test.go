package tests

// Scopes: children that never outlive them, however they and their body end.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

var errChild = errors.New("child failed")

// Goal: Scope returns when its children have ended, with what they made.
func TestScope_WaitsForAll(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		var ended atomic.Int64
		var handles []*veloq.JoinHandle[int]
		var local []*veloq.LocalHandle[int]
		err := veloq.Scope(c, func(s *veloq.TaskScope) error {
			for i := range 100 {
				handles = append(handles, veloq.SpawnTo(s, i%2, func(c *veloq.Context) (int, error) {
					defer ended.Add(1)
					return i, c.Sleep(time.Duration(i%7) * time.Millisecond)
				}))
				local = append(local, veloq.SpawnLocal(s, func(c *veloq.Context) (int, error) {
					defer ended.Add(1)
					return i, c.Yield()
				}))
				if err := s.Go(func(c *veloq.Context) error { defer ended.Add(1); return c.Yield() }); err != nil {
					return err
				}
				if err := veloq.Go(s, func(c *veloq.Context) { defer ended.Add(1); _ = c.Yield() }); err != nil {
					return err
				}
			}
			handles = append(handles, veloq.SpawnBlocking(s, func(context.Context) (int, error) {
				time.Sleep(5 * time.Millisecond) // it is for what blocks
				ended.Add(1)
				return 100, nil
			}))
			return nil
		})
		if err != nil || ended.Load() != 401 {
			return fmt.Errorf("%d children ended, %w", ended.Load(), err)
		}
		for i, h := range handles {
			if v, err, ok := h.TryResult(); v != i || err != nil || !ok {
				return fmt.Errorf("child %d: %d, %w, %v", i, v, err, ok)
			}
		}
		for i, h := range local {
			if v, err, ok := h.TryResult(); v != i || err != nil || !ok {
				return fmt.Errorf("local child %d: %d, %w, %v", i, v, err, ok)
			}
		}
		return nil
	}))
	settled(t, rt, held{})
}

// Goal: the first error ends body and siblings, on both workers and in the pool, wherever they
// wait.
func TestScope_FirstErrorCancelsTheRest(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	var cancelled atomic.Int64
	waits := func(c *veloq.Context, i int) error {
		var err error
		switch i % 4 {
		case 0:
			err = c.Sleep(patience)
		case 1:
			_, err = veloq.NewChan[int](1).Recv(c)
		case 2: // a read, which the kernel has
			var s *veloq.Stream
			if s, err = c.Dial("tcp", l.Addr().String()); err == nil {
				_, err = s.Read(make([]byte, 1))
				_ = s.Close()
			}
		case 3:
			err = veloq.Scope(c, func(s *veloq.TaskScope) error {
				return errors.Join(s.Go(func(c *veloq.Context) error { return c.Sleep(patience) }), s.Wait())
			})
		}
		if errors.Is(err, context.Canceled) {
			cancelled.Add(1)
		}
		return err
	}
	for failing := range 3 {
		cancelled.Store(0)
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			err := veloq.Scope(c, func(s *veloq.TaskScope) error {
				for i := range 16 {
					veloq.SpawnTo(s, i/4%2, func(c *veloq.Context) (int, error) { return 0, waits(c, i) })
				}
				veloq.SpawnBlocking(s, func(ctx context.Context) (int, error) {
					<-ctx.Done()
					cancelled.Add(1)
					return 0, ctx.Err()
				})
				fails := func(c *veloq.Context) (int, error) {
					return 0, errors.Join(c.Sleep(3*time.Millisecond), errChild)
				}
				switch failing {
				case 0:
					_, err := fails(s.Context())
					return err
				case 1:
					veloq.SpawnTo(s, 1, fails)
				case 2:
					veloq.Spawn(s, fails)
				}
				err := c.Sleep(patience) // the outer Context, and ended all the same
				if errors.Is(err, context.Canceled) && errors.Is(s.Context().Err(), context.Canceled) {
					return err
				}
				return fmt.Errorf("body: %w", err)
			})
			if !errors.Is(err, errChild) {
				return fmt.Errorf("scope: %w", err)
			}
			return c.Err()
		}))
		require.Equal(t, int64(17), cancelled.Load(), "failing %d", failing)
		settled(t, rt, held{})
	}
}

// Goal: panics and Goexit of children are the scope's error; a panic of the body goes on, when the
// children have ended.
func TestScope_PanicAndGoexit(t *testing.T) {
	noLeak(t)
	onPanic, reported := panics()
	rt := newRuntime(t, veloq.Config{Workers: 2, OnPanic: onPanic})
	boom := errors.New("boom")
	for worker := range 2 {
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			err := veloq.Scope(c, func(s *veloq.TaskScope) error {
				veloq.SpawnTo(s, worker, func(*veloq.Context) (int, error) { return explode(boom) })
				return s.Wait()
			})
			checkPanic(t, err, boom)
			err = veloq.Scope(c, func(s *veloq.TaskScope) error {
				veloq.SpawnTo(s, worker, func(*veloq.Context) (int, error) { runtime.Goexit(); return 0, nil })
				return s.Wait()
			})
			assert.ErrorIs(t, err, veloq.ErrGoexit)
			return nil
		}))
	}
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		for _, start := range []func(s *veloq.TaskScope){
			func(s *veloq.TaskScope) { _ = veloq.Go(s, func(*veloq.Context) { _, _ = explode(boom) }) },
			func(s *veloq.TaskScope) {
				_ = s.Go(func(*veloq.Context) error { _, err := explode(boom); return err })
			},
			func(s *veloq.TaskScope) {
				veloq.SpawnLocal(s, func(*veloq.Context) (int, error) { return explode(boom) })
			},
			func(s *veloq.TaskScope) {
				veloq.SpawnBlocking(s, func(context.Context) (int, error) { return explode(boom) })
			},
		} {
			checkPanic(t, veloq.Scope(c, func(s *veloq.TaskScope) error { start(s); return nil }), boom)
		}
		return nil
	}))
	for _, ending := range []string{"panic", "goexit"} {
		var ended atomic.Int64
		h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) {
			return 0, veloq.Scope(c, func(s *veloq.TaskScope) error {
				for i := range 10 {
					veloq.SpawnTo(s, i%2, func(c *veloq.Context) (int, error) {
						defer ended.Add(1)
						return 0, c.Sleep(patience)
					})
				}
				if ending == "goexit" {
					runtime.Goexit()
				}
				_, err := explode(boom)
				return err
			})
		})
		_, err := h.Wait(soon(t))
		require.Equal(t, int64(10), ended.Load(), ending)
		if ending == "goexit" {
			require.ErrorIs(t, err, veloq.ErrGoexit)
		} else {
			checkPanic(t, err, boom)
		}
	}
	settled(t, rt, held{})
	require.Empty(t, reported)
}

// Goal: the end of the task ends its scopes; those of a handle end no scope.
func TestScope_Cancellation(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	started := make(chan struct{}, 8)
	var ended atomic.Int64
	waitAll := func(c *veloq.Context) error {
		return veloq.Scope(c, func(s *veloq.TaskScope) error {
			for i := range 4 {
				veloq.SpawnTo(s, i%2, func(c *veloq.Context) (int, error) {
					defer ended.Add(1)
					started <- struct{}{}
					return 0, c.Sleep(patience)
				})
			}
			return s.Wait()
		})
	}
	h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { return 0, waitAll(c) })
	for range 4 {
		await(t, "child", started)
	}
	h.Cancel()
	require.ErrorIs(t, join(t, h), context.Canceled)
	require.Equal(t, int64(4), ended.Load())

	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		err := veloq.Timeout(c, 5*time.Millisecond, waitAll)
		var te *veloq.TimeoutError
		if !errors.As(err, &te) || ended.Load() != 8 {
			return fmt.Errorf("%d ended, %w", ended.Load(), err)
		}
		for worker := range 2 {
			err = veloq.Scope(c, func(s *veloq.TaskScope) error {
				dropped := veloq.SpawnTo(s, worker, func(c *veloq.Context) (int, error) { return 0, c.Sleep(patience) })
				stays := veloq.SpawnTo(s, worker, func(c *veloq.Context) (int, error) { return 7, c.Sleep(10 * time.Millisecond) })
				dropped.Cancel()
				_, err := dropped.Join(c)
				assert.ErrorIs(t, err, context.Canceled)
				v, err := stays.Join(c)
				assert.Equal(t, 7, v)
				return err
			})
			if err != nil {
				return fmt.Errorf("dropped child: %w", err)
			}
		}
		err = veloq.Scope(c, func(s *veloq.TaskScope) error {
			veloq.SpawnTo(s, 1, func(c *veloq.Context) (int, error) { return 0, c.Sleep(patience) })
			if err := s.Cancel(); err != nil {
				return err
			}
			if err := s.Go(func(*veloq.Context) error { return errChild }); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("spawn into a cancelled scope: %w", err)
			}
			return s.Wait()
		})
		if err != nil {
			return fmt.Errorf("Cancel: %w", err)
		}
		return c.Err()
	}))

	h = veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { return 0, waitAll(c) })
	for range 8 {
		await(t, "child", started)
	}
	bounded(t, "Close", func() { _ = rt.Close() })
	require.ErrorIs(t, join(t, h), veloq.ErrClosed)
	require.Equal(t, int64(12), ended.Load())
}

// Goal: what can't be: scopes that have ended, callers elsewhere, workers that are not there.
func TestScope_Misuse(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	nothing := func(*veloq.Context) (int, error) { return 0, nil }
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		var old *veloq.TaskScope
		err := veloq.Scope(c, func(s *veloq.TaskScope) error {
			old = s
			_, err := veloq.SpawnTo(s, 2, nothing).Join(c)
			assert.ErrorIs(t, err, veloq.ErrNoWorker)
			_, err = veloq.SpawnTo(s, -1, nothing).Join(c)
			assert.ErrorIs(t, err, veloq.ErrNoWorker)
			_, err = veloq.SpawnTo(s, 1, func(c *veloq.Context) (int, error) {
				assert.ErrorIs(t, s.Go(func(*veloq.Context) error { return nil }), veloq.ErrWrongWorker)
				assert.ErrorIs(t, s.Cancel(), veloq.ErrWrongWorker)
				assert.ErrorIs(t, s.Wait(), veloq.ErrWrongWorker)
				_, err := veloq.SpawnLocal(s, nothing).Join(c)
				assert.ErrorIs(t, err, veloq.ErrWrongWorker)
				_, err = veloq.SpawnBlocking(s, func(context.Context) (int, error) { return 0, nil }).Join(c)
				assert.ErrorIs(t, err, veloq.ErrWrongWorker)
				return 0, nil
			}).Join(c)
			return err
		})
		if err != nil {
			return err
		}
		assert.ErrorIs(t, old.Go(func(*veloq.Context) error { return nil }), veloq.ErrScopeEnded)
		_, err = veloq.Spawn(old, nothing).Join(c)
		assert.ErrorIs(t, err, veloq.ErrScopeEnded)
		_, err = veloq.SpawnBlocking(old, func(context.Context) (int, error) { return 0, nil }).Join(c)
		assert.ErrorIs(t, err, veloq.ErrScopeEnded)
		assert.ErrorIs(t, old.Context().Err(), context.Canceled)
		assert.ErrorIs(t, old.Context().Sleep(0), context.Canceled)
		return c.Err()
	}))
	h := &scopingHandler{got: make(chan error, 1)}
	srv := startHandler(t, rt, veloq.ListenConfig{}, h)
	_ = dial(t, srv.Addr())
	require.ErrorIs(t, await(t, "handler", h.got), veloq.ErrNotTask)
	bounded(t, "Close", func() { _ = rt.Close() })
	_, err := veloq.Spawn(rt, nothing).Wait(soon(t))
	require.ErrorIs(t, err, veloq.ErrClosed)
	_, err = veloq.SpawnBlocking(rt, func(context.Context) (int, error) { return 0, nil }).Wait(soon(t))
	require.ErrorIs(t, err, veloq.ErrClosed)
}

type scopingHandler struct {
	echoHandler
	got chan error
}

func (h *scopingHandler) OnOpen(c *veloq.Context, _ *veloq.Stream) {
	h.got <- veloq.Scope(c, func(*veloq.TaskScope) error { return nil })
}

// Goal: what a scope owns is closed after its tasks, the latest first.
func TestScope_OwnsStreams(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	before := holds(rt)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		var order []int
		var first *veloq.Stream
		var old *veloq.TaskScope
		err := veloq.Scope(c, func(s *veloq.TaskScope) error {
			old = s
			for i := range 3 {
				conn, err := c.Dial("tcp", srv.Addr().String())
				if err != nil {
					return err
				}
				if i == 0 {
					first = conn
				}
				_ = s.Own(conn)
				_ = s.Own(closerFunc(func() error { order = append(order, i); return nil }))
			}
			return s.Go(func(c *veloq.Context) error {
				if err := c.Sleep(time.Millisecond); err != nil || len(order) > 0 {
					return fmt.Errorf("closed before its task ended: %v, %w", order, err)
				}
				return roundTrip(first, []byte("open while tasks run"))
			})
		})
		if err != nil {
			return err
		}
		_, err = first.Read(make([]byte, 1))
		assert.ErrorIs(t, err, net.ErrClosed)
		assert.Equal(t, []int{2, 1, 0}, order)
		assert.ErrorIs(t, old.Own(closerFunc(func() error { order = nil; return nil })), veloq.ErrScopeEnded)
		assert.Empty(t, order, "closed at once")
		return nil
	}))
	settled(t, rt, before)
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// Goal: scopes in scopes, many times over, with failures at every depth, leave nothing.
func TestScope_NestedStress(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	var live atomic.Int64
	var tree func(c *veloq.Context, depth, seed int) error
	tree = func(c *veloq.Context, depth, seed int) error {
		live.Add(1)
		defer live.Add(-1)
		if depth == 0 {
			if seed%11 == 0 {
				return errChild
			}
			return c.Sleep(time.Duration(seed%3) * time.Millisecond)
		}
		return veloq.Scope(c, func(s *veloq.TaskScope) error {
			for i := range 4 {
				veloq.SpawnTo(s, (seed+i)%2, func(c *veloq.Context) (int, error) {
					return 0, tree(c, depth-1, seed*5+i)
				})
			}
			return s.Wait()
		})
	}
	for seed := range sized(500, 60, 10) {
		err := onWorker(t, rt, seed%2, func(c *veloq.Context) error {
			return veloq.Timeout(c, patience, func(c *veloq.Context) error { return tree(c, 3, seed+1) })
		})
		require.Zero(t, live.Load(), "children outlive their scope")
		if err != nil {
			require.ErrorIs(t, err, errChild)
		}
	}
	settled(t, rt, held{})
}

// Goal: WithContext's tasks end with the context and have its deadline and values, as Serve's have.
func TestWithContext(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	type key struct{}
	for name, spawnIn := range map[string]func(ctx context.Context, c *veloq.Context) *veloq.JoinHandle[int]{
		"same worker": func(ctx context.Context, c *veloq.Context) *veloq.JoinHandle[int] {
			return veloq.Spawn(veloq.WithContext(ctx, c), sleepFor(t, key{}))
		},
		"other worker": func(ctx context.Context, c *veloq.Context) *veloq.JoinHandle[int] {
			return veloq.SpawnTo(veloq.WithContext(ctx, c), 1, sleepFor(t, key{}))
		},
		"runtime": func(ctx context.Context, c *veloq.Context) *veloq.JoinHandle[int] {
			return veloq.Spawn(veloq.WithContext(ctx, c.Runtime()), sleepFor(t, key{}))
		},
		"pool": func(ctx context.Context, c *veloq.Context) *veloq.JoinHandle[int] {
			return veloq.SpawnBlocking(veloq.WithContext(ctx, c), func(ctx context.Context) (int, error) {
				assert.Equal(t, "v", ctx.Value(key{}))
				<-ctx.Done()
				return 0, ctx.Err()
			})
		},
	} {
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
			base := context.WithValue(context.Background(), key{}, "v")
			ctx, cancel := context.WithTimeout(base, 5*time.Millisecond)
			defer cancel()
			_, err := spawnIn(ctx, c).Join(c)
			assert.ErrorIs(t, err, context.DeadlineExceeded, name)
			ctx, cancel2 := context.WithCancel(base)
			h := spawnIn(ctx, c)
			_ = c.Sleep(time.Millisecond)
			cancel2()
			_, err = h.Join(c)
			assert.ErrorIs(t, err, context.Canceled, name)
			_, err = spawnIn(ctx, c).Join(c) // over already
			assert.ErrorIs(t, err, context.Canceled, name)
			return nil
		}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	addr, seen, ended := closedPort(t), make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- rt.Serve(ctx, "tcp", addr, func(c *veloq.Context, s *veloq.Stream) error {
			_, hasDeadline := c.Deadline()
			assert.True(t, hasDeadline)
			_, err := s.Read(make([]byte, 1))
			seen <- err
			return err
		})
	}()
	eventually(t, "served or over", func() (bool, any) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return err == nil || ctx.Err() != nil, err
	})
	require.NoError(t, await(t, "Serve", ended))
	select {
	case err := <-seen:
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	default: // its deadline passed before a connection came
	}
	srv, err := (&veloq.ListenConfig{}).Start(ctx, rt, "tcp", "127.0.0.1:0", echoTask)
	require.NoError(t, err, "a literal address needs no look-up")
	require.NoError(t, roundTrip(dial(t, srv.Addr()), []byte("Start outlives its ctx")))
	bounded(t, "Server.Close", srv.Close)
	settled(t, rt, held{})
}

func sleepFor(t *testing.T, key any) func(c *veloq.Context) (int, error) {
	return func(c *veloq.Context) (int, error) {
		assert.Equal(t, "v", c.Value(key))
		return 0, c.Sleep(patience)
	}
}
