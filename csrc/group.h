/* group.h: buffer groups of the drivers that keep the ring of one themselves. */
#ifndef VELOQ_CSRC_GROUP_H
#define VELOQ_CSRC_GROUP_H

#include "veloq/op.h"

#include <stddef.h>

/* Offers all buffers of a group that has offered none. The owner's thread, before it has the view.
 */
static inline void vq__group_fill(vq_buf *ring, uint8_t *memory, uint32_t count,
				  uint32_t size_bytes)
{
	if (count == 0)
		return;
	for (uint32_t i = 0; i < count; i++) {
		ring[i].addr = (uint64_t)(uintptr_t)(memory + (size_t)i * size_bytes);
		ring[i].len = size_bytes;
		ring[i].index = (uint16_t)i;
	}
	ring[0].tail = (uint16_t)count;
}

#endif
