/* socket_linux.c: stream sockets, their addresses and options, on Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"

static int fail(int32_t *failed_call, int32_t call)
{
	*failed_call = call;
	return -errno;
}

int vq_addr_encode(const vq_addr *addr, void *out)
{
	return vq__address_encode(addr, out);
}

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0 ? 0 : -errno;
}

static int apply_config(int fd, uint16_t family, const vq_socket_config *config)
{
	const struct {
		bool wanted;
		int32_t option;
		int32_t value;
	} settings[] = {
		{ family == VQ_AF_INET6 && (config->flags & VQ_SOCKET_V6ONLY) != 0, VQ_OPT_V6ONLY,
		  1 },
		{ family == VQ_AF_INET6 && (config->flags & VQ_SOCKET_DUALSTACK) != 0,
		  VQ_OPT_V6ONLY, 0 },
		{ (config->flags & VQ_SOCKET_REUSEPORT) != 0, VQ_OPT_REUSEPORT, 1 },
		{ (config->flags & VQ_SOCKET_NODELAY) != 0, VQ_OPT_NODELAY, 1 },
		{ (config->flags & VQ_SOCKET_KEEPALIVE) != 0, VQ_OPT_KEEPALIVE, 1 },
		{ config->keep_idle_s > 0, VQ_OPT_KEEP_IDLE_S, config->keep_idle_s },
		{ config->keep_interval_s > 0, VQ_OPT_KEEP_INTERVAL_S, config->keep_interval_s },
		{ config->keep_count > 0, VQ_OPT_KEEP_COUNT, config->keep_count },
		{ config->receive_buffer_bytes > 0, VQ_OPT_RECEIVE_BUFFER_BYTES,
		  config->receive_buffer_bytes },
		{ config->send_buffer_bytes > 0, VQ_OPT_SEND_BUFFER_BYTES,
		  config->send_buffer_bytes },
	};

	if ((config->flags & VQ_SOCKET_REUSEADDR) != 0) {
		int rc = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
		if (rc != 0)
			return rc;
	}
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		int rc = settings[i].wanted
				 ? vq_socket_set(fd, settings[i].option, settings[i].value)
				 : 0;
		if (rc != 0)
			return rc;
	}
	return 0;
}

int vq_socket_stream(uint16_t family, const vq_socket_config *config, int32_t *failed_call)
{
	int domain = family == VQ_AF_INET6 ? AF_INET6 : AF_INET;
	if (family != VQ_AF_INET && family != VQ_AF_INET6) {
		*failed_call = VQ_CALL_SOCKET;
		return -VQ_EINVAL;
	}
	/*
	 * Not SOCK_NONBLOCK: the driver's ops wait in the kernel, and would answer EAGAIN instead
	 * on a non-blocking socket.
	 */
	int fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(failed_call, VQ_CALL_SOCKET);
	int rc = apply_config(fd, family, config);
	if (rc != 0) {
		*failed_call = VQ_CALL_SETSOCKOPT;
		close(fd);
		return rc;
	}
	return fd;
}

int vq_socket_bind(int fd, const vq_addr *addr)
{
	vq__address sa;
	int len = vq_addr_encode(addr, &sa);

	if (len < 0)
		return len;
	return bind(fd, &sa.any, (socklen_t)len) == 0 ? 0 : -errno;
}

int vq_socket_listen(int fd, const vq_addr *addr, int32_t backlog, vq_addr *bound,
		     int32_t *failed_call)
{
	int rc = addr != NULL ? vq_socket_bind(fd, addr) : 0;

	if (rc != 0) {
		*failed_call = VQ_CALL_BIND;
		return rc;
	}
	if (listen(fd, backlog) != 0)
		return fail(failed_call, VQ_CALL_LISTEN);
	rc = vq_socket_local(fd, bound);
	if (rc != 0)
		*failed_call = VQ_CALL_GETSOCKNAME;
	return rc;
}

int vq_socket_local(int fd, vq_addr *addr)
{
	vq__address sa;
	socklen_t len = sizeof(sa);

	if (getsockname(fd, &sa.any, &len) != 0)
		return -errno;
	vq__address_decode(&sa, addr);
	return 0;
}

