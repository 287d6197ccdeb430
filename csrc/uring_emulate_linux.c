/*
 * uring_emulate_linux.c: which steps each op of a translated io_uring driver is made of, and what
 * their completions mean to it.
 */
#define _GNU_SOURCE
#include "uring_translate_linux.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Events of the epoll instance that one call takes. */
#define EVENTS_MAX 64u

/* A step's token that no step has: to cancel it is to hear that there is no such op. */
#define TOKEN_NONE UINT64_MAX

static bool lacks(const vq__translate *t, uint32_t cap)
{
	return (t->emulated & cap) != 0;
}

static bool is_send(const vq_sqe *sqe)
{
	return sqe->opcode == VQ_OP_SEND || sqe->opcode == VQ_OP_SENDMSG;
}

vq__step vq__emulate_first(const vq__translate *t, const vq_sqe *sqe)
{
	switch (sqe->opcode) {
	case VQ_OP_RECV:
	case VQ_OP_RECVMSG:
		return (sqe->flags & VQ_SQE_BUFFER_SELECT) != 0 && lacks(t, VQ_CAP_BUFFER_RING)
			       ? VQ__STEP_WAIT
			       : VQ__STEP_SELF;
	case VQ_OP_ACCEPT:
		return sqe->mode == VQ_ACCEPT_MULTISHOT && lacks(t, VQ_CAP_ACCEPT_MULTISHOT)
			       ? VQ__STEP_ACCEPT
			       : VQ__STEP_SELF;
	case VQ_OP_POLL:
		return sqe->len == VQ_POLL_MULTISHOT && lacks(t, VQ_CAP_POLL_MULTISHOT)
			       ? VQ__STEP_WATCH
			       : VQ__STEP_SELF;
	case VQ_OP_SHUTDOWN:
		return lacks(t, VQ_CAP_SHUTDOWN) ? VQ__STEP_CALL : VQ__STEP_SELF;
	case VQ_OP_TIMEOUT_UPDATE:
		return lacks(t, VQ_CAP_TIMEOUT_UPDATE) ? VQ__STEP_REMOVE : VQ__STEP_SELF;
	default:
		return VQ__STEP_SELF;
	}
}

/* ---- staging */

/* Turns an entry into one that only completes, in its place. */
static void make_nop(vq_sqe *entry)
{
	*entry = (vq_sqe){
		.opcode = VQ_OP_NOP,
		.flags = entry->flags & VQ_SQE_LINK,
		.fd = -1,
		.user_data = entry->user_data,
	};
}

static bool in_kernel(const vq__uring_op *op)
{
	return op->stage == VQ__STAGE_KERNEL || op->stage == VQ__STAGE_QUIET;
}

/* Whether it is for this driver to end the op once it is asked to. */
static bool ends_here(const vq__uring_op *op)
{
	return op->step == VQ__STEP_ACCEPT || op->step == VQ__STEP_WAIT ||
	       op->step == VQ__STEP_MOVE || op->step == VQ__STEP_WATCH || op->moved;
}

/*
 * A CANCEL names the step that its target is in. A target that is in no step ends by what is noted
 * here; so does one whose step is over already and would have been followed by others.
 */
static void aim_cancel(vq__translate *t, uint32_t index, vq_sqe *entry)
{
	uint32_t target = vq__book_find(t, entry->addr);
	vq__uring_op *op = &t->ops[target];

	entry->addr = TOKEN_NONE;
	if (target == 0 || target == index || op->stage == VQ__STAGE_ENDED)
		return;
	op->canceled = true;
	if (in_kernel(op)) {
		entry->addr = vq__book_token(t, target);
		t->ops[index].certain = ends_here(op);
		return;
	}
	if (op->stage == VQ__STAGE_WATCHED) {
		(void)epoll_ctl(t->watch_fd, EPOLL_CTL_DEL, op->sqe.fd, NULL);
		t->watched--;
		vq__book_push(t, target, VQ__STEP_WATCH);
	}
	make_nop(entry);
}

/* The timer that an update names, as the kernel knows it. */
static void aim_update(vq__translate *t, uint32_t index, vq_sqe *entry)
{
	uint32_t target = vq__book_find(t, entry->addr);
	vq__uring_op *op = &t->ops[index];
	vq__uring_op *timer = &t->ops[target];
	bool found = target != 0 && timer->sqe.opcode == VQ_OP_TIMEOUT && !timer->canceled;
	bool emulated = op->step == VQ__STEP_REMOVE;

	entry->addr = TOKEN_NONE;
	entry->off = (uint64_t)(uintptr_t)&op->after;
	if (emulated) {
		entry->off = 0;
		entry->op_flags = 0;
	}
	if (!found)
		return;
	if (!in_kernel(timer) || timer->moved) {
		/* It has not begun, or is about to begin again. */
		timer->after = op->after;
		make_nop(entry);
		return;
	}
	entry->addr = vq__book_token(t, target);
	if (emulated) {
		timer->after = op->after;
		timer->moved = true;
	}
}

