package core

// Datagrams' addresses, in the system's own layout, and control messages, in that of
// include/veloq/control.h, written and read in place: no crossing.

import (
	"encoding/binary"
	"net/netip"
)

// Space that a datagram's header takes in memory: the sender's address and its control messages.
const (
	// NameSpace is for an address of IPv4 or IPv6, UnixNameSpace for one of any family.
	NameSpace     = 32
	UnixNameSpace = 112
	// ControlSpace is for all that ParseControl knows, at once.
	ControlSpace = 128

	// SegmentControlBytes is what PutControl's message with the segment's size takes, which comes first.
	SegmentControlBytes = 24

	sockaddrIn4Bytes = 16
	sockaddrIn6Bytes = 28
	cmsgHeaderBytes  = 16
)

// Levels and types of control messages: include/veloq/control.h.
const (
	levelIPv4 = 0
	levelIPv6 = 41
	levelUDP  = 17

	controlTOS      = 1
	controlInfo4    = 8
	controlInfo6    = 50
	controlClass6   = 67
	controlSegment  = 103
	controlCoalesce = 104

	// controlInfo4's contents: the index, the source of what is sent, the destination of what was
	// received; controlInfo6's are the address and the index.
	info4Bytes   = 12
	info4Source  = 4
	info4Address = 8
)

// Control is what a datagram's control messages say.
type Control struct {
	Addr      netip.Addr // received: the destination; to be sent: the source; not valid for none
	Interface uint32     // its index; 0 for none
	Segment   uint16     // 0 for none
	Class     uint8      // traffic class, ECN in the low two bits
	HasClass  bool
}

func align8(n int) int { return (n + 7) &^ 7 }

// ParseControl reads received control messages; those that it does not know are passed over.
func ParseControl(b []byte, c *Control) {
	for len(b) >= cmsgHeaderBytes {
		size := binary.LittleEndian.Uint64(b)
		if size < cmsgHeaderBytes || size > uint64(len(b)) {
			return
		}
		level := int32(binary.LittleEndian.Uint32(b[8:]))
		kind := int32(binary.LittleEndian.Uint32(b[12:]))
		c.take(level, kind, b[cmsgHeaderBytes:size])
		b = b[min(align8(int(size)), len(b)):]
	}
}

func (c *Control) take(level, kind int32, data []byte) {
	switch {
	case level == levelIPv4 && kind == controlTOS && len(data) >= 1:
		c.Class, c.HasClass = data[0], true
	case level == levelIPv6 && kind == controlClass6 && len(data) >= 1:
		c.Class, c.HasClass = data[0], true // an int, little-endian
	case level == levelIPv4 && kind == controlInfo4 && len(data) >= info4Bytes:
		c.Addr = netip.AddrFrom4([4]byte(data[info4Address:]))
		c.Interface = binary.LittleEndian.Uint32(data)
	case level == levelIPv6 && kind == controlInfo6 && len(data) >= 20:
		c.Addr = netip.AddrFrom16([16]byte(data)).Unmap()
		c.Interface = binary.LittleEndian.Uint32(data[16:])
	case level == levelUDP && kind == controlCoalesce && len(data) >= 2:
		c.Segment = binary.LittleEndian.Uint16(data)
	}
}

