package core

// This file changes if how incoming bytes are put in order does.

import "github.com/veloq/veloq/rudp/internal/wire"

// gapsMax bounds the gaps between bytes that came out of order. A sender of full packets can't reach it
// within the largest window.
const gapsMax = 4096

// recvBuffer is the receiving half of a stream: a window onto it that begins with the next byte to read.
// Bytes that came out of order lie at their place, and count against the window like the others.
type recvBuffer struct {
	ring  []byte
	read  uint64   // the next byte to hand out
	ready uint64   // everything below has come
	high  uint64   // the end of the highest byte seen
	have  rangeSet // above ready
	final uint64
	fin   bool // final is known
	mute  bool // nobody reads any more: bytes are counted, not kept
	fault Fault
}

func (b *recvBuffer) readable() int { return int(b.ready - b.read) }

// insert takes bytes at offset off, which the caller has held against the window. fin says that they are
// the last. It returns how far the highest byte moved.
func (b *recvBuffer) insert(off uint64, p []byte, fin bool) (advance uint64, err error) {
	end := off + uint64(len(p))
	switch {
	case b.fin && (end > b.final || fin && end != b.final):
		return 0, &wire.Error{Code: wire.FinalSizeError, Reason: "bytes beyond the final size"}
	case fin && end < b.high:
		return 0, &wire.Error{Code: wire.FinalSizeError, Reason: "final size below bytes received"}
	}
	if fin {
		b.fin, b.final = true, end
	}
	if end > b.high {
		advance = end - b.high
		b.high = end
	}
	if off < b.ready {
		p = p[min(uint64(len(p)), b.ready-off):]
		off = b.ready
	}
	if len(p) == 0 {
		return advance, nil
	}
	if b.fault == FaultDropOverflow && end-b.read > uint64(len(b.ring)) && len(b.ring) >= 16*ringMin {
		b.have.add(wire.Range{Start: off, End: end})
		b.advance()
		return advance, nil
	}
	if !b.mute {
		b.ring = grown(b.ring, b.read, b.high-advance, end-b.read)
		ringCopyIn(b.ring, off, p)
	}
	if off == b.ready && len(b.have) == 0 {
		b.ready = end
		return advance, nil
	}
	b.have.add(wire.Range{Start: off, End: end})
	b.advance()
	if len(b.have) > gapsMax {
		return advance, &wire.Error{Code: wire.InternalError, Reason: "too many gaps"}
	}
	return advance, nil
}

func (b *recvBuffer) advance() {
	if len(b.have) > 0 && b.have[0].Start <= b.ready {
		b.ready = max(b.ready, b.have[0].End)
		b.have = b.have[:copy(b.have, b.have[1:])]
	}
}

// take copies out what is in order.
func (b *recvBuffer) take(p []byte) int {
	n := min(len(p), b.readable())
	if n > 0 {
		ringCopyOut(p[:n], b.ring, b.read)
		b.read += uint64(n)
	}
	return n
}

// done says that every byte has come; ended that every byte has been read too.
func (b *recvBuffer) done() bool { return b.fin && b.ready == b.final }

func (b *recvBuffer) ended() bool {
	if b.fault == FaultEarlyFIN {
		return b.fin && b.readable() == 0
	}
	return b.fin && b.read == b.final
}
