package veloq

// Tasks: coroutines that a worker resumes, how they park and wake, and how they end.

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/gid"
)

// ErrGoexit is what joining a task gives that called runtime.Goexit.
var ErrGoexit = errors.New("veloq: task called runtime.Goexit")

// PanicError carries a task's panic to whoever joins it.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // of the task, at the panic
}

// Error implements error; the text ends with the task's stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("veloq: task panicked: %v\n\n%s", e.Value, e.Stack)
}

// Unwrap returns the panic's value where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// A task is worker-owned from its arrival on the worker to its end.
type task struct {
	ctx  Context
	part *Context // the innermost part of the task that runs now, a Scope's or Timeout's; nil outside
	self runner
	co   *coroutine // nil before the first resume and after the end
	next *task      // in a taskQueue

	liveNext, livePrev *task // among the worker's live tasks

	// While it is some stream's reader: where a Read wants its bytes, straight from the completion,
	// and how many it got.
	readInto []byte
	readN    int
	// held is the lease of a WriteLease that waits.
	held Lease

	parked   bool // waits for a wake
	queued   bool // in the run queue
	returned bool // run came back by itself
	ended    bool
	detached bool // nobody can join: a panic goes to the panic handler at once
	failure  error
	dropped  atomic.Bool // cancelled by its own handle: its scope does not fail by that

	follows  *follower    // the context.Context that it ends with; nil for none
	scope    *TaskScope   // that it was spawned into; nil for none
	blocking *blockingJob // it is a call in the blocking pool, and never on a worker
	// Among its scope's children.
	scopeNext, scopePrev *task

	begun int64      // when it came to its worker, on the workers' clock
	notes *taskNotes // nil unless it has a name, or under veloq_debug

	// owner is the worker that the task began on; nil before, while others may steal it.
	owner     atomic.Pointer[worker]
	stealable bool // was spawned so
}

// A runner is the typed half of a task: what it runs, and where a result goes.
type runner interface {
	runTask(c *Context)
	// panicked hears of a panic that no detached task had.
	panicked(rt *Runtime, failure *PanicError)
}

// init makes t the task of self, which it is embedded in. frames is how many calls lie between this one
// and the code that asked for the task.
func (t *task) init(self runner, frames int) {
	t.self = self
	t.ctx.t = t
	if debugtag.Enabled {
		t.noteCreation(frames)
	}
}

// err returns why the task must not wait now: its own end, or that of the part of it that runs. Every
// wait asks this, not the Context that it was given.
func (t *task) err() error {
	if t.part != nil {
		return t.part.Err()
	}
	return t.ctx.Err()
}

// enter begins a part of the task with a Context of its own, within outer; leave ends it.
func (t *task) enter(c *Context, in *inner, outer *Context) {
	c.w, c.t, c.values, c.inner = outer.w, t, outer.values, in
	in.outer = t.part
	if in.outer == nil {
		in.outer = &t.ctx
	}
	t.part = c
}

func (t *task) leave(c *Context) {
	t.part = c.inner.outer
	if t.part == &t.ctx {
		t.part = nil
	}
	c.finish()
}

// joinable is a runner that others may join: those that are not detached.
type joinable interface {
	// tellJoiners wakes those who wait for the end. from is the worker that calls, nil from elsewhere.
	tellJoiners(from *worker)
}

// taskQueue is a FIFO of tasks, linked through them.
type taskQueue struct {
	head, tail *task
	len        int
}

func (q *taskQueue) push(t *task) {
	t.next = nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	q.len++
}

func (q *taskQueue) pop() *task {
	t := q.head
	if t == nil {
		return nil
	}
	q.head = t.next
	if q.head == nil {
		q.tail = nil
	}
	t.next = nil
	q.len--
	return t
}

// A coroutine runs tasks one after another on its worker's thread.
type coroutine struct {
	w     *worker
	g     uintptr
	t     *task
	yield func(struct{}) bool
	next  func() (struct{}, bool)
	stop  func()

	// For its task's waits in one queue, without an allocation.
	claimant claimant
	place    place

	labelled bool
	name     atomic.Pointer[string] // of its task, for the watchdog
}

func newCoroutine(w *worker) *coroutine {
	co := &coroutine{w: w}
	co.next, co.stop = iter.Pull(func(yield func(struct{}) bool) {
		co.yield = yield
		co.g = gid.Get()
		w.watch.introduce(co.g, co)
		defer w.watch.leave(co.g)
		co.serve()
	})
	return co
}

// unwound is what a coroutine panics with that a task's runtime.Goexit ends.
type unwound struct{}

// serve runs tasks until the coroutine is stopped. A Goexit can't be held up once it unwinds, and
// iter.Pull would pass it on to the worker. A panic takes its place: that is passed on too, and can be
// recovered there (switchTo). The coroutine is gone then, and only that.
func (co *coroutine) serve() {
	stopped := false
	defer func() {
		co.w.currentG.Set(co.w.g) // another goroutine may get this one's descriptor at once
		if !stopped {
			panic(unwound{})
		}
	}()
	for {
		co.w.currentG.Set(co.g)
		co.runTask()
		co.unlabel()
		if !co.yield(struct{}{}) {
			stopped = true
			return
		}
	}
}

