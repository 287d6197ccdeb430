package core

import (
	"sync/atomic"
	"unsafe"
)

// Driver kinds: include/veloq/driver.h.
const (
	DriverAuto  = 0
	DriverURing = 1
	DriverEpoll = 2
	DriverIOCP  = 3
)

// What a driver got or may be denied: include/veloq/driver.h.
const (
	CapSingleIssuer = 1 << iota
	CapDeferTaskrun
	CapCoopTaskrun
	CapTaskrunFlag
	CapSubmitAll
	CapRegisteredRing
	CapAcceptMultishot
	CapRecvMultishot
	CapBufferRing
	CapBufferIncremental
	CapSkipSuccess
	CapSendZC
	CapPollMultishot
	CapRestricted
	CapShutdown
	CapTimeoutUpdate
	CapSendFile
	CapMinWait
)

// CapNames names the bits of a driver's caps, lowest first.
var CapNames = [...]string{
	"SINGLE_ISSUER", "DEFER_TASKRUN", "COOP_TASKRUN", "TASKRUN_FLAG", "SUBMIT_ALL",
	"REGISTERED_RING", "ACCEPT_MULTISHOT", "RECV_MULTISHOT", "BUFFER_RING",
	"BUFFER_INCREMENTAL", "SKIP_SUCCESS", "SEND_ZC", "POLL_MULTISHOT", "RESTRICTED",
	"SHUTDOWN", "TIMEOUT_UPDATE", "SEND_FILE", "MIN_WAIT",
}

// KnownCaps returns the caps that a driver of that kind may have.
func KnownCaps(kind uint32) uint32 {
	if kind == DriverEpoll {
		return CapAcceptMultishot | CapRecvMultishot | CapBufferRing | CapBufferIncremental |
			CapSkipSuccess | CapPollMultishot
	}
	if kind == DriverIOCP {
		return CapSingleIssuer | CapAcceptMultishot | CapRecvMultishot | CapBufferRing |
			CapBufferIncremental | CapSkipSuccess | CapSendFile
	}
	return 1<<len(CapNames) - 1 - CapSendFile
}

// Steps at which the creation of a driver fails: include/veloq/driver.h.
const (
	StepNone = iota
	StepConfig
	StepSetup
	StepProbe
	StepOps
	StepBuffers
	StepDoorbell
)

// Config is vq_driver_config.
type Config struct {
	Kind            uint32
	Deny            uint32
	SQEntries       uint32
	CQEntries       uint32
	BufferCount     uint32
	BufferSizeBytes uint32
	WholeCount      uint32
	WholeSizeBytes  uint32
	Restricted      uint32
	PacketCount     uint32
	PacketSizeBytes uint32
}

// Attempt is vq_driver_attempt: a driver that could not be created.
type Attempt struct {
	Kind       uint32
	FailedStep uint32
	Error      int32
	MissingOp  int32
}

// Report is vq_driver_report: what was got, or where it failed.
type Report struct {
	Kind            uint32
	Caps            uint32
	FailedStep      uint32
	Error           int32
	MissingOp       int32
	SetupRetries    uint32
	SQEntries       uint32
	CQEntries       uint32
	BufferCount     uint32
	BufferSizeBytes uint32
	AttemptCount    uint32
	Emulated        uint32 // caps that the driver does itself; not in Caps
	PacketCount     uint32
	PacketSizeBytes uint32
	Attempts        [4]Attempt
}

// Failed returns the drivers that could not be created, in the order in which they were tried.
func (r *Report) Failed() []Attempt { return r.Attempts[:r.AttemptCount] }

// Driver is a worker's hold on a vq_driver and on the memory the two share. Only the thread that
// created it may use it; Doorbell alone is for every thread.
type Driver struct {
	handle    unsafe.Pointer
	sqes      unsafe.Pointer
	sqHead    *uint32
	sqFlags   *uint32
	ringTail  *uint32 // nil: only driverEnter submits
	enterFD   int32
	cqes      unsafe.Pointer
	cqHead    *uint32
	cqTail    *uint32
	sqEntries uint32
	sqTail    uint32
	cqMask    uint32
	cqSeen    uint32

	// Timespec is read by the enter that submits a TIMEOUT or TIMEOUT_UPDATE pointing at it.
	Timespec *Timespec
	Buffers  BufferGroup
	Packets  BufferGroup // Count 0: the driver receives no datagrams
	Doorbell *Doorbell
	Report   Report

	// Enters counts the crossings of the data path, Staged the submissions they carried.
	Enters uint64
	Staged uint64
}

// Stage returns the next submission entry, zeroed, or nil when the ring is full: Enter makes room.
func (d *Driver) Stage() *SQE {
	if d.sqTail-atomic.LoadUint32(d.sqHead) >= d.sqEntries {
		return nil
	}
	sqe := (*SQE)(unsafe.Add(d.sqes, uintptr(d.sqTail&(d.sqEntries-1))*unsafe.Sizeof(SQE{})))
	*sqe = SQE{}
	d.sqTail++
	d.Staged++
	return sqe
}

