//go:build cgo && (linux || windows)

package core

import (
	"math"
	"runtime"
	"testing"
	"unsafe"

	"github.com/veloq/veloq/internal/racemark"
)

// newEdge makes an empty edge in C memory whose indices have already run to start. The other end of
// a failed test may still run, so its memory is kept.
func newEdge(tb testing.TB, capacity, start uint32) *Edge {
	tb.Helper()
	mem := Alloc(EdgeSizeBytes(capacity))
	if mem == nil {
		tb.Fatal("no memory")
	}
	tb.Cleanup(func() {
		if !tb.Failed() {
			Free(mem)
		}
	})
	e := InitEdge(mem, capacity)
	e.tail, e.cachedHead, e.head, e.cachedTail = start, start, start, start
	return e
}

func msgOf(seq uint64) Msg { return Msg{Kind: seq, Token: ^seq * 0x9e3779b97f4a7c15} }

func pushSeq(push func(*Edge, []Msg) int, e *Edge, seq uint64, count int) int {
	msgs := make([]Msg, count)
	for i := range msgs {
		msgs[i] = msgOf(seq + uint64(i))
	}
	return push(e, msgs)
}

func popSeq(t *testing.T, pop func(*Edge, []Msg) int, e *Edge, seq uint64, count int) int {
	t.Helper()
	msgs := make([]Msg, count)
	n := pop(e, msgs)
	for i, m := range msgs[:n] {
		if want := msgOf(seq + uint64(i)); m != want {
			t.Fatalf("message %d is %v, want %v", seq+uint64(i), m, want)
		}
	}
	return n
}

type ends struct {
	name string
	push func(*Edge, []Msg) int
	pop  func(*Edge, []Msg) int
}

// Every test that moves messages runs over all four pairs of ends.
var allEnds = []ends{
	{"GoToGo", (*Edge).Push, (*Edge).Pop},
	{"CToGo", edgePushC, (*Edge).Pop},
	{"GoToC", (*Edge).Push, edgePopC},
	{"CToC", edgePushC, edgePopC},
}

func forAllEnds(t *testing.T, run func(t *testing.T, x ends)) {
	for _, x := range allEnds {
		t.Run(x.name, func(t *testing.T) { run(t, x) })
	}
}

func TestEdge_SizeAsInC(t *testing.T) {
	for shift := range 33 {
		for _, delta := range []int64{-1, 0, 1} {
			capacity := uint32(int64(1)<<shift + delta)
			if got, want := EdgeSizeBytes(capacity), edgeSizeBytesC(capacity); got != want {
				t.Errorf("EdgeSizeBytes(%d) = %d, C says %d", capacity, got, want)
			}
		}
	}
}

func TestEdge_InitAsInC(t *testing.T) {
	const capacity = 8
	mem := Alloc(EdgeSizeBytes(capacity))
	defer Free(mem)
	e := (*Edge)(mem)
	dirty := Edge{tail: 1, cachedHead: 2, producerMask: 3, head: 4, cachedTail: 5, consumerMask: 6}

	*e = dirty
	if rc := edgeInitC(mem, capacity); rc != 0 {
		t.Fatalf("C init: %d", rc)
	}
	byC := *e
	*e = dirty
	if InitEdge(mem, capacity) != e || *e != byC {
		t.Errorf("InitEdge left %+v, C leaves %+v", *e, byC)
	}
}

func TestEdge_InitBadArguments(t *testing.T) {
	mem := Alloc(1024)
	defer Free(mem)
	for _, capacity := range []uint32{0, 3, 65, EdgeCapacityMax * 2, math.MaxUint32} {
		if InitEdge(mem, capacity) != nil || edgeInitC(mem, capacity) >= 0 {
			t.Errorf("capacity %d was accepted", capacity)
		}
	}
	misaligned := unsafe.Add(mem, 16)
	if InitEdge(misaligned, 4) != nil || edgeInitC(misaligned, 4) >= 0 {
		t.Error("misaligned memory was accepted")
	}
}

func TestEdge_EmptyAndFull(t *testing.T) {
	forAllEnds(t, func(t *testing.T, x ends) {
		e := newEdge(t, 8, 0)
		check := func(what string, got, want int) {
			t.Helper()
			if got != want {
				t.Fatalf("%s: %d, want %d", what, got, want)
			}
		}
		check("Cap", e.Cap(), 8)
		check("pop when empty", popSeq(t, x.pop, e, 0, 4), 0)
		check("push nothing", x.push(e, nil), 0)
		check("push", pushSeq(x.push, e, 0, 5), 5)
		check("push past the end", pushSeq(x.push, e, 5, 5), 3)
		check("Len", e.Len(), 8)
		check("Len in C", edgeLenC(e), 8)
		check("push when full", pushSeq(x.push, e, 8, 1), 0)
		check("pop nothing", x.pop(e, nil), 0)
		check("pop", popSeq(t, x.pop, e, 0, 3), 3)
		check("push into the room", pushSeq(x.push, e, 8, 9), 3)
		check("pop all", popSeq(t, x.pop, e, 3, 9), 8)
		check("pop when empty again", popSeq(t, x.pop, e, 11, 1), 0)
		check("Len at last", e.Len(), 0)
	})
}

func TestEdge_WrapOfIndices(t *testing.T) {
	forAllEnds(t, func(t *testing.T, x ends) {
		for start := uint32(math.MaxUint32 - 40); start > math.MaxUint32-60; start-- {
			for batch := 1; batch <= 9; batch++ {
				e := newEdge(t, 8, start)
				pushed, popped := 0, 0
				for popped < 96 {
					pushed += pushSeq(x.push, e, uint64(pushed), batch)
					if e.Len() != pushed-popped || edgeLenC(e) != e.Len() {
						t.Fatalf("Len %d, in C %d, want %d", e.Len(), edgeLenC(e), pushed-popped)
					}
					popped += popSeq(t, x.pop, e, uint64(popped), batch/2+1)
				}
			}
		}
	})
}

