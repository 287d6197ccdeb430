/* driver_fixture.c: the owner's half of a driver, with its book; see driver_fixture.h. */
#include "driver_fixture.h"

enum {
	WATCHDOG_S = 60,
	TRIES_MAX = 1 << 20,
};

#define CAPS_OF_SETUP                                                                              \
	(VQ_CAP_SINGLE_ISSUER | VQ_CAP_DEFER_TASKRUN | VQ_CAP_COOP_TASKRUN | VQ_CAP_TASKRUN_FLAG | \
	 VQ_CAP_SUBMIT_ALL)

#define SIZES(sq, cq, count, size, whole_n, whole_size)                                          \
	.sq_entries = (sq), .cq_entries = (cq), .buffer_count = (count),                         \
	.buffer_size_bytes = (size), .whole_count = (whole_n), .whole_size_bytes = (whole_size), \
	.packet_count = 8, .packet_size_bytes = 2048
#define SMALL SIZES(64, 256, 16, 16384, 32, 4096)
#define TINY  SIZES(8, 16, 4, 1024, 4, 1024)

/* All that translation makes up for, and all of an old kernel. */
#define CAPS_OF_TRANSLATION                                                        \
	(VQ_CAP_ACCEPT_MULTISHOT | VQ_CAP_RECV_MULTISHOT | VQ_CAP_POLL_MULTISHOT | \
	 VQ_CAP_BUFFER_RING | VQ_CAP_SHUTDOWN | VQ_CAP_TIMEOUT_UPDATE)
#define CAPS_OF_5_11 (CAPS_OF_5_10 & ~(VQ_CAP_SHUTDOWN | VQ_CAP_TIMEOUT_UPDATE))
#define CAPS_OF_5_10                                                                          \
	(CAPS_OF_SETUP | VQ_CAP_REGISTERED_RING | VQ_CAP_ACCEPT_MULTISHOT |                   \
	 VQ_CAP_RECV_MULTISHOT | VQ_CAP_POLL_MULTISHOT | VQ_CAP_BUFFER_RING |                 \
	 VQ_CAP_BUFFER_INCREMENTAL | VQ_CAP_SKIP_SUCCESS | VQ_CAP_SEND_ZC | VQ_CAP_SHUTDOWN | \
	 VQ_CAP_TIMEOUT_UPDATE | VQ_CAP_MIN_WAIT)
#define URING .kind = VQ_DRIVER_URING

/* What a driver may be denied and still work. */
const fx_config fx_configs[] = {
	{ "default", { SIZES(4096, 32768, 128, 65536, 512, 16384) } },
	{ "small", { SMALL } },
	{ "tiny", { TINY } },
	{ "whole buffers", { SMALL, .deny = VQ_CAP_BUFFER_INCREMENTAL } },
	{ "tiny, whole buffers", { TINY, .deny = VQ_CAP_BUFFER_INCREMENTAL } },
	{ "no DEFER_TASKRUN", { SMALL, .deny = VQ_CAP_DEFER_TASKRUN } },
	{ "no REGISTERED_RING", { SMALL, .deny = VQ_CAP_REGISTERED_RING } },
	{ "no MIN_WAIT", { SMALL, .deny = VQ_CAP_MIN_WAIT } },
	{ "no SKIP_SUCCESS", { SMALL, .deny = VQ_CAP_SKIP_SUCCESS } },
	{ "tiny, bare ring", { TINY, .deny = CAPS_OF_SETUP | VQ_CAP_REGISTERED_RING } },
	{ "no ACCEPT_MULTISHOT", { SMALL, URING, .deny = VQ_CAP_ACCEPT_MULTISHOT } },
	{ "no RECV_MULTISHOT", { SMALL, URING, .deny = VQ_CAP_RECV_MULTISHOT } },
	{ "no POLL_MULTISHOT", { SMALL, URING, .deny = VQ_CAP_POLL_MULTISHOT } },
	{ "no BUFFER_RING", { SMALL, URING, .deny = VQ_CAP_BUFFER_RING } },
	{ "no SHUTDOWN", { SMALL, URING, .deny = VQ_CAP_SHUTDOWN } },
	{ "no TIMEOUT_UPDATE", { SMALL, URING, .deny = VQ_CAP_TIMEOUT_UPDATE } },
	{ "no BUFFER_RING, no SKIP_SUCCESS",
	  { SMALL, URING, .deny = VQ_CAP_BUFFER_RING | VQ_CAP_SKIP_SUCCESS } },
	{ "tiny, all multishot denied",
	  { TINY, URING,
	    .deny = VQ_CAP_ACCEPT_MULTISHOT | VQ_CAP_RECV_MULTISHOT | VQ_CAP_POLL_MULTISHOT } },
	{ "as 5.10", { SIZES(4096, 32768, 128, 65536, 512, 16384), URING, .deny = CAPS_OF_5_10 } },
	{ "small, as 5.11", { SMALL, URING, .deny = CAPS_OF_5_11 } },
	{ "tiny, as 5.10", { TINY, URING, .deny = CAPS_OF_5_10 } },
	{ "small, as 5.10, restricted", { SMALL, URING, .deny = CAPS_OF_5_10, .restricted = 1 } },
	{ "epoll", { SIZES(4096, 32768, 128, 65536, 512, 16384), .kind = VQ_DRIVER_EPOLL } },
	{ "epoll, small", { SMALL, .kind = VQ_DRIVER_EPOLL } },
	{ "epoll, tiny", { TINY, .kind = VQ_DRIVER_EPOLL } },
	{ "epoll, tiny, whole buffers",
	  { TINY, .kind = VQ_DRIVER_EPOLL, .deny = VQ_CAP_BUFFER_INCREMENTAL } },
	{ NULL, { 0 } },
};
const fx_config *fx_config_used = &fx_configs[0];

