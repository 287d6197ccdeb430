package veloq

// Accepting connections on a worker.

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/wheel"
)

// acceptedMax is how many connections wait in a Listener that nobody accepts from, beyond which they
// wait in the kernel's queue.
const acceptedMax = 128

// acceptBackoff is the first pause after an accept failed, mostly for want of descriptors or memory; it
// doubles to acceptBackoffMax.
const (
	acceptBackoff    = 5 * time.Millisecond
	acceptBackoffMax = time.Second
)

// Listener accepts connections of TCP or of a unix socket on one worker. Its methods are Worker only.
type Listener struct {
	retry   wheel.Timer // first: fireRetry finds the listener by its address
	w       *worker
	slot    uint64
	note    debugtag.Note[origin]
	fd      int32
	network string
	addr    net.Addr
	at      *binding // of a server, which takes the connections; nil for Accept's
	unlink  string   // the path to be removed at the close, "" for none

	armed    bool
	cancel   bool
	closed   bool
	released bool
	backoff  time.Duration
	accepted []int32
	acceptor *task
	err      error
}

// ListenConfig says how a listener and its connections are made, in all doors. The zero value is package
// net's defaults.
type ListenConfig struct {
	// Control is called between the making of the socket and bind, with "tcp4" or "tcp6" (in the net
	// door also "udp4", "udp6", "unix" and so on) and the address, on a goroutine of the caller's or,
	// for a server, any; its error ends the listening. It must not keep the connection.
	Control func(network, address string, c syscall.RawConn) error
	// KeepAlive is the keep-alive period of accepted connections: 0 is 15 s, negative turns it off.
	KeepAlive time.Duration
	// KeepAliveConfig says more about that, if its Enable is set: KeepAlive is then ignored.
	KeepAliveConfig net.KeepAliveConfig
	// Backlog is the length of the kernel's accept queue; 0 is the longest the system allows.
	Backlog int
	// ReusePort sets SO_REUSEPORT, socket(7): several listeners share the port. Windows has no such
	// thing, and refuses.
	ReusePort bool
	// DualStack overrides whether a wildcard listener takes the other IP version too: ipv6(7)
	// IPV6_V6ONLY.
	DualStack DualStack
	// ReadBuffer and WriteBuffer are the sockets' buffer sizes in bytes; 0 is the system's.
	ReadBuffer, WriteBuffer int
	// TTL is the time to live of packets that are sent, 1 to 255: IP_TTL, ip(7), and on a socket of IPv6
	// IPV6_UNICAST_HOPS, ipv6(7), too. 0 is the system's. Accepted connections inherit it, but on Windows.
	TTL int
	// Accept says how a server's connections reach the workers.
	Accept AcceptMode
	// Balancer chooses the worker of each connection, of one listening socket: Accept is then
	// AcceptSpread. The default, nil, leaves it to Accept. A panic in it crashes the program.
	Balancer Balancer
	// MaxConns bounds a server's open connections on each worker; where one listening socket serves all
	// workers, those on all together, by MaxConns for each. 0 leaves that to RLIMIT_NOFILE. At the bound
	// further ones wait in the kernel's accept queue.
	MaxConns int

	multipath multipath
}

// DualStack says whether a wildcard listener serves both IP versions.
type DualStack uint8

// The values of ListenConfig.DualStack.
const (
	DualStackAuto DualStack = iota // by the network's name and the address, as package net does
	DualStackOn
	DualStackOff
)

// AcceptMode says how a server's connections are spread over the workers.
type AcceptMode uint8

// The values of ListenConfig.Accept.
const (
	// AcceptReusePort: each worker has a listening socket of its own, and the kernel spreads
	// connections by their addresses' hash. Where a port can't be shared this is AcceptSpread.
	AcceptReusePort AcceptMode = iota
	// AcceptSpread: one listening socket, and each connection goes to the worker with the fewest.
	AcceptSpread
)

// What package net sets where nothing else is asked for.
const (
	defaultKeepAlive      = 15 * time.Second
	defaultKeepAliveCount = 9
)

