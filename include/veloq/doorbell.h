/*
 * Doorbell: how a sleeping worker is woken without a system call for one that is awake.
 * Changes when the wake protocol changes; tests/model/doorbell.pml is the same protocol, checked.
 *
 *   worker                                 waker
 *   vq_doorbell_prepare   flag = 1         publish           e.g. vq_edge_push
 *                         full fence       vq_doorbell_claim full fence
 *   re-check every source                                    flag 1? exchange it to 0
 *   all empty: wait on the handle          true: vq_doorbell_ring
 *   vq_doorbell_awake     flag = 0
 *
 * Each side stores, then loads what the other one stores. The two fences have an order: if the
 * waker's is first, the re-check sees what it published; if the worker's is first, the waker sees
 * the flag. Without either fence both loads may miss, and the worker sleeps on a full edge.
 *
 * A claim takes the flag away, so one prepare leads to one ring at most, however many wakers
 * there are. A ring may still find the worker awake (it woke for another reason between the claim
 * and the ring): its next wait then returns at once, for nothing. That is the protocol's price,
 * and harmless.
 */
#ifndef VELOQ_DOORBELL_H
#define VELOQ_DOORBELL_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base.h"

typedef struct vq_doorbell {
	/* 1 from prepare until someone claims the ring or the worker says it is awake. */
	alignas(VQ_CACHE_LINE) _Atomic uint32_t sleeping;
	uint32_t reserved;
	/* What the ring goes to: on Linux an eventfd, which the doorbell owns. Constant between
	 * init and deinit; it shares the line because only who just took the flag reads it. */
	int64_t handle;
} vq_doorbell;

/* Offsets in bytes, shared with Go. A change here bumps VQ_ABI. */
enum {
	VQ_DOORBELL_SLEEPING_OFFSET = 0,
	VQ_DOORBELL_HANDLE_OFFSET = 8,
	VQ_DOORBELL_SIZE_BYTES = 64,
};

_Static_assert(offsetof(vq_doorbell, sleeping) == VQ_DOORBELL_SLEEPING_OFFSET, "layout");
_Static_assert(offsetof(vq_doorbell, handle) == VQ_DOORBELL_HANDLE_OFFSET, "layout");
_Static_assert(sizeof(vq_doorbell) == VQ_DOORBELL_SIZE_BYTES, "one line each in a slab");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a lock inside the flag would not exclude Go");

/*
 * A full fence. ThreadSanitizer does not model fences, and gcc warns about that. Nothing is lost:
 * the flag carries no data (the edge's release and acquire do, and TSan follows those), the fence
 * only decides whether a ring happens, and TSan's runtime still executes it.
 */
#if defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
static inline void vq__doorbell_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
}
#if defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/*
 * Says that the worker is about to wait. The caller then looks at every source once more, and
 * waits only if all are empty; whether it waited or not, vq_doorbell_awake follows.
 * Owns nothing. Worker only.
 *
 * Store and fence, not a seq_cst exchange: C11 lets an acquire load after such an exchange move
 * before its store (and some ARM code generation does), so the fence is what the protocol needs,
 * and on x86 both are one locked instruction.
 */
static inline void vq_doorbell_prepare(vq_doorbell *d)
{
	/* relaxed: the fence orders it, and it publishes nothing */
	atomic_store_explicit(&d->sleeping, 1, memory_order_relaxed);
	/* seq_cst: pairs with the fence in vq_doorbell_claim */
	vq__doorbell_fence();
}

/*
 * Says that the worker looks at its sources again. From here no waker rings until the next
 * prepare, though one that claimed earlier still may.
 * Owns nothing. Worker only.
 */
static inline void vq_doorbell_awake(vq_doorbell *d)
{
	/* relaxed: a waker that still sees 1 rings once for nothing, one that sees 0 relies on a
	 * worker that is yet to prepare and re-check */
	atomic_store_explicit(&d->sleeping, 0, memory_order_relaxed);
}

/*
 * Asks, after publishing, whether the worker must be woken. True: this caller alone got the claim
 * and must call vq_doorbell_ring; dropping it leaves the worker asleep. One claim covers all that
 * the caller published before it, so push a whole batch first.
 * Owns nothing. Any thread.
 *
 * Fence and load, not a read-modify-write of the flag: nearly every claim finds the worker awake,
 * and then a locked instruction on the caller's own stack leaves the flag's line shared by all
 * wakers, where a read-modify-write would take it from each other every time. The push itself
 * stays a plain store, so several pushes to one worker pay for one fence.
 */
static inline bool vq_doorbell_claim(vq_doorbell *d)
{
	/* seq_cst: pairs with the fence in vq_doorbell_prepare */
	vq__doorbell_fence();
	/* relaxed: the fence orders it; a stale 1 is sorted out by the exchange */
	if (atomic_load_explicit(&d->sleeping, memory_order_relaxed) == 0)
		return false;
	/* relaxed: decides only which waker rings, and the kernel orders the ring. Not a store: it
	 * could land after the worker's next prepare, and undo that. */
	return atomic_exchange_explicit(&d->sleeping, 0, memory_order_relaxed) == 1;
}

/*
 * Makes a doorbell in place, with a handle of its own: on Linux an eventfd, close-on-exec and
 * non-blocking. The memory is the caller's and outlives worker and wakers.
 * Negative: the platform's error number (-VQ_EMFILE, -VQ_ENFILE, -VQ_ENOMEM); then there is
 * nothing to deinit. Any thread, before worker and wakers start.
 */
int vq_doorbell_init(vq_doorbell *d);

/*
 * Closes the handle. No driver may wait on it any more, and no waker may hold a claim: a ring
 * after this is a programmer error and asserts. Twice is once.
 * Any thread, after worker and wakers ended.
 */
void vq_doorbell_deinit(vq_doorbell *d);

/*
 * Makes the handle ready, which ends the worker's wait or the next one. Does not wait, not even
 * for a worker that never drains. Asserts if the platform refuses: a lost ring is a hung worker.
 * Owns nothing. Any thread that holds a claim.
 */
void vq_doorbell_ring(vq_doorbell *d);

/*
 * Takes all rings so far from the handle, so that the next wait does wait. Returns 1 if there was
 * any, 0 if not. For drivers that wait for readiness; one that reads the handle by an op has
 * drained it already.
 * Owns nothing. Worker only.
 */
int vq_doorbell_drain(vq_doorbell *d);

/*
 * The inline functions above with linkage, for callers that can't inline C: cgo, other languages,
 * tests. Each has the contract and the thread affinity of its namesake.
 */
void vq_doorbell_prepare_extern(vq_doorbell *d);
void vq_doorbell_awake_extern(vq_doorbell *d);
bool vq_doorbell_claim_extern(vq_doorbell *d);

#endif
