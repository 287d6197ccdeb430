package veloq

// The receiving half of a Stream: completions become leases, leases become what a handler or a
// reading task gets.

import (
	"io"
	"net"
	"os"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// receive is the receiving half of a Stream.
type receive struct {
	unread []Lease // arrived and not yet taken, from head on
	err    error   // why no more will come; given after the unread bytes
	reader *task   // parked in a read; its wait says where a Read wants its bytes
	head   int32
	bytes  int32 // in unread; at most ReadLimit and what came before a stop took effect
	taken  int32 // of them, those that Next returned: the next call that reads drops them
	lent   int32 // of them, those that Peek or Next returned: they stay where they are until then
	listed bool  // in w.unread
}

// armRecv starts the receive that goes on by itself, if the stream may receive now.
func (s *Stream) armRecv() {
	if s.recvArmed || s.closed || s.recv.err != nil || s.paused || s.starving || s.connecting != nil ||
		s.readShut || int(s.recv.bytes) >= s.w.rt.config.ReadLimit {
		return
	}
	w := s.w
	sqe := w.stage(core.OpRecv, opRecv, s.slot)
	sqe.FD = s.fd
	sqe.Flags = core.SQEBufferSelect
	sqe.Mode = core.RecvMultishot
	sqe.BufGroup = w.buffers.ring.ID
	s.recvArmed = true
	s.inFlight++
}

// unstarve implements receiver.
func (s *Stream) unstarve() {
	s.starving = false
	s.armRecv()
}

// stopRecv asks for the end of the receive. What arrives before it counts.
func (s *Stream) stopRecv() {
	if s.recvArmed && !s.recvCancel {
		s.recvCancel = true
		s.w.stageCancel(opRecv, s.slot)
	}
}

func (s *Stream) onRecv(res int32, flags uint32) {
	if flags&core.CQEMore == 0 {
		s.recvArmed, s.recvCancel = false, false
		s.inFlight--
	}
	switch {
	case res > 0:
		s.deliver(s.w.buffers.take(core.BufferIndex(flags), res, flags))
	case res == 0:
		if flags&core.CQEBuffer != 0 {
			s.w.buffers.take(core.BufferIndex(flags), 0, flags).Release()
		}
		s.endRecv(io.EOF)
	default:
		s.onRecvError(res)
	}
	if s.closed {
		if !s.recvArmed {
			s.settle()
		}
		return
	}
	if !s.recvArmed {
		if s.paused {
			s.w.wake(s.recv.reader) // which waits for that: Detach
		}
		s.armRecv()
	}
}

func (s *Stream) onRecvError(res int32) {
	switch {
	case undone(res):
		// Armed again, if anything still wants it.
	case res == -core.ErrnoNOBUFS, res == -core.ErrnoNOMEM:
		// To arm again at once would fail at once: wait until buffers come back.
		s.w.stats.noBuffers++
		if !s.closed && !s.starving {
			s.starving = true
			s.w.buffers.starved = append(s.w.buffers.starved, s)
		}
	default:
		s.endRecv(s.sysError("read", core.NameRead, res))
	}
}

// endRecv records why no more bytes will come.
func (s *Stream) endRecv(err error) {
	if s.recv.err == nil {
		s.recv.err = err
	}
	s.w.wake(s.recv.reader)
	if s.handled && !s.paused && s.recv.bytes == 0 {
		s.close(s.recv.err)
	}
}

// deliver passes arrived bytes on; it owns l.
func (s *Stream) deliver(l Lease) {
	r := &s.recv
	switch {
	case s.closed || s.readShut:
		l.Release()
	case s.handled && !s.paused && r.bytes == 0:
		s.tellData(l)
		l.Release()
	case r.reader != nil && r.reader.readInto != nil && r.bytes == 0:
		n := copy(r.reader.readInto, l.Bytes())
		r.reader.readN, r.reader.readInto = n, nil
		if n < l.Len() {
			s.keep(l.Slice(n, l.Len()))
		} else {
			l.Release()
		}
		s.w.wake(r.reader)
	default:
		s.keep(l)
		s.w.wake(r.reader)
	}
}

// keep queues bytes until they are read, and stops the receive where that is enough.
func (s *Stream) keep(l Lease) {
	r := &s.recv
	r.unread = append(r.unread, l)
	r.bytes += int32(l.Len())
	if !r.listed {
		r.listed = true
		s.w.unread = append(s.w.unread, s)
	}
	if int(r.bytes) >= s.w.rt.config.ReadLimit {
		s.stopRecv()
	}
}

// front returns the first unread lease.
func (r *receive) front() *Lease { return &r.unread[r.head] }

// pop takes the first lease, whole, without releasing it.
func (r *receive) pop() Lease {
	l := r.unread[r.head]
	r.unread[r.head] = Lease{}
	r.head++
	r.bytes -= int32(l.Len())
	if int(r.head) == len(r.unread) {
		r.unread, r.head = r.unread[:0], 0
	}
	return l
}

// skip drops the first n unread bytes.
func (r *receive) skip(n int) {
	for n > 0 {
		l := r.front()
		if n < l.Len() {
			*l = l.Slice(n, l.Len())
			r.bytes -= int32(n)
			return
		}
		n -= l.Len()
		r.pop().Release()
	}
}

func (s *Stream) dropUnread() {
	s.recv.taken, s.recv.lent = 0, 0
	s.recv.skip(int(s.recv.bytes))
}

// resumeRecv arms again after a stop for too many unread bytes, once half of them are gone.
func (s *Stream) resumeRecv() {
	if !s.recvArmed && int(s.recv.bytes) <= s.w.rt.config.ReadLimit/2 {
		s.armRecv()
	}
}

// spillUnread copies unread bytes of all streams out of the receive buffers.
func (w *worker) spillUnread() {
	for _, s := range w.unread {
		s.recv.spill()
	}
	w.unlist(func(r *receive) bool { return r.lent > 0 })
}

// spill copies all but the bytes that the user looks at.
func (r *receive) spill() {
	lent := int(r.lent)
	for i := int(r.head); i < len(r.unread); i++ {
		if l := &r.unread[i]; lent > 0 {
			lent -= l.Len()
		} else {
			l.spill()
		}
	}
}

// forget takes streams without unread bytes off the worker's list now and then, so that it doesn't
// keep closed ones alive.
func (w *worker) forgetRead() {
	if len(w.unread) < 2*w.streams+64 {
		return
	}
	w.unlist(func(r *receive) bool { return r.bytes > 0 })
}

// unlist takes streams off the list of those with unread bytes, but for some.
func (w *worker) unlist(keep func(*receive) bool) {
	kept := w.unread[:0]
	for _, s := range w.unread {
		if keep(&s.recv) {
			kept = append(kept, s)
		} else {
			s.recv.listed = false
		}
	}
	clear(w.unread[len(kept):])
	w.unread = kept
}

// startRead is what every call that reads begins with.
func (s *Stream) startRead() error {
	if err := s.check("read"); err != nil {
		return err
	}
	if s.recv.reader != nil {
		return s.opError("read", ErrBusy) // it counts on what is there
	}
	s.recv.lent = 0
	if n := s.recv.taken; n > 0 {
		s.recv.taken = 0
		s.recv.skip(int(n))
		s.resumeRecv()
	}
	return nil
}

// await parks the reading task until there are n unread bytes or the stream has ended. It returns
// the error that the caller must return, nil when the bytes are there, or were copied to dst. A
// deadline that has passed already comes before everything else, as in package net.
func (s *Stream) await(n int, dst []byte) error {
	r := &s.recv
	if s.deadline != nil && s.deadline.read.passed {
		return s.opError("read", os.ErrDeadlineExceeded)
	}
	t := s.w.running
	for int(r.bytes) < n {
		switch {
		case s.closed:
			return s.opError("read", net.ErrClosed)
		case r.err != nil:
			return r.err
		case s.deadline != nil && s.deadline.read.passed:
			return s.opError("read", os.ErrDeadlineExceeded)
		case t == nil:
			return s.opError("read", ErrNotTask)
		}
		if err := t.err(); err != nil {
			return s.opError("read", netError(err))
		}
		s.armRecv() // a stop for too many unread bytes may still hold, and n asks for more
		r.reader, t.readInto, t.readN = t, dst, 0
		t.park()
		r.reader, t.readInto = nil, nil
		if s.closed {
			s.settle() // which waits for readers, also for one that got its bytes before
		}
		if t.readN > 0 {
			return nil
		}
	}
	return nil
}

// Read reads up to len(p) bytes into p, as io.Reader says: it parks the task until there is at least
// one, and copies once. At the end of the stream it returns 0, io.EOF; bytes that arrived before the
// end are returned before it. A deadline that has passed comes first: bytes that are there stay there
// until it is moved. A p of no bytes returns 0, nil. Worker only. Blocks.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.startRead(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.await(1, p); err != nil {
		return 0, err
	}
	if t := s.w.running; t != nil && t.readN > 0 {
		n := t.readN
		t.readN = 0
		return n, nil
	}
	r := &s.recv
	n := 0
	for n < len(p) && r.bytes > 0 {
		m := copy(p[n:], r.front().Bytes())
		r.skip(m)
		n += m
	}
	s.resumeRecv()
	return n, nil
}

