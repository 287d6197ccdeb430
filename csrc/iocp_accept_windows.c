/*
 * iocp_accept_windows.c: how connections begin: ACCEPT and CONNECT.
 *
 * AcceptEx takes one connection into a socket made beforehand. A multishot accept keeps several of
 * them waiting, so that a burst of connections does not wait for as many turns.
 */
#include "iocp_windows.h"

/* Connections of one listener before the others have their turn. */
#define ACCEPTS_PER_TURN 64

/* ---- slots */

static vq__iocp_slot *slot_take(vq__iocp *d, vq__iocp_op *op)
{
	const uint32_t i = d->slots_free;

	if (i == VQ__IOCP_NONE)
		return NULL;
	vq__iocp_slot *slot = &d->slots[i];
	d->slots_free = slot->next;
	slot->next = op->accept.slots;
	op->accept.slots = i;
	slot->op = op;
	return slot;
}

static void slots_give(vq__iocp *d, vq__iocp_op *op)
{
	while (op->accept.slots != VQ__IOCP_NONE) {
		vq__iocp_slot *slot = &d->slots[op->accept.slots];
		op->accept.slots = slot->next;
		VQ_ASSERT(!slot->pending);
		if (slot->fd >= 0)
			(void)vq__socket_close(slot->fd, false);
		slot->fd = -1;
		slot->next = d->slots_free;
		d->slots_free = (uint32_t)(slot - d->slots);
	}
}

/* ---- accepting */

static bool multishot(const vq__iocp_op *op)
{
	return (op->sqe.mode & VQ_ACCEPT_MULTISHOT) != 0;
}

/* What an accepted socket has from its listener elsewhere, and by AcceptEx not on every version. */
static const int32_t inherited[VQ__IOCP_INHERITED] = {
	VQ_OPT_NODELAY,           VQ_OPT_KEEPALIVE,  VQ_OPT_KEEP_IDLE_S,
	VQ_OPT_KEEP_INTERVAL_S,   VQ_OPT_KEEP_COUNT, VQ_OPT_RECEIVE_BUFFER_BYTES,
	VQ_OPT_SEND_BUFFER_BYTES,
};

uint32_t vq__iocp_inherited(int fd, int32_t values[VQ__IOCP_INHERITED])
{
	uint32_t known = 0;

	for (uint32_t i = 0; i < VQ__IOCP_INHERITED; i++)
		known |= (uint32_t)(vq_socket_get(fd, inherited[i], &values[i]) == 0) << i;
	return known;
}

/*
 * Only what somebody chose is to be set: a buffer's size that is set to the system's own would no
 * longer be fitted to the connection.
 */
static void remember(const vq__iocp *d, vq__iocp_op *op)
{
	op->accept.differs = vq__iocp_inherited(op->sqe.fd, op->accept.values) & d->fresh_known;
	for (uint32_t i = 0; i < VQ__IOCP_INHERITED; i++)
		if (op->accept.values[i] == d->fresh[i])
			op->accept.differs &= ~(1u << i);
}

/* What the first connection has without it, the others have too. */
static void compare(vq__iocp_op *op, int fd)
{
	int32_t values[VQ__IOCP_INHERITED];
	const uint32_t known = vq__iocp_inherited(fd, values);

	op->accept.compared = true;
	for (uint32_t i = 0; i < VQ__IOCP_INHERITED; i++)
		if ((known >> i & 1) != 0 && values[i] == op->accept.values[i])
			op->accept.differs &= ~(1u << i);
}

static void inherit(vq__iocp_op *op, int fd)
{
	if (!op->accept.compared)
		compare(op, fd);
	for (uint32_t i = 0; i < VQ__IOCP_INHERITED; i++)
		if ((op->accept.differs >> i & 1) != 0)
			(void)vq_socket_set(fd, inherited[i], op->accept.values[i]);
}

/* Takes the connection out of the slot; returns it. */
static int slot_connection(vq__iocp_slot *slot)
{
	const SOCKET listener = vq__socket(slot->op->sqe.fd);
	const int fd = slot->fd;

	slot->fd = -1;
	/* Without it the socket knows neither addresses nor shutdown. */
	(void)setsockopt(vq__socket(fd), SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
			 (const char *)&listener, sizeof(listener));
	inherit(slot->op, fd);
	return fd;
}

/*
 * Begins one accept. 1: a connection is there; 0: its packet will come; or a negative VQ_E*.
 */
