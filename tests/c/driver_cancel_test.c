/*
 * driver_cancel_test.c: CANCEL and its races: what it answers, what the op answers, and the bytes
 * that were faster than it.
 */
#include "driver_fixture.h"

static fx f;

static void test_cancel_unknown(void)
{
	fx_begin(&f);
	uint32_t nop = fx_nop(&f, 0);
	FX_EXPECT(&f, nop, 0);
	FX_EXPECT(&f, fx_cancel(&f, nop), -VQ_ENOENT);
	FX_EXPECT(&f, fx_cancel(&f, 123456), -VQ_ENOENT);
	fx_end(&f);
}

static void test_cancel_recv(void)
{
	fx_begin(&f);
	int ends[2];
	char byte;
	peer_pair(ends);
	for (uint32_t round = 0; round < 3; round++) {
		uint32_t op = round == 0   ? fx_recv(&f, ends[0], 0)
			      : round == 1 ? fx_recv(&f, ends[0], VQ_RECV_MULTISHOT)
					   : fx_recv_into(&f, ends[0], &byte, 1);
		fx_flush(&f);
		uint32_t cancel = fx_cancel(&f, op);
		FX_EXPECT(&f, cancel, 0);
		FX_EXPECT(&f, op, -VQ_ECANCELED);
		CHECK_EQ(f.ops[op].count, 1);
		CHECK_EQ(f.ops[op].flags & VQ_CQE_BUFFER, 0);
	}
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Op and cancel in one batch, and a second cancel behind, which may find the op still ending. */
static void test_cancel_same_batch(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
	uint32_t first = fx_cancel(&f, op);
	uint32_t second = fx_cancel(&f, op);
	FX_EXPECT(&f, op, -VQ_ECANCELED);
	FX_EXPECT(&f, first, 0);
	fx_wait(&f, second);
	CHECK(f.ops[second].res <= 0);
	/* A cancel does not wait for an op that comes after it. */
	uint32_t ahead = fx_cancel(&f, f.op_count + 1);
	uint32_t late = fx_recv(&f, ends[0], 0);
	CHECK_EQ(late, ahead + 1);
	FX_EXPECT(&f, ahead, -VQ_ENOENT);
	CHECK(!f.ops[late].terminal);
	fx_cancel_wait(&f, late);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Only the named op of a socket goes; the others stay. */
static void test_cancel_one_of_many(void)
{
	enum { COUNT = 6 };
	fx_begin(&f);
	int ends[COUNT][2];
	uint32_t ops[COUNT];
	for (uint32_t i = 0; i < COUNT; i++) {
		peer_pair(ends[i]);
		ops[i] = fx_recv(&f, ends[i][0], VQ_RECV_MULTISHOT);
	}
	uint32_t poll = 0;
	if (fx_can(&f, VQ_CAP_POLL_MULTISHOT))
		poll = fx_poll(&f, ends[3][0], 1, VQ_POLL_MULTISHOT);
	fx_flush(&f);
	fx_cancel_wait(&f, ops[3]);
	CHECK_EQ(f.ops[ops[3]].res, -VQ_ECANCELED);
	if (poll != 0) {
		peer_send(ends[3][1], "x", 1);
		fx_wait_count(&f, poll, 1);
		fx_cancel_wait(&f, poll);
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		if (i != 3) {
			CHECK(!f.ops[ops[i]].terminal);
			peer_send(ends[i][1], "y", 1);
			fx_wait_bytes(&f, ops[i], 1);
			fx_cancel_wait(&f, ops[i]);
		}
		peer_close(ends[i][0]);
		peer_close(ends[i][1]);
	}
	fx_end(&f);
}

/* A stream read by an op that is canceled over and over while bytes arrive: all are seen, in order.
 */
static void race(bool multishot, bool into)
{
	enum { TOTAL = 400000 };
	static uint8_t memory[3000];
	fx_begin(&f);
	int ends[2];
	fx_stream writer;
	uint32_t random = 77;
	size_t done = 0;
	peer_pair(ends);
	fx_stream_write(&writer, ends[1], TOTAL, 2000, 31);
	while (done < TOTAL) {
		uint32_t op = into ? fx_recv_into(&f, ends[0], memory, sizeof(memory))
				   : fx_recv(&f, ends[0], multishot ? VQ_RECV_MULTISHOT : 0);
		uint32_t turns = fx_random(&random) % 3;
		/* The first turn waits, so that idle rounds do not outnumber those with data. */
		for (uint32_t i = 0; i < turns && !f.ops[op].terminal; i++)
			fx_turn(&f, i == 0);
		size_t len = fx_recv_end(&f, op, done, 31);
		if (into && f.ops[op].res > 0) {
			len = (size_t)f.ops[op].res;
			fx_check_bytes(memory, done, len, 31);
		}
		done += len;
	}
	CHECK_EQ(done, TOTAL);
	fx_stream_join(&writer);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_cancel_race_single(void)
{
	race(false, false);
}

static void test_cancel_race_multishot(void)
{
	race(true, false);
}

static void test_cancel_race_into_memory(void)
{
	race(false, true);
}

/* Data is in the socket before the op: a cancel right behind comes too late, or nothing is lost. */
static void test_cancel_too_late(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	for (uint32_t round = 0; round < 50; round++) {
		peer_send(ends[1], "0123456789", 10);
		uint32_t op = fx_recv(&f, ends[0], 0);
		uint32_t cancel = fx_cancel(&f, op);
		fx_wait(&f, op);
		fx_wait(&f, cancel);
		if (f.ops[op].res == -VQ_ECANCELED)
			FX_EXPECT(&f, fx_recv(&f, ends[0], 0), 10);
		else
			CHECK_EQ(f.ops[op].res, 10);
	}
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/*
 * A socket's number is given out again right after its close. The next owner's ops see nothing of
 * the previous one's, because a close waits for the terminal completions.
 */
static void test_number_reused(void)
{
	fx_begin(&f);
	int last = -1;
	uint32_t reused = 0;
	for (uint32_t round = 0; round < 100; round++) {
		int ends[2];
		peer_pair(ends);
		reused += ends[0] == last;
		last = ends[0];
		uint8_t piece[20];
		fx_fill(piece, 0, sizeof(piece), round);
		uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
		peer_send(ends[1], piece, sizeof(piece));
		fx_wait_bytes(&f, op, sizeof(piece));
		fx_check_bytes(f.ops[op].data, 0, sizeof(piece), round);
		/* More arrives while the cancel is under way, and dies with the socket. */
		peer_send(ends[1], piece, sizeof(piece));
		fx_cancel_wait(&f, op);
		FX_EXPECT(&f, fx_close(&f, ends[0]), 0);
		peer_close(ends[1]);
	}
	CHECK(reused > 0);
	fx_end(&f);
}

/* The peer closes while a cancel is under way: one terminal completion, whichever it is. */
static void test_cancel_against_end(void)
{
	fx_begin(&f);
	for (uint32_t round = 0; round < 60; round++) {
		int ends[2];
		peer_pair(ends);
		uint32_t op = fx_recv(&f, ends[0], round % 2 ? VQ_RECV_MULTISHOT : 0);
		fx_submit(&f, 0);
		if (round % 3 == 0)
			peer_reset(ends[1]);
		else
			peer_close(ends[1]);
		fx_cancel_wait(&f, op);
		int32_t res = f.ops[op].res;
		CHECK(res == 0 || res == -VQ_ECANCELED || res == -VQ_ECONNRESET);
		peer_close(ends[0]);
	}
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_cancel_unknown),          CHECK_TEST(test_cancel_recv),
	CHECK_TEST(test_cancel_same_batch),       CHECK_TEST(test_cancel_one_of_many),
	CHECK_TEST(test_cancel_race_single),      CHECK_TEST(test_cancel_race_multishot),
	CHECK_TEST(test_cancel_race_into_memory), CHECK_TEST(test_cancel_too_late),
	CHECK_TEST(test_number_reused),           CHECK_TEST(test_cancel_against_end),
};

FX_MAIN(tests)
