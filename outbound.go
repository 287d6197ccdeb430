package veloq

// What waits to be sent: the arena for a turn's small writes, and a stream's queue for the rest.

import (
	"unsafe"

	"github.com/veloq/veloq/internal/core"
)

// arena is C memory for one turn's inline bytes. A worker has two: one that fills, and one whose
// bytes were in the last enter and are still needed where a send fell short.
type arena struct {
	mem  []byte
	base unsafe.Pointer
	used uint32
}

func newArena(sizeBytes int) (*arena, error) {
	base := core.Alloc(uintptr(sizeBytes))
	if base == nil {
		return nil, core.Errno(core.ErrnoNOMEM)
	}
	return &arena{mem: unsafe.Slice((*byte)(base), sizeBytes), base: base}, nil
}

func (a *arena) free() { core.Free(a.base) }

func (a *arena) room() uint32 { return uint32(len(a.mem)) - a.used }

func (a *arena) addr(off uint32) uint64 { return uint64(uintptr(a.base)) + uint64(off) }

// flip starts the other arena, once everything staged has been submitted: the inline sends are over
// then, and the ones that fell short have been collected.
func (w *worker) flip() {
	w.partial = w.driver.Unsubmitted() != 0
	if w.arena.used == 0 || w.partial {
		return
	}
	w.arena, w.sentArena = w.sentArena, w.arena
	w.arena.used = 0
}

// gatherMax is the most segments that one send gathers.
const gatherMax = 64

// A segment is a run of bytes in a stream's queue, and what keeps them valid: a chunk, a lease, or a
// parked task.
type segment struct {
	addr   unsafe.Pointer
	len    int
	chunk  *chunk
	lease  Lease
	direct *direct
}

func (seg *segment) end() unsafe.Pointer { return unsafe.Add(seg.addr, seg.len) }

// direct is a task's large write: the task is parked, and its memory pinned, until it ended.
type direct struct {
	sent  int
	held  int // sends without a copy that the kernel has not let go of
	ended bool
}

// over reports whether the memory is the task's again.
func (d *direct) over() bool { return d.ended && d.held == 0 }

// outbound is a stream's queue of bytes to send, with the C memory of its one send in flight.
type outbound struct {
	w      *worker
	segs   []segment // from head on
	head   int
	bytes  int    // in segs
	flight int    // of them, in the last send
	leases int    // segments that hold a receive buffer
	tail   *chunk // the one that fills
	busy   bool   // a send is in flight, or a quiet one not confirmed yet
	// blocked: the last send fell short, so the next one waits in the kernel for room.
	blocked bool
	// spilling: the send in flight is being cancelled, to take its leases away.
	spilling bool
	// cancelled: the send in flight was asked to end.
	cancelled bool
	zeroCopy  *zeroCopySend // the send in flight, if it is one
	hdr       *core.Msghdr
	iov       []core.Iovec
}

// openOut returns the stream's queue, making or reusing one.
func (s *Stream) openOut() *outbound {
	if s.send.out != nil {
		return s.send.out
	}
	w := s.w
	if n := len(w.outFree); n > 0 {
		s.send.out = w.outFree[n-1]
		w.outFree = w.outFree[:n-1]
	} else {
		s.send.out = newOutbound(w)
	}
	s.moveInline()
	return s.send.out
}

func newOutbound(w *worker) *outbound {
	iovOff := unsafe.Sizeof(core.Msghdr{}) + 8 // a multiple of 16
	mem := core.Alloc(iovOff + gatherMax*unsafe.Sizeof(core.Iovec{}))
	if mem == nil {
		panic("veloq: out of memory")
	}
	return &outbound{
		w:   w,
		hdr: (*core.Msghdr)(mem),
		iov: unsafe.Slice((*core.Iovec)(unsafe.Add(mem, iovOff)), gatherMax),
	}
}

func (o *outbound) free() { core.Free(unsafe.Pointer(o.hdr)) }

// outFreeMax bounds the queues that a worker keeps for reuse.
const outFreeMax = 256

