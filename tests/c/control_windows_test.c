/*
 * control_windows_test.c: control messages: Linux's, which the records have, into Windows' and
 * back. Most of Windows' own can't be had from a socket here.
 */
#include "iocp_windows.h"

#include "veloq/control.h"

#include "check.h"

typedef struct sequence {
	uint64_t room[64];
	uint32_t used;
} sequence;

static void add(sequence *s, int level, int type, const void *data, uint32_t len)
{
	const vq_cmsg header = { .len = sizeof(header) + len, .level = level, .type = type };
	uint8_t *at = (uint8_t *)s->room + s->used;

	CHECK(s->used + VQ_CMSG_SPACE(len) <= sizeof(s->room));
	memcpy(at, &header, sizeof(header));
	memcpy(at + sizeof(header), data, len);
	s->used += VQ_CMSG_SPACE(len);
}

/* Exactly one message, of that kind and with those contents, at *at; counts it on. */
static void expect(const void *from, uint32_t *at, int level, int type, const void *data,
		   uint32_t len)
{
	vq_cmsg header;

	memcpy(&header, (const uint8_t *)from + *at, sizeof(header));
	CHECK_EQ(header.len, sizeof(header) + len);
	CHECK_EQ(header.level, level);
	CHECK_EQ(header.type, type);
	CHECK_EQ(memcmp((const uint8_t *)from + *at + sizeof(header), data, len), 0);
	*at += VQ_CMSG_SPACE(len);
}

static int encode(const sequence *s, uint64_t len, void *out)
{
	const vq_msghdr message = { .control = (uint64_t)(uintptr_t)s->room, .control_len = len };

	return vq__iocp_control_encode(&message, out);
}

static uint32_t decode(sequence *s, void *out, uint32_t room, bool *cut)
{
	const WSAMSG message = { .Control = { .len = s->used, .buf = (char *)s->room } };

	return vq__iocp_control_decode(&message, out, room, cut);
}

