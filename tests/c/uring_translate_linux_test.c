/*
 * uring_translate_linux_test.c: what a translated driver must hold where the kernel holds it for
 * the others: chains through ops of several steps, polls that report changes only, timers that are
 * moved and canceled at once, a full book, and an end with results unread. All but the last two run
 * on the kernel's own ops as well: the owner cannot tell.
 */
#include "driver_fixture.h"

#include "uring_translate_linux.h"

static fx f;

static const vq_timespec hour = { .sec = 3600 };
static const vq_timespec soon = { .nsec = 2000000 };

static void link_last(void)
{
	f.view.sqes[(f.sq_tail - 1) & (f.view.sq_entries - 1)].flags |= VQ_SQE_LINK;
}

/* A chain with a receive in its middle: what is behind it starts when it has received. */
static void test_link_through_receive(void)
{
	fx_begin(&f);
	int ends[2];
	char got[4] = { 0 };
	peer_pair(ends);
	uint32_t first = fx_nop(&f, VQ_SQE_LINK);
	uint32_t receive = fx_recv(&f, ends[0], 0);
	link_last();
	uint32_t middle = fx_nop(&f, VQ_SQE_LINK);
	uint32_t send = fx_send(&f, ends[0], "pong", 4, VQ_MSG_WAITALL);
	uint32_t apart = fx_nop(&f, 0);
	FX_EXPECT(&f, first, 0);
	FX_EXPECT(&f, apart, 0);
	fx_flush(&f);
	CHECK(!f.ops[receive].terminal);
	CHECK_EQ(f.ops[middle].count + f.ops[send].count, 0);
	peer_send(ends[1], "ping", 4);
	FX_EXPECT(&f, send, 4);
	CHECK_EQ(f.ops[receive].res, 4);
	CHECK_EQ(f.ops[middle].res, 0);
	peer_recv_all(ends[1], got, sizeof(got));
	CHECK_EQ(memcmp(got, "pong", 4), 0);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* An op that fails, or is canceled while it waits, takes the rest of its chain with it. */
static void test_link_ends_with_receive(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	for (uint32_t round = 0; round < 4; round++) {
		uint32_t receive = fx_recv(&f, round == 0 ? -1 : ends[0], 0);
		link_last();
		uint32_t middle = fx_nop(&f, VQ_SQE_LINK);
		uint32_t last = fx_send(&f, ends[0], "x", 1, VQ_MSG_WAITALL);
		if (round == 1)
			fx_flush(&f);
		if (round != 0)
			fx_cancel_wait(&f, receive);
		FX_EXPECT(&f, receive, round == 0 ? -VQ_EBADF : -VQ_ECANCELED);
		FX_EXPECT(&f, middle, -VQ_ECANCELED);
		FX_EXPECT(&f, last, -VQ_ECANCELED);
	}
	/* Nothing was sent. */
	peer_send(ends[0], "y", 1);
	char byte;
	peer_recv_all(ends[1], &byte, 1);
	CHECK_EQ(byte, 'y');
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* A socket that stays readable is reported once for each arrival, not for each look. */
static void test_poll_reports_changes(void)
{
	enum { READABLE = 1 };
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	peer_send(ends[1], "a", 1);
	uint32_t op = fx_poll(&f, ends[0], READABLE, VQ_POLL_MULTISHOT);
	for (uint32_t arrival = 1; arrival <= 5; arrival++) {
		fx_wait_count(&f, op, arrival);
		fx_flush(&f);
		const uint32_t count = f.ops[op].count;
		for (uint32_t i = 0; i < 20; i++)
			fx_turn(&f, 0);
		CHECK_EQ(f.ops[op].count, count);
		CHECK_EQ(count, arrival);
		peer_send(ends[1], "b", 1);
	}
	fx_wait_count(&f, op, 6);
	fx_cancel_wait(&f, op);
	CHECK_EQ(f.ops[op].res, -VQ_ECANCELED);
	/* Armed again it says at once what is so. */
	op = fx_poll(&f, ends[0], READABLE, VQ_POLL_MULTISHOT);
	fx_wait_count(&f, op, 1);
	fx_cancel_wait(&f, op);
	FX_EXPECT(&f, fx_poll(&f, -1, READABLE, VQ_POLL_MULTISHOT), -VQ_EBADF);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Poll and cancel in one batch: over before it began. */
static void test_poll_canceled_at_once(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	for (uint32_t round = 0; round < 20; round++) {
		uint32_t op = fx_poll(&f, ends[0], 1, VQ_POLL_MULTISHOT);
		fx_cancel_wait(&f, op);
		CHECK_EQ(f.ops[op].res, -VQ_ECANCELED);
		CHECK_EQ(f.ops[op].count, 1);
	}
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* A timer moved twice in one batch keeps the last time; moved and canceled, it is canceled. */
static void test_update_in_one_batch(void)
{
	fx_begin(&f);
	uint32_t op = fx_timeout(&f, &hour);
	fx_flush(&f);
	uint32_t later = fx_timeout_update(&f, op, &hour);
	uint32_t sooner = fx_timeout_update(&f, op, &soon);
	FX_EXPECT(&f, op, -VQ_ETIME);
	FX_EXPECT(&f, later, 0);
	FX_EXPECT(&f, sooner, 0);
	CHECK_EQ(f.ops[op].count, 1);

	op = fx_timeout(&f, &hour);
	uint32_t update = fx_timeout_update(&f, op, &soon);
	uint32_t cancel = fx_cancel(&f, op);
	FX_EXPECT(&f, op, -VQ_ECANCELED);
	FX_EXPECT(&f, update, 0);
	FX_EXPECT(&f, cancel, 0);
	FX_EXPECT(&f, fx_timeout_update(&f, op, &soon), -VQ_ENOENT);
	fx_end(&f);
}

/* The timespec is read in the enter that submits the op, and may be written anew after it. */
static void test_timespec_is_read_once(void)
{
	fx_begin(&f);
	vq_timespec shared = soon;
	uint32_t first = fx_timeout(&f, &shared);
	fx_flush(&f);
	shared = hour;
	uint32_t second = fx_timeout(&f, &shared);
	fx_flush(&f);
	shared = soon;
	FX_EXPECT(&f, first, -VQ_ETIME);
	uint32_t update = fx_timeout_update(&f, second, &shared);
	fx_flush(&f);
	shared = hour;
	FX_EXPECT(&f, update, 0);
	FX_EXPECT(&f, second, -VQ_ETIME);
	fx_end(&f);
}

static void begin_translated(uint32_t cap)
{
	fx_begin(&f);
	if ((f.report.emulated & cap) == 0) {
		fx_end(&f);
		CHECK_SKIP("the kernel does this itself");
	}
}

/* No place for an op: it ends with ENOMEM, and the book serves again when others are over. */
static void test_book_full(void)
{
	enum { PLACES = 3, OPS = 6 };
	begin_translated(VQ__CAPS_EMULATED);
	vq__translate *t = ((vq__uring *)f.driver)->translate;
	const uint32_t count = t->op_count;
	int ends[OPS][2];
	uint32_t ops[OPS];
	fx_flush(&f);
	t->op_count = t->op_used + PLACES;
	for (uint32_t i = 0; i < OPS; i++) {
		peer_pair(ends[i]);
		ops[i] = fx_recv(&f, ends[i][0], 0);
	}
	fx_flush(&f);
	for (uint32_t i = 0; i < OPS; i++) {
		CHECK_EQ(f.ops[ops[i]].terminal, i >= PLACES);
		if (i >= PLACES)
			CHECK_EQ(f.ops[ops[i]].res, -VQ_ENOMEM);
	}
	for (uint32_t i = 0; i < OPS; i++) {
		peer_send(ends[i][1], "abc", 3);
		if (i >= PLACES)
			ops[i] = fx_recv(&f, ends[i][0], 0);
		FX_EXPECT(&f, ops[i], 3);
		peer_close(ends[i][0]);
		peer_close(ends[i][1]);
	}
	t->op_count = count;
	fx_end(&f);
}

/* A driver that ends with accepted sockets which nobody will hear of closes them. */
static void test_end_closes_accepted(void)
{
	begin_translated(VQ_CAP_ACCEPT_MULTISHOT);
	vq_addr bound;
	const uint32_t before = peer_open_count();
	int listener = peer_listen(4, &bound);
	fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	for (uint32_t i = 0; i < f.view.cq_entries; i++)
		fx_nop(&f, 0);
	fx_submit(&f, 0);
	/* The owner's ring is full: what comes now stays in the kernel's. */
	int peer = peer_connect(&bound);
	fx_submit(&f, 0);
	fx_submit(&f, 0);
	CHECK_EQ(peer_open_count(), before + 3);
	peer_close(peer);
	peer_close(listener);
	fx_abandon(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_link_through_receive),
	CHECK_TEST(test_link_ends_with_receive),
	CHECK_TEST(test_poll_reports_changes),
	CHECK_TEST(test_poll_canceled_at_once),
	CHECK_TEST(test_update_in_one_batch),
	CHECK_TEST(test_timespec_is_read_once),
	CHECK_TEST(test_book_full),
	CHECK_TEST(test_end_closes_accepted),
};

FX_MAIN_OF(tests, VQ_DRIVER_URING)