// keepAliveSeconds rounds up a time between keep-alive probes: 0 is the default, and what is negative
// says that the system's stays.
func keepAliveSeconds(d time.Duration) int32 {
	switch {
	case d == 0:
		d = defaultKeepAlive
	case d < 0:
		return -1
	}
	return int32((d + time.Second - 1) / time.Second)
}

func (lc *ListenConfig) socketConfig() core.SocketConfig {
	// Accepted sockets inherit all of these from the listening one, so accepting costs no call more.
	sc := core.SocketConfig{
		Flags:              core.SocketReuseAddr | core.SocketNoDelay,
		ReceiveBufferBytes: int32(lc.ReadBuffer),
		SendBufferBytes:    int32(lc.WriteBuffer),
	}
	if lc.ReusePort {
		sc.Flags |= core.SocketReusePort
	}
	keepAlive(&sc, lc.KeepAlive, lc.KeepAliveConfig)
	return sc
}

// keepAlive takes a KeepAlive and a KeepAliveConfig, which package net's Dialer has too.
func keepAlive(sc *core.SocketConfig, period time.Duration, config net.KeepAliveConfig) {
	if !config.Enable {
		if period < 0 {
			return
		}
		config = net.KeepAliveConfig{Idle: period, Interval: period}
	}
	sc.Flags |= core.SocketKeepAlive
	sc.KeepIdleS = max(keepAliveSeconds(config.Idle), 0) // 0 leaves it as it is
	sc.KeepIntervalS = max(keepAliveSeconds(config.Interval), 0)
	sc.KeepCount = int32(max(config.Count, 0))
}

// familyFor says of which family a socket for addr is made, and with which flags, and completes the
// address.
func (lc *ListenConfig) familyFor(network string, addr netip.AddrPort) (family uint16, v6 uint32, ip netip.Addr, err error) {
	ip = addr.Addr().Unmap()
	family, v6 = listenFamily(network, addr)
	switch {
	case family != core.AF6 || lc.DualStack == DualStackAuto:
	case lc.DualStack == DualStackOn:
		v6 = core.SocketDualStack
	case ip.Is4():
		family, v6 = core.AF4, 0 // 0.0.0.0, and nothing beside it
	default:
		v6 = core.SocketV6Only
	}
	switch {
	case ip.IsValid() && !ip.IsUnspecified():
	case family == core.AF4:
		ip = netip.IPv4Unspecified()
	default:
		ip = netip.IPv6Unspecified()
	}
	if family == core.AF4 && !ip.Is4() {
		return 0, 0, ip, &net.AddrError{Err: "no suitable address found", Addr: addr.String()}
	}
	return family, v6, ip, nil
}

// open makes a listening socket on addr; share lets later ones have the port too. Any goroutine.
func (lc *ListenConfig) open(network string, addr netip.AddrPort, share bool) (int32, *net.TCPAddr, error) {
	family, v6, ip, err := lc.familyFor(network, addr)
	if err != nil {
		return -1, nil, err
	}
	asked := net.TCPAddrFromAddrPort(addr)
	addr = netip.AddrPortFrom(ip, addr.Port())
	sc := lc.socketConfig()
	sc.Flags |= v6
	fd, call, err := core.OpenStream(family, &sc)
	if err != nil {
		return -1, nil, os.NewSyscallError(call.String(), sysErr(err))
	}
	if err := setTTL(fd, lc.TTL); err != nil {
		_ = core.CloseSocket(fd)
		return -1, nil, err
	}
	if lc.Control != nil {
		if err := lc.Control(networkOfFamily(family), asked.String(), rawSocket(fd)); err != nil {
			_ = core.CloseSocket(fd)
			return -1, nil, err
		}
	}
	at := coreAddr(addr, family)
	bound, call, err := bindAndListen(fd, &at, lc.backlog(), share)
	if err != nil {
		_ = core.CloseSocket(fd)
		return -1, nil, os.NewSyscallError(call.String(), sysErr(err))
	}
	return fd, tcpAddr(&bound), nil
}

// setTTL sets the TTL of a ListenConfig or Dialer.
func setTTL(fd int32, ttl int) error {
	if ttl == 0 {
		return nil
	}
	if err := core.SetOption(fd, core.OptTTL, int32(ttl)); err != nil {
		return os.NewSyscallError("setsockopt", sysErr(err))
	}
	return nil
}