int vq_socket_peer(int fd, vq_addr *addr)
{
	vq__address sa;
	socklen_t len = sizeof(sa);

	if (getpeername(fd, &sa.any, &len) != 0)
		return -errno;
	vq__address_decode(&sa, addr);
	return 0;
}

/* SOL_SOCKET, IPPROTO_TCP and IPPROTO_IPV6 options that are one int. */
static bool int_option(int32_t option, int *level, int *name)
{
	static const struct {
		int32_t option;
		int level;
		int name;
	} table[] = {
		{ VQ_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY },
		{ VQ_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE },
		{ VQ_OPT_KEEP_IDLE_S, IPPROTO_TCP, TCP_KEEPIDLE },
		{ VQ_OPT_KEEP_INTERVAL_S, IPPROTO_TCP, TCP_KEEPINTVL },
		{ VQ_OPT_KEEP_COUNT, IPPROTO_TCP, TCP_KEEPCNT },
		{ VQ_OPT_RECEIVE_BUFFER_BYTES, SOL_SOCKET, SO_RCVBUF },
		{ VQ_OPT_SEND_BUFFER_BYTES, SOL_SOCKET, SO_SNDBUF },
		{ VQ_OPT_REUSEPORT, SOL_SOCKET, SO_REUSEPORT },
		{ VQ_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY },
		{ VQ_OPT_ERROR, SOL_SOCKET, SO_ERROR },
	};
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].option == option) {
			*level = table[i].level;
			*name = table[i].name;
			return true;
		}
	}
	return false;
}

/* The unicast TTL's option goes by the socket's family. */
static int ttl_option(int fd, int *level, int *name)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0)
		return -errno;
	*level = domain == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
	*name = domain == AF_INET6 ? IPV6_UNICAST_HOPS : IP_TTL;
	return 0;
}

int vq_socket_set(int fd, int32_t option, int32_t value)
{
	int level = 0;
	int name = 0;

	if (option == VQ_OPT_LINGER_S) {
		struct linger linger = { .l_onoff = value >= 0,
					 .l_linger = value >= 0 ? value : 0 };
		return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0 ? 0
											   : -errno;
	}
	if (option == VQ_OPT_TTL) {
		int rc = ttl_option(fd, &level, &name);
		return rc != 0 ? rc : set_int(fd, level, name, value);
	}
	if (option == VQ_OPT_ERROR || !int_option(option, &level, &name))
		return -VQ_EINVAL;
	return set_int(fd, level, name, value);
}

int vq_socket_get(int fd, int32_t option, int32_t *value)
{
	int level = 0;
	int name = 0;
	socklen_t len = sizeof(*value);

	if (option == VQ_OPT_LINGER_S) {
		struct linger linger = { 0 };
		len = sizeof(linger);
		if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) != 0)
			return -errno;
		*value = linger.l_onoff ? linger.l_linger : -1;
		return 0;
	}
	if (option == VQ_OPT_TTL) {
		int rc = ttl_option(fd, &level, &name);
		if (rc != 0)
			return rc;
	} else if (!int_option(option, &level, &name)) {
		return -VQ_EINVAL;
	}
	return getsockopt(fd, level, name, value, &len) == 0 ? 0 : -errno;
}

int vq_socket_close(int fd)
{
	/* Linux frees the number also when close(2) answers EINTR: never repeat it. */
	return close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

int vq_socket_backlog_max(void)
{
	char text[32];
	int fd = open("/proc/sys/net/core/somaxconn", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return SOMAXCONN;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return SOMAXCONN;
	text[n] = '\0';
	long value = strtol(text, NULL, 10);
	return value > 0 && value <= 65535 ? (int)value : SOMAXCONN;
}

int vq_thread_pin(uint32_t cpu)
{
	cpu_set_t set;

	if (cpu >= CPU_SETSIZE)
		return -VQ_EINVAL;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

void vq_thread_yield(void)
{
	(void)sched_yield();
}
