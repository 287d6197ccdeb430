package veloq

// Ports: a worker's ends of the public meshes, whatever their values' type: how it learns that
// something arrived or that there is room again, and when what it sends leaves.

import (
	"sync/atomic"
	"time"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/racemark"
)

const (
	// runMax is how many messages travel under one record, and so how many a link collects before it
	// publishes them: the store that does so waits for the receiver's cache line, and costs more than
	// the message.
	runMax = 64
	// portBudget is how many messages a turn hands to one port's handler.
	portBudget = 1024
	// recordRun is the kind of a record that stands for a run of values: its token is the place of the
	// first one, and above recordShift their number.
	recordRun   = 1
	recordShift = 32
)

// A port is a worker's end of a Mesh. Worker only.
type port interface {
	// drain takes note of what happened to the port: messages, room, the mesh's end. It reports
	// whether messages are left for its handler.
	drain() (more bool)
	// ended reports whether the port has nothing to do any more.
	ended() bool
}

// portBell says that a port has to look at its edges. It is set after what it tells of, and taken back
// before the look: so what a look misses rings again.
type portBell struct {
	_   [64]byte
	set atomic.Uint32
	_   [60]byte
}

// ring tells to's port. from is the worker that calls.
func (b *portBell) ring(from, to *worker) {
	// Under -race the edge's store in C memory is overtaken by a load; see racemark.
	racemark.Fence()
	if b.set.Load() == 0 {
		b.set.Store(1)
	}
	if to.mail.Load() == 0 {
		to.mail.Store(1)
	}
	if from != to {
		from.knockLater(to)
	}
}

// take reports whether the bell was rung.
func (b *portBell) take() bool { return b.set.Load() != 0 && b.set.Swap(0) != 0 }

// link is one edge of a Mesh and the count of its values' places. Sender and receiver each have a
// line that only they write.
type link struct {
	edge    *core.Edge
	to      *worker
	bell    *portBell // the receiver's
	cap     uint32    // places of values; a power of two
	free    uint32    // places that are surely free
	sent    uint32    // messages ever; the next one's place is sent modulo cap
	pending uint32    // of them, those that the receiver can't see yet
	queued  bool
	senders taskList // that wait for room, in the order of their messages

	_ [64]byte
	// consumed counts the messages whose places are the sender's again. The receiver stores it.
	consumed atomic.Uint32
	_        uint32
	// waiting is set by a sender that is about to park, to waitMark and the count at which it is to be
	// told of room, and taken away by the receiver who does.
	waiting atomic.Uint64
	_       [48]byte
}

// room returns how many messages can be sent now, looking at the receiver's count only when there
// seem to be none.
func (l *link) room(w *worker) uint32 {
	if l.free == 0 {
		l.publish(w)
		// Pairs with the store in consume: the values that were there have been read.
		l.free = l.cap - (l.sent - l.consumed.Load())
	}
	return l.free
}

// add counts n messages whose values were put into consecutive places, which end with the last one at
// the latest. They leave in runs, the last one at the end of the turn.
func (l *link) add(w *worker, n uint32) {
	l.free -= n
	l.sent += n
	l.pending += n
	if l.pending >= runMax || l.sent&(l.cap-1) == 0 {
		l.publish(w)
		return
	}
	if !l.queued {
		l.queued = true
		w.publishing = append(w.publishing, l)
	}
}

// publish lets the receiver see what is pending: one record. There are as many records as
// places, and each stands for a message at least, so there is room for it.
func (l *link) publish(w *worker) {
	if l.pending == 0 {
		return
	}
	first := (l.sent - l.pending) & (l.cap - 1)
	run := [1]core.Msg{{Kind: recordRun, Token: uint64(first) | uint64(l.pending)<<recordShift}}
	if l.edge.Push(run[:]) == 0 {
		panic("veloq: an edge of a mesh has fewer records than places")
	}
	full := l.pending >= runMax
	l.pending = 0
	l.bell.ring(w, l.to)
	if full && w != l.to {
		w.knockNow(l.to) // it may as well begin
	}
}