func (lc *ListenConfig) backlog() int32 {
	if lc.Backlog > 0 {
		return int32(lc.Backlog)
	}
	return core.BacklogMax()
}

// bindAndListen shares the port with sockets bound later if share is set, but not with earlier ones:
// SO_REUSEPORT between bind and listen keeps a port that somebody else has an error.
func bindAndListen(fd int32, at *core.Addr, backlog int32, share bool) (core.Addr, core.Call, error) {
	if !share {
		return core.Listen(fd, at, backlog)
	}
	if err := core.Bind(fd, at); err != nil {
		return core.Addr{}, core.CallBind, err
	}
	if err := core.SetOption(fd, core.OptReusePort, 1); err != nil {
		return core.Addr{}, core.CallSetsockopt, err
	}
	return core.Listen(fd, nil, backlog)
}

// resolveListen finds the one address that a listener takes. Any goroutine. Blocks (for a name).
func resolveListen(ctx context.Context, network, address string) (netip.AddrPort, error) {
	if err := checkNetwork(network); err != nil {
		return netip.AddrPort{}, opError("listen", network, nil, err)
	}
	return resolveIP(ctx, network, address)
}

// resolveIP is resolveListen for a network of IP that is known.
func resolveIP(ctx context.Context, network, address string) (netip.AddrPort, error) {
	if address == "" {
		return netip.AddrPort{}, nil
	}
	if a, ok := literal(address); ok {
		list, err := suitableLiteral(network, address, a)
		if err != nil {
			return netip.AddrPort{}, opError("listen", network, nil, err)
		}
		return list[0], nil
	}
	list, err := lookup(ctx, nil, network, address)
	if err != nil {
		return netip.AddrPort{}, opError("listen", network, nil, err)
	}
	return firstIPv4(list), nil
}

// listenError is what a failed listen on addr returns.
func listenError(network string, addr netip.AddrPort, err error) error {
	var at *net.TCPAddr
	switch ip := addr.Addr(); {
	case !ip.IsValid():
		at = &net.TCPAddr{Port: int(addr.Port())}
	case ip == netip.IPv6Unspecified() && ipVersion(network) == 0:
		at = &net.TCPAddr{IP: net.IPv4zero, Port: int(addr.Port())} // as package net has it
	default:
		at = net.TCPAddrFromAddrPort(addr)
	}
	if network[0] == 'u' {
		return opError("listen", network, (*net.UDPAddr)(at), err)
	}
	return opError("listen", network, at, err)
}

// openUnix makes a listening unix socket on path. Any goroutine.
func (lc *ListenConfig) openUnix(path string) (int32, net.Addr, error) {
	fail := func(call string, err error) (int32, net.Addr, error) {
		return -1, nil, opError("listen", networkUnix, &net.UnixAddr{Name: path, Net: networkUnix},
			os.NewSyscallError(call, sysErr(err)))
	}
	at, err := unixAddr(path)
	if err != nil {
		return fail("bind", err)
	}
	sc := core.SocketConfig{ReceiveBufferBytes: int32(lc.ReadBuffer), SendBufferBytes: int32(lc.WriteBuffer)}
	fd, call, err := core.OpenStream(core.AFUnix, &sc)
	if err != nil {
		return fail(call.String(), err)
	}
	bound, call, err := core.Listen(fd, &at, lc.backlog())
	if err != nil {
		_ = core.CloseSocket(fd)
		return fail(call.String(), err)
	}
	return fd, streamAddr(&bound), nil
}

// unlinkPath is what closing a listener on addr removes: the path of a unix socket, "" for others and
// for abstract names.
func unlinkPath(addr net.Addr) string {
	if a, ok := addr.(*net.UnixAddr); ok && a.Name != "" && a.Name[0] != '@' {
		return a.Name
	}
	return ""
}

// removePath removes what bind(2) made of a unix path, "" being none.
func removePath(path string) {
	if path != "" {
		_ = os.Remove(path)
	}
}

// Listen listens on the worker of the task: "tcp", "tcp4" or "tcp6", and an address as package net
// takes it, or "unix" and a path, '@' beginning an abstract name. A host name is resolved without blocking the worker. Worker only. Blocks (for a name).
func (c *Context) Listen(network, address string) (*Listener, error) {
	return (&ListenConfig{}).ListenStream(c, network, address)
}

