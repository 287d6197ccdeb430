package veloq

// Context: a task's (or a worker's handlers') way to everything of its worker.

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/veloq/veloq/internal/gid"
)

// Context is what a task or a handler gets: a context.Context, and the way to its worker's spawner,
// sockets and timers. As a context.Context (Done, Err, Value, Deadline) it is for any goroutine;
// everything else is for the task or handler that it was given to.
type Context struct {
	w      *worker
	t      *task // nil for handlers
	values context.Context

	err  atomic.Pointer[error]
	mu   sync.Mutex // guards the making of done
	done chan struct{}
}

var _ context.Context = (*Context)(nil)

type contextKey struct{}

// FromContext returns the veloq Context that ctx is or was derived from. Any goroutine.
func FromContext(ctx context.Context) (*Context, bool) {
	c, ok := ctx.Value(contextKey{}).(*Context)
	return c, ok
}

// Deadline implements context.Context: a Context has none of its own. Any goroutine.
func (c *Context) Deadline() (deadline time.Time, ok bool) {
	if c.values != nil {
		return c.values.Deadline()
	}
	return time.Time{}, false
}

// Done returns a channel that is closed when the task is cancelled, its runtime closes, or it ends.
// To wait on it from a task would block the worker: use it to hand the Context to other goroutines.
// Any goroutine.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err.Load() != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err returns nil until Done is closed, then context.Canceled or ErrClosed (the runtime closed).
// Any goroutine.
func (c *Context) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Value returns what the context given to Serve holds for key. Any goroutine.
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

// cancel ends the context and wakes the task, which sees err where it waits. Worker only.
func (c *Context) cancel(err error) {
	if !c.err.CompareAndSwap(nil, &err) {
		return
	}
	c.closeDone()
	if c.t != nil {
		c.w.wake(c.t)
	}
}

// cancelUnbegun ends the context of a task that no worker has yet. Any goroutine.
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
	if c.done != nil {
		close(c.done)
	}
}

// Yield lets the worker's other tasks have their turn, and its completions after at most 4096 resumes.
// It returns the Context's Err.
// Worker only.
func (c *Context) Yield() error {
	t, err := c.task()
	if err != nil {
		return err
	}
	t.parked = true
	c.w.wake(t)
	t.park()
	return c.Err()
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
	for !s.fired && c.Err() == nil {
		t.park()
	}
	c.w.timers.remove(&s.timer)
	return c.Err()
}

// task returns the running task if the caller is it: parking is for the worker's own tasks.
func (c *Context) task() (*task, error) {
	if !c.w.here() {
		return nil, c.w.elsewhere()
	}
	if c.t == nil || c.w.running != c.t {
		return nil, ErrNotTask
	}
	if err := c.Err(); err != nil {
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
