package veloq

// What ListenConfig and Dialer mean in the net door: which of their settings package net takes, and
// what is done about the others.

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/veloq/veloq/internal/rawio"
)

// multipath is a setting of MPTCP: package net's default, or on, or off.
type multipath uint8

const (
	multipathDefault multipath = iota
	multipathOn
	multipathOff
)

func multipathOf(use bool) multipath {
	if use {
		return multipathOn
	}
	return multipathOff
}

// Listen is the function Listen with these settings; Accept and MaxConns are for servers. ctx bounds
// the resolution alone. Any goroutine. Blocks (for a name).
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	l, err := lc.listenNet(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return listenerOver(l, network, nil), nil
}

func (lc *ListenConfig) listenNet(ctx context.Context, network, address string) (net.Listener, error) {
	config := lc.net()
	l, err := config.Listen(ctx, lc.family(network, address), address)
	if err != nil || lc.Backlog <= 0 {
		return l, err
	}
	if c, ok := l.(syscall.Conn); ok {
		err = control(c, func(fd uintptr) error { return rawio.SetBacklog(fd, lc.Backlog) })
	}
	if err != nil {
		_ = l.Close()
		return nil, opError("listen", network, l.Addr(), err)
	}
	return l, nil
}

// ListenPacket is the function ListenPacket with these settings; Backlog, Accept and MaxConns are for
// streams. ctx bounds the resolution alone. Any goroutine. Blocks (for a name).
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return lc.listenPacket(ctx, network, address, defaultStager())
}

func (lc *ListenConfig) listenPacket(ctx context.Context, network, address string, st *stager) (net.PacketConn, error) {
	config := lc.net()
	c, err := config.ListenPacket(ctx, lc.family(network, address), address)
	if err != nil {
		return nil, err
	}
	return packetConnOver(c, network, st), nil
}

// SetMultipathTCP says whether the net door's listeners take MPTCP connections, RFC 8684, where the
// system can; package net decides if it is not called. The worker doors do not. Not while others use
// the ListenConfig.
func (lc *ListenConfig) SetMultipathTCP(use bool) { lc.multipath = multipathOf(use) }

// MultipathTCP reports whether MPTCP is asked for. Any goroutine.
func (lc *ListenConfig) MultipathTCP() bool {
	config := lc.net()
	return config.MultipathTCP()
}

func (lc *ListenConfig) net() net.ListenConfig {
	config := net.ListenConfig{
		Control:         lc.Control,
		KeepAlive:       lc.KeepAlive,
		KeepAliveConfig: lc.KeepAliveConfig,
	}
	if lc.multipath != multipathDefault {
		config.SetMultipathTCP(lc.multipath == multipathOn)
	}
	if lc.ReusePort || lc.DualStack != DualStackAuto || lc.ReadBuffer > 0 || lc.WriteBuffer > 0 ||
		lc.TTL != 0 {
		config.Control = lc.setOptions
	}
	return config
}

// family keeps the IPv4 wildcard to IPv4 where DualStack says so: that takes another socket.
func (lc *ListenConfig) family(network, address string) string {
	if lc.DualStack != DualStackOff || (network != "tcp" && network != "udp") {
		return network
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap() == netip.IPv4Unspecified() {
			return network + "4"
		}
	}
	return network
}

// setOptions is what package net calls between socket and bind: accepted sockets inherit all of it.
func (lc *ListenConfig) setOptions(network, address string, c syscall.RawConn) error {
	v6 := network == "tcp6" || network == "udp6"
	var failed error
	err := c.Control(func(fd uintptr) {
		if lc.ReusePort {
			failed = rawio.SetReusePort(fd)
		}
		if failed == nil && v6 && lc.DualStack != DualStackAuto {
			failed = rawio.SetV6Only(fd, lc.DualStack == DualStackOff)
		}
		if failed == nil {
			failed = rawio.SetBuffers(fd, lc.ReadBuffer, lc.WriteBuffer)
		}
		if failed == nil && lc.TTL != 0 && overIP(network) {
			failed = rawio.SetTTL(fd, v6, lc.TTL)
		}
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case lc.Control != nil:
		return lc.Control(network, address, c)
	}
	return nil
}

// control runs f with c's descriptor.
func control(c syscall.Conn, f func(fd uintptr) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(fd) }); err != nil {
		return err
	}
	return failed
}

// Dial is the function Dial with these settings. Any goroutine. Blocks.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext is Dial until ctx is done: then it returns context.Canceled or a timeout, as package net
// does. Any goroutine. Blocks.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dial(ctx, network, address, defaultStager())
}

func (d *Dialer) dial(ctx context.Context, network, address string, st *stager) (net.Conn, error) {
	dialer := d.net()
	c, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return connOver(c, network, nil, st), nil
}

// DialTCP is net.Dialer's: no name is resolved. Any goroutine. Blocks.
func (d *Dialer) DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*TCPConn, error) {
	dialer := d.net()
	c, err := dialer.DialTCP(ctx, network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	return newTCPConn(c, network, nil, defaultStager()), nil
}

// DialUnix is net.Dialer's. Any goroutine. Blocks.
func (d *Dialer) DialUnix(ctx context.Context, network string, laddr, raddr *net.UnixAddr) (*UnixConn, error) {
	dialer := d.net()
	c, err := dialer.DialUnix(ctx, network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	return newUnixConn(c, network, nil, defaultStager()), nil
}

// DialUDP is net.Dialer's: no name is resolved. Any goroutine.
func (d *Dialer) DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*UDPConn, error) {
	dialer := d.net()
	return wrapUDP(dialer.DialUDP(ctx, network, laddr, raddr))
}

// SetMultipathTCP says whether the net door dials MPTCP, RFC 8684, where the system can; package net
// decides if it is not called. The worker doors do not. Not while others use the Dialer.
func (d *Dialer) SetMultipathTCP(use bool) { d.multipath = multipathOf(use) }

// MultipathTCP reports whether MPTCP is asked for. Any goroutine.
func (d *Dialer) MultipathTCP() bool {
	dialer := d.net()
	return dialer.MultipathTCP()
}

func (d *Dialer) net() net.Dialer {
	dialer := net.Dialer{
		Timeout:         d.Timeout,
		Deadline:        d.Deadline,
		LocalAddr:       d.LocalAddr,
		FallbackDelay:   d.FallbackDelay,
		KeepAlive:       d.KeepAlive,
		KeepAliveConfig: d.KeepAliveConfig,
		Resolver:        d.Resolver,
		Control:         d.Control,
		ControlContext:  d.ControlContext,
	}
	if d.TTL != 0 {
		// ControlContext alone: package net calls Control only where that is nil.
		dialer.Control, dialer.ControlContext = nil, d.setOptions
	}
	if d.multipath != multipathDefault {
		dialer.SetMultipathTCP(d.multipath == multipathOn)
	}
	return dialer
}

// setOptions is what package net calls between socket and connect, or bind.
func (d *Dialer) setOptions(ctx context.Context, network, address string, c syscall.RawConn) error {
	if overIP(network) {
		var failed error
		v6 := network[len(network)-1] == '6'
		err := c.Control(func(fd uintptr) { failed = rawio.SetTTL(fd, v6, d.TTL) })
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
	}
	switch {
	case d.ControlContext != nil:
		return d.ControlContext(ctx, network, address, c)
	case d.Control != nil:
		return d.Control(network, address, c)
	}
	return nil
}

// overIP reports whether network, as a Control function hears it, is one of IP's.
func overIP(network string) bool { return !strings.HasPrefix(network, "unix") }
