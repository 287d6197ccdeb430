/*
 * driver_send_test.c: SEND, SENDMSG, SEND_ZC and SHUTDOWN: what completes inline, what waits, short
 * counts, the remainder after them, and the ends of a stream.
 */
#include "driver_fixture.h"

static fx f;

enum {
	BIG = 1 << 20,
	NOW = VQ_MSG_DONTWAIT | VQ_MSG_WAITALL,
	SEED = 21,
};

static uint8_t big[BIG];

/*
 * A connection that takes less than BIG before it is full. The receiving side is left alone: with a
 * small window there, TCP would wait for its timers.
 */
static void narrow_pair(int ends[2])
{
	peer_pair(ends);
	CHECK_EQ(vq_socket_set(ends[0], VQ_OPT_SEND_BUFFER_BYTES, 150000), 0);
}

/* Sends until the socket takes no more; returns how many bytes of `big` it took. */
static uint32_t fill_up(int fd)
{
	const uint32_t piece = 4096;
	uint32_t done = 0;

	for (;;) {
		CHECK(done + piece <= BIG);
		int32_t res = fx_sent(&f, fx_send_skip(&f, fd, big + done, piece, NOW), piece);
		if (res == -VQ_EAGAIN)
			return done;
		CHECK(res > 0);
		done += (uint32_t)res;
	}
}

static void begin(void)
{
	fx_begin(&f);
	fx_fill(big, 0, BIG, SEED);
}

