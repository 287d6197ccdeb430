package veloq

// Scopes: tasks that end before the block of code they were started in.

import (
	"context"
	"errors"
	"io"
)

// ErrScopeEnded: the scope's Scope has returned, or is waiting for its children to end.
var ErrScopeEnded = errors.New("veloq: scope ended")

// errUnwound cancels the children of a body that panics or is unwound.
var errUnwound = errors.New("veloq: scope's body was unwound")

// TaskScope is what Scope gives its body to spawn into: it is a Spawner, for Spawn, SpawnTo,
// SpawnLocal, SpawnBlocking and Go. Its methods are for tasks of the worker that it lives on: the
// body's and its children's there.
type TaskScope struct {
	ctx      Context // the body's
	inner    inner
	body     *task
	err      error // the first, which cancelled the rest
	children *task
	live     int
	closing  bool // the body has returned
	given    bool // up, by Cancel
	owned    []io.Closer
}

// Scope runs fn, waits until every task that was spawned into s has ended, and returns the first
// error of fn or any of them. That first error cancels the rest: fn, wherever it waits, and all
// other children get context.Canceled, and the kernel operations they wait for are cancelled. So
// does the end of c. Children are cancelled, not killed: Scope waits for as long as they take.
//
// A child's panic and runtime.Goexit are errors too: a *PanicError with its stack, and ErrGoexit. A
// panic of fn goes on when all children have ended. A child that was cancelled by its own handle
// and returns context.Canceled is no error.
//
// fn runs in the calling task. Worker only. Blocks.
func Scope(c *Context, fn func(s *TaskScope) error) error {
	t, err := c.task()
	if err != nil {
		return err
	}
	s := &TaskScope{body: t}
	s.inner.scope = s
	t.enter(&s.ctx, &s.inner, c)
	defer s.leave()
	returned := false
	defer func() {
		if !returned {
			_ = s.end(errUnwound)
		}
	}()
	err = fn(s)
	returned = true
	return s.end(err)
}

// end waits for the children and returns the scope's error.
func (s *TaskScope) end(err error) error {
	if err != nil {
		s.fail(err)
	}
	s.closing = true
	for s.live > 0 {
		s.body.park()
	}
	return s.err
}

// leave closes what the scope owns, the latest first.
func (s *TaskScope) leave() {
	s.closing = true
	s.body.leave(&s.ctx)
	for len(s.owned) > 0 {
		last := len(s.owned) - 1
		owned := s.owned[last]
		s.owned = s.owned[:last]
		_ = owned.Close() // what was to be known of its end was for the body to ask
	}
}

// Context is the body's within the scope: it ends when the scope is cancelled. Any goroutine.
func (s *TaskScope) Context() *Context { return &s.ctx }

// Go starts fn in the scope, on its worker. Its error is the scope's, if it is the first. What Go
// itself returns is why fn could not be started: ErrScopeEnded, the error of the scope's Context,
// or ErrWrongWorker. Worker only.
func (s *TaskScope) Go(fn func(*Context) error) error {
	child := &scopeTask{fn: fn}
	child.init(child, 1)
	child.detached = true
	return s.submit(&child.task, anyWorker)
}

// Wait parks the body until every child so far has ended, and returns the scope's first error, or
// that of the scope's Context. Worker only, by the body. Blocks.
func (s *TaskScope) Wait() error {
	t, err := s.ctx.task()
	for err == nil && s.live > 0 {
		t.park()
		err = t.err()
	}
	if s.err != nil {
		return s.err
	}
	return err
}

// Cancel cancels fn and all children. Scope returns the first error that follows, so nil if fn does
// and all others, having been told so, return context.Canceled. Worker only.
func (s *TaskScope) Cancel() error {
	if !s.ctx.w.here() {
		return s.ctx.w.elsewhere()
	}
	s.given = true
	s.ctx.cancel(context.Canceled)
	return nil
}

