package veloq

// TCPConn and TCPListener: package net's, with directIO in the place of its reads and writes.

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/veloq/veloq/internal/debugtag"
)

// TCPConn is a TCP connection of the net door: it has the methods of *net.TCPConn, with the same
// results and errors, and reads and writes by fewer instructions. Every method is for Any goroutine;
// whose a buffer is ends with the call. Those of a nil or zero TCPConn return EINVAL.
type TCPConn struct {
	tcp *net.TCPConn
	d   directIO
}

var (
	_ net.Conn      = (*TCPConn)(nil)
	_ io.ReaderFrom = (*TCPConn)(nil)
	_ io.WriterTo   = (*TCPConn)(nil)
	_ syscall.Conn  = (*TCPConn)(nil)
)

// mustRaw returns the raw connection of an object of package net, which every one has that is not nil.
func mustRaw(c syscall.Conn) syscall.RawConn {
	raw, err := c.SyscallConn()
	if err != nil {
		panic("veloq: " + err.Error())
	}
	return raw
}

// newTCPConn takes tcp over. network is what errors call it: the name that was dialed or listened on.
// unread is delivered before anything is received; st may stage what is written.
func newTCPConn(tcp *net.TCPConn, network string, unread []byte, st *stager) *TCPConn {
	c := &TCPConn{tcp: tcp}
	c.d.init(tcp, mustRaw(tcp), network)
	c.d.in.unread = unread
	c.d.stageBy(st)
	if debugtag.Enabled {
		noteOpen(c, &c.d.note, st.rt, tcp.LocalAddr(), tcp.RemoteAddr())
	}
	return c
}

func (c *TCPConn) ok() bool { return c != nil && c.tcp != nil }

// NetConn returns package net's connection below, for libraries that insist on that type. What is
// read or written there does not pass through here, so use one of the two for a direction; nothing is
// staged any more. Any goroutine.
func (c *TCPConn) NetConn() *net.TCPConn {
	if !c.ok() {
		return nil
	}
	c.d.yieldSocket()
	noteOver(c.d.note)
	return c.tcp
}

// Read implements net.Conn. At the end of the stream it returns io.EOF. Any goroutine. Blocks.
func (c *TCPConn) Read(p []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.d.read(p)
}

// Write implements net.Conn: it returns when all of p is with the system, or with an error and how much
// is. The bytes of one call are not mixed with those of another. Any goroutine. Blocks.
func (c *TCPConn) Write(p []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.d.write(p)
}

// Close implements net.Conn: calls that wait return net.ErrClosed. Any goroutine.
func (c *TCPConn) Close() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.close()
}

// CloseRead shuts down the receiving direction: shutdown(2). Any goroutine.
func (c *TCPConn) CloseRead() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.CloseRead()
}

// CloseWrite sends what was written and then FIN: shutdown(2). Any goroutine.
func (c *TCPConn) CloseWrite() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.closeWrite(c.tcp.CloseWrite)
}

// LocalAddr implements net.Conn. The caller must not change what it returns. Any goroutine.
func (c *TCPConn) LocalAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.tcp.LocalAddr()
}

// RemoteAddr implements net.Conn. The caller must not change what it returns. Any goroutine.
func (c *TCPConn) RemoteAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.tcp.RemoteAddr()
}

// SetDeadline implements net.Conn. Any goroutine.
func (c *TCPConn) SetDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.setDeadline(t)
}

// SetReadDeadline implements net.Conn. Any goroutine.
func (c *TCPConn) SetReadDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.setReadDeadline(t)
}

// SetWriteDeadline implements net.Conn. Any goroutine.
func (c *TCPConn) SetWriteDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.d.setWriteDeadline(t)
}

// SetReadBuffer sets the size of the socket's receive buffer: SO_RCVBUF, socket(7). Any goroutine.
func (c *TCPConn) SetReadBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.SetReadBuffer(bytes)
}

// SetWriteBuffer sets the size of the socket's send buffer: SO_SNDBUF, socket(7). Any goroutine.
func (c *TCPConn) SetWriteBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.SetWriteBuffer(bytes)
}

// File returns a copy of the descriptor, which the caller closes; neither close touches the other.
// Nothing is staged on the connection any more. Any goroutine.
func (c *TCPConn) File() (*os.File, error) {
	if !c.ok() {
		return nil, syscall.EINVAL
	}
	if err := c.d.shareSocket(); err != nil {
		return nil, c.d.opError("file", err)
	}
	return c.tcp.File()
}

