/*
 * uring_translate_linux.c: the rings and the turn of a translated io_uring driver: how the owner's
 * submissions become steps in the kernel's ring, and the kernel's completions the owner's.
 */
#define _GNU_SOURCE
#include "pages_linux.h"
#include "uring_translate_linux.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* Tokens of steps that are no op's: index 0 is nobody's place. */
#define TOKEN_WATCH UINT64_C(0)
#define TOKEN_END   (UINT64_C(1) << 32) /* a CANCEL at the driver's end */
#define TOKEN_LATE  (UINT64_C(2) << 32) /* the TIMEOUT of the driver's end */

/* System calls of an enter while sockets have more for it: a buffer of each for each call. */
#define ROUNDS_MAX 8u

/* ---- the two rings */

void vq__translate_post(vq__translate *t, uint64_t user_data, int32_t res, uint32_t flags)
{
	uint32_t tail = t->words->cq_tail;

	VQ_ASSERT(vq__translate_room(t) > 0);
	t->cqes[tail & (t->cq_entries - 1)] =
		(vq_cqe){ .user_data = user_data, .res = res, .flags = flags };
	/* release: pairs with the owner's acquire of the tail; the entry is written */
	__atomic_store_n(&t->words->cq_tail, tail + 1, __ATOMIC_RELEASE);
}

vq_sqe *vq__translate_entry(vq__translate *t, uint64_t token)
{
	uint32_t at = t->steps_tail++ & (t->sq_entries - 1);
	vq_sqe *entry = (vq_sqe *)t->uring->ring.sq.sqes + at;

	t->taken_before[at] = t->taken;
	memset(entry, 0, sizeof(*entry));
	entry->user_data = token;
	return entry;
}

/* Steps that the kernel has not consumed. */
static uint32_t unsubmitted(const vq__translate *t)
{
	return t->sq_entries - vq__translate_entries_free(t);
}

/* Shows the owner how far the kernel is: an op counts as consumed when its first step is. */
static void show_consumed(vq__translate *t)
{
	uint32_t left = unsubmitted(t);
	uint32_t head = t->taken;

	if (left != 0)
		head = t->taken_before[(t->steps_tail - left) & (t->sq_entries - 1)];
	/* release: pairs with the owner's acquire; the entries below it may be written anew */
	__atomic_store_n(&t->words->sq_head, head, __ATOMIC_RELEASE);
}

static uint32_t kernel_ready(const vq__translate *t)
{
	const struct io_uring_cq *cq = &t->uring->ring.cq;

	/* acquire: pairs with the kernel's release of the tail; the entries below are written */
	return __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE) - *cq->khead;
}

static bool kernel_flag(const vq__translate *t, uint32_t flag)
{
	/* relaxed: a hint, which carries no data */
	return (__atomic_load_n(t->uring->ring.sq.kflags, __ATOMIC_RELAXED) & flag) != 0;
}

/* ---- submissions */

static uint32_t send_bytes(const vq_sqe *sqe)
{
	const vq_msghdr *message = (const vq_msghdr *)(uintptr_t)sqe->addr;
	uint64_t total = 0;

	if (sqe->opcode == VQ_OP_SEND)
		return sqe->len;
	const vq_iovec *pieces = (const vq_iovec *)(uintptr_t)message->iov;
	for (uint64_t i = 0; i < message->iov_count; i++)
		total += pieces[i].len;
	/* More than one op can move never counts as all. */
	return total < UINT32_MAX ? (uint32_t)total : UINT32_MAX;
}

/* Takes what an op points at only while it is submitted, and what its end is compared with. */
static void note_memory(vq__uring_op *op)
{
	const vq_sqe *sqe = &op->sqe;
	uint64_t after = 0;

	if (sqe->opcode == VQ_OP_TIMEOUT)
		after = sqe->addr;
	else if (sqe->opcode == VQ_OP_TIMEOUT_UPDATE)
		after = sqe->off;
	if (after != 0)
		op->after = *(const vq_timespec *)(uintptr_t)after;
	if (sqe->opcode == VQ_OP_RECVMSG && (sqe->flags & VQ_SQE_BUFFER_SELECT) != 0) {
		const vq_msghdr *message = (const vq_msghdr *)(uintptr_t)sqe->addr;
		op->name_len = message->name_len;
		op->control_len = (uint32_t)message->control_len;
	}
	if ((sqe->flags & (VQ_SQE_SKIP_SUCCESS | VQ_SQE_LINK)) != 0 &&
	    (sqe->opcode == VQ_OP_SEND || sqe->opcode == VQ_OP_SENDMSG))
		op->whole = send_bytes(sqe);
}

/*
 * The kernel orders a chain itself as far as its ops are one step each. From the first one that is
 * more on, the rest is held here.
 */
