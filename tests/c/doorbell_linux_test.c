/*
 * The doorbell: the flag on one thread, the handle, then wakers against a worker that sleeps
 * whenever it finds nothing. A lost wake shows as a wait of WAIT_MS with a message in an edge.
 */
#include "veloq/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "check.h"
#include "veloq/edge.h"

#define WAIT_MS    10000
#define WAKERS_MAX 2
#define CYCLES_MIN (CHECK_TSAN ? UINT64_C(100000) : UINT64_C(1000000))

static int is_ready(const vq_doorbell *d, int timeout_ms)
{
	struct pollfd p = { .fd = (int)d->handle, .events = POLLIN };
	int n;

	do {
		n = poll(&p, 1, timeout_ms);
	} while (n < 0 && errno == EINTR);
	CHECK(n >= 0);
	return n;
}

static void test_claim_awake(void)
{
	vq_doorbell d;

	CHECK_EQ(vq_doorbell_init(&d), 0);
	CHECK(!vq_doorbell_claim(&d));
	vq_doorbell_prepare(&d);
	vq_doorbell_awake(&d);
	CHECK(!vq_doorbell_claim(&d));
	vq_doorbell_deinit(&d);
}

static void test_claim_once(void)
{
	vq_doorbell d;

	CHECK_EQ(vq_doorbell_init(&d), 0);
	for (int i = 0; i < 3; i++) {
		vq_doorbell_prepare(&d);
		CHECK(vq_doorbell_claim(&d));
		CHECK(!vq_doorbell_claim(&d));
	}
	vq_doorbell_prepare_extern(&d);
	CHECK(vq_doorbell_claim_extern(&d));
	CHECK(!vq_doorbell_claim_extern(&d));
	vq_doorbell_prepare_extern(&d);
	vq_doorbell_awake_extern(&d);
	CHECK(!vq_doorbell_claim_extern(&d));
	vq_doorbell_deinit(&d);
}

static void test_ring_makes_ready(void)
{
	vq_doorbell d;

	CHECK_EQ(vq_doorbell_init(&d), 0);
	CHECK_EQ(is_ready(&d, 0), 0);
	CHECK_EQ(vq_doorbell_drain(&d), 0);
	vq_doorbell_ring(&d);
	vq_doorbell_ring(&d);
	CHECK_EQ(is_ready(&d, 0), 1);
	CHECK_EQ(vq_doorbell_drain(&d), 1); /* both at once */
	CHECK_EQ(is_ready(&d, 0), 0);
	CHECK_EQ(vq_doorbell_drain(&d), 0);
	vq_doorbell_deinit(&d);
}

static void test_ring_saturated(void)
{
	const uint64_t full = UINT64_MAX - 1;
	vq_doorbell d;

	CHECK_EQ(vq_doorbell_init(&d), 0);
	CHECK_EQ(write((int)d.handle, &full, sizeof(full)), (int)sizeof(full));
	vq_doorbell_ring(&d); /* neither blocks nor asserts */
	CHECK_EQ(is_ready(&d, 0), 1);
	CHECK_EQ(vq_doorbell_drain(&d), 1);
	vq_doorbell_deinit(&d);
}

static void test_handle_flags(void)
{
	vq_doorbell d;

	CHECK_EQ(vq_doorbell_init(&d), 0);
	CHECK((fcntl((int)d.handle, F_GETFD) & FD_CLOEXEC) != 0);
	CHECK((fcntl((int)d.handle, F_GETFL) & O_NONBLOCK) != 0);
	vq_doorbell_deinit(&d);
}

static void test_deinit_twice(void)
{
	vq_doorbell d;

	CHECK_EQ(vq_doorbell_init(&d), 0);
	const int fd = (int)d.handle;
	vq_doorbell_deinit(&d);
	CHECK_EQ(fcntl(fd, F_GETFD), -1);
	CHECK_EQ(errno, EBADF);
	const int other = dup(STDOUT_FILENO);
	CHECK_EQ(other, fd);
	vq_doorbell_deinit(&d);
	CHECK(fcntl(other, F_GETFD) >= 0);
	close(other);
}

/* One worker, some wakers, an edge from each. */
struct house {
	uint32_t wakers;
	vq_doorbell doorbell;
	vq_edge *edges[WAKERS_MAX];
	/* The worker's count of messages consumed from each waker, and its word to stop. */
	alignas(VQ_CACHE_LINE) _Atomic uint64_t consumed[WAKERS_MAX];
	alignas(VQ_CACHE_LINE) _Atomic int stop;
	/* Sums, written by each thread once at its end. */
	_Atomic uint64_t rings;
	_Atomic uint64_t published;
};

struct waker {
	struct house *h;
	uint32_t index;
	/* Messages that may be in flight: 1 sends the worker to sleep after each. */
	uint64_t in_flight_max;
};

/*
 * Both sides pause by lengths that change from message to message, which sweeps the waker's push
 * across the worker's way from its last pop to its wait: the race that the re-check and the two
 * fences decide is a few ns wide, and unswept the worker is always through before the push.
 */
static void pause_for(uint64_t turns)
{
	for (volatile uint64_t left = turns; left > 0; left = left - 1)
		;
}

