// Package wheel is the timer wheel of one worker. It holds the placement and expiry rules and nothing
// else: it reads no clock, takes no lock and never allocates.
//
// Time is int64 nanoseconds of whatever monotonic clock the owner passes in. It is counted in ticks of
// 2^20 ns (1.05 ms). A timer's time is rounded up to a tick, so it never fires early, and the wheel
// itself makes it less than one tick late.
//
// A Wheel and its Timers belong to one goroutine. Worker only.
package wheel

import (
	"math"
	"math/bits"
)

// Tick is the resolution in nanoseconds.
const Tick = int64(1) << tickBits

const (
	tickBits  = 20
	levelBits = 6
	levels    = 6
	slots     = 1 << levelBits
	slotMask  = slots - 1
	top       = levels - 1
	topShift  = top * levelBits

	// Where a timer is linked. Zero must mean "nowhere": a zero Timer is ready for use.
	atNowhere = 0
	atSlots   = 1 // atSlots + level*slots + slot
	atSoon    = atSlots + levels*slots
	atDue     = atSoon + 1
	lists     = atDue + 1
)

// A Timer is embedded in the object it times, and recovers it in one of two ways: Fire closes over
// the object (one allocation in the object's life), or Fire is a plain function that derives the
// object from the Timer's address, which must then be its first field.
//
// The zero Timer is idle. A Timer must not be copied or freed for reuse while it is pending.
type Timer struct {
	next, prev *Timer
	when       int64

	// Fire runs in Advance with the time that Advance was given. The timer is idle by then: Fire may
	// add or remove any timer, this one included, but must not call Advance, Expire or Pop.
	// Set it before the first Add.
	Fire func(t *Timer, now int64)

	at uint16

	// Kind is for the owner: it tells timers apart that share a Fire, or a loop over Pop.
	Kind uint8
}

// Pending reports whether the timer was added and neither fired nor was removed since.
func (t *Timer) Pending() bool { return t.at != atNowhere }

// When returns the time last given to Add, in nanoseconds.
func (t *Timer) When() int64 { return t.when }

// tick returns the first tick whose start is not before the timer's time.
func (t *Timer) tick() int64 {
	tick := t.when >> tickBits
	if t.when&(Tick-1) != 0 {
		tick++
	}
	return tick
}

type list struct{ head, tail *Timer }

// A Wheel orders the timers of one worker. Call Init before anything else.
//
// What makes every operation cheap: a timer sits on the level of the highest base-64 digit in which
// its tick differs from the current one. So all of level n expires before any of level n+1, slots of
// a level never wrap around (but for the top one), and the earliest timer is in the first occupied
// slot of the lowest occupied level.
type Wheel struct {
	cur     int64 // tick up to which everything has been moved to the due list
	pending int
	occ     [levels]uint64

	// first is a lower bound of the ticks in a slot, set while the slot is occupied. It lets Next look
	// past the slot's start, so that a worker does not wake merely to sort timers into finer slots.
	first [levels * slots]int64
	lists [lists]list
}

// Init makes the wheel empty and sets its time. Timers that were pending in it are forgotten and must
// not be used again before they are zeroed.
func (w *Wheel) Init(now int64) {
	*w = Wheel{cur: now >> tickBits}
}

// Pending returns how many timers are pending.
func (w *Wheel) Pending() int { return w.pending }

// Add makes t fire at when, in nanoseconds. A pending timer is moved. A time that has passed is fine:
// t fires in the next Advance, never in the one that is running, so timers that re-add themselves
// cannot keep one Advance busy for ever.
func (w *Wheel) Add(t *Timer, when int64) {
	if t.at == atNowhere {
		w.pending++
	} else {
		w.unlink(t)
	}
	t.when = when
	w.place(t)
}

// Remove makes t idle and reports whether it was pending.
func (w *Wheel) Remove(t *Timer) bool {
	if t.at == atNowhere {
		return false
	}
	w.unlink(t)
	w.pending--
	return true
}

// Next returns a time at or before which no Advance can find anything to do, and false if no timer is
// pending. It is never later than the tick in which the earliest timer fires, and it is that very tick
// unless an earlier timer was removed since: then it may lie before it, and Advance at that time makes
// Next move on. A time in the past means that timers are due now.
func (w *Wheel) Next() (when int64, ok bool) {
	if w.pending == 0 {
		return 0, false
	}
	if w.lists[atDue].head != nil || w.lists[atSoon].head != nil {
		return w.cur << tickBits, true
	}
	level, slot, _ := w.earliest()
	tick := w.first[level*slots+slot]
	if tick > math.MaxInt64>>tickBits {
		return math.MaxInt64, true
	}
	return tick << tickBits, true
}

