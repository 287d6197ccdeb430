package veloq

// Worker: one goroutine locked to a thread, with a driver, buffers, a run queue and timers that
// nothing else touches; and its turn.

import (
	"context"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/gid"
	"github.com/veloq/veloq/internal/wheel"
)

// Budgets of a turn: what is left waits for the next one. Completions need none, as a crossing yields
// no more than the completion ring holds.
const (
	tasksPerTurn  = 4096             // resumes,
	taskSlice     = time.Millisecond // and the time that they may take,
	taskCheck     = 32               // which is looked at after so many
	notesPerTurn  = 4096             // from the inbox
	timersPerTurn = 4096
)

// A yield lets Go's scheduler have the P of the worker's thread for a moment, at the price of two
// switches of threads. yieldEvery is how long a worker is awake before it does: while it sleeps others
// have the P anyway. yieldAtLeast is how long it goes without one if it sleeps now and then: a P whose
// goroutine seems to run for 10 ms keeps Go's monitor polling every 20 µs, which costs more.
const (
	yieldEvery   = int64(time.Millisecond)
	yieldAtLeast = 5 * int64(time.Millisecond)
)

// stopGrace is how long tasks have to come back from a cancelled wait when the runtime closes.
const stopGrace = time.Second

type worker struct {
	rt     *Runtime
	id     int
	driver *core.Driver
	// skipSuccess is core.SQESkipSuccess where the driver has that; elsewhere completions that nobody
	// needs are posted and dropped.
	skipSuccess uint8
	g           uintptr // the worker's own goroutine

	// Any thread.
	currentG gid.Running // the goroutine that runs on the worker now: its own, or a task's
	inbox    inbox
	posters  atomic.Int64
	ended    atomic.Bool
	load     atomic.Int64 // tasks and streams, for those who choose a worker
	wakes    atomic.Uint64
	thieves  thieves
	injector injector
	watch    watched
	lost     lost
	labels   context.Context // of its samples in profiles; constant
	mail     atomic.Uint32   // some port of ports was told of something
	_        [64]byte        // what others write stays off the worker's lines

	// The worker's alone.
	running         *task
	runq            taskQueue
	preferNew       bool // nextTask's turn
	victim          int  // whom steal looked at last
	inboxRest       *note
	live            *task
	tasks           int
	idle            []*coroutine
	slots           slotTable
	streams         int
	sockets         int // of datagrams
	completions     []core.CQE
	buffers         bufferGroup
	packets         bufferGroup    // for datagrams
	unread          []*Stream      // may have unread bytes
	lending         []*Stream      // may have leases in their queues
	holders         []*task        // wait in a WriteLease
	resumed         []*Stream      // handlers that get what was kept
	dirty           streamList     // have something to send
	settling        streamList     // are shutting down or closing
	zeroCopyMin     int            // Config.ZeroCopyMin, 0 where the driver can't
	noAddr          unsafe.Pointer // nil until a connection is reset
	datagrams       datagrams
	packetSends     []packetSend // quiet datagrams that are not confirmed
	arena           *arena
	sentArena       *arena
	quiet           []*Stream // whose quiet sends are not confirmed
	partial         bool      // the last enter left submissions behind
	outFree         []*outbound
	chunkFree       []*chunk
	pools           []*Pool
	timers          timers
	knocking        []*worker
	knocks          []bool
	ports           []port  // of the public meshes
	publishing      []*link // have messages that nobody sees yet
	talk            talk
	wakeDelay       wakeDelay
	handlerContext  Context    // of callbacks that no server has
	handlerContexts []*Context // of those of servers
	slept           bool       // in this turn
	awake           int64      // the time, since the last sleep; 0: not looked at yet
	lastYield       int64
	stopping        bool
	grace           wheel.Timer
	stats           workerStats
}

func newWorker(rt *Runtime, id int) *worker {
	w := &worker{rt: rt, id: id, knocks: make([]bool, rt.config.Workers)}
	w.slots.init()
	w.handlerContext.w = w
	w.watch.on = rt.config.WatchdogAfter > 0
	w.watch.knows = w.watch.on || debugtag.Enabled
	w.labels = pprof.WithLabels(context.Background(), pprof.Labels("worker", strconv.Itoa(id)))
	return w
}

