package core

// The Go end of an edge: include/veloq/edge.h, function by function, on the same bytes. Changes
// when that header does.

import (
	"sync/atomic"
	"unsafe"

	"github.com/veloq/veloq/internal/racemark"
)

// EdgeCapacityMax is how many records an edge holds at most (VQ_EDGE_CAPACITY_MAX).
const EdgeCapacityMax = 1 << 24

const (
	cacheLine         = 64
	edgeRecordsOffset = 2 * cacheLine
)

// Msg is a record of an edge, vq_msg in C. Its meaning belongs to the two ends.
type Msg struct {
	Kind  uint64
	Token uint64
}

// Edge is one direction between two workers, a bounded ring with one producer and one consumer:
// vq_edge in C, whose records follow it in memory. It is never made by Go's allocator or copied;
// see InitEdge. Either end may be Go or C.
//
// The indices run freely over 2^32; tail - head is the length.
type Edge struct {
	tail         uint32 // atomic; stored by the producer
	cachedHead   uint32 // the last head that the producer saw
	producerMask uint32
	_            [cacheLine - 12]byte
	head         uint32 // atomic; stored by the consumer
	cachedTail   uint32 // the last tail that the consumer saw
	consumerMask uint32
	_            [cacheLine - 12]byte
}

// EdgeSizeBytes returns the bytes that an edge of capacity records takes, a multiple of the cache
// line; 0 when capacity is not a power of two in [1, EdgeCapacityMax]. Any goroutine.
func EdgeSizeBytes(capacity uint32) uintptr {
	if capacity == 0 || capacity > EdgeCapacityMax || capacity&(capacity-1) != 0 {
		return 0
	}
	size := edgeRecordsOffset + uintptr(capacity)*unsafe.Sizeof(Msg{})
	return (size + cacheLine - 1) &^ (cacheLine - 1)
}

// InitEdge makes an empty edge of capacity records in mem, which has EdgeSizeBytes(capacity) bytes
// aligned to 64; nil for a capacity that EdgeSizeBytes refuses, or for misaligned memory. The
// memory stays the caller's and outlives both ends. Any goroutine, before either end starts.
func InitEdge(mem unsafe.Pointer, capacity uint32) *Edge {
	if EdgeSizeBytes(capacity) == 0 || uintptr(mem)%cacheLine != 0 {
		return nil
	}
	e := (*Edge)(mem)
	*e = Edge{producerMask: capacity - 1, consumerMask: capacity - 1}
	return e
}

func (e *Edge) record(index uint32) *Msg {
	return (*Msg)(unsafe.Add(unsafe.Pointer(e), edgeRecordsOffset+uintptr(index)*unsafe.Sizeof(Msg{})))
}

// Push copies as many of msgs as there is room for, in order, and publishes them together. It
// returns how many: fewer than len(msgs) means the edge was full. Does not ring; see
// Doorbell.Claim. The store of tail is a locked instruction that waits for the line, so a batch
// costs what one message does. The producing worker only.
func (e *Edge) Push(msgs []Msg) int {
	mask := e.producerMask
	// Nobody else stores tail, so a plain load would do; the race detector sees neither.
	tail := atomic.LoadUint32(&e.tail)
	count := uint32(min(len(msgs), EdgeCapacityMax))
	if room := mask + 1 - (tail - e.cachedHead); room < count {
		// Pairs with the store in Pop (C: the release in vq_edge_pop).
		e.cachedHead = atomic.LoadUint32(&e.head)
		racemark.Acquire(unsafe.Pointer(&e.head))
		if tail-e.cachedHead > mask+1 {
			panic("veloq: edge has two producers, or its memory was overwritten")
		}
		if count = min(count, mask+1-(tail-e.cachedHead)); count == 0 {
			return 0
		}
	}
	for i := range count {
		*e.record((tail + i) & mask) = msgs[i]
	}
	racemark.ReleaseMerge(unsafe.Pointer(&e.tail))
	// Pairs with the load in Pop (C: the acquire in vq_edge_pop).
	atomic.StoreUint32(&e.tail, tail+count)
	return int(count)
}

// Pop copies up to len(out) records to out, oldest first, and gives their places back together. It
// returns how many. Fewer than len(out) means that tail was read anew and no more was there: so a
// Pop serves as the re-check after Doorbell.Prepare. The consuming worker only.
func (e *Edge) Pop(out []Msg) int {
	mask := e.consumerMask
	head := atomic.LoadUint32(&e.head)
	count := uint32(min(len(out), EdgeCapacityMax))
	if ready := e.cachedTail - head; ready < count {
		// Pairs with the store in Push (C: the release in vq_edge_push).
		e.cachedTail = atomic.LoadUint32(&e.tail)
		racemark.Acquire(unsafe.Pointer(&e.tail))
		if e.cachedTail-head > mask+1 {
			panic("veloq: edge has two consumers, or its memory was overwritten")
		}
		if count = min(count, e.cachedTail-head); count == 0 {
			return 0
		}
	}
	for i := range count {
		out[i] = *e.record((head + i) & mask)
	}
	racemark.ReleaseMerge(unsafe.Pointer(&e.head))
	// Pairs with the load in Push (C: the acquire in vq_edge_push).
	atomic.StoreUint32(&e.head, head+count)
	return int(count)
}

// Len returns the records in the edge at some moment during the call, never more than Cap. Exact
// for an end while the other one rests; else already old. Any goroutine.
func (e *Edge) Len() int {
	// Head first: whoever sees this head sees a tail at or past it.
	head := atomic.LoadUint32(&e.head)
	return int(min(atomic.LoadUint32(&e.tail)-head, e.consumerMask+1))
}

// Cap returns the records that the edge holds at most. Any goroutine.
func (e *Edge) Cap() int { return int(e.consumerMask) + 1 }
