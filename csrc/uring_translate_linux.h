/*
 * uring_translate_linux.h: the state of an io_uring driver on a kernel that lacks a repeating op or
 * the buffer ring, and what its files share: uring_translate_linux.c has the rings and the turn,
 * uring_book_linux.c the ops and the free buffers, uring_emulate_linux.c what each op is made of.
 *
 * The owner sees rings in private memory. Each op that it stages gets a place in the book and, one
 * at a time, steps in the kernel's ring, whose token is the place and its generation. Most ops are
 * one step: themselves. What the kernel can't do is several:
 *
 *   RECV into the buffer group   POLL until there is data, then RECV (MSG_DONTWAIT) into a buffer
 *                                that is picked only now; multishot: over again.
 *   RECVMSG into packets         the same, and what its buffer begins with is written here.
 *   ACCEPT, multishot            ACCEPT, over and over.
 *   POLL, multishot              an entry of an epoll instance, edge-triggered as the kernel's own
 *                                is; one POLL waits on that instance for all of them.
 *   SHUTDOWN                     shutdown(2), which never blocks.
 *   TIMEOUT_UPDATE               TIMEOUT_REMOVE, and the timer's own TIMEOUT again.
 *
 * Every step has one completion. It is read only when the owner's ring has room for what it may
 * yield: the rest waits in the kernel, which loses none.
 */
#ifndef VELOQ_CSRC_URING_TRANSLATE_LINUX_H
#define VELOQ_CSRC_URING_TRANSLATE_LINUX_H

#include "uring_linux.h"

/* The capabilities whose lack translation makes up for. */
#define VQ__CAPS_EMULATED                                                                     \
	((uint32_t)(VQ_CAP_ACCEPT_MULTISHOT | VQ_CAP_RECV_MULTISHOT | VQ_CAP_POLL_MULTISHOT | \
		    VQ_CAP_BUFFER_RING | VQ_CAP_SHUTDOWN | VQ_CAP_TIMEOUT_UPDATE))

/* Where an op is. */
typedef enum vq__stage {
	VQ__STAGE_FREE,    /* a place without an op */
	VQ__STAGE_HELD,    /* behind an op of its chain that is not over */
	VQ__STAGE_READY,   /* in the list of ops that want a step; vq__step says which */
	VQ__STAGE_KERNEL,  /* its step is in the kernel, or staged for it */
	VQ__STAGE_WATCHED, /* in the epoll instance */
	VQ__STAGE_QUIET,   /* in the kernel, which answers within the call or not at all */
	VQ__STAGE_ENDED,   /* a quiet one that has answered */
} vq__stage;

/* What stands in the kernel for an op. */
typedef enum vq__step {
	VQ__STEP_SELF,   /* the op as it is */
	VQ__STEP_ACCEPT, /* one of a multishot ACCEPT */
	VQ__STEP_WAIT,   /* POLL, for data */
	VQ__STEP_MOVE,   /* RECV or RECVMSG into the op's buffer */
	VQ__STEP_WATCH,  /* NOP; then it is watched */
	VQ__STEP_CALL,   /* NOP; then its system call is made, or it is refused */
	VQ__STEP_REMOVE, /* TIMEOUT_REMOVE, of a TIMEOUT_UPDATE */
} vq__step;

/* An op that is not over. Indices into vq__translate.ops; 0 is none. */
typedef struct vq__uring_op {
	vq_sqe sqe;        /* as the owner staged it */
	vq_timespec after; /* of a TIMEOUT that is moved: the new time */
	uint32_t generation;
	uint32_t next; /* in its list, or in the free list */
	uint32_t hash_next;
	uint32_t link;     /* what starts when this one has succeeded */
	uint32_t name_len; /* of a RECVMSG into packets: the space for each */
	uint32_t control_len;
	uint32_t whole;  /* of a send that success means something to: its bytes */
	uint16_t buffer; /* of a step MOVE */
	uint8_t stage;   /* vq__stage */
	uint8_t step;    /* vq__step */
	bool readable;   /* of a step MOVE: known, not hoped for */
	bool linked;     /* another op of its chain is before it */
	bool canceled;   /* it ends with what it is doing */
	bool certain;    /* a CANCEL of an op that ends by what this driver does */
	bool moved;      /* a TIMEOUT that starts again when its step is over */
} vq__uring_op;
_Static_assert(sizeof(vq__uring_op) <= 128, "two cache lines");

/* What the owner's view points at. */
typedef struct vq__uring_words {
	_Alignas(VQ_CACHE_LINE) uint32_t sq_head;
	uint32_t sq_flags;
	_Alignas(VQ_CACHE_LINE) uint32_t cq_head;
	_Alignas(VQ_CACHE_LINE) uint32_t cq_tail;
} vq__uring_words;

/* What one RECVMSG into a packet points at. */
typedef struct vq__uring_message {
	vq_msghdr header;
	vq_iovec piece;
} vq__uring_message;

