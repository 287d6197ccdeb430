/*
 * driver_ring_test.c: the rings themselves: creation and its limits, NOP, links, a full submission
 * ring, an overflowing completion ring, the end of a driver.
 */
#include "driver_fixture.h"

static fx f;

static void test_create_invalid(void)
{
	const vq_driver_config good = fx_config_used->driver;
	vq_driver_config bad[17];
	const size_t count = sizeof(bad) / sizeof(bad[0]);

	for (size_t i = 0; i < count; i++)
		bad[i] = good;
	bad[0].sq_entries = 0;
	bad[1].sq_entries = 4;
	bad[2].sq_entries = 65536;
	bad[3].sq_entries = 12;
	bad[4].cq_entries = good.sq_entries / 2;
	bad[5].cq_entries = 131072;
	bad[6].cq_entries = good.cq_entries + 1;
	bad[7].buffer_count = 1;
	bad[8].buffer_count = 65536;
	bad[9].buffer_size_bytes = 255;
	bad[10].buffer_size_bytes = (1u << 20) + 1;
	bad[11].whole_count = 3;
	bad[12].whole_size_bytes = 0;
	bad[13].kind = 99;
	bad[14].packet_count = 3;
	bad[15].packet_count = 65536;
	bad[16].packet_size_bytes = 100;
	for (size_t i = 0; i < count; i++) {
		vq_driver_report report;
		vq_driver *driver = NULL;
		CHECK_EQ(vq_driver_create(&bad[i], &report, &driver), -VQ_EINVAL);
		CHECK_EQ(report.failed_step, VQ_STEP_CONFIG);
		CHECK_EQ(report.error, -VQ_EINVAL);
		CHECK(driver == NULL);
	}
}

/* Whatever is denied: a driver without it, or an error that says where. Never a driver with it. */
static void test_create_denied(void)
{
	for (uint32_t bit = 0; bit <= 15; bit++) {
		vq_driver_config config = fx_config_used->driver;
		vq_driver_report report;
		vq_driver *driver = NULL;
		const uint32_t before = peer_open_count();

		config.deny |= 1u << bit;
		int rc = vq_driver_create(&config, &report, &driver);
		CHECK_EQ(report.error, rc);
		if (rc == 0) {
			CHECK_EQ(report.caps & config.deny, 0);
			CHECK_EQ(report.failed_step, VQ_STEP_NONE);
			vq_driver_destroy(driver);
		} else {
			CHECK_EQ(rc, -VQ_ENOSYS);
			CHECK(report.failed_step == VQ_STEP_OPS ||
			      report.failed_step == VQ_STEP_BUFFERS);
		}
		CHECK_EQ(peer_open_count(), before);
	}
}

static void test_view(void)
{
	fx_begin(&f);
	const vq_driver_view *view = &f.view;
	CHECK_EQ(view->sq_entries, f.report.sq_entries);
	CHECK_EQ(view->cq_entries, f.report.cq_entries);
	CHECK_EQ(view->buffer_count, f.report.buffer_count);
	CHECK_EQ(view->buffer_size_bytes, f.report.buffer_size_bytes);
	if (fx_has(&f, VQ_CAP_BUFFER_INCREMENTAL)) {
		CHECK_EQ(view->buffer_count, fx_config_used->driver.buffer_count);
	} else {
		CHECK_EQ(view->buffer_count, fx_config_used->driver.whole_count);
	}
	CHECK_EQ((uintptr_t)view->doorbell % VQ_CACHE_LINE, 0);
	CHECK(view->timespec != NULL);
	CHECK_EQ(*view->sq_head, 0);
	CHECK_EQ(*view->cq_head, *view->cq_tail);
	fx_end(&f);
}

static void test_nop(void)
{
	fx_begin(&f);
	uint32_t op = fx_nop(&f, 0);
	FX_EXPECT(&f, op, 0);
	CHECK_EQ(f.ops[op].count, 1);
	fx_end(&f);
}

static void test_enter_idle(void)
{
	fx_begin(&f);
	CHECK_EQ(vq_driver_enter(f.driver, f.sq_tail, 0), 0);
	CHECK_EQ(fx_collect(&f), 0);
	fx_end(&f);
}

static void test_enter_counts(void)
{
	fx_begin(&f);
	for (uint32_t i = 0; i < f.view.sq_entries; i++)
		fx_nop(&f, 0);
	CHECK_EQ(vq_driver_enter(f.driver, f.sq_tail, 0), f.view.sq_entries);
	CHECK_EQ(*f.view.sq_head, f.sq_tail);
	CHECK_EQ(vq_driver_enter(f.driver, f.sq_tail, 0), 0);
	fx_flush(&f);
	fx_end(&f);
}

