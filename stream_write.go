package veloq

// The sending half of a Stream: what Write and its kin do with bytes, and what becomes of them.

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
)

// inlineMax is the most bytes of one stream that a turn copies and sends inline, with the sends of
// every other stream, in one crossing. Larger writes are sent from where they are.
const inlineMax = 16 << 10

// sending is the sending half of a Stream.
type sending struct {
	inlineOff uint32 // in the arena: bytes for this turn's enter
	inlineLen uint32
	sentOff   uint32 // bytes of the last enter, until it is known whether they all went out
	sentLen   uint32
	sentEpoch uint64
	out       *outbound // nil while nothing waits
	failed    error
	direct    direct // the writer's large write
	pin       runtime.Pinner
	writer    *task   // the task that is in a Write
	queue     []*task // those that wait for it
}

// pending returns how many accepted bytes have not been handed to the kernel.
func (s *Stream) pending() int {
	n := int(s.send.inlineLen)
	if s.send.out != nil {
		n += s.send.out.bytes
	}
	return n
}

// unconfirmed reports whether inline bytes wait for an enter, or for the end of the one they were in.
func (s *Stream) unconfirmed() bool {
	return s.send.inlineLen > 0 || (s.send.sentEpoch == s.w.sendEpoch && s.send.sentLen > 0)
}

// Write sends all of p. It returns once the bytes are accepted: copied to go out with this turn's
// other sends, for up to 16 KiB, or sent from p, for more. An error of a send that was accepted
// surfaces on a later Write. While more than Config.WriteHigh bytes wait to be sent, a task's Write
// parks; it honours the write deadline, and n < len(p) comes only with an error.
//
// A handler's Write never waits: it takes what fits under WriteHigh and returns ErrFull for the rest,
// and OnWritable is called when half of it has drained. Worker only. Blocks (in a task).
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.checkWrite(); err != nil {
		return 0, err
	}
	sd := &s.send
	if len(p) <= inlineMax && sd.out == nil && sd.writer == nil && s.appendInline(p) {
		return len(p), nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	t := s.w.running
	if t == nil {
		return s.writeHandler(p)
	}
	if err := s.lockWriter(t); err != nil {
		return 0, err
	}
	defer s.unlockWriter()
	if len(p) <= inlineMax {
		if err := s.awaitRoom(t); err != nil {
			return 0, err
		}
		s.enqueueCopy(p)
		return len(p), nil
	}
	return s.writeDirect(t, p)
}

// WriteString is Write of a string's bytes. Worker only. Blocks (in a task).
func (s *Stream) WriteString(p string) (int, error) {
	return s.Write(unsafe.Slice(unsafe.StringData(p), len(p)))
}

