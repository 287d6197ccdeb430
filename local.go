package veloq

// Tasks that are joined on their own worker: handles without atomics.

import (
	"slices"
	"sync/atomic"
)

// LocalHandle is the result to come of a task that SpawnLocal started. It is for its own worker
// alone, and costs less than a JoinHandle.
type LocalHandle[T any] struct {
	task
	fn      func(*Context) (T, error)
	result  T
	err     error
	joiner  *task        // waits in Join
	joiners *[]*task     // the others that do
	joined  *atomic.Bool // after a panic
}

// A LocalSpawner starts tasks on the caller's own worker: *Context and *TaskScope.
type LocalSpawner interface {
	Spawner
	// home is the worker.
	home() *worker
}

// SpawnLocal is Spawn for a task that is joined on its own worker, which is the caller's. Worker
// only.
func SpawnLocal[T any](s LocalSpawner, fn func(*Context) (T, error)) *LocalHandle[T] {
	h := &LocalHandle[T]{fn: fn}
	h.init(h, 1)
	if err := s.submit(&h.task, anyWorker); err != nil {
		h.err, h.ended = err, true
		h.ctx.w = s.home()
		h.ctx.finish()
	}
	return h
}

func (h *LocalHandle[T]) runTask(c *Context) {
	h.result, h.err = h.fn(c)
}

func (h *LocalHandle[T]) outcome() error { return h.err }

func (h *LocalHandle[T]) panicked(rt *Runtime, failure *PanicError) {
	h.joined = reportUnlessJoined(h, rt, failure)
}

// tellJoiners implements joinable.
func (h *LocalHandle[T]) tellJoiners(w *worker) {
	if h.joiner != nil {
		w.wake(h.joiner)
	}
	if h.joiners != nil {
		for _, t := range *h.joiners {
			w.wake(t)
		}
	}
}

// Join parks the task until the other one has ended and returns its result, as JoinHandle.Join
// does. The error is ErrWrongWorker on another worker than the task's. Worker only. Blocks.
func (h *LocalHandle[T]) Join(c *Context) (T, error) {
	var zero T
	t, err := c.task()
	switch {
	case err != nil:
		return zero, err
	case h.ctx.w != c.w:
		return zero, ErrWrongWorker
	case t == &h.task:
		return zero, ErrJoinSelf
	}
	if !h.ended {
		if err := h.await(t); err != nil {
			return zero, err
		}
	}
	return h.take()
}

func (h *LocalHandle[T]) await(t *task) error {
	if h.joiner == nil {
		h.joiner = t
		defer func() { h.joiner = nil }()
	} else {
		if h.joiners == nil {
			h.joiners = &[]*task{}
		}
		list := h.joiners
		*list = append(*list, t)
		defer func() {
			i := slices.Index(*list, t)
			*list = slices.Delete(*list, i, i+1)
		}()
	}
	for !h.ended {
		if err := t.err(); err != nil {
			return err
		}
		t.park()
	}
	return nil
}

// TryResult returns the result if the task has ended. ErrWrongWorker, with ok, says that the caller
// is elsewhere. Worker only.
func (h *LocalHandle[T]) TryResult() (result T, err error, ok bool) { //nolint:revive // ok is last
	if !h.ctx.w.here() {
		return result, h.ctx.w.elsewhere(), true
	}
	if !h.ended {
		return result, nil, false
	}
	result, err = h.take()
	return result, err, true
}

// Cancel cancels the task's Context, as JoinHandle.Cancel does. Any goroutine.
func (h *LocalHandle[T]) Cancel() { cancelTask(&h.task) }

func (h *LocalHandle[T]) take() (T, error) {
	if h.failure != nil {
		if h.joined != nil {
			h.joined.Store(true)
		}
		var zero T
		return zero, h.failure
	}
	return h.result, h.err
}
