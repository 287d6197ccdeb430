/* Idle connections: what each costs the server in resident memory, and that all still answer. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "load.h"

#define ECHO_BYTES 64u
#define SPARE_FDS  64u

static int fail(struct idle_result *r, const char *what, unsigned index, int err)
{
	snprintf(r->error, sizeof(r->error), "%s, connection %u: %s", what, index, strerror(err));
	return -1;
}

/* One verified echo; every wait is bounded by the socket's timeouts. */
static int echo_once(int fd, unsigned seed)
{
	unsigned char out[ECHO_BYTES], in[ECHO_BYTES];
	size_t got = 0;

	for (unsigned i = 0; i < ECHO_BYTES; i++)
		out[i] = (unsigned char)(seed * 31 + i);
	if (send(fd, out, sizeof(out), MSG_NOSIGNAL) != (ssize_t)sizeof(out))
		return -errno;
	while (got < sizeof(in)) {
		ssize_t n = recv(fd, in + got, sizeof(in) - got, 0);

		if (n <= 0)
			return n ? -errno : -ECONNRESET;
		got += (size_t)n;
	}
	return memcmp(in, out, sizeof(in)) ? -EBADMSG : 0;
}

/*
 * The server's memory once it stopped growing: unchanged for half a second, or after ten seconds
 * as it stands. Connections are established before the server has accepted them, so there is
 * nothing better to wait for.
 */
static uint64_t settled_rss(pid_t pid)
{
	const struct timespec step = { .tv_nsec = 50 * 1000 * 1000 };
	uint64_t rss = 0, last = 0;
	unsigned threads, same = 0;

	for (unsigned i = 0; i < 200 && same < 10 && !load_late; i++) {
		if (!proc_status(pid, &rss, &threads))
			return 0;
		same = rss == last ? same + 1 : 0;
		last = rss;
		nanosleep(&step, NULL);
	}
	return last;
}

static int raise_fd_limit(unsigned want)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return -errno;
	lim.rlim_cur = lim.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
		return -errno;
	return want + SPARE_FDS <= lim.rlim_cur ? 0 : -EMFILE;
}

/* fds has room for one connection more than idle ones. */
static int weigh(const struct options *o, struct idle_result *r, int *fds)
{
	unsigned n = o->idle_count;
	int rc;

	/* One working connection first, so that lazy set-up is not charged to the idle ones. */
	for (unsigned i = 0; i <= n; i++) {
		fds[i] = net_connect(&o->addr);
		if (fds[i] < 0)
			return fail(r, "connect", i, -fds[i]);
		if (i > 0)
			continue;
		rc = echo_once(fds[0], 0);
		if (rc < 0)
			return fail(r, "first echo", 0, -rc);
		r->rss_before_bytes = settled_rss(o->server_pid);
	}
	r->rss_idle_bytes = settled_rss(o->server_pid);
	for (unsigned i = 1; i <= n; i++) {
		if (load_late)
			return fail(r, "echo after idling", i, ETIMEDOUT);
		rc = echo_once(fds[i], i);
		if (rc < 0)
			return fail(r, "echo after idling", i, -rc);
		r->answered_count++;
	}
	r->rss_used_bytes = settled_rss(o->server_pid);
	return 0;
}

int idle_run(const struct options *o, struct idle_result *r)
{
	int rc = raise_fd_limit(o->idle_count);
	int *fds;

	if (rc < 0)
		return fail(r, "RLIMIT_NOFILE is too low", o->idle_count, -rc);
	fds = calloc(o->idle_count + 1, sizeof(*fds));
	if (!fds)
		return fail(r, "memory", o->idle_count, ENOMEM);
	rc = weigh(o, r, fds);
	free(fds); /* the process ends next, and the kernel closes the sockets */
	return rc;
}
