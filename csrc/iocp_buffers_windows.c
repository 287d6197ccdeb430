/*
 * iocp_buffers_windows.c: buffer groups, and how a receive waits without one.
 *
 * Every receive waits with a request for zero bytes, which ends when there is something to receive
 * (or nothing will come any more), and then takes it by a call that does not block. So an idle
 * socket holds no buffer, and a cancelled receive has nothing that it could lose.
 *
 * On a datagram socket the request only peeks, or the message would be gone; it ends with the error
 * that the message is too long for no bytes. Where it ends with that at once it depends on the
 * system's version and on what is stacked upon its sockets whether a packet comes as well, so that
 * is tried out.
 */
#include "group.h"
#include "iocp_windows.h"

enum {
	/* How long what was sent to oneself may take. */
	PROBE_MS = 1000,
	PROBE_TRIES = 3,
};

static INIT_ONCE probe_once = INIT_ONCE_STATIC_INIT;
static bool peek_posts;

/* ---- groups */

void vq__iocp_group_fill(vq__iocp_group *group)
{
	vq__group_fill(group->ring, group->memory, group->count, group->size_bytes);
}

vq_buf *vq__iocp_buffer_first(vq__iocp_group *group)
{
	if (group->count == 0)
		return NULL;
	/* acquire: pairs with the owner's release of the tail; the entry is written */
	uint16_t tail = __atomic_load_n(&group->ring[0].tail, __ATOMIC_ACQUIRE);

	return tail == group->head ? NULL : &group->ring[group->head & (group->count - 1)];
}

uint32_t vq__iocp_buffer_take(vq__iocp_group *group, const vq_buf *buffer, uint32_t bytes)
{
	uint32_t flags = VQ_CQE_BUFFER | (uint32_t)buffer->index << VQ_CQE_BUFFER_SHIFT;

	group->filled += bytes;
	if (group->incremental && group->filled < buffer->len)
		return flags | VQ_CQE_BUF_MORE;
	group->filled = 0;
	group->head++;
	return flags;
}

/* ---- waiting */

int vq__iocp_adopt(vq__iocp *d, vq__iocp_op *op, bool *skips)
{
	vq__socket_traits traits;
	int rc = vq__port_adopt(d->port, d->port_id, op->sqe.fd, &traits);

	*skips = traits.skips;
	op->datagram = traits.datagram;
	return rc;
}

void vq__iocp_expect(vq__iocp *d, vq__iocp_op *op)
{
	op->pending = true;
	d->pending++;
}

static int peek(SOCKET s, OVERLAPPED *ov)
{
	WSABUF nothing = { 0 };
	DWORD flags = MSG_PEEK;

	*ov = (OVERLAPPED){ 0 };
	return WSARecv(s, &nothing, 1, NULL, &flags, ov, NULL) == 0 ? 0 : WSAGetLastError();
}

/* Peeks at a message that is there for certain: the first peek has waited for it. */
static bool probe(SOCKET s, HANDLE port)
{
	OVERLAPPED_ENTRY packet;
	OVERLAPPED ov;
	ULONG count = 0;

	for (uint32_t i = 0; i < PROBE_TRIES; i++) {
		int error = peek(s, &ov);
		DWORD timeout_ms = error == WSA_IO_PENDING ? PROBE_MS : 0;
		bool came =
			GetQueuedCompletionStatusEx(port, &packet, 1, &count, timeout_ms, FALSE) &&
			count == 1;
		if (error != WSA_IO_PENDING)
			return error == WSAEMSGSIZE && came;
		if (!came) {
			/* Not even that: ov is on the stack, and must be let go. */
			DWORD bytes = 0;
			DWORD flags = 0;
			(void)CancelIoEx((HANDLE)s, &ov);
			(void)WSAGetOverlappedResult(s, &ov, &bytes, TRUE, &flags);
			return false;
		}
	}
	return false;
}

static BOOL CALLBACK probe_all(INIT_ONCE *once, void *parameter, void **context)
{
	struct sockaddr_in self = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr *to = (struct sockaddr *)&self;
	int len = sizeof(self);
	vq__socket_traits traits;
	HANDLE port = NULL;
	uint16_t id = 0;
	int fd = vq__socket_create(AF_INET, SOCK_DGRAM);

	(void)once;
	(void)parameter;
	(void)context;
	if (fd >= 0 && vq__port_take(&port, &id) == 0) {
		SOCKET s = vq__socket(fd);
		peek_posts = vq__port_adopt(port, id, fd, &traits) == 0 && bind(s, to, len) == 0 &&
			     getsockname(s, to, &len) == 0 &&
			     sendto(s, "probe", 5, 0, to, len) == 5 && probe(s, port);
		vq__port_give(id);
	}
	if (fd >= 0)
		(void)vq__socket_close(fd, false);
	return TRUE;
}

void vq__iocp_wait_probe(void)
{
	(void)InitOnceExecuteOnce(&probe_once, probe_all, NULL, NULL);
}

bool vq__iocp_wait(vq__iocp *d, vq__iocp_op *op)
{
	WSABUF nothing = { 0 };
	bool skips = true;
	DWORD flags = 0;

	op->error = vq__iocp_adopt(d, op, &skips);
	if (op->error != 0)
		return true;
	if (op->datagram) {
		int error = peek(vq__socket(op->sqe.fd), &op->ov);
		if (error == WSAEMSGSIZE ? !skips || peek_posts
					 : error == WSA_IO_PENDING || (error == 0 && !skips))
			vq__iocp_expect(d, op);
		else if (error != 0 && error != WSAEMSGSIZE)
			op->error = vq__error((DWORD)error);
		return !op->pending;
	}
	op->ov = (OVERLAPPED){ 0 };
	if (WSARecv(vq__socket(op->sqe.fd), &nothing, 1, NULL, &flags, &op->ov, NULL) == 0) {
		if (skips)
			return true;
	} else if (WSAGetLastError() != WSA_IO_PENDING) {
		op->error = vq__wsa_error();
		return true;
	}
	vq__iocp_expect(d, op);
	return false;
}

void vq__iocp_waited(vq__iocp_op *op, int32_t error)
{
	/* Cancelled from elsewhere: the receive itself says why. Too long: there is something. */
	op->error = error == -VQ_ECANCELED || (op->datagram && error == -VQ_EMSGSIZE) ? 0 : error;
	op->readable = true;
}
