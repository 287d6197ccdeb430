/*
 * iocp_windows.c: the driver on a completion port: its making and its end, the rings and what
 * passes through them. What the ops do is in iocp_op_windows.c and the files beside it.
 */
#include "iocp_windows.h"

#include <string.h>

/* How long destroy waits for packets of what it cancelled; see there. */
#define DRAIN_MS 10000

/* Rounds that an enter which need not wait goes on taking full batches of packets. */
#define ROUNDS_MAX 8

/* ---- completions */

static uint32_t ready_entries(const vq__iocp *d)
{
	/* acquire: pairs with the owner's release; it has read the entries before */
	return d->cq_tail - __atomic_load_n(&d->cq_head, __ATOMIC_ACQUIRE);
}

bool vq__iocp_has_room(vq__iocp *d)
{
	return d->kept_head == d->kept_tail && ready_entries(d) < d->cq_entries;
}

static void put(vq__iocp *d, const vq_cqe *cqe)
{
	d->cqes[d->cq_tail & (d->cq_entries - 1)] = *cqe;
	/* release: pairs with the owner's acquire of the tail */
	__atomic_store_n(&d->cq_tail, d->cq_tail + 1, __ATOMIC_RELEASE);
}

static void set_flag(vq__iocp *d, uint32_t flag, bool on)
{
	uint32_t flags = on ? d->sq_flags | flag : d->sq_flags & ~flag;

	/* relaxed: a hint to the owner, who is this thread */
	__atomic_store_n(&d->sq_flags, flags, __ATOMIC_RELAXED);
}

static void post(vq__iocp *d, uint64_t token, int32_t res, uint32_t flags)
{
	const vq_cqe cqe = { .user_data = token, .res = res, .flags = flags };

	if (vq__iocp_has_room(d)) {
		put(d, &cqe);
		return;
	}
	VQ_ASSERT(d->kept_tail - d->kept_head < VQ__IOCP_KEPT_MAX);
	d->kept[d->kept_tail++ & (VQ__IOCP_KEPT_MAX - 1)] = cqe;
	set_flag(d, VQ_SQ_CQ_OVERFLOW, true);
}

static void post_kept(vq__iocp *d)
{
	while (d->kept_head != d->kept_tail && ready_entries(d) < d->cq_entries)
		put(d, &d->kept[d->kept_head++ & (VQ__IOCP_KEPT_MAX - 1)]);
	set_flag(d, VQ_SQ_CQ_OVERFLOW, d->kept_head != d->kept_tail);
}

void vq__iocp_more(vq__iocp *d, const vq__iocp_op *op, int32_t res, uint32_t flags)
{
	post(d, op->sqe.user_data, res, flags | VQ_CQE_MORE);
}

/* ---- records of ops */

static uint32_t bucket_of(uint64_t token)
{
	return (uint32_t)((token * UINT64_C(0x9E3779B97F4A7C15)) >> 50) & (VQ__IOCP_BUCKETS - 1);
}

static uint32_t index_of(const vq__iocp *d, const vq__iocp_op *op)
{
	return (uint32_t)(op - d->ops);
}

vq__iocp_op *vq__iocp_find(vq__iocp *d, uint64_t token)
{
	uint32_t i = d->buckets[bucket_of(token)];

	while (i != VQ__IOCP_NONE && d->ops[i].sqe.user_data != token)
		i = d->ops[i].bucket_next;
	return i == VQ__IOCP_NONE ? NULL : &d->ops[i];
}

static void list(vq__iocp *d, vq__iocp_op *op)
{
	uint32_t *bucket = &d->buckets[bucket_of(op->sqe.user_data)];

	op->bucket_next = *bucket;
	*bucket = index_of(d, op);
	op->listed = true;
}

static void unlist(vq__iocp *d, vq__iocp_op *op)
{
	uint32_t *link = &d->buckets[bucket_of(op->sqe.user_data)];
	const uint32_t index = index_of(d, op);

	while (*link != index)
		link = &d->ops[*link].bucket_next;
	*link = op->bucket_next;
	op->listed = false;
}

