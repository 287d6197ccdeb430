/*
 * driver_delay_test.c: vq_driver_enter_delayed: what ends its wait, and what doesn't. Where nothing
 * would end it but the delay, that is an hour, and the dog barks long before.
 */
#include "driver_fixture.h"

#include <sched.h>
#include <stdatomic.h>

static fx f;

#define MS       INT64_C(1000000)
#define US_OF_MS 1000u
#define HOUR_US  UINT32_C(3600000000)
#define MANY     1000u /* completions that never come */
#define PAIRS    4u    /* as many as the smallest config has buffers */

typedef struct pairs {
	int ends[PAIRS][2];
	uint32_t ops[PAIRS];
} pairs;

/* Receives that wait, in the kernel or where else the driver has them wait. */
static void pairs_begin(pairs *p)
{
	for (uint32_t i = 0; i < PAIRS; i++) {
		peer_pair(p->ends[i]);
		p->ops[i] = fx_recv(&f, p->ends[i][0], 0);
	}
	fx_flush(&f);
}

static void pairs_end(pairs *p)
{
	for (uint32_t i = 0; i < PAIRS; i++) {
		if (!f.ops[p->ops[i]].terminal)
			fx_cancel_wait(&f, p->ops[i]);
		peer_close(p->ends[i][0]);
		peer_close(p->ends[i][1]);
	}
}

static void pairs_send(pairs *p, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		peer_send(p->ends[i][1], "x", 1);
}

static uint32_t pairs_done(const pairs *p)
{
	uint32_t done = 0;

	for (uint32_t i = 0; i < PAIRS; i++)
		done += f.ops[p->ops[i]].terminal;
	return done;
}

/* As many as are waited for end the wait, long before its time. */
static void test_count_ends_it(void)
{
	pairs p;

	fx_begin(&f);
	pairs_begin(&p);
	pairs_send(&p, PAIRS);
	uint32_t turns = 0;
	while (pairs_done(&p) < PAIRS) {
		fx_turn_delayed(&f, PAIRS, HOUR_US);
		turns++;
	}
	CHECK(turns <= PAIRS);
	if (fx_has(&f, VQ_CAP_MIN_WAIT))
		CHECK_EQ(turns, 1);
	pairs_end(&p);
	fx_end(&f);
}

/* Fewer wait for the others, but no longer than the delay; and a driver that can't doesn't. */
static void test_delay_ends_it(void)
{
	pairs p;

	fx_begin(&f);
	pairs_begin(&p);
	pairs_send(&p, 1);
	int64_t start = peer_now_ns();
	while (pairs_done(&p) < 1)
		fx_turn_delayed(&f, MANY, 20 * US_OF_MS);
	if (fx_has(&f, VQ_CAP_MIN_WAIT))
		CHECK(peer_now_ns() - start >= 20 * MS);
	CHECK_EQ(f.ops[p.ops[0]].res, 1);
	pairs_end(&p);
	fx_end(&f);
}

typedef struct late_sender {
	pairs *pairs;
	_Atomic uint32_t go;
} late_sender;

static void *late_main(void *arg)
{
	late_sender *s = arg;

	/* acquire: pairs with the owner's release */
	while (atomic_load_explicit(&s->go, memory_order_acquire) == 0)
		sched_yield();
	pairs_send(s->pairs, 1);
	return NULL;
}

/* What comes when the delay is over ends the wait at once: nothing else would for an hour. */
static void test_one_ends_it_after(void)
{
	pairs p;
	late_sender s = { .pairs = &p };
	pthread_t thread;

	fx_begin(&f);
	pairs_begin(&p);
	CHECK_EQ(pthread_create(&thread, NULL, late_main, &s), 0);
	/* release: pairs with the sender's acquire */
	atomic_store_explicit(&s.go, 1, memory_order_release);
	while (pairs_done(&p) < 1)
		fx_turn_delayed(&f, MANY, 1);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	pairs_end(&p);
	fx_end(&f);
}

/*
 * A timer that expires while the call waits ends it. In a single round it may have expired before,
 * on a busy machine, and waits out the delay; in every round only if it never ends the wait.
 */
static void test_timer_ends_it(void)
{
	enum { ROUNDS = 6, DELAY_S = 4 };

	fx_begin(&f);
	int64_t start = peer_now_ns();
	for (uint32_t round = 0; round < ROUNDS; round++) {
		vq_timespec after = { .nsec = 20 * MS };
		uint32_t op = fx_timeout(&f, &after);
		if (round % 2 == 0)
			fx_submit(&f, 0);
		while (!f.ops[op].terminal)
			fx_turn_delayed(&f, MANY, DELAY_S * 1000 * US_OF_MS);
		CHECK_EQ(f.ops[op].res, -VQ_ETIME);
	}
	int64_t took = peer_now_ns() - start;
	CHECK(took >= ROUNDS * 20 * MS);
	CHECK(took < ROUNDS * DELAY_S * 1000 * MS);
	fx_end(&f);
}

/* A ring is heard within the delay: each round hangs if it isn't. */
static void test_doorbell_ends_it(void)
{
	fx_begin(&f);
	fx_hear_rings(&f, 20, MANY, US_OF_MS);
	fx_end(&f);
}

/* It submits, and what completes within the call counts. */
static void test_submits(void)
{
	enum { COUNT = 6 };
	uint32_t ops[COUNT];

	fx_begin(&f);
	for (uint32_t i = 0; i < COUNT; i++)
		ops[i] = fx_nop(&f, 0);
	while (f.sq_tail != *f.view.sq_head)
		fx_turn_delayed(&f, COUNT, HOUR_US);
	for (uint32_t i = 0; i < COUNT; i++)
		FX_EXPECT(&f, ops[i], 0);
	fx_end(&f);
}

/* Completions that nobody collected yet are some of those that are waited for. */
static void test_uncollected_count(void)
{
	fx_begin(&f);
	uint32_t first = fx_nop(&f, 0);
	uint32_t second = fx_nop(&f, 0);
	fx_submit(&f, 0);
	uint32_t third = fx_nop(&f, 0);
	CHECK_EQ(fx_turn_delayed(&f, 3, HOUR_US), 3);
	FX_EXPECT(&f, first, 0);
	FX_EXPECT(&f, second, 0);
	FX_EXPECT(&f, third, 0);
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_count_ends_it),     CHECK_TEST(test_delay_ends_it),
	CHECK_TEST(test_one_ends_it_after), CHECK_TEST(test_timer_ends_it),
	CHECK_TEST(test_doorbell_ends_it),  CHECK_TEST(test_submits),
	CHECK_TEST(test_uncollected_count),
};

FX_MAIN(tests)
