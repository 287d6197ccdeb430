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

// chunkBytes is the size of the C memory that queued small writes are copied into.
const chunkBytes = 32 << 10

// A segment is a run of bytes in a stream's queue, and what keeps them valid.
type segment struct {
	addr   uintptr
	len    int
	chunk  *chunk
	lease  Lease
	direct *direct
}

// direct is a task's large write: the task is parked, and its memory pinned, until it ended.
type direct struct {
	sent  int
	ended bool
}

// chunk is C memory that one stream's writes are copied into.
type chunk struct {
	mem  []byte
	used int
}

// outbound is a stream's queue of bytes to send, with the C memory of its one send in flight.
type outbound struct {
	w      *worker
	segs   []segment
	head   int
	bytes  int  // in segs
	flight int  // of them, in the last send
	busy   bool // a send is in flight, or a quiet one not confirmed yet
	// blocked: the last send fell short, so the next one waits in the kernel for room.
	blocked bool
	hdr     *core.Msghdr
	iov     []core.Iovec
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

// outFreeMax and chunkFreeMax bound what a worker keeps for reuse.
const (
	outFreeMax   = 256
	chunkFreeMax = 64
)

// shrinkOut gives an empty queue back to the worker, so that streams without backlog hold none.
func (s *Stream) shrinkOut() {
	o := s.send.out
	if o == nil || o.busy || o.bytes > 0 {
		return
	}
	s.send.out = nil
	o.segs, o.head, o.blocked = o.segs[:0], 0, false
	if len(s.w.outFree) < outFreeMax {
		s.w.outFree = append(s.w.outFree, o)
	} else {
		o.free()
	}
}

func (o *outbound) push(seg segment) {
	o.segs = append(o.segs, seg)
	o.bytes += seg.len
}

// pushFront puts a copy of p before everything else. No send is in flight.
func (o *outbound) pushFront(p []byte) {
	rest := append([]segment(nil), o.segs[o.head:]...)
	o.segs, o.head = o.segs[:0], 0
	o.bytes -= sum(rest)
	o.copyIn(p)
	// A later copy must not be appended to a chunk that now has others behind it in the queue.
	for _, seg := range rest {
		o.push(seg)
	}
}

func sum(segs []segment) (n int) {
	for i := range segs {
		n += segs[i].len
	}
	return n
}

// copyIn appends a copy of p, in chunks.
func (o *outbound) copyIn(p []byte) {
	for len(p) > 0 {
		var last *segment
		if len(o.segs) > o.head {
			last = &o.segs[len(o.segs)-1]
		}
		if last == nil || last.chunk == nil || last.chunk.used == len(last.chunk.mem) {
			c := o.w.takeChunk()
			o.segs = append(o.segs, segment{addr: uintptr(unsafe.Pointer(&c.mem[0])), chunk: c})
			last = &o.segs[len(o.segs)-1]
		}
		c := last.chunk
		n := copy(c.mem[c.used:], p)
		c.used += n
		last.len += n
		o.bytes += n
		p = p[n:]
	}
}

func (s *Stream) enqueueCopy(p []byte) {
	s.openOut().copyIn(p)
	s.markDirty()
}

// enqueueLease takes a hold of its own on l.
func (s *Stream) enqueueLease(l Lease) {
	if l.Len() == 0 {
		return
	}
	o := s.openOut()
	s.markDirty()
	addr := uintptr(unsafe.Pointer(unsafe.SliceData(l.Bytes())))
	if n := len(o.segs); n > o.head {
		if last := &o.segs[n-1]; last.lease.buffer == l.buffer && last.addr+uintptr(last.len) == addr {
			// The next bytes of the same buffer: one segment, and the hold it has will do.
			last.len += l.Len()
			o.bytes += l.Len()
			return
		}
	}
	o.push(segment{addr: addr, len: l.Len(), lease: l.Retain()})
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
		return uint64(segs[0].addr), uint32(o.flight)
	}
	o.flight = 0
	for i := range n {
		o.iov[i] = core.Iovec{Base: uint64(segs[i].addr), Len: uint64(segs[i].len)}
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
			seg.addr += uintptr(part)
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
		o.w.giveChunk(seg.chunk)
	case seg.direct != nil:
		seg.direct.ended = true
	default:
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

// dropOut drops what the stream has queued, unless the kernel still reads it: then its completion
// comes here again.
func (s *Stream) dropOut() {
	o := s.send.out
	if o == nil || o.busy {
		return
	}
	o.drop()
	s.shrinkOut()
}

func (w *worker) takeChunk() *chunk {
	if n := len(w.chunkFree); n > 0 {
		c := w.chunkFree[n-1]
		w.chunkFree = w.chunkFree[:n-1]
		return c
	}
	mem := core.Alloc(chunkBytes)
	if mem == nil {
		panic("veloq: out of memory")
	}
	return &chunk{mem: unsafe.Slice((*byte)(mem), chunkBytes)}
}

func (w *worker) giveChunk(c *chunk) {
	c.used = 0
	if len(w.chunkFree) < chunkFreeMax {
		w.chunkFree = append(w.chunkFree, c)
		return
	}
	c.free()
}

func (c *chunk) free() { core.Free(unsafe.Pointer(&c.mem[0])) }
