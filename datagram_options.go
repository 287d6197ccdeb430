package veloq

// A Datagram's deadlines, socket options and multicast groups.

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/veloq/veloq/internal/core"
)

func (d *Datagram) timersOf() *deadlines {
	if d.deadline == nil {
		d.deadline = newDeadlines(d.w, d)
	}
	return d.deadline
}

// passed implements deadlineOwner.
func (d *Datagram) passed(kind uint8) {
	switch kind {
	case deadlineRead:
		d.w.wake(d.recv.reader)
	case deadlineWrite:
		d.wakeWriters()
	case deadlineClose:
		d.abandon()
	}
}

// SetDeadline sets both deadlines: see SetReadDeadline and SetWriteDeadline. Worker only.
func (d *Datagram) SetDeadline(t time.Time) error {
	if err := d.SetReadDeadline(t); err != nil {
		return err
	}
	return d.SetWriteDeadline(t)
}

// SetReadDeadline makes receives that wait at t, and later ones that would wait, fail with
// os.ErrDeadlineExceeded; the zero time takes it away. It is absolute, to the next tick (1.05 ms). What
// has arrived is received all the same. Nothing of a handler's waits. Worker only.
func (d *Datagram) SetReadDeadline(t time.Time) error {
	if err := d.check("set"); err != nil {
		return err
	}
	d.timersOf().read.set(t)
	return nil
}

// SetWriteDeadline is SetReadDeadline for sends, all of which fail once it has passed. Worker only.
func (d *Datagram) SetWriteDeadline(t time.Time) error {
	if err := d.check("set"); err != nil {
		return err
	}
	d.timersOf().write.set(t)
	return nil
}

func (d *Datagram) descriptor() int32 { return d.fd }

func (d *Datagram) setOption(option, value int32) error { return setOptionOf(d, option, value) }

func (d *Datagram) option(option int32) (int32, error) { return optionOf(d, option) }

// SetGRO has the kernel put datagrams of one sender that arrive together into one Packet: UDP_GRO,
// udp(7). Where the kernel has no such thing it returns false, and each comes in a Packet of its own.
// Worker only.
func (d *Datagram) SetGRO(on bool) (bool, error) {
	err := d.setOption(core.OptUDPGRO, boolInt(on))
	if err == nil {
		return on, nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return false, nil
	}
	return false, err
}

// GSO reports whether the kernel still cuts messages with a SegmentSize for this socket. After its
// first refusal they are cut here. Worker only.
func (d *Datagram) GSO() bool {
	return core.Segments && d.family != core.AFUnix && !d.out.noGSO
}

// SetReceivePacketInfo has Packets say where they were sent to and by which interface they came:
// IP_PKTINFO and IPV6_RECVPKTINFO, ip(7), ipv6(7). Worker only.
func (d *Datagram) SetReceivePacketInfo(on bool) error {
	return d.setOption(core.OptPacketInfo, boolInt(on))
}

// SetReceiveECN has Packets have their ECN: IP_RECVTOS and IPV6_RECVTCLASS, ip(7), ipv6(7). Worker only.
func (d *Datagram) SetReceiveECN(on bool) error { return d.setOption(core.OptReceiveTOS, boolInt(on)) }

// SetTrafficClass sets the traffic class of what is sent, 0 to 255, the low two bits of which are the ECN
// of messages without one of their own: IP_TOS and IPV6_TCLASS, ip(7), ipv6(7). Worker only.
func (d *Datagram) SetTrafficClass(class int) error {
	err := d.setOption(core.OptTOS, int32(class))
	if err == nil {
		d.class = uint8(class)
	}
	return err
}

// TrafficClass returns what SetTrafficClass sets. Worker only.
func (d *Datagram) TrafficClass() (int, error) {
	v, err := d.option(core.OptTOS)
	return int(v), err
}

// SetDontFragment forbids routers to cut datagrams, and the kernel to refuse those that are longer than
// the path takes: IP_PMTUDISC_PROBE, ip(7). Worker only.
func (d *Datagram) SetDontFragment(on bool) error {
	return d.setOption(core.OptDontFragment, boolInt(on))
}

