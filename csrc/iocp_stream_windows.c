/*
 * iocp_stream_windows.c: bytes: SEND, SENDMSG, SEND_FILE, RECV and RECVMSG.
 *
 * How a receive waits is in iocp_buffers_windows.c, and what is different about messages in
 * iocp_datagram_windows.c.
 */
#include "iocp_windows.h"

enum {
	/* Pieces that one call gathers. The array of them is on the stack, and read by the call. */
	PIECES_MAX = 64,
	/* Bytes that one request has Windows lock in memory. */
	REQUEST_BYTES_MAX = 16 << 20,
	/* Bytes that one op receives before the others, and its owner, have their turn. */
	TURN_BYTES_MAX = 64 << 10,
	/* How often in a row Windows may say that there is something, and there is nothing. */
	SPURIOUS_MAX = 8,
};

/* ---- the memory of an op */

static void span_init(vq__iocp_span *span, const vq_sqe *sqe)
{
	if (sqe->opcode == VQ_OP_SENDMSG || sqe->opcode == VQ_OP_RECVMSG) {
		const vq_msghdr *message = (const vq_msghdr *)(uintptr_t)sqe->addr;
		span->iov = (const vq_iovec *)(uintptr_t)message->iov;
		span->count = message->iov_count;
	} else {
		span->one = (vq_iovec){ .base = sqe->addr, .len = sqe->len };
		span->iov = &span->one;
		span->count = 1;
	}
	for (uint64_t i = 0; i < span->count; i++)
		span->total += span->iov[i].len;
}

/* The next pieces, as many as one call takes; 0 when all is done. */
static DWORD span_pieces(const vq__iocp_span *span, WSABUF *pieces)
{
	uint64_t room = REQUEST_BYTES_MAX;
	uint64_t skip = span->skip;
	DWORD count = 0;

	for (uint64_t i = 0; i < span->count && count < PIECES_MAX && room > 0; i++) {
		uint64_t len = span->iov[i].len - skip;
		if (len > room)
			len = room;
		if (len > 0)
			pieces[count++] =
				(WSABUF){ .len = (ULONG)len,
					  .buf = (char *)(uintptr_t)(span->iov[i].base + skip) };
		room -= len;
		skip = 0;
	}
	return count;
}

static void span_advance(vq__iocp_span *span, uint64_t bytes)
{
	span->done += bytes;
	while (bytes > 0) {
		uint64_t left = span->iov->len - span->skip;
		if (bytes < left) {
			span->skip += bytes;
			return;
		}
		bytes -= left;
		span->skip = 0;
		span->iov++;
		span->count--;
	}
}

/* ---- sending */

/* Bytes that went out count more than why no more did: the next send will say that. */
static void send_finish(vq__iocp *d, vq__iocp_op *op, int32_t error)
{
	const vq__iocp_span *span = &op->span;

	op->fell_short = span->done < span->total;
	vq__iocp_finish(d, op, span->done > 0 || error == 0 ? (int32_t)span->done : error, 0);
}

/* What can be sent at once; 0 when that was all, or why it was not. */
static int32_t send_now(vq__iocp_op *op)
{
	WSABUF pieces[PIECES_MAX];

	while (op->span.done < op->span.total) {
		DWORD bytes = 0;
		DWORD count = span_pieces(&op->span, pieces);
		if (WSASend(vq__socket(op->sqe.fd), pieces, count, &bytes, 0, NULL, NULL) != 0)
			return vq__wsa_error();
		span_advance(&op->span, bytes);
	}
	return 0;
}

/* Leaves the rest to Windows, whose packets say how it went on. */
static void send_wait(vq__iocp *d, vq__iocp_op *op)
{
	WSABUF pieces[PIECES_MAX];
	bool skips = true;
	int32_t rc = vq__iocp_adopt(d, op, &skips);

	while (rc == 0 && op->span.done < op->span.total) {
		DWORD count = span_pieces(&op->span, pieces);
		op->ov = (OVERLAPPED){ 0 };
		bool done =
			WSASend(vq__socket(op->sqe.fd), pieces, count, NULL, 0, &op->ov, NULL) == 0;
		if ((done && !skips) || (!done && WSAGetLastError() == WSA_IO_PENDING)) {
			vq__iocp_expect(d, op);
			return;
		}
		if (done)
			span_advance(&op->span, op->ov.InternalHigh);
		else
			rc = vq__wsa_error();
	}
	send_finish(d, op, rc);
}