// A second producer, or memory written over, is a bug of the runtime: it stops, it doesn't spin.
func TestEdge_BrokenHeaderPanics(t *testing.T) {
	mustPanic := func(what string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", what)
			}
		}()
		f()
	}
	e := newEdge(t, 4, 0)
	e.head, e.cachedTail = 1, 1
	mustPanic("head past tail, push", func() { e.Push(make([]Msg, 5)) })
	mustPanic("head past tail, pop", func() { e.Pop(make([]Msg, 5)) })
}

// The stress runs through a small edge with batches of every size, over the wrap of the indices,
// and checks each message.
func TestEdge_StressTwoThreads(t *testing.T) {
	const batchMax = 64
	total := uint64(2_000_000)
	if racemark.Enabled || testing.Short() {
		total = 200_000
	}
	forAllEnds(t, func(t *testing.T, x ends) {
		e := newEdge(t, 256, math.MaxUint32-1000)
		go func() {
			msgs := make([]Msg, batchMax)
			for seq, turn := uint64(0), uint64(0); seq < total; turn++ {
				batch := msgs[:min(turn*7%batchMax+1, total-seq)]
				for i := range batch {
					batch[i] = msgOf(seq + uint64(i))
				}
				n := x.push(e, batch)
				if n < len(batch) {
					runtime.Gosched()
				}
				seq += uint64(n)
			}
		}()
		for seq, turn := uint64(0), uint64(0); seq < total; turn++ {
			if l := e.Len(); l < 0 || l > e.Cap() {
				t.Fatalf("Len %d", l)
			}
			n := popSeq(t, x.pop, e, seq, int(turn*11%batchMax)+1)
			if n == 0 {
				runtime.Gosched()
			}
			seq += uint64(n)
		}
	})
}

// Goal: Go values of the sender reach the receiver with the race detector's consent, and their
// slots come back with it too. Method: a slot table shared without any other synchronisation; it
// fails under -race when a mark is missing.
func TestEdge_CarriesGoValues(t *testing.T) {
	const slots, rounds = 16, 50_000
	there, back := newEdge(t, slots, 0), newEdge(t, slots, 0)
	table := make([][]uint64, slots)
	go func() {
		msgs := make([]Msg, 1)
		for seq := uint64(0); seq < rounds; {
			if seq >= slots {
				if back.Pop(msgs) == 0 {
					runtime.Gosched()
					continue
				}
			}
			slot := seq % slots
			table[slot] = []uint64{seq, seq * seq}
			msgs[0] = Msg{Kind: 1, Token: slot}
			there.Push(msgs)
			seq++
		}
	}()
	msgs := make([]Msg, 8)
	for seq := uint64(0); seq < rounds; {
		n := there.Pop(msgs)
		for _, m := range msgs[:n] {
			if v := table[m.Token]; v[0] != seq || v[1] != seq*seq {
				t.Fatalf("value %v at %d", v, seq)
			}
			table[m.Token] = nil
			seq++
		}
		// No more slots are under way than the edge back holds.
		if back.Push(msgs[:n]) != n {
			t.Fatal("the way back is full")
		}
		if n == 0 {
			runtime.Gosched()
		}
	}
}

// Goal: room in the edge is an order too: what the consumer did before a Pop happened before a Push
// that found the room. Method: value seq reuses the slot of seq-capacity-2, which was read before
// the Pop that made room for seq-1; nothing comes back to say so but head.
func TestEdge_RoomOrdersReuse(t *testing.T) {
	const capacity, rounds = 8, 100_000
	const slots = capacity + 2
	e := newEdge(t, capacity, 0)
	var table [slots]uint64
	go func() {
		msgs := make([]Msg, 1)
		for seq := uint64(0); seq < rounds; seq++ {
			table[seq%slots] = seq
			msgs[0].Token = seq % slots
			for e.Push(msgs) == 0 {
				runtime.Gosched()
			}
		}
	}()
	out := make([]Msg, 1)
	for seq := uint64(0); seq < rounds; seq++ {
		for e.Pop(out) == 0 {
			runtime.Gosched()
		}
		if got := table[out[0].Token]; got != seq {
			t.Fatalf("slot %d holds %d, want %d", out[0].Token, got, seq)
		}
	}
}

// benchmarkEdge moves b.N messages from one goroutine to another, in batches up to these sizes.
func benchmarkEdge(b *testing.B, push, pop int) {
	e := newEdge(b, 1024, 0)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		msgs := make([]Msg, push)
		for left := b.N; left > 0; {
			n := e.Push(msgs[:min(push, left)])
			if n == 0 {
				runtime.Gosched()
			}
			left -= n
		}
	}()
	out := make([]Msg, pop)
	for left := b.N; left > 0; {
		n := e.Pop(out)
		if n == 0 {
			runtime.Gosched()
		}
		left -= n
	}
}

func BenchmarkEdge_OneByOne(b *testing.B) { benchmarkEdge(b, 1, 1) }

// What a worker does that has one message to send, to a worker that pops once a turn.
func BenchmarkEdge_PushOnePop64(b *testing.B) { benchmarkEdge(b, 1, 64) }

func BenchmarkEdge_Batch64(b *testing.B) { benchmarkEdge(b, 64, 64) }

// The Go channel that an edge stands in for.
func BenchmarkEdge_PeerChannel(b *testing.B) {
	c := make(chan Msg, 1024)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			c <- Msg{}
		}
	}()
	for range b.N {
		<-c
	}
}
