package veloq

// Notify: telling tasks and goroutines that something has changed.

import (
	"context"
	"sync"
)

// Notify wakes those who wait for news. Notify leaves a note where nobody waits, one at most, for
// the next who does: so a caller that waits, looks, and waits again misses nothing. The zero value
// has none. A Notify must not be copied. As a Case of Select it is waited for.
type Notify struct {
	mu      sync.Mutex
	noted   bool
	waiting waitQueue
}

// Notify wakes the first who waits. If nobody does, the next Wait returns at once. Any goroutine.
func (n *Notify) Notify() { n.notify(nil) }

func (n *Notify) notify(from *worker) {
	n.mu.Lock()
	var next waiter
	if p := n.waiting.claimFirst(); p != nil {
		next = p.by.waiter
	} else {
		n.noted = true
	}
	n.mu.Unlock()
	next.wake(from)
}

// NotifyAll wakes all who wait now, and leaves no note. Any goroutine.
func (n *Notify) NotifyAll() {
	n.mu.Lock()
	claimed := n.waiting.claimAll(nil)
	n.mu.Unlock()
	wakeAll(claimed, nil)
}

// Wait waits to be notified. The error is that of the caller's Context, or ErrNotTask. It parks a
// task whose Context ctx is or is derived from, and blocks a goroutine. Any goroutine. Blocks.
func (n *Notify) Wait(ctx context.Context) error { return waitFor(ctx, n) }

// begin implements Case.
func (n *Notify) begin(_ *worker, p *place) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.noted && (p == nil || p.claim()) {
		n.noted = false
		return true, nil
	}
	if p != nil && p.by.won.Load() == 0 {
		n.waiting.push(p)
	}
	return false, nil
}

// leave implements Case.
func (n *Notify) leave(p *place) {
	n.mu.Lock()
	n.waiting.remove(p)
	n.mu.Unlock()
}

// undo implements Case.
func (n *Notify) undo(*place) { n.notify(nil) }
