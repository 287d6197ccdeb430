package veloq

// Many datagrams a call.

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/veloq/veloq/internal/rawio"
)

// BatchMax is how many datagrams ReadBatch receives at most in one call.
const BatchMax = 1024

// UDPMessage is one entry of ReadBatch or WriteBatch. All slices stay the caller's: a batch call uses
// them until it returns, and keeps nothing.
type UDPMessage struct {
	// Buffers hold the bytes, one after another. ReadBatch fills them; WriteBatch sends all of them
	// as one datagram, or as several if SegmentSize is set.
	Buffers [][]byte
	// OOB holds control messages (cmsg(3)) as they are. ReadBatch fills it with what came; WriteBatch
	// sends it before those that the fields below ask for. May be empty: the fields work without it.
	OOB []byte
	// Addr is who sent it, or where it goes. Not valid on a connected socket's WriteBatch.
	Addr netip.AddrPort

	N     int // bytes received or sent
	NN    int // bytes of OOB received or sent
	Flags int // of recvmsg(2): MSG_TRUNC, MSG_CTRUNC; 0 from WriteBatch

	// SegmentSize: ReadBatch sets it on a socket with SetGRO to the length of each datagram in the
	// N bytes but the last, which may be shorter; 0 where there is only one. WriteBatch cuts the
	// bytes into datagrams of that length, up to 65,507 bytes each.
	SegmentSize int
	// ECN: ReadBatch sets it on a socket with SetReceiveECN. WriteBatch sends it unless it is ECNNone,
	// which stands for the socket's own, SetECN's.
	ECN ECN
	// Local and Interface: ReadBatch sets them, on a socket with SetPacketInfo, to the address the
	// datagram was sent to and the index of the interface it came in by. WriteBatch sends from that
	// address or by that interface, where they are set.
	Local     netip.Addr
	Interface int
}

// reset clears what a ReadBatch reports.
func (m *UDPMessage) reset() {
	m.N, m.NN, m.Flags, m.SegmentSize, m.ECN = 0, 0, 0, 0, ECNNone
	m.Addr, m.Local, m.Interface = netip.AddrPort{}, netip.Addr{}, 0
}

// ReadBatch waits for a datagram and receives as many as there are, at most len(ms) and BatchMax, in
// one system call (recvmmsg(2); elsewhere than on Linux one datagram). flags are recvmsg(2)'s. It
// returns how many entries of ms it filled. Errors are those of ReadMsgUDP; an error that follows
// datagrams comes with the next call. It allocates nothing, once its memory has grown to the largest
// batch, about 300 bytes an entry. The buffers are the caller's again when it returns. Blocks. Any
// goroutine.
func (c *UDPConn) ReadBatch(ms []UDPMessage, flags int) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if len(ms) == 0 {
		return 0, nil
	}
	if c.direct == nil {
		return c.readOne(&ms[0])
	}
	ms = ms[:min(len(ms), BatchMax)]
	r := &c.reader
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &r.batch
	defer b.Clear()
	for i := range ms {
		b.Begin()
		for _, p := range ms[i].Buffers {
			b.Buffer(p)
		}
		if len(ms[i].OOB) > 0 {
			b.OOB(ms[i].OOB)
		} else {
			b.ControlRoom(rawio.MsgControlSize)
		}
	}
	b.Seal()
	r.kind, r.flags, r.n, r.errno = readBatch, flags, 0, 0
	if err := c.direct.raw.Read(r.try); err != nil {
		return 0, rawFailed("read", c.RemoteAddr(), err)
	}
	if r.errno != 0 {
		return 0, c.callFailed("read", "recvmmsg", c.RemoteAddr(), r.errno)
	}
	for i := range ms[:r.n] {
		c.take(&ms[i], i)
	}
	return r.n, nil
}

// take fills m from entry i of what was received.
func (c *UDPConn) take(m *UDPMessage, i int) {
	b := &c.reader.batch
	m.reset()
	var control rawio.MsgControl
	m.N, m.NN, m.Flags = b.Result(i)
	m.Addr = c.direct.received(b.From(i))
	if m.NN > 0 {
		control.Parse(b.Received(i))
		m.SegmentSize, m.ECN = control.SegmentSize, ECN(control.TrafficBits)
		m.Local, m.Interface = control.Local, control.Interface
	}
	if m.SegmentSize >= m.N {
		m.SegmentSize = 0
	}
	if len(m.OOB) == 0 {
		m.NN = 0
		m.Flags &^= rawio.MsgControlTruncated // of memory that the caller did not see
	}
}

