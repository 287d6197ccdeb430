/*
 * The doorbell's handle on Windows: a completion port, to which a ring is a posted packet. A
 * driver's doorbell has the port that the driver waits on. Changes when how a ring reaches the
 * kernel does.
 */
#include "winsock_windows.h"

#include "veloq/doorbell.h"

#include "iocp_windows.h"

static HANDLE port_of(const vq_doorbell *d)
{
	return (HANDLE)(intptr_t)d->handle;
}

int vq_doorbell_init(vq_doorbell *d)
{
	HANDLE port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);

	if (port == NULL)
		return vq__error(GetLastError());
	atomic_init(&d->sleeping, 0);
	d->reserved = 0;
	d->handle = (intptr_t)port;
	return 0;
}

void vq_doorbell_deinit(vq_doorbell *d)
{
	if (d->handle < 0)
		return;
	(void)CloseHandle(port_of(d));
	d->handle = -1;
}

void vq_doorbell_ring(vq_doorbell *d)
{
	VQ_ASSERT(PostQueuedCompletionStatus(port_of(d), 0, VQ__IOCP_KEY_RING, NULL));
}

int vq_doorbell_drain(vq_doorbell *d)
{
	OVERLAPPED_ENTRY packets[16];
	ULONG count = 0;
	int rung = 0;

	while (GetQueuedCompletionStatusEx(port_of(d), packets, 16, &count, 0, FALSE) && count > 0)
		rung = 1;
	return rung;
}
