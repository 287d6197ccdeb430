package veloq

// Mutex: a lock that tasks may hold while they park.

import (
	"context"
	"sync"
	"sync/atomic"
)

// Mutex is a lock for tasks of all workers and for goroutines. Unlike a sync.Mutex it may be held
// while its holder parks: who waits for it parks too, and its worker goes on. It is handed to those
// who wait in the order of their coming. The zero value is unlocked. A Mutex must not be copied.
//
// It belongs to nobody: a lock is released by whoever calls Unlock. A holder that locks again waits
// for itself. As a Case of Select it is locked.
type Mutex struct {
	state   atomic.Int32
	mu      sync.Mutex // guards waiting, and every change of state to or from mutexWaited
	waiting waitQueue
	holder  *worker // the holder's own worker, nil for a goroutine
}

const (
	mutexFree = iota
	mutexHeld
	mutexWaited // held, and somebody may wait
)

// Lock locks m, after waiting for it where it is held. The error is that of the caller's Context,
// or ErrNotTask from a handler or from a task whose Context ctx is not; m is not locked then. It
// parks a task whose Context ctx is or is derived from, and blocks a goroutine. Any goroutine.
// Blocks.
func (m *Mutex) Lock(ctx context.Context) error {
	w, t, err := caller(ctx)
	if err != nil {
		return err
	}
	if m.state.CompareAndSwap(mutexFree, mutexHeld) {
		m.holder = w
		return nil
	}
	return waitAs(ctx, w, t, m)
}

// TryLock locks m if it is free, and reports whether it did. Any goroutine.
func (m *Mutex) TryLock() bool {
	ok := m.state.CompareAndSwap(mutexFree, mutexHeld)
	if ok {
		m.holder = nil
	}
	return ok
}

// Unlock releases m, or hands it to the first who waits. It panics if m is not locked. Any
// goroutine.
func (m *Mutex) Unlock() {
	from := m.holder
	if m.state.CompareAndSwap(mutexHeld, mutexFree) {
		return
	}
	if from != nil && !from.here() {
		from = nil // released by another than the holder
	}
	m.mu.Lock()
	if m.state.Load() == mutexFree {
		m.mu.Unlock()
		panic("veloq: Unlock of an unlocked Mutex")
	}
	next := m.passOn()
	m.mu.Unlock()
	next.wake(from)
}

// passOn hands the lock to the first who waits, or frees it. The caller holds m.mu, and the lock.
func (m *Mutex) passOn() (next waiter) {
	p := m.waiting.claimFirst()
	if p == nil {
		m.state.Store(mutexFree)
		return waiter{}
	}
	m.holder = p.by.w
	if m.waiting.head == nil {
		m.state.Store(mutexHeld)
	}
	return p.by.waiter
}

// begin implements Case.
func (m *Mutex) begin(from *worker, p *place) (bool, error) {
	if p == nil {
		if m.state.CompareAndSwap(mutexFree, mutexHeld) {
			m.holder = from
			return true, nil
		}
		return false, nil
	}
	m.mu.Lock()
	if m.state.Swap(mutexWaited) != mutexFree {
		m.waiting.push(p)
		m.mu.Unlock()
		return false, nil
	}
	// It is the caller's now, unless another of its cases was claimed: then nobody wants it.
	var next waiter
	done := p.claim()
	if done {
		m.holder = from
		if m.waiting.head == nil {
			m.state.Store(mutexHeld)
		}
	} else {
		next = m.passOn()
	}
	m.mu.Unlock()
	next.wake(from)
	return done, nil
}

// leave implements Case.
func (m *Mutex) leave(p *place) {
	m.mu.Lock()
	m.waiting.remove(p)
	m.mu.Unlock()
}

// undo implements Case.
func (m *Mutex) undo(*place) { m.Unlock() }
