package rudp

// This file changes if how bytes pass between a stream's user and its actor does.

import "sync/atomic"

const ringMin = 4 << 10

// byteRing is a bounded queue of bytes for one producer and one consumer, without a lock: neither
// ever waits for the other. Memory comes as it is needed: a segment that is full is followed by one
// of twice its size, up to the limit; from then on nothing is allocated.
type byteRing struct {
	limit int // the producer's; it may only grow
	half  int // of the limit that it began with
	first ringSegment
	tail  *ringSegment // the producer's
	head  *ringSegment // the consumer's
	_     [64]byte
	held  atomic.Int64
}

// ringSegment is a ring of a power of two bytes. Once it has a next one nothing is written to it.
type ringSegment struct {
	buf  []byte
	next atomic.Pointer[ringSegment]
	_    [64]byte
	read atomic.Uint64 // the consumer's
	_    [64]byte
	end  atomic.Uint64 // the producer's
}

func (r *byteRing) init(limit int) {
	r.limit, r.half = limit, limit/2
	r.tail, r.head = &r.first, &r.first
}

// len returns the bytes held. Any goroutine.
func (r *byteRing) len() int { return int(r.held.Load()) }

// space returns a part of the free room, nil if there is none; want says how much would be of use.
// Producer.
func (r *byteRing) space(want int) []byte {
	room := r.limit - r.len()
	if room <= 0 {
		return nil
	}
	for {
		t := r.tail
		size := uint64(len(t.buf))
		end := t.end.Load()
		if free := size - (end - t.read.Load()); free > 0 {
			at := end & (size - 1)
			return t.buf[at:min(size, at+min(free, uint64(room)))]
		}
		if len(t.buf) >= r.limit {
			return nil
		}
		r.extend(max(2*len(t.buf), min(want, r.limit)))
	}
}

// extend adds a segment of at least size bytes. Producer.
func (r *byteRing) extend(size int) {
	n := ringMin
	for n < size {
		n *= 2
	}
	s := &ringSegment{buf: make([]byte, n)}
	r.tail.next.Store(s) // release: the old segment's end is final for who sees this
	r.tail = s
}

// commit makes n bytes of what space returned visible. Producer.
func (r *byteRing) commit(n int) {
	r.held.Add(int64(n))
	r.tail.end.Store(r.tail.end.Load() + uint64(n))
}

// write copies what there is room for. Producer.
func (r *byteRing) write(p []byte) (n int) {
	for n < len(p) {
		s := r.space(len(p) - n)
		if s == nil {
			break
		}
		m := copy(s, p[n:])
		r.commit(m)
		n += m
	}
	return n
}

// peek returns the first bytes that lie together, nil if there are none. Consumer.
func (r *byteRing) peek() []byte {
	for {
		h := r.head
		next := h.next.Load() // before end, which is final if there is a next one
		read, end := h.read.Load(), h.end.Load()
		if read < end {
			size := uint64(len(h.buf))
			at := read & (size - 1)
			return h.buf[at:min(size, at+end-read)]
		}
		if next == nil {
			return nil
		}
		r.head = next
	}
}

// discard gives n bytes of what peek returned back. Consumer.
func (r *byteRing) discard(n int) {
	r.head.read.Store(r.head.read.Load() + uint64(n))
	r.held.Add(-int64(n))
}

// read copies out what there is. Consumer.
func (r *byteRing) read(p []byte) (n int) {
	for n < len(p) {
		s := r.peek()
		if s == nil {
			break
		}
		m := copy(p[n:], s)
		r.discard(m)
		n += m
	}
	return n
}