static uint64_t token_of(uint32_t op)
{
	/* Both halves say which, so that half a token is noticed. */
	return (uint64_t)~op << 32 | op;
}

int fx_unavailable(void)
{
	vq_driver_report report;
	vq_driver *driver = NULL;
	int rc = vq_driver_create(&fx_config_used->driver, &report, &driver);

	if (rc == 0)
		vq_driver_destroy(driver);
	return rc;
}

void fx_begin(fx *f)
{
	const vq_driver_config *config = &fx_config_used->driver;

	peer_watchdog(WATCHDOG_S);
	memset(f, 0, sizeof(*f));
	f->open_before = peer_open_count();
	CHECK_EQ(vq_driver_create(config, &f->report, &f->driver), 0);
	CHECK_EQ(f->report.caps & config->deny, 0);
	CHECK_EQ(f->report.caps & f->report.emulated, 0);
	if (config->kind != VQ_DRIVER_AUTO)
		CHECK_EQ(f->report.kind, config->kind);
	/* Nothing is lost without a word: what io_uring does not do is done for it. */
	if (f->report.kind == VQ_DRIVER_URING)
		CHECK_EQ(f->report.emulated, ~f->report.caps & CAPS_OF_TRANSLATION);
	vq_driver_view_get(f->driver, &f->view);
	CHECK_EQ(f->view.sq_entries, config->sq_entries);
	CHECK_EQ(f->view.cq_entries, config->cq_entries);
	f->buffers = calloc(f->view.buffer_count, sizeof(*f->buffers));
	CHECK(f->buffers != NULL);
	for (uint32_t i = 0; i < f->view.buffer_count; i++)
		f->buffers[i].offered = true;
	f->buf_tail = (uint16_t)f->view.buffer_count;
	CHECK_EQ(*f->view.buf_tail, f->buf_tail);
	f->packets = calloc(f->view.packet_count + 1, sizeof(*f->packets));
	CHECK(f->packets != NULL);
	for (uint32_t i = 0; i < f->view.packet_count; i++)
		f->packets[i] = true;
	f->packet_tail = (uint16_t)f->view.packet_count;
}

static void book_free(fx *f)
{
	for (uint32_t i = 0; i < f->op_count; i++) {
		free(f->ops[i].data);
		free(f->ops[i].memory);
	}
	free(f->ops);
	free(f->buffers);
	free(f->packets);
	peer_watchdog(0);
}

void fx_end(fx *f)
{
	fx_flush(f);
	for (uint32_t i = 0; i < f->op_count; i++)
		CHECK(f->ops[i].terminal || f->ops[i].skip);
	CHECK_EQ(f->buffers_held, 0);
	for (uint32_t i = 0; i < f->view.buffer_count; i++)
		CHECK(f->buffers[i].offered);
	CHECK_EQ(f->packets_held, 0);
	fx_abandon(f);
}

