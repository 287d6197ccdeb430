/* driver_file_windows_test.c: SEND_FILE: bytes of a file, ends while in flight, what is refused. */
#include "winsock_windows.h"

#include "driver_fixture.h"

static fx f;

/* A file of checked bytes, which is gone when it is closed. */
static HANDLE file_of(size_t len_bytes)
{
	char folder[MAX_PATH];
	char name[MAX_PATH];
	uint8_t *data = malloc(len_bytes);
	DWORD written = 0;

	CHECK(data != NULL);
	CHECK(GetTempPathA(sizeof(folder), folder) > 0);
	CHECK(GetTempFileNameA(folder, "vq", 0, name) != 0);
	HANDLE file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
				  FILE_FLAG_DELETE_ON_CLOSE, NULL);
	CHECK(file != INVALID_HANDLE_VALUE);
	fx_fill(data, 0, len_bytes, 5);
	CHECK(WriteFile(file, data, (DWORD)len_bytes, &written, NULL));
	CHECK_EQ(written, len_bytes);
	free(data);
	return file;
}

static uint32_t send_file(int fd, HANDLE file, uint64_t off, uint32_t len_bytes)
{
	uint32_t op;
	vq_sqe *sqe = fx_stage(&f, VQ_OP_SEND_FILE, fd, &op);

	sqe->addr = (uint64_t)(uintptr_t)file;
	sqe->off = off;
	sqe->len = len_bytes;
	return op;
}

static void test_file_parts(void)
{
	enum { SIZE = 300000 };
	int ends[2];
	uint8_t *got = malloc(SIZE);

	fx_begin(&f);
	CHECK(got != NULL && fx_has(&f, VQ_CAP_SEND_FILE));
	peer_pair(ends);
	HANDLE file = file_of(SIZE);
	for (uint32_t off = 0; off < SIZE; off += 60000) {
		FX_EXPECT(&f, send_file(ends[0], file, off, 60000), 60000);
		peer_recv_all(ends[1], got, 60000);
		fx_check_bytes(got, off, 60000, 5);
	}
	FX_EXPECT(&f, send_file(ends[0], file, SIZE - 1, 1), 1);
	peer_recv_all(ends[1], got, 1);
	fx_check_bytes(got, SIZE - 1, 1, 5);
	free(got);
	CHECK(CloseHandle(file));
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_end(&f);
}

/* A peer that does not read: the op ends when it is asked to, and tells a true prefix. */
static void test_file_cancel(void)
{
	enum { SIZE = 32 << 20 };
	int ends[2];
	uint8_t first[1000];

	fx_begin(&f);
	HANDLE file = file_of(SIZE);
	for (uint32_t round = 0; round < 5; round++) {
		peer_pair(ends);
		uint32_t op = send_file(ends[0], file, 0, SIZE);
		fx_submit(&f, 0);
		peer_recv_all(ends[1], first, sizeof(first));
		fx_check_bytes(first, 0, sizeof(first), 5);
		CHECK(!f.ops[op].terminal);
		fx_cancel_wait(&f, op);
		CHECK(f.ops[op].res == -VQ_ECANCELED ||
		      (f.ops[op].res >= 0 && f.ops[op].res < SIZE));
		peer_close(ends[0]);
		peer_close(ends[1]);
	}
	CHECK(CloseHandle(file));
	fx_end(&f);
}

static void test_file_refused(void)
{
	int ends[2];
	vq_addr bound;

	fx_begin(&f);
	peer_pair(ends);
	HANDLE file = file_of(100);
	FX_EXPECT(&f, send_file(ends[0], file, 0, 0), -VQ_EINVAL);
	FX_EXPECT(&f, send_file(ends[0], file, 0, INT32_MAX), -VQ_EINVAL);
	int datagram = peer_datagram(&bound);
	FX_EXPECT(&f, send_file(datagram, file, 0, 10), -VQ_EOPNOTSUPP);
	peer_close(datagram);
	CHECK(CloseHandle(file));
	uint32_t op = send_file(ends[0], file, 0, 10);
	fx_wait(&f, op);
	CHECK(f.ops[op].res < 0);
	peer_close(ends[0]);
	FX_EXPECT(&f, send_file(ends[0], file, 0, 10), -VQ_EBADF);
	peer_close(ends[1]);
	fx_end(&f);
}

/* The driver goes while a file is on its way. */
static void test_file_abandon(void)
{
	int ends[2];

	fx_begin(&f);
	peer_pair(ends);
	HANDLE file = file_of(32 << 20);
	(void)send_file(ends[0], file, 0, 32 << 20);
	fx_submit(&f, 0);
	peer_close(ends[0]);
	peer_close(ends[1]);
	fx_abandon(&f);
	CHECK(CloseHandle(file));
}

static const struct check_test tests[] = {
	CHECK_TEST(test_file_parts),
	CHECK_TEST(test_file_cancel),
	CHECK_TEST(test_file_refused),
	CHECK_TEST(test_file_abandon),
};

FX_MAIN(tests)
