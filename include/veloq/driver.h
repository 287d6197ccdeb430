/*
 * driver.h: a driver: one submission ring, one completion ring, two buffer groups and one doorbell,
 * owned by one thread. The owner stages submissions into shared memory, makes one call a turn
 * (vq_driver_enter), and reads completions from shared memory.
 */
#ifndef VELOQ_DRIVER_H
#define VELOQ_DRIVER_H

#include "veloq/base.h"
#include "veloq/doorbell.h"
#include "veloq/op.h"

typedef struct vq_driver vq_driver;

/* Which implementation. */
enum {
	VQ_DRIVER_AUTO = 0,
	VQ_DRIVER_URING = 1,
	VQ_DRIVER_EPOLL = 2,
	VQ_DRIVER_IOCP = 3,
};

/* What a driver got, and what a config may forbid (vq_driver_config.deny). */
enum {
	VQ_CAP_SINGLE_ISSUER = 1u << 0,
	VQ_CAP_DEFER_TASKRUN = 1u << 1,
	VQ_CAP_COOP_TASKRUN = 1u << 2,
	VQ_CAP_TASKRUN_FLAG = 1u << 3,
	VQ_CAP_SUBMIT_ALL = 1u << 4,
	VQ_CAP_REGISTERED_RING = 1u << 5,
	VQ_CAP_ACCEPT_MULTISHOT = 1u << 6,
	VQ_CAP_RECV_MULTISHOT = 1u << 7,
	VQ_CAP_BUFFER_RING = 1u << 8,
	VQ_CAP_BUFFER_INCREMENTAL = 1u << 9,
	VQ_CAP_SKIP_SUCCESS = 1u << 10,
	VQ_CAP_SEND_ZC = 1u << 11,
	VQ_CAP_POLL_MULTISHOT = 1u << 12,
	VQ_CAP_RESTRICTED = 1u << 13, /* the ring refuses all but the ops of op.h */
	VQ_CAP_SHUTDOWN = 1u << 14,
	VQ_CAP_TIMEOUT_UPDATE = 1u << 15,
	VQ_CAP_SEND_FILE = 1u << 16,
	VQ_CAP_MIN_WAIT = 1u << 17, /* vq_driver_enter_delayed delays */
};

/* At which step a driver could not be created (vq_driver_report.failed_step). */
enum {
	VQ_STEP_NONE = 0,
	VQ_STEP_CONFIG = 1,
	VQ_STEP_SETUP = 2,
	VQ_STEP_PROBE = 3,
	VQ_STEP_OPS = 4,
	VQ_STEP_BUFFERS = 5,
	VQ_STEP_DOORBELL = 6,
};

typedef struct vq_driver_config {
	uint32_t kind;              /* VQ_DRIVER_* */
	uint32_t deny;              /* VQ_CAP_* that must not be used; 0 for all */
	uint32_t sq_entries;        /* power of two, 8 .. 32768 */
	uint32_t cq_entries;        /* power of two, >= sq_entries, .. 65536 */
	uint32_t buffer_count;      /* power of two, 2 .. 32768 */
	uint32_t buffer_size_bytes; /* 256 .. 1 MiB; incremental buffers */
	uint32_t whole_count;       /* the same two, where a buffer holds one completion only */
	uint32_t whole_size_bytes;
	uint32_t restricted;   /* 1: with VQ_CAP_RESTRICTED or not at all; no ring, no effect */
	uint32_t packet_count; /* the packet group: power of two, 2 .. 32768; 0 for none */
	uint32_t packet_size_bytes; /* 256 .. 1 MiB: a vq_recvmsg_out, name, control, payload */
} vq_driver_config;

/* A driver that could not be created. */
typedef struct vq_driver_attempt {
	uint32_t kind;        /* VQ_DRIVER_* */
	uint32_t failed_step; /* VQ_STEP_* */
	int32_t error;        /* negative VQ_E* of that step */
	int32_t missing_op;   /* with VQ_STEP_OPS: the first VQ_OP_* that the kernel lacks */
} vq_driver_attempt;

enum {
	VQ_DRIVER_ATTEMPTS_MAX = 4,
};

/*
 * What was got. Filled in by vq_driver_create also when it fails. With VQ_DRIVER_AUTO the attempts
 * are the drivers that were tried before the one that the rest is about, and when it fails that one
 * too.
 */
typedef struct vq_driver_report {
	uint32_t kind;        /* VQ_DRIVER_* */
	uint32_t caps;        /* VQ_CAP_* in use */
	uint32_t failed_step; /* VQ_STEP_*; NONE after success */
	int32_t error;        /* negative VQ_E* of that step */
	int32_t missing_op;   /* with VQ_STEP_OPS: the first VQ_OP_* that the kernel lacks */
	uint32_t setup_retries;
	uint32_t sq_entries;
	uint32_t cq_entries;
	uint32_t buffer_count;
	uint32_t buffer_size_bytes;
	uint32_t attempt_count;
	uint32_t emulated;     /* VQ_CAP_* that the driver does itself, at a price; not in caps */
	uint32_t packet_count; /* 0: no packet group */
	uint32_t packet_size_bytes;
	vq_driver_attempt attempts[VQ_DRIVER_ATTEMPTS_MAX];
} vq_driver_report;

