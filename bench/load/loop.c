/*
 * The closed loop: every connection keeps `depth` requests in flight, and an answer releases the
 * next request. All requests of a turn leave in one enter, so that the client costs less CPU than
 * any server it measures.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "../common/ring.h"
#include "load.h"

/* A prime: a period that no message size divides, so bytes out of order never match. */
#define PATTERN_PERIOD 65521u

/* Up to here a socket takes all of a connection's requests at once, and a send can't fall short. */
#define SMALL_BYTES (16u << 10)

enum { OP_RECV = 0, OP_SEND = 1 };

struct conn {
	int fd;
	bool staged;            /* in the turn's list */
	bool armed;             /* a receive is in the kernel */
	bool sending;           /* a tracked send is in the kernel */
	uint64_t sent;          /* bytes given to the kernel, or about to be */
	uint64_t sending_bytes; /* of them in the newest send */
	uint64_t queued;        /* bytes that may be sent: sent plus new requests */
	uint64_t in;            /* bytes received */
	uint64_t start;         /* where in the pattern the connection begins */
	uint64_t asked;         /* requests sent */
	uint64_t done;          /* requests answered */
	uint64_t *ask_ns;       /* depth entries: when each request in flight was sent */
};

struct loop {
	const struct options *o;
	struct result *r;
	struct io_uring ring;
	struct bufs bufs;
	struct conn *conns;
	uint64_t *ask_ns;
	unsigned char *pattern;
	unsigned *list; /* connections to serve at the end of the turn */
	unsigned list_count;
	uint8_t file_flag; /* IOSQE_FIXED_FILE once the sockets are registered with the ring */
	bool quiet;        /* sends post nothing: see stage_send */
	bool failed;
	uint64_t now_ns;
	uint64_t request_count;
};

static void fail(struct loop *l, const char *what, int err)
{
	if (l->failed)
		return;
	l->failed = true;
	snprintf(l->r->error, sizeof(l->r->error), "%s: %s", what,
		 err ? strerror(err) : "connection closed by the server");
}

static void touch(struct loop *l, struct conn *c)
{
	if (c->staged)
		return;
	c->staged = true;
	l->list[l->list_count++] = (unsigned)(c - l->conns);
}

static uint64_t token(struct loop *l, struct conn *c, unsigned op)
{
	return (uint64_t)(c - l->conns) << 1 | op;
}

/* What names the connection in an SQE: its place in the ring's file table, or its descriptor. */
static int file(const struct loop *l, const struct conn *c)
{
	return l->file_flag ? (int)(c - l->conns) : c->fd;
}

