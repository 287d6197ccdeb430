/*
 * check.h: the harness of the C tests. One binary a subject: a table of named tests, run in order,
 * or only those named on the command line.
 *
 *	static void test_push_full(void) { CHECK_EQ(push(e), 0); }
 *	static const struct check_test tests[] = { CHECK_TEST(test_push_full) };
 *	CHECK_MAIN(tests)
 *
 * A failed check ends the process at once, from any thread: what a half-done test left behind
 * (threads, ops in the kernel) must not run on under the next one. Exit 0: all passed, or some
 * were skipped with the reason printed; 1: a check failed; 77: every test was skipped.
 */
#ifndef VELOQ_TESTS_CHECK_H
#define VELOQ_TESTS_CHECK_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Which sanitizer slows this build down; stress tests choose their counts by it. */
#if defined(__has_feature)
#define CHECK_HAS_FEATURE(x) __has_feature(x)
#else
#define CHECK_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || CHECK_HAS_FEATURE(thread_sanitizer)
#define CHECK_TSAN 1
#else
#define CHECK_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || CHECK_HAS_FEATURE(address_sanitizer)
#define CHECK_ASAN 1
#else
#define CHECK_ASAN 0
#endif

struct check_test {
	const char *name;
	void (*run)(void);
};

/* The table entry of a test function, named as the function is. */
#define CHECK_TEST(fn)  \
	{               \
#fn, fn \
	}

static const char *check_name = "";
static jmp_buf check_skipped;

static inline _Noreturn void check_fail(const char *file, int line)
{
	printf("\nFAIL %s at %s:%d\n", check_name, file, line);
	fflush(stdout);
	/* Not exit: other threads may still run, and atexit handlers would race with them. */
	_Exit(1);
}

/* Any thread. */
#define CHECK(cond)                                     \
	do {                                            \
		if (!(cond)) {                          \
			printf("\n%s is false", #cond); \
			check_fail(__FILE__, __LINE__); \
		}                                       \
	} while (0)

/* Two integers, evaluated once, compared and printed as intmax_t. Any thread. */
#define CHECK_EQ(got, want)                                                                  \
	do {                                                                                 \
		const intmax_t check_got = (intmax_t)(got);                                  \
		const intmax_t check_want = (intmax_t)(want);                                \
		if (check_got != check_want) {                                               \
			printf("\n%s is %" PRIdMAX ", want %s = %" PRIdMAX, #got, check_got, \
			       #want, check_want);                                           \
			check_fail(__FILE__, __LINE__);                                      \
		}                                                                            \
	} while (0)

/* Ends the test without a verdict. The test's own thread only; nothing may be left running. */
#define CHECK_SKIP(reason)                       \
	do {                                     \
		printf("skipped: %s\n", reason); \
		longjmp(check_skipped, 1);       \
	} while (0)

static inline int check_wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return 1;
	return argc < 2;
}

static inline int check_run(const struct check_test *tests, size_t count, int argc, char **argv)
{
	/* volatile: they change between setjmp and longjmp */
	volatile size_t passed = 0;
	volatile size_t skipped = 0;

	for (volatile size_t i = 0; i < count; i++) {
		if (!check_wanted(tests[i].name, argc, argv))
			continue;
		check_name = tests[i].name;
		printf("%s ... ", check_name);
		fflush(stdout);
		if (setjmp(check_skipped) != 0) {
			skipped = skipped + 1;
			continue;
		}
		tests[i].run();
		printf("ok\n");
		passed = passed + 1;
	}
	if (passed + skipped == 0) {
		printf("no such test\n");
		return 1;
	}
	return passed == 0 ? 77 : 0;
}

#define CHECK_MAIN(tests)                                                                \
	int main(int argc, char **argv)                                                  \
	{                                                                                \
		return check_run(tests, sizeof(tests) / sizeof((tests)[0]), argc, argv); \
	}

#endif
