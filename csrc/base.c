/* base.c: the assertion and the ABI number. */
#include "veloq/base.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void vq_assert_fail(const char *condition, const char *file, int line)
{
	fprintf(stderr, "veloq: %s:%d: broken: %s\n", file, line, condition);
	fflush(stderr);
	abort();
}

uint32_t vq_abi(void)
{
	return VQ_ABI;
}
