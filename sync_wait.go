package veloq

// How callers wait for things that tasks of any worker and goroutines share: claimants, their
// places in queues, and the one claim that ends a wait.

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/veloq/veloq/internal/gid"
)

// A claimant is one caller that waits, in one queue or, for a Select, in several. Whoever has what
// it waits for claims it and hands that over; it may also give up. The first of these holds, so
// nothing is handed to a caller that has left, and no caller leaves with what it was handed.
type claimant struct {
	won atomic.Int32 // 0 while it waits, 1 + the place's index once claimed, gaveUp
	waiter
}

// A waiter is how a claimant is woken. Who claims copies it under the lock: after that the claimant
// may be in its next wait, or another's.
type waiter struct {
	w     *worker
	t     *task         // nil for a goroutine
	woken chan struct{} // a goroutine's, with room for one
}

const gaveUp = -1

// A place is a claimant's entry in one queue, and like the queue guarded by the lock of the object
// that has it. Claims are made under that lock, with what is handed over: a claimant that was
// claimed takes the lock once, by leave, before it looks.
type place struct {
	by         *claimant
	of         Case
	err        error // handed over: what the case ends with
	next, prev *place
	index      int32
	queued     bool
}

// A Case is one of the things that Select can wait for: a *JoinHandle, *Mutex, *Notify, *Oneshot or
// *Ticker, what Chan.RecvCase and SendCase return, or what Context.After does.
type Case interface {
	// begin takes what the case is about if it is there now. If not, and p is not nil, p is queued.
	// With p it takes nothing that p's claimant could not claim for itself first. from is the
	// worker that calls, nil for goroutines.
	begin(from *worker, p *place) (done bool, err error)
	// leave takes p off the queue if it is still there.
	leave(p *place)
	// undo passes on what p was handed, for a task that is unwound before it could take it.
	undo(p *place)
}

// claim ends the wait in favour of p.
func (p *place) claim() bool { return p.by.won.CompareAndSwap(0, p.index+1) }

// wake makes a claimed caller run; without a caller it does nothing. from is the worker that calls,
// nil where that can't be told.
func (wt waiter) wake(from *worker) {
	switch {
	case wt.t == nil && wt.woken == nil:
	case wt.t == nil:
		select {
		case wt.woken <- struct{}{}:
		default: // it has one already, and looks again after it
		}
	case from != nil && from == wt.w:
		from.wake(wt.t)
	case from != nil:
		wt.w.send(from, message{kind: messageWake, t: wt.t})
	case gid.Supported && wt.w.here():
		wt.w.wake(wt.t)
	default:
		wt.w.post(&note{wake: wt.t})
	}
}

// waitQueue is a FIFO of places.
type waitQueue struct{ head, tail *place }

func (q *waitQueue) push(p *place) {
	p.queued, p.next, p.prev = true, nil, q.tail
	if q.tail == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
}

func (q *waitQueue) remove(p *place) {
	if !p.queued {
		return
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		q.head = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		q.tail = p.prev
	}
	p.queued, p.next, p.prev = false, nil, nil
}

// claimFirst takes the first place off the queue whose claimant still waits, and claims it.
func (q *waitQueue) claimFirst() *place {
	for {
		p := q.head
		if p == nil {
			return nil
		}
		q.remove(p)
		if p.claim() {
			return p
		}
	}
}

// claimAll claims every claimant that waits, all with err.
func (q *waitQueue) claimAll(err error) (claimed []waiter) {
	for p := q.claimFirst(); p != nil; p = q.claimFirst() {
		p.err = err
		claimed = append(claimed, p.by.waiter)
	}
	return claimed
}

func wakeAll(claimed []waiter, from *worker) {
	for _, wt := range claimed {
		wt.wake(from)
	}
}

// caller finds out who calls with ctx: a task (t and its worker) or a goroutine (neither). The
// error is why that caller can't wait now.
func caller(ctx context.Context) (w *worker, t *task, err error) {
	c, ok := ctx.(*Context)
	if !ok {
		c, ok = FromContext(ctx)
	}
	if !ok || !c.w.here() {
		return nil, nil, ctx.Err()
	}
	if t, err = c.taskHere(); err == nil && context.Context(c) != ctx {
		err = ctx.Err()
	}
	return c.w, t, err
}

// waitFor waits for one case.
func waitFor(ctx context.Context, of Case) error {
	w, t, err := caller(ctx)
	if err != nil {
		return err
	}
	return waitAs(ctx, w, t, of)
}

// waitAs is waitFor of a caller that is known.
func waitAs(ctx context.Context, w *worker, t *task, of Case) (err error) {
	var cl *claimant
	var p *place
	if t == nil {
		if err := mayBlock(); err != nil {
			return err
		}
		cl = &claimant{waiter: waiter{woken: make(chan struct{}, 1)}}
		p = &place{}
	} else {
		cl, p = &t.co.claimant, &t.co.place
		cl.waiter = waiter{w: w, t: t}
		cl.won.Store(0)
	}
	p.by, p.of, p.err = cl, of, nil
	if done, err := of.begin(w, p); done || err != nil {
		p.of = nil
		return err
	}
	unwound := true
	defer func() {
		if unwound && !cl.giveUp() {
			of.leave(p)
			of.undo(p)
		} else {
			of.leave(p)
			if err == nil {
				err = p.err
			}
		}
		p.of = nil
	}()
	err = cl.await(ctx)
	unwound = false
	return err
}

// giveUp ends the wait without a claim; false if there was one.
func (cl *claimant) giveUp() bool { return cl.won.CompareAndSwap(0, gaveUp) }

// await waits until the claimant is claimed, or gives up with the error that made it.
func (cl *claimant) await(ctx context.Context) error {
	if cl.t == nil {
		return cl.block(ctx)
	}
	t := cl.t
	given := ctx // a Context of the task's says all by itself
	if _, ok := ctx.(*Context); ok {
		given = nil
	} else {
		w := cl.w
		stop := context.AfterFunc(ctx, func() { w.post(&note{wake: t}) })
		defer stop()
	}
	for cl.won.Load() == 0 {
		err := t.err()
		if err == nil && given != nil {
			err = given.Err()
		}
		if err == nil {
			t.park()
		} else if cl.giveUp() {
			return err
		}
	}
	return nil
}

func (cl *claimant) block(ctx context.Context) error {
	for cl.won.Load() == 0 {
		select {
		case <-cl.woken:
		case <-ctx.Done():
			if cl.giveUp() {
				return ctx.Err()
			}
		}
	}
	return nil
}

// workers are those of all runtimes, for mayBlock alone.
var workers struct {
	mu  sync.Mutex
	all atomic.Pointer[[]*worker]
}

// noteWorkers adds a runtime's workers to those of all, or takes them off.
func noteWorkers(list []*worker, there bool) {
	workers.mu.Lock()
	defer workers.mu.Unlock()
	var all []*worker
	if old := workers.all.Load(); old != nil {
		for _, w := range *old {
			if len(list) == 0 || w.rt != list[0].rt {
				all = append(all, w)
			}
		}
	}
	if there {
		all = append(all, list...)
	}
	workers.all.Store(&all)
}

// mayBlock refuses callers that would block a worker: a task that calls with a context.Context
// which is not its own, or a handler. It costs a look at every worker, and what follows costs far
// more.
func mayBlock() error {
	all := workers.all.Load()
	if !gid.Supported || all == nil {
		return nil
	}
	me := gid.Get()
	for _, w := range *all {
		if w.currentG.Load() == me {
			return ErrNotTask
		}
	}
	return nil
}