void vq__iocp_send_start(vq__iocp *d, vq__iocp_op *op)
{
	bool skips = true;
	/* The first use of a socket makes it non-blocking. */
	int32_t rc = vq__iocp_adopt(d, op, &skips);

	if (op->datagram) {
		vq__iocp_datagram_send(d, op);
		return;
	}
	span_init(&op->span, &op->sqe);
	if (rc == 0)
		rc = send_now(op);
	if (rc == -VQ_EAGAIN && (op->sqe.op_flags & VQ_MSG_DONTWAIT) == 0)
		send_wait(d, op);
	else
		send_finish(d, op, rc);
}

void vq__iocp_send_packet(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes)
{
	/* Also one that was cancelled may have sent some. */
	span_advance(&op->span, bytes);
	if (error == 0 && op->cancelled && op->span.done < op->span.total)
		error = -VQ_ECANCELED;
	if (error != 0)
		send_finish(d, op, error);
	else
		send_wait(d, op);
}

/* ---- files */

static void file_finish(vq__iocp *d, vq__iocp_op *op, int32_t error, uint64_t bytes)
{
	op->fell_short = bytes < op->sqe.len;
	vq__iocp_finish(d, op, bytes > 0 || error == 0 ? (int32_t)bytes : error, 0);
}

void vq__iocp_file_start(vq__iocp *d, vq__iocp_op *op)
{
	const vq_sqe *sqe = &op->sqe;
	bool skips = true;
	/* More in one call Windows refuses; and no bytes mean the whole file to it. */
	int32_t rc =
		sqe->len > 0 && sqe->len < INT32_MAX ? vq__iocp_adopt(d, op, &skips) : -VQ_EINVAL;

	if (rc == 0 && op->datagram)
		rc = -VQ_EOPNOTSUPP;
	if (rc == 0) {
		op->ov = (OVERLAPPED){ .Offset = (DWORD)sqe->off,
				       .OffsetHigh = (DWORD)(sqe->off >> 32) };
		bool done = d->transmit_file(vq__socket(sqe->fd), (HANDLE)(uintptr_t)sqe->addr,
					     sqe->len, 0, &op->ov, NULL, 0);
		if ((done && !skips) || (!done && WSAGetLastError() == WSA_IO_PENDING)) {
			vq__iocp_expect(d, op);
			return;
		}
		rc = done ? 0 : vq__wsa_error();
	}
	file_finish(d, op, rc, rc == 0 ? op->ov.InternalHigh : 0);
}

/*
 * One that was cancelled: asks again in each enter, until it has ended. A request that comes
 * between two of the pieces that the system sends may get lost.
 */
void vq__iocp_file_run(vq__iocp *d, vq__iocp_op *op)
{
	if (op->file.ended) {
		file_finish(d, op, op->file.error, op->file.bytes);
		return;
	}
	(void)CancelIoEx((HANDLE)vq__socket(op->sqe.fd), &op->ov);
	vq__iocp_ready(d, op);
}

void vq__iocp_file_packet(vq__iocp *d, vq__iocp_op *op, int32_t error, uint32_t bytes)
{
	if (op->state != VQ__IOCP_READY) {
		file_finish(d, op, error, bytes);
		return;
	}
	op->file.error = error;
	op->file.bytes = bytes;
	op->file.ended = true;
}

/* ---- receiving */

static bool selects(const vq__iocp_op *op)
{
	return (op->sqe.flags & VQ_SQE_BUFFER_SELECT) != 0;
}

static bool multishot(const vq__iocp_op *op)
{
	return op->sqe.opcode == VQ_OP_RECV && (op->sqe.mode & VQ_RECV_MULTISHOT) != 0;
}

/*
 * The op has no byte to give now. False: it ended, because none will come or the wait for them did
 * not end well.
 */
static bool nothing_yet(vq__iocp *d, vq__iocp_op *op)
{
	if (op->error == 0)
		return true;
	vq__iocp_finish(d, op, op->error, 0);
	return false;
}

/* A recv that does not block. Bytes, 0 at the end, or a negative VQ_E*. */
static int32_t recv_now(const vq__iocp_op *op, WSABUF *pieces, DWORD count)
{
	DWORD bytes = 0;
	DWORD flags = 0;

	if (WSARecv(vq__socket(op->sqe.fd), pieces, count, &bytes, &flags, NULL, NULL) == 0)
		return (int32_t)bytes;
	int error = WSAGetLastError();
	if (error == WSAEMSGSIZE && op->datagram) {
		/* Cut off, as elsewhere without a word: the pieces are full. */
		for (DWORD i = 0; i < count; i++)
			bytes += pieces[i].len;
		return (int32_t)bytes;
	}
	/* The half was shut down on this side: elsewhere that reads as the end. */
	return error == WSAESHUTDOWN ? 0 : vq__error((DWORD)error);
}

