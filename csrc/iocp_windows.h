/*
 * iocp_windows.h: the state of the driver on a completion port, and what its files call of each
 * other.
 *
 * An op has one record from its submission to its terminal completion, out of a pool that create
 * allocates. The record holds what Windows writes to (the OVERLAPPED), so it goes back to the pool
 * only when no packet for it can come any more.
 */
#ifndef VELOQ_CSRC_IOCP_WINDOWS_H
#define VELOQ_CSRC_IOCP_WINDOWS_H

#include "winsock_windows.h"

#include "platform.h"
#include "veloq/socket.h"

/* Completion keys: what a packet is about. */
enum {
	VQ__IOCP_KEY_SOCKET = 0, /* an OVERLAPPED of an op or a slot ended */
	VQ__IOCP_KEY_RING = 1,   /* the doorbell rang */
	VQ__IOCP_KEY_CLOSED = 2, /* a close in the background ended; its op's OVERLAPPED */
};

enum {
	/*
	 * Ops in flight on one driver. Past it an op that has to wait for something completes at
	 * once with -VQ_ENOMEM; what ends within enter (quiet sends, closes, cancels) goes on.
	 */
	VQ__IOCP_OPS_MAX = 1 << 16,
	/* Accepts that wait in the system for one listener, and for all listeners of a driver. */
	VQ__IOCP_ACCEPTS = 16,
	VQ__IOCP_SLOTS_MAX = 1024,
	/*
	 * Completions that find no room in the ring. Each op in flight and each slot may end once
	 * more, so submissions are left in their ring while fewer places than that are free.
	 */
	VQ__IOCP_KEPT_MAX = 1 << 17,
	VQ__IOCP_BATCH = 128, /* packets taken by one call */
	VQ__IOCP_BUCKETS = 1 << 14,
	VQ__IOCP_NONE = UINT32_MAX,
	VQ__IOCP_BUF_GROUP = 1,
	VQ__IOCP_PACKET_GROUP = 2,
	VQ__IOCP_CONTROL_MAX = 96, /* control messages of a send that waits, as Windows has them */
	VQ__IOCP_INHERITED = 7,    /* options that accepted sockets have from their listener */
};

enum vq__iocp_state {
	VQ__IOCP_RUNNING, /* in the function that starts it, or waiting for a packet or a timer */
	VQ__IOCP_HELD,    /* linked behind an op that has not ended */
	VQ__IOCP_READY,   /* in the ready list: goes on in this enter or the next */
};

typedef struct vq__iocp_op vq__iocp_op;

/* A buffer group. */
typedef struct vq__iocp_group {
	vq_buf *ring;
	uint8_t *memory;
	uint32_t count; /* 0: there is none */
	uint32_t size_bytes;
	uint32_t filled; /* bytes of the first buffer that are given out */
	uint16_t head;
	bool incremental;
} vq__iocp_group;

/* How far a send or a receive has come through its memory. */
typedef struct vq__iocp_span {
	vq_iovec one; /* of ops that have a single address */
	const vq_iovec *iov;
	uint64_t count; /* pieces left, iov[0] the first */
	uint64_t skip;  /* bytes of iov[0] that are done */
	uint64_t done;
	uint64_t total;
} vq__iocp_span;

struct vq__iocp_op {
	OVERLAPPED ov; /* first: a packet names the op by it */
	vq_sqe sqe;
	vq__iocp_op *next;  /* in the ready list, the free list */
	vq__iocp_op *chain; /* starts when this one has ended well */
	uint32_t bucket_next;
	uint8_t state;
	bool pending;   /* a packet will come for ov */
	bool listed;    /* can be found by its token */
	bool cancelled; /* its end was asked for */
	bool fell_short;
	bool readable; /* receive: what it waits for is there */
	bool datagram; /* send or receive: of a socket that keeps messages apart */
	int32_t error; /* what the wait ended with, told once the bytes before it are delivered */
	union {
		vq__iocp_span span;
		struct {
			int32_t error; /* of the packet that came while the op was to go on */
			uint32_t bytes;
			bool ended;
		} file;
		uint8_t control[VQ__IOCP_CONTROL_MAX]; /* datagram: until its packet has come */
		struct {
			LPFN_ACCEPTEX accept_ex;
			uint32_t slots; /* the first of its slots */
			uint32_t waiting;
			int32_t family;
			int32_t values[VQ__IOCP_INHERITED];
			uint32_t differs; /* bit i: values[i] is to be set */
			bool compared;    /* with what the system passed on */
		} accept;
		struct {
			int64_t when_ns;
			uint32_t place; /* in the heap */
		} timer;
	};
};

