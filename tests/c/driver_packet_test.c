/*
 * driver_packet_test.c: SENDMSG with a destination, and RECVMSG into the packet group: what the
 * buffer holds, datagrams of no bytes and of too many, the group when it is empty, errors that the
 * socket had pending, ends while in flight.
 */
#include "driver_fixture.h"

static fx f;

enum {
	NAME = 28, /* sockaddr_in6 */
	CONTROL = 64,
};

/* One datagram of those that an op has received. */
typedef struct packet {
	vq_recvmsg_out out;
	const uint8_t *name;
	const uint8_t *control;
	const uint8_t *payload;
} packet;

/* The packet at *at of the op's data; counts *at on. */
static packet next_packet(const fx_op *op, size_t *at, uint32_t name_len, uint32_t control_len)
{
	packet p;

	CHECK(*at + sizeof(p.out) + name_len + control_len <= op->data_len);
	memcpy(&p.out, op->data + *at, sizeof(p.out));
	p.name = op->data + *at + sizeof(p.out);
	p.control = p.name + name_len;
	p.payload = p.control + control_len;
	*at += sizeof(p.out) + name_len + control_len + p.out.payload_len;
	CHECK(*at <= op->data_len);
	return p;
}

static void begin(void)
{
	fx_begin(&f);
	if (f.view.packet_count == 0) {
		fx_end(&f);
		CHECK_SKIP("this driver has no packet group");
	}
	CHECK_EQ(f.view.packet_count, fx_config_used->driver.packet_count);
	CHECK_EQ(f.view.packet_size_bytes, fx_config_used->driver.packet_size_bytes);
	CHECK_EQ(f.report.packet_count, f.view.packet_count);
	CHECK_EQ(f.report.packet_size_bytes, f.view.packet_size_bytes);
	CHECK(f.view.packet_group != f.view.buf_group);
}

static void check_sender(const packet *p, const vq_addr *from)
{
	uint8_t want[VQ_ADDR_BYTES_MAX];

	CHECK_EQ(p->out.name_len, vq_addr_encode(from, want));
	CHECK_EQ(memcmp(p->name, want, p->out.name_len), 0);
}

