/* epoll_buffers_linux.c: the epoll driver's receives that take buffers: bytes, and datagrams. */
#define _GNU_SOURCE
#include "epoll_linux.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

/* Datagrams that one call receives at most. */
#define PACKETS_MAX 16

/* What a datagram counts for at least: the calls for empty ones cost too. */
#define PACKET_BYTES 512

_Static_assert((unsigned int)VQ_MSG_TRUNC == MSG_TRUNC, "VQ_MSG_TRUNC");
_Static_assert((unsigned int)VQ_MSG_CTRUNC == MSG_CTRUNC, "VQ_MSG_CTRUNC");

vq__epoll_group *vq__epoll_group_of(vq__epoll *e, uint16_t id)
{
	vq__epoll_group *group = id == e->base.view.buf_group      ? &e->buffers
				 : id == e->base.view.packet_group ? &e->packets
								   : NULL;
	return group != NULL && group->count > 0 ? group : NULL;
}

/* Moves what the owner has offered onto the stack. Not while its top is in use. */
static void take_offers(vq__epoll_group *group)
{
	/* acquire: pairs with the owner's release of the tail; the entries below it are written */
	uint16_t tail = __atomic_load_n(&group->ring[0].tail, __ATOMIC_ACQUIRE);

	while (group->head != tail) {
		uint16_t index = group->ring[group->head++ & (group->count - 1)].index;
		VQ_ASSERT(index < group->count && group->free_count < group->count);
		group->free[group->free_count++] = index;
	}
}

static uint8_t *buffer(const vq__epoll_group *group, uint32_t index)
{
	return group->memory + (size_t)index * group->size_bytes;
}

/* The group's next region, NULL when it is empty. */
static uint8_t *region(vq__epoll_group *group, uint32_t *room_bytes)
{
	if (group->used == 0)
		take_offers(group);
	if (group->free_count == 0)
		return NULL;
	*room_bytes = group->size_bytes - group->used;
	return buffer(group, group->free[group->free_count - 1]) + group->used;
}

/* Gives n bytes of that region to a completion; returns its flags. */
static uint32_t give_out(vq__epoll_group *group, uint32_t n)
{
	uint32_t index = group->free[group->free_count - 1];
	uint32_t flags = index << VQ_CQE_BUFFER_SHIFT | VQ_CQE_BUFFER;

	group->used += n;
	/* A short rest would cut the next message in two, at the price of a call. */
	if (group->incremental && group->size_bytes - group->used > group->size_bytes / 16)
		return flags | VQ_CQE_BUF_MORE;
	group->used = 0;
	group->free_count--;
	return flags;
}

/*
 * Whether a short receive found all there was: on TCP yes, and what comes later is an event of its
 * own. Other sockets keep messages apart.
 */
static bool found_all(vq__epoll_fd *entry, int32_t fd)
{
	if (entry->in_doubt)
		return false;
	if (!entry->kind_known) {
		int protocol = 0;
		socklen_t len = sizeof(protocol);
		entry->kind_known = true;
		entry->is_tcp = getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 &&
				protocol == IPPROTO_TCP;
	}
	return entry->is_tcp;
}

static bool end(vq__epoll *e, uint32_t index, int32_t res)
{
	vq__epoll_unqueue(e, index);
	vq__epoll_finish(e, index, res, 0);
	return true;
}

/* One receive of bytes. */
static bool receive_bytes(vq__epoll *e, uint32_t index)
{
	const vq__epoll_op *op = &e->ops[index];
	vq__epoll_group *group = vq__epoll_group_of(e, op->buf_group);
	const int fd = op->fd;
	const bool multishot = (op->mode & VQ_RECV_MULTISHOT) != 0;
	uint32_t room_bytes = 1;
	char peeked;
	int flags = (int)op->op_flags | MSG_DONTWAIT;
	uint8_t *at = region(group, &room_bytes);

	if (op->len != 0 && op->len < room_bytes)
		room_bytes = op->len;
	ssize_t n = at != NULL ? recv(fd, at, room_bytes, flags)
			       : recv(fd, &peeked, 1, flags | MSG_PEEK);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR;
	if (n <= 0 || at == NULL)
		return end(e, index, n < 0 ? -errno : n == 0 ? 0 : -VQ_ENOBUFS);
	uint32_t got = (uint32_t)n;
	uint32_t cqe_flags = give_out(group, got);
	e->budget_bytes -= got;
	if (multishot) {
		vq__epoll_post(e, op->user_data, (int32_t)got, cqe_flags | VQ_CQE_MORE);
	} else {
		vq__epoll_unqueue(e, index);
		vq__epoll_finish(e, index, (int32_t)got, cqe_flags);
	}
	return got == room_bytes || !found_all(&e->fds[fd], fd);
}