/* All went well: the token never comes back, the bytes do, in the order of staging. */
static void test_send_skip(void)
{
	enum { COUNT = 100, PIECE = 50 };
	begin();
	int ends[2];
	uint8_t got[COUNT * PIECE];
	uint32_t ops[COUNT];
	peer_pair(ends);
	for (uint32_t i = 0; i < COUNT; i++)
		ops[i] = fx_send_skip(&f, ends[0], big + i * PIECE, PIECE, NOW);
	fx_flush(&f);
	FX_EXPECT(&f, fx_nop(&f, 0), 0);
	for (uint32_t i = 0; i < COUNT; i++) {
		CHECK_EQ(fx_sent(&f, ops[i], PIECE), PIECE);
		CHECK_EQ(f.ops[ops[i]].count, fx_has(&f, VQ_CAP_SKIP_SUCCESS) ? 0 : 1);
	}
	peer_recv_all(ends[1], got, sizeof(got));
	fx_check_bytes(got, 0, sizeof(got), SEED);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Full: a short count, then EAGAIN, both by completion; a waiting send brings the rest over. */
static void test_send_full_then_rest(void)
{
	begin();
	int ends[2];
	fx_stream reader;
	narrow_pair(ends);
	int32_t first = fx_sent(&f, fx_send_skip(&f, ends[0], big, BIG, NOW), BIG);
	CHECK(first > 0 && first < BIG);
	uint32_t rest = BIG - (uint32_t)first;
	uint32_t again = fx_send_skip(&f, ends[0], big + first, rest, NOW);
	int32_t second = fx_sent(&f, again, rest);
	/* The other end may have made a little room meanwhile. */
	while (second > 0) {
		first += second;
		rest -= (uint32_t)second;
		second = fx_sent(&f, fx_send_skip(&f, ends[0], big + first, rest, NOW), rest);
	}
	CHECK_EQ(second, -VQ_EAGAIN);
	uint32_t waiting = fx_send(&f, ends[0], big + first, rest, VQ_MSG_WAITALL);
	fx_flush(&f);
	CHECK(!f.ops[waiting].terminal);
	fx_stream_read(&reader, ends[1], BIG, 30000, SEED);
	FX_EXPECT(&f, waiting, rest);
	fx_stream_join(&reader);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_send_waitall(void)
{
	begin();
	int ends[2];
	fx_stream reader;
	narrow_pair(ends);
	fx_stream_read(&reader, ends[1], BIG, 5000, SEED);
	uint32_t op = fx_send(&f, ends[0], big, BIG, VQ_MSG_WAITALL);
	FX_EXPECT(&f, op, BIG);
	CHECK_EQ(f.ops[op].count, 1);
	fx_stream_join(&reader);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/*
 * VQ_SQ_TASKRUN asks for an enter, and an enter answers it: an owner that looks at the flag while
 * it spins would spin for ever on one that stays. Room that comes up in the midst of enters is what
 * leaves it behind.
 */
static void test_send_taskrun_ends(void)
{
	begin();
	int ends[2];
	narrow_pair(ends);
	for (uint32_t round = 0; round < (CHECK_TSAN ? 3 : 20); round++) {
		fx_stream reader;
		fx_stream_read(&reader, ends[1], BIG, 5000, SEED);
		uint32_t op = fx_send(&f, ends[0], big, BIG, VQ_MSG_WAITALL);
		while (!f.ops[op].terminal)
			fx_turn(&f, 0);
		CHECK_EQ(f.ops[op].res, BIG);
		fx_stream_join(&reader);
		/* Nothing is in flight: nothing can wait. */
		for (uint32_t i = 0; i < 10; i++)
			fx_turn(&f, 0);
		CHECK_EQ(__atomic_load_n(f.view.sq_flags, __ATOMIC_ACQUIRE) & VQ_SQ_TASKRUN, 0);
	}
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_sendmsg_gather(void)
{
	enum { PARTS = 64 };
	begin();
	int ends[2];
	fx_stream reader;
	vq_iovec parts[PARTS];
	uint32_t random = 99;
	size_t at = 0;
	for (uint32_t i = 0; i < PARTS; i++) {
		/* Empty parts too. */
		size_t len = i % 9 == 0 ? 0 : fx_random(&random) % (2 * BIG / PARTS);
		if (i == PARTS - 1 || len > BIG - at)
			len = BIG - at;
		parts[i] = (vq_iovec){ (uint64_t)(uintptr_t)(big + at), len };
		at += len;
	}
	CHECK_EQ(at, BIG);
	vq_msghdr message = { .iov = (uint64_t)(uintptr_t)parts, .iov_count = PARTS };
	narrow_pair(ends);
	fx_stream_read(&reader, ends[1], BIG, 20000, SEED);
	FX_EXPECT(&f, fx_sendmsg(&f, ends[0], &message, VQ_MSG_WAITALL), BIG);
	fx_stream_join(&reader);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* A short gather, inline, then the rest of it: the count says where to go on. */
static void sendmsg_short(bool skip)
{
	begin();
	int ends[2];
	fx_stream reader;
	vq_iovec parts[2] = { { (uint64_t)(uintptr_t)big, 1000 },
			      { (uint64_t)(uintptr_t)big + 1000, BIG - 1000 } };
	vq_msghdr message = { .iov = (uint64_t)(uintptr_t)parts, .iov_count = 2 };
	narrow_pair(ends);
	uint32_t op = skip ? fx_sendmsg_skip(&f, ends[0], &message, NOW)
			   : fx_sendmsg(&f, ends[0], &message, NOW);
	int32_t done = fx_sent(&f, op, BIG);
	CHECK(done > 1000 && done < BIG);
	parts[1] = (vq_iovec){ (uint64_t)(uintptr_t)big + (uint32_t)done, BIG - (uint32_t)done };
	message.iov = (uint64_t)(uintptr_t)&parts[1];
	message.iov_count = 1;
	fx_stream_read(&reader, ends[1], BIG, 20000, SEED);
	FX_EXPECT(&f, fx_sendmsg(&f, ends[0], &message, VQ_MSG_WAITALL), BIG - done);
	fx_stream_join(&reader);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_sendmsg_short(void)
{
	sendmsg_short(false);
	/* A short one is no success: it completes all the same. */
	sendmsg_short(true);
}

static void test_send_zero(void)
{
	begin();
	int ends[2];
	uint8_t got[2];
	peer_pair(ends);
	FX_EXPECT(&f, fx_send(&f, ends[0], big, 0, VQ_MSG_WAITALL), 0);
	FX_EXPECT(&f, fx_send(&f, ends[0], big, 0, NOW), 0);
	/* Nothing went over, above all no end. */
	FX_EXPECT(&f, fx_send(&f, ends[0], big, 2, VQ_MSG_WAITALL), 2);
	peer_recv_all(ends[1], got, 2);
	fx_check_bytes(got, 0, 2, SEED);
	/* Nor does a read of nothing say that the stream ended. */
	peer_send(ends[1], big, 1);
	FX_EXPECT(&f, fx_recv_into(&f, ends[0], got, 0), 0);
	FX_EXPECT(&f, fx_recv_into(&f, ends[0], got, 2), 1);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* A peer that is gone: an error by completion, skipped success or not, and never a signal. */
static void test_send_epipe(void)
{
	begin();
	int ends[2];
	peer_pair(ends);
	FX_EXPECT(&f, fx_shutdown(&f, ends[0], VQ_SHUT_WR), 0);
	vq_iovec part = { (uint64_t)(uintptr_t)big, 10 };
	vq_msghdr message = { .iov = (uint64_t)(uintptr_t)&part, .iov_count = 1 };
	FX_EXPECT(&f, fx_send(&f, ends[0], big, 10, VQ_MSG_WAITALL), -VQ_EPIPE);
	FX_EXPECT(&f, fx_send(&f, ends[0], big, 10, NOW), -VQ_EPIPE);
	FX_EXPECT(&f, fx_sendmsg(&f, ends[0], &message, VQ_MSG_WAITALL), -VQ_EPIPE);
	CHECK_EQ(fx_sent(&f, fx_send_skip(&f, ends[0], big, 10, NOW), 10), -VQ_EPIPE);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_send_reset(void)
{
	begin();
	int ends[2];
	narrow_pair(ends);
	fill_up(ends[0]);
	uint32_t waiting = fx_send(&f, ends[0], big, BIG, VQ_MSG_WAITALL);
	fx_flush(&f);
	CHECK(!f.ops[waiting].terminal);
	peer_reset(ends[1]);
	/* Bytes that the socket still took count; then the next send says what happened. */
	fx_wait(&f, waiting);
	int32_t res = f.ops[waiting].res;
	CHECK(res == -VQ_ECONNRESET || res == -VQ_EPIPE || (res > 0 && res < BIG));
	uint32_t next = fx_send(&f, ends[0], big, 1, VQ_MSG_WAITALL);
	fx_wait(&f, next);
	CHECK(f.ops[next].res == -VQ_ECONNRESET || f.ops[next].res == -VQ_EPIPE);
	peer_close(ends[0]);
	fx_end(&f);
}

static void test_send_bad_socket(void)
{
	begin();
	vq_addr bound;
	int fd = peer_bind(&bound);
	uint32_t op = fx_send(&f, fd, big, 1, VQ_MSG_WAITALL);
	fx_wait(&f, op);
	/* Linux, Windows, Wine. */
	CHECK(f.ops[op].res == -VQ_EPIPE || f.ops[op].res == -VQ_ENOTCONN ||
	      f.ops[op].res == -VQ_ECONNRESET);
	FX_EXPECT(&f, fx_shutdown(&f, fd, VQ_SHUT_RDWR), -VQ_ENOTCONN);
	peer_close(fd);
	FX_EXPECT(&f, fx_send(&f, fd, big, 1, VQ_MSG_WAITALL), -VQ_EBADF);
	FX_EXPECT(&f, fx_shutdown(&f, fd, VQ_SHUT_WR), -VQ_EBADF);
	fx_end(&f);
}

/* A canceled send says how far it came: the peer finds these bytes, and not one more. */
static void test_send_cancel(void)
{
	begin();
	int ends[2];
	static uint8_t got[BIG];
	narrow_pair(ends);
	uint32_t sent = fill_up(ends[0]);
	uint32_t taken = 0;
	for (uint32_t round = 0; round < 20; round++) {
		uint32_t op = fx_send(&f, ends[0], big + sent, BIG - sent, VQ_MSG_WAITALL);
		fx_submit(&f, 0);
		/* Some room, so that some of it goes over while the cancel is on its way. */
		if (round % 2 == 1)
			peer_recv_all(ends[1], got + taken++, 1);
		fx_cancel_wait(&f, op);
		int32_t res = f.ops[op].res;
		CHECK(res == -VQ_ECANCELED || res > 0);
		sent += res > 0 ? (uint32_t)res : 0;
		CHECK(sent <= BIG);
	}
	FX_EXPECT(&f, fx_shutdown(&f, ends[0], VQ_SHUT_WR), 0);
	for (int64_t n = 1; n > 0; taken += (uint32_t)n)
		n = peer_recv(ends[1], got + taken, BIG - taken);
	CHECK_EQ(taken, sent);
	fx_check_bytes(got, 0, taken, SEED);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_shutdown_half(void)
{
	begin();
	int ends[2];
	char byte;
	peer_pair(ends);
	FX_EXPECT(&f, fx_send(&f, ends[0], "z", 1, VQ_MSG_WAITALL), 1);
	FX_EXPECT(&f, fx_shutdown(&f, ends[0], VQ_SHUT_WR), 0);
	peer_recv_all(ends[1], &byte, 1);
	CHECK_EQ(peer_recv(ends[1], &byte, 1), 0);
	uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
	peer_send(ends[1], "answer", 6);
	fx_wait_bytes(&f, op, 6);
	/* Shutting down what is read ends the op that waits for it. */
	FX_EXPECT(&f, fx_shutdown(&f, ends[0], VQ_SHUT_RDWR), 0);
	FX_EXPECT(&f, op, 0);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static uint32_t send_zc(int fd, const void *data, uint32_t len_bytes)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(&f, VQ_OP_SEND_ZC, fd, &op);

	sqe->addr = (uint64_t)(uintptr_t)data;
	sqe->len = len_bytes;
	sqe->op_flags = VQ_MSG_WAITALL | VQ_MSG_NOSIGNAL;
	f.ops[op].more_allowed = true;
	return op;
}

/* The memory is the driver's until NOTIF, not until the result. */
static void test_send_zc(void)
{
	begin();
	if (!fx_has(&f, VQ_CAP_SEND_ZC)) {
		fx_end(&f);
		CHECK_SKIP("no SEND_ZC here");
	}
	int ends[2];
	fx_stream reader;
	peer_pair(ends);
	fx_stream_read(&reader, ends[1], BIG, 50000, SEED);
	uint32_t op = send_zc(ends[0], big, BIG);
	fx_wait_count(&f, op, 1);
	if (!f.ops[op].terminal) {
		CHECK_EQ(f.ops[op].res, BIG);
		fx_wait(&f, op);
	}
	CHECK_EQ(f.ops[op].count, 2);
	CHECK((f.ops[op].flags & VQ_CQE_NOTIF) != 0);
	fx_stream_join(&reader);
	FX_EXPECT(&f, fx_shutdown(&f, ends[0], VQ_SHUT_WR), 0);
	op = send_zc(ends[0], big, 100);
	fx_wait_count(&f, op, 1);
	/* Failed: alone, or announcing its NOTIF as a good one does. */
	if (f.ops[op].count == 1)
		CHECK_EQ(f.ops[op].res, -VQ_EPIPE);
	fx_wait(&f, op);
	CHECK_EQ((f.ops[op].flags & VQ_CQE_NOTIF) != 0, f.ops[op].count == 2);
	printf("(a failed one completes %s) ", f.ops[op].count == 2 ? "twice" : "once");
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_send_skip),      CHECK_TEST(test_send_full_then_rest),
	CHECK_TEST(test_send_waitall),   CHECK_TEST(test_send_taskrun_ends),
	CHECK_TEST(test_sendmsg_gather), CHECK_TEST(test_sendmsg_short),
	CHECK_TEST(test_send_zero),      CHECK_TEST(test_send_epipe),
	CHECK_TEST(test_send_reset),     CHECK_TEST(test_send_bad_socket),
	CHECK_TEST(test_send_cancel),    CHECK_TEST(test_shutdown_half),
	CHECK_TEST(test_send_zc),
};

FX_MAIN(tests)
