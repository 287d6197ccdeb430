package veloq

import (
	"context"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/gid"
)

func TestHistogram_BucketsAndQuantiles(t *testing.T) {
	var h Histogram
	require.Zero(t, h.Quantile(0.5))
	for v := range uint64(1000) {
		h.add(v)
	}
	require.EqualValues(t, 1000, h.Count())
	require.EqualValues(t, 999*1000/2, h.Sum)
	require.EqualValues(t, 1, h.Counts[0])
	require.EqualValues(t, 512-256, h.Counts[9])
	require.EqualValues(t, 511, h.Quantile(0.5))
	require.EqualValues(t, 1023, h.Quantile(1))
	require.Zero(t, h.Quantile(0))
	h.add(1 << 63)
	require.EqualValues(t, 1, h.Counts[histogramBuckets-1])
}

// Goal: what a worker measured adds up with what it counted.
func TestStats_HistogramsAddUp(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	_, err := Spawn(rt, func(c *Context) (struct{}, error) {
		for range 50 {
			if err := c.Sleep(time.Millisecond); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	}).Wait(t.Context())
	require.NoError(t, err)
	st := rt.Stats()[0]
	require.Equal(t, st.Completions, st.Batch.Sum)
	require.LessOrEqual(t, st.Submissions-st.Ops.Sum, uint64(16), "the turn's own are not yet in")
	require.LessOrEqual(t, st.Latency.Count(), st.Turns/latencyEvery+1)
	require.Positive(t, st.Latency.Count())
	require.Positive(t, st.Latency.Quantile(0.99))
	require.LessOrEqual(t, st.Batch.Count(), st.Crossings)
}

// park parks a task until its context ends, in a function whose name says so.
func parkedTasks(t *testing.T, rt *Runtime) []*JoinHandle[struct{}] {
	t.Helper()
	ready := make(chan struct{}, 2)
	sleeper := SpawnTo(rt, 0, func(c *Context) (struct{}, error) {
		c.SetName("the sleeper")
		ready <- struct{}{}
		return struct{}{}, c.Sleep(time.Hour)
	})
	joiner := SpawnTo(rt, 0, func(c *Context) (struct{}, error) {
		ready <- struct{}{}
		return sleeper.Join(c)
	})
	<-ready
	<-ready
	return []*JoinHandle[struct{}]{sleeper, joiner}
}

// Goal: a look at a runtime does not wait for a worker that is kept, and says which one that is; a limit
// bounds what is listed.
func TestRuntime_SnapshotOfABusyWorker(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2})
	_ = parkedTasks(t, rt)
	var release atomic.Bool
	begun := make(chan struct{})
	busy := SpawnTo(rt, 1, func(*Context) (struct{}, error) {
		close(begun)
		for !release.Load() { //nolint:revive // keeps the worker
		}
		return struct{}{}, nil
	})
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	snap, err := rt.Snapshot(ctx, 1)
	require.NoError(t, err)
	require.Contains(t, snap.Silent, 1)
	release.Store(true)
	_, err = busy.Wait(t.Context())
	require.NoError(t, err)
	snap, err = rt.Snapshot(t.Context(), 1)
	require.NoError(t, err)
	require.Empty(t, snap.Silent)
	require.Len(t, snap.Tasks, 1)
	require.Equal(t, 2, snap.Workers[0].Tasks)
}

// Goal: who keeps a worker is named, with the stack of the very function, once each time, and with
// nothing reported of workers that sleep or go on.
func TestWatchdog_NamesTheHog(t *testing.T) {
	hogs := make(chan *Hog, 16)
	rt := newTestRuntime(t, Config{
		Workers: 2, WatchdogAfter: 20 * time.Millisecond, OnHog: func(h *Hog) { hogs <- h },
	})
	var release atomic.Bool
	quiet := SpawnTo(rt, 0, func(c *Context) (struct{}, error) { // yields all the time
		for !release.Load() {
			_ = c.Yield()
		}
		return struct{}{}, nil
	})
	hog := SpawnTo(rt, 1, func(c *Context) (struct{}, error) {
		c.SetName("greedy")
		keepTheWorker(&release)
		return struct{}{}, nil
	})
	h := <-hogs
	for h.Worker != 1 { // a machine that is itself kept may report the other one
		h = <-hogs
	}
	release.Store(true)
	require.GreaterOrEqual(t, h.For, 20*time.Millisecond)
	if gid.Supported {
		require.Equal(t, "greedy", h.Name)
		require.Contains(t, string(h.Stack), "keepTheWorker")
		require.Contains(t, h.String(), `"greedy"`)
		t.Log(h)
	}
	_, err := hog.Wait(t.Context())
	require.NoError(t, err)
	_, err = quiet.Wait(t.Context())
	require.NoError(t, err)
	require.Positive(t, rt.Stats()[1].Hogs)
}

// Goal: a look at a worker that does not answer says who keeps it, and where.
func TestRuntime_DumpNamesWhoKeepsAWorker(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2, WatchdogAfter: time.Hour})
	var release atomic.Bool
	begun := make(chan struct{})
	hog := SpawnTo(rt, 1, func(c *Context) (struct{}, error) {
		c.SetName("greedy")
		close(begun)
		keepTheWorker(&release)
		return struct{}{}, nil
	})
	<-begun
	var out strings.Builder
	err := rt.Dump(&out)
	release.Store(true)
	require.NoError(t, err)
	require.Contains(t, out.String(), "worker 1: no answer within 1s: it stays in a task or a handler")
	if gid.Supported {
		require.Contains(t, out.String(), `"greedy"`)
		require.Contains(t, out.String(), "keepTheWorker")
	}
	_, err = hog.Wait(t.Context())
	require.NoError(t, err)
}

//go:noinline
func keepTheWorker(release *atomic.Bool) {
	for !release.Load() { //nolint:revive // that is the point
	}
}

// Goal: samples of a task carry its name, and those of the next task on the same coroutine don't.
func TestContext_SetNameLabelsProfiles(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	labels := func(name string) string {
		var out strings.Builder
		_, err := Spawn(rt, func(c *Context) (struct{}, error) {
			if name != "" {
				c.SetName(name)
			}
			return struct{}{}, pprof.Lookup("goroutine").WriteTo(&out, 1)
		}).Wait(t.Context())
		require.NoError(t, err)
		return out.String()
	}
	require.Contains(t, labels("labelled"), `"task":"labelled"`)
	next := labels("")
	require.NotContains(t, next, `"task":"labelled"`)
	require.Contains(t, next, `{"worker":"0"}`)
}
