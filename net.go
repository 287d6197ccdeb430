package veloq

// Networks, addresses and errors, as package net has them.

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/veloq/veloq/internal/core"
)

// Errors of the worker doors. Those about a connection come inside a *net.OpError.
var (
	// ErrClosed: the runtime is closed or closing.
	ErrClosed = errors.New("veloq: runtime closed")
	// ErrWrongWorker: the caller is not on the worker that the object lives on.
	ErrWrongWorker = errors.New("veloq: called from outside the worker it lives on")
	// ErrNotTask: the call would wait, and only a task can; or the Context is another task's.
	ErrNotTask = errors.New("veloq: would wait, and the caller is not the Context's running task")
	// ErrFull: a bounded queue is full. A handler's Write: wait for OnWritable.
	ErrFull = errors.New("veloq: queue full")
	// ErrBusy: another task is in the same read.
	ErrBusy = errors.New("veloq: another task reads this stream")
	// ErrTooLong: more bytes were asked for at once than may be unread.
	ErrTooLong = errors.New("veloq: longer than Config.ReadLimit")
	// ErrJoinSelf: a task that joins itself would wait for ever.
	ErrJoinSelf = errors.New("veloq: a task can't join itself")
	// ErrNoWorker: there is no worker of that index.
	ErrNoWorker = errors.New("veloq: no such worker")
)

// netError turns a context's error into what package net returns for it.
func netError(err error) error {
	switch {
	case errors.As(err, new(*TimeoutError)):
		return err // a net.Error of its own, which says whose
	case errors.Is(err, context.Canceled):
		return errCanceled{}
	case errors.Is(err, context.DeadlineExceeded):
		return os.ErrDeadlineExceeded
	}
	return err
}

// errCanceled has the text that package net's own has, and is context.Canceled.
type errCanceled struct{}

func (errCanceled) Error() string        { return "operation was canceled" }
func (errCanceled) Is(target error) bool { return target == context.Canceled }

// sysErr returns the system's error of a core error, or the error itself.
func sysErr(err error) error {
	var errno core.Errno
	if errors.As(err, &errno) {
		return errno.Sys()
	}
	return err
}

// streamAddr is package net's form of a stream socket's address, nil where it has none.
func streamAddr(a *core.Addr) net.Addr {
	if a.Family == core.AFUnix {
		return &net.UnixAddr{Name: unixPath(a.Path[:a.PathLen]), Net: networkUnix}
	}
	if tcp := tcpAddr(a); tcp != nil {
		return tcp
	}
	return nil
}

func tcpAddr(a *core.Addr) *net.TCPAddr {
	switch a.Family {
	case core.AF4:
		ip := make(net.IP, net.IPv4len)
		copy(ip, a.IP[:])
		return &net.TCPAddr{IP: ip, Port: int(a.Port)}
	case core.AF6:
		ip := make(net.IP, net.IPv6len)
		copy(ip, a.IP[:])
		return &net.TCPAddr{IP: ip, Port: int(a.Port), Zone: zoneName(a.ScopeID)}
	}
	return nil
}

func zoneName(scope uint32) string {
	if scope == 0 {
		return ""
	}
	if ifi, err := net.InterfaceByIndex(int(scope)); err == nil {
		return ifi.Name
	}
	return strconv.Itoa(int(scope))
}

func zoneScope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

// coreAddr makes a's form for the C core; family is core.AF4 or AF6.
func coreAddr(a netip.AddrPort, family uint16) core.Addr {
	out := core.Addr{Family: family, Port: a.Port()}
	if family == core.AF4 {
		ip := a.Addr().As4()
		copy(out.IP[:], ip[:])
	} else {
		out.IP = a.Addr().As16()
		out.ScopeID = zoneScope(a.Addr().Zone())
	}
	return out
}

// unixAddr makes a unix path's form for the C core, '@' for the zero byte of an abstract name. The
// error for one that is too long is the system's.
func unixAddr(path string) (core.Addr, error) {
	out := core.Addr{Family: core.AFUnix, PathLen: uint32(len(path))}
	if len(path) > core.UnixPathMax || (len(path) == core.UnixPathMax && path[0] != '@') {
		return out, core.Errno(core.ErrnoINVAL).Sys()
	}
	copy(out.Path[:], path)
	if path != "" && path[0] == '@' {
		out.Path[0] = 0
	}
	return out, nil
}

// checkNetwork accepts the stream networks of the worker doors.
func checkNetwork(network string) error {
	if slices.Contains(networkNames[:], network) && (network != networkUnix || core.UnixStreams) {
		return nil
	}
	return net.UnknownNetworkError(network)
}

