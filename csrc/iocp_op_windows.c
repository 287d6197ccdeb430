/*
 * iocp_op_windows.c: which function serves which op, the ops that end within their start, and
 * CANCEL.
 */
#include "iocp_windows.h"

static int32_t shut_down(const vq_sqe *sqe)
{
	if (sqe->len > VQ_SHUT_RDWR)
		return -VQ_EINVAL;
	/* SD_RECEIVE, SD_SEND and SD_BOTH have the same values. */
	return shutdown(vq__socket(sqe->fd), (int)sqe->len) == 0 ? 0 : vq__wsa_error();
}

/*
 * As elsewhere, who waits for bytes of a half that is shut down hears that it ended. Windows leaves
 * such a request waiting. No list of a socket's ops is kept, because nobody else would need one.
 */
static void end_receives(vq__iocp *d, int fd)
{
	for (uint32_t i = 0; i < d->ops_touched; i++) {
		vq__iocp_op *op = &d->ops[i];
		if (op->listed && op->pending && op->sqe.fd == fd &&
		    (op->sqe.opcode == VQ_OP_RECV || op->sqe.opcode == VQ_OP_RECVMSG))
			(void)CancelIoEx((HANDLE)vq__socket(fd), &op->ov);
	}
}

static void start_shutdown(vq__iocp *d, vq__iocp_op *op)
{
	int32_t rc = shut_down(&op->sqe);

	if (rc == 0 && op->sqe.len != VQ_SHUT_WR)
		end_receives(d, op->sqe.fd);
	vq__iocp_finish(d, op, rc, 0);
}

static void CALLBACK close_in_background(PTP_CALLBACK_INSTANCE instance, void *arg)
{
	vq__iocp_op *op = arg;
	const HANDLE port = (HANDLE)(uintptr_t)op->sqe.addr;

	(void)instance;
	int rc = vq__socket_close(op->sqe.fd, true);
	/* Lost, the op would never end, and destroy would wait in vain. */
	VQ_ASSERT(PostQueuedCompletionStatus(port, (DWORD)-rc, VQ__IOCP_KEY_CLOSED, &op->ov));
}

static void start_close(vq__iocp *d, vq__iocp_op *op)
{
	if ((op->sqe.flags & VQ_SQE_MAY_BLOCK) != 0) {
		op->sqe.addr = (uint64_t)(uintptr_t)d->port;
		op->pending = true;
		d->pending++;
		if (TrySubmitThreadpoolCallback(close_in_background, op, NULL))
			return;
		op->pending = false;
		d->pending--;
	}
	vq__iocp_finish(d, op, vq__socket_close(op->sqe.fd, false), 0);
}

/* POLL is there for the doorbell alone: Windows has no readiness to ask a socket for. */
static void start_poll(vq__iocp *d, vq__iocp_op *op)
{
	if (op->sqe.fd >= 0)
		vq__iocp_finish(d, op, -VQ_EOPNOTSUPP, 0);
	else if (d->wake != NULL)
		vq__iocp_finish(d, op, -VQ_EBUSY, 0);
	else
		d->wake = op;
}

static void start_cancel(vq__iocp *d, vq__iocp_op *op)
{
	vq__iocp_op *target = vq__iocp_find(d, op->sqe.addr);

	vq__iocp_finish(d, op, target == NULL ? -VQ_ENOENT : vq__iocp_cancel(d, target), 0);
}

static void start_timer_move(vq__iocp *d, vq__iocp_op *op)
{
	const vq_timespec *to = (const vq_timespec *)(uintptr_t)op->sqe.off;
	int32_t rc = op->sqe.op_flags == VQ_TIMEOUT_UPDATE
			     ? vq__iocp_timer_move(d, op->sqe.addr, to)
			     : -VQ_EINVAL;

	vq__iocp_finish(d, op, rc, 0);
}

