/* epoll_ops_linux.c: what the epoll driver does for each op. */
#define _GNU_SOURCE
#include "epoll_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* The most that one call moves, as in the kernel (MAX_RW_COUNT). */
#define MOVE_BYTES_MAX 0x7ffff000u

/* Pieces of a gathered transfer that go over in one call after the first. */
#define PIECES_MAX 64

/* Of a descriptor, before the others have their turn. */
#define SHARE_BYTES  (64 << 10)
#define ACCEPT_BYTES 4096 /* what an accept counts for */

_Static_assert(sizeof(vq_msghdr) == sizeof(struct msghdr), "vq_msghdr is msghdr");
_Static_assert(sizeof(vq_iovec) == sizeof(struct iovec), "vq_iovec is iovec");
/* Flags and errors are passed on as they are. */
#define SAME(a, b) _Static_assert((unsigned int)(a) == (unsigned int)(b), #a " is " #b)
SAME(VQ_MSG_DONTWAIT, MSG_DONTWAIT);
SAME(VQ_MSG_WAITALL, MSG_WAITALL);
SAME(VQ_MSG_NOSIGNAL, MSG_NOSIGNAL);
SAME(VQ_SOCK_CLOEXEC, SOCK_CLOEXEC);
SAME(VQ_SHUT_WR, SHUT_WR);
SAME(VQ_EAGAIN, EAGAIN);
SAME(VQ_ETIME, ETIME);
SAME(VQ_ENOBUFS, ENOBUFS);
SAME(VQ_ECANCELED, ECANCELED);

static bool is_message(const vq__epoll_op *op)
{
	return op->opcode == VQ_OP_SENDMSG || op->opcode == VQ_OP_RECVMSG;
}

static void *memory(uint64_t addr)
{
	return (void *)(uintptr_t)addr;
}

/* ---- moving bytes */

/* Puts what is left of a gathered transfer into a header of its own. */
static void rest_of(const vq__epoll_op *op, struct msghdr *rest, struct iovec *pieces)
{
	const struct msghdr *whole = memory(op->addr);
	size_t skip = op->done;
	size_t left = op->len - op->done;
	size_t count = 0;

	for (size_t i = 0; i < whole->msg_iovlen && count < PIECES_MAX && left > 0; i++) {
		struct iovec piece = whole->msg_iov[i];
		if (skip >= piece.iov_len) {
			skip -= piece.iov_len;
			continue;
		}
		piece.iov_base = (char *)piece.iov_base + skip;
		piece.iov_len -= skip;
		skip = 0;
		if (piece.iov_len > left)
			piece.iov_len = left;
		left -= piece.iov_len;
		pieces[count++] = piece;
	}
	*rest = (struct msghdr){ .msg_iov = pieces, .msg_iovlen = count };
}

/* One call. Returns bytes or the negative errno. */
static int64_t move_once(const vq__epoll_op *op)
{
	int flags = (int)op->op_flags | MSG_DONTWAIT;
	struct iovec pieces[PIECES_MAX];
	struct msghdr rest;
	struct msghdr *message = memory(op->addr);
	ssize_t n;

	if (is_message(op) && op->done > 0) {
		rest_of(op, &rest, pieces);
		message = &rest;
	}
	switch (op->opcode) {
	case VQ_OP_SEND:
		n = send(op->fd, memory(op->addr + op->done), op->len - op->done, flags);
		break;
	case VQ_OP_SENDMSG:
		n = sendmsg(op->fd, message, flags);
		break;
	case VQ_OP_RECV:
		n = recv(op->fd, memory(op->addr + op->done), op->len - op->done, flags);
		break;
	default:
		n = recvmsg(op->fd, message, flags);
		break;
	}
	return n < 0 ? -errno : n;
}

/*
 * The bytes of an op into or out of its own memory, as far as they go; op->done counts them.
 * Returns its result, or VQ__WAITS.
 */
static int32_t move(vq__epoll *e, vq__epoll_op *op)
{
	bool receives = op->opcode == VQ_OP_RECV || op->opcode == VQ_OP_RECVMSG;
	bool all = !receives || (op->op_flags & VQ_MSG_WAITALL) != 0;

	for (;;) {
		int64_t n = move_once(op);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			return VQ__WAITS;
		if (n < 0)
			return op->done > 0 ? (int32_t)op->done : (int32_t)n;
		op->done += (uint32_t)n;
		e->budget_bytes -= n;
		if (!all || op->done >= op->len || (receives && n == 0))
			return (int32_t)op->done;
		/*
		 * Short: a socket that had no room for the rest has noted that somebody waits, and
		 * reports it; asking again would only hear so.
		 */
		if (op->opcode == VQ_OP_SEND ||
		    (op->opcode == VQ_OP_SENDMSG && op->done == (uint32_t)n))
			return VQ__WAITS;
	}
}

