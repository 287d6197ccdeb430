/*
 * iocp_stream_windows.c: bytes: SEND, SENDMSG, RECV and RECVMSG.
 *
 * Every receive waits with a request for zero bytes, which ends when there is something to receive
 * (or nothing will come any more), and then takes it by a call that does not block. So an idle
 * connection holds no buffer, and a cancelled receive has no byte that it could lose.
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

static int adopt(vq__iocp *d, const vq__iocp_op *op, bool *skips)
{
	return vq__port_adopt(d->port, d->port_id, op->sqe.fd, skips);
}

static void expect_packet(vq__iocp *d, vq__iocp_op *op)
{
	op->pending = true;
	d->pending++;
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
	int32_t rc = adopt(d, op, &skips);

	while (rc == 0 && op->span.done < op->span.total) {
		DWORD count = span_pieces(&op->span, pieces);
		op->ov = (OVERLAPPED){ 0 };
		bool done =
			WSASend(vq__socket(op->sqe.fd), pieces, count, NULL, 0, &op->ov, NULL) == 0;
		if ((done && !skips) || (!done && WSAGetLastError() == WSA_IO_PENDING)) {
			expect_packet(d, op);
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

	span_init(&op->span, &op->sqe);
	/* The first use of a socket makes it non-blocking. */
	int32_t rc = adopt(d, op, &skips);
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

/* ---- receiving */

static bool selects(const vq__iocp_op *op)
{
	return (op->sqe.flags & VQ_SQE_BUFFER_SELECT) != 0;
}

static bool multishot(const vq__iocp_op *op)
{
	return op->sqe.opcode == VQ_OP_RECV && (op->sqe.mode & VQ_RECV_MULTISHOT) != 0;
}

/* The first free buffer of the group, or NULL. */
static vq_buf *buffer_first(vq__iocp *d)
{
	/* acquire: pairs with the owner's release of the tail; the entry is written */
	uint16_t tail = __atomic_load_n(&d->buf_ring[0].tail, __ATOMIC_ACQUIRE);

	return tail == d->buf_head ? NULL : &d->buf_ring[d->buf_head & (d->buf_count - 1)];
}

/* Takes bytes of the first buffer out of the group; returns what the completion says of it. */
static uint32_t buffer_take(vq__iocp *d, const vq_buf *buffer, uint32_t bytes)
{
	uint32_t flags = VQ_CQE_BUFFER | (uint32_t)buffer->index << VQ_CQE_BUFFER_SHIFT;

	d->buf_filled += bytes;
	if (d->incremental && d->buf_filled < buffer->len)
		return flags | VQ_CQE_BUF_MORE;
	d->buf_filled = 0;
	d->buf_head++;
	return flags;
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
static int32_t recv_now(int fd, WSABUF *pieces, DWORD count)
{
	DWORD bytes = 0;
	DWORD flags = 0;

	if (WSARecv(vq__socket(fd), pieces, count, &bytes, &flags, NULL, NULL) == 0)
		return (int32_t)bytes;
	/* The half was shut down on this side: elsewhere that reads as the end. */
	return WSAGetLastError() == WSAESHUTDOWN ? 0 : vq__wsa_error();
}

/* What became of one take: whether the op is over, waits, or may have more to take. */
enum taken { OVER, WAIT, MORE };

static enum taken take_selected(vq__iocp *d, vq__iocp_op *op, uint32_t *bytes)
{
	const vq_buf *buffer = buffer_first(d);

	if (buffer == NULL) {
		vq__iocp_finish(d, op, -VQ_ENOBUFS, 0);
		return OVER;
	}
	WSABUF piece = { .len = buffer->len - d->buf_filled,
			 .buf = (char *)(uintptr_t)(buffer->addr + d->buf_filled) };
	int32_t n = recv_now(op->sqe.fd, &piece, 1);
	if (n == -VQ_EAGAIN)
		return nothing_yet(d, op) ? WAIT : OVER;
	if (n <= 0) {
		vq__iocp_finish(d, op, op->error != 0 ? op->error : n, 0);
		return OVER;
	}
	uint32_t flags = buffer_take(d, buffer, (uint32_t)n);
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
	int32_t n = recv_now(op->sqe.fd, pieces, count);

	if (n > 0)
		span_advance(span, (uint64_t)n);
	bool all = (op->sqe.op_flags & VQ_MSG_WAITALL) != 0;
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

/*
 * Asks to be told when there is something. True: it is there now; false: the packet will say so, or
 * the op ended.
 */
static bool recv_wait(vq__iocp *d, vq__iocp_op *op)
{
	WSABUF nothing = { 0 };
	DWORD flags = 0;
	bool skips = true;
	int32_t rc = adopt(d, op, &skips);

	if (rc != 0) {
		vq__iocp_finish(d, op, rc, 0);
		return false;
	}
	op->ov = (OVERLAPPED){ 0 };
	if (WSARecv(vq__socket(op->sqe.fd), &nothing, 1, NULL, &flags, &op->ov, NULL) == 0) {
		if (skips)
			return true;
	} else if (WSAGetLastError() != WSA_IO_PENDING) {
		op->error = vq__wsa_error();
		return true;
	}
	expect_packet(d, op);
	return false;
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
		if (!op->readable && !recv_wait(d, op))
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
	if (!selects(op)) {
		span_init(&op->span, &op->sqe);
		if (op->span.total == 0) {
			vq__iocp_finish(d, op, 0, 0);
			return;
		}
	} else if (op->sqe.buf_group != VQ__IOCP_BUF_GROUP || buffer_first(d) == NULL) {
		/* Known now, so said now: an owner without buffers has to make some free first. */
		vq__iocp_finish(d, op, -VQ_ENOBUFS, 0);
		return;
	}
	vq__iocp_recv_run(d, op);
}

void vq__iocp_recv_packet(vq__iocp *d, vq__iocp_op *op, int32_t error)
{
	/* Ended from elsewhere: the receive itself says why. */
	op->error = error == -VQ_ECANCELED ? 0 : error;
	op->readable = true;
	vq__iocp_recv_run(d, op);
}