/* The step of an op that is itself. */
static void stage_self(vq__translate *t, uint32_t index, vq_sqe *entry, uint8_t sqe_flags)
{
	vq__uring_op *op = &t->ops[index];
	const uint8_t quiet = VQ_SQE_SKIP_SUCCESS;

	*entry = op->sqe;
	entry->user_data = vq__book_token(t, index);
	entry->flags = (uint8_t)((op->sqe.flags & ~(VQ_SQE_LINK | quiet)) | sqe_flags);
	switch (op->sqe.opcode) {
	case VQ_OP_CANCEL:
		aim_cancel(t, index, entry);
		break;
	case VQ_OP_TIMEOUT_UPDATE:
		aim_update(t, index, entry);
		break;
	case VQ_OP_TIMEOUT:
		entry->addr = (uint64_t)(uintptr_t)&op->after;
		break;
	case VQ_OP_SEND:
	case VQ_OP_SENDMSG:
		/* In no chain and never waiting: it is over, said or not, when the call returns. */
		if (t->skips && !op->linked &&
		    (op->sqe.flags & (quiet | VQ_SQE_MAY_BLOCK | VQ_SQE_LINK)) == quiet &&
		    (op->sqe.op_flags & VQ_MSG_DONTWAIT) != 0) {
			entry->flags |= quiet;
			op->stage = VQ__STAGE_QUIET;
			op->next = t->quiet_head;
			t->quiet_head = index;
		}
		break;
	default:
		break;
	}
}

/* The group that an op takes its buffers from, NULL where it names none. */
static vq__picked_group *group_of(vq__translate *t, const vq__uring_op *op)
{
	vq__picked_group *g = op->sqe.buf_group < 2 ? &t->groups[op->sqe.buf_group] : NULL;

	return g != NULL && g->count > 0 ? g : NULL;
}

/* Bytes of a packet before its payload. */
static uint64_t head_bytes(const vq__uring_op *op)
{
	return sizeof(vq_recvmsg_out) + (uint64_t)op->name_len + op->control_len;
}

/* Why an op can never take a buffer, or 0. */
static int32_t refusal(vq__translate *t, const vq__uring_op *op)
{
	const vq__picked_group *g = group_of(t, op);

	if (g == NULL)
		return -ENOBUFS;
	if (op->sqe.opcode == VQ_OP_RECV)
		return 0;
	if (op->sqe.mode != VQ_RECV_MULTISHOT || g != &t->groups[1])
		return -EINVAL;
	return head_bytes(op) <= g->size_bytes ? 0 : -EFAULT;
}

/* A packet: room for its head is left in the buffer, which the kernel writes name and control to.
 */
static void aim_packet(vq__translate *t, const vq__uring_op *op, vq_sqe *entry)
{
	vq__uring_message *message = &t->messages[op->buffer];
	const uint64_t name = entry->addr + sizeof(vq_recvmsg_out);
	const uint64_t control = name + op->name_len;

	message->piece = (vq_iovec){
		.base = entry->addr + head_bytes(op),
		.len = entry->len - head_bytes(op),
	};
	message->header = (vq_msghdr){
		.name = op->name_len > 0 ? name : 0,
		.name_len = op->name_len,
		.iov = (uint64_t)(uintptr_t)&message->piece,
		.iov_count = 1,
		.control = op->control_len > 0 ? control : 0,
		.control_len = op->control_len,
	};
	entry->addr = (uint64_t)(uintptr_t)&message->header;
	entry->len = 1;
}

static bool stage_move(vq__translate *t, uint32_t index)
{
	vq__uring_op *op = &t->ops[index];
	vq__picked_group *g = group_of(t, op);
	int32_t buffer = vq__group_take(g);

	if (buffer < 0)
		return false;
	op->buffer = (uint16_t)buffer;
	t->moving++;
	vq_sqe *entry = vq__translate_entry(t, vq__book_token(t, index));
	entry->opcode = op->sqe.opcode;
	entry->fd = op->sqe.fd;
	entry->addr = (uint64_t)(uintptr_t)(g->base + (size_t)buffer * g->size_bytes);
	entry->len = g->size_bytes;
	if (op->sqe.opcode == VQ_OP_RECVMSG)
		aim_packet(t, op, entry);
	else if (op->sqe.len != 0 && op->sqe.len < g->size_bytes)
		entry->len = op->sqe.len;
	entry->op_flags = op->sqe.op_flags | VQ_MSG_DONTWAIT;
	return true;
}

