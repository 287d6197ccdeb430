package tests

// Mutex, Notify, Oneshot and Chan: between tasks of one worker, of two, and goroutines.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// A crew runs one function as many callers of each kind: tasks of both workers, and goroutines.
type crew struct {
	t       *testing.T
	rt      *veloq.Runtime
	handles []*veloq.JoinHandle[int]
	wg      sync.WaitGroup
	mu      sync.Mutex
	failed  error
}

func newCrew(t *testing.T) *crew { return &crew{t: t, rt: twoWorkers(t)} }

// start runs fn as each kind, n times. i counts all of them.
func (cr *crew) start(n int, fn func(ctx context.Context, i int) error) {
	for k := range 3 * n {
		run := func(ctx context.Context) error { return fn(ctx, k) }
		if k%3 < 2 {
			cr.handles = append(cr.handles, veloq.SpawnTo(cr.rt, k%3, func(c *veloq.Context) (int, error) {
				return 0, run(c)
			}))
			continue
		}
		cr.wg.Go(func() {
			if err := run(soon(cr.t)); err != nil {
				cr.mu.Lock()
				cr.failed = errors.Join(cr.failed, fmt.Errorf("goroutine: %w", err))
				cr.mu.Unlock()
			}
		})
	}
}

// join waits for all, and that the runtime holds nothing any more.
func (cr *crew) join() {
	cr.t.Helper()
	for _, h := range cr.handles {
		require.NoError(cr.t, join(cr.t, h))
	}
	bounded(cr.t, "goroutines", cr.wg.Wait)
	require.NoError(cr.t, cr.failed)
	settled(cr.t, cr.rt, held{})
}

// pause gives up the caller's turn, whatever it is.
func pause(ctx context.Context) error {
	if c, ok := ctx.(*veloq.Context); ok {
		return c.Yield()
	}
	runtime.Gosched()
	return ctx.Err()
}

// Goal: one holder at a time, also over parks, and nobody is forgotten.
func TestMutex_Excludes(t *testing.T) {
	noLeak(t)
	cr := newCrew(t)
	var m veloq.Mutex
	n, rounds := 8, sized(20_000, 2_000, 200)
	counter, inside := 0, 0
	cr.start(n, func(ctx context.Context, i int) error {
		for r := range rounds {
			if (i+r)%7 == 0 && m.TryLock() {
				counter++
				m.Unlock()
				continue
			}
			if err := m.Lock(ctx); err != nil {
				return err
			}
			if inside++; inside != 1 {
				return fmt.Errorf("%d holders", inside)
			}
			if (i+r)%3 == 0 {
				if err := pause(ctx); err != nil {
					return err
				}
			}
			inside--
			counter++
			m.Unlock()
		}
		return nil
	})
	cr.join()
	require.Equal(t, 3*n*rounds, counter)
	require.True(t, m.TryLock(), "free at the end")
	m.Unlock()
	require.Panics(t, m.Unlock)
}

// Goal: a wait for a lock can be cancelled; the lock goes to those who still want it, in their
// order.
func TestMutex_CancelledWaiter(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	var m veloq.Mutex
	require.NoError(t, m.Lock(context.Background()))
	var mu sync.Mutex
	var order []int
	var waiting atomic.Int64
	handles := make([]*veloq.JoinHandle[int], 8)
	for i := range handles {
		handles[i] = veloq.SpawnTo(rt, i%2, func(c *veloq.Context) (int, error) {
			waiting.Add(1)
			if err := m.Lock(c); err != nil {
				return 0, err
			}
			defer m.Unlock()
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			return i, nil
		})
		// One after another: their order in the queue is that of i.
		eventually(t, "waits", func() (bool, any) { return waiting.Load() == int64(i+1), waiting.Load() })
		require.NoError(t, onWorker(t, rt, i%2, func(c *veloq.Context) error { return c.Yield() }))
	}
	for _, i := range []int{0, 3, 7} {
		handles[i].Cancel()
		require.ErrorIs(t, join(t, handles[i]), context.Canceled)
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() { gone <- m.Lock(ctx) }()
	cancel()
	require.ErrorIs(t, await(t, "goroutine that gave up", gone), context.Canceled)
	require.Empty(t, order)
	m.Unlock()
	for _, i := range []int{1, 2, 4, 5, 6} {
		require.NoError(t, join(t, handles[i]))
	}
	require.Equal(t, []int{1, 2, 4, 5, 6}, order)
	settled(t, rt, held{})
}

// Goal: callers that would block a worker are refused, and a derived context ends a task's wait.
func TestSync_WhoMayWait(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	var m veloq.Mutex
	require.NoError(t, m.Lock(context.Background()))
	other := make(chan *veloq.Context, 1)
	parked := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { other <- c; return 0, c.Sleep(patience) })
	foreign := await(t, "a task's context", other)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		assert.ErrorIs(t, m.Lock(context.Background()), veloq.ErrNotTask, "not its Context")
		assert.ErrorIs(t, m.Lock(foreign), veloq.ErrNotTask, "another task's Context")
		ctx, cancel := context.WithTimeout(c, 3*time.Millisecond)
		defer cancel()
		assert.ErrorIs(t, m.Lock(ctx), context.DeadlineExceeded, "derived")
		assert.NoError(t, c.Err())
		_, err := veloq.Select(ctx, &m)
		assert.ErrorIs(t, err, context.DeadlineExceeded, "at once")
		_, err = parked.Wait(context.Background())
		assert.ErrorIs(t, err, veloq.ErrNotTask)
		return nil
	}))
	// A goroutine may use the Context of a task: its end is what ends the wait.
	waits := make(chan error, 1)
	go func() { waits <- m.Lock(foreign) }()
	parked.Cancel()
	require.ErrorIs(t, await(t, "a goroutine with a task's Context", waits), context.Canceled)
	require.ErrorIs(t, join(t, parked), context.Canceled)

	h := &lockingHandler{m: &m, got: make(chan error, 1)}
	srv := startHandler(t, rt, veloq.ListenConfig{}, h)
	_ = dial(t, srv.Addr())
	require.ErrorIs(t, await(t, "handler", h.got), veloq.ErrNotTask)
	m.Unlock()
}

