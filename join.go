package veloq

// Spawning tasks and waiting for them.

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/veloq/veloq/internal/gid"
)

// A Spawner starts tasks: *Context (on its own worker, and for its tasks), *TaskScope (the same, and
// they end with the scope), *Runtime (any goroutine), and what WithContext makes of one of these.
type Spawner interface {
	// submit hands t to a worker, or to one of its choice where target is anyWorker. After an error
	// the task never runs.
	submit(t *task, target int) error
	// lend hands a call to the blocking pool. After an error it is never made.
	lend(job *blockingJob) error
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
	done   joinState
	fn     func(*Context) (T, error)
	result T
	err    error
}

// Spawn starts fn as a task. Where s is a *Context it waits on that worker for its turn, and until it
// begins a worker without work may take it: fn must not use what lives on the caller's worker, such as
// its streams; SpawnLocal, Go and scopes are for that. Where s is a *TaskScope it stays on its worker,
// where s is a *Runtime it is SpawnBalanced. A task that can't be started is joined with the reason at
// once: ErrClosed, ErrFull (the inbox), ErrNoWorker, ErrScopeEnded, or the scope's Context's error.
//
// A panic in fn ends that task alone and is carried to who joins it, as a *PanicError. If the handle
// is dropped without a join, the panic goes to Config.OnPanic when the collector finds it.
//
// With a *Context or *TaskScope: Worker only. With a *Runtime: Any goroutine.
func Spawn[T any](s Spawner, fn func(*Context) (T, error)) *JoinHandle[T] {
	return spawn(s, someWorker, fn)
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

// Go starts fn as a task that nobody joins, on the worker of s where s is a *Context: a panic goes to
// Config.OnPanic at once, whose default crashes the program, as a goroutine's panic does. The error is
// that of a task that could not be started. With a *Context or *TaskScope: Worker only. With a *Runtime: Any goroutine.
func Go(s Spawner, fn func(*Context)) error {
	t := newDetached(fn)
	return s.submit(t, anyWorker)
}

func spawn[T any](s Spawner, target int, fn func(*Context) (T, error)) *JoinHandle[T] {
	h := &JoinHandle[T]{fn: fn}
	h.init(h, 2)
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

// tellJoiners implements joinable.
func (h *JoinHandle[T]) tellJoiners(from *worker) { h.done.finish(from) }

func (h *JoinHandle[T]) outcome() error { return h.err }

// panicked keeps the panic for a join; should the handle become garbage first, it is reported.
func (h *JoinHandle[T]) panicked(rt *Runtime, failure *PanicError) {
	h.done.joined = reportUnlessJoined(h, rt, failure)
}

// reportUnlessJoined reports the failure when handle is garbage and nobody has set what it returns.
func reportUnlessJoined[H any](handle *H, rt *Runtime, failure *PanicError) *atomic.Bool {
	joined := &atomic.Bool{}
	runtime.AddCleanup(handle, func(joined *atomic.Bool) {
		if !joined.Load() {
			rt.reportPanic(failure)
		}
	}, joined)
	return joined
}

// Join parks the task until the other one has ended and returns its result. An error is the other
// task's own, a *PanicError, ErrGoexit, or the caller's Context's Err, which leaves the other one
// running. Worker only. Blocks.
func (h *JoinHandle[T]) Join(c *Context) (T, error) {
	var zero T
	t, err := c.task()
	if err != nil {
		return zero, err
	}
	if t == &h.task {
		return zero, ErrJoinSelf
	}
	if !h.done.finished() {
		if err := waitAs(c, c.w, t, h); err != nil {
			return zero, err
		}
	}
	return h.take()
}

// Wait is Join for goroutines: it blocks until the task has ended or ctx is done. A task waits as in Join
// if ctx is its Context or derived from it, and gets ErrNotTask otherwise. Any goroutine. Blocks.
func (h *JoinHandle[T]) Wait(ctx context.Context) (T, error) {
	if !h.done.finished() {
		w, t, err := caller(ctx)
		if err == nil && t == &h.task {
			err = ErrJoinSelf
		}
		if err == nil {
			err = waitAs(ctx, w, t, h)
		}
		if err != nil {
			var zero T
			return zero, err
		}
	}
	return h.take()
}

// begin implements Case: ready when the task has ended. TryResult has its result then.
func (h *JoinHandle[T]) begin(_ *worker, p *place) (bool, error) {
	return h.done.begin(p), nil
}

// leave implements Case.
func (h *JoinHandle[T]) leave(p *place) { h.done.leave(p) }

// undo implements Case.
func (h *JoinHandle[T]) undo(*place) {}

// TryResult returns the result if the task has ended. Any goroutine.
func (h *JoinHandle[T]) TryResult() (result T, err error, ok bool) { //nolint:revive // ok is last
	if !h.done.finished() {
		return result, nil, false
	}
	result, err = h.take()
	return result, err, true
}

// Cancel cancels the task's Context: wherever it waits, it gets context.Canceled. Kernel operations
// that it waits for are cancelled. A call in the blocking pool that has not begun is dropped, one that
// runs has its ctx cancelled. It returns at once. Any goroutine.
func (h *JoinHandle[T]) Cancel() {
	if h.done.finished() {
		return
	}
	if h.blocking != nil {
		h.blocking.cancel(context.Canceled, true)
		return
	}
	cancelTask(&h.task)
}

// cancelTask cancels a task on its handle's behalf. Any goroutine.
func cancelTask(t *task) {
	w := t.owner.Load()
	switch {
	case w == nil:
		cancelUnowned(t)
	case gid.Supported && w.here():
		t.dropped.Store(true)
		t.ctx.cancel(context.Canceled)
	default:
		w.post(&note{cancel: t})
	}
}

// cancelUnowned is cancelTask of a task that has not begun. Should it do so right now, it has an owner
// after this, and may have parked, in a part with a Context of its own.
func cancelUnowned(t *task) {
	t.dropped.Store(true)
	t.ctx.cancelUnbegun(context.Canceled)
	if w := t.owner.Load(); w != nil {
		w.post(&note{do: func(*worker) { t.ctx.spread(context.Canceled) }})
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
	d.init(d, 2)
	d.task.detached = true
	return &d.task
}

func (d *detached) runTask(c *Context) { d.fn(c) }

func (d *detached) panicked(rt *Runtime, failure *PanicError) { rt.reportPanic(failure) }

// joinState goes once from waiting to finished; the waiters hang on it until then.
type joinState struct {
	ended   atomic.Bool // after the result is written: release, pairs with finished's acquire
	mu      sync.Mutex  // guards waiting, and ended's change
	waiting waitQueue
	joined  *atomic.Bool // set by the first join of a panicked task
}

func (s *joinState) finished() bool { return s.ended.Load() }

// finish wakes every waiter. from is the worker that calls, nil from elsewhere.
func (s *joinState) finish(from *worker) {
	s.mu.Lock()
	s.ended.Store(true)
	var first waiter
	var others []waiter
	if p := s.waiting.claimFirst(); p != nil {
		first = p.by.waiter
		others = s.waiting.claimAll(nil)
	}
	s.mu.Unlock()
	first.wake(from)
	wakeAll(others, from)
}

func (s *joinState) begin(p *place) bool {
	if s.finished() {
		return p == nil || p.claim()
	}
	if p == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished() {
		return p.claim()
	}
	if p.by.won.Load() == 0 {
		s.waiting.push(p)
	}
	return false
}

func (s *joinState) leave(p *place) {
	s.mu.Lock()
	s.waiting.remove(p)
	s.mu.Unlock()
}
