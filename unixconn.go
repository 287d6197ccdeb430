package veloq

// UnixConn and UnixListener: package net's, with directIO in the place of its reads and writes.

import (
	"net"
	"os"
	"syscall"
	"time"

	"github.com/veloq/veloq/internal/debugtag"
)

// UnixConn is a connection of the net door between processes of one machine, unix(7): it has the
// methods of *net.UnixConn, with the same results and errors. Every method is for Any goroutine; whose
// a buffer is ends with the call. Those of a nil or zero UnixConn return EINVAL.
type UnixConn struct {
	unix *net.UnixConn
	d    directIO
}

var (
	_ net.Conn       = (*UnixConn)(nil)
	_ net.PacketConn = (*UnixConn)(nil)
	_ syscall.Conn   = (*UnixConn)(nil)
)

// newUnixConn takes unix over. network is "unix", "unixgram" or "unixpacket"; unread is delivered
// before anything is received; st may stage what is written to a stream.
func newUnixConn(unix *net.UnixConn, network string, unread []byte, st *stager) *UnixConn {
	c := &UnixConn{unix: unix}
	c.d.init(unix, mustRaw(unix), network)
	c.d.packets = network == "unixgram"
	c.d.in.unread = unread
	if network == "unix" {
		c.d.stageBy(st)
	}
	if debugtag.Enabled {
		noteOpen(c, &c.d.note, st.rt, unix.LocalAddr(), unix.RemoteAddr())
	}
	return c
}

func (c *UnixConn) ok() bool { return c != nil && c.unix != nil }

// NetConn returns package net's connection below, for libraries that insist on that type. What is
// read or written there does not pass through here, so use one of the two for a direction; nothing is
// staged any more. Any goroutine.
func (c *UnixConn) NetConn() *net.UnixConn {
	if !c.ok() {
		return nil
	}
	c.d.yieldSocket()
	noteOver(c.d.note)
	return c.unix
}

// Read implements net.Conn. At the end of the stream it returns io.EOF. Any goroutine. Blocks.
func (c *UnixConn) Read(p []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.d.read(p)
}

// Write implements net.Conn: it returns when all of p is with the system, or with an error and how much
// is. The bytes of one call are not mixed with those of another. Any goroutine. Blocks.
func (c *UnixConn) Write(p []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.d.write(p)
}

// Close implements net.Conn: calls that wait return net.ErrClosed. Any goroutine.
func (c *UnixConn) Close() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.close()
}

// CloseRead shuts down the receiving direction: shutdown(2). Any goroutine.
func (c *UnixConn) CloseRead() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.unix.CloseRead()
}

// CloseWrite shuts down the sending direction: shutdown(2). Any goroutine.
func (c *UnixConn) CloseWrite() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.closeWrite(c.unix.CloseWrite)
}

// LocalAddr implements net.Conn. The caller must not change what it returns. Any goroutine.
func (c *UnixConn) LocalAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.unix.LocalAddr()
}

// RemoteAddr implements net.Conn. The caller must not change what it returns. Any goroutine.
func (c *UnixConn) RemoteAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.unix.RemoteAddr()
}

// SetDeadline implements net.Conn. Any goroutine.
func (c *UnixConn) SetDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.setDeadline(t)
}

// SetReadDeadline implements net.Conn. Any goroutine.
func (c *UnixConn) SetReadDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.setReadDeadline(t)
}

// SetWriteDeadline implements net.Conn. Any goroutine.
func (c *UnixConn) SetWriteDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.setWriteDeadline(t)
}

// SetReadBuffer sets the size of the socket's receive buffer: SO_RCVBUF, socket(7). Any goroutine.
func (c *UnixConn) SetReadBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.unix.SetReadBuffer(bytes)
}

// SetWriteBuffer sets the size of the socket's send buffer: SO_SNDBUF, socket(7). Any goroutine.
func (c *UnixConn) SetWriteBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.unix.SetWriteBuffer(bytes)
}

// File returns a copy of the descriptor, which the caller closes; neither close touches the other.
// Nothing is staged on the connection any more. Any goroutine.
func (c *UnixConn) File() (*os.File, error) {
	if !c.ok() {
		return nil, syscall.EINVAL
	}
	if err := c.d.shareSocket(); err != nil {
		return nil, c.d.opError("file", err)
	}
	return c.unix.File()
}

// SyscallConn implements syscall.Conn: Control, Read and Write run their function with the descriptor,
// as package net's do. Any goroutine.
func (c *UnixConn) SyscallConn() (syscall.RawConn, error) {
	if !c.ok() {
		return nil, syscall.EINVAL
	}
	return rawConn{&c.d}, nil
}

// ReadFrom implements net.PacketConn. Any goroutine. Blocks.
func (c *UnixConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUnix(p)
	if from == nil {
		return n, nil, err // not a nil *net.UnixAddr
	}
	return n, from, err
}

