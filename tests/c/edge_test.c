/*
 * The edge: bounds, order and the wrap on one thread, then two threads that check every message.
 */
#include "veloq/edge.h"

#include <pthread.h>
#include <sched.h>

#include <stdlib.h>

#include "check.h"

#define STRESS_MESSAGES (CHECK_TSAN ? UINT64_C(1000000) : UINT64_C(20000000))
#define BATCH_MAX       64

/* Whole cache lines; C11's aligned_alloc is not everywhere. The block's own address lies before. */
static void *lines_alloc(size_t size_bytes)
{
	unsigned char *raw = malloc(size_bytes + 2 * VQ_CACHE_LINE);

	CHECK(raw != NULL);
	uintptr_t lines = ((uintptr_t)raw + 2 * VQ_CACHE_LINE) & ~(uintptr_t)(VQ_CACHE_LINE - 1);
	((void **)lines)[-1] = raw;
	return (void *)lines;
}

static void lines_free(void *lines)
{
	free(((void **)lines)[-1]);
}

static vq_edge *edge_new(uint32_t capacity)
{
	void *mem = lines_alloc(vq_edge_size_bytes(capacity));
	CHECK(mem != NULL);
	/* Init must not count on zeroed memory. */
	memset(mem, 0xa5, vq_edge_size_bytes(capacity));
	CHECK_EQ(vq_edge_init(mem, capacity), 0);
	return (vq_edge *)mem;
}

/* An empty edge whose indices have already run to `start`. */
static vq_edge *edge_new_at(uint32_t capacity, uint32_t start)
{
	vq_edge *e = edge_new(capacity);
	atomic_init(&e->tail, start);
	e->cached_head = start;
	atomic_init(&e->head, start);
	e->cached_tail = start;
	return e;
}

static vq_msg msg_of(uint64_t seq)
{
	return (vq_msg){ .kind = seq, .token = ~seq * UINT64_C(0x9e3779b97f4a7c15) };
}

static void check_msg(vq_msg got, uint64_t seq)
{
	CHECK_EQ(got.kind, seq);
	CHECK_EQ(got.token, msg_of(seq).token);
}

/* Pushes `count` messages numbered from `seq`; returns how many went in. */
static uint32_t push_seq(vq_edge *e, uint64_t seq, uint32_t count)
{
	vq_msg msgs[BATCH_MAX];

	CHECK(count <= BATCH_MAX);
	for (uint32_t i = 0; i < count; i++)
		msgs[i] = msg_of(seq + i);
	return vq_edge_push(e, msgs, count);
}

/* Pops up to `count` messages, which must be numbered from `seq`; returns how many came out. */
static uint32_t pop_seq(vq_edge *e, uint64_t seq, uint32_t count)
{
	vq_msg msgs[BATCH_MAX];

	CHECK(count <= BATCH_MAX);
	uint32_t got = vq_edge_pop(e, msgs, count);
	CHECK(got <= count);
	for (uint32_t i = 0; i < got; i++)
		check_msg(msgs[i], seq + i);
	return got;
}

static void test_size_bad_capacity(void)
{
	alignas(VQ_CACHE_LINE) unsigned char mem[2 * VQ_CACHE_LINE];
	const uint32_t bad[] = { 0, 3, 6, 63, 65, VQ_EDGE_CAPACITY_MAX * 2, UINT32_MAX };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK_EQ(vq_edge_size_bytes(bad[i]), 0);
		CHECK_EQ(vq_edge_init(mem, bad[i]), -VQ_EINVAL);
	}
}

static void test_size_whole_lines(void)
{
	for (uint32_t capacity = 1; capacity <= VQ_EDGE_CAPACITY_MAX; capacity *= 2) {
		size_t size_bytes = vq_edge_size_bytes(capacity);
		CHECK_EQ(size_bytes % VQ_CACHE_LINE, 0);
		CHECK(size_bytes >= sizeof(vq_edge) + capacity * sizeof(vq_msg));
		CHECK_EQ(vq_edge_size_bytes_extern(capacity), size_bytes);
	}
}

