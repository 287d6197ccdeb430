/*
 * iocp_timer_windows.c: TIMEOUT and its update: a binary heap of ops, from which enter takes how
 * long it may wait. Windows ends such a wait at a tick of its clock, 15.6 ms apart unless somebody
 * asked for less: timers are never early, and late by up to a tick.
 */
#include "iocp_windows.h"

#define NS_PER_S INT64_C(1000000000)

static int64_t now_ns(const vq__iocp *d)
{
	LARGE_INTEGER now;

	(void)QueryPerformanceCounter(&now);
	const int64_t per_s = d->frequency.QuadPart;
	return now.QuadPart / per_s * NS_PER_S + now.QuadPart % per_s * NS_PER_S / per_s;
}

static bool valid(const vq_timespec *t)
{
	return t->sec >= 0 && t->nsec >= 0 && t->nsec < NS_PER_S;
}

/* Saturates: a timer in three hundred years is one that never fires. */
static int64_t deadline(const vq__iocp *d, const vq_timespec *after)
{
	const int64_t now = now_ns(d);

	if (after->sec >= (INT64_MAX - now) / NS_PER_S - 1)
		return INT64_MAX;
	return now + after->sec * NS_PER_S + after->nsec;
}

static void place(vq__iocp *d, uint32_t at, vq__iocp_op *op)
{
	d->heap[at] = op;
	op->timer.place = at;
}

static void sift_up(vq__iocp *d, uint32_t at, vq__iocp_op *op)
{
	while (at > 0 && d->heap[(at - 1) / 2]->timer.when_ns > op->timer.when_ns) {
		place(d, at, d->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	place(d, at, op);
}

static void sift_down(vq__iocp *d, uint32_t at, vq__iocp_op *op)
{
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= d->heap_count)
			break;
		if (child + 1 < d->heap_count &&
		    d->heap[child + 1]->timer.when_ns < d->heap[child]->timer.when_ns)
			child++;
		if (d->heap[child]->timer.when_ns >= op->timer.when_ns)
			break;
		place(d, at, d->heap[child]);
		at = child;
	}
	place(d, at, op);
}

static void add(vq__iocp *d, vq__iocp_op *op, const vq_timespec *after)
{
	op->timer.when_ns = deadline(d, after);
	sift_up(d, d->heap_count++, op);
}

void vq__iocp_timer_start(vq__iocp *d, vq__iocp_op *op)
{
	const vq_timespec *after = (const vq_timespec *)(uintptr_t)op->sqe.addr;

	if (!valid(after))
		vq__iocp_finish(d, op, -VQ_EINVAL, 0);
	else
		add(d, op, after);
}

void vq__iocp_timer_remove(vq__iocp *d, vq__iocp_op *op)
{
	const uint32_t at = op->timer.place;
	vq__iocp_op *last = d->heap[--d->heap_count];

	if (last == op)
		return;
	if (at > 0 && d->heap[(at - 1) / 2]->timer.when_ns > last->timer.when_ns)
		sift_up(d, at, last);
	else
		sift_down(d, at, last);
}

int32_t vq__iocp_timer_move(vq__iocp *d, uint64_t token, const vq_timespec *to)
{
	vq__iocp_op *op = vq__iocp_find(d, token);

	if (!valid(to))
		return -VQ_EINVAL;
	if (op == NULL || op->sqe.opcode != VQ_OP_TIMEOUT || op->state != VQ__IOCP_RUNNING)
		return -VQ_ENOENT;
	vq__iocp_timer_remove(d, op);
	add(d, op, to);
	return 0;
}

void vq__iocp_timer_expire(vq__iocp *d)
{
	if (d->heap_count == 0)
		return;
	const int64_t now = now_ns(d);
	while (d->heap_count > 0 && d->heap[0]->timer.when_ns <= now) {
		vq__iocp_op *op = d->heap[0];
		vq__iocp_timer_remove(d, op);
		vq__iocp_finish(d, op, -VQ_ETIME, 0);
	}
}

DWORD vq__iocp_timer_wait_ms(const vq__iocp *d)
{
	if (d->heap_count == 0)
		return INFINITE;
	int64_t left = d->heap[0]->timer.when_ns - now_ns(d);
	if (left <= 0)
		return 0;
	int64_t ms = left / 1000000 + (left % 1000000 != 0);
	/* A wait that ends early is begun again. */
	return ms < 3600000 ? (DWORD)ms : 3600000;
}