// main is the worker's goroutine. It reports its start, or why it could not.
func (w *worker) main(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread, with what was set on it, ends with the goroutine
	if err := w.setUp(); err != nil {
		started <- err
		return
	}
	started <- nil
	ended := false
	defer func() {
		if !ended {
			// The runtime can't go on without its worker. A panic says so by itself; a Goexit would not.
			panic("veloq: worker ended by the panic above, or by runtime.Goexit in a handler")
		}
	}()
	for !w.finished() {
		if trace.IsEnabled() {
			trace.WithRegion(w.labels, "veloq.turn", w.turn)
			continue
		}
		w.turn()
	}
	w.stopCoroutines()
	w.knockAll() // there is no turn any more that would, for those who were just told
	w.tearDown()
	ended = true
}

func (w *worker) setUp() error {
	w.g = gid.Get()
	w.currentG.Set(w.g)
	pprof.SetGoroutineLabels(w.labels) // which its coroutines inherit
	w.watch.introduce(w.g, nil)
	c := &w.rt.config
	if c.PinCPU {
		if err := core.PinThread(uint32(w.id % runtime.NumCPU())); err != nil {
			return &DriverError{Step: "pin", Err: err}
		}
	}
	driver, report, err := core.CreateDriver(c.core())
	w.rt.noteReport(w.id, report)
	if err != nil {
		return driverError(c, report, err)
	}
	w.driver = driver
	if report.Caps&core.CapSkipSuccess != 0 {
		w.skipSuccess = core.SQESkipSuccess
	}
	if report.Caps&core.CapSendZC != 0 {
		w.zeroCopyMin = c.ZeroCopyMin
	}
	if report.Caps&core.CapMinWait != 0 {
		w.wakeDelay.micros = uint32(c.WakeDelay / time.Microsecond)
	}
	for _, a := range []**arena{&w.arena, &w.sentArena} {
		if *a, err = newArena(c.ArenaSize); err != nil {
			driver.Destroy()
			return &DriverError{Step: "arena", Err: err}
		}
	}
	w.buffers.init(w, &driver.Buffers, w.spill)
	w.packets.init(w, &driver.Packets, w.spillPackets)
	w.timers.init(w)
	w.armWake()
	return nil
}

// armWake stages the op that completes when the doorbell rings.
func (w *worker) armWake() {
	sqe := w.stage(core.OpPoll, opWake, 0)
	w.driver.PrepWake(sqe)
	sqe.UserData = opWake.token(0)
}

// turn is one round: everything runnable runs, everything staged goes out in one crossing, and
// everything that completed is dispatched.
func (w *worker) turn() {
	w.stats.turns++
	if w.watch.on {
		w.watch.beat.Store(w.stats.turns)
	}
	w.drainMesh()
	w.drainPorts()
	w.drainInbox()
	w.timers.tick()
	w.runTasks()
	w.settleStreams()
	w.settleDatagrams()
	w.resumeHandlers()
	w.buffers.reclaim()
	w.packets.reclaim()
	w.flush()
	w.flushPackets()
	w.timers.arm()
	w.publishPorts()
	w.knockAll()
	w.measureTurn()
	w.cross()
	w.flip()
	w.measureCrossing()
	w.dispatch()
	w.forgetRead()
	w.forgetLent()
	w.yield()
}

// yield gives the P away for a moment, if it is time.
func (w *worker) yield() {
	now := w.timers.now
	if w.slept {
		w.slept, w.awake = false, 0 // now was read before the sleep
	} else if w.awake == 0 {
		w.awake = now
	}
	if now-w.lastYield > yieldAtLeast || w.awake != 0 && now-max(w.awake, w.lastYield) > yieldEvery {
		w.lastYield = now
		runtime.Gosched()
	}
}

