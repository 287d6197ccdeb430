package veloq

// Staged writes: the small writes of many goroutines' connections go out in one enter of a worker,
// instead of in a system call each. They pay only while several goroutines write at about the same
// time, which the stager finds out by trying now and then.

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/gid"
)

// StageMode says whether the net door's small writes are staged.
type StageMode uint8

// The values of Config.Stage.
const (
	// StageAuto stages while several goroutines write at about the same time, which saves system
	// calls, and else writes at once.
	StageAuto StageMode = iota
	// StageOn stages every write of up to 16 KiB.
	StageOn
	// StageOff stages none.
	StageOff
)

// String returns the mode's name.
func (m StageMode) String() string {
	switch m {
	case StageAuto:
		return "auto"
	case StageOn:
		return "on"
	case StageOff:
		return "off"
	}
	return fmt.Sprintf("StageMode(%d)", uint8(m))
}

// ParseStageMode returns the mode of that name: "auto", "on", "off".
func ParseStageMode(name string) (StageMode, error) {
	for _, m := range []StageMode{StageAuto, StageOn, StageOff} {
		if m.String() == name {
			return m, nil
		}
	}
	return StageAuto, fmt.Errorf("veloq: unknown stage mode %q: auto, on or off", name)
}

// stageFromEnvironment returns VELOQ_STAGE's mode.
func stageFromEnvironment() (StageMode, error) {
	name := os.Getenv("VELOQ_STAGE")
	if name == "" {
		return StageAuto, nil
	}
	mode, err := ParseStageMode(name)
	if err != nil {
		return StageAuto, fmt.Errorf("%w, in VELOQ_STAGE", err)
	}
	return mode, nil
}

const (
	// stageMax is the longest write that is staged, and the most bytes of a connection in a batch.
	stageMax = inlineMax
	// stageArenaBytes is the size of a batch's memory.
	stageArenaBytes = 1 << 20
	// stageProbeEvery: so many direct writes of a connection, and the next one probes.
	stageProbeEvery = 128
	// stageWorth is the least batch that makes a probe a success; so many of those turn staging on.
	stageWorth  = 4
	stageProbes = 2
	// A moving average below stageFloor turns it off, and so do stageLateMax batches that
	// waited longer than stageLate: the worker gets no processor then.
	stageFloor   = 2
	stageLate    = 5 * time.Millisecond
	stageLateMax = 2
)

// A stager collects writes for one worker. Locks are taken in the order: a connection's write lock,
// st.mu.
type stager struct {
	mode StageMode
	// start gives the worker when one is first needed, nil where there is none.
	start func() *worker

	// active: writes are staged now, because it pays or to see whether it would.
	active atomic.Bool

	mu      sync.Mutex
	w       *worker
	filling *stageBatch
	spare   *stageBatch // while none is with the worker
	sent    *stageBatch // with the worker, until its enter is over
	sentBy  *worker
	begun   uint64        // number of the last batch that went to a worker
	done    uint64        // number of the last one whose enter is over
	changed chan struct{} // closed when done has moved, if somebody waits for that
	started time.Time     // when filling got its first write
	none    bool          // there is no worker to be had
	on      bool          // it pays
	wins    int           // probes in a row that were worth it
	average float64       // of the batches' sizes
	late    int

	note   *note // for the worker's inbox
	posted bool  // it is there
}

// A stageBatch is what goes out in one enter.
type stageBatch struct {
	seq     uint64
	mem     []byte // C memory
	used    int
	entries []stageEntry
}

type stageEntry struct {
	c        *stagedSend
	off, len int
}