static int slot_begin(vq__iocp *d, vq__iocp_slot *slot, bool skips)
{
	vq__iocp_op *op = slot->op;
	const DWORD room = sizeof(slot->addresses) / 2;
	DWORD bytes = 0;

	if (slot->fd < 0)
		slot->fd = vq__socket_create(op->accept.family, SOCK_STREAM);
	if (slot->fd < 0) {
		int rc = slot->fd;
		slot->fd = -1;
		return rc;
	}
	slot->ov = (OVERLAPPED){ 0 };
	if (op->accept.accept_ex(vq__socket(op->sqe.fd), vq__socket(slot->fd), slot->addresses, 0,
				 room, room, &bytes, &slot->ov)) {
		if (skips)
			return 1;
	} else if (WSAGetLastError() != WSA_IO_PENDING) {
		return vq__wsa_error();
	}
	slot->pending = true;
	d->pending++;
	op->accept.waiting++;
	return 0;
}

/* A connection that ended before it was taken says nothing about the listener. */
static bool is_about_connection(int error)
{
	return error == -VQ_ECONNRESET || error == -VQ_ECONNABORTED || error == -VQ_ENOTCONN ||
	       error == -VQ_ETIMEDOUT;
}

static void accept_settle(vq__iocp *d, vq__iocp_op *op)
{
	if (op->accept.waiting > 0 || op->state == VQ__IOCP_READY)
		return;
	int32_t error = op->error != 0 ? op->error : -VQ_ECANCELED;
	slots_give(d, op);
	vq__iocp_finish(d, op, error, 0);
}

static void cancel_waiting(const vq__iocp *d, const vq__iocp_op *op)
{
	for (uint32_t i = op->accept.slots; i != VQ__IOCP_NONE; i = d->slots[i].next)
		if (d->slots[i].pending)
			(void)CancelIoEx((HANDLE)vq__socket(op->sqe.fd), &d->slots[i].ov);
}

/* Whether the op is to go on: false when it ended, or only waits for its last packets. */
static bool accepted(vq__iocp *d, vq__iocp_op *op, vq__iocp_slot *slot)
{
	const int fd = slot_connection(slot);

	if (multishot(op)) {
		vq__iocp_more(d, op, fd, 0);
		return true;
	}
	slots_give(d, op);
	vq__iocp_finish(d, op, fd, 0);
	return false;
}

/* Sees to it that as many accepts wait as the op wants. */
void vq__iocp_accept_run(vq__iocp *d, vq__iocp_op *op)
{
	const uint32_t wanted = multishot(op) ? VQ__IOCP_ACCEPTS : 1;
	uint32_t budget = ACCEPTS_PER_TURN;
	bool skips = true;
	uint32_t next = VQ__IOCP_NONE;

	if (op->error == 0 && !op->cancelled)
		op->error = vq__iocp_adopt(d, op, &skips);
	for (uint32_t i = op->accept.slots; i != VQ__IOCP_NONE; i = next) {
		vq__iocp_slot *slot = &d->slots[i];
		next = slot->next;
		while (!slot->pending && op->error == 0 && !op->cancelled) {
			if (budget-- == 0 || (multishot(op) && !vq__iocp_has_room(d))) {
				vq__iocp_ready(d, op);
				return;
			}
			int rc = slot_begin(d, slot, skips);
			if (rc == 1 && !accepted(d, op, slot))
				return;
			/* Fewer sockets than wanted are enough, as long as one waits. */
			if (rc < 0 && !is_about_connection(rc) && op->accept.waiting > 0)
				break;
			if (rc < 0 && !is_about_connection(rc))
				op->error = rc;
		}
	}
	VQ_ASSERT(op->accept.waiting <= wanted);
	if (op->error != 0 || op->cancelled) {
		cancel_waiting(d, op);
		accept_settle(d, op);
	}
}

