//go:build linux && (amd64 || arm64 || riscv64 || loong64)

package rawio

// Control messages of datagrams, cmsg(3): read from what arrived, appended to what is sent.

import (
	"encoding/binary"
	"net/netip"
	"syscall"
)

const (
	pktinfoSize  = 12 // in_pktinfo: index, local address, header's address
	pktinfo6Size = 20 // in6_pktinfo: address, index
)

// Parse reads the control messages in b that this package knows, and skips the others.
func (c *MsgControl) Parse(b []byte) {
	*c = MsgControl{}
	for len(b) >= syscall.SizeofCmsghdr {
		size := binary.NativeEndian.Uint64(b)
		if size < syscall.SizeofCmsghdr || size > uint64(len(b)) {
			return // cut off: MSG_CTRUNC
		}
		level := binary.NativeEndian.Uint32(b[8:])
		kind := binary.NativeEndian.Uint32(b[12:])
		c.parseOne(level, kind, b[syscall.SizeofCmsghdr:size])
		b = b[min(syscall.CmsgSpace(int(size)-syscall.SizeofCmsghdr), len(b)):]
	}
}

func (c *MsgControl) parseOne(level, kind uint32, data []byte) {
	switch {
	case level == syscall.IPPROTO_UDP && kind == udpGRO && len(data) >= 2:
		// An int by the kernel's code, of which the low half is the size.
		if len(data) >= 4 {
			c.SegmentSize = int(binary.NativeEndian.Uint32(data))
		} else {
			c.SegmentSize = int(binary.NativeEndian.Uint16(data))
		}
	case level == syscall.IPPROTO_IP && kind == syscall.IP_TOS && len(data) >= 1:
		c.TrafficBits, c.HasTraffic = data[0]&ecnMask, true
	case level == syscall.IPPROTO_IPV6 && kind == syscall.IPV6_TCLASS && len(data) >= 4:
		c.TrafficBits, c.HasTraffic = uint8(binary.NativeEndian.Uint32(data))&ecnMask, true
	case level == syscall.IPPROTO_IP && kind == syscall.IP_PKTINFO && len(data) >= pktinfoSize:
		c.Interface = int(binary.NativeEndian.Uint32(data))
		c.Local = netip.AddrFrom4([4]byte(data[8:12]))
	case level == syscall.IPPROTO_IPV6 && kind == syscall.IPV6_PKTINFO && len(data) >= pktinfo6Size:
		c.Local = netip.AddrFrom16([16]byte(data[:16]))
		c.Interface = int(binary.NativeEndian.Uint32(data[16:]))
	}
}

// appendHeader appends a control message's header and zeroed room for its data, and returns where
// the data begins.
func appendHeader(b []byte, level, kind uint32, size int) (_ []byte, data int) {
	data = len(b) + syscall.SizeofCmsghdr
	b = binary.NativeEndian.AppendUint64(b, uint64(syscall.CmsgLen(size)))
	b = binary.NativeEndian.AppendUint32(b, level)
	b = binary.NativeEndian.AppendUint32(b, kind)
	for range syscall.CmsgSpace(size) - syscall.SizeofCmsghdr {
		b = append(b, 0)
	}
	return b, data
}

// AppendSegment appends UDP_SEGMENT to b, which must be a whole number of control messages.
func AppendSegment(b []byte, size int) []byte {
	b, at := appendHeader(b, syscall.IPPROTO_UDP, udpSegment, 2)
	binary.NativeEndian.PutUint16(b[at:], uint16(size))
	return b
}

// Append appends what c says, but the segment size. v6 is the socket's family; to4 says that the
// datagram goes to an IPv4 address, which has a traffic class of its own on an IPv6 socket.
func (c *MsgControl) Append(b []byte, v6, to4 bool) []byte {
	at := 0
	if c.HasTraffic && to4 {
		b, at = appendHeader(b, syscall.IPPROTO_IP, syscall.IP_TOS, 4)
		binary.NativeEndian.PutUint32(b[at:], uint32(c.TrafficBits&ecnMask))
	} else if c.HasTraffic {
		b, at = appendHeader(b, syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS, 4)
		binary.NativeEndian.PutUint32(b[at:], uint32(c.TrafficBits&ecnMask))
	}
	if !c.Local.IsValid() && c.Interface == 0 {
		return b
	}
	if v6 {
		b, at = appendHeader(b, syscall.IPPROTO_IPV6, syscall.IPV6_PKTINFO, pktinfo6Size)
		if c.Local.IsValid() {
			ip := c.Local.As16()
			copy(b[at:], ip[:])
		} else if to4 {
			// Without the mapped form the kernel takes it for an IPv6 source and refuses.
			b[at+10], b[at+11] = 0xff, 0xff
		}
		binary.NativeEndian.PutUint32(b[at+16:], uint32(c.Interface))
		return b
	}
	b, at = appendHeader(b, syscall.IPPROTO_IP, syscall.IP_PKTINFO, pktinfoSize)
	binary.NativeEndian.PutUint32(b[at:], uint32(c.Interface))
	if c.Local.IsValid() {
		ip := c.Local.As4()
		copy(b[at+4:], ip[:])
	}
	return b
}