// SyscallConn implements syscall.Conn: Control, Read and Write run their function with the descriptor,
// as package net's do. Any goroutine.
func (c *TCPConn) SyscallConn() (syscall.RawConn, error) {
	if !c.ok() {
		return nil, syscall.EINVAL
	}
	return rawConn{&c.d}, nil
}

// SetLinger says what Close does with unsent bytes, as for *net.TCPConn: SO_LINGER, socket(7). Any
// goroutine.
func (c *TCPConn) SetLinger(sec int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	c.d.reset.Store(sec == 0)
	return c.tcp.SetLinger(sec)
}

// SetNoDelay turns Nagle's algorithm off (true, the default) or on: TCP_NODELAY, tcp(7). Any goroutine.
func (c *TCPConn) SetNoDelay(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.SetNoDelay(on)
}

// SetKeepAlive turns keep-alive probes on or off: SO_KEEPALIVE, socket(7). Any goroutine.
func (c *TCPConn) SetKeepAlive(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.SetKeepAlive(on)
}

// SetKeepAlivePeriod sets the idle time before the first probe: TCP_KEEPIDLE, tcp(7). Any goroutine.
func (c *TCPConn) SetKeepAlivePeriod(d time.Duration) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.SetKeepAlivePeriod(d)
}

// SetKeepAliveConfig sets all that is to be said about keep-alive probes: tcp(7). Any goroutine.
func (c *TCPConn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.tcp.SetKeepAliveConfig(config)
}

// MultipathTCP reports whether the connection uses MPTCP, RFC 8684. Any goroutine.
func (c *TCPConn) MultipathTCP() (bool, error) {
	if !c.ok() {
		return false, syscall.EINVAL
	}
	return c.tcp.MultipathTCP()
}

// TCPListener is a listener of the net door, with the methods of *net.TCPListener. Every method is for
// Any goroutine. Those of a nil or zero TCPListener return EINVAL.
type TCPListener struct {
	tcp     *net.TCPListener
	network string
	note    debugtag.Note[openNote]
	rt      *Runtime // whose end closes it; nil without
}

var (
	_ net.Listener = (*TCPListener)(nil)
	_ syscall.Conn = (*TCPListener)(nil)
)

// newTCPListener takes tcp over. network is what errors call it; rt is nil for the package's.
func newTCPListener(tcp *net.TCPListener, network string, rt *Runtime) *TCPListener {
	l := &TCPListener{tcp: tcp, network: network, rt: rt}
	if debugtag.Enabled {
		noteOpen(l, &l.note, rt, tcp.Addr(), nil)
	}
	return l
}

func (l *TCPListener) ok() bool { return l != nil && l.tcp != nil }

// Accept implements net.Listener; the connection is a *TCPConn. As in package net, lack of descriptors
// (EMFILE) is an error, whose Temporary is true, and a connection that ended before it was accepted is
// none. Any goroutine. Blocks.
func (l *TCPListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err // not a nil *TCPConn
	}
	return c, nil
}

// AcceptTCP is Accept with the connection's type. Any goroutine. Blocks.
func (l *TCPListener) AcceptTCP() (*TCPConn, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	c, err := l.tcp.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return newTCPConn(c, l.network, nil, stagerOf(l.rt)), nil
}

// Close stops listening: an Accept that waits returns net.ErrClosed. Accepted connections stay. Any
// goroutine.
func (l *TCPListener) Close() error {
	if !l.ok() {
		return syscall.EINVAL
	}
	if l.rt != nil {
		l.rt.removeListener(l)
	}
	noteOver(l.note)
	return l.tcp.Close()
}

// Addr implements net.Listener. The caller must not change what it returns. Any goroutine.
func (l *TCPListener) Addr() net.Addr {
	if !l.ok() {
		return nil
	}
	return l.tcp.Addr()
}

// SetDeadline bounds the waiting of Accept; the zero time is no bound. Any goroutine.
func (l *TCPListener) SetDeadline(t time.Time) error {
	if !l.ok() {
		return syscall.EINVAL
	}
	return l.tcp.SetDeadline(t)
}

// File returns a copy of the descriptor, which the caller closes; neither close touches the other. Any
// goroutine.
func (l *TCPListener) File() (*os.File, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	return l.tcp.File()
}

// SyscallConn implements syscall.Conn, for Control alone. Any goroutine.
func (l *TCPListener) SyscallConn() (syscall.RawConn, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	noteOver(l.note)
	return l.tcp.SyscallConn()
}
