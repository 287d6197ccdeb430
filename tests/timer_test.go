package tests

// Timeout, After, Ticker and AfterFunc.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: whatever fn waits for, the timeout ends it, the error says so, and the task goes on as
// before.
func TestTimeout_EndsEveryWait(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose connections nobody reads
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	silent := make(chan *veloq.Stream, 1)
	mesh := newMesh[int](t, rt, veloq.MeshConfig{Capacity: 1})
	waits := map[string]func(c *veloq.Context) error{
		"sleep": func(c *veloq.Context) error { return c.Sleep(patience) },
		"read":  func(*veloq.Context) error { s := <-silent; silent <- s; _, err := s.Read(make([]byte, 1)); return err },
		"write": func(c *veloq.Context) error {
			s, err := c.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			for err == nil {
				_, err = s.Write(make([]byte, 4<<20))
			}
			return err
		},
		"accept": func(c *veloq.Context) error {
			l, err := c.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer func() { _ = l.Close() }()
			_, err = l.Accept()
			return err
		},
		"join": func(c *veloq.Context) error {
			h := veloq.SpawnTo(c, 1, func(c *veloq.Context) (int, error) { return 0, c.Sleep(patience) })
			defer h.Cancel()
			_, err := h.Join(c)
			return err
		},
		"local join": func(c *veloq.Context) error {
			h := veloq.SpawnLocal(c, func(c *veloq.Context) (int, error) { return 0, c.Sleep(patience) })
			defer h.Cancel()
			_, err := h.Join(c)
			return err
		},
		"lock": func(c *veloq.Context) error {
			var m veloq.Mutex
			m.TryLock()
			return m.Lock(c)
		},
		"chan":   func(c *veloq.Context) error { _, err := veloq.NewChan[int](1).Recv(c); return err },
		"select": func(c *veloq.Context) error { _, err := veloq.Select(c, c.After(patience)); return err },
		"ticker": func(c *veloq.Context) error { return c.NewTicker(patience, veloq.TicksBurst).Wait(c) },
		"yield": func(c *veloq.Context) error {
			for {
				if err := c.Yield(); err != nil {
					return err
				}
			}
		},
		"mesh recv": func(c *veloq.Context) error { _, _, err := mesh.Recv(c); return err },
		"mesh send": func(c *veloq.Context) error {
			for {
				if err := mesh.Send(c, 1, 1); err != nil {
					return err
				}
			}
		},
	}
	type on struct {
		wait  string
		outer bool // the task's Context, and not that of the part
	}
	var cases []on
	for name := range waits {
		cases = append(cases, on{name, false}, on{name, true})
	}
	for _, on := range cases {
		t.Run(fmt.Sprintf("%s outer=%v", on.wait, on.outer), func(t *testing.T) {
			require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
				if on.wait == "read" {
					s, err := c.Dial("tcp", l.Addr().String())
					if err != nil {
						return err
					}
					silent <- s
					defer func() { _ = s.Close(); <-silent }()
				}
				task, began := c, time.Now()
				var inner *veloq.Context
				err := veloq.Timeout(c, 4*time.Millisecond, func(c *veloq.Context) error {
					inner = c
					at, ok := c.Deadline()
					assert.True(t, ok)
					assert.False(t, at.Before(began.Add(4*time.Millisecond)))
					waitsOn := c
					if on.outer {
						waitsOn = task
					}
					err := waits[on.wait](waitsOn)
					var te *veloq.TimeoutError
					assert.ErrorAs(t, c.Err(), &te)
					assert.ErrorIs(t, c.Sleep(time.Hour), os.ErrDeadlineExceeded, "every wait from then on")
					return err
				})
				var te *veloq.TimeoutError
				if !errors.As(err, &te) || te.After != 4*time.Millisecond {
					return fmt.Errorf("%T: %w", err, err)
				}
				var ne net.Error
				assert.ErrorAs(t, err, &ne)
				assert.True(t, ne.Timeout())
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.GreaterOrEqual(t, time.Since(began), 4*time.Millisecond)
				await(t, "Done of the inner context", inner.Done())
				assert.Error(t, inner.Sleep(0), "the inner Context has ended")
				return errors.Join(c.Err(), c.Sleep(time.Millisecond))
			}))
		})
	}
	settled(t, rt, held{})
}

