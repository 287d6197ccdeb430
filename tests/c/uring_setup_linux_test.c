/*
 * uring_setup_linux_test.c: where io_uring is refused or short of something: vq_driver_create names
 * the step and the error, and leaves nothing behind. What cannot be taken back is tried in a child.
 */
#define _GNU_SOURCE
#include "driver_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs a test in a child, whose checks are as good as here. */
static void in_child(void (*run)(void))
{
	int status;

	fflush(stdout);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		run();
		fflush(stdout);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
}

static uint64_t mapped_pages(void)
{
	uint64_t pages = 0;
	FILE *statm = fopen("/proc/self/statm", "re");

	CHECK(statm != NULL);
	CHECK_EQ(fscanf(statm, "%" SCNu64, &pages), 1);
	fclose(statm);
	return pages;
}

/* Fails as told, many times over, so that a leak would show. */
static void expect_failure(const vq_driver_config *config, uint32_t step, int32_t error)
{
	const uint32_t before = peer_open_count();
	uint64_t pages = 0;

	for (uint32_t i = 0; i < 20; i++) {
		vq_driver_report report;
		vq_driver *driver = NULL;
		CHECK_EQ(vq_driver_create(config, &report, &driver), error);
		CHECK(driver == NULL);
		CHECK_EQ(report.kind, VQ_DRIVER_URING);
		CHECK_EQ(report.failed_step, step);
		CHECK_EQ(report.error, error);
		if (i == 0)
			pages = mapped_pages();
	}
	CHECK_EQ(peer_open_count(), before);
	if (!CHECK_ASAN && !CHECK_TSAN)
		CHECK(mapped_pages() <= pages + 8);
}

static void forbid(uint32_t call, uint32_t error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void setup_eperm(void)
{
	forbid(__NR_io_uring_setup, EPERM);
	expect_failure(&fx_config_used->driver, VQ_STEP_SETUP, -VQ_EPERM);
}

static void setup_enosys(void)
{
	forbid(__NR_io_uring_setup, ENOSYS);
	expect_failure(&fx_config_used->driver, VQ_STEP_SETUP, -VQ_ENOSYS);
}

/* A kernel that knows none of the flags is asked for less and less, and then it is EINVAL. */
static void setup_einval(void)
{
	forbid(__NR_io_uring_setup, EINVAL);
	expect_failure(&fx_config_used->driver, VQ_STEP_SETUP, -VQ_EINVAL);
}

/* Some sandboxes let the ring be made and nothing be registered. */
static void register_eperm(void)
{
	forbid(__NR_io_uring_register, EPERM);
	expect_failure(&fx_config_used->driver, VQ_STEP_PROBE, -VQ_EPERM);
}

static void eventfd_enosys(void)
{
	forbid(__NR_eventfd2, ENOSYS);
	expect_failure(&fx_config_used->driver, VQ_STEP_DOORBELL, -VQ_ENOSYS);
}

static void test_seccomp_setup_eperm(void)
{
	in_child(setup_eperm);
}

static void test_seccomp_setup_enosys(void)
{
	in_child(setup_enosys);
}

static void test_setup_einval(void)
{
	in_child(setup_einval);
}

static void test_seccomp_register_eperm(void)
{
	in_child(register_eperm);
}

static void test_seccomp_eventfd(void)
{
	in_child(eventfd_enosys);
}

/* Locked memory counts for a user without privileges only, and only then limits a ring. */
static void memlock_zero(void)
{
	const struct rlimit none = { 0 };

	CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &none), 0);
	if (geteuid() == 0)
		CHECK_EQ(setuid(65534), 0);
	vq_driver_report report;
	vq_driver *driver = NULL;
	int rc = vq_driver_create(&fx_config_used->driver, &report, &driver);
	if (rc == 0) {
		printf("(this kernel does not count) ");
		vq_driver_destroy(driver);
		return;
	}
	printf("(step %" PRIu32 ") ", report.failed_step);
	CHECK(report.failed_step == VQ_STEP_SETUP || report.failed_step == VQ_STEP_BUFFERS);
	expect_failure(&fx_config_used->driver, report.failed_step, -VQ_ENOMEM);
}

static void test_memlock(void)
{
	in_child(memlock_zero);
}

/* Each descriptor that is missing in turn: the ring's, then the doorbell's. */
static void test_nofile(void)
{
	const uint32_t steps[] = { VQ_STEP_SETUP, VQ_STEP_DOORBELL };
	struct rlimit old;
	vq_driver_report report;
	vq_driver *driver = NULL;

	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	/* Numbers below the limit that are free already would make room. */
	int lowest = fcntl(0, F_DUPFD_CLOEXEC, 0);
	CHECK(lowest >= 0);
	peer_close(lowest);
	for (uint32_t i = 0; i < 2; i++) {
		const struct rlimit low = { .rlim_cur = (rlim_t)lowest + i,
					    .rlim_max = old.rlim_max };
		const uint32_t before = peer_open_count();
		CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
		int rc = vq_driver_create(&fx_config_used->driver, &report, &driver);
		CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
		CHECK_EQ(rc, -VQ_EMFILE);
		CHECK_EQ(report.failed_step, steps[i]);
		CHECK_EQ(report.error, -VQ_EMFILE);
		CHECK(driver == NULL);
		CHECK_EQ(peer_open_count(), before);
	}
	CHECK_EQ(vq_driver_create(&fx_config_used->driver, &report, &driver), 0);
	vq_driver_destroy(driver);
}

/* No address space for the buffers. */
static void address_space(void)
{
	vq_driver_config config = fx_config_used->driver;
	struct rlimit limit;

	config.buffer_count = config.whole_count = 1024;
	config.buffer_size_bytes = config.whole_size_bytes = 1 << 20;
	CHECK_EQ(getrlimit(RLIMIT_AS, &limit), 0);
	limit.rlim_cur = mapped_pages() * (rlim_t)sysconf(_SC_PAGESIZE) + (256 << 20);
	CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
	expect_failure(&config, VQ_STEP_BUFFERS, -VQ_ENOMEM);
}

static void test_address_space(void)
{
	if (CHECK_ASAN || CHECK_TSAN)
		CHECK_SKIP("a sanitizer needs the address space itself");
	in_child(address_space);
}

#if CHECK_ASAN || CHECK_TSAN
static void test_out_of_memory(void)
{
	CHECK_SKIP("a sanitizer brings the allocator");
}
#else
static bool starved;

/* Takes the place of the C library's. */
void *aligned_alloc(size_t alignment, size_t size)
{
	void *memory = NULL;
	return !starved && posix_memalign(&memory, alignment, size) == 0 ? memory : NULL;
}

static void test_out_of_memory(void)
{
	starved = true;
	expect_failure(&fx_config_used->driver, VQ_STEP_SETUP, -VQ_ENOMEM);
	starved = false;
}
#endif

static const struct check_test tests[] = {
	CHECK_TEST(test_seccomp_setup_eperm),
	CHECK_TEST(test_seccomp_setup_enosys),
	CHECK_TEST(test_setup_einval),
	CHECK_TEST(test_seccomp_register_eperm),
	CHECK_TEST(test_seccomp_eventfd),
	CHECK_TEST(test_memlock),
	CHECK_TEST(test_nofile),
	CHECK_TEST(test_address_space),
	CHECK_TEST(test_out_of_memory),
};

FX_MAIN_OF(tests, VQ_DRIVER_URING)
