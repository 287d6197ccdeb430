/*
 * winsock_windows.c: Winsock's start, its error numbers, the making and closing of sockets, and
 * which completion port each belongs to.
 */
#include "winsock_windows.h"

#include <stdatomic.h>

/* ---- errors */

/* Both Winsock's numbers and those that Windows gives where an operation ended in the kernel. */
static const struct {
	DWORD code;
	int number;
} errors[] = {
	{ ERROR_TOO_MANY_OPEN_FILES, VQ_EMFILE },
	{ ERROR_ACCESS_DENIED, VQ_EACCES },
	{ ERROR_INVALID_HANDLE, VQ_EBADF },
	{ ERROR_NOT_ENOUGH_MEMORY, VQ_ENOMEM },
	{ ERROR_OUTOFMEMORY, VQ_ENOMEM },
	{ ERROR_NOT_SUPPORTED, VQ_EOPNOTSUPP },
	{ ERROR_BROKEN_PIPE, VQ_EPIPE },
	{ ERROR_BUSY, VQ_EBUSY },
	{ ERROR_NO_DATA, VQ_EPIPE },
	{ ERROR_MORE_DATA, VQ_EMSGSIZE },
	{ ERROR_NETNAME_DELETED, VQ_ECONNRESET },
	{ ERROR_INVALID_PARAMETER, VQ_EINVAL },
	{ ERROR_SEM_TIMEOUT, VQ_ETIMEDOUT },
	{ ERROR_OPERATION_ABORTED, VQ_ECANCELED },
	{ ERROR_NO_SYSTEM_RESOURCES, VQ_ENOBUFS },
	{ ERROR_WORKING_SET_QUOTA, VQ_ENOMEM },
	{ ERROR_COMMITMENT_LIMIT, VQ_ENOMEM },
	{ ERROR_CONNECTION_REFUSED, VQ_ECONNREFUSED },
	{ ERROR_NETWORK_UNREACHABLE, VQ_ENETUNREACH },
	{ ERROR_HOST_UNREACHABLE, VQ_EHOSTUNREACH },
	{ ERROR_PROTOCOL_UNREACHABLE, VQ_EHOSTUNREACH },
	{ ERROR_PORT_UNREACHABLE, VQ_ECONNREFUSED },
	{ ERROR_REQUEST_ABORTED, VQ_ECONNABORTED },
	{ ERROR_GRACEFUL_DISCONNECT, VQ_ECONNRESET },
	{ ERROR_HOST_DOWN, VQ_EHOSTDOWN },
	{ ERROR_ADDRESS_ALREADY_ASSOCIATED, VQ_EADDRINUSE },
	{ ERROR_CONNECTION_INVALID, VQ_ENOTCONN },
	{ ERROR_CONNECTION_ABORTED, VQ_ECONNABORTED },
	{ WSAEINTR, VQ_EINTR },
	{ WSAEBADF, VQ_EBADF },
	{ WSAEACCES, VQ_EACCES },
	{ WSAEFAULT, VQ_EFAULT },
	{ WSAEINVAL, VQ_EINVAL },
	{ WSAEMFILE, VQ_EMFILE },
	{ WSAEWOULDBLOCK, VQ_EAGAIN },
	{ WSAEINPROGRESS, VQ_EINPROGRESS },
	{ WSAEALREADY, VQ_EALREADY },
	{ WSAENOTSOCK, VQ_EBADF },
	{ WSAEDESTADDRREQ, VQ_EDESTADDRREQ },
	{ WSAEMSGSIZE, VQ_EMSGSIZE },
	{ WSAEPROTOTYPE, VQ_EPROTOTYPE },
	{ WSAENOPROTOOPT, VQ_ENOPROTOOPT },
	{ WSAEPROTONOSUPPORT, VQ_EPROTONOSUPPORT },
	{ WSAESOCKTNOSUPPORT, VQ_ESOCKTNOSUPPORT },
	{ WSAEOPNOTSUPP, VQ_EOPNOTSUPP },
	{ WSAEPFNOSUPPORT, VQ_EAFNOSUPPORT },
	{ WSAEAFNOSUPPORT, VQ_EAFNOSUPPORT },
	{ WSAEADDRINUSE, VQ_EADDRINUSE },
	{ WSAEADDRNOTAVAIL, VQ_EADDRNOTAVAIL },
	{ WSAENETDOWN, VQ_ENETDOWN },
	{ WSAENETUNREACH, VQ_ENETUNREACH },
	{ WSAENETRESET, VQ_ENETRESET },
	{ WSAECONNABORTED, VQ_ECONNABORTED },
	{ WSAECONNRESET, VQ_ECONNRESET },
	{ WSAENOBUFS, VQ_ENOBUFS },
	{ WSAEISCONN, VQ_EISCONN },
	{ WSAENOTCONN, VQ_ENOTCONN },
	{ WSAESHUTDOWN, VQ_EPIPE },
	{ WSAETIMEDOUT, VQ_ETIMEDOUT },
	{ WSAECONNREFUSED, VQ_ECONNREFUSED },
	{ WSAEHOSTDOWN, VQ_EHOSTDOWN },
	{ WSAEHOSTUNREACH, VQ_EHOSTUNREACH },
	{ WSAEDISCON, VQ_ECONNRESET },
};

int vq__error(DWORD code)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].code == code)
			return -errors[i].number;
	return code > 0 && code < VQ_ESYSTEM ? -(int)(VQ_ESYSTEM + code) : -VQ_EIO;
}

/* ---- start */

static INIT_ONCE start_once = INIT_ONCE_STATIC_INIT;
static int start_result;

