package veloq

// The net door: package net's functions, whose connections are this package's.

import (
	"context"
	"io"
	"net"
	"os"
	"time"
)

// Listen is net.Listen: "tcp", "tcp4", "tcp6", "unix" or "unixpacket". The listener is a *TCPListener
// or *UnixListener, and so are its connections *TCPConn or *UnixConn. It needs no runtime. Any
// goroutine. Blocks (for a name).
func Listen(network, address string) (net.Listener, error) {
	return (&ListenConfig{}).Listen(context.Background(), network, address)
}

// ListenPacket is net.ListenPacket; the connection is a *UDPConn or, on "unixgram", a *UnixConn. Any goroutine. Blocks
// (for a name).
func ListenPacket(network, address string) (net.PacketConn, error) {
	return (&ListenConfig{}).ListenPacket(context.Background(), network, address)
}

// ListenTCP is net.ListenTCP. Any goroutine.
func ListenTCP(network string, laddr *net.TCPAddr) (*TCPListener, error) {
	l, err := net.ListenTCP(network, laddr)
	if err != nil {
		return nil, err
	}
	return newTCPListener(l, network, nil), nil
}

// ListenUnix is net.ListenUnix. Any goroutine.
func ListenUnix(network string, laddr *net.UnixAddr) (*UnixListener, error) {
	l, err := net.ListenUnix(network, laddr)
	if err != nil {
		return nil, err
	}
	return newUnixListener(l, network, nil), nil
}

// ListenUnixgram is net.ListenUnixgram. Any goroutine.
func ListenUnixgram(network string, laddr *net.UnixAddr) (*UnixConn, error) {
	c, err := net.ListenUnixgram(network, laddr)
	if err != nil {
		return nil, err
	}
	return newUnixConn(c, network, nil, defaultStager()), nil
}

// Dial is net.Dial, with all its networks. The connection is a *TCPConn, a *UDPConn or, on
// unix(7) sockets, a *UnixConn. It needs no runtime. Any goroutine. Blocks.
func Dial(network, address string) (net.Conn, error) {
	return (&Dialer{}).Dial(network, address)
}

// DialTimeout is Dial with a bound, resolution included. Any goroutine. Blocks.
func DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	return (&Dialer{Timeout: timeout}).Dial(network, address)
}

// DialTCP is net.DialTCP. Any goroutine. Blocks.
func DialTCP(network string, laddr, raddr *net.TCPAddr) (*TCPConn, error) {
	c, err := net.DialTCP(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	return newTCPConn(c, network, nil, defaultStager()), nil
}

// DialUnix is net.DialUnix. Any goroutine. Blocks.
func DialUnix(network string, laddr, raddr *net.UnixAddr) (*UnixConn, error) {
	c, err := net.DialUnix(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	return newUnixConn(c, network, nil, defaultStager()), nil
}

// FileConn is net.FileConn: the connection has a copy of f's descriptor, and the caller closes f. Any
// goroutine.
func FileConn(f *os.File) (net.Conn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return connOver(c, c.LocalAddr().Network(), nil, defaultStager()), nil
}

// FileListener is net.FileListener: the listener has a copy of f's descriptor, and the caller closes f.
// Any goroutine.
func FileListener(f *os.File) (net.Listener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return listenerOver(l, l.Addr().Network(), nil), nil
}

// FilePacketConn is net.FilePacketConn: the connection has a copy of f's descriptor, and the caller
// closes f. Any goroutine.
func FilePacketConn(f *os.File) (net.PacketConn, error) {
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return packetConnOver(c, c.LocalAddr().Network(), defaultStager()), nil
}

// stagerOf returns the stager of a runtime's connections, nil for the package's.
func stagerOf(rt *Runtime) *stager {
	if rt == nil {
		return defaultStager()
	}
	return rt.stager
}

// connOver makes this package's connection of package net's, where there is one.
func connOver(c net.Conn, network string, unread []byte, st *stager) net.Conn {
	switch c := c.(type) {
	case *net.TCPConn:
		return newTCPConn(c, network, unread, st)
	case *net.UnixConn:
		return newUnixConn(c, network, unread, st)
	case *net.UDPConn:
		return newUDPConn(c, st.rt)
	}
	return c
}

func packetConnOver(c net.PacketConn, network string, st *stager) net.PacketConn {
	switch c := c.(type) {
	case *net.UnixConn:
		return newUnixConn(c, network, nil, st)
	case *net.UDPConn:
		return newUDPConn(c, st.rt)
	}
	return c
}

func listenerOver(l net.Listener, network string, rt *Runtime) net.Listener {
	switch l := l.(type) {
	case *net.TCPListener:
		return newTCPListener(l, network, rt)
	case *net.UnixListener:
		return newUnixListener(l, network, rt)
	}
	return l
}

// Listen is the function Listen for a listener that ends with the runtime: Close and Shutdown close it
// first. Its connections are their owners'. After Close it returns ErrClosed. Any goroutine. Blocks
// (for a name).
func (rt *Runtime) Listen(network, address string) (net.Listener, error) {
	return rt.listen(context.Background(), &ListenConfig{}, network, address)
}

func (rt *Runtime) listen(ctx context.Context, lc *ListenConfig, network, address string) (net.Listener, error) {
	if rt.closing.Load() {
		return nil, opError("listen", network, nil, ErrClosed)
	}
	l, err := lc.listenNet(ctx, network, address)
	if err != nil {
		return nil, err
	}
	over := listenerOver(l, network, rt)
	if !rt.addListener(over) {
		_ = l.Close()
		return nil, opError("listen", network, nil, ErrClosed)
	}
	return over, nil
}

// ListenPacket is the function ListenPacket; the connection is its caller's to close. After Close it
// returns ErrClosed. Any goroutine. Blocks (for a name).
func (rt *Runtime) ListenPacket(network, address string) (net.PacketConn, error) {
	if rt.closing.Load() {
		return nil, opError("listen", network, nil, ErrClosed)
	}
	return (&ListenConfig{}).listenPacket(context.Background(), network, address, rt.stager)
}

// Dial is the function Dial; the connection is its caller's to close. After Close it returns
// ErrClosed. Any goroutine. Blocks.
func (rt *Runtime) Dial(network, address string) (net.Conn, error) {
	return rt.DialContext(context.Background(), network, address)
}

// DialContext is Dial until ctx is done. Any goroutine. Blocks.
func (rt *Runtime) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if rt.closing.Load() {
		return nil, opError("dial", network, nil, ErrClosed)
	}
	return (&Dialer{}).dial(ctx, network, address, rt.stager)
}

func (rt *Runtime) addListener(l io.Closer) bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closing.Load() {
		return false
	}
	if rt.listeners == nil {
		rt.listeners = map[io.Closer]struct{}{}
	}
	rt.listeners[l] = struct{}{}
	return true
}

func (rt *Runtime) removeListener(l io.Closer) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	delete(rt.listeners, l)
}

func (rt *Runtime) closeListeners() {
	rt.mu.Lock()
	listeners := rt.listeners
	rt.listeners = nil
	rt.mu.Unlock()
	for l := range listeners {
		_ = l.Close()
	}
}
