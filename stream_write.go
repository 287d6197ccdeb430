package veloq

// The sending half of a Stream: what Write and its kin do with bytes, and what becomes of them.

import (
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// inlineMax is the most bytes of one stream that a turn copies into the arena; larger writes are sent
// from where they are.
const inlineMax = 16 << 10

// leaseCopyMax is the longest lease that is copied into the arena, which is cheaper for so little than
// to hold its buffer.
const leaseCopyMax = 2 << 10

// sending is the sending half of a Stream. A turn's bytes go out in one quiet send: one that does
// what it can within the enter, and completes only if that was not all. So a stream that keeps up
// costs one submission and no completion.
type sending struct {
	inlineOff uint32 // in the arena: copied bytes for this turn's enter
	inlineLen uint32
	sentOff   uint32 // the bytes of the last enter, until it is known whether they all went out
	sentLen   uint32
	out       *outbound // everything else that waits to be sent; nil while nothing does
	failed    error
	writer    *task    // the task that is in a Write
	writers   *writers // nil until a task's Write had to wait
}

// writers is what tasks need whose Write can't be done at once.
type writers struct {
	queue  []*task // those that wait for the writer
	direct direct  // the writer's large write
	file   fileSend
	pin    runtime.Pinner
	// reserved is nil until a Malloc.
	reserved *reservation
}

func (sd *sending) wakeQueue(w *worker) {
	if sd.writers != nil {
		for _, t := range sd.writers.queue {
			w.wake(t)
		}
	}
}

// pending returns how many accepted bytes have not been handed to the kernel.
func (s *Stream) pending() int {
	n := int(s.send.inlineLen)
	if s.send.out != nil {
		n += s.send.out.bytes
	}
	return n
}

// unconfirmed reports whether bytes wait for an enter, or for the end of the one they were in.
func (s *Stream) unconfirmed() bool {
	return s.send.inlineLen > 0 || s.send.sentLen > 0
}

// Write sends all of p. Up to 16 KiB are copied, to go out with this turn's other sends, and it returns
// at once, unless Config.WriteHigh bytes wait to be sent already: then the task parks until there is
// room. More than that is sent from p itself, and the task parks until the kernel has it all. An
// error of bytes that were accepted surfaces on a later Write. The write deadline holds while it is
// parked; n < len(p) comes only with an error.
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
	return s.writeTask(t, p)
}

// writeTask is Write for a task that is the stream's writer.
func (s *Stream) writeTask(t *task, p []byte) (int, error) {
	if len(p) > inlineMax {
		return s.writeDirect(t, p)
	}
	if err := s.awaitRoom(t); err != nil {
		return 0, err
	}
	if s.send.out != nil || !s.appendInline(p) {
		s.enqueueCopy(p)
	}
	return len(p), nil
}

// WriteString is Write of a string's bytes. Worker only. Blocks (in a task).
func (s *Stream) WriteString(p string) (int, error) {
	return s.Write(unsafe.Slice(unsafe.StringData(p), len(p)))
}

