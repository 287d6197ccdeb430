package core

// The Go end of a doorbell: include/veloq/doorbell.h, where the protocol is told, on the same
// bytes. Changes when that header does.

import (
	"sync/atomic"

	"github.com/veloq/veloq/internal/racemark"
)

// Doorbell wakes a sleeping worker and costs no system call for one that is awake: vq_doorbell in
// C, which makes it (a driver has one). Worker and wakers may each be Go or C.
//
// No race marks: the flag carries no data, the edge or inbox that was filled before a Claim does.
type Doorbell struct {
	sleeping uint32 // atomic; 1 from Prepare until a claim or Awake
	_        uint32
	handle   int64 // an eventfd on Linux; constant
	_        [cacheLine - 16]byte
}

// Prepare says that the worker is about to wait. The caller then looks at every source once more,
// by atomic loads (Edge.Pop and Edge.Len make them), and waits only if all are empty. Awake follows
// either way. Worker only.
//
// The fence that C has here is part of the Go operations: sync/atomic is sequentially consistent,
// so the swap comes before the re-check's loads in one order with the waker's. On amd64 it is an
// XCHG, a full fence; on arm64 its store-release is not overtaken by a later load-acquire. Either
// holds against a C waker's fence as well. Not a store, which is weaker under -race (see racemark).
func (d *Doorbell) Prepare() { atomic.SwapUint32(&d.sleeping, 1) }

// Awake says that the worker looks at its sources again. From here no waker rings until the next
// Prepare, though one that claimed earlier still may. Worker only.
func (d *Doorbell) Awake() { atomic.StoreUint32(&d.sleeping, 0) }

// Claim asks, after publishing, whether the worker must be woken. True: this caller alone got the
// claim and must Ring; dropping it leaves the worker asleep. Any goroutine.
//
// What was published must have been published by an operation of sync/atomic (Edge.Push ends in
// one) or under a mutex that the worker's re-check takes: that store and this load keep their
// order in the way told at Prepare, where C's plain release store needs a fence. So a claim that
// finds the worker awake is one load. Then compare-and-swap, not a store, which would undo a later
// Prepare.
func (d *Doorbell) Claim() bool {
	racemark.Fence()
	return atomic.LoadUint32(&d.sleeping) == 1 && atomic.CompareAndSwapUint32(&d.sleeping, 1, 0)
}

// Ring ends the worker's wait, or the next one. Does not block. Any goroutine that holds a claim.
func (d *Doorbell) Ring() { doorbellRing(d) }
