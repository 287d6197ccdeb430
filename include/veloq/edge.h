/*
 * Edge: one direction between two workers, a bounded ring with one producer and one consumer.
 * Changes when the record, the ring's layout or its memory ordering changes.
 *
 * An edge lives in memory that its owner hands to vq_edge_init, so that the N x N edges of a mesh
 * share one slab: no pointer is stored inside, and the size of every edge is a multiple of the
 * cache line. Go (internal/core/edge.go) works on the same bytes with the same ordering; either
 * end of an edge may be C or Go, and the offsets below are what both agree on.
 *
 * The indices run freely over 2^32 and are masked only to address a record; tail - head is the
 * length, which stays right across the wrap because the capacity divides 2^32.
 */
#ifndef VELOQ_EDGE_H
#define VELOQ_EDGE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base.h"

/* Records an edge holds at most: 256 MiB of them, far below what tail - head could express. */
#define VQ_EDGE_CAPACITY_MAX (UINT32_C(1) << 24)

/* What an edge carries; its meaning belongs to the two ends. */
typedef struct vq_msg {
	uint64_t kind;
	uint64_t token;
} vq_msg;

typedef struct vq_edge {
	/*
	 * The producer's line. cached_head is the last head it saw: the consumer's line is read
	 * only when the ring looks too full by it. The mask is kept once a line, so that neither
	 * end touches a third one.
	 */
	alignas(VQ_CACHE_LINE) _Atomic uint32_t tail;
	uint32_t cached_head;
	uint32_t producer_mask;

	/* The consumer's line, its mirror image. */
	alignas(VQ_CACHE_LINE) _Atomic uint32_t head;
	uint32_t cached_tail;
	uint32_t consumer_mask;

	alignas(VQ_CACHE_LINE) vq_msg records[];
} vq_edge;

/* Offsets in bytes, shared with Go. A change here bumps VQ_ABI. */
enum {
	VQ_EDGE_TAIL_OFFSET = 0,
	VQ_EDGE_CACHED_HEAD_OFFSET = 4,
	VQ_EDGE_PRODUCER_MASK_OFFSET = 8,
	VQ_EDGE_HEAD_OFFSET = 64,
	VQ_EDGE_CACHED_TAIL_OFFSET = 68,
	VQ_EDGE_CONSUMER_MASK_OFFSET = 72,
	VQ_EDGE_RECORDS_OFFSET = 128,
};

_Static_assert(sizeof(vq_msg) == 16, "Go's Msg is 16 bytes");
_Static_assert(offsetof(vq_msg, token) == 8, "Go's Msg is {Kind, Token}");
_Static_assert(sizeof(_Atomic uint32_t) == 4, "Go reads the indices as uint32");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a lock inside an index would not exclude Go");
_Static_assert(offsetof(vq_edge, tail) == VQ_EDGE_TAIL_OFFSET, "layout");
_Static_assert(offsetof(vq_edge, cached_head) == VQ_EDGE_CACHED_HEAD_OFFSET, "layout");
_Static_assert(offsetof(vq_edge, producer_mask) == VQ_EDGE_PRODUCER_MASK_OFFSET, "layout");
_Static_assert(offsetof(vq_edge, head) == VQ_EDGE_HEAD_OFFSET, "layout");
_Static_assert(offsetof(vq_edge, cached_tail) == VQ_EDGE_CACHED_TAIL_OFFSET, "layout");
_Static_assert(offsetof(vq_edge, consumer_mask) == VQ_EDGE_CONSUMER_MASK_OFFSET, "layout");
_Static_assert(offsetof(vq_edge, records) == VQ_EDGE_RECORDS_OFFSET, "layout");

/*
 * Bytes that an edge of `capacity` records takes, a multiple of VQ_CACHE_LINE.
 * 0 when the capacity is not a power of two in [1, VQ_EDGE_CAPACITY_MAX].
 * Owns nothing. Any thread.
 */
static inline size_t vq_edge_size_bytes(uint32_t capacity)
{
	if (capacity == 0 || capacity > VQ_EDGE_CAPACITY_MAX || (capacity & (capacity - 1)) != 0)
		return 0;
	size_t size_bytes = VQ_EDGE_RECORDS_OFFSET + (size_t)capacity * sizeof(vq_msg);
	return (size_bytes + VQ_CACHE_LINE - 1) & ~(size_t)(VQ_CACHE_LINE - 1);
}

/*
 * Makes an empty edge of `capacity` records in place. `mem` has vq_edge_size_bytes(capacity) bytes,
 * aligned to VQ_CACHE_LINE. There is no deinit: the edge holds nothing but these bytes.
 * -VQ_EINVAL for a capacity that vq_edge_size_bytes refuses, or for misaligned memory.
 * The memory stays the caller's and outlives both ends. Any thread, before either end starts;
 * handing the edge to the ends is what orders this with their first use.
 */
