/*
 * The UDP load client: a closed loop of datagrams over connected sockets, every answer verified.
 * Echo: each datagram comes back. Sink (-k): the last of each window asks for an answer, which
 * carries how many datagrams the server has seen.
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
};

struct run {
	struct sockaddr_in addr;
	unsigned sockets, size, depth;
	double seconds, warmup;
	pid_t pid;
	bool gso, sink;
	struct peer peers[SOCKETS_MAX];
	uint64_t sent, answered, lost, stale, server_seen;
	char error[160];
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
	if (h.window != peer->window) {
		r->stale++;
		return 0;
	}
	if (r->sink) {
		if (h.seen > r->sent)
			return fail(r, "the server saw more than was sent");
		if (h.seen > r->server_seen)
			r->server_seen = h.seen;
		peer->credit = r->depth;
		r->answered += r->depth;
		peer->in_flight = 0;
		return 0;
	}
	peer->credit++;
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
	peer->progress_ns = clock_now_ns();
	return 0;
}

/* Gives up what did not come back in time, so that a lost datagram doesn't end the loop. */
static void give_up(struct run *r, uint64_t now)
{
	for (unsigned i = 0; i < r->sockets; i++) {
		struct peer *peer = &r->peers[i];

		if (!peer->in_flight || now - peer->progress_ns < LOSS_TIMEOUT_NS)
			continue;
		r->lost += peer->in_flight;
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

static int loop(struct run *r, int ep, uint64_t until)
{
	struct epoll_event events[64];
	uint64_t now;

	while ((now = clock_now_ns()) < until && !load_late) {
		int n;

		give_up(r, now);
		for (unsigned i = 0; i < r->sockets; i++)
			if (send_credit(r, i))
				return -1;
		n = epoll_wait(ep, events, 64, 20);
		if (n < 0 && errno != EINTR)
			return fail_errno(r, "epoll_wait");
		for (int i = 0; i < n; i++)
			if (receive(r, events[i].data.u32))
				return -1;
	}
	return load_late ? fail(r, "took too long") : 0;
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
	while ((c = getopt(argc, argv, "a:c:s:d:t:w:p:gk")) != -1) {
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
	    r->warmup > 3600)
		usage();
}

int main(int argc, char **argv)
{
	static struct run r;
	struct sigaction sa = { .sa_handler = on_alarm };
	uint64_t begin, cpu = 0, answered, lost, ns = 1;
	double n = 1;
	int ep = epoll_create1(EPOLL_CLOEXEC);

	parse(&r, argc, argv);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i % 251);
	sigaction(SIGALRM, &sa, NULL);
	alarm((unsigned)(r.seconds + r.warmup) + 10);
	if (open_peers(&r, ep) == 0 &&
	    loop(&r, ep, clock_now_ns() + (uint64_t)(r.warmup * 1e9)) == 0) {
		begin = clock_now_ns();
		cpu = r.pid ? proc_cpu_ns(r.pid) : 0;
		answered = r.answered;
		lost = r.lost;
		loop(&r, ep, begin + (uint64_t)(r.seconds * 1e9));
		ns = clock_now_ns() - begin;
		cpu = r.pid ? proc_cpu_ns(r.pid) - cpu : 0;
		r.answered -= answered;
		r.lost -= lost;
	}
	if (!r.error[0] && !r.answered)
		fail(&r, "no answers");
	n = r.answered ? (double)r.answered : 1;
	printf("{\"sockets\":%u,\"size_bytes\":%u,\"depth\":%u,\"gso\":%s,\"sink\":%s", r.sockets,
	       r.size, r.depth, r.gso ? "true" : "false", r.sink ? "true" : "false");
	printf(",\"packets\":%llu,\"lost\":%llu,\"late\":%llu", (unsigned long long)r.answered,
	       (unsigned long long)r.lost, (unsigned long long)r.stale);
	if (r.sink)
		printf(",\"sent\":%llu,\"server_saw\":%llu", (unsigned long long)r.sent,
		       (unsigned long long)r.server_seen);
	printf(",\"packets_per_s\":%.1f,\"server_cpu_us_per_packet\":%.4f,\"server_cpu_share\":%."
	       "4f}\n",
	       n * 1e9 / (double)ns, (double)cpu / 1e3 / n, (double)cpu / (double)ns);
	if (r.error[0])
		fprintf(stderr, "udpload: %s\n", r.error);
	return r.error[0] ? 1 : 0;
}
