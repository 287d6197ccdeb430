/*
 * epoll_table_linux.c: the epoll driver's book: which descriptors it knows, which ops wait for
 * what, and how they end.
 */
#define _GNU_SOURCE
#include "epoll_linux.h"
#include "pages_linux.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>

/* A receive and a send each, and some more. */
#define OPS_PER_FD 3u

#define EVENTS_IN  (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)
#define EVENTS_OUT (EPOLLOUT | EPOLLHUP | EPOLLERR)
/* After these a short receive may have stopped before the end, an error, or at urgent data. */
#define EVENTS_DOUBT (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)

static size_t ops_bytes(const vq__epoll *e)
{
	return (size_t)e->op_count * sizeof(vq__epoll_op);
}

int vq__epoll_tables_init(vq__epoll *e)
{
	/* Address space may be limited: then fewer must do. */
	for (e->fd_count = vq__fd_count_wanted(); e->fd_count >= 1024; e->fd_count /= 2) {
		e->op_count = e->fd_count * OPS_PER_FD;
		e->fds = vq__map_sparse((size_t)e->fd_count * sizeof(*e->fds));
		e->ops = vq__map_sparse(ops_bytes(e));
		e->hash = vq__map_sparse(VQ__HASH_SIZE * sizeof(*e->hash));
		if (e->fds != NULL && e->ops != NULL && e->hash != NULL) {
			e->op_used = 1; /* 0 is none */
			return 0;
		}
		vq__epoll_tables_deinit(e);
	}
	return -VQ_ENOMEM;
}

void vq__epoll_tables_deinit(vq__epoll *e)
{
	if (e->fds != NULL)
		munmap(e->fds, (size_t)e->fd_count * sizeof(*e->fds));
	if (e->ops != NULL)
		munmap(e->ops, ops_bytes(e));
	if (e->hash != NULL)
		munmap(e->hash, VQ__HASH_SIZE * sizeof(*e->hash));
	e->fds = NULL;
	e->ops = NULL;
	e->hash = NULL;
}

static uint32_t *bucket(const vq__epoll *e, uint64_t user_data)
{
	return &e->hash[(user_data * UINT64_C(0x9E3779B97F4A7C15)) >> 48];
}
_Static_assert(VQ__HASH_SIZE == 1 << 16, "bucket takes 16 bits of the product");

uint32_t vq__epoll_keep(vq__epoll *e, const vq__epoll_op *op)
{
	uint32_t index = e->op_free;

	if (index != 0)
		e->op_free = e->ops[index].next;
	else if (e->op_used < e->op_count)
		index = e->op_used++;
	else
		return 0;
	uint32_t *head = bucket(e, op->user_data);
	e->ops[index] = *op;
	e->ops[index].hash_next = *head;
	*head = index;
	return index;
}

uint32_t vq__epoll_find(const vq__epoll *e, uint64_t user_data)
{
	uint32_t index = *bucket(e, user_data);

	while (index != 0 && e->ops[index].user_data != user_data)
		index = e->ops[index].hash_next;
	return index;
}

static void op_free(vq__epoll *e, uint32_t index)
{
	uint32_t *at = bucket(e, e->ops[index].user_data);

	while (*at != index)
		at = &e->ops[*at].hash_next;
	*at = e->ops[index].hash_next;
	e->ops[index].next = e->op_free;
	e->op_free = index;
}

static uint32_t *queue_head(vq__epoll *e, const vq__epoll_op *op)
{
	switch (op->queue) {
	case VQ__QUEUE_IN:
	case VQ__QUEUE_OUT:
	case VQ__QUEUE_POLL:
		return &e->fds[op->fd].queues[op->queue - VQ__QUEUE_IN];
	case VQ__QUEUE_TIMER:
		return &e->timer_head;
	case VQ__QUEUE_START:
		return &e->start_head;
	default:
		return NULL;
	}
}

