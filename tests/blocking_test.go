package tests

// The blocking pool: its bounds, its ends, and that no worker waits for it.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: results reach tasks and goroutines, and the worker serves others while calls block.
func TestBlocking_ResultsAndWorkerGoesOn(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1, BlockingIdle: 10 * time.Millisecond})
	srv := startEcho(t, rt, veloq.ListenConfig{}, "task")
	release := make(chan struct{})
	type key struct{}
	blocks := func(i int) func(ctx context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			select { // blocks its goroutine, which is what the pool is for
			case <-release:
				return i, errAfter(i)
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
	}
	joined := veloq.Spawn(veloq.WithContext(context.WithValue(context.Background(), key{}, 1), rt),
		func(c *veloq.Context) (int, error) {
			handles := make([]*veloq.JoinHandle[int], 50)
			for i := range handles {
				handles[i] = veloq.SpawnBlocking(c, blocks(i))
			}
			values := veloq.SpawnBlocking(c, func(ctx context.Context) (int, error) {
				_, ok := veloq.FromContext(ctx)
				return ctx.Value(key{}).(int), errors.Join(ctx.Err(), map[bool]error{false: errChild}[ok])
			})
			for i, h := range handles {
				if v, err := h.Join(c); v != i || !errors.Is(err, errAfter(i)) {
					return 0, fmt.Errorf("%d: %d, %w", i, v, err)
				}
			}
			return values.Join(c)
		})
	outside := veloq.SpawnBlocking(rt, blocks(7))
	eventually(t, "all run", func() (bool, any) {
		st := rt.BlockingStats()
		return st.Running == 51 && st.Done == 1, st
	})
	for range 20 {
		require.NoError(t, roundTrip(dial(t, srv.Addr()), []byte("while 51 calls block")))
	}
	close(release)
	v, err := outside.Wait(soon(t))
	require.Equal(t, 7, v)
	require.ErrorIs(t, err, errOdd)
	v, err = joined.Wait(soon(t))
	require.NoError(t, err)
	require.Equal(t, 1, v)
	eventually(t, "idle goroutines end", func() (bool, any) {
		st := rt.BlockingStats()
		return st.Goroutines == 0 && st.Running == 0, st
	})
	st := rt.BlockingStats()
	require.Equal(t, uint64(52), st.Done)
	require.GreaterOrEqual(t, st.RunningPeak, 51)
	v, err = veloq.SpawnBlocking(rt, blocks(8)).Wait(soon(t)) // from none
	require.NoError(t, err)
	require.Equal(t, 8, v)
}

// Goal: so many run, so many wait, the next is refused; cancelled ones make room; order is kept.
func TestBlocking_BoundsAndOverload(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1, BlockingMax: 2, BlockingQueue: 3})
	release := make(chan struct{})
	var running, peak atomic.Int64
	var order []int // by one goroutine at a time in the end
	started := make(chan int, 10)
	call := func(i int) *veloq.JoinHandle[int] {
		return veloq.SpawnBlocking(rt, func(ctx context.Context) (int, error) {
			peak.Store(max(peak.Load(), running.Add(1)))
			defer running.Add(-1)
			started <- i
			select {
			case <-release:
			case <-ctx.Done():
				return i, context.Cause(ctx)
			}
			return i, nil
		})
	}
	var handles []*veloq.JoinHandle[int]
	for i := range 5 {
		handles = append(handles, call(i))
	}
	await(t, "first", started)
	await(t, "second", started)
	_, err := call(5).Wait(soon(t))
	var overload *veloq.OverloadError
	require.ErrorAs(t, err, &overload)
	require.Equal(t, veloq.OverloadError{Running: 2, Queued: 3}, *overload)
	require.ErrorIs(t, err, veloq.ErrFull)
	require.Contains(t, err.Error(), "2 calls run and 3 wait")
	handles[3].Cancel() // waits: is dropped
	_, err = handles[3].Wait(soon(t))
	require.ErrorIs(t, err, context.Canceled)
	handles = append(handles, call(6))
	handles[0].Cancel() // runs: is told
	_, err = handles[0].Wait(soon(t))
	require.ErrorIs(t, err, context.Canceled)
	order = append(order, await(t, "third", started))
	close(release)
	for _, i := range []int{1, 2, 4, 5} {
		_, err := handles[i].Wait(soon(t))
		require.NoError(t, err)
	}
	order = append(order, await(t, "fourth", started), await(t, "fifth", started))
	require.ElementsMatch(t, []int{2, 4, 6}, order)
	require.Equal(t, 2, order[0])
	require.LessOrEqual(t, peak.Load(), int64(2))
	st := rt.BlockingStats()
	require.Equal(t, []uint64{5, 1, 1}, []uint64{st.Done, st.Dropped, st.Refused})
	require.Equal(t, 2, st.RunningPeak)
	handles[0].Cancel() // after its end
	for _, c := range []veloq.Config{{BlockingMax: -1}, {BlockingQueue: -2}, {BlockingIdle: -1}} {
		_, err := veloq.New(c)
		require.ErrorContains(t, err, "Blocking")
	}
	none := newRuntime(t, veloq.Config{Workers: 1, BlockingMax: 1, BlockingQueue: -1})
	hold := make(chan struct{})
	first := veloq.SpawnBlocking(none, func(context.Context) (int, error) { <-hold; return 0, nil })
	_, err = veloq.SpawnBlocking(none, func(context.Context) (int, error) { return 0, nil }).Wait(soon(t))
	require.ErrorAs(t, err, &overload)
	close(hold)
	require.NoError(t, join(t, first))
}

