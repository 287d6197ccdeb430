/* socket_windows.c: stream sockets, their addresses and options, on Windows. */
#include "winsock_windows.h"

#include "address.h"

#include <string.h>

static int fail(int32_t *failed_call, int32_t call)
{
	*failed_call = call;
	return vq__wsa_error();
}

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
	return rc == -VQ_EOPNOTSUPP ? set_keepalive_times(fd, value_s, value_s) : rc;
}

static int apply_keepalive(int fd, const vq_socket_config *config)
{
	int32_t idle_s = config->keep_idle_s;
	int32_t interval_s = config->keep_interval_s;

	if (idle_s > 0 && interval_s > 0 &&
	    set_int(fd, IPPROTO_TCP, VQ__TCP_KEEPIDLE, idle_s) == -VQ_EOPNOTSUPP)
		return set_keepalive_times(fd, idle_s, interval_s);
	int rc = 0;
	if (idle_s > 0)
		rc = vq_socket_set(fd, VQ_OPT_KEEP_IDLE_S, idle_s);
	if (rc == 0 && interval_s > 0)
		rc = vq_socket_set(fd, VQ_OPT_KEEP_INTERVAL_S, interval_s);
	return rc;
}

static int apply_config(int fd, uint16_t family, const vq_socket_config *config)
{
	const bool v6 = family == VQ_AF_INET6;
	const struct {
		bool wanted;
		int32_t option;
		int32_t value;
	} settings[] = {
		{ v6 && (config->flags & VQ_SOCKET_V6ONLY) != 0, VQ_OPT_V6ONLY, 1 },
		{ v6 && (config->flags & VQ_SOCKET_DUALSTACK) != 0, VQ_OPT_V6ONLY, 0 },
		{ (config->flags & VQ_SOCKET_REUSEPORT) != 0, VQ_OPT_REUSEPORT, 1 },
		{ (config->flags & VQ_SOCKET_NODELAY) != 0, VQ_OPT_NODELAY, 1 },
		{ (config->flags & VQ_SOCKET_KEEPALIVE) != 0, VQ_OPT_KEEPALIVE, 1 },
		{ config->keep_count > 0, VQ_OPT_KEEP_COUNT, config->keep_count },
		{ config->receive_buffer_bytes > 0, VQ_OPT_RECEIVE_BUFFER_BYTES,
		  config->receive_buffer_bytes },
		{ config->send_buffer_bytes > 0, VQ_OPT_SEND_BUFFER_BYTES,
		  config->send_buffer_bytes },
	};
	int rc = 0;

	/*
	 * What SO_REUSEADDR is for elsewhere Windows does anyway; its own lets another process take
	 * a port that is in use. A server wants the opposite.
	 */
	if ((config->flags & VQ_SOCKET_REUSEADDR) != 0)
		rc = set_int(fd, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]) && rc == 0; i++)
		if (settings[i].wanted)
			rc = vq_socket_set(fd, settings[i].option, settings[i].value);
	return rc == 0 ? apply_keepalive(fd, config) : rc;
}

int vq_socket_stream(uint16_t family, const vq_socket_config *config, int32_t *failed_call)
{
	int fd = vq__socket_create(family == VQ_AF_INET6 ? AF_INET6 : AF_INET);

	if (fd < 0) {
		*failed_call = VQ_CALL_SOCKET;
		return fd;
	}
	int rc = apply_config(fd, family, config);
	if (rc != 0) {
		*failed_call = VQ_CALL_SETSOCKOPT;
		(void)vq_socket_close(fd);
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
	return bind(vq__socket(fd), &sa.any, len) == 0 ? 0 : vq__wsa_error();
}

int vq_socket_listen(int fd, const vq_addr *addr, int32_t backlog, vq_addr *bound,
		     int32_t *failed_call)
{
	int rc = addr != NULL ? vq_socket_bind(fd, addr) : 0;

	if (rc != 0) {
		*failed_call = VQ_CALL_BIND;
		return rc;
	}
	if (listen(vq__socket(fd), backlog) != 0)
		return fail(failed_call, VQ_CALL_LISTEN);
	rc = vq_socket_local(fd, bound);
	if (rc != 0)
		*failed_call = VQ_CALL_GETSOCKNAME;
	return rc;
}

int vq_socket_local(int fd, vq_addr *addr)
{
	vq__address sa;
	int len = sizeof(sa);

	if (getsockname(vq__socket(fd), &sa.any, &len) != 0)
		return vq__wsa_error();
	vq__address_decode(&sa, addr);
	return 0;
}

int vq_socket_peer(int fd, vq_addr *addr)
{
	vq__address sa;
	int len = sizeof(sa);

	if (getpeername(vq__socket(fd), &sa.any, &len) != 0)
		return vq__wsa_error();
	vq__address_decode(&sa, addr);
	return 0;
}

/* Options that are one int. */
static bool int_option(int32_t option, int *level, int *name)
{
	static const struct {
		int32_t option;
		int level;
		int name;
	} table[] = {
		{ VQ_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY },
		{ VQ_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE },
		{ VQ_OPT_KEEP_IDLE_S, IPPROTO_TCP, VQ__TCP_KEEPIDLE },
		{ VQ_OPT_KEEP_INTERVAL_S, IPPROTO_TCP, VQ__TCP_KEEPINTVL },
		{ VQ_OPT_KEEP_COUNT, IPPROTO_TCP, VQ__TCP_KEEPCNT },
		{ VQ_OPT_RECEIVE_BUFFER_BYTES, SOL_SOCKET, SO_RCVBUF },
		{ VQ_OPT_SEND_BUFFER_BYTES, SOL_SOCKET, SO_SNDBUF },
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
	WSAPROTOCOL_INFOW info;
	int len = sizeof(info);

	if (getsockopt(vq__socket(fd), SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &len) != 0)
		return vq__wsa_error();
	*level = info.iAddressFamily == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
	*name = info.iAddressFamily == AF_INET6 ? IPV6_UNICAST_HOPS : IP_TTL;
	return 0;
}

int vq_socket_set(int fd, int32_t option, int32_t value)
{
	int level = 0;
	int name = 0;

	switch (option) {
	case VQ_OPT_LINGER_S: {
		const struct linger linger = { .l_onoff = value >= 0,
					       .l_linger = (u_short)(value >= 0 ? value : 0) };
		return setsockopt(vq__socket(fd), SOL_SOCKET, SO_LINGER, (const char *)&linger,
				  sizeof(linger)) == 0
			       ? 0
			       : vq__wsa_error();
	}
	case VQ_OPT_TTL: {
		int rc = ttl_option(fd, &level, &name);
		return rc != 0 ? rc : set_int(fd, level, name, value);
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
		return int_option(option, &level, &name) ? set_int(fd, level, name, value)
							 : -VQ_EINVAL;
	}
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
	if (option == VQ_OPT_TTL) {
		int rc = ttl_option(fd, &level, &name);
		if (rc != 0)
			return rc;
	} else if (!int_option(option, &level, &name)) {
		return -VQ_EINVAL;
	}
	/* Some answer with a single byte. */
	*value = 0;
	if (getsockopt(vq__socket(fd), level, name, (char *)value, &len) != 0)
		return vq__wsa_error();
	if (option == VQ_OPT_ERROR && *value != 0)
		*value = -vq__error((DWORD)*value);
	return 0;
}

int vq_socket_close(int fd)
{
	return vq__socket_close(fd, false);
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
