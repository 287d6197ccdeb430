/* Latency histogram: log-linear buckets, 64 to each power of two, so 1.6 % wide at worst. */
#ifndef VELOQ_BENCH_HIST_H
#define VELOQ_BENCH_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 6
#define HIST_SUB      (1u << HIST_SUB_BITS)
#define HIST_BUCKETS  (HIST_SUB * (64 - HIST_SUB_BITS + 1))

struct hist {
	uint64_t count;
	uint64_t max;
	uint64_t bucket[HIST_BUCKETS];
};

static inline unsigned hist_index(uint64_t v)
{
	unsigned shift;

	if (v < HIST_SUB)
		return (unsigned)v;
	shift = 63u - (unsigned)__builtin_clzll(v) - HIST_SUB_BITS;
	return (shift + 1) * HIST_SUB + (unsigned)(v >> shift) - HIST_SUB;
}

/* The middle of a bucket, so that rounding favours nobody. */
static inline uint64_t hist_value(unsigned index)
{
	unsigned shift;

	if (index < HIST_SUB)
		return index;
	shift = index / HIST_SUB - 1;
	return ((uint64_t)(index % HIST_SUB + HIST_SUB) << shift) + ((1ull << shift) >> 1);
}

static inline void hist_add(struct hist *h, uint64_t v)
{
	h->count++;
	h->bucket[hist_index(v)]++;
	if (v > h->max)
		h->max = v;
}

/* The smallest value that at least share (0..1) of all samples do not exceed. */
static inline uint64_t hist_quantile(const struct hist *h, double share)
{
	uint64_t want = (uint64_t)(share * (double)h->count + 0.999999);
	uint64_t seen = 0;

	if (want < 1)
		want = 1;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= want)
			return hist_value(i) < h->max ? hist_value(i) : h->max;
	}
	return h->max;
}

#endif
