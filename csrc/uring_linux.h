/* uring_linux.h: the io_uring driver's state; shared with its fault tests, which replace `enter`.
 */
#ifndef VELOQ_CSRC_URING_LINUX_H
#define VELOQ_CSRC_URING_LINUX_H

#include "platform.h"

#include <liburing.h>

/* struct io_uring_getevents_arg; its min_wait_usec is called `pad` in liburing 2.3. */
typedef struct vq__uring_wait {
	uint64_t sigmask;
	uint32_t sigmask_bytes;
	uint32_t min_wait_us;
	uint64_t timeout; /* a struct __kernel_timespec */
} vq__uring_wait;

/* io_uring_enter(2); wait may be NULL. Returns what it consumed, or the negative errno. */
typedef int vq__uring_enter_fn(unsigned int fd, unsigned int to_submit, unsigned int min_complete,
			       unsigned int flags, const vq__uring_wait *wait);

/* A group of provided buffers: its ring, shared with the kernel, and their memory. */
typedef struct vq__uring_group {
	void *ring;
	size_t ring_bytes;
	void *buffers;
	size_t buffers_bytes;
	uint16_t id;
	bool registered;
} vq__uring_group;

typedef struct vq__uring {
	vq_driver base;
	vq_doorbell doorbell;
	vq_timespec timespec;
	struct io_uring ring;
	struct vq__translate *translate; /* where the kernel lacks something: its memory */
	vq__uring_enter_fn *enter;       /* the seam of tests/c/uring_fault_linux_test.c */
	vq__uring_group buffers;
	vq__uring_group packets;
	bool ring_ready;
	bool is_6_0; /* the kernel's release, or later */
	bool min_wait;
	bool doorbell_ready;
} vq__uring;

extern const vq__driver_ops vq__uring_ops;

/*
 * Allows a ring that was set up disabled what this driver does, and nothing else, for good, and
 * enables it. caps are those in use: an older kernel refuses to hear of what it does not know.
 * Returns 0 or a negative errno.
 */
int vq__uring_restrict(const vq__uring *u, uint32_t caps);

/*
 * What both forms of the driver have in common: one io_uring_enter(2) with all that was staged up
 * to sq_tail; the doorbell's op; and the end of ring and memory.
 */
int vq__uring_enter(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count);
int vq__uring_enter_delayed(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count,
			    uint32_t delay_us);
void vq__uring_prep_wake(const vq_driver *driver, vq_sqe *sqe);
void vq__uring_destroy(vq_driver *driver);

/* The call that `enter` is when no test has replaced it. */
int vq__uring_enter_syscall(unsigned int fd, unsigned int to_submit, unsigned int min_complete,
			    unsigned int flags, const vq__uring_wait *wait);

#endif
