//go:build linux && (amd64 || arm64 || riscv64 || loong64)

package rawio

// Linux's datagram calls, one datagram at a time, and the options that belong to them. None of
// them blocks, whatever mode the descriptor is in: MSG_DONTWAIT is always set. So the raw system
// call, which does not tell Go's scheduler, is safe.

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"
)

// MsgDirect says whether this system has the calls of this file.
const MsgDirect = true

// MsgControlTruncated is the flag of control messages that found no room.
const MsgControlTruncated = syscall.MSG_CTRUNC

const (
	soDomain   = 39  // SO_DOMAIN
	udpSegment = 103 // UDP_SEGMENT, Linux 4.18
	udpGRO     = 104 // UDP_GRO, Linux 5.0
	ecnMask    = 3   // RFC 3168: the low bits of the traffic class
)

// void is where the pointer to an empty buffer points.
var void byte

func pointer(p []byte) unsafe.Pointer {
	if len(p) == 0 {
		return unsafe.Pointer(&void)
	}
	return unsafe.Pointer(&p[0])
}

// Set4 makes n the address of an IPv4 socket.
func (n *MsgName) Set4(ip [4]byte, port uint16) {
	n.len = syscall.SizeofSockaddrInet4
	clear(n.buf[8:16])
	binary.NativeEndian.PutUint16(n.buf[0:], syscall.AF_INET)
	binary.BigEndian.PutUint16(n.buf[2:], port)
	copy(n.buf[4:8], ip[:])
}

// Set6 makes n the address of an IPv6 socket; scope is an interface's index or 0.
func (n *MsgName) Set6(ip [16]byte, port uint16, scope uint32) {
	n.len = syscall.SizeofSockaddrInet6
	binary.NativeEndian.PutUint16(n.buf[0:], syscall.AF_INET6)
	binary.BigEndian.PutUint16(n.buf[2:], port)
	binary.NativeEndian.PutUint32(n.buf[4:], 0)
	copy(n.buf[8:24], ip[:])
	binary.NativeEndian.PutUint32(n.buf[24:], scope)
}

// Get returns the address that the kernel wrote, its zone as a number. Not valid if it wrote none.
func (n *MsgName) Get() (addr netip.AddrPort, scope uint32) {
	switch port := binary.BigEndian.Uint16(n.buf[2:]); {
	case n.len < syscall.SizeofSockaddrInet4:
		return netip.AddrPort{}, 0
	case binary.NativeEndian.Uint16(n.buf[0:]) == syscall.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n.buf[4:8])), port), 0
	case binary.NativeEndian.Uint16(n.buf[0:]) == syscall.AF_INET6:
		scope = binary.NativeEndian.Uint32(n.buf[24:])
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(n.buf[8:24])), port), scope
	}
	return netip.AddrPort{}, 0
}

func (n *MsgName) reset() { n.len = MsgNameSize }

// pointer is what the kernel is told of n to send to; nil for the zero value.
func (n *MsgName) pointer() (unsafe.Pointer, uint32) {
	if n == nil || n.len == 0 {
		return nil, 0
	}
	return unsafe.Pointer(&n.buf), n.len
}

// MsgRecvFrom is recvfrom(2) with MSG_DONTWAIT. name may be nil. p is the caller's again on return.
func MsgRecvFrom(fd uintptr, p []byte, name *MsgName) (int, syscall.Errno) {
	var where, size unsafe.Pointer
	if name != nil {
		name.reset()
		where, size = unsafe.Pointer(&name.buf), unsafe.Pointer(&name.len)
	}
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(pointer(p)),
			uintptr(len(p)), syscall.MSG_DONTWAIT, uintptr(where), uintptr(size))
		switch errno {
		case syscall.EINTR:
			continue
		case 0:
			msgWritten(p[:n])
			return int(n), 0
		}
		return 0, errno
	}
}

// MsgSendTo is sendto(2) with MSG_DONTWAIT. name may be nil or no address: the connected peer.
func MsgSendTo(fd uintptr, p []byte, name *MsgName) (int, syscall.Errno) {
	where, size := name.pointer()
	msgReads(p)
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(pointer(p)),
			uintptr(len(p)), syscall.MSG_DONTWAIT, uintptr(where), uintptr(size))
		switch errno {
		case syscall.EINTR:
			continue
		case 0:
			return int(n), 0
		}
		return 0, errno
	}
}

// MsgHeader is the memory of a recvmsg(2) or sendmsg(2), for one caller at a time.
type MsgHeader struct {
	hdr syscall.Msghdr
	iov syscall.Iovec
}

