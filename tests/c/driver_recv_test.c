/*
 * driver_recv_test.c: RECV and RECVMSG: order and content, the end and the reset of a stream, the
 * group of buffers when it is empty, when it fills up, and when completions overflow.
 */
#include "driver_fixture.h"

static fx f;

/* The group's whole size in bytes. */
static size_t group_bytes(void)
{
	return (size_t)f.view.buffer_count * f.view.buffer_size_bytes;
}

/* Arms a multishot recv again whenever it ends for a reason that allows it, until len arrived. */
static void receive_all(int fd, uint64_t position, size_t len, uint32_t seed)
{
	size_t done = 0;
	while (done < len) {
		uint32_t op = fx_recv(&f, fd, VQ_RECV_MULTISHOT);
		while (!f.ops[op].terminal && done + f.ops[op].data_len < len)
			fx_turn(&f, 1);
		done += fx_recv_end(&f, op, position + done, seed);
	}
	CHECK_EQ(done, len);
}

static void test_recv_one(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], 0);
	fx_flush(&f);
	CHECK(!f.ops[op].terminal);
	peer_send(ends[1], "abc", 3);
	FX_EXPECT(&f, op, 3);
	CHECK((f.ops[op].flags & VQ_CQE_BUFFER) != 0);
	CHECK_EQ(memcmp(f.ops[op].data, "abc", 3), 0);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_recv_into(void)
{
	fx_begin(&f);
	int ends[2];
	char got[8] = { 0 };
	peer_pair(ends);
	uint32_t op = fx_recv_into(&f, ends[0], got, sizeof(got));
	fx_flush(&f);
	peer_send(ends[1], "abc", 3);
	FX_EXPECT(&f, op, 3);
	CHECK_EQ(f.ops[op].flags & VQ_CQE_BUFFER, 0);
	CHECK_EQ(memcmp(got, "abc", 3), 0);
	/* No more than asked for; the rest stays. */
	peer_send(ends[1], "defg", 4);
	FX_EXPECT(&f, fx_recv_into(&f, ends[0], got, 1), 1);
	CHECK_EQ(got[0], 'd');
	FX_EXPECT(&f, fx_recv_into(&f, ends[0], got, sizeof(got)), 3);
	CHECK_EQ(memcmp(got, "efg", 3), 0);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_recvmsg_scatter(void)
{
	fx_begin(&f);
	int ends[2];
	char first[3];
	char second[5];
	uint32_t op;
	vq_iovec parts[2] = { { (uint64_t)(uintptr_t)first, sizeof(first) },
			      { (uint64_t)(uintptr_t)second, sizeof(second) } };
	vq_msghdr message = { .iov = (uint64_t)(uintptr_t)parts, .iov_count = 2 };
	peer_pair(ends);
	vq_sqe *sqe = fx_stage(&f, VQ_OP_RECVMSG, ends[0], &op);
	sqe->addr = (uint64_t)(uintptr_t)&message;
	sqe->len = 1;
	sqe->op_flags = VQ_MSG_WAITALL;
	fx_flush(&f);
	peer_send(ends[1], "abcde", 5);
	fx_flush(&f);
	peer_send(ends[1], "fgh", 3);
	FX_EXPECT(&f, op, 8);
	CHECK_EQ(memcmp(first, "abc", 3), 0);
	CHECK_EQ(memcmp(second, "defgh", 5), 0);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* An op that merely waits holds no buffer: far more ops than buffers, and each can receive. */
static void test_recv_idle_holds_none(void)
{
	enum { COUNT = 24 };
	fx_begin(&f);
	int ends[COUNT][2];
	uint32_t ops[COUNT];
	for (uint32_t i = 0; i < COUNT; i++) {
		peer_pair(ends[i]);
		ops[i] = fx_recv(&f, ends[i][0], VQ_RECV_MULTISHOT);
		fx_flush(&f);
	}
	for (uint32_t round = 1; round <= 20; round++) {
		for (uint32_t i = 0; i < COUNT; i++) {
			uint8_t piece[7];
			fx_fill(piece, (round - 1) * sizeof(piece), sizeof(piece), i);
			peer_send(ends[i][1], piece, sizeof(piece));
			fx_wait_bytes(&f, ops[i], round * sizeof(piece));
		}
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		fx_check_bytes(f.ops[ops[i]].data, 0, f.ops[ops[i]].data_len, i);
		peer_close(ends[i][1]);
		FX_EXPECT(&f, ops[i], 0);
		peer_close(ends[i][0]);
	}
	fx_end(&f);
}

static void test_recv_multishot_stream(void)
{
	enum { TOTAL = 3 << 20 };
	fx_begin(&f);
	int ends[2];
	fx_stream writer;
	peer_pair(ends);
	fx_stream_write(&writer, ends[1], TOTAL, 100000, 5);
	receive_all(ends[0], 0, TOTAL, 5);
	fx_stream_join(&writer);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_recv_end(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
	fx_flush(&f);
	peer_send(ends[1], "bye", 3);
	peer_shutdown_write(ends[1]);
	FX_EXPECT(&f, op, 0);
	CHECK_EQ(f.ops[op].data_len, 3);
	/* The end is there for whoever asks again, with or without a buffer. */
	FX_EXPECT(&f, fx_recv(&f, ends[0], VQ_RECV_MULTISHOT), 0);
	FX_EXPECT(&f, fx_recv(&f, ends[0], 0), 0);
	char byte;
	FX_EXPECT(&f, fx_recv_into(&f, ends[0], &byte, 1), 0);
	/* The other direction lives. */
	FX_EXPECT(&f, fx_send(&f, ends[0], "x", 1, VQ_MSG_WAITALL), 1);
	peer_recv_all(ends[1], &byte, 1);
	CHECK_EQ(byte, 'x');
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Many ends in a row: an end must not cost the group a buffer. */
static void test_recv_end_keeps_buffers(void)
{
	fx_begin(&f);
	for (uint32_t i = 0; i < f.view.buffer_count * 2 && i < 64; i++) {
		int ends[2];
		peer_pair(ends);
		uint32_t op = fx_recv(&f, ends[0], i % 2 ? VQ_RECV_MULTISHOT : 0);
		fx_submit(&f, 0);
		peer_close(ends[1]);
		FX_EXPECT(&f, op, 0);
		peer_close(ends[0]);
	}
	int ends[2];
	fx_stream writer;
	peer_pair(ends);
	fx_stream_write(&writer, ends[1], group_bytes() * 2, 4000, 3);
	receive_all(ends[0], 0, group_bytes() * 2, 3);
	fx_stream_join(&writer);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_recv_reset(void)
{
	fx_begin(&f);
	int ends[2];
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
	fx_flush(&f);
	peer_reset(ends[1]);
	FX_EXPECT(&f, op, -VQ_ECONNRESET);
	CHECK_EQ(f.ops[op].count, 1);
	peer_close(ends[0]);
	fx_end(&f);
}

/* A group that nobody refills: every byte of it is used once, then ENOBUFS, and nothing is lost. */
static void test_recv_enobufs(void)
{
	fx_begin(&f);
	int ends[2];
	fx_stream writer;
	const size_t total = group_bytes() * 2;
	peer_pair(ends);
	f.hold_buffers = true;
	fx_stream_write(&writer, ends[1], total, 9000, 11);
	size_t done = 0;
	for (uint32_t rounds = 0; done < total; rounds++) {
		/* Whole buffers may each hold a single byte. */
		CHECK(rounds < total);
		uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
		while (!f.ops[op].terminal && done + f.ops[op].data_len < total)
			fx_turn(&f, 1);
		if (!f.ops[op].terminal) {
			fx_cancel_wait(&f, op);
		} else if (f.ops[op].res == -VQ_ENOBUFS) {
			CHECK_EQ(f.buffers_held, f.view.buffer_count);
			/* Still empty: the answer is the same, and at once. */
			FX_EXPECT(&f, fx_recv(&f, ends[0], VQ_RECV_MULTISHOT), -VQ_ENOBUFS);
			FX_EXPECT(&f, fx_recv(&f, ends[0], 0), -VQ_ENOBUFS);
		} else {
			CHECK(f.ops[op].res > 0);
		}
		fx_check_bytes(f.ops[op].data, done, f.ops[op].data_len, 11);
		done += f.ops[op].data_len;
		fx_return_buffers(&f);
	}
	CHECK_EQ(done, total);
	fx_stream_join(&writer);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Two streams share the buffers piece by piece; the regions that completions name never overlap. */
static void test_recv_interleaved(void)
{
	enum { STREAMS = 4, TOTAL = 200000 };
	fx_begin(&f);
	int ends[STREAMS][2];
	uint32_t ops[STREAMS];
	size_t done[STREAMS] = { 0 };
	fx_stream writers[STREAMS];
	for (uint32_t i = 0; i < STREAMS; i++) {
		peer_pair(ends[i]);
		ops[i] = fx_recv(&f, ends[i][0], VQ_RECV_MULTISHOT);
		fx_stream_write(&writers[i], ends[i][1], TOTAL, 700, i + 1);
	}
	for (uint32_t left = STREAMS, busy = 0; left > 0;) {
		/* Canceling one collects for the others too: wait only when all were looked at. */
		fx_turn(&f, busy == 0);
		busy = 0;
		for (uint32_t i = 0; i < STREAMS; i++) {
			const fx_op *op = &f.ops[ops[i]];
			if (done[i] == TOTAL || (!op->terminal && op->data_len < TOTAL - done[i]))
				continue;
			busy++;
			if (!op->terminal)
				fx_cancel_wait(&f, ops[i]);
			op = &f.ops[ops[i]];
			fx_check_bytes(op->data, done[i], op->data_len, i + 1);
			done[i] += op->data_len;
			CHECK(done[i] <= TOTAL);
			if (done[i] == TOTAL)
				left--;
			else
				ops[i] = fx_recv(&f, ends[i][0], VQ_RECV_MULTISHOT);
		}
	}
	for (uint32_t i = 0; i < STREAMS; i++) {
		fx_stream_join(&writers[i]);
		peer_close(ends[i][0]);
		peer_close(ends[i][1]);
	}
	fx_end(&f);
}

/* Small pieces that nobody collects: a multishot that finds no room ends, and its bytes stay. */
static void test_recv_overflow(void)
{
	enum { PIECE = 10, COUNT = 60 };
	fx_begin(&f);
	int ends[2];
	uint8_t piece[PIECE];
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
	for (uint32_t i = 0; i < COUNT; i++) {
		fx_submit(&f, 0);
		fx_fill(piece, i * PIECE, PIECE, 9);
		peer_send(ends[1], piece, PIECE);
	}
	fx_submit(&f, 0);
	fx_flush(&f);
	size_t done = f.ops[op].data_len;
	CHECK(done > 0 && done <= PIECE * COUNT);
	fx_check_bytes(f.ops[op].data, 0, done, 9);
	if (!f.ops[op].terminal)
		fx_cancel_wait(&f, op);
	CHECK_EQ(f.ops[op].data_len, done);
	receive_all(ends[0], done, PIECE * COUNT - done, 9);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_recv_bad_socket(void)
{
	fx_begin(&f);
	int ends[2];
	vq_addr bound;
	peer_pair(ends);
	peer_close(ends[0]);
	peer_close(ends[1]);
	FX_EXPECT(&f, fx_recv(&f, ends[0], VQ_RECV_MULTISHOT), -VQ_EBADF);
	int fd = peer_bind(&bound);
	FX_EXPECT(&f, fx_recv(&f, fd, VQ_RECV_MULTISHOT), -VQ_ENOTCONN);
	peer_close(fd);
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_recv_one),
	CHECK_TEST(test_recv_into),
	CHECK_TEST(test_recvmsg_scatter),
	CHECK_TEST(test_recv_idle_holds_none),
	CHECK_TEST(test_recv_multishot_stream),
	CHECK_TEST(test_recv_end),
	CHECK_TEST(test_recv_end_keeps_buffers),
	CHECK_TEST(test_recv_reset),
	CHECK_TEST(test_recv_enobufs),
	CHECK_TEST(test_recv_interleaved),
	CHECK_TEST(test_recv_overflow),
	CHECK_TEST(test_recv_bad_socket),
};

FX_MAIN(tests)
