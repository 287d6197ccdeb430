/* socket_linux_test.c: vq_socket_* and vq_addr_* on Linux, against what the system itself says. */
#define _GNU_SOURCE
#include "veloq/socket.h"

#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "socket_fixture.h"

static const vq_addr any4 = { .family = VQ_AF_INET };
static const vq_addr any6 = { .family = VQ_AF_INET6 };

static int open_stream(uint16_t family, uint32_t flags)
{
	const vq_socket_config config = { .flags = flags };
	int32_t call = VQ_CALL_NONE;
	int fd = vq_socket_stream(family, &config, &call);
	CHECK(fd >= 0);
	CHECK_EQ(call, VQ_CALL_NONE);
	return fd;
}

static void test_addr_v4(void)
{
	struct sockaddr_in sa;
	uint8_t room[VQ_ADDR_BYTES_MAX];
	const vq_addr addr = { .family = VQ_AF_INET, .port = 0x1234, .ip = { 192, 0, 2, 33 } };

	memset(room, 0xEE, sizeof(room));
	CHECK_EQ(vq_addr_encode(&addr, room), sizeof(sa));
	memcpy(&sa, room, sizeof(sa));
	CHECK_EQ(sa.sin_family, AF_INET);
	CHECK_EQ(ntohs(sa.sin_port), 0x1234);
	CHECK_EQ(ntohl(sa.sin_addr.s_addr), 0xC0000221);
	for (size_t i = 0; i < sizeof(sa.sin_zero); i++)
		CHECK_EQ(sa.sin_zero[i], 0);
}

static void test_addr_v6_scope(void)
{
	struct sockaddr_in6 sa;
	uint8_t room[VQ_ADDR_BYTES_MAX];
	vq_addr addr = { .family = VQ_AF_INET6, .port = 65535, .scope_id = 7 };

	for (uint8_t i = 0; i < 16; i++)
		addr.ip[i] = (uint8_t)(0xF0 + i);
	CHECK_EQ(vq_addr_encode(&addr, room), sizeof(sa));
	memcpy(&sa, room, sizeof(sa));
	CHECK_EQ(sa.sin6_family, AF_INET6);
	CHECK_EQ(ntohs(sa.sin6_port), 65535);
	CHECK_EQ(sa.sin6_scope_id, 7);
	CHECK_EQ(sa.sin6_flowinfo, 0);
	CHECK_EQ(memcmp(&sa.sin6_addr, addr.ip, 16), 0);
}

static void test_addr_unknown(void)
{
	uint8_t room[VQ_ADDR_BYTES_MAX];
	vq_addr addr = { .family = 99 };

	CHECK_EQ(vq_addr_encode(&addr, room), -VQ_EINVAL);
	int fd = open_stream(VQ_AF_INET, 0);
	CHECK_EQ(vq_socket_bind(fd, &addr), -VQ_EINVAL);
	peer_close(fd);
}

/* Every address that bind accepts comes back from the system as it went in. */
static void test_addr_round_trip(void)
{
	const vq_addr *const addrs[] = { &any4, &loop4, &any6, &loop6 };

	for (size_t i = 0; i < sizeof(addrs) / sizeof(addrs[0]); i++) {
		vq_addr local;
		if (addrs[i]->family == VQ_AF_INET6 && !has_ipv6())
			continue;
		int fd = open_stream(addrs[i]->family, 0);
		CHECK_EQ(vq_socket_bind(fd, addrs[i]), 0);
		CHECK_EQ(vq_socket_local(fd, &local), 0);
		CHECK_EQ(local.family, addrs[i]->family);
		CHECK_EQ(memcmp(local.ip, addrs[i]->ip, 16), 0);
		CHECK(local.port != 0);
		CHECK_EQ(local.scope_id, 0);
		peer_close(fd);
	}
}

