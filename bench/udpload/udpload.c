/*
 * The UDP load client: a closed loop of datagrams over connected sockets, every answer verified.
 * Echo: each datagram comes back. Sink (-k): the last of each window asks for an answer, which
 * carries how many datagrams the server has seen, and only those are counted. With -r windows go
 * out at a rate, and wait only for a server that is slower than that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "../common/addr.h"
#include "../load/load.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define SOCKETS_MAX     256u
#define DEPTH_MAX       64u
#define SIZE_MIN        32u
#define SIZE_MAX_BYTES  1400u
#define PIECE_BYTES     65536u
#define PIECES          8u
#define LOSS_TIMEOUT_NS 1000000000u /* after which what is in flight is given up */
#define BEHIND_NS       10000000u   /* how late a rate may be made up for */
#define WAIT_NS         20000000u
#define UNANSWERED      1024u /* places; a power of two, much more than are in flight */
#define MAGIC           0x76715544u

/* The head of every datagram; the rest is the pattern of its sequence number. */
struct head {
	uint32_t magic;
	uint32_t socket;
	uint64_t sequence;
	uint64_t seen;   /* sink: written by the server into an answer */
	uint32_t window; /* a late answer belongs to a window that was given up */
	uint32_t ask;    /* 1: answer this one */
};

struct peer {
	int fd;
	uint32_t window;
	unsigned in_flight; /* answers awaited */
	unsigned credit;    /* datagrams that may be sent now */
	uint64_t sequence;
	uint64_t progress_ns;
	uint64_t unanswered[UNANSWERED]; /* sequence + 1, by sequence; 0 once it is answered */
};

struct run {
	struct sockaddr_in addr;
	unsigned sockets, size, depth;
	double seconds, warmup, rate;
	pid_t pid;
	bool gso, sink;
	struct peer peers[SOCKETS_MAX];
	unsigned turn;        /* with a rate: the socket whose window is next */
	uint64_t due_ns;      /* and when */
	uint64_t answered_ns; /* the last answer */
	uint64_t sent, answered, given_up, stale, server_seen;
	char error[160];
};

/* What has happened up to a moment at which nothing was in flight. */
struct mark {
	uint64_t sent, received, given_up, cpu_ns;
};

volatile sig_atomic_t load_late;
static uint8_t out[DEPTH_MAX][SIZE_MAX_BYTES];
static uint8_t joined[DEPTH_MAX * SIZE_MAX_BYTES];
static uint8_t in[PIECES][PIECE_BYTES];
static uint8_t pattern[SIZE_MAX_BYTES + 256];

static void on_alarm(int sig)
{
	(void)sig;
	load_late = 1;
}

static int fail(struct run *r, const char *what)
{
	if (!r->error[0])
		snprintf(r->error, sizeof(r->error), "%s", what);
	return -1;
}

static int fail_errno(struct run *r, const char *what)
{
	char text[128];

	snprintf(text, sizeof(text), "%s: %s", what, strerror(errno));
	return fail(r, text);
}

static void fill(struct run *r, unsigned index, uint8_t *p, bool ask)
{
	struct peer *peer = &r->peers[index];
	struct head h = { .magic = MAGIC,
			  .socket = index,
			  .sequence = peer->sequence++,
			  .window = peer->window,
			  .ask = ask };

	peer->unanswered[h.sequence % UNANSWERED] = h.sequence + 1;
	memcpy(p, &h, sizeof(h));
	memcpy(p + sizeof(h), pattern + h.sequence % 251, r->size - sizeof(h));
}

/* One answer; p is a whole datagram. Returns -1 if a byte is wrong. */
static int check(struct run *r, unsigned index, const uint8_t *p, size_t len)
{
	struct peer *peer = &r->peers[index];
	struct head h;

	if (len != r->size)
		return fail(r, "an answer of another length");
	memcpy(&h, p, sizeof(h));
	if (h.magic != MAGIC || h.socket != index || h.sequence >= peer->sequence)
		return fail(r, "an answer to another datagram");
	if (memcmp(p + sizeof(h), pattern + h.sequence % 251, len - sizeof(h)))
		return fail(r, "a wrong byte");
	if (r->sink && !h.ask)
		return fail(r, "an answer that nobody asked for");
	if (r->sink && h.seen > r->sent)
		return fail(r, "the server saw more than was sent");
	if (r->sink && h.seen > r->server_seen)
		r->server_seen = h.seen;
	if (h.window != peer->window) {
		r->stale++;
		return 0;
	}
	if (peer->unanswered[h.sequence % UNANSWERED] != h.sequence + 1)
		return fail(r, "a second answer to one datagram");
	peer->unanswered[h.sequence % UNANSWERED] = 0;
	peer->credit += r->sink ? r->depth : 1;
	peer->in_flight--;
	r->answered++;
	return 0;
}

