/*
 * winsock_windows_test.c: the error numbers: what Winsock says of things that were provoked, and
 * what Windows says of them in its own numbers.
 */
#include "winsock_windows.h"

#include "check.h"
#include "peer.h"

/* Every error a program may test for, by Winsock's number and by the kernel's, where it has one. */
static void test_numbers(void)
{
	static const struct {
		DWORD code;
		int number;
	} table[] = {
		{ WSAECONNRESET, VQ_ECONNRESET },
		{ ERROR_NETNAME_DELETED, VQ_ECONNRESET },
		{ WSAECONNREFUSED, VQ_ECONNREFUSED },
		{ ERROR_CONNECTION_REFUSED, VQ_ECONNREFUSED },
		{ ERROR_PORT_UNREACHABLE, VQ_ECONNREFUSED },
		{ WSAECONNABORTED, VQ_ECONNABORTED },
		{ ERROR_CONNECTION_ABORTED, VQ_ECONNABORTED },
		{ WSAESHUTDOWN, VQ_EPIPE },
		{ ERROR_BROKEN_PIPE, VQ_EPIPE },
		{ WSAETIMEDOUT, VQ_ETIMEDOUT },
		{ ERROR_SEM_TIMEOUT, VQ_ETIMEDOUT },
		{ WSAEADDRINUSE, VQ_EADDRINUSE },
		{ WSAEADDRNOTAVAIL, VQ_EADDRNOTAVAIL },
		{ WSAENETUNREACH, VQ_ENETUNREACH },
		{ ERROR_NETWORK_UNREACHABLE, VQ_ENETUNREACH },
		{ WSAEHOSTUNREACH, VQ_EHOSTUNREACH },
		{ ERROR_HOST_UNREACHABLE, VQ_EHOSTUNREACH },
		{ WSAEMSGSIZE, VQ_EMSGSIZE },
		{ ERROR_MORE_DATA, VQ_EMSGSIZE },
		{ WSAEACCES, VQ_EACCES },
		{ ERROR_ACCESS_DENIED, VQ_EACCES },
		{ WSAENOPROTOOPT, VQ_ENOPROTOOPT },
		{ ERROR_OPERATION_ABORTED, VQ_ECANCELED },
		{ WSAENOBUFS, VQ_ENOBUFS },
		{ WSAEWOULDBLOCK, VQ_EAGAIN },
		{ WSAHOST_NOT_FOUND, VQ_ESYSTEM + WSAHOST_NOT_FOUND },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		CHECK_EQ(vq__error(table[i].code), -table[i].number);
	/* An error is never success, whatever was said about it. */
	CHECK(vq__error(0) < 0 && vq__error(0x80004005) < 0);
}

static void test_provoked(void)
{
	const vq_addr elsewhere = { .family = VQ_AF_INET, .ip = { 192, 0, 2, 1 } };
	vq_addr bound;
	int32_t value = 0;
	int listener = peer_listen(1, &bound);
	int fd = peer_stream();

	CHECK_EQ(vq_socket_bind(fd, &elsewhere), -VQ_EADDRNOTAVAIL);
	CHECK_EQ(vq_socket_bind(fd, &bound), -VQ_EADDRINUSE);
	CHECK_EQ(vq_socket_peer(fd, &bound), -VQ_ENOTCONN);
	CHECK_EQ(peer_recv(fd, &value, 1), -VQ_ENOTCONN);
	peer_close(fd);
	CHECK_EQ(vq_socket_get(fd, VQ_OPT_NODELAY, &value), -VQ_EBADF);
	CHECK_EQ(vq_socket_close(fd), -VQ_EBADF);
	peer_close(listener);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_numbers),
	CHECK_TEST(test_provoked),
};

CHECK_MAIN(tests)