// Goal: panics and Goexit are carried, and cost the pool nothing.
func TestBlocking_PanicAndGoexit(t *testing.T) {
	noLeak(t)
	onPanic, reported := panics()
	rt := newRuntime(t, veloq.Config{Workers: 1, OnPanic: onPanic, BlockingMax: 1})
	boom := errors.New("boom")
	for range sized(2000, 200, 50) {
		_, err := veloq.SpawnBlocking(rt, func(context.Context) (int, error) { return explode(boom) }).Wait(soon(t))
		checkPanic(t, err, boom)
		exits := veloq.SpawnBlocking(rt, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		after := veloq.SpawnBlocking(rt, func(context.Context) (int, error) { return 3, nil })
		_, err = exits.Wait(soon(t))
		require.ErrorIs(t, err, veloq.ErrGoexit)
		v, err := after.Wait(soon(t))
		require.NoError(t, err)
		require.Equal(t, 3, v)
	}
	require.Empty(t, reported)
	func() { veloq.SpawnBlocking(rt, func(context.Context) (int, error) { return explode("dropped") }) }()
	reportedDropped(t, reported)
}

// Goal: the runtime's end: calls that wait are dropped, those that run are told, Close waits for
// them, Shutdown for all.
func TestBlocking_Close(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2, BlockingMax: 1})
	started, ended := make(chan struct{}), make(chan struct{})
	runs := veloq.SpawnBlocking(rt, func(ctx context.Context) (int, error) {
		close(started)
		<-ctx.Done()
		defer close(ended)
		return 0, context.Cause(ctx)
	})
	waits := veloq.SpawnBlocking(rt, func(context.Context) (int, error) { return 0, nil })
	joiner := veloq.Spawn(rt, func(c *veloq.Context) (int, error) { return runs.Join(c) })
	await(t, "start", started)
	bounded(t, "Close", func() { _ = rt.Close() })
	select {
	case <-ended:
	default:
		t.Error("Close returned before the call that heeds its ctx")
	}
	require.ErrorIs(t, join(t, runs), veloq.ErrClosed)
	require.ErrorIs(t, join(t, waits), veloq.ErrClosed)
	require.ErrorIs(t, join(t, joiner), veloq.ErrClosed)
	require.Equal(t, uint64(1), rt.BlockingStats().Dropped)

	rt = newRuntime(t, veloq.Config{Workers: 1})
	release := make(chan struct{})
	slow := veloq.SpawnBlocking(rt, func(context.Context) (int, error) { <-release; return 4, nil })
	over := make(chan error, 1)
	go func() { over <- rt.Shutdown(soon(t)) }()
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error { return c.Sleep(5 * time.Millisecond) }))
	require.Empty(t, over)
	close(release)
	require.NoError(t, await(t, "Shutdown", over))
	v, err, ok := slow.TryResult()
	require.True(t, ok)
	require.NoError(t, err)
	require.Equal(t, 4, v)

	// One that takes no notice costs Close its second, and keeps its goroutine until it returns.
	rt = newRuntime(t, veloq.Config{Workers: 1})
	release = make(chan struct{})
	stubborn := veloq.SpawnBlocking(rt, func(context.Context) (int, error) { <-release; return 5, nil })
	bounded(t, "Close", func() { _ = rt.Close() })
	_, _, ok = stubborn.TryResult()
	require.False(t, ok)
	close(release)
	v, err = stubborn.Wait(soon(t))
	require.NoError(t, err)
	require.Equal(t, 5, v)
}

// Goal: calls, joins and cancels from everywhere at once: each handle ends, and nothing stays.
func TestBlocking_Stress(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2, BlockingMax: 3, BlockingQueue: 20, BlockingIdle: time.Millisecond})
	var ran, refused atomic.Int64
	handles := make([]*veloq.JoinHandle[int], 8)
	rounds := sized(20_000, 2_000, 200)
	for k := range handles {
		handles[k] = veloq.SpawnTo(rt, k%2, func(c *veloq.Context) (int, error) {
			for r := range rounds {
				var hs []*veloq.JoinHandle[int]
				err := veloq.Scope(c, func(s *veloq.TaskScope) error {
					for range 5 {
						hs = append(hs, veloq.SpawnBlocking(s, func(ctx context.Context) (int, error) {
							ran.Add(1)
							return 1, ctx.Err()
						}))
					}
					if r%3 == 0 {
						hs[r%5].Cancel()
					}
					if r%7 == 0 {
						return errChild
					}
					return s.Wait()
				})
				if err != nil && !errors.Is(err, errChild) {
					return 0, err
				}
				for _, h := range hs {
					_, err, ok := h.TryResult()
					if !ok {
						return 0, errors.New("a call outlives its scope")
					}
					if errors.Is(err, veloq.ErrFull) {
						refused.Add(1)
					} else if err != nil && !errors.Is(err, context.Canceled) {
						return 0, err
					}
				}
			}
			return 0, nil
		})
	}
	for _, h := range handles {
		require.NoError(t, join(t, h))
	}
	settled(t, rt, held{})
	eventually(t, "pool empties", func() (bool, any) {
		st := rt.BlockingStats()
		return st.Goroutines == 0, st
	})
	st := rt.BlockingStats()
	assert.LessOrEqual(t, st.RunningPeak, 3)
	assert.Equal(t, uint64(ran.Load()), st.Done)
	assert.Equal(t, uint64(refused.Load()), st.Refused)
	assert.Equal(t, uint64(8*rounds*5), st.Done+st.Refused+st.Dropped)
}
