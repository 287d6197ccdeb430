/*
 * uring_restrict_linux.c: which operations a restricted ring may do: those of op.h, and the
 * registrations that the driver's own end needs.
 */
#define _GNU_SOURCE
#include "uring_linux.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* liburing 2.3 declares the functions for these two and does not export them. */
static int register_call(const struct io_uring *ring, unsigned int opcode, const void *arg,
			 unsigned int count)
{
	long rc = syscall(__NR_io_uring_register, ring->ring_fd, opcode, arg, count);

	return rc < 0 ? -errno : (int)rc;
}

int vq__uring_restrict(const vq__uring *u, uint32_t caps)
{
	static const uint8_t ops[] = {
		VQ_OP_NOP,    VQ_OP_POLL,    VQ_OP_SENDMSG,  VQ_OP_RECVMSG, VQ_OP_TIMEOUT,
		VQ_OP_ACCEPT, VQ_OP_CONNECT, VQ_OP_CLOSE,    VQ_OP_SEND,    VQ_OP_TIMEOUT_UPDATE,
		VQ_OP_RECV,   VQ_OP_CANCEL,  VQ_OP_SHUTDOWN, VQ_OP_SEND_ZC,
	};
	const bool has_shutdown = (caps & VQ_CAP_SHUTDOWN) != 0;
	const bool has_ring_fds = (caps & VQ_CAP_REGISTERED_RING) != 0;
	const bool has_buf_ring = (caps & VQ_CAP_BUFFER_RING) != 0;
	const struct {
		bool known;
		uint8_t opcode;
	} registrations[] = {
		{ true, IORING_REGISTER_ENABLE_RINGS },
		{ has_ring_fds, IORING_UNREGISTER_RING_FDS },
		{ has_buf_ring, IORING_UNREGISTER_PBUF_RING },
		{ u->is_6_0, IORING_REGISTER_SYNC_CANCEL },
	};
	const size_t registration_count = sizeof(registrations) / sizeof(registrations[0]);
	struct io_uring_restriction
		list[sizeof(ops) + sizeof(registrations) / sizeof(registrations[0]) + 1];
	unsigned int count = 0;

	memset(list, 0, sizeof(list));
	for (size_t i = 0; i < sizeof(ops); i++) {
		if ((ops[i] == VQ_OP_SHUTDOWN && !has_shutdown) ||
		    (ops[i] == VQ_OP_SEND_ZC && !u->is_6_0))
			continue;
		list[count].opcode = IORING_RESTRICTION_SQE_OP;
		list[count++].sqe_op = ops[i];
	}
	for (size_t i = 0; i < registration_count; i++) {
		if (!registrations[i].known)
			continue;
		list[count].opcode = IORING_RESTRICTION_REGISTER_OP;
		list[count++].register_op = registrations[i].opcode;
	}
	list[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	list[count++].sqe_flags =
		VQ_SQE_LINK | VQ_SQE_MAY_BLOCK | VQ_SQE_BUFFER_SELECT | VQ_SQE_SKIP_SUCCESS;
	int rc = register_call(&u->ring, IORING_REGISTER_RESTRICTIONS, list, count);
	return rc != 0 ? rc : register_call(&u->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}