/* A buffer group: the ring that the owner offers on, and a stack of what is free. */
typedef struct vq__picked_group {
	vq_buf *ring;
	uint8_t *base;
	uint16_t *free;
	uint32_t free_count;
	uint32_t count; /* 0: there is no such group */
	uint32_t size_bytes;
	uint16_t head; /* of the ring */
} vq__picked_group;

typedef struct vq__translate {
	vq__uring *uring;
	uint32_t emulated; /* VQ_CAP_* */
	bool skips;        /* the kernel knows SKIP_SUCCESS */

	/* The owner's rings, and where it is in the submissions. */
	vq__uring_words *words;
	vq_sqe *sqes;
	vq_cqe *cqes;
	uint32_t sq_entries;
	uint32_t cq_entries;
	uint32_t taken;

	/* The kernel's submissions: what is written, and `taken` before each entry was. */
	uint32_t steps_tail;
	uint32_t *taken_before;

	vq__picked_group groups[2];  /* by number: buffers, packets */
	vq__uring_message *messages; /* one for each packet */
	uint32_t moving;             /* steps MOVE in the kernel: a buffer each */

	vq__uring_op *ops;
	uint32_t op_count;
	uint32_t op_used; /* ops above were never touched */
	uint32_t op_free;
	uint32_t *hash;

	uint32_t ready_head;
	uint32_t ready_tail;
	uint32_t ready_count;
	uint32_t urgent; /* of them, those that will yield something at once */
	bool cut_short;  /* some of them found no place in the kernel's ring, or the owner's */
	uint32_t quiet_head;

	/* The chain that is being submitted. */
	uint32_t chain_last; /* the op that the next one waits for; 0: the kernel orders them */
	bool chain_open;     /* the submission before had VQ_SQE_LINK */
	bool chain_failed;

	int watch_fd; /* the epoll instance; -1 where the kernel has multishot POLL */
	uint32_t watched;
	bool watch_armed; /* its POLL is in the kernel */
	bool watch_due;   /* it has something to tell */
} vq__translate;

extern const vq__driver_ops vq__uring_translated_ops;

/* ---- uring_translate_linux.c */

/*
 * Makes a driver whose ring is set up and whose buffers are mapped a translated one.
 */
int vq__translate_create(vq__uring *u, vq_driver_report *report);

static inline uint32_t vq__translate_ready(const vq__translate *t)
{
	/* acquire: pairs with the owner's release of the head; it has read what that passed */
	return t->words->cq_tail - __atomic_load_n(&t->words->cq_head, __ATOMIC_ACQUIRE);
}

static inline uint32_t vq__translate_room(const vq__translate *t)
{
	return t->cq_entries - vq__translate_ready(t);
}

/* Posts a completion, for which there is room. */
void vq__translate_post(vq__translate *t, uint64_t user_data, int32_t res, uint32_t flags);

/* The next entry of the kernel's submissions, zeroed, with the token; there is room. */
vq_sqe *vq__translate_entry(vq__translate *t, uint64_t token);

static inline uint32_t vq__translate_entries_free(const vq__translate *t)
{
	/* acquire: pairs with the kernel's release; it has read what the head passed */
	return t->sq_entries -
	       (t->steps_tail - __atomic_load_n(t->uring->ring.sq.khead, __ATOMIC_ACQUIRE));
}

/* ---- uring_book_linux.c */

int vq__book_init(vq__translate *t);
void vq__book_deinit(vq__translate *t);

/* Takes an op into the book, findable by its token. 0: the book is full. */
uint32_t vq__book_keep(vq__translate *t, const vq_sqe *sqe);

/* The op of the owner's token, or 0. */
uint32_t vq__book_find(const vq__translate *t, uint64_t user_data);

/* The op of a step's token. */
uint32_t vq__book_of_token(const vq__translate *t, uint64_t token);

static inline uint64_t vq__book_token(const vq__translate *t, uint32_t index)
{
	return (uint64_t)t->ops[index].generation << 32 | index;
}

/* Takes an op out of the book; it is in no list. */
void vq__book_free(vq__translate *t, uint32_t index);

/* The list of ops that want a step: at its end, and the first out of it. */
void vq__book_push(vq__translate *t, uint32_t index, vq__step step);
uint32_t vq__book_pop(vq__translate *t);

/* A free buffer, or -1. */
int32_t vq__group_take(vq__picked_group *g);
void vq__group_return(vq__picked_group *g, uint16_t buffer);

/* ---- uring_emulate_linux.c */

/* How an op begins. */
vq__step vq__emulate_first(const vq__translate *t, const vq_sqe *sqe);

/*
 * Stages the op's step. There is room for it. False: there is no buffer for it.
 */
bool vq__emulate_stage(vq__translate *t, uint32_t index, uint8_t sqe_flags);

/* Goes on after a step. There is room for one completion. */
void vq__emulate_completed(vq__translate *t, uint32_t index, const struct io_uring_cqe *cqe);

/* Ends an op of the book that is in no list. There is room for one completion. */
void vq__emulate_finish(vq__translate *t, uint32_t index, int32_t res, uint32_t flags);

/* Passes on what the epoll instance says, as far as there is room. */
void vq__emulate_watch(vq__translate *t);

#endif