void vq__iocp_accept_start(vq__iocp *d, vq__iocp_op *op)
{
	struct sockaddr_storage bound;
	int len = sizeof(bound);
	int listens = 0;
	int listens_len = sizeof(listens);
	const uint32_t wanted = multishot(op) ? VQ__IOCP_ACCEPTS : 1;

	op->accept.slots = VQ__IOCP_NONE;
	if (getsockname(vq__socket(op->sqe.fd), (struct sockaddr *)&bound, &len) != 0) {
		vq__iocp_finish(d, op, vq__wsa_error(), 0);
		return;
	}
	/* On a socket that does not listen AcceptEx may wait for ever. */
	if (getsockopt(vq__socket(op->sqe.fd), SOL_SOCKET, SO_ACCEPTCONN, (char *)&listens,
		       &listens_len) != 0 ||
	    !listens) {
		vq__iocp_finish(d, op, -VQ_EINVAL, 0);
		return;
	}
	op->accept.family = bound.ss_family;
	op->accept.accept_ex = d->accept_ex;
	/* Other families have providers of their own. */
	if (bound.ss_family != AF_INET && bound.ss_family != AF_INET6 &&
	    vq__iocp_function(op->sqe.fd, (GUID)WSAID_ACCEPTEX, &op->accept.accept_ex) != 0) {
		vq__iocp_finish(d, op, vq__wsa_error(), 0);
		return;
	}
	remember(d, op);
	for (uint32_t i = 0; i < wanted && slot_take(d, op) != NULL; i++)
		continue;
	if (op->accept.slots == VQ__IOCP_NONE)
		vq__iocp_finish(d, op, -VQ_ENOMEM, 0);
	else
		vq__iocp_accept_run(d, op);
}

void vq__iocp_accept_packet(vq__iocp *d, vq__iocp_slot *slot, int32_t error)
{
	vq__iocp_op *op = slot->op;

	op->accept.waiting--;
	if (error == 0) {
		if (!accepted(d, op, slot))
			return;
	} else if (!is_about_connection(error)) {
		/* Its socket may be used up: the next accept makes a new one. */
		(void)vq__socket_close(slot->fd, false);
		slot->fd = -1;
		if (error != -VQ_ECANCELED || !op->cancelled)
			op->error = error;
	}
	if (op->state != VQ__IOCP_READY)
		vq__iocp_accept_run(d, op);
}

void vq__iocp_accept_cancel(vq__iocp *d, vq__iocp_op *op)
{
	if (op->state != VQ__IOCP_READY)
		vq__iocp_accept_run(d, op);
	else
		cancel_waiting(d, op);
}

/* ---- connecting */

/* ConnectEx wants a bound socket, also where the address does not matter. */
static int bind_any(int fd, int family)
{
	const struct sockaddr_in any4 = { .sin_family = AF_INET };
	const struct sockaddr_in6 any6 = { .sin6_family = AF_INET6 };
	int rc = family == AF_INET6
			 ? bind(vq__socket(fd), (const struct sockaddr *)&any6, sizeof(any6))
			 : bind(vq__socket(fd), (const struct sockaddr *)&any4, sizeof(any4));

	/* Bound by its user already. */
	return rc == 0 || WSAGetLastError() == WSAEINVAL ? 0 : vq__wsa_error();
}

/*
 * ConnectEx is for TCP. Datagram sockets have nobody to wait for; nor have unix sockets, whose peer
 * is there or refuses.
 */
static int connect_now(const vq__iocp_op *op)
{
	return connect(vq__socket(op->sqe.fd), (const struct sockaddr *)(uintptr_t)op->sqe.addr,
		       (int)op->sqe.off) == 0
		       ? 0
		       : vq__wsa_error();
}

static void connected(vq__iocp *d, vq__iocp_op *op)
{
	int rc = setsockopt(vq__socket(op->sqe.fd), SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0);

	vq__iocp_finish(d, op, rc == 0 ? 0 : vq__wsa_error(), 0);
}

void vq__iocp_connect_start(vq__iocp *d, vq__iocp_op *op)
{
	const struct sockaddr *to = (const struct sockaddr *)(uintptr_t)op->sqe.addr;
	bool skips = true;
	DWORD bytes = 0;
	int rc = to->sa_family == AF_UNIX ? connect_now(op) : bind_any(op->sqe.fd, to->sa_family);

	if (rc == 0)
		rc = vq__iocp_adopt(d, op, &skips);
	if (rc == 0 && op->datagram)
		rc = connect_now(op);
	if (rc != 0 || op->datagram || to->sa_family == AF_UNIX) {
		vq__iocp_finish(d, op, rc, 0);
		return;
	}
	if (d->connect_ex(vq__socket(op->sqe.fd), to, (int)op->sqe.off, NULL, 0, &bytes, &op->ov)) {
		if (skips) {
			connected(d, op);
			return;
		}
	} else if (WSAGetLastError() != WSA_IO_PENDING) {
		vq__iocp_finish(d, op, vq__wsa_error(), 0);
		return;
	}
	op->pending = true;
	d->pending++;
}

void vq__iocp_connect_packet(vq__iocp *d, vq__iocp_op *op, int32_t error)
{
	if (error == 0)
		connected(d, op);
	else
		vq__iocp_finish(d, op, error, 0);
}