// PutControl writes the control messages of a datagram to be sent to dst, ControlSpace bytes, and
// returns how many bytes they take. v4 says that the datagram goes out as IPv4, whatever the socket.
func PutControl(dst []byte, c *Control, v4 bool) int {
	n := 0
	put := func(level, kind int32, bytes int) []byte {
		b := dst[n : n+align8(cmsgHeaderBytes+bytes)]
		clear(b)
		binary.LittleEndian.PutUint64(b, uint64(cmsgHeaderBytes+bytes))
		binary.LittleEndian.PutUint32(b[8:], uint32(level))
		binary.LittleEndian.PutUint32(b[12:], uint32(kind))
		n += len(b)
		return b[cmsgHeaderBytes:]
	}
	if c.Segment != 0 {
		binary.LittleEndian.PutUint16(put(levelUDP, controlSegment, 2), c.Segment)
	}
	if c.HasClass && v4 {
		binary.LittleEndian.PutUint32(put(levelIPv4, controlTOS, 4), uint32(c.Class))
	} else if c.HasClass {
		binary.LittleEndian.PutUint32(put(levelIPv6, controlClass6, 4), uint32(c.Class))
	}
	switch {
	case !c.Addr.IsValid() && c.Interface == 0:
	case v4:
		b := put(levelIPv4, controlInfo4, info4Bytes)
		binary.LittleEndian.PutUint32(b, c.Interface)
		if addr := c.Addr.Unmap(); addr.Is4() {
			ip := addr.As4()
			copy(b[info4Source:], ip[:])
		}
	default:
		b := put(levelIPv6, controlInfo6, 20)
		if c.Addr.IsValid() {
			ip := c.Addr.As16()
			copy(b, ip[:])
		}
		binary.LittleEndian.PutUint32(b[16:], c.Interface)
	}
	return n
}

// ParseName reads the sockaddr of a received datagram's sender: an address of IPv4 or IPv6 with the
// number of its zone, or, with unix, the path of a unix socket, empty for one without.
func ParseName(b []byte) (from netip.AddrPort, zone uint32, path []byte) {
	if len(b) < 2 {
		return from, 0, nil
	}
	family := binary.LittleEndian.Uint16(b)
	switch {
	case family == systemAF4 && len(b) >= sockaddrIn4Bytes:
		port := binary.BigEndian.Uint16(b[2:])
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port), 0, nil
	case family == systemAF6 && len(b) >= sockaddrIn6Bytes:
		port := binary.BigEndian.Uint16(b[2:])
		zone = binary.LittleEndian.Uint32(b[24:])
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])).Unmap(), port), zone, nil
	case family == systemAFUnix:
		return from, 0, UnixPath(b[2:])
	}
	return from, 0, nil
}

// UnixPath cuts a path at its zero byte; an abstract name, which begins with one, it leaves.
func UnixPath(b []byte) []byte {
	if len(b) == 0 || b[0] == 0 {
		return b
	}
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

// PutName writes the sockaddr of an address for a socket of that family to dst, NameSpace bytes, and
// returns its length: 0 for one that the family can't reach.
func PutName(dst []byte, to netip.AddrPort, zone uint32, family uint16) int {
	addr := to.Addr()
	if family == AF4 {
		if addr = addr.Unmap(); !addr.Is4() {
			return 0
		}
		ip := addr.As4()
		clear(dst[:sockaddrIn4Bytes])
		binary.LittleEndian.PutUint16(dst, systemAF4)
		binary.BigEndian.PutUint16(dst[2:], to.Port())
		copy(dst[4:], ip[:])
		return sockaddrIn4Bytes
	}
	ip := addr.As16()
	clear(dst[:sockaddrIn6Bytes])
	binary.LittleEndian.PutUint16(dst, systemAF6)
	binary.BigEndian.PutUint16(dst[2:], to.Port())
	copy(dst[8:], ip[:])
	binary.LittleEndian.PutUint32(dst[24:], zone)
	return sockaddrIn6Bytes
}

// PutUnixName writes the sockaddr of a unix path to dst, UnixNameSpace bytes, and returns its length:
// 0 for a path that is too long. A leading '@' stands for the zero byte of an abstract name.
func PutUnixName(dst []byte, path string) int {
	if len(path) > UnixPathMax || (len(path) == UnixPathMax && path[0] != '@') {
		return 0
	}
	binary.LittleEndian.PutUint16(dst, systemAFUnix)
	n := copy(dst[2:], path)
	if path != "" && path[0] == '@' {
		dst[2] = 0
		return 2 + n
	}
	dst[2+n] = 0
	return 2 + n + 1
}