static int send_plain(struct run *r, struct peer *peer, unsigned n)
{
	struct mmsghdr m[DEPTH_MAX];
	struct iovec v[DEPTH_MAX];
	unsigned done = 0;

	memset(m, 0, sizeof(m));
	for (unsigned i = 0; i < n; i++) {
		v[i] = (struct iovec){ out[i], r->size };
		m[i].msg_hdr.msg_iov = &v[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	while (done < n) {
		int rc = sendmmsg(peer->fd, m + done, n - done, 0);

		if (rc < 0 && errno != EINTR)
			return fail_errno(r, "sendmmsg");
		done += rc > 0 ? (unsigned)rc : 0;
	}
	return 0;
}

static int send_segments(struct run *r, struct peer *peer, unsigned n)
{
	unsigned at_once = PIECE_BYTES / r->size < 54 ? PIECE_BYTES / r->size - 1 : 54;

	for (unsigned i = 0; i < n; i++)
		memcpy(joined + (size_t)i * r->size, out[i], r->size);
	for (unsigned done = 0; done < n;) {
		unsigned count = n - done < at_once ? n - done : at_once;
		union {
			char room[CMSG_SPACE(sizeof(uint16_t))];
			struct cmsghdr align;
		} control = { 0 };
		struct iovec v = { joined + (size_t)done * r->size, (size_t)count * r->size };
		struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
		uint16_t size = (uint16_t)r->size;

		if (count > 1) {
			m.msg_control = control.room;
			m.msg_controllen = sizeof(control.room);
			CMSG_FIRSTHDR(&m)->cmsg_level = IPPROTO_UDP;
			CMSG_FIRSTHDR(&m)->cmsg_type = UDP_SEGMENT;
			CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(size));
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &size, sizeof(size));
		}
		if (sendmsg(peer->fd, &m, 0) < 0) {
			if (errno == EINTR)
				continue;
			return fail_errno(r, "sendmsg with UDP_SEGMENT");
		}
		done += count;
	}
	return 0;
}

static int send_credit(struct run *r, unsigned index)
{
	struct peer *peer = &r->peers[index];
	unsigned n = peer->credit;

	if (!n)
		return 0;
	for (unsigned i = 0; i < n; i++)
		fill(r, index, out[i], r->sink && i == n - 1);
	if (!peer->in_flight)
		peer->progress_ns = clock_now_ns();
	peer->credit = 0;
	peer->in_flight += r->sink ? 1 : n;
	r->sent += n;
	return r->gso ? send_segments(r, peer, n) : send_plain(r, peer, n);
}

