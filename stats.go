package veloq

// What a worker counts, and how others read it.

import "github.com/veloq/veloq/internal/debugtag"

// workerStats are one worker's plain counters: only the worker touches them, see Runtime.Stats.
type workerStats struct {
	turns          uint64
	waits          uint64
	delayed        uint64
	completions    uint64
	orphans        uint64
	ringFull       uint64
	overflows      uint64
	noBuffers      uint64
	spills         uint64
	quietSends     uint64
	quietShort     uint64
	writesFull     uint64
	accepted       uint64
	acceptBackoffs uint64
	edgesFull      uint64
	zeroCopySends  uint64
	zeroCopyCopied uint64

	packetsIn, packetsOut uint64
	packetErrors          uint64
	segmentRefusals       uint64

	budgetMesh    uint64
	budgetTasks   uint64
	budgetInbox   uint64
	budgetTimers  uint64
	stolen        uint64
	thievesCalled uint64
	batch         Histogram
	ops           Histogram
	latency       Histogram
	lastStaged    uint64
	crossed       int64 // when the last crossing returned; 0 if that is not timed
	lastBatch     int
}

// WorkerStats are one worker's counters since its start, and what it holds now.
type WorkerStats struct {
	Turns       uint64 // rounds of the worker's loop
	Crossings   uint64 // calls into C on the data path: one a turn, but for full rings
	Waits       uint64 // turns that were ready to sleep in the kernel
	Delayed     uint64 // of them, those in which a completion waited for others: Config.WakeDelay
	Wakes       uint64 // times that another thread rang the doorbell
	Submissions uint64 // operations handed to the driver
	Completions uint64 // completions dispatched

	QuietSends     uint64 // sends that were to finish within the crossing: one a stream and turn, and datagrams
	QuietShort     uint64 // of them, those that the socket had no room for
	RingFull       uint64 // extra crossings for want of room in the submission ring
	Overflows      uint64 // extra crossings for want of room in the completion ring
	NoBuffers      uint64 // receives that found the buffer group empty
	Spills         uint64 // times that unread bytes were copied out to free buffers
	WritesFull     uint64 // writes of handlers refused with ErrFull
	Accepted       uint64 // connections that servers took
	AcceptBackoffs uint64 // pauses of an accept, mostly for want of descriptors or memory
	EdgesFull      uint64 // messages that took the inbox, the mesh's edge being full
	ZeroCopySends  uint64 // sends without a copy: Config.ZeroCopyMin
	ZeroCopyCopied uint64 // of them, those that the kernel copied after all

	PacketsIn       uint64 // datagrams received; what GRO put together counts as one
	PacketsOut      uint64 // sends of datagrams that the kernel took; a cut one counts as one
	PacketErrors    uint64 // errors that datagram sockets had, of receives and of sends
	SegmentRefusals uint64 // sends that the kernel refused to cut into datagrams

	Stolen        uint64 // tasks taken from other workers
	Lost          uint64 // tasks that other workers took
	ThievesCalled uint64 // times that a sleeping worker was woken to take some

	// Turns that left work of a kind for the next one, so that the others had theirs.
	BudgetTasks, BudgetMesh, BudgetInbox, BudgetTimers uint64

	// With the build tag veloq_debug: leases, and buffers of pools, that the collector found unreleased.
	LeasesLost, PoolLost uint64
	// SocketsLeft is how many are open now that a task left so when it ended, and no other waits in.
	SocketsLeft int

	Hogs uint64 // tasks and handlers that kept the worker beyond Config.WatchdogAfter

	Batch Histogram // completions of each crossing that brought some
	Ops   Histogram // operations of each crossing that submitted some
	// Latency is the time from a crossing that brought completions to the next one, ns, of every eighth
	// turn: no completion of it waited longer for its handler or task.
	Latency Histogram

	Runnable    int // tasks that wait for their turn
	Unbegun     int // of Spawn, waiting to begin here or elsewhere
	Load        int // what balancing goes by: tasks and streams, with those on their way here
	Tasks       int // live tasks
	Datagrams   int // open datagram sockets
	PacketsFree int // packet buffers in the group
	Packets     int // packet buffers in all
	Streams     int // open streams
	Slots       int // streams and listeners that the driver may complete for
	Timers      int // pending timers
	BuffersFree int // receive buffers in the group
	Buffers     int // receive buffers in all
	PoolBytes   int // memory of the worker's pools
	PoolInUse   int // their buffers that are not known to be back
}