// shrinkOut gives an empty queue back to the worker, so that streams without backlog hold none.
func (s *Stream) shrinkOut() {
	o := s.send.out
	if o == nil || o.busy || o.bytes > 0 {
		return
	}
	s.send.out = nil
	o.segs, o.head, o.blocked = o.segs[:0], 0, false
	if o.tail != nil {
		o.w.giveChunk(o.tail)
		o.tail = nil
	}
	if len(s.w.outFree) < outFreeMax {
		s.w.outFree = append(s.w.outFree, o)
	} else {
		o.free()
	}
}

func (o *outbound) push(seg segment) {
	if o.head > 32 && o.head > len(o.segs)/2 {
		// A queue that never empties must not grow at its end for ever.
		n := copy(o.segs, o.segs[o.head:])
		clear(o.segs[n:])
		o.segs, o.head = o.segs[:n], 0
	}
	o.segs = append(o.segs, seg)
	o.bytes += seg.len
	if seg.lease.buffer != nil {
		o.leases++
	}
}

// last returns the last segment, nil if there is none.
func (o *outbound) last() *segment {
	if len(o.segs) == o.head {
		return nil
	}
	return &o.segs[len(o.segs)-1]
}

// rebuild empties the queue and puts it together anew: add is called for each segment, in order. No
// send is in flight.
func (o *outbound) rebuild(first []byte, add func(seg *segment)) {
	old := append([]segment(nil), o.segs[o.head:]...)
	clear(o.segs)
	o.segs, o.head, o.bytes, o.leases = o.segs[:0], 0, 0, 0
	o.copyIn(first)
	for i := range old {
		add(&old[i])
	}
}

// pushFront puts a copy of p before everything else. No send is in flight.
func (o *outbound) pushFront(p []byte) {
	o.rebuild(p, func(seg *segment) { o.push(*seg) })
}

// copyOut replaces leases by copies, so that a peer which is slow to read holds no receive buffer.
// No send is in flight.
func (o *outbound) copyOut() {
	if o.leases == 0 {
		return
	}
	o.rebuild(nil, func(seg *segment) {
		if seg.lease.buffer == nil {
			o.push(*seg)
			return
		}
		o.copyIn(unsafe.Slice((*byte)(seg.addr), seg.len))
		seg.lease.Release()
	})
}

// copyIn appends a copy of p, in chunks.
func (o *outbound) copyIn(p []byte) {
	for len(p) > 0 {
		if o.tail == nil || o.tail.used == len(o.tail.mem) {
			o.tail = o.w.takeChunk() // the full one goes back with its last segment
		}
		c := o.tail
		n := copy(c.mem[c.used:], p)
		addr := unsafe.Pointer(&c.mem[c.used])
		if last := o.last(); last != nil && last.chunk == c && last.end() == addr {
			last.len += n
			o.bytes += n
		} else {
			c.refs++
			o.push(segment{addr: addr, len: n, chunk: c})
		}
		c.used += n
		p = p[n:]
	}
}

func (s *Stream) enqueueCopy(p []byte) {
	s.openOut().copyIn(p)
	s.markDirty()
}

// enqueueLease queues l, whose hold becomes the queue's; what is little is copied.
func (s *Stream) enqueueLease(l Lease) {
	if l.Len() <= leaseCopyMax || l.buffer == nil {
		s.enqueueCopy(l.Bytes())
		l.Release()
		return
	}
	o := s.openOut()
	s.markDirty()
	addr := unsafe.Pointer(unsafe.SliceData(l.Bytes()))
	if last := o.last(); last != nil && last.lease.buffer == l.buffer && last.end() == addr {
		// The next bytes of the same buffer: one segment, and the hold it has will do.
		last.len += l.Len()
		o.bytes += l.Len()
		l.Release()
		return
	}
	o.push(segment{addr: addr, len: l.Len(), lease: l})
	if !s.lending {
		s.lending = true
		s.w.lending = append(s.w.lending, s)
	}
}

// spill copies leases out of the receive buffers wherever the worker finds them: called when the
// group is empty, so that streams nobody reads, and peers that don't, can't keep the others from
// receiving. What remains held is held by the user.
func (w *worker) spill() {
	w.stats.spills++
	w.spillUnread()
	w.spillQueued()
	for _, t := range w.holders {
		t.held.spill()
	}
}