/* One AcceptEx: the socket that the connection will become, and room for the two addresses. */
typedef struct vq__iocp_slot {
	OVERLAPPED ov;
	vq__iocp_op *op;
	int fd;
	uint32_t next; /* of the same op, or of the free ones */
	bool pending;
	/* 16 bytes more than the address each, as AcceptEx asks for; of any family. */
	uint8_t addresses[2 * (VQ_ADDR_BYTES_MAX + 16)];
} vq__iocp_slot;

typedef struct vq__iocp {
	vq_driver base;
	vq_doorbell doorbell;
	vq_timespec timespec;
	HANDLE port;
	uint16_t port_id;
	DWORD owner; /* thread */
	LPFN_ACCEPTEX accept_ex;
	LPFN_CONNECTEX connect_ex;
	LPFN_WSARECVMSG recv_msg;
	LPFN_WSASENDMSG send_msg;
	LPFN_TRANSMITFILE transmit_file;
	int32_t fresh[VQ__IOCP_INHERITED]; /* what a new socket has */
	uint32_t fresh_known;

	/* The rings, shared with the owner through the view. */
	vq_sqe *sqes;
	uint32_t sq_head;
	uint32_t sq_flags;
	vq_cqe *cqes;
	uint32_t cq_head;
	uint32_t cq_tail;
	uint32_t sq_mask;
	uint32_t cq_entries;
	vq_cqe *kept; /* completions past the ring's end, in order */
	uint32_t kept_head;
	uint32_t kept_tail;

	vq__iocp_group buffers;
	vq__iocp_group packet_buffers;
	bool owner_checked;

	vq__iocp_op *ops;
	vq__iocp_op *ops_free;
	uint32_t ops_touched; /* records from here on were never used */
	uint32_t ops_used;
	uint32_t *buckets;
	vq__iocp_op spare; /* of ops that end within their start while the pool is empty */

	vq__iocp_op *ready_first;
	vq__iocp_op *ready_last;
	uint32_t ready_count;

	vq__iocp_slot *slots;
	uint32_t slots_free;

	vq__iocp_op **heap; /* timers, the earliest first */
	uint32_t heap_count;
	LARGE_INTEGER frequency;

	vq__iocp_op *wake; /* the op of prep_wake; NULL while none is armed */
	bool rung;         /* the doorbell rang, and no completion has said so */
	uint32_t pending;  /* packets that will come for ops and slots */

	/* The chain of VQ_SQE_LINK that is being submitted. */
	bool chain_open;
	bool chain_failed;
	vq__iocp_op *chain_last; /* in flight or held; NULL when the latest ended in its start */

	OVERLAPPED_ENTRY packets[VQ__IOCP_BATCH];
} vq__iocp;

extern const vq__driver_ops vq__iocp_ops;

/* ---- iocp_windows.c */

/* Whether the ring has room for a completion that need not be posted now. */
bool vq__iocp_has_room(vq__iocp *d);

/* Posts a completion that is not the op's last. */
void vq__iocp_more(vq__iocp *d, const vq__iocp_op *op, int32_t res, uint32_t flags);

/* Posts the op's terminal completion, and gives the record back. No packet may be due for it. */
void vq__iocp_finish(vq__iocp *d, vq__iocp_op *op, int32_t res, uint32_t flags);

/* Has the op go on later in this enter, or in the next. */
void vq__iocp_ready(vq__iocp *d, vq__iocp_op *op);

/* A function of the system that is not linked but asked for, by way of a socket of its kind. */
int vq__iocp_function(int fd, GUID id, void *function);

vq__iocp_op *vq__iocp_find(vq__iocp *d, uint64_t token);