// Writev sends the bytes of all parts, in order and not mixed with other writes. It returns how many
// bytes were accepted, as Write does. Worker only. Blocks (in a task).
func (s *Stream) Writev(parts [][]byte) (int64, error) {
	if err := s.checkWrite(); err != nil {
		return 0, err
	}
	write := s.writeHandler
	t := s.w.running
	if t != nil {
		if err := s.lockWriter(t); err != nil {
			return 0, err
		}
		defer s.unlockWriter()
		write = func(p []byte) (int, error) { return s.writeTask(t, p) }
	}
	var written int64
	for i, p := range parts {
		if i > 0 && t != nil {
			if err := s.interrupted(t); err != nil { // while the last part was sent
				return written, err
			}
		}
		n, err := write(p)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// WriteLease sends a lease's bytes without copying them (a few are copied, which is cheaper). The
// caller's hold becomes the stream's, also when the call fails: retain first to keep one, as a
// handler must that forwards OnData's. Otherwise as Write. Worker only. Blocks (in a task).
func (s *Stream) WriteLease(l Lease) (int, error) {
	if debugtag.Enabled {
		l.noteEnd("given to WriteLease")
		l.note.Set(nil)
	}
	if err := s.checkWrite(); err != nil {
		l.Release()
		return 0, err
	}
	n := l.Len()
	sd := &s.send
	if n <= leaseCopyMax && sd.out == nil && sd.writer == nil && s.appendInline(l.Bytes()) {
		l.Release()
		return n, nil
	}
	if sd.writer == nil && s.pending()+n <= s.w.rt.config.WriteHigh {
		s.enqueueLease(l)
		return n, nil
	}
	if t := s.w.running; t != nil {
		return s.writeLeaseTask(t, l)
	}
	part := min(n, s.room())
	s.enqueueLease(l.Slice(0, part))
	if part < n {
		return part, s.full()
	}
	return n, nil
}

// writeLeaseTask waits for its turn and for room. Meanwhile the lease may be exchanged for a copy: a
// task that waits for a slow peer must not keep others from receiving.
func (s *Stream) writeLeaseTask(t *task, l Lease) (int, error) {
	w := s.w
	t.held = l
	w.holders = append(w.holders, t)
	err := s.lockWriter(t)
	if err == nil {
		defer s.unlockWriter()
		err = s.awaitRoom(t)
	}
	l, t.held = t.held, Lease{}
	i := slices.Index(w.holders, t)
	w.holders = slices.Delete(w.holders, i, i+1)
	if err != nil {
		l.Release()
		return 0, err
	}
	n := l.Len()
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
		return s.opError("write", os.NewSyscallError(core.NameWrite, core.Errno(core.ErrnoPIPE).Sys()))
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

// TryWrite is Write that never waits, as a handler's: it takes what fits under Config.WriteHigh, and
// returns ErrFull for the rest. Worker only.
func (s *Stream) TryWrite(p []byte) (int, error) {
	if err := s.checkWrite(); err != nil {
		return 0, err
	}
	if s.send.writer != nil {
		return 0, s.full() // in the middle of another task's bytes
	}
	return s.writeHandler(p)
}

// Unsent returns how many accepted bytes have not been handed to the kernel.
func (s *Stream) Unsent() int { return s.pending() }

func (s *Stream) writeHandler(p []byte) (int, error) {
	n := min(len(p), s.room())
	if n > inlineMax || s.send.out != nil || !s.appendInline(p[:n]) {
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
	if sd.writers == nil {
		sd.writers = &writers{}
	}
	ws := sd.writers
	if sd.writer == nil && len(ws.queue) == 0 {
		sd.writer = t
		return nil
	}
	ws.queue = append(ws.queue, t)
	defer func() {
		i := slices.Index(ws.queue, t)
		ws.queue = slices.Delete(ws.queue, i, i+1)
		if sd.writer == nil && len(ws.queue) > 0 {
			s.w.wake(ws.queue[0]) // t was next and gave up: so is the one behind it now
		}
	}()
	for {
		if err := s.parkWriter(t); err != nil {
			return err
		}
		if sd.writer == nil && ws.queue[0] == t {
			sd.writer = t
			return nil
		}
	}
}

func (s *Stream) unlockWriter() {
	sd := &s.send
	sd.writer = nil
	if q := sd.writers.queue; len(q) > 0 {
		s.w.wake(q[0])
	}
	if s.wantRoom {
		s.markDirty() // what it gave up left room, and no send's end will tell of it
	}
	s.settle()
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
	if err := t.err(); err != nil {
		return s.opError("write", netError(err))
	}
	return nil
}

// parkWriter parks t until something changes. The error is why it must not wait any longer, which may
// have come before, when nobody waited to be woken.
func (s *Stream) parkWriter(t *task) error {
	if err := s.interrupted(t); err != nil {
		return err
	}
	t.park()
	return s.interrupted(t)
}

// awaitRoom parks the writer until less than WriteHigh waits to be sent.
func (s *Stream) awaitRoom(t *task) error {
	for s.pending() >= s.w.rt.config.WriteHigh {
		if err := s.parkWriter(t); err != nil {
			return err
		}
	}
	return nil
}

// writeDirect sends p from where it is: the task stays parked, and p pinned, until the kernel is
// through with it.
func (s *Stream) writeDirect(t *task, p []byte) (int, error) {
	if err := s.interrupted(t); err != nil {
		return 0, err // nobody would wake it for that again
	}
	o := s.openOut()
	ws := s.send.writers
	ws.pin.Pin(&p[0])
	defer ws.pin.Unpin()
	d := &ws.direct
	*d = direct{}
	o.push(segment{addr: unsafe.Pointer(&p[0]), len: len(p), direct: d})
	s.markDirty()
	for !d.over() {
		t.park()
		if d.over() || s.interrupted(t) == nil {
			continue
		}
		if !d.ended && !o.busy {
			o.dropDirect(d)
		}
		switch {
		case d.ended && d.held > 0:
			s.reset() // else the peer would decide when the memory is free
		case !d.ended && o.blocked && !o.cancelled:
			s.cancelSend()
		}
	}
	s.shrinkOut()
	if d.sent < len(p) || s.wasReset {
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
		s.w.dirty.add(s)
	}
}

// flush stages what dirty streams have to send: the one place where sends are staged.
func (w *worker) flush() {
	for _, s := range w.dirty.take() {
		s.dirty = false
		s.stageSend()
	}
}

func (s *Stream) stageSend() {
	sd := &s.send
	switch {
	case s.released:
	case sd.failed != nil || s.abandoned:
		s.dropOut()
		s.drained()
	case sd.sentLen > 0 || (sd.out != nil && sd.out.busy):
		// One send at a time keeps the order: its end brings the stream back here. The arena does not
		// wait for that, where an enter has left the send behind.
		if sd.inlineLen > 0 {
			s.openOut()
			s.moveInline()
		}
	case sd.out == nil && sd.inlineLen > 0:
		s.stageInline()
	case sd.out != nil && sd.out.bytes > 0:
		s.moveInline()
		s.stageQueue()
	default:
		s.drained() // what was to be sent was given up
	}
}

// stageInline sends the arena's bytes: done, or refused, within the enter that submits it.
func (s *Stream) stageInline() {
	sd := &s.send
	sqe := s.w.stage(core.OpSend, opSendInline, s.slot)
	sqe.FD = s.fd
	sqe.Addr = s.w.arena.addr(sd.inlineOff)
	sqe.Len = sd.inlineLen
	sd.sentOff, sd.sentLen = sd.inlineOff, sd.inlineLen
	sd.inlineLen = 0
	s.quiet(sqe)
}

// stageQueue sends the queue's first segments: quietly, or after a send that fell short by one that
// waits in the kernel.
func (s *Stream) stageQueue() {
	o := s.send.out
	if s.zeroCopies(o) {
		s.stageZeroCopy(o)
		return
	}
	o.busy, o.cancelled = true, false
	addr, length := o.gather()
	op := uint8(core.OpSend)
	if length == 0 {
		op, length = core.OpSendMsg, 1
	}
	sqe := s.w.stage(op, opSend, s.slot)
	sqe.FD = s.fd
	sqe.Addr = addr
	sqe.Len = length
	if o.blocked {
		sqe.OpFlags = core.MsgWaitAll | core.MsgNoSignal
		s.inFlight++
		return
	}
	s.quiet(sqe)
}

// quiet makes a send do what it can at once. Its success has no completion, which wakes nobody:
// where something waits for it, it completes after all.
func (s *Stream) quiet(sqe *core.SQE) {
	w := s.w
	sqe.OpFlags = core.MsgDontWait | core.MsgWaitAll | core.MsgNoSignal
	if !s.wantRoom && s.send.writer == nil && !s.closed && !s.shutWanted && len(w.buffers.starved) == 0 {
		sqe.Flags = w.skipSuccess
	}
	w.quiet = append(w.quiet, s)
	w.stats.quietSends++
}

// confirm ends the quiet sends of an enter that consumed all: those without a completion by now went
// out in full.
func (w *worker) confirm() {
	if w.partial {
		return
	}
	for i, s := range w.quiet {
		w.quiet[i] = nil
		sd := &s.send
		sd.sentLen = 0
		if o := sd.out; o != nil && o.busy && !o.blocked {
			o.busy = false
			o.advance(o.flight)
		}
		s.sent()
	}
	w.quiet = w.quiet[:0]
}

// onSendInline hears of inline sends that fell short, and of those that something waits for.
func (s *Stream) onSendInline(res int32) {
	sd := &s.send
	if sd.sentLen == 0 {
		return
	}
	done := uint32(max(res, 0))
	if done == sd.sentLen {
		return // confirm takes it from here
	}
	s.w.stats.quietShort++
	from := s.w.sentArena
	if s.w.partial {
		from = s.w.arena // not flipped: some of that enter's submissions are still to go
	}
	rest := from.mem[sd.sentOff+done : sd.sentOff+sd.sentLen]
	sd.sentLen = 0
	if s.failedSend(res) {
		return
	}
	o := s.openOut()
	o.pushFront(rest)
	o.blocked = true
	if s.closed {
		s.boundClose()
	}
}

// onSend takes the completion of a send from the queue.
func (s *Stream) onSend(res int32) {
	o := s.send.out
	if o == nil || !o.busy {
		return
	}
	if o.blocked {
		s.inFlight--
	} else if int(res) == o.flight {
		return // confirm takes it from here
	} else {
		s.w.stats.quietShort++
	}
	s.endSend(res)
}

// endSend goes on after a send of the queue that completed with res.
func (s *Stream) endSend(res int32) {
	o := s.send.out
	o.busy = false
	if res > 0 {
		o.advance(int(res))
	}
	if s.failedSend(res) {
		return
	}
	o.blocked = int(res) < o.flight
	if g := &s.w.buffers; o.spilling || (o.blocked && g.free < g.ring.Count/2) {
		o.spilling = false
		o.copyOut()
	}
	if s.closed && o.bytes > 0 {
		s.boundClose()
	}
	s.sent()
}

// sent goes on after some bytes went out.
func (s *Stream) sent() {
	if s.abandoned {
		s.dropOut()
	} else if s.send.inlineLen > 0 || (s.send.out != nil && s.send.out.bytes > 0) {
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

// failedSend reports whether res ends the sending half, and ends it then: nothing more can go out.
func (s *Stream) failedSend(res int32) bool {
	if res >= 0 || undone(res) {
		return false
	}
	s.send.failed = s.sysError("write", core.NameWrite, res)
	s.dropOut()
	s.wakeAll()
	if s.handled {
		s.close(s.send.failed)
	}
	s.settle()
	return true
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
