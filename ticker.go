package veloq

// Times that tasks wait for among other things, and callbacks at a time: After, Ticker, AfterFunc.

import (
	"runtime/debug"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/wheel"
)

// An alarm is a time that one task waits for. It is in the worker's wheel only while one does.
type alarm struct {
	timer wheel.Timer // first: fireAlarm finds the alarm by its address
	w     *worker
	when  int64 // on the workers' clock
	p     *place
}

// After returns a Case that is ready d from now, to the next tick (1.05 ms), and stays so. It costs
// nothing while nobody waits for it, so it need not be stopped. It is for tasks of the worker, one
// at a time: for others ErrWrongWorker, for a second ErrBusy. Worker only.
func (c *Context) After(d time.Duration) Case {
	return newAlarm(c.w, c.w.timers.after(d))
}

func newAlarm(w *worker, when int64) *alarm {
	a := &alarm{w: w, when: when}
	a.timer.Fire = fireAlarm
	return a
}

func fireAlarm(t *wheel.Timer, _ int64) {
	a := (*alarm)(unsafe.Pointer(t))
	p := a.p
	a.p = nil
	if p != nil && p.claim() {
		p.by.waiter.wake(a.w)
	}
}

// begin implements Case.
func (a *alarm) begin(_ *worker, p *place) (bool, error) {
	if !a.w.here() {
		return false, a.w.elsewhere()
	}
	if clock() >= a.when {
		return p == nil || p.claim(), nil
	}
	if p == nil {
		return false, nil
	}
	if a.p != nil {
		return false, ErrBusy
	}
	a.p = p
	a.w.timers.add(&a.timer, a.when)
	return false, nil
}

// leave implements Case.
func (a *alarm) leave(p *place) {
	if a.p == p {
		a.p = nil
		a.w.timers.remove(&a.timer)
	}
}

// undo implements Case.
func (a *alarm) undo(*place) {}

// MissedTicks says what a Ticker does with ticks whose time passed while nobody took them.
type MissedTicks uint8

// The policies. Ticks are due at start + period, start + 2 periods, and so on.
const (
	// TicksBurst gives each of them, at once, until the ticks are on time again.
	TicksBurst MissedTicks = iota
	// TicksDelay gives one at once, and the next a whole period after that was taken.
	TicksDelay
	// TicksSkip gives one at once, drops the others, and goes on at the next time that is due.
	TicksSkip
)

// Ticker is a periodic time that tasks of one worker wait for, one at a time. It costs nothing
// while nobody waits, so it need not be stopped. As a Case of Select it takes a tick.
type Ticker struct {
	alarm
	period int64
	missed MissedTicks
}

// NewTicker returns a Ticker whose first tick is due a period from now; it panics if that is not
// positive. Ticks come to the next tick of the worker's wheel (1.05 ms). Worker only.
func (c *Context) NewTicker(period time.Duration, missed MissedTicks) *Ticker {
	if period <= 0 {
		panic("veloq: NewTicker with a period that is not positive")
	}
	tk := &Ticker{period: int64(period), missed: missed}
	tk.w, tk.when = c.w, c.w.timers.after(period)
	tk.timer.Fire = fireTicker
	return tk
}

// Wait parks the task until the next tick, or returns at once for one whose time has passed. The
// error is the Context's, ErrWrongWorker, or ErrBusy where another task waits. Worker only. Blocks.
func (tk *Ticker) Wait(c *Context) error { return waitFor(c, tk) }

// Reset has the next tick come a period from now, and the following ones from there. Worker only.
func (tk *Ticker) Reset() error {
	if !tk.w.here() {
		return tk.w.elsewhere()
	}
	tk.when = tk.w.timers.after(time.Duration(tk.period))
	if tk.p != nil {
		tk.w.timers.add(&tk.timer, tk.when)
	}
	return nil
}

func fireTicker(t *wheel.Timer, _ int64) {
	tk := (*Ticker)(unsafe.Pointer(t))
	p := tk.p
	tk.p = nil
	if p != nil && p.claim() {
		tk.advance(clock())
		p.by.waiter.wake(tk.w)
	}
}

// begin implements Case.
func (tk *Ticker) begin(from *worker, p *place) (bool, error) {
	done, err := tk.alarm.begin(from, p)
	if done {
		tk.advance(clock())
	}
	return done, err
}

func (tk *Ticker) advance(now int64) { tk.when = nextTick(tk.when, now, tk.period, tk.missed) }

// nextTick returns when the tick after that of due is due, which was taken now.
func nextTick(due, now, period int64, missed MissedTicks) int64 {
	next := due + period
	if next > now {
		return next
	}
	switch missed {
	case TicksDelay:
		return now + period
	case TicksSkip:
		return next + (now-next)/period*period + period
	}
	return next
}

// Timer is a call that AfterFunc set.
type Timer struct {
	timer wheel.Timer // first: fireTimer finds the Timer by its address
	w     *worker
	fn    func(*Context)
}

// AfterFunc has the worker call fn d from now, to the next tick (1.05 ms). fn is called as a
// handler is: by the worker itself, so it must not wait (Go and Spawn start a task). A panic of fn
// goes to Config.OnPanic. A runtime that ends drops the calls that are not due yet. Worker only.
func (c *Context) AfterFunc(d time.Duration, fn func(*Context)) (*Timer, error) {
	if !c.w.here() {
		return nil, c.w.elsewhere()
	}
	t := &Timer{w: c.w, fn: fn}
	t.timer.Fire = fireTimer
	c.w.timers.add(&t.timer, c.w.timers.after(d))
	return t, nil
}

// Stop takes the call back, and reports whether it was still to come. Off the worker it does
// nothing and reports false. Worker only.
func (t *Timer) Stop() bool { return t.w.here() && t.w.timers.remove(&t.timer) }

// Reset has the call come d from now, also if it has come before, and reports whether it was still
// to come. Off the worker it does nothing and reports false. Worker only.
func (t *Timer) Reset(d time.Duration) bool {
	if !t.w.here() {
		return false
	}
	pending := t.timer.Pending()
	t.w.timers.add(&t.timer, t.w.timers.after(d))
	return pending
}

func fireTimer(t *wheel.Timer, _ int64) {
	tm := (*Timer)(unsafe.Pointer(t))
	w := tm.w
	defer func() {
		if w.rt.config.OnPanic == nil {
			return // the panic goes on, with fn's stack
		}
		if value := recover(); value != nil {
			w.rt.reportPanic(&PanicError{Value: value, Stack: debug.Stack()})
		}
	}()
	tm.fn(&w.handlerContext)
}