static void test_packet_one(void)
{
	vq_addr here;
	vq_addr there;
	size_t at = 0;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	uint32_t op = fx_recvmsg(&f, fd, NAME, CONTROL);
	fx_flush(&f);
	CHECK_EQ(f.ops[op].count, 0);
	peer_send_to(peer, &here, "abc", 3);
	fx_wait_count(&f, op, 1);
	CHECK(!f.ops[op].terminal);
	CHECK_EQ(f.ops[op].res, sizeof(vq_recvmsg_out) + NAME + CONTROL + 3);
	packet p = next_packet(&f.ops[op], &at, NAME, CONTROL);
	check_sender(&p, &there);
	CHECK_EQ(p.out.control_len, 0);
	CHECK_EQ(p.out.payload_len, 3);
	CHECK_EQ(p.out.flags & (VQ_MSG_TRUNC | VQ_MSG_CTRUNC), 0);
	CHECK_EQ(memcmp(p.payload, "abc", 3), 0);
	fx_cancel_wait(&f, op);
	CHECK_EQ(f.ops[op].res, -VQ_ECANCELED);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

/* Receives and checks datagrams of the sizes that size_of gives, from `from` on. */
static void receive_packets(int fd, uint32_t from, uint32_t to, uint32_t (*size_of)(uint32_t))
{
	while (from < to) {
		uint32_t op = fx_recvmsg(&f, fd, NAME, 0);
		size_t at = 0;
		fx_flush(&f);
		for (;;) {
			while (at < f.ops[op].data_len) {
				CHECK(from < to);
				packet p = next_packet(&f.ops[op], &at, NAME, 0);
				CHECK_EQ(p.out.payload_len, size_of(from));
				CHECK_EQ(p.out.flags & VQ_MSG_TRUNC, 0);
				fx_check_bytes(p.payload, 0, p.out.payload_len, from);
				from++;
			}
			if (f.ops[op].terminal || from == to)
				break;
			fx_turn(&f, 1);
		}
		if (!f.ops[op].terminal)
			fx_cancel_wait(&f, op);
		/* Ended by a datagram of no bytes, for want of buffers or of room, or by us. */
		CHECK(f.ops[op].res > 0 || f.ops[op].res == -VQ_ENOBUFS ||
		      f.ops[op].res == -VQ_ECANCELED);
		CHECK_EQ(at, f.ops[op].data_len);
	}
}

static void send_packets(int fd, const vq_addr *to, uint32_t from, uint32_t end,
			 uint32_t (*size_of)(uint32_t))
{
	uint8_t data[4096];

	for (uint32_t i = from; i < end; i++) {
		fx_fill(data, 0, size_of(i), i);
		peer_send_to(fd, to, data, size_of(i));
	}
}

/* 0 .. 1400, with many of 0. */
static uint32_t mixed(uint32_t i)
{
	return i % 3 == 0 ? 0 : i * 7919 % 1401;
}

static void test_packet_order(void)
{
	enum { BATCH = 40, COUNT = 1200 };
	vq_addr here;
	vq_addr there;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	for (uint32_t i = 0; i < COUNT; i += BATCH) {
		send_packets(peer, &here, i, i + BATCH, mixed);
		receive_packets(fd, i, i + BATCH, mixed);
	}
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

/* As large as a buffer holds, which two of one buffer would not be. */
static uint32_t large(uint32_t i)
{
	return 2048 - (uint32_t)sizeof(vq_recvmsg_out) - NAME - (i & 1);
}

static void test_packet_fills_buffer(void)
{
	vq_addr here;
	vq_addr there;

	begin();
	CHECK_EQ(f.view.packet_size_bytes, 2048);
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	send_packets(peer, &here, 0, 30, large);
	receive_packets(fd, 0, 30, large);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

static void test_packet_truncated(void)
{
	uint8_t data[3000];
	vq_addr here;
	vq_addr there;
	size_t at = 0;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	uint32_t room = f.view.packet_size_bytes - (uint32_t)sizeof(vq_recvmsg_out) - NAME;
	uint32_t op = fx_recvmsg(&f, fd, NAME, 0);
	fx_fill(data, 0, sizeof(data), 4);
	peer_send_to(peer, &here, data, sizeof(data));
	peer_send_to(peer, &here, data, 10);
	fx_wait_count(&f, op, 2);
	packet p = next_packet(&f.ops[op], &at, NAME, 0);
	CHECK_EQ(p.out.payload_len, room);
	CHECK((p.out.flags & VQ_MSG_TRUNC) != 0);
	fx_check_bytes(p.payload, 0, room, 4);
	/* What was cut off is gone, and nothing of it is in the next. */
	p = next_packet(&f.ops[op], &at, NAME, 0);
	CHECK_EQ(p.out.payload_len, 10);
	CHECK_EQ(p.out.flags & VQ_MSG_TRUNC, 0);
	fx_check_bytes(p.payload, 0, 10, 4);
	fx_cancel_wait(&f, op);
	/* The name too, when it has too little space; its own length shows. */
	op = fx_recvmsg(&f, fd, 4, 0);
	at = 0;
	peer_send_to(peer, &here, data, 10);
	fx_wait_count(&f, op, 1);
	p = next_packet(&f.ops[op], &at, 4, 0);
	CHECK_EQ(p.out.name_len, 16);
	fx_check_bytes(p.payload, 0, 10, 4);
	fx_cancel_wait(&f, op);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

static void test_packet_control(void)
{
	vq_addr here;
	vq_addr there;
	size_t at = 0;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	CHECK_EQ(vq_socket_set(fd, VQ_OPT_PACKET_INFO, 1), 0);
	uint32_t op = fx_recvmsg(&f, fd, NAME, CONTROL);
	peer_send_to(peer, &here, "abc", 3);
	fx_wait_count(&f, op, 1);
	packet p = next_packet(&f.ops[op], &at, NAME, CONTROL);
	check_sender(&p, &there);
	CHECK_EQ(memcmp(p.payload, "abc", 3), 0);
	CHECK_EQ(p.out.flags & VQ_MSG_CTRUNC, 0);
	/* One control message with the address in it that the datagram was sent to. */
	CHECK(p.out.control_len > 16 && p.out.control_len <= CONTROL);
	bool found = false;
	for (uint32_t i = 0; i + 4 <= p.out.control_len && !found; i++)
		found = memcmp(p.control + i, here.ip, 4) == 0;
	CHECK(found);
	fx_cancel_wait(&f, op);
	/* No room for it: the datagram comes all the same, and says so. */
	op = fx_recvmsg(&f, fd, NAME, 8);
	at = 0;
	peer_send_to(peer, &here, "defg", 4);
	fx_wait_count(&f, op, 1);
	p = next_packet(&f.ops[op], &at, NAME, 8);
	CHECK((p.out.flags & VQ_MSG_CTRUNC) != 0);
	CHECK_EQ(p.out.payload_len, 4);
	CHECK_EQ(memcmp(p.payload, "defg", 4), 0);
	fx_cancel_wait(&f, op);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

static uint32_t ten(uint32_t i)
{
	return 10 + i % 2;
}

/* Nobody gives buffers back: each is used once, then ENOBUFS; what is left stays in the socket. */
static void test_packet_enobufs(void)
{
	vq_addr here;
	vq_addr there;
	size_t at = 0;

	begin();
	uint32_t count = f.view.packet_count;
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	f.hold_buffers = true;
	send_packets(peer, &here, 0, count + 5, ten);
	uint32_t op = fx_recvmsg(&f, fd, NAME, 0);
	FX_EXPECT(&f, op, -VQ_ENOBUFS);
	CHECK_EQ(f.packets_held, count);
	for (uint32_t i = 0; i < count; i++) {
		packet p = next_packet(&f.ops[op], &at, NAME, 0);
		CHECK_EQ(p.out.payload_len, ten(i));
		fx_check_bytes(p.payload, 0, p.out.payload_len, i);
	}
	CHECK_EQ(at, f.ops[op].data_len);
	FX_EXPECT(&f, fx_recvmsg(&f, fd, NAME, 0), -VQ_ENOBUFS);
	/* The other group is not touched. */
	CHECK_EQ(f.buffers_held, 0);
	f.hold_buffers = false;
	fx_return_buffers(&f);
	receive_packets(fd, count, count + 5, ten);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

static void test_packet_many_sockets(void)
{
	enum { SOCKETS = 20, ROUNDS = 10 };
	int fds[SOCKETS];
	vq_addr here[SOCKETS];
	vq_addr there;

	begin();
	int peer = peer_datagram(&there);
	for (uint32_t i = 0; i < SOCKETS; i++)
		fds[i] = peer_datagram(&here[i]);
	/* Those that wait hold no buffer: there are fewer than sockets. */
	CHECK(f.view.packet_count < SOCKETS);
	for (uint32_t i = 0; i < SOCKETS; i++)
		(void)fx_recvmsg(&f, fds[i], NAME, 0);
	uint32_t first = f.op_count - SOCKETS;
	fx_flush(&f);
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		for (uint32_t i = 0; i < SOCKETS; i++) {
			CHECK_EQ(f.ops[first + i].count, round - 1);
			send_packets(peer, &here[i], i, i + 1, ten);
			fx_wait_count(&f, first + i, round);
		}
	}
	for (uint32_t i = 0; i < SOCKETS; i++) {
		size_t at = 0;
		while (at < f.ops[first + i].data_len) {
			packet p = next_packet(&f.ops[first + i], &at, NAME, 0);
			CHECK_EQ(p.out.payload_len, ten(i));
			fx_check_bytes(p.payload, 0, p.out.payload_len, i);
		}
		fx_cancel_wait(&f, first + i);
		peer_close(fds[i]);
	}
	peer_close(peer);
	fx_end(&f);
}

/* ---- sending */

typedef struct outgoing {
	vq_msghdr message;
	vq_iovec piece;
	uint8_t name[VQ_ADDR_BYTES_MAX];
} outgoing;

static const vq_msghdr *address_to(outgoing *o, const vq_addr *to, const void *data, size_t len)
{
	memset(o, 0, sizeof(*o));
	o->piece = (vq_iovec){ (uint64_t)(uintptr_t)data, len };
	o->message.iov = (uint64_t)(uintptr_t)&o->piece;
	o->message.iov_count = 1;
	if (to != NULL) {
		o->message.name = (uint64_t)(uintptr_t)o->name;
		o->message.name_len = (uint32_t)vq_addr_encode(to, o->name);
	}
	return &o->message;
}

static void test_send_to(void)
{
	uint8_t data[1200];
	uint8_t got[2048];
	outgoing out;
	vq_addr here;
	vq_addr there;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	fx_fill(data, 0, sizeof(data), 1);
	for (uint32_t i = 0; i < 30; i++) {
		uint32_t len = i * 41;
		const vq_msghdr *message = address_to(&out, &there, data, len);
		FX_EXPECT(&f, fx_sendmsg(&f, fd, message, VQ_MSG_DONTWAIT), (int32_t)len);
		CHECK_EQ(peer_recv(peer, got, sizeof(got)), len);
		CHECK_EQ(memcmp(got, data, len), 0);
	}
	/* A success that nobody needs to hear of; a failure is heard of. */
	uint32_t op = fx_sendmsg_skip(&f, fd, address_to(&out, &there, data, 77), VQ_MSG_DONTWAIT);
	CHECK_EQ(fx_sent(&f, op, 77), 77);
	CHECK_EQ(peer_recv(peer, got, sizeof(got)), 77);
	static uint8_t too_long[70000];
	op = fx_sendmsg_skip(&f, fd, address_to(&out, &there, too_long, sizeof(too_long)),
			     VQ_MSG_DONTWAIT);
	fx_flush(&f);
	CHECK(f.ops[op].terminal);
	CHECK(f.ops[op].res < 0);
	/* No destination at all. */
	op = fx_sendmsg(&f, fd, address_to(&out, NULL, data, 5), VQ_MSG_DONTWAIT);
	fx_wait(&f, op);
	CHECK(f.ops[op].res < 0);
	/* Where the socket is connected none is needed. */
	CHECK_EQ(vq_socket_connect(fd, &there), 0);
	FX_EXPECT(&f, fx_sendmsg(&f, fd, address_to(&out, NULL, data, 5), VQ_MSG_DONTWAIT), 5);
	CHECK_EQ(peer_recv(peer, got, sizeof(got)), 5);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

/*
 * Nobody at the other end: a connected socket hears of it, once, through the receive that waits,
 * and receives on afterwards.
 */
static void test_packet_error(void)
{
	outgoing out;
	vq_addr here;
	vq_addr there;
	size_t at = 0;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	peer_close(peer);
	CHECK_EQ(vq_socket_connect(fd, &there), 0);
	uint32_t op = fx_recvmsg(&f, fd, NAME, 0);
	fx_flush(&f);
	FX_EXPECT(&f, fx_sendmsg(&f, fd, address_to(&out, NULL, "a", 1), VQ_MSG_DONTWAIT), 1);
	fx_wait(&f, op);
	/* Windows says it as the reset of something. */
	CHECK(f.ops[op].res == -VQ_ECONNREFUSED || f.ops[op].res == -VQ_ECONNRESET);
	const vq_socket_config config = { 0 };
	int32_t call = 0;
	peer = vq_socket_datagram(VQ_AF_INET, &config, &call);
	CHECK(peer >= 0);
	CHECK_EQ(vq_socket_bind(peer, &there), 0);
	peer_send_to(peer, &here, "abc", 3);
	op = fx_recvmsg(&f, fd, NAME, 0);
	fx_wait_count(&f, op, 1);
	packet p = next_packet(&f.ops[op], &at, NAME, 0);
	CHECK_EQ(p.out.payload_len, 3);
	CHECK_EQ(memcmp(p.payload, "abc", 3), 0);
	fx_cancel_wait(&f, op);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

static void test_packet_bad_group(void)
{
	vq_addr here;

	begin();
	int fd = peer_datagram(&here);
	uint32_t op = fx_recvmsg(&f, fd, NAME, 0);
	f.view.sqes[(f.sq_tail - 1) & (f.view.sq_entries - 1)].buf_group = 9;
	FX_EXPECT(&f, op, -VQ_ENOBUFS);
	/* More space asked for than a buffer has. */
	op = fx_recvmsg(&f, fd, NAME, f.view.packet_size_bytes);
	FX_EXPECT(&f, op, -VQ_EFAULT);
	peer_close(fd);
	FX_EXPECT(&f, fx_recvmsg(&f, fd, NAME, 0), -VQ_EBADF);
	fx_end(&f);
}

/* Small datagrams that nobody collects: a multishot that finds no room ends; none is lost. */
static void test_packet_overflow(void)
{
	enum { COUNT = 50 };
	vq_addr here;
	vq_addr there;
	size_t at = 0;
	uint32_t got = 0;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	uint32_t op = fx_recvmsg(&f, fd, NAME, 0);
	for (uint32_t i = 0; i < COUNT; i++) {
		send_packets(peer, &here, i, i + 1, ten);
		fx_submit(&f, 0);
	}
	fx_flush(&f);
	if (!f.ops[op].terminal)
		fx_cancel_wait(&f, op);
	for (; at < f.ops[op].data_len; got++) {
		packet p = next_packet(&f.ops[op], &at, NAME, 0);
		CHECK_EQ(p.out.payload_len, ten(got));
		fx_check_bytes(p.payload, 0, p.out.payload_len, got);
	}
	CHECK(got > 0 && got <= COUNT);
	receive_packets(fd, got, COUNT, ten);
	peer_close(fd);
	peer_close(peer);
	fx_end(&f);
}

/* The driver goes while receives wait and datagrams lie in the socket. */
static void test_packet_abandon(void)
{
	vq_addr here;
	vq_addr there;

	begin();
	int fd = peer_datagram(&here);
	int peer = peer_datagram(&there);
	(void)fx_recvmsg(&f, fd, NAME, CONTROL);
	(void)fx_recvmsg(&f, peer, NAME, CONTROL);
	fx_flush(&f);
	send_packets(peer, &here, 0, 20, ten);
	fx_submit(&f, 0);
	peer_close(fd);
	peer_close(peer);
	fx_abandon(&f);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_packet_one),          CHECK_TEST(test_packet_order),
	CHECK_TEST(test_packet_fills_buffer), CHECK_TEST(test_packet_truncated),
	CHECK_TEST(test_packet_control),      CHECK_TEST(test_packet_enobufs),
	CHECK_TEST(test_packet_many_sockets), CHECK_TEST(test_send_to),
	CHECK_TEST(test_packet_error),        CHECK_TEST(test_packet_bad_group),
	CHECK_TEST(test_packet_overflow),     CHECK_TEST(test_packet_abandon),
};

FX_MAIN(tests)
