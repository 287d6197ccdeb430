/*
 * address.h: the system's socket addresses, which are the BSD API's everywhere. It includes nothing
 * of the system: a platform's file includes its own socket headers first.
 */
#ifndef VELOQ_CSRC_ADDRESS_H
#define VELOQ_CSRC_ADDRESS_H

#include "veloq/socket.h"

#include <string.h>

typedef union vq__address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage room;
} vq__address;

static inline int vq__address_encode(const vq_addr *addr, void *out)
{
	vq__address *to = out;

	memset(out, 0, sizeof(vq__address));
	switch (addr->family) {
	case VQ_AF_INET:
		to->v4.sin_family = AF_INET;
		to->v4.sin_port = htons(addr->port);
		memcpy(&to->v4.sin_addr, addr->ip, sizeof(to->v4.sin_addr));
		return sizeof(to->v4);
	case VQ_AF_INET6:
		to->v6.sin6_family = AF_INET6;
		to->v6.sin6_port = htons(addr->port);
		to->v6.sin6_scope_id = addr->scope_id;
		memcpy(&to->v6.sin6_addr, addr->ip, sizeof(to->v6.sin6_addr));
		return sizeof(to->v6);
	default:
		return -VQ_EINVAL;
	}
}
_Static_assert(sizeof(vq__address) <= VQ_ADDR_BYTES_MAX, "room for every address");

static inline void vq__address_decode(const vq__address *from, vq_addr *addr)
{
	memset(addr, 0, sizeof(*addr));
	switch (from->any.sa_family) {
	case AF_INET:
		addr->family = VQ_AF_INET;
		addr->port = ntohs(from->v4.sin_port);
		memcpy(addr->ip, &from->v4.sin_addr, sizeof(from->v4.sin_addr));
		break;
	case AF_INET6:
		addr->family = VQ_AF_INET6;
		addr->port = ntohs(from->v6.sin6_port);
		addr->scope_id = from->v6.sin6_scope_id;
		memcpy(addr->ip, &from->v6.sin6_addr, sizeof(from->v6.sin6_addr));
		break;
	default:
		break;
	}
}

#endif
