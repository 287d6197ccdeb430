/*
 * base.h: what every other header needs: the ABI number, the always-on assertion, cache lines and
 * the portable error numbers.
 */
#ifndef VELOQ_BASE_H
#define VELOQ_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Bumped by every change of a struct, constant or contract that Go shares with C. internal/core
 * compares it with vq_abi() before the first driver is created.
 */
#define VQ_ABI 7

/* Bytes between two words that different CPUs write: 64 on x86-64 and on most arm64 parts. */
#define VQ_CACHE_LINE 64

/*
 * Error numbers, the same on every platform: the values are Linux's errno (asm-generic/errno.h).
 * A function returns >= 0 or the negative of one of these; a completion's res does the same. A
 * platform whose own numbers differ translates before the completion is published.
 */
enum {
	VQ_EPERM = 1,
	VQ_ENOENT = 2,
	VQ_EINTR = 4,
	VQ_EIO = 5,
	VQ_EBADF = 9,
	VQ_EAGAIN = 11,
	VQ_ENOMEM = 12,
	VQ_EACCES = 13,
	VQ_EFAULT = 14,
	VQ_EBUSY = 16,
	VQ_EINVAL = 22,
	VQ_ENFILE = 23,
	VQ_EMFILE = 24,
	VQ_EPIPE = 32,
	VQ_ENOSYS = 38,
	VQ_ETIME = 62,
	VQ_EDESTADDRREQ = 89,
	VQ_EMSGSIZE = 90,
	VQ_EPROTOTYPE = 91,
	VQ_ENOPROTOOPT = 92,
	VQ_EPROTONOSUPPORT = 93,
	VQ_ESOCKTNOSUPPORT = 94,
	VQ_EOPNOTSUPP = 95,
	VQ_EAFNOSUPPORT = 97,
	VQ_EADDRINUSE = 98,
	VQ_EADDRNOTAVAIL = 99,
	VQ_ENETDOWN = 100,
	VQ_ENETUNREACH = 101,
	VQ_ENETRESET = 102,
	VQ_ECONNABORTED = 103,
	VQ_ECONNRESET = 104,
	VQ_ENOBUFS = 105,
	VQ_EISCONN = 106,
	VQ_ENOTCONN = 107,
	VQ_ETIMEDOUT = 110,
	VQ_ECONNREFUSED = 111,
	VQ_EHOSTDOWN = 112,
	VQ_EHOSTUNREACH = 113,
	VQ_EALREADY = 114,
	VQ_EINPROGRESS = 115,
	VQ_ECANCELED = 125,
	/*
	 * Added to a number of the system that stands for none of these, if it is below this:
	 * Windows has thousands, and which one it was is worth knowing.
	 */
	VQ_ESYSTEM = 0x10000,
};

/*
 * Prints the broken condition to stderr and aborts. Any thread.
 */
_Noreturn void vq_assert_fail(const char *condition, const char *file, int line);

/*
 * Always on, in every build: programmer errors and broken kernel contracts, never input.
 */
#define VQ_ASSERT(condition) \
	((condition) ? (void)0 : vq_assert_fail(#condition, __FILE__, __LINE__))

/*
 * Returns VQ_ABI as the library was compiled. Any thread.
 */
uint32_t vq_abi(void);

#endif
