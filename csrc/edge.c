/*
 * The inline functions of veloq/edge.h with linkage. Changes when that list does.
 */
#include "veloq/edge.h"

size_t vq_edge_size_bytes_extern(uint32_t capacity)
{
	return vq_edge_size_bytes(capacity);
}

int vq_edge_init_extern(void *mem, uint32_t capacity)
{
	return vq_edge_init(mem, capacity);
}

uint32_t vq_edge_push_extern(vq_edge *e, const vq_msg *msgs, uint32_t count)
{
	return vq_edge_push(e, msgs, count);
}

uint32_t vq_edge_pop_extern(vq_edge *e, vq_msg *out, uint32_t count)
{
	return vq_edge_pop(e, out, count);
}

uint32_t vq_edge_len_extern(const vq_edge *e)
{
	return vq_edge_len(e);
}