const waitMark = 1 << 32

// awaitRoom asks the receiver to tell of room, and reports whether there is some already. Room is half
// of the places: a sender that is woken for every message would cost more than it sends.
func (l *link) awaitRoom() (room bool) {
	enough := l.sent - l.cap/2
	l.waiting.Store(waitMark | uint64(enough))
	// Stored before this load, as the count is before consume's load of waiting: one sees the other.
	if reached(l.consumed.Load(), enough) {
		l.waiting.Store(0)
		return true
	}
	return false
}

// reached compares counts that run over.
func reached(count, mark uint32) bool { return int32(count-mark) >= 0 }

// consume gives n places back, and tells the sender if it asked for that. The receiver only: at is
// it, from and bell are the sender's.
func (l *link) consume(at, from *worker, bell *portBell, n uint32) {
	count := l.consumed.Load() + n
	l.consumed.Store(count)
	asked := l.waiting.Load()
	if asked != 0 && reached(count, uint32(asked)) && l.waiting.CompareAndSwap(asked, 0) {
		bell.ring(at, from)
	}
}

// publishPorts lets go what was sent in this turn.
func (w *worker) publishPorts() {
	for i, l := range w.publishing {
		w.publishing[i] = nil
		l.queued = false
		l.publish(w)
	}
	w.publishing = w.publishing[:0]
}

// drainPorts looks at the ports that were told of something.
func (w *worker) drainPorts() {
	if w.mail.Load() == 0 {
		return
	}
	w.mail.Swap(0) // before the look at the ports' bells: see portBell
	w.talk.heard = true
	for i := 0; i < len(w.ports); {
		p := w.ports[i]
		if p.drain() {
			w.mail.Store(1)
			w.stats.budgetMesh++
		}
		if p.ended() {
			w.ports = append(w.ports[:i], w.ports[i+1:]...)
			continue
		}
		i++
	}
}

// addPort makes a port the worker's; it may have been told of something before.
func (w *worker) addPort(p port) {
	w.ports = append(w.ports, p)
	w.mail.Store(1)
}

// talkSpin is how long a worker looks for the other side's answer before it sleeps, while that pays.
const talkSpin = 50 * time.Microsecond

// talk decides whether a worker looks for mail for a moment before it sleeps. Two workers that keep one
// another busy else sleep in turn, and each wake costs more than the messages. It pays when sleeps
// after mail turn out to be short, and is given up when looks find nothing.
type talk struct {
	never  bool // for tests of sleeping
	heard  bool // mail came since the last sleep
	credit int8
	slept  int64 // when, while heard
}

const talkCreditMax = 4

func (k *talk) spins() bool { return k.heard && k.credit > 0 && !k.never }

// judge learns from a look's success, and returns it.
func (k *talk) judge(found bool) bool {
	if found {
		k.credit = min(k.credit+1, talkCreditMax)
	} else {
		k.credit -= 2
	}
	return found
}

func (k *talk) sleep() {
	if k.heard {
		k.slept = clock()
	}
}

// awake notes a sleep's end. Only what mail ended says something.
func (k *talk) awake(mail bool) {
	if !k.heard {
		return
	}
	k.heard = false
	if mail && clock()-k.slept < 4*int64(talkSpin) {
		k.credit = min(k.credit+2, talkCreditMax)
	}
}

// taskList is tasks that wait for one another's turn, in order.
type taskList struct{ tasks []*task }

func (l *taskList) len() int { return len(l.tasks) }

func (l *taskList) first() *task {
	if len(l.tasks) == 0 {
		return nil
	}
	return l.tasks[0]
}

func (l *taskList) add(t *task) { l.tasks = append(l.tasks, t) }

func (l *taskList) remove(t *task) {
	for i, other := range l.tasks {
		if other == t {
			copy(l.tasks[i:], l.tasks[i+1:])
			l.tasks[len(l.tasks)-1] = nil
			l.tasks = l.tasks[:len(l.tasks)-1]
			return
		}
	}
}
