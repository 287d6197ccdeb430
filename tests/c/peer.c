/* peer.c: peer.h's half that needs no system call but those of veloq/socket.h. */
#include "peer.h"

#include "check.h"

static const vq_addr loopback = { .family = VQ_AF_INET, .ip = { 127, 0, 0, 1 } };

int peer_stream(void)
{
	const vq_socket_config config = { 0 };
	int32_t call = 0;
	int fd = vq_socket_stream(VQ_AF_INET, &config, &call);
	CHECK(fd >= 0);
	return fd;
}

static int bound_at(int fd, vq_addr *bound)
{
	CHECK_EQ(vq_socket_bind(fd, &loopback), 0);
	CHECK_EQ(vq_socket_local(fd, bound), 0);
	return fd;
}

int peer_listen(int32_t backlog, vq_addr *bound)
{
	int32_t call = 0;
	int fd = peer_stream();
	CHECK_EQ(vq_socket_listen(fd, &loopback, backlog, bound, &call), 0);
	return fd;
}

int peer_bind(vq_addr *bound)
{
	return bound_at(peer_stream(), bound);
}

int peer_datagram(vq_addr *bound)
{
	const vq_socket_config config = { 0 };
	int32_t call = 0;
	int fd = vq_socket_datagram(VQ_AF_INET, &config, &call);
	CHECK(fd >= 0);
	return bound_at(fd, bound);
}

int peer_connect(const vq_addr *to)
{
	int fd = peer_stream();
	CHECK_EQ(vq_socket_connect(fd, to), 0);
	return fd;
}

void peer_pair(int ends[2])
{
	vq_addr bound;
	int listener = peer_listen(1, &bound);
	ends[1] = peer_connect(&bound);
	ends[0] = peer_accept(listener);
	peer_close(listener);
}

void peer_send(int fd, const void *data, size_t len_bytes)
{
	CHECK_EQ(peer_try_send(fd, data, len_bytes), 0);
}

int peer_try_send(int fd, const void *data, size_t len_bytes)
{
	const char *from = data;

	while (len_bytes > 0) {
		int64_t n = peer_send_some(fd, from, len_bytes);
		if (n < 0)
			return (int)n;
		from += n;
		len_bytes -= (size_t)n;
	}
	return 0;
}

void peer_recv_all(int fd, void *data, size_t len_bytes)
{
	char *to = data;

	while (len_bytes > 0) {
		int64_t n = peer_recv(fd, to, len_bytes);
		CHECK(n > 0);
		to += n;
		len_bytes -= (size_t)n;
	}
}

void peer_close(int fd)
{
	CHECK_EQ(vq_socket_close(fd), 0);
}

void peer_reset(int fd)
{
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_LINGER_S, 0), 0);
	peer_close(fd);
}