static inline int vq_edge_init(void *mem, uint32_t capacity)
{
	if (vq_edge_size_bytes(capacity) == 0 || (uintptr_t)mem % VQ_CACHE_LINE != 0)
		return -VQ_EINVAL;
	vq_edge *e = (vq_edge *)mem;
	atomic_init(&e->tail, 0);
	e->cached_head = 0;
	e->producer_mask = capacity - 1;
	atomic_init(&e->head, 0);
	e->cached_tail = 0;
	e->consumer_mask = capacity - 1;
	return 0;
}

/*
 * Copies as many of `msgs` as there is room for, in order, and publishes them together.
 * Returns how many: fewer than `count` means the edge was full.
 * `msgs` stays the caller's. Producer only. Does not ring; see vq_doorbell_claim.
 */
static inline uint32_t vq_edge_push(vq_edge *e, const vq_msg *msgs, uint32_t count)
{
	const uint32_t mask = e->producer_mask;
	/* relaxed: nobody but this thread stores tail */
	const uint32_t tail = atomic_load_explicit(&e->tail, memory_order_relaxed);
	uint32_t room = mask + 1 - (tail - e->cached_head);

	if (room < count) {
		/* acquire: pairs with the release in vq_edge_pop; its reads of the records that
		 * are overwritten here are over */
		e->cached_head = atomic_load_explicit(&e->head, memory_order_acquire);
		/* Fails when two threads produce, or when someone wrote over the header. */
		VQ_ASSERT(tail - e->cached_head <= mask + 1);
		room = mask + 1 - (tail - e->cached_head);
		if (room < count)
			count = room;
		/* A store to tail would take the line from the consumer for nothing. */
		if (count == 0)
			return 0;
	}
	for (uint32_t i = 0; i < count; i++)
		e->records[(tail + i) & mask] = msgs[i];
	/* release: pairs with the acquire in vq_edge_pop; the records are visible before it */
	atomic_store_explicit(&e->tail, tail + count, memory_order_release);
	return count;
}

/*
 * Copies up to `count` records to `out`, oldest first, and gives their places back together.
 * Returns how many. Fewer than `count` means that tail was read anew and no more was there: so a
 * pop serves as the re-check after vq_doorbell_prepare.
 * `out` stays the caller's, and a token's meaning moves to the caller. Consumer only.
 */
static inline uint32_t vq_edge_pop(vq_edge *e, vq_msg *out, uint32_t count)
{
	const uint32_t mask = e->consumer_mask;
	/* relaxed: nobody but this thread stores head */
	const uint32_t head = atomic_load_explicit(&e->head, memory_order_relaxed);
	uint32_t ready = e->cached_tail - head;

	if (ready < count) {
		/* acquire: pairs with the release in vq_edge_push; the records are visible */
		e->cached_tail = atomic_load_explicit(&e->tail, memory_order_acquire);
		ready = e->cached_tail - head;
		/* Fails when two threads consume, or when someone wrote over the header. */
		VQ_ASSERT(ready <= mask + 1);
		if (ready < count)
			count = ready;
		if (count == 0)
			return 0;
	}
	for (uint32_t i = 0; i < count; i++)
		out[i] = e->records[(head + i) & mask];
	/* release: pairs with the acquire in vq_edge_push; the reads above come before it */
	atomic_store_explicit(&e->head, head + count, memory_order_release);
	return count;
}

/*
 * Records in the edge at some moment during the call, never more than the capacity. Exact for an
 * end while the other one rests; else already old when it is returned.
 * Owns nothing. Any thread.
 */
static inline uint32_t vq_edge_len(const vq_edge *e)
{
	const uint32_t capacity = e->consumer_mask + 1;
	/* acquire: pairs with the release in vq_edge_pop. Head is read first: whoever sees this
	 * head sees a tail at or past it, and the difference cannot come out negative. */
	const uint32_t head = atomic_load_explicit(&e->head, memory_order_acquire);
	/* relaxed: no record is read on the strength of it */
	const uint32_t len = atomic_load_explicit(&e->tail, memory_order_relaxed) - head;
	/* Both ends may have moved on between the two loads. */
	return len < capacity ? len : capacity;
}

/*
 * The functions above with linkage, for callers that can't inline C: cgo, other languages, tests.
 * Each has the contract and the thread affinity of its namesake.
 */
size_t vq_edge_size_bytes_extern(uint32_t capacity);
int vq_edge_init_extern(void *mem, uint32_t capacity);
uint32_t vq_edge_push_extern(vq_edge *e, const vq_msg *msgs, uint32_t count);
uint32_t vq_edge_pop_extern(vq_edge *e, vq_msg *out, uint32_t count);
uint32_t vq_edge_len_extern(const vq_edge *e);

#endif
