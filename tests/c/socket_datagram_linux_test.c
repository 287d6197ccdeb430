/*
 * socket_datagram_linux_test.c: datagram sockets, unix addresses and multicast of vq_socket_* on
 * Linux, against what the system itself says.
 */
#define _GNU_SOURCE
#include "veloq/socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "socket_fixture.h"

static int open_datagram(uint16_t family, uint32_t flags)
{
	const vq_socket_config config = { .flags = flags };
	int32_t call = VQ_CALL_NONE;
	int fd = vq_socket_datagram(family, &config, &call);
	CHECK(fd >= 0);
	CHECK_EQ(call, VQ_CALL_NONE);
	return fd;
}

static int asked(int fd, int level, int name)
{
	int value = -77;
	socklen_t len = sizeof(value);
	CHECK_EQ(getsockopt(fd, level, name, &value, &len), 0);
	return value;
}

static void test_datagram_type(void)
{
	static const uint16_t families[] = { VQ_AF_INET, VQ_AF_INET6, VQ_AF_UNIX };

	for (size_t i = 0; i < 3; i++) {
		if (families[i] == VQ_AF_INET6 && !has_ipv6())
			continue;
		int fd = open_datagram(families[i], 0);
		CHECK_EQ(asked(fd, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
		CHECK(peer_is_cloexec(fd));
		/* The driver waits; a non-blocking socket would answer EAGAIN to its ops. */
		CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
		peer_close(fd);
	}
	const vq_socket_config config = { 0 };
	int32_t call = VQ_CALL_NONE;
	CHECK_EQ(vq_socket_datagram(99, &config, &call), -VQ_EINVAL);
	CHECK_EQ(call, VQ_CALL_SOCKET);
}

static void test_datagram_config(void)
{
	int fd = open_datagram(VQ_AF_INET, VQ_SOCKET_BROADCAST);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_BROADCAST), 1);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_REUSEADDR), 0);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_REUSEPORT), 0);
	peer_close(fd);
	fd = open_datagram(VQ_AF_INET, VQ_SOCKET_SHARED);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_REUSEPORT), 1);
	peer_close(fd);
	fd = open_datagram(VQ_AF_INET, VQ_SOCKET_REUSEPORT);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_REUSEADDR), 0);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_REUSEPORT), 1);
	peer_close(fd);
	if (!has_ipv6())
		CHECK_SKIP("no IPv6 here");
	fd = open_datagram(VQ_AF_INET6, VQ_SOCKET_V6ONLY);
	CHECK_EQ(asked(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	peer_close(fd);
	fd = open_datagram(VQ_AF_INET6, VQ_SOCKET_DUALSTACK);
	CHECK_EQ(asked(fd, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	peer_close(fd);
}

static void test_datagram_options(void)
{
	static const struct {
		int32_t option;
		int32_t values[3];
	} rows[] = {
		{ VQ_OPT_BROADCAST, { 1, 0, 1 } },        { VQ_OPT_UDP_SEGMENT, { 1200, 0, 9 } },
		{ VQ_OPT_PACKET_INFO, { 1, 0, 1 } },      { VQ_OPT_RECEIVE_TOS, { 1, 0, 1 } },
		{ VQ_OPT_TOS, { 2, 0xB8, 0 } },           { VQ_OPT_MULTICAST_LOOP, { 0, 1, 0 } },
		{ VQ_OPT_MULTICAST_TTL, { 1, 64, 255 } }, { VQ_OPT_DONT_FRAGMENT, { 1, 0, 1 } },
		{ VQ_OPT_TTL, { 1, 64, 255 } },
	};

	for (uint16_t family = VQ_AF_INET; family <= VQ_AF_INET6; family += 2) {
		if (family == VQ_AF_INET6 && !has_ipv6())
			continue;
		int fd = open_datagram(family, 0);
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			for (size_t k = 0; k < 3; k++) {
				const int32_t value = rows[i].values[k];
				CHECK_EQ(vq_socket_set(fd, rows[i].option, value), 0);
				CHECK_EQ(get(fd, rows[i].option), value);
			}
		}
		/* Of kernel 5.0; nothing here promises that it reads back. */
		CHECK_EQ(vq_socket_set(fd, VQ_OPT_UDP_GRO, 1), 0);
		int32_t value;
		CHECK_EQ(vq_socket_set(fd, VQ_OPT_MULTICAST_INTERFACE, 1), 0);
		CHECK(vq_socket_set(fd, VQ_OPT_MULTICAST_INTERFACE, 1 << 30) < 0);
		CHECK_EQ(vq_socket_get(fd, VQ_OPT_MULTICAST_INTERFACE, &value), -VQ_EINVAL);
		peer_close(fd);
	}
}

/* A socket of IPv6 that takes IPv4 describes what comes in IPv4 by IPv4's messages. */
static void test_dual_stack_options(void)
{
	if (!has_ipv6())
		CHECK_SKIP("no IPv6 here");
	int fd = open_datagram(VQ_AF_INET6, VQ_SOCKET_DUALSTACK);
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_RECEIVE_TOS, 1), 0);
	CHECK_EQ(asked(fd, IPPROTO_IP, IP_RECVTOS), 1);
	CHECK_EQ(asked(fd, IPPROTO_IPV6, IPV6_RECVTCLASS), 1);
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_PACKET_INFO, 1), 0);
	CHECK_EQ(asked(fd, IPPROTO_IP, IP_PKTINFO), 1);
	peer_close(fd);
}