// Goal: nested timeouts: the earlier one ends the inner part, and only what it bounds.
func TestTimeout_Nested(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		err := veloq.Timeout(c, patience, func(c *veloq.Context) error {
			err := veloq.Timeout(c, time.Millisecond, func(c *veloq.Context) error { return c.Sleep(patience) })
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			return c.Sleep(time.Millisecond) // the outer one goes on
		})
		assert.NoError(t, err)
		err = veloq.Timeout(c, 2*time.Millisecond, func(c *veloq.Context) error {
			outer, _ := c.Deadline()
			return veloq.Timeout(c, patience, func(c *veloq.Context) error {
				at, _ := c.Deadline()
				assert.Equal(t, outer, at, "the nearer deadline")
				return c.Sleep(patience)
			})
		})
		var te *veloq.TimeoutError
		assert.ErrorAs(t, err, &te)
		assert.Equal(t, 2*time.Millisecond, te.After, "the outer's error")
		err = veloq.Timeout(c, patience, func(c *veloq.Context) error {
			return veloq.Scope(c, func(s *veloq.TaskScope) error {
				want, _ := c.Deadline()
				return s.Go(func(c *veloq.Context) error {
					at, ok := c.Deadline()
					assert.True(t, ok && at.Equal(want), "a child's is its scope's")
					return nil
				})
			})
		})
		assert.NoError(t, err)
		ran := false
		for _, d := range []time.Duration{0, -1, math.MinInt64} {
			err = veloq.Timeout(c, d, func(c *veloq.Context) error { ran = true; return c.Yield() })
			assert.ErrorAs(t, err, &te)
		}
		assert.True(t, ran)
		assert.NoError(t, veloq.Timeout(c, math.MaxInt64, func(c *veloq.Context) error { return c.Yield() }))
		assert.ErrorIs(t, veloq.Timeout(c, patience, func(*veloq.Context) error { return errChild }), errChild)
		assert.NoError(t, veloq.Timeout(c, time.Nanosecond, func(*veloq.Context) error {
			time.Sleep(3 * time.Millisecond) // blocks the worker, on purpose: late, and through
			return nil
		}))
		func() {
			defer func() { assert.Equal(t, "out of it", recover()) }()
			_ = veloq.Timeout(c, patience, func(*veloq.Context) error { panic("out of it") })
		}()
		return c.Sleep(time.Millisecond)
	}))
	// The task's own end passes through.
	inside := make(chan struct{})
	h := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		err := veloq.Timeout(c, patience, func(c *veloq.Context) error { close(inside); return c.Sleep(patience) })
		assert.ErrorIs(t, c.Err(), context.Canceled)
		return 0, err
	})
	await(t, "inside", inside)
	h.Cancel()
	require.ErrorIs(t, join(t, h), context.Canceled)
	settled(t, rt, held{})
}

// Goal: a receive with a timeout, the usual way, as often as one likes: no timer stays.
func TestAfter_InSelect(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		ch := veloq.NewChan[int](1)
		late := c.After(2 * time.Millisecond)
		began := time.Now()
		for range 3 { // it stays ready
			if i, err := veloq.SelectBiased(c, ch.RecvCase(new(int)), late); i != 1 || err != nil {
				return fmt.Errorf("%d, %w", i, err)
			}
		}
		if took := time.Since(began); took < 2*time.Millisecond {
			return fmt.Errorf("early: %v", took)
		}
		far := c.After(patience)
		for i := range 1000 {
			_ = ch.TrySend(i)
			v := -1
			if k, err := veloq.Select(c, ch.RecvCase(&v), far, c.After(math.MaxInt64)); k != 0 || v != i || err != nil {
				return fmt.Errorf("%d: %d, %w", k, v, err)
			}
		}
		// One task at a time, of this worker.
		waiting := veloq.Spawn(c, func(c *veloq.Context) (int, error) { return veloq.Select(c, far) })
		_ = c.Yield()
		_, err := veloq.Select(c, far)
		assert.ErrorIs(t, err, veloq.ErrBusy)
		waiting.Cancel()
		_, err = waiting.Join(c)
		assert.ErrorIs(t, err, context.Canceled)
		i, err := veloq.SpawnTo(c, 1, func(c *veloq.Context) (int, error) { return veloq.Select(c, ch.RecvCase(new(int)), far) }).Join(c)
		assert.ErrorIs(t, err, veloq.ErrWrongWorker)
		assert.Equal(t, -1, i)
		_, err = veloq.TrySelect(far)
		return err
	}))
	settled(t, rt, held{})
}