void fx_abandon(fx *f)
{
	vq_driver_destroy(f->driver);
	CHECK_EQ(peer_open_count(), f->open_before);
	book_free(f);
}

vq_sqe *fx_stage(fx *f, uint8_t opcode, int fd, uint32_t *op)
{
	const vq_driver_view *view = &f->view;

	for (uint32_t tries = 0;; tries++) {
		/* acquire: pairs with the driver's release; it has read what head passed */
		uint32_t head = __atomic_load_n(view->sq_head, __ATOMIC_ACQUIRE);
		CHECK(f->sq_tail - head <= view->sq_entries);
		if (f->sq_tail - head < view->sq_entries)
			break;
		CHECK(tries < TRIES_MAX);
		fx_submit(f, 0);
	}
	if (f->op_count == f->op_room) {
		f->op_room = f->op_room == 0 ? 256 : f->op_room * 2;
		f->ops = realloc(f->ops, f->op_room * sizeof(*f->ops));
		CHECK(f->ops != NULL);
	}
	*op = f->op_count++;
	memset(&f->ops[*op], 0, sizeof(f->ops[*op]));
	vq_sqe *sqe = &view->sqes[f->sq_tail & (view->sq_entries - 1)];
	f->sq_tail++;
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->user_data = token_of(*op);
	return sqe;
}

void fx_submit(fx *f, uint32_t wait_count)
{
	CHECK(vq_driver_enter(f->driver, f->sq_tail, wait_count) >= 0);
}

static void op_append(fx_op *op, const uint8_t *data, size_t len_bytes)
{
	if (len_bytes == 0)
		return;
	if (op->data_len + len_bytes > op->data_cap) {
		op->data_cap = (op->data_len + len_bytes) * 2;
		op->data = realloc(op->data, op->data_cap);
		CHECK(op->data != NULL);
	}
	memcpy(op->data + op->data_len, data, len_bytes);
	op->data_len += len_bytes;
}

static void book_buffer(fx *f, fx_op *op, const vq_cqe *cqe)
{
	const uint32_t index = cqe->flags >> VQ_CQE_BUFFER_SHIFT;
	const uint32_t len = cqe->res > 0 ? (uint32_t)cqe->res : 0;

	CHECK(index < f->view.buffer_count);
	fx_buffer *buffer = &f->buffers[index];
	CHECK(buffer->offered);
	CHECK(buffer->used + len <= f->view.buffer_size_bytes);
	op_append(op, f->view.buf_base + (size_t)index * f->view.buffer_size_bytes + buffer->used,
		  len);
	buffer->used += len;
	if ((cqe->flags & VQ_CQE_BUF_MORE) != 0) {
		CHECK(fx_has(f, VQ_CAP_BUFFER_INCREMENTAL));
		/* An empty rest would answer the next recv with a false end of stream. */
		CHECK(buffer->used < f->view.buffer_size_bytes);
	} else {
		buffer->offered = false;
		f->buffers_held++;
	}
}

static void book_packet(fx *f, fx_op *op, const vq_cqe *cqe)
{
	const uint32_t index = cqe->flags >> VQ_CQE_BUFFER_SHIFT;

	CHECK(index < f->view.packet_count);
	CHECK(f->packets[index]);
	CHECK_EQ(cqe->flags & VQ_CQE_BUF_MORE, 0);
	CHECK(cqe->res >= (int32_t)sizeof(vq_recvmsg_out));
	CHECK((uint32_t)cqe->res <= f->view.packet_size_bytes);
	op_append(op, f->view.packet_base + (size_t)index * f->view.packet_size_bytes,
		  (size_t)cqe->res);
	f->packets[index] = false;
	f->packets_held++;
}

static void book_completion(fx *f, const vq_cqe *cqe)
{
	const uint32_t index = (uint32_t)cqe->user_data;

	CHECK(index < f->op_count);
	CHECK(cqe->user_data == token_of(index));
	fx_op *op = &f->ops[index];
	CHECK(!op->terminal);
	op->count++;
	op->res = cqe->res;
	op->flags = cqe->flags;
	op->terminal = (cqe->flags & VQ_CQE_MORE) == 0;
	if (!op->terminal)
		CHECK(op->more_allowed);
	if ((cqe->flags & VQ_CQE_BUFFER) != 0 && op->packets)
		book_packet(f, op, cqe);
	else if ((cqe->flags & VQ_CQE_BUFFER) != 0)
		book_buffer(f, op, cqe);
	else
		CHECK_EQ(cqe->flags & VQ_CQE_BUF_MORE, 0);
	if (f->on_completion != NULL)
		f->on_completion(f, index, cqe);
}