/* The headers of one recvmmsg(2), each for one buffer from the stack's top down. */
typedef struct packets {
	struct mmsghdr list[PACKETS_MAX];
	struct iovec pieces[PACKETS_MAX];
} packets;

static uint32_t prepare(const vq__epoll *e, const vq__epoll_group *group, const vq_msghdr *asked,
			packets *p)
{
	uint32_t count = group->free_count;
	uint32_t room = vq__epoll_room_count(e) - (VQ__STEP_COMPLETIONS - 1);
	uint32_t header = (uint32_t)(sizeof(vq_recvmsg_out) + asked->name_len + asked->control_len);

	count = count < room ? count : room;
	count = count < PACKETS_MAX ? count : PACKETS_MAX;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = buffer(group, group->free[group->free_count - 1 - i]);
		uint8_t *name = at + sizeof(vq_recvmsg_out);
		p->pieces[i] = (struct iovec){ at + header, group->size_bytes - header };
		p->list[i].msg_hdr = (struct msghdr){
			.msg_name = name,
			.msg_namelen = asked->name_len,
			.msg_control = name + asked->name_len,
			.msg_controllen = asked->control_len,
			.msg_iov = &p->pieces[i],
			.msg_iovlen = 1,
		};
	}
	return count;
}

/* Completes the op with one datagram in the stack's top. */
static void give_packet(vq__epoll *e, vq__epoll_group *group, const vq__epoll_op *op,
			const struct mmsghdr *message)
{
	const vq_msghdr *asked = (const vq_msghdr *)(uintptr_t)op->addr;
	const vq_recvmsg_out out = {
		.name_len = message->msg_hdr.msg_namelen,
		.control_len = (uint32_t)message->msg_hdr.msg_controllen,
		.payload_len = message->msg_len,
		.flags = (uint32_t)message->msg_hdr.msg_flags,
	};
	uint64_t n = sizeof(out) + asked->name_len + asked->control_len + out.payload_len;

	memcpy(buffer(group, group->free[group->free_count - 1]), &out, sizeof(out));
	e->budget_bytes -= out.payload_len > PACKET_BYTES ? out.payload_len : PACKET_BYTES;
	vq__epoll_post(e, op->user_data, (int32_t)n, give_out(group, (uint32_t)n) | VQ_CQE_MORE);
}

/* One receive of datagrams. */
static bool receive_packets(vq__epoll *e, uint32_t index)
{
	const vq__epoll_op *op = &e->ops[index];
	vq__epoll_group *group = vq__epoll_group_of(e, op->buf_group);
	int flags = (int)op->op_flags | MSG_DONTWAIT;
	packets p;
	char peeked;

	take_offers(group);
	uint32_t count = prepare(e, group, (const vq_msghdr *)(uintptr_t)op->addr, &p);
	int n = count > 0 ? recvmmsg(op->fd, p.list, count, flags, NULL)
			  : (int)recv(op->fd, &peeked, 1, flags | MSG_PEEK);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR;
	if (n < 0 || count == 0)
		return end(e, index, n < 0 ? -errno : -VQ_ENOBUFS);
	for (int i = 0; i < n; i++)
		give_packet(e, group, op, &p.list[i]);
	/* Fewer than asked for: it ended for an error, which is kept for the next, or for want. */
	return true;
}

bool vq__epoll_receive_select(vq__epoll *e, uint32_t index)
{
	return e->ops[index].opcode == VQ_OP_RECV ? receive_bytes(e, index)
						  : receive_packets(e, index);
}
