/* features_test.c: the features that vq_features tells of are told the same each time, and hold. */
#include "veloq/features.h"

#include "check.h"
#include "peer.h"

static void test_known_and_stable(void)
{
	uint32_t known = 0;
	uint32_t again = 0;
	uint32_t before = peer_open_count();
	uint32_t found = vq_features(&known);

	CHECK_EQ(found & ~known, 0);
	CHECK((known & VQ_FEATURE_KEEPALIVE_TIMES) != 0);
	CHECK_EQ(vq_features(&again), found);
	CHECK_EQ(again, known);
	/* Nothing that was opened for trying stays open. */
	CHECK_EQ(peer_open_count(), before);
	printf("known %#x, found %#x\n", (unsigned)known, (unsigned)found);
}

/* One that a live socket can be asked about without more. */
static void test_keepalive_times_hold(void)
{
	uint32_t known = 0;
	const vq_socket_config config = { 0 };
	int32_t call = 0;
	int32_t seconds = 0;
	bool there = (vq_features(&known) & VQ_FEATURE_KEEPALIVE_TIMES) != 0;
	int fd = vq_socket_stream(VQ_AF_INET, &config, &call);

	CHECK(fd >= 0);
	CHECK_EQ(vq_socket_get(fd, VQ_OPT_KEEP_IDLE_S, &seconds) == 0, there);
	if (there) {
		CHECK_EQ(vq_socket_set(fd, VQ_OPT_KEEP_IDLE_S, 77), 0);
		CHECK_EQ(vq_socket_get(fd, VQ_OPT_KEEP_IDLE_S, &seconds), 0);
		CHECK_EQ(seconds, 77);
	}
	peer_close(fd);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_known_and_stable),
	CHECK_TEST(test_keepalive_times_hold),
};

CHECK_MAIN(tests)
