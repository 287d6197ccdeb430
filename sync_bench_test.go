package veloq

import (
	"context"
	"sync"
	"testing"
	"time"
)

// A lock that nobody else wants, beside the mutex that a task must not hold over a park.
func BenchmarkMutex_Free(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		var m Mutex
		for b.Loop() {
			_ = m.Lock(c)
			m.Unlock()
		}
	})
}

// Two tasks of one worker that hand a lock to each other.
func BenchmarkMutex_HandedOver(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		var m Mutex
		other := Spawn(c, func(c *Context) (int, error) {
			for c.Err() == nil {
				if m.Lock(c) == nil {
					_ = c.Yield()
					m.Unlock()
				}
			}
			return 0, nil
		})
		for b.Loop() {
			_ = m.Lock(c)
			_ = c.Yield()
			m.Unlock()
		}
		other.Cancel()
	})
}

// A value there and one back between two tasks of one worker.
func BenchmarkChan_PingPong(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		ping, pong := NewChan[int](1), NewChan[int](1)
		_ = Go(c, func(c *Context) {
			for {
				v, err := ping.Recv(c)
				if err != nil || pong.Send(c, v) != nil {
					return
				}
			}
		})
		for b.Loop() {
			_ = ping.Send(c, 1)
			_, _ = pong.Recv(c)
		}
		ping.Close()
	})
}

// The same between two goroutines, over Go's channels.
func BenchmarkChan_PingPongGoroutines(b *testing.B) {
	b.ReportAllocs()
	ping, pong := make(chan int, 1), make(chan int, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for v := range ping {
			pong <- v
		}
	})
	for b.Loop() {
		ping <- 1
		<-pong
	}
	close(ping)
	wg.Wait()
}

// Many values from one task to another, 64 at a time.
func BenchmarkChan_Stream(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		ch := NewChan[int](64)
		_ = Go(c, func(c *Context) {
			for {
				if _, err := ch.Recv(c); err != nil {
					return
				}
			}
		})
		for b.Loop() {
			_ = ch.Send(c, 1)
		}
		ch.Close()
	})
}

// A receive with a timeout, where the value is there.
func BenchmarkSelect_RecvOrAfter(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		ch := NewChan[int](1)
		v := 0
		for b.Loop() {
			_ = ch.TrySend(1)
			_, _ = Select(c, ch.RecvCase(&v), c.After(time.Second))
		}
	})
}

func BenchmarkScope_GoAndWait64(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		nothing := func(*Context) error { return nil }
		for b.Loop() {
			_ = Scope(c, func(s *TaskScope) error {
				for range 64 {
					_ = s.Go(nothing)
				}
				return nil
			})
		}
	})
}

func BenchmarkTimeout(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		for b.Loop() {
			_ = Timeout(c, time.Second, func(*Context) error { return nil })
		}
	})
}

func BenchmarkTimeout_ByContext(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, cancel := context.WithTimeout(context.Background(), time.Second)
		cancel()
	}
}

// Timers are set, and mostly taken back, beside a million others.
const benchTimers = 1_000_000

func BenchmarkTimer_SetAndStopAmongMillion(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		nothing := func(*Context) {}
		timers := make([]*Timer, benchTimers)
		for i := range timers {
			timers[i], _ = c.AfterFunc(time.Hour+time.Duration(i)*time.Millisecond, nothing)
		}
		i := 0
		for b.Loop() {
			t := timers[i%benchTimers]
			t.Stop()
			t.Reset(time.Hour + time.Duration(i%benchTimers)*time.Millisecond)
			i += 7919
		}
		for _, t := range timers {
			t.Stop()
		}
	})
}

// The same with package time's.
func BenchmarkTimer_SetAndStopAmongMillionByTime(b *testing.B) {
	b.ReportAllocs()
	nothing := func() {}
	timers := make([]*time.Timer, benchTimers)
	for i := range timers {
		timers[i] = time.AfterFunc(time.Hour+time.Duration(i)*time.Millisecond, nothing)
	}
	i := 0
	for b.Loop() {
		t := timers[i%benchTimers]
		t.Stop()
		t.Reset(time.Hour + time.Duration(i%benchTimers)*time.Millisecond)
		i += 7919
	}
	for _, t := range timers {
		t.Stop()
	}
}

// A call in the pool and its join, from a task.
func BenchmarkBlocking_SpawnJoin(b *testing.B) {
	b.ReportAllocs()
	onWorker(b, func(c *Context) {
		for b.Loop() {
			_, _ = SpawnBlocking(c, func(context.Context) (int, error) { return 1, nil }).Join(c)
		}
	})
}