// stagedSend is the stager's side of a connection. Its methods are called with the lock of the
// connection's out held, unless they say otherwise.
type stagedSend struct {
	st     *stager
	d      *directIO
	fd     int32  // -1 before it was needed
	direct uint32 // writes that were not staged
	used   bool   // something was staged that may not be with the kernel yet

	until   atomic.Int64 // the write deadline in Unix nanoseconds, 0 for none
	waiting atomic.Int32 // goroutines in settle
	ended   atomic.Bool  // takes no more

	// Under the stager's lock.
	seq      uint64 // the last batch that has bytes of it
	entry    int    // its place there
	bypassed int    // nothing is staged while it is not 0
	rest     []byte // what a send left over; goes out before anything else
	failed   int32  // the negative result of a staged send
}

// newStager makes the stager of a worker that start gives when it is first needed.
func newStager(mode StageMode, start func() *worker) *stager {
	st := &stager{mode: mode, start: start}
	st.active.Store(mode == StageOn)
	return st
}

// take stages p, if that is what is done now; otherwise the caller sends it, after clear.
func (c *stagedSend) take(p []byte) bool {
	st := c.st
	if len(p) > stageMax {
		return false
	}
	if !st.active.Load() {
		if c.direct++; c.direct%stageProbeEvery != 0 {
			return false
		}
		st.active.Store(true) // a probe: until the next flush, everybody stages
	}
	if until := c.until.Load(); until != 0 && until <= time.Now().UnixNano() {
		return false
	}
	if c.fd < 0 {
		if err := c.d.raw.Control(func(fd uintptr) { c.fd = int32(fd) }); err != nil {
			return false
		}
	}
	st.mu.Lock()
	w := st.add(c, p)
	var n *note
	if w != nil && !st.posted {
		st.posted = true
		n = st.note
	}
	st.mu.Unlock()
	if n != nil {
		w.post(n) // one that ends has flushed, or will
	}
	c.used = c.used || w != nil
	return w != nil
}

// add puts p into the filling batch and returns the batch's worker, nil if p must go another way.
func (st *stager) add(c *stagedSend, p []byte) *worker {
	if c.ended.Load() || c.bypassed != 0 || c.failed != 0 || c.rest != nil || !st.ready() || st.w.busyWith() {
		return nil
	}
	b := st.filling
	n := len(p)
	if c.seq != b.seq {
		if b.used+n > len(b.mem) {
			return nil
		}
		if len(b.entries) == 0 {
			st.started = time.Now()
		}
		c.seq, c.entry = b.seq, len(b.entries)
		b.entries = append(b.entries, stageEntry{c: c, off: b.used, len: n})
		b.used += copy(b.mem[b.used:], p)
		return st.w
	}
	e := &b.entries[c.entry]
	if e.len+n > stageMax {
		return nil
	}
	if e.off+e.len != b.used {
		// Others wrote behind it, and one send needs its bytes together.
		if b.used+e.len+n > len(b.mem) {
			return nil
		}
		copy(b.mem[b.used:], b.mem[e.off:e.off+e.len])
		e.off = b.used
		b.used += e.len
	} else if b.used+n > len(b.mem) {
		return nil
	}
	b.used += copy(b.mem[b.used:], p)
	e.len += n
	return st.w
}

// ready finds the worker and the memory when they are first needed.
func (st *stager) ready() bool {
	if st.w != nil {
		return true
	}
	if st.none || !core.SharesSockets {
		return false
	}
	for _, b := range []**stageBatch{&st.filling, &st.spare} {
		if *b != nil || st.sent != nil {
			continue
		}
		mem := core.Alloc(stageArenaBytes)
		if mem == nil {
			st.refuse()
			return false
		}
		*b = &stageBatch{mem: unsafe.Slice((*byte)(mem), stageArenaBytes)}
	}
	w := st.start()
	if w == nil {
		st.refuse()
		return false
	}
	if !w.attach(st) {
		return false
	}
	st.w = w
	st.filling.seq = st.begun + 1
	// A note of its own for each worker: the last one's may still lie in an inbox.
	st.posted = false
	st.note = &note{do: func(w *worker) {
		st.mu.Lock()
		here := st.w == w
		if here {
			st.posted = false
		}
		st.mu.Unlock()
		if here {
			st.flush(w)
		}
	}}
	return true
}

