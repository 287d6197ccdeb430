/*
 * The limit: the leanest echo server that plain C over liburing allows, as the yardstick for every
 * other one. One thread; received bytes are sent from the buffer they arrived in.
 *
 * A turn is one enter: it submits the sends of the turn before, and waits. Those sends are inline
 * and quiet (MSG_DONTWAIT, CQE_SKIP_SUCCESS), so after the enter a send without a completion has
 * gone out whole. One that fell short posts what it did; the rest of that connection then goes out
 * by a send that waits. A connection has one send at a time, so its bytes keep their order.
 *
 * Not a product: nothing pauses receiving, so clients that never read can hold all 8 MiB of
 * buffers and stall everybody.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "../common/addr.h"
#include "../common/ring.h"

#define IOV_MAX_COUNT 16u
#define NONE          UINT32_MAX

enum { OP_RECV = 0, OP_SEND = 1, OP_ACCEPT = 2, OP_NONE = 3 };
#define OP_BITS 2

/* Received bytes that wait to be sent; each holds one reference of its buffer. */
struct seg {
	uint32_t next;
	uint32_t buffer;
	uint32_t len_bytes;
	unsigned char *p;
};

struct conn {
	uint32_t first, last;  /* segments in order */
	uint32_t flight_bytes; /* of them in the send that is in the kernel */
	bool staged;           /* in the turn's list */
	bool blocked;          /* the socket was full: the next send waits */
	bool armed;            /* a receive is in the kernel */
	bool ended;            /* end of stream: close when all is sent */
	bool broken;           /* reset: drop what is left, then close */
	struct msghdr msg;
	struct iovec iov[IOV_MAX_COUNT];
};

struct list {
	uint32_t *index;
	uint32_t count;
};

static struct {
	struct io_uring ring;
	struct bufs bufs;
	uint32_t *refs; /* a buffer: segments, and one while the kernel fills it */
	struct conn *conns;
	uint32_t conn_max;
	struct seg *segs;
	uint32_t seg_count, free_seg;
	struct list dirty;   /* connections to serve at the end of the turn */
	struct list quiet;   /* sends that the next enter decides */
	struct list starved; /* receives that found no buffer */
	bool has_returned;   /* a buffer came back since the last enter */
	bool accepting;
	int listener;
} s;

static void die(const char *what, int err)
{
	fprintf(stderr, "limit: %s: %s\n", what, strerror(err));
	exit(1);
}

static void unref(uint32_t buffer)
{
	if (--s.refs[buffer])
		return;
	s.refs[buffer] = 1;
	bufs_put(&s.bufs, buffer);
	s.has_returned = true;
}

static uint32_t seg_new(void)
{
	uint32_t i = s.free_seg;

	if (i == NONE) {
		uint32_t count = s.seg_count ? s.seg_count * 2 : 4096;
		struct seg *grown = realloc(s.segs, count * sizeof(*grown));

		if (!grown)
			die("segments", ENOMEM);
		s.segs = grown;
		for (i = s.seg_count; i < count; i++)
			s.segs[i].next = i + 1 < count ? i + 1 : NONE;
		i = s.seg_count;
		s.seg_count = count;
	}
	s.free_seg = s.segs[i].next;
	return i;
}

static void touch(struct conn *c)
{
	if (c->staged)
		return;
	c->staged = true;
	s.dirty.index[s.dirty.count++] = (uint32_t)(c - s.conns);
}

static void push(struct conn *c, uint32_t buffer, unsigned char *p, uint32_t len)
{
	struct seg *last = c->last == NONE ? NULL : &s.segs[c->last];
	uint32_t i;

	if (last && last->buffer == buffer && last->p + last->len_bytes == p) {
		last->len_bytes += len;
		return;
	}
	i = seg_new();
	s.segs[i] = (struct seg){ .next = NONE, .buffer = buffer, .len_bytes = len, .p = p };
	s.refs[buffer]++;
	if (c->last == NONE)
		c->first = i;
	else
		s.segs[c->last].next = i;
	c->last = i;
}

/* Drops the first len bytes of a connection's queue, and the buffers that this frees. */
static void pop(struct conn *c, uint32_t len)
{
	while (len) {
		struct seg *g = &s.segs[c->first];
		uint32_t i = c->first;

		if (len < g->len_bytes) {
			g->p += len;
			g->len_bytes -= len;
			return;
		}
		len -= g->len_bytes;
		unref(g->buffer);
		c->first = g->next;
		if (c->first == NONE)
			c->last = NONE;
		g->next = s.free_seg;
		s.free_seg = i;
	}
}

static void drop(struct conn *c)
{
	while (c->first != NONE)
		pop(c, s.segs[c->first].len_bytes);
}

static uint64_t token(const struct conn *c, unsigned op)
{
	return (uint64_t)(c - s.conns) << OP_BITS | op;
}

/* A connection's place in conns is its place in the ring's file table: there is no descriptor. */
static int file(const struct conn *c)
{
	return (int)(c - s.conns);
}

