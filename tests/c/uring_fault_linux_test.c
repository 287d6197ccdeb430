/*
 * uring_fault_linux_test.c: the io_uring driver over a kernel that interrupts, refuses and takes
 * less than it was given. The seam is vq__uring.enter; what is injected is what io_uring_enter(2)
 * may do at any call.
 */
#include "driver_fixture.h"

#include <sched.h>

#include "uring_linux.h"

static fx f;

/* What the fake kernel does, and did. One thread: that of the driver. */
static struct {
	uint32_t random;
	uint32_t percent; /* of the calls are disturbed */
	uint32_t eintr;
	uint32_t eagain;
	uint32_t ebusy;
	uint32_t shortened;
	uint32_t late; /* submitted, and the wait interrupted */
	uint32_t calls;
} fault;

static int faulty_enter(unsigned int fd, unsigned int to_submit, unsigned int min_complete,
			unsigned int flags, const vq__uring_wait *wait)
{
	fault.calls++;
	if (fx_random(&fault.random) % 100 >= fault.percent)
		return vq__uring_enter_syscall(fd, to_submit, min_complete, flags, wait);
	switch (fx_random(&fault.random) % 5) {
	case 0:
		fault.eintr++;
		return -EINTR;
	case 1:
		fault.eagain++;
		return -EAGAIN;
	case 2:
		/* The kernel's EBUSY comes before it submits, and posts nothing. */
		fault.ebusy++;
		return -EBUSY;
	case 3:
		fault.shortened++;
		to_submit = to_submit == 0 ? 0 : fx_random(&fault.random) % to_submit;
		return vq__uring_enter_syscall(fd, to_submit, 0, flags, NULL);
	default:
		/* A signal after the submission: the count wins over EINTR. */
		fault.late++;
		return vq__uring_enter_syscall(fd, to_submit, 0, flags, NULL);
	}
}

static void begin(uint32_t percent, uint32_t seed)
{
	fx_begin(&f);
	memset(&fault, 0, sizeof(fault));
	fault.random = seed;
	fault.percent = percent;
	((vq__uring *)f.driver)->enter = faulty_enter;
}

static void end(void)
{
	printf("(%" PRIu32 " calls: %" PRIu32 " EINTR, %" PRIu32 " EAGAIN, %" PRIu32
	       " EBUSY, %" PRIu32 " short, %" PRIu32 " late) ",
	       fault.calls, fault.eintr, fault.eagain, fault.ebusy, fault.shortened, fault.late);
	fx_end(&f);
}

static int scripted_result;

static int scripted_enter(unsigned int fd, unsigned int to_submit, unsigned int min_complete,
			  unsigned int flags, const vq__uring_wait *wait)
{
	(void)fd;
	(void)wait;
	(void)to_submit;
	(void)min_complete;
	(void)flags;
	return scripted_result;
}

/* Each of the three ends the call early and with success, also a waiting one; others are broken. */
static void test_results(void)
{
	static const int early[] = { -EINTR, -EAGAIN, -EBUSY };
	static const int broken[] = { -EBADF, -EINVAL, -EFAULT, -ENXIO };

	fx_begin(&f);
	vq__uring *uring = (vq__uring *)f.driver;
	uint32_t op = fx_nop(&f, 0);
	uring->enter = scripted_enter;
	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		scripted_result = early[i];
		CHECK_EQ(vq_driver_enter(f.driver, f.sq_tail, 1), 0);
		CHECK_EQ(f.sq_tail - *f.view.sq_head, 1);
	}
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		scripted_result = broken[i];
		CHECK_EQ(vq_driver_enter(f.driver, f.sq_tail, 1), broken[i]);
	}
	/* Staged all the while, and run once. */
	CHECK_EQ(fx_collect(&f), 0);
	uring->enter = vq__uring_enter_syscall;
	FX_EXPECT(&f, op, 0);
	CHECK_EQ(f.ops[op].count, 1);
	fx_end(&f);
}