// Advance fires every timer that is due at now, in order of their ticks, and returns how many fired.
// A time before that of an earlier call counts as that earlier time.
func (w *Wheel) Advance(now int64) (fired int) {
	w.Expire(now)
	now = max(now, w.cur<<tickBits) // so that no callback sees a time before its timer's
	for t := w.Pop(); t != nil; t = w.Pop() {
		t.Fire(t, now)
		fired++
	}
	return fired
}

// Expire is the first half of Advance, for an owner who wants to run other work between timers: it
// moves the wheel to now and leaves the due timers to Pop. They stay pending, and removable, until
// they are popped.
func (w *Wheel) Expire(now int64) {
	w.drain(atSoon)
	for end := now >> tickBits; w.cur < end; {
		level, slot, start := w.earliest()
		if level < 0 || start > end {
			// Whatever is left starts after end, so it keeps its level when seen from there.
			w.cur = end
			return
		}
		w.cur = start
		w.occ[level] &^= 1 << slot
		w.drain(atSlots + level*slots + slot)
	}
}

// Pop detaches the next timer that Expire found due and returns it, or nil if there is none. Timers
// added since Expire are not among them.
func (w *Wheel) Pop() *Timer {
	t := w.lists[atDue].head
	if t != nil {
		w.unlink(t)
		w.pending--
	}
	return t
}

// earliest returns the first occupied slot and its first tick; level is -1 if there is none.
func (w *Wheel) earliest() (level, slot int, start int64) {
	for level := range top {
		if occ := w.occ[level]; occ != 0 {
			slot := bits.TrailingZeros64(occ)
			shift := level * levelBits
			block := w.cur >> (shift + levelBits) << levelBits
			return level, slot, (block | int64(slot)) << shift
		}
	}
	if w.occ[top] == 0 {
		return -1, 0, 0
	}
	cur := w.cur >> topShift
	ahead := bits.TrailingZeros64(bits.RotateLeft64(w.occ[top], -int(cur&slotMask)))
	index := cur + int64(ahead)
	return top, int(index & slotMask), index << topShift
}

// place links an unlinked t where it belongs as seen from the current tick.
func (w *Wheel) place(t *Timer) {
	tick := t.tick()
	if tick <= w.cur {
		w.link(t, atSoon)
		return
	}
	level := (bits.Len64(uint64(tick^w.cur)) - 1) / levelBits
	if level >= top {
		level = top
		// The top level wraps around. Beyond its last slot there is nothing: such timers wait in
		// that slot and are placed again when it comes up.
		if last := w.cur>>topShift + slotMask; tick>>topShift > last {
			tick = (last+1)<<topShift - 1
		}
	}
	slot := int(tick>>(level*levelBits)) & slotMask
	index := level*slots + slot
	if bit := uint64(1) << slot; w.occ[level]&bit == 0 {
		w.occ[level] |= bit
		w.first[index] = tick
	} else if tick < w.first[index] {
		w.first[index] = tick
	}
	w.link(t, atSlots+index)
}

// drain takes every timer off a list and puts it where it belongs now. What is due goes to the due
// list and not to the soon list: only drain knows that these were due before the batch began.
func (w *Wheel) drain(at int) {
	t := w.lists[at].head
	w.lists[at] = list{}
	for t != nil {
		next := t.next
		if t.tick() <= w.cur {
			w.link(t, atDue)
		} else {
			w.place(t)
		}
		t = next
	}
}

func (w *Wheel) link(t *Timer, at int) {
	l := &w.lists[at]
	t.at = uint16(at)
	t.next = nil
	t.prev = l.tail
	if l.tail != nil {
		l.tail.next = t
	} else {
		l.head = t
	}
	l.tail = t
}

func (w *Wheel) unlink(t *Timer) {
	l := &w.lists[t.at]
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		l.head = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.tail = t.prev
	}
	if l.head == nil && t.at < atSoon {
		index := int(t.at) - atSlots
		w.occ[index/slots] &^= 1 << (index % slots)
	}
	t.next, t.prev, t.at = nil, nil, atNowhere
}