type lockingHandler struct {
	echoHandler
	m   *veloq.Mutex
	got chan error
}

func (h *lockingHandler) OnOpen(c *veloq.Context, _ *veloq.Stream) { h.got <- h.m.Lock(c) }

// Goal: a task that is unwound while it waits, or holds what it was just handed, keeps nothing.
func TestSync_RuntimeClosesWhileTasksWait(t *testing.T) {
	noLeak(t)
	var m veloq.Mutex
	var n veloq.Notify
	ch := veloq.NewChan[int](1)
	rt := twoWorkers(t)
	require.NoError(t, m.Lock(context.Background()))
	var waiting atomic.Int64
	var handles []*veloq.JoinHandle[int]
	for i := range 30 {
		handles = append(handles, veloq.SpawnTo(rt, i%2, func(c *veloq.Context) (int, error) {
			waiting.Add(1)
			var err error
			for i%5 == 4 { // takes no notice of its end
				_, err = ch.Recv(c)
			}
			switch i % 4 {
			case 0:
				err = m.Lock(c)
			case 1:
				err = n.Wait(c)
			case 2:
				_, err = ch.Recv(c)
			case 3:
				_, err = veloq.Select(c, &m, &n, ch.RecvCase(new(int)))
			}
			return 0, err
		}))
	}
	eventually(t, "all wait", func() (bool, any) { return waiting.Load() == 30, waiting.Load() })
	bounded(t, "Close", func() { _ = rt.Close() })
	for _, h := range handles {
		require.ErrorIs(t, join(t, h), veloq.ErrClosed)
	}
	m.Unlock() // nobody is left to hand it to
	require.True(t, m.TryLock())
	n.Notify()
	require.NoError(t, n.Wait(soon(t)), "the note stays for those who live")
	require.NoError(t, ch.TrySend(1))
	require.ErrorIs(t, ch.TrySend(2), veloq.ErrFull)
}

// Goal: each note wakes one, and none is lost: as many waits end as notes were given while somebody
// waited.
func TestNotify_NoLostWakeups(t *testing.T) {
	noLeak(t)
	cr := newCrew(t)
	rounds := sized(100_000, 10_000, 1_000)
	// Ping and pong: a lost note is a hang.
	for pair := range 3 {
		var ping, pong veloq.Notify
		player := func(ctx context.Context, mine, theirs *veloq.Notify) error {
			for range rounds {
				if err := mine.Wait(ctx); err != nil {
					return err
				}
				theirs.Notify()
			}
			return nil
		}
		cr.handles = append(cr.handles, veloq.SpawnTo(cr.rt, 0, func(c *veloq.Context) (int, error) {
			return 0, player(c, &ping, &pong)
		}))
		switch pair {
		case 2:
			cr.wg.Go(func() { assert.NoError(t, player(soon(t), &pong, &ping)) })
		default:
			cr.handles = append(cr.handles, veloq.SpawnTo(cr.rt, pair, func(c *veloq.Context) (int, error) {
				return 0, player(c, &pong, &ping)
			}))
		}
		ping.Notify()
	}
	cr.join()
}