static vq__iocp_op *take_record(vq__iocp *d)
{
	vq__iocp_op *op = d->ops_free;

	if (op != NULL) {
		d->ops_free = op->next;
		memset(op, 0, sizeof(*op));
	} else if (d->ops_touched < VQ__IOCP_OPS_MAX) {
		op = &d->ops[d->ops_touched++];
	} else {
		memset(&d->spare, 0, sizeof(d->spare));
		return &d->spare;
	}
	d->ops_used++;
	return op;
}

static void give_record(vq__iocp *d, vq__iocp_op *op)
{
	VQ_ASSERT(!op->pending);
	if (op->listed)
		unlist(d, op);
	if (op == &d->spare)
		return;
	op->next = d->ops_free;
	d->ops_free = op;
	d->ops_used--;
}

void vq__iocp_finish(vq__iocp *d, vq__iocp_op *op, int32_t res, uint32_t flags)
{
	const bool failed = res < 0 || op->fell_short;

	if (failed || (op->sqe.flags & VQ_SQE_SKIP_SUCCESS) == 0)
		post(d, op->sqe.user_data, res, flags);
	if (op->chain != NULL) {
		op->chain->cancelled |= failed;
		vq__iocp_ready(d, op->chain);
	}
	if (d->chain_last == op) {
		d->chain_last = NULL;
		d->chain_failed = failed;
	}
	give_record(d, op);
}

void vq__iocp_ready(vq__iocp *d, vq__iocp_op *op)
{
	/* Held ops stay that: it says that they have not started. */
	if (op->state == VQ__IOCP_RUNNING)
		op->state = VQ__IOCP_READY;
	op->next = NULL;
	if (d->ready_last != NULL)
		d->ready_last->next = op;
	else
		d->ready_first = op;
	d->ready_last = op;
	d->ready_count++;
}

static void run_ready(vq__iocp *d)
{
	/* Those that come back go to the end, and wait for the next round. */
	for (uint32_t count = d->ready_count; count > 0; count--) {
		vq__iocp_op *op = d->ready_first;
		d->ready_first = op->next;
		if (d->ready_first == NULL)
			d->ready_last = NULL;
		d->ready_count--;
		if (op->state != VQ__IOCP_HELD) {
			op->state = VQ__IOCP_RUNNING;
			vq__iocp_continue(d, op);
			continue;
		}
		op->state = VQ__IOCP_RUNNING;
		if (op->cancelled)
			vq__iocp_finish(d, op, -VQ_ECANCELED, 0);
		else
			vq__iocp_start(d, op);
	}
}

/* ---- submissions */

/* Whether the op may be in flight after its start, so that it needs a record of its own. */
static bool may_wait(const vq_sqe *sqe)
{
	switch (sqe->opcode) {
	case VQ_OP_SEND:
	case VQ_OP_SENDMSG:
		return (sqe->op_flags & VQ_MSG_DONTWAIT) == 0;
	case VQ_OP_CLOSE:
		return (sqe->flags & VQ_SQE_MAY_BLOCK) != 0;
	case VQ_OP_RECV:
	case VQ_OP_RECVMSG:
	case VQ_OP_SEND_FILE:
	case VQ_OP_ACCEPT:
	case VQ_OP_CONNECT:
	case VQ_OP_TIMEOUT:
	case VQ_OP_POLL:
		return true;
	default:
		return false;
	}
}

static void submit(vq__iocp *d, const vq_sqe *sqe)
{
	const bool chained = d->chain_open;
	vq__iocp_op *before = chained ? d->chain_last : NULL;
	vq__iocp_op *op = take_record(d);

	op->sqe = *sqe;
	d->chain_open = (sqe->flags & VQ_SQE_LINK) != 0;
	d->chain_last = op;
	if (op == &d->spare && (before != NULL || may_wait(sqe))) {
		vq__iocp_finish(d, op, -VQ_ENOMEM, 0);
		return;
	}
	if (before != NULL) {
		op->state = VQ__IOCP_HELD;
		before->chain = op;
		list(d, op);
	} else if (chained && d->chain_failed) {
		vq__iocp_finish(d, op, -VQ_ECANCELED, 0);
	} else {
		if (may_wait(sqe))
			list(d, op);
		vq__iocp_start(d, op);
	}
}