bool vq__emulate_stage(vq__translate *t, uint32_t index, uint8_t sqe_flags)
{
	vq__uring_op *op = &t->ops[index];
	vq_sqe *entry;

	if (op->step == VQ__STEP_MOVE && !stage_move(t, index))
		return false;
	if (op->step == VQ__STEP_WAIT && refusal(t, op) != 0)
		op->step = VQ__STEP_CALL;
	op->stage = VQ__STAGE_KERNEL;
	if (op->step == VQ__STEP_MOVE)
		return true;
	entry = vq__translate_entry(t, vq__book_token(t, index));
	switch (op->step) {
	case VQ__STEP_ACCEPT:
		stage_self(t, index, entry, sqe_flags);
		entry->mode = 0;
		break;
	case VQ__STEP_WAIT:
		entry->opcode = VQ_OP_POLL;
		entry->flags = sqe_flags;
		entry->fd = op->sqe.fd;
		entry->op_flags = POLLIN | POLLRDHUP;
		break;
	case VQ__STEP_WATCH:
	case VQ__STEP_CALL:
		entry->flags = sqe_flags;
		make_nop(entry);
		break;
	default:
		stage_self(t, index, entry, sqe_flags);
		break;
	}
	return true;
}

/* ---- ending */

/* Whether res is all that the op was asked for. */
static bool succeeded(const vq__uring_op *op, int32_t res)
{
	return res >= 0 && (!is_send(&op->sqe) || (uint32_t)res >= op->whole);
}

void vq__emulate_finish(vq__translate *t, uint32_t index, int32_t res, uint32_t flags)
{
	vq__uring_op *op = &t->ops[index];
	bool good = succeeded(op, res);

	if (!good || (op->sqe.flags & VQ_SQE_SKIP_SUCCESS) == 0)
		vq__translate_post(t, op->sqe.user_data, res, flags);
	if (op->link != 0) {
		vq__uring_op *next = &t->ops[op->link];
		next->canceled = next->canceled || !good;
		vq__book_push(t, op->link, vq__emulate_first(t, &next->sqe));
	}
	if (t->chain_last == index) {
		/* The rest of the chain is still being submitted. */
		t->chain_last = 0;
		t->chain_failed = !good;
	}
	vq__book_free(t, index);
}

/* An op that goes on for ever passes on what one step yielded. False: it was asked to end. */
static bool yield(vq__translate *t, uint32_t index, int32_t res, uint32_t flags)
{
	const vq__uring_op *op = &t->ops[index];

	if (op->canceled) {
		vq__emulate_finish(t, index, res, flags);
		return false;
	}
	vq__translate_post(t, op->sqe.user_data, res, flags | VQ_CQE_MORE);
	return true;
}

static void accepted(vq__translate *t, uint32_t index, int32_t res)
{
	if (res < 0)
		vq__emulate_finish(t, index, res, 0);
	else if (yield(t, index, res, 0))
		vq__book_push(t, index, VQ__STEP_ACCEPT);
}

static void waited(vq__translate *t, uint32_t index, int32_t res)
{
	if (res >= 0 && t->ops[index].canceled)
		res = -ECANCELED;
	if (res < 0) {
		vq__emulate_finish(t, index, res, 0);
		return;
	}
	t->ops[index].readable = true;
	vq__book_push(t, index, VQ__STEP_MOVE);
}

/* Writes what a packet's buffer begins with. Returns where its payload ends. */
static int32_t head_packet(const vq__translate *t, const vq__uring_op *op, int32_t payload_len)
{
	const vq_msghdr *header = &t->messages[op->buffer].header;
	const vq__picked_group *g = &t->groups[1];
	const vq_recvmsg_out out = {
		.name_len = header->name_len,
		.control_len = (uint32_t)header->control_len,
		.payload_len = (uint32_t)payload_len,
		.flags = (uint32_t)header->flags,
	};

	memcpy(g->base + (size_t)op->buffer * g->size_bytes, &out, sizeof(out));
	return (int32_t)head_bytes(op) + payload_len;
}

/* After a receive that yielded nothing. */
static void moved_nothing(vq__translate *t, uint32_t index, int32_t res)
{
	vq__uring_op *op = &t->ops[index];

	vq__group_return(group_of(t, op), op->buffer);
	if (res == -EAGAIN || res == -EINTR)
		/* Somebody else read it, or there was but an event. */
		vq__book_push(t, index, VQ__STEP_WAIT);
	else
		vq__emulate_finish(t, index, res, 0);
}