static void test_init_misaligned(void)
{
	alignas(VQ_CACHE_LINE) unsigned char mem[8 * VQ_CACHE_LINE];

	CHECK_EQ(vq_edge_init(mem + 16, 4), -VQ_EINVAL);
	CHECK_EQ(vq_edge_init(mem, 4), 0);
	CHECK_EQ(vq_edge_init_extern(mem, 4), 0);
}

static void test_pop_empty(void)
{
	vq_edge *e = edge_new(8);

	CHECK_EQ(pop_seq(e, 0, 1), 0);
	CHECK_EQ(pop_seq(e, 0, BATCH_MAX), 0);
	CHECK_EQ(vq_edge_len(e), 0);
	CHECK_EQ(push_seq(e, 0, 1), 1);
	CHECK_EQ(pop_seq(e, 0, 1), 1);
	CHECK_EQ(pop_seq(e, 1, 1), 0);
	lines_free(e);
}

static void test_count_zero(void)
{
	vq_edge *e = edge_new(1);

	CHECK_EQ(vq_edge_push(e, NULL, 0), 0);
	CHECK_EQ(vq_edge_pop(e, NULL, 0), 0);
	CHECK_EQ(push_seq(e, 0, 1), 1);
	CHECK_EQ(vq_edge_push(e, NULL, 0), 0);
	CHECK_EQ(vq_edge_pop(e, NULL, 0), 0);
	CHECK_EQ(vq_edge_len(e), 1);
	lines_free(e);
}

static void test_push_full(void)
{
	vq_edge *e = edge_new(8);

	CHECK_EQ(push_seq(e, 0, 5), 5);
	CHECK_EQ(push_seq(e, 5, 5), 3); /* the rest does not fit */
	CHECK_EQ(vq_edge_len(e), 8);
	CHECK_EQ(push_seq(e, 8, 1), 0);
	CHECK_EQ(pop_seq(e, 0, 2), 2);
	CHECK_EQ(push_seq(e, 8, BATCH_MAX), 2);
	CHECK_EQ(pop_seq(e, 2, BATCH_MAX), 8);
	CHECK_EQ(vq_edge_len(e), 0);
	lines_free(e);
}

static void test_capacity_one(void)
{
	vq_edge *e = edge_new_at(1, UINT32_MAX - 2);

	for (uint64_t seq = 0; seq < 8; seq++) {
		CHECK_EQ(push_seq(e, seq, 2), 1);
		CHECK_EQ(push_seq(e, seq + 1, 1), 0);
		CHECK_EQ(pop_seq(e, seq, 2), 1);
		CHECK_EQ(pop_seq(e, seq + 1, 1), 0);
	}
	lines_free(e);
}

static void test_wrap_2_32(void)
{
	/* Every fill level and every batch size crosses the wrap of the indices. */
	for (uint32_t start = UINT32_MAX - 40; start > UINT32_MAX - 80; start--) {
		for (uint32_t batch = 1; batch <= 17; batch++) {
			vq_edge *e = edge_new_at(16, start);
			uint64_t pushed = 0;
			uint64_t popped = 0;

			while (popped < 128) {
				pushed += push_seq(e, pushed, batch);
				CHECK_EQ(vq_edge_len(e), pushed - popped);
				popped += pop_seq(e, popped, batch / 2 + 1);
				CHECK_EQ(vq_edge_len(e), pushed - popped);
			}
			CHECK(atomic_load(&e->head) < start);
			lines_free(e);
		}
	}
}

static void test_slab_neighbours(void)
{
	enum { EDGES = 9, CAPACITY = 2 };
	const size_t size_bytes = vq_edge_size_bytes(CAPACITY);
	unsigned char *slab = lines_alloc(EDGES * size_bytes);

	CHECK(slab != NULL);
	for (size_t i = 0; i < EDGES; i++)
		CHECK_EQ(vq_edge_init(slab + i * size_bytes, CAPACITY), 0);
	for (size_t i = 0; i < EDGES; i++)
		CHECK_EQ(push_seq((vq_edge *)(void *)(slab + i * size_bytes), 100 * i, 3), 2);
	for (size_t i = 0; i < EDGES; i++)
		CHECK_EQ(pop_seq((vq_edge *)(void *)(slab + i * size_bytes), 100 * i, 3), 2);
	lines_free(slab);
}