func (h *MsgHeader) set(p, oob []byte, name unsafe.Pointer, nameLen uint32) {
	h.iov = syscall.Iovec{}
	if len(p) > 0 {
		h.iov = syscall.Iovec{Base: &p[0], Len: uint64(len(p))}
	}
	h.hdr = syscall.Msghdr{Name: (*byte)(name), Namelen: nameLen, Iov: &h.iov, Iovlen: 1}
	if len(oob) > 0 {
		h.hdr.Control, h.hdr.Controllen = &oob[0], uint64(len(oob))
	}
}

// drop forgets the caller's memory, which is the caller's again.
func (h *MsgHeader) drop() {
	h.hdr, h.iov = syscall.Msghdr{}, syscall.Iovec{}
}

// Recv is recvmsg(2) with MSG_DONTWAIT. p and oob are the caller's again on return.
func (h *MsgHeader) Recv(fd uintptr, p, oob []byte, name *MsgName, flags int) (
	n, oobn, msgFlags int, errno syscall.Errno,
) {
	name.reset()
	h.set(p, oob, unsafe.Pointer(&name.buf), name.len)
	defer h.drop()
	for {
		r, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, fd,
			uintptr(unsafe.Pointer(&h.hdr)), uintptr(flags|syscall.MSG_DONTWAIT))
		switch errno {
		case syscall.EINTR:
			continue
		case 0:
			name.len = h.hdr.Namelen
			n, oobn, msgFlags = int(r), int(h.hdr.Controllen), int(h.hdr.Flags)
			msgWritten(p[:min(n, len(p))])
			msgWritten(oob[:min(oobn, len(oob))])
			return n, oobn, msgFlags, 0
		}
		return 0, 0, 0, errno
	}
}

// Send is sendmsg(2) with MSG_DONTWAIT. name may be nil or no address: the connected peer.
func (h *MsgHeader) Send(fd uintptr, p, oob []byte, name *MsgName, flags int) (int, syscall.Errno) {
	where, size := name.pointer()
	h.set(p, oob, where, size)
	defer h.drop()
	msgReads(p)
	msgReads(oob)
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, fd,
			uintptr(unsafe.Pointer(&h.hdr)), uintptr(flags|syscall.MSG_DONTWAIT))
		switch errno {
		case syscall.EINTR:
			continue
		case 0:
			return int(n), 0
		}
		return 0, errno
	}
}

// MsgIsIPv6 tells whether fd's addresses are IPv6 ones.
func MsgIsIPv6(fd uintptr) (bool, error) {
	domain, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soDomain)
	return domain == syscall.AF_INET6, err
}

// MsgHasGSO tells whether the kernel knows UDP_SEGMENT: an older one ignores the control message
// and would send all of it as one datagram.
func MsgHasGSO(fd uintptr) bool {
	_, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_UDP, udpSegment)
	return err == nil
}

// MsgSetGRO sets UDP_GRO.
func MsgSetGRO(fd uintptr, on bool) error {
	return syscall.SetsockoptInt(int(fd), syscall.IPPROTO_UDP, udpGRO, boolInt(on))
}

// MsgSetReceiveTraffic asks for the traffic class of what arrives.
func MsgSetReceiveTraffic(fd uintptr, v6, on bool) error {
	err := syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVTOS, boolInt(on))
	if v6 { // IPv4 comes through it too, so both are needed
		return syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVTCLASS, boolInt(on))
	}
	return err
}

// MsgSetPacketInfo asks for the address and interface at which a datagram arrived.
func MsgSetPacketInfo(fd uintptr, v6, on bool) error {
	if v6 { // for IPv4 through it too, as mapped addresses
		return syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, boolInt(on))
	}
	return syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, boolInt(on))
}

// MsgSetECN sets the two ECN bits of what is sent, and leaves the other six of the traffic class.
func MsgSetECN(fd uintptr, v6 bool, bits uint8) error {
	err := msgSetBits(fd, syscall.IPPROTO_IP, syscall.IP_TOS, bits)
	if v6 {
		return msgSetBits(fd, syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS, bits)
	}
	return err
}

func msgSetBits(fd uintptr, level, option int, bits uint8) error {
	old, err := syscall.GetsockoptInt(int(fd), level, option)
	if err != nil {
		return err
	}
	return syscall.SetsockoptInt(int(fd), level, option, old&^ecnMask|int(bits&ecnMask))
}

func boolInt(on bool) int {
	if on {
		return 1
	}
	return 0
}