/* A link-local address is nothing without its scope: bind takes it, and getsockname brings it. */
static void test_addr_scope_live(void)
{
	FILE *file = fopen("/proc/net/if_inet6", "re");
	char text[33];
	unsigned int index;
	unsigned int scope;

	if (file == NULL)
		CHECK_SKIP("no IPv6 here");
	vq_addr addr = { 0 };
	while (addr.family == 0 &&
	       fscanf(file, "%32s %x %*x %x %*x %*s", text, &index, &scope) == 3) {
		if (scope != 0x20)
			continue;
		addr.family = VQ_AF_INET6;
		addr.scope_id = index;
		for (size_t i = 0; i < 16; i++) {
			unsigned int byte;
			CHECK_EQ(sscanf(text + 2 * i, "%2x", &byte), 1);
			addr.ip[i] = (uint8_t)byte;
		}
	}
	fclose(file);
	if (addr.family == 0)
		CHECK_SKIP("no link-local address here");
	vq_addr local;
	int fd = open_stream(VQ_AF_INET6, 0);
	CHECK_EQ(vq_socket_bind(fd, &addr), 0);
	CHECK_EQ(vq_socket_local(fd, &local), 0);
	CHECK_EQ(local.scope_id, addr.scope_id);
	CHECK_EQ(memcmp(local.ip, addr.ip, 16), 0);
	peer_close(fd);
}

static void test_stream_cloexec(void)
{
	int fd = open_stream(VQ_AF_INET, 0);
	CHECK(peer_is_cloexec(fd));
	/* Blocking: the ops of a driver wait. */
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	peer_close(fd);
}

static void test_stream_unknown_family(void)
{
	const vq_socket_config config = { 0 };
	const uint16_t families[] = { 0, 2, 5, 10, 99 };

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		int32_t call = VQ_CALL_NONE;
		CHECK_EQ(vq_socket_stream(families[i], &config, &call), -VQ_EINVAL);
		CHECK_EQ(call, VQ_CALL_SOCKET);
	}
}

static void test_stream_config(void)
{
	const vq_socket_config config = {
		.flags = VQ_SOCKET_REUSEADDR | VQ_SOCKET_REUSEPORT | VQ_SOCKET_NODELAY |
			 VQ_SOCKET_KEEPALIVE,
		.keep_idle_s = 11,
		.keep_interval_s = 12,
		.keep_count = 13,
		.receive_buffer_bytes = 40000,
		.send_buffer_bytes = 50000,
	};
	int32_t call = VQ_CALL_NONE;
	int on = 0;
	socklen_t len = sizeof(on);
	int fd = vq_socket_stream(VQ_AF_INET, &config, &call);

	CHECK(fd >= 0);
	CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, &len), 0);
	CHECK(on != 0);
	CHECK(get(fd, VQ_OPT_REUSEPORT) != 0);
	CHECK(get(fd, VQ_OPT_NODELAY) != 0);
	CHECK(get(fd, VQ_OPT_KEEPALIVE) != 0);
	CHECK_EQ(get(fd, VQ_OPT_KEEP_IDLE_S), 11);
	CHECK_EQ(get(fd, VQ_OPT_KEEP_INTERVAL_S), 12);
	CHECK_EQ(get(fd, VQ_OPT_KEEP_COUNT), 13);
	/* Linux keeps books in the same room, and says twice the number. */
	CHECK_EQ(get(fd, VQ_OPT_RECEIVE_BUFFER_BYTES), 80000);
	CHECK_EQ(get(fd, VQ_OPT_SEND_BUFFER_BYTES), 100000);
	peer_close(fd);
}

/* A setting that the system refuses: the step is named, and nothing stays open. */
static void test_stream_config_refused(void)
{
	const vq_socket_config config = { .flags = VQ_SOCKET_KEEPALIVE, .keep_count = 1000000 };
	const uint32_t before = peer_open_count();
	int32_t call = VQ_CALL_NONE;

	CHECK_EQ(vq_socket_stream(VQ_AF_INET, &config, &call), -VQ_EINVAL);
	CHECK_EQ(call, VQ_CALL_SETSOCKOPT);
	CHECK_EQ(peer_open_count(), before);
}

static void test_stream_emfile(void)
{
	const vq_socket_config config = { 0 };
	struct rlimit old;
	int32_t call = VQ_CALL_NONE;

	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	const struct rlimit none = { .rlim_cur = 0, .rlim_max = old.rlim_max };
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	int rc = vq_socket_stream(VQ_AF_INET, &config, &call);
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	CHECK_EQ(rc, -VQ_EMFILE);
	CHECK_EQ(call, VQ_CALL_SOCKET);
}