/* Returns how many were consumed. */
static uint32_t submit_all(vq__iocp *d, uint32_t sq_tail)
{
	const uint32_t first = d->sq_head;

	while (d->sq_head != sq_tail) {
		if (d->kept_tail - d->kept_head >=
		    VQ__IOCP_KEPT_MAX - VQ__IOCP_OPS_MAX - VQ__IOCP_SLOTS_MAX - 1)
			break;
		submit(d, &d->sqes[d->sq_head & d->sq_mask]);
		/* release: pairs with the owner's acquire; it writes the entry anew after */
		__atomic_store_n(&d->sq_head, d->sq_head + 1, __ATOMIC_RELEASE);
	}
	d->chain_open = false;
	d->chain_last = NULL;
	return d->sq_head - first;
}

/* ---- packets */

/* What Winsock makes of the status in the OVERLAPPED, which is the kernel's. */
static int32_t packet_error(int fd, OVERLAPPED *ov)
{
	DWORD bytes = 0;
	DWORD flags = 0;

	if (ov->Internal == 0)
		return 0;
	if (WSAGetOverlappedResult(vq__socket(fd), ov, &bytes, FALSE, &flags))
		return 0;
	int code = WSAGetLastError();
	/* Closed under its ops: as good as cancelled. */
	return code == WSAENOTSOCK ? -VQ_ECANCELED : vq__error((DWORD)code);
}

static bool is_slot(const vq__iocp *d, const OVERLAPPED *ov)
{
	const uintptr_t at = (uintptr_t)ov;

	return at >= (uintptr_t)d->slots && at < (uintptr_t)(d->slots + VQ__IOCP_SLOTS_MAX);
}

static void take_packet(vq__iocp *d, const OVERLAPPED_ENTRY *packet)
{
	OVERLAPPED *ov = packet->lpOverlapped;

	if (packet->lpCompletionKey == VQ__IOCP_KEY_RING) {
		d->rung = true;
		return;
	}
	d->pending--;
	if (is_slot(d, ov)) {
		vq__iocp_slot *slot = (vq__iocp_slot *)ov;
		slot->pending = false;
		vq__iocp_accept_packet(d, slot, packet_error(slot->op->sqe.fd, ov));
		return;
	}
	vq__iocp_op *op = (vq__iocp_op *)ov;
	op->pending = false;
	if (packet->lpCompletionKey == VQ__IOCP_KEY_CLOSED)
		vq__iocp_packet(d, op, 0, packet->dwNumberOfBytesTransferred);
	else
		vq__iocp_packet(d, op, packet_error(op->sqe.fd, ov), (uint32_t)ov->InternalHigh);
}

/* Returns how many packets it took. */
static uint32_t take_packets(vq__iocp *d, DWORD timeout_ms)
{
	ULONG count = 0;

	if (!GetQueuedCompletionStatusEx(d->port, d->packets, VQ__IOCP_BATCH, &count, timeout_ms,
					 FALSE)) {
		VQ_ASSERT(GetLastError() == WAIT_TIMEOUT);
		return 0;
	}
	for (ULONG i = 0; i < count; i++)
		take_packet(d, &d->packets[i]);
	return count;
}

/* Rings that nobody has heard of become one completion, as soon as the op is there. */
static void tell_rung(vq__iocp *d)
{
	if (!d->rung || d->wake == NULL || !vq__iocp_has_room(d))
		return;
	d->rung = false;
	if (d->wake->sqe.len == VQ_POLL_MULTISHOT) {
		vq__iocp_more(d, d->wake, 1, 0);
	} else {
		vq__iocp_op *op = d->wake;
		d->wake = NULL;
		vq__iocp_finish(d, op, 1, 0);
	}
}

