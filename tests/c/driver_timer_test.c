/* driver_timer_test.c: TIMEOUT and its update, and the wake by the doorbell. */
#include "driver_fixture.h"

#include <sched.h>
#include <stdatomic.h>

static fx f;

#define MS INT64_C(1000000)

static const vq_timespec hour = { .sec = 3600 };

static void test_timeout_fires(void)
{
	fx_begin(&f);
	int64_t start = peer_now_ns();
	vq_timespec after = { .nsec = 20 * MS };
	uint32_t op = fx_timeout(&f, &after);
	/* Read inside the enter that submits it: not after. */
	fx_submit(&f, 0);
	after = hour;
	/* A wait waits: it may end early for a signal, and not for nothing. */
	for (uint32_t turns = 0; !f.ops[op].terminal; turns++) {
		CHECK(turns < 20);
		fx_turn(&f, 1);
	}
	FX_EXPECT(&f, op, -VQ_ETIME);
	CHECK(peer_now_ns() - start >= 20 * MS);
	CHECK_EQ(f.ops[op].count, 1);
	fx_end(&f);
}

static void test_timeout_zero(void)
{
	fx_begin(&f);
	vq_timespec none = { 0 };
	FX_EXPECT(&f, fx_timeout(&f, &none), -VQ_ETIME);
	fx_end(&f);
}

static void test_timeout_invalid(void)
{
	fx_begin(&f);
	vq_timespec negative = { .sec = -1 };
	FX_EXPECT(&f, fx_timeout(&f, &negative), -VQ_EINVAL);
	fx_end(&f);
}

/* The scratch place of the view serves as well as the owner's own memory. */
static void test_timeout_view(void)
{
	fx_begin(&f);
	f.view.timespec->sec = 0;
	f.view.timespec->nsec = MS;
	uint32_t op = fx_timeout(&f, f.view.timespec);
	fx_submit(&f, 0);
	*f.view.timespec = hour;
	FX_EXPECT(&f, op, -VQ_ETIME);
	fx_end(&f);
}

static void test_timeout_cancel(void)
{
	fx_begin(&f);
	uint32_t op = fx_timeout(&f, &hour);
	fx_flush(&f);
	uint32_t cancel = fx_cancel(&f, op);
	FX_EXPECT(&f, op, -VQ_ECANCELED);
	FX_EXPECT(&f, cancel, 0);
	FX_EXPECT(&f, fx_cancel(&f, op), -VQ_ENOENT);
	fx_end(&f);
}

static void test_timeout_many(void)
{
	enum { COUNT = 6 };
	fx_begin(&f);
	vq_timespec after[COUNT];
	uint32_t ops[COUNT];
	int64_t start = peer_now_ns();
	for (uint32_t i = 0; i < COUNT; i++) {
		after[i] = (vq_timespec){ .nsec = (COUNT - i) * 3 * MS };
		ops[i] = fx_timeout(&f, &after[i]);
	}
	for (uint32_t i = COUNT; i-- > 0;) {
		FX_EXPECT(&f, ops[i], -VQ_ETIME);
		CHECK(peer_now_ns() - start >= (COUNT - i) * 3 * MS);
	}
	fx_end(&f);
}

static void test_update_earlier(void)
{
	fx_begin(&f);
	vq_timespec soon = { .nsec = 2 * MS };
	uint32_t op = fx_timeout(&f, &hour);
	fx_flush(&f);
	uint32_t update = fx_timeout_update(&f, op, &soon);
	/* This memory, too, is read inside the enter. */
	fx_submit(&f, 0);
	soon = hour;
	FX_EXPECT(&f, update, 0);
	FX_EXPECT(&f, op, -VQ_ETIME);
	CHECK_EQ(f.ops[op].count, 1);
	fx_end(&f);
}

/* Moved beyond a later one, which then is the first to fire. */
static void test_update_later(void)
{
	fx_begin(&f);
	vq_timespec first = { .nsec = 30 * MS };
	vq_timespec second = { .nsec = 35 * MS };
	uint32_t op = fx_timeout(&f, &first);
	uint32_t update = fx_timeout_update(&f, op, &hour);
	uint32_t witness = fx_timeout(&f, &second);
	FX_EXPECT(&f, update, 0);
	FX_EXPECT(&f, witness, -VQ_ETIME);
	CHECK_EQ(f.ops[op].count, 0);
	fx_cancel_wait(&f, op);
	CHECK_EQ(f.ops[op].res, -VQ_ECANCELED);
	fx_end(&f);
}

static void test_update_expired(void)
{
	fx_begin(&f);
	vq_timespec soon = { .nsec = 1 };
	uint32_t op = fx_timeout(&f, &soon);
	FX_EXPECT(&f, op, -VQ_ETIME);
	FX_EXPECT(&f, fx_timeout_update(&f, op, &hour), -VQ_ENOENT);
	fx_end(&f);
}

/* An update that races with the expiry: either it was in time, or the timer has fired. */
static void test_update_race(void)
{
	fx_begin(&f);
	uint32_t in_time = 0;
	for (uint32_t round = 0; round < 100; round++) {
		vq_timespec soon = { .nsec = 1000 + round * 1000 };
		uint32_t op = fx_timeout(&f, &soon);
		fx_submit(&f, 0);
		uint32_t update = fx_timeout_update(&f, op, &hour);
		fx_wait(&f, update);
		if (f.ops[update].res == 0) {
			in_time++;
			fx_cancel_wait(&f, op);
			CHECK_EQ(f.ops[op].res, -VQ_ECANCELED);
		} else {
			CHECK(f.ops[update].res == -VQ_ENOENT || f.ops[update].res == -VQ_EALREADY);
			FX_EXPECT(&f, op, -VQ_ETIME);
		}
	}
	printf("(%" PRIu32 " of 100 in time) ", in_time);
	fx_end(&f);
}

