package rudp

// This file changes if how written bytes are kept until they are acknowledged does.

import "sync/atomic"

const ringMin = 4 << 10

// byteRing is a bounded queue of bytes for one producer and one consumer, without a lock: neither
// ever waits for the other. The consumer looks at bytes in order, and gives them back later, in
// order too. Memory comes as it is needed: a segment that is full is followed by one of at least
// twice its size, until one has the limit's; from then on nothing is allocated.
type byteRing struct {
	limit atomic.Int64 // the consumer's to change
	total uint64       // bytes ever written; the producer's
	first ringSegment
	tail  *ringSegment // the producer's
	_     [64]byte
	head  *ringSegment // the consumer's, as all that follows: of the oldest byte kept
	at    *ringSegment // of the first byte not yet taken
	pos   uint64       // that byte, in at
	taken uint64       // bytes ever taken
	_     [64]byte
	held  atomic.Int64 // counts what is kept elsewhere too: hold
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
	r.limit.Store(int64(limit))
	r.tail, r.head, r.at = &r.first, &r.first, &r.first
}

// room returns how many bytes may be written; it is below zero where hold went beyond the limit.
func (r *byteRing) room() int { return int(r.limit.Load() - r.held.Load()) }

// hold counts bytes against the limit that are kept elsewhere, and that the producer hands over;
// release no longer counts them. The producer's and the consumer's.
func (r *byteRing) hold(n int)    { r.held.Add(int64(n)) }
func (r *byteRing) release(n int) { r.held.Add(-int64(n)) }

// space returns a part of the free room, nil if there is none; want says how much would be of use.
// Producer.
func (r *byteRing) space(want int) []byte {
	room := r.room()
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
		r.extend(max(2*len(t.buf), min(want, room)))
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

// write copies what there is room for. Producer.
func (r *byteRing) write(p []byte) (n int) {
	for n < len(p) {
		s := r.space(len(p) - n)
		if s == nil {
			break
		}
		m := copy(s, p[n:])
		r.held.Add(int64(m))
		r.tail.end.Store(r.tail.end.Load() + uint64(m))
		r.total += uint64(m)
		n += m
	}
	return n
}

// next returns the first bytes not yet taken that lie together, nil if there are none. Its capacity
// ends where the memory does. Consumer.
func (r *byteRing) next() []byte {
	for {
		next := r.at.next.Load() // before end, which is final if there is a next one
		end := r.at.end.Load()
		if r.pos < end {
			size := uint64(len(r.at.buf))
			at := r.pos & (size - 1)
			return r.at.buf[at:min(size, at+end-r.pos)]
		}
		if next == nil {
			return nil
		}
		r.at, r.pos = next, 0
	}
}

// take moves next on by n bytes, which stay where they are. Consumer.
func (r *byteRing) take(n int) {
	r.pos += uint64(n)
	r.taken += uint64(n)
}

// discard gives the oldest n bytes back, which were taken. Consumer.
func (r *byteRing) discard(n int) {
	r.release(n)
	for left := uint64(n); ; r.head = r.head.next.Load() {
		end := r.pos
		if r.head != r.at {
			end = r.head.end.Load()
		}
		read := r.head.read.Load()
		m := min(left, end-read)
		r.head.read.Store(read + m)
		if left -= m; left == 0 {
			return
		}
	}
}
