package veloq

// Sends without a copy: the kernel takes the bytes from where they are, and says later when it has let
// go of them.

import (
	"unsafe"

	"github.com/veloq/veloq/internal/core"
)

// zeroCopySend is one send without a copy, from its submission until the kernel has let go of its
// memory: an operand of its own, since several of a stream may be waiting for that.
type zeroCopySend struct {
	s    *Stream
	slot uint64
	// What keeps the memory: one of the two.
	lease  Lease
	direct *direct
	sent   bool // the result has come
}

// zeroCopies reports whether the queue's first segment goes out without a copy. Bytes in chunks don't:
// they were copied already. Leases don't either while receive buffers are short, since the peer
// decides when they come back.
func (s *Stream) zeroCopies(o *outbound) bool {
	w := s.w
	if w.zeroCopyMin == 0 || s.copiedAnyway {
		return false
	}
	seg := &o.segs[o.head]
	if seg.len < w.zeroCopyMin || seg.chunk != nil {
		return false
	}
	return seg.direct != nil || (seg.lease.buffer != nil && w.buffers.free > w.buffers.ring.Count/2)
}

// stageZeroCopy sends the queue's first segment.
func (s *Stream) stageZeroCopy(o *outbound) {
	w := s.w
	seg := &o.segs[o.head]
	z := &zeroCopySend{s: s, direct: seg.direct}
	if seg.direct != nil {
		seg.direct.held++
	} else {
		z.lease = seg.lease.Retain()
	}
	z.slot = w.slots.add(z)
	o.flight = min(seg.len, 1<<30)
	o.busy, o.cancelled, o.blocked, o.zeroCopy = true, false, true, z
	sqe := w.stage(core.OpSendZC, opSendZC, z.slot)
	sqe.FD = s.fd
	sqe.Addr = uint64(uintptr(seg.addr))
	sqe.Len = uint32(o.flight)
	sqe.OpFlags = core.MsgWaitAll | core.MsgNoSignal
	sqe.Mode = core.SendZCReport
	s.inFlight++
	w.stats.zeroCopySends++
}

// complete implements operand: first the result, then, unless it failed early, the notice that the
// memory is free.
func (z *zeroCopySend) complete(_ opKind, res int32, flags uint32) {
	switch {
	case !z.sent:
		z.sent = true
		z.s.onZeroCopy(res)
	case res&core.NotifCopied != 0:
		z.s.copiedAnyway = true
		z.s.w.stats.zeroCopyCopied++
	}
	if flags&core.CQEMore != 0 {
		return
	}
	z.s.w.slots.remove(z.slot)
	if z.direct != nil {
		z.direct.held--
		z.s.w.wake(z.s.send.writer)
	} else {
		z.lease.Release()
	}
}

// inUse implements holder: a task's memory stays until the kernel has let go of it.
func (z *zeroCopySend) inUse() bool { return z.direct != nil }

// discard implements holder: everything that it holds goes with the worker.
func (z *zeroCopySend) discard() {}

// abort implements operand. Buffers that the kernel still sends from go with their worker: it keeps
// what it needs of them. A task's memory has to be waited for.
func (z *zeroCopySend) abort() {
	if z.direct == nil && z.sent {
		z.s.w.slots.remove(z.slot)
	}
}

// cancelMissed implements canceller.
func (z *zeroCopySend) cancelMissed() { z.s.cancelMissed() }

// onZeroCopy takes the result of a send without a copy.
func (s *Stream) onZeroCopy(res int32) {
	o := s.send.out
	s.inFlight--
	o.zeroCopy = nil
	switch res {
	case -core.ErrnoINVAL:
		s.w.zeroCopyMin = 0 // a kernel before 6.2 can't tell when it copies after all
		res = 0
	case -core.ErrnoNOTSUP, -core.ErrnoNOBUFS, -core.ErrnoNOMEM:
		s.copiedAnyway = true // not this kind of socket, or too much of this user's memory is held
		res = 0
	}
	s.endSend(res)
}

// cancelSend asks for the end of the send in flight.
func (s *Stream) cancelSend() {
	o := s.send.out
	o.cancelled = true
	if z := o.zeroCopy; z != nil {
		s.w.stageCancel(opSendZC, z.slot)
		return
	}
	s.w.stageCancel(opSend, s.slot)
}

// reset drops the connection as if by RST, so that the kernel lets go of all it was to send:
// connect(2) with an address of no family.
func (s *Stream) reset() {
	if s.wasReset || s.fd < 0 {
		return
	}
	s.wasReset = true
	w := s.w
	if w.noAddr == nil {
		w.noAddr = core.Alloc(noAddrBytes)
		if w.noAddr == nil {
			panic("veloq: out of memory")
		}
		clear(unsafe.Slice((*byte)(w.noAddr), noAddrBytes))
	}
	sqe := w.stage(core.OpConnect, opReset, s.slot)
	sqe.FD = s.fd
	sqe.Addr = uint64(uintptr(w.noAddr))
	sqe.Off = noAddrBytes
	s.inFlight++
}

// noAddrBytes is the size of the least sockaddr, whose first two bytes, the family, are 0: AF_UNSPEC.
const noAddrBytes = 16