// ReadFull reads exactly len(p) bytes: io.ErrUnexpectedEOF when the stream ends within them, io.EOF
// before the first. Worker only. Blocks.
func (s *Stream) ReadFull(p []byte) (int, error) { return io.ReadFull(s, p) }

// ReadLease returns the next bytes that arrived as a lease, without a copy: some bytes, as they came,
// not a message. The caller owns it and must release it. Worker only. Blocks.
func (s *Stream) ReadLease() (Lease, error) {
	if err := s.startRead(); err != nil {
		return Lease{}, err
	}
	if err := s.await(1, nil); err != nil {
		return Lease{}, err
	}
	l := s.recv.pop()
	s.resumeRecv()
	if debugtag.Enabled {
		l.trace(s.w, s.name(), false)
	}
	return l, nil
}

// Peek returns the next n bytes without taking them. They are valid until the next call that reads.
// n may be at most Config.ReadLimit (ErrTooLong). If the stream ends before, or the deadline has
// passed, it returns what there is and the error. Bytes that arrived in several pieces are copied together. Worker only. Blocks.
func (s *Stream) Peek(n int) ([]byte, error) {
	if err := s.startRead(); err != nil {
		return nil, err
	}
	if n > s.w.rt.config.ReadLimit && n > int(s.recv.bytes) {
		return nil, s.opError("read", ErrTooLong)
	}
	if n <= 0 {
		return nil, nil
	}
	err := s.await(n, nil)
	return s.lend(min(n, int(s.recv.bytes))), err
}