// ListenStream is Context.Listen with these settings. Worker only. Blocks (for a name).
func (lc *ListenConfig) ListenStream(c *Context, network, address string) (*Listener, error) {
	if !c.w.here() {
		return nil, opError("listen", network, nil, c.w.elsewhere())
	}
	if network == networkUnix && checkNetwork(network) == nil {
		return lc.listenUnix(c.w, address)
	}
	var addr netip.AddrPort
	var err error
	if _, ok := literal(address); ok || address == "" {
		addr, err = resolveListen(c, network, address)
	} else {
		addr, err = offload(c, func(ctx context.Context) (netip.AddrPort, error) {
			return resolveListen(ctx, network, address)
		})
	}
	if err != nil {
		return nil, err
	}
	if c.w.stopping {
		return nil, opError("listen", network, nil, ErrClosed) // nobody would close it
	}
	fd, bound, err := lc.open(network, addr, false)
	if err != nil {
		return nil, listenError(network, addr, err)
	}
	return c.w.newListener(fd, network, bound), nil
}

func (lc *ListenConfig) listenUnix(w *worker, path string) (*Listener, error) {
	if w.stopping {
		return nil, opError("listen", networkUnix, nil, ErrClosed)
	}
	fd, bound, err := lc.openUnix(path)
	if err != nil {
		return nil, err
	}
	return w.newListener(fd, networkUnix, bound), nil
}

// newListener makes the listener of a listening socket. The worker owns fd from here.
func (w *worker) newListener(fd int32, network string, addr net.Addr) *Listener {
	l := &Listener{w: w, fd: fd, network: network, addr: addr, unlink: unlinkPath(addr)}
	l.retry.Fire = fireRetry
	l.slot = w.slots.add(l)
	if debugtag.Enabled {
		l.note.Set(w.origin())
	}
	l.arm()
	return l
}

// arm starts the accept that goes on by itself, if more connections are wanted now. What was accepted
// beyond a bound comes first.
func (l *Listener) arm() {
	for l.at != nil && len(l.accepted) > 0 && !l.at.server.stopping.Load() && l.at.admit(l.w) {
		fd := l.accepted[0]
		l.accepted = l.accepted[1:]
		l.at.place(l.w, fd)
	}
	if l.armed || l.closed || l.retry.Pending() || !l.wants() {
		return
	}
	sqe := l.w.stage(core.OpAccept, opAccept, l.slot)
	sqe.FD = l.fd
	if l.at == nil || l.at.server.config.MaxConns <= 0 {
		sqe.Mode = core.AcceptMultishot // which would empty the kernel's queue beyond any bound
	}
	sqe.OpFlags = core.SockCloexec
	l.armed = true
}

func (l *Listener) wants() bool {
	if l.at != nil {
		return l.at.wants(l.w)
	}
	return len(l.accepted) < acceptedMax
}

// stop asks for the end of the accept.
func (l *Listener) stop() {
	if l.armed && !l.cancel {
		l.cancel = true
		l.w.stageCancel(opAccept, l.slot)
	}
}

// cancelMissed implements canceller.
func (l *Listener) cancelMissed() {
	if l.armed && l.cancel {
		l.w.stageCancel(opAccept, l.slot)
	}
}

// complete implements operand.
func (l *Listener) complete(_ opKind, res int32, flags uint32) {
	if flags&core.CQEMore == 0 {
		l.armed, l.cancel = false, false
	}
	switch {
	case res >= 0:
		l.backoff = 0
		l.take(res)
	case undone(res), res == -core.ErrnoCONNABORTED:
		// Armed again below.
	case !endsListener(res):
		// To try again at once might spin: what lacks is lacking still, and the connection stays in the
		// kernel's queue.
		l.w.stats.acceptBackoffs++
		l.backoff = min(max(2*l.backoff, acceptBackoff), acceptBackoffMax)
		if !l.closed && !l.retry.Pending() {
			l.w.timers.add(&l.retry, l.w.timers.after(l.backoff))
		}
	default:
		l.err = l.opError(os.NewSyscallError(core.NameAccept, core.Errno(-res).Sys()))
		l.w.wake(l.acceptor)
		if l.at != nil && !l.closed {
			l.at.server.failed(l.err)
		}
	}
	if l.closed {
		l.release()
		return
	}
	if l.err != nil {
		return
	}
	if !l.wants() {
		l.stop()
	}
	l.arm()
}