static void test_encode(void)
{
	const vq_in_pktinfo from = { .interface_index = 7, .source = { 10, 1, 2, 3 } };
	const uint8_t v6[20] = { [0] = 0xfe, [15] = 1, [16] = 9 };
	const uint8_t tos = 0xb9;
	const int tclass = 0xfe;
	const uint16_t segment = 1200;
	const INT ecn1 = 1;
	const INT ecn2 = 2;
	const DWORD size = 1200;
	IN_PKTINFO info = { .ipi_ifindex = 7 };
	uint64_t out[VQ__IOCP_CONTROL_MAX / 8];
	uint32_t at = 0;
	sequence s = { .used = 0 };

	memcpy(&info.ipi_addr, from.source, 4);
	add(&s, VQ_LEVEL_IP, VQ_IP_PKTINFO, &from, sizeof(from));
	add(&s, VQ_LEVEL_IP, VQ_IP_TOS, &tos, sizeof(tos));
	add(&s, VQ_LEVEL_UDP, VQ_UDP_SEGMENT, &segment, sizeof(segment));
	int n = encode(&s, s.used, out);
	expect(out, &at, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	expect(out, &at, IPPROTO_IP, IP_ECN, &ecn1, sizeof(ecn1));
	expect(out, &at, IPPROTO_UDP, VQ__UDP_SEND_MSG_SIZE, &size, sizeof(size));
	CHECK_EQ(n, at);
	/* The last need not be padded. */
	CHECK_EQ(encode(&s, s.used - 6, out), n);
	s.used = 0;
	add(&s, VQ_LEVEL_IPV6, VQ_IPV6_TCLASS, &tclass, sizeof(tclass));
	add(&s, VQ_LEVEL_IPV6, VQ_IPV6_PKTINFO, v6, sizeof(v6));
	add(&s, VQ_LEVEL_UDP, VQ_UDP_SEGMENT, &segment, sizeof(segment));
	n = encode(&s, s.used, out);
	at = 0;
	expect(out, &at, IPPROTO_IPV6, IPV6_ECN, &ecn2, sizeof(ecn2));
	expect(out, &at, IPPROTO_IPV6, IPV6_PKTINFO, v6, sizeof(v6));
	expect(out, &at, IPPROTO_UDP, VQ__UDP_SEND_MSG_SIZE, &size, sizeof(size));
	CHECK_EQ(n, at);
}

static void test_encode_invalid(void)
{
	const int value = 3;
	const uint8_t v6[20] = { 0 };
	uint64_t out[VQ__IOCP_CONTROL_MAX / 8];
	sequence s = { .used = 0 };

	/* Nothing that Windows does not know is dropped in silence. */
	add(&s, VQ_LEVEL_IP, 99, &value, sizeof(value));
	CHECK_EQ(encode(&s, s.used, out), -VQ_EINVAL);
	/* Shorter than its kind, shorter than a header, longer than all there is. */
	s.used = 0;
	add(&s, VQ_LEVEL_IP, VQ_IP_PKTINFO, &value, sizeof(value));
	CHECK_EQ(encode(&s, s.used, out), -VQ_EINVAL);
	s.used = 0;
	add(&s, VQ_LEVEL_IP, VQ_IP_TOS, &value, sizeof(value));
	CHECK_EQ(encode(&s, 15, out), -VQ_EINVAL);
	s.room[0] = 8;
	CHECK_EQ(encode(&s, s.used, out), -VQ_EINVAL);
	s.room[0] = 1000;
	CHECK_EQ(encode(&s, s.used, out), -VQ_EINVAL);
	s.room[0] = UINT64_MAX;
	CHECK_EQ(encode(&s, s.used, out), -VQ_EINVAL);
	/* More than there is room for. */
	s.used = 0;
	for (int i = 0; i < 4; i++)
		add(&s, VQ_LEVEL_IPV6, VQ_IPV6_PKTINFO, v6, sizeof(v6));
	CHECK_EQ(encode(&s, s.used, out), -VQ_EINVAL);
	CHECK_EQ(encode(&s, 0, out), 0);
}

static void test_decode(void)
{
	IN_PKTINFO info = { .ipi_ifindex = 7 };
	const uint8_t address[4] = { 10, 1, 2, 3 };
	const vq_in_pktinfo want = { .interface_index = 7,
				     .source = { 10, 1, 2, 3 },
				     .destination = { 10, 1, 2, 3 } };
	const uint8_t v6[20] = { [0] = 0xfe, [15] = 1, [16] = 9 };
	const INT tos = 0xb9;
	const uint8_t tos_byte = 0xb9;
	const INT ecn = 3;
	const DWORD size = 1200;
	uint64_t out[32];
	uint32_t at = 0;
	bool cut = true;
	sequence s = { .used = 0 };

	memcpy(&info.ipi_addr, address, sizeof(address));
	add(&s, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	add(&s, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	add(&s, SOL_SOCKET, 77, &tos, sizeof(tos)); /* nobody asked for it */
	add(&s, IPPROTO_IPV6, IPV6_PKTINFO, v6, sizeof(v6));
	add(&s, IPPROTO_IPV6, IPV6_ECN, &ecn, sizeof(ecn));
	add(&s, IPPROTO_UDP, VQ__UDP_COALESCED_INFO, &size, sizeof(size));
	uint32_t n = decode(&s, out, sizeof(out), &cut);
	CHECK(!cut);
	expect(out, &at, VQ_LEVEL_IP, VQ_IP_PKTINFO, &want, sizeof(want));
	expect(out, &at, VQ_LEVEL_IP, VQ_IP_TOS, &tos_byte, 1);
	expect(out, &at, VQ_LEVEL_IPV6, VQ_IPV6_PKTINFO, v6, sizeof(v6));
	expect(out, &at, VQ_LEVEL_IPV6, VQ_IPV6_TCLASS, &ecn, sizeof(ecn));
	expect(out, &at, VQ_LEVEL_UDP, VQ_UDP_GRO, &size, sizeof(size));
	CHECK_EQ(n, at);
	/* What fits is told, and that not all did. */
	CHECK_EQ(decode(&s, out, 33, &cut), 32);
	CHECK(cut);
	CHECK_EQ(decode(&s, out, 0, &cut), 0);
	CHECK(cut);
	s.used = 0;
	CHECK_EQ(decode(&s, out, sizeof(out), &cut), 0);
	CHECK(!cut);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_encode),
	CHECK_TEST(test_encode_invalid),
	CHECK_TEST(test_decode),
};

CHECK_MAIN(tests)