/* A gathered transfer's length is that of its pieces. */
static void measure(vq__epoll_op *op)
{
	uint64_t total = op->len;

	if (is_message(op)) {
		const struct msghdr *message = memory(op->addr);
		total = 0;
		for (size_t i = 0; i < message->msg_iovlen; i++)
			total += message->msg_iov[i].iov_len;
	}
	if (total > MOVE_BYTES_MAX) {
		/* The owner hears how far it came, even if that is all that one op can do. */
		total = MOVE_BYTES_MAX;
		op->flags &= (uint8_t)~VQ_SQE_SKIP_SUCCESS;
	}
	op->len = (uint32_t)total;
}

static int32_t start_send(vq__epoll *e, vq__epoll_op *op, vq__epoll_queue *queue)
{
	const vq__epoll_fd *entry = vq__epoll_entry(e, op->fd);
	bool quiet = (op->op_flags & VQ_MSG_DONTWAIT) != 0;

	if (entry == NULL)
		return -VQ_EBADF;
	measure(op);
	*queue = VQ__QUEUE_OUT;
	/* Behind another that waits. A quiet one goes at once: its owner sees to the order. */
	if (!quiet && entry->queues[VQ__QUEUE_OUT - VQ__QUEUE_IN] != 0)
		return VQ__WAITS;
	int32_t res = move(e, op);
	if (res == VQ__WAITS && quiet)
		return op->done > 0 ? (int32_t)op->done : -VQ_EAGAIN;
	return res;
}

static int32_t start_select(vq__epoll *e, vq__epoll_op *op)
{
	const vq__epoll_group *group = vq__epoll_group_of(e, op->buf_group);

	if (group == NULL)
		return -VQ_ENOBUFS;
	if (op->opcode == VQ_OP_RECV)
		return VQ__WAITS;
	const vq_msghdr *message = memory(op->addr);
	uint64_t header = sizeof(vq_recvmsg_out) + message->name_len + message->control_len;
	if ((op->mode & VQ_RECV_MULTISHOT) == 0 || group->incremental)
		return -VQ_EINVAL;
	return header <= group->size_bytes ? VQ__WAITS : -VQ_EFAULT;
}

static int32_t start_receive(vq__epoll *e, vq__epoll_op *op, vq__epoll_queue *queue)
{
	*queue = VQ__QUEUE_IN;
	if ((op->flags & VQ_SQE_BUFFER_SELECT) != 0)
		return start_select(e, op);
	measure(op);
	if ((op->op_flags & VQ_MSG_DONTWAIT) == 0)
		return VQ__WAITS;
	int32_t res = move(e, op);
	if (res == VQ__WAITS)
		return op->done > 0 ? (int32_t)op->done : -VQ_EAGAIN;
	return res;
}

/* ---- connections */

