package veloq

// A worker's timers: a wheel, and one kernel timer armed for the earliest.

import (
	"math"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/wheel"
)

// clockStart is where the monotonic clock of all workers begins.
var clockStart = time.Now()

// clock returns nanoseconds since clockStart.
func clock() int64 { return int64(time.Since(clockStart)) }

type timers struct {
	w     *worker
	wheel wheel.Wheel
	now   int64 // at the start of the turn
	late  bool  // due timers are left for the next turn
	armed int64 // when the kernel's timer fires; 0 when none is in flight
}

func (ts *timers) init(w *worker) {
	ts.w = w
	ts.now = clock()
	ts.wheel.Init(ts.now)
}

// after returns the time d from now, on the workers' clock; one too far away is the end of time.
func (ts *timers) after(d time.Duration) int64 {
	now := clock()
	if int64(d) > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + int64(d)
}

func (ts *timers) add(t *wheel.Timer, when int64) { ts.wheel.Add(t, when) }

// remove reports whether the timer was pending.
func (ts *timers) remove(t *wheel.Timer) bool { return ts.wheel.Remove(t) }

// tick reads the clock and fires what is due.
func (ts *timers) tick() {
	ts.now = clock()
	if ts.wheel.Pending() == 0 {
		ts.late = false
		return
	}
	ts.wheel.Expire(ts.now)
	for range timersPerTurn {
		t := ts.wheel.Pop()
		if t == nil {
			ts.late = false
			return
		}
		t.Fire(t, ts.now)
	}
	ts.late = true
	ts.w.stats.budgetTimers++
}

// arm sees to it that the kernel ends a wait for the earliest timer. A kernel timer that is armed
// for later is moved; one armed for earlier is left, since programming it costs more than one wake.
func (ts *timers) arm() {
	when, ok := ts.wheel.Next()
	if !ok || ts.late || (ts.armed != 0 && ts.armed <= when) {
		return
	}
	// Relative to now, at least a little: 0 would mean "at once" and could spin.
	delay := max(when-ts.now, 1000)
	*ts.w.driver.Timespec = core.Timespec{Sec: delay / 1e9, Nsec: delay % 1e9}
	spec := uint64(uintptr(unsafe.Pointer(ts.w.driver.Timespec)))
	if ts.armed == 0 {
		sqe := ts.w.stage(core.OpTimeout, opTimer, 0)
		sqe.FD = -1
		sqe.Addr = spec
		sqe.Len = 1
	} else {
		// If it has just expired the update fails, and the expiry's completion re-arms.
		sqe := ts.w.stage(core.OpTimeoutUpdate, opTimerMoved, 0)
		sqe.FD = -1
		sqe.Addr = opTimer.token(0)
		sqe.Off = spec
		sqe.OpFlags = core.TimeoutUpdate
		sqe.Flags = ts.w.skipSuccess
	}
	ts.armed = when
}

// expired takes the completion of the kernel's timer.
func (ts *timers) expired() { ts.armed = 0 }

// A sleeper wakes its task when its timer fires.
type sleeper struct {
	timer wheel.Timer // first: fire finds the sleeper by its address
	w     *worker
	t     *task
	fired bool
}

func (s *sleeper) init(w *worker, t *task) {
	s.timer.Fire = fireSleeper
	s.w, s.t = w, t
}

func fireSleeper(t *wheel.Timer, _ int64) {
	s := (*sleeper)(unsafe.Pointer(t))
	s.fired = true
	s.w.wake(s.t)
}
