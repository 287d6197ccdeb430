package veloq

// Tokens: how a completion finds the object whose op it ends.

import "github.com/veloq/veloq/internal/core"

// opKind says which op of an object a completion belongs to. It is the top byte of the token.
type opKind uint8

const (
	opNone opKind = iota
	opWake
	opTimer
	opTimerMoved // the answer to an update of opTimer, whose own completion counts
	opCancel     // the answer to a cancel request, under the slot's token; the op's own completion counts
	opAccept
	opConnect
	opRecv
	opRecvPacket // of the packet group
	opSendInline // small: done inside the enter that submits it, completes only when it fell short
	opSend
	opSendZC // of a zeroCopySend
	opReset
	opSendFile
	opShutdown
	opClose
	opPacket // a quiet datagram; the slot is its place in worker.packetSends
)

// A token is 64 bits of user data: kind, generation and index of a slot. The generation makes a
// completion harmless that comes for a slot's earlier owner.
const (
	tokenKindShift = 56
	tokenGenShift  = 32
	tokenGenMask   = 1<<24 - 1
)

// An operand is what ops belong to: a Stream, a Listener or a Datagram.
type operand interface {
	// complete takes one completion of the op of that kind. Worker only, from dispatch.
	complete(kind opKind, res int32, flags uint32)
	// abort ends the object because its runtime ends.
	abort()
}

// A holder is an operand that holds memory of C or a descriptor.
type holder interface {
	// inUse reports whether the kernel still uses memory that ends with the worker.
	inUse() bool
	// discard gives back what the object holds of C and of the system, as the worker ends. No op of
	// it is in flight any more.
	discard()
}

type slot struct {
	owner operand // nil while free
	gen   uint32
	next  int32 // free list
}

// slotTable is a worker's objects by index.
type slotTable struct {
	slots []slot
	free  int32 // head of the free list, -1 if empty
	used  int
}

func (s *slotTable) init() { s.free = -1 }

// add gives owner a slot and returns the token of its ops, less the kind.
func (s *slotTable) add(owner operand) uint64 {
	s.used++
	i := s.free
	if i < 0 {
		i = int32(len(s.slots))
		s.slots = append(s.slots, slot{})
	} else {
		s.free = s.slots[i].next
	}
	sl := &s.slots[i]
	sl.owner = owner
	return uint64(sl.gen)<<tokenGenShift | uint64(uint32(i))
}

// remove frees a slot. All ops under its token are over, or nobody cares about their end.
func (s *slotTable) remove(token uint64) {
	i := int32(uint32(token))
	sl := &s.slots[i]
	sl.owner = nil
	sl.gen = (sl.gen + 1) & tokenGenMask
	sl.next = s.free
	s.free = i
	s.used--
}

// find returns the owner, or nil where the token's time is over.
func (s *slotTable) find(token uint64) operand {
	i := uint32(token)
	if uint64(i) >= uint64(len(s.slots)) {
		return nil
	}
	sl := &s.slots[i]
	if sl.gen != uint32(token>>tokenGenShift)&tokenGenMask {
		return nil
	}
	return sl.owner
}

func (k opKind) token(slot uint64) uint64 { return uint64(k)<<tokenKindShift | slot }

// stage returns a zeroed submission for op opcode of kind under token. When the ring is full it
// first submits what is there; it never drops and never queues.
func (w *worker) stage(opcode uint8, kind opKind, slot uint64) *core.SQE {
	sqe := w.driver.Stage()
	for sqe == nil {
		w.stats.ringFull++
		w.enter(0)
		sqe = w.driver.Stage()
	}
	sqe.Opcode = opcode
	sqe.UserData = kind.token(slot)
	w.wakeDelay.noteStaged(kind)
	return sqe
}

// A canceller is an operand that cancels ops. The kernel may miss one that it is about to try again,
// which is then in none of its lists, and which goes on: the owner asks again.
type canceller interface {
	// cancelMissed asks again for the end of all that it has asked for and that is still in flight.
	cancelMissed()
}

