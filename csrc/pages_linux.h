/* pages_linux.h: memory that a driver shares with its owner or with the kernel. */
#ifndef VELOQ_CSRC_PAGES_LINUX_H
#define VELOQ_CSRC_PAGES_LINUX_H

#include <stddef.h>
#include <stdint.h>

/*
 * Zeroed pages that a forked child does not get: it must not inherit what the kernel or the driver
 * writes to on the parent's behalf. Returns NULL when there is no memory. Any thread.
 */
void *vq__map_pages(size_t size_bytes);

/*
 * The same, for tables that are far larger than what is ever used of them: only pages that are
 * touched count as memory. Any thread.
 */
void *vq__map_sparse(size_t size_bytes);

/* How many descriptors such a table should have room for: 65,536 to 4,194,304. Any thread. */
uint32_t vq__fd_count_wanted(void);

#endif