/* A delayed wait that came to nothing ends early and with success, as the others do. */
static void test_results_delayed(void)
{
	static const int early[] = { -ETIME, -EINTR, -EAGAIN, -EBUSY };

	fx_begin(&f);
	vq__uring *uring = (vq__uring *)f.driver;
	uint32_t op = fx_nop(&f, 0);
	uring->enter = scripted_enter;
	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		scripted_result = early[i];
		CHECK_EQ(vq_driver_enter_delayed(f.driver, f.sq_tail, 2, 1), 0);
		CHECK_EQ(f.sq_tail - *f.view.sq_head, 1);
	}
	scripted_result = -EBADF;
	CHECK_EQ(vq_driver_enter_delayed(f.driver, f.sq_tail, 2, 1), -EBADF);
	uring->enter = vq__uring_enter_syscall;
	FX_EXPECT(&f, op, 0);
	fx_end(&f);
}

/* An enter that came to nothing leaves the owner's hint standing: the work behind it still waits.
 */
static void test_taskrun_kept(void)
{
	fx_begin(&f);
	if (!fx_has(&f, VQ_CAP_DEFER_TASKRUN) || f.report.emulated != 0) {
		fx_end(&f);
		CHECK_SKIP("the hint is not the kernel's own, or it runs its work at any time");
	}
	int ends[2];
	vq__uring *uring = (vq__uring *)f.driver;
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], 0);
	fx_flush(&f);
	peer_send(ends[1], "x", 1);
	while ((__atomic_load_n(f.view.sq_flags, __ATOMIC_ACQUIRE) & VQ_SQ_TASKRUN) == 0)
		sched_yield();
	uring->enter = scripted_enter;
	scripted_result = -EAGAIN;
	fx_turn(&f, 0);
	CHECK_EQ(f.ops[op].count, 0);
	CHECK((__atomic_load_n(f.view.sq_flags, __ATOMIC_ACQUIRE) & VQ_SQ_TASKRUN) != 0);
	uring->enter = vq__uring_enter_syscall;
	fx_turn(&f, 0);
	CHECK_EQ(f.ops[op].res, 1);
	CHECK(f.ops[op].terminal);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

static void test_nops(void)
{
	begin(60, 17);
	for (uint32_t i = 0; i < 5000; i++) {
		fx_nop(&f, 0);
		if (i % 11 == 0)
			fx_turn(&f, 0);
	}
	fx_flush(&f);
	for (uint32_t i = 0; i < f.op_count; i++) {
		fx_wait(&f, i);
		CHECK_EQ(f.ops[i].count, 1);
	}
	end();
}

/* ---- an echo server on the driver, and clients of threads */

enum { CLIENTS = 6 };

typedef struct client {
	int ends[2];
	fx_stream writer;
	fx_stream reader;
	uint32_t recv;  /* op */
	uint32_t send;  /* op */
	size_t total;   /* bytes to echo */
	size_t echoed;  /* bytes whose send is done */
	size_t arrived; /* bytes received by earlier recv ops */
	uint8_t *bytes; /* all that arrived */
	bool sending;
	uint32_t sending_bytes;
} client;

static client clients[CLIENTS];

/* What the client's ops brought since the last look; arms the recv again when it ended. */
static void echo_receive(client *c)
{
	fx_op *op = &f.ops[c->recv];

	CHECK(c->arrived + op->data_len <= c->total);
	if (op->data_len > 0)
		memcpy(c->bytes + c->arrived, op->data, op->data_len);
	c->arrived += op->data_len;
	op->data_len = 0;
	if (!op->terminal || c->arrived == c->total)
		return;
	CHECK(op->res > 0 || op->res == -VQ_ENOBUFS);
	c->recv = fx_recv(&f, c->ends[0], VQ_RECV_MULTISHOT);
}

