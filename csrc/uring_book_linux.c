/*
 * uring_book_linux.c: the book of a translated io_uring driver: its ops, findable by both of their
 * tokens, and the buffers that are free.
 */
#define _GNU_SOURCE
#include "pages_linux.h"
#include "uring_translate_linux.h"

#include <errno.h>
#include <sys/mman.h>

/* A receive and a send each, and some more. */
#define OPS_PER_FD 3u

#define HASH_BITS  16
#define HASH_BYTES (sizeof(uint32_t) << HASH_BITS)

static size_t ops_bytes(const vq__translate *t)
{
	return (size_t)t->op_count * sizeof(*t->ops);
}

static size_t free_bytes(const vq__picked_group *g)
{
	return (size_t)g->count * sizeof(*g->free);
}

static size_t messages_bytes(const vq__translate *t)
{
	return (size_t)t->groups[1].count * sizeof(*t->messages);
}

int vq__book_init(vq__translate *t)
{
	t->op_used = 1; /* 0 is none */
	for (size_t i = 0; i < 2; i++) {
		vq__picked_group *g = &t->groups[i];
		g->free = g->count > 0 ? vq__map_pages(free_bytes(g)) : NULL;
		if (g->count > 0 && g->free == NULL)
			return -ENOMEM;
	}
	t->messages = t->groups[1].count > 0 ? vq__map_pages(messages_bytes(t)) : NULL;
	t->hash = vq__map_sparse(HASH_BYTES);
	if ((t->groups[1].count > 0 && t->messages == NULL) || t->hash == NULL)
		return -ENOMEM;
	/* Address space may be limited: then fewer must do. */
	for (uint32_t fds = vq__fd_count_wanted(); t->ops == NULL && fds >= 1024; fds /= 2) {
		t->op_count = fds * OPS_PER_FD;
		t->ops = vq__map_sparse(ops_bytes(t));
	}
	return t->ops != NULL ? 0 : -ENOMEM;
}

void vq__book_deinit(vq__translate *t)
{
	if (t->ops != NULL)
		munmap(t->ops, ops_bytes(t));
	if (t->hash != NULL)
		munmap(t->hash, HASH_BYTES);
	if (t->messages != NULL)
		munmap(t->messages, messages_bytes(t));
	for (size_t i = 0; i < 2; i++) {
		if (t->groups[i].free != NULL)
			munmap(t->groups[i].free, free_bytes(&t->groups[i]));
	}
}

static uint32_t *bucket(const vq__translate *t, uint64_t user_data)
{
	return &t->hash[(user_data * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - HASH_BITS)];
}

uint32_t vq__book_keep(vq__translate *t, const vq_sqe *sqe)
{
	uint32_t index = t->op_free;

	if (index != 0)
		t->op_free = t->ops[index].next;
	else if (t->op_used < t->op_count)
		index = t->op_used++;
	else
		return 0;
	uint32_t *head = bucket(t, sqe->user_data);
	t->ops[index] = (vq__uring_op){
		.sqe = *sqe,
		.generation = t->ops[index].generation,
		.hash_next = *head,
	};
	*head = index;
	return index;
}

uint32_t vq__book_find(const vq__translate *t, uint64_t user_data)
{
	uint32_t index = *bucket(t, user_data);

	while (index != 0 && t->ops[index].sqe.user_data != user_data)
		index = t->ops[index].hash_next;
	return index;
}

uint32_t vq__book_of_token(const vq__translate *t, uint64_t token)
{
	uint32_t index = (uint32_t)token;

	/* The kernel answers each step once, and a place is not freed before. */
	VQ_ASSERT(index != 0 && index < t->op_used && vq__book_token(t, index) == token);
	return index;
}

void vq__book_free(vq__translate *t, uint32_t index)
{
	vq__uring_op *op = &t->ops[index];
	uint32_t *at = bucket(t, op->sqe.user_data);

	while (*at != index)
		at = &t->ops[*at].hash_next;
	*at = op->hash_next;
	op->stage = VQ__STAGE_FREE;
	op->generation++;
	op->next = t->op_free;
	t->op_free = index;
}

void vq__book_push(vq__translate *t, uint32_t index, vq__step step)
{
	vq__uring_op *op = &t->ops[index];

	op->stage = VQ__STAGE_READY;
	op->step = (uint8_t)step;
	op->next = 0;
	if (t->ready_tail != 0)
		t->ops[t->ready_tail].next = index;
	else
		t->ready_head = index;
	t->ready_tail = index;
	t->ready_count++;
	t->urgent += step == VQ__STEP_MOVE;
}

uint32_t vq__book_pop(vq__translate *t)
{
	uint32_t index = t->ready_head;

	t->ready_head = t->ops[index].next;
	if (t->ready_head == 0)
		t->ready_tail = 0;
	t->ready_count--;
	t->urgent -= t->ops[index].step == VQ__STEP_MOVE;
	return index;
}

int32_t vq__group_take(vq__picked_group *g)
{
	/* acquire: pairs with the owner's release of the tail; the entries below it are written */
	uint16_t tail = __atomic_load_n(&g->ring[0].tail, __ATOMIC_ACQUIRE);

	while (g->head != tail) {
		uint16_t index = g->ring[g->head++ & (g->count - 1)].index;
		VQ_ASSERT(index < g->count && g->free_count < g->count);
		g->free[g->free_count++] = index;
	}
	return g->free_count == 0 ? -1 : g->free[--g->free_count];
}

void vq__group_return(vq__picked_group *g, uint16_t buffer)
{
	VQ_ASSERT(g->free_count < g->count);
	g->free[g->free_count++] = buffer;
}
