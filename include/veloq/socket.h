/*
 * socket.h: creating and describing stream and datagram sockets. These calls are made when a socket
 * is opened or asked about, never on the data path. Every socket is close-on-exec from birth.
 */
#ifndef VELOQ_SOCKET_H
#define VELOQ_SOCKET_H

#include "veloq/base.h"

/* sockaddr_un is the largest of the addresses here. */
#define VQ_ADDR_BYTES_MAX 128

/* The longest path of sockaddr_un, which need not end in a zero byte. */
#define VQ_UNIX_PATH_MAX 108

/*
 * An address, portable: IP bytes in network order, port and scope in host order. Of VQ_AF_UNIX only
 * the path counts: path_len bytes, the first of which is 0 in Linux's abstract addresses; none for
 * a socket that is not bound.
 */
typedef struct vq_addr {
	uint16_t family; /* VQ_AF_* */
	uint16_t port;
	uint32_t scope_id;
	uint8_t ip[16]; /* the first 4 for VQ_AF_INET */
	uint32_t path_len;
	uint8_t path[VQ_UNIX_PATH_MAX];
} vq_addr;

enum {
	VQ_AF_UNIX = 1,
	VQ_AF_INET = 4,
	VQ_AF_INET6 = 6,
};

/* Options that a socket has from birth (vq_socket_config.flags). */
enum {
	VQ_SOCKET_REUSEADDR = 1u << 0,
	VQ_SOCKET_REUSEPORT = 1u << 1,
	VQ_SOCKET_V6ONLY = 1u << 2,
	VQ_SOCKET_DUALSTACK = 1u << 3, /* V6ONLY = 0; neither flag leaves the system's default */
	VQ_SOCKET_NODELAY = 1u << 4,
	VQ_SOCKET_KEEPALIVE = 1u << 5,
	VQ_SOCKET_BROADCAST = 1u << 6,
	VQ_SOCKET_SHARED = 1u << 7, /* a multicast port that other sockets may have bound too */
};

typedef struct vq_socket_config {
	uint32_t flags; /* VQ_SOCKET_* */
	int32_t backlog;
	int32_t keep_idle_s; /* with KEEPALIVE; 0 leaves the system's */
	int32_t keep_interval_s;
	int32_t keep_count;
	int32_t receive_buffer_bytes; /* 0 leaves the system's */
	int32_t send_buffer_bytes;
} vq_socket_config;

/* Which step failed, for errors that name a system call. */
enum {
	VQ_CALL_NONE = 0,
	VQ_CALL_SOCKET = 1,
	VQ_CALL_SETSOCKOPT = 2,
	VQ_CALL_BIND = 3,
	VQ_CALL_LISTEN = 4,
	VQ_CALL_GETSOCKNAME = 5,
};

/*
 * socket(2) of type SOCK_STREAM, then the options of config. Returns the socket, which is the
 * caller's, or a negative VQ_E* with *failed_call set and nothing left open. Any thread.
 */
int vq_socket_stream(uint16_t family, const vq_socket_config *config, int32_t *failed_call);

/*
 * The same of type SOCK_DGRAM, not connected and not bound. The driver's ops alone may block on it.
 * Any thread.
 */
int vq_socket_datagram(uint16_t family, const vq_socket_config *config, int32_t *failed_call);

/*
 * connect(2). Blocks on a stream socket. Returns 0 or a negative VQ_E*. Any thread.
 */
int vq_socket_connect(int fd, const vq_addr *addr);

/*
 * bind(2), unless addr is NULL (bound already), listen(2), getsockname(2) into *bound. Returns 0,
 * or a negative VQ_E* with *failed_call set; the socket stays open and the caller's. Any thread.
 */
int vq_socket_listen(int fd, const vq_addr *addr, int32_t backlog, vq_addr *bound,
		     int32_t *failed_call);

/*
 * bind(2). Returns 0 or a negative VQ_E*. Any thread.
 */