// networkID is a stream network in a byte.
type networkID uint8

var networkNames = [...]string{"tcp", "tcp4", "tcp6", networkUnix}

const networkUnix = "unix"

func networkOf(name string) networkID {
	return networkID(max(slices.Index(networkNames[:], name), 0))
}

func (n networkID) String() string { return networkNames[n] }

// ipVersion is the version of IP that a network of TCP or UDP is restricted to, 0 for none.
func ipVersion(network string) int {
	switch network[len(network)-1] {
	case '4':
		return 4
	case '6':
		return 6
	}
	return 0
}

// supportsIPv6 asks the system once.
var supportsIPv6 = sync.OnceValue(func() bool {
	fd, _, err := core.OpenStream(core.AF6, &core.SocketConfig{})
	if err != nil {
		return false
	}
	defer func() { _ = core.CloseSocket(fd) }()
	loopback := core.Addr{Family: core.AF6, IP: netip.IPv6Loopback().As16()}
	return core.Bind(fd, &loopback) == nil
})

func networkOfFamily(family uint16) string {
	if family == core.AF4 {
		return "tcp4"
	}
	return "tcp6"
}

// rawSocket is what Control functions get of a socket that is not connected yet.
type rawSocket int32

// Control implements syscall.RawConn.
func (fd rawSocket) Control(f func(fd uintptr)) error {
	f(uintptr(fd))
	return nil
}

// Read implements syscall.RawConn.
func (rawSocket) Read(func(uintptr) bool) error { return errors.ErrUnsupported }

// Write implements syscall.RawConn.
func (rawSocket) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

// literal parses host:port where the host is an IP address or empty and the port a number: what
// needs no resolver. An empty host yields an address that is not valid.
func literal(address string) (netip.AddrPort, bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, false
	}
	n := uint64(0)
	if port != "" {
		if n, err = strconv.ParseUint(port, 10, 16); err != nil {
			return netip.AddrPort{}, false
		}
	}
	if host == "" {
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip, uint16(n)), true
}

// lookup resolves address into at least one address that network allows.
func lookup(ctx context.Context, resolver *net.Resolver, network, address string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := resolver.LookupPort(ctx, network, port)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, uint16(n))}, nil
	}
	ips, err := resolver.LookupNetIP(ctx, "ip"+network[len("tcp"):], host)
	if err != nil {
		return nil, err
	}
	list := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		list = append(list, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	return suitable(network, address, list)
}

// suitableLiteral is lookup for an address that needs none. The IPv6 wildcard stands for the IPv4 one too.
func suitableLiteral(network, address string, a netip.AddrPort) ([]netip.AddrPort, error) {
	list := []netip.AddrPort{a}
	if a.Addr() == netip.IPv6Unspecified() {
		list = append(list, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()))
	}
	return suitable(network, address, list)
}

// suitable keeps the addresses that network allows.
func suitable(network, address string, list []netip.AddrPort) ([]netip.AddrPort, error) {
	kept := list[:0]
	for _, a := range list {
		v4 := a.Addr().Is4() || a.Addr().Is4In6()
		if version := ipVersion(network); !a.Addr().IsValid() || version == 0 || v4 == (version == 4) {
			kept = append(kept, a)
		}
	}
	if len(kept) == 0 {
		if host, _, err := net.SplitHostPort(address); err == nil {
			address = host // as package net has it
		}
		return nil, &net.AddrError{Err: "no suitable address found", Addr: address}
	}
	return kept, nil
}

// firstIPv4 is the address that a listener takes of several: the first IPv4 one, or the first.
func firstIPv4(list []netip.AddrPort) netip.AddrPort {
	for _, a := range list {
		if a.Addr().Is4() {
			return a
		}
	}
	return list[0]
}

// listenFamily is package net's favoriteAddrFamily for listeners: which family a socket for addr
// gets, and whether it is IPv6 only.
func listenFamily(network string, addr netip.AddrPort) (family uint16, flags uint32) {
	ip := addr.Addr().Unmap()
	wildcard := !ip.IsValid() || ip.IsUnspecified()
	switch {
	case ipVersion(network) == 4:
		return core.AF4, 0
	case ipVersion(network) == 6:
		return core.AF6, core.SocketV6Only
	case wildcard && supportsIPv6():
		return core.AF6, core.SocketDualStack // 0.0.0.0 too: only "tcp4" keeps it to IPv4
	case wildcard || ip.Is4():
		return core.AF4, 0
	default:
		return core.AF6, core.SocketV6Only
	}
}

// opError is a *net.OpError without a connection.
func opError(op, network string, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: network, Addr: addr, Err: err}
}
