/* features_windows.c: what Windows' sockets can do, tried out: include/veloq/features.h. */
#include "winsock_windows.h"

#include "veloq/features.h"
#include "veloq/socket.h"

/* How long one step over loopback may take. */
#define STEP_MS 500

static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
static uint32_t found;

static SOCKET make(int family, int type)
{
	return WSASocketW(family, type, 0, NULL, 0,
			  WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
}

static bool tried(int family, int type, int level, int name, DWORD value)
{
	SOCKET s = make(family, type);
	bool ok =
		s != INVALID_SOCKET &&
		(name < 0 || setsockopt(s, level, name, (const char *)&value, sizeof(value)) == 0);

	if (s != INVALID_SOCKET)
		(void)closesocket(s);
	return ok;
}

/* The table of functions is there or it is not: no use is made of it. */
static bool has_registered_io(void)
{
	GUID id = VQ__WSAID_MULTIPLE_RIO;
	/* Its size, then a dozen functions and more. */
	uintptr_t table[32] = { sizeof(table) };
	DWORD bytes = 0;
	SOCKET s = make(AF_INET, SOCK_DGRAM);
	bool ok = s != INVALID_SOCKET &&
		  WSAIoctl(s, VQ__SIO_GET_MULTIPLE_EXTENSION_FUNCTION_POINTER, &id, sizeof(id),
			   table, sizeof(table), &bytes, NULL, NULL) == 0;

	if (s != INVALID_SOCKET)
		(void)closesocket(s);
	return ok;
}

/* ---- a socket that serves a second connection */

typedef struct reuse {
	SOCKET listener;
	SOCKET accepted; /* the one in question */
	SOCKET client;
	WSAEVENT event;
	struct sockaddr_in bound;
	LPFN_ACCEPTEX accept_ex;
	LPFN_DISCONNECTEX disconnect_ex;
	OVERLAPPED ov;
	uint8_t addresses[2 * (sizeof(struct sockaddr_in) + 16)];
} reuse;

static bool load(SOCKET s, GUID id, void *function, DWORD size_bytes)
{
	DWORD bytes = 0;

	return WSAIoctl(s, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof(id), function,
			size_bytes, &bytes, NULL, NULL) == 0;
}

static void begin(reuse *r)
{
	r->ov = (OVERLAPPED){ .hEvent = r->event };
	(void)WSAResetEvent(r->event);
}

/* The end of what was begun on s: true if it went well. Afterwards Windows is through with ov. */
static bool ended(reuse *r, SOCKET s, bool started)
{
	DWORD bytes = 0;
	DWORD flags = 0;

	if (!started && WSAGetLastError() != WSA_IO_PENDING)
		return false;
	if (WSAWaitForMultipleEvents(1, &r->event, FALSE, STEP_MS, FALSE) != WSA_WAIT_EVENT_0)
		(void)CancelIoEx((HANDLE)s, &r->ov);
	return WSAGetOverlappedResult(s, &r->ov, &bytes, TRUE, &flags);
}

static bool connect_once(reuse *r)
{
	const DWORD room = sizeof(r->addresses) / 2;
	DWORD bytes = 0;

	begin(r);
	bool started =
		r->accept_ex(r->listener, r->accepted, r->addresses, 0, room, room, &bytes, &r->ov);
	if (!started && WSAGetLastError() != WSA_IO_PENDING)
		return false;
	r->client = make(AF_INET, SOCK_STREAM);
	if (r->client != INVALID_SOCKET)
		(void)connect(r->client, (const struct sockaddr *)&r->bound, sizeof(r->bound));
	WSASetLastError(WSA_IO_PENDING);
	return ended(r, r->listener, started) &&
	       setsockopt(r->accepted, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
			  (const char *)&r->listener, sizeof(r->listener)) == 0;
}

static bool disconnect(reuse *r)
{
	char byte = 0;

	/* The peer first, as it mostly is where it pays: the other way TIME_WAIT is on this side.
	 */
	(void)closesocket(r->client);
	r->client = INVALID_SOCKET;
	if (recv(r->accepted, &byte, 1, 0) != 0)
		return false;
	begin(r);
	return ended(r, r->accepted, r->disconnect_ex(r->accepted, &r->ov, TF_REUSE_SOCKET, 0));
}

static bool passes_a_byte(reuse *r)
{
	char byte = 7;
	char got = 0;

	return send(r->client, &byte, 1, 0) == 1 && recv(r->accepted, &got, 1, 0) == 1 &&
	       got == byte;
}

static bool has_socket_reuse(void)
{
	reuse r = { .listener = make(AF_INET, SOCK_STREAM),
		    .accepted = make(AF_INET, SOCK_STREAM),
		    .client = INVALID_SOCKET,
		    .event = WSACreateEvent(),
		    .bound = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	int len = sizeof(r.bound);
	const GUID accept_id = WSAID_ACCEPTEX;
	const GUID disconnect_id = WSAID_DISCONNECTEX;
	bool ok = r.listener != INVALID_SOCKET && r.accepted != INVALID_SOCKET &&
		  r.event != WSA_INVALID_EVENT &&
		  load(r.listener, accept_id, &r.accept_ex, sizeof(r.accept_ex)) &&
		  load(r.listener, disconnect_id, &r.disconnect_ex, sizeof(r.disconnect_ex)) &&
		  bind(r.listener, (const struct sockaddr *)&r.bound, len) == 0 &&
		  listen(r.listener, 1) == 0 &&
		  getsockname(r.listener, (struct sockaddr *)&r.bound, &len) == 0 &&
		  connect_once(&r) && disconnect(&r) && connect_once(&r) && passes_a_byte(&r);

	for (size_t i = 0; i < 3; i++) {
		SOCKET s = (SOCKET[]){ r.client, r.accepted, r.listener }[i];
		if (s != INVALID_SOCKET)
			(void)closesocket(s);
	}
	if (r.event != WSA_INVALID_EVENT)
		(void)WSACloseEvent(r.event);
	return ok;
}

/* ---- all */

static BOOL CALLBACK try_all(INIT_ONCE *init, void *parameter, void **context)
{
	static const struct {
		uint32_t feature;
		int family;
		int type;
		int level;
		int name; /* -1: the socket alone */
		DWORD value;
	} table[] = {
		{ VQ_FEATURE_UNIX, AF_UNIX, SOCK_STREAM, 0, -1, 0 },
		{ VQ_FEATURE_UDP_SEGMENT, AF_INET, SOCK_DGRAM, IPPROTO_UDP, VQ__UDP_SEND_MSG_SIZE,
		  1200 },
		{ VQ_FEATURE_UDP_GRO, AF_INET, SOCK_DGRAM, IPPROTO_UDP,
		  VQ__UDP_RECV_MAX_COALESCED_SIZE, 65535 },
		{ VQ_FEATURE_PACKET_INFO, AF_INET, SOCK_DGRAM, IPPROTO_IP, IP_PKTINFO, 1 },
		{ VQ_FEATURE_ECN, AF_INET, SOCK_DGRAM, IPPROTO_IP, IP_RECVTOS, 1 },
		{ VQ_FEATURE_ECN, AF_INET, SOCK_DGRAM, IPPROTO_IP, IP_ECN, 1 },
		{ VQ_FEATURE_KEEPALIVE_TIMES, AF_INET, SOCK_STREAM, IPPROTO_TCP, VQ__TCP_KEEPIDLE,
		  60 },
	};

	(void)init;
	(void)parameter;
	(void)context;
	if (vq__winsock_start() != 0)
		return TRUE;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (tried(table[i].family, table[i].type, table[i].level, table[i].name,
			  table[i].value))
			found |= table[i].feature;
	found |= has_registered_io() ? VQ_FEATURE_REGISTERED_IO : 0;
	found |= has_socket_reuse() ? VQ_FEATURE_SOCKET_REUSE : 0;
	return TRUE;
}

uint32_t vq_features(uint32_t *known)
{
	*known = VQ_FEATURE_UNIX | VQ_FEATURE_UDP_SEGMENT | VQ_FEATURE_UDP_GRO |
		 VQ_FEATURE_PACKET_INFO | VQ_FEATURE_ECN | VQ_FEATURE_KEEPALIVE_TIMES |
		 VQ_FEATURE_SOCKET_REUSE | VQ_FEATURE_REGISTERED_IO;
	(void)InitOnceExecuteOnce(&once, try_all, NULL, NULL);
	return found;
}