// stageCancel asks for the end of the op of that kind. Where there is none, the slot's owner hears of it.
func (w *worker) stageCancel(kind opKind, slot uint64) {
	sqe := w.stage(core.OpCancel, opCancel, slot)
	sqe.FD = -1
	sqe.Addr = kind.token(slot)
	sqe.Flags = w.skipSuccess
}

// enter is the crossing: submits what is staged, waits if asked to, and collects what completed.
func (w *worker) enter(wait uint32) { w.entered(w.driver.Enter(wait)) }

// entered collects what a crossing brought.
func (w *worker) entered(err error) {
	if err != nil {
		w.rt.broken(w, err)
	}
	w.wakeDelay.prompt = false
	w.collect()
	for w.driver.Overflowed() {
		// Completions wait in the kernel for the room that collect has just made.
		w.stats.overflows++
		if err := w.driver.Enter(0); err != nil {
			w.rt.broken(w, err)
		}
		w.collect()
	}
}

// collect copies completions out of the ring, so that a handler which fills the submission ring can
// let the kernel post more while they are dispatched.
func (w *worker) collect() {
	n := w.driver.Ready()
	for i := range n {
		w.completions = append(w.completions, *w.driver.Completion(i))
	}
	if n > 0 {
		w.driver.Consume(n)
	}
}

// dispatch hands every collected completion to its owner. Handlers run from here; tasks are only
// made runnable. Sends come first: what went out makes room for what the others will write.
func (w *worker) dispatch() {
	for i := 0; i < len(w.completions); i++ {
		cqe := &w.completions[i]
		kind := opKind(cqe.UserData >> tokenKindShift)
		switch {
		case kind == opPacket:
			w.packetSends[uint32(cqe.UserData)].res = cqe.Res
			cqe.UserData = 0
		case kind == opSendInline || kind == opSend:
			token, res := cqe.UserData, cqe.Res
			cqe.UserData = 0
			if owner := w.slots.find(token); owner != nil {
				owner.complete(kind, res, 0)
			}
		}
	}
	w.confirm()
	w.confirmPackets()
	for i := 0; i < len(w.completions) || w.deliverPackets(); i++ {
		cqe := w.completions[i] // a copy: the slice may grow meanwhile
		switch kind := opKind(cqe.UserData >> tokenKindShift); kind {
		case opNone:
		case opWake:
			w.wakeDelay.rung = true
			if cqe.Flags&core.CQEMore == 0 {
				w.armWake()
			}
		case opTimer:
			w.timers.expired()
		case opCancel:
			if c, ok := w.slots.find(cqe.UserData).(canceller); ok && cqe.Res == -core.ErrnoNOENT {
				c.cancelMissed()
			}
		case opTimerMoved, opClose:
		case opPacket:
			w.packetSends[uint32(cqe.UserData)].res = cqe.Res
		default:
			if owner := w.slots.find(cqe.UserData); owner != nil {
				owner.complete(kind, cqe.Res, cqe.Flags)
			} else {
				w.orphan(kind, &cqe)
			}
		}
	}
	w.stats.lastBatch = len(w.completions)
	w.stats.completions += uint64(len(w.completions))
	w.completions = w.completions[:0]
}

// undone reports whether a result says only that nothing was done: cancelled, interrupted, or it would
// have had to wait. It is asked of every op that is then staged anew, and never shown to anybody.
func undone(res int32) bool {
	return res == -core.ErrnoCANCELED || res == -core.ErrnoAGAIN || res == -core.ErrnoINTR
}

// orphan takes a completion whose owner is gone, and gives back what it carries.
func (w *worker) orphan(kind opKind, cqe *core.CQE) {
	w.stats.orphans++
	switch {
	case kind == opAccept && cqe.Res >= 0:
		_ = core.CloseSocket(cqe.Res)
	case cqe.Flags&core.CQEBuffer != 0:
		w.groupOf(kind).take(core.BufferIndex(cqe.Flags), max(cqe.Res, 0), cqe.Flags).Release()
	}
}

// groupOf is the buffer group of a receive.
func (w *worker) groupOf(kind opKind) *bufferGroup {
	if kind == opRecvPacket {
		return &w.packets
	}
	return &w.buffers
}
