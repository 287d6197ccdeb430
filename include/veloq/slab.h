/*
 * slab.h: large pieces of memory that buffer pools are cut from.
 */
#ifndef VELOQ_SLAB_H
#define VELOQ_SLAB_H

#include <stddef.h>
#include <stdint.h>

#include "veloq/base.h"

/* What a slab's pages are. */
enum {
	VQ_SLAB_PLAIN = 0,
	VQ_SLAB_ADVISED = 1, /* the system was asked to make them huge when it can */
	VQ_SLAB_HUGE = 2,    /* reserved huge pages */
};

/* Slabs on huge pages are multiples of this. */
#define VQ_SLAB_HUGE_BYTES ((size_t)2 << 20)

/*
 * Maps size_bytes (a multiple of 64 KiB) of zeroed memory, aligned to a page at least, that a
 * forked child does not get. wanted is the best of VQ_SLAB_* to try; what it can't be, the next
 * lower one is tried for. Returns what was got, or -VQ_ENOMEM, or -VQ_EINVAL for a size that wanted
 * does not allow. The caller owns *mem until vq_slab_free. Any thread.
 */
int vq_slab_alloc(size_t size_bytes, int32_t wanted, void **mem);

/*
 * Unmaps what vq_slab_alloc returned, with the size given there. Any thread.
 */
void vq_slab_free(void *mem, size_t size_bytes);

#endif
