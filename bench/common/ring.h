/* Ring set-up and the receive-buffer ring that the load client and the limit server share. */
#ifndef VELOQ_BENCH_RING_H
#define VELOQ_BENCH_RING_H

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Newer than liburing 2.3; the kernel tells at registration whether it knows them. */
#ifndef IOU_PBUF_RING_INC
#define IOU_PBUF_RING_INC 2
#endif
#ifndef IORING_CQE_F_BUF_MORE
#define IORING_CQE_F_BUF_MORE (1U << 4)
#endif

#define RING_SQ_ENTRIES 4096
#define RING_CQ_ENTRIES 32768

/*
 * struct io_uring_buf_reg with its flags field by name: liburing 2.3 still calls those two bytes
 * padding, later versions call them flags.
 */
struct ring_buf_reg {
	uint64_t ring_addr;
	uint32_t ring_entries;
	uint16_t bgid;
	uint16_t flags;
	uint64_t resv[3];
};
_Static_assert(sizeof(struct ring_buf_reg) == sizeof(struct io_uring_buf_reg), "kernel layout");

/* Opens a ring that only the calling thread uses; steps down where the kernel knows less. */
static inline int ring_open(struct io_uring *ring)
{
	static const unsigned tries[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		struct io_uring_params p;

		memset(&p, 0, sizeof(p));
		p.flags = tries[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
		p.cq_entries = RING_CQ_ENTRIES;
		rc = io_uring_queue_init_params(RING_SQ_ENTRIES, ring, &p);
		if (rc != -EINVAL)
			break;
	}
	if (rc == 0)
		io_uring_register_ring_fd(ring); /* saves a file look-up an enter; optional */
	return rc;
}

/* A free SQE; submits what is staged when the ring is full, so nothing is ever dropped. */
static inline struct io_uring_sqe *ring_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	while (!sqe) {
		int rc = io_uring_submit(ring);

		if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -EINTR)
			abort();
		sqe = io_uring_get_sqe(ring);
	}
	return sqe;
}

struct bufs {
	struct io_uring_buf_ring *ring;
	unsigned char *base;
	uint32_t *used_bytes; /* how much of each buffer the kernel has filled */
	unsigned count;
	unsigned size_bytes;
	uint16_t group;
	bool incremental; /* one buffer serves many receives until it is full */
};

static inline void bufs_put(struct bufs *b, unsigned id)
{
	b->used_bytes[id] = 0;
	io_uring_buf_ring_add(b->ring, b->base + (size_t)id * b->size_bytes, b->size_bytes,
			      (unsigned short)id, io_uring_buf_ring_mask(b->count), 0);
	io_uring_buf_ring_advance(b->ring, 1);
}

static inline int bufs_register(struct bufs *b, struct io_uring *ring, uint16_t flags)
{
	struct ring_buf_reg reg = {
		.ring_addr = (uint64_t)(uintptr_t)b->ring,
		.ring_entries = b->count,
		.bgid = b->group,
		.flags = flags,
	};

	return io_uring_register_buf_ring(ring, (struct io_uring_buf_reg *)&reg, 0);
}

/* Registers 8 MiB of receive buffers: incremental where the kernel has it, else plain. */
static inline int bufs_init(struct bufs *b, struct io_uring *ring, uint16_t group)
{
	const size_t total = 8u << 20;
	int rc;

	memset(b, 0, sizeof(*b));
	b->group = group;
	b->base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b->ring = mmap(NULL, 512 * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b->used_bytes = calloc(512, sizeof(*b->used_bytes));
	if (b->base == MAP_FAILED || b->ring == MAP_FAILED || !b->used_bytes)
		return -ENOMEM;
	b->incremental = true;
	b->count = 128;
	b->size_bytes = 64u << 10;
	rc = bufs_register(b, ring, IOU_PBUF_RING_INC);
	if (rc == -EINVAL) {
		b->incremental = false;
		b->count = 512;
		b->size_bytes = 16u << 10;
		rc = bufs_register(b, ring, 0);
	}
	if (rc < 0)
		return rc;
	io_uring_buf_ring_init(b->ring);
	for (unsigned i = 0; i < b->count; i++)
		bufs_put(b, i);
	return 0;
}

/*
 * Where the bytes of one receive completion are. *retired says that the kernel is done with the
 * buffer: whoever holds its last bytes gives it back with bufs_put.
 */
static inline unsigned char *bufs_take(struct bufs *b, const struct io_uring_cqe *cqe, unsigned *id,
				       bool *retired)
{
	unsigned i = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
	unsigned char *p = b->base + (size_t)i * b->size_bytes + b->used_bytes[i];

	if (cqe->res > 0)
		b->used_bytes[i] += (uint32_t)cqe->res;
	*id = i;
	*retired = !(b->incremental && (cqe->flags & IORING_CQE_F_BUF_MORE));
	return p;
}

#endif