static void test_connect(void)
{
	vq_addr first;
	vq_addr second;
	vq_addr peer;
	char byte;
	int a = peer_datagram(&first);
	int b = peer_datagram(&second);

	CHECK_EQ(vq_socket_peer(a, &peer), -VQ_ENOTCONN);
	CHECK_EQ(vq_socket_connect(a, &second), 0);
	CHECK_EQ(vq_socket_peer(a, &peer), 0);
	CHECK_EQ(peer.port, second.port);
	peer_send(a, "x", 1);
	peer_recv_all(b, &byte, 1);
	CHECK_EQ(byte, 'x');
	const vq_addr unknown = { .family = 99 };
	CHECK_EQ(vq_socket_connect(a, &unknown), -VQ_EINVAL);
	peer_close(a);
	peer_close(b);
}

static void test_group(void)
{
	const vq_addr group = { .family = VQ_AF_INET, .ip = { 239, 255, 7, 9 } };
	const vq_addr any = { .family = VQ_AF_INET, .ip = { 0 } };
	const vq_addr local = { .family = VQ_AF_UNIX };
	const int32_t loopback = 1; /* the first interface of every network namespace */
	vq_addr bound;
	char byte = 0;

	int to = open_datagram(VQ_AF_INET, VQ_SOCKET_SHARED);
	CHECK_EQ(vq_socket_bind(to, &any), 0);
	CHECK_EQ(vq_socket_local(to, &bound), 0);
	CHECK_EQ(vq_socket_group(to, true, &local, 0), -VQ_EINVAL);
	CHECK_EQ(vq_socket_group(to, true, &loop4, (uint32_t)loopback), -VQ_EINVAL);
	CHECK_EQ(vq_socket_group(to, false, &group, (uint32_t)loopback), -VQ_EADDRNOTAVAIL);
	CHECK_EQ(vq_socket_group(to, true, &group, (uint32_t)loopback), 0);
	CHECK_EQ(vq_socket_group(to, true, &group, (uint32_t)loopback), -VQ_EADDRINUSE);
	int from = open_datagram(VQ_AF_INET, 0);
	CHECK_EQ(vq_socket_set(from, VQ_OPT_MULTICAST_INTERFACE, loopback), 0);
	vq_addr there = group;
	there.port = bound.port;
	peer_send_to(from, &there, "m", 1);
	peer_recv_all(to, &byte, 1);
	CHECK_EQ(byte, 'm');
	CHECK_EQ(vq_socket_group(to, false, &group, (uint32_t)loopback), 0);
	peer_close(from);
	peer_close(to);
}

/* ---- unix addresses */

