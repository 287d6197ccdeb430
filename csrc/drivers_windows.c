/* drivers_windows.c: the drivers of Windows, best first. */
#include "iocp_windows.h"

const vq__driver_ops *const vq__drivers[] = { &vq__iocp_ops, NULL };