static void stage_recv(struct conn *c)
{
	struct io_uring_sqe *sqe = ring_sqe(&s.ring);

	io_uring_prep_recv_multishot(sqe, file(c), NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT | IOSQE_FIXED_FILE;
	sqe->buf_group = s.bufs.group;
	io_uring_sqe_set_data64(sqe, token(c, OP_RECV));
	c->armed = true;
}

static void stage_accept(void)
{
	struct io_uring_sqe *sqe = ring_sqe(&s.ring);

	io_uring_prep_multishot_accept_direct(sqe, s.listener, NULL, NULL, 0);
	io_uring_sqe_set_data64(sqe, OP_ACCEPT);
	s.accepting = true;
}

/* One send of all that is queued, up to IOV_MAX_COUNT pieces. */
static void stage_send(struct conn *c)
{
	int flags = MSG_WAITALL | MSG_NOSIGNAL | (c->blocked ? 0 : MSG_DONTWAIT);
	struct io_uring_sqe *sqe = ring_sqe(&s.ring);
	uint32_t i, bytes = 0;
	unsigned n = 0;

	for (i = c->first; i != NONE && n < IOV_MAX_COUNT; i = s.segs[i].next) {
		c->iov[n].iov_base = s.segs[i].p;
		c->iov[n++].iov_len = s.segs[i].len_bytes;
		bytes += s.segs[i].len_bytes;
	}
	if (n == 1) {
		io_uring_prep_send(sqe, file(c), c->iov[0].iov_base, c->iov[0].iov_len, flags);
	} else {
		c->msg = (struct msghdr){ .msg_iov = c->iov, .msg_iovlen = n };
		io_uring_prep_sendmsg(sqe, file(c), &c->msg, (unsigned)flags);
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, token(c, OP_SEND));
	c->flight_bytes = bytes;
	/*
	 * A quiet success wakes nobody: the turn that notices it needs another completion. So a
	 * send is loud where something waits for it: more of the queue, the close, or starved
	 * receives.
	 */
	if (c->blocked || c->ended || i != NONE || s.starved.count)
		return;
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	s.quiet.index[s.quiet.count++] = (uint32_t)(c - s.conns);
}

/* Both are quiet unless they fail, and then there is nothing left to do. */
static void stage_close(struct conn *c)
{
	struct io_uring_sqe *sqe = ring_sqe(&s.ring);

	io_uring_prep_close_direct(sqe, (unsigned)file(c));
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(sqe, OP_NONE);
	if (!s.accepting)
		stage_accept(); /* it had stopped because the table was full */
}

/* Ends a connection's receive, so that it can close; shutdown would take a detour by io-wq. */
static void stage_cancel(struct conn *c)
{
	struct io_uring_sqe *sqe = ring_sqe(&s.ring);

	io_uring_prep_cancel64(sqe, token(c, OP_RECV), 0);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(sqe, OP_NONE);
}

/* Ends the turn: every connection with news gets its receive, its send, or its close. */
static void flush(void)
{
	for (uint32_t i = 0; i < s.dirty.count; i++) {
		struct conn *c = &s.conns[s.dirty.index[i]];

		c->staged = false;
		if (c->flight_bytes)
			continue; /* its completion brings the connection back here */
		if (c->broken)
			drop(c);
		if (c->first != NONE)
			stage_send(c);
		else if (c->ended && !c->armed)
			stage_close(c);
	}
	s.dirty.count = 0;
	if (!s.has_returned)
		return;
	/* Arming again before buffers came back would only find none once more. */
	s.has_returned = false;
	for (uint32_t i = 0; i < s.starved.count; i++)
		stage_recv(&s.conns[s.starved.index[i]]);
	s.starved.count = 0;
}

static void on_accept(const struct io_uring_cqe *cqe)
{
	struct conn *c;

	if (!(cqe->flags & IORING_CQE_F_MORE))
		s.accepting = false;
	if (cqe->res < 0) {
		if (cqe->res != -ENFILE && cqe->res != -EMFILE)
			die("accept", -cqe->res);
		return; /* goes on when a connection closes */
	}
	c = &s.conns[cqe->res];
	memset(c, 0, sizeof(*c));
	c->first = c->last = NONE;
	stage_recv(c);
	if (!s.accepting)
		stage_accept();
}

static void on_recv(struct conn *c, const struct io_uring_cqe *cqe)
{
	if (cqe->flags & IORING_CQE_F_BUFFER) {
		bool retired;
		unsigned id;
		unsigned char *p = bufs_take(&s.bufs, cqe, &id, &retired);

		if (cqe->res > 0) {
			push(c, id, p, (uint32_t)cqe->res);
			touch(c);
		}
		if (retired)
			unref(id);
	}
	if (cqe->flags & IORING_CQE_F_MORE)
		return;
	c->armed = false;
	if (cqe->res > 0) {
		stage_recv(c);
	} else if (cqe->res == -ENOBUFS) {
		c->armed = true; /* as good as: nothing may close it meanwhile */
		s.starved.index[s.starved.count++] = (uint32_t)(c - s.conns);
	} else {
		c->ended = true;
		c->broken = cqe->res < 0;
		touch(c);
	}
}

/* A quiet send that fell short or failed, or the end of a loud one. */
static void on_send(struct conn *c, const struct io_uring_cqe *cqe)
{
	uint32_t sent = cqe->res > 0 ? (uint32_t)cqe->res : 0;

	c->blocked = sent < c->flight_bytes;
	if (cqe->res < 0 && cqe->res != -EAGAIN && cqe->res != -EINTR) {
		c->broken = true;
		if (c->armed)
			stage_cancel(c);
	}
	pop(c, sent);
	c->flight_bytes = 0;
	touch(c);
}

/* The quiet sends that the enter made and that posted nothing have gone out whole. */
static void settle(void)
{
	for (uint32_t i = 0; i < s.quiet.count; i++) {
		struct conn *c = &s.conns[s.quiet.index[i]];

		if (!c->flight_bytes)
			continue; /* on_send has seen to it */
		pop(c, c->flight_bytes);
		c->flight_bytes = 0;
		if (c->first != NONE || c->ended)
			touch(c);
	}
	s.quiet.count = 0;
}

static void turn(void)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;
	int rc = io_uring_submit_and_wait(&s.ring, 1);

	if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
		die("io_uring_enter", -rc);
	io_uring_for_each_cqe(&s.ring, head, cqe)
	{
		struct conn *c = &s.conns[cqe->user_data >> OP_BITS];

		switch (cqe->user_data & ((1u << OP_BITS) - 1)) {
		case OP_RECV:
			on_recv(c, cqe);
			break;
		case OP_SEND:
			on_send(c, cqe);
			break;
		case OP_ACCEPT:
			on_accept(cqe);
			break;
		default:
			break; /* a close or a cancel that failed */
		}
		count++;
	}
	io_uring_cq_advance(&s.ring, count);
	if (io_uring_sq_ready(&s.ring))
		return; /* interrupted: sends of this turn are not decided yet */
	settle();
	flush();
}