static vq_addr path_addr(const char *path, size_t len)
{
	vq_addr addr = { .family = VQ_AF_UNIX, .path_len = (uint32_t)len };

	memcpy(addr.path, path, len);
	return addr;
}

static void check_bound(const vq_addr *want)
{
	vq_addr local;
	int fd = open_datagram(VQ_AF_UNIX, 0);

	CHECK_EQ(vq_socket_bind(fd, want), 0);
	CHECK_EQ(vq_socket_local(fd, &local), 0);
	CHECK_EQ(local.family, VQ_AF_UNIX);
	CHECK_EQ(local.path_len, want->path_len);
	CHECK_EQ(memcmp(local.path, want->path, want->path_len), 0);
	peer_close(fd);
}

static void test_unix_addresses(void)
{
	char dir[] = "/tmp/veloq-XXXXXX";
	char path[VQ_UNIX_PATH_MAX];
	struct sockaddr_un sa;
	uint8_t room[VQ_ADDR_BYTES_MAX];

	_Static_assert(sizeof(sa.sun_path) == VQ_UNIX_PATH_MAX, "sun_path");
	CHECK(mkdtemp(dir) != NULL);
	int n = snprintf(path, sizeof(path), "%s/s", dir);
	vq_addr addr = path_addr(path, (size_t)n);
	CHECK_EQ(vq_addr_encode(&addr, room), offsetof(struct sockaddr_un, sun_path) + (size_t)n);
	memcpy(&sa, room, sizeof(sa));
	CHECK_EQ(sa.sun_family, AF_UNIX);
	CHECK_EQ(strcmp(sa.sun_path, path), 0);
	check_bound(&addr);
	CHECK_EQ(unlink(path), 0);
	/* As long as it may be, which leaves no room for a zero byte. */
	memset(path + n, 'x', sizeof(path) - (size_t)n);
	addr = path_addr(path, sizeof(path));
	check_bound(&addr);
	char ended[sizeof(path) + 1] = { 0 };
	memcpy(ended, path, sizeof(path));
	CHECK_EQ(unlink(ended), 0);
	CHECK_EQ(rmdir(dir), 0);
	/* Abstract: zero bytes count. */
	char name[32] = { 0 };
	n = 1 + snprintf(name + 1, sizeof(name) - 3, "veloq-test-%ld", (long)getpid());
	addr = path_addr(name, (size_t)n + 2);
	check_bound(&addr);
	/* Not bound. */
	vq_addr local = { .path_len = 9 };
	int fd = open_datagram(VQ_AF_UNIX, 0);
	CHECK_EQ(vq_socket_local(fd, &local), 0);
	CHECK_EQ(local.family, VQ_AF_UNIX);
	CHECK_EQ(local.path_len, 0);
	addr.path_len = VQ_UNIX_PATH_MAX + 1;
	CHECK_EQ(vq_socket_bind(fd, &addr), -VQ_EINVAL);
	peer_close(fd);
}

static void test_unix_stream(void)
{
	const vq_socket_config config = { 0 };
	int32_t call = 0;
	char name[32] = { 0 };
	vq_addr bound;
	int n = 1 + snprintf(name + 1, sizeof(name) - 1, "veloq-stream-%ld", (long)getpid());
	const vq_addr addr = path_addr(name, (size_t)n);

	int fd = vq_socket_stream(VQ_AF_UNIX, &config, &call);
	CHECK(fd >= 0);
	CHECK_EQ(asked(fd, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	CHECK_EQ(vq_socket_listen(fd, &addr, 4, &bound, &call), 0);
	CHECK_EQ(bound.path_len, addr.path_len);
	CHECK_EQ(memcmp(bound.path, addr.path, addr.path_len), 0);
	peer_close(fd);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_datagram_type),    CHECK_TEST(test_datagram_config),
	CHECK_TEST(test_datagram_options), CHECK_TEST(test_dual_stack_options),
	CHECK_TEST(test_connect),          CHECK_TEST(test_group),
	CHECK_TEST(test_unix_addresses),   CHECK_TEST(test_unix_stream),
};

CHECK_MAIN(tests)
