/*
 * uring_linux.c: the driver over io_uring (liburing 2.3 or later). Staging writes straight into the
 * kernel's submission array and completions are read from its ring: this file only sets the ring
 * up, and uring_enter_linux.c submits and waits. Where the kernel lacks an op that repeats or the
 * buffer ring, the driver is a translated one: uring_translate_linux.h.
 */
#define _GNU_SOURCE
#include "pages_linux.h"
#include "uring_translate_linux.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Newer than liburing 2.3's headers; the values are the kernel's and the kernel is asked. */
#define VQ__PBUF_RING_INC    2u
#define VQ__OP_SEND_ZC       47
#define VQ__OP_SOCKET        45
#define VQ__FEAT_MIN_TIMEOUT (1u << 15)
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE  (1U << 3)
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

#define VQ__BUF_GROUP    0
#define VQ__PACKET_GROUP 1

/* vq_sqe, vq_cqe and their numbers are io_uring's: hold that against the system's header. */
#define SAME_OFFSET(a, af, b, bf) \
	_Static_assert(offsetof(a, af) == offsetof(struct b, bf), "layout of " #a "." #af)
#define SAME(a, b) _Static_assert((unsigned int)(a) == (unsigned int)(b), #a " is " #b)

_Static_assert(sizeof(vq_sqe) == sizeof(struct io_uring_sqe), "vq_sqe is io_uring_sqe");
_Static_assert(sizeof(vq_cqe) == sizeof(struct io_uring_cqe), "vq_cqe is io_uring_cqe");
_Static_assert(sizeof(vq_buf) == sizeof(struct io_uring_buf), "vq_buf is io_uring_buf");
_Static_assert(sizeof(vq_msghdr) == sizeof(struct msghdr), "vq_msghdr is msghdr");
_Static_assert(sizeof(vq_iovec) == sizeof(struct iovec), "vq_iovec is iovec");
_Static_assert(sizeof(vq_timespec) == sizeof(struct __kernel_timespec), "vq_timespec");
SAME_OFFSET(vq_sqe, opcode, io_uring_sqe, opcode);
SAME_OFFSET(vq_sqe, flags, io_uring_sqe, flags);
SAME_OFFSET(vq_sqe, mode, io_uring_sqe, ioprio);
SAME_OFFSET(vq_sqe, fd, io_uring_sqe, fd);
SAME_OFFSET(vq_sqe, off, io_uring_sqe, off);
SAME_OFFSET(vq_sqe, addr, io_uring_sqe, addr);
SAME_OFFSET(vq_sqe, len, io_uring_sqe, len);
SAME_OFFSET(vq_sqe, op_flags, io_uring_sqe, msg_flags);
SAME_OFFSET(vq_sqe, user_data, io_uring_sqe, user_data);
SAME_OFFSET(vq_sqe, buf_group, io_uring_sqe, buf_group);
SAME_OFFSET(vq_cqe, user_data, io_uring_cqe, user_data);
SAME_OFFSET(vq_cqe, res, io_uring_cqe, res);
SAME_OFFSET(vq_cqe, flags, io_uring_cqe, flags);
SAME_OFFSET(vq_buf, addr, io_uring_buf, addr);
SAME_OFFSET(vq_buf, len, io_uring_buf, len);
SAME_OFFSET(vq_buf, index, io_uring_buf, bid);
SAME_OFFSET(vq_buf, tail, io_uring_buf, resv);
SAME_OFFSET(vq_msghdr, name, msghdr, msg_name);
SAME_OFFSET(vq_msghdr, iov, msghdr, msg_iov);
SAME_OFFSET(vq_msghdr, iov_count, msghdr, msg_iovlen);
SAME_OFFSET(vq_msghdr, control, msghdr, msg_control);
SAME_OFFSET(vq_msghdr, flags, msghdr, msg_flags);
SAME(VQ_OP_NOP, IORING_OP_NOP);
SAME(VQ_OP_POLL, IORING_OP_POLL_ADD);
SAME(VQ_OP_SENDMSG, IORING_OP_SENDMSG);
SAME(VQ_OP_RECVMSG, IORING_OP_RECVMSG);
SAME(VQ_OP_TIMEOUT, IORING_OP_TIMEOUT);
SAME(VQ_OP_TIMEOUT_UPDATE, IORING_OP_TIMEOUT_REMOVE);
SAME(VQ_OP_ACCEPT, IORING_OP_ACCEPT);
SAME(VQ_OP_CANCEL, IORING_OP_ASYNC_CANCEL);
SAME(VQ_OP_CONNECT, IORING_OP_CONNECT);
SAME(VQ_OP_CLOSE, IORING_OP_CLOSE);
SAME(VQ_OP_SEND, IORING_OP_SEND);
SAME(VQ_OP_RECV, IORING_OP_RECV);
SAME(VQ_OP_SHUTDOWN, IORING_OP_SHUTDOWN);
SAME(VQ_SQE_LINK, IOSQE_IO_LINK);
SAME(VQ_SQE_MAY_BLOCK, IOSQE_ASYNC);
SAME(VQ_SQE_BUFFER_SELECT, IOSQE_BUFFER_SELECT);
SAME(VQ_SQE_SKIP_SUCCESS, IOSQE_CQE_SKIP_SUCCESS);
SAME(VQ_RECV_MULTISHOT, IORING_RECV_MULTISHOT);
SAME(VQ_ACCEPT_MULTISHOT, IORING_ACCEPT_MULTISHOT);
SAME(VQ_POLL_MULTISHOT, IORING_POLL_ADD_MULTI);
SAME(VQ_SEND_ZC_REPORT, IORING_SEND_ZC_REPORT_USAGE);
SAME((uint32_t)VQ_NOTIF_COPIED, IORING_NOTIF_USAGE_ZC_COPIED);
SAME(VQ_TIMEOUT_UPDATE, IORING_TIMEOUT_UPDATE);
_Static_assert(sizeof(vq_recvmsg_out) == sizeof(struct io_uring_recvmsg_out), "vq_recvmsg_out");
SAME_OFFSET(vq_recvmsg_out, name_len, io_uring_recvmsg_out, namelen);
SAME_OFFSET(vq_recvmsg_out, control_len, io_uring_recvmsg_out, controllen);
SAME_OFFSET(vq_recvmsg_out, payload_len, io_uring_recvmsg_out, payloadlen);
SAME_OFFSET(vq_recvmsg_out, flags, io_uring_recvmsg_out, flags);
SAME(VQ_MSG_TRUNC, MSG_TRUNC);
SAME(VQ_MSG_CTRUNC, MSG_CTRUNC);
SAME(VQ_MSG_DONTWAIT, MSG_DONTWAIT);
SAME(VQ_MSG_WAITALL, MSG_WAITALL);
SAME(VQ_MSG_NOSIGNAL, MSG_NOSIGNAL);
SAME(VQ_SOCK_CLOEXEC, SOCK_CLOEXEC);
SAME(VQ_SHUT_WR, SHUT_WR);
SAME(VQ_CQE_BUFFER, IORING_CQE_F_BUFFER);
SAME(VQ_CQE_MORE, IORING_CQE_F_MORE);
SAME(VQ_CQE_NOTIF, IORING_CQE_F_NOTIF);
SAME(VQ_CQE_BUFFER_SHIFT, IORING_CQE_BUFFER_SHIFT);
SAME(VQ_SQ_CQ_OVERFLOW, IORING_SQ_CQ_OVERFLOW);
SAME(VQ_SQ_TASKRUN, IORING_SQ_TASKRUN);
SAME(VQ_ENOBUFS, ENOBUFS);
SAME(VQ_ECANCELED, ECANCELED);
SAME(VQ_ETIME, ETIME);
SAME(VQ_EALREADY, EALREADY);

/*
 * Whether a seccomp filter would not refuse io_uring but end the process for asking. Where there is
 * a filter a child asks first: with memory of its own, since a core dump would take all who share
 * it, and without a signal to anybody at its end.
 */
static bool filter_kills(void)
{
	int status = 0;
	pid_t ended = -1;

	if (prctl(PR_GET_SECCOMP) != SECCOMP_MODE_FILTER)
		return false;
	pid_t child = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (child == 0) {
		struct io_uring_params params = { 0 };
		(void)prctl(PR_SET_DUMPABLE, 0);
		(void)syscall(SYS_io_uring_setup, 1, &params);
		(void)syscall(SYS_io_uring_register, -1, 0, NULL, 0);
		(void)syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0);
		_exit(0);
	}
	while (child > 0 && ended < 0) {
		ended = waitpid(child, &status, __WALL);
		if (ended < 0 && errno != EINTR)
			break;
	}
	return ended > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

/* Best first. Each rung drops what an older kernel answers EINVAL to. */
static const struct {
	uint32_t caps;
	uint32_t flags;
} rungs[] = {
	/* 6.1 */
	{ VQ_CAP_SINGLE_ISSUER | VQ_CAP_DEFER_TASKRUN | VQ_CAP_TASKRUN_FLAG | VQ_CAP_SUBMIT_ALL,
	  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		  IORING_SETUP_SUBMIT_ALL },
	/* 6.0 */
	{ VQ_CAP_SINGLE_ISSUER | VQ_CAP_COOP_TASKRUN | VQ_CAP_TASKRUN_FLAG | VQ_CAP_SUBMIT_ALL,
	  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		  IORING_SETUP_SUBMIT_ALL },
	/* 5.19 */
	{ VQ_CAP_COOP_TASKRUN | VQ_CAP_TASKRUN_FLAG | VQ_CAP_SUBMIT_ALL,
	  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL },
	/* 5.18 */
	{ VQ_CAP_SUBMIT_ALL, IORING_SETUP_SUBMIT_ALL },
	{ 0, 0 },
};

static int setup_ring(vq__uring *u, const vq_driver_config *config, vq_driver_report *report)
{
	int rc = -EINVAL;

	for (size_t i = 0; i < sizeof(rungs) / sizeof(rungs[0]); i++) {
		if ((rungs[i].caps & config->deny) != 0)
			continue;
		struct io_uring_params params = {
			.flags = rungs[i].flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
				 (config->restricted != 0 ? IORING_SETUP_R_DISABLED : 0),
			.cq_entries = config->cq_entries,
		};
		rc = io_uring_queue_init_params(config->sq_entries, &u->ring, &params);
		if (rc == 0) {
			u->ring_ready = true;
			report->caps |= rungs[i].caps;
			report->sq_entries = params.sq_entries;
			report->cq_entries = params.cq_entries;
			if ((params.features & IORING_FEAT_CQE_SKIP) != 0 &&
			    (config->deny & VQ_CAP_SKIP_SUCCESS) == 0)
				report->caps |= VQ_CAP_SKIP_SUCCESS;
			/* Where work isn't deferred it would wake the thread anyway. */
			if ((params.features & VQ__FEAT_MIN_TIMEOUT) != 0 &&
			    (report->caps & VQ_CAP_DEFER_TASKRUN) != 0 &&
			    (config->deny & VQ_CAP_MIN_WAIT) == 0)
				report->caps |= VQ_CAP_MIN_WAIT;
			return (params.features & IORING_FEAT_NODROP) != 0 ? 0 : -ENOSYS;
		}
		if (rc != -EINVAL)
			return rc;
		report->setup_retries++;
	}
	return rc;
}

/*
 * What cannot be asked for by itself came in the same release as something that can: moving a
 * timeout with SHUTDOWN (5.11), multishot poll with tagged resources (5.13), multishot accept with
 * SOCKET (5.19), multishot recv with SEND_ZC (6.0).
 */
static uint32_t caps_of_ops(const vq__uring *u, const struct io_uring_probe *probe)
{
	uint32_t caps = 0;

	if (io_uring_opcode_supported(probe, VQ_OP_SHUTDOWN))
		caps |= VQ_CAP_SHUTDOWN | VQ_CAP_TIMEOUT_UPDATE;
	if ((u->ring.features & IORING_FEAT_RSRC_TAGS) != 0)
		caps |= VQ_CAP_POLL_MULTISHOT;
	if (io_uring_opcode_supported(probe, VQ__OP_SOCKET))
		caps |= VQ_CAP_ACCEPT_MULTISHOT;
	if (io_uring_opcode_supported(probe, VQ__OP_SEND_ZC))
		caps |= VQ_CAP_SEND_ZC | VQ_CAP_RECV_MULTISHOT;
	return caps;
}

static int probe_ops(vq__uring *u, const vq_driver_config *config, vq_driver_report *report)
{
	static const uint8_t needed[] = {
		VQ_OP_POLL,           VQ_OP_SENDMSG, VQ_OP_RECVMSG, VQ_OP_TIMEOUT,
		VQ_OP_TIMEOUT_UPDATE, VQ_OP_ACCEPT,  VQ_OP_CANCEL,  VQ_OP_CONNECT,
		VQ_OP_CLOSE,          VQ_OP_SEND,    VQ_OP_RECV,
	};
	/* Not io_uring_get_probe_ring: it answers NULL, and errno need not be of this call. */
	enum { PROBED = 256 };
	union {
		struct io_uring_probe head;
		uint8_t room[sizeof(struct io_uring_probe) +
			     PROBED * sizeof(struct io_uring_probe_op)];
	} answer;
	struct io_uring_probe *probe = &answer.head;
	/* The kernel refuses a probe that is not all zeros. */
	memset(&answer, 0, sizeof(answer));
	int rc = io_uring_register_probe(&u->ring, probe, PROBED);
	if (rc != 0) {
		report->failed_step = VQ_STEP_PROBE;
		return rc;
	}
	for (size_t i = 0; i < sizeof(needed) && rc == 0; i++) {
		if (!io_uring_opcode_supported(probe, needed[i])) {
			report->failed_step = VQ_STEP_OPS;
			report->missing_op = needed[i];
			rc = -ENOSYS;
		}
	}
	u->is_6_0 = io_uring_opcode_supported(probe, VQ__OP_SEND_ZC);
	report->caps |= caps_of_ops(u, probe) & ~config->deny;
	return rc;
}

/* struct io_uring_buf_reg; its `flags` is called `pad` in liburing 2.3. */
typedef struct buf_reg {
	uint64_t ring_addr;
	uint32_t ring_entries;
	uint16_t bgid;
	uint16_t flags;
	uint64_t reserved[3];
} buf_reg;
_Static_assert(sizeof(buf_reg) == sizeof(struct io_uring_buf_reg), "io_uring_buf_reg");

static int map_group(vq__uring_group *group, uint32_t count)
{
	if (group->ring != NULL)
		munmap(group->ring, group->ring_bytes);
	group->ring_bytes = (size_t)count * sizeof(vq_buf);
	group->ring = vq__map_pages(group->ring_bytes);
	return group->ring != NULL ? 0 : -ENOMEM;
}

static int register_group(vq__uring *u, vq__uring_group *group, uint32_t count, uint16_t flags)
{
	int rc = map_group(group, count);

	if (rc != 0)
		return rc;
	buf_reg reg = {
		.ring_addr = (uint64_t)(uintptr_t)group->ring,
		.ring_entries = count,
		.bgid = group->id,
		.flags = flags,
	};
	rc = io_uring_register_buf_ring(&u->ring, (struct io_uring_buf_reg *)&reg, 0);
	group->registered = rc == 0;
	return rc;
}

/* Maps the memory of a group's buffers and offers them all. */
static int fill_group(vq__uring_group *group, uint32_t count, uint32_t size_bytes)
{
	group->buffers_bytes = (size_t)count * size_bytes;
	group->buffers = vq__map_pages(group->buffers_bytes);
	if (group->buffers == NULL)
		return -ENOMEM;
	struct io_uring_buf_ring *ring = group->ring;
	io_uring_buf_ring_init(ring);
	for (uint32_t i = 0; i < count; i++)
		io_uring_buf_ring_add(ring, (char *)group->buffers + (size_t)i * size_bytes,
				      size_bytes, (unsigned short)i, (int)count - 1, (int)i);
	io_uring_buf_ring_advance(ring, (int)count);
	return 0;
}

static void unregister_group(vq__uring *u, vq__uring_group *group)
{
	if (group->registered)
		(void)io_uring_unregister_buf_ring(&u->ring, group->id);
}

static void unmap_group(vq__uring_group *group)
{
	if (group->buffers != NULL)
		munmap(group->buffers, group->buffers_bytes);
	if (group->ring != NULL)
		munmap(group->ring, group->ring_bytes);
}

/*
 * The kernel's buffer ring serves multishot recv, and that needs the ring: without one of them the
 * driver picks the buffers, a whole one each time. Returns -EINVAL for that.
 */
static int register_buffers(vq__uring *u, const vq_driver_config *config, vq_driver_report *report)
{
	int rc = -EINVAL;

	if ((config->deny & VQ_CAP_BUFFER_RING) != 0 || (report->caps & VQ_CAP_RECV_MULTISHOT) == 0)
		return rc;
	if ((config->deny & VQ_CAP_BUFFER_INCREMENTAL) == 0)
		rc = register_group(u, &u->buffers, config->buffer_count, VQ__PBUF_RING_INC);
	if (rc == 0)
		report->caps |= VQ_CAP_BUFFER_INCREMENTAL;
	else
		rc = register_group(u, &u->buffers, config->whole_count, 0);
	if (rc == 0)
		report->caps |= VQ_CAP_BUFFER_RING;
	return rc;
}

static int setup_buffers(vq__uring *u, const vq_driver_config *config, vq_driver_report *report)
{
	u->buffers.id = VQ__BUF_GROUP;
	u->packets.id = VQ__PACKET_GROUP;
	int rc = register_buffers(u, config, report);
	if (rc == -EINVAL) {
		report->caps &= ~(uint32_t)VQ_CAP_RECV_MULTISHOT;
		rc = map_group(&u->buffers, config->whole_count);
	}
	if (rc != 0)
		return rc;
	bool incremental = (report->caps & VQ_CAP_BUFFER_INCREMENTAL) != 0;
	report->buffer_count = incremental ? config->buffer_count : config->whole_count;
	report->buffer_size_bytes =
		incremental ? config->buffer_size_bytes : config->whole_size_bytes;
	rc = fill_group(&u->buffers, report->buffer_count, report->buffer_size_bytes);
	if (rc != 0 || config->packet_count == 0)
		return rc;
	rc = u->buffers.registered ? register_group(u, &u->packets, config->packet_count, 0)
				   : map_group(&u->packets, config->packet_count);
	if (rc == 0)
		rc = fill_group(&u->packets, config->packet_count, config->packet_size_bytes);
	report->packet_count = config->packet_count;
	report->packet_size_bytes = config->packet_size_bytes;
	return rc;
}

static void fill_view(vq__uring *u, const vq_driver_report *report)
{
	vq_driver_view *view = &u->base.view;
	vq_buf *buf_ring = u->buffers.ring;
	vq_buf *packet_ring = u->packets.ring;

	/* The kernel's index array stays the identity for ever: entry i is submission i. */
	for (uint32_t i = 0; i < report->sq_entries; i++)
		u->ring.sq.array[i] = i;
	view->sqes = (vq_sqe *)u->ring.sq.sqes;
	view->sq_head = u->ring.sq.khead;
	view->sq_flags = u->ring.sq.kflags;
	view->cqes = (vq_cqe *)u->ring.cq.cqes;
	view->cq_head = u->ring.cq.khead;
	view->cq_tail = u->ring.cq.ktail;
	view->buf_ring = buf_ring;
	view->buf_tail = &buf_ring[0].tail;
	view->buf_base = u->buffers.buffers;
	view->timespec = &u->timespec;
	view->doorbell = &u->doorbell;
	view->sq_entries = report->sq_entries;
	view->cq_entries = report->cq_entries;
	view->buffer_count = report->buffer_count;
	view->buffer_size_bytes = report->buffer_size_bytes;
	view->buf_group = VQ__BUF_GROUP;
	if (u->ring.enter_ring_fd == u->ring.ring_fd) {
		view->enter_fd = u->ring.ring_fd;
		view->sq_ring_tail = u->ring.sq.ktail;
	}
	if (packet_ring == NULL)
		return;
	view->packet_ring = packet_ring;
	view->packet_tail = &packet_ring[0].tail;
	view->packet_base = u->packets.buffers;
	view->packet_count = report->packet_count;
	view->packet_size_bytes = report->packet_size_bytes;
	view->packet_group = VQ__PACKET_GROUP;
}

void vq__uring_destroy(vq_driver *driver)
{
	vq__uring *u = (vq__uring *)driver;

	if (u->ring_ready) {
		/*
		 * Closing a ring cancels in the background, which would race with the unmapping
		 * below: end everything first, and let the kernel post what that yields.
		 */
		struct io_uring_sync_cancel_reg cancel = {
			.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
			.timeout = { .tv_sec = 1 },
		};
		(void)io_uring_register_sync_cancel(&u->ring, &cancel);
		(void)vq__uring_enter_syscall((unsigned int)u->ring.ring_fd, 0, 0,
					      IORING_ENTER_GETEVENTS, NULL);
		unregister_group(u, &u->buffers);
		unregister_group(u, &u->packets);
		io_uring_queue_exit(&u->ring);
	}
	if (u->doorbell_ready)
		vq_doorbell_deinit(&u->doorbell);
	unmap_group(&u->buffers);
	unmap_group(&u->packets);
	free(u);
}

static int uring_start(vq__uring *u, const vq_driver_config *config, vq_driver_report *report)
{
	report->failed_step = VQ_STEP_SETUP;
	if (filter_kills())
		return -EPERM;
	int rc = setup_ring(u, config, report);
	if (rc != 0)
		return rc;
	/*
	 * What may block (VQ_SQE_MAY_BLOCK) runs on the kernel's own threads: a few, so that many
	 * slow closes queue up instead of making a thread each.
	 */
	unsigned int threads[2] = { 2, 8 };
	(void)io_uring_register_iowq_max_workers(&u->ring, threads);
	/* After exec(2) the descriptor is gone (close-on-exec); after fork(2) the pages are. */
	(void)io_uring_ring_dontfork(&u->ring);
	rc = probe_ops(u, config, report);
	if (rc != 0)
		return rc;
	if ((config->deny & VQ_CAP_REGISTERED_RING) == 0 &&
	    io_uring_register_ring_fd(&u->ring) == 1)
		report->caps |= VQ_CAP_REGISTERED_RING;
	report->failed_step = VQ_STEP_BUFFERS;
	rc = setup_buffers(u, config, report);
	if (rc != 0)
		return rc;
	if (config->restricted != 0) {
		report->failed_step = VQ_STEP_OPS;
		rc = (config->deny & VQ_CAP_RESTRICTED) != 0 ? -ENOSYS
							     : vq__uring_restrict(u, report->caps);
		if (rc != 0)
			return rc;
		report->caps |= VQ_CAP_RESTRICTED;
	}
	report->failed_step = VQ_STEP_DOORBELL;
	rc = vq_doorbell_init(&u->doorbell);
	if (rc != 0)
		return rc;
	u->doorbell_ready = true;
	fill_view(u, report);
	report->emulated = VQ__CAPS_EMULATED & ~report->caps;
	if (report->emulated != 0)
		report->caps &= ~(uint32_t)VQ_CAP_MIN_WAIT;
	u->min_wait = (report->caps & VQ_CAP_MIN_WAIT) != 0;
	if (report->emulated == 0)
		return 0;
	report->failed_step = VQ_STEP_BUFFERS;
	return vq__translate_create(u, report);
}

static int uring_create(const vq_driver_config *config, vq_driver_report *report, vq_driver **out)
{
	report->failed_step = VQ_STEP_SETUP;
	vq__uring *u = aligned_alloc(VQ_CACHE_LINE, (sizeof(*u) + VQ_CACHE_LINE - 1) /
							    VQ_CACHE_LINE * VQ_CACHE_LINE);
	if (u == NULL)
		return -ENOMEM;
	memset(u, 0, sizeof(*u));
	u->enter = vq__uring_enter_syscall;
	int rc = uring_start(u, config, report);
	if (rc != 0) {
		vq__uring_destroy(&u->base);
		return rc;
	}
	*out = &u->base;
	return 0;
}

void vq__uring_prep_wake(const vq_driver *driver, vq_sqe *sqe)
{
	const vq__uring *u = (const vq__uring *)driver;

	/*
	 * Edge-triggered: each write to the eventfd posts one completion, so that nobody needs to
	 * read it; its counter overflows after 2^64 rings.
	 */
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = VQ_OP_POLL;
	sqe->fd = (int)u->doorbell.handle;
	sqe->op_flags = POLLIN;
	sqe->len = VQ_POLL_MULTISHOT;
}

const vq__driver_ops vq__uring_ops = {
	.kind = VQ_DRIVER_URING,
	.create = uring_create,
	.destroy = vq__uring_destroy,
	.enter = vq__uring_enter,
	.enter_delayed = vq__uring_enter_delayed,
	.prep_wake = vq__uring_prep_wake,
};