// Goal: ticks come at their times; of those that were missed as the policy says.
func TestTicker_Policies(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	const period = 20 * time.Millisecond
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for _, policy := range []veloq.MissedTicks{veloq.TicksBurst, veloq.TicksDelay, veloq.TicksSkip} {
			began := time.Now()
			tk := c.NewTicker(period, policy)
			for n := 1; n <= 3; n++ {
				if err := tk.Wait(c); err != nil {
					return err
				}
				if took := time.Since(began); took < time.Duration(n)*period {
					return fmt.Errorf("tick %d after %v", n, took)
				}
			}
			if err := c.Sleep(5 * period); err != nil { // misses about five
				return err
			}
			ready := 0
			taking := time.Now()
			for {
				i, err := veloq.TrySelect(tk)
				if err != nil {
					return err
				}
				if i < 0 {
					break
				}
				ready++
			}
			// One that was missed, one that may be due just now, and those of the time this took.
			most := 2 + int(time.Since(taking)/period)
			if policy == veloq.TicksBurst && ready < 4 || policy != veloq.TicksBurst && (ready < 1 || ready > most) {
				return fmt.Errorf("policy %d: %d at once", policy, ready)
			}
			if err := tk.Reset(); err != nil {
				return err
			}
			began = time.Now()
			if err := tk.Wait(c); err != nil || time.Since(began) < period-time.Millisecond {
				return fmt.Errorf("after Reset: %v, %w", time.Since(began), err)
			}
		}
		assert.Panics(t, func() { c.NewTicker(0, veloq.TicksBurst) })
		return nil
	}))
	settled(t, rt, held{})
}

// Goal: calls at their times on the worker, stopped and set again; panics go to OnPanic.
func TestAfterFunc(t *testing.T) {
	noLeak(t)
	onPanic, reported := panics()
	rt := newRuntime(t, veloq.Config{Workers: 2, OnPanic: onPanic})
	var calls atomic.Int64
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		var n veloq.Notify
		began := time.Now()
		tm, err := c.AfterFunc(2*time.Millisecond, func(c *veloq.Context) {
			calls.Add(1)
			assert.Equal(t, 0, c.Worker())
			assert.GreaterOrEqual(t, time.Since(began), 2*time.Millisecond)
			assert.ErrorIs(t, c.Sleep(1), veloq.ErrNotTask)
			assert.NoError(t, veloq.Go(c, func(*veloq.Context) { n.Notify() }))
		})
		if err != nil {
			return err
		}
		if err := n.Wait(c); err != nil {
			return err
		}
		assert.False(t, tm.Stop(), "has come")
		began = time.Now()
		assert.False(t, tm.Reset(2*time.Millisecond))
		assert.True(t, tm.Reset(3*time.Millisecond))
		if err := n.Wait(c); err != nil {
			return err
		}
		never, err := c.AfterFunc(5*time.Millisecond, func(*veloq.Context) { t.Error("stopped, and called") })
		if err != nil {
			return err
		}
		assert.True(t, never.Stop())
		_, err = veloq.SpawnTo(c, 1, func(*veloq.Context) (int, error) {
			assert.False(t, tm.Stop())
			assert.False(t, tm.Reset(1))
			_, err := c.AfterFunc(1, nil) // another worker's Context
			assert.ErrorIs(t, err, veloq.ErrWrongWorker)
			return 0, nil
		}).Join(c)
		if err != nil {
			return err
		}
		_, err = c.AfterFunc(0, func(*veloq.Context) { _, _ = explode(errors.New("boom")) })
		return errors.Join(err, c.Sleep(10*time.Millisecond))
	}))
	require.Contains(t, string(await(t, "OnPanic", reported).Stack), "tests.explode")
	require.Equal(t, int64(2), calls.Load())
	settled(t, rt, held{})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		_, err := c.AfterFunc(patience, func(*veloq.Context) { t.Error("after the runtime's end") })
		return err
	}))
	bounded(t, "Close", func() { _ = rt.Close() })
}