static void take_one(vq__translate *t, uint32_t index)
{
	vq__uring_op *op = &t->ops[index];
	bool links = (op->sqe.flags & VQ_SQE_LINK) != 0;

	if (!t->chain_open) {
		t->chain_last = 0;
		t->chain_failed = false;
	}
	op->linked = t->chain_open;
	op->step = (uint8_t)vq__emulate_first(t, &op->sqe);
	t->chain_open = links;
	if (t->chain_last != 0) {
		op->stage = VQ__STAGE_HELD;
		t->ops[t->chain_last].link = index;
		t->chain_last = index;
	} else if (op->linked && t->chain_failed) {
		op->canceled = true;
		vq__book_push(t, index, (vq__step)op->step);
		t->chain_last = links ? index : 0;
	} else {
		bool kernels = links && op->step == VQ__STEP_SELF;
		(void)vq__emulate_stage(t, index, kernels ? VQ_SQE_LINK : 0);
		t->chain_last = links && !kernels ? index : 0;
	}
}

/* How many submissions from the next one on are one chain. */
static uint32_t chain_length(const vq__translate *t, uint32_t sq_tail)
{
	uint32_t at = t->taken;

	while (at + 1 != sq_tail && (t->sqes[at & (t->sq_entries - 1)].flags & VQ_SQE_LINK) != 0)
		at++;
	return at + 1 - t->taken;
}

static void take(vq__translate *t, uint32_t sq_tail)
{
	while (t->taken != sq_tail) {
		uint32_t needed = t->chain_open ? 1 : chain_length(t, sq_tail);
		if (vq__translate_entries_free(t) < needed)
			return;
		const vq_sqe *sqe = &t->sqes[t->taken & (t->sq_entries - 1)];
		uint32_t index = vq__book_keep(t, sqe);
		if (index == 0) {
			if (vq__translate_room(t) == 0)
				return;
			vq__translate_post(t, sqe->user_data, -ENOMEM, 0);
			t->chain_open = (sqe->flags & VQ_SQE_LINK) != 0;
			t->chain_failed = true;
			t->taken++;
			continue;
		}
		note_memory(&t->ops[index]);
		take_one(t, index);
		t->taken++;
	}
	/* A chain ends with the enter that submits it. */
	t->chain_open = false;
	t->chain_last = 0;
}

/* ---- steps of ops that go on */

static void place_watch(vq__translate *t)
{
	if (t->watch_armed || t->watch_due || t->watched == 0 || vq__translate_entries_free(t) == 0)
		return;
	vq_sqe *entry = vq__translate_entry(t, TOKEN_WATCH);
	entry->opcode = VQ_OP_POLL;
	entry->fd = t->watch_fd;
	entry->op_flags = POLLIN;
	t->watch_armed = true;
}

/* Stages the steps of those that are ready, once round the list. */
static void place_ready(vq__translate *t)
{
	t->cut_short = false;
	for (uint32_t left = t->ready_count; left > 0; left--) {
		vq__uring_op *op = &t->ops[t->ready_head];
		if (op->canceled ? vq__translate_room(t) == 0
				 : vq__translate_entries_free(t) == 0) {
			t->cut_short = true;
			return;
		}
		uint32_t index = vq__book_pop(t);
		if (op->canceled) {
			vq__emulate_finish(t, index, -ECANCELED, 0);
		} else if (!vq__emulate_stage(t, index, 0)) {
			/* Those that are moving may bring a buffer back. */
			if (t->moving > 0 || vq__translate_room(t) == 0)
				vq__book_push(t, index, VQ__STEP_MOVE);
			else if (!op->readable)
				vq__book_push(t, index, VQ__STEP_WAIT);
			else
				vq__emulate_finish(t, index, -ENOBUFS, 0);
		}
	}
}

/* ---- completions */

static void collect(vq__translate *t)
{
	struct io_uring_cq *cq = &t->uring->ring.cq;
	uint32_t mask = *cq->kring_mask;

	while (kernel_ready(t) > 0 && vq__translate_room(t) > 0) {
		const struct io_uring_cqe cqe = cq->cqes[*cq->khead & mask];
		/* release: pairs with the kernel's acquire before it writes the entry anew */
		__atomic_store_n(cq->khead, *cq->khead + 1, __ATOMIC_RELEASE);
		if (cqe.user_data == TOKEN_WATCH) {
			t->watch_armed = false;
			t->watch_due = true;
		} else {
			vq__emulate_completed(t, vq__book_of_token(t, cqe.user_data), &cqe);
		}
	}
	vq__emulate_watch(t);
}

/* Frees the places of quiet ops once all they had to say has been read. */
static void forget_quiet(vq__translate *t)
{
	if (t->quiet_head == 0 || unsubmitted(t) > 0 || kernel_ready(t) > 0 ||
	    kernel_flag(t, VQ_SQ_CQ_OVERFLOW))
		return;
	while (t->quiet_head != 0) {
		uint32_t index = t->quiet_head;
		t->quiet_head = t->ops[index].next;
		vq__book_free(t, index);
	}
}