static BOOL CALLBACK start(INIT_ONCE *once, void *parameter, void **context)
{
	WSADATA data;

	(void)once;
	(void)parameter;
	(void)context;
	int rc = WSAStartup(MAKEWORD(2, 2), &data);
	start_result = rc == 0 ? 0 : vq__error((DWORD)rc);
	return TRUE;
}

int vq__winsock_start(void)
{
	(void)InitOnceExecuteOnce(&start_once, start, NULL, NULL);
	return start_result;
}

/* ---- which port a socket belongs to */

enum {
	PORTS_MAX = 4096, /* at most ID */
	/* Of sockets with larger handles nothing is remembered: each op asks the system anew. */
	REMEMBERED = 1 << 18,
	NO_SKIP = 0x8000, /* an operation that succeeds at once posts a packet nevertheless */
	DATAGRAM = 0x4000,
	ID = 0x1fff,
};

/* By handle / 4. 0: no port yet; else the port's id, perhaps with NO_SKIP and DATAGRAM. */
static _Atomic uint16_t owners[REMEMBERED];

static struct {
	SRWLOCK lock;
	HANDLE handle[PORTS_MAX]; /* by id - 1; NULL: never made */
	bool taken[PORTS_MAX];
} ports = { .lock = SRWLOCK_INIT };

static _Atomic uint16_t *owner_of(int fd)
{
	uint32_t handle = (uint32_t)fd;

	return (handle & 3) == 0 && handle / 4 < REMEMBERED ? &owners[handle / 4] : NULL;
}

/* A new socket has the handle of one that is gone: what was known of that must not live on. */
static void forget(int fd)
{
	_Atomic uint16_t *owner = owner_of(fd);

	/* relaxed: who uses the socket got it from the caller, after this */
	if (owner != NULL)
		atomic_store_explicit(owner, 0, memory_order_relaxed);
}

int vq__port_take(HANDLE *port, uint16_t *id)
{
	int rc = -VQ_EMFILE;

	AcquireSRWLockExclusive(&ports.lock);
	for (uint16_t i = 0; i < PORTS_MAX; i++) {
		if (ports.taken[i])
			continue;
		if (ports.handle[i] == NULL)
			ports.handle[i] = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
		if (ports.handle[i] == NULL) {
			rc = vq__error(GetLastError());
			break;
		}
		ports.taken[i] = true;
		*port = ports.handle[i];
		*id = (uint16_t)(i + 1);
		rc = 0;
		break;
	}
	ReleaseSRWLockExclusive(&ports.lock);
	return rc;
}

void vq__port_give(uint16_t id)
{
	AcquireSRWLockExclusive(&ports.lock);
	VQ_ASSERT(ports.taken[id - 1]);
	ports.taken[id - 1] = false;
	ReleaseSRWLockExclusive(&ports.lock);
}

static bool is_datagram(int fd)
{
	int type = 0;
	int len = sizeof(type);

	return getsockopt(vq__socket(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &len) == 0 &&
	       type == SOCK_DGRAM;
}

int vq__port_adopt(HANDLE port, uint16_t id, int fd, vq__socket_traits *traits)
{
	_Atomic uint16_t *owner = owner_of(fd);
	HANDLE handle = (HANDLE)vq__socket(fd);
	u_long nonblocking = 1;

	*traits = (vq__socket_traits){ .skips = true };
	if (owner != NULL) {
		/* relaxed: a socket moves between threads by means that order more than this */
		uint16_t known = atomic_load_explicit(owner, memory_order_relaxed);
		traits->skips = (known & NO_SKIP) == 0;
		traits->datagram = (known & DATAGRAM) != 0;
		if (known != 0)
			return (known & ID) == id ? 0 : -VQ_EINVAL;
	}
	traits->datagram = is_datagram(fd);
	if (CreateIoCompletionPort(handle, port, 0, 0) == NULL) {
		DWORD code = GetLastError();
		/* A socket of which nothing is remembered, and which has a port: this one's, as
		 * far as its user keeps to the rule. */
		if (code != ERROR_INVALID_PARAMETER || owner != NULL || fd < 0)
			return vq__error(code);
	}
	traits->skips = SetFileCompletionNotificationModes(
				handle, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS |
						FILE_SKIP_SET_EVENT_ON_HANDLE) != 0;
	if (ioctlsocket(vq__socket(fd), (long)FIONBIO, &nonblocking) != 0)
		return vq__wsa_error();
	if (owner != NULL)
		atomic_store_explicit(owner,
				      (uint16_t)(id | (traits->skips ? 0 : NO_SKIP) |
						 (traits->datagram ? DATAGRAM : 0)),
				      memory_order_relaxed);
	return 0;
}

/* ---- sockets */

int vq__socket_create(int family, int type)
{
	int rc = vq__winsock_start();

	if (rc != 0)
		return rc;
	SOCKET s = WSASocketW(family, type, 0, NULL, 0,
			      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
	if (s == INVALID_SOCKET)
		return vq__wsa_error();
	VQ_ASSERT(s > 0 && s <= INT32_MAX);
	forget((int)s);
	return (int)s;
}

int vq__socket_close(int fd, bool blocking)
{
	const struct linger background = { 0 };
	u_long nonblocking = !blocking;
	SOCKET s = vq__socket(fd);

	/* Before the close: after it the handle may be another thread's new socket. */
	forget(fd);
	if (blocking)
		(void)ioctlsocket(s, (long)FIONBIO, &nonblocking);
	if (closesocket(s) == 0)
		return 0;
	if (WSAGetLastError() != WSAEWOULDBLOCK)
		return vq__wsa_error();
	/* SO_LINGER with a time on a non-blocking socket: Windows refuses, and keeps it open. */
	(void)setsockopt(s, SOL_SOCKET, SO_LINGER, (const char *)&background, sizeof(background));
	return closesocket(s) == 0 ? 0 : vq__wsa_error();
}