/* ---- iocp_op_windows.c: the ops */

/* Starts the op, which may end in it. */
void vq__iocp_start(vq__iocp *d, vq__iocp_op *op);

/* Goes on with an op of the ready list. */
void vq__iocp_continue(vq__iocp *d, vq__iocp_op *op);

/* Takes the packet of an op; error is 0 or the negative VQ_E* it ended with. */
void vq__iocp_packet(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes);

/* Asks for the op's end; the answer of VQ_OP_CANCEL. */
int32_t vq__iocp_cancel(vq__iocp *d, vq__iocp_op *op);

/* ---- iocp_buffers_windows.c: buffer groups, and waiting for something to put into them */

/* Makes the group of memory that is there, with all its buffers in it. */
void vq__iocp_group_fill(vq__iocp_group *group);

/* The first free buffer of the group, or NULL. */
vq_buf *vq__iocp_buffer_first(vq__iocp_group *group);

/* Takes bytes of the first buffer out of the group; returns what the completion says of it. */
uint32_t vq__iocp_buffer_take(vq__iocp_group *group, const vq_buf *buffer, uint32_t bytes);

/* Says once for the process whether a peek that ends at once as too long posts a packet. */
void vq__iocp_wait_probe(void);

/*
 * Asks to be told when there is something to receive. True: it is there now, or op->error says why
 * nothing will come; false: the packet will say so.
 */
bool vq__iocp_wait(vq__iocp *d, vq__iocp_op *op);

/* What the packet of such a wait says of the op. */
void vq__iocp_waited(vq__iocp_op *op, int32_t error);

/* Ties the op's socket to the driver's port, at its first use, and tells what the socket is. */
int vq__iocp_adopt(vq__iocp *d, vq__iocp_op *op, bool *skips);

/* A packet will come for the op. */
void vq__iocp_expect(vq__iocp *d, vq__iocp_op *op);

/* ---- iocp_datagram_windows.c: messages with an address */

/* Whether the op is a receive into the packet group. */
bool vq__iocp_takes_packets(const vq__iocp_op *op);

void vq__iocp_packets_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_packets_run(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_datagram_send(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_datagram_sent(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes);

/* ---- iocp_control_windows.c: control messages */

/*
 * Writes the control messages of a send as Windows has them into out, VQ__IOCP_CONTROL_MAX bytes.
 * Returns how many bytes, or a negative VQ_E*: -VQ_EINVAL for what Windows can't do.
 */
int vq__iocp_control_encode(const vq_msghdr *message, void *out);

/*
 * Writes those of a received message in Linux's layout, as many as fit into room bytes at out.
 * Returns how many bytes that is; *cut says whether some did not fit.
 */
uint32_t vq__iocp_control_decode(const WSAMSG *message, void *out, uint32_t room, bool *cut);

/* ---- iocp_stream_windows.c: bytes */

void vq__iocp_recv_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_recv_run(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_recv_packet(vq__iocp *d, vq__iocp_op *op, int32_t error);
void vq__iocp_send_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_send_packet(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes);
void vq__iocp_file_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_file_run(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_file_packet(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes);

/* ---- iocp_accept_windows.c: how connections begin */

/* The values of those options that the socket knows, and a bit for each. */
uint32_t vq__iocp_inherited(int fd, int32_t values[VQ__IOCP_INHERITED]);
void vq__iocp_accept_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_accept_run(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_accept_packet(vq__iocp *d, vq__iocp_slot *slot, int32_t error);
void vq__iocp_accept_cancel(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_connect_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_connect_packet(vq__iocp *d, vq__iocp_op *op, int32_t error);

/* ---- iocp_timer_windows.c */

void vq__iocp_timer_start(vq__iocp *d, vq__iocp_op *op);
void vq__iocp_timer_remove(vq__iocp *d, vq__iocp_op *op);
int32_t vq__iocp_timer_move(vq__iocp *d, uint64_t token, const vq_timespec *to);
void vq__iocp_timer_expire(vq__iocp *d);

/* Milliseconds until the first timer, rounded up; INFINITE without one. */
DWORD vq__iocp_timer_wait_ms(const vq__iocp *d);

#endif
