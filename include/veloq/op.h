/*
 * op.h: the records that pass between the owner of a driver and the driver: submissions,
 * completions and provided buffers. Their binary layout is that of Linux's io_uring, so that one
 * driver can hand out its kernel-shared rings themselves; every other driver interprets the same
 * records. Only what is named here may be used.
 */
#ifndef VELOQ_OP_H
#define VELOQ_OP_H

#include "veloq/base.h"

/*
 * Submission. Fields that an op does not name must be zero. All memory that `addr` or `off` points
 * at stays valid and unmoved until the op's terminal completion, except where the op says
 * otherwise.
 */
typedef struct vq_sqe {
	uint8_t opcode;     /* VQ_OP_* */
	uint8_t flags;      /* VQ_SQE_* */
	uint16_t mode;      /* VQ_RECV_*, VQ_ACCEPT_*: what kind of this op */
	int32_t fd;         /* socket, or -1 */
	uint64_t off;       /* op's second address or length; see the op */
	uint64_t addr;      /* op's first address */
	uint32_t len;       /* bytes, or entries */
	uint32_t op_flags;  /* VQ_MSG_*, VQ_CANCEL_*, VQ_TIMEOUT_* */
	uint64_t user_data; /* token; comes back in every completion of the op */
	uint16_t buf_group; /* with VQ_SQE_BUFFER_SELECT */
	uint16_t reserved0;
	uint32_t reserved1;
	uint64_t reserved2[2];
} vq_sqe;

/*
 * Completion. Every op has exactly one terminal completion: one without VQ_CQE_MORE. The only
 * exception is an op with VQ_SQE_SKIP_SUCCESS that did all it was asked for: it posts none, and is
 * finished when vq_driver_enter returns.
 */
typedef struct vq_cqe {
	uint64_t user_data;
	int32_t res;    /* >= 0: as the op says; < 0: negative VQ_E* */
	uint32_t flags; /* VQ_CQE_*; the upper 16 bits are a buffer's index with VQ_CQE_BUFFER */
} vq_cqe;

/*
 * One entry of a buffer group's ring: a free buffer offered to the driver. The ring's tail is the
 * `tail` of entry 0, which no buffer uses.
 */
typedef struct vq_buf {
	uint64_t addr;
	uint32_t len;
	uint16_t index;
	uint16_t tail;
} vq_buf;

_Static_assert(sizeof(vq_sqe) == 64, "vq_sqe is shared with Go and with the kernel");
_Static_assert(sizeof(vq_cqe) == 16, "vq_cqe is shared with Go and with the kernel");
_Static_assert(sizeof(vq_buf) == 16, "vq_buf is shared with Go and with the kernel");
_Static_assert(offsetof(vq_sqe, user_data) == 32, "vq_sqe layout");
_Static_assert(offsetof(vq_sqe, buf_group) == 40, "vq_sqe layout");
_Static_assert(offsetof(vq_buf, tail) == 14, "vq_buf layout");

enum {
	/* res 0. */
	VQ_OP_NOP = 0,

	/*
	 * Readiness of fd: op_flags is a poll(2) event mask, len VQ_POLL_MULTISHOT or 0.
	 * res: the events. A multishot one reports what is so, then each change; one of them for
	 * each fd at a time.
	 */
	VQ_OP_POLL = 6,

	/*
	 * sendmsg(2): addr is a vq_msghdr, op_flags VQ_MSG_*. On a stream res is the bytes sent;
	 * fewer than asked only with VQ_MSG_DONTWAIT, on cancel, or on an error that the next send
	 * will report. On a datagram socket the pieces are one datagram, sent whole or not at all:
	 * to the system's sockaddr at name (none where the socket is connected), with the control
	 * messages at control, which control.h describes. res: all its bytes, 0 for an empty one;
	 * -VQ_EAGAIN without room for it. It needs VQ_MSG_DONTWAIT: Linux copies a datagram before
	 * it looks for room, and one that io_uring tries again goes out without what was copied.
	 * An error that the network reported for an earlier datagram of the socket may be this
	 * one's res, and then this one was not sent.
	 */
	VQ_OP_SENDMSG = 9,