/* More ops than the ring has places: staging makes room by entering, many times round. */
static void test_sq_full(void)
{
	fx_begin(&f);
	uint32_t last = 0;
	for (uint32_t i = 0; i < f.view.sq_entries * 3 + 5; i++) {
		last = fx_nop(&f, 0);
		if (i % 7 == 0)
			fx_collect(&f);
	}
	fx_wait(&f, last);
	fx_flush(&f);
	fx_end(&f);
}

/* Far more completions than the ring holds, and nobody who collects: none is lost. */
static void test_cq_overflow(void)
{
	fx_begin(&f);
	const uint32_t count = f.view.cq_entries + 200;
	for (uint32_t i = 0; i < count; i++)
		fx_nop(&f, 0);
	fx_submit(&f, 0);
	CHECK((__atomic_load_n(f.view.sq_flags, __ATOMIC_ACQUIRE) & VQ_SQ_CQ_OVERFLOW) != 0);
	for (uint32_t i = 0; i < f.op_count; i++)
		FX_EXPECT(&f, i, 0);
	fx_flush(&f);
	CHECK_EQ(__atomic_load_n(f.view.sq_flags, __ATOMIC_ACQUIRE) & VQ_SQ_CQ_OVERFLOW, 0);
	/* The ring works on. */
	FX_EXPECT(&f, fx_nop(&f, 0), 0);
	fx_end(&f);
}

static void test_wait_many(void)
{
	fx_begin(&f);
	for (uint32_t i = 0; i < 6; i++)
		fx_nop(&f, 0);
	fx_submit(&f, 6);
	CHECK(fx_collect(&f) >= 6);
	fx_end(&f);
}

static void test_link_order(void)
{
	fx_begin(&f);
	vq_timespec soon = { .nsec = 5000000 };
	uint32_t timer = fx_timeout(&f, &soon);
	f.view.sqes[(f.sq_tail - 1) & (f.view.sq_entries - 1)].flags = VQ_SQE_LINK;
	uint32_t next = fx_nop(&f, 0);
	fx_flush(&f);
	CHECK(!f.ops[next].terminal || f.ops[timer].terminal);
	/* An expired timer counts as failed, and what is linked to it does not run. */
	FX_EXPECT(&f, timer, -VQ_ETIME);
	FX_EXPECT(&f, next, -VQ_ECANCELED);

	uint32_t first = fx_nop(&f, VQ_SQE_LINK);
	uint32_t second = fx_nop(&f, VQ_SQE_LINK);
	uint32_t third = fx_nop(&f, 0);
	FX_EXPECT(&f, third, 0);
	CHECK(f.ops[first].terminal && f.ops[second].terminal);
	fx_end(&f);
}

/* The send of a half-open connection starts only after the connect: one enter for both. */
static void test_link_connect_send(void)
{
	fx_begin(&f);
	static const char hello[] = "hello";
	const vq_socket_config config = { 0 };
	char got[sizeof(hello)];
	int32_t call;
	vq_addr bound;
	int listener = peer_listen(4, &bound);
	int fd = vq_socket_stream(VQ_AF_INET, &config, &call);
	uint32_t connect = fx_connect(&f, fd, &bound);
	f.view.sqes[(f.sq_tail - 1) & (f.view.sq_entries - 1)].flags = VQ_SQE_LINK;
	uint32_t send = fx_send(&f, fd, hello, sizeof(hello), VQ_MSG_WAITALL);
	FX_EXPECT(&f, connect, 0);
	FX_EXPECT(&f, send, sizeof(hello));
	int peer = peer_accept(listener);
	peer_recv_all(peer, got, sizeof(got));
	CHECK_EQ(memcmp(got, hello, sizeof(hello)), 0);
	peer_close(peer);
	peer_close(fd);
	peer_close(listener);
	fx_end(&f);
}

static void test_unknown_op(void)
{
	fx_begin(&f);
	uint32_t op;
	fx_stage(&f, 250, -1, &op);
	uint32_t after = fx_nop(&f, 0);
	FX_EXPECT(&f, op, -VQ_EINVAL);
	FX_EXPECT(&f, after, 0);
	fx_end(&f);
}

