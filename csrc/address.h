/*
 * address.h: the system's socket addresses, which are the BSD API's everywhere. It includes nothing
 * of the system: a platform's file includes its own socket headers first.
 */
#ifndef VELOQ_CSRC_ADDRESS_H
#define VELOQ_CSRC_ADDRESS_H

#include "veloq/socket.h"

#include <string.h>

/* sockaddr_un, which is the same where it exists and not declared everywhere. */
typedef struct vq__address_unix {
	uint16_t family;
	char path[VQ_UNIX_PATH_MAX];
} vq__address_unix;

typedef union vq__address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	vq__address_unix local;
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
	case VQ_AF_UNIX:
		if (addr->path_len > VQ_UNIX_PATH_MAX)
			return -VQ_EINVAL;
		to->local.family = AF_UNIX;
		memcpy(to->local.path, addr->path, addr->path_len);
		return (int)(offsetof(vq__address_unix, path) + addr->path_len);
	default:
		return -VQ_EINVAL;
	}
}
_Static_assert(sizeof(vq__address) <= VQ_ADDR_BYTES_MAX, "room for every address");

static inline void vq__address_decode(const vq__address *from, size_t len, vq_addr *addr)
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
	case AF_UNIX: {
		const size_t begin = offsetof(vq__address_unix, path);
		size_t path_len = len > begin ? len - begin : 0;
		if (path_len > VQ_UNIX_PATH_MAX)
			path_len = VQ_UNIX_PATH_MAX;
		/* A path ends at its zero byte, which the length counts; an abstract name does not.
		 */
		if (path_len > 0 && from->local.path[0] != '\0')
			path_len = strnlen(from->local.path, path_len);
		addr->family = VQ_AF_UNIX;
		addr->path_len = (uint32_t)path_len;
		memcpy(addr->path, from->local.path, path_len);
		break;
	}
	default:
		break;
	}
}

#endif
