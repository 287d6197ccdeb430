/*
 * socket_system.h: what socket.c, which opens sockets alike on every platform, asks of a platform's
 * own file. All of them may be called by any thread, and none keeps what it is given.
 */
#ifndef VELOQ_CSRC_SOCKET_SYSTEM_H
#define VELOQ_CSRC_SOCKET_SYSTEM_H

#include "veloq/socket.h"

/* socket(2) that no child inherits. Returns it, or a negative VQ_E*. */
int vq__socket_open(uint16_t family, bool datagram);

/* What VQ_SOCKET_REUSEADDR, _REUSEPORT and _SHARED stand for there. Returns 0 or a negative VQ_E*.
 */
int vq__socket_share(int fd, uint32_t flags);

/* Keep-alive's times of the config, those that are not 0. Returns 0 or a negative VQ_E*. */
int vq__socket_keep_times(int fd, const vq_socket_config *config);

/* An option that is one int, whatever the socket's family, by the system's names. */
typedef struct vq__int_option {
	int32_t option; /* VQ_OPT_*, 0 ends a table */
	int level;
	int name;
} vq__int_option;

/* An option that IPv4 and IPv6 have each for themselves, by the system's names. */
typedef struct vq__ip_option {
	int32_t option; /* VQ_OPT_*, 0 ends a table */
	int v4;
	int v6;
	bool both; /* on a socket of IPv6 IPv4's too, for what it does of IPv4 */
} vq__ip_option;

/* The platform's tables of them. */
extern const vq__int_option vq__int_options[];
extern const vq__ip_option vq__ip_options[];

/* A table's row of a VQ_OPT_*, NULL if it has none. Any thread. In socket.c. */
const vq__int_option *vq__int_option_find(int32_t option);
const vq__ip_option *vq__ip_option_find(int32_t option);

/* listen(2). Returns 0 or a negative VQ_E*. */
int vq__socket_listen(int fd, int32_t backlog);

#endif
