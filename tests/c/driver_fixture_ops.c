/* driver_fixture_ops.c: how each op is staged; see driver_fixture.h. */
#include "driver_fixture.h"

uint32_t fx_nop(fx *f, uint8_t sqe_flags)
{
	uint32_t op;
	fx_stage(f, VQ_OP_NOP, -1, &op)->flags = sqe_flags;
	return op;
}

uint32_t fx_accept(fx *f, int fd, uint16_t mode)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_ACCEPT, fd, &op);

	sqe->mode = mode;
	sqe->op_flags = VQ_SOCK_CLOEXEC;
	f->ops[op].more_allowed = mode == VQ_ACCEPT_MULTISHOT;
	return op;
}

uint32_t fx_connect(fx *f, int fd, const vq_addr *to)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_CONNECT, fd, &op);
	void *memory = malloc(VQ_ADDR_BYTES_MAX);

	CHECK(memory != NULL);
	f->ops[op].memory = memory;
	int len = vq_addr_encode(to, memory);
	CHECK(len > 0);
	sqe->addr = (uint64_t)(uintptr_t)memory;
	sqe->off = (uint64_t)len;
	return op;
}

uint32_t fx_recv(fx *f, int fd, uint16_t mode)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_RECV, fd, &op);

	sqe->mode = mode;
	sqe->flags = VQ_SQE_BUFFER_SELECT;
	sqe->buf_group = f->view.buf_group;
	f->ops[op].more_allowed = mode == VQ_RECV_MULTISHOT;
	return op;
}

uint32_t fx_recvmsg(fx *f, int fd, uint32_t name_len, uint32_t control_len)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_RECVMSG, fd, &op);
	vq_msghdr *message = calloc(1, sizeof(*message));

	CHECK(message != NULL);
	message->name_len = name_len;
	message->control_len = control_len;
	f->ops[op].memory = message;
	f->ops[op].more_allowed = true;
	f->ops[op].packets = true;
	sqe->addr = (uint64_t)(uintptr_t)message;
	sqe->len = 1;
	sqe->mode = VQ_RECV_MULTISHOT;
	sqe->flags = VQ_SQE_BUFFER_SELECT;
	sqe->buf_group = f->view.packet_group;
	return op;
}

uint32_t fx_recv_into(fx *f, int fd, void *data, uint32_t len_bytes)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_RECV, fd, &op);

	sqe->addr = (uint64_t)(uintptr_t)data;
	sqe->len = len_bytes;
	return op;
}

uint32_t fx_send(fx *f, int fd, const void *data, uint32_t len_bytes, uint32_t msg_flags)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_SEND, fd, &op);

	sqe->addr = (uint64_t)(uintptr_t)data;
	sqe->len = len_bytes;
	sqe->op_flags = msg_flags | VQ_MSG_NOSIGNAL;
	return op;
}

/* No completion for a success of the op staged last. */
static uint32_t skip_success(fx *f, uint32_t op)
{
	if (fx_has(f, VQ_CAP_SKIP_SUCCESS)) {
		f->view.sqes[(f->sq_tail - 1) & (f->view.sq_entries - 1)].flags |=
			VQ_SQE_SKIP_SUCCESS;
		f->ops[op].skip = true;
	}
	return op;
}

uint32_t fx_send_skip(fx *f, int fd, const void *data, uint32_t len_bytes, uint32_t msg_flags)
{
	return skip_success(f, fx_send(f, fd, data, len_bytes, msg_flags));
}

uint32_t fx_sendmsg_skip(fx *f, int fd, const vq_msghdr *message, uint32_t msg_flags)
{
	return skip_success(f, fx_sendmsg(f, fd, message, msg_flags));
}

uint32_t fx_sendmsg(fx *f, int fd, const vq_msghdr *message, uint32_t msg_flags)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_SENDMSG, fd, &op);

	sqe->addr = (uint64_t)(uintptr_t)message;
	sqe->len = 1;
	sqe->op_flags = msg_flags | VQ_MSG_NOSIGNAL;
	return op;
}

uint32_t fx_cancel(fx *f, uint32_t target)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_CANCEL, -1, &op);

	sqe->addr = (uint64_t)~target << 32 | target;
	return op;
}

uint32_t fx_timeout(fx *f, const vq_timespec *after)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_TIMEOUT, -1, &op);

	sqe->addr = (uint64_t)(uintptr_t)after;
	sqe->len = 1;
	return op;
}

uint32_t fx_timeout_update(fx *f, uint32_t target, const vq_timespec *after)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_TIMEOUT_UPDATE, -1, &op);

	sqe->addr = (uint64_t)~target << 32 | target;
	sqe->off = (uint64_t)(uintptr_t)after;
	sqe->op_flags = VQ_TIMEOUT_UPDATE;
	return op;
}

uint32_t fx_shutdown(fx *f, int fd, uint32_t how)
{
	uint32_t op;
	fx_stage(f, VQ_OP_SHUTDOWN, fd, &op)->len = how;
	return op;
}

uint32_t fx_close(fx *f, int fd)
{
	uint32_t op;
	fx_stage(f, VQ_OP_CLOSE, fd, &op);
	return op;
}

uint32_t fx_poll(fx *f, int fd, uint32_t events, uint32_t mode)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_POLL, fd, &op);

	sqe->op_flags = events;
	sqe->len = mode;
	f->ops[op].more_allowed = mode == VQ_POLL_MULTISHOT;
	return op;
}

uint32_t fx_wake(fx *f)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(f, VQ_OP_NOP, -1, &op);
	uint64_t token = sqe->user_data;

	vq_driver_prep_wake(f->driver, sqe);
	sqe->user_data = token;
	f->ops[op].more_allowed = true;
	return op;
}