// refuse is for where there is no worker to be had.
func (st *stager) refuse() {
	st.none = true
	st.active.Store(false)
}

// settle waits until everything staged is with the kernel, or the write deadline. It returns the error
// of what could not be sent. A task of the stager's own worker can't wait for it.
func (c *stagedSend) settle() error {
	st := c.st
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	st.mu.Lock()
	defer st.mu.Unlock()
	for c.seq > st.done {
		if st.w != nil && st.w.busyWith() {
			return ErrWrongWorker
		}
		if err := st.await(c.until.Load()); err != nil {
			return err
		}
	}
	if c.failed != 0 {
		return os.NewSyscallError(core.NameWrite, core.Errno(-c.failed).Sys())
	}
	return nil
}

// awaitDone waits until no batch has bytes of c, for d at most, and reports whether none has. Needs no
// other lock.
func (c *stagedSend) awaitDone(d time.Duration) bool {
	st := c.st
	until := time.Now().Add(d).UnixNano()
	st.mu.Lock()
	defer st.mu.Unlock()
	for c.seq > st.done {
		if (st.w != nil && st.w.busyWith()) || st.await(until) != nil {
			return false
		}
	}
	return true
}

// await waits for a tell, at most until that Unix time in nanoseconds, 0 for ever; without the lock,
// which is held before and after.
func (st *stager) await(until int64) error {
	if st.changed == nil {
		st.changed = make(chan struct{})
		if st.sent != nil {
			// Quiet sends wake nobody: their worker may sleep and not know that they are over, or
			// be about to.
			st.sentBy.post(&note{do: func(w *worker) { w.hurried = true }})
		}
	}
	changed := st.changed
	st.mu.Unlock()
	defer st.mu.Lock()
	if until == 0 {
		<-changed
		return nil
	}
	timer := time.NewTimer(time.Until(time.Unix(0, until)))
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
}

// tell wakes everybody in await.
func (st *stager) tell() {
	if st.changed != nil {
		close(st.changed)
		st.changed = nil
	}
}

// leftOver returns what a staged send left over, which goes out before anything else. While there is
// some, nothing is staged. After settle.
func (c *stagedSend) leftOver() []byte {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	return c.rest
}

// sentRest takes n bytes off what was left over.
func (c *stagedSend) sentRest(n int) {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
}

// idle reports whether all that was taken is with the kernel. Needs no other lock.
func (c *stagedSend) idle() bool {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	return c.seq <= c.st.done && c.rest == nil
}

// close takes no more bytes, and reports whether all that was taken is with the kernel. Needs no other
// lock.
func (c *stagedSend) close() bool {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	c.ended.Store(true)
	return c.seq <= c.st.done && c.rest == nil
}

// ends reports whether close was called. Needs no other lock.
func (c *stagedSend) ends() bool { return c.ended.Load() }

// bypass keeps c from being staged, by one reason more or less. Needs no other lock.
func (c *stagedSend) bypass(reasons int) {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	c.bypassed += reasons
}

// setUntil is for the write deadline. Needs no other lock.
func (c *stagedSend) setUntil(t time.Time) {
	until := int64(0)
	if !t.IsZero() {
		until = t.UnixNano()
	}
	c.until.Store(until)
	if c.waiting.Load() > 0 {
		c.st.mu.Lock()
		c.st.tell()
		c.st.mu.Unlock()
	}
}

// ---- what the worker does

// attach makes the worker the one that st sends by; false if it is ending. Any goroutine.
func (w *worker) attach(st *stager) bool {
	w.stager.Store(st)
	return !w.rt.closing.Load() // otherwise its stop detaches what it finds
}