int vq_socket_bind(int fd, const vq_addr *addr);

/*
 * getsockname(2), getpeername(2); on Linux the peer is known after a reset too. Return 0 or a
 * negative VQ_E*. Any thread.
 */
int vq_socket_local(int fd, vq_addr *addr);
int vq_socket_peer(int fd, vq_addr *addr);

/*
 * Writes addr as the system's sockaddr into out (VQ_ADDR_BYTES_MAX bytes). Returns its length, or
 * -VQ_EINVAL for an unknown family. Any thread.
 */
int vq_addr_encode(const vq_addr *addr, void *out);

/* Options of a live socket. */
enum {
	VQ_OPT_NODELAY = 1,
	VQ_OPT_KEEPALIVE = 2,
	VQ_OPT_KEEP_IDLE_S = 3,
	VQ_OPT_KEEP_INTERVAL_S = 4,
	VQ_OPT_KEEP_COUNT = 5,
	VQ_OPT_LINGER_S = 6, /* -1: off */
	VQ_OPT_RECEIVE_BUFFER_BYTES = 7,
	VQ_OPT_SEND_BUFFER_BYTES = 8,
	VQ_OPT_REUSEPORT = 9,
	VQ_OPT_V6ONLY = 10,
	VQ_OPT_TTL = 11,   /* unicast TTL or hop limit; both on a socket of IPv6 */
	VQ_OPT_ERROR = 12, /* get only: SO_ERROR */
	VQ_OPT_BROADCAST = 13,
	VQ_OPT_UDP_SEGMENT = 14, /* payload bytes a datagram is cut into; 0 for not at all */
	VQ_OPT_UDP_GRO = 15,
	VQ_OPT_PACKET_INFO = 16, /* control messages with a datagram's destination and interface */
	VQ_OPT_RECEIVE_TOS = 17, /* control messages with its traffic class, ECN included */
	VQ_OPT_TOS = 18,         /* of what is sent: IP_TOS, IPV6_TCLASS, by the socket's family */
	VQ_OPT_MULTICAST_LOOP = 19,
	VQ_OPT_MULTICAST_TTL = 20,
	VQ_OPT_MULTICAST_INTERFACE = 21, /* index; set only */
	VQ_OPT_DONT_FRAGMENT = 22,       /* DF on all, and no size refused for the path's MTU */
};

/*
 * setsockopt(2) and getsockopt(2) of one VQ_OPT_*. Return 0 or a negative VQ_E*. Any thread.
 */
int vq_socket_set(int fd, int32_t option, int32_t value);
int vq_socket_get(int fd, int32_t option, int32_t *value);

/*
 * Joins or leaves a multicast group on the interface of that index, 0 for the system's choice.
 * Returns 0 or a negative VQ_E*. Any thread.
 */
int vq_socket_group(int fd, bool join, const vq_addr *group, uint32_t interface_index);

/*
 * shutdown(2) with VQ_SHUT_*, close(2) without an op in flight. Return 0 or a negative VQ_E*.
 * Any thread.
 */
int vq_socket_close(int fd);

/*
 * A second descriptor of the same socket, close-on-exec, and one that waits (no O_NONBLOCK, which
 * the two share): fcntl(2). It is the caller's. Returns it, or a negative VQ_E*: -VQ_EINVAL where a
 * socket can't change its owner. Any thread.
 */
int vq_socket_dup(int fd);

/*
 * The longest accept queue the system allows (somaxconn). Any thread.
 */
int vq_socket_backlog_max(void);

/*
 * Ties the calling thread to one CPU. Returns 0 or a negative VQ_E*.
 */
int vq_thread_pin(uint32_t cpu);

/*
 * Lets another thread that is ready on this CPU run first: for a thread that looks for something in
 * a loop, which may be what that other one is about to do. Any thread.
 */
void vq_thread_yield(void);

#endif
