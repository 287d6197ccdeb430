package veloq

// UDPConn: what it is made of, how it is opened, and the errors it returns.

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/rawio"
)

// netUDPConn lets UDPConn embed package net's type without exporting a field of that name.
type netUDPConn = net.UDPConn

// UDPConn is a UDP socket with every method of [net.UDPConn], the same results and the same errors,
// and with batches, segmentation offload, ECN and packet information besides. On 64-bit Linux its
// reads and writes are non-blocking system calls of the caller's own goroutine, which waits in Go's
// poller when there is nothing; elsewhere they are package net's. Deadlines, Close and socket options
// are package net's everywhere. Any goroutine may call any method: reads take turns with reads, and
// writes with writes.
//
// Slices given to a method are the caller's again when it returns. Methods of a nil or zero UDPConn
// return EINVAL.
type UDPConn struct {
	*netUDPConn
	note   debugtag.Note[openNote]
	direct *udpDirect // nil: package net does all of it
	reader udpReader
	writer udpWriter
	gso    gsoState
}

var (
	_ net.Conn       = (*UDPConn)(nil)
	_ net.PacketConn = (*UDPConn)(nil)
	_ syscall.Conn   = (*UDPConn)(nil)
)

// udpDirect is what the direct calls must know of the socket; it never changes.
type udpDirect struct {
	raw       syscall.RawConn
	v6        bool
	connected bool
	peer4     bool // its peer has an IPv4 address
}

// newUDPConn makes a UDPConn of conn, which is its own from now on. rt is nil for the package's.
func newUDPConn(conn *net.UDPConn, rt *Runtime) *UDPConn {
	c := &UDPConn{netUDPConn: conn}
	if debugtag.Enabled {
		noteOpen(c, &c.note, rt, conn.LocalAddr(), conn.RemoteAddr())
	}
	if !rawio.MsgDirect {
		return c
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return c
	}
	d := &udpDirect{raw: raw}
	if controlErr := raw.Control(func(fd uintptr) { d.v6, err = rawio.MsgIsIPv6(fd) }); controlErr != nil {
		err = controlErr
	}
	if err != nil { // closed, or no socket of this system: package net says what is wrong with it
		return c
	}
	// Only package net knows which it takes the socket for; it says so before it looks at the socket.
	_, refusal := conn.WriteToUDPAddrPort(nil, netip.AddrPort{})
	d.connected = errors.Is(refusal, net.ErrWriteToConnected)
	if peer, ok := conn.RemoteAddr().(*net.UDPAddr); ok && peer != nil {
		d.peer4 = peer.IP.To4() != nil
	}
	c.direct = d
	c.reader.try = c.reader.attempt
	c.writer.try = c.writer.attempt
	return c
}

// ListenUDP is [net.ListenUDP] with a UDPConn for its result: the same networks ("udp", "udp4",
// "udp6"), addresses and errors. Any goroutine.
func ListenUDP(network string, laddr *net.UDPAddr) (*UDPConn, error) {
	return wrapUDP(net.ListenUDP(network, laddr))
}

// DialUDP is [net.DialUDP] with a UDPConn for its result. Any goroutine.
func DialUDP(network string, laddr, raddr *net.UDPAddr) (*UDPConn, error) {
	return wrapUDP(net.DialUDP(network, laddr, raddr))
}

// ListenMulticastUDP is [net.ListenMulticastUDP] with a UDPConn for its result. Any goroutine.
func ListenMulticastUDP(network string, ifi *net.Interface, gaddr *net.UDPAddr) (*UDPConn, error) {
	return wrapUDP(net.ListenMulticastUDP(network, ifi, gaddr))
}

func wrapUDP(conn *net.UDPConn, err error) (*UDPConn, error) {
	if err != nil {
		return nil, err
	}
	return newUDPConn(conn, nil), nil
}

// NetConn returns the package net connection beneath, for libraries that ask for that very type. It
// is the same socket: closing one closes both, and both may be used side by side. Any goroutine.
func (c *UDPConn) NetConn() *net.UDPConn {
	if !c.ok() {
		return nil
	}
	noteOver(c.note)
	return c.netUDPConn
}

func (c *UDPConn) ok() bool { return c != nil && c.netUDPConn != nil }

// noUDPAddr is an address of no kind.
type noUDPAddr struct{}

func (noUDPAddr) Network() string { return "" }
func (noUDPAddr) String() string  { return "" }

// failed makes the error that package net has for op. Only its connection knows the network's name
// it was opened with, and tells it by refusing an address of no kind without touching the socket.
func (c *UDPConn) failed(op string, addr net.Addr, err error) error {
	_, refusal := c.netUDPConn.WriteTo(nil, noUDPAddr{})
	e, ok := refusal.(*net.OpError)
	if !ok {
		return refusal
	}
	e.Op, e.Addr, e.Err = op, addr, err
	return e
}

// callFailed is failed for a system call's error number.
func (c *UDPConn) callFailed(op, call string, addr net.Addr, errno syscall.Errno) error {
	return c.failed(op, addr, os.NewSyscallError(call, errno))
}

// rawFailed turns what RawConn's Read or Write returned, a deadline or a close, into the error of op.
func rawFailed(op string, addr net.Addr, err error) error {
	if e, ok := err.(*net.OpError); ok {
		e.Op, e.Addr = op, addr
	}
	return err
}

// addrPortAddr is the address in the errors of calls that were given a netip.AddrPort.
type addrPortAddr struct{ netip.AddrPort }

func (addrPortAddr) Network() string { return "udp" }
