/* peer_linux.c: what of peer.h differs on Linux. */
#define _GNU_SOURCE
#include "peer.h"

#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void peer_send_to(int fd, const vq_addr *to, const void *data, size_t len_bytes)
{
	uint64_t room[VQ_ADDR_BYTES_MAX / sizeof(uint64_t)];
	int len = vq_addr_encode(to, room);
	CHECK(len > 0);
	CHECK_EQ(sendto(fd, data, len_bytes, 0, (const struct sockaddr *)room, (socklen_t)len),
		 len_bytes);
}

int peer_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

int64_t peer_send_some(int fd, const void *data, size_t len_bytes)
{
	ssize_t n;

	do {
		n = send(fd, data, len_bytes, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int64_t peer_recv(int fd, void *data, size_t len_bytes)
{
	ssize_t n;

	do {
		n = recv(fd, data, len_bytes, 0);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void peer_shutdown_write(int fd)
{
	CHECK_EQ(shutdown(fd, SHUT_WR), 0);
}

uint32_t peer_open_count(void)
{
	uint32_t count = 0;
	DIR *dir = opendir("/proc/self/fd");

	CHECK(dir != NULL);
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

bool peer_is_cloexec(int fd)
{
	int flags = fcntl(fd, F_GETFD);
	CHECK(flags >= 0);
	return (flags & FD_CLOEXEC) != 0;
}

int64_t peer_now_ns(void)
{
	struct timespec now;
	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void bark(int signal_number)
{
	static const char text[] = "\nFAIL: the test hangs\n";

	(void)signal_number;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(2);
	_exit(1);
}

void peer_watchdog(uint32_t seconds)
{
	struct sigaction action = { .sa_handler = bark };

	CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
	alarm(seconds);
}
