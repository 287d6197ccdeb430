//go:build cgo && (linux || windows)

package core

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/veloq/veloq/internal/racemark"
)

func newDoorbell(tb testing.TB) *Doorbell {
	tb.Helper()
	mem := Alloc(unsafe.Sizeof(Doorbell{}))
	if mem == nil {
		tb.Fatal("no memory")
	}
	d := (*Doorbell)(mem)
	if rc := doorbellInitC(d); rc != 0 {
		tb.Fatal(syscall.Errno(-rc))
	}
	tb.Cleanup(func() {
		if !tb.Failed() {
			doorbellDeinitC(d)
			Free(mem)
		}
	})
	return d
}

type bells struct {
	name    string
	prepare func(*Doorbell)
	awake   func(*Doorbell)
	claim   func(*Doorbell) bool
	ends
}

// The worker on one side, wakers on the other, each Go or C; pushes are the waker's, pops the
// worker's.
var allBells = []bells{
	{
		"GoWorkerGoWaker",
		(*Doorbell).Prepare, (*Doorbell).Awake, (*Doorbell).Claim, allEnds[0],
	},
	{"GoWorkerCWaker", (*Doorbell).Prepare, (*Doorbell).Awake, doorbellClaimC, allEnds[1]},
	{"CWorkerGoWaker", doorbellPrepareC, doorbellAwakeC, (*Doorbell).Claim, allEnds[2]},
}

func TestDoorbell_ClaimOncePerPrepare(t *testing.T) {
	for _, x := range allBells {
		t.Run(x.name, func(t *testing.T) {
			d := newDoorbell(t)
			if x.claim(d) {
				t.Error("claimed from a worker that is awake")
			}
			for range 3 {
				x.prepare(d)
				if !x.claim(d) {
					t.Error("no claim after prepare")
				}
				if x.claim(d) {
					t.Error("claimed twice")
				}
			}
			x.prepare(d)
			x.awake(d)
			if x.claim(d) {
				t.Error("claimed after awake")
			}
		})
	}
}

func TestDoorbell_RingIsDrainedOnce(t *testing.T) {
	d := newDoorbell(t)
	d.Ring()
	d.Ring()
	if doorbellDrainC(d) != 1 || doorbellDrainC(d) != 0 {
		t.Error("two rings are to be drained together, once")
	}
}

// Goal: of a push with its claim and a prepare with its re-check, at least one sees the other.
// Method: rounds in which both sides run at the same time, shifted against each other by lengths
// that sweep one across the other; a round where both miss is the bug.
func TestDoorbell_NeverBothMiss(t *testing.T) {
	rounds := uint32(300_000)
	if testing.Short() {
		rounds /= 10
	}
	for _, x := range allBells {
		t.Run(x.name, func(t *testing.T) {
			d, e := newDoorbell(t), newEdge(t, 4, 0)
			var begun, ended atomic.Uint32
			var claimed bool
			await := func(v *atomic.Uint32, round uint32) {
				for spins := 1; v.Load() != round; spins++ {
					if spins%256 == 0 {
						runtime.Gosched()
					}
				}
			}
			go func() {
				msgs := make([]Msg, 1)
				for round := uint32(1); round <= rounds; round++ {
					await(&begun, round)
					x.push(e, msgs)
					claimed = x.claim(d)
					ended.Store(round)
				}
			}()
			missed := 0
			out := make([]Msg, 1)
			for round := uint32(1); round <= rounds; round++ {
				begun.Store(round)
				pause(uint64(round % 1024))
				x.prepare(d)
				found := e.Len() > 0
				await(&ended, round)
				if !found && !claimed {
					missed++
				}
				x.awake(d)
				x.pop(e, out)
			}
			if missed > 0 {
				t.Errorf("both sides missed in %d rounds of %d", missed, rounds)
			}
		})
	}
}

// Goal: no lost wake between Go and C ends. Method: one message under way at a time, so that each
// wake counts; both sides wait a little, by lengths that sweep the push across the worker's way to
// its wait. A lost wake is a wait that ends by its deadline.
func TestDoorbell_NoLostWake(t *testing.T) {
	cycles := uint64(50_000)
	if racemark.Enabled || testing.Short() {
		cycles = 5_000
	}
	for _, x := range allBells {
		t.Run(x.name, func(t *testing.T) { noLostWake(t, x, cycles) })
	}
}

func noLostWake(t *testing.T, x bells, cycles uint64) {
	d, there, back := newDoorbell(t), newEdge(t, 4, 0), newEdge(t, 4, 0)
	wait := waiter(t, d)

	done := make(chan struct{})
	go func() {
		defer close(done)
		msgs := make([]Msg, 1)
		for seq := range cycles {
			pause(seq % 64)
			msgs[0] = msgOf(seq)
			x.push(there, msgs)
			if x.claim(d) {
				d.Ring()
			}
			for spins := 1; back.Pop(msgs) == 0; spins++ {
				if spins%64 == 0 {
					runtime.Gosched()
				}
			}
		}
	}()

	waits := 0
	for seq := uint64(0); seq < cycles; {
		if n := popSeq(t, x.pop, there, seq, 1); n == 1 {
			seq++
			back.Push(make([]Msg, 1))
			pause(seq % 255)
			continue
		}
		x.prepare(d)
		if there.Len() == 0 {
			waits++
			if err := wait(); err != nil {
				t.Fatalf("lost wake at message %d, %d waiting: %v", seq, there.Len(), err)
			}
		}
		x.awake(d)
	}
	<-done
	t.Logf("%d messages, %d waits", cycles, waits)
}

//go:noinline
func pause(turns uint64) {
	for range turns {
		runtime.KeepAlive(turns)
	}
}
