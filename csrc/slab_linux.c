/* slab_linux.c: slabs by mmap(2), on huge pages where that was asked for. */
#define _GNU_SOURCE
#include "veloq/slab.h"

#include <stdbool.h>
#include <sys/mman.h>

static void *map(size_t size_bytes, int flags)
{
	void *mem = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	return mem == MAP_FAILED ? NULL : mem;
}

/* Memory aligned to huge pages: more than is needed, less what sticks out at both ends. */
static void *map_aligned(size_t size_bytes)
{
	char *mem = map(size_bytes + VQ_SLAB_HUGE_BYTES, 0);
	if (!mem)
		return NULL;
	size_t before = -(uintptr_t)mem & (VQ_SLAB_HUGE_BYTES - 1);
	if (before > 0)
		(void)munmap(mem, before);
	(void)munmap(mem + before + size_bytes, VQ_SLAB_HUGE_BYTES - before);
	return mem + before;
}

int vq_slab_alloc(size_t size_bytes, int32_t wanted, void **mem)
{
	bool huge = wanted != VQ_SLAB_PLAIN;
	if (size_bytes == 0 || size_bytes % (huge ? VQ_SLAB_HUGE_BYTES : 65536) != 0)
		return -VQ_EINVAL;
	int got = VQ_SLAB_PLAIN;
	*mem = NULL;
	if (wanted == VQ_SLAB_HUGE) {
		*mem = map(size_bytes, MAP_HUGETLB);
		got = VQ_SLAB_HUGE;
	}
	if (!*mem && huge) {
		*mem = map_aligned(size_bytes);
		got = *mem && madvise(*mem, size_bytes, MADV_HUGEPAGE) == 0 ? VQ_SLAB_ADVISED
									    : VQ_SLAB_PLAIN;
	}
	if (!*mem) {
		*mem = map(size_bytes, 0);
		got = VQ_SLAB_PLAIN;
	}
	if (!*mem)
		return -VQ_ENOMEM;
	(void)madvise(*mem, size_bytes, MADV_DONTFORK);
	return got;
}

void vq_slab_free(void *mem, size_t size_bytes)
{
	(void)munmap(mem, size_bytes);
}