// Unsubmitted returns how many staged entries the driver has not consumed yet.
func (d *Driver) Unsubmitted() uint32 { return d.sqTail - atomic.LoadUint32(d.sqHead) }

// Enter submits all that is staged and waits for at least wait completions; 0 does not wait. The
// one cgo crossing of a turn. It may return early with nothing done; an error means a broken
// driver. Blocks when wait > 0.
func (d *Driver) Enter(wait uint32) error {
	d.Enters++
	if rc := driverEnter(d.handle, d.sqTail, wait); rc < 0 {
		return Errno(-rc)
	}
	return nil
}

// EnterDelayed is Enter that waits for count completions for micros microseconds, and after that for
// one; without CapMinWait, for one. Blocks.
func (d *Driver) EnterDelayed(count, micros uint32) error {
	d.Enters++
	if rc := driverEnterDelayed(d.handle, d.sqTail, count, micros); rc < 0 {
		return Errno(-rc)
	}
	return nil
}

// EnterWithin is Enter(0) for ops that complete within it, and take a few microseconds together: where the
// driver is a plain ring it is no cgo call, and Go's scheduler is not told of it, so that no other thread
// takes the processor meanwhile.
func (d *Driver) EnterWithin() error {
	if d.ringTail == nil || d.Overflowed() {
		return d.Enter(0)
	}
	d.Enters++
	// Release: pairs with the kernel's acquire of the submission tail.
	atomic.StoreUint32(d.ringTail, d.sqTail)
	if errno := enterRing(d.enterFD, d.Unsubmitted()); errno != 0 {
		return errno
	}
	return nil
}

// Pending reports whether an Enter that does not wait would yield something: completions in the
// ring, or some that the kernel holds back until then. No crossing.
func (d *Driver) Pending() bool {
	return atomic.LoadUint32(d.cqTail) != d.cqSeen ||
		atomic.LoadUint32(d.sqFlags)&(sqTaskrun|sqCQOverflow) != 0
}

// Polled reports whether the driver learns of completions in an Enter only, so that Pending does not
// tell.
func (d *Driver) Polled() bool { return d.Report.Kind != DriverURing || d.Report.Emulated != 0 }

// Overflowed reports whether completions wait for room in the ring. No crossing.
func (d *Driver) Overflowed() bool { return atomic.LoadUint32(d.sqFlags)&sqCQOverflow != 0 }

// Ready returns how many completions are in the ring.
func (d *Driver) Ready() uint32 { return atomic.LoadUint32(d.cqTail) - d.cqSeen }

// Completion returns completion i of those that Ready counted; it is valid until Consume.
func (d *Driver) Completion(i uint32) *CQE {
	return (*CQE)(unsafe.Add(d.cqes, uintptr((d.cqSeen+i)&d.cqMask)*unsafe.Sizeof(CQE{})))
}

// Consume gives the first n completions back to the driver.
func (d *Driver) Consume(n uint32) {
	d.cqSeen += n
	// Release: pairs with the driver's acquire of the head before it reuses an entry.
	atomic.StoreUint32(d.cqHead, d.cqSeen)
}

// Destroy ends what is in flight and frees the driver.
func (d *Driver) Destroy() {
	driverDestroy(d.handle)
	d.handle = nil
}

// BufferGroup is the owner's end of a driver's ring of provided buffers.
type BufferGroup struct {
	ring      unsafe.Pointer
	tailWord  *uint32 // the 32-bit word whose upper half is the ring's tail
	base      unsafe.Pointer
	indexWord uint16 // entry 0's own index: the lower half of that word
	tail      uint16
	Count     uint32
	SizeBytes uint32
	ID        uint16
	// Incremental: a buffer takes several completions, until one comes without CQEBufMore.
	Incremental bool
}

// Memory returns bytes [off, off+n) of buffer index.
func (g *BufferGroup) Memory(index uint16, off, n uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(g.base, uintptr(index)*uintptr(g.SizeBytes)+uintptr(off))), n)
}

// Offer puts a buffer back into the group; Publish shows it to the driver.
func (g *BufferGroup) Offer(index uint16) {
	slot := uintptr(g.tail) & uintptr(g.Count-1)
	entry := (*buf)(unsafe.Add(g.ring, slot*unsafe.Sizeof(buf{})))
	entry.addr = uint64(uintptr(g.base) + uintptr(index)*uintptr(g.SizeBytes))
	entry.len = g.SizeBytes
	if slot == 0 {
		// Shares its word with the tail, which the driver reads: Publish writes both.
		g.indexWord = index
	} else {
		entry.index = index
	}
	g.tail++
}

// Publish shows the driver every buffer offered so far.
func (g *BufferGroup) Publish() {
	// Release: pairs with the driver's acquire of the tail. Go has no 16-bit atomics, so the store
	// covers entry 0's index too, whose value it repeats (little-endian machines only: checkLayout).
	atomic.StoreUint32(g.tailWord, uint32(g.indexWord)|uint32(g.tail)<<16)
}
