/* socket_windows.c: stream and datagram sockets, their addresses and options, on Windows. */
#include "winsock_windows.h"

#include "address.h"
#include "socket_system.h"

#include <string.h>

/* What a joined datagram has at most, its UDP header not counted. */
#define COALESCED_BYTES_MAX (UINT16_MAX - 8)

int vq_addr_encode(const vq_addr *addr, void *out)
{
	return vq__address_encode(addr, out);
}

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(vq__socket(fd), level, name, (const char *)&value, sizeof(value)) == 0
		       ? 0
		       : vq__wsa_error();
}

/*
 * Before Windows 10 1709 the times of keep-alive are set by one call, both together and in
 * milliseconds, and the number of probes is fixed.
 */
static int set_keepalive_times(int fd, int32_t idle_s, int32_t interval_s)
{
	const struct tcp_keepalive times = { .onoff = 1,
					     .keepalivetime = (ULONG)idle_s * 1000,
					     .keepaliveinterval = (ULONG)interval_s * 1000 };
	DWORD returned = 0;

	return WSAIoctl(vq__socket(fd), SIO_KEEPALIVE_VALS, (void *)(uintptr_t)&times,
			sizeof(times), NULL, 0, &returned, NULL, NULL) == 0
		       ? 0
		       : vq__wsa_error();
}

/* One of the two times of a live socket: where only both can be set, both become that. */
static int set_keepalive_time(int fd, int name, int32_t value_s)
{
	if (value_s <= 0 || value_s > INT32_MAX / 1000)
		return -VQ_EINVAL;
	int rc = set_int(fd, IPPROTO_TCP, name, value_s);
	return rc == -VQ_ENOPROTOOPT ? set_keepalive_times(fd, value_s, value_s) : rc;
}

int vq__socket_keep_times(int fd, const vq_socket_config *config)
{
	int32_t idle_s = config->keep_idle_s;
	int32_t interval_s = config->keep_interval_s;

	if (idle_s > 0 && interval_s > 0 &&
	    set_int(fd, IPPROTO_TCP, VQ__TCP_KEEPIDLE, idle_s) == -VQ_ENOPROTOOPT)
		return set_keepalive_times(fd, idle_s, interval_s);
	int rc = 0;
	if (idle_s > 0)
		rc = vq_socket_set(fd, VQ_OPT_KEEP_IDLE_S, idle_s);
	if (rc == 0 && interval_s > 0)
		rc = vq_socket_set(fd, VQ_OPT_KEEP_INTERVAL_S, interval_s);
	return rc;
}

/*
 * What SO_REUSEADDR is for elsewhere Windows does anyway; its own lets another process take a port
 * that is in use. A server wants the opposite.
 */
