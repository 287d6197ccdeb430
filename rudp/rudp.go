// Package rudp is a reliable byte stream over UDP with the interface of a TCP connection: [Stream]
// is a net.Conn, [Listener] a net.Listener. On the wire it is QUIC version 1 (RFC 8999, 9000, 9001,
// 9002) with one bidirectional stream a connection, so it is always encrypted by TLS 1.3, and any
// QUIC stack with the same ALPN can talk to it.
//
// An [Endpoint] is all connections of one socket. One goroutine, its actor, owns them: it alone
// touches their state. A Stream is a handle: what is written goes into a bounded ring that the
// actor empties, what arrives into another that Read empties. Neither ever waits for the other
// inside a lock, and a reader that is slow closes only its own connection's window.
package rudp

// This file changes if what the package offers at the top does.

import (
	"context"
	"net"
	"net/netip"

	"github.com/veloq/veloq"
)

// Listen opens a UDP socket at addr and takes connections on it. network is "udp", "udp4" or
// "udp6"; addr is as in net.ListenPacket. cfg.TLS must have a certificate. The errors are
// *net.OpError. Closing the Listener keeps the connections that were accepted; the socket closes
// when the last of them has ended. Blocks while a name is resolved. Any goroutine.
func Listen(network, addr string, cfg *Config) (*Listener, error) {
	e, err := listenEndpoint(network, addr, cfg)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: networkName, Addr: textAddr(addr), Err: err}
	}
	l, err := e.Listen()
	if err != nil {
		_ = e.Close()
		return nil, err
	}
	l.owns = true
	return l, nil
}

func listenEndpoint(network, addr string, cfg *Config) (*Endpoint, error) {
	if err := checkNetwork(network); err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	local, err := net.ResolveUDPAddr(network, addr)
	if err != nil {
		return nil, err
	}
	pc, err := veloq.ListenUDP(network, local)
	if err != nil {
		return nil, err
	}
	return newEndpoint(pc, cfg)
}

// Dial connects to addr from a socket of its own, which closes when the stream has ended. network
// is "udp", "udp4" or "udp6". Each address of a name is tried in turn, with an equal part of what
// time there is: cfg.HandshakeTimeout or ctx's, whichever ends first. cfg.TLS is as in tls.Dial:
// without a ServerName it is taken from addr. The errors are *net.OpError; a server that doesn't
// answer makes it a timeout (ETIMEDOUT), one that refuses ECONNREFUSED, a failed handshake a
// *TransportError. Once it has returned ctx means nothing to the stream. Blocks. Any goroutine.
func Dial(ctx context.Context, network, addr string, cfg *Config) (*Stream, error) {
	if err := checkNetwork(network); err != nil {
		return nil, &net.OpError{Op: "dial", Net: networkName, Addr: textAddr(addr), Err: err}
	}
	if err := cfg.check(); err != nil {
		return nil, &net.OpError{Op: "dial", Net: networkName, Addr: textAddr(addr), Err: err}
	}
	return dialEach(ctx, network, addr, cfg, cfg.dialAlone)
}

// dialAlone connects to one address from a new socket.
func (c *Config) dialAlone(ctx context.Context, to netip.AddrPort, host string) (*Stream, error) {
	network, local := "udp4", netip.IPv4Unspecified()
	if !to.Addr().Is4() {
		network, local = "udp6", netip.IPv6Unspecified()
	}
	pc, err := veloq.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
	if err != nil {
		return nil, err
	}
	e, err := newEndpoint(pc, c)
	if err != nil {
		return nil, err
	}
	s, err := e.connect(ctx, to, host)
	e.closeWhenIdle()
	return s, err
}

// NewEndpoint makes an endpoint of a socket, to dial and to listen on the same one, which Close or
// Shutdown ends. The endpoint owns pc from now on, also if it fails, and closes it. Its addresses
// must be UDP's: *net.UDPAddr, or anything with a method AddrPort, or whose text is an address and
// port. A *veloq.UDPConn is used with segmentation offload, receive offload and ECN where the
// system has them; it must not be read by others. The errors are *net.OpError. Any goroutine.
func NewEndpoint(pc PacketConn, cfg *Config) (*Endpoint, error) {
	err := cfg.check()
	if err == nil {
		var e *Endpoint
		if e, err = newEndpoint(pc, cfg); err == nil {
			return e, nil
		}
	} else {
		_ = pc.Close()
	}
	return nil, &net.OpError{Op: "listen", Net: networkName, Addr: pc.LocalAddr(), Err: err}
}
