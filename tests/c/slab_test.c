/* Slabs: what is got for what was asked, and that all of it is there. */
#include <string.h>

#include "check.h"
#include "veloq/slab.h"

static void use(int32_t wanted, size_t size_bytes)
{
	void *mem = NULL;
	int got = vq_slab_alloc(size_bytes, wanted, &mem);

	CHECK(got >= VQ_SLAB_PLAIN && got <= wanted);
	CHECK(mem != NULL);
	CHECK_EQ((uintptr_t)mem % 4096, 0);
	if (got != VQ_SLAB_PLAIN)
		CHECK_EQ((uintptr_t)mem % VQ_SLAB_HUGE_BYTES, 0);
	const unsigned char *bytes = mem;
	for (size_t i = 0; i < size_bytes; i += 4096)
		CHECK_EQ(bytes[i], 0);
	memset(mem, 0xff, size_bytes);
	vq_slab_free(mem, size_bytes);
}

static void test_slab_sizes(void)
{
	use(VQ_SLAB_PLAIN, 65536);
	use(VQ_SLAB_PLAIN, 3 * 65536);
	use(VQ_SLAB_ADVISED, VQ_SLAB_HUGE_BYTES);
	use(VQ_SLAB_ADVISED, 3 * VQ_SLAB_HUGE_BYTES);
	use(VQ_SLAB_HUGE, VQ_SLAB_HUGE_BYTES);
}

static void test_slab_wrong_size(void)
{
	void *mem = NULL;

	CHECK_EQ(vq_slab_alloc(0, VQ_SLAB_PLAIN, &mem), -VQ_EINVAL);
	CHECK_EQ(vq_slab_alloc(4096, VQ_SLAB_PLAIN, &mem), -VQ_EINVAL);
	CHECK_EQ(vq_slab_alloc(65536, VQ_SLAB_HUGE, &mem), -VQ_EINVAL);
	CHECK_EQ(vq_slab_alloc(65536, VQ_SLAB_ADVISED, &mem), -VQ_EINVAL);
}

static void test_slab_too_large(void)
{
	void *mem = NULL;

	CHECK_EQ(vq_slab_alloc((size_t)1 << 60, VQ_SLAB_PLAIN, &mem), -VQ_ENOMEM);
	CHECK_EQ(vq_slab_alloc((size_t)1 << 60, VQ_SLAB_HUGE, &mem), -VQ_ENOMEM);
}

static const struct check_test tests[] = {
	CHECK_TEST(test_slab_sizes),
	CHECK_TEST(test_slab_wrong_size),
	CHECK_TEST(test_slab_too_large),
};

CHECK_MAIN(tests)
