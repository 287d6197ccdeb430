package veloq

// What the kernel does for many datagrams at once, or tells and is told about each: segmentation and
// receive offload, ECN, packet information; and what is done where it refuses.

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/veloq/veloq/internal/rawio"
)

const (
	gsoSegmentsMax = 64     // in one call: what every kernel with UDP_SEGMENT takes
	gsoBytesMax    = 65_487 // bytes in one call: 65,535 less the headers of IPv6 and UDP
	payloadMax     = 65_507 // bytes in one datagram over IPv4
)

var errUnsupported = errors.ErrUnsupported

// gsoState remembers what the kernel refused, for as long as the socket lives.
type gsoState struct {
	// limit is the longest segment to be tried, plus one, so that 0 is "not asked yet".
	limit atomic.Int64
}

const gsoUnlimited = math.MaxInt32

// gsoLimit is the longest segment that this socket lets the kernel cut; 0: none.
func (c *UDPConn) gsoLimit() int {
	if v := c.gso.limit.Load(); v != 0 {
		return int(v - 1)
	}
	limit := 0
	if err := c.direct.raw.Control(func(fd uintptr) {
		if rawio.MsgHasGSO(fd) {
			limit = gsoUnlimited
		}
	}); err != nil {
		return 0 // closed: the send will say so
	}
	c.gso.limit.CompareAndSwap(0, int64(limit)+1)
	return int(c.gso.limit.Load() - 1)
}

// refuseGSO keeps segments longer than limit from the kernel from now on.
func (c *UDPConn) refuseGSO(limit int) {
	for {
		v := c.gso.limit.Load()
		if v != 0 && v <= int64(limit)+1 || c.gso.limit.CompareAndSwap(v, int64(limit)+1) {
			return
		}
	}
}

// gsoRefusal tells whether errno may be about the offload and not about the datagrams, and up to
// which length segments may still be tried then. EIO: the route's device can't checksum them, or
// IPsec is in between, whatever their length. EINVAL, EMSGSIZE: longer than the route's MTU, or the
// socket sends without checksums.
func gsoRefusal(errno syscall.Errno, size int) (limit int, refused bool) {
	switch errno {
	case syscall.EIO:
		return 0, true
	case syscall.EINVAL, syscall.EMSGSIZE:
		return size - 1, true
	}
	return 0, false
}