// Writev sends the bytes of all parts, in order and not mixed with other writes. Up to 16 KiB they go
// out as one; more is sent part by part. It returns how many bytes were accepted, as Write does.
// Worker only. Blocks (in a task).
func (s *Stream) Writev(parts [][]byte) (int64, error) {
	total := 0
	for _, p := range parts {
		total += len(p)
	}
	if t := s.w.running; t != nil && s.w.here() && total > inlineMax && s.send.writer != t {
		// One writer throughout, so that the parts stay together.
		if err := s.checkWrite(); err != nil {
			return 0, err
		}
		if err := s.lockWriter(t); err != nil {
			return 0, err
		}
		defer s.unlockWriter()
	}
	var written int64
	for _, p := range parts {
		n, err := s.Write(p)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// WriteLease sends a lease's bytes without copying them (up to 16 KiB they may be copied, which is
// cheaper). It takes a hold of its own: the caller's lease stays the caller's to release, at any
// time. Otherwise as Write. Worker only. Blocks (in a task).
func (s *Stream) WriteLease(l Lease) (int, error) {
	if err := s.checkWrite(); err != nil {
		return 0, err
	}
	n := l.Len()
	sd := &s.send
	if n <= inlineMax && sd.out == nil && sd.writer == nil && s.appendInline(l.Bytes()) {
		return n, nil
	}
	if l.buffer == nil {
		return s.Write(l.heap)
	}
	t := s.w.running
	if t == nil {
		room := s.room()
		if room == 0 {
			return 0, s.full()
		}
		part := min(n, room)
		s.enqueueLease(l.Slice(0, part))
		if part < n {
			return part, s.full()
		}
		return n, nil
	}
	if err := s.lockWriter(t); err != nil {
		return 0, err
	}
	defer s.unlockWriter()
	if err := s.awaitRoom(t); err != nil {
		return 0, err
	}
	s.enqueueLease(l)
	return n, nil
}

// ReadFrom sends what r yields until io.EOF, as io.ReaderFrom says. From another Stream of the same
// worker the bytes are forwarded without a copy. Worker only. Blocks.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	from, ok := r.(*Stream)
	if !ok || from.w != s.w {
		return copyBuffer(s, r)
	}
	var total int64
	for {
		l, err := from.ReadLease()
		if err == io.EOF { //nolint:errorlint // io.EOF comes bare
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := s.WriteLease(l)
		l.Release()
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// copyBuffer is io.Copy without the ReaderFrom that called it.
func copyBuffer(s *Stream, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{s}, r, make([]byte, inlineMax))
}

func (s *Stream) checkWrite() error {
	if err := s.check("write"); err != nil {
		return err
	}
	switch {
	case s.send.failed != nil:
		return s.send.failed
	case s.shutWanted:
		return s.opError("write", os.NewSyscallError("write", syscall.EPIPE))
	case s.deadline != nil && s.deadline.write.passed:
		return s.opError("write", os.ErrDeadlineExceeded)
	}
	return nil
}

// room returns how many bytes a handler may still have accepted.
func (s *Stream) room() int { return max(s.w.rt.config.WriteHigh-s.pending(), 0) }

// full notes that the handler waits for room.
func (s *Stream) full() error {
	s.wantRoom = true
	s.w.stats.writesFull++
	return s.opError("write", ErrFull)
}

func (s *Stream) writeHandler(p []byte) (int, error) {
	n := min(len(p), s.room())
	if n > 0 && (n > inlineMax || s.send.out != nil || !s.appendInline(p[:n])) {
		s.enqueueCopy(p[:n])
	}
	if n < len(p) {
		return n, s.full()
	}
	return n, nil
}

// lockWriter makes t the stream's writer, in turn with the others.
func (s *Stream) lockWriter(t *task) error {
	sd := &s.send
	if sd.writer == nil || sd.writer == t {
		sd.writer = t
		return nil
	}
	sd.queue = append(sd.queue, t)
	defer func() {
		for i, q := range sd.queue {
			if q == t {
				sd.queue = append(sd.queue[:i], sd.queue[i+1:]...)
				break
			}
		}
	}()
	for {
		t.park()
		if err := s.interrupted(t); err != nil {
			return err
		}
		if sd.writer == nil && sd.queue[0] == t {
			sd.writer = t
			return nil
		}
	}
}

func (s *Stream) unlockWriter() {
	sd := &s.send
	sd.writer = nil
	if len(sd.queue) > 0 {
		s.w.wake(sd.queue[0])
	}
	if s.closed {
		s.settle()
	}
}

// interrupted returns why a waiting write must end now.
func (s *Stream) interrupted(t *task) error {
	switch {
	case s.closed:
		return s.opError("write", net.ErrClosed)
	case s.send.failed != nil:
		return s.send.failed
	case s.deadline != nil && s.deadline.write.passed:
		return s.opError("write", os.ErrDeadlineExceeded)
	}
	if err := t.ctx.Err(); err != nil {
		return s.opError("write", netError(err))
	}
	return nil
}

// awaitRoom parks the writer until less than WriteHigh waits to be sent.
func (s *Stream) awaitRoom(t *task) error {
	for s.pending() >= s.w.rt.config.WriteHigh {
		t.park()
		if err := s.interrupted(t); err != nil {
			return err
		}
	}
	return nil
}

// writeDirect sends p from where it is: the task stays parked, and p pinned, until the kernel is
// through with it.
func (s *Stream) writeDirect(t *task, p []byte) (int, error) {
	o := s.openOut()
	s.send.pin.Pin(&p[0])
	defer s.send.pin.Unpin()
	d := &s.send.direct
	*d = direct{}
	o.push(segment{addr: uintptr(unsafe.Pointer(&p[0])), len: len(p), direct: d})
	s.markDirty()
	cancelled := false
	for !d.ended {
		t.park()
		if d.ended {
			break
		}
		if s.interrupted(t) == nil {
			continue
		}
		if !o.busy {
			o.dropDirect(d)
			break
		}
		if !cancelled {
			cancelled = true
			s.w.stageCancel(opSend, s.slot)
		}
	}
	s.shrinkOut()
	if d.sent < len(p) {
		if err := s.interrupted(t); err != nil {
			return d.sent, err
		}
		return d.sent, s.opError("write", io.ErrShortWrite)
	}
	return d.sent, nil
}

// appendInline copies p into the arena, behind the stream's other bytes of this turn. It reports
// false when they don't fit there.
func (s *Stream) appendInline(p []byte) bool {
	sd := &s.send
	a := s.w.arena
	n := uint32(len(p))
	have := sd.inlineLen
	if have+n > inlineMax {
		return false
	}
	switch {
	case have > 0 && sd.inlineOff+have == a.used && a.room() >= n:
		copy(a.mem[a.used:], p)
		a.used += n
	case a.room() < have+n:
		return false
	default:
		copy(a.mem[a.used:], a.mem[sd.inlineOff:sd.inlineOff+have])
		copy(a.mem[a.used+have:], p)
		sd.inlineOff = a.used
		a.used += have + n
	}
	sd.inlineLen = have + n
	s.markDirty()
	return true
}

// markDirty has this turn's flush look at the stream.
func (s *Stream) markDirty() {
	if !s.dirty {
		s.dirty = true
		s.w.dirty = append(s.w.dirty, s)
	}
}

// flush stages what dirty streams have to send: the one place where sends are staged.
func (w *worker) flush() {
	list := w.dirty
	w.dirty = w.dirtySpare[:0]
	for i, s := range list {
		list[i] = nil
		s.dirty = false
		s.stageSend()
	}
	w.dirtySpare = list[:0]
}

func (s *Stream) stageSend() {
	sd := &s.send
	if s.released {
		return
	}
	if sd.failed != nil || s.abandoned {
		sd.inlineLen = 0
		s.dropOut()
		return
	}
	if sd.inlineLen > 0 {
		if sd.sentEpoch == s.w.sendEpoch && sd.sentLen > 0 {
			s.markDirty() // the last inline bytes are not through: next turn
			return
		}
		if sd.out == nil {
			s.stageInline()
			return
		}
		s.moveInline()
	}
	if o := sd.out; o != nil && !o.busy && o.bytes > 0 {
		o.busy = true
		s.inFlight++
		sqe := s.w.stage(core.OpSendMsg, opSend, s.slot)
		sqe.FD = s.fd
		sqe.Addr = o.gather()
		sqe.Len = 1
		sqe.OpFlags = core.MsgNoSignal | core.MsgWaitAll
	}
}

// stageInline sends the turn's bytes: done, or refused, within the enter that submits it.
func (s *Stream) stageInline() {
	sd := &s.send
	sqe := s.w.stage(core.OpSend, opSendInline, s.slot)
	sqe.FD = s.fd
	sqe.Flags = core.SQESkipSuccess
	sqe.Addr = s.w.arena.addr(sd.inlineOff)
	sqe.Len = sd.inlineLen
	sqe.OpFlags = core.MsgDontWait | core.MsgWaitAll | core.MsgNoSignal
	sd.sentOff, sd.sentLen, sd.sentEpoch = sd.inlineOff, sd.inlineLen, s.w.sendEpoch
	sd.inlineLen = 0
	s.w.stats.inlineSends++
	if s.wantRoom || sd.writer != nil {
		s.revisit()
	}
}

// onSendInline hears only of inline sends that fell short: the rest is sent by an op that waits.
func (s *Stream) onSendInline(res int32) {
	sd := &s.send
	s.w.stats.inlineShort++
	sent := uint32(max(res, 0))
	from := s.w.sentArena
	if sd.sentEpoch == s.w.sendEpoch {
		from = s.w.arena // not flipped: some of that enter's submissions are still to go
	}
	rest := from.mem[sd.sentOff+sent : sd.sentOff+sd.sentLen]
	sd.sentLen = 0
	if s.abandoned {
		s.settle()
		return
	}
	if res < 0 && res != -core.ErrnoAGAIN && res != -core.ErrnoINTR {
		s.failSend(res)
		return
	}
	o := s.openOut()
	o.pushFront(rest)
	s.markDirty()
	if s.closed {
		s.boundClose()
	}
}

// onSend takes the completion of the gathered send.
func (s *Stream) onSend(res int32) {
	o := s.send.out
	o.busy = false
	if res > 0 {
		o.advance(int(res))
	} else if res != -core.ErrnoCANCELED && res != -core.ErrnoAGAIN && res != -core.ErrnoINTR {
		s.failSend(res)
		return
	}
	if s.abandoned {
		s.dropOut()
	} else if o.bytes > 0 {
		s.markDirty()
	}
	s.drained()
}

// drained tells whoever waits for room, and lets a half-close or the end go on.
func (s *Stream) drained() {
	s.w.wake(s.send.writer)
	if s.wantRoom && s.pending() <= s.w.rt.config.WriteHigh/2 {
		s.wantRoom = false
		s.tellWritable()
	}
	s.shrinkOut()
	s.settle()
}

// failSend ends the sending half: nothing more can go out.
func (s *Stream) failSend(res int32) {
	s.send.failed = s.sysError("write", "write", res)
	s.send.inlineLen = 0
	s.dropOut()
	s.wakeAll()
	if s.handler != nil {
		s.close(s.send.failed)
	}
	s.settle()
}

// CloseWrite sends FIN after everything that was written. Reading goes on; a Write fails with EPIPE.
// It returns at once. Worker only.
func (s *Stream) CloseWrite() error {
	if err := s.check("close"); err != nil {
		return err
	}
	if s.closed {
		return s.opError("close", net.ErrClosed)
	}
	if !s.shutWanted {
		s.shutWanted = true
		s.settle()
	}
	return nil
}
