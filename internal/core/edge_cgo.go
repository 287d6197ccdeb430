//go:build cgo && (linux || windows)

package core

// The C ends of edges and doorbells behind cgo, for the tests in which Go and C meet: a _test.go
// file can't import "C". Nothing on the data path calls them, Go has ends of its own.

/*
#cgo CFLAGS: -std=gnu11 -I${SRCDIR}/../../include
#include "veloq/doorbell.h"
#include "veloq/edge.h"

#cgo noescape vq_edge_push_extern
#cgo nocallback vq_edge_push_extern
#cgo noescape vq_edge_pop_extern
#cgo nocallback vq_edge_pop_extern
*/
import "C"

import (
	"unsafe"

	_ "github.com/veloq/veloq/csrc"
	_ "github.com/veloq/veloq/include"
)

// Layouts that Go and C share; a difference fails the build.
const (
	_ = uint(unsafe.Sizeof(Msg{}) - C.sizeof_vq_msg)
	_ = uint(C.sizeof_vq_msg - unsafe.Sizeof(Msg{}))
	_ = uint(unsafe.Offsetof(Edge{}.tail) - C.VQ_EDGE_TAIL_OFFSET)
	_ = uint(C.VQ_EDGE_TAIL_OFFSET - unsafe.Offsetof(Edge{}.tail))
	_ = uint(unsafe.Offsetof(Edge{}.cachedHead) - C.VQ_EDGE_CACHED_HEAD_OFFSET)
	_ = uint(C.VQ_EDGE_CACHED_HEAD_OFFSET - unsafe.Offsetof(Edge{}.cachedHead))
	_ = uint(unsafe.Offsetof(Edge{}.producerMask) - C.VQ_EDGE_PRODUCER_MASK_OFFSET)
	_ = uint(C.VQ_EDGE_PRODUCER_MASK_OFFSET - unsafe.Offsetof(Edge{}.producerMask))
	_ = uint(unsafe.Offsetof(Edge{}.head) - C.VQ_EDGE_HEAD_OFFSET)
	_ = uint(C.VQ_EDGE_HEAD_OFFSET - unsafe.Offsetof(Edge{}.head))
	_ = uint(unsafe.Offsetof(Edge{}.cachedTail) - C.VQ_EDGE_CACHED_TAIL_OFFSET)
	_ = uint(C.VQ_EDGE_CACHED_TAIL_OFFSET - unsafe.Offsetof(Edge{}.cachedTail))
	_ = uint(unsafe.Offsetof(Edge{}.consumerMask) - C.VQ_EDGE_CONSUMER_MASK_OFFSET)
	_ = uint(C.VQ_EDGE_CONSUMER_MASK_OFFSET - unsafe.Offsetof(Edge{}.consumerMask))
	_ = uint(unsafe.Sizeof(Edge{}) - C.VQ_EDGE_RECORDS_OFFSET)
	_ = uint(C.VQ_EDGE_RECORDS_OFFSET - unsafe.Sizeof(Edge{}))
	_ = uint(edgeRecordsOffset - C.VQ_EDGE_RECORDS_OFFSET)
	_ = uint(C.VQ_EDGE_RECORDS_OFFSET - edgeRecordsOffset)
	_ = uint(EdgeCapacityMax - C.VQ_EDGE_CAPACITY_MAX)
	_ = uint(C.VQ_EDGE_CAPACITY_MAX - EdgeCapacityMax)

	_ = uint(unsafe.Offsetof(Doorbell{}.sleeping) - C.VQ_DOORBELL_SLEEPING_OFFSET)
	_ = uint(C.VQ_DOORBELL_SLEEPING_OFFSET - unsafe.Offsetof(Doorbell{}.sleeping))
	_ = uint(unsafe.Offsetof(Doorbell{}.handle) - C.VQ_DOORBELL_HANDLE_OFFSET)
	_ = uint(C.VQ_DOORBELL_HANDLE_OFFSET - unsafe.Offsetof(Doorbell{}.handle))
	_ = uint(unsafe.Sizeof(Doorbell{}) - C.VQ_DOORBELL_SIZE_BYTES)
	_ = uint(C.VQ_DOORBELL_SIZE_BYTES - unsafe.Sizeof(Doorbell{}))
)

func edgeC(e *Edge) *C.vq_edge { return (*C.vq_edge)(unsafe.Pointer(e)) }

func edgeSizeBytesC(capacity uint32) uintptr {
	return uintptr(C.vq_edge_size_bytes_extern(C.uint32_t(capacity)))
}

func edgeInitC(mem unsafe.Pointer, capacity uint32) int {
	return int(C.vq_edge_init_extern(mem, C.uint32_t(capacity)))
}

func edgePushC(e *Edge, msgs []Msg) int {
	p := (*C.vq_msg)(unsafe.Pointer(unsafe.SliceData(msgs)))
	return int(C.vq_edge_push_extern(edgeC(e), p, C.uint32_t(len(msgs))))
}

func edgePopC(e *Edge, out []Msg) int {
	p := (*C.vq_msg)(unsafe.Pointer(unsafe.SliceData(out)))
	return int(C.vq_edge_pop_extern(edgeC(e), p, C.uint32_t(len(out))))
}

func edgeLenC(e *Edge) int { return int(C.vq_edge_len_extern(edgeC(e))) }

func doorbellC(d *Doorbell) *C.vq_doorbell { return (*C.vq_doorbell)(unsafe.Pointer(d)) }

func doorbellInitC(d *Doorbell) int { return int(C.vq_doorbell_init(doorbellC(d))) }

func doorbellDeinitC(d *Doorbell) { C.vq_doorbell_deinit(doorbellC(d)) }

func doorbellPrepareC(d *Doorbell) { C.vq_doorbell_prepare_extern(doorbellC(d)) }

func doorbellAwakeC(d *Doorbell) { C.vq_doorbell_awake_extern(doorbellC(d)) }

func doorbellClaimC(d *Doorbell) bool { return bool(C.vq_doorbell_claim_extern(doorbellC(d))) }

func doorbellDrainC(d *Doorbell) int { return int(C.vq_doorbell_drain(doorbellC(d))) }
