package wheel

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// What a server does with deadlines: among a million connections, 65,536 push theirs back in turn. The
// peers do the same work: the standard library's timers, and an indexed binary heap.
const benchTimers = 1_000_000

// benchTimeouts are the deadlines in use, from a retransmit to an idle connection.
var benchTimeouts = [...]time.Duration{
	200 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second, time.Minute, time.Hour,
}

type benchStep struct {
	timer int
	after int64
}

func benchSteps() []benchStep {
	rnd := rand.New(rand.NewPCG(1, 2))
	steps := make([]benchStep, 1<<16)
	for i := range steps {
		steps[i] = benchStep{
			rnd.IntN(benchTimers),
			int64(benchTimeouts[rnd.IntN(len(benchTimeouts))]) + rnd.Int64N(1e8),
		}
	}
	return steps
}

// Reset: move one of a million pending timers.
func BenchmarkReset(b *testing.B) {
	steps := benchSteps()
	b.Run("wheel", func(b *testing.B) {
		var w Wheel
		w.Init(0)
		timers := make([]Timer, benchTimers)
		for i := range timers {
			timers[i].Fire = func(*Timer, int64) {}
			w.Add(&timers[i], steps[i%len(steps)].after)
		}
		now := int64(0)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			s := steps[i%len(steps)]
			now += 100
			w.Add(&timers[s.timer], now+s.after)
		}
	})
	b.Run("heap", func(b *testing.B) {
		h := benchHeap{}
		items := make([]benchItem, benchTimers)
		for i := range items {
			items[i].when = steps[i%len(steps)].after
			heap.Push(&h, &items[i])
		}
		now := int64(0)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			s := steps[i%len(steps)]
			now += 100
			items[s.timer].when = now + s.after
			heap.Fix(&h, items[s.timer].index)
		}
	})
	b.Run("time", func(b *testing.B) {
		timers := benchStdTimers(b)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			s := steps[i%len(steps)]
			timers[s.timer].Reset(time.Duration(s.after) + time.Hour)
		}
	})
}

// AddRemove: a timer that is set and cancelled again, as a deadline around one read is.
func BenchmarkAddRemove(b *testing.B) {
	steps := benchSteps()
	b.Run("wheel", func(b *testing.B) {
		var w Wheel
		w.Init(0)
		timers := make([]Timer, benchTimers)
		for i := range timers {
			w.Add(&timers[i], steps[i%len(steps)].after)
		}
		var tm Timer
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			w.Add(&tm, steps[i%len(steps)].after)
			w.Remove(&tm)
		}
	})
	b.Run("heap", func(b *testing.B) {
		h := benchHeap{}
		items := make([]benchItem, benchTimers)
		for i := range items {
			items[i].when = steps[i%len(steps)].after
			heap.Push(&h, &items[i])
		}
		var item benchItem
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			item.when = steps[i%len(steps)].after
			heap.Push(&h, &item)
			heap.Remove(&h, item.index)
		}
	})
	b.Run("time", func(b *testing.B) {
		benchStdTimers(b)
		tm := time.AfterFunc(time.Hour, func() {})
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			tm.Reset(time.Duration(steps[i%len(steps)].after) + time.Hour)
			tm.Stop()
		}
	})
}

// Expire: a million timers run out one after the other and each adds itself again. The standard
// library is missing here: its time cannot be made to pass.
func BenchmarkExpire(b *testing.B) {
	steps := benchSteps()
	b.Run("wheel", func(b *testing.B) {
		var w Wheel
		w.Init(0)
		timers := make([]Timer, benchTimers)
		fired := 0
		for i := range timers {
			timers[i].Fire = func(t *Timer, now int64) {
				fired++
				w.Add(t, now+steps[fired%len(steps)].after)
			}
			w.Add(&timers[i], steps[i%len(steps)].after)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for fired < b.N {
			next, _ := w.Next()
			w.Advance(next)
		}
	})
	b.Run("heap", func(b *testing.B) {
		h := benchHeap{}
		items := make([]benchItem, benchTimers)
		for i := range items {
			items[i].when = steps[i%len(steps)].after
			heap.Push(&h, &items[i])
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			item := h[0]
			item.when += steps[i%len(steps)].after
			heap.Fix(&h, 0)
		}
	})
}

// Next and Advance with nothing due: what each turn of a worker pays.
func BenchmarkTurn(b *testing.B) {
	var w Wheel
	w.Init(0)
	timers := make([]Timer, 1000)
	for i := range timers {
		w.Add(&timers[i], int64(time.Hour)+int64(i)*Tick)
	}
	now, sum := int64(0), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now++
		w.Advance(now)
		next, _ := w.Next()
		sum += next
	}
}

func benchStdTimers(b *testing.B) []*time.Timer {
	steps := benchSteps()
	timers := make([]*time.Timer, benchTimers)
	for i := range timers {
		// The hour keeps any of them from firing while the benchmark runs.
		timers[i] = time.AfterFunc(time.Duration(steps[i%len(steps)].after)+time.Hour, func() {})
	}
	b.Cleanup(func() {
		for _, t := range timers {
			t.Stop()
		}
	})
	return timers
}

type benchItem struct {
	when  int64
	index int
}

type benchHeap []*benchItem

func (h benchHeap) Len() int           { return len(h) }
func (h benchHeap) Less(i, j int) bool { return h[i].when < h[j].when }
func (h benchHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *benchHeap) Push(x any) {
	item := x.(*benchItem)
	item.index = len(*h)
	*h = append(*h, item)
}

func (h *benchHeap) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	*h = (*h)[:last]
	return item
}
