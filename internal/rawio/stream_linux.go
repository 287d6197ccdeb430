//go:build linux && !386 && !s390x

package rawio

// Sending and receiving on connected sockets. 386 and s390x have no numbers for these calls in
// package syscall, and do without.

import (
	"syscall"
	"unsafe"
)

// Available reports whether Recv and Send work here.
const Available = true

// RawBytesMax is the most that a raw call may copy, in bytes: about 10 µs. Without a bound, the pauses
// in which the collector waits for every thread grow with the socket buffers.
const RawBytesMax = 64 << 10

// callBytesMax bounds any call, as package net does.
const callBytesMax = 1 << 30

// Recv receives into p, which is not empty, what is there: recvfrom(2). again says that nothing is.
// Errors are of type syscall.Errno, and never EINTR. The call has p until it returns. Any goroutine
// that keeps fd open.
func Recv(fd uintptr, p []byte) (n int, again bool, err error) {
	for {
		r, errno := call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
		switch errno {
		case 0:
			markReceived(fd, p[:r])
			return r, false, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, true, nil
		default:
			return 0, false, errno
		}
	}
}

// MarkStaged tells the race detector of a write that goes out by other means than Send: what came before
// it comes before what follows its receipt. Any goroutine.
func MarkStaged() { markSending() }

// Send sends what there is room for of p, which is not empty: sendto(2), without SIGPIPE. again says
// that there is no room. Errors are of type syscall.Errno, and never EINTR. The call has p until it
// returns. Any goroutine that keeps fd open.
func Send(fd uintptr, p []byte) (n int, again bool, err error) {
	markSending()
	for {
		r, errno := call(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		switch errno {
		case 0:
			markSent(p[:r])
			return r, false, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, true, nil
		default:
			return 0, false, errno
		}
	}
}

func call(number, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	at := unsafe.Pointer(unsafe.SliceData(p))
	size := uintptr(min(len(p), callBytesMax))
	var r uintptr
	var errno syscall.Errno
	if size <= RawBytesMax {
		r, _, errno = syscall.RawSyscall6(number, fd, uintptr(at), size, flags, 0, 0)
	} else {
		r, _, errno = syscall.Syscall6(number, fd, uintptr(at), size, flags, 0, 0)
	}
	return int(r), errno
}