// ReadFromUnix receives a packet, or bytes of a stream, and says from whom; nil is somebody without a
// name. Any goroutine. Blocks.
func (c *UnixConn) ReadFromUnix(p []byte) (int, *net.UnixAddr, error) {
	if !c.ok() {
		return 0, nil, syscall.EINVAL
	}
	if n := c.d.copyUnread(p); n > 0 {
		return n, nil, nil
	}
	n, from, err := c.unix.ReadFromUnix(p)
	return n, from, c.d.whyOver(err)
}

// ReadMsgUnix receives as ReadFromUnix does, and into oob what came beside the bytes, such as
// descriptors: recvmsg(2), unix(7). flags are the message's. Any goroutine. Blocks.
func (c *UnixConn) ReadMsgUnix(p, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error) {
	if !c.ok() {
		return 0, 0, 0, nil, syscall.EINVAL
	}
	if n := c.d.copyUnread(p); n > 0 {
		return n, 0, 0, nil, nil
	}
	n, oobn, flags, from, err = c.unix.ReadMsgUnix(p, oob)
	return n, oobn, flags, from, c.d.whyOver(err)
}

// WriteTo implements net.PacketConn. Any goroutine. Blocks.
func (c *UnixConn) WriteTo(p []byte, to net.Addr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.unix.WriteTo(p, to)
}

// WriteToUnix sends a packet from a socket that is not connected. Any goroutine. Blocks.
func (c *UnixConn) WriteToUnix(p []byte, to *net.UnixAddr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.unix.WriteToUnix(p, to)
}

// WriteMsgUnix sends p and, beside it, oob, such as descriptors: sendmsg(2), unix(7). to is nil on a
// connected socket. Any goroutine. Blocks.
func (c *UnixConn) WriteMsgUnix(p, oob []byte, to *net.UnixAddr) (n, oobn int, err error) {
	if !c.ok() {
		return 0, 0, syscall.EINVAL
	}
	err = c.d.bypass()
	defer c.d.resume()
	if err != nil {
		return 0, 0, c.d.opError("write", err)
	}
	return c.unix.WriteMsgUnix(p, oob, to)
}

// UnixListener is a listener of the net door on unix(7) sockets, with the methods of
// *net.UnixListener. Every method is for Any goroutine. Those of a nil or zero UnixListener return
// EINVAL.
type UnixListener struct {
	unix    *net.UnixListener
	network string
	note    debugtag.Note[openNote]
	rt      *Runtime // whose end closes it; nil without
}

var (
	_ net.Listener = (*UnixListener)(nil)
	_ syscall.Conn = (*UnixListener)(nil)
)

// newUnixListener takes unix over. network is what errors call it; rt is nil for the package's.
func newUnixListener(unix *net.UnixListener, network string, rt *Runtime) *UnixListener {
	l := &UnixListener{unix: unix, network: network, rt: rt}
	if debugtag.Enabled {
		noteOpen(l, &l.note, rt, unix.Addr(), nil)
	}
	return l
}

func (l *UnixListener) ok() bool { return l != nil && l.unix != nil }

// Accept implements net.Listener; the connection is a *UnixConn. As in package net, lack of descriptors
// (EMFILE) is an error, whose Temporary is true, and a connection that ended before it was accepted is
// none. Any goroutine. Blocks.
func (l *UnixListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err // not a nil *UnixConn
	}
	return c, nil
}

// AcceptUnix is Accept with the connection's type. Any goroutine. Blocks.
func (l *UnixListener) AcceptUnix() (*UnixConn, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	c, err := l.unix.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return newUnixConn(c, l.network, nil, stagerOf(l.rt)), nil
}

// SetUnlinkOnClose says whether Close removes the socket's file: by default it does if this listener
// made it. Not while another goroutine closes.
func (l *UnixListener) SetUnlinkOnClose(unlink bool) {
	if l.ok() {
		l.unix.SetUnlinkOnClose(unlink)
	}
}

// Close stops listening: an Accept that waits returns net.ErrClosed. Accepted connections stay. Any
// goroutine.
func (l *UnixListener) Close() error {
	if !l.ok() {
		return syscall.EINVAL
	}
	if l.rt != nil {
		l.rt.removeListener(l)
	}
	noteOver(l.note)
	return l.unix.Close()
}

// Addr implements net.Listener. The caller must not change what it returns. Any goroutine.
func (l *UnixListener) Addr() net.Addr {
	if !l.ok() {
		return nil
	}
	return l.unix.Addr()
}

// SetDeadline bounds the waiting of Accept; the zero time is no bound. Any goroutine.
func (l *UnixListener) SetDeadline(t time.Time) error {
	if !l.ok() {
		return syscall.EINVAL
	}
	return l.unix.SetDeadline(t)
}

// File returns a copy of the descriptor, which the caller closes; neither close touches the other. Any
// goroutine.
func (l *UnixListener) File() (*os.File, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	return l.unix.File()
}

// SyscallConn implements syscall.Conn, for Control alone. Any goroutine.
func (l *UnixListener) SyscallConn() (syscall.RawConn, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	noteOver(l.note)
	return l.unix.SyscallConn()
}