static int iocp_enter(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count)
{
	vq__iocp *d = (vq__iocp *)driver;
	bool polled = false;

	if (d->owner_checked && GetCurrentThreadId() != d->owner)
		return -VQ_EINVAL;
	if (wait_count > d->cq_entries)
		wait_count = d->cq_entries;
	post_kept(d);
	uint32_t consumed = submit_all(d, sq_tail);
	for (uint32_t round = 0;; round++) {
		/* Once an enter where that is enough: the owner may want to stop them. */
		if (round == 0 || ready_entries(d) < wait_count)
			run_ready(d);
		vq__iocp_timer_expire(d);
		tell_rung(d);
		bool enough = ready_entries(d) >= wait_count;
		if (enough && (polled || round == ROUNDS_MAX))
			break;
		/* Even with enough: what is there must come in, or who waits longest waits on. */
		DWORD timeout_ms = enough || d->ready_count > 0 ? 0 : vq__iocp_timer_wait_ms(d);
		polled = take_packets(d, timeout_ms) < VQ__IOCP_BATCH;
	}
	set_flag(d, VQ_SQ_TASKRUN, d->ready_count > 0);
	return (int)consumed;
}

static void iocp_prep_wake(const vq_driver *driver, vq_sqe *sqe)
{
	(void)driver;
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = VQ_OP_POLL;
	sqe->fd = -1;
	sqe->len = VQ_POLL_MULTISHOT;
}

/* ---- the making and the end */

/* The driver's memory is one piece, the driver at its start; pages never touched cost nothing. */
static size_t carve(size_t *used, size_t count, size_t size_bytes)
{
	size_t at = *used;

	*used += (count * size_bytes + VQ_CACHE_LINE - 1) / VQ_CACHE_LINE * VQ_CACHE_LINE;
	return at;
}