// flush stages a send for each entry of the filling batch, and takes the next. While a batch's enter
// is not over, it leaves that to confirm, before which the worker must not sleep then: the note that
// asked for this flush is spent, and nobody may write again.
func (st *stager) flush(w *worker) {
	st.mu.Lock()
	b := st.filling
	if st.sent != nil || len(b.entries) == 0 {
		w.hurried = w.hurried || len(b.entries) > 0
		st.mu.Unlock()
		return
	}
	st.begun = b.seq
	st.filling, st.spare, st.sent, st.sentBy = st.spare, nil, b, w
	awaited := st.changed != nil
	st.filling.seq = b.seq + 1
	st.judge(len(b.entries), time.Since(st.started))
	for i := range b.entries {
		e := &b.entries[i]
		if e.c.rest != nil { // these come behind it
			e.c.rest = append(e.c.rest, b.mem[e.off:e.off+e.len]...)
			e.c = nil
		}
	}
	st.mu.Unlock()
	sends := uint64(0)
	for i := range b.entries {
		e := &b.entries[i]
		if e.c == nil {
			continue
		}
		sends++
		sqe := w.stage(core.OpSend, opStaged, uint64(i))
		sqe.FD = e.c.fd
		sqe.Addr = uint64(uintptr(unsafe.Pointer(&b.mem[e.off])))
		sqe.Len = uint32(e.len)
		sqe.OpFlags = core.MsgDontWait | core.MsgWaitAll | core.MsgNoSignal
		if !awaited {
			sqe.Flags = w.skipSuccess
		}
	}
	w.stats.stagedBatches++
	w.stats.stagedWrites += sends
	if sends == 0 {
		st.confirm(w) // no enter will say that it is over
	}
}

// judge turns staging on or off by the size of a batch and how long it waited.
func (st *stager) judge(size int, waited time.Duration) {
	if st.mode != StageAuto {
		return
	}
	switch {
	case !st.on && size < stageWorth:
		st.wins = 0
	case !st.on:
		if st.wins++; st.wins == stageProbes {
			st.on, st.average, st.late = true, float64(size), 0
		}
	default:
		st.average += (float64(size) - st.average) / 8
		if waited > stageLate {
			st.late++
		}
		if st.average < stageFloor || st.late == stageLateMax {
			st.on, st.wins = false, 0
		}
	}
	st.active.Store(st.on)
}

// complete takes the completion of a staged send: of one that did not do all, or, where successes are
// told too, of any.
func (st *stager) complete(place uint32, res int32) {
	b := st.sent
	e := &b.entries[place]
	done := max(int(res), 0)
	if done == e.len {
		return
	}
	st.mu.Lock()
	ended := res < 0 && res != -core.ErrnoCANCELED && res != -core.ErrnoAGAIN && res != -core.ErrnoINTR
	if ended {
		e.c.failed = res
	} else {
		e.c.rest = append([]byte(nil), b.mem[e.off+done:e.off+e.len]...)
	}
	st.mu.Unlock()
	if !ended {
		e.c.d.resend()
	}
}

// confirm ends the batch whose enter is over.
func (st *stager) confirm(w *worker) {
	b := st.sent
	if b == nil {
		return
	}
	st.mu.Lock()
	st.sent, st.spare, st.done = nil, b, b.seq
	clear(b.entries)
	b.entries, b.used = b.entries[:0], 0
	st.tell()
	more := len(st.filling.entries) > 0
	st.mu.Unlock()
	if more {
		st.flush(w)
	}
}

// busyWith reports whether the caller is known to run on the worker, which can't send for it while it
// waits.
func (w *worker) busyWith() bool { return gid.Supported && w.here() }

// release frees the memory, unless another worker uses it by now.
func (st *stager) release() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.w != nil {
		return
	}
	for _, b := range []**stageBatch{&st.filling, &st.spare} {
		if *b != nil {
			core.Free(unsafe.Pointer(&(*b).mem[0]))
			*b = nil
		}
	}
}

// detach ends the stager's use of a worker that stops. What was taken still goes out.
func (st *stager) detach(w *worker) {
	st.flush(w)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.w = nil
	st.on, st.wins = false, 0
	st.active.Store(st.mode == StageOn)
}
