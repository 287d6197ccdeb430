package veloq

// Staged writes: the small writes of many goroutines' connections go out in one enter of a driver,
// instead of in a system call each. They pay only while several goroutines write at about the same
// time, which the stager finds out by trying now and then.

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/rawio"
)

// StageMode says whether the net door's small writes are staged.
type StageMode uint8

// The values of Config.Stage.
const (
	// StageAuto stages while several goroutines write at about the same time, which saves system
	// calls, and else writes at once.
	StageAuto StageMode = iota
	// StageOn stages every write of up to 2 KiB.
	StageOn
	// StageOff stages none.
	StageOff
)

var stageNames = [...]string{"auto", "on", "off"} // by StageMode

// String returns the mode's name.
func (m StageMode) String() string { return nameOf(stageNames[:], uint8(m), "StageMode") }

// ParseStageMode returns the mode of that name: "auto", "on", "off".
func ParseStageMode(name string) (StageMode, error) {
	i := slices.Index(stageNames[:], name)
	if i < 0 {
		return StageAuto, fmt.Errorf("veloq: unknown stage mode %q: auto, on or off", name)
	}
	return StageMode(i), nil
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
	// stageWriteMax is the longest write that is staged: a longer one costs more to copy than the call.
	stageWriteMax = 2 << 10
	// stageMax is the most bytes of a connection in a batch.
	stageMax = inlineMax
	// stageArenaBytes is the size of a batch's memory.
	stageArenaBytes = 1 << 20
	// stageProbeEvery: so many direct writes of a connection, and the next one probes.
	stageProbeEvery = 128
	// stageWorth is the least batch that makes a probe a success; so many of those turn staging on.
	stageWorth  = 4
	stageProbes = 2
	// A moving average below stageFloor turns it off, and so do stageLateMax batches that
	// waited longer than stageLate: their goroutine gets no processor then.
	stageFloor   = 2
	stageLate    = 5 * time.Millisecond
	stageLateMax = 2
)

// A stager collects writes, and sends them by a driver of its own: a goroutine that starts with a
// batch's first write, and lets those that are ready run before it submits what came together by then.
// No thread is woken, and none waits, which a worker's would have to. Locks are taken in the order: a
// connection's lock of out, st.mu.
type stager struct {
	mode StageMode
	rt   *Runtime // nil for the package's
	// config says what the driver is to be, when one is first needed.
	config func() (core.Config, error)
	run    func() // send, bound once
	// lateClose is how long a closed connection, or direction, goes on sending what was staged.
	lateClose time.Duration

	// active: writes are staged now, because it pays or to see whether it would.
	active atomic.Bool

	// driver is for whoever made sending true; made and freed under mu.
	driver *core.Driver
	quiet  uint8 // core.SQESkipSuccess where the driver has that

	mu      sync.Mutex
	none    bool // there is no driver to be had, or no more
	sending bool // a goroutine sends, or is about to
	filling *stageBatch
	spare   *stageBatch   // while none is being sent
	done    uint64        // number of the last one whose enter is over
	changed chan struct{} // closed when done has moved, if somebody waits for that
	started time.Time     // when filling got its first write
	on      bool          // it pays
	wins    int           // probes in a row that were worth it
	average float64       // of the batches' sizes
	late    int
	stats   StageStats
}

// StageStats counts staged writes.
type StageStats struct {
	Batches uint64 // enters that sent some
	Writes  uint64 // sends in them: one for each connection that had written
}

// StageStats returns what was staged of the runtime's connections of the net door. Any goroutine.
func (rt *Runtime) StageStats() StageStats { return rt.stager.counted() }

// DefaultStageStats is the same of the connections that package-level functions make. Any goroutine.
func DefaultStageStats() StageStats { return defaultStager().counted() }

