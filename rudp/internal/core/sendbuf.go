package core

// This file changes if how outgoing bytes are kept until they are acknowledged does.

import "github.com/veloq/veloq/rudp/internal/wire"

// ringMin is the smallest ring in bytes; rings double from there.
const ringMin = 4096

// ringCopyIn writes p at offset off of the stream that the ring is a window of.
func ringCopyIn(ring []byte, off uint64, p []byte) {
	i := off & uint64(len(ring)-1)
	n := copy(ring[i:], p)
	copy(ring, p[n:])
}

// ringCopyOut fills p from offset off.
func ringCopyOut(p, ring []byte, off uint64) {
	i := off & uint64(len(ring)-1)
	n := copy(p, ring[i:])
	copy(p[n:], ring)
}

// grown returns a ring of at least need bytes that holds what old held from start to end; end may be beyond
// what old has room for.
func grown(old []byte, start, end, need uint64) []byte {
	size := uint64(max(len(old), ringMin))
	for size < need {
		size *= 2
	}
	if size == uint64(len(old)) {
		return old
	}
	ring := make([]byte, size)
	end = min(end, start+uint64(len(old)))
	for off := start; off < end; {
		i := off & uint64(len(old)-1)
		n := min(uint64(len(old))-i, end-off)
		ringCopyIn(ring, off, old[i:i+n])
		off += n
	}
	return ring
}

// sendBuffer is the sending half of a stream: bytes from base, below which everything is acknowledged,
// to end. Ranges between are acknowledged, lost, on their way, or not sent yet. The bytes are copied into
// ring, or lie where refs say: one or the other for as long as the buffer lives.
type sendBuffer struct {
	ring  []byte
	refs  refList
	limit int // of bytes that are not acknowledged
	span  int // of bytes kept: those acknowledged above base too
	base  uint64
	next  uint64 // the first byte never sent
	end   uint64 // the first byte never written
	acked rangeSet
	above uint64 // how many bytes acked holds
	lost  rangeSet

	fin                        bool // nothing is written any more
	finSent, finLost, finAcked bool
}

// room returns for how many bytes there is room. The writer waits for what the peer has not got: a byte
// that is lost again and again keeps the place of all that follow, which would be most of the limit. What
// that costs is bounded by span.
func (b *sendBuffer) room() int {
	kept := int(b.end - b.base)
	return min(b.limit-kept+int(b.above), b.span-kept)
}

// unacknowledged returns how many bytes the peer has not acknowledged.
func (b *sendBuffer) unacknowledged() int { return int(b.end - b.base - b.above) }

// write copies what there is room for.
func (b *sendBuffer) write(p []byte) int {
	n := max(0, min(len(p), b.room()))
	if n == 0 {
		return 0
	}
	b.ring = grown(b.ring, b.base, b.end, b.end-b.base+uint64(n))
	ringCopyIn(b.ring, b.end, p[:n])
	b.end += uint64(n)
	return n
}

// wants says whether there is something to send, given that new bytes may go up to limit.
func (b *sendBuffer) wants(limit uint64) bool {
	return len(b.lost) > 0 || b.finLost || b.next < min(b.end, limit) ||
		b.fin && !b.finSent && b.next == b.end
}

// pick chooses up to size bytes to send next: lost ones first, then new ones below limit. A FIN goes with
// the last byte. ok is false if there is nothing.
func (b *sendBuffer) pick(size int, limit uint64) (r wire.Range, fin, ok bool) {
	if len(b.lost) > 0 {
		r = b.lost[0]
		r.End = min(r.End, r.Start+uint64(size))
		return r, b.fin && b.finSent && r.End == b.end, true
	}
	r = wire.Range{Start: b.next, End: max(b.next, min(b.end, limit, b.next+uint64(size)))}
	fin = b.fin && r.End == b.end && (!b.finSent || b.finLost)
	return r, fin, r.End > r.Start || fin
}

// sent records that a picked range is on its way.
func (b *sendBuffer) sent(r wire.Range, fin bool) {
	b.lost.remove(r)
	b.next = max(b.next, r.End)
	if fin {
		b.finSent, b.finLost = true, false
	}
}

func (b *sendBuffer) onAcked(r wire.Range, fin bool) {
	if fin {
		b.finAcked, b.finLost = true, false
	}
	r.Start = max(r.Start, b.base)
	if r.Start >= r.End {
		return
	}
	b.lost.remove(r)
	if r.Start > b.base {
		b.above += b.acked.add(r)
		return
	}
	b.base = r.End
	n := 0
	for n < len(b.acked) && b.acked[n].Start <= b.base {
		b.base = max(b.base, b.acked[n].End)
		b.above -= b.acked[n].Len()
		n++
	}
	b.acked = b.acked[:copy(b.acked, b.acked[n:])]
	b.refs.forget(b.base)
}

func (b *sendBuffer) onLost(r wire.Range, fin bool) {
	if fin && !b.finAcked {
		b.finLost = true
	}
	r.Start = max(r.Start, b.base)
	if r.Start >= r.End {
		return
	}
	start := r.Start
	for i := b.acked.find(start + 1); i < len(b.acked) && b.acked[i].Start < r.End; i++ {
		b.lost.add(wire.Range{Start: start, End: b.acked[i].Start})
		start = b.acked[i].End
	}
	b.lost.add(wire.Range{Start: start, End: r.End})
}

// done says that everything, FIN included, is acknowledged.
func (b *sendBuffer) done() bool { return b.finAcked && b.base == b.end }

// drop forgets all bytes: they will never be sent.
func (b *sendBuffer) drop() {
	b.ring, b.acked, b.lost = nil, nil, nil
	b.refs = refList{}
	b.base, b.end, b.above = b.next, b.next, 0
	b.finLost = false
}
