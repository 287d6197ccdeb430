package veloq

// Spawning tasks and waiting for them.

import (
	"context"
	"runtime"
	"sync/atomic"

	"github.com/veloq/veloq/internal/debugtag"
)

// A Spawner starts tasks: *Context (on its own worker, and for its tasks) and *Runtime (any
// goroutine).
type Spawner interface {
	// submit hands t to a worker, or to one of its choice where target is anyWorker. After an error
	// the task never runs.
	submit(t *task, target int) error
}

// Targets that are no worker's index.
const (
	anyWorker     = -1 // the Context's own; the Runtime's choice
	invalidWorker = -2
	someWorker    = -3 // as anyWorker, but another one may steal the task before it begins
	leastWorker   = -4 // the less loaded of two
)

// JoinHandle is a spawned task's result to come.
type JoinHandle[T any] struct {
	task
	fn     func(*Context) (T, error)
	result T
	err    error
	// lost holds a panic until somebody joins; see panicked.
	lost atomic.Pointer[PanicError]
}

// Spawn starts fn as a task. Where s is a *Context it waits on that worker for its turn, and until it
// begins a worker without work may take it: fn must not use what lives on the caller's worker,
// such as its streams; SpawnLocal is for that. Where s is a *Runtime it is SpawnBalanced. A task that
// can't be started (runtime closed, inbox full) is joined with that error at once.
//
// A panic in fn ends that task alone and is carried to who joins it, as a *PanicError. If the handle
// is dropped without a join, the panic goes to Config.OnPanic when the collector finds it.
//
// With a *Context: Worker only. With a *Runtime: Any goroutine.
func Spawn[T any](s Spawner, fn func(*Context) (T, error)) *JoinHandle[T] {
	return spawn(s, someWorker, fn)
}

// SpawnLocal is Spawn for a task that stays on the worker of the Context, and begins there in its
// turn. Worker only.
func SpawnLocal[T any](c *Context, fn func(*Context) (T, error)) *JoinHandle[T] {
	return spawn(c, anyWorker, fn)
}

// SpawnBalanced is Spawn on the less loaded of two workers taken at random, by the tasks and streams
// that each has: the busiest is then close to the mean without anyone looking at all of them. From a
// task it goes over the mesh. With a *Context: Worker only. With a *Runtime: Any goroutine.
func SpawnBalanced[T any](s Spawner, fn func(*Context) (T, error)) *JoinHandle[T] {
	return spawn(s, leastWorker, fn)
}

// SpawnTo is Spawn on the worker of that index. From a task it goes over the mesh.
func SpawnTo[T any](s Spawner, worker int, fn func(*Context) (T, error)) *JoinHandle[T] {
	if worker < 0 {
		worker = invalidWorker
	}
	return spawn(s, worker, fn)
}

// Go starts fn as a task that nobody joins, on the worker of s where s is a *Context: a panic goes to Config.OnPanic at once, whose default
// crashes the program, as a goroutine's panic does. The error is that of a task that could not be
// started. With a *Context: Worker only. With a *Runtime: Any goroutine.
func Go(s Spawner, fn func(*Context)) error {
	t := newDetached(fn)
	return s.submit(t, anyWorker)
}

func spawn[T any](s Spawner, target int, fn func(*Context) (T, error)) *JoinHandle[T] {
	h := &JoinHandle[T]{fn: fn}
	h.self = h
	h.ctx.t = &h.task
	if debugtag.Enabled {
		h.noteCreation()
	}
	if err := s.submit(&h.task, target); err != nil {
		h.err = err
		h.ctx.finish()
		h.done.finish(nil)
	}
	return h
}

func (h *JoinHandle[T]) runTask(c *Context) {
	h.result, h.err = h.fn(c)
}

// panicked keeps the panic for a join; should the handle become garbage first, it is reported.
func (h *JoinHandle[T]) panicked(rt *Runtime, failure *PanicError) {
	h.lost.Store(failure)
	joined := &atomic.Bool{}
	h.done.joined = joined
	runtime.AddCleanup(h, func(joined *atomic.Bool) {
		if !joined.Load() {
			rt.reportPanic(failure)
		}
	}, joined)
}