/* ---- the turn */

/* Whether completions wait for room in the owner's ring. */
static bool is_blocked(const vq__translate *t)
{
	return kernel_ready(t) > 0 || t->watch_due || kernel_flag(t, VQ_SQ_CQ_OVERFLOW) ||
	       (t->ready_count > 0 && vq__translate_room(t) == 0);
}

static bool has_work(const vq__translate *t)
{
	return t->ready_count > 0 || unsubmitted(t) > 0 || kernel_flag(t, VQ_SQ_TASKRUN);
}

/* One io_uring_enter(2) with all that can be staged. Returns 1, 0 to end the call, or an error. */
static int cross(vq__translate *t, uint32_t sq_tail, uint32_t wait_count)
{
	place_watch(t);
	/* As in the kernel, what is submitted comes before what goes on by itself. */
	take(t, sq_tail);
	place_ready(t);
	bool wait = vq__translate_ready(t) < wait_count && t->taken == sq_tail &&
		    t->ready_count == 0 && kernel_ready(t) == 0 && !t->watch_due;
	int rc = vq__uring_enter(&t->uring->base, t->steps_tail, wait ? 1 : 0);
	if (rc < 0)
		return rc;
	bool heard = kernel_ready(t) > 0;
	collect(t);
	forget_quiet(t);
	/* Interrupted, refused, or stopped half-way: the owner looks, and comes again. */
	return unsubmitted(t) == 0 && (heard || !wait) ? 1 : 0;
}

static int translated_enter(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count)
{
	vq__translate *t = ((vq__uring *)driver)->translate;
	uint32_t consumed = t->words->sq_head;
	int rc = 1;

	for (uint32_t rounds = 0; rc == 1; rounds++) {
		uint32_t taken = t->taken;
		rc = cross(t, sq_tail, wait_count);
		uint32_t ready = vq__translate_ready(t);
		if (vq__translate_room(t) == 0)
			break;
		/* What the submissions left no place for has its turn too. */
		if ((t->taken != sq_tail && t->taken != taken) || t->cut_short)
			continue;
		if (ready >= wait_count && (t->urgent == 0 || rounds >= ROUNDS_MAX))
			break;
	}
	show_consumed(t);
	uint32_t flags =
		(is_blocked(t) ? VQ_SQ_CQ_OVERFLOW : 0) | (has_work(t) ? VQ_SQ_TASKRUN : 0);
	if (flags != t->words->sq_flags)
		__atomic_store_n(&t->words->sq_flags, flags, __ATOMIC_RELAXED);
	return rc < 0 ? rc : (int)(t->words->sq_head - consumed);
}

/* ---- creating and destroying */

static size_t sqes_bytes(const vq__translate *t)
{
	return (size_t)t->sq_entries * sizeof(*t->sqes);
}

static size_t cqes_bytes(const vq__translate *t)
{
	return (size_t)t->cq_entries * sizeof(*t->cqes);
}

static size_t before_bytes(const vq__translate *t)
{
	return (size_t)t->sq_entries * sizeof(*t->taken_before);
}

static void unmap(void *mem, size_t size_bytes)
{
	if (mem != NULL)
		munmap(mem, size_bytes);
}

static void release(vq__translate *t)
{
	if (t->watch_fd >= 0)
		close(t->watch_fd);
	vq__book_deinit(t);
	unmap(t->taken_before, before_bytes(t));
	unmap(t->cqes, cqes_bytes(t));
	unmap(t->sqes, sqes_bytes(t));
	unmap(t->words, sizeof(*t->words));
	munmap(t, sizeof(*t));
}

static void fill_view(vq__translate *t)
{
	vq_driver_view *view = &t->uring->base.view;

	view->sqes = t->sqes;
	view->sq_head = &t->words->sq_head;
	view->sq_flags = &t->words->sq_flags;
	view->sq_ring_tail = NULL; /* what is staged is not the ring's */
	view->cqes = t->cqes;
	view->cq_head = &t->words->cq_head;
	view->cq_tail = &t->words->cq_tail;
}

static int map_memory(vq__translate *t)
{
	t->words = vq__map_pages(sizeof(*t->words));
	t->sqes = vq__map_pages(sqes_bytes(t));
	t->cqes = vq__map_pages(cqes_bytes(t));
	t->taken_before = vq__map_pages(before_bytes(t));
	if (t->words == NULL || t->sqes == NULL || t->cqes == NULL || t->taken_before == NULL)
		return -ENOMEM;
	int rc = vq__book_init(t);
	if (rc != 0 || (t->emulated & VQ_CAP_POLL_MULTISHOT) == 0)
		return rc;
	t->watch_fd = epoll_create1(EPOLL_CLOEXEC);
	return t->watch_fd >= 0 ? 0 : -errno;
}