static void test_options(void)
{
	static const struct {
		int32_t option;
		int32_t values[3];
		int32_t factor;
	} rows[] = {
		{ VQ_OPT_NODELAY, { 1, 0, 1 }, 1 },
		{ VQ_OPT_KEEPALIVE, { 1, 0, 1 }, 1 },
		{ VQ_OPT_KEEP_IDLE_S, { 1, 300, 32767 }, 1 },
		{ VQ_OPT_KEEP_INTERVAL_S, { 1, 75, 32767 }, 1 },
		{ VQ_OPT_KEEP_COUNT, { 1, 9, 127 }, 1 },
		{ VQ_OPT_LINGER_S, { 0, -1, 5 }, 1 },
		{ VQ_OPT_RECEIVE_BUFFER_BYTES, { 8192, 65536, 100000 }, 2 },
		{ VQ_OPT_SEND_BUFFER_BYTES, { 8192, 65536, 100000 }, 2 },
		{ VQ_OPT_REUSEPORT, { 1, 0, 1 }, 1 },
		{ VQ_OPT_TTL, { 1, 64, 255 }, 1 },
	};

	for (uint16_t family = VQ_AF_INET; family <= VQ_AF_INET6; family += 2) {
		if (family == VQ_AF_INET6 && !has_ipv6())
			continue;
		int fd = open_stream(family, 0);
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			for (size_t k = 0; k < 3; k++) {
				const int32_t value = rows[i].values[k];
				CHECK_EQ(vq_socket_set(fd, rows[i].option, value), 0);
				int32_t want = value < 0 ? value : value * rows[i].factor;
				CHECK_EQ(get(fd, rows[i].option), want);
			}
		}
		peer_close(fd);
	}
}

static void test_options_invalid(void)
{
	int32_t value = 0;
	int fd = open_stream(VQ_AF_INET, 0);

	CHECK_EQ(vq_socket_set(fd, 0, 1), -VQ_EINVAL);
	CHECK_EQ(vq_socket_set(fd, 99, 1), -VQ_EINVAL);
	CHECK_EQ(vq_socket_get(fd, 99, &value), -VQ_EINVAL);
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_ERROR, 1), -VQ_EINVAL);
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_TTL, 256), -VQ_EINVAL);
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_KEEP_COUNT, 0), -VQ_EINVAL);
	CHECK(vq_socket_set(fd, VQ_OPT_V6ONLY, 1) < 0);
	CHECK_EQ(get(fd, VQ_OPT_ERROR), 0);
	peer_close(fd);
	for (int32_t option = VQ_OPT_NODELAY; option <= VQ_OPT_TTL; option++) {
		CHECK_EQ(vq_socket_set(fd, option, 1), -VQ_EBADF);
		CHECK_EQ(vq_socket_get(fd, option, &value), -VQ_EBADF);
	}
	CHECK_EQ(vq_socket_close(fd), -VQ_EBADF);
}

/* SO_ERROR is told once. */
static void test_option_error(void)
{
	int ends[2];
	char byte = 0;
	peer_pair(ends);
	peer_reset(ends[1]);
	/* The reset is here once the read ends. */
	CHECK_EQ(peer_recv(ends[0], &byte, 1), -VQ_ECONNRESET);
	CHECK_EQ(get(ends[0], VQ_OPT_ERROR), 0);
	peer_close(ends[0]);
}

static int listen_at(int fd, const vq_addr *addr, vq_addr *bound, int32_t *call)
{
	*call = VQ_CALL_NONE;
	return vq_socket_listen(fd, addr, 16, bound, call);
}