	/*
	 * recvmsg(2): addr is a vq_msghdr, op_flags VQ_MSG_*. res: bytes received, into the pieces.
	 *
	 * With VQ_SQE_BUFFER_SELECT, which needs mode VQ_RECV_MULTISHOT and a datagram socket: each
	 * datagram takes one whole buffer of buf_group, which must be the driver's packet group.
	 * Of the vq_msghdr only name_len and control_len count; the rest is zero. The buffer then
	 * begins with a vq_recvmsg_out, followed by name_len bytes that hold the sender's sockaddr,
	 * control_len bytes that hold control messages (control.h), and the payload.
	 * res: where the payload ends, sizeof(vq_recvmsg_out) + name_len + control_len +
	 * payload_len, so never 0. A datagram of no bytes is a completion like any other, though it
	 * may be the terminal one; stage the op anew then. What does not fit the buffer is cut off,
	 * which flags shows (VQ_MSG_TRUNC). -VQ_ENOBUFS: the group was empty; the datagram stays in
	 * the socket. Every other error is one that the socket had pending; datagrams may follow
	 * it.
	 */
	VQ_OP_RECVMSG = 10,

	/*
	 * A timer: addr is a vq_timespec, len 1, relative to when the driver sees it. The timespec
	 * is read inside the enter that submits it. res: -VQ_ETIME when it expired, -VQ_ECANCELED.
	 */
	VQ_OP_TIMEOUT = 11,

	/*
	 * Moves the timer whose token is addr to the vq_timespec at off; op_flags
	 * VQ_TIMEOUT_UPDATE. res: 0, or -VQ_ENOENT when it had already expired.
	 */
	VQ_OP_TIMEOUT_UPDATE = 12,

	/*
	 * accept4(2) with SOCK_CLOEXEC (op_flags VQ_SOCK_CLOEXEC), mode VQ_ACCEPT_MULTISHOT or 0.
	 * res: the new socket, owned by the receiver of the completion.
	 */
	VQ_OP_ACCEPT = 13,

	/*
	 * Asks for the end of the op whose token is addr. That op's own terminal completion says
	 * what became of it. res: 0, -VQ_ENOENT (no such op), -VQ_EALREADY (too late).
	 */
	VQ_OP_CANCEL = 14,

	/* connect(2): addr is a sockaddr, off its length. res: 0. */
	VQ_OP_CONNECT = 16,

	/* Closes fd; no op of fd may be in flight. res: 0. */
	VQ_OP_CLOSE = 19,

	/* send(2): addr, len, op_flags VQ_MSG_*. res: as VQ_OP_SENDMSG. */
	VQ_OP_SEND = 26,

	/*
	 * recv(2). With VQ_SQE_BUFFER_SELECT the driver takes a buffer of buf_group when there is
	 * data, and none before; with mode VQ_RECV_MULTISHOT it goes on. res: bytes; 0 is the end
	 * of the stream; -VQ_ENOBUFS when the group was empty (data stays in the socket).
	 */
	VQ_OP_RECV = 27,

	/* shutdown(2): len is VQ_SHUT_*. res: 0. */
	VQ_OP_SHUTDOWN = 34,

	/*
	 * send(2) without a copy. Two completions: the result, with VQ_CQE_MORE, then one with
	 * VQ_CQE_NOTIF, and only that one frees the memory. A failed one may have just the first,
	 * without MORE, or both: MORE alone says.
	 */
	VQ_OP_SEND_ZC = 47,

	/*
	 * Only with VQ_CAP_SEND_FILE: sends bytes of a file on a stream: addr is the system's
	 * handle of the file, off where they begin, len how many, at most 2^31 - 2. The file stays
	 * open until the terminal completion. res: bytes sent; fewer than asked only on cancel, at
	 * the file's end, or on an error that the next send will report. No other send of the
	 * socket may be in flight.
	 */
	VQ_OP_SEND_FILE = 200,
};

