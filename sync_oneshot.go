package veloq

// Oneshot: one value from one side to the other.

import (
	"context"
	"errors"
	"sync"
)

// Errors of Oneshot.
var (
	// ErrOneshotClosed: it was closed without a value.
	ErrOneshotClosed = errors.New("veloq: oneshot closed without a value")
	// ErrOneshotSent: it has its value already, or was closed.
	ErrOneshotSent = errors.New("veloq: oneshot sent or closed before")
)

// Oneshot carries one value to whoever receives it, each time it is asked. The zero value is empty.
// A Oneshot must not be copied. As a Case of Select it is ready when it is sent or closed: TryRecv
// has the value then.
type Oneshot[T any] struct {
	mu      sync.Mutex
	done    bool
	value   T
	err     error
	waiting waitQueue
}

// Send sets the value. The error is ErrOneshotSent if there was one before, or it was closed. Any
// goroutine.
func (o *Oneshot[T]) Send(value T) error { return o.finish(value, nil) }

// Close says that no value will come: receivers get ErrOneshotClosed. After Send it does nothing.
// Any goroutine.
func (o *Oneshot[T]) Close() {
	var none T
	_ = o.finish(none, ErrOneshotClosed) // the value that is there stays
}

func (o *Oneshot[T]) finish(value T, err error) error {
	o.mu.Lock()
	if o.done {
		o.mu.Unlock()
		return ErrOneshotSent
	}
	o.done, o.value, o.err = true, value, err
	claimed := o.waiting.claimAll(err)
	o.mu.Unlock()
	wakeAll(claimed, nil)
	return nil
}

// Recv waits for the value. The error is ErrOneshotClosed, that of the caller's Context, or
// ErrNotTask. It parks a task whose Context ctx is or is derived from, and blocks a goroutine. Any
// goroutine. Blocks.
func (o *Oneshot[T]) Recv(ctx context.Context) (T, error) {
	if err := waitFor(ctx, o); err != nil {
		var none T
		return none, err
	}
	return o.value, nil // final, and seen under the lock
}

// TryRecv returns the value, or ErrOneshotClosed, if either is there. Any goroutine.
func (o *Oneshot[T]) TryRecv() (value T, err error, ok bool) { //nolint:revive // ok is last
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.value, o.err, o.done
}

// begin implements Case.
func (o *Oneshot[T]) begin(_ *worker, p *place) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done && (p == nil || p.claim()) {
		return true, o.err
	}
	if p != nil && p.by.won.Load() == 0 {
		o.waiting.push(p)
	}
	return false, nil
}

// leave implements Case.
func (o *Oneshot[T]) leave(p *place) {
	o.mu.Lock()
	o.waiting.remove(p)
	o.mu.Unlock()
}

// undo implements Case.
func (o *Oneshot[T]) undo(*place) {}
