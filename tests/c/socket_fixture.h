/* socket_fixture.h: what the suites of vq_socket_* share. */
#ifndef VELOQ_TESTS_SOCKET_FIXTURE_H
#define VELOQ_TESTS_SOCKET_FIXTURE_H

#include <stdbool.h>

#include "veloq/socket.h"

#include "check.h"
#include "peer.h"

static const vq_addr loop4 = { .family = VQ_AF_INET, .ip = { 127, 0, 0, 1 } };
static const vq_addr loop6 = { .family = VQ_AF_INET6, .ip = { [15] = 1 } };

/* Whether the system has IPv6, with a loopback address that can be bound. */
static inline bool has_ipv6(void)
{
	const vq_socket_config config = { 0 };
	int32_t call;
	int fd = vq_socket_stream(VQ_AF_INET6, &config, &call);
	bool has = fd >= 0 && vq_socket_bind(fd, &loop6) == 0;

	if (fd >= 0)
		peer_close(fd);
	return has;
}

/* An option's value, which must be there to read. */
static inline int get(int fd, int32_t option)
{
	int32_t value = -77;
	CHECK_EQ(vq_socket_get(fd, option, &value), 0);
	return value;
}

#endif
