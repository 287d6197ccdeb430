package veloq

// Deadlines of a Stream, and the bound on a closing one.

import (
	"os"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/wheel"
)

// deadlines are the timers of one stream, made when the first is set.
type deadlines struct {
	read, write deadline
	closing     deadline
}

// A deadline is one timer of a stream. Moving it later leaves the wheel alone: when the timer fires
// too early it is put off then, so that setting one before every read costs a store.
type deadline struct {
	timer  wheel.Timer // first: fireDeadline finds the deadline by its address
	s      *Stream
	when   int64 // on the workers' clock; 0 for none
	passed bool
}

// What a deadline's timer does, in its Kind.
const (
	deadlineRead = iota
	deadlineWrite
	deadlineClose
)

func (s *Stream) timersOf() *deadlines {
	if s.deadline == nil {
		d := &deadlines{}
		for kind, one := range []*deadline{&d.read, &d.write, &d.closing} {
			one.s = s
			one.timer.Fire = fireDeadline
			one.timer.Kind = uint8(kind)
		}
		s.deadline = d
	}
	return s.deadline
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
// now. Bytes that arrived are never lost: set a later one and read on. In a handler a passed read
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
	ts := &d.s.w.timers
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
		d.s.w.timers.add(t, d.when)
	default:
		d.pass()
	}
}

func (d *deadline) pass() {
	s := d.s
	d.passed = true
	switch d.timer.Kind {
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
func (s *Stream) boundClose() {
	d := &s.timersOf().closing
	if d.when == 0 {
		d.when = s.w.timers.after(s.w.rt.config.CloseTimeout)
		s.w.timers.add(&d.timer, d.when)
	}
}

func (s *Stream) clearDeadlines() {
	if d := s.deadline; d != nil {
		s.w.timers.remove(&d.read.timer)
		s.w.timers.remove(&d.write.timer)
		s.w.timers.remove(&d.closing.timer)
	}
}