// Own has the scope close what c is, a Stream for example, when all of its tasks have ended: the
// latest first. What is owned too late, or by a caller on another worker, is closed at once if it
// can be, and the error says why. Worker only.
func (s *TaskScope) Own(c io.Closer) error {
	switch {
	case !s.ctx.w.here():
		return errors.Join(s.ctx.w.elsewhere(), c.Close())
	case s.closing && s.live == 0:
		return errors.Join(ErrScopeEnded, c.Close())
	}
	s.owned = append(s.owned, c)
	return nil
}

// admit says whether a child may be spawned.
func (s *TaskScope) admit() error {
	switch {
	case !s.ctx.w.here():
		return s.ctx.w.elsewhere()
	case s.closing && s.live == 0:
		return ErrScopeEnded // while children live they may spawn more
	}
	return s.ctx.Err()
}

// submit implements Spawner.
func (s *TaskScope) submit(t *task, target int) error {
	if err := s.admit(); err != nil {
		return err
	}
	t.scope = s
	if target == someWorker {
		target = anyWorker // what it uses of the scope lives here
	}
	if err := s.ctx.submit(t, target); err != nil {
		t.scope = nil
		return err
	}
	s.link(t)
	return nil
}

// lend implements Spawner.
func (s *TaskScope) lend(job *blockingJob) error {
	if err := s.admit(); err != nil {
		return err
	}
	t := job.t
	t.scope = s
	s.link(t) // before it may end
	if err := s.ctx.lend(job); err != nil {
		s.unlink(t)
		t.scope = nil
		return err
	}
	return nil
}

// home implements LocalSpawner.
func (s *TaskScope) home() *worker { return s.ctx.w }

func (s *TaskScope) link(t *task) {
	s.live++
	t.scopeNext = s.children
	if s.children != nil {
		s.children.scopePrev = t
	}
	s.children = t
}

func (s *TaskScope) unlink(t *task) {
	s.live--
	if t.scopePrev != nil {
		t.scopePrev.scopeNext = t.scopeNext
	} else {
		s.children = t.scopeNext
	}
	if t.scopeNext != nil {
		t.scopeNext.scopePrev = t.scopePrev
	}
	t.scopeNext, t.scopePrev = nil, nil
}

// childEnded is told by the worker where the child ended; nil for a call in the blocking pool.
func (s *TaskScope) childEnded(from *worker, t *task) {
	if from == s.ctx.w {
		s.account(t)
		return
	}
	s.ctx.w.send(from, message{kind: messageChild, t: t})
}

// account takes note of a child's end, on the scope's worker.
func (s *TaskScope) account(t *task) {
	s.unlink(t)
	if err := t.ending(); err != nil && (!t.dropped.Load() || !errors.Is(err, context.Canceled)) {
		s.fail(err)
	}
	if s.live == 0 {
		s.ctx.w.wake(s.body)
	}
}

// ending is the error that a task ended with.
func (t *task) ending() error {
	if t.failure != nil {
		return t.failure
	}
	if r, ok := t.self.(interface{ outcome() error }); ok {
		return r.outcome()
	}
	return nil
}

// fail takes the first error and cancels everything else. After Cancel the errors that only tell of
// it don't count.
func (s *TaskScope) fail(err error) {
	if s.err != nil || (s.given && errors.Is(err, context.Canceled)) {
		return
	}
	s.err = err
	s.ctx.cancel(context.Canceled)
}

// cancelChildren is what the end of the scope's Context does.
func (s *TaskScope) cancelChildren(err error) {
	home := s.ctx.w
	for t := s.children; t != nil; t = t.scopeNext {
		switch {
		case t.blocking != nil:
			t.blocking.cancel(err, false)
		case t.ctx.w == home:
			t.ctx.cancel(err)
		default:
			t.ctx.w.post(&note{do: func(*worker) { t.ctx.cancel(err) }})
		}
	}
}

// scopeTask is a child without a handle.
type scopeTask struct {
	task
	fn  func(*Context) error
	err error
}

func (st *scopeTask) runTask(c *Context) { st.err = st.fn(c) }

func (st *scopeTask) outcome() error { return st.err }

func (st *scopeTask) panicked(*Runtime, *PanicError) {} // the scope carries it
