package veloq

// Bounds in time and by a context.Context: Timeout for a part of a task, WithContext for all of
// one.

import (
	"context"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/wheel"
)

// TimeoutError is what waits end with whose Timeout has passed; those of a Stream inside a
// *net.OpError. It is a net.Error that timed out, and for errors.Is both os.ErrDeadlineExceeded and
// context.DeadlineExceeded.
type TimeoutError struct {
	After time.Duration // what Timeout was given
}

// Error implements error.
func (e *TimeoutError) Error() string { return fmt.Sprintf("veloq: timed out after %v", e.After) }

// Timeout implements net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// Temporary implements net.Error.
func (e *TimeoutError) Temporary() bool { return true }

// Is implements errors.Is.
func (e *TimeoutError) Is(target error) bool {
	return target == os.ErrDeadlineExceeded || target == context.DeadlineExceeded
}

// Timeout runs fn in the calling task and gives it d: once that has passed, to the next tick (1.05
// ms), every wait of fn, and of the scopes in it, ends with a *TimeoutError, whichever Context or
// Stream it is on, and kernel operations that it waits for are cancelled. It returns what fn
// returns, also when that is nil and late: nothing interrupts code that does not wait. A Timeout in
// a Timeout ends at the earlier of both, and what fn made outlives it.
//
// fn's Context has that deadline, for goroutines that it is handed to; it ends with fn. Worker
// only. Blocks (as fn does).
func Timeout(c *Context, d time.Duration, fn func(c *Context) error) error {
	t, err := c.task()
	if err != nil {
		return err
	}
	p := &struct {
		ctx   Context
		inner inner
		bound bound
	}{}
	in, b := &p.ctx, &p.bound
	p.inner.bound = b
	b.c, b.err, b.at = in, &TimeoutError{After: d}, time.Now().Add(d)
	b.timer.Fire = fireBound
	t.enter(in, &p.inner, c)
	ts := &c.w.timers
	defer func() {
		ts.remove(&b.timer)
		t.leave(in)
	}()
	if d > 0 {
		ts.add(&b.timer, ts.after(d))
	} else {
		in.cancel(b.err)
	}
	return fn(in)
}

// bound is when a Context ends by itself.
type bound struct {
	timer wheel.Timer // first: fireBound finds the bound by its address
	c     *Context
	err   error
	at    time.Time
}

func fireBound(t *wheel.Timer, _ int64) {
	b := (*bound)(unsafe.Pointer(t))
	b.c.cancel(b.err)
}

// WithContext returns a Spawner whose tasks belong to ctx as well as to s: their Context has its
// values (and not those of s) and its Deadline, and when ctx is done it ends with ctx's error, so
// that every wait of theirs does. For calls in the blocking pool ctx is the parent of theirs. Any
// goroutine; the result may be used by who may use s.
func WithContext(ctx context.Context, s Spawner) Spawner { return contextSpawner{ctx, s} }

type contextSpawner struct {
	ctx context.Context
	s   Spawner
}

// submit implements Spawner.
func (cs contextSpawner) submit(t *task, target int) error {
	cs.bind(t)
	return cs.s.submit(t, target)
}

// lend implements Spawner.
func (cs contextSpawner) lend(job *blockingJob) error {
	if job.parent == nil {
		job.parent = cs.ctx
	}
	return cs.s.lend(job)
}

// bind ties t to the context, unless a WithContext outside of this one has tied it.
func (cs contextSpawner) bind(t *task) {
	if t.ctx.values != nil {
		return
	}
	t.ctx.values = cs.ctx
	if cs.ctx.Done() != nil {
		t.follows = &follower{ctx: cs.ctx}
	}
}

// follower ends a task's Context with the context.Context that the task was started with.
type follower struct {
	ctx  context.Context
	stop func() bool
}

// begin is for the worker that the task has arrived on.
func (f *follower) begin(t *task) {
	if err := f.ctx.Err(); err != nil {
		t.ctx.cancel(err)
		return
	}
	w := t.ctx.w
	f.stop = context.AfterFunc(f.ctx, func() {
		w.post(&note{do: func(*worker) { t.ctx.cancel(f.ctx.Err()) }})
	})
}

func (f *follower) end() {
	if f.stop != nil {
		f.stop()
	}
}