// writeAll is WriteBatch for who holds the sending direction.
func (c *UDPConn) writeAll(ms []UDPMessage) (int, error) {
	defer c.writer.batch.Clear()
	for sent := 0; sent < len(ms); {
		n, err := c.writeSome(ms[sent:])
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return len(ms), nil
}

// writeSome sends some of ms, at least one unless it fails. A message that the kernel refuses to cut
// is sent again in single datagrams, from where it stopped.
func (c *UDPConn) writeSome(ms []UDPMessage) (int, error) {
	w := &c.writer
	gso := c.gsoLimit()
	var skip int // bytes of the first message that are out
	pending := -1
	for first := 0; ; {
		count, invalid := c.plan(ms[first:], gso, skip)
		if count == 0 {
			return first, invalid
		}
		w.n, w.errno = 0, 0
		err := c.direct.raw.Write(w.try)
		done := c.account(ms[first:first+count], w.n)
		if done > 0 && pending >= 0 { // it goes without: so it was the offload
			c.refuseGSO(pending)
			pending = -1
		}
		first += done
		switch {
		case err == nil && w.errno == 0:
			return first, nil // what was not planned comes with the next call, or its error does
		case err != nil:
			return first, rawFailed("write", c.addrOf(&ms[first]), err)
		}
		m, limit, refused := &ms[first], 0, false
		if m.SegmentSize > 0 && m.SegmentSize <= gso {
			limit, refused = gsoRefusal(w.errno, m.SegmentSize)
		}
		if !refused {
			return first, c.callFailed("write", "sendmmsg", c.addrOf(m), w.errno)
		}
		if w.errno == syscall.EIO {
			c.refuseGSO(0)
		} else {
			pending = limit
		}
		gso, skip = limit, m.N
	}
}

// plan fills the writer's batch with messages, as many as fit, the first without its first skip
// bytes. It returns how many, and why not more if one is not valid.
func (c *UDPConn) plan(ms []UDPMessage, gso, skip int) (int, error) {
	w := &c.writer
	w.batch.Clear()
	w.ends = w.ends[:0]
	defer w.batch.Seal()
	for i := range ms {
		m := &ms[i]
		if w.batch.Len() >= rawio.MsgBatchMax {
			return i, nil
		}
		if err := c.checkMessage(m); err != nil {
			return i, err
		}
		w.name = rawio.MsgName{}
		if m.Addr.IsValid() && !c.direct.setName(&w.name, m.Addr) {
			_, err := c.netUDPConn.WriteToUDPAddrPort(nil, m.Addr) // non-IPv4 address
			return i, err
		}
		c.planMessage(m, gso, skip)
		skip = 0
		w.ends = append(w.ends, w.batch.Len())
	}
	return len(ms), nil
}

// planMessage adds m's entries: one, or one for each piece that the kernel takes at once.
func (c *UDPConn) planMessage(m *UDPMessage, gso, skip int) {
	w := &c.writer
	piece, segment := m.pieces(gso)
	control := append(w.batch.Control(), m.OOB...)
	begin := len(control) - len(m.OOB)
	for len(control)%8 != 0 { // a last message without its padding
		control = append(control, 0)
	}
	to4 := c.direct.peer4
	if m.Addr.IsValid() {
		to4 = m.Addr.Addr().Unmap().Is4()
	}
	said := rawio.MsgControl{
		TrafficBits: uint8(m.ECN), HasTraffic: m.ECN != ECNNone, Local: m.Local.Unmap(), Interface: m.Interface,
	}
	control = said.Append(control, c.direct.v6, to4)
	common := len(control)
	if segment {
		control = rawio.AppendSegment(control, m.SegmentSize)
	}
	w.batch.Begin()
	*w.batch.Name() = w.name
	room := piece
	left := m.size() - skip
	w.entryControl(control, begin, common, segment && left > m.SegmentSize)
	for _, p := range m.Buffers {
		cut := min(skip, len(p))
		p, skip = p[cut:], skip-cut
		for len(p) > 0 {
			if room == 0 {
				w.batch.Begin()
				*w.batch.Name() = w.name
				w.entryControl(control, begin, common, segment && left > m.SegmentSize)
				room = piece
			}
			n := min(room, len(p))
			w.batch.Buffer(p[:n])
			p, room, left = p[n:], room-n, left-n
		}
	}
}

// entryControl gives the newest entry its control messages; one of a single segment needs no size.
func (w *udpWriter) entryControl(control []byte, begin, common int, segment bool) {
	end := common
	if segment {
		end = len(control)
	}
	w.batch.SetControl(control, begin, end)
}

// pieces says how many bytes of m go with one entry, and whether the kernel is to cut those.
func (m *UDPMessage) pieces(gso int) (piece int, segment bool) {
	switch {
	case m.SegmentSize == 0:
		return math.MaxInt, false
	case m.SegmentSize > gso || m.SegmentSize > gsoBytesMax/2:
		return m.SegmentSize, false
	}
	return m.SegmentSize * min(gsoSegmentsMax, gsoBytesMax/m.SegmentSize), true
}

// account notes what the first n entries of the batch mean for the messages in it, and returns how
// many messages they complete.
func (c *UDPConn) account(ms []UDPMessage, n int) (done int) {
	w := &c.writer
	begin := 0
	for i, end := range w.ends {
		m := &ms[i]
		for entry := begin; entry < min(n, end); entry++ {
			bytes, _, _ := w.batch.Result(entry)
			m.N += bytes
		}
		if n < end {
			return i
		}
		m.NN = len(m.OOB)
		begin = end
	}
	return len(w.ends)
}

// WriteSegments sends p as datagrams of size bytes each, the last one shorter if it must be, to addr,
// which is not valid where the socket is connected. size is 1 to 65,507. On Linux 4.18 and newer the
// kernel cuts up to 64 of them in one go (UDP_SEGMENT, udp(7)). Where it refuses, WriteSegments sends
// them one by one and keeps to that for this socket, or for sizes that are as long: EIO, or EINVAL
// for what then goes through uncut. It returns the bytes that were sent, fewer than len(p) only with
// an error, which is Write's. It allocates nothing. p is the caller's again when it returns. Blocks.
// Any goroutine.
func (c *UDPConn) WriteSegments(p []byte, size int, addr netip.AddrPort) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if size < 1 || size > payloadMax {
		return 0, c.failed("write", c.addrOf(&UDPMessage{Addr: addr}), syscall.EINVAL)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.direct == nil {
		m := UDPMessage{Buffers: [][]byte{p}, Addr: addr, SegmentSize: size}
		err := c.writeOne(&m)
		return m.N, err
	}
	w := &c.writer
	w.begin(writeBatch, nil, nil, 0)
	defer w.end()
	w.buffer[0] = p
	w.message[0] = UDPMessage{Buffers: w.buffer[:], Addr: addr, SegmentSize: size}
	_, err := c.writeAll(w.message[:])
	n := w.message[0].N
	w.buffer[0], w.message[0] = nil, UDPMessage{}
	return n, err
}

// option runs set on the descriptor. The error is what package net's own setters return, and is
// errors.ErrUnsupported where the system has no such option.
func (c *UDPConn) option(set func(fd uintptr, v6 bool) error) error {
	var err error
	if c.direct == nil {
		err = errUnsupported
	} else if controlErr := c.direct.raw.Control(func(fd uintptr) {
		err = set(fd, c.direct.v6)
	}); controlErr != nil {
		return rawFailed("set", c.LocalAddr(), controlErr)
	}
	if err == nil {
		return nil
	}
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError("setsockopt", errno)
		if errno == syscall.ENOPROTOOPT {
			err = fmt.Errorf("%w: %w", err, errUnsupported)
		}
	}
	e, ok := c.failed("set", c.LocalAddr(), err).(*net.OpError)
	if !ok {
		return syscall.EINVAL // a UDPConn of nothing
	}
	e.Source = nil
	return e
}