void vq__iocp_start(vq__iocp *d, vq__iocp_op *op)
{
	switch (op->sqe.opcode) {
	case VQ_OP_NOP:
		vq__iocp_finish(d, op, 0, 0);
		break;
	case VQ_OP_POLL:
		start_poll(d, op);
		break;
	case VQ_OP_SEND:
	case VQ_OP_SENDMSG:
		vq__iocp_send_start(d, op);
		break;
	case VQ_OP_SEND_FILE:
		vq__iocp_file_start(d, op);
		break;
	case VQ_OP_RECV:
	case VQ_OP_RECVMSG:
		vq__iocp_recv_start(d, op);
		break;
	case VQ_OP_TIMEOUT:
		vq__iocp_timer_start(d, op);
		break;
	case VQ_OP_TIMEOUT_UPDATE:
		start_timer_move(d, op);
		break;
	case VQ_OP_ACCEPT:
		vq__iocp_accept_start(d, op);
		break;
	case VQ_OP_CANCEL:
		start_cancel(d, op);
		break;
	case VQ_OP_CONNECT:
		vq__iocp_connect_start(d, op);
		break;
	case VQ_OP_CLOSE:
		start_close(d, op);
		break;
	case VQ_OP_SHUTDOWN:
		start_shutdown(d, op);
		break;
	case VQ_OP_SEND_ZC:
		vq__iocp_finish(d, op, -VQ_EOPNOTSUPP, 0);
		break;
	default:
		vq__iocp_finish(d, op, -VQ_EINVAL, 0);
		break;
	}
}

void vq__iocp_continue(vq__iocp *d, vq__iocp_op *op)
{
	if (op->sqe.opcode == VQ_OP_ACCEPT)
		vq__iocp_accept_run(d, op);
	else if (op->sqe.opcode == VQ_OP_SEND_FILE)
		vq__iocp_file_run(d, op);
	else if (vq__iocp_takes_packets(op))
		vq__iocp_packets_run(d, op);
	else
		vq__iocp_recv_run(d, op);
}

void vq__iocp_packet(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes)
{
	switch (op->sqe.opcode) {
	case VQ_OP_RECV:
	case VQ_OP_RECVMSG:
		vq__iocp_recv_packet(d, op, error);
		break;
	case VQ_OP_SEND:
	case VQ_OP_SENDMSG:
		if (op->datagram)
			vq__iocp_datagram_sent(d, op, error, bytes);
		else
			vq__iocp_send_packet(d, op, error, bytes);
		break;
	case VQ_OP_SEND_FILE:
		vq__iocp_file_packet(d, op, error, bytes);
		break;
	case VQ_OP_CONNECT:
		vq__iocp_connect_packet(d, op, error);
		break;
	case VQ_OP_CLOSE:
		vq__iocp_finish(d, op, -(int32_t)bytes, 0);
		break;
	default:
		VQ_ASSERT(!"a packet for an op that has none");
	}
}

int32_t vq__iocp_cancel(vq__iocp *d, vq__iocp_op *op)
{
	if (op->cancelled || op->sqe.opcode == VQ_OP_CLOSE)
		return -VQ_EALREADY;
	switch (op->state == VQ__IOCP_HELD ? VQ_OP_NOP : op->sqe.opcode) {
	case VQ_OP_TIMEOUT:
		vq__iocp_timer_remove(d, op);
		vq__iocp_finish(d, op, -VQ_ECANCELED, 0);
		return 0;
	case VQ_OP_POLL:
		d->wake = NULL;
		vq__iocp_finish(d, op, -VQ_ECANCELED, 0);
		return 0;
	case VQ_OP_ACCEPT:
		op->cancelled = true;
		vq__iocp_accept_cancel(d, op);
		return 0;
	case VQ_OP_RECV:
	case VQ_OP_RECVMSG:
		/* It waits without a byte in hand: even if its packet is on the way, it can end. */
		op->cancelled = true;
		if (op->pending)
			(void)CancelIoEx((HANDLE)vq__socket(op->sqe.fd), &op->ov);
		return 0;
	case VQ_OP_SEND:
	case VQ_OP_SENDMSG:
	case VQ_OP_CONNECT:
		/* Nothing to cancel: it ended, and its packet is on the way. */
		if (!CancelIoEx((HANDLE)vq__socket(op->sqe.fd), &op->ov))
			return -VQ_EALREADY;
		op->cancelled = true;
		return 0;
	case VQ_OP_SEND_FILE:
		op->cancelled = true;
		vq__iocp_file_run(d, op);
		return 0;
	default:
		op->cancelled = true;
		return 0;
	}
}