// readOne is ReadBatch over package net.
func (c *UDPConn) readOne(m *UDPMessage) (int, error) {
	m.reset()
	p, joined := m.single()
	var err error
	m.N, m.NN, m.Flags, m.Addr, err = c.netUDPConn.ReadMsgUDPAddrPort(p, m.OOB)
	if err != nil {
		m.reset()
		return 0, err
	}
	if joined {
		rest := p[:min(m.N, len(p))]
		for _, buffer := range m.Buffers {
			rest = rest[copy(buffer, rest):]
		}
	}
	return 1, nil
}

// single returns the buffers as one: the only one, or new memory as long as all of them.
func (m *UDPMessage) single() (p []byte, joined bool) {
	switch len(m.Buffers) {
	case 0:
		return nil, false
	case 1:
		return m.Buffers[0], false
	}
	return make([]byte, m.size()), true
}

// size is the length of all buffers together.
func (m *UDPMessage) size() (n int) {
	for _, p := range m.Buffers {
		n += len(p)
	}
	return n
}

// WriteBatch sends all of ms in order, waiting for room as Write does, by as few system calls as
// there can be (sendmmsg(2); elsewhere than on Linux one a datagram). flags are sendmsg(2)'s. It
// returns how many entries went out completely; fewer than len(ms) only with an error, which is that
// of the entry that did not. N of an entry is how many of its bytes went. A socket that refuses
// segmentation offload, once, gets datagrams one by one from then on: see WriteSegments. An ICMP
// error that arrives between two datagrams of one system call is lost in the kernel. It allocates
// nothing, once its memory has grown to the largest batch. The buffers are the caller's again when it
// returns. Blocks. Any goroutine.
func (c *UDPConn) WriteBatch(ms []UDPMessage, flags int) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	for i := range ms {
		ms[i].N, ms[i].NN, ms[i].Flags = 0, 0, 0
	}
	if c.direct == nil {
		return c.writeEach(ms)
	}
	w := &c.writer
	w.begin(writeBatch, nil, nil, flags)
	defer w.end()
	return c.writeAll(ms)
}

// checkMessage finds what package net would refuse before it asks the kernel.
func (c *UDPConn) checkMessage(m *UDPMessage) error {
	switch {
	case m.Addr.IsValid() && c.direct.connected:
		return c.failed("write", addrPortAddr{m.Addr}, net.ErrWriteToConnected)
	case !m.Addr.IsValid() && !c.direct.connected:
		_, err := c.netUDPConn.WriteToUDPAddrPort(nil, netip.AddrPort{}) // missing address
		return err
	case !c.direct.v6 && m.Local.IsValid() && !m.Local.Unmap().Is4():
		err := &net.AddrError{Err: "non-IPv4 address", Addr: m.Local.String()}
		return c.failed("write", c.addrOf(m), err)
	case m.SegmentSize < 0:
		return c.failed("write", c.addrOf(m), syscall.EINVAL)
	}
	return nil
}

// addrOf is the address in the errors of m.
func (c *UDPConn) addrOf(m *UDPMessage) net.Addr {
	if m.Addr.IsValid() {
		return addrPortAddr{m.Addr}
	}
	return c.RemoteAddr()
}

// writeEach is WriteBatch over package net.
func (c *UDPConn) writeEach(ms []UDPMessage) (int, error) {
	for i := range ms {
		m := &ms[i]
		if err := c.writeOne(m); err != nil {
			return i, err
		}
	}
	return len(ms), nil
}

func (c *UDPConn) writeOne(m *UDPMessage) error {
	if m.ECN != ECNNone || m.Local.IsValid() || m.Interface != 0 {
		return c.failed("write", c.addrOf(m), errUnsupported)
	}
	if m.SegmentSize < 0 {
		return c.failed("write", c.addrOf(m), syscall.EINVAL)
	}
	p, joined := m.single()
	if joined {
		p = p[:0]
		for _, buffer := range m.Buffers {
			p = append(p, buffer...)
		}
	}
	for {
		q := p
		if m.SegmentSize > 0 {
			q = p[:min(m.SegmentSize, len(p))]
		}
		n, nn, err := c.netUDPConn.WriteMsgUDPAddrPort(q, m.OOB, m.Addr)
		if err != nil {
			return err
		}
		m.N, m.NN, p = m.N+n, nn, p[len(q):]
		if len(p) == 0 {
			return nil
		}
	}
}