/* ---- the doorbell */

typedef struct waker {
	vq_doorbell *doorbell;
	_Atomic uint32_t posted;
	_Atomic uint32_t seen;
	uint32_t rounds;
	uint32_t rings;
	uint32_t window; /* how far the waker may run ahead */
} waker;

static void *waker_main(void *arg)
{
	waker *w = arg;

	for (uint32_t i = 1; i <= w->rounds; i++) {
		/* acquire: the partner is the owner's release of seen */
		while (i - atomic_load_explicit(&w->seen, memory_order_acquire) > w->window)
			sched_yield();
		/* release: pairs with the owner's acquire */
		atomic_store_explicit(&w->posted, i, memory_order_release);
		if (vq_doorbell_claim(w->doorbell)) {
			w->rings++;
			vq_doorbell_ring(w->doorbell);
		}
	}
	return NULL;
}

/* A worker's loop: nothing but the doorbell ends its waits. A lost wake hangs, and the dog barks.
 */
static void wake_rounds(uint32_t rounds, uint32_t window)
{
	fx_begin(&f);
	waker w = { .doorbell = f.view.doorbell, .rounds = rounds, .window = window };
	pthread_t thread;
	uint32_t wake = fx_wake(&f);
	uint32_t completions = 0;
	uint32_t seen = 0;
	fx_flush(&f);
	CHECK_EQ(pthread_create(&thread, NULL, waker_main, &w), 0);
	while (seen < rounds) {
		vq_doorbell_prepare(w.doorbell);
		/* acquire: pairs with the waker's release */
		uint32_t posted = atomic_load_explicit(&w.posted, memory_order_acquire);
		if (posted == seen)
			fx_turn(&f, 1);
		else
			fx_turn(&f, 0);
		vq_doorbell_awake(w.doorbell);
		if (f.ops[wake].terminal) {
			CHECK(f.ops[wake].res > 0);
			completions += f.ops[wake].count;
			wake = fx_wake(&f);
		}
		seen = posted;
		/* release: pairs with the waker's acquire */
		atomic_store_explicit(&w.seen, seen, memory_order_release);
	}
	CHECK_EQ(pthread_join(thread, NULL), 0);
	fx_flush(&f);
	fx_cancel_wait(&f, wake);
	completions += f.ops[wake].count;
	printf("(%" PRIu32 " rings, %" PRIu32 " completions) ", w.rings, completions);
	fx_end(&f);
}

static void test_wake_ping_pong(void)
{
	wake_rounds(CHECK_TSAN || CHECK_ASAN ? 1000 : 5000, 1);
}

static void test_wake_ahead(void)
{
	wake_rounds(CHECK_TSAN || CHECK_ASAN ? 10000 : 100000, 64);
}

/* A ring that came before the op was armed is not lost. */
static void test_wake_before_arming(void)
{
	fx_begin(&f);
	vq_doorbell_ring(f.view.doorbell);
	uint32_t op = fx_wake(&f);
	fx_wait_count(&f, op, 1);
	CHECK(f.ops[op].res > 0);
	if (!f.ops[op].terminal)
		fx_cancel_wait(&f, op);
	fx_end(&f);
}

/* Ringing is heard again and again, and far more often than the completion ring is long. */
static void test_wake_again(void)
{
	fx_begin(&f);
	fx_hear_rings(&f, 300, 1, 0);
	fx_end(&f);
}

/* Rung while the completion ring overflows: the op may end, and armed again it hears. */
static void test_wake_overflow(void)
{
	fx_begin(&f);
	uint32_t op = fx_wake(&f);
	fx_flush(&f);
	for (uint32_t i = 0; i < f.view.cq_entries + 20; i++)
		fx_nop(&f, 0);
	fx_submit(&f, 0);
	vq_doorbell_ring(f.view.doorbell);
	fx_submit(&f, 0);
	while (f.ops[op].count == 0)
		fx_turn(&f, 1);
	fx_flush(&f);
	if (f.ops[op].terminal)
		op = fx_wake(&f);
	uint32_t before = f.ops[op].count;
	vq_doorbell_ring(f.view.doorbell);
	fx_wait_count(&f, op, before + 1);
	if (!f.ops[op].terminal)
		fx_cancel_wait(&f, op);
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_timeout_fires),      CHECK_TEST(test_timeout_zero),
	CHECK_TEST(test_timeout_invalid),    CHECK_TEST(test_timeout_view),
	CHECK_TEST(test_timeout_cancel),     CHECK_TEST(test_timeout_many),
	CHECK_TEST(test_update_earlier),     CHECK_TEST(test_update_later),
	CHECK_TEST(test_update_expired),     CHECK_TEST(test_update_race),
	CHECK_TEST(test_wake_ping_pong),     CHECK_TEST(test_wake_ahead),
	CHECK_TEST(test_wake_before_arming), CHECK_TEST(test_wake_again),
	CHECK_TEST(test_wake_overflow),
};

FX_MAIN(tests)
