/* drivers_linux.c: the drivers of Linux, best first. */
#include "uring_linux.h"

const vq__driver_ops *const vq__drivers[] = { &vq__uring_ops, NULL };
