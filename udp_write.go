package veloq

// Sending one datagram.

import (
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/veloq/veloq/internal/rawio"
)

type writeKind uint8

const (
	writeTo    writeKind = iota // sendto
	writeMsg                    // sendmsg
	writeBatch                  // sendmmsg
)

// udpWriter is the sending direction, as udpReader is the receiving one.
type udpWriter struct {
	mu  sync.Mutex
	try func(fd uintptr) bool

	kind   writeKind
	p, oob []byte
	flags  int

	n     int // bytes sent, or entries of the batch
	errno syscall.Errno

	name   rawio.MsgName
	header rawio.MsgHeader
	batch  rawio.MsgBatch
	// A batch of one message, for WriteSegments.
	message [1]UDPMessage
	buffer  [1][]byte
	ends    []int // for each message of the batch, the number of entries up to its last
}

// attempt makes the call; false means that there is no room yet.
func (w *udpWriter) attempt(fd uintptr) bool {
	switch w.kind {
	case writeTo:
		w.n, w.errno = rawio.MsgSendTo(fd, w.p, &w.name)
	case writeMsg:
		w.n, w.errno = w.header.Send(fd, w.p, w.oob, &w.name, w.flags)
	case writeBatch:
		for w.errno = 0; w.errno == 0 && w.n < w.batch.Len(); {
			var n int
			n, w.errno = w.batch.Send(fd, w.n, w.flags)
			w.n += n
		}
	}
	return w.errno != syscall.EAGAIN
}

// begin takes the direction for one call, to the peer it is connected to until name is set.
func (w *udpWriter) begin(kind writeKind, p, oob []byte, flags int) {
	w.mu.Lock()
	w.kind, w.p, w.oob, w.flags = kind, p, oob, flags
	w.name = rawio.MsgName{}
	w.n, w.errno = 0, 0
}

// end gives the direction back.
func (w *udpWriter) end() {
	w.p, w.oob = nil, nil
	w.mu.Unlock()
}

// send runs the call that begin has set up to its end, and ends it. err is RawConn's own.
func (c *UDPConn) send() (n int, errno syscall.Errno, err error) {
	w := &c.writer
	err = c.direct.raw.Write(w.try)
	n, errno = w.n, w.errno
	w.end()
	return n, errno, err
}

// outcome is package net's error of a send; addr is the address in it.
func (c *UDPConn) outcome(call string, addr net.Addr, errno syscall.Errno, err error) error {
	switch {
	case err != nil:
		return rawFailed("write", addr, err)
	case errno != 0:
		return c.callFailed("write", call, addr, errno)
	}
	return nil
}

// Write implements [net.Conn]: one datagram to the peer the socket is connected to. Blocks. Any
// goroutine.
func (c *UDPConn) Write(p []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if c.direct == nil {
		return c.netUDPConn.Write(p)
	}
	c.writer.begin(writeTo, p, nil, 0)
	n, errno, err := c.send()
	if err != nil || errno != 0 {
		return 0, c.outcome("write", c.RemoteAddr(), errno, err)
	}
	return n, nil
}

// WriteTo implements [net.PacketConn]; addr must be a *net.UDPAddr. Blocks. Any goroutine.
func (c *UDPConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if a, ok := addr.(*net.UDPAddr); ok {
		return c.WriteToUDP(p, a)
	}
	return c.netUDPConn.WriteTo(p, addr)
}

// WriteToUDP sends one datagram to addr. Blocks. Any goroutine.
func (c *UDPConn) WriteToUDP(p []byte, addr *net.UDPAddr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if c.direct == nil || c.direct.connected || addr == nil {
		return c.netUDPConn.WriteToUDP(p, addr)
	}
	c.writer.begin(writeTo, p, nil, 0)
	if !c.direct.setNameUDP(&c.writer.name, addr) {
		c.writer.end()
		return c.netUDPConn.WriteToUDP(p, addr) // which says what is wrong with it
	}
	_, errno, err := c.send()
	if err != nil || errno != 0 {
		return 0, c.outcome("sendto", addr, errno, err)
	}
	return len(p), nil
}

// WriteToUDPAddrPort sends one datagram to addr and allocates nothing. Blocks. Any goroutine.
func (c *UDPConn) WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if c.direct == nil || c.direct.connected || !addr.IsValid() {
		return c.netUDPConn.WriteToUDPAddrPort(p, addr)
	}
	c.writer.begin(writeTo, p, nil, 0)
	if !c.direct.setName(&c.writer.name, addr) {
		c.writer.end()
		return c.netUDPConn.WriteToUDPAddrPort(p, addr)
	}
	_, errno, err := c.send()
	if err != nil || errno != 0 {
		return 0, c.outcome("sendto", addrPortAddr{addr}, errno, err)
	}
	return len(p), nil
}

// WriteMsgUDP sends p with the control messages in oob, sendmsg(2)'s. addr is nil where the socket is
// connected, and only there. It returns the bytes sent of each. Blocks. Any goroutine.
func (c *UDPConn) WriteMsgUDP(p, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if !c.ok() {
		return 0, 0, syscall.EINVAL
	}
	if c.direct == nil || c.direct.connected != (addr == nil) {
		return c.netUDPConn.WriteMsgUDP(p, oob, addr)
	}
	c.writer.begin(writeMsg, p, oob, 0)
	if addr != nil && !c.direct.setNameUDP(&c.writer.name, addr) {
		c.writer.end()
		return c.netUDPConn.WriteMsgUDP(p, oob, addr)
	}
	n, errno, err := c.send()
	if err != nil || errno != 0 {
		var to net.Addr
		if addr != nil {
			to = addr
		}
		return 0, 0, c.outcome("sendmsg", to, errno, err)
	}
	return n, len(oob), nil
}

// WriteMsgUDPAddrPort is WriteMsgUDP that allocates nothing; an addr that is not valid stands for
// none. Blocks. Any goroutine.
func (c *UDPConn) WriteMsgUDPAddrPort(p, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	if !c.ok() {
		return 0, 0, syscall.EINVAL
	}
	if c.direct == nil || c.direct.connected == addr.IsValid() {
		return c.netUDPConn.WriteMsgUDPAddrPort(p, oob, addr)
	}
	c.writer.begin(writeMsg, p, oob, 0)
	if addr.IsValid() && !c.direct.setName(&c.writer.name, addr) {
		c.writer.end()
		return c.netUDPConn.WriteMsgUDPAddrPort(p, oob, addr)
	}
	n, errno, err := c.send()
	if err != nil || errno != 0 {
		return 0, 0, c.outcome("sendmsg", addrPortAddr{addr}, errno, err)
	}
	return n, len(oob), nil
}
