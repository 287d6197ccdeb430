/*
 * iocp_datagram_windows.c: messages with an address: RECVMSG into the packet group, and SEND and
 * SENDMSG on datagram sockets.
 */
#include "iocp_windows.h"

#include <string.h>

enum {
	/* Pieces of one datagram. */
	PIECES_MAX = 64,
	/* What one op receives before the others, and its owner, have their turn. */
	TURN_BYTES_MAX = 64 << 10,
	/* What a datagram counts for at least: the calls for empty ones cost too. */
	PACKET_BYTES = 512,
	SPURIOUS_MAX = 8,
};

/* ---- receiving */

bool vq__iocp_takes_packets(const vq__iocp_op *op)
{
	return op->sqe.opcode == VQ_OP_RECVMSG && (op->sqe.flags & VQ_SQE_BUFFER_SELECT) != 0;
}

static const vq_msghdr *asked(const vq__iocp_op *op)
{
	return (const vq_msghdr *)(uintptr_t)op->sqe.addr;
}

static uint64_t header_bytes(const vq_msghdr *message)
{
	return sizeof(vq_recvmsg_out) + message->name_len + message->control_len;
}

/*
 * One datagram into the buffer. Names and control messages come by way of this stack: Windows says
 * no number of bytes when one of them was cut off, and its control messages look different.
 * Returns what it says, 0 or a negative VQ_E*.
 */
static int32_t receive_one(vq__iocp *d, const vq__iocp_op *op, const vq_buf *buffer,
			   vq_recvmsg_out *out)
{
	const vq_msghdr *message = asked(op);
	uint8_t *at = (uint8_t *)(uintptr_t)buffer->addr;
	uint8_t *name = at + sizeof(*out);
	struct sockaddr_storage from = { 0 };
	uint64_t control[32];
	WSABUF piece = { .len = (ULONG)(buffer->len - header_bytes(message)),
			 .buf = (char *)at + header_bytes(message) };
	WSAMSG m = { .name = (struct sockaddr *)&from,
		     .namelen = sizeof(from),
		     .lpBuffers = &piece,
		     .dwBufferCount = 1,
		     .Control = { .len = sizeof(control), .buf = (char *)control } };
	DWORD bytes = 0;
	bool cut = false;
	int32_t rc = d->recv_msg(vq__socket(op->sqe.fd), &m, &bytes, NULL, NULL) == 0
			     ? 0
			     : vq__wsa_error();

	*out = (vq_recvmsg_out){ 0 };
	if (rc == -VQ_EMSGSIZE) {
		bytes = piece.len;
		out->flags = VQ_MSG_TRUNC;
	} else if (rc != 0) {
		return rc;
	}
	/* Of a message that was cut off not every version says who sent it. */
	out->name_len = from.ss_family != 0 ? (uint32_t)m.namelen : 0;
	memcpy(name, &from, out->name_len < message->name_len ? out->name_len : message->name_len);
	out->control_len = vq__iocp_control_decode(&m, name + message->name_len,
						   (uint32_t)message->control_len, &cut);
	out->flags |= cut ? VQ_MSG_CTRUNC : 0;
	out->payload_len = bytes;
	memcpy(at, out, sizeof(*out));
	return 0;
}

void vq__iocp_packets_run(vq__iocp *d, vq__iocp_op *op)
{
	vq__iocp_group *group = &d->packet_buffers;
	uint32_t spurious = 0;
	uint32_t bytes = 0;
	vq_recvmsg_out out;

	for (;;) {
		if (op->cancelled) {
			vq__iocp_finish(d, op, -VQ_ECANCELED, 0);
			return;
		}
		if (!op->readable && !vq__iocp_wait(d, op))
			return;
		op->readable = true;
		if (bytes >= TURN_BYTES_MAX || spurious >= SPURIOUS_MAX || !vq__iocp_has_room(d)) {
			vq__iocp_ready(d, op);
			return;
		}
		const vq_buf *buffer = vq__iocp_buffer_first(group);
		int32_t rc = buffer == NULL ? -VQ_ENOBUFS : receive_one(d, op, buffer, &out);
		if (rc == -VQ_EAGAIN && op->error == 0) {
			op->readable = false;
			spurious++;
			continue;
		}
		if (rc != 0) {
			/* What the wait ended with comes after the datagrams before it. */
			vq__iocp_finish(d, op, op->error != 0 ? op->error : rc, 0);
			return;
		}
		uint64_t n = header_bytes(asked(op)) + out.payload_len;
		vq__iocp_more(d, op, (int32_t)n, vq__iocp_buffer_take(group, buffer, (uint32_t)n));
		bytes += out.payload_len > PACKET_BYTES ? out.payload_len : PACKET_BYTES;
		spurious = 0;
	}
}