static vq__iocp *allocate(const vq_driver_config *config, uint32_t buf_count, uint32_t buf_size)
{
	const uint32_t packet_size = config->packet_count > 0 ? config->packet_size_bytes : 0;
	size_t used = 0;
	(void)carve(&used, 1, sizeof(vq__iocp));
	const size_t sqes = carve(&used, config->sq_entries, sizeof(vq_sqe));
	const size_t cqes = carve(&used, config->cq_entries, sizeof(vq_cqe));
	const size_t kept = carve(&used, VQ__IOCP_KEPT_MAX, sizeof(vq_cqe));
	const size_t ops = carve(&used, VQ__IOCP_OPS_MAX, sizeof(vq__iocp_op));
	const size_t heap = carve(&used, VQ__IOCP_OPS_MAX, sizeof(vq__iocp_op *));
	const size_t buckets = carve(&used, VQ__IOCP_BUCKETS, sizeof(uint32_t));
	const size_t slots = carve(&used, VQ__IOCP_SLOTS_MAX, sizeof(vq__iocp_slot));
	const size_t buf_ring = carve(&used, buf_count, sizeof(vq_buf));
	const size_t buffers = carve(&used, buf_count, buf_size);
	const size_t packet_ring = carve(&used, config->packet_count, sizeof(vq_buf));
	const size_t packets = carve(&used, config->packet_count, packet_size);
	uint8_t *base = VirtualAlloc(NULL, used, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
	vq__iocp *d = (vq__iocp *)(void *)base;

	if (d == NULL)
		return NULL;
	d->sqes = (vq_sqe *)(void *)(base + sqes);
	d->cqes = (vq_cqe *)(void *)(base + cqes);
	d->kept = (vq_cqe *)(void *)(base + kept);
	d->ops = (vq__iocp_op *)(void *)(base + ops);
	d->heap = (vq__iocp_op **)(void *)(base + heap);
	d->buckets = (uint32_t *)(void *)(base + buckets);
	d->slots = (vq__iocp_slot *)(void *)(base + slots);
	d->sq_mask = config->sq_entries - 1;
	d->cq_entries = config->cq_entries;
	d->buffers = (vq__iocp_group){ .ring = (vq_buf *)(void *)(base + buf_ring),
				       .memory = base + buffers,
				       .count = buf_count,
				       .size_bytes = buf_size };
	d->packet_buffers = (vq__iocp_group){ .ring = (vq_buf *)(void *)(base + packet_ring),
					      .memory = base + packets,
					      .count = config->packet_count,
					      .size_bytes = packet_size };
	return d;
}

static void fill(vq__iocp *d)
{
	memset(d->buckets, 0xff, VQ__IOCP_BUCKETS * sizeof(uint32_t));
	for (uint32_t i = 0; i < VQ__IOCP_SLOTS_MAX; i++) {
		d->slots[i].next = i + 1 < VQ__IOCP_SLOTS_MAX ? i + 1 : VQ__IOCP_NONE;
		d->slots[i].fd = -1;
	}
	vq__iocp_group_fill(&d->buffers);
	vq__iocp_group_fill(&d->packet_buffers);
	(void)QueryPerformanceFrequency(&d->frequency);
	d->owner = GetCurrentThreadId();
	atomic_init(&d->doorbell.sleeping, 0);
	d->doorbell.handle = (intptr_t)d->port;
	d->base.view = (vq_driver_view){
		.sqes = d->sqes,
		.sq_head = &d->sq_head,
		.sq_flags = &d->sq_flags,
		.cqes = d->cqes,
		.cq_head = &d->cq_head,
		.cq_tail = &d->cq_tail,
		.buf_ring = d->buffers.ring,
		.buf_tail = &d->buffers.ring[0].tail,
		.buf_base = d->buffers.memory,
		.timespec = &d->timespec,
		.doorbell = &d->doorbell,
		.sq_entries = d->sq_mask + 1,
		.cq_entries = d->cq_entries,
		.buffer_count = d->buffers.count,
		.buffer_size_bytes = d->buffers.size_bytes,
		.buf_group = VQ__IOCP_BUF_GROUP,
		.packet_count = d->packet_buffers.count,
		.packet_size_bytes = d->packet_buffers.size_bytes,
		.packet_group = VQ__IOCP_PACKET_GROUP,
	};
	if (d->packet_buffers.count > 0) {
		d->base.view.packet_ring = d->packet_buffers.ring;
		d->base.view.packet_tail = &d->packet_buffers.ring[0].tail;
		d->base.view.packet_base = d->packet_buffers.memory;
	}
}

int vq__iocp_function(int fd, GUID id, void *function)
{
	DWORD bytes = 0;

	return WSAIoctl(vq__socket(fd), SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof(id),
			function, sizeof(void (*)(void)), &bytes, NULL, NULL) == 0
		       ? 0
		       : vq__wsa_error();
}

/* What a new TCP socket tells: how connections begin, and what options it has by then. */
static int ask_stream(vq__iocp *d)
{
	int fd = vq__socket_create(AF_INET, SOCK_STREAM);

	if (fd < 0)
		return fd;
	int rc = vq__iocp_function(fd, (GUID)WSAID_ACCEPTEX, &d->accept_ex);
	if (rc == 0)
		rc = vq__iocp_function(fd, (GUID)WSAID_CONNECTEX, &d->connect_ex);
	if (rc == 0)
		rc = vq__iocp_function(fd, (GUID)WSAID_TRANSMITFILE, &d->transmit_file);
	d->fresh_known = vq__iocp_inherited(fd, d->fresh);
	(void)vq__socket_close(fd, false);
	return rc;
}

static int ask_datagram(vq__iocp *d)
{
	int fd = vq__socket_create(AF_INET, SOCK_DGRAM);

	if (fd < 0)
		return fd;
	int rc = vq__iocp_function(fd, (GUID)WSAID_WSARECVMSG, &d->recv_msg);
	if (rc == 0)
		rc = vq__iocp_function(fd, (GUID)WSAID_WSASENDMSG, &d->send_msg);
	(void)vq__socket_close(fd, false);
	vq__iocp_wait_probe();
	return rc;
}

static int start_driver(vq__iocp *d, vq_driver_report *report)
{
	report->failed_step = VQ_STEP_PROBE;
	int rc = ask_stream(d);
	if (rc == 0)
		rc = ask_datagram(d);
	if (rc != 0)
		return rc;
	report->failed_step = VQ_STEP_DOORBELL;
	rc = vq__port_take(&d->port, &d->port_id);
	if (rc != 0)
		return rc;
	fill(d);
	return 0;
}

static int iocp_create(const vq_driver_config *config, vq_driver_report *report, vq_driver **out)
{
	const uint32_t caps = VQ_CAP_SINGLE_ISSUER | VQ_CAP_ACCEPT_MULTISHOT |
			      VQ_CAP_RECV_MULTISHOT | VQ_CAP_BUFFER_RING |
			      VQ_CAP_BUFFER_INCREMENTAL | VQ_CAP_SKIP_SUCCESS | VQ_CAP_SEND_FILE;

	report->caps = caps & ~config->deny;
	report->failed_step = VQ_STEP_OPS;
	report->missing_op = VQ_OP_RECV;
	/* There is no other way to receive: nothing to step down to. */
	if ((config->deny & (VQ_CAP_RECV_MULTISHOT | VQ_CAP_BUFFER_RING)) != 0)
		return -VQ_ENOSYS;
	report->missing_op = 0;
	report->failed_step = VQ_STEP_SETUP;
	int rc = vq__winsock_start();
	if (rc != 0)
		return rc;
	const bool incremental = (report->caps & VQ_CAP_BUFFER_INCREMENTAL) != 0;
	report->sq_entries = config->sq_entries;
	report->cq_entries = config->cq_entries;
	report->buffer_count = incremental ? config->buffer_count : config->whole_count;
	report->buffer_size_bytes =
		incremental ? config->buffer_size_bytes : config->whole_size_bytes;
	report->failed_step = VQ_STEP_BUFFERS;
	vq__iocp *d = allocate(config, report->buffer_count, report->buffer_size_bytes);
	if (d == NULL)
		return -VQ_ENOMEM;
	d->buffers.incremental = incremental;
	report->packet_count = d->packet_buffers.count;
	report->packet_size_bytes = d->packet_buffers.size_bytes;
	d->owner_checked = (report->caps & VQ_CAP_SINGLE_ISSUER) != 0;
	rc = start_driver(d, report);
	if (rc != 0) {
		(void)VirtualFree(d, 0, MEM_RELEASE);
		return rc;
	}
	*out = &d->base;
	return 0;
}

static void cancel_all(vq__iocp *d)
{
	for (uint32_t i = 0; i < d->ops_touched; i++) {
		vq__iocp_op *op = &d->ops[i];
		/* Of a socket that is closed already this finds nothing, and ended it before. */
		if (op->pending)
			(void)CancelIoEx((HANDLE)vq__socket(op->sqe.fd), &op->ov);
	}
	for (uint32_t i = 0; i < VQ__IOCP_SLOTS_MAX; i++) {
		vq__iocp_slot *slot = &d->slots[i];
		if (slot->pending)
			(void)CancelIoEx((HANDLE)vq__socket(slot->op->sqe.fd), &slot->ov);
	}
}

static void iocp_destroy(vq_driver *driver)
{
	vq__iocp *d = (vq__iocp *)driver;
	ULONG count = 0;

	cancel_all(d);
	for (ULONGLONG start = GetTickCount64();
	     d->pending > 0 && GetTickCount64() - start < DRAIN_MS;) {
		if (!GetQueuedCompletionStatusEx(d->port, d->packets, VQ__IOCP_BATCH, &count, 100,
						 FALSE))
			continue;
		for (ULONG i = 0; i < count; i++)
			d->pending -= d->packets[i].lpCompletionKey != VQ__IOCP_KEY_RING;
	}
	for (uint32_t i = 0; i < VQ__IOCP_SLOTS_MAX; i++)
		if (d->slots[i].fd >= 0)
			(void)vq__socket_close(d->slots[i].fd, false);
	/* What Windows may still write to is never freed: lost memory harms less. */
	if (d->pending > 0)
		return;
	while (GetQueuedCompletionStatusEx(d->port, d->packets, VQ__IOCP_BATCH, &count, 0, FALSE) &&
	       count > 0)
		continue;
	vq__port_give(d->port_id);
	(void)VirtualFree(d, 0, MEM_RELEASE);
}

const vq__driver_ops vq__iocp_ops = {
	.kind = VQ_DRIVER_IOCP,
	.create = iocp_create,
	.destroy = iocp_destroy,
	.enter = iocp_enter,
	.prep_wake = iocp_prep_wake,
};
