package rudp

// This file changes if how bytes are sent from where they lie does.

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"

	"github.com/veloq/veloq"
)

// lendMin is the fewest bytes that are lent: to copy less is cheaper than to keep track of it, and
// it bounds how many loans a send buffer can be full of.
const lendMin = 2 << 10

// lent is bytes of somebody else's in a stream's send buffer.
type lent struct {
	next    *lent
	before  uint64 // how many bytes of the ring come first
	start   uint64 // in the stream; known once the core has it
	data    []byte
	lease   veloq.Lease // instead of free
	free    func()
	isLease bool
}

var lents = sync.Pool{New: func() any { return new(lent) }}

func (l *lent) end() uint64 { return l.start + uint64(len(l.data)) }

// giveBack ends the loan: the bytes are not looked at any more.
func (l *lent) giveBack() {
	switch {
	case l.isLease:
		l.lease.Release()
	case l.free != nil:
		l.free()
	}
	*l = lent{}
	lents.Put(l)
}

// keepCopy has the loan live on without the lease, which is another's receive buffer.
func (l *lent) keepCopy() {
	l.data = bytes.Clone(l.data)
	l.lease.Release()
	l.isLease, l.lease = false, veloq.Lease{}
}

// lentStack is loans on their way to the actor, the newest first.
type lentStack struct{ top atomic.Pointer[lent] }

func (k *lentStack) push(l *lent) {
	for {
		l.next = k.top.Load()
		if k.top.CompareAndSwap(l.next, l) {
			return
		}
	}
}

// take returns all, the oldest first.
func (k *lentStack) take() (list lentList) {
	if k.top.Load() == nil {
		return list
	}
	for l := k.top.Swap(nil); l != nil; {
		next := l.next
		l.next = list.first
		list.first = l
		if list.last == nil {
			list.last = l
		}
		l = next
	}
	return list
}

// lentList is loans in order.
type lentList struct{ first, last *lent }

func (q *lentList) append(other lentList) {
	switch {
	case other.first == nil:
	case q.first == nil:
		*q = other
	default:
		q.last.next = other.first
		q.last = other.last
	}
}

func (q *lentList) pop() *lent {
	l := q.first
	if q.first = l.next; q.first == nil {
		q.last = nil
	}
	l.next = nil
	return l
}

// giveBack ends all of them.
func (q *lentList) giveBack() {
	for q.first != nil {
		q.pop().giveBack()
	}
}

// WriteOwned is Write without the copy: the bytes of p are sent, and sent again, from where they
// lie. So they must stay as they are until free is called, exactly once and also if the call fails:
// when the peer has acknowledged them, when the stream has come to its end, or within the call, since
// less than 2 KiB are copied. free may be nil; it may run on the endpoint's goroutine or worker and
// must not block.
//
// It waits while SendBuffer bytes are unacknowledged, but then takes p whatever its length, so that
// so many bytes more can be. With an error it has taken none of 2 KiB or more. Errors: Write's.
// Blocks.
func (s *Stream) WriteOwned(p []byte, free func()) (int, error) {
	l := lents.Get().(*lent)
	l.data, l.free = p, free
	return s.lend(l)
}

// WriteLease is WriteOwned of a lease's bytes: the caller's hold becomes the stream's, also if the
// call fails. They are sent from where they lie if the stream's endpoint is a worker of the lease's
// runtime (ListenOn), and until the peer is silent or stops reading: then they are copied, so that it
// doesn't keep a worker's receive buffers. On any other endpoint, which may outlive the lease's
// runtime, they are copied at once. Errors: Write's, and net.ErrClosed if the lease's bytes are
// gone. Blocks.
func (s *Stream) WriteLease(held veloq.Lease) (int, error) {
	p := held.Bytes()
	if len(p) != held.Len() {
		held.Release()
		return 0, s.failed("write", net.ErrClosed)
	}
	if seat := s.endpoint.seat; seat == nil || !held.Of(seat.g.rt) {
		defer held.Release()
		return s.Write(p)
	}
	l := lents.Get().(*lent)
	l.data, l.lease, l.isLease = p, held, true
	return s.lend(l)
}

// lend is a write of l, which is the stream's from here on.
func (s *Stream) lend(l *lent) (int, error) {
	n := len(l.data)
	if n < lendMin {
		defer l.giveBack()
		return s.Write(l.data)
	}
	if err := s.handOver(l); err != nil {
		return 0, err
	}
	return n, nil
}

// handOver gives the loan to the actor, or back.
func (s *Stream) handOver(l *lent) error {
	s.writeTurn.Lock()
	defer s.writeTurn.Unlock()
	for {
		if err := s.writable(); err != nil {
			l.giveBack()
			return err
		}
		if s.out.room() > 0 {
			break
		}
		s.awaitRoom()
	}
	l.before = s.out.total
	s.out.hold(len(l.data))
	s.lents.push(l)
	closed := s.isClosed() // else the actor, which looks for that first, sends it before the end
	s.signal()
	if s.writeEnd.Load() != nil { // the actor may have looked for the last time
		late := s.lents.take()
		late.giveBack()
	}
	if closed {
		return s.failed("write", net.ErrClosed) // the actor gives it back
	}
	return nil
}