int vq__socket_share(int fd, uint32_t flags)
{
	if ((flags & VQ_SOCKET_REUSEPORT) != 0)
		return -VQ_EOPNOTSUPP;
	if ((flags & VQ_SOCKET_SHARED) != 0)
		return set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if ((flags & VQ_SOCKET_REUSEADDR) != 0)
		return set_int(fd, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
	return 0;
}

/*
 * Whether an answer that a port is unreachable fails the next receive. Not every version can turn
 * it off, and nothing more can be done about it.
 */
static void hear_unreachable(int fd, BOOL on)
{
	DWORD returned = 0;

	(void)WSAIoctl(vq__socket(fd), SIO_UDP_CONNRESET, &on, sizeof(on), NULL, 0, &returned, NULL,
		       NULL);
}

/* As elsewhere: only one whose datagrams all go to one peer hears what became of them. */
static void hear_nothing(int fd)
{
	BOOL on = FALSE;
	DWORD returned = 0;

	hear_unreachable(fd, FALSE);
	(void)WSAIoctl(vq__socket(fd), VQ__SIO_UDP_NETRESET, &on, sizeof(on), NULL, 0, &returned,
		       NULL, NULL);
}

int vq__socket_open(uint16_t family, bool datagram)
{
	/* Unix sockets came with Windows 10 1803: before, and under Wine, the system refuses them.
	 */
	const int domain = family == VQ_AF_INET    ? AF_INET
			   : family == VQ_AF_INET6 ? AF_INET6
			   : family == VQ_AF_UNIX  ? AF_UNIX
						   : -1;

	if (domain < 0)
		return -VQ_EINVAL;
	int fd = vq__socket_create(domain, datagram ? SOCK_DGRAM : SOCK_STREAM);
	if (fd >= 0 && datagram)
		hear_nothing(fd);
	return fd;
}

int vq_socket_connect(int fd, const vq_addr *addr)
{
	vq__address sa;
	int len = vq_addr_encode(addr, &sa);

	if (len < 0)
		return len;
	if (connect(vq__socket(fd), &sa.any, len) != 0)
		return vq__wsa_error();
	hear_unreachable(fd, TRUE);
	return 0;
}

int vq_socket_bind(int fd, const vq_addr *addr)
{
	vq__address sa;
	int len = vq_addr_encode(addr, &sa);

	if (len < 0)
		return len;
	return bind(vq__socket(fd), &sa.any, len) == 0 ? 0 : vq__wsa_error();
}

int vq__socket_listen(int fd, int32_t backlog)
{
	return listen(vq__socket(fd), backlog) == 0 ? 0 : vq__wsa_error();
}

int vq_socket_local(int fd, vq_addr *addr)
{
	vq__address sa;
	int len = sizeof(sa);

	if (getsockname(vq__socket(fd), &sa.any, &len) != 0)
		return vq__wsa_error();
	vq__address_decode(&sa, (size_t)len, addr);
	return 0;
}

int vq_socket_peer(int fd, vq_addr *addr)
{
	vq__address sa;
	int len = sizeof(sa);

	if (getpeername(vq__socket(fd), &sa.any, &len) != 0)
		return vq__wsa_error();
	vq__address_decode(&sa, (size_t)len, addr);
	return 0;
}

const vq__int_option vq__int_options[] = {
	{ VQ_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY },
	{ VQ_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE },
	{ VQ_OPT_KEEP_IDLE_S, IPPROTO_TCP, VQ__TCP_KEEPIDLE },
	{ VQ_OPT_KEEP_INTERVAL_S, IPPROTO_TCP, VQ__TCP_KEEPINTVL },
	{ VQ_OPT_KEEP_COUNT, IPPROTO_TCP, VQ__TCP_KEEPCNT },
	{ VQ_OPT_RECEIVE_BUFFER_BYTES, SOL_SOCKET, SO_RCVBUF },
	{ VQ_OPT_SEND_BUFFER_BYTES, SOL_SOCKET, SO_SNDBUF },
	{ VQ_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY },
	{ VQ_OPT_ERROR, SOL_SOCKET, SO_ERROR },
	{ VQ_OPT_BROADCAST, SOL_SOCKET, SO_BROADCAST },
	{ VQ_OPT_UDP_SEGMENT, IPPROTO_UDP, VQ__UDP_SEND_MSG_SIZE },
	{ VQ_OPT_UDP_GRO, IPPROTO_UDP, VQ__UDP_RECV_MAX_COALESCED_SIZE },
	{ 0 },
};

const vq__ip_option vq__ip_options[] = {
	{ VQ_OPT_TTL, IP_TTL, IPV6_UNICAST_HOPS, true },
	{ VQ_OPT_PACKET_INFO, IP_PKTINFO, IPV6_PKTINFO, true },
	{ VQ_OPT_RECEIVE_TOS, IP_RECVTOS, IPV6_RECVTCLASS, true },
	{ VQ_OPT_TOS, IP_TOS, IPV6_TCLASS, true },
	{ VQ_OPT_MULTICAST_LOOP, IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, false },
	{ VQ_OPT_MULTICAST_TTL, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, false },
	{ VQ_OPT_MULTICAST_INTERFACE, IP_MULTICAST_IF, IPV6_MULTICAST_IF, false },
	{ VQ_OPT_DONT_FRAGMENT, IP_DONTFRAGMENT, IPV6_DONTFRAG, true },
	{ 0 },
};

static int is_v6(int fd, bool *v6)
{
	WSAPROTOCOL_INFOW info;
	int len = sizeof(info);

	if (getsockopt(vq__socket(fd), SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &len) != 0)
		return vq__wsa_error();
	*v6 = info.iAddressFamily == AF_INET6;
	return 0;
}

static int set_level(int fd, const vq__ip_option *ip, bool v6, int value)
{
	const int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;

	/* An address of 0.x.x.x stands for an interface's index. */
	if (ip->option == VQ_OPT_MULTICAST_INTERFACE && !v6)
		value = (int)htonl((u_long)value);
	int rc = set_int(fd, level, v6 ? ip->v6 : ip->v4, value);
	/* Older versions tell the two bits of ECN alone. */
	if (rc != 0 && ip->option == VQ_OPT_RECEIVE_TOS)
		rc = set_int(fd, level, v6 ? IPV6_ECN : IP_ECN, value);
	return rc;
}

static int set_ip_option(int fd, const vq__ip_option *ip, int value)
{
	bool v6 = false;
	int rc = is_v6(fd, &v6);

	if (rc == 0)
		rc = set_level(fd, ip, v6, value);
	if (rc == 0 && v6 && ip->both)
		(void)set_level(fd, ip, false, value); /* no IPv4 here: none arrives */
	return rc;
}

int vq_socket_set(int fd, int32_t option, int32_t value)
{
	switch (option) {
	case VQ_OPT_LINGER_S: {
		const struct linger linger = { .l_onoff = value >= 0,
					       .l_linger = (u_short)(value >= 0 ? value : 0) };
		return setsockopt(vq__socket(fd), SOL_SOCKET, SO_LINGER, (const char *)&linger,
				  sizeof(linger)) == 0
			       ? 0
			       : vq__wsa_error();
	}
	case VQ_OPT_KEEP_IDLE_S:
		return set_keepalive_time(fd, VQ__TCP_KEEPIDLE, value);
	case VQ_OPT_KEEP_INTERVAL_S:
		return set_keepalive_time(fd, VQ__TCP_KEEPINTVL, value);
	case VQ_OPT_REUSEPORT:
		return -VQ_EOPNOTSUPP;
	case VQ_OPT_ERROR:
		return -VQ_EINVAL;
	default:
		break;
	}
	if (option == VQ_OPT_UDP_GRO)
		value = value != 0 ? COALESCED_BYTES_MAX : 0;
	const vq__ip_option *ip = vq__ip_option_find(option);
	if (ip != NULL)
		return set_ip_option(fd, ip, value);
	const vq__int_option *row = vq__int_option_find(option);
	return row != NULL ? set_int(fd, row->level, row->name, value) : -VQ_EINVAL;
}

int vq_socket_get(int fd, int32_t option, int32_t *value)
{
	int level = 0;
	int name = 0;
	int len = sizeof(*value);

	if (option == VQ_OPT_LINGER_S) {
		struct linger linger = { 0 };
		len = sizeof(linger);
		if (getsockopt(vq__socket(fd), SOL_SOCKET, SO_LINGER, (char *)&linger, &len) != 0)
			return vq__wsa_error();
		*value = linger.l_onoff ? linger.l_linger : -1;
		return 0;
	}
	if (option == VQ_OPT_REUSEPORT) {
		*value = 0;
		return 0;
	}
	const vq__ip_option *ip = vq__ip_option_find(option);
	const vq__int_option *row = vq__int_option_find(option);
	if (ip != NULL) {
		bool v6 = false;
		int rc = option == VQ_OPT_MULTICAST_INTERFACE ? -VQ_EINVAL : is_v6(fd, &v6);
		if (rc != 0)
			return rc;
		level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
		name = v6 ? ip->v6 : ip->v4;
	} else if (row != NULL) {
		level = row->level;
		name = row->name;
	} else {
		return -VQ_EINVAL;
	}
	/* Some answer with a single byte. */
	*value = 0;
	if (getsockopt(vq__socket(fd), level, name, (char *)value, &len) != 0)
		return vq__wsa_error();
	if (option == VQ_OPT_ERROR && *value != 0)
		*value = -vq__error((DWORD)*value);
	if (option == VQ_OPT_UDP_GRO)
		*value = *value != 0;
	return 0;
}

static int set_option(int fd, int level, int name, const void *value, int len)
{
	return setsockopt(vq__socket(fd), level, name, value, len) == 0 ? 0 : vq__wsa_error();
}

static int set_membership(int fd, bool join, const vq__address *group, uint32_t interface_index)
{
	if (group->any.sa_family == AF_INET6) {
		const struct ipv6_mreq v6 = { .ipv6mr_multiaddr = group->v6.sin6_addr,
					      .ipv6mr_interface = interface_index };
		return set_option(fd, IPPROTO_IPV6,
				  join ? IPV6_ADD_MEMBERSHIP : IPV6_DROP_MEMBERSHIP, &v6,
				  sizeof(v6));
	}
	/* An address of 0.x.x.x stands for an interface's index. */
	const struct ip_mreq v4 = { .imr_multiaddr = group->v4.sin_addr,
				    .imr_interface.s_addr = htonl(interface_index) };
	return set_option(fd, IPPROTO_IP, join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, &v4,
			  sizeof(v4));
}

int vq_socket_group(int fd, bool join, const vq_addr *group, uint32_t interface_index)
{
	vq__address sa;
	int len = vq_addr_encode(group, &sa);
	GROUP_REQ request = { .gr_interface = interface_index };

	if (len < 0 || group->family == VQ_AF_UNIX)
		return -VQ_EINVAL;
	memcpy(&request.gr_group, &sa, (size_t)len);
	int rc = set_option(fd, group->family == VQ_AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP,
			    join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP, &request, sizeof(request));
	/* Wine has only what came before. */
	return rc == -VQ_ENOPROTOOPT ? set_membership(fd, join, &sa, interface_index) : rc;
}

int vq_socket_close(int fd)
{
	return vq__socket_close(fd, false);
}

int vq_socket_dup(int fd)
{
	(void)fd;
	return -VQ_EINVAL; /* a copy would still belong to the first one's port */
}

int vq_socket_backlog_max(void)
{
	/* Stands for the longest queue that the system finds reasonable. */
	return SOMAXCONN;
}

int vq_thread_pin(uint32_t cpu)
{
	/* CPUs come in groups of up to 64. */
	for (WORD group = 0; group < GetActiveProcessorGroupCount(); group++) {
		DWORD count = GetActiveProcessorCount(group);
		if (cpu < count) {
			const GROUP_AFFINITY affinity = { .Mask = (KAFFINITY)1 << cpu,
							  .Group = group };
			return SetThreadGroupAffinity(GetCurrentThread(), &affinity, NULL)
				       ? 0
				       : vq__error(GetLastError());
		}
		cpu -= count;
	}
	return -VQ_EINVAL;
}

void vq_thread_yield(void)
{
	(void)SwitchToThread();
}
