/* slab_windows.c: slabs by VirtualAlloc. Huge pages need a privilege that programs seldom have:
 * plain. */
#include "veloq/slab.h"

#include <windows.h>

int vq_slab_alloc(size_t size_bytes, int32_t wanted, void **mem)
{
	if (size_bytes == 0 ||
	    size_bytes % (wanted != VQ_SLAB_PLAIN ? VQ_SLAB_HUGE_BYTES : 65536) != 0)
		return -VQ_EINVAL;
	*mem = VirtualAlloc(NULL, size_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
	return *mem ? VQ_SLAB_PLAIN : -VQ_ENOMEM;
}

void vq_slab_free(void *mem, size_t size_bytes)
{
	(void)size_bytes;
	(void)VirtualFree(mem, 0, MEM_RELEASE);
}
