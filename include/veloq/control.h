/*
 * control.h: the control messages of VQ_OP_SENDMSG and VQ_OP_RECVMSG on datagram sockets. Layout
 * and numbers are Linux's (cmsg(3), ip(7), ipv6(7), udp(7)) on every platform; one whose own differ
 * translates. Changes when a kind of message is added.
 *
 * Messages follow each other, each a vq_cmsg, its contents, and padding up to VQ_CMSG_SPACE.
 */
#ifndef VELOQ_CONTROL_H
#define VELOQ_CONTROL_H

#include "veloq/base.h"

typedef struct vq_cmsg {
	uint64_t len;  /* of header and contents */
	int32_t level; /* VQ_LEVEL_* */
	int32_t type;
} vq_cmsg;

/* Bytes that a message with that many bytes of contents takes. */
#define VQ_CMSG_SPACE(len) ((uint32_t)(sizeof(vq_cmsg) + (((len) + 7) & ~UINT64_C(7))))

enum {
	VQ_LEVEL_IP = 0,
	VQ_LEVEL_UDP = 17,
	VQ_LEVEL_IPV6 = 41,
};

enum {
	VQ_IP_TOS = 1,        /* received: a byte; sent: one or four */
	VQ_IP_PKTINFO = 8,    /* vq_in_pktinfo */
	VQ_IPV6_PKTINFO = 50, /* 16 bytes of address, then the interface's index */
	VQ_IPV6_TCLASS = 67,  /* four bytes */
	VQ_UDP_SEGMENT = 103, /* sent: two bytes, the size of each datagram */
	VQ_UDP_GRO = 104,     /* received: four bytes, the same */
};

typedef struct vq_in_pktinfo {
	uint32_t interface_index;
	uint8_t source[4];      /* sent: from; received: the local address */
	uint8_t destination[4]; /* received: what the datagram was sent to */
} vq_in_pktinfo;

_Static_assert(sizeof(vq_cmsg) == 16, "vq_cmsg is shared with the kernel");
_Static_assert(sizeof(vq_in_pktinfo) == 12, "vq_in_pktinfo is shared with the kernel");

#endif
