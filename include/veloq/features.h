/*
 * features.h: what the system's sockets can do beyond what every driver needs. It is found by
 * trying, never by version. Changes when another such thing is told apart.
 */
#ifndef VELOQ_FEATURES_H
#define VELOQ_FEATURES_H

#include "veloq/base.h"

enum {
	VQ_FEATURE_UNIX = 1u << 0,            /* AF_UNIX streams */
	VQ_FEATURE_UDP_SEGMENT = 1u << 1,     /* one send becomes many datagrams */
	VQ_FEATURE_UDP_GRO = 1u << 2,         /* many datagrams become one receive */
	VQ_FEATURE_PACKET_INFO = 1u << 3,     /* a datagram's destination and interface are told */
	VQ_FEATURE_ECN = 1u << 4,             /* and its congestion mark */
	VQ_FEATURE_KEEPALIVE_TIMES = 1u << 5, /* each by itself, and readable */
	VQ_FEATURE_SOCKET_REUSE = 1u << 6,    /* DisconnectEx makes a socket that AcceptEx takes */
	VQ_FEATURE_REGISTERED_IO = 1u << 7,   /* Windows' registered I/O: RIO */
};

/*
 * Tries out which VQ_FEATURE_* there are, once for the process, and returns them; *known gets those
 * that such a system may have. What could not be tried (no descriptor, no loopback) counts as not
 * there. Any thread. Blocks (calls on sockets of its own; where SOCKET_REUSE is known, two
 * connections over loopback).
 */
uint32_t vq_features(uint32_t *known);

#endif
