/*
 * epoll_linux.h: the epoll driver's state, and what its files share: epoll_linux.c has the rings
 * and the turn, epoll_table_linux.c the descriptors and the ops that wait on them,
 * epoll_ops_linux.c what each op does, epoll_buffers_linux.c what those do that take buffers.
 *
 * Memory. All of it is mapped by create. The two tables (descriptors, waiting ops) are mapped for
 * the most there can ever be and cost what is touched of them. Completions that find no room in the
 * ring go to a second one of the same length; when that is nearly full, nothing more is consumed or
 * taken from the kernel, so it never overflows.
 *
 * Sockets stay blocking, as the io_uring driver needs them: sends and receives say MSG_DONTWAIT,
 * connect(2) is made non-blocking for the call. Only a listener becomes O_NONBLOCK, at its first
 * accept, and stays so: accept4(2) has no flag for it, and readiness may be gone by the time of the
 * call.
 */
#ifndef VELOQ_CSRC_EPOLL_LINUX_H
#define VELOQ_CSRC_EPOLL_LINUX_H

#include "platform.h"

#include <limits.h>

/* What an op waits for; also the queue it is in. */
typedef enum vq__epoll_queue {
	VQ__QUEUE_NONE,
	VQ__QUEUE_IN,    /* of a descriptor: data, or a connection */
	VQ__QUEUE_OUT,   /* of a descriptor: room, or to be connected */
	VQ__QUEUE_POLL,  /* of a descriptor: events */
	VQ__QUEUE_TIMER, /* its deadline */
	VQ__QUEUE_LINK,  /* the op before it in its chain */
	VQ__QUEUE_START, /* nothing: its turn is next */
} vq__epoll_queue;

/* An op that is not over. Indices into vq__epoll.ops; 0 is none. */
typedef struct vq__epoll_op {
	uint64_t user_data;
	uint64_t addr;
	uint64_t off; /* of a timer: when, on CLOCK_MONOTONIC in nanoseconds */
	uint32_t len;
	uint32_t op_flags;
	uint32_t done; /* bytes moved so far */
	int32_t fd;
	uint8_t opcode;
	uint8_t flags; /* VQ_SQE_* */
	uint16_t mode;
	uint16_t buf_group;
	uint8_t queue; /* vq__epoll_queue */
	bool canceled; /* before it could start */
	uint32_t next; /* in its queue, or in the free list */
	uint32_t hash_next;
	uint32_t link; /* what starts when this one has succeeded */
	uint32_t reserved;
} vq__epoll_op;
_Static_assert(sizeof(vq__epoll_op) <= 80, "one or two cache lines");

/* A descriptor, as far as the driver knows it. All zero: never seen. */
typedef struct vq__epoll_fd {
	uint32_t generation; /* of its registration: tells a stale event */
	uint32_t queues[3];  /* first op of VQ__QUEUE_IN, OUT, POLL, from 0 */
	uint32_t ready_next; /* descriptor + 1 on the ready list */
	uint32_t events;     /* reported, and not yet shown to the polls */
	bool registered;
	bool in_ready;  /* a receive may find something */
	bool out_ready; /* a send may find room */
	bool in_doubt;  /* a receive that came back short does not mean that it found all */
	bool is_tcp;
	bool kind_known;
	bool queued; /* on the ready list */
} vq__epoll_fd;
_Static_assert(sizeof(vq__epoll_fd) <= 32, "two to a cache line");

/* What the owner's view points at. */
typedef struct vq__epoll_words {
	_Alignas(VQ_CACHE_LINE) uint32_t sq_head;
	uint32_t sq_flags;
	_Alignas(VQ_CACHE_LINE) uint32_t cq_head;
	_Alignas(VQ_CACHE_LINE) uint32_t cq_tail;
} vq__epoll_words;

/*
 * A buffer group. What the owner offers goes onto a stack: the buffer that came back last is still
 * in the cache, where a ring would walk through all of their memory.
 */
typedef struct vq__epoll_group {
	vq_buf *ring;
	uint8_t *memory;
	uint16_t *free;
	uint32_t free_count;
	uint32_t used;  /* bytes of the top one that completions gave out */
	uint32_t count; /* of all its buffers */
	uint32_t size_bytes;
	uint16_t head; /* of the ring */
	bool incremental;
} vq__epoll_group;

