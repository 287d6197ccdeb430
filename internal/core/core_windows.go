//go:build cgo

package core

// What of the boundary differs on Windows: error numbers, memory, ports.

/*
#include <malloc.h>
*/
import "C"

import (
	"syscall"
	"unsafe"
)

// ReusePort reports whether several sockets can listen on one port and share its connections: not on
// Windows, whose SO_REUSEADDR gives a port to the last who asks for it.
const ReusePort = false

// SharesSockets reports whether a driver can send on a socket that Go's netpoller watches: a socket
// belongs to one completion port for good.
const SharesSockets = false

// UnixStreams and UnixDatagrams report whether the system may have such sockets; a stream's making says
// whether it has.
const (
	UnixStreams   = true
	UnixDatagrams = false
)

// Segments reports whether the driver has one send cut into several datagrams.
const Segments = false

// What package net calls the system calls behind a stream or datagram in its errors.
const (
	NameRead    = "wsarecv"
	NameWrite   = "wsasend"
	NameAccept  = "acceptex"
	NameConnect = "connectex"
	NameRecv    = "wsarecvmsg"
	NameSend    = "wsasendmsg"
)

// Address families of ws2def.h.
const (
	systemAFUnix = 1
	systemAF4    = 2
	systemAF6    = 23
)

// A sysErrno is one of the system's errors that goes by two names. Package net's errors on Windows
// hold Winsock's number (WSAECONNRESET); programs written for all systems test for the name that
// package syscall invents for Windows (ECONNRESET, a number that Windows never returns). errors.Is
// is true for both here, and errors.As yields Winsock's.
type sysErrno struct {
	errno    syscall.Errno // the system's
	invented syscall.Errno
}

// Error is the system's text.
func (e sysErrno) Error() string { return e.errno.Error() }

// Unwrap returns the system's number.
func (e sysErrno) Unwrap() error { return e.errno }

// Is reports whether target is the invented name.
func (e sysErrno) Is(target error) bool { return target == e.invented }

// Timeout implements net.Error.
func (e sysErrno) Timeout() bool { return e.invented.Timeout() }

// Temporary implements net.Error.
func (e sysErrno) Temporary() bool { return e.invented.Temporary() || e.errno.Temporary() }

// errnoSystem is VQ_ESYSTEM: added to a number of the system that has no portable one.
const errnoSystem Errno = 0x10000

// sysErrnos holds the portable numbers (include/veloq/base.h) that occur on Windows.
var sysErrnos = map[Errno]sysErrno{
	1:   {syscall.ERROR_ACCESS_DENIED, syscall.EPERM},
	2:   {syscall.ERROR_FILE_NOT_FOUND, syscall.ENOENT},
	4:   {10004, syscall.EINTR},
	5:   {1117, syscall.EIO}, // ERROR_IO_DEVICE
	9:   {10038, syscall.EBADF},
	11:  {10035, syscall.EAGAIN},
	12:  {8, syscall.ENOMEM}, // ERROR_NOT_ENOUGH_MEMORY
	13:  {syscall.WSAEACCES, syscall.EACCES},
	14:  {10014, syscall.EFAULT},
	16:  {170, syscall.EBUSY}, // ERROR_BUSY
	22:  {10022, syscall.EINVAL},
	23:  {10024, syscall.ENFILE},
	24:  {10024, syscall.EMFILE},
	32:  {10058, syscall.EPIPE}, // WSAESHUTDOWN
	38:  {120, syscall.ENOSYS},  // ERROR_CALL_NOT_IMPLEMENTED
	62:  {10060, syscall.ETIME},
	89:  {10039, syscall.EDESTADDRREQ},
	90:  {10040, syscall.EMSGSIZE},
	91:  {10041, syscall.EPROTOTYPE},
	92:  {10042, syscall.ENOPROTOOPT},
	93:  {10043, syscall.EPROTONOSUPPORT},
	94:  {10044, syscall.ESOCKTNOSUPPORT},
	95:  {10045, syscall.EOPNOTSUPP},
	97:  {10047, syscall.EAFNOSUPPORT},
	98:  {10048, syscall.EADDRINUSE},
	99:  {10049, syscall.EADDRNOTAVAIL},
	100: {10050, syscall.ENETDOWN},
	101: {10051, syscall.ENETUNREACH},
	102: {10052, syscall.ENETRESET},
	103: {syscall.WSAECONNABORTED, syscall.ECONNABORTED},
	104: {syscall.WSAECONNRESET, syscall.ECONNRESET},
	105: {10055, syscall.ENOBUFS},
	106: {10056, syscall.EISCONN},
	107: {10057, syscall.ENOTCONN},
	110: {10060, syscall.ETIMEDOUT},
	111: {10061, syscall.ECONNREFUSED},
	112: {10064, syscall.EHOSTDOWN},
	113: {10065, syscall.EHOSTUNREACH},
	114: {10037, syscall.EALREADY},
	115: {10036, syscall.EINPROGRESS},
	125: {syscall.ERROR_OPERATION_ABORTED, syscall.ECANCELED},
}

// sysError returns the system's error of a portable number, or nil.
func sysError(e Errno) error {
	if s, ok := sysErrnos[e]; ok {
		return s
	}
	if e > errnoSystem && e < 2*errnoSystem {
		return syscall.Errno(e - errnoSystem)
	}
	return nil
}

// Alloc returns size bytes of C memory, aligned for a cache line and zeroed, or nil. Free frees it.
func Alloc(size uintptr) unsafe.Pointer {
	rounded := (size + 63) &^ 63
	p := C._aligned_malloc(C.size_t(rounded), 64)
	if p != nil {
		clear(unsafe.Slice((*byte)(p), rounded))
	}
	return p
}

// Free frees what Alloc returned.
func Free(p unsafe.Pointer) { C._aligned_free(p) }

// enterRing is for plain rings, which there are none of here.
func enterRing(int32, uint32) Errno { panic("core: no ring") }
