//go:build cgo

package core

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

// Goal: an error of the core is both what package net returns on Windows and what portable programs
// test for.
func TestErrno_BothNames(t *testing.T) {
	for _, c := range []struct {
		e             Errno
		winsock, name syscall.Errno
	}{
		{ErrnoCONNABORTED, syscall.WSAECONNABORTED, syscall.ECONNABORTED},
		{104, syscall.WSAECONNRESET, syscall.ECONNRESET},
		{111, 10061, syscall.ECONNREFUSED},
		{98, 10048, syscall.EADDRINUSE},
		{ErrnoPIPE, 10058, syscall.EPIPE},
		{110, 10060, syscall.ETIMEDOUT},
		{ErrnoAGAIN, 10035, syscall.EAGAIN},
		{13, syscall.WSAEACCES, syscall.EACCES},
		{90, 10040, syscall.EMSGSIZE},
		{92, 10042, syscall.ENOPROTOOPT},
		{97, 10047, syscall.EAFNOSUPPORT},
		{99, 10049, syscall.EADDRNOTAVAIL},
		{100, 10050, syscall.ENETDOWN},
		{101, 10051, syscall.ENETUNREACH},
		{112, 10064, syscall.EHOSTDOWN},
		{113, 10065, syscall.EHOSTUNREACH},
	} {
		err := error(&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError(NameRead, c.e.Sys())})
		if !errors.Is(err, c.winsock) || !errors.Is(err, c.name) || !errors.Is(c.e, c.name) {
			t.Errorf("%v is not both %d and %d", err, c.winsock, c.name)
		}
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.Errno(2)) {
			t.Errorf("%v is another's", err)
		}
		var number syscall.Errno
		if !errors.As(err, &number) || number != c.winsock {
			t.Errorf("%v yields %d, not %d", err, number, c.winsock)
		}
		if timeout := err.(net.Error).Timeout(); timeout != c.name.Timeout() {
			t.Errorf("%v: timeout %v", err, timeout)
		}
		if want := fmt.Sprintf("read tcp: %s: %s", NameRead, c.winsock); err.Error() != want {
			t.Errorf("%q, not %q", err.Error(), want)
		}
	}
}

// Goal: a number of the system's that no portable one stands for is not lost on the way.
func TestErrno_SystemsOwn(t *testing.T) {
	const noSuchHost = syscall.Errno(11001) // WSAHOST_NOT_FOUND
	err := error(errnoSystem + Errno(noSuchHost))
	if !errors.Is(err, noSuchHost) || err.Error() != noSuchHost.Error() {
		t.Errorf("%v is not %v", err, noSuchHost)
	}
	if errors.Is(err, syscall.EIO) || errors.Is(error(errnoSystem), syscall.Errno(0)) {
		t.Errorf("%v is another's", err)
	}
}
