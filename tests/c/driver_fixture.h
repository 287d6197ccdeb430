/*
 * driver_fixture.h: what the driver suites share. A fixture is one driver and the owner's half of
 * its contract, with a book kept of every op and every buffer: a second terminal completion, a
 * missing one, a foreign token, a region given twice or a buffer not given back ends the test.
 *
 * Every suite runs once for each config of fx_configs; VELOQ_TEST_CONFIG names a single one.
 */
#ifndef VELOQ_TESTS_DRIVER_FIXTURE_H
#define VELOQ_TESTS_DRIVER_FIXTURE_H

#include <pthread.h>

#include "veloq/driver.h"

#include "check.h"
#include "peer.h"

typedef struct fx_config {
	const char *name;
	vq_driver_config driver;
} fx_config;

extern const fx_config fx_configs[];
extern const fx_config *fx_config_used;

/* One op, from its staging to the end of the fixture: tokens are never used twice. */
typedef struct fx_op {
	bool more_allowed; /* multishot, or SEND_ZC */
	bool skip;         /* success may post nothing */
	bool packets;      /* its buffers are of the packet group, one whole one each time */
	bool terminal;
	uint32_t count;  /* completions seen */
	int32_t res;     /* the latest one's */
	uint32_t flags;  /* the latest one's */
	uint8_t *data;   /* what arrived in buffers of the group */
	size_t data_len; /* bytes */
	size_t data_cap;
	void *memory; /* what the op points at, when the fixture made it */
} fx_op;

typedef struct fx_buffer {
	bool offered;  /* in the group */
	uint32_t used; /* bytes that completions gave out since it was offered */
} fx_buffer;

typedef struct fx fx;
struct fx {
	vq_driver *driver;
	vq_driver_report report;
	vq_driver_view view;
	uint32_t sq_tail;
	uint32_t cq_seen;
	uint16_t buf_tail;
	uint16_t packet_tail;
	uint32_t op_count;
	uint32_t op_room;
	fx_op *ops;
	fx_buffer *buffers;
	uint32_t buffers_held;
	bool *packets; /* in the group */
	uint32_t packets_held;
	bool hold_buffers; /* keep full buffers until fx_return_buffers */
	uint32_t open_before;
	/* Called for each completion, after the book is kept. */
	void (*on_completion)(fx *f, uint32_t op, const vq_cqe *cqe);
	void *context;
};

/* Creates the driver of the config in use. The calling thread owns it. */
void fx_begin(fx *f);

/* Checks that nothing is missing, and destroys. Sockets must be closed before. */
void fx_end(fx *f);

/* Destroys whatever is in flight; only descriptors are checked. */
void fx_abandon(fx *f);

static inline bool fx_has(const fx *f, uint32_t cap)
{
	return (f->report.caps & cap) != 0;
}

/* Whether it serves that, itself or through the system. */
static inline bool fx_can(const fx *f, uint32_t cap)
{
	return ((f->report.caps | f->report.emulated) & cap) != 0;
}

/* The next submission, zeroed, with the token of *op; enters when the ring is full. */
vq_sqe *fx_stage(fx *f, uint8_t opcode, int fd, uint32_t *op);

/* Each stages one op and returns its place in f->ops. */
uint32_t fx_nop(fx *f, uint8_t sqe_flags);
uint32_t fx_accept(fx *f, int fd, uint16_t mode);
uint32_t fx_connect(fx *f, int fd, const vq_addr *to);
uint32_t fx_recv(fx *f, int fd, uint16_t mode);
/* Datagrams, with that space for names and control; op->data gets each buffer up to its payload. */
uint32_t fx_recvmsg(fx *f, int fd, uint32_t name_len, uint32_t control_len);
uint32_t fx_recv_into(fx *f, int fd, void *data, uint32_t len_bytes);
uint32_t fx_send(fx *f, int fd, const void *data, uint32_t len_bytes, uint32_t msg_flags);
/* Posts nothing when all went well, where the driver has VQ_CAP_SKIP_SUCCESS. */
uint32_t fx_send_skip(fx *f, int fd, const void *data, uint32_t len_bytes, uint32_t msg_flags);
uint32_t fx_sendmsg(fx *f, int fd, const vq_msghdr *message, uint32_t msg_flags);
uint32_t fx_sendmsg_skip(fx *f, int fd, const vq_msghdr *message, uint32_t msg_flags);
uint32_t fx_cancel(fx *f, uint32_t target);
uint32_t fx_timeout(fx *f, const vq_timespec *after);
uint32_t fx_timeout_update(fx *f, uint32_t target, const vq_timespec *after);
uint32_t fx_shutdown(fx *f, int fd, uint32_t how);
uint32_t fx_close(fx *f, int fd);
uint32_t fx_poll(fx *f, int fd, uint32_t events, uint32_t mode);
uint32_t fx_wake(fx *f);

