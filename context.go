package veloq

// Context: a task's (or a worker's handlers') way to everything of its worker.

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/gid"
)

// Context is what a task or a handler gets: a context.Context, and the way to its worker's spawner,
// sockets and timers. As a context.Context (Done, Err, Value, Deadline) it is for any goroutine;
// everything else is for the task or handler that it was given to.
type Context struct {
	w      *worker
	t      *task // nil for handlers
	values context.Context
	inner  *inner // of a Scope's or Timeout's; nil for a whole task's

	err  atomic.Pointer[error]
	mu   sync.Mutex // guards the making of done
	done chan struct{}
}

// inner is what the Context of a part of a task has more.
type inner struct {
	outer *Context   // what it is within
	scope *TaskScope // whose children end with it
	bound *bound     // when it ends by itself
}

var _ context.Context = (*Context)(nil)

type contextKey struct{}

// FromContext returns the veloq Context that ctx is or was derived from. Any goroutine.
func FromContext(ctx context.Context) (*Context, bool) {
	c, ok := ctx.Value(contextKey{}).(*Context)
	return c, ok
}

// Deadline implements context.Context: the nearest of the Timeouts that the Context, or the scope
// of its task, is in, and of the context.Context that the task was started with. Any goroutine.
func (c *Context) Deadline() (deadline time.Time, ok bool) {
	nearer := func(at time.Time, there bool) {
		if there && (!ok || at.Before(deadline)) {
			deadline, ok = at, true
		}
	}
	if c.inner != nil {
		nearer(c.inner.outer.Deadline())
		if b := c.inner.bound; b != nil {
			nearer(b.at, true)
		}
		return deadline, ok
	}
	if c.t != nil && c.t.scope != nil {
		nearer(c.t.scope.ctx.Deadline())
	}
	if c.values != nil {
		nearer(c.values.Deadline())
	}
	return deadline, ok
}

// Done returns a channel that is closed when the task is cancelled, its runtime closes, or it ends; a
// handler's when its server has ended.
// To wait on it from a task would block the worker: use it to hand the Context to other goroutines.
// Any goroutine.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil && c.err.Load() != nil {
		c.done = closedDone // closeDone has been, or comes and finds it so
	} else if c.done == nil {
		c.done = make(chan struct{})
	}
	return c.done
}

// closedDone is Done of those that had ended before anybody asked.
var closedDone = func() chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// Err returns nil until Done is closed, then context.Canceled, ErrClosed (the runtime closed), a
// *TimeoutError or the error of the context.Context that the task was started with. Any goroutine.
func (c *Context) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Value returns what the context given to the server or to WithContext holds for key. Any goroutine.
func (c *Context) Value(key any) any {
	if key == (contextKey{}) {
		return c
	}
	if c.values != nil {
		return c.values.Value(key)
	}
	return nil
}

// Worker returns the index of the worker, 0 to Runtime.Workers()-1. Any goroutine.
func (c *Context) Worker() int { return c.w.id }

// Runtime returns the runtime. Any goroutine.
func (c *Context) Runtime() *Runtime { return c.w.rt }

// cancel ends the context, and those of all that is within it: inner parts of the task, and the
// children of its scopes. It wakes the task, which sees err where it waits. Worker only.
func (c *Context) cancel(err error) {
	if c.end(err) {
		c.spread(err)
	}
}

// spread is what follows the end of c: that of the parts within, and a look by the task.
func (c *Context) spread(err error) {
	if c.t == nil {
		return
	}
	if part := c.t.part; part != nil {
		for ; part != c; part = part.inner.outer {
			part.end(err)
		}
	}
	c.w.wake(c.t)
}

// end is cancel of this one alone, and of the children of its scope.
func (c *Context) end(err error) bool {
	if !c.err.CompareAndSwap(nil, &err) {
		return false
	}
	c.closeDone()
	if c.inner != nil && c.inner.scope != nil {
		c.inner.scope.cancelChildren(err)
	}
	return true
}

// cancelUnbegun ends the context of a task that no worker has yet, or of a server's callbacks. Any
// goroutine.
func (c *Context) cancelUnbegun(err error) {
	if c.err.CompareAndSwap(nil, &err) {
		c.closeDone()
	}
}

// finish ends the context of a task that has ended, for goroutines that were handed it.
func (c *Context) finish() {
	if c.err.CompareAndSwap(nil, &errEnded) {
		c.closeDone()
	}
}

// errEnded is what the Context of an ended task says; a variable, to be pointed at.
var errEnded = context.Canceled

func (c *Context) closeDone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done != nil && c.done != closedDone {
		close(c.done)
	}
}

// Yield lets the worker's other tasks have their turn, and its completions after at most 4096
// resumes. It returns what the Context's Err is then. Worker only.
func (c *Context) Yield() error {
	t, err := c.task()
	if err != nil {
		return err
	}
	t.queued = true
	c.w.runq.push(t)
	// As park does, without the frame: see runSome.
	t.parked = true
	if debugtag.Enabled {
		t.notePark()
	}
	if !t.co.yield(struct{}{}) {
		runtime.Goexit()
	}
	return t.err()
}

// Sleep parks the task for at least d, to the next tick of the worker's timer wheel (1.05 ms). It
// returns early with the Context's Err. Worker only.
func (c *Context) Sleep(d time.Duration) error {
	t, err := c.task()
	if err != nil {
		return err
	}
	if d <= 0 {
		return c.Yield()
	}
	var s sleeper
	s.init(c.w, t)
	c.w.timers.add(&s.timer, c.w.timers.after(d))
	for !s.fired && t.err() == nil {
		t.park()
	}
	c.w.timers.remove(&s.timer)
	return t.err()
}

// task returns the running task if the caller is it: parking is for the worker's own tasks.
func (c *Context) task() (*task, error) {
	if !c.w.here() {
		return nil, c.w.elsewhere()
	}
	return c.taskHere()
}

// taskHere is task for a caller that is known to be on the worker.
func (c *Context) taskHere() (*task, error) {
	if c.t == nil || c.w.running != c.t {
		return nil, ErrNotTask
	}
	err := c.Err()
	if err == nil {
		err = c.t.err()
	}
	if err != nil {
		c.w.giveWay()
		return nil, err
	}
	return c.t, nil
}

// elsewhere is what a caller gets who is not on the worker.
func (w *worker) elsewhere() error {
	if w.ended.Load() {
		return ErrClosed
	}
	return ErrWrongWorker
}

// here reports whether the caller runs on the worker: its own goroutine, or the coroutine that it
// is resuming now. Where goroutines can't be told apart it says yes.
func (w *worker) here() bool {
	return !gid.Supported || w.currentG.Load() == gid.Get()
}