// Stats returns each worker's counters, taken between two of its turns. After Close it returns nil.
// Any goroutine, never a task. Blocks (for a turn of each worker).
func (rt *Runtime) Stats() []WorkerStats {
	all := make([]WorkerStats, len(rt.workers))
	answers := make(chan int, len(rt.workers))
	for i, w := range rt.workers {
		if !w.post(&note{do: func(w *worker) {
			all[i] = w.snapshot()
			answers <- i
		}}) {
			return nil
		}
	}
	for range rt.workers {
		<-answers
	}
	return all
}

// latencyEvery is of how many turns one is timed: looks at the clock are what measuring costs.
const latencyEvery = 8

// measureTurn notes what the turn is about to submit, and how long the last crossing's completions have
// kept it.
func (w *worker) measureTurn() {
	st := &w.stats
	if staged := w.driver.Staged; staged != st.lastStaged {
		st.ops.add(staged - st.lastStaged)
		st.lastStaged = staged
	}
	if st.crossed != 0 {
		st.latency.add(uint64(clock() - st.crossed))
		st.crossed = 0
	}
}

// measureCrossing notes what the crossing brought.
func (w *worker) measureCrossing() {
	if n := len(w.completions); n > 0 {
		w.stats.batch.add(uint64(n))
		if w.stats.turns%latencyEvery == 0 {
			w.stats.crossed = clock()
		}
	}
}

func (w *worker) snapshot() WorkerStats {
	st := &w.stats
	out := WorkerStats{
		Turns: st.turns, Waits: st.waits, Delayed: st.delayed, Wakes: w.wakes.Load(), Completions: st.completions,
		QuietSends: st.quietSends, QuietShort: st.quietShort, RingFull: st.ringFull,
		Overflows: st.overflows, NoBuffers: st.noBuffers, Spills: st.spills,
		WritesFull: st.writesFull, Accepted: st.accepted, AcceptBackoffs: st.acceptBackoffs,
		EdgesFull:     st.edgesFull,
		ZeroCopySends: st.zeroCopySends, ZeroCopyCopied: st.zeroCopyCopied,
		PacketsIn: st.packetsIn, PacketsOut: st.packetsOut, PacketErrors: st.packetErrors,
		SegmentRefusals: st.segmentRefusals,
		Stolen:          st.stolen, Lost: w.thieves.stolen.Load(), ThievesCalled: st.thievesCalled,
		BudgetTasks: st.budgetTasks, BudgetMesh: st.budgetMesh, BudgetInbox: st.budgetInbox, BudgetTimers: st.budgetTimers,
		LeasesLost: w.lost.leases.Load(), PoolLost: w.lost.buffers.Load(),
		Hogs: w.watch.hogs.Load(), Batch: st.batch, Ops: st.ops, Latency: st.latency,
		Runnable: w.runq.len, Unbegun: w.injector.len(), Load: int(w.load.Load()),
		Tasks: w.tasks, Streams: w.streams, Datagrams: w.sockets, Slots: w.slots.used,
		Timers: w.timers.wheel.Pending(),
	}
	for _, p := range w.pools {
		out.PoolBytes += p.bytes
		out.PoolInUse += p.inUse
	}
	if debugtag.Enabled {
		out.SocketsLeft = w.countLeft()
	}
	if !w.ended.Load() {
		out.Crossings = w.driver.Enters
		out.Submissions = w.driver.Staged
		out.BuffersFree = int(w.buffers.free)
		out.Buffers = int(w.buffers.ring.Count)
		out.PacketsFree = int(w.packets.free)
		out.Packets = int(w.packets.ring.Count)
	}
	return out
}
