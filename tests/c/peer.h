/*
 * peer.h: what a test does beside the driver: plain blocking sockets at the other end, a clock, a
 * count of open descriptors, a watchdog. Behind it stands one file for each platform, so that the
 * suites themselves name no system call. Every failure that a test does not ask about ends it.
 */
#ifndef VELOQ_TESTS_PEER_H
#define VELOQ_TESTS_PEER_H

#include <stddef.h>
#include <stdint.h>

#include "veloq/socket.h"

/* A listener on a free port of 127.0.0.1. Blocks no one: accept is the caller's. */
int peer_listen(int32_t backlog, vq_addr *bound);

/* A stream socket, neither bound nor connected. */
int peer_stream(void);

/* A socket bound to a free port of 127.0.0.1, which does not listen. */
int peer_bind(vq_addr *bound);

int peer_connect(const vq_addr *to);
int peer_accept(int listener);

/* A datagram socket on a free port of 127.0.0.1. */
int peer_datagram(vq_addr *bound);

/* One datagram. Blocks. */
void peer_send_to(int fd, const vq_addr *to, const void *data, size_t len_bytes);

/* Two ends of one connection: [0] for the driver, [1] for the peer. */
void peer_pair(int ends[2]);

/* Sends all. Blocks. */
void peer_send(int fd, const void *data, size_t len_bytes);

/* What one send(2) answers: bytes, or a negative VQ_E*. Blocks. */
int64_t peer_send_some(int fd, const void *data, size_t len_bytes);

/* As peer_send, and returns 0 or the first negative VQ_E*. Blocks. */
int peer_try_send(int fd, const void *data, size_t len_bytes);

/* What one recv(2) answers: bytes, 0 at the end, or a negative VQ_E*. Blocks. */
int64_t peer_recv(int fd, void *data, size_t len_bytes);

/* Receives exactly len_bytes. Blocks. */
void peer_recv_all(int fd, void *data, size_t len_bytes);

void peer_shutdown_write(int fd);
void peer_close(int fd);

/* Closes with a reset instead of an end. */
void peer_reset(int fd);

/* Descriptors of this process. */
uint32_t peer_open_count(void);

/* Whether fd would be closed by a new program. */
bool peer_is_cloexec(int fd);

int64_t peer_now_ns(void);

/* Ends the process loudly unless called again within that time; 0 calls it off. */
void peer_watchdog(uint32_t seconds);

#endif
