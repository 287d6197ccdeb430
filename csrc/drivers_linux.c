/* drivers_linux.c: the drivers of Linux, best first. */
#include "epoll_linux.h"
#include "uring_linux.h"

const vq__driver_ops *const vq__drivers[] = { &vq__uring_ops, &vq__epoll_ops, NULL };
