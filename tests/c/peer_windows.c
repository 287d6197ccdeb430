/* peer_windows.c: what of peer.h differs on Windows. */
#include "winsock_windows.h"

#include "peer.h"

#include "check.h"

void peer_send_to(int fd, const vq_addr *to, const void *data, size_t len_bytes)
{
	uint64_t room[VQ_ADDR_BYTES_MAX / sizeof(uint64_t)];
	int len = vq_addr_encode(to, room);
	CHECK(len > 0);
	CHECK_EQ(
		sendto(vq__socket(fd), data, (int)len_bytes, 0, (const struct sockaddr *)room, len),
		len_bytes);
}

/* A driver makes its sockets non-blocking, and a test may go on with them. */
static void wait_for(SOCKET s, bool writable)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(s, &set);
	CHECK_EQ(select(0, writable ? NULL : &set, writable ? &set : NULL, NULL, NULL), 1);
}

int peer_accept(int listener)
{
	SOCKET s = accept(vq__socket(listener), NULL, NULL);

	while (s == INVALID_SOCKET && WSAGetLastError() == WSAEWOULDBLOCK) {
		wait_for(vq__socket(listener), false);
		s = accept(vq__socket(listener), NULL, NULL);
	}
	CHECK(s != INVALID_SOCKET && s <= INT32_MAX);
	(void)SetHandleInformation((HANDLE)s, HANDLE_FLAG_INHERIT, 0);
	return (int)s;
}

int64_t peer_send_some(int fd, const void *data, size_t len_bytes)
{
	for (;;) {
		int part = len_bytes < 1 << 20 ? (int)len_bytes : 1 << 20;
		int n = send(vq__socket(fd), data, part, 0);
		if (n >= 0)
			return n;
		if (WSAGetLastError() != WSAEWOULDBLOCK)
			return vq__wsa_error();
		wait_for(vq__socket(fd), true);
	}
}

int64_t peer_recv(int fd, void *data, size_t len_bytes)
{
	for (;;) {
		int part = len_bytes < 1 << 20 ? (int)len_bytes : 1 << 20;
		int n = recv(vq__socket(fd), data, part, 0);
		if (n >= 0)
			return n;
		if (WSAGetLastError() != WSAEWOULDBLOCK)
			return vq__wsa_error();
		wait_for(vq__socket(fd), false);
	}
}

void peer_shutdown_write(int fd)
{
	CHECK_EQ(shutdown(vq__socket(fd), SD_SEND), 0);
}

/* Sockets only: threads and ports, which the system keeps as it likes, have handles too. */
uint32_t peer_open_count(void)
{
	uint32_t count = 0;

	for (uint32_t handle = 4; handle < 2048; handle += 4) {
		int type = 0;
		int len = sizeof(type);
		count += getsockopt(handle, SOL_SOCKET, SO_TYPE, (char *)&type, &len) == 0;
	}
	return count;
}

bool peer_is_cloexec(int fd)
{
	DWORD flags = 0;
	CHECK(GetHandleInformation((HANDLE)vq__socket(fd), &flags));
	return (flags & HANDLE_FLAG_INHERIT) == 0;
}

int64_t peer_now_ns(void)
{
	LARGE_INTEGER frequency;
	LARGE_INTEGER now;

	CHECK(QueryPerformanceFrequency(&frequency) && QueryPerformanceCounter(&now));
	const int64_t per_s = frequency.QuadPart;
	return now.QuadPart / per_s * 1000000000 + now.QuadPart % per_s * 1000000000 / per_s;
}

static volatile LONG64 bark_at_ms;

static DWORD WINAPI watch(void *arg)
{
	(void)arg;
	for (;;) {
		LONG64 at = InterlockedCompareExchange64(&bark_at_ms, 0, 0);
		if (at != 0 && (LONG64)GetTickCount64() > at) {
			printf("\nFAIL: the test hangs\n");
			fflush(stdout);
			_Exit(1);
		}
		Sleep(200);
	}
}

void peer_watchdog(uint32_t seconds)
{
	static HANDLE dog;

	InterlockedExchange64(&bark_at_ms,
			      seconds == 0 ? 0 : (LONG64)GetTickCount64() + 1000 * (LONG64)seconds);
	if (dog == NULL)
		dog = CreateThread(NULL, 0, watch, NULL, 0, NULL);
	CHECK(dog != NULL);
}