static void listen_on(struct sockaddr_in *addr)
{
	socklen_t len = sizeof(*addr);
	char host[INET_ADDRSTRLEN];
	int one = 1;

	s.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s.listener < 0)
		die("socket", errno);
	setsockopt(s.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(s.listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* inherited */
	if (bind(s.listener, (struct sockaddr *)addr, sizeof(*addr)) < 0)
		die("bind", errno);
	if (listen(s.listener, 4096) < 0)
		die("listen", errno);
	getsockname(s.listener, (struct sockaddr *)addr, &len);
	inet_ntop(AF_INET, &addr->sin_addr, host, sizeof(host));
	printf("%s:%u\n", host, ntohs(addr->sin_port));
	fflush(stdout);
}

static void prepare(void)
{
	struct rlimit fds;
	int rc = ring_open(&s.ring);

	if (rc < 0)
		die("io_uring is not available here (sysctl kernel.io_uring_disabled, seccomp)",
		    -rc);
	s.conn_max = 65536;
	rc = bufs_init(&s.bufs, &s.ring, 0);
	if (rc < 0)
		die("register receive buffers", -rc);
	if (getrlimit(RLIMIT_NOFILE, &fds) == 0) {
		fds.rlim_cur = fds.rlim_max;
		setrlimit(RLIMIT_NOFILE, &fds);
		if (fds.rlim_max < s.conn_max)
			s.conn_max = (uint32_t)fds.rlim_max; /* it bounds the file table too */
	}
	rc = io_uring_register_files_sparse(&s.ring, s.conn_max);
	if (rc < 0)
		die("register the file table", -rc);
	s.conns = calloc(s.conn_max, sizeof(*s.conns)); /* resident only as far as used */
	s.refs = calloc(s.bufs.count, sizeof(*s.refs));
	s.dirty.index = calloc(s.conn_max, sizeof(uint32_t));
	s.quiet.index = calloc(s.conn_max, sizeof(uint32_t));
	s.starved.index = calloc(s.conn_max, sizeof(uint32_t));
	if (!s.conns || !s.refs || !s.dirty.index || !s.quiet.index || !s.starved.index)
		die("memory", ENOMEM);
	s.free_seg = NONE;
	for (uint32_t i = 0; i < s.bufs.count; i++)
		s.refs[i] = 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr;

	addr_parse("127.0.0.1:0", &addr);
	for (int i = 1; i < argc; i += 2) {
		/* -workers is taken and ignored: there is one thread */
		if (i + 1 < argc && !strcmp(argv[i], "-workers"))
			continue;
		if (i + 1 >= argc || strcmp(argv[i], "-addr") || addr_parse(argv[i + 1], &addr)) {
			fputs("usage: limit [-addr 127.x.x.x:port]\n", stderr);
			return 2;
		}
	}
	prepare();
	listen_on(&addr);
	stage_accept();
	for (;;)
		turn();
}
