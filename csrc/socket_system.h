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

/* listen(2). Returns 0 or a negative VQ_E*. */
int vq__socket_listen(int fd, int32_t backlog);

#endif
