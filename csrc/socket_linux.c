/* socket_linux.c: stream and datagram sockets, their addresses and options, on Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "socket_system.h"

int vq_addr_encode(const vq_addr *addr, void *out)
{
	return vq__address_encode(addr, out);
}

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0 ? 0 : -errno;
}

int vq__socket_share(int fd, uint32_t flags)
{
	const bool address = (flags & (VQ_SOCKET_REUSEADDR | VQ_SOCKET_SHARED)) != 0;
	const bool port = (flags & (VQ_SOCKET_REUSEPORT | VQ_SOCKET_SHARED)) != 0;
	int rc = address ? set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1) : 0;

	return rc == 0 && port ? set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1) : rc;
}

int vq__socket_keep_times(int fd, const vq_socket_config *config)
{
	int rc = 0;

	if (config->keep_idle_s > 0)
		rc = vq_socket_set(fd, VQ_OPT_KEEP_IDLE_S, config->keep_idle_s);
	if (rc == 0 && config->keep_interval_s > 0)
		rc = vq_socket_set(fd, VQ_OPT_KEEP_INTERVAL_S, config->keep_interval_s);
	return rc;
}

int vq__socket_open(uint16_t family, bool datagram)
{
	const int domain = family == VQ_AF_INET    ? AF_INET
			   : family == VQ_AF_INET6 ? AF_INET6
			   : family == VQ_AF_UNIX  ? AF_UNIX
						   : -1;

	if (domain < 0)
		return -VQ_EINVAL;
	/*
	 * Not SOCK_NONBLOCK: the driver's ops wait in the kernel, and would answer EAGAIN instead
	 * on a non-blocking socket.
	 */
	int fd = socket(domain, (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

int vq_socket_connect(int fd, const vq_addr *addr)
{
	vq__address sa;
	int len = vq_addr_encode(addr, &sa);

	if (len < 0)
		return len;
	return connect(fd, &sa.any, (socklen_t)len) == 0 ? 0 : -errno;
}

int vq_socket_bind(int fd, const vq_addr *addr)
{
	vq__address sa;
	int len = vq_addr_encode(addr, &sa);

	if (len < 0)
		return len;
	return bind(fd, &sa.any, (socklen_t)len) == 0 ? 0 : -errno;
}

int vq__socket_listen(int fd, int32_t backlog)
{
	return listen(fd, backlog) == 0 ? 0 : -errno;
}

int vq_socket_local(int fd, vq_addr *addr)
{
	vq__address sa;
	socklen_t len = sizeof(sa);

	if (getsockname(fd, &sa.any, &len) != 0)
		return -errno;
	vq__address_decode(&sa, (size_t)len, addr);
	return 0;
}

/*
 * A connection that was reset has no peer by getpeername(2), but SO_PEERNAME still knows it: for a
 * length that is not above the address's own.
 */
static bool former_peer(int fd, vq__address *sa, socklen_t *len)
{
	*len = sizeof(sa->v6);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &sa->any, len) == 0)
		return true;
	*len = sizeof(sa->v4);
	return getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &sa->any, len) == 0;
}

int vq_socket_peer(int fd, vq_addr *addr)
{
	vq__address sa;
	socklen_t len = sizeof(sa);

	if (getpeername(fd, &sa.any, &len) != 0) {
		int rc = -errno;
		if (rc != -ENOTCONN || !former_peer(fd, &sa, &len))
			return rc;
	}
	vq__address_decode(&sa, (size_t)len, addr);
	return 0;
}

const vq__int_option vq__int_options[] = {
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
	{ VQ_OPT_BROADCAST, SOL_SOCKET, SO_BROADCAST },
	{ VQ_OPT_UDP_SEGMENT, IPPROTO_UDP, UDP_SEGMENT },
	{ VQ_OPT_UDP_GRO, IPPROTO_UDP, UDP_GRO },
	{ 0 },
};

static int domain_of(int fd, int *domain)
{
	socklen_t len = sizeof(*domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, domain, &len) == 0 ? 0 : -errno;
}

const vq__ip_option vq__ip_options[] = {
	{ VQ_OPT_TTL, IP_TTL, IPV6_UNICAST_HOPS, true },
	{ VQ_OPT_PACKET_INFO, IP_PKTINFO, IPV6_RECVPKTINFO, true },
	{ VQ_OPT_RECEIVE_TOS, IP_RECVTOS, IPV6_RECVTCLASS, true },
	{ VQ_OPT_TOS, IP_TOS, IPV6_TCLASS, true },
	{ VQ_OPT_MULTICAST_LOOP, IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, false },
	{ VQ_OPT_MULTICAST_TTL, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, false },
	{ VQ_OPT_MULTICAST_INTERFACE, IP_MULTICAST_IF, IPV6_MULTICAST_IF, false },
	{ VQ_OPT_DONT_FRAGMENT, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, true },
	{ 0 },
};