/* What became of one take: whether the op is over, waits, or may have more to take. */
enum taken { OVER, WAIT, MORE };

static enum taken take_selected(vq__iocp *d, vq__iocp_op *op, uint32_t *bytes)
{
	vq__iocp_group *group = &d->buffers;
	const vq_buf *buffer = vq__iocp_buffer_first(group);

	if (buffer == NULL) {
		vq__iocp_finish(d, op, -VQ_ENOBUFS, 0);
		return OVER;
	}
	WSABUF piece = { .len = buffer->len - group->filled,
			 .buf = (char *)(uintptr_t)(buffer->addr + group->filled) };
	int32_t n = recv_now(op, &piece, 1);
	if (n == -VQ_EAGAIN)
		return nothing_yet(d, op) ? WAIT : OVER;
	if (n <= 0) {
		vq__iocp_finish(d, op, op->error != 0 ? op->error : n, 0);
		return OVER;
	}
	uint32_t flags = vq__iocp_buffer_take(group, buffer, (uint32_t)n);
	if (!multishot(op)) {
		vq__iocp_finish(d, op, n, flags);
		return OVER;
	}
	vq__iocp_more(d, op, n, flags);
	*bytes += (uint32_t)n;
	/* Short: most likely that was all, and the request that waits is the cheaper question. */
	return (uint32_t)n == piece.len || op->error != 0 ? MORE : WAIT;
}

static enum taken take_into_memory(vq__iocp *d, vq__iocp_op *op)
{
	WSABUF pieces[PIECES_MAX];
	vq__iocp_span *span = &op->span;
	DWORD count = span_pieces(span, pieces);
	int32_t n = recv_now(op, pieces, count);

	if (n > 0)
		span_advance(span, (uint64_t)n);
	bool all = (op->sqe.op_flags & VQ_MSG_WAITALL) != 0 && !op->datagram;
	if (n > 0 && all && span->done < span->total)
		return MORE;
	if (n == -VQ_EAGAIN && op->error == 0)
		return WAIT;
	if (span->done > 0)
		vq__iocp_finish(d, op, (int32_t)span->done, 0);
	else
		vq__iocp_finish(d, op, op->error != 0 ? op->error : n, 0);
	return OVER;
}

void vq__iocp_recv_run(vq__iocp *d, vq__iocp_op *op)
{
	uint32_t spurious = 0;
	uint32_t bytes = 0;

	for (;;) {
		if (op->cancelled) {
			const uint64_t done = selects(op) ? 0 : op->span.done;
			vq__iocp_finish(d, op, done > 0 ? (int32_t)done : -VQ_ECANCELED, 0);
			return;
		}
		if (!op->readable && !vq__iocp_wait(d, op))
			return;
		op->readable = true;
		if (bytes >= TURN_BYTES_MAX || spurious >= SPURIOUS_MAX ||
		    (multishot(op) && !vq__iocp_has_room(d))) {
			vq__iocp_ready(d, op);
			return;
		}
		switch (selects(op) ? take_selected(d, op, &bytes) : take_into_memory(d, op)) {
		case OVER:
			return;
		case WAIT:
			op->readable = false;
			spurious++;
			break;
		case MORE:
			spurious = 0;
			break;
		}
	}
}

void vq__iocp_recv_start(vq__iocp *d, vq__iocp_op *op)
{
	if (vq__iocp_takes_packets(op)) {
		vq__iocp_packets_start(d, op);
		return;
	}
	if (!selects(op)) {
		span_init(&op->span, &op->sqe);
		if (op->span.total == 0) {
			vq__iocp_finish(d, op, 0, 0);
			return;
		}
	} else if (op->sqe.buf_group != VQ__IOCP_BUF_GROUP ||
		   vq__iocp_buffer_first(&d->buffers) == NULL) {
		/* Known now, so said now: an owner without buffers has to make some free first. */
		vq__iocp_finish(d, op, -VQ_ENOBUFS, 0);
		return;
	}
	vq__iocp_recv_run(d, op);
}

void vq__iocp_recv_packet(vq__iocp *d, vq__iocp_op *op, int32_t error)
{
	vq__iocp_waited(op, error);
	if (vq__iocp_takes_packets(op))
		vq__iocp_packets_run(d, op);
	else
		vq__iocp_recv_run(d, op);
}
