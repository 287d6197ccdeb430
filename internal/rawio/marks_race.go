//go:build linux && !386 && !s390x && race

package rawio

// What the race detector must be told about calls that it does not see.

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Package syscall's Read and Write order everything before any Write before everything after any Read
// that follows it, by a word of its own. Bytes go between veloq's connections and package net's, so
// the same word must be used here: a Write that fails at once and a Read of nothing do no more than
// mark it. On a socket a read of no bytes returns 0 before it looks at the socket.

func markSending() { _, _ = syscall.Write(-1, nil) }

func markSent(p []byte) {
	if len(p) > 0 {
		runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(p)), len(p))
	}
}

func markReceived(fd uintptr, p []byte) {
	_, _ = syscall.Read(int(fd), nil)
	if len(p) > 0 {
		runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(p)), len(p))
	}
}