func TestNotify_AllAndOne(t *testing.T) {
	noLeak(t)
	cr := newCrew(t)
	var n veloq.Notify
	n.NotifyAll()
	_, err := veloq.TrySelect(&n)
	require.NoError(t, err)
	n.Notify()
	n.Notify()
	i, err := veloq.TrySelect(&n)
	require.NoError(t, err)
	require.Equal(t, 0, i)
	i, _ = veloq.TrySelect(&n)
	require.Equal(t, -1, i, "one note at most is kept")
	var waiting, woken atomic.Int64
	cr.start(5, func(ctx context.Context, _ int) error {
		waiting.Add(1)
		defer woken.Add(1)
		return n.Wait(ctx)
	})
	eventually(t, "all woken", func() (bool, any) {
		if waiting.Load() == 15 {
			n.NotifyAll()
		}
		return woken.Load() == 15, woken.Load()
	})
	cr.join()
}

func TestOneshot(t *testing.T) {
	noLeak(t)
	cr := newCrew(t)
	var sent, closed, cancelled veloq.Oneshot[string]
	_, _, ok := sent.TryRecv()
	require.False(t, ok)
	var waiting atomic.Int64
	cr.start(5, func(ctx context.Context, _ int) error {
		waiting.Add(1)
		v, err := sent.Recv(ctx)
		if err != nil || v != "value" {
			return fmt.Errorf("%q, %w", v, err)
		}
		if v, err = closed.Recv(ctx); !errors.Is(err, veloq.ErrOneshotClosed) || v != "" {
			return fmt.Errorf("closed: %q, %w", v, err)
		}
		return nil
	})
	eventually(t, "all wait", func() (bool, any) { return waiting.Load() == 15, waiting.Load() })
	require.NoError(t, sent.Send("value"))
	require.ErrorIs(t, sent.Send("again"), veloq.ErrOneshotSent)
	sent.Close()
	closed.Close()
	require.ErrorIs(t, closed.Send("late"), veloq.ErrOneshotSent)
	cr.join()
	v, err, ok := sent.TryRecv()
	require.True(t, ok)
	require.NoError(t, err)
	require.Equal(t, "value", v)
	h := veloq.Spawn(cr.rt, func(c *veloq.Context) (string, error) { return cancelled.Recv(c) })
	h.Cancel()
	require.ErrorIs(t, join(t, h), context.Canceled)
}

// Goal: what any senders send any receivers get: once each, all of it, and from each sender in
// order.
func TestChan_EveryValueOnce(t *testing.T) {
	noLeak(t)
	for _, capacity := range []int{1, 2, 64} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			cr := newCrew(t)
			ch := veloq.NewChan[[2]int](capacity)
			senders, rounds := 4, sized(50_000, 3_000, 300)
			var sending atomic.Int64
			sending.Store(int64(3 * senders))
			cr.start(senders, func(ctx context.Context, i int) error {
				defer func() {
					if sending.Add(-1) == 0 {
						ch.Close()
					}
				}()
				for r := range rounds {
					if err := ch.Send(ctx, [2]int{i, r}); err != nil {
						return err
					}
				}
				return nil
			})
			var mu sync.Mutex
			seen := make([][]int, 3*senders)
			cr.start(3, func(ctx context.Context, _ int) error {
				last := make([]int, 3*senders)
				var mine [][2]int
				for {
					v, err := ch.Recv(ctx)
					if errors.Is(err, veloq.ErrChanClosed) {
						break
					}
					if err != nil {
						return err
					}
					if v[1] < last[v[0]] {
						return fmt.Errorf("sender %d: %d after %d", v[0], v[1], last[v[0]])
					}
					last[v[0]] = v[1]
					mine = append(mine, v)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, v := range mine {
					seen[v[0]] = append(seen[v[0]], v[1])
				}
				return nil
			})
			cr.join()
			for i, got := range seen {
				slices.Sort(got)
				require.Len(t, got, rounds, "sender %d", i)
				for r, v := range got {
					require.Equal(t, r, v)
				}
			}
			require.Zero(t, ch.Len())
		})
	}
}