typedef struct vq__epoll {
	vq_driver base;
	vq_doorbell doorbell;
	vq_timespec timespec;
	int epoll_fd;
	int timer_fd;
	bool doorbell_ready;

	/* Rings: submissions, completions, and completions that found no room. */
	vq__epoll_words *words;
	vq_sqe *sqes;
	vq_cqe *cqes;
	vq_cqe *kept;
	uint32_t kept_head;
	uint32_t kept_tail;
	uint32_t kept_entries;

	vq__epoll_group buffers;
	vq__epoll_group packets; /* count 0: none */

	vq__epoll_fd *fds;
	uint32_t fd_count;
	uint32_t ready_head; /* descriptor + 1 */
	uint32_t ready_tail;

	vq__epoll_op *ops;
	uint32_t op_count;
	uint32_t op_used; /* ops above were never touched */
	uint32_t op_free;
	uint32_t *hash;
	uint32_t start_head;
	uint32_t start_tail;

	uint32_t timer_head;  /* ordered by deadline */
	uint64_t timer_armed; /* deadline that the timerfd has; 0: none, or it has fired */
	bool timer_due;

	/* The chain that is being submitted. */
	uint32_t chain_last; /* its last op, when that one is not over */
	bool chain_open;     /* the submission before had VQ_SQE_LINK */
	bool chain_failed;

	int64_t budget_bytes; /* to move before the owner gets its turn */
} vq__epoll;

extern const vq__driver_ops vq__epoll_ops;

enum {
	VQ__HASH_SIZE = 1 << 16,
	/* Completions that one step may post: a canceled op's own and the cancel's answer. */
	VQ__STEP_COMPLETIONS = 4,
	/* What vq__epoll_start answers for an op that is not over. */
	VQ__WAITS = INT_MIN,
};

/* ---- epoll_linux.c */

/* How many completions a step may post; whether it may post at all. */
uint32_t vq__epoll_room_count(const vq__epoll *e);
static inline bool vq__epoll_room(const vq__epoll *e)
{
	return vq__epoll_room_count(e) >= VQ__STEP_COMPLETIONS;
}
void vq__epoll_post(vq__epoll *e, uint64_t user_data, int32_t res, uint32_t flags);

/* ---- epoll_table_linux.c */

/*
 * The entry of a descriptor, or NULL for a number that can't be one.
 */
static inline vq__epoll_fd *vq__epoll_entry(const vq__epoll *e, int32_t fd)
{
	return fd >= 0 && (uint32_t)fd < e->fd_count ? &e->fds[fd] : NULL;
}

int vq__epoll_tables_init(vq__epoll *e);
void vq__epoll_tables_deinit(vq__epoll *e);

/* Takes a copy of an op into the table, findable by its token. 0: the table is full. */
uint32_t vq__epoll_keep(vq__epoll *e, const vq__epoll_op *op);

/* The op of that token, or 0. */
uint32_t vq__epoll_find(const vq__epoll *e, uint64_t user_data);

/* Makes an op of the table wait in a queue. Returns 0, or a negative error with the op in none. */
int vq__epoll_wait_in(vq__epoll *e, uint32_t index, vq__epoll_queue queue);

/* Takes it out of the queue it is in. */
void vq__epoll_unqueue(vq__epoll *e, uint32_t index);

/*
 * Ends an op of the table that is in no queue: posts its terminal completion, unless that is to be
 * skipped, frees it, and starts or cancels what is linked to it.
 */
void vq__epoll_finish(vq__epoll *e, uint32_t index, int32_t res, uint32_t flags);

/* The same for an op that never came into the table. */
void vq__epoll_finish_inline(vq__epoll *e, const vq__epoll_op *op, int32_t res, uint32_t flags);

/* Whether res is all that the op was asked for. */
bool vq__epoll_succeeded(const vq__epoll_op *op, int32_t res);

/* Starts a chain's next op, or cancels the chain, from the next run on. */
void vq__epoll_start_later(vq__epoll *e, uint32_t index, bool canceled);

/* Has the next run look at the descriptor. */
void vq__epoll_make_ready(vq__epoll *e, int32_t fd);

/* Takes what epoll_wait(2) said of a descriptor. */
void vq__epoll_note(vq__epoll *e, uint64_t data, uint32_t events);

/* Forgets a descriptor that is about to be closed; what waits on it is canceled. */
void vq__epoll_forget(vq__epoll *e, int32_t fd);

/* ---- epoll_ops_linux.c */

/*
 * Does what can be done of an op at once. Returns its result, or VQ__WAITS with *queue set to where
 * the op must go.
 */
int32_t vq__epoll_start(vq__epoll *e, vq__epoll_op *op, vq__epoll_queue *queue);

/*
 * Goes on with the ops of a descriptor that is ready, for a fair share.
 */
void vq__epoll_serve(vq__epoll *e, int32_t fd);

/* Ends an op that waits: with what it has moved, or -VQ_ECANCELED. */
void vq__epoll_cancel(vq__epoll *e, uint32_t index);

/* Programs the timerfd for the earliest deadline; completes what has expired. */
void vq__epoll_arm_timer(vq__epoll *e);
void vq__epoll_expire(vq__epoll *e);

/* ---- epoll_buffers_linux.c */

/* The group of that number, NULL for a number that can't be one. */
vq__epoll_group *vq__epoll_group_of(vq__epoll *e, uint16_t id);

/*
 * Goes on with a receive that takes buffers. False: nothing is there.
 */
bool vq__epoll_receive_select(vq__epoll *e, uint32_t index);

#endif