// SetBroadcast allows sending to broadcast addresses, which is on from the start: SO_BROADCAST,
// socket(7). Worker only.
func (d *Datagram) SetBroadcast(on bool) error { return d.setOption(core.OptBroadcast, boolInt(on)) }

// SetTTL sets the time to live of sent packets, 1 to 255: IP_TTL, and on a socket of IPv6
// IPV6_UNICAST_HOPS too. Worker only.
func (d *Datagram) SetTTL(ttl int) error { return d.setOption(core.OptTTL, int32(ttl)) }

// TTL returns what SetTTL sets. Worker only.
func (d *Datagram) TTL() (int, error) {
	v, err := d.option(core.OptTTL)
	return int(v), err
}

// SetReadBuffer sets the size of the socket's receive buffer in bytes: SO_RCVBUF, socket(7); the
// system doubles it. Datagrams that find it full are dropped. Worker only.
func (d *Datagram) SetReadBuffer(bytes int) error {
	return d.setOption(core.OptReceiveBufferBytes, int32(bytes))
}

// ReadBuffer returns the size of the socket's receive buffer in bytes. Worker only.
func (d *Datagram) ReadBuffer() (int, error) {
	v, err := d.option(core.OptReceiveBufferBytes)
	return int(v), err
}

// SetWriteBuffer sets the size of the socket's send buffer in bytes: SO_SNDBUF, socket(7); the system
// doubles it. Worker only.
func (d *Datagram) SetWriteBuffer(bytes int) error {
	return d.setOption(core.OptSendBufferBytes, int32(bytes))
}

// WriteBuffer returns the size of the socket's send buffer in bytes. Worker only.
func (d *Datagram) WriteBuffer() (int, error) {
	v, err := d.option(core.OptSendBufferBytes)
	return int(v), err
}

// JoinGroup has the socket receive what is sent to a multicast group, by the interface of that index; 0
// is the system's choice. Worker only.
func (d *Datagram) JoinGroup(group netip.Addr, ifindex int) error {
	return d.group(true, group, ifindex)
}

// LeaveGroup ends JoinGroup, with the same arguments. Worker only.
func (d *Datagram) LeaveGroup(group netip.Addr, ifindex int) error {
	return d.group(false, group, ifindex)
}

func (d *Datagram) group(join bool, group netip.Addr, ifindex int) error {
	if err := d.check("set"); err != nil {
		return err
	}
	group = group.Unmap()
	family := uint16(core.AF6)
	if group.Is4() {
		family = core.AF4
	}
	if !group.IsValid() || d.family == core.AFUnix {
		return d.opError("set", os.NewSyscallError("setsockopt", core.Errno(core.ErrnoINVAL).Sys()))
	}
	addr := coreAddr(netip.AddrPortFrom(group, 0), family)
	if err := core.Group(d.fd, join, &addr, uint32(ifindex)); err != nil {
		return d.opError("set", os.NewSyscallError("setsockopt", sysErr(err)))
	}
	return nil
}

// SetMulticastInterface sets the interface, by its index, that multicast goes out by: IP_MULTICAST_IF,
// IPV6_MULTICAST_IF. Worker only.
func (d *Datagram) SetMulticastInterface(ifindex int) error {
	return d.setOption(core.OptMulticastInterface, int32(ifindex))
}

// SetMulticastLoop says whether multicast comes back to this host's members of the group:
// IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP. Worker only.
func (d *Datagram) SetMulticastLoop(on bool) error {
	return d.setOption(core.OptMulticastLoop, boolInt(on))
}

// SetMulticastTTL sets how many hops multicast goes, 0 to 255: IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS.
// Worker only.
func (d *Datagram) SetMulticastTTL(ttl int) error {
	return d.setOption(core.OptMulticastTTL, int32(ttl))
}

// SyscallConn gives the socket to calls that veloq has no method for: Control runs its function at
// once. Its Read and Write return errors.ErrUnsupported, since the driver reads and writes. Worker
// only.
func (d *Datagram) SyscallConn() (syscall.RawConn, error) {
	if err := d.check("raw-control"); err != nil {
		return nil, err
	}
	return rawOwned{d}, nil
}