uint32_t fx_collect(fx *f)
{
	const vq_driver_view *view = &f->view;
	/* acquire: pairs with the driver's release; the entries below it are written */
	const uint32_t tail = __atomic_load_n(view->cq_tail, __ATOMIC_ACQUIRE);
	const uint32_t count = tail - f->cq_seen;

	CHECK(count <= view->cq_entries);
	while (f->cq_seen != tail) {
		const vq_cqe cqe = view->cqes[f->cq_seen & (view->cq_entries - 1)];
		f->cq_seen++;
		/* release: pairs with the driver's acquire before it writes the entry anew */
		__atomic_store_n(view->cq_head, f->cq_seen, __ATOMIC_RELEASE);
		book_completion(f, &cqe);
	}
	if (!f->hold_buffers)
		fx_return_buffers(f);
	return count;
}

static void return_packets(fx *f)
{
	const vq_driver_view *view = &f->view;

	if (f->packets_held == 0)
		return;
	for (uint32_t i = 0; i < view->packet_count && f->packets_held > 0; i++) {
		if (f->packets[i])
			continue;
		vq_buf *entry = &view->packet_ring[f->packet_tail & (view->packet_count - 1)];
		entry->addr = (uint64_t)(uintptr_t)view->packet_base +
			      (uint64_t)i * view->packet_size_bytes;
		entry->len = view->packet_size_bytes;
		entry->index = (uint16_t)i;
		f->packets[i] = true;
		f->packets_held--;
		f->packet_tail++;
	}
	/* release: pairs with the driver's acquire of the tail, as the other group's */
	__atomic_store_n(view->packet_tail, f->packet_tail, __ATOMIC_RELEASE);
}

void fx_return_buffers(fx *f)
{
	const vq_driver_view *view = &f->view;

	for (uint32_t i = 0; i < view->buffer_count && f->buffers_held > 0; i++) {
		if (f->buffers[i].offered)
			continue;
		vq_buf *entry = &view->buf_ring[f->buf_tail & (view->buffer_count - 1)];
		entry->addr =
			(uint64_t)(uintptr_t)view->buf_base + (uint64_t)i * view->buffer_size_bytes;
		entry->len = view->buffer_size_bytes;
		entry->index = (uint16_t)i;
		f->buffers[i] = (fx_buffer){ .offered = true };
		f->buffers_held--;
		f->buf_tail++;
	}
	/* release: pairs with the driver's acquire of the tail; the entries are written */
	__atomic_store_n(view->buf_tail, f->buf_tail, __ATOMIC_RELEASE);
	return_packets(f);
}

void fx_turn(fx *f, uint32_t wait_count)
{
	fx_submit(f, wait_count);
	fx_collect(f);
}

uint32_t fx_turn_delayed(fx *f, uint32_t wait_count, uint32_t delay_us)
{
	CHECK(vq_driver_enter_delayed(f->driver, f->sq_tail, wait_count, delay_us) >= 0);
	return fx_collect(f);
}

void fx_flush(fx *f)
{
	for (uint32_t tries = 0; tries < TRIES_MAX; tries++) {
		fx_turn(f, 0);
		if (__atomic_load_n(f->view.sq_head, __ATOMIC_ACQUIRE) != f->sq_tail)
			continue;
		if ((__atomic_load_n(f->view.sq_flags, __ATOMIC_ACQUIRE) &
		     (VQ_SQ_CQ_OVERFLOW | VQ_SQ_TASKRUN)) == 0)
			return;
	}
	CHECK(false);
}

void fx_wait(fx *f, uint32_t op)
{
	/* Without this a skipped success would be waited for until the watchdog barks. */
	CHECK(!f->ops[op].skip);
	while (!f->ops[op].terminal)
		fx_turn(f, 1);
}

void fx_wait_count(fx *f, uint32_t op, uint32_t count)
{
	while (f->ops[op].count < count) {
		CHECK(!f->ops[op].terminal);
		fx_turn(f, 1);
	}
}

void fx_wait_bytes(fx *f, uint32_t op, size_t len_bytes)
{
	while (f->ops[op].data_len < len_bytes) {
		CHECK(!f->ops[op].terminal);
		fx_turn(f, 1);
	}
}

