package veloq

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: whatever the owner and thieves do at the same time, each task is taken once, and the owner's
// own takes come in order. The ring wraps many times.
func TestInjector_EachTaskIsTakenOnce(t *testing.T) {
	const thieves, rounds = 3, 50_000
	var q injector
	taken := map[*task]*atomic.Int32{}
	all := make([]*task, rounds)
	for i := range all {
		all[i] = &task{readN: i}
		taken[all[i]] = &atomic.Int32{}
	}
	var done atomic.Bool
	var stolen atomic.Int64
	var wg sync.WaitGroup
	for range thieves {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var out [stealMax]*task
			for !done.Load() || q.len() > 0 {
				for _, got := range out[:q.grab(out[:], true)] {
					taken[got].Add(1)
					stolen.Add(1)
				}
			}
		}()
	}
	own, last := 0, -1
	var one [1]*task
	take := func() bool {
		if q.grab(one[:], false) == 0 {
			return false
		}
		taken[one[0]].Add(1)
		require.Greater(t, one[0].readN, last)
		last = one[0].readN
		own++
		return true
	}
	for i, tk := range all {
		for !q.push(tk) {
			take()
		}
		if i%3 == 0 {
			take()
			q.sweep()
		}
	}
	for take() { //nolint:revive // to its end
	}
	done.Store(true)
	wg.Wait()
	for tk, n := range taken {
		require.EqualValues(t, 1, n.Load(), "task %d", tk.readN)
	}
	require.EqualValues(t, rounds, int64(own)+stolen.Load())
	q.sweep()
	for i := range q.places {
		require.Nil(t, q.places[i].Load(), "a taken task is kept")
	}
}

// Goal: a worker that is busy for good is relieved of what it had not begun: two choices put the tasks
// there before it was, and only stealing brings them away. The busy task ends when the last of them has.
func TestSteal_EmptiesABusyWorker(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2})
	const tasks = 200
	var ran atomic.Int64
	busy := SpawnTo(rt, 0, func(c *Context) (int, error) {
		handles := make([]*JoinHandle[int], tasks)
		for i := range handles {
			handles[i] = Spawn(c, func(c *Context) (int, error) {
				ran.Add(1)
				return c.Worker(), nil
			})
		}
		for ran.Load() < tasks-1 { //nolint:revive // busy: parks for nothing; one alone may wait for it
		}
		return joinSum(c, handles)
	})
	stolen, err := busy.Wait(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, stolen, tasks-1, "ran on worker 1")
	stats := rt.Stats()
	require.EqualValues(t, stolen, stats[1].Stolen)
	require.EqualValues(t, stolen, stats[0].Lost)
	require.Zero(t, rt.workers[0].load.Load()+rt.workers[1].load.Load())
}

// Goal: what must not be stolen isn't, while what may be is.
func TestSteal_LeavesLocalTasks(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2})
	var away atomic.Int64
	h := SpawnTo(rt, 0, func(c *Context) (int, error) {
		local := make([]*LocalHandle[int], 100)
		for i := range local {
			local[i] = SpawnLocal(c, func(c *Context) (int, error) { return c.Worker(), nil })
		}
		for range 40 {
			Spawn(c, func(c *Context) (int, error) {
				away.Add(1)
				return 0, nil
			})
		}
		for away.Load() < 39 { //nolint:revive // until the thief was here
		}
		return joinSum(c, local)
	})
	sum, err := h.Wait(t.Context())
	require.NoError(t, err)
	require.Zero(t, sum)
}

// Goal: cancelling, joining and closing at the moment that a task is stolen.
func TestSteal_CancelAndCloseMeanwhile(t *testing.T) {
	for range 20 {
		rt := newTestRuntime(t, Config{Workers: 3})
		var handles []*JoinHandle[int]
		h := SpawnTo(rt, 0, func(c *Context) (int, error) {
			for i := range 300 {
				h := Spawn(c, func(c *Context) (int, error) {
					for c.Err() == nil {
						_ = c.Sleep(1)
					}
					return 0, c.Err()
				})
				handles = append(handles, h)
				if i%2 == 0 {
					h.Cancel()
				}
			}
			for i := 0; i < len(handles); i += 2 {
				if _, err := handles[i].Join(c); err == nil {
					t.Error("cancelled task ended without an error")
				}
			}
			return len(handles), nil
		})
		n, err := h.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 300, n)
		require.NoError(t, rt.Close())
		for i := 1; i < len(handles); i += 2 {
			_, err := handles[i].Wait(t.Context())
			require.ErrorIs(t, err, ErrClosed)
		}
	}
}

// Calls that lead to nothing become rare: spawning and joining one short task after another must not
// wake anybody each time.
func TestSteal_CallsBackOff(t *testing.T) {
	w := &worker{id: 0, rt: &Runtime{}}
	w.rt.workers = []*worker{w}
	calls := 0
	for turn := range uint64(10_000) {
		w.stats.turns = turn + 1
		w.thieves.called = true // as if one had been woken, and come too late
		before := w.thieves.skip
		w.callThief()
		if before == 0 {
			calls++
		}
	}
	require.Less(t, calls, 60)
	w.thieves.skip = 0
	w.thieves.stolen.Add(1) // one did steal
	w.thieves.called = true
	w.stats.turns++
	w.callThief()
	require.Zero(t, w.thieves.pause)
	require.Zero(t, w.thieves.skip)
}

// Goal: one task in four is heavy: it stays. Taking workers in turn puts all of those on one; two
// choices by load keep the busiest within 1.5 of the mean. Load is counted, no time is measured.
func TestBalance_TwoChoicesUnderSkew(t *testing.T) {
	const workers, tasks = 4, 4000
	worst := func(choose func(loads []int64) int) float64 {
		loads := make([]int64, workers)
		for i := range tasks {
			w := choose(loads)
			if i%workers == 0 {
				loads[w]++ // heavy; the light ones end before the next one comes
			}
		}
		sum, most := int64(0), int64(0)
		for _, l := range loads {
			sum += l
			most = max(most, l)
		}
		return float64(most) * workers / float64(sum)
	}
	turn := -1
	robin := worst(func([]int64) int { turn++; return turn % workers })
	two := worst(func(loads []int64) int {
		return lessLoaded(workers, func(i int) int64 { return loads[i] })
	})
	t.Logf("busiest worker over the mean: in turn %.2f, two choices %.2f", robin, two)
	require.Greater(t, robin, 1.5)
	require.Less(t, two, 1.5)
}

func TestBalance_SourceHashIsEven(t *testing.T) {
	counts := make([]int, 7)
	for range 70_000 {
		ip := netip.AddrFrom4([4]byte{10, 0, byte(rand.Uint32()), byte(rand.Uint32())})
		i := hashOf(ip, len(counts))
		require.Equal(t, i, hashOf(ip, len(counts)))
		require.Equal(t, i, hashOf(netip.AddrFrom16(ip.As16()), len(counts)), "the same client by IPv6")
		counts[i]++
	}
	for i, n := range counts {
		require.InDelta(t, 10_000, n, 1_500, "worker %d", i)
	}
	require.Less(t, hashOf(netip.Addr{}, 3), 3)
}
