package veloq

// Receive buffers: a worker's two groups of provided buffers, one for bytes and one for datagrams, and
// leases on regions of them.

import (
	"sync/atomic"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// buffer is one provided buffer. The driver fills it from the start; each completion hands out the
// next region. It goes back to the group when the driver is through with it and every lease is
// released.
type buffer struct {
	group *bufferGroup
	// refs counts the leases, and 1 while the driver may still fill it.
	refs  atomic.Int32
	gen   atomic.Uint32 // counts how often it went back: an old lease no longer matches
	fill  uint32        // where the driver's next region starts; worker only
	index uint16
	next  *buffer // in group.returned
}

// bufferGroup is the owner's side of a driver's provided buffers.
type bufferGroup struct {
	w       *worker
	ring    *core.BufferGroup
	buffers []buffer
	free    uint32 // offered and not yet used up; worker only
	// returned is a lock-free stack of buffers whose last lease was released elsewhere.
	returned atomic.Pointer[buffer]
	starved  []receiver // whose receive found no buffer, until some are free again
	spill    func()
	offered  bool // buffers were offered since the last publish
}

// A receiver is what takes buffers of a group: a Stream or a Datagram.
type receiver interface {
	// unstarve lets it receive again.
	unstarve()
}

// init takes the group of that ring; spill is what frees buffers that nobody released.
func (g *bufferGroup) init(w *worker, ring *core.BufferGroup, spill func()) {
	g.w = w
	g.ring = ring
	g.spill = spill
	g.buffers = make([]buffer, g.ring.Count)
	g.free = g.ring.Count
	for i := range g.buffers {
		b := &g.buffers[i]
		b.group = g
		b.index = uint16(i)
		b.refs.Store(1)
	}
}

// take turns a completion's region of buffer index into a lease.
func (g *bufferGroup) take(index uint16, n int32, flags uint32) Lease {
	b := &g.buffers[index]
	l := Lease{buffer: b, gen: b.gen.Load(), off: b.fill, len: uint32(n)}
	if g.ring.Incremental && flags&core.CQEBufMore != 0 {
		b.fill += uint32(n)
		b.refs.Add(1)
		return l
	}
	// The driver is through with it: its reference becomes the lease's.
	g.free--
	return l
}

// recycle offers a buffer again that nobody refers to any more. Worker only.
func (g *bufferGroup) recycle(b *buffer) {
	b.gen.Add(1)
	if debugtag.Enabled {
		poisonBytes(g.ring.Memory(b.index, 0, g.ring.SizeBytes))
	}
	b.fill = 0
	if b.refs.Load() != 1 {
		b.refs.Store(1)
	}
	g.ring.Offer(b.index)
	g.offered = true
	g.free++
}

// reclaim takes back what was released elsewhere, shows the driver all that was offered, and lets
// starved streams receive again.
func (g *bufferGroup) reclaim() {
	if g.returned.Load() != nil {
		for b := g.returned.Swap(nil); b != nil; {
			next := b.next
			b.next = nil
			g.recycle(b)
			b = next
		}
	}
	if g.offered {
		g.ring.Publish()
		g.offered = false
	}
	if len(g.starved) == 0 {
		return
	}
	if g.free == 0 {
		g.spill()
		if g.offered {
			g.ring.Publish()
			g.offered = false
		}
		if g.free == 0 {
			return // the leases' holders decide; their release wakes the worker
		}
	}
	starved := g.starved
	g.starved = nil
	for _, r := range starved {
		r.unstarve()
	}
}

// A Lease is a hold on a region of a worker's receive buffer: bytes as they arrived, not copied. It
// is a small value; copies of it are the same hold. It must be released once by who owns it. A
// buffer is not used again before every lease on it is released: a lease that is kept for long
// keeps up to Config.BufferSize bytes from being received into, so copy what is to stay.
//
// The build tag veloq_debug finds leases that are released twice, used after their last Release, or
// lost: see MisuseError.
//
// The zero Lease is empty.
type Lease struct {
	note   debugtag.Note[holdTrace] // of those that the program was given
	buffer *buffer
	heap   []byte // instead of a buffer: bytes that were moved to make room
	gen    uint32
	off    uint32
	len    uint32
}

// Bytes returns the leased bytes, valid until Release. They may be changed in place. It returns nil
// for a lease that was released or whose runtime is closed. Any goroutine.
func (l Lease) Bytes() []byte {
	if debugtag.Enabled && l.gone() {
		return nil
	}
	if l.buffer == nil {
		return l.heap
	}
	if l.buffer.gen.Load() != l.gen {
		return nil
	}
	return l.buffer.group.ring.Memory(l.buffer.index, l.off, l.len)
}

// Len returns how many bytes are leased. Any goroutine.
func (l Lease) Len() int {
	if l.buffer == nil {
		return len(l.heap)
	}
	return int(l.len)
}

// Of says whether the bytes lie in a receive buffer of rt's workers: then they are there for as long as
// its handlers and tasks run. Any goroutine.
func (l Lease) Of(rt *Runtime) bool { return l.buffer != nil && l.buffer.group.w.rt == rt }

// Retain adds a hold, which needs a Release of its own, and returns the lease. A handler retains
// what it keeps beyond OnData. Any goroutine.
func (l Lease) Retain() Lease {
	if debugtag.Enabled {
		l.noteRetain()
	}
	if l.buffer != nil {
		l.buffer.refs.Add(1)
	}
	return l
}

// spill exchanges the lease for a copy of its bytes.
func (l *Lease) spill() {
	if l.buffer != nil {
		copied := Lease{heap: append([]byte(nil), l.Bytes()...)}
		l.Release()
		*l = copied
	}
}

// Slice returns the part [from, to) of the lease: the same hold, to be released once between them.
func (l Lease) Slice(from, to int) Lease {
	if l.buffer == nil {
		l.heap = l.heap[from:to]
		return l
	}
	if from < 0 || to < from || to > int(l.len) {
		panic("veloq: Lease.Slice out of range")
	}
	l.off += uint32(from)
	l.len = uint32(to - from)
	return l
}

// Release gives the hold back. From another goroutine than the worker's the buffer travels back to
// its worker by itself. Any goroutine.
func (l Lease) Release() {
	if debugtag.Enabled {
		l.noteEnd("released")
	}
	b := l.buffer
	if b == nil {
		return
	}
	if b.gen.Load() != l.gen {
		if debugtag.Enabled && !b.group.w.rt.closing.Load() {
			panic(misuse("lease", "released again, after its buffer went back", nil))
		}
		return
	}
	g := b.group
	if g.w.here() {
		// The only hold needs no locked instruction: nobody else can add one.
		if b.refs.Load() == 1 || b.refs.Add(-1) == 0 {
			g.recycle(b)
		}
		return
	}
	if b.refs.Add(-1) != 0 {
		return
	}
	for {
		head := g.returned.Load()
		b.next = head
		if g.returned.CompareAndSwap(head, b) {
			break
		}
	}
	g.w.posters.Add(1)
	if !g.w.ended.Load() {
		g.w.knock()
	}
	g.w.posters.Add(-1)
}