/* Enters once without collecting. */
void fx_submit(fx *f, uint32_t wait_count);

/* Reads what is in the completion ring; returns how many. */
uint32_t fx_collect(fx *f);

/* fx_submit, then fx_collect. */
void fx_turn(fx *f, uint32_t wait_count);

/* The same with vq_driver_enter_delayed. Returns how many it collected. */
uint32_t fx_turn_delayed(fx *f, uint32_t wait_count, uint32_t delay_us);

/* Until all that is staged is consumed and what that yields at once is collected. */
void fx_flush(fx *f);

/* Until the op's terminal completion; until it has that many completions, or bytes. */
void fx_wait(fx *f, uint32_t op);
void fx_wait_count(fx *f, uint32_t op, uint32_t count);
void fx_wait_bytes(fx *f, uint32_t op, size_t len_bytes);

/* What a DONTWAIT send of fx_send_skip or fx_sendmsg_skip did: its completion, or all of it. */
int32_t fx_sent(fx *f, uint32_t op, uint32_t len_bytes);

/* Cancels, and waits for both answers. */
void fx_cancel_wait(fx *f, uint32_t target);

/*
 * Rings the doorbell so often, and each time turns until it is heard: waiting for so many
 * completions, with that delay unless it is 0.
 */
void fx_hear_rings(fx *f, uint32_t rounds, uint32_t wait_count, uint32_t delay_us);

/*
 * Ends a receive of a stream, by a cancel if need be. Its bytes are checked from that position on;
 * returns how many there are in buffers of the group.
 */
size_t fx_recv_end(fx *f, uint32_t op, uint64_t position, uint32_t seed);

/* Gives back every buffer that is held. */
void fx_return_buffers(fx *f);

/* Waits for the end of an op, and says where the caller stands when its result is another. */
#define FX_EXPECT(f, op, want)                             \
	do {                                               \
		const uint32_t fx_expected = (op);         \
		fx_wait(f, fx_expected);                   \
		CHECK_EQ((f)->ops[fx_expected].res, want); \
	} while (0)

/* Checked bytes: the byte at a position of a stream with a seed. */
static inline uint8_t fx_byte(uint64_t position, uint32_t seed)
{
	uint64_t x = (position + 1) * UINT64_C(0x9E3779B97F4A7C15) + seed;
	return (uint8_t)(x >> 40);
}
void fx_fill(void *data, uint64_t position, size_t len_bytes, uint32_t seed);
void fx_check_bytes(const void *data, uint64_t position, size_t len_bytes, uint32_t seed);

/* xorshift; the state is never 0. */
uint32_t fx_random(uint32_t *state);

/* A thread at the other end, which writes or reads and checks a stream in random pieces. */
typedef struct fx_stream {
	pthread_t thread;
	int fd;
	uint32_t seed;
	size_t total_bytes;
	size_t piece_bytes_max;
} fx_stream;

void fx_stream_write(fx_stream *s, int fd, size_t total_bytes, size_t piece_max, uint32_t seed);
void fx_stream_read(fx_stream *s, int fd, size_t total_bytes, size_t piece_max, uint32_t seed);
void fx_stream_join(fx_stream *s);

/* 0, or the reason why the driver of the config in use can't be created here. */
int fx_unavailable(void);

/* Every config, or those that can be had of one kind of driver. */
static inline int fx_run(const struct check_test *tests, size_t count, uint32_t kind, int argc,
			 char **argv)
{
	static fx_config of_kind;
	const char *only = getenv("VELOQ_TEST_CONFIG");
	int result = 77;
	int skipped = 0;

	for (const fx_config *config = fx_configs; config->name != NULL; config++) {
		if (only != NULL && strcmp(only, config->name) != 0)
			continue;
		fx_config_used = config;
		if (kind != VQ_DRIVER_AUTO) {
			if (config->driver.kind != VQ_DRIVER_AUTO && config->driver.kind != kind)
				continue;
			of_kind = *config;
			of_kind.driver.kind = kind;
			fx_config_used = &of_kind;
		}
		int reason = fx_unavailable();
		if (reason != 0) {
			printf("-- %s: skipped: no such driver here, error %d\n", config->name,
			       reason);
			skipped++;
			continue;
		}
		printf("-- %s\n", config->name);
		int rc = check_run(tests, count, argc, argv);
		if (rc == 1)
			return 1;
		if (rc == 0)
			result = 0;
	}
	if (skipped > 0)
		printf("%d configs skipped\n", skipped);
	return result;
}

#define FX_MAIN_OF(tests, kind)                                                             \
	int main(int argc, char **argv)                                                     \
	{                                                                                   \
		return fx_run(tests, sizeof(tests) / sizeof((tests)[0]), kind, argc, argv); \
	}
#define FX_MAIN(tests) FX_MAIN_OF(tests, VQ_DRIVER_AUTO)

#endif