// lend returns the first n unread bytes, which stay where they are until the next call that reads.
func (s *Stream) lend(n int) []byte {
	if n == 0 {
		return nil
	}
	s.recv.lent = int32(n)
	return s.recv.join(n)
}

// Next is Peek and Skip in one: the bytes are taken, and valid until the next call that reads.
// Fewer than n come only with an error, and are not taken then. Worker only. Blocks.
func (s *Stream) Next(n int) ([]byte, error) {
	b, err := s.Peek(n)
	if err == nil {
		// Dropped by the next call that reads: until then the bytes stay in place.
		s.recv.taken = int32(len(b))
	}
	return b, err
}

// Skip takes the next n bytes and drops them. It returns how many it dropped: fewer than n only with
// an error. Worker only. Blocks.
func (s *Stream) Skip(n int) (int, error) {
	if err := s.startRead(); err != nil {
		return 0, err
	}
	done := 0
	for done < n {
		if err := s.await(1, nil); err != nil {
			return done, err
		}
		m := min(n-done, int(s.recv.bytes))
		s.recv.skip(m)
		done += m
		s.resumeRecv()
	}
	return done, nil
}

// Buffered returns how many bytes have arrived and were not read yet.
func (s *Stream) Buffered() int { return int(s.recv.bytes - s.recv.taken) }

// join makes the first n unread bytes contiguous and returns them.
func (r *receive) join(n int) []byte {
	if first := r.front(); first.Len() >= n {
		return first.Bytes()[:n]
	}
	joined := make([]byte, 0, n)
	for len(joined) < n {
		l := r.unread[r.head]
		part := l.Bytes()
		if rest := n - len(joined); len(part) > rest {
			joined = append(joined, part[:rest]...)
			r.unread[r.head] = l.Slice(rest, l.Len())
			break
		}
		joined = append(joined, part...)
		r.unread[r.head] = Lease{}
		r.head++
		l.Release()
	}
	if r.head == 0 {
		r.unread = append(r.unread, Lease{})
		copy(r.unread[1:], r.unread)
		r.head = 1
	}
	r.head--
	r.unread[r.head] = Lease{heap: joined}
	return joined
}

// PauseRead stops receiving: nothing more is delivered to the handler until ResumeRead. What arrives
// before the stop reaches the driver is kept: Config.ReadLimit bytes, what the socket's receive buffer
// holds, and at most the worker's free receive buffers. Worker only.
func (s *Stream) PauseRead() error {
	if err := s.check("read"); err != nil {
		return err
	}
	s.paused = true
	s.stopRecv()
	return nil
}

// ResumeRead ends PauseRead. A handler gets what was kept before the next dispatch. Worker only.
func (s *Stream) ResumeRead() error {
	if err := s.check("read"); err != nil {
		return err
	}
	if !s.paused {
		return nil
	}
	s.paused = false
	if s.handled && (s.recv.bytes > 0 || s.recv.err != nil) {
		s.w.resumed = append(s.w.resumed, s)
	}
	s.armRecv()
	return nil
}

// deliverKept gives a handler what was kept while it had paused.
func (s *Stream) deliverKept() {
	for s.recv.bytes > 0 && !s.paused && !s.closed {
		l := s.recv.pop()
		s.tellData(l)
		l.Release()
	}
	if s.paused || s.closed {
		return
	}
	if s.recv.err != nil {
		s.close(s.recv.err)
		return
	}
	s.armRecv()
}

// CloseRead drops what arrives from now on; reads return io.EOF. The peer is not told, as with
// shutdown(2) of TCP's receiving half. Worker only.
func (s *Stream) CloseRead() error {
	if err := s.check("close"); err != nil {
		return err
	}
	if s.closed {
		return s.opError("close", net.ErrClosed)
	}
	s.readShut = true
	s.dropUnread()
	if s.recv.err == nil {
		s.recv.err = io.EOF
	}
	s.w.wake(s.recv.reader)
	s.stopRecv()
	return nil
}