static void moved(vq__translate *t, uint32_t index, int32_t res)
{
	vq__uring_op *op = &t->ops[index];
	bool packet = op->sqe.opcode == VQ_OP_RECVMSG;
	uint32_t flags = (uint32_t)op->buffer << VQ_CQE_BUFFER_SHIFT | VQ_CQE_BUFFER;
	uint32_t size_bytes = group_of(t, op)->size_bytes;
	bool short_of = (uint32_t)res < size_bytes && (uint32_t)res != op->sqe.len;

	t->moving--;
	op->readable = false;
	/* A datagram may be empty; on a stream that is the end. */
	if (res < 0 || (res == 0 && !packet)) {
		moved_nothing(t, index, res);
		return;
	}
	if (packet)
		res = head_packet(t, op, res);
	if (op->sqe.mode != VQ_RECV_MULTISHOT)
		vq__emulate_finish(t, index, res, flags);
	else if (yield(t, index, res, flags))
		/* Where one datagram is others may be; so may bytes behind a full buffer. */
		vq__book_push(t, index, packet || !short_of ? VQ__STEP_MOVE : VQ__STEP_WAIT);
}

static void itself(vq__translate *t, uint32_t index, const struct io_uring_cqe *cqe)
{
	vq__uring_op *op = &t->ops[index];
	int32_t res = cqe->res;

	if ((cqe->flags & VQ_CQE_MORE) != 0) {
		vq__translate_post(t, op->sqe.user_data, res, cqe->flags);
		return;
	}
	if (op->certain && (res == -ENOENT || res == -EALREADY))
		res = 0;
	if (op->moved && !op->canceled && res == -ECANCELED) {
		op->moved = false;
		vq__book_push(t, index, VQ__STEP_SELF);
		return;
	}
	if (op->stage == VQ__STAGE_QUIET) {
		/* Its place goes when the call's others go. */
		vq__translate_post(t, op->sqe.user_data, res, cqe->flags);
		op->stage = VQ__STAGE_ENDED;
		return;
	}
	vq__emulate_finish(t, index, res, cqe->flags);
}

/* ---- multishot polls */

static void watch(vq__translate *t, uint32_t index)
{
	vq__uring_op *op = &t->ops[index];
	struct epoll_event event = {
		.events = (op->sqe.op_flags & 0xffff) | (uint32_t)EPOLLET,
		.data.u64 = vq__book_token(t, index),
	};

	if (epoll_ctl(t->watch_fd, EPOLL_CTL_ADD, op->sqe.fd, &event) != 0) {
		vq__emulate_finish(t, index, -errno, 0);
		return;
	}
	op->stage = VQ__STAGE_WATCHED;
	t->watched++;
}

void vq__emulate_watch(vq__translate *t)
{
	struct epoll_event events[EVENTS_MAX];

	while (t->watch_due) {
		uint32_t room = vq__translate_room(t);
		if (room == 0)
			return;
		if (room > EVENTS_MAX)
			room = EVENTS_MAX;
		int n = epoll_wait(t->watch_fd, events, (int)room, 0);
		t->watch_due = n == (int)room;
		for (int i = 0; i < n; i++) {
			uint32_t index = vq__book_of_token(t, events[i].data.u64);
			vq__translate_post(t, t->ops[index].sqe.user_data,
					   (int32_t)events[i].events, VQ_CQE_MORE);
		}
	}
}

/* ---- after a step */

/* What needs no step in the kernel, or must not have one. */
static int32_t call(vq__translate *t, const vq__uring_op *op)
{
	if (op->sqe.opcode != VQ_OP_SHUTDOWN)
		return refusal(t, op);
	return shutdown(op->sqe.fd, (int)op->sqe.len) == 0 ? 0 : -errno;
}

void vq__emulate_completed(vq__translate *t, uint32_t index, const struct io_uring_cqe *cqe)
{
	const vq__uring_op *op = &t->ops[index];
	int32_t res = cqe->res;

	switch (op->step) {
	case VQ__STEP_ACCEPT:
		accepted(t, index, res);
		return;
	case VQ__STEP_WAIT:
		waited(t, index, res);
		return;
	case VQ__STEP_MOVE:
		moved(t, index, res);
		return;
	case VQ__STEP_WATCH:
		if (res >= 0 && op->canceled)
			res = -ECANCELED;
		if (res < 0)
			vq__emulate_finish(t, index, res, 0);
		else
			watch(t, index);
		return;
	case VQ__STEP_CALL:
		vq__emulate_finish(t, index, res < 0 ? res : call(t, op), 0);
		return;
	default:
		itself(t, index, cqe);
		return;
	}
}
