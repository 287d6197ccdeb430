package rudp

// This file changes if how a call waits, or its deadline, does.

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// waiter is where the calls of one direction wait, one at a time. The order is: arm, look at what
// is waited for, wait; who changes it changes it first and then wakes. So no change is missed.
type waiter struct {
	armed    atomic.Bool
	kick     chan struct{}
	deadline atomic.Int64 // a mono.Time, 0: none

	mu    sync.Mutex // of the timer
	timer *time.Timer
}

func (w *waiter) init() { w.kick = make(chan struct{}, 1) }

// wake ends a wait, if there is one. Any goroutine; never blocks.
func (w *waiter) wake() {
	if w.armed.Load() && w.armed.CompareAndSwap(true, false) {
		select {
		case w.kick <- struct{}{}:
		default:
		}
	}
}

// expired says whether the deadline has passed.
func (w *waiter) expired(e *Endpoint) bool {
	at := w.deadline.Load()
	return at != 0 && e.now() >= mono.Time(at)
}

// set changes the deadline and wakes who waits, so that it looks at the new one.
func (w *waiter) set(e *Endpoint, t time.Time) {
	w.mu.Lock()
	if w.timer != nil {
		w.timer.Stop()
	}
	at := int64(0)
	if !t.IsZero() {
		left := time.Until(t)
		at = max(int64(e.now().Add(left)), 1)
		if left > 0 {
			if w.timer == nil {
				w.timer = time.AfterFunc(left, w.wake)
			} else {
				w.timer.Reset(left)
			}
		}
	}
	w.deadline.Store(at)
	w.mu.Unlock()
	w.wake()
}

// stop ends the timer for good measure: nobody waits any more.
func (w *waiter) stop() {
	w.mu.Lock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	w.wake()
}