static int set_nonblocking(int fd, int *before)
{
	*before = fcntl(fd, F_GETFL);
	if (*before < 0)
		return -errno;
	if ((*before & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, *before | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

static int32_t start_accept(vq__epoll_op *op, vq__epoll_queue *queue)
{
	int before;
	int rc = set_nonblocking(op->fd, &before);

	*queue = VQ__QUEUE_IN;
	return rc != 0 ? rc : VQ__WAITS;
}

/* One accept. False: nobody is there. */
static bool accept_one(vq__epoll *e, uint32_t index)
{
	vq__epoll_op *op = &e->ops[index];
	bool multishot = (op->mode & VQ_ACCEPT_MULTISHOT) != 0;
	int fd = accept4(op->fd, NULL, NULL, (int)op->op_flags);

	if (fd < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR;
	e->budget_bytes -= ACCEPT_BYTES;
	if (fd >= 0 && multishot) {
		vq__epoll_post(e, op->user_data, fd, VQ_CQE_MORE);
		return true;
	}
	int32_t res = fd >= 0 ? fd : -errno;
	vq__epoll_unqueue(e, index);
	vq__epoll_finish(e, index, res, 0);
	return true;
}

static int32_t start_connect(vq__epoll_op *op, vq__epoll_queue *queue)
{
	int before;
	int rc = set_nonblocking(op->fd, &before);

	if (rc != 0)
		return rc;
	do {
		rc = connect(op->fd, memory(op->addr), (socklen_t)op->off) == 0 ? 0 : -errno;
	} while (rc == -EINTR);
	if ((before & O_NONBLOCK) == 0)
		(void)fcntl(op->fd, F_SETFL, before);
	*queue = VQ__QUEUE_OUT;
	return rc == -EINPROGRESS ? VQ__WAITS : rc;
}

/* How a connect ended that epoll has reported on; VQ__WAITS when it has not. */
static int32_t connect_result(const vq__epoll_op *op)
{
	int error = 0;
	socklen_t len = sizeof(error);
	struct sockaddr_storage peer;

	if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		return -errno;
	if (error != 0)
		return -error;
	len = sizeof(peer);
	if (getpeername(op->fd, (struct sockaddr *)&peer, &len) != 0)
		return errno == ENOTCONN ? VQ__WAITS : -errno;
	return 0;
}

/*
 * With SO_LINGER close(2) waits for what was not sent yet, also on a non-blocking socket. The wait
 * is all that it adds: the kernel goes on sending afterwards, as it does without.
 */
static void drop_linger(int fd)
{
	struct linger linger = { 0 };
	socklen_t len = sizeof(linger);

	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) != 0 || linger.l_onoff == 0 ||
	    linger.l_linger == 0)
		return;
	linger.l_onoff = 0;
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static int32_t start_close(vq__epoll *e, const vq__epoll_op *op)
{
	vq__epoll_forget(e, op->fd);
	if ((op->flags & VQ_SQE_MAY_BLOCK) != 0)
		drop_linger(op->fd);
	/* EINTR included, Linux has released the number. */
	return close(op->fd) == 0 || errno == EINTR ? 0 : -errno;
}

/* ---- timers */

static uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static int deadline_of(uint64_t addr, uint64_t *deadline)
{
	const vq_timespec *after = memory(addr);
	/* Longer than the machine lives, and no sum overflows. */
	const int64_t sec_max = INT64_C(1) << 32;

	if (after->sec < 0 || after->nsec < 0 || after->nsec >= 1000000000)
		return -VQ_EINVAL;
	uint64_t sec = (uint64_t)(after->sec < sec_max ? after->sec : sec_max);
	*deadline = now_ns() + sec * UINT64_C(1000000000) + (uint64_t)after->nsec;
	return 0;
}

static int32_t start_timeout(vq__epoll_op *op, vq__epoll_queue *queue)
{
	*queue = VQ__QUEUE_TIMER;
	int rc = deadline_of(op->addr, &op->off);
	return rc != 0 ? rc : VQ__WAITS;
}

static int32_t start_update(vq__epoll *e, const vq__epoll_op *op)
{
	uint32_t index = vq__epoll_find(e, op->addr);
	uint64_t deadline;

	if (op->op_flags != VQ_TIMEOUT_UPDATE)
		return -VQ_EINVAL;
	int rc = deadline_of(op->off, &deadline);
	if (rc != 0)
		return rc;
	if (index == 0 || e->ops[index].queue != VQ__QUEUE_TIMER)
		return -VQ_ENOENT;
	vq__epoll_unqueue(e, index);
	e->ops[index].off = deadline;
	return vq__epoll_wait_in(e, index, VQ__QUEUE_TIMER);
}

void vq__epoll_arm_timer(vq__epoll *e)
{
	/* A timer that is armed for earlier is left: to program it costs more than one wake. */
	if (e->timer_head == 0 || e->timer_due ||
	    (e->timer_armed != 0 && e->timer_armed <= e->ops[e->timer_head].off))
		return;
	uint64_t deadline = e->ops[e->timer_head].off;
	struct itimerspec when = {
		.it_value = { .tv_sec = (time_t)(deadline / UINT64_C(1000000000)),
			      .tv_nsec = (long)(deadline % UINT64_C(1000000000)) },
	};
	VQ_ASSERT(timerfd_settime(e->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
	e->timer_armed = deadline;
}

void vq__epoll_expire(vq__epoll *e)
{
	uint64_t now = now_ns();

	e->timer_due = false;
	while (e->timer_head != 0 && e->ops[e->timer_head].off <= now) {
		if (!vq__epoll_room(e)) {
			e->timer_due = true;
			return;
		}
		uint32_t index = e->timer_head;
		vq__epoll_unqueue(e, index);
		vq__epoll_finish(e, index, -VQ_ETIME, 0);
	}
}

/* ---- starting, going on, ending */

void vq__epoll_cancel(vq__epoll *e, uint32_t index)
{
	vq__epoll_op *op = &e->ops[index];

	if (op->queue == VQ__QUEUE_LINK) {
		/* In its chain's order, when the one before it is over. */
		op->canceled = true;
		return;
	}
	vq__epoll_unqueue(e, index);
	vq__epoll_finish(e, index, op->done > 0 ? (int32_t)op->done : -VQ_ECANCELED, 0);
}

static int32_t start_cancel(vq__epoll *e, const vq__epoll_op *op)
{
	uint32_t index = vq__epoll_find(e, op->addr);

	if (index == 0)
		return -VQ_ENOENT;
	if (e->ops[index].queue == VQ__QUEUE_NONE)
		return -VQ_EALREADY; /* itself */
	vq__epoll_cancel(e, index);
	return 0;
}

int32_t vq__epoll_start(vq__epoll *e, vq__epoll_op *op, vq__epoll_queue *queue)
{
	switch (op->opcode) {
	case VQ_OP_NOP:
		return 0;
	case VQ_OP_SEND:
	case VQ_OP_SENDMSG:
		return start_send(e, op, queue);
	case VQ_OP_RECV:
	case VQ_OP_RECVMSG:
		return start_receive(e, op, queue);
	case VQ_OP_POLL:
		*queue = VQ__QUEUE_POLL;
		return VQ__WAITS;
	case VQ_OP_ACCEPT:
		return start_accept(op, queue);
	case VQ_OP_CONNECT:
		return start_connect(op, queue);
	case VQ_OP_TIMEOUT:
		return start_timeout(op, queue);
	case VQ_OP_TIMEOUT_UPDATE:
		return start_update(e, op);
	case VQ_OP_CANCEL:
		return start_cancel(e, op);
	case VQ_OP_SHUTDOWN:
		return shutdown(op->fd, (int)op->len) == 0 ? 0 : -errno;
	case VQ_OP_CLOSE:
		return start_close(e, op);
	default:
		return -VQ_EINVAL;
	}
}

/* Goes on with the op at the head of a queue. False: it has to wait. */
static bool go_on(vq__epoll *e, uint32_t index)
{
	vq__epoll_op *op = &e->ops[index];

	if (op->opcode == VQ_OP_ACCEPT)
		return accept_one(e, index);
	if ((op->flags & VQ_SQE_BUFFER_SELECT) != 0)
		return vq__epoll_receive_select(e, index);
	int32_t res = op->opcode == VQ_OP_CONNECT ? connect_result(op) : move(e, op);
	if (res == VQ__WAITS)
		return false;
	vq__epoll_unqueue(e, index);
	vq__epoll_finish(e, index, res, 0);
	return true;
}

static void serve_polls(vq__epoll *e, vq__epoll_fd *entry)
{
	uint32_t index = entry->queues[VQ__QUEUE_POLL - VQ__QUEUE_IN];
	uint32_t events = entry->events;

	entry->events = 0;
	while (index != 0) {
		const vq__epoll_op *op = &e->ops[index];
		uint32_t next = op->next;
		uint32_t hit = events & (op->op_flags | EPOLLERR | EPOLLHUP);
		if (hit != 0 && !vq__epoll_room(e)) {
			/* Those before this one may hear of it twice, which is as true then. */
			entry->events = events;
			return;
		}
		if (hit != 0 && op->len == VQ_POLL_MULTISHOT) {
			vq__epoll_post(e, op->user_data, (int32_t)hit, VQ_CQE_MORE);
		} else if (hit != 0) {
			vq__epoll_unqueue(e, index);
			vq__epoll_finish(e, index, (int32_t)hit, 0);
		}
		index = next;
	}
}

void vq__epoll_serve(vq__epoll *e, int32_t fd)
{
	vq__epoll_fd *entry = &e->fds[fd];
	uint32_t *in = &entry->queues[0];
	uint32_t *out = &entry->queues[VQ__QUEUE_OUT - VQ__QUEUE_IN];
	int64_t until = e->budget_bytes - SHARE_BYTES;

	if (entry->events != 0)
		serve_polls(e, entry);
	while (*out != 0 && entry->out_ready && e->budget_bytes > until && vq__epoll_room(e))
		entry->out_ready = go_on(e, *out);
	while (*in != 0 && entry->in_ready && e->budget_bytes > until && vq__epoll_room(e))
		entry->in_ready = go_on(e, *in);
	if (entry->events != 0 || (*in != 0 && entry->in_ready) || (*out != 0 && entry->out_ready))
		vq__epoll_make_ready(e, fd);
}