func (st *stager) counted() StageStats {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.stats
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

// stageDeny keeps the driver from being one thread's: whatever thread the goroutine is on enters.
const stageDeny = core.CapSingleIssuer | core.CapDeferTaskrun | core.CapRegisteredRing

// stageEntries is the size of the driver's rings; a larger batch takes several enters.
const stageEntries = 1024

// An enter sends for at most so many connections, which takes some 2 µs each, and so many bytes: the
// collector waits for it.
const (
	stageEnterSends = 16
	stageEnterBytes = 64 << 10
)

func newStager(mode StageMode, config func() (core.Config, error)) *stager {
	st := &stager{mode: mode, config: config, lateClose: time.Minute}
	st.run = st.send
	st.active.Store(mode == StageOn)
	return st
}

// take stages p, if that is what is done now; otherwise the caller sends it, after clear.
func (c *stagedSend) take(p []byte) bool {
	st := c.st
	if len(p) > stageWriteMax {
		return false
	}
	if !st.active.Load() {
		if c.direct++; c.direct%stageProbeEvery != 0 {
			return false
		}
		st.active.Store(true) // a probe: until the next batch is sent, everybody stages
	}
	if until := c.until.Load(); until != 0 && until <= time.Now().UnixNano() {
		return false
	}
	if c.fd < 0 {
		if err := c.d.raw.Control(func(fd uintptr) { c.fd = int32(fd) }); err != nil {
			return false
		}
	}
	rawio.MarkStaged()
	st.mu.Lock()
	taken := st.add(c, p)
	first := taken && !st.sending
	if first {
		st.sending = true
	}
	st.mu.Unlock()
	if first {
		go st.run()
	}
	c.used = c.used || taken
	return taken
}

// add puts p into the filling batch, or reports that p must go another way.
func (st *stager) add(c *stagedSend, p []byte) bool {
	if c.ended.Load() || c.bypassed != 0 || c.failed != 0 || c.rest != nil || !st.ready() {
		return false
	}
	b := st.filling
	n := len(p)
	if c.seq != b.seq {
		if b.used+n > len(b.mem) {
			return false
		}
		if len(b.entries) == 0 {
			st.started = time.Now()
		}
		c.seq, c.entry = b.seq, len(b.entries)
		b.entries = append(b.entries, stageEntry{c: c, off: b.used, len: n})
		b.used += copy(b.mem[b.used:], p)
		return true
	}
	e := &b.entries[c.entry]
	if e.len+n > stageMax {
		return false
	}
	if e.off+e.len != b.used {
		// Others wrote behind it, and one send needs its bytes together.
		if b.used+e.len+n > len(b.mem) {
			return false
		}
		copy(b.mem[b.used:], b.mem[e.off:e.off+e.len])
		e.off = b.used
		b.used += e.len
	} else if b.used+n > len(b.mem) {
		return false
	}
	b.used += copy(b.mem[b.used:], p)
	e.len += n
	return true
}

// ready makes the driver and the memory when they are first needed.
func (st *stager) ready() bool {
	if st.driver != nil && !st.none {
		return true
	}
	st.active.Store(false) // until there is one
	if st.none || !core.SharesSockets || !core.Available {
		return false
	}
	st.none = true
	config, err := st.config()
	if err != nil {
		return false
	}
	config.Deny |= stageDeny
	config.SQEntries, config.CQEntries = stageEntries, 2*stageEntries
	// It receives nothing: the least there may be.
	config.BufferCount, config.BufferSizeBytes, config.WholeCount, config.WholeSizeBytes = 2, 256, 2, 256
	config.PacketCount, config.PacketSizeBytes = 0, 0
	driver, report, err := core.CreateDriver(config)
	if err != nil {
		return false
	}
	for _, b := range []**stageBatch{&st.filling, &st.spare} {
		mem := core.Alloc(stageArenaBytes)
		if mem == nil {
			driver.Destroy()
			st.freeBatches()
			return false
		}
		*b = &stageBatch{mem: unsafe.Slice((*byte)(mem), stageArenaBytes)}
	}
	if report.Caps&core.CapSkipSuccess != 0 {
		st.quiet = core.SQESkipSuccess
	}
	st.driver, st.none = driver, false
	st.filling.seq = 1
	st.active.Store(true)
	return true
}

// settle waits until everything staged is with the kernel, or the write deadline. It returns the error
// of what could not be sent.
func (c *stagedSend) settle() error {
	st := c.st
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	st.mu.Lock()
	defer st.mu.Unlock()
	for c.seq > st.done {
		if err := st.await(c.until.Load()); err != nil {
			return err
		}
	}
	if c.failed != 0 {
		return os.NewSyscallError(core.NameWrite, core.Errno(-c.failed).Sys())
	}
	return nil
}

// awaitDone waits until no batch has bytes of c, for d at most or, if that is 0, as long as it takes, and
// reports whether none has. Needs no other lock.
func (c *stagedSend) awaitDone(d time.Duration) bool {
	st := c.st
	until := int64(0)
	if d > 0 {
		until = time.Now().Add(d).UnixNano()
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for c.seq > st.done {
		if st.await(until) != nil {
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

// settled reports whether no batch has bytes of c. Needs no other lock.
func (c *stagedSend) settled() bool {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	return c.seq <= c.st.done
}

// lost reports whether something that was taken could not be sent. Needs no other lock.
func (c *stagedSend) lost() bool {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	return c.failed != 0
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
	c.until.Store(untilOf(t))
	if c.waiting.Load() > 0 {
		c.st.mu.Lock()
		c.st.tell()
		c.st.mu.Unlock()
	}
}

// send is the goroutine that sends what is staged until there is no more.
func (st *stager) send() {
	runtime.Gosched() // those that are ready write first
	st.mu.Lock()
	for len(st.filling.entries) > 0 {
		b := st.filling
		st.filling, st.spare = st.spare, nil
		st.filling.seq = b.seq + 1
		st.judge(len(b.entries), time.Since(st.started))
		st.putBehind(b)
		st.mu.Unlock()
		sends := st.submit(b)
		st.mu.Lock()
		st.stats.Batches++
		st.stats.Writes += sends
		st.spare, st.done = b, b.seq
		clear(b.entries)
		b.entries, b.used = b.entries[:0], 0
		st.tell()
	}
	st.sending = false
	st.tell()
	st.mu.Unlock()
}

// putBehind moves the entries whose connections have something left over behind that, and drops those
// whose connections have lost something: the peer must not get what came after.
func (st *stager) putBehind(b *stageBatch) {
	for i := range b.entries {
		e := &b.entries[i]
		switch {
		case e.c.failed != 0:
			e.c = nil
		case e.c.rest != nil:
			e.c.rest = append(e.c.rest, b.mem[e.off:e.off+e.len]...)
			e.c = nil
		}
	}
}

// submit sends a batch, and returns by how many sends.
func (st *stager) submit(b *stageBatch) (sends uint64) {
	bytes := 0
	for i := range b.entries {
		e := &b.entries[i]
		if e.c == nil {
			continue
		}
		if bytes += e.len; bytes > stageEnterBytes || st.driver.Unsubmitted() >= stageEnterSends {
			st.enter(b)
			bytes = e.len
		}
		sends++
		sqe := st.driver.Stage()
		for sqe == nil {
			st.enter(b)
			sqe = st.driver.Stage()
		}
		sqe.Opcode = core.OpSend
		sqe.UserData = uint64(i)
		sqe.FD = e.c.fd
		sqe.Addr = uint64(uintptr(unsafe.Pointer(&b.mem[e.off])))
		sqe.Len = uint32(e.len)
		sqe.OpFlags = core.MsgDontWait | core.MsgWaitAll | core.MsgNoSignal
		sqe.Flags = st.quiet
	}
	for st.driver.Unsubmitted() > 0 || st.driver.Overflowed() {
		st.enter(b)
	}
	return sends
}

// enter submits what is staged: each send does what it can within it.
func (st *stager) enter(b *stageBatch) {
	if err := st.driver.EnterWithin(); err != nil {
		panic(fmt.Sprintf("veloq: driver of staged writes: %v", err))
	}
	n := st.driver.Ready()
	for i := range n {
		cqe := st.driver.Completion(i)
		st.complete(&b.entries[cqe.UserData], b, cqe.Res)
	}
	if n > 0 {
		st.driver.Consume(n)
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
func (st *stager) complete(e *stageEntry, b *stageBatch, res int32) {
	done := max(int(res), 0)
	if done == e.len {
		return
	}
	st.mu.Lock()
	ended := res < 0 && !undone(res)
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

// close ends the stager, after what it took: later writes are not staged.
func (st *stager) close() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.none = true
	st.active.Store(false)
	for st.sending {
		_ = st.await(0)
	}
	if st.driver == nil {
		return
	}
	st.driver.Destroy()
	st.driver = nil
	st.freeBatches()
}

// freeBatches frees what ready made of them. None is being sent.
func (st *stager) freeBatches() {
	for _, b := range []**stageBatch{&st.filling, &st.spare} {
		if *b != nil {
			core.Free(unsafe.Pointer(&(*b).mem[0]))
			*b = nil
		}
	}
}
