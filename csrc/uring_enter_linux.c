/*
 * uring_enter_linux.c: the io_uring driver submits and waits: io_uring_enter(2).
 */
#define _GNU_SOURCE
#include "uring_linux.h"

#include <errno.h>
#include <signal.h>

/* Newer than liburing 2.3's headers. */
_Static_assert(sizeof(vq__uring_wait) == sizeof(struct io_uring_getevents_arg), "vq__uring_wait");
_Static_assert(offsetof(vq__uring_wait, timeout) == offsetof(struct io_uring_getevents_arg, ts),
	       "vq__uring_wait");

int vq__uring_enter_syscall(unsigned int fd, unsigned int to_submit, unsigned int min_complete,
			    unsigned int flags, const vq__uring_wait *wait)
{
	if (wait == NULL)
		return io_uring_enter2(fd, to_submit, min_complete, flags, NULL, _NSIG / 8);
	/* The kernel only reads it; the declaration says otherwise. */
	return io_uring_enter2(fd, to_submit, min_complete, flags | IORING_ENTER_EXT_ARG,
			       (sigset_t *)(uintptr_t)wait, sizeof(*wait));
}

/*
 * The kernel takes its TASKRUN flag down only when it finds work to run, before it runs it. Work
 * that arrives meanwhile puts the flag up and is run along with the rest: the flag then stays, with
 * nothing behind it, and an owner that looks at it while it spins never stops entering. So it is
 * taken down here, ahead of an enter that runs all there is. Work queued from then on is either
 * seen by that enter or puts the flag up again.
 */
static bool taskrun_take(vq__uring *u)
{
	unsigned int *sq_flags = u->ring.sq.kflags;

	/* relaxed: only a hint, which carries no data */
	if ((__atomic_load_n(sq_flags, __ATOMIC_RELAXED) & VQ_SQ_TASKRUN) == 0)
		return false;
	__atomic_fetch_and(sq_flags, ~(unsigned int)VQ_SQ_TASKRUN, __ATOMIC_RELAXED);
	return true;
}

/*
 * For an enter that failed or took less than it was given: it ended before it ran anything, and the
 * kernel puts the flag up for the first work of a batch only.
 */
static void taskrun_restore(vq__uring *u)
{
	/* relaxed: as above */
	__atomic_fetch_or(u->ring.sq.kflags, VQ_SQ_TASKRUN, __ATOMIC_RELAXED);
}

static int enter(vq__uring *u, uint32_t sq_tail, uint32_t wait_count, const vq__uring_wait *wait)
{
	unsigned int flags = IORING_ENTER_GETEVENTS;
	unsigned int fd = (unsigned int)u->ring.ring_fd;

	if (u->ring.enter_ring_fd != u->ring.ring_fd) {
		fd = (unsigned int)u->ring.enter_ring_fd;
		flags |= IORING_ENTER_REGISTERED_RING;
	}
	/* release: pairs with the kernel's acquire of the submission tail */
	__atomic_store_n(u->ring.sq.ktail, sq_tail, __ATOMIC_RELEASE);
	uint32_t staged = sq_tail - __atomic_load_n(u->ring.sq.khead, __ATOMIC_ACQUIRE);
	bool taken = taskrun_take(u);
	int rc = u->enter(fd, staged, wait_count, flags, wait);
	if (rc == -ETIME) /* nothing came, or nothing of what came completed anything */
		rc = 0;
	if (taken && rc != (int)staged)
		taskrun_restore(u);
	switch (rc) {
	case -EINTR:  /* a signal ended the wait */
	case -EAGAIN: /* no memory for requests just now */
	case -EBUSY:  /* completions must be collected first */
		return 0;
	default:
		return rc;
	}
}

int vq__uring_enter(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count)
{
	return enter((vq__uring *)driver, sq_tail, wait_count, NULL);
}

int vq__uring_enter_delayed(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count,
			    uint32_t delay_us)
{
	/* Without a timeout of the whole wait the kernel ends it with the gathering. */
	static const struct __kernel_timespec end = { .tv_sec = 3600 };
	vq__uring *u = (vq__uring *)driver;
	const vq__uring_wait wait = {
		.min_wait_us = delay_us,
		.timeout = (uint64_t)(uintptr_t)&end,
	};

	if (!u->min_wait)
		return enter(u, sq_tail, 1, NULL);
	return enter(u, sq_tail, wait_count, &wait);
}
