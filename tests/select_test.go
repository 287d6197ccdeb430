package tests

// Select: one case is taken, the others are as they were.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: Select takes one case and leaves the others as they were.
func TestSelect_TakesOne(t *testing.T) {
	noLeak(t)
	cr := newCrew(t)
	a, b := veloq.NewChan[int](4), veloq.NewChan[int](4)
	rounds := sized(20_000, 2_000, 200)
	const kinds = 2
	var total atomic.Int64
	cr.start(kinds, func(ctx context.Context, _ int) error { // receivers
		for {
			var x, y int
			i, err := veloq.Select(ctx, a.RecvCase(&x), b.RecvCase(&y))
			switch {
			case errors.Is(err, veloq.ErrChanClosed):
				return nil
			case err != nil:
				return err
			case i == 0 && y != 0, i == 1 && x != 0, x+y == 0:
				return fmt.Errorf("case %d: %d and %d", i, x, y)
			}
			total.Add(int64(x + y))
		}
	})
	var sending atomic.Int64
	sending.Store(3 * kinds)
	cr.start(kinds, func(ctx context.Context, i int) error { // senders
		for range rounds {
			if _, err := veloq.Select(ctx, a.SendCase(1), b.SendCase(1)); err != nil {
				return err
			}
		}
		if sending.Add(-1) == 0 {
			a.Close()
			b.Close()
		}
		return nil
	})
	cr.join()
	rest := int64(0)
	for _, ch := range []*veloq.Chan[int]{a, b} { // a closed and empty one ends receivers early
		for v, err := ch.TryRecv(); err == nil; v, err = ch.TryRecv() {
			rest += int64(v)
		}
	}
	require.Equal(t, int64(3*kinds*rounds), total.Load()+rest)
}

// Goal: Select takes each of those that are ready about as often, SelectBiased the first.
func TestSelect_FairAndBiased(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		cases := make([]veloq.Case, 20) // more than are shuffled without an allocation
		for i := range cases {
			var o veloq.Oneshot[int]
			if i > 0 {
				_ = o.Send(i)
			}
			cases[i] = &o
		}
		counts := make([]int, len(cases))
		for range 19 * 1000 {
			i, err := veloq.Select(c, cases...)
			if err != nil {
				return err
			}
			counts[i]++
		}
		for i := range cases {
			if i == 0 && counts[i] != 0 || i > 0 && (counts[i] < 700 || counts[i] > 1300) {
				return fmt.Errorf("taken %v", counts)
			}
		}
		for range 100 {
			if i, err := veloq.SelectBiased(c, cases...); i != 1 || err != nil {
				return fmt.Errorf("biased: %d, %w", i, err)
			}
		}
		return nil
	}))
}

// Goal: every kind of case, each the one that becomes ready while the others never do.
func TestSelect_EveryKind(t *testing.T) {
	noLeak(t)
	rt := twoWorkers(t)
	var m veloq.Mutex
	var n veloq.Notify
	var o veloq.Oneshot[int]
	full, empty := veloq.NewChan[int](1), veloq.NewChan[int](1)
	require.NoError(t, full.TrySend(1))
	require.True(t, m.TryLock())
	var release veloq.Notify
	ended := veloq.SpawnTo(rt, 1, func(c *veloq.Context) (int, error) { return 5, release.Wait(c) })
	got := 0
	ready := []func(){
		m.Unlock, n.Notify, func() { _ = o.Send(3) }, func() { _, _ = full.TryRecv() },
		func() { _ = empty.TrySend(9) }, release.Notify,
	}
	for want := range ready {
		h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) {
			return veloq.Select(c, &m, &n, &o, full.SendCase(2), empty.RecvCase(&got), ended,
				c.After(patience), c.NewTicker(patience, veloq.TicksBurst))
		})
		// It waits in all queues, once the worker has nothing left to run.
		require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error { return c.Yield() }))
		ready[want]()
		i, err := h.Wait(soon(t))
		require.NoError(t, err)
		require.Equal(t, want, i)
		if want == 2 { // stays ready: a new one
			o = veloq.Oneshot[int]{}
		}
		if want == 0 {
			require.False(t, m.TryLock(), "Select has locked it")
		}
	}
	require.Equal(t, 9, got)
	v, err, ok := ended.TryResult()
	require.True(t, ok)
	require.NoError(t, err)
	require.Equal(t, 5, v)
	i, err := veloq.Select(soon(t), &n, full.RecvCase(&got))
	require.NoError(t, err)
	require.Equal(t, 1, i)
	require.Equal(t, 2, got, "what SendCase sent")
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	i, err = veloq.Select(ctx)
	require.Equal(t, -1, i)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	settled(t, rt, held{})
}

// Goal: the losers of a Select, over and over, leave nothing in anybody's queue.
func TestSelect_LosersLeaveNoTrace(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		forever := veloq.Spawn(c, func(c *veloq.Context) (int, error) { return 0, c.Sleep(patience) })
		var never veloq.Notify
		var tick veloq.Notify
		beat := veloq.Spawn(c, func(c *veloq.Context) (int, error) {
			for c.Err() == nil {
				tick.Notify()
				_ = c.Yield()
			}
			return 0, nil
		})
		measure := func(rounds int) (uint64, error) {
			for range rounds {
				if _, err := veloq.Select(c, forever, &never, c.After(patience), &tick); err != nil {
					return 0, err
				}
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc, nil
		}
		before, err := measure(1000)
		if err != nil {
			return err
		}
		after, err := measure(50_000)
		if err != nil {
			return err
		}
		if after > before+1<<20 {
			return fmt.Errorf("heap grew from %d to %d", before, after)
		}
		forever.Cancel()
		beat.Cancel()
		_, _ = beat.Join(c)
		_, _ = forever.Join(c)
		return nil
	}))
	settled(t, rt, held{})
}
