package veloq

// Connected datagram sockets.

import (
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/veloq/veloq/internal/core"
)

// DialDatagram opens a datagram socket that is connected to address, on "udp", "udp4", "udp6" or
// "unixgram": it sends there and receives from there only. A name's addresses are tried one after
// another, which finds out no more than whether there is a route. Worker only. Blocks (for a name).
func (c *Context) DialDatagram(network, address string) (*Datagram, error) {
	return (&Dialer{}).DialDatagram(c, network, address)
}

// DialDatagram is Context.DialDatagram with these settings. Worker only. Blocks (for a name).
func (d *Dialer) DialDatagram(c *Context, network, address string) (*Datagram, error) {
	if !c.w.here() {
		return nil, opError("dial", network, nil, c.w.elsewhere())
	}
	if err := checkDatagramNetwork(network); err != nil {
		return nil, opError("dial", network, nil, err)
	}
	if c.w.stopping {
		return nil, opError("dial", network, nil, ErrClosed) // nobody would close it
	}
	if network == "unixgram" {
		return d.dialUnixgram(c.w, address)
	}
	var until time.Time
	if d.Timeout > 0 {
		until = time.Now().Add(d.Timeout)
	}
	list, err := d.resolve(c, network, address, until)
	if err != nil {
		return nil, opError("dial", network, nil, err)
	}
	var first error
	for _, addr := range list {
		s, err := d.dialUDP(c.w, network, addr)
		if err == nil {
			return s, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// dialError is what a failed step of a dial returns.
func (d *Dialer) dialError(network string, to net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: network, Source: d.LocalAddr, Addr: to, Err: err}
}

func (d *Dialer) dialUDP(w *worker, network string, addr netip.AddrPort) (*Datagram, error) {
	asked := net.UDPAddrFromAddrPort(addr)
	ip, family := reachable(network, addr.Addr())
	var from *core.Addr
	if d.LocalAddr != nil {
		local, ok := d.LocalAddr.(*net.UDPAddr)
		if !ok {
			return nil, d.dialError(network, asked, mismatchedLocal(d.LocalAddr))
		}
		at := bindAddr(local.AddrPort(), family)
		from = &at
	}
	to := coreAddr(netip.AddrPortFrom(ip, addr.Port()), family)
	return d.connectDatagram(w, network, asked, from, &to)
}

func (d *Dialer) dialUnixgram(w *worker, path string) (*Datagram, error) {
	asked := &net.UnixAddr{Name: path, Net: "unixgram"}
	var from *core.Addr
	if d.LocalAddr != nil {
		local, ok := d.LocalAddr.(*net.UnixAddr)
		if !ok {
			return nil, d.dialError("unixgram", asked, mismatchedLocal(d.LocalAddr))
		}
		at, err := unixAddr(local.Name)
		if err != nil {
			return nil, d.dialError("unixgram", asked, os.NewSyscallError("bind", err))
		}
		from = &at
	}
	to, err := unixAddr(path)
	if err != nil {
		return nil, d.dialError("unixgram", asked, os.NewSyscallError("connect", err))
	}
	s, err := d.connectDatagram(w, "unixgram", asked, from, &to)
	if err == nil && from != nil {
		s.unlink = unlinkPath(s.local)
	}
	return s, err
}

// connectDatagram makes the socket: bound if from says so, and connected.
func (d *Dialer) connectDatagram(w *worker, network string, asked net.Addr, from, to *core.Addr) (*Datagram, error) {
	sc := core.SocketConfig{}
	if to.Family != core.AFUnix {
		sc.Flags = core.SocketBroadcast
	}
	fd, call, err := core.OpenDatagram(to.Family, &sc)
	if err != nil {
		return nil, d.dialError(network, asked, os.NewSyscallError(call.String(), sysErr(err)))
	}
	fail := func(call string, err error) (*Datagram, error) {
		_ = core.CloseSocket(fd)
		return nil, d.dialError(network, asked, os.NewSyscallError(call, sysErr(err)))
	}
	if to.Family != core.AFUnix {
		if err := setTTL(fd, d.TTL); err != nil {
			_ = core.CloseSocket(fd)
			return nil, d.dialError(network, asked, err)
		}
	}
	if from != nil {
		if err := core.Bind(fd, from); err != nil {
			return fail("bind", err)
		}
	}
	if err := core.Connect(fd, to); err != nil {
		return fail("connect", err)
	}
	local, err := core.LocalAddr(fd)
	if err != nil {
		return fail("getsockname", err)
	}
	return w.newDatagram(openedDatagram{
		fd: fd, network: network, family: to.Family, local: datagramAddr(&local), remote: datagramAddr(to),
	})
}

// mismatchedLocal is package net's error for a Dialer's LocalAddr of another network.
func mismatchedLocal(local net.Addr) error {
	return &net.AddrError{Err: "mismatched local address type", Addr: local.String()}
}
