//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package rawio

import "syscall"

func handle(fd uintptr) int { return int(fd) }

const soReusePort = syscall.SO_REUSEPORT
