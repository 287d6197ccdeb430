/* pages_linux.c: memory that a driver shares with its owner or with the kernel. */
#define _GNU_SOURCE
#include "pages_linux.h"

#include <sys/mman.h>

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