int vq__translate_create(vq__uring *u, vq_driver_report *report)
{
	const vq_driver_view *view = &u->base.view;
	vq__translate *t = vq__map_pages(sizeof(*t));

	if (t == NULL)
		return -ENOMEM;
	*t = (vq__translate){
		.uring = u,
		.emulated = report->emulated,
		.skips = (report->caps & VQ_CAP_SKIP_SUCCESS) != 0,
		.sq_entries = view->sq_entries,
		.cq_entries = view->cq_entries,
		.groups = { { .ring = view->buf_ring,
			      .base = view->buf_base,
			      .count = view->buffer_count,
			      .size_bytes = view->buffer_size_bytes },
			    { .ring = view->packet_ring,
			      .base = view->packet_base,
			      .count = view->packet_count,
			      .size_bytes = view->packet_size_bytes } },
		.watch_fd = -1,
	};
	int rc = map_memory(t);
	if (rc != 0) {
		release(t);
		return rc;
	}
	fill_view(t);
	u->translate = t;
	u->base.ops = &vq__uring_translated_ops;
	return 0;
}

/* ---- the end */

/*
 * Reads what is there without telling the owner, who is gone; nobody else would close a socket that
 * was accepted meanwhile. Returns how many steps ended, and whether time is up.
 */
static uint32_t drain(vq__translate *t, bool *late)
{
	struct io_uring_cq *cq = &t->uring->ring.cq;
	uint32_t ended = 0;

	while (kernel_ready(t) > 0) {
		const struct io_uring_cqe cqe = cq->cqes[*cq->khead & *cq->kring_mask];
		__atomic_store_n(cq->khead, *cq->khead + 1, __ATOMIC_RELEASE);
		*late = *late || cqe.user_data == TOKEN_LATE;
		if ((uint32_t)cqe.user_data == 0)
			continue;
		const vq__uring_op *op = &t->ops[vq__book_of_token(t, cqe.user_data)];
		if (op->sqe.opcode == VQ_OP_ACCEPT && cqe.res >= 0)
			close(cqe.res);
		ended += (cqe.flags & VQ_CQE_MORE) == 0 && op->stage == VQ__STAGE_KERNEL;
	}
	return ended;
}

/*
 * Ends all that is in the kernel and waits for it, since an op that ended only after the ring was
 * closed could still take bytes from a socket, or write to memory that is gone. Before 6.0 nothing
 * but a CANCEL for each does that. What can't be canceled (a close that lingers) is waited for
 * for a second.
 */
static void end_steps(vq__translate *t)
{
	const vq_timespec second = { .sec = 1 };
	uint32_t open = 0;
	uint32_t next = 1;
	bool late = false;
	bool timed = false;

	/* What was staged and never submitted does not begin. */
	for (uint32_t left = unsubmitted(t); left > 0; left--) {
		const vq_sqe *entry = (const vq_sqe *)t->uring->ring.sq.sqes +
				      (--t->steps_tail & (t->sq_entries - 1));
		if ((uint32_t)entry->user_data != 0)
			t->ops[(uint32_t)entry->user_data].stage = VQ__STAGE_FREE;
	}
	for (uint32_t i = 1; i < t->op_used; i++)
		open += t->ops[i].stage == VQ__STAGE_KERNEL;
	while (open > 0 && !late) {
		if (!timed) {
			vq_sqe *entry = vq__translate_entry(t, TOKEN_LATE);
			entry->opcode = VQ_OP_TIMEOUT;
			entry->addr = (uint64_t)(uintptr_t)&second;
			entry->len = 1;
			timed = true;
		}
		for (; next < t->op_used && vq__translate_entries_free(t) > 0; next++) {
			if (t->ops[next].stage != VQ__STAGE_KERNEL)
				continue;
			vq_sqe *entry = vq__translate_entry(t, TOKEN_END);
			entry->opcode = VQ_OP_CANCEL;
			entry->fd = -1;
			entry->addr = vq__book_token(t, next);
		}
		if (vq__uring_enter(&t->uring->base, t->steps_tail, next < t->op_used ? 0 : 1) < 0)
			return;
		open -= drain(t, &late);
	}
}

static void translated_destroy(vq_driver *driver)
{
	vq__uring *u = (vq__uring *)driver;
	vq__translate *t = u->translate;

	u->enter = vq__uring_enter_syscall;
	end_steps(t);
	release(t);
	u->translate = NULL;
	vq__uring_destroy(driver);
}

const vq__driver_ops vq__uring_translated_ops = {
	.kind = VQ_DRIVER_URING,
	.destroy = translated_destroy,
	.enter = translated_enter,
	.prep_wake = vq__uring_prep_wake,
};
