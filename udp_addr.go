package veloq

// Addresses of datagrams: between netip, package net and the kernel's form, without allocating.

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/veloq/veloq/internal/rawio"
)

// zoneLife is how long the names of interfaces are believed, as long as package net believes them.
const zoneLife = time.Minute

// zones are the interfaces' names and numbers. A datagram from a link-local address needs one, and
// asking the system costs as much as a hundred datagrams.
var zones struct {
	sync.RWMutex
	fetched time.Time
	names   map[uint32]string
	scopes  map[string]uint32
}

func zoneLookup[K comparable, V any](table *map[K]V, key K) (V, bool) {
	zones.RLock()
	v, ok := (*table)[key]
	fresh := time.Since(zones.fetched) < zoneLife
	zones.RUnlock()
	if ok && fresh {
		return v, true
	}
	refreshZones()
	zones.RLock()
	defer zones.RUnlock()
	v, ok = (*table)[key]
	return v, ok
}

func refreshZones() {
	zones.Lock()
	defer zones.Unlock()
	zones.fetched = time.Now()
	list, err := net.Interfaces()
	if err != nil {
		return // what was known still helps
	}
	zones.names, zones.scopes = map[uint32]string{}, map[string]uint32{}
	for _, ifi := range list {
		zones.names[uint32(ifi.Index)], zones.scopes[ifi.Name] = ifi.Name, uint32(ifi.Index)
	}
}

func cachedZoneName(scope uint32) string {
	if scope == 0 {
		return ""
	}
	if name, ok := zoneLookup(&zones.names, scope); ok {
		return name
	}
	return strconv.FormatUint(uint64(scope), 10)
}

func cachedZoneScope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if scope, ok := zoneLookup(&zones.scopes, zone); ok {
		return scope
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

// received is the address that the kernel wrote into name, as package net has it: of the socket's
// family, and that family's zero address if there was none.
func (d *udpDirect) received(name *rawio.MsgName) netip.AddrPort {
	addr, scope := name.Get()
	switch {
	case scope != 0:
		return netip.AddrPortFrom(addr.Addr().WithZone(cachedZoneName(scope)), addr.Port())
	case addr.IsValid():
		return addr
	}
	return d.unspecified()
}

func (d *udpDirect) unspecified() netip.AddrPort {
	if d.v6 {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
}

// A udpAddrIP is a UDPAddr and its IP in one piece of memory.
type udpAddrIP struct {
	addr net.UDPAddr
	ip   [net.IPv6len]byte
}

// udpAddrOf is net.UDPAddrFromAddrPort in one allocation.
func udpAddrOf(a netip.AddrPort) *net.UDPAddr {
	u := &udpAddrIP{addr: net.UDPAddr{Port: int(a.Port()), Zone: a.Addr().Zone()}}
	if a.Addr().Is4() {
		ip := a.Addr().As4()
		copy(u.ip[:], ip[:])
		u.addr.IP = u.ip[:net.IPv4len:net.IPv4len]
	} else {
		u.ip = a.Addr().As16()
		u.addr.IP = u.ip[:]
	}
	return &u.addr
}

// setName writes a into name; false if the socket's family has no such address.
func (d *udpDirect) setName(name *rawio.MsgName, a netip.AddrPort) bool {
	ip := a.Addr()
	switch {
	case d.v6:
		name.Set6(ip.As16(), a.Port(), cachedZoneScope(ip.Zone()))
	case ip.Is4() || ip.Is4In6():
		name.Set4(ip.As4(), a.Port())
	default:
		return false
	}
	return true
}

// setNameUDP is setName for package net's form, where no IP means the local system.
func (d *udpDirect) setNameUDP(name *rawio.MsgName, a *net.UDPAddr) bool {
	if a.Port < 0 || a.Port > 0xffff {
		return false
	}
	ip4 := a.IP.To4()
	switch {
	case !d.v6 && ip4 != nil:
		name.Set4([4]byte(ip4), uint16(a.Port))
	case !d.v6 && len(a.IP) == 0:
		name.Set4([4]byte{}, uint16(a.Port))
	case d.v6 && (len(a.IP) == 0 || a.IP.Equal(net.IPv4zero)):
		name.Set6([16]byte{}, uint16(a.Port), cachedZoneScope(a.Zone))
	case d.v6 && len(a.IP.To16()) == net.IPv6len:
		name.Set6([16]byte(a.IP.To16()), uint16(a.Port), cachedZoneScope(a.Zone))
	default:
		return false
	}
	return true
}