static void test_close(void)
{
	fx_begin(&f);
	int ends[2];
	char byte;
	peer_pair(ends);
	FX_EXPECT(&f, fx_close(&f, ends[0]), 0);
	CHECK_EQ(peer_recv(ends[1], &byte, 1), 0);
	FX_EXPECT(&f, fx_close(&f, ends[0]), -VQ_EBADF);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_poll(void)
{
	enum { READABLE = 1 };
	fx_begin(&f);
	if (!fx_can(&f, VQ_CAP_POLL_MULTISHOT)) {
		fx_end(&f);
		CHECK_SKIP("this driver polls its doorbell only");
	}
	int ends[2];
	char byte = 1;
	peer_pair(ends);
	uint32_t once = fx_poll(&f, ends[0], READABLE, 0);
	uint32_t many = fx_poll(&f, ends[0], READABLE, VQ_POLL_MULTISHOT);
	fx_flush(&f);
	CHECK(!f.ops[once].terminal);
	CHECK_EQ(f.ops[many].count, 0);
	for (uint32_t i = 1; i <= 5; i++) {
		peer_send(ends[1], &byte, 1);
		fx_wait_count(&f, many, i);
		CHECK((f.ops[many].res & READABLE) != 0);
		FX_EXPECT(&f, fx_recv_into(&f, ends[0], &byte, 1), 1);
	}
	fx_wait(&f, once);
	CHECK((f.ops[once].res & READABLE) != 0);
	fx_cancel_wait(&f, many);
	CHECK_EQ(f.ops[many].res, -VQ_ECANCELED);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* A ring destroyed at its busiest: nothing stays open, and the buffers' memory may go at once. */
static void test_destroy_in_flight(void)
{
	static char big[1 << 20];
	int ends[2];
	int drop[2];
	vq_addr bound;
	vq_timespec hour = { .sec = 3600 };

	int listener = peer_listen(4, &bound);
	peer_pair(ends);
	peer_pair(drop);
	for (uint32_t round = 0; round < 3; round++) {
		fx_begin(&f);
		fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
		fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
		fx_recv(&f, drop[0], 0);
		fx_send(&f, drop[0], big, sizeof(big), VQ_MSG_WAITALL);
		fx_send(&f, drop[0], big, sizeof(big), VQ_MSG_WAITALL);
		fx_timeout(&f, &hour);
		fx_wake(&f);
		fx_submit(&f, 0);
		peer_send(ends[1], big, 1000);
		if (round == 1)
			fx_submit(&f, 1);
		/* Staged and never submitted. */
		fx_nop(&f, 0);
		fx_abandon(&f);
		/* The sockets are as good as before. */
		peer_send(ends[0], big, 1);
		peer_recv_all(ends[1], big, 1);
	}
	peer_close(drop[0]);
	peer_close(drop[1]);
	peer_close(ends[0]);
	peer_close(ends[1]);
	peer_close(listener);
}

/* What arrives after the end of a driver is for the next reader, not for an op of the dead. */
static void test_destroy_ends_reads(void)
{
	static char memory[64];
	int ends[2];

	peer_pair(ends);
	for (uint32_t round = 0; round < 100; round++) {
		char byte = 0;
		fx_begin(&f);
		for (uint32_t i = 0; i < 6; i++)
			fx_recv_into(&f, ends[0], memory, sizeof(memory));
		fx_submit(&f, 0);
		fx_abandon(&f);
		peer_watchdog(20);
		peer_send(ends[1], "x", 1);
		peer_recv_all(ends[0], &byte, 1);
		CHECK_EQ(byte, 'x');
		peer_watchdog(0);
	}
	peer_close(ends[0]);
	peer_close(ends[1]);
}

static void *enter_elsewhere(void *arg)
{
	*(int *)arg = vq_driver_enter(f.driver, f.sq_tail, 0);
	return NULL;
}

/* Only the owner may enter; where the driver can tell, it refuses, and consumes nothing. */
static void test_enter_wrong_thread(void)
{
	fx_begin(&f);
	if (!fx_has(&f, VQ_CAP_SINGLE_ISSUER)) {
		fx_end(&f);
		CHECK_SKIP("this driver cannot tell its threads apart");
	}
	pthread_t thread;
	int rc = 0;
	uint32_t op = fx_nop(&f, 0);
	CHECK_EQ(pthread_create(&thread, NULL, enter_elsewhere, &rc), 0);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	CHECK(rc < 0);
	CHECK_EQ(f.ops[op].count, 0);
	FX_EXPECT(&f, op, 0);
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_create_invalid),
	CHECK_TEST(test_create_denied),
	CHECK_TEST(test_view),
	CHECK_TEST(test_nop),
	CHECK_TEST(test_enter_idle),
	CHECK_TEST(test_enter_counts),
	CHECK_TEST(test_sq_full),
	CHECK_TEST(test_cq_overflow),
	CHECK_TEST(test_wait_many),
	CHECK_TEST(test_link_order),
	CHECK_TEST(test_link_connect_send),
	CHECK_TEST(test_unknown_op),
	CHECK_TEST(test_close),
	CHECK_TEST(test_poll),
	CHECK_TEST(test_destroy_in_flight),
	CHECK_TEST(test_destroy_ends_reads),
	CHECK_TEST(test_enter_wrong_thread),
};

FX_MAIN(tests)