/* One send in flight: first what can be done at once, and a waiting one for the rest. */
static void echo_send(client *c, uint32_t *random)
{
	if (c->sending) {
		const fx_op *op = &f.ops[c->send];
		if (!op->terminal)
			return;
		CHECK(op->res > 0 || op->res == -VQ_EAGAIN);
		c->sending = false;
		c->echoed += op->res > 0 ? (uint32_t)op->res : 0;
	}
	size_t left = c->arrived - c->echoed;
	if (left == 0)
		return;
	c->sending_bytes = 1 + fx_random(random) % 40000;
	if (c->sending_bytes > left)
		c->sending_bytes = (uint32_t)left;
	uint32_t mode = VQ_MSG_WAITALL;
	if (fx_random(random) % 2 == 0)
		mode |= VQ_MSG_DONTWAIT;
	c->send = fx_send(&f, c->ends[0], c->bytes + c->echoed, c->sending_bytes, mode);
	c->sending = true;
}

static void echo(uint32_t percent, uint32_t seed, size_t total)
{
	uint32_t random = seed;

	begin(percent, seed);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		client *c = &clients[i];
		memset(c, 0, sizeof(*c));
		peer_pair(c->ends);
		c->total = total;
		c->bytes = malloc(total);
		CHECK(c->bytes != NULL);
		c->recv = fx_recv(&f, c->ends[0], VQ_RECV_MULTISHOT);
		fx_stream_write(&c->writer, c->ends[1], total, 20000, seed + i);
		fx_stream_read(&c->reader, c->ends[1], total, 20000, seed + i);
	}
	for (uint32_t left = CLIENTS; left > 0;) {
		fx_turn(&f, 1);
		left = 0;
		for (uint32_t i = 0; i < CLIENTS; i++) {
			if (clients[i].echoed == total)
				continue;
			echo_receive(&clients[i]);
			echo_send(&clients[i], &random);
			left += clients[i].echoed < total;
		}
	}
	for (uint32_t i = 0; i < CLIENTS; i++) {
		client *c = &clients[i];
		fx_stream_join(&c->writer);
		fx_stream_join(&c->reader);
		fx_check_bytes(c->bytes, 0, total, seed + i);
		if (!f.ops[c->recv].terminal)
			fx_cancel_wait(&f, c->recv);
		free(c->bytes);
		peer_close(c->ends[0]);
		peer_close(c->ends[1]);
	}
	end();
}

static void test_echo_some_faults(void)
{
	echo(10, 4242, CHECK_TSAN ? 100000 : 400000);
}

static void test_echo_many_faults(void)
{
	echo(70, 777, CHECK_TSAN ? 50000 : 150000);
}

/* Cancels, too, are neither lost nor done twice. */
static void test_cancel_under_faults(void)
{
	begin(50, 99);
	int ends[2];
	peer_pair(ends);
	size_t position = 0;
	for (uint32_t round = 0; round < 200; round++) {
		uint8_t piece[64];
		uint32_t op = fx_recv(&f, ends[0], round % 2 ? VQ_RECV_MULTISHOT : 0);
		fx_turn(&f, 0);
		fx_fill(piece, position, sizeof(piece), 1);
		peer_send(ends[1], piece, sizeof(piece));
		fx_cancel_wait(&f, op);
		size_t got = f.ops[op].data_len;
		fx_check_bytes(f.ops[op].data, position, got, 1);
		while (got < sizeof(piece)) {
			op = fx_recv(&f, ends[0], 0);
			fx_wait(&f, op);
			CHECK(f.ops[op].res > 0);
			fx_check_bytes(f.ops[op].data, position + got, f.ops[op].data_len, 1);
			got += f.ops[op].data_len;
		}
		CHECK_EQ(got, sizeof(piece));
		position += got;
	}
	peer_close(ends[0]);
	peer_close(ends[1]);
	end();
}

static const struct check_test tests[] = {
	CHECK_TEST(test_results),
	CHECK_TEST(test_results_delayed),
	CHECK_TEST(test_taskrun_kept),
	CHECK_TEST(test_nops),
	CHECK_TEST(test_echo_some_faults),
	CHECK_TEST(test_echo_many_faults),
	CHECK_TEST(test_cancel_under_faults),
};

FX_MAIN_OF(tests, VQ_DRIVER_URING)