// cross is the turn's one crossing. It waits only when nothing is left to do here, and says so first,
// so that whoever brings work rings.
func (w *worker) cross() {
	if w.busy() || w.empty() {
		if w.injector.len() > 1 {
			w.callThief()
		}
		w.enter(0)
		return
	}
	if w.steal() {
		w.enter(0)
		return
	}
	if w.rt.config.Spin > 0 && w.stats.lastBatch <= spinBatchMax && w.spin(w.rt.config.Spin, false) {
		return
	}
	if w.talk.spins() && w.talk.judge(w.spin(talkSpin, true)) {
		return
	}
	w.driver.Doorbell.Prepare()
	if w.called() || w.lootWaits() {
		w.driver.Doorbell.Awake()
		w.enter(0)
		return
	}
	w.stats.waits++
	w.talk.sleep()
	if w.watch.on {
		w.watch.sleep.Store(true)
	}
	w.sleep()
	if w.watch.on {
		w.watch.beat.Store(0) // no turn's number: what follows is counted from here
		w.watch.sleep.Store(false)
	}
	w.driver.Doorbell.Awake()
	w.talk.awake(w.mail.Load() != 0)
}

// sleep is the crossing that waits.
func (w *worker) sleep() {
	micros := w.wakeDelay.next(w.timers.armed)
	if micros > 0 {
		w.stats.delayed++
		w.entered(w.driver.EnterDelayed(delayedCount, micros))
	} else {
		w.enter(1)
	}
	w.wakeDelay.learn(micros > 0, len(w.completions))
	w.slept = true
}

// busy reports whether the worker itself has more to do at once.
func (w *worker) busy() bool {
	return w.runq.len > 0 || w.injector.len() > 0 || w.inboxRest != nil || w.timers.late ||
		w.settling.len() > 0 || w.dirty.len() > 0 || len(w.resumed) > 0 || len(w.completions) > 0 ||
		w.partial || w.buffers.offered || w.packets.offered || w.datagrams.waiting() || w.called()
}

// called reports whether another thread has brought something: what is re-checked between saying
// that the worker sleeps and sleeping.
func (w *worker) called() bool {
	return w.inbox.head.Load() != nil || w.buffers.returned.Load() != nil ||
		w.packets.returned.Load() != nil || w.mail.Load() != 0 || w.meshWaiting()
}

// spin submits what is staged and waits for work without sleeping, for d at most. It
// reports whether there is any, and has collected it then. giveWay is for work that another thread is
// about to bring: it may be waiting for this CPU.
func (w *worker) spin(d time.Duration, giveWay bool) bool {
	if w.driver.Unsubmitted() > 0 {
		w.enter(0)
		if len(w.completions) > 0 {
			return true
		}
	}
	until := clock() + int64(d)
	for clock() < until {
		for range 16 {
			if w.driver.Pending() || w.called() {
				w.enter(0)
				return true
			}
		}
		if giveWay {
			core.YieldThread()
		}
		if w.driver.Polled() {
			w.enter(0)
			if len(w.completions) > 0 {
				return true
			}
		}
	}
	return false
}

// spinBatchMax is the largest batch after which a worker with Config.Spin spins: after larger ones
// the next completions are near anyway, or many, and sleeping costs less.
const spinBatchMax = 4

// resumeHandlers gives handlers what was kept while they had paused.
func (w *worker) resumeHandlers() {
	list := w.resumed
	w.resumed = nil
	for _, s := range list {
		s.deliverKept()
	}
}

// stop begins the worker's end: everything on it is cancelled.
func (w *worker) stop() {
	if w.stopping {
		return
	}
	w.stopping = true
	if debugtag.Enabled {
		w.noteLeft()
	}
	for i := range w.slots.slots {
		if owner := w.slots.slots[i].owner; owner != nil {
			owner.abort()
		}
	}
	w.beginAll()
	for t := w.live; t != nil; t = t.liveNext {
		t.ctx.cancel(ErrClosed)
	}
	w.handlerContext.cancel(ErrClosed)
	for _, c := range w.handlerContexts {
		c.cancel(ErrClosed)
	}
	// A turn at the latest then, to see whether all is over.
	w.grace.Fire = func(*wheel.Timer, int64) {}
	w.timers.add(&w.grace, w.timers.after(stopGrace))
}

