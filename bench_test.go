package veloq

import (
	"iter"
	"testing"

	"github.com/veloq/veloq/internal/core"
)

// onWorker runs a benchmark's loop in a task.
func onWorker(b *testing.B, loop func(c *Context)) {
	b.Helper()
	if !core.Available {
		b.Skip("no C core in this build")
	}
	rt, err := New(Config{Workers: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer rt.Close()
	h := Spawn(rt, func(c *Context) (struct{}, error) {
		loop(c)
		return struct{}{}, nil
	})
	if _, err := h.Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// A task that parks and is resumed by its worker, with nothing else to do: one turn each, with its
// crossing.
func BenchmarkTask_YieldAlone(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		for b.Loop() {
			_ = c.Yield()
		}
	})
}

// Park and resume beside 1023 others: the crossing is shared.
func BenchmarkTask_YieldAmong1024(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		stop := false
		for range 1023 {
			_ = Go(c, func(c *Context) {
				for !stop {
					_ = c.Yield()
				}
			})
		}
		resumes := 0
		for b.Loop() {
			if resumes++; resumes%1024 == 0 {
				_ = c.Yield()
			}
		}
		stop = true
	})
}

func BenchmarkTask_SpawnJoin(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		for b.Loop() {
			h := Spawn(c, func(*Context) (int, error) { return 1, nil })
			_, _ = h.Join(c)
		}
	})
}

// Spawning 64 before joining them: what a fan-out costs a task.
func BenchmarkTask_SpawnJoin64(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		var handles [64]*JoinHandle[int]
		for i := 0; b.Loop(); i++ {
			handles[i%64] = Spawn(c, func(*Context) (int, error) { return 1, nil })
			if i%64 == 63 {
				for _, h := range handles {
					_, _ = h.Join(c)
				}
			}
		}
	})
}

// The same by the handle for one worker.
func BenchmarkTask_SpawnJoinLocal(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		for b.Loop() {
			h := SpawnLocal(c, func(*Context) (int, error) { return 1, nil })
			_, _ = h.Join(c)
		}
	})
}

func BenchmarkTask_SpawnJoinLocal64(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		var handles [64]*LocalHandle[int]
		for i := 0; b.Loop(); i++ {
			handles[i%64] = SpawnLocal(c, func(*Context) (int, error) { return 1, nil })
			if i%64 == 63 {
				for _, h := range handles {
					_, _ = h.Join(c)
				}
			}
		}
	})
}

// What the coroutine alone costs, there and back: the floor of all of the above.
func BenchmarkTask_BareCoroutine(b *testing.B) {
	next, stop := iter.Pull(func(yield func(struct{}) bool) {
		for yield(struct{}{}) { //nolint:revive // all it does
		}
	})
	defer stop()
	for b.Loop() {
		next()
	}
}
