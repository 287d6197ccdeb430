package rawio

import (
	"runtime"
	"strings"
)

func handle(fd uintptr) int { return int(fd) }

// Package syscall has SO_REUSEPORT for some of Linux's architectures only.
var soReusePort = func() int {
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		return 0x200
	}
	return 15
}()
