/*
 * platform.h: the contract between the portable part of the core and each platform.
 *
 * A platform must define
 *
 *   vq__drivers            the table of its driver implementations, best first, ended by NULL.
 *   vq_socket_*, vq_addr_encode, vq_thread_pin      as include/veloq/socket.h states them.
 *   vq_doorbell_*'s platform half                   as include/veloq/doorbell.h states it.
 *
 * and each driver implementation a vq__driver_ops. What a driver owes its owner:
 *
 *   1. It consumes submissions in order and never looks at one again once *sq_head has passed it.
 *   2. Every op gets exactly one terminal completion (see vq_cqe). A platform that has no
 *      repeating form of an op re-posts it itself; the owner cannot tell.
 *   3. Only the terminal completion gives an op's memory back. Cancelling is a request: the
 *      op's own completion decides, and bytes it moved before that count.
 *   4. A buffer leaves the group when there is data for it, never while an op merely waits, so
 *      that idle connections hold none. No buffer: -VQ_ENOBUFS, and the data stays in the socket.
 *   5. Only enter may block, and only when asked to wait. A ring of the doorbell by any thread
 *      ends that wait, through the op of prep_wake.
 *   6. Completions that find no room in the ring are kept, VQ_SQ_CQ_OVERFLOW is set, and a later
 *      enter posts them. None is lost.
 *   7. Nothing but create allocates.
 */
#ifndef VELOQ_CSRC_PLATFORM_H
#define VELOQ_CSRC_PLATFORM_H

#include "veloq/driver.h"

typedef struct vq__driver_ops {
	uint32_t kind; /* VQ_DRIVER_* */
	/*
	 * Allocates a struct whose first member is a vq_driver, zeroed. May set its ops, to another
	 * table of the same kind, for what the system turned out to lack.
	 */
	int (*create)(const vq_driver_config *config, vq_driver_report *report, vq_driver **out);
	void (*destroy)(vq_driver *driver);
	int (*enter)(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count);
	/* vq_driver_enter_delayed, or NULL: with VQ_CAP_MIN_WAIT only. */
	int (*enter_delayed)(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count,
			     uint32_t delay_us);
	void (*prep_wake)(const vq_driver *driver, vq_sqe *sqe);
} vq__driver_ops;

/* What every driver starts with. */
struct vq_driver {
	const vq__driver_ops *ops;
	vq_driver_view view;
};

extern const vq__driver_ops *const vq__drivers[];

#endif
