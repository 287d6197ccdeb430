//go:build unix

package tests

// What the tests ask of the system, where it is a Unix.

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// What a read and then a write on a connection say that the peer has reset.
const (
	readCall      = "read"
	errReset      = syscall.ECONNRESET
	errAfterReset = syscall.EPIPE
)

// errRefused is what package net's dial says where nobody listens.
const errRefused = syscall.ECONNREFUSED

// resetReadsAsEnd: see where it may be true.
func resetReadsAsEnd() bool { return false }

// hasDescriptorLimit: a process can lower how many descriptors it may have.
const hasDescriptorLimit = true

func setBuffers(fd uintptr, bytes int) error {
	return errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes),
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, bytes))
}

// rawWrite is write(2), once.
func rawWrite(fd uintptr, p []byte) (int, error) {
	n, err := syscall.Write(int(fd), p)
	return max(n, 0), err
}

// dialsIPv4Wildcard: package net dials only 127.0.0.1 for "[::]".
const dialsIPv4Wildcard = false

// sendsECN: what a datagram is marked with goes out.
func sendsECN() bool { return true }

// losesErrors: what the network reports of a datagram may get lost.
func losesErrors() bool { return false }

// keepAliveTimes returns the seconds before the first probe and between probes of this process's socket
// with those addresses.
func keepAliveTimes(local, remote net.Addr) (idle, interval int, ok bool) {
	const tcpKeepIdle, tcpKeepInterval = 4, 5 // Linux's, which package syscall lacks elsewhere
	if runtime.GOOS != "linux" {
		return 0, 0, false
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		at, err := syscall.Getsockname(fd)
		if err != nil || portOf(at) != local.(*net.TCPAddr).Port {
			continue
		}
		to, err := syscall.Getpeername(fd)
		if err != nil || portOf(to) != remote.(*net.TCPAddr).Port {
			continue
		}
		idle, err1 := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, tcpKeepIdle)
		interval, err2 := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, tcpKeepInterval)
		return idle, interval, err1 == nil && err2 == nil
	}
	return 0, 0, false
}

func portOf(sa syscall.Sockaddr) int {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return sa.Port
	case *syscall.SockaddrInet6:
		return sa.Port
	}
	return -1
}

// shortListener listens with the shortest queue there is.
func shortListener() (addr string, closeIt func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return "", nil, err
	}
	closeIt = func() { _ = syscall.Close(fd) }
	syscall.CloseOnExec(fd)
	sa, err := listenShort(fd)
	if err != nil {
		closeIt()
		return "", nil, err
	}
	port := sa.(*syscall.SockaddrInet4).Port
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String(), closeIt, nil
}

func listenShort(fd int) (syscall.Sockaddr, error) {
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return nil, err
	}
	return syscall.Getsockname(fd)
}

func openDescriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func limitDescriptors(n int) error {
	var limit syscall.Rlimit
	setLimit(&limit.Cur, n)
	setLimit(&limit.Max, n)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// setLimit is for fields whose type is not the same everywhere.
func setLimit[T int64 | uint64](field *T, n int) { *field = T(n) }

func descriptorsMax() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

// rssBytes is the resident size of this process.
func rssBytes() int {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize()
}

// dropChecksums makes a UDP socket send without checksums, for which the kernel cuts nothing.
func dropChecksums(fd uintptr) error {
	const noCheck = 11 // SO_NO_CHECK, of Linux
	if runtime.GOOS != "linux" {
		return errors.ErrUnsupported
	}
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, noCheck, 1)
}