// spillQueued copies what waits to be sent out of the receive buffers. Bytes that
// the kernel reads now are asked back, and copied when they are.
func (w *worker) spillQueued() {
	w.unlend(func(o *outbound) bool {
		switch {
		case o.leases == 0: // to ask for nothing back would go on for as long as the group is empty
		case !o.busy:
			o.copyOut()
		case o.blocked && !o.spilling:
			o.spilling = true
			return true
		}
		return o.leases > 0
	})
	for _, s := range w.lending {
		if o := s.send.out; o.spilling && !s.released {
			s.cancelSend()
		}
	}
}

// unlend takes streams off the list of those that hold leases, but for some.
func (w *worker) unlend(keep func(*outbound) bool) {
	kept := w.lending[:0]
	for _, s := range w.lending {
		if s.send.out != nil && keep(s.send.out) {
			kept = append(kept, s)
		} else {
			s.lending = false
		}
	}
	clear(w.lending[len(kept):])
	w.lending = kept
}

// forgetLent drops idle streams off that list now and then.
func (w *worker) forgetLent() {
	if len(w.lending) >= 2*w.streams+64 {
		w.unlend(func(o *outbound) bool { return o.leases > 0 })
	}
}

// moveInline moves the turn's inline bytes into the queue, where they come behind what is there.
func (s *Stream) moveInline() {
	sd := &s.send
	if sd.inlineLen == 0 {
		return
	}
	p := s.w.arena.mem[sd.inlineOff : sd.inlineOff+sd.inlineLen]
	sd.inlineLen = 0
	sd.out.copyIn(p)
}

// gather returns the address and length of the first segment if it is the only one, or the address
// of a message header that gathers the first ones, and 0.
func (o *outbound) gather() (addr uint64, lenBytes uint32) {
	segs := o.segs[o.head:]
	n := min(len(segs), gatherMax)
	if n == 1 && segs[0].len <= 1<<30 {
		o.flight = segs[0].len
		return uint64(uintptr(segs[0].addr)), uint32(o.flight)
	}
	o.flight = 0
	for i := range n {
		o.iov[i] = core.Iovec{Base: uint64(uintptr(segs[i].addr)), Len: uint64(segs[i].len)}
		o.flight += segs[i].len
	}
	*o.hdr = core.Msghdr{
		Iov:      uint64(uintptr(unsafe.Pointer(&o.iov[0]))),
		IovCount: uint64(n),
	}
	return uint64(uintptr(unsafe.Pointer(o.hdr))), 0
}

// advance takes n sent bytes off the queue.
func (o *outbound) advance(n int) {
	o.bytes -= n
	for n > 0 {
		seg := &o.segs[o.head]
		part := min(n, seg.len)
		if seg.direct != nil {
			seg.direct.sent += part
		}
		n -= part
		if part < seg.len {
			seg.addr = unsafe.Add(seg.addr, part)
			seg.len -= part
			return
		}
		o.endSegment(seg)
		o.head++
	}
	if o.head == len(o.segs) {
		o.segs, o.head = o.segs[:0], 0
	}
}

func (o *outbound) endSegment(seg *segment) {
	switch {
	case seg.chunk != nil:
		c := seg.chunk
		if c.refs--; c.refs == 0 {
			if c == o.tail {
				c.used = 0
			} else {
				o.w.giveChunk(c)
			}
		}
	case seg.direct != nil:
		seg.direct.ended = true
	default:
		o.leases--
		seg.lease.Release()
	}
	*seg = segment{}
}

// drop empties the queue. No send is in flight.
func (o *outbound) drop() {
	for i := o.head; i < len(o.segs); i++ {
		o.endSegment(&o.segs[i])
	}
	o.segs, o.head, o.bytes = o.segs[:0], 0, 0
}

// dropDirect takes what is left of a direct write out of the queue. No send is in flight.
func (o *outbound) dropDirect(d *direct) {
	kept := o.segs[:o.head]
	for i := o.head; i < len(o.segs); i++ {
		seg := o.segs[i]
		if seg.direct == d {
			o.bytes -= seg.len
			continue
		}
		kept = append(kept, seg)
	}
	clear(o.segs[len(kept):])
	o.segs = kept
	d.ended = true
}

// dropOut drops what the stream has to send, unless the kernel still reads it: then its completion
// comes here again.
func (s *Stream) dropOut() {
	s.send.inlineLen = 0 // or the end would wait for a send that is never staged
	o := s.send.out
	if o == nil || o.busy {
		return
	}
	o.drop()
	s.shrinkOut()
}