// Join parks the task until the other one has ended and returns its result. An error is the other
// task's own, a *PanicError, ErrGoexit, or the caller's Context's Err, which leaves the other one
// running. Worker only. Blocks.
func (h *JoinHandle[T]) Join(c *Context) (T, error) {
	t, err := c.task()
	if err != nil {
		var zero T
		return zero, err
	}
	if t == &h.task {
		var zero T
		return zero, ErrJoinSelf
	}
	// A finisher on this worker is through with the waiter when it shows: then t's own will do.
	wt := &t.wait
	if t.waiting || h.elsewhere(c.w) {
		wt = &waiter{}
	}
	wt.w, wt.t = c.w, t
	t.waiting = t.waiting || wt == &t.wait
	if h.done.await(wt) {
		for !h.done.finished() {
			if err := c.Err(); err != nil {
				var zero T
				return zero, err // still registered: t.waiting stays
			}
			t.park()
		}
	}
	if wt == &t.wait && !h.elsewhere(c.w) {
		t.waiting = false // else its finisher may still look at it
	}
	return h.take()
}

// elsewhere reports whether the task is, or may have ended, on another worker than w; one that may
// still be stolen is not.
func (t *task) elsewhere(w *worker) bool {
	if !t.stealable {
		return t.ctx.w != w
	}
	owner := t.owner.Load()
	return owner != nil && owner != w
}

// Wait is Join for goroutines: it blocks until the task has ended or ctx is done. Never from a task,
// whose worker it would block. Any goroutine. Blocks.
func (h *JoinHandle[T]) Wait(ctx context.Context) (T, error) {
	ended := make(chan struct{})
	if h.done.await(&waiter{ended: ended}) {
		select {
		case <-ended:
		case <-ctx.Done():
			var zero T
			return zero, ctx.Err()
		}
	}
	return h.take()
}

// TryResult returns the result if the task has ended. Any goroutine.
func (h *JoinHandle[T]) TryResult() (result T, err error, ok bool) { //nolint:revive // ok is last
	if !h.done.finished() {
		return result, nil, false
	}
	result, err = h.take()
	return result, err, true
}

// Cancel cancels the task's Context: wherever it waits, it gets context.Canceled. Kernel operations
// that it waits for are cancelled. It returns at once. Any goroutine.
func (h *JoinHandle[T]) Cancel() {
	if h.done.finished() {
		return
	}
	w := h.owner.Load()
	switch {
	case w == nil:
		// It has not begun. Should it do so right now, it has an owner after this, and may have parked.
		h.ctx.cancelUnbegun(context.Canceled)
		if w := h.owner.Load(); w != nil {
			w.post(&note{wake: &h.task})
		}
	case w.here():
		h.ctx.cancel(context.Canceled)
	default:
		w.post(&note{cancel: &h.task})
	}
}

func (h *JoinHandle[T]) take() (T, error) {
	if h.failure != nil {
		if h.done.joined != nil {
			h.done.joined.Store(true)
		}
		var zero T
		return zero, h.failure
	}
	return h.result, h.err
}

// detached is a task without a handle.
type detached struct {
	task
	fn func(*Context)
}

func newDetached(fn func(*Context)) *task {
	d := &detached{fn: fn}
	d.self = d
	d.ctx.t = &d.task
	d.task.detached = true
	if debugtag.Enabled {
		d.noteCreation()
	}
	return &d.task
}

func (d *detached) runTask(c *Context) { d.fn(c) }

func (d *detached) panicked(rt *Runtime, failure *PanicError) { rt.reportPanic(failure) }

// joinState goes once from waiting to finished; the waiters hang on it until then.
type joinState struct {
	head   atomic.Pointer[waiter] // &finishedMark once finished
	joined *atomic.Bool           // set by the first join of a panicked task
}

var finishedMark waiter

// A waiter is one task or goroutine that waits for a task's end.
type waiter struct {
	w     *worker
	t     *task
	ended chan struct{}
	next  *waiter
}

func (s *joinState) finished() bool { return s.head.Load() == &finishedMark }

// await registers wt, unless the task has finished already. Any goroutine.
func (s *joinState) await(wt *waiter) bool {
	for {
		head := s.head.Load()
		if head == &finishedMark {
			return false
		}
		wt.next = head
		if s.head.CompareAndSwap(head, wt) {
			return true
		}
	}
}

// finish wakes every waiter. from is the worker that calls, nil from elsewhere.
func (s *joinState) finish(from *worker) {
	wt := s.head.Swap(&finishedMark)
	for wt != nil {
		next := wt.next
		switch {
		case wt.t == nil:
			close(wt.ended)
		case wt.w == from:
			from.wake(wt.t)
		default:
			wt.w.send(from, message{kind: messageWake, t: wt.t})
		}
		wt = next
	}
}
