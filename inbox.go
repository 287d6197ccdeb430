package veloq

// How work reaches a worker from elsewhere: its inbox, from goroutines; the mesh, from other workers.

import (
	"context"
	"sync/atomic"
)

// A note is one entry of an inbox. Exactly one of its fields says what to do.
type note struct {
	next   *note
	start  *task
	wake   *task
	cancel *task // by its own handle
	do     func(*worker)
}

// inbox is a lock-free stack that many push to and one worker empties.
type inbox struct {
	head atomic.Pointer[note]
	// starts counts the tasks that wait in it; those are bounded, wakes are by what they wake.
	starts atomic.Int64
}

func (b *inbox) push(n *note) {
	for {
		head := b.head.Load()
		n.next = head
		if b.head.CompareAndSwap(head, n) {
			return
		}
	}
}

// takeAll empties the inbox and returns its notes, oldest first.
func (b *inbox) takeAll() *note {
	if b.head.Load() == nil {
		return nil
	}
	n := b.head.Swap(nil)
	var oldest *note
	for n != nil {
		n.next, oldest, n = oldest, n, n.next
	}
	return oldest
}

// post puts a note into the worker's inbox and wakes the worker if it sleeps. It reports false when
// the worker has ended, and nothing was posted. Any goroutine.
func (w *worker) post(n *note) bool {
	// While posters is up the worker's driver, and its doorbell with it, stays.
	w.posters.Add(1)
	defer w.posters.Add(-1)
	if w.ended.Load() {
		return false
	}
	w.inbox.push(n)
	w.knock()
	return true
}

// knock wakes the worker if it sleeps, and reports whether it did.
func (w *worker) knock() bool {
	if !w.driver.Doorbell.Claim() {
		return false
	}
	w.wakes.Add(1)
	w.driver.Doorbell.Ring()
	return true
}

// postStart is post for a new task, of which only so many may wait.
func (w *worker) postStart(t *task) error {
	if w.inbox.starts.Add(1) > int64(w.rt.config.InboxLimit) {
		w.inbox.starts.Add(-1)
		return ErrFull
	}
	if !w.post(&note{start: t}) {
		w.inbox.starts.Add(-1)
		return ErrClosed
	}
	return nil
}

// takeNotes returns what is left of the notes that were taken before, or new ones.
func (w *worker) takeNotes() *note {
	if n := w.inboxRest; n != nil {
		w.inboxRest = nil
		return n
	}
	return w.inbox.takeAll()
}

// drainInbox carries out what goroutines posted.
func (w *worker) drainInbox() {
	n := w.takeNotes()
	for range notesPerTurn {
		if n == nil {
			return
		}
		next := n.next // before n is carried out, which may post it again
		switch {
		case n.start != nil:
			w.inbox.starts.Add(-1)
			w.arrive(n.start)
		case n.wake != nil:
			w.wake(n.wake)
		case n.cancel != nil:
			n.cancel.dropped.Store(true)
			n.cancel.ctx.cancel(context.Canceled)
		case n.do != nil:
			n.do(w)
		}
		n = next
	}
	if w.inboxRest = n; n != nil {
		w.stats.budgetInbox++
	}
}

// arrive starts a task from elsewhere, or ends it unstarted where the worker is stopping.
func (w *worker) arrive(t *task) {
	if w.stopping {
		t.failure = ErrClosed
		t.ended = true
		w.load.Add(-1)
		w.tellEnd(t)
		return
	}
	w.start(t)
}
