//go:build cgo

package core

// What of the boundary differs on Linux: error numbers, memory, ports.

/*
#include <stdlib.h>
*/
import "C"

import (
	"syscall"
	"unsafe"
)

// ReusePort reports whether several sockets can listen on one port and share its connections.
const ReusePort = true

// SharesSockets reports whether a driver can send on a socket that Go's netpoller watches.
const SharesSockets = true

// UnixStreams and UnixDatagrams report whether the system may have such sockets; a stream's making says
// whether it has.
const (
	UnixStreams   = true
	UnixDatagrams = true
)

// Segments reports whether the driver has one send cut into several datagrams.
const Segments = true

// What package net calls the system calls behind a stream or datagram in its errors.
const (
	NameRead    = "read"
	NameWrite   = "write"
	NameAccept  = "accept"
	NameConnect = "connect"
	NameRecv    = "recvmsg"
	NameSend    = "sendmsg"
)

// Address families: socket(7).
const (
	systemAFUnix = 1
	systemAF4    = 2
	systemAF6    = 10
)

// sysError returns the system's error of a portable number, which is the same here.
func sysError(e Errno) error {
	if e == ErrNoDriver {
		return nil
	}
	return syscall.Errno(e)
}

// Alloc returns size bytes of C memory, aligned for a cache line and zeroed, or nil. Free frees it.
func Alloc(size uintptr) unsafe.Pointer {
	rounded := (size + 63) &^ 63
	p := C.aligned_alloc(64, C.size_t(rounded))
	if p != nil {
		clear(unsafe.Slice((*byte)(p), rounded))
	}
	return p
}

// Free frees what Alloc returned.
func Free(p unsafe.Pointer) { C.free(p) }

// enterRing submits what is before the tail of the ring, and has the kernel post what it has completed:
// io_uring_enter(2). 0 for what vq_driver_enter takes for success too.
func enterRing(fd int32, count uint32) Errno {
	const number, getEvents = 426, 1 // on every architecture
	_, _, errno := syscall.RawSyscall6(number, uintptr(fd), uintptr(count), 0, getEvents, 0, 0)
	switch errno {
	case syscall.EINTR, syscall.EAGAIN, syscall.EBUSY:
		return 0
	}
	return Errno(errno)
}
