/*
 * Ground that every veloq header stands on: the always-on assert, the cache line and the portable
 * error numbers.
 */
#ifndef VELOQ_BASE_H
#define VELOQ_BASE_H

#include <stdio.h>
#include <stdlib.h>

#define VQ_CACHE_LINE 64

/* Linux's numbers on every platform; functions return them negated. */
enum {
	VQ_EINVAL = 22,
};

#define VQ_ASSERT(cond) ((cond) ? (void)0 : (fprintf(stderr, "veloq: %s\n", #cond), abort()))

#endif
