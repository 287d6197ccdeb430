package tests

// What the tests ask of the system, where it is Windows.

import (
	"errors"
	"net"
	"syscall"
)

// What a read and then a write on a connection say that the peer has reset.
const (
	readCall      = "wsarecv"
	errReset      = syscall.WSAECONNRESET
	errAfterReset = syscall.WSAECONNRESET
)

// errRefused is what package net's dial says where nobody listens: WSAECONNREFUSED.
const errRefused = syscall.Errno(10061)

// resetReadsAsEnd: a reset behind unread bytes is an orderly end to who reads them, under Wine also by
// a plain recv.
func resetReadsAsEnd() bool { return underWine() }

func underWine() bool {
	return syscall.NewLazyDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}

// hasDescriptorLimit: there is none that a process could lower.
const hasDescriptorLimit = false

func setBuffers(fd uintptr, bytes int) error {
	s := syscall.Handle(fd)
	return errors.Join(syscall.SetsockoptInt(s, syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes),
		syscall.SetsockoptInt(s, syscall.SOL_SOCKET, syscall.SO_SNDBUF, bytes))
}

// dialsIPv4Wildcard: package net dials only 127.0.0.1 for "[::]".
const dialsIPv4Wildcard = true

// sendsECN: what a datagram is marked with goes out; WSASendMsg of Wine ignores it.
func sendsECN() bool { return !underWine() }

// losesErrors: what the network reports of a datagram may get lost; under Wine it does now and then, and
// a receive that begins to wait after such an error waits on, whatever arrives.
func losesErrors() bool { return underWine() }

// keepAliveTimes is not known: handles can't be listed.
func keepAliveTimes(_, _ net.Addr) (idle, interval int, ok bool) { return 0, 0, false }

// shortListener listens with the shortest queue there is.
func shortListener() (addr string, closeIt func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return "", nil, err
	}
	closeIt = func() { _ = syscall.Closesocket(fd) }
	sa, err := listenShort(fd)
	if err != nil {
		closeIt()
		return "", nil, err
	}
	port := sa.(*syscall.SockaddrInet4).Port
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String(), closeIt, nil
}

func listenShort(fd syscall.Handle) (syscall.Sockaddr, error) {
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return nil, err
	}
	return syscall.Getsockname(fd)
}

// openDescriptors is not known: threads and ports, which come and go, have handles too.
func openDescriptors() int { return 0 }

func limitDescriptors(int) error { return errors.ErrUnsupported }

func descriptorsMax() int { return 1500 }

// rssBytes is not known.
func rssBytes() int { return 0 }

// dropChecksums has no counterpart here.
func dropChecksums(uintptr) error { return errors.ErrUnsupported }

// rawWrite: no test gets here.
func rawWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
