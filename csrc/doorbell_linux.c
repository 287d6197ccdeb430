/*
 * The doorbell's handle on Linux: an eventfd. Changes when how a ring reaches the kernel does.
 */
#include "veloq/doorbell.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int vq_doorbell_init(vq_doorbell *d)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	atomic_init(&d->sleeping, 0);
	d->reserved = 0;
	d->handle = fd;
	return 0;
}

void vq_doorbell_deinit(vq_doorbell *d)
{
	if (d->handle < 0)
		return;
	/* EINTR included, Linux has released the number: a second close could hit a stranger's. */
	(void)close((int)d->handle);
	d->handle = -1;
}

void vq_doorbell_ring(vq_doorbell *d)
{
	const uint64_t one = 1;
	ssize_t n;

	do {
		n = write((int)d->handle, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
	/* EAGAIN: the counter is at its end, so the handle is ready as it is. */
	VQ_ASSERT(n == (ssize_t)sizeof(one) || (n < 0 && errno == EAGAIN));
}

int vq_doorbell_drain(vq_doorbell *d)
{
	uint64_t rings;
	ssize_t n;

	do {
		n = read((int)d->handle, &rings, sizeof(rings));
	} while (n < 0 && errno == EINTR);
	VQ_ASSERT(n == (ssize_t)sizeof(rings) || (n < 0 && errno == EAGAIN));
	return n > 0;
}
