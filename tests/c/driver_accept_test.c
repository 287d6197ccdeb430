/* driver_accept_test.c: how connections begin: ACCEPT and CONNECT. */
#include "driver_fixture.h"

static fx f;

enum { CONNECTIONS_MAX = 64 };

/* Sockets that completions of ACCEPT brought. */
static int accepted[CONNECTIONS_MAX];
static uint32_t accepted_count;

static void keep_accepted(fx *fixture, uint32_t op, const vq_cqe *cqe)
{
	(void)fixture;
	(void)op;
	if (cqe->res > 0) {
		CHECK(accepted_count < CONNECTIONS_MAX);
		accepted[accepted_count++] = cqe->res;
	}
}

static void begin(void)
{
	fx_begin(&f);
	accepted_count = 0;
	f.on_completion = keep_accepted;
}

static int stream(void)
{
	const vq_socket_config config = { 0 };
	int32_t call;
	int fd = vq_socket_stream(VQ_AF_INET, &config, &call);
	CHECK(fd >= 0);
	return fd;
}

/* Each accepted socket belongs to one of the peers, and no two to the same. */
static void check_partners(const int *peers, uint32_t count)
{
	CHECK_EQ(accepted_count, count);
	for (uint32_t i = 0; i < count; i++) {
		vq_addr local;
		uint32_t partners = 0;
		CHECK_EQ(vq_socket_local(peers[i], &local), 0);
		for (uint32_t k = 0; k < count; k++) {
			vq_addr remote;
			CHECK_EQ(vq_socket_peer(accepted[k], &remote), 0);
			partners += remote.port == local.port;
		}
		CHECK_EQ(partners, 1);
	}
}

static void close_all(const int *fds, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		peer_close(fds[i]);
}

static void test_accept_one(void)
{
	begin();
	vq_addr bound;
	int listener = peer_listen(4, &bound);
	uint32_t op = fx_accept(&f, listener, 0);
	fx_flush(&f);
	CHECK(!f.ops[op].terminal);
	int peer = peer_connect(&bound);
	fx_wait(&f, op);
	CHECK(f.ops[op].res > 0);
	CHECK(peer_is_cloexec(f.ops[op].res));
	check_partners(&peer, 1);
	/* One op, one connection: the next waits for the next op. */
	int second = peer_connect(&bound);
	fx_flush(&f);
	CHECK_EQ(accepted_count, 1);
	fx_wait(&f, fx_accept(&f, listener, 0));
	CHECK_EQ(accepted_count, 2);
	close_all(accepted, 2);
	peer_close(peer);
	peer_close(second);
	peer_close(listener);
	fx_end(&f);
}

static void test_accept_multishot(void)
{
	enum { COUNT = 40 };
	begin();
	int peers[COUNT];
	vq_addr bound;
	int listener = peer_listen(COUNT, &bound);
	/* Some are there before the op, some come after. */
	for (uint32_t i = 0; i < COUNT / 2; i++)
		peers[i] = peer_connect(&bound);
	uint32_t op = fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	while (accepted_count < COUNT / 2) {
		fx_turn(&f, 1);
		/* A small ring may end it early: armed again, it goes on. */
		if (f.ops[op].terminal)
			op = fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	}
	for (uint32_t i = COUNT / 2; i < COUNT; i++) {
		peers[i] = peer_connect(&bound);
		fx_turn(&f, 1);
		CHECK(!f.ops[op].terminal);
	}
	while (accepted_count < COUNT)
		fx_turn(&f, 1);
	check_partners(peers, COUNT);
	for (uint32_t i = 0; i < COUNT; i++)
		CHECK(peer_is_cloexec(accepted[i]));
	fx_cancel_wait(&f, op);
	CHECK_EQ(f.ops[op].res, -VQ_ECANCELED);
	/* After that the listener is its owner's again, and connections wait in it. */
	int late = peer_connect(&bound);
	fx_flush(&f);
	CHECK_EQ(accepted_count, COUNT);
	close_all(accepted, COUNT);
	close_all(peers, COUNT);
	peer_close(late);
	peer_close(listener);
	fx_end(&f);
}

/* Nobody collects while connections arrive: those past the ring's end are kept too. */
static void test_accept_overflow(void)
{
	enum { COUNT = 48 };
	begin();
	int peers[COUNT];
	vq_addr bound;
	int listener = peer_listen(COUNT, &bound);
	uint32_t op = fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	for (uint32_t i = 0; i < COUNT; i++) {
		fx_submit(&f, 0);
		peers[i] = peer_connect(&bound);
	}
	while (accepted_count < COUNT) {
		fx_turn(&f, 1);
		if (f.ops[op].terminal)
			op = fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	}
	check_partners(peers, COUNT);
	if (!f.ops[op].terminal)
		fx_cancel_wait(&f, op);
	close_all(accepted, COUNT);
	close_all(peers, COUNT);
	peer_close(listener);
	fx_end(&f);
}

