/*
 * iocp_control_windows.c: control messages. The records have Linux's, in layout and numbers, on
 * every system; Windows has the same header and other numbers, and other contents for some.
 */
#include "iocp_windows.h"

#include "veloq/control.h"

#include <string.h>

_Static_assert(sizeof(vq_cmsg) == sizeof(WSACMSGHDR), "the same header");
_Static_assert(offsetof(vq_cmsg, level) == offsetof(WSACMSGHDR, cmsg_level), "the same header");
_Static_assert(offsetof(vq_cmsg, type) == offsetof(WSACMSGHDR, cmsg_type), "the same header");
_Static_assert(VQ_CMSG_SPACE(sizeof(IN6_PKTINFO)) + 2 * VQ_CMSG_SPACE(sizeof(DWORD)) <=
		       VQ__IOCP_CONTROL_MAX,
	       "room for one of each");

/* One message of a sequence. */
typedef struct found {
	vq_cmsg header;
	const uint8_t *data;
	uint32_t len;
} found;

/* The message at *at, which is counted on. False at the end, or where no message can be. */
static bool next(const uint8_t *from, uint64_t end, uint64_t *at, found *f)
{
	if (end - *at < sizeof(f->header))
		return false;
	memcpy(&f->header, from + *at, sizeof(f->header));
	if (f->header.len < sizeof(f->header) || f->header.len > end - *at)
		return false;
	f->data = from + *at + sizeof(f->header);
	f->len = (uint32_t)(f->header.len - sizeof(f->header));
	/* The last one need not be padded. */
	uint64_t space = VQ_CMSG_SPACE(f->len);
	*at = space < end - *at ? *at + space : end;
	return true;
}

/* ---- appending */

typedef struct writer {
	uint8_t *at;
	uint32_t room;
	uint32_t used;
	bool cut;
} writer;

static void append(writer *w, int level, int type, const void *data, uint32_t len)
{
	const vq_cmsg header = { .len = sizeof(header) + len, .level = level, .type = type };
	const uint32_t space = VQ_CMSG_SPACE(len);

	if (w->room - w->used < space) {
		w->cut = true;
		return;
	}
	memset(w->at + w->used, 0, space);
	memcpy(w->at + w->used, &header, sizeof(header));
	memcpy(w->at + w->used + sizeof(header), data, len);
	w->used += space;
}

/* ---- what is sent */

/* A number that may have one, two or four bytes. */
static uint32_t number(const uint8_t *data, uint32_t len)
{
	uint32_t value = 0;

	memcpy(&value, data, len < sizeof(value) ? len : sizeof(value));
	return value;
}

/* One message in Windows' terms. Returns 0 or -VQ_EINVAL. */
static int encode_one(writer *w, const found *f)
{
	const int level = f->header.level;
	const int type = f->header.type;

	if (level == VQ_LEVEL_IP && type == VQ_IP_PKTINFO && f->len >= sizeof(vq_in_pktinfo)) {
		vq_in_pktinfo from;
		IN_PKTINFO to = { 0 };
		memcpy(&from, f->data, sizeof(from));
		memcpy(&to.ipi_addr, from.source, sizeof(from.source));
		to.ipi_ifindex = from.interface_index;
		append(w, IPPROTO_IP, IP_PKTINFO, &to, sizeof(to));
	} else if (level == VQ_LEVEL_IPV6 && type == VQ_IPV6_PKTINFO &&
		   f->len >= sizeof(IN6_PKTINFO)) {
		append(w, IPPROTO_IPV6, IPV6_PKTINFO, f->data, sizeof(IN6_PKTINFO));
	} else if (level == VQ_LEVEL_IP && type == VQ_IP_TOS && f->len > 0) {
		/* The other six bits are set by policy there, not by programs. */
		const INT ecn = (INT)(number(f->data, f->len) & 3);
		append(w, IPPROTO_IP, IP_ECN, &ecn, sizeof(ecn));
	} else if (level == VQ_LEVEL_IPV6 && type == VQ_IPV6_TCLASS && f->len > 0) {
		const INT ecn = (INT)(number(f->data, f->len) & 3);
		append(w, IPPROTO_IPV6, IPV6_ECN, &ecn, sizeof(ecn));
	} else if (level == VQ_LEVEL_UDP && type == VQ_UDP_SEGMENT && f->len > 0) {
		const DWORD size = number(f->data, f->len);
		append(w, IPPROTO_UDP, VQ__UDP_SEND_MSG_SIZE, &size, sizeof(size));
	} else {
		return -VQ_EINVAL;
	}
	return w->cut ? -VQ_EINVAL : 0;
}

int vq__iocp_control_encode(const vq_msghdr *message, void *out)
{
	const uint8_t *from = (const uint8_t *)(uintptr_t)message->control;
	writer w = { .at = out, .room = VQ__IOCP_CONTROL_MAX };
	uint64_t at = 0;
	found f;

	while (next(from, message->control_len, &at, &f)) {
		int rc = encode_one(&w, &f);
		if (rc != 0)
			return rc;
	}
	return at == message->control_len ? (int)w.used : -VQ_EINVAL;
}

/* ---- what was received */

static void decode_ip(writer *w, const found *f)
{
	const int type = f->header.type;

	if (type == IP_PKTINFO && f->len >= sizeof(IN_PKTINFO)) {
		IN_PKTINFO from;
		vq_in_pktinfo to = { 0 };
		memcpy(&from, f->data, sizeof(from));
		to.interface_index = from.ipi_ifindex;
		memcpy(to.source, &from.ipi_addr, sizeof(to.source));
		memcpy(to.destination, &from.ipi_addr, sizeof(to.destination));
		append(w, VQ_LEVEL_IP, VQ_IP_PKTINFO, &to, sizeof(to));
	} else if ((type == IP_TOS || type == IP_ECN) && f->len > 0) {
		append(w, VQ_LEVEL_IP, VQ_IP_TOS, f->data, 1);
	}
}

static void decode_ipv6(writer *w, const found *f)
{
	const int type = f->header.type;

	if (type == IPV6_PKTINFO && f->len >= sizeof(IN6_PKTINFO)) {
		append(w, VQ_LEVEL_IPV6, VQ_IPV6_PKTINFO, f->data, sizeof(IN6_PKTINFO));
	} else if ((type == IPV6_TCLASS || type == IPV6_ECN) && f->len > 0) {
		const uint32_t tclass = number(f->data, f->len);
		append(w, VQ_LEVEL_IPV6, VQ_IPV6_TCLASS, &tclass, sizeof(tclass));
	}
}

uint32_t vq__iocp_control_decode(const WSAMSG *message, void *out, uint32_t room, bool *cut)
{
	const uint8_t *from = (const uint8_t *)message->Control.buf;
	writer w = { .at = out, .room = room };
	uint64_t at = 0;
	found f;

	while (next(from, message->Control.len, &at, &f)) {
		if (f.header.level == IPPROTO_IP) {
			decode_ip(&w, &f);
		} else if (f.header.level == IPPROTO_IPV6) {
			decode_ipv6(&w, &f);
		} else if (f.header.level == IPPROTO_UDP &&
			   f.header.type == VQ__UDP_COALESCED_INFO && f.len > 0) {
			const uint32_t size = number(f.data, f.len);
			append(&w, VQ_LEVEL_UDP, VQ_UDP_GRO, &size, sizeof(size));
		}
	}
	*cut = w.cut;
	return w.used;
}