static void test_listen(void)
{
	vq_addr bound;
	vq_addr remote;
	vq_addr local;
	int32_t call;
	int fd = open_stream(VQ_AF_INET, 0);

	CHECK_EQ(listen_at(fd, &loop4, &bound, &call), 0);
	CHECK_EQ(call, VQ_CALL_NONE);
	CHECK_EQ(bound.family, VQ_AF_INET);
	CHECK(bound.port != 0);
	int client = peer_connect(&bound);
	int accepted = peer_accept(fd);
	CHECK_EQ(vq_socket_peer(client, &remote), 0);
	CHECK_EQ(memcmp(&remote, &bound, sizeof(bound)), 0);
	CHECK_EQ(vq_socket_local(client, &local), 0);
	CHECK_EQ(vq_socket_peer(accepted, &remote), 0);
	CHECK_EQ(memcmp(&remote, &local, sizeof(local)), 0);
	CHECK_EQ(vq_socket_peer(fd, &remote), -VQ_ENOTCONN);
	peer_close(accepted);
	peer_close(client);
	peer_close(fd);
	CHECK_EQ(vq_socket_local(fd, &local), -VQ_EBADF);
}

static void test_listen_errors(void)
{
	vq_addr bound;
	vq_addr other;
	vq_addr elsewhere = { .family = VQ_AF_INET, .ip = { 192, 0, 2, 1 } };
	int32_t call;
	int fd = open_stream(VQ_AF_INET, 0);
	int second = open_stream(VQ_AF_INET, 0);

	CHECK_EQ(listen_at(fd, &loop4, &bound, &call), 0);
	CHECK_EQ(listen_at(second, &bound, &other, &call), -VQ_EADDRINUSE);
	CHECK_EQ(call, VQ_CALL_BIND);
	/* The socket stays open and the caller's: another port will do. */
	CHECK_EQ(listen_at(second, &elsewhere, &other, &call), -VQ_EADDRNOTAVAIL);
	CHECK_EQ(call, VQ_CALL_BIND);
	CHECK_EQ(vq_socket_bind(second, &loop6), -VQ_EAFNOSUPPORT);
	CHECK_EQ(listen_at(second, &loop4, &other, &call), 0);
	CHECK(other.port != bound.port);
	/* Bound already. */
	CHECK_EQ(vq_socket_bind(second, &loop4), -VQ_EINVAL);
	peer_close(second);
	CHECK_EQ(listen_at(second, &loop4, &other, &call), -VQ_EBADF);
	CHECK_EQ(call, VQ_CALL_BIND);
	peer_close(fd);
}

/* A socket that binds and cannot listen. */
static void test_listen_names_listen(void)
{
	vq_addr bound;
	int32_t call;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	CHECK_EQ(listen_at(fd, &loop4, &bound, &call), -VQ_EOPNOTSUPP);
	CHECK_EQ(call, VQ_CALL_LISTEN);
	peer_close(fd);
}

static void test_reuseport(void)
{
	vq_addr bound;
	vq_addr other;
	int32_t call;
	int fd = open_stream(VQ_AF_INET, VQ_SOCKET_REUSEPORT);
	int second = open_stream(VQ_AF_INET, VQ_SOCKET_REUSEPORT);
	int third = open_stream(VQ_AF_INET, 0);

	CHECK_EQ(listen_at(fd, &loop4, &bound, &call), 0);
	CHECK_EQ(listen_at(second, &bound, &other, &call), 0);
	CHECK_EQ(other.port, bound.port);
	CHECK_EQ(listen_at(third, &bound, &other, &call), -VQ_EADDRINUSE);
	peer_close(third);
	peer_close(second);
	peer_close(fd);
}

/* Dual stack takes the port in both families, and an IPv4 peer comes in as ::ffff:127.0.0.1. */
static void test_dual_stack(void)
{
	static const uint8_t mapped[16] = { [10] = 255, [11] = 255, 127, 0, 0, 1 };
	vq_addr bound;
	vq_addr local;
	vq_addr v4 = loop4;
	int32_t call;

	if (!has_ipv6())
		CHECK_SKIP("no IPv6 here");
	int fd = open_stream(VQ_AF_INET6, VQ_SOCKET_DUALSTACK);
	int probe = open_stream(VQ_AF_INET, 0);
	CHECK_EQ(get(fd, VQ_OPT_V6ONLY), 0);
	CHECK_EQ(listen_at(fd, &any6, &bound, &call), 0);
	v4.port = bound.port;
	CHECK_EQ(vq_socket_bind(probe, &v4), -VQ_EADDRINUSE);
	int client = peer_connect(&v4);
	int accepted = peer_accept(fd);
	CHECK_EQ(vq_socket_local(accepted, &local), 0);
	CHECK_EQ(local.family, VQ_AF_INET6);
	CHECK_EQ(memcmp(local.ip, mapped, 16), 0);
	peer_close(accepted);
	peer_close(client);
	peer_close(probe);
	peer_close(fd);
}

