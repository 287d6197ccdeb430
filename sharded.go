package veloq

// Sharded: one value on each worker, and ways to get at all of them.

import "context"

// Sharded holds one value of type T for each worker, which only that worker's tasks and handlers
// touch: no lock, and no line of memory that two threads write.
type Sharded[T any] struct {
	rt     *Runtime
	values []*T // each allocated by its worker
}

// NewSharded makes a value on every worker of rt by calling fn there, in a task. An error of fn, or of
// a task that can't be started, is returned, and the values that were made are dropped. Any
// goroutine, never a task. Blocks.
func NewSharded[T any](rt *Runtime, fn func(c *Context) (T, error)) (*Sharded[T], error) {
	s := &Sharded[T]{rt: rt, values: make([]*T, len(rt.workers))}
	handles := make([]*JoinHandle[*T], len(rt.workers))
	for i := range handles {
		handles[i] = SpawnTo(rt, i, func(c *Context) (*T, error) {
			v, err := fn(c)
			return &v, err
		})
	}
	var failed error
	for i, h := range handles {
		v, err := h.Wait(context.Background())
		if err != nil && failed == nil {
			failed = err
		}
		s.values[i] = v
	}
	if failed != nil {
		return nil, failed
	}
	return s, nil
}

// Local returns the value of the caller's worker, which stays the worker's. Worker only: elsewhere it
// returns nil.
func (s *Sharded[T]) Local(c *Context) *T {
	if c.w.rt != s.rt || !c.w.here() {
		return nil
	}
	return s.values[c.w.id]
}

// Do runs fn with the value of that worker, there, as a task; it parks the caller until fn has
// returned, and returns fn's error. On the caller's own worker fn is called at once. Other errors:
// ErrNoWorker, Join's. When the caller is cancelled it returns and fn goes on. v is the
// worker's: fn must not keep it. Worker only.
func (s *Sharded[T]) Do(c *Context, worker int, fn func(c *Context, v *T) error) error {
	_, err := Ask(c, s, worker, func(c *Context, v *T) (struct{}, error) { return struct{}{}, fn(c, v) })
	return err
}

// Ask is Sharded.Do with a result. Worker only.
func Ask[T, R any](c *Context, s *Sharded[T], worker int, fn func(c *Context, v *T) (R, error)) (R, error) {
	var zero R
	if c.w.rt != s.rt {
		return zero, ErrWrongWorker
	}
	if worker == c.w.id {
		if !c.w.here() {
			return zero, c.w.elsewhere()
		}
		return fn(c, s.values[worker])
	}
	return askHandle(c, s, worker, fn).Join(c)
}

func askHandle[T, R any](c *Context, s *Sharded[T], worker int, fn func(c *Context, v *T) (R, error)) *JoinHandle[R] {
	return SpawnTo(c, worker, func(c *Context) (R, error) { return fn(c, s.values[c.w.id]) })
}

// MapReduce runs fn with every worker's value, there, all at the same time, and joins the results in
// the order of the workers: reduce(reduce(r0, r1), r2) and so on, on the caller's worker. It waits
// for all of them. The error is the first worker's that failed; reduce is not called then. Worker only.
func MapReduce[T, R any](c *Context, s *Sharded[T], fn func(c *Context, v *T) (R, error), reduce func(a, b R) R) (R, error) {
	var sum R
	if c.w.rt != s.rt {
		return sum, ErrWrongWorker
	}
	handles := make([]*JoinHandle[R], len(s.values))
	for i := range handles {
		handles[i] = askHandle(c, s, i, fn)
	}
	var failed error
	for i, h := range handles {
		r, err := h.Join(c)
		switch {
		case err != nil:
			if failed == nil {
				failed = err
			}
		case i == 0:
			sum = r
		default:
			sum = reduce(sum, r)
		}
	}
	if failed != nil {
		var zero R
		return zero, failed
	}
	return sum, nil
}
