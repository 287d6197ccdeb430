/*
 * driver_process_linux_test.c: what a driver means to the rest of its process: descriptors that a
 * new program must not get, memory that a forked child must not get, and the limits that both meet.
 */
#define _GNU_SOURCE
#include "driver_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static fx f;

/* Every descriptor that the driver opened, and every socket it makes, is close-on-exec. */
static void test_cloexec(void)
{
	bool ours[256];
	for (int fd = 0; fd < 256; fd++)
		ours[fd] = fcntl(fd, F_GETFD) < 0;
	fx_begin(&f);
	int ends[2];
	vq_addr bound;
	peer_pair(ends);
	int listener = peer_listen(2, &bound);
	int client = peer_connect(&bound);
	uint32_t op = fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	fx_wait_count(&f, op, 1);
	int accepted = f.ops[op].res;
	CHECK(accepted > 2);
	uint32_t count = 0;
	for (int fd = 0; fd < 256; fd++) {
		if (!ours[fd] || fcntl(fd, F_GETFD) < 0)
			continue;
		CHECK(peer_is_cloexec(fd));
		count++;
	}
	/*
	 * Ring or epoll, eventfd, pair, listener, client, accepted; epoll has a timerfd too, and a
	 * ring that can't poll over and over an epoll instance.
	 */
	const bool one_more = f.report.kind == VQ_DRIVER_EPOLL ||
			      (f.report.emulated & VQ_CAP_POLL_MULTISHOT) != 0;
	CHECK_EQ(count, one_more ? 8 : 7);
	fx_cancel_wait(&f, op);
	peer_close(accepted);
	peer_close(client);
	peer_close(listener);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/*
 * Whether the address is mapped in this process. Not by /proc/self/maps: to read it takes memory,
 * which the system may place into the very hole that is looked for.
 */
static bool is_mapped(const void *address)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	return msync((void *)((uintptr_t)address / page * page), page, MS_ASYNC) == 0;
}

/* A child has none of the memory that the kernel writes to for its parent, and harms nobody. */
static void test_fork(void)
{
	if (CHECK_TSAN)
		CHECK_SKIP("this sanitizer fills the holes with memory of its own");
	fx_begin(&f);
	const void *places[] = {
		f.view.sqes,
		f.view.cqes,
		f.view.sq_head,
		f.view.cq_tail,
		f.view.buf_ring,
		f.view.buf_base,
		f.view.buf_base + (size_t)f.view.buffer_count * f.view.buffer_size_bytes - 1,
	};
	const size_t count = sizeof(places) / sizeof(places[0]);
	int ends[2];
	peer_pair(ends);
	uint32_t op = fx_recv(&f, ends[0], VQ_RECV_MULTISHOT);
	fx_flush(&f);
	for (size_t i = 0; i < count; i++)
		CHECK(is_mapped(places[i]));
	fflush(stdout);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		int inherited = 0;
		for (size_t i = 0; i < count; i++)
			inherited += is_mapped(places[i]);
		_exit(inherited);
	}
	int status;
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
	/* The parent's driver goes on as if nothing had been. */
	peer_send(ends[1], "still here", 10);
	fx_wait_bytes(&f, op, 10);
	CHECK_EQ(memcmp(f.ops[op].data, "still here", 10), 0);
	fx_cancel_wait(&f, op);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* Takes every free descriptor below the limit. */
static uint32_t take_all(int *fillers, uint32_t max)
{
	uint32_t count = 0;

	for (; count < max; count++) {
		fillers[count] = fcntl(0, F_DUPFD_CLOEXEC, 0);
		if (fillers[count] < 0)
			break;
	}
	CHECK(count < max);
	CHECK_EQ(errno, EMFILE);
	return count;
}

static void keep_socket(fx *fixture, uint32_t op, const vq_cqe *cqe)
{
	(void)op;
	if (cqe->res > 0)
		*(int *)fixture->context = cqe->res;
}

/* No descriptor left: the op says so once and ends, connections wait, and room brings them in. */
static void test_accept_emfile(void)
{
	enum { LIMIT = 128 };
	fx_begin(&f);
	int fillers[LIMIT + 1];
	int peers[3];
	vq_addr bound;
	struct rlimit old;
	struct rlimit low;
	int listener = peer_listen(8, &bound);
	for (uint32_t i = 0; i < 3; i++)
		peers[i] = peer_connect(&bound);
	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = old;
	low.rlim_cur = LIMIT;
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
	uint32_t count = take_all(fillers, LIMIT + 1);

	for (uint32_t i = 0; i < 4; i++) {
		uint32_t op = fx_accept(&f, listener, i % 2 ? VQ_ACCEPT_MULTISHOT : 0);
		FX_EXPECT(&f, op, -VQ_EMFILE);
		CHECK_EQ(f.ops[op].count, 1);
	}
	/* Room for one: it comes in, and the next one meets the limit. */
	peer_close(fillers[--count]);
	uint32_t op = fx_accept(&f, listener, VQ_ACCEPT_MULTISHOT);
	int first = -1;
	f.context = &first;
	f.on_completion = keep_socket;
	FX_EXPECT(&f, op, -VQ_EMFILE);
	f.on_completion = NULL;
	CHECK(first > 0);
	CHECK_EQ(f.ops[op].count, 2);

	while (count > 0)
		peer_close(fillers[--count]);
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	for (uint32_t i = 0; i < 2; i++) {
		op = fx_accept(&f, listener, 0);
		fx_wait(&f, op);
		CHECK(f.ops[op].res > 0);
		peer_close(f.ops[op].res);
	}
	peer_close(first);
	for (uint32_t i = 0; i < 3; i++)
		peer_close(peers[i]);
	peer_close(listener);
	fx_end(&f);
}

/* Creating and destroying leaves no descriptor and no mapping behind. */
static void test_create_many(void)
{
	uint32_t before = 0;
	uint64_t pages_before = 0;

	for (uint32_t i = 0; i < 60; i++) {
		uint64_t pages = 0;
		fx_begin(&f);
		fx_wake(&f);
		fx_flush(&f);
		fx_abandon(&f);
		FILE *statm = fopen("/proc/self/statm", "re");
		CHECK(statm != NULL);
		CHECK_EQ(fscanf(statm, "%" SCNu64, &pages), 1);
		fclose(statm);
		if (i == 20) {
			before = peer_open_count();
			pages_before = pages;
		}
		if (i > 20) {
			CHECK_EQ(peer_open_count(), before);
			/* The allocator may keep a little; a driver is far more than that. */
			if (!CHECK_ASAN && !CHECK_TSAN)
				CHECK(pages <= pages_before + 16);
		}
	}
}

static const struct check_test tests[] = {
	CHECK_TEST(test_cloexec),
	CHECK_TEST(test_fork),
	CHECK_TEST(test_accept_emfile),
	CHECK_TEST(test_create_many),
};

FX_MAIN(tests)
