package veloq

// Chan: a bounded queue of values between tasks and goroutines.

import (
	"context"
	"errors"
	"sync"
)

// ErrChanClosed is what sending to a closed Chan returns, and receiving from one that is empty too.
var ErrChanClosed = errors.New("veloq: chan closed")

// ErrEmpty: there is nothing to be received now.
var ErrEmpty = errors.New("veloq: chan empty")

// Chan is a queue of up to a number of values, from any senders to any receivers: tasks of all
// workers and goroutines. Values come out in the order they went in, and those who wait have their
// turn in the order of their coming. Unlike a Go channel it parks a task that waits, and always has
// room for at least one value.
type Chan[T any] struct {
	mu                 sync.Mutex
	ring               []T
	head, count        int
	closed             bool
	senders, receivers waitQueue
}

// NewChan makes a Chan for up to capacity values; it panics if that is less than one.
func NewChan[T any](capacity int) *Chan[T] {
	if capacity < 1 {
		panic("veloq: NewChan with a capacity below 1")
	}
	return &Chan[T]{ring: make([]T, capacity)}
}

// Send adds v, after waiting for room. The error is ErrChanClosed, that of the caller's Context, or
// ErrNotTask; v was not sent then. It parks a task whose Context ctx is or is derived from, and
// blocks a goroutine. Any goroutine. Blocks.
func (ch *Chan[T]) Send(ctx context.Context, v T) error {
	w, t, err := caller(ctx)
	if err != nil {
		return err
	}
	if done, err := ch.send(w, &v, nil); done {
		return err
	}
	return waitAs(ctx, w, t, &sendCase[T]{ch: ch, value: v})
}

// TrySend is Send that never waits: ErrFull where it would. Any goroutine.
func (ch *Chan[T]) TrySend(v T) error {
	if done, err := ch.send(nil, &v, nil); done {
		return err
	}
	return ErrFull
}

// Recv takes the next value, after waiting for one. The error is ErrChanClosed once a closed Chan
// is empty, that of the caller's Context, or ErrNotTask. It parks a task whose Context ctx is or is
// derived from, and blocks a goroutine. Any goroutine. Blocks.
func (ch *Chan[T]) Recv(ctx context.Context) (T, error) {
	var v T
	w, t, err := caller(ctx)
	if err != nil {
		return v, err
	}
	if done, err := ch.recv(w, &v, nil); done {
		return v, err
	}
	rc := &recvCase[T]{ch: ch}
	rc.into = &rc.own
	err = waitAs(ctx, w, t, rc)
	return rc.own, err
}

// TryRecv is Recv that never waits: ErrEmpty where it would. Any goroutine.
func (ch *Chan[T]) TryRecv() (v T, err error) {
	done, err := ch.recv(nil, &v, nil)
	if !done {
		err = ErrEmpty
	}
	return v, err
}

// Close ends the sending: senders that wait get ErrChanClosed, receivers what is left and then that
// error. A second Close does nothing. Any goroutine.
func (ch *Chan[T]) Close() {
	ch.mu.Lock()
	ch.closed = true
	claimed := append(ch.senders.claimAll(ErrChanClosed), ch.receivers.claimAll(ErrChanClosed)...)
	ch.mu.Unlock()
	wakeAll(claimed, nil)
}

// Len returns how many values are in ch. Any goroutine.
func (ch *Chan[T]) Len() int {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.count
}

// Cap returns how many values ch has room for. Any goroutine.
func (ch *Chan[T]) Cap() int { return len(ch.ring) }

// RecvCase is Recv into *into as a Case of Select. *into belongs to ch until that Select returns. A
// value that comes while the runtime unwinds the waiting task is lost with it. Any goroutine.
func (ch *Chan[T]) RecvCase(into *T) Case { return &recvCase[T]{ch: ch, into: into} }

// SendCase is Send of v as a Case of Select. Any goroutine.
func (ch *Chan[T]) SendCase(v T) Case { return &sendCase[T]{ch: ch, value: v} }

// send adds *v if there is room, or else queues p, where it is not nil.
func (ch *Chan[T]) send(from *worker, v *T, p *place) (done bool, err error) {
	ch.mu.Lock()
	if !ch.closed && ch.count == len(ch.ring) {
		if p != nil && p.by.won.Load() == 0 {
			ch.senders.push(p)
		}
		ch.mu.Unlock()
		return false, nil
	}
	if p != nil && !p.claim() {
		ch.mu.Unlock()
		return false, nil
	}
	if ch.closed {
		ch.mu.Unlock()
		return true, ErrChanClosed
	}
	// Whoever waits to receive found ch empty: it is next.
	var next waiter
	if to := ch.receivers.claimFirst(); to != nil {
		*to.of.(*recvCase[T]).into = *v
		next = to.by.waiter
	} else {
		ch.push(*v)
	}
	ch.mu.Unlock()
	next.wake(from)
	return true, nil
}

// recv takes a value if there is one, or else queues p, where it is not nil.
func (ch *Chan[T]) recv(from *worker, into *T, p *place) (done bool, err error) {
	ch.mu.Lock()
	if !ch.closed && ch.count == 0 {
		if p != nil && p.by.won.Load() == 0 {
			ch.receivers.push(p)
		}
		ch.mu.Unlock()
		return false, nil
	}
	if p != nil && !p.claim() {
		ch.mu.Unlock()
		return false, nil
	}
	if ch.count == 0 {
		ch.mu.Unlock()
		return true, ErrChanClosed
	}
	*into = ch.pop()
	var next waiter
	if sender := ch.senders.claimFirst(); sender != nil {
		ch.push(sender.of.(*sendCase[T]).value)
		next = sender.by.waiter
	}
	ch.mu.Unlock()
	next.wake(from)
	return true, nil
}

func (ch *Chan[T]) push(v T) {
	at := ch.head + ch.count
	if at >= len(ch.ring) {
		at -= len(ch.ring)
	}
	ch.ring[at] = v
	ch.count++
}

func (ch *Chan[T]) pop() (v T) {
	var none T
	v, ch.ring[ch.head] = ch.ring[ch.head], none
	if ch.head++; ch.head == len(ch.ring) {
		ch.head = 0
	}
	ch.count--
	return v
}

type recvCase[T any] struct {
	ch   *Chan[T]
	into *T
	own  T // what into points at for Recv
}

// begin implements Case.
func (rc *recvCase[T]) begin(from *worker, p *place) (bool, error) {
	return rc.ch.recv(from, rc.into, p)
}

// leave implements Case.
func (rc *recvCase[T]) leave(p *place) {
	rc.ch.mu.Lock()
	rc.ch.receivers.remove(p)
	rc.ch.mu.Unlock()
}

// undo implements Case.
func (rc *recvCase[T]) undo(*place) {}

type sendCase[T any] struct {
	ch    *Chan[T]
	value T
}

// begin implements Case.
func (sc *sendCase[T]) begin(from *worker, p *place) (bool, error) {
	return sc.ch.send(from, &sc.value, p)
}

// leave implements Case.
func (sc *sendCase[T]) leave(p *place) {
	sc.ch.mu.Lock()
	sc.ch.senders.remove(p)
	sc.ch.mu.Unlock()
}

// undo implements Case.
func (sc *sendCase[T]) undo(*place) {}