static void test_extern_copies(void)
{
	vq_edge *e = edge_new(4);
	vq_msg in[5] = { msg_of(0), msg_of(1), msg_of(2), msg_of(3), msg_of(4) };
	vq_msg out[5];

	CHECK_EQ(vq_edge_push_extern(e, in, 5), 4);
	CHECK_EQ(vq_edge_len_extern(e), 4);
	CHECK_EQ(vq_edge_pop_extern(e, out, 5), 4);
	for (uint64_t i = 0; i < 4; i++)
		check_msg(out[i], i);
	lines_free(e);
}

struct stress {
	vq_edge *e;
	uint64_t messages;
	uint32_t batch_max;
	_Atomic int done;
};

/* A batch size from 1 to max that changes from call to call, the same in every run. */
static uint32_t next_batch(uint32_t *state, uint32_t max)
{
	*state = *state * UINT32_C(1664525) + UINT32_C(1013904223);
	return *state / 65536 % max + 1;
}

static void *stress_producer(void *arg)
{
	struct stress *s = arg;
	uint32_t state = 1;

	for (uint64_t seq = 0; seq < s->messages;) {
		uint32_t count = next_batch(&state, s->batch_max);
		if (count > s->messages - seq)
			count = (uint32_t)(s->messages - seq);
		uint32_t pushed = push_seq(s->e, seq, count);
		if (pushed < count)
			sched_yield();
		seq += pushed;
	}
	return NULL;
}

static void *stress_observer(void *arg)
{
	struct stress *s = arg;
	const uint32_t capacity = s->e->producer_mask + 1;

	/* relaxed: only ends the loop */
	while (atomic_load_explicit(&s->done, memory_order_relaxed) == 0) {
		CHECK(vq_edge_len(s->e) <= capacity);
		sched_yield();
	}
	return NULL;
}

static void stress(uint32_t capacity, uint32_t batch_max, uint64_t messages)
{
	struct stress s = {
		.e = edge_new_at(capacity, UINT32_MAX - 1000),
		.messages = messages,
		.batch_max = batch_max,
	};
	pthread_t producer;
	pthread_t observer;
	uint32_t state = 7;

	CHECK_EQ(pthread_create(&producer, NULL, stress_producer, &s), 0);
	CHECK_EQ(pthread_create(&observer, NULL, stress_observer, &s), 0);
	for (uint64_t seq = 0; seq < messages;) {
		uint32_t popped = pop_seq(s.e, seq, next_batch(&state, batch_max));
		if (popped == 0)
			sched_yield();
		seq += popped;
	}
	CHECK_EQ(pthread_join(producer, NULL), 0);
	/* relaxed: only ends the loop */
	atomic_store_explicit(&s.done, 1, memory_order_relaxed);
	CHECK_EQ(pthread_join(observer, NULL), 0);
	CHECK_EQ(vq_edge_len(s.e), 0);
	lines_free(s.e);
}

static void test_stress_one_by_one(void)
{
	stress(1024, 1, STRESS_MESSAGES);
}

static void test_stress_batches(void)
{
	stress(1024, BATCH_MAX, STRESS_MESSAGES);
}

static void test_stress_mostly_full(void)
{
	stress(2, 3, STRESS_MESSAGES / 20);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_size_bad_capacity),  CHECK_TEST(test_size_whole_lines),
	CHECK_TEST(test_init_misaligned),    CHECK_TEST(test_pop_empty),
	CHECK_TEST(test_count_zero),         CHECK_TEST(test_push_full),
	CHECK_TEST(test_capacity_one),       CHECK_TEST(test_wrap_2_32),
	CHECK_TEST(test_slab_neighbours),    CHECK_TEST(test_extern_copies),
	CHECK_TEST(test_stress_one_by_one),  CHECK_TEST(test_stress_batches),
	CHECK_TEST(test_stress_mostly_full),
};

CHECK_MAIN(tests)
