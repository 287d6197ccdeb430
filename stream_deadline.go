package veloq

// Deadlines of a Stream or a Datagram, and the bound on a closing one.

import (
	"os"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/wheel"
)

// deadlines are the timers of one stream or datagram socket, made when the first is set.
type deadlines struct {
	read, write deadline
	closing     deadline
}

// A deadline is one timer of them. Moving it later leaves the wheel alone: when the timer fires
// too early it is put off then, so that setting one before every read costs a store.
type deadline struct {
	timer  wheel.Timer // first: fireDeadline finds the deadline by its address
	w      *worker
	owner  deadlineOwner
	when   int64 // on the workers' clock; 0 for none
	passed bool
}

// A deadlineOwner is what has deadlines: a Stream or a Datagram.
type deadlineOwner interface {
	// passed hears that the deadline of that kind has come.
	passed(kind uint8)
}

// What a deadline's timer does, in its Kind.
const (
	deadlineRead = iota
	deadlineWrite
	deadlineClose
)

func (s *Stream) timersOf() *deadlines {
	if s.deadline == nil {
		s.deadline = newDeadlines(s.w, s)
	}
	return s.deadline
}

func newDeadlines(w *worker, owner deadlineOwner) *deadlines {
	d := &deadlines{}
	for kind, one := range []*deadline{&d.read, &d.write, &d.closing} {
		one.w, one.owner = w, owner
		one.timer.Fire = fireDeadline
		one.timer.Kind = uint8(kind)
	}
	return d
}

// SetDeadline sets both deadlines: see SetReadDeadline and SetWriteDeadline. Worker only.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline makes reads that wait at t, and later ones, fail with os.ErrDeadlineExceeded; the
// zero time takes it away. It is absolute, to the next tick (1.05 ms), and wakes a read that waits
// now. While it has passed every read fails, also where bytes are there, as package net has it; none
// are lost: set a later one and read on. In a handler a passed read
// deadline closes the stream. Worker only.
func (s *Stream) SetReadDeadline(t time.Time) error {
	if err := s.check("set"); err != nil {
		return err
	}
	if s.deadline == nil && t.IsZero() {
		return nil
	}
	s.timersOf().read.set(t)
	return nil
}

// SetWriteDeadline is SetReadDeadline for writes. A write that was sent in part returns how much.
// Worker only.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	if err := s.check("set"); err != nil {
		return err
	}
	if s.deadline == nil && t.IsZero() {
		return nil
	}
	s.timersOf().write.set(t)
	return nil
}

func (d *deadline) set(t time.Time) {
	d.passed = false
	ts := &d.w.timers
	if t.IsZero() {
		d.when = 0
		return
	}
	left := time.Until(t)
	d.when = ts.after(left)
	if left <= 0 {
		d.pass()
		return
	}
	if !d.timer.Pending() || d.timer.When() > d.when {
		ts.add(&d.timer, d.when)
	}
}

func fireDeadline(t *wheel.Timer, now int64) {
	d := (*deadline)(unsafe.Pointer(t))
	switch {
	case d.when == 0:
	case d.when > now:
		d.w.timers.add(t, d.when)
	default:
		d.pass()
	}
}

func (d *deadline) pass() {
	d.passed = true
	d.owner.passed(d.timer.Kind)
}

// passed implements deadlineOwner.
func (s *Stream) passed(kind uint8) {
	switch kind {
	case deadlineRead:
		s.w.wake(s.recv.reader)
		if s.handled && !s.closed {
			s.close(s.opError("read", os.ErrDeadlineExceeded))
		}
	case deadlineWrite:
		s.w.wake(s.send.writer)
		s.send.wakeQueue(s.w)
	case deadlineClose:
		s.abandon()
	}
}

// boundClose limits how long a closed stream goes on sending.
func (s *Stream) boundClose() { s.timersOf().boundClose() }

func (d *deadlines) boundClose() {
	if one := &d.closing; one.when == 0 {
		one.when = one.w.timers.after(one.w.rt.config.CloseTimeout)
		one.w.timers.add(&one.timer, one.when)
	}
}

func (s *Stream) clearDeadlines() { s.deadline.clear() }

// clear stops the timers. A nil d has none.
func (d *deadlines) clear() {
	if d != nil {
		d.read.w.timers.remove(&d.read.timer)
		d.read.w.timers.remove(&d.write.timer)
		d.read.w.timers.remove(&d.closing.timer)
	}
}
