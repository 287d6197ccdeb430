package tests

// Very many tasks: what one costs that waits, and that all of them wake.

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: a million tasks that are parked fit into 4 GiB, and each is woken. Every day: a hundred
// thousand, by the same measure. Half wait for a Notify, half sleep.
func TestTask_ManyParked(t *testing.T) {
	noLeak(t)
	n := sized(1_000_000, 100_000, 10_000)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	used := func() int {
		settleMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.Sys - m.HeapReleased)
	}
	before := used()
	var gate veloq.Notify
	var parked, woken atomic.Int64
	ended := make(chan struct{})
	all := veloq.Spawn(rt, func(c *veloq.Context) (int, error) {
		return 0, veloq.Scope(c, func(s *veloq.TaskScope) error {
			for i := range n {
				err := s.Go(func(c *veloq.Context) error {
					parked.Add(1)
					var err error
					if i%2 == 0 {
						err = gate.Wait(c)
					} else {
						err = c.Sleep(time.Hour)
					}
					if (err == nil) != (i%2 == 0) {
						return fmt.Errorf("task %d: %w", i, err)
					}
					if woken.Add(1) == int64(n) {
						close(ended)
					}
					return err
				})
				if err != nil {
					return err
				}
			}
			return s.Wait()
		})
	})
	eventually(t, "all parked", func() (bool, any) { return parked.Load() == int64(n), parked.Load() })
	require.Equal(t, n+1, holds(rt).tasks)
	require.Equal(t, n/2, holds(rt).timers)
	grown := used() - before
	t.Logf("%d parked tasks: %d bytes each, resident %d MiB in all", n, grown/n, rssBytes()>>20)
	limit := 4 << 30 / 1_000_000
	if runtime.GOOS == "windows" {
		limit = 12 << 10 // Go's smallest stack there is 8 KiB
	}
	if !raceEnabled && os.Getenv("VELOQ_INSTRUMENTED") == "" {
		require.LessOrEqual(t, grown/n, limit)
	}
	gate.NotifyAll()
	eventually(t, "those at the gate are woken", func() (bool, any) { return woken.Load() >= int64(n/2), woken.Load() })
	all.Cancel()
	require.ErrorIs(t, join(t, all), context.Canceled)
	await(t, "the last", ended)
	settled(t, rt, held{})
}