// SetGRO lets the kernel hand over datagrams of one sender that came together as one piece of up to
// 64 KiB (UDP_GRO, Linux 5.0). From then on read by ReadBatch, whose UDPMessage has the SegmentSize, or
// by ReadMsgUDP with room for the control message: the other methods would return several datagrams
// as one, and a buffer under 64 KiB would cut the piece. The error is errors.ErrUnsupported where the
// system can't. Any goroutine.
func (c *UDPConn) SetGRO(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(func(fd uintptr, _ bool) error { return rawio.MsgSetGRO(fd, on) })
}

// SetECN sets the ECN bits of what is sent, where a UDPMessage doesn't set its own. The rest of the
// traffic class stays (IP_TOS, IPV6_TCLASS). The error is errors.ErrUnsupported where the system
// can't. Any goroutine.
func (c *UDPConn) SetECN(e ECN) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(func(fd uintptr, v6 bool) error {
		if e > ECNCE {
			return syscall.EINVAL
		}
		return rawio.MsgSetECN(fd, v6, uint8(e))
	})
}

// SetReceiveECN asks for the ECN bits of what arrives, for UDPMessage.ECN (IP_RECVTOS,
// IPV6_RECVTCLASS). The error is errors.ErrUnsupported where the system can't. Any goroutine.
func (c *UDPConn) SetReceiveECN(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(func(fd uintptr, v6 bool) error { return rawio.MsgSetReceiveTraffic(fd, v6, on) })
}

// SetPacketInfo asks for the address and interface at which a datagram arrived, for UDPMessage.Local
// and UDPMessage.Interface (IP_PKTINFO, IPV6_RECVPKTINFO). The error is errors.ErrUnsupported where the
// system can't. Any goroutine.
func (c *UDPConn) SetPacketInfo(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(func(fd uintptr, v6 bool) error { return rawio.MsgSetPacketInfo(fd, v6, on) })
}