static void *waker_main(void *arg)
{
	const struct waker *w = arg;
	struct house *h = w->h;
	uint64_t sent = 0;
	uint64_t rings = 0;
	uint64_t idle = 0;

	/* relaxed: only ends the loop */
	while (atomic_load_explicit(&h->stop, memory_order_relaxed) == 0) {
		/* relaxed: only paces the waker */
		if (sent - atomic_load_explicit(&h->consumed[w->index], memory_order_relaxed) >=
		    w->in_flight_max) {
			/* With one CPU the worker gets on only when the waker lets it. */
			if (++idle % 64 == 0)
				sched_yield();
			continue;
		}
		pause_for(sent % 64);
		const vq_msg m = { .kind = w->index, .token = sent };
		CHECK_EQ(vq_edge_push(h->edges[w->index], &m, 1), 1);
		sent++;
		if (vq_doorbell_claim(&h->doorbell)) {
			vq_doorbell_ring(&h->doorbell);
			rings++;
		}
	}
	/* relaxed: read after the join */
	atomic_fetch_add_explicit(&h->rings, rings, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->published, sent, memory_order_relaxed);
	return NULL;
}

/* Consumes what is there; returns how many messages. */
static uint32_t consume(struct house *h, uint64_t *next)
{
	uint32_t total = 0;

	for (uint32_t i = 0; i < h->wakers; i++) {
		vq_msg msgs[16];
		const uint32_t count = vq_edge_pop(h->edges[i], msgs, 16);
		for (uint32_t j = 0; j < count; j++) {
			CHECK_EQ(msgs[j].kind, i);
			CHECK_EQ(msgs[j].token, next[i]++);
		}
		if (count > 0)
			/* relaxed: only paces the waker */
			atomic_store_explicit(&h->consumed[i], next[i], memory_order_relaxed);
		total += count;
	}
	return total;
}

static uint32_t waiting(const struct house *h)
{
	uint32_t total = 0;

	for (uint32_t i = 0; i < h->wakers; i++)
		total += vq_edge_len(h->edges[i]);
	return total;
}

static void wake_cycles(uint32_t wakers_count, uint64_t in_flight_max, uint64_t cycles_min)
{
	static struct house h;
	struct waker wakers[WAKERS_MAX];
	pthread_t threads[WAKERS_MAX];
	uint64_t next[WAKERS_MAX] = { 0 };
	uint64_t waits = 0;
	uint64_t cycles;

	memset(&h, 0, sizeof(h));
	h.wakers = wakers_count;
	CHECK_EQ(vq_doorbell_init(&h.doorbell), 0);
	for (uint32_t i = 0; i < h.wakers; i++) {
		h.edges[i] = aligned_alloc(VQ_CACHE_LINE, vq_edge_size_bytes(16));
		CHECK(h.edges[i] != NULL);
		CHECK_EQ(vq_edge_init(h.edges[i], 16), 0);
		wakers[i] = (struct waker){ &h, i, in_flight_max };
		CHECK_EQ(pthread_create(&threads[i], NULL, waker_main, &wakers[i]), 0);
	}
	for (cycles = 0; cycles < cycles_min; cycles++) {
		while (consume(&h, next) > 0)
			pause_for(cycles % 255);
		vq_doorbell_prepare(&h.doorbell);
		if (waiting(&h) == 0) {
			CHECK(is_ready(&h.doorbell, WAIT_MS)); /* else: a lost wake */
			CHECK_EQ(vq_doorbell_drain(&h.doorbell), 1);
			waits++;
		}
		vq_doorbell_awake(&h.doorbell);
	}
	/* relaxed: only ends the loop */
	atomic_store_explicit(&h.stop, 1, memory_order_relaxed);
	for (uint32_t i = 0; i < h.wakers; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	while (consume(&h, next) > 0)
		;
	CHECK_EQ(next[0] + next[1], h.published);
	CHECK(h.rings <= cycles); /* one prepare, one ring at most */
	printf("(%" PRIu64 " cycles, %" PRIu64 " waits, %" PRIu64 " messages, %" PRIu64 " rings) ",
	       cycles, waits, (uint64_t)h.published, (uint64_t)h.rings);
	for (uint32_t i = 0; i < h.wakers; i++)
		free(h.edges[i]);
	vq_doorbell_deinit(&h.doorbell);
}

/* Alone and with one message in flight, a waker that does not ring has nobody to cover for it. */
static void test_wake_one_waker(void)
{
	wake_cycles(1, 1, CYCLES_MIN);
}

static void test_wake_two_wakers(void)
{
	wake_cycles(2, 1, CYCLES_MIN / 5);
}

static void test_wake_many_in_flight(void)
{
	wake_cycles(2, 16, CYCLES_MIN / 5);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_claim_awake),         CHECK_TEST(test_claim_once),
	CHECK_TEST(test_ring_makes_ready),    CHECK_TEST(test_ring_saturated),
	CHECK_TEST(test_handle_flags),        CHECK_TEST(test_deinit_twice),
	CHECK_TEST(test_wake_one_waker),      CHECK_TEST(test_wake_two_wakers),
	CHECK_TEST(test_wake_many_in_flight),
};

CHECK_MAIN(tests)