/* V6ONLY leaves the same port of the other family free. */
static void test_v6_only(void)
{
	int rc = -VQ_EADDRINUSE;

	if (!has_ipv6())
		CHECK_SKIP("no IPv6 here");
	/* Somebody else may have just that port: another one, then. */
	for (uint32_t tries = 0; rc != 0 && tries < 50; tries++) {
		vq_addr bound;
		vq_addr v4 = loop4;
		int32_t call;
		int fd = open_stream(VQ_AF_INET6, VQ_SOCKET_V6ONLY);
		/* REUSEADDR: what others closed a moment ago does not count. */
		int probe = open_stream(VQ_AF_INET, VQ_SOCKET_REUSEADDR);
		CHECK_EQ(get(fd, VQ_OPT_V6ONLY), 1);
		CHECK_EQ(listen_at(fd, &any6, &bound, &call), 0);
		v4.port = bound.port;
		rc = vq_socket_bind(probe, &v4);
		CHECK(rc == 0 || rc == -VQ_EADDRINUSE);
		peer_close(probe);
		peer_close(fd);
	}
	CHECK_EQ(rc, 0);
}

static void test_backlog(void)
{
	FILE *file = fopen("/proc/sys/net/core/somaxconn", "re");
	int want = 0;

	CHECK(file != NULL);
	CHECK_EQ(fscanf(file, "%d", &want), 1);
	fclose(file);
	CHECK_EQ(vq_socket_backlog_max(), want > 65535 ? SOMAXCONN : want);
	/* More than the system allows is not an error: it is cut. */
	vq_addr bound;
	int32_t call = 0;
	int fd = open_stream(VQ_AF_INET, 0);
	CHECK_EQ(vq_socket_listen(fd, &loop4, INT32_MAX, &bound, &call), 0);
	peer_close(fd);
}

static void test_thread_pin(void)
{
	cpu_set_t old;
	cpu_set_t now;
	uint32_t cpu = 0;

	CHECK_EQ(sched_getaffinity(0, sizeof(old), &old), 0);
	while (!CPU_ISSET(cpu, &old))
		cpu++;
	CHECK_EQ(vq_thread_pin(cpu), 0);
	CHECK_EQ(sched_getaffinity(0, sizeof(now), &now), 0);
	CHECK_EQ(CPU_COUNT(&now), 1);
	CHECK(CPU_ISSET(cpu, &now));
	CHECK_EQ(vq_thread_pin(100000), -VQ_EINVAL);
	CHECK_EQ(vq_thread_pin(CPU_SETSIZE - 1), -VQ_EINVAL);
	CHECK_EQ(sched_setaffinity(0, sizeof(old), &old), 0);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_addr_v4),
	CHECK_TEST(test_addr_v6_scope),
	CHECK_TEST(test_addr_unknown),
	CHECK_TEST(test_addr_round_trip),
	CHECK_TEST(test_addr_scope_live),
	CHECK_TEST(test_stream_cloexec),
	CHECK_TEST(test_stream_unknown_family),
	CHECK_TEST(test_stream_config),
	CHECK_TEST(test_stream_config_refused),
	CHECK_TEST(test_stream_emfile),
	CHECK_TEST(test_options),
	CHECK_TEST(test_options_invalid),
	CHECK_TEST(test_option_error),
	CHECK_TEST(test_listen),
	CHECK_TEST(test_listen_errors),
	CHECK_TEST(test_listen_names_listen),
	CHECK_TEST(test_reuseport),
	CHECK_TEST(test_dual_stack),
	CHECK_TEST(test_v6_only),
	CHECK_TEST(test_backlog),
	CHECK_TEST(test_thread_pin),
};

CHECK_MAIN(tests)