/* Why the op can't begin, or 0. */
static int32_t refused(vq__iocp *d, vq__iocp_op *op)
{
	bool skips = true;
	int32_t rc = vq__iocp_adopt(d, op, &skips);

	if (rc != 0)
		return rc;
	if ((op->sqe.mode & VQ_RECV_MULTISHOT) == 0 || !op->datagram)
		return -VQ_EINVAL;
	if (op->sqe.buf_group != VQ__IOCP_PACKET_GROUP ||
	    vq__iocp_buffer_first(&d->packet_buffers) == NULL)
		return -VQ_ENOBUFS;
	return header_bytes(asked(op)) > d->packet_buffers.size_bytes ? -VQ_EFAULT : 0;
}

void vq__iocp_packets_start(vq__iocp *d, vq__iocp_op *op)
{
	int32_t rc = refused(d, op);

	if (rc != 0) {
		vq__iocp_finish(d, op, rc, 0);
		return;
	}
	/* Waits first: under Wine a receive that does not wait takes a pending error for nothing.
	 */
	vq__iocp_packets_run(d, op);
}

/* ---- sending */

typedef struct outgoing {
	WSAMSG message; /* without Control where there is none */
	WSABUF pieces[PIECES_MAX];
	uint64_t total;
} outgoing;

static int32_t prepare(vq__iocp_op *op, outgoing *o)
{
	const vq_iovec one = { .base = op->sqe.addr, .len = op->sqe.len };
	const vq_msghdr *from = op->sqe.opcode == VQ_OP_SENDMSG ? asked(op) : NULL;
	const vq_iovec *iov = from != NULL ? (const vq_iovec *)(uintptr_t)from->iov : &one;
	const uint64_t count = from != NULL ? from->iov_count : 1;

	o->message = (WSAMSG){ .lpBuffers = o->pieces };
	o->total = 0;
	if (count > PIECES_MAX)
		return -VQ_EMSGSIZE;
	for (uint64_t i = 0; i < count; i++) {
		/* More than any datagram has, and so refused below. */
		uint64_t len = iov[i].len < 1 << 24 ? iov[i].len : 1 << 24;
		o->pieces[i] = (WSABUF){ .len = (ULONG)len, .buf = (char *)(uintptr_t)iov[i].base };
		o->total += len;
	}
	o->message.dwBufferCount = (DWORD)count;
	if (from == NULL)
		return 0;
	o->message.name = (struct sockaddr *)(uintptr_t)from->name;
	o->message.namelen = from->name != 0 ? (INT)from->name_len : 0;
	int n = from->control_len > 0 ? vq__iocp_control_encode(from, op->control) : 0;
	if (n > 0)
		o->message.Control = (WSABUF){ .len = (ULONG)n, .buf = (char *)op->control };
	return n < 0 ? n : 0;
}

/* With ov what has to wait does so in the system; without, the answer is -VQ_EAGAIN. */
static int32_t send_one(vq__iocp *d, int fd, outgoing *o, OVERLAPPED *ov)
{
	const SOCKET s = vq__socket(fd);
	DWORD bytes = 0;
	DWORD *told = ov == NULL ? &bytes : NULL;
	WSAMSG *m = &o->message;
	int rc = m->Control.len > 0 ? d->send_msg(s, m, 0, told, ov, NULL)
				    : WSASendTo(s, m->lpBuffers, m->dwBufferCount, told, 0, m->name,
						m->namelen, ov, NULL);

	if (rc == 0)
		return 0;
	return WSAGetLastError() == WSA_IO_PENDING ? -VQ_EINPROGRESS : vq__wsa_error();
}

void vq__iocp_datagram_send(vq__iocp *d, vq__iocp_op *op)
{
	bool skips = true;
	outgoing o;
	int32_t rc = vq__iocp_adopt(d, op, &skips);

	if (rc == 0)
		rc = prepare(op, &o);
	if (rc == 0)
		rc = send_one(d, op->sqe.fd, &o, NULL);
	if (rc == -VQ_EAGAIN && (op->sqe.op_flags & VQ_MSG_DONTWAIT) == 0) {
		op->ov = (OVERLAPPED){ 0 };
		rc = send_one(d, op->sqe.fd, &o, &op->ov);
		if (rc == -VQ_EINPROGRESS || (rc == 0 && !skips)) {
			vq__iocp_expect(d, op);
			return;
		}
	}
	vq__iocp_finish(d, op, rc != 0 ? rc : (int32_t)o.total, 0);
}

void vq__iocp_datagram_sent(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes)
{
	vq__iocp_finish(d, op, error != 0 ? error : (int32_t)bytes, 0);
}
