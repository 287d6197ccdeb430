//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd || windows

package rawio

// Socket options that package net has no setting for. fd is of the type that package syscall has for
// sockets here. Errors are those of setsockopt(2) or listen(2), as *os.SyscallError. Any goroutine
// that keeps fd open.

import (
	"errors"
	"os"
	"syscall"
)

func set(fd uintptr, level, option, value int) error {
	return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(handle(fd), level, option, value))
}

// SetReusePort lets several sockets have the port: SO_REUSEPORT, socket(7). Windows has no such thing.
func SetReusePort(fd uintptr) error {
	if soReusePort == 0 {
		return os.NewSyscallError("setsockopt", errors.ErrUnsupported)
	}
	return set(fd, syscall.SOL_SOCKET, soReusePort, 1)
}

// SetV6Only says whether an IPv6 socket leaves IPv4 alone: ipv6(7).
func SetV6Only(fd uintptr, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return set(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, value)
}

// SetBuffers sets the sizes of the socket's buffers in bytes where they are positive.
func SetBuffers(fd uintptr, receive, send int) error {
	if receive > 0 {
		if err := set(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive); err != nil {
			return err
		}
	}
	if send > 0 {
		return set(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, send)
	}
	return nil
}

// SetTTL sets the time to live of what is sent: ip(7), and on a socket of IPv6, which may send IPv4
// too, ipv6(7).
func SetTTL(fd uintptr, v6 bool, ttl int) error {
	if !v6 {
		return set(fd, syscall.IPPROTO_IP, syscall.IP_TTL, ttl)
	}
	err := set(fd, syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS, ttl)
	if err == nil {
		_ = set(fd, syscall.IPPROTO_IP, syscall.IP_TTL, ttl) // some systems have it on IPv4's sockets alone
	}
	return err
}

// SetBacklog changes the length of a listening socket's accept queue.
func SetBacklog(fd uintptr, n int) error {
	return os.NewSyscallError("listen", syscall.Listen(handle(fd), n))
}