static int set_ip_option(int fd, const vq__ip_option *ip, int value)
{
	int domain = 0;
	int rc = domain_of(fd, &domain);

	if (rc != 0)
		return rc;
	if (ip->option == VQ_OPT_DONT_FRAGMENT)
		value = value != 0 ? IP_PMTUDISC_PROBE : IP_PMTUDISC_WANT;
	if (ip->option == VQ_OPT_MULTICAST_INTERFACE && domain != AF_INET6) {
		const struct ip_mreqn by_index = { .imr_ifindex = value };
		return setsockopt(fd, IPPROTO_IP, ip->v4, &by_index, sizeof(by_index)) == 0
			       ? 0
			       : -errno;
	}
	if (domain != AF_INET6)
		return set_int(fd, IPPROTO_IP, ip->v4, value);
	rc = set_int(fd, IPPROTO_IPV6, ip->v6, value);
	if (rc == 0 && ip->both)
		(void)set_int(fd, IPPROTO_IP, ip->v4, value); /* no IPv4 here: none arrives */
	return rc;
}

static int get_ip_option(int fd, const vq__ip_option *ip, int32_t *value)
{
	int domain = 0;
	socklen_t len = sizeof(*value);
	int rc = domain_of(fd, &domain);

	if (rc != 0)
		return rc;
	if (ip->option == VQ_OPT_MULTICAST_INTERFACE)
		return -VQ_EINVAL;
	bool v6 = domain == AF_INET6;
	if (getsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? ip->v6 : ip->v4, value, &len) != 0)
		return -errno;
	if (ip->option == VQ_OPT_DONT_FRAGMENT)
		*value = *value == IP_PMTUDISC_PROBE || *value == IP_PMTUDISC_DO;
	return 0;
}

int vq_socket_set(int fd, int32_t option, int32_t value)
{
	const vq__ip_option *ip = vq__ip_option_find(option);
	const vq__int_option *row = vq__int_option_find(option);

	if (option == VQ_OPT_LINGER_S) {
		struct linger linger = { .l_onoff = value >= 0,
					 .l_linger = value >= 0 ? value : 0 };
		return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0 ? 0
											   : -errno;
	}
	if (ip != NULL)
		return set_ip_option(fd, ip, value);
	if (option == VQ_OPT_ERROR || row == NULL)
		return -VQ_EINVAL;
	return set_int(fd, row->level, row->name, value);
}

int vq_socket_get(int fd, int32_t option, int32_t *value)
{
	const vq__ip_option *ip = vq__ip_option_find(option);
	const vq__int_option *row = vq__int_option_find(option);
	socklen_t len = sizeof(*value);

	if (option == VQ_OPT_LINGER_S) {
		struct linger linger = { 0 };
		len = sizeof(linger);
		if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) != 0)
			return -errno;
		*value = linger.l_onoff ? linger.l_linger : -1;
		return 0;
	}
	if (ip != NULL)
		return get_ip_option(fd, ip, value);
	if (row == NULL)
		return -VQ_EINVAL;
	return getsockopt(fd, row->level, row->name, value, &len) == 0 ? 0 : -errno;
}

int vq_socket_group(int fd, bool join, const vq_addr *group, uint32_t interface_index)
{
	vq__address sa;
	int len = vq_addr_encode(group, &sa);
	struct group_req request = { .gr_interface = interface_index };

	if (len < 0 || group->family == VQ_AF_UNIX)
		return -VQ_EINVAL;
	memcpy(&request.gr_group, &sa, (size_t)len);
	return setsockopt(fd, group->family == VQ_AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP,
			  join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP, &request,
			  sizeof(request)) == 0
		       ? 0
		       : -errno;
}

int vq_socket_close(int fd)
{
	/* Linux frees the number also when close(2) answers EINTR: never repeat it. */
	return close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

int vq_socket_dup(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int flags;

	if (copy < 0)
		return -errno;
	flags = fcntl(copy, F_GETFL);
	if (flags >= 0 && (flags & O_NONBLOCK) != 0)
		(void)fcntl(copy, F_SETFL, flags & ~O_NONBLOCK);
	return copy;
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