// endsListener reports whether an error of accept is about the listening socket, or says that there is
// no such call. Every other one is about a connection, its network, or what the system lacks at the
// moment, and passes: accept(2), Errors.
func endsListener(res int32) bool {
	switch -res {
	case core.ErrnoBADF, core.ErrnoNOTSOCK, core.ErrnoINVAL, core.ErrnoFAULT, core.ErrnoNOSYS:
		return true
	}
	return false
}

func fireRetry(t *wheel.Timer, _ int64) { (*Listener)(unsafe.Pointer(t)).arm() }

// take disposes of one accepted socket.
func (l *Listener) take(fd int32) {
	switch {
	case l.closed:
		_ = core.CloseSocket(fd)
	case l.at != nil && l.at.admit(l.w):
		l.at.place(l.w, fd)
	default:
		// Also a server's, where the accept of another of its addresses reached MaxConns meanwhile.
		l.accepted = append(l.accepted, fd)
		l.w.wake(l.acceptor)
	}
}

// Accept returns the next connection, on this worker. Lack of descriptors or memory makes it wait,
// not fail. Worker only. Blocks.
func (l *Listener) Accept() (*Stream, error) {
	if !l.w.here() {
		return nil, l.opError(l.w.elsewhere())
	}
	t := l.w.running
	for len(l.accepted) == 0 {
		switch {
		case l.closed:
			l.w.giveWay()
			return nil, l.opError(net.ErrClosed)
		case l.err != nil:
			return nil, l.err
		case t == nil:
			return nil, l.opError(ErrNotTask)
		case l.acceptor != nil:
			return nil, l.opError(ErrBusy)
		}
		if err := t.err(); err != nil {
			return nil, l.opError(netError(err))
		}
		l.acceptor = t
		t.park()
		l.acceptor = nil
	}
	fd := l.accepted[0]
	l.accepted = l.accepted[1:]
	if len(l.accepted) == 0 {
		l.accepted = nil
		l.arm()
	}
	s := l.w.newStream(fd, l.network)
	s.armRecv()
	return s, nil
}

// Addr returns the address that the listener is bound to. Any goroutine.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close stops listening: an Accept that waits returns net.ErrClosed, connections that nobody accepted
// are closed. Worker only.
func (l *Listener) Close() error {
	if !l.w.here() {
		return l.opError(l.w.elsewhere())
	}
	l.close()
	return nil
}

// SetUnlinkOnClose says whether Close removes the path of a unix socket, as it does unless told
// otherwise. Worker only.
func (l *Listener) SetUnlinkOnClose(unlink bool) {
	l.unlink = ""
	if unlink {
		l.unlink = unlinkPath(l.addr)
	}
}

func (l *Listener) close() {
	if l.closed {
		return
	}
	l.closed = true
	removePath(l.unlink)
	l.w.timers.remove(&l.retry)
	for _, fd := range l.accepted {
		_ = core.CloseSocket(fd)
	}
	l.accepted = nil
	l.w.wake(l.acceptor)
	l.stop()
	l.release()
}

// release closes the socket once no accept is in flight.
func (l *Listener) release() {
	if l.armed || l.released {
		return
	}
	l.released = true
	sqe := l.w.stage(core.OpClose, opClose, l.slot)
	sqe.FD = l.fd
	sqe.Flags = l.w.skipSuccess
	l.w.slots.remove(l.slot)
	if l.at != nil {
		l.at.server.listenerEnded()
	}
}

// abort implements operand.
func (l *Listener) abort() { l.close() }

// inUse implements holder: an accept needs no memory.
func (l *Listener) inUse() bool { return false }

// discard implements holder.
func (l *Listener) discard() { _ = core.CloseSocket(l.fd) }

func (l *Listener) opError(err error) error { return opError("accept", l.network, l.addr, err) }
