package veloq

// Packet and Message: a datagram as it is received and as it is sent.

import (
	"net/netip"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
)

// ECN is a datagram's mark of congestion, RFC 3168: the low two bits of its traffic class.
type ECN uint8

// The marks.
const (
	ECNNone ECN = 0 // not capable of it; in a Message: the socket's own
	ECNOne  ECN = 1 // ECT(1)
	ECNZero ECN = 2 // ECT(0)
	ECNCE   ECN = 3 // congestion experienced
)

// A Packet is one received datagram, or with GRO several of one sender as one. Its payload is a hold
// on a whole buffer of Config.PacketSize bytes, whatever its length: who receives a Packet releases
// it, or copies what is to stay and releases it. The zero Packet has nothing to release.
type Packet struct {
	// Data is the payload. An empty datagram holds no buffer.
	Data Lease
	// From is the sender: IPv4 as such, also where the socket is of IPv6. Not valid on unixgram.
	From netip.AddrPort
	// Path is the sender's path on unixgram, "" if it has none; '@' begins an abstract one.
	Path string
	// To and Interface are the address that it was sent to and the index of the interface it came
	// in by, where ReceivePacketInfo asked for them.
	To        netip.Addr
	Interface int
	// SegmentSize is the length of each of the datagrams in Data but the last, which may be shorter,
	// where GRO put several together; 0 for a single one.
	SegmentSize int
	// ECN is its mark, where ReceiveECN asked for it.
	ECN ECN
	// Truncated says that it was longer than the buffer, and that the rest is lost.
	Truncated bool
}

// Release gives the payload's hold back. Any goroutine.
func (p *Packet) Release() { p.Data.Release() }

// Segments calls fn for each datagram in the packet, in order, until fn returns false; once, with all
// of Data, where SegmentSize is 0. The bytes are valid until Release. Any goroutine.
func (p *Packet) Segments(fn func(b []byte) bool) {
	b := p.Data.Bytes()
	size := p.SegmentSize
	if size <= 0 {
		size = len(b)
	}
	for len(b) > size {
		if !fn(b[:size:size]) {
			return
		}
		b = b[size:]
	}
	fn(b)
}

// A Message is one datagram to be sent, or with SegmentSize a row of them. What it refers to is the
// caller's, and is copied by the call.
type Message struct {
	// Data is the payload, at most 65,507 bytes without SegmentSize; with it, any number.
	Data []byte
	// To is the destination; the zero AddrPort on a connected socket.
	To netip.AddrPort
	// Path is the destination on unixgram.
	Path string
	// From is the source address and Interface the index of the interface to send by; the zero
	// values leave them to the system.
	From      netip.Addr
	Interface int
	// SegmentSize cuts Data into datagrams of that many bytes, the last of which may be shorter; 0
	// sends one. The kernel does the cutting (UDP_SEGMENT, udp(7)) where it can.
	SegmentSize int
	// ECN is the mark; ECNNone leaves the socket's traffic class.
	ECN ECN
}

// parse fills p from the buffer of l, which becomes the packet's. It reports false where the kernel
// gave less than a header.
func (d *Datagram) parse(p *Packet, l Lease) bool {
	const outBytes = uint32(unsafe.Sizeof(core.RecvMsgOut{}))
	b := l.Bytes()
	nameSpace, controlSpace := d.spaces()
	begin := outBytes + nameSpace + controlSpace
	*p = Packet{}
	if uint32(len(b)) < begin {
		l.Release()
		return false
	}
	out := (*core.RecvMsgOut)(unsafe.Pointer(&b[0]))
	p.Truncated = out.Flags&core.MsgTrunc != 0
	name := b[outBytes:][:min(out.NameLen, nameSpace)]
	from, zone, path := core.ParseName(name)
	if zone != 0 {
		from = netip.AddrPortFrom(from.Addr().WithZone(zoneName(zone)), from.Port())
	}
	p.From = from
	if len(path) > 0 {
		p.Path = unixPath(path)
	}
	if n := min(out.ControlLen, controlSpace); n > 0 {
		var c core.Control
		core.ParseControl(b[outBytes+nameSpace:][:n], &c)
		p.To, p.Interface = c.Addr, int(c.Interface)
		p.ECN = ECN(c.Class & 3)
		if int(c.Segment) < len(b)-int(begin) {
			p.SegmentSize = int(c.Segment)
		}
	}
	if uint32(len(b)) == begin {
		l.Release()
		return true
	}
	p.Data = l.Slice(int(begin), len(b))
	return true
}