int32_t fx_sent(fx *f, uint32_t op, uint32_t len_bytes)
{
	fx_flush(f);
	if (!f->ops[op].skip)
		fx_wait(f, op);
	return f->ops[op].terminal ? f->ops[op].res : (int32_t)len_bytes;
}

void fx_cancel_wait(fx *f, uint32_t target)
{
	uint32_t cancel = fx_cancel(f, target);

	fx_wait(f, target);
	fx_wait(f, cancel);
	int32_t res = f->ops[cancel].res;
	CHECK(res == 0 || res == -VQ_ENOENT || res == -VQ_EALREADY);
}

void fx_fill(void *data, uint64_t position, size_t len_bytes, uint32_t seed)
{
	for (size_t i = 0; i < len_bytes; i++)
		((uint8_t *)data)[i] = fx_byte(position + i, seed);
}

void fx_check_bytes(const void *data, uint64_t position, size_t len_bytes, uint32_t seed)
{
	for (size_t i = 0; i < len_bytes; i++) {
		if (((const uint8_t *)data)[i] != fx_byte(position + i, seed)) {
			printf("\nstream %" PRIu32 " differs at byte %" PRIu64, seed, position + i);
			CHECK(false);
		}
	}
}

void fx_hear_rings(fx *f, uint32_t rounds, uint32_t wait_count, uint32_t delay_us)
{
	uint32_t op = fx_wake(f);

	fx_flush(f);
	for (uint32_t round = 0; round < rounds; round++) {
		uint32_t before = f->ops[op].count;
		vq_doorbell_ring(f->view.doorbell);
		while (f->ops[op].count == before) {
			if (delay_us == 0)
				fx_turn(f, wait_count);
			else
				fx_turn_delayed(f, wait_count, delay_us);
		}
		CHECK(f->ops[op].res > 0);
		if (f->ops[op].terminal) {
			op = fx_wake(f);
			fx_flush(f);
		}
	}
	if (!f->ops[op].terminal)
		fx_cancel_wait(f, op);
}

size_t fx_recv_end(fx *f, uint32_t op, uint64_t position, uint32_t seed)
{
	if (!f->ops[op].terminal)
		fx_cancel_wait(f, op);
	int32_t res = f->ops[op].res;
	CHECK(res > 0 || res == -VQ_ENOBUFS || res == -VQ_ECANCELED);
	fx_check_bytes(f->ops[op].data, position, f->ops[op].data_len, seed);
	return f->ops[op].data_len;
}

uint32_t fx_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static void *stream_main(fx_stream *s, bool writes)
{
	uint8_t *piece = malloc(s->piece_bytes_max);
	uint32_t random = s->seed + 1;

	CHECK(piece != NULL);
	for (size_t done = 0; done < s->total_bytes;) {
		size_t len = 1 + fx_random(&random) % s->piece_bytes_max;
		if (len > s->total_bytes - done)
			len = s->total_bytes - done;
		if (writes) {
			fx_fill(piece, done, len, s->seed);
			peer_send(s->fd, piece, len);
		} else {
			int64_t n = peer_recv(s->fd, piece, len);
			CHECK(n > 0);
			len = (size_t)n;
			fx_check_bytes(piece, done, len, s->seed);
		}
		done += len;
	}
	free(piece);
	return NULL;
}

static void *writer_main(void *s)
{
	return stream_main(s, true);
}

static void *reader_main(void *s)
{
	return stream_main(s, false);
}

static void stream_start(fx_stream *s, const fx_stream *what, void *(*run)(void *))
{
	*s = *what;
	CHECK_EQ(pthread_create(&s->thread, NULL, run, s), 0);
}

void fx_stream_write(fx_stream *s, int fd, size_t total_bytes, size_t piece_max, uint32_t seed)
{
	const fx_stream what = {
		.fd = fd, .seed = seed, .total_bytes = total_bytes, .piece_bytes_max = piece_max
	};
	stream_start(s, &what, writer_main);
}

void fx_stream_read(fx_stream *s, int fd, size_t total_bytes, size_t piece_max, uint32_t seed)
{
	const fx_stream what = {
		.fd = fd, .seed = seed, .total_bytes = total_bytes, .piece_bytes_max = piece_max
	};
	stream_start(s, &what, reader_main);
}

void fx_stream_join(fx_stream *s)
{
	CHECK_EQ(pthread_join(s->thread, NULL), 0);
}