static int receive(struct run *r, unsigned index)
{
	struct peer *peer = &r->peers[index];
	struct mmsghdr m[PIECES];
	struct iovec v[PIECES];
	int n;

	memset(m, 0, sizeof(m));
	for (unsigned i = 0; i < PIECES; i++) {
		v[i] = (struct iovec){ in[i], PIECE_BYTES };
		m[i].msg_hdr.msg_iov = &v[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	n = recvmmsg(peer->fd, m, PIECES, MSG_DONTWAIT, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : fail_errno(r, "recvmmsg");
	/* Every datagram has the one size, so joined ones need no control message to be told. */
	for (int i = 0; i < n; i++)
		for (size_t at = 0; at < m[i].msg_len; at += r->size) {
			size_t len = m[i].msg_len - at < r->size ? m[i].msg_len - at : r->size;

			if (check(r, index, in[i] + at, len))
				return -1;
		}
	peer->progress_ns = r->answered_ns = clock_now_ns();
	return 0;
}

/* Gives up what did not come back in time, so that a lost datagram doesn't end the loop. */
static void give_up(struct run *r, uint64_t now)
{
	for (unsigned i = 0; i < r->sockets; i++) {
		struct peer *peer = &r->peers[i];

		if (!peer->in_flight || now - peer->progress_ns < LOSS_TIMEOUT_NS)
			continue;
		r->given_up += peer->in_flight;
		peer->in_flight = 0;
		peer->window++;
		peer->credit = r->depth;
		peer->progress_ns = now;
	}
}

static int open_peers(struct run *r, int ep)
{
	int one = 1, room = 4 << 20;

	for (unsigned i = 0; i < r->sockets; i++) {
		struct peer *peer = &r->peers[i];
		struct epoll_event e = { .events = EPOLLIN, .data.u32 = i };

		peer->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (peer->fd < 0 ||
		    connect(peer->fd, (struct sockaddr *)&r->addr, sizeof(r->addr)) < 0 ||
		    epoll_ctl(ep, EPOLL_CTL_ADD, peer->fd, &e) < 0)
			return fail_errno(r, "socket");
		setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
		if (setsockopt(peer->fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one)) < 0 && r->gso)
			return fail_errno(r, "UDP_GRO");
		peer->credit = r->depth;
		peer->progress_ns = clock_now_ns();
	}
	return 0;
}

/* Sends what is due, and returns for how long there is nothing to send unless an answer comes. */
static int send_due(struct run *r, uint64_t now, uint64_t *wait_ns)
{
	uint64_t step = r->rate > 0 ? (uint64_t)(r->depth * 1e9 / r->rate) : 0;

	*wait_ns = WAIT_NS;
	if (!step) {
		for (unsigned i = 0; i < r->sockets; i++)
			if (send_credit(r, i))
				return -1;
		return 0;
	}
	if (r->due_ns + BEHIND_NS < now)
		r->due_ns = now;
	for (unsigned tried = 0, first = r->turn; tried < r->sockets; tried++) {
		unsigned i = (first + tried) % r->sockets;

		if (r->peers[i].credit < r->depth)
			continue;
		if (r->due_ns > now) {
			*wait_ns = r->due_ns - now < WAIT_NS ? r->due_ns - now : WAIT_NS;
			return 0;
		}
		if (send_credit(r, i))
			return -1;
		r->due_ns += step;
		r->turn = (i + 1) % r->sockets;
	}
	return 0;
}

static int await(struct run *r, int ep, uint64_t wait_ns)
{
	struct timespec ts = { .tv_sec = 0, .tv_nsec = (long)wait_ns };
	struct epoll_event events[64];
	int n = epoll_pwait2(ep, events, 64, &ts, NULL);

	if (n < 0 && errno != EINTR)
		return fail_errno(r, "epoll_pwait2");
	for (int i = 0; i < n; i++)
		if (receive(r, events[i].data.u32))
			return -1;
	return load_late ? fail(r, "took too long") : 0;
}

static bool in_flight(const struct run *r)
{
	for (unsigned i = 0; i < r->sockets; i++)
		if (r->peers[i].in_flight)
			return true;
	return false;
}

/*
 * Keeps the load up until then, and waits for what is in flight: what was sent before a mark is
 * received before it too, or lost.
 */
static int loop(struct run *r, int ep, uint64_t until, struct mark *m)
{
	uint64_t now, wait_ns;

	while ((now = clock_now_ns()) < until) {
		give_up(r, now);
		if (send_due(r, now, &wait_ns) || await(r, ep, wait_ns))
			return -1;
	}
	while (in_flight(r)) {
		if (await(r, ep, WAIT_NS))
			return -1;
		give_up(r, clock_now_ns());
	}
	*m = (struct mark){ .sent = r->sent,
			    .received = r->sink ? r->server_seen : r->answered,
			    .given_up = r->given_up,
			    .cpu_ns = r->pid ? proc_cpu_ns(r->pid) : 0 };
	return 0;
}

static void usage(void)
{
	fputs("usage: udpload -a host:port [options]\n"
	      "  -c N    sockets (4)\n"
	      "  -s N    bytes a datagram, 32 to 1400 (1200)\n"
	      "  -d N    datagrams in flight a socket, up to 64 (32)\n"
	      "  -t S    seconds measured (2)\n"
	      "  -w S    seconds of warm-up before that (0.5)\n"
	      "  -p PID  the server, for its CPU time\n"
	      "  -g      send by UDP_SEGMENT\n"
	      "  -k      sink: only the last of a window is answered\n"
	      "  -r N    datagrams a second, in windows of -d (as many as are answered)\n"
	      "Loopback only. Prints one JSON object; exits 1 on a wrong byte or without "
	      "answers.\n",
	      stderr);
	exit(2);
}

static void parse(struct run *r, int argc, char **argv)
{
	bool has_addr = false;
	int c;

	r->sockets = 4;
	r->size = 1200;
	r->depth = 32;
	r->seconds = 2;
	r->warmup = 0.5;
	while ((c = getopt(argc, argv, "a:c:s:d:t:w:p:r:gk")) != -1) {
		switch (c) {
		case 'a':
			has_addr = addr_parse(optarg, &r->addr) == 0;
			break;
		case 'c':
			r->sockets = (unsigned)atoi(optarg);
			break;
		case 's':
			r->size = (unsigned)atoi(optarg);
			break;
		case 'd':
			r->depth = (unsigned)atoi(optarg);
			break;
		case 't':
			r->seconds = atof(optarg);
			break;
		case 'w':
			r->warmup = atof(optarg);
			break;
		case 'p':
			r->pid = (pid_t)atoi(optarg);
			break;
		case 'r':
			r->rate = atof(optarg);
			break;
		case 'g':
			r->gso = true;
			break;
		case 'k':
			r->sink = true;
			break;
		default:
			usage();
		}
	}
	if (!has_addr || optind != argc || r->sockets < 1 || r->sockets > SOCKETS_MAX ||
	    r->size < SIZE_MIN || r->size > SIZE_MAX_BYTES || r->depth < 1 ||
	    r->depth > DEPTH_MAX || r->seconds <= 0 || r->seconds > 3600 || r->warmup < 0 ||
	    r->warmup > 3600 || r->rate < 0 || r->rate > 1e9)
		usage();
}

/* Lost is what was sent and not received: by the server where it counts, otherwise by this. */
static void report(const struct run *r, const struct mark *from, const struct mark *to, uint64_t ns)
{
	uint64_t received = to->received - from->received, sent = to->sent - from->sent;
	uint64_t cpu = to->cpu_ns - from->cpu_ns, lost = sent > received ? sent - received : 0;
	double n = received ? (double)received : 1;

	printf("{\"sockets\":%u,\"size_bytes\":%u,\"depth\":%u,\"gso\":%s,\"sink\":%s", r->sockets,
	       r->size, r->depth, r->gso ? "true" : "false", r->sink ? "true" : "false");
	printf(",\"rate\":%.0f,\"sent\":%llu,\"packets\":%llu,\"lost\":%llu,\"given_up\":%llu",
	       r->rate, (unsigned long long)sent, (unsigned long long)received,
	       (unsigned long long)lost, (unsigned long long)(to->given_up - from->given_up));
	printf(",\"late\":%llu,\"packets_per_s\":%.1f,\"server_cpu_us_per_packet\":%.4f",
	       (unsigned long long)r->stale, (double)received * 1e9 / (double)ns,
	       (double)cpu / 1e3 / n);
	printf(",\"server_cpu_share\":%.4f}\n", (double)cpu / (double)ns);
}

int main(int argc, char **argv)
{
	static struct run r;
	struct sigaction sa = { .sa_handler = on_alarm };
	struct mark from = { 0 }, to = { 0 };
	uint64_t begin = 0;
	int ep = epoll_create1(EPOLL_CLOEXEC);

	parse(&r, argc, argv);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i % 251);
	prctl(PR_SET_TIMERSLACK, 1ul); /* a rate's sleeps end when they say */
	sigaction(SIGALRM, &sa, NULL);
	alarm((unsigned)(r.seconds + r.warmup) + 10);
	if (open_peers(&r, ep) == 0 &&
	    loop(&r, ep, clock_now_ns() + (uint64_t)(r.warmup * 1e9), &from) == 0) {
		begin = clock_now_ns();
		if (loop(&r, ep, begin + (uint64_t)(r.seconds * 1e9), &to) == 0 &&
		    to.received == from.received)
			fail(&r, "no answers");
	}
	if (r.error[0]) {
		fprintf(stderr, "udpload: %s\n", r.error);
		return 1;
	}
	report(&r, &from, &to, r.answered_ns - begin);
	return 0;
}