// empty reports whether a stopping worker has nothing left but to submit what is staged.
func (w *worker) empty() bool {
	return w.stopping && w.tasks == 0 && w.slots.used == 0 && w.inboxRest == nil && w.inbox.head.Load() == nil &&
		!w.meshWaiting() && w.dirty.len() == 0 && !w.datagrams.waiting()
}

// giveWay lets the worker go on ending where its task asks for more in spite of the end it was told:
// one that does so in a loop would keep the worker for ever.
func (w *worker) giveWay() {
	if t := w.running; w.stopping && t != nil {
		t.parked = true
		w.wake(t)
		t.park()
	}
}

// finished reports whether a stopping worker may end: nothing is left, or the grace is over and no
// op of a stream is in flight that still needs memory.
func (w *worker) finished() bool {
	if !w.stopping {
		return false
	}
	if w.empty() && w.driver.Unsubmitted() == 0 {
		return true
	}
	if w.grace.Pending() {
		return false
	}
	for i := range w.slots.slots {
		if h, ok := w.slots.slots[i].owner.(holder); ok && h.inUse() {
			return false
		}
	}
	return true
}

// stopCoroutines ends the coroutines: the idle ones, and those whose tasks would not end, which run
// their deferred calls.
func (w *worker) stopCoroutines() {
	for w.live != nil {
		t := w.live
		w.unlink(t)
		w.tasks--
		if t.co == nil {
			t.failure = ErrClosed
			w.tellEnd(t)
			continue
		}
		w.idle = append(w.idle, t.co)
	}
	w.stopIdle()
}

// stopIdle stops the coroutines that wait for tasks, and those whose tasks would not end.
func (w *worker) stopIdle() {
	for _, co := range w.idle {
		w.currentG.Set(co.g)
		survives(co.stop)
		w.currentG.Set(w.g)
		if co.t != nil {
			w.endStopped(co.t)
		}
	}
	w.idle = nil
}

func (w *worker) endStopped(t *task) {
	t.co = nil
	t.failure = ErrClosed
	t.ended = true
	w.tellEnd(t)
}

// tearDown waits for the other workers, so that nobody sends here any more, and frees what the kernel
// and C hold.
func (w *worker) tearDown() {
	w.ended.Store(true)
	w.awaitOthers()
	for w.posters.Load() != 0 {
		runtime.Gosched()
	}
	w.refuseLate()
	for _, g := range []*bufferGroup{&w.buffers, &w.packets} {
		for i := range g.buffers {
			g.buffers[i].gen.Add(1) // leases that are left see that their bytes are gone
		}
	}
	w.driver.Destroy()
	w.freeMemory()
	w.currentG.Set(0) // another goroutine may get this one's descriptor
	w.rt.done.Done()
}

// awaitOthers waits until no worker is in its loop any more. What they sent before they saw the end is
// refused meanwhile: a scope of theirs may wait for it.
func (w *worker) awaitOthers() {
	w.rt.looping.Done()
	over := make(chan struct{})
	go func() {
		w.rt.looping.Wait()
		close(over)
	}()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-over:
			return
		case <-look.C:
			w.refuseLate()
			w.knockAll()
		}
	}
}

// refuseLate ends what was sent or posted too late.
func (w *worker) refuseLate() {
	w.stopping = true
	for w.meshWaiting() {
		w.drainMesh()
	}
	for n := w.takeNotes(); n != nil; n = w.takeNotes() { // what was left over, then what came since
		for ; n != nil; n = n.next {
			if n.start != nil {
				w.arrive(n.start)
			}
			if n.do != nil {
				n.do(w)
			}
		}
	}
}

func (w *worker) freeMemory() {
	for i := range w.slots.slots {
		if h, ok := w.slots.slots[i].owner.(holder); ok {
			h.discard()
		}
	}
	w.freeDatagrams()
	for _, o := range w.outFree {
		o.free()
	}
	for _, c := range w.chunkFree {
		c.free()
	}
	core.Free(w.noAddr)
	for _, p := range w.pools {
		p.free()
	}
	w.arena.free()
	w.sentArena.free()
}