static void test_accept_cancel(void)
{
	begin();
	vq_addr bound;
	int listener = peer_listen(4, &bound);
	uint32_t op = fx_accept(&f, listener, 0);
	fx_flush(&f);
	uint32_t cancel = fx_cancel(&f, op);
	FX_EXPECT(&f, op, -VQ_ECANCELED);
	FX_EXPECT(&f, cancel, 0);
	FX_EXPECT(&f, fx_cancel(&f, op), -VQ_ENOENT);
	peer_close(listener);
	fx_end(&f);
}

/* A connection either reaches a completion or stays in the listener, however the race ends. */
static void test_accept_cancel_race(void)
{
	enum { ROUNDS = 40 };
	begin();
	vq_addr bound;
	int listener = peer_listen(4, &bound);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		accepted_count = 0;
		uint32_t op = fx_accept(&f, listener, round % 2 ? VQ_ACCEPT_MULTISHOT : 0);
		fx_submit(&f, 0);
		int peer = peer_connect(&bound);
		fx_cancel_wait(&f, op);
		if (accepted_count == 0)
			fx_wait(&f, fx_accept(&f, listener, 0));
		check_partners(&peer, 1);
		peer_close(accepted[0]);
		peer_close(peer);
	}
	peer_close(listener);
	fx_end(&f);
}

static void test_accept_not_a_listener(void)
{
	begin();
	vq_addr bound;
	int fd = peer_bind(&bound);
	FX_EXPECT(&f, fx_accept(&f, fd, 0), -VQ_EINVAL);
	FX_EXPECT(&f, fx_accept(&f, fd, VQ_ACCEPT_MULTISHOT), -VQ_EINVAL);
	peer_close(fd);
	FX_EXPECT(&f, fx_accept(&f, fd, 0), -VQ_EBADF);
	fx_end(&f);
}

static void test_connect(void)
{
	begin();
	vq_addr bound;
	vq_addr remote;
	int listener = peer_listen(4, &bound);
	int fd = stream();
	FX_EXPECT(&f, fx_connect(&f, fd, &bound), 0);
	CHECK_EQ(vq_socket_peer(fd, &remote), 0);
	CHECK_EQ(remote.port, bound.port);
	int peer = peer_accept(listener);
	char byte = 7;
	peer_send(peer, &byte, 1);
	uint32_t op = fx_recv(&f, fd, 0);
	FX_EXPECT(&f, op, 1);
	CHECK_EQ(f.ops[op].data[0], 7);
	peer_close(peer);
	peer_close(fd);
	peer_close(listener);
	fx_end(&f);
}

/* A socket that is bound and does not listen: the port is nobody else's. */
static void test_connect_refused(void)
{
	begin();
	vq_addr bound;
	int closed = peer_bind(&bound);
	int fd = stream();
	FX_EXPECT(&f, fx_connect(&f, fd, &bound), -VQ_ECONNREFUSED);
	peer_close(fd);
	peer_close(closed);
	FX_EXPECT(&f, fx_connect(&f, fd, &bound), -VQ_EBADF);
	fx_end(&f);
}

/* Linux answers nothing while the queue of a listener is full: such a connect hangs. */
static void test_connect_cancel(void)
{
	enum { COUNT = 6 };
	begin();
	vq_addr bound;
	int listener = peer_listen(0, &bound);
	int fds[COUNT];
	uint32_t ops[COUNT];
	uint32_t canceled = 0;
	for (uint32_t i = 0; i < COUNT; i++) {
		fds[i] = stream();
		ops[i] = fx_connect(&f, fds[i], &bound);
		fx_flush(&f);
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		uint32_t cancel = fx_cancel(&f, ops[i]);
		fx_wait(&f, ops[i]);
		fx_wait(&f, cancel);
		int32_t res = f.ops[ops[i]].res;
		CHECK(res == 0 || res == -VQ_ECANCELED);
		/* Over, or so nearly that the cancel was too late. */
		if (res == 0)
			CHECK(f.ops[cancel].res == -VQ_ENOENT || f.ops[cancel].res == -VQ_EALREADY);
		else
			CHECK_EQ(f.ops[cancel].res, 0);
		canceled += res != 0;
	}
	CHECK(canceled > 0);
	close_all(fds, COUNT);
	peer_close(listener);
	fx_end(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_accept_one),
	CHECK_TEST(test_accept_multishot),
	CHECK_TEST(test_accept_overflow),
	CHECK_TEST(test_accept_cancel),
	CHECK_TEST(test_accept_cancel_race),
	CHECK_TEST(test_accept_not_a_listener),
	CHECK_TEST(test_connect),
	CHECK_TEST(test_connect_refused),
	CHECK_TEST(test_connect_cancel),
};

FX_MAIN(tests)