// runTask runs the coroutine's task to its end, and recovers its panic.
func (co *coroutine) runTask() {
	t := co.t
	t.failure = ErrGoexit // unless it returns or panics
	defer func() {
		t.ended = true
		if t.returned {
			return
		}
		if value := recover(); value != nil {
			t.failure = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	t.self.runTask(&t.ctx)
	t.failure = nil
	t.returned = true
}

// afterGoexit is deferred: it ends the task whose coroutine a runtime.Goexit has cost, and lets other
// panics pass.
func (w *worker) afterGoexit() {
	t := w.running
	if t == nil {
		return
	}
	if value := recover(); value != (unwound{}) {
		panic(value)
	}
	w.running = nil
	w.currentG.Set(w.g)
	t.co.t, t.co = nil, nil
	w.endTask(t)
}

// survives switches to a coroutine and reports whether it still lives afterwards.
func survives(change func()) (alive bool) {
	defer func() {
		if alive {
			return
		}
		if value := recover(); value != (unwound{}) {
			panic(value)
		}
	}()
	change()
	return true
}

// coroutinesIdleMax bounds the coroutines that a worker keeps for its next tasks.
const coroutinesIdleMax = 1024

func (w *worker) takeCoroutine() *coroutine {
	if n := len(w.idle); n > 0 {
		co := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		return co
	}
	return newCoroutine(w)
}

func (w *worker) giveCoroutine(co *coroutine) {
	if len(w.idle) < coroutinesIdleMax {
		w.idle = append(w.idle, co)
		return
	}
	co.stop()
}

// endTask accounts for a task that ran to its end.
func (w *worker) endTask(t *task) {
	w.tasks--
	w.load.Add(-1)
	w.unlink(t)
	if pe, ok := t.failure.(*PanicError); ok && t.scope == nil {
		if t.detached {
			w.rt.reportPanic(pe)
		} else {
			t.self.panicked(w.rt, pe)
		}
	}
	w.tellEnd(t)
}

// tellEnd lets everybody know who waits for the task's end, however it came. w is the worker that calls,
// nil from the blocking pool.
func (w *worker) tellEnd(t *task) {
	if t.follows != nil {
		t.follows.end()
	}
	t.ctx.finish()
	if !t.detached {
		t.self.(joinable).tellJoiners(w)
	}
	if t.scope != nil {
		t.scope.childEnded(w, t)
	}
}

// park stops the task until wake. The caller has registered itself with whatever will call wake,
// checks its condition again afterwards, and takes the registration back before it returns: a wake
// may also come for another reason, such as cancellation.
func (t *task) park() {
	t.parked = true
	if debugtag.Enabled {
		t.notePark()
	}
	if !t.co.yield(struct{}{}) {
		// The worker is ending for good and will not resume: run the deferred calls and be gone.
		runtime.Goexit()
	}
}

// wake makes a parked task runnable. Worker only.
func (w *worker) wake(t *task) {
	if t != nil && t.parked && !t.queued {
		t.queued = true
		w.runq.push(t)
	}
}

// start takes a task that arrived on the worker.
func (w *worker) start(t *task) {
	w.adoptTask(t)
	t.queued = true
	w.runq.push(t)
}

// adoptTask makes t one of the worker's live tasks. A Cancel from elsewhere that saw no owner has set
// the Context's error before: the task sees it.
func (w *worker) adoptTask(t *task) {
	t.owner.Store(w)
	t.begun = w.timers.now
	w.tasks++
	w.link(t)
	if t.follows != nil {
		t.follows.begin(t)
	}
}

func (w *worker) link(t *task) {
	t.liveNext = w.live
	if w.live != nil {
		w.live.livePrev = t
	}
	w.live = t
}

func (w *worker) unlink(t *task) {
	if t.livePrev != nil {
		t.livePrev.liveNext = t.liveNext
	} else {
		w.live = t.liveNext
	}
	if t.liveNext != nil {
		t.liveNext.livePrev = t.livePrev
	}
	t.liveNext, t.livePrev = nil, nil
}

// runTasks resumes what is runnable, up to a budget of resumes and of time, so that completions are
// not left waiting by tasks that keep waking one another.
func (w *worker) runTasks() {
	w.injector.sweep()
	left, until := tasksPerTurn, w.timers.now+int64(taskSlice)
	for w.runSome(&left, until) {
	}
	if w.runq.len > 0 || w.injector.len() > 0 {
		w.stats.budgetTasks++
	}
}

// runSome is runTasks until a task costs its coroutine: then it reports that there may be more. What
// resumes a task stands here and not in a function of its own: after a switch of stacks the processor
// mispredicts every return.
func (w *worker) runSome(left *int, until int64) (more bool) {
	defer w.afterGoexit()
	more = true // what a recovered end of a coroutine returns
	for *left > 0 {
		if *left%taskCheck == 1 && clock() > until {
			break
		}
		var t *task
		if w.injector.len() == 0 {
			t = w.runq.pop()
		} else {
			t = w.nextTask()
		}
		if t == nil {
			break
		}
		*left--
		t.parked, t.queued = false, false
		co := t.co
		if co == nil {
			co = w.takeCoroutine()
			co.t, t.co = t, co
		}
		w.running = t
		if co.g != 0 {
			w.currentG.Set(co.g)
		}
		co.next()
		w.running = nil
		if t.ended {
			w.currentG.Set(w.g)
			t.co, co.t = nil, nil
			w.giveCoroutine(co)
			w.endTask(t)
		}
	}
	w.currentG.Set(w.g)
	return false
}