enum {
	VQ_SQE_LINK = 1u << 2,          /* the next submission starts after this one */
	VQ_SQE_MAY_BLOCK = 1u << 4,     /* the op may block: not on the thread of the owner */
	VQ_SQE_BUFFER_SELECT = 1u << 5, /* take a buffer from buf_group */
	VQ_SQE_SKIP_SUCCESS = 1u << 6,  /* no completion when all went well */
};

enum {
	VQ_RECV_MULTISHOT = 1u << 1,
	VQ_ACCEPT_MULTISHOT = 1u << 0,
	VQ_POLL_MULTISHOT = 1u << 0,
	VQ_TIMEOUT_UPDATE = 1u << 1,
	VQ_SEND_ZC_REPORT = 1u << 3, /* the NOTIF says whether it was copied after all; Linux 6.2 */
};

enum {
	VQ_MSG_CTRUNC = 0x08,      /* in vq_recvmsg_out: control messages were cut off */
	VQ_MSG_TRUNC = 0x20,       /* in vq_recvmsg_out: the payload was */
	VQ_MSG_DONTWAIT = 0x40,    /* do what can be done at once, then complete */
	VQ_MSG_WAITALL = 0x100,    /* a short send is not a success */
	VQ_MSG_NOSIGNAL = 0x4000,  /* EPIPE and no signal; on every send */
	VQ_SOCK_CLOEXEC = 0x80000, /* on every accept */
};

enum {
	VQ_SHUT_RD = 0,
	VQ_SHUT_WR = 1,
	VQ_SHUT_RDWR = 2,
};

enum {
	VQ_CQE_BUFFER = 1u << 0,   /* the upper 16 bits of flags are a buffer's index */
	VQ_CQE_MORE = 1u << 1,     /* not terminal */
	VQ_CQE_NOTIF = 1u << 3,    /* the memory of a VQ_OP_SEND_ZC is free */
	VQ_CQE_BUF_MORE = 1u << 4, /* the driver will put more into the same buffer */
	VQ_CQE_BUFFER_SHIFT = 16,
};

/* In the res of a VQ_CQE_NOTIF, with VQ_SEND_ZC_REPORT. */
#define VQ_NOTIF_COPIED ((int32_t)0x80000000)

/* In the driver's flags word. */
enum {
	VQ_SQ_CQ_OVERFLOW = 1u << 1, /* completions wait for room: collect, then enter again */
	VQ_SQ_TASKRUN = 1u << 2,     /* completions wait for an enter */
};

/* Seconds and nanoseconds. */
typedef struct vq_timespec {
	int64_t sec;
	int64_t nsec;
} vq_timespec;

/* A piece of memory of a gathered send. */
typedef struct vq_iovec {
	uint64_t base;
	uint64_t len;
} vq_iovec;

/* struct msghdr of 64-bit Linux. */
typedef struct vq_msghdr {
	uint64_t name;
	uint32_t name_len;
	uint32_t reserved0;
	uint64_t iov;
	uint64_t iov_count;
	uint64_t control;
	uint64_t control_len;
	int32_t flags;
	uint32_t reserved1;
} vq_msghdr;

/* What the buffer of a VQ_OP_RECVMSG with VQ_SQE_BUFFER_SELECT begins with. */
typedef struct vq_recvmsg_out {
	uint32_t name_len;    /* the sockaddr's own; more than the space given: it was cut off */
	uint32_t control_len; /* bytes of control messages, in the space given */
	uint32_t payload_len; /* bytes of payload in the buffer */
	uint32_t flags;       /* VQ_MSG_TRUNC, VQ_MSG_CTRUNC; other bits may be set */
} vq_recvmsg_out;

_Static_assert(sizeof(vq_recvmsg_out) == 16, "vq_recvmsg_out is shared with the kernel");
_Static_assert(sizeof(vq_timespec) == 16, "vq_timespec is shared");
_Static_assert(sizeof(vq_iovec) == 16, "vq_iovec is shared");
_Static_assert(sizeof(vq_msghdr) == 56, "vq_msghdr is shared");

#endif
