package rawio

// What the datagram calls are called with on every system: addresses as the kernel has them.

import "net/netip"

// MsgNameSize is the largest socket address of IP: a sockaddr_in6.
const MsgNameSize = 28

// MsgName is a socket address in the kernel's form. The zero value is no address.
type MsgName struct {
	len uint32
	buf [MsgNameSize]byte
}

// MsgControlSize holds every control message that a datagram can arrive with by this package's
// options: segment size, traffic class (both families) and packet information.
const MsgControlSize = 128

// MsgControl is what a datagram's control messages say, or shall say.
type MsgControl struct {
	SegmentSize int        // 0: one datagram
	TrafficBits uint8      // the two ECN bits
	HasTraffic  bool       // TrafficBits was there, or is to be sent
	Local       netip.Addr // the datagram's own destination, or the source to send from
	Interface   int        // index; 0: none
}