// spaces are what a received datagram's buffer has for the sender's address and control messages.
func (d *Datagram) spaces() (name, control uint32) {
	if d.family == core.AFUnix {
		return core.UnixNameSpace, 0
	}
	return core.NameSpace, core.ControlSpace
}

// unixPath is a path as package net writes it.
func unixPath(b []byte) string {
	if len(b) > 0 && b[0] == 0 {
		return "@" + string(b[1:])
	}
	return string(b)
}

// A packetBlock is one datagram in C memory, ready to be sent: a header, its pieces' one entry, the
// destination, then control messages and the payload, one behind another. It lies in the arena, or in
// memory of its own while it waits.
type packetBlock struct {
	hdr     core.Msghdr
	iov     core.Iovec
	segment uint32 // the size that the payload is to be cut into; its control message is the first
	size    uint32 // of the block
	name    [core.UnixNameSpace]byte
	// Control messages, core.ControlSpace bytes if there are any, and the payload follow.
}

const (
	blockBytes = uint32(unsafe.Sizeof(packetBlock{}))
	// blockClass is the size of the blocks that are kept for reuse: a datagram of one Ethernet frame.
	blockClass = 2048
)

// blockSize is how much a block takes, a multiple of 8.
func blockSize(control bool, payload int) uint32 {
	n := blockBytes + uint32(payload)
	if control {
		n += core.ControlSpace
	}
	return (n + 7) &^ 7
}

// memory is the block's bytes from off on.
func (b *packetBlock) memory(off, n uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(b), off)), n)
}

func (b *packetBlock) addr(off uint32) uint64 {
	return uint64(uintptr(unsafe.Pointer(b))) + uint64(off)
}

// fill writes the datagram into C memory of blockSize bytes. v4 says that it goes out as IPv4.
func (b *packetBlock) fill(payload []byte, control *core.Control, v4 bool) {
	b.hdr = core.Msghdr{Iov: b.addr(uint32(unsafe.Offsetof(b.iov))), IovCount: 1}
	b.segment = 0
	at := blockBytes
	if control != nil {
		n := core.PutControl(b.memory(at, core.ControlSpace), control, v4)
		b.hdr.Control, b.hdr.ControlLen = b.addr(at), uint64(n)
		b.segment = uint32(control.Segment)
		at += core.ControlSpace
	}
	b.iov = core.Iovec{Base: b.addr(at), Len: uint64(len(payload))}
	copy(b.memory(at, uint32(len(payload))), payload)
	b.size = blockSize(control != nil, len(payload))
}

// setName says where the datagram goes: length bytes that were written to b.name, 0 for a connected
// socket's peer.
func (b *packetBlock) setName(length int) {
	b.hdr.Name, b.hdr.NameLen = 0, uint32(length)
	if length > 0 {
		b.hdr.Name = b.addr(uint32(unsafe.Offsetof(b.name)))
	}
}

// payload returns the datagram's bytes.
func (b *packetBlock) payload() []byte {
	return b.memory(uint32(b.iov.Base-b.addr(0)), uint32(b.iov.Len))
}

// copyTo makes a copy in memory of as many bytes.
func (b *packetBlock) copyTo(to *packetBlock) {
	copy(to.memory(0, b.size), b.memory(0, b.size))
	to.hdr.Iov = to.addr(uint32(b.hdr.Iov - b.addr(0)))
	to.iov.Base = to.addr(uint32(b.iov.Base - b.addr(0)))
	to.setName(int(b.hdr.NameLen))
	if b.hdr.ControlLen > 0 {
		to.hdr.Control = to.addr(uint32(b.hdr.Control - b.addr(0)))
	}
}

// part makes to the datagram of one segment of b, without the message that asked for the cutting. to
// has room for as much as b.
func (b *packetBlock) part(to *packetBlock, payload []byte) {
	b.hdr.ControlLen -= core.SegmentControlBytes
	b.hdr.Control += core.SegmentControlBytes
	whole := b.iov.Len
	size := b.size
	b.size = uint32(b.iov.Base - b.addr(0))
	b.copyTo(to)
	b.hdr.ControlLen += core.SegmentControlBytes
	b.hdr.Control -= core.SegmentControlBytes
	b.iov.Len, b.size = whole, size
	to.iov.Len = uint64(len(payload))
	copy(to.payload(), payload)
	to.segment = 0
	to.size = (uint32(to.iov.Base-to.addr(0)) + uint32(len(payload)) + 7) &^ 7
	if to.hdr.ControlLen == 0 {
		to.hdr.Control = 0
	}
}
