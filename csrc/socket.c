/* socket.c: how sockets are opened and made to listen: the order of the steps, the same everywhere.
 */
#include "socket_system.h"

const vq__int_option *vq__int_option_find(int32_t option)
{
	for (const vq__int_option *row = vq__int_options; row->option != 0; row++)
		if (row->option == option)
			return row;
	return NULL;
}

const vq__ip_option *vq__ip_option_find(int32_t option)
{
	for (const vq__ip_option *ip = vq__ip_options; ip->option != 0; ip++)
		if (ip->option == option)
			return ip;
	return NULL;
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
		{ (config->flags & VQ_SOCKET_NODELAY) != 0, VQ_OPT_NODELAY, 1 },
		{ (config->flags & VQ_SOCKET_BROADCAST) != 0, VQ_OPT_BROADCAST, 1 },
		{ (config->flags & VQ_SOCKET_KEEPALIVE) != 0, VQ_OPT_KEEPALIVE, 1 },
		{ config->keep_count > 0, VQ_OPT_KEEP_COUNT, config->keep_count },
		{ config->receive_buffer_bytes > 0, VQ_OPT_RECEIVE_BUFFER_BYTES,
		  config->receive_buffer_bytes },
		{ config->send_buffer_bytes > 0, VQ_OPT_SEND_BUFFER_BYTES,
		  config->send_buffer_bytes },
	};
	int rc = vq__socket_share(fd, config->flags);

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]) && rc == 0; i++)
		if (settings[i].wanted)
			rc = vq_socket_set(fd, settings[i].option, settings[i].value);
	return rc == 0 ? vq__socket_keep_times(fd, config) : rc;
}

static int open_socket(uint16_t family, bool datagram, const vq_socket_config *config,
		       int32_t *failed_call)
{
	int fd = vq__socket_open(family, datagram);

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

int vq_socket_stream(uint16_t family, const vq_socket_config *config, int32_t *failed_call)
{
	return open_socket(family, false, config, failed_call);
}

int vq_socket_datagram(uint16_t family, const vq_socket_config *config, int32_t *failed_call)
{
	return open_socket(family, true, config, failed_call);
}

int vq_socket_listen(int fd, const vq_addr *addr, int32_t backlog, vq_addr *bound,
		     int32_t *failed_call)
{
	int rc = addr != NULL ? vq_socket_bind(fd, addr) : 0;

	*failed_call = VQ_CALL_BIND;
	if (rc == 0) {
		*failed_call = VQ_CALL_LISTEN;
		rc = vq__socket_listen(fd, backlog);
	}
	if (rc == 0) {
		*failed_call = VQ_CALL_GETSOCKNAME;
		rc = vq_socket_local(fd, bound);
	}
	if (rc == 0)
		*failed_call = VQ_CALL_NONE;
	return rc;
}
