/* pages_linux.c: memory that a driver shares with its owner or with the kernel. */
#define _GNU_SOURCE
#include "pages_linux.h"

#include <sys/mman.h>
#include <sys/resource.h>

/* Whatever RLIMIT_NOFILE is when the driver is made. */
#define FD_COUNT_MIN (1u << 16)
#define FD_COUNT_MAX (1u << 22)

static void *map(size_t size_bytes, int flags)
{
	void *mem = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (mem == MAP_FAILED)
		return NULL;
	(void)madvise(mem, size_bytes, MADV_DONTFORK);
	return mem;
}

void *vq__map_pages(size_t size_bytes)
{
	return map(size_bytes, 0);
}

void *vq__map_sparse(size_t size_bytes)
{
	return map(size_bytes, MAP_NORESERVE);
}

uint32_t vq__fd_count_wanted(void)
{
	struct rlimit limit;

	/* The hard limit: the soft one may be raised up to it later. */
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max > FD_COUNT_MAX)
		return FD_COUNT_MAX;
	return limit.rlim_max < FD_COUNT_MIN ? FD_COUNT_MIN : (uint32_t)limit.rlim_max;
}
