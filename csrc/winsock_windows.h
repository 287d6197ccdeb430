/*
 * winsock_windows.h: what every Windows file of the core includes first: the system's headers in
 * the one order that works, what mingw-w64's lack, and what sockets and drivers share.
 */
#ifndef VELOQ_CSRC_WINSOCK_WINDOWS_H
#define VELOQ_CSRC_WINSOCK_WINDOWS_H

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00

/* In this order: winsock2.h after windows.h would clash with the older winsock.h. */
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <mstcpip.h>

#include "veloq/base.h"

/* Windows 10 1709 has these three, mingw-w64 10 does not. */
#define VQ__TCP_KEEPIDLE  3
#define VQ__TCP_KEEPCNT   16
#define VQ__TCP_KEEPINTVL 17

/* Windows 10 2004; what is given is the size of each datagram, and the most that is joined. */
#define VQ__UDP_SEND_MSG_SIZE           2
#define VQ__UDP_RECV_MAX_COALESCED_SIZE 3
#define VQ__UDP_COALESCED_INFO          3

/* Whether an answer that a datagram's time to live ran out fails the next receive. */
#define VQ__SIO_UDP_NETRESET _WSAIOW(IOC_VENDOR, 15)

/* Registered I/O, Windows 8. */
#define VQ__SIO_GET_MULTIPLE_EXTENSION_FUNCTION_POINTER _WSAIORW(IOC_WS2, 36)
#define VQ__WSAID_MULTIPLE_RIO                                         \
	{                                                              \
		0x8509e081, 0x96dd, 0x4005,                            \
		{                                                      \
			0xb1, 0x65, 0x9e, 0x2e, 0xe8, 0xc7, 0x9e, 0x3f \
		}                                                      \
	}

/*
 * A socket in the records is an int32_t. Windows gives out small handle values (multiples of 4
 * below 2^26 by its own limits), though nothing promises so: where a socket is made, it is checked.
 */
static inline SOCKET vq__socket(int fd)
{
	return (SOCKET)(uint32_t)fd;
}

/*
 * The portable number, negated, of an error of Winsock or Windows. What is not known has its own
 * number beside VQ_ESYSTEM.
 * Any thread.
 */
int vq__error(DWORD code);

/* vq__error of the calling thread's last Winsock error. */
static inline int vq__wsa_error(void)
{
	return vq__error((DWORD)WSAGetLastError());
}

/*
 * Starts Winsock, once for the process; it is never stopped. Returns 0 or a negative VQ_E*.
 * Any thread.
 */
int vq__winsock_start(void);

/*
 * Makes a socket of AF_INET or AF_INET6 and SOCK_STREAM or SOCK_DGRAM that no child inherits and
 * that may be used with a port. Returns it, or a negative VQ_E*. Any thread.
 */
int vq__socket_create(int family, int type);

/*
 * closesocket. With `blocking` it may wait as long as SO_LINGER says; without, a socket that would
 * is closed in the background, as on Linux for a descriptor that others share. Any thread.
 */
int vq__socket_close(int fd, bool blocking);

/* ---- ports: a socket belongs to one completion port for life */

/*
 * Takes a completion port, a new one or one that a driver gave back: sockets of that driver may be
 * used on it again, and on no other. 0 < *id. Returns 0 or a negative VQ_E*. Any thread.
 */
int vq__port_take(HANDLE *port, uint16_t *id);

/* Gives a port back, with no packet in it and none to come. Any thread. */
void vq__port_give(uint16_t id);

typedef struct vq__socket_traits {
	bool skips;    /* an operation that succeeds at once posts no packet */
	bool datagram; /* SOCK_DGRAM */
} vq__socket_traits;

/*
 * Makes the socket belong to the port and non-blocking, unless it is so already. *traits is set in
 * any case. Returns 0, or a negative VQ_E*: -VQ_EBADF, or -VQ_EINVAL for a socket that belongs to
 * another port. Any thread.
 */
int vq__port_adopt(HANDLE port, uint16_t id, int fd, vq__socket_traits *traits);

#endif