/*
 * The memory that a driver shares with its owner. Pointers are valid until vq_driver_destroy.
 *
 * Submissions: write sqes[tail & (sq_entries - 1)] and count the tail up in the owner's own
 * memory; *sq_head is where the driver is. The ring is full when tail - *sq_head == sq_entries.
 * Completions: entries from *cq_head up to *cq_tail (acquire), index & (cq_entries - 1), are the
 * owner's; a release store of *cq_head gives them back.
 * Buffers: buf_ring has buffer_count entries. The owner offers a buffer by filling the entry at
 * tail & (buffer_count - 1) (never its `tail` field) and then counting *buf_tail up (release).
 * Packets: a second group in the same manner, for VQ_OP_RECVMSG. Its buffers hold one datagram
 * each, whatever the other group's do: a datagram that met the rest of a buffer would be cut off.
 */
typedef struct vq_driver_view {
	vq_sqe *sqes;
	uint32_t *sq_head;
	uint32_t *sq_flags; /* VQ_SQ_* */
	vq_cqe *cqes;
	uint32_t *cq_head;
	uint32_t *cq_tail;
	vq_buf *buf_ring;
	uint16_t *buf_tail;
	uint8_t *buf_base; /* buffer i is at buf_base + i * buffer_size_bytes */
	vq_timespec *timespec;
	vq_doorbell *doorbell;
	uint32_t sq_entries;
	uint32_t cq_entries;
	uint32_t buffer_count;
	uint32_t buffer_size_bytes;
	vq_buf *packet_ring; /* NULL: no packet group */
	uint16_t *packet_tail;
	uint8_t *packet_base; /* buffer i is at packet_base + i * packet_size_bytes */
	uint32_t packet_count;
	uint32_t packet_size_bytes;
	uint16_t buf_group;
	uint16_t packet_group;
	int32_t enter_fd;
	/* See vq_driver_enter; NULL: there is no other way. */
	uint32_t *sq_ring_tail;
} vq_driver_view;

/*
 * Creates a driver, probing what the system offers and stepping down where it may: VQ_DRIVER_AUTO
 * takes the first of the platform's drivers that can be created, a kind named by the config is that
 * or an error. All buffers start in the group. The calling thread becomes its owner. *out is the
 * caller's until vq_driver_destroy. Returns 0, or the negative error of report->failed_step with
 * nothing left behind. Blocks (set-up system calls).
 */
int vq_driver_create(const vq_driver_config *config, vq_driver_report *report, vq_driver **out);

/*
 * Ends what is in flight and frees everything; the buffers' and rings' memory is gone when it
 * returns. Sockets stay the caller's. Owner only.
 */
void vq_driver_destroy(vq_driver *driver);

/*
 * Fills *view. Owner only.
 */
void vq_driver_view_get(const vq_driver *driver, vq_driver_view *view);

/*
 * Submits everything staged up to sq_tail, and waits until at least wait_count completions are in
 * the ring (0: does not wait, but lets the kernel post what it has). EINTR, EAGAIN and EBUSY end
 * the call early with success: look at *sq_head and at the completion ring, then call again.
 * Returns the number of submissions consumed, or a negative VQ_E* that means a broken driver.
 * Owner only. Blocks when wait_count > 0.
 *
 * Where the view has a sq_ring_tail, the owner may instead store sq_tail there (release) and call
 * io_uring_enter(2) itself on enter_fd: for ops that complete within the call, and only while
 * VQ_SQ_CQ_OVERFLOW is not set in *sq_flags.
 */
int vq_driver_enter(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count);

/*
 * As vq_driver_enter, but a completion waits for others: from its begin on the call waits for
 * wait_count of them for delay_us (microseconds, 1 to those of an hour), and after that for one. So
 * none waits here for longer than that. A VQ_OP_TIMEOUT that expires while the call waits ends the
 * wait at once; one that expired before it, and the doorbell, need not. A wait that came to nothing
 * may end early, with success. Without VQ_CAP_MIN_WAIT it is vq_driver_enter(driver, sq_tail, 1).
 * Owner only. Blocks.
 */
int vq_driver_enter_delayed(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count,
			    uint32_t delay_us);

/*
 * Fills *sqe with the op that completes (res > 0, VQ_CQE_MORE as long as it goes on) whenever the
 * doorbell rings; the caller sets user_data and stages it, again after its terminal completion.
 * Owner only.
 */
void vq_driver_prep_wake(const vq_driver *driver, vq_sqe *sqe);

#endif
