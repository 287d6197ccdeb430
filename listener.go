package veloq

// Accepting connections on a worker.

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/wheel"
)

// acceptedMax is how many connections wait in a Listener that nobody accepts from, beyond which they
// wait in the kernel's queue.
const acceptedMax = 128

// acceptBackoff is the first pause after an accept failed for want of descriptors or memory; it
// doubles to acceptBackoffMax.
const (
	acceptBackoff    = 5 * time.Millisecond
	acceptBackoffMax = time.Second
)

// Listener accepts TCP connections on one worker. Its methods are Worker only.
type Listener struct {
	retry   wheel.Timer // first: fireRetry finds the listener by its address
	w       *worker
	slot    uint64
	fd      int32
	network string
	addr    *net.TCPAddr
	server  *Server // takes the connections, instead of Accept

	armed    bool
	cancel   bool
	closed   bool
	released bool
	backoff  time.Duration
	accepted []int32
	acceptor *task
	err      error
}

// ListenConfig says how a listener and its connections are made. The zero value is package net's
// defaults.
type ListenConfig struct {
	// KeepAlive is the keep-alive period of accepted connections: 0 is 15 s, negative turns it off.
	KeepAlive time.Duration
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
	// Accept says how a server's connections reach the workers.
	Accept AcceptMode
	// Balancer chooses the worker of each connection, of one listening socket: Accept is then
	// AcceptSpread. The default, nil, leaves it to Accept. A panic in it crashes the program.
	Balancer Balancer
	// MaxConns bounds a server's open connections on each worker; 0 leaves that to RLIMIT_NOFILE.
	// At the bound further ones wait in the kernel's accept queue.
	MaxConns int
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

const defaultKeepAlive = 15 * time.Second

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
	keepAlive(&sc, lc.KeepAlive)
	return sc
}

func keepAlive(sc *core.SocketConfig, period time.Duration) {
	if period < 0 {
		return
	}
	if period == 0 {
		period = defaultKeepAlive
	}
	secs := int32((period + time.Second - 1) / time.Second)
	sc.Flags |= core.SocketKeepAlive
	sc.KeepIdleS, sc.KeepIntervalS = secs, secs
}

// open makes a listening socket on addr; share lets later ones have the port too. Any goroutine.
func (lc *ListenConfig) open(network string, addr netip.AddrPort, share bool) (int32, *net.TCPAddr, error) {
	ip := addr.Addr().Unmap()
	family, v6 := listenFamily(network, addr)
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
		return -1, nil, &net.AddrError{Err: "no suitable address found", Addr: addr.String()}
	}
	addr = netip.AddrPortFrom(ip, addr.Port())
	sc := lc.socketConfig()
	sc.Flags |= v6
	backlog := int32(lc.Backlog)
	if backlog <= 0 {
		backlog = core.BacklogMax()
	}
	fd, call, err := core.OpenStream(family, &sc)
	if err != nil {
		return -1, nil, os.NewSyscallError(call.String(), sysErr(err))
	}
	at := coreAddr(addr, family)
	bound, call, err := bindAndListen(fd, &at, backlog, share)
	if err != nil {
		_ = core.CloseSocket(fd)
		return -1, nil, os.NewSyscallError(call.String(), sysErr(err))
	}
	return fd, tcpAddr(&bound), nil
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
	list, err := lookup(ctx, network, address)
	if err != nil {
		return netip.AddrPort{}, opError("listen", network, nil, err)
	}
	return firstIPv4(list), nil
}

// listenError is what a failed listen on addr returns.
func listenError(network string, addr netip.AddrPort, err error) error {
	var at net.Addr
	switch ip := addr.Addr(); {
	case !ip.IsValid():
		at = &net.TCPAddr{Port: int(addr.Port())}
	case ip == netip.IPv6Unspecified() && network == "tcp":
		at = &net.TCPAddr{IP: net.IPv4zero, Port: int(addr.Port())} // as package net has it
	default:
		at = net.TCPAddrFromAddrPort(addr)
	}
	return opError("listen", network, at, err)
}

// Listen listens on the worker of the task: "tcp", "tcp4" or "tcp6", and an address as package net
// takes it. A host name is resolved without blocking the worker. Worker only. Blocks (for a name).
func (c *Context) Listen(network, address string) (*Listener, error) {
	return (&ListenConfig{}).ListenStream(c, network, address)
}

// ListenStream is Context.Listen with these settings. Worker only. Blocks (for a name).
func (lc *ListenConfig) ListenStream(c *Context, network, address string) (*Listener, error) {
	if !c.w.here() {
		return nil, opError("listen", network, nil, c.w.elsewhere())
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

// newListener makes the listener of a listening socket. The worker owns fd from here.
func (w *worker) newListener(fd int32, network string, addr *net.TCPAddr) *Listener {
	l := &Listener{w: w, fd: fd, network: network, addr: addr}
	l.retry.Fire = fireRetry
	l.slot = w.slots.add(l)
	l.arm()
	return l
}

// arm starts the accept that goes on by itself, if more connections are wanted now.
func (l *Listener) arm() {
	if l.armed || l.closed || l.retry.Pending() || !l.wants() {
		return
	}
	sqe := l.w.stage(core.OpAccept, opAccept, l.slot)
	sqe.FD = l.fd
	if l.server == nil || l.server.max <= 0 {
		sqe.Mode = core.AcceptMultishot // which would empty the kernel's queue beyond any bound
	}
	sqe.OpFlags = core.SockCloexec
	l.armed = true
}

func (l *Listener) wants() bool {
	if l.server != nil {
		return l.server.wants(l.w)
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

// complete implements operand.
func (l *Listener) complete(_ opKind, res int32, flags uint32) {
	if flags&core.CQEMore == 0 {
		l.armed, l.cancel = false, false
	}
	switch {
	case res >= 0:
		l.backoff = 0
		l.take(res)
	case res == -core.ErrnoCANCELED, res == -core.ErrnoAGAIN, res == -core.ErrnoINTR,
		res == -core.ErrnoCONNABORTED:
		// Armed again below.
	case res == -core.ErrnoMFILE, res == -core.ErrnoNFILE, res == -core.ErrnoNOBUFS,
		res == -core.ErrnoNOMEM:
		// To try again at once would spin: the connection stays in the kernel's queue.
		l.w.stats.acceptBackoffs++
		l.backoff = min(max(2*l.backoff, acceptBackoff), acceptBackoffMax)
		if !l.closed {
			l.w.timers.add(&l.retry, l.w.timers.after(l.backoff))
		}
	default:
		l.err = l.opError(os.NewSyscallError(core.NameAccept, core.Errno(-res).Sys()))
		l.w.wake(l.acceptor)
		if l.server != nil && !l.closed {
			l.server.failed(l.err)
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

func fireRetry(t *wheel.Timer, _ int64) { (*Listener)(unsafe.Pointer(t)).arm() }

// take disposes of one accepted socket.
func (l *Listener) take(fd int32) {
	switch {
	case l.closed:
		_ = core.CloseSocket(fd)
	case l.server != nil:
		l.server.place(l.w, fd)
	default:
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
		if err := t.ctx.Err(); err != nil {
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

func (l *Listener) close() {
	if l.closed {
		return
	}
	l.closed = true
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
	if l.server != nil {
		l.server.listenerEnded()
	}
}

// abort implements operand.
func (l *Listener) abort() { l.close() }

func (l *Listener) opError(err error) error { return opError("accept", l.network, l.addr, err) }