/*
 * Makes sure that epoll reports on fd. While an op waits, the registration is known to be that of
 * the same socket, since nobody may close it then. Before the first one it is asked for again: the
 * number may have been closed elsewhere, and be another socket's by now.
 */
static int ensure_registered(vq__epoll *e, int32_t fd, vq__epoll_fd *entry)
{
	if (entry->registered &&
	    (entry->queues[0] != 0 || entry->queues[1] != 0 || entry->queues[2] != 0))
		return 0;
	uint32_t generation = entry->generation + 1;
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET,
		.data.u64 = (uint64_t)generation << 32 | (uint32_t)fd,
	};
	if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return errno == EEXIST && entry->registered ? 0 : -errno;
	/* What is ready now comes as an event: no need to try. */
	bool queued = entry->queued;
	uint32_t ready_next = entry->ready_next;
	*entry = (vq__epoll_fd){
		.generation = generation,
		.registered = true,
		.queued = queued,
		.ready_next = ready_next,
	};
	return 0;
}

static void append(vq__epoll *e, uint32_t *head, uint32_t index)
{
	while (*head != 0)
		head = &e->ops[*head].next;
	*head = index;
	e->ops[index].next = 0;
}

static void insert_timer(vq__epoll *e, uint32_t index)
{
	uint32_t *at = &e->timer_head;

	/* A list: the owner has one timer, and its own wheel above it. */
	while (*at != 0 && e->ops[*at].off <= e->ops[index].off)
		at = &e->ops[*at].next;
	e->ops[index].next = *at;
	*at = index;
}

/* What a poll must be told at once: registered anew, it would hear; else only of what changes. */
static void poll_now(vq__epoll *e, int32_t fd, uint32_t generation)
{
	if (e->fds[fd].generation != generation)
		return;
	struct pollfd now = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP };
	if (poll(&now, 1, 0) == 1) {
		e->fds[fd].events |= (uint16_t)now.revents;
		vq__epoll_make_ready(e, fd);
	}
}

int vq__epoll_wait_in(vq__epoll *e, uint32_t index, vq__epoll_queue queue)
{
	vq__epoll_op *op = &e->ops[index];

	op->queue = VQ__QUEUE_NONE;
	if (queue == VQ__QUEUE_TIMER) {
		op->queue = (uint8_t)queue;
		insert_timer(e, index);
		return 0;
	}
	vq__epoll_fd *entry = vq__epoll_entry(e, op->fd);
	if (entry == NULL)
		return -VQ_EBADF;
	uint32_t generation = entry->generation;
	int rc = ensure_registered(e, op->fd, entry);
	if (rc != 0)
		return rc;
	op->queue = (uint8_t)queue;
	append(e, queue_head(e, op), index);
	switch (queue) {
	case VQ__QUEUE_IN:
		/* A listener may say at once that it is none, which is no event. */
		if (op->opcode == VQ_OP_ACCEPT)
			entry->in_ready = true;
		if (entry->in_ready)
			vq__epoll_make_ready(e, op->fd);
		break;
	case VQ__QUEUE_OUT:
		/* It was tried, and what changed since comes as an event; unless it is not first.
		 */
		if (e->ops[index].next == 0 && *queue_head(e, op) == index)
			entry->out_ready = false;
		break;
	default:
		poll_now(e, op->fd, generation);
		break;
	}
	return 0;
}

void vq__epoll_unqueue(vq__epoll *e, uint32_t index)
{
	vq__epoll_op *op = &e->ops[index];
	uint32_t *at = queue_head(e, op);
	uint32_t last = 0;

	if (at == NULL)
		return;
	while (*at != index) {
		last = *at;
		at = &e->ops[*at].next;
	}
	*at = op->next;
	if (op->queue == VQ__QUEUE_START && e->start_tail == index)
		e->start_tail = last;
	op->queue = VQ__QUEUE_NONE;
}

