package veloq

// Receiving one datagram.

import (
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/veloq/veloq/internal/rawio"
)

type readKind uint8

const (
	readPlain readKind = iota // recvfrom without an address
	readFrom                  // recvfrom
	readMsg                   // recvmsg
	readBatch                 // recvmmsg
)

// udpReader is the receiving direction. A call's arguments and results are fields, so that the
// function given to the poller is made once and nothing is allocated; mu covers them.
type udpReader struct {
	mu  sync.Mutex
	try func(fd uintptr) bool

	kind   readKind
	p, oob []byte
	flags  int

	n, oobn, msgFlags int
	errno             syscall.Errno

	name   rawio.MsgName
	header rawio.MsgHeader
	batch  rawio.MsgBatch
}

// attempt makes the call; false means that there is nothing yet.
func (r *udpReader) attempt(fd uintptr) bool {
	switch r.kind {
	case readPlain:
		r.n, r.errno = rawio.MsgRecvFrom(fd, r.p, nil)
	case readFrom:
		r.n, r.errno = rawio.MsgRecvFrom(fd, r.p, &r.name)
	case readMsg:
		r.n, r.oobn, r.msgFlags, r.errno = r.header.Recv(fd, r.p, r.oob, &r.name, r.flags)
	case readBatch:
		r.n, r.errno = r.batch.Recv(fd, r.flags)
	}
	return r.errno != syscall.EAGAIN
}

// received is a datagram's outcome, but its bytes.
type received struct {
	n, oobn, flags int
	from           netip.AddrPort
}

// receive runs one call to its end. It returns package net's error; call is the name in it.
func (c *UDPConn) receive(kind readKind, call string, p, oob []byte) (got received, err error) {
	r := &c.reader
	r.mu.Lock()
	r.kind, r.p, r.oob, r.flags = kind, p, oob, 0
	r.n, r.oobn, r.msgFlags, r.errno = 0, 0, 0, 0
	err = c.direct.raw.Read(r.try)
	r.p, r.oob = nil, nil
	errno := r.errno
	got = received{n: r.n, oobn: r.oobn, flags: r.msgFlags}
	if err == nil && errno == 0 && kind != readPlain {
		got.from = c.direct.received(&r.name)
	}
	r.mu.Unlock()
	switch {
	case err != nil: // after an EAGAIN: errno says nothing
		return received{}, rawFailed("read", c.RemoteAddr(), err)
	case errno != 0:
		return received{}, c.callFailed("read", call, c.RemoteAddr(), errno)
	}
	return got, nil
}

// Read implements [net.Conn]: one datagram, from whoever sent it. What p has no room for is lost. A
// datagram of no bytes is 0 and no error, and so is a p of no bytes, which takes none. Blocks. Any
// goroutine.
func (c *UDPConn) Read(p []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if c.direct == nil || len(p) == 0 {
		return c.netUDPConn.Read(p)
	}
	got, err := c.receive(readPlain, "read", p, nil)
	return got.n, err
}

// ReadFrom implements [net.PacketConn]. Blocks. Any goroutine.
func (c *UDPConn) ReadFrom(p []byte) (int, net.Addr, error) {
	if !c.ok() {
		return 0, nil, syscall.EINVAL
	}
	n, addr, err := c.ReadFromUDP(p)
	if addr == nil {
		return n, nil, err
	}
	return n, addr, err
}

// ReadFromUDP is ReadFrom with package net's address type. Blocks. Any goroutine.
func (c *UDPConn) ReadFromUDP(p []byte) (int, *net.UDPAddr, error) {
	if !c.ok() {
		return 0, nil, syscall.EINVAL
	}
	if c.direct == nil {
		return c.netUDPConn.ReadFromUDP(p)
	}
	got, err := c.receive(readFrom, "recvfrom", p, nil)
	if err != nil {
		return 0, nil, err
	}
	return got.n, udpAddrOf(got.from), nil
}

// ReadFromUDPAddrPort is ReadFrom that allocates nothing. On a socket for both families an IPv4
// address comes in its mapped form. Blocks. Any goroutine.
func (c *UDPConn) ReadFromUDPAddrPort(p []byte) (int, netip.AddrPort, error) {
	if !c.ok() {
		return 0, netip.AddrPort{}, syscall.EINVAL
	}
	if c.direct == nil {
		return c.netUDPConn.ReadFromUDPAddrPort(p)
	}
	got, err := c.receive(readFrom, "recvfrom", p, nil)
	return got.n, got.from, err
}

// ReadMsgUDP receives a datagram into p and its control messages, recvmsg(2)'s, into oob. flags has
// MSG_TRUNC or MSG_CTRUNC where p or oob was too short. Blocks. Any goroutine.
func (c *UDPConn) ReadMsgUDP(p, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	if !c.ok() {
		return 0, 0, 0, nil, syscall.EINVAL
	}
	if c.direct == nil {
		return c.netUDPConn.ReadMsgUDP(p, oob)
	}
	var from netip.AddrPort
	n, oobn, flags, from, err = c.ReadMsgUDPAddrPort(p, oob)
	return n, oobn, flags, udpAddrOf(from), err
}

// ReadMsgUDPAddrPort is ReadMsgUDP that allocates nothing. Blocks. Any goroutine.
func (c *UDPConn) ReadMsgUDPAddrPort(p, oob []byte) (
	n, oobn, flags int, addr netip.AddrPort, err error,
) {
	if !c.ok() {
		return 0, 0, 0, netip.AddrPort{}, syscall.EINVAL
	}
	if c.direct == nil {
		return c.netUDPConn.ReadMsgUDPAddrPort(p, oob)
	}
	got, err := c.receive(readMsg, "recvmsg", p, oob)
	if err != nil {
		return 0, 0, 0, c.direct.unspecified(), err // package net's address beside an error
	}
	return got.n, got.oobn, got.flags, got.from, nil
}