static void stage_recv(struct loop *l, struct conn *c)
{
	struct io_uring_sqe *sqe = ring_sqe(&l->ring);

	io_uring_prep_recv_multishot(sqe, file(l, c), NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT | l->file_flag;
	sqe->buf_group = l->bufs.group;
	io_uring_sqe_set_data64(sqe, token(l, c, OP_RECV));
	c->armed = true;
}

/*
 * Sends all that the connection may send. Without CQE when that is safe: either the window fits in
 * the socket, or (depth 1) the answer itself proves that the request left completely. Otherwise
 * one tracked send at a time, because two could overtake each other.
 */
static void stage_send(struct loop *l, struct conn *c)
{
	uint64_t bytes = c->queued - c->sent;
	struct io_uring_sqe *sqe;

	if (!bytes || c->sending)
		return;
	sqe = ring_sqe(&l->ring);
	io_uring_prep_send(sqe, file(l, c), l->pattern + (c->start + c->sent) % PATTERN_PERIOD,
			   (size_t)bytes, MSG_WAITALL | MSG_NOSIGNAL);
	sqe->flags |= l->file_flag;
	io_uring_sqe_set_data64(sqe, token(l, c, OP_SEND));
	if (l->quiet)
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	else
		c->sending = true;
	c->sending_bytes = bytes;
	c->sent += bytes;
}

/* Stages what the turn asked for; the requests of a turn share one time stamp. */
static void flush(struct loop *l)
{
	uint64_t now = clock_now_ns();

	for (unsigned i = 0; i < l->list_count; i++) {
		struct conn *c = &l->conns[l->list[i]];

		c->staged = false;
		if (!c->armed)
			stage_recv(l, c);
		while (c->asked * l->o->size_bytes < c->queued) {
			c->ask_ns[c->asked % l->o->depth] = now;
			c->asked++;
		}
		stage_send(l, c);
	}
	l->list_count = 0;
}

static bool verify(struct loop *l, struct conn *c, const unsigned char *p, size_t len)
{
	uint64_t at = c->start + c->in;

	while (len) {
		size_t n = len < PATTERN_PERIOD ? len : PATTERN_PERIOD;

		if (memcmp(p, l->pattern + at % PATTERN_PERIOD, n))
			return false;
		at += n;
		p += n;
		len -= n;
	}
	return true;
}

static void on_bytes(struct loop *l, struct conn *c, const unsigned char *p, size_t len)
{
	if (c->in + len > c->sent) {
		fail(l, "receive", EPROTO); /* more bytes than were sent */
		return;
	}
	if (l->o->verify && !verify(l, c, p, len)) {
		fail(l, "verify: echoed bytes differ", EBADMSG);
		return;
	}
	c->in += len;
	while (c->in >= (c->done + 1) * l->o->size_bytes) {
		hist_add(&l->r->latency, l->now_ns - c->ask_ns[c->done % l->o->depth]);
		c->done++;
		c->queued += l->o->size_bytes;
		l->request_count++;
	}
	if (c->queued > c->sent)
		touch(l, c);
}

static void on_recv(struct loop *l, struct conn *c, const struct io_uring_cqe *cqe)
{
	if (cqe->flags & IORING_CQE_F_BUFFER) {
		bool retired;
		unsigned id;
		unsigned char *p = bufs_take(&l->bufs, cqe, &id, &retired);

		if (cqe->res > 0)
			on_bytes(l, c, p, (size_t)cqe->res);
		if (retired)
			bufs_put(&l->bufs, id);
	}
	if (cqe->res <= 0 && cqe->res != -ENOBUFS) {
		fail(l, "receive", -cqe->res);
		return;
	}
	if (!(cqe->flags & IORING_CQE_F_MORE)) {
		c->armed = false;
		touch(l, c);
	}
}

static void on_send(struct loop *l, struct conn *c, const struct io_uring_cqe *cqe)
{
	if (l->quiet || cqe->res < 0) {
		/* a quiet send speaks up only when it failed or fell short */
		fail(l, "send", cqe->res < 0 ? -cqe->res : EIO);
		return;
	}
	c->sending = false;
	c->sent = c->sent - c->sending_bytes + (uint64_t)cqe->res;
	if (c->queued > c->sent)
		touch(l, c);
}

static int turn(struct loop *l)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;
	int rc = io_uring_submit_and_wait(&l->ring, 1);

	if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
		fail(l, "io_uring_enter", -rc);
		return -1;
	}
	if (load_late) {
		fail(l, "the server stopped answering", ETIMEDOUT);
		return -1;
	}
	l->now_ns = clock_now_ns();
	io_uring_for_each_cqe(&l->ring, head, cqe)
	{
		struct conn *c = &l->conns[cqe->user_data >> 1];

		if ((cqe->user_data & 1) == OP_RECV)
			on_recv(l, c, cqe);
		else
			on_send(l, c, cqe);
		count++;
	}
	io_uring_cq_advance(&l->ring, count);
	flush(l);
	return l->failed ? -1 : 0;
}

/* Saves a look-up of the descriptor a send; goes without where the kernel refuses. */
static void register_files(struct loop *l)
{
	unsigned n = l->o->conn_count;
	int *fds = calloc(n, sizeof(*fds));

	if (!fds)
		return;
	for (unsigned i = 0; i < n; i++)
		fds[i] = l->conns[i].fd;
	if (io_uring_register_files(&l->ring, fds, n) == 0)
		l->file_flag = IOSQE_FIXED_FILE;
	free(fds);
}