bool vq__epoll_succeeded(const vq__epoll_op *op, int32_t res)
{
	if (res < 0)
		return false;
	bool sends = op->opcode == VQ_OP_SEND || op->opcode == VQ_OP_SENDMSG;
	return !sends || (uint32_t)res == op->len;
}

void vq__epoll_start_later(vq__epoll *e, uint32_t index, bool canceled)
{
	e->ops[index].canceled = e->ops[index].canceled || canceled;
	e->ops[index].queue = VQ__QUEUE_START;
	e->ops[index].next = 0;
	if (e->start_tail != 0)
		e->ops[e->start_tail].next = index;
	else
		e->start_head = index;
	e->start_tail = index;
}

void vq__epoll_finish_inline(vq__epoll *e, const vq__epoll_op *op, int32_t res, uint32_t flags)
{
	if ((op->flags & VQ_SQE_SKIP_SUCCESS) == 0 || !vq__epoll_succeeded(op, res))
		vq__epoll_post(e, op->user_data, res, flags);
}

void vq__epoll_finish(vq__epoll *e, uint32_t index, int32_t res, uint32_t flags)
{
	vq__epoll_op *op = &e->ops[index];

	vq__epoll_finish_inline(e, op, res, flags);
	bool failed = !vq__epoll_succeeded(op, res);
	if (op->link != 0)
		vq__epoll_start_later(e, op->link, failed);
	if (e->chain_last == index) {
		/* The rest of the chain is still being submitted. */
		e->chain_last = 0;
		e->chain_failed = failed;
	}
	op_free(e, index);
}

void vq__epoll_make_ready(vq__epoll *e, int32_t fd)
{
	vq__epoll_fd *entry = &e->fds[fd];

	if (entry->queued)
		return;
	entry->queued = true;
	entry->ready_next = 0;
	if (e->ready_tail != 0)
		e->fds[e->ready_tail - 1].ready_next = (uint32_t)fd + 1;
	else
		e->ready_head = (uint32_t)fd + 1;
	e->ready_tail = (uint32_t)fd + 1;
}

void vq__epoll_note(vq__epoll *e, uint64_t data, uint32_t events)
{
	int32_t fd = (int32_t)(uint32_t)data;
	vq__epoll_fd *entry = &e->fds[fd];

	/* Of an earlier socket with this number, which somebody else keeps open. */
	if (!entry->registered || entry->generation != (uint32_t)(data >> 32))
		return;
	if (entry->queues[0] == 0 && entry->queues[1] == 0 && entry->queues[2] == 0) {
		/* Nobody waits: do not be woken again for it. The next op asks anew. */
		(void)epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		entry->registered = false;
		return;
	}
	if ((events & EVENTS_IN) != 0)
		entry->in_ready = true;
	if ((events & EVENTS_OUT) != 0)
		entry->out_ready = true;
	if ((events & EVENTS_DOUBT) != 0)
		entry->in_doubt = true;
	if (entry->queues[VQ__QUEUE_POLL - VQ__QUEUE_IN] != 0)
		entry->events |= events;
	else if ((entry->queues[0] == 0 || !entry->in_ready) &&
		 (entry->queues[1] == 0 || !entry->out_ready))
		return;
	vq__epoll_make_ready(e, fd);
}

void vq__epoll_forget(vq__epoll *e, int32_t fd)
{
	vq__epoll_fd *entry = vq__epoll_entry(e, fd);

	if (entry == NULL || !entry->registered)
		return;
	for (uint32_t i = 0; i < 3; i++) {
		while (entry->queues[i] != 0) {
			uint32_t index = entry->queues[i];
			vq__epoll_unqueue(e, index);
			vq__epoll_start_later(e, index, true);
		}
	}
	/* Closing does this too, but not where a copy of the descriptor lives on. */
	(void)epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	entry->registered = false;
	entry->in_ready = false;
	entry->out_ready = false;
	entry->events = 0;
}
