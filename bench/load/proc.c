/* The server seen from outside: its CPU time, memory and threads; and how to connect to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include "load.h"

uint64_t clock_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t proc_cpu_ns(pid_t pid)
{
	struct timespec ts;
	clockid_t id;

	/*
	 * The process's own CPU clock: nanoseconds, where /proc/PID/stat counts ticks of 10 ms,
	 * and it keeps the time of threads that ended in between, which a sum over schedstat
	 * files would lose.
	 */
	if (clock_getcpuclockid(pid, &id) != 0 || clock_gettime(id, &ts) != 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t machine_busy_ns(void)
{
	unsigned long long user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0;
	FILE *f = fopen("/proc/stat", "re");
	int n;

	if (!f)
		return 0;
	n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait,
		   &irq, &soft);
	fclose(f);
	if (n != 7)
		return 0;
	return (user + nice + system + irq + soft) * (1000000000u / (unsigned)sysconf(_SC_CLK_TCK));
}

bool proc_status(pid_t pid, uint64_t *rss_bytes, unsigned *thread_count)
{
	char path[64], line[256];
	unsigned long long rss_kib = 0;
	unsigned threads = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "VmRSS: %llu kB", &rss_kib) != 1)
			(void)sscanf(line, "Threads: %u", &threads);
	}
	fclose(f);
	*rss_bytes = rss_kib * 1024;
	*thread_count = threads;
	return threads > 0;
}

int net_connect(const struct sockaddr_in *addr)
{
	struct timeval limit = { .tv_sec = 5 };
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	/* Not a pacing one (BBR): its timers would make the client dearer. The server's is its own.
	 */
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
		int err = errno;

		close(fd);
		return -err;
	}
	return fd;
}