static int prepare(struct loop *l)
{
	const struct options *o = l->o;
	size_t window = (size_t)o->size_bytes * o->depth;
	size_t longest = window > PATTERN_PERIOD ? window : PATTERN_PERIOD;
	uint32_t x = 2463534242u;
	int rc;

	rc = ring_open(&l->ring);
	if (rc < 0) {
		fail(l, "io_uring is not available here (sysctl kernel.io_uring_disabled, seccomp)",
		     -rc);
		return -1;
	}
	rc = bufs_init(&l->bufs, &l->ring, 0);
	if (rc < 0) {
		fail(l, "register receive buffers", -rc);
		return -1;
	}
	l->pattern = malloc(PATTERN_PERIOD + longest);
	l->conns = calloc(o->conn_count, sizeof(*l->conns));
	l->list = calloc(o->conn_count, sizeof(*l->list));
	l->ask_ns = calloc((size_t)o->conn_count * o->depth, sizeof(*l->ask_ns));
	if (!l->pattern || !l->conns || !l->list || !l->ask_ns) {
		fail(l, "memory", ENOMEM);
		return -1;
	}
	for (size_t i = 0; i < PATTERN_PERIOD + longest; i++) {
		if (i >= PATTERN_PERIOD) {
			l->pattern[i] = l->pattern[i - PATTERN_PERIOD];
			continue;
		}
		x ^= x << 13, x ^= x >> 17, x ^= x << 5;
		l->pattern[i] = (unsigned char)(x >> 11);
	}
	l->quiet = o->depth == 1 || window <= SMALL_BYTES;
	for (unsigned i = 0; i < o->conn_count; i++)
		l->conns[i].fd = -1;
	for (unsigned i = 0; i < o->conn_count; i++) {
		struct conn *c = &l->conns[i];

		c->fd = net_connect(&o->addr);
		if (c->fd < 0) {
			fail(l, "connect", -c->fd);
			return -1;
		}
		c->ask_ns = l->ask_ns + (size_t)i * o->depth;
		c->start = (uint64_t)i * 7919; /* so that crossed connections never match */
		c->queued = window;
		touch(l, c);
	}
	register_files(l);
	return 0;
}

static int measure(struct loop *l)
{
	const struct options *o = l->o;
	struct result *r = l->r;
	uint64_t from, until, requests;
	uint64_t client_ns, server_ns, busy_ns;

	flush(l);
	until = clock_now_ns() + (uint64_t)(o->warmup_s * 1e9);
	do {
		if (turn(l) < 0)
			return -1;
	} while (l->now_ns < until);

	memset(&r->latency, 0, sizeof(r->latency));
	requests = l->request_count;
	server_ns = o->server_pid ? proc_cpu_ns(o->server_pid) : 0;
	client_ns = proc_cpu_ns(getpid());
	busy_ns = machine_busy_ns();
	from = clock_now_ns();
	until = from + (uint64_t)(o->measure_s * 1e9);
	do {
		if (turn(l) < 0)
			return -1;
	} while (l->now_ns < until);

	r->measured_ns = clock_now_ns() - from;
	r->machine_busy_ns = machine_busy_ns() - busy_ns;
	r->client_cpu_ns = proc_cpu_ns(getpid()) - client_ns;
	if (o->server_pid) {
		r->server_cpu_ns = proc_cpu_ns(o->server_pid) - server_ns;
		proc_status(o->server_pid, &r->server_rss_bytes, &r->server_thread_count);
	}
	r->request_count = l->request_count - requests;
	return 0;
}

int loop_run(const struct options *o, struct result *r)
{
	/* Static: the process ends after it, and the kernel takes back all that it holds. */
	static struct loop l;
	int rc;

	l = (struct loop){ .o = o, .r = r };
	rc = prepare(&l);
	return rc < 0 ? rc : measure(&l);
}