func TestChan_Edges(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	require.Panics(t, func() { veloq.NewChan[int](0) })
	ch := veloq.NewChan[int](2)
	require.Equal(t, 2, ch.Cap())
	_, err := ch.TryRecv()
	require.ErrorIs(t, err, veloq.ErrEmpty)
	require.NoError(t, ch.TrySend(1))
	require.NoError(t, ch.TrySend(2))
	require.ErrorIs(t, ch.TrySend(3), veloq.ErrFull)
	sender := veloq.Spawn(rt, func(c *veloq.Context) (int, error) { return 0, ch.Send(c, 3) })
	cancelled := veloq.Spawn(rt, func(c *veloq.Context) (int, error) { return 0, ch.Send(c, 4) })
	cancelled.Cancel()
	require.ErrorIs(t, join(t, cancelled), context.Canceled)
	for want := 1; want <= 3; want++ {
		v, err := ch.Recv(soon(t))
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	require.NoError(t, join(t, sender))
	require.NoError(t, ch.TrySend(5))
	require.NoError(t, ch.TrySend(6))
	blocked := veloq.Spawn(rt, func(c *veloq.Context) (int, error) { return 0, ch.Send(c, 7) })
	eventually(t, "runs", func() (bool, any) { return holds(rt).tasks == 1, nil })
	ch.Close()
	ch.Close()
	require.ErrorIs(t, join(t, blocked), veloq.ErrChanClosed)
	require.ErrorIs(t, ch.TrySend(8), veloq.ErrChanClosed)
	for want := 5; want <= 6; want++ {
		v, err := ch.TryRecv()
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	_, err = ch.Recv(soon(t))
	require.ErrorIs(t, err, veloq.ErrChanClosed)
	settled(t, rt, held{})
}

// Goal: receivers that are cancelled at any moment take no value with them, and senders that are
// have either sent theirs or not.
func TestChan_CancelledCallersLoseNothing(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	ch := veloq.NewChan[int](1)
	var sent, got atomic.Int64
	rounds := sized(20_000, 2_000, 300)
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for r := range rounds {
				h := veloq.SpawnTo(rt, (k+r)%2, func(c *veloq.Context) (int, error) {
					if k < 2 {
						err := ch.Send(c, 1)
						if err == nil {
							sent.Add(1)
						}
						return 0, err
					}
					v, err := ch.Recv(c)
					got.Add(int64(v))
					return 0, err
				})
				if r%3 == 0 {
					h.Cancel()
				}
				if k < 2 || r%3 == 0 {
					continue
				}
				go h.Cancel()
				_, _ = h.Wait(soon(t))
			}
		})
	}
	bounded(t, "rounds", wg.Wait)
	// What is left: senders that wait and receivers that do are let go by the close.
	ch.Close()
	settled(t, rt, held{})
	for {
		v, err := ch.TryRecv()
		if err != nil {
			break
		}
		got.Add(int64(v))
	}
	require.Equal(t, sent.Load(), got.Load())
}

// Goal: a runtime that ends in the middle of the traffic takes no lock and no note with it: tasks of
// another runtime and goroutines, which share all of it, go on to their end.
func TestSync_OtherRuntimeClosesInTheMiddle(t *testing.T) {
	needDriver(t)
	noLeak(t)
	for round := range sized(50, 12, 3) {
		var m veloq.Mutex
		tokens := veloq.NewChan[int](4)
		for i := range 4 {
			require.NoError(t, tokens.TrySend(i))
		}
		leaving, err := veloq.New(veloq.Config{Workers: 2})
		require.NoError(t, err)
		var turns atomic.Int64
		var doomed []*veloq.JoinHandle[int]
		for i := range 8 {
			doomed = append(doomed, veloq.SpawnTo(leaving, i%2, func(c *veloq.Context) (int, error) {
				for {
					if err := m.Lock(c); err != nil {
						if round%2 == 0 {
							return 0, err
						}
						_ = c.Yield() // takes no notice, and is unwound
						continue
					}
					turns.Add(1)
					func() {
						defer m.Unlock()
						_ = c.Yield()
					}()
				}
			}))
		}
		cr := newCrew(t)
		rounds := sized(2_000, 500, 100)
		counter := 0
		cr.start(3, func(ctx context.Context, _ int) error {
			for range rounds {
				token, err := tokens.Recv(ctx)
				if err != nil {
					return err
				}
				if err := m.Lock(ctx); err != nil {
					return err
				}
				counter++
				err = pause(ctx)
				m.Unlock()
				if err := errors.Join(err, tokens.Send(ctx, token)); err != nil {
					return err
				}
			}
			return nil
		})
		eventually(t, "both have had the lock", func() (bool, any) { return turns.Load() > 20, turns.Load() })
		bounded(t, "Close", func() { _ = leaving.Close() })
		for _, h := range doomed {
			require.ErrorIs(t, join(t, h), veloq.ErrClosed)
		}
		cr.join()
		require.Equal(t, 9*rounds, counter)
		require.Equal(t, 4, tokens.Len())
		require.True(t, m.TryLock())
	}
}
