package veloq

// Dialing from a worker.

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/veloq/veloq/internal/core"
)

// Dialer says how connections are made, in all doors. The zero value is package net's defaults.
type Dialer struct {
	// Timeout bounds the whole Dial, resolution included; 0 leaves that to the system.
	Timeout time.Duration
	// Deadline does too, as a point in time; the earlier of the two holds.
	Deadline time.Time
	// LocalAddr is the address to dial from, of the network's type; nil lets the system choose.
	LocalAddr net.Addr
	// FallbackDelay is how long the net door waits for IPv6 before it tries IPv4 beside it, RFC 6555:
	// 0 is 300 ms, negative turns that off. The worker doors try one address after another.
	FallbackDelay time.Duration
	// KeepAlive is the keep-alive period: 0 is 15 s, negative turns it off.
	KeepAlive time.Duration
	// KeepAliveConfig says more about that, if its Enable is set: KeepAlive is then ignored.
	KeepAliveConfig net.KeepAliveConfig
	// TTL is the time to live of packets that are sent, as ListenConfig's. 0 is the system's.
	TTL int
	// Resolver finds the addresses of names; nil is net.DefaultResolver.
	Resolver *net.Resolver
	// Control is called between the making of the socket and connect (or bind), with "tcp4" or "tcp6"
	// (in the net door also "udp4", "udp6", "unix" and so on) and the address; its error ends the
	// attempt. It must not keep the connection, and on a worker not wait.
	Control func(network, address string, c syscall.RawConn) error
	// ControlContext is called instead of Control, with the context of the Dial, on a worker the task's.
	ControlContext func(ctx context.Context, network, address string, c syscall.RawConn) error

	multipath multipath
}

// control calls what is to be called on a socket before it connects.
func (d *Dialer) control(ctx context.Context, network, address string, fd int32) error {
	switch {
	case d.ControlContext != nil:
		return d.ControlContext(ctx, network, address, rawSocket(fd))
	case d.Control != nil:
		return d.Control(network, address, rawSocket(fd))
	}
	return nil
}

// until returns the end of a Dial that begins now; the zero time is none.
func (d *Dialer) until() time.Time {
	until := d.Deadline
	if d.Timeout != 0 {
		if t := time.Now().Add(d.Timeout); until.IsZero() || t.Before(until) {
			until = t
		}
	}
	return until
}

// localTCP returns LocalAddr as what the worker doors dial from.
func (d *Dialer) localTCP() (*net.TCPAddr, error) {
	if d.LocalAddr == nil {
		return nil, nil //nolint:nilnil // none is asked for
	}
	local, ok := d.LocalAddr.(*net.TCPAddr)
	if !ok {
		return nil, &net.AddrError{Err: "mismatched local address type", Addr: d.LocalAddr.String()}
	}
	return local, nil
}

// Dial connects to address, as package net takes it, on "tcp", "tcp4" or "tcp6", or to a path on "unix",
// '@' beginning an abstract name. A name's addresses are tried one after another until one answers. Worker only. Blocks.
func (c *Context) Dial(network, address string) (*Stream, error) {
	return (&Dialer{}).DialStream(c, network, address)
}

// DialStream is Context.Dial with these settings. Worker only. Blocks.
func (d *Dialer) DialStream(c *Context, network, address string) (*Stream, error) {
	if err := checkNetwork(network); err != nil {
		return nil, opError("dial", network, nil, err)
	}
	t, err := c.task()
	if err != nil {
		return nil, opError("dial", network, nil, netError(err))
	}
	until := d.until()
	if network == networkUnix {
		return d.dialUnix(t, address, until)
	}
	local, err := d.localTCP()
	var list []netip.AddrPort
	if err == nil {
		list, err = d.resolve(c, network, address, until)
	}
	if err == nil {
		list, err = sameFamily(local, list)
	}
	if err != nil {
		return nil, opError("dial", network, nil, err)
	}
	var first error
	for _, addr := range list {
		s, err := d.connect(t, network, local, addr, until)
		if err == nil {
			return s, nil
		}
		if first == nil {
			first = err
		}
		if t.err() != nil || (!until.IsZero() && !time.Now().Before(until)) {
			break
		}
	}
	return nil, first
}

func (d *Dialer) resolve(c *Context, network, address string, until time.Time) ([]netip.AddrPort, error) {
	if a, ok := literal(address); ok {
		return suitableLiteral(network, address, a)
	}
	return offload(c, func(ctx context.Context) ([]netip.AddrPort, error) {
		if !until.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, until)
			defer cancel()
		}
		return lookup(ctx, d.Resolver, network, address)
	})
}

// sameFamily keeps the addresses that local can reach.
func sameFamily(local *net.TCPAddr, list []netip.AddrPort) ([]netip.AddrPort, error) {
	if local == nil || local.IP == nil || local.IP.IsUnspecified() {
		return list, nil
	}
	family := "tcp6"
	if local.IP.To4() != nil {
		family = "tcp4"
	}
	list, err := suitable(family, "", list)
	if err != nil {
		return nil, &net.AddrError{Err: "no suitable address found", Addr: local.String()}
	}
	return list, nil
}

// bindAddr is the local address for a socket of that family: a wildcard is any family's.
func bindAddr(local netip.AddrPort, family uint16) core.Addr {
	ip := local.Addr().Unmap()
	if !ip.IsValid() || ip.IsUnspecified() {
		ip = netip.IPv6Unspecified()
		if family == core.AF4 {
			ip = netip.IPv4Unspecified()
		}
	}
	return coreAddr(netip.AddrPortFrom(ip, local.Port()), family)
}

// reachable is the address that a dial of ip connects to, and its family: dialing the wildcard means
// the local host.
func reachable(network string, ip netip.Addr) (netip.Addr, uint16) {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.IsUnspecified() {
		if ipVersion(network) == 6 || (ip.IsValid() && ip.Is6()) {
			ip = netip.IPv6Loopback()
		} else {
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
	if ip.Is4() {
		return ip, core.AF4
	}
	return ip, core.AF6
}

// selfConnectRetries is how often a dial is tried again that the system answered by itself, as in package
// net.
const selfConnectRetries = 2

// connect tries one address. Where nobody listens on a port of the range that the system takes source
// ports from, it may take that one, and TCP connects the socket to itself (RFC 9293, 3.5): it is asked for
// another one then.
func (d *Dialer) connect(t *task, network string, local *net.TCPAddr, addr netip.AddrPort, until time.Time) (*Stream, error) {
	s, err := d.connectOnce(t, network, local, addr, until)
	for range selfConnectRetries {
		if err != nil || (local != nil && local.Port != 0) || !s.meetsItself() {
			break
		}
		s.close(nil)
		s, err = d.connectOnce(t, network, local, addr, until)
	}
	return s, err
}

// meetsItself reports whether both ends of a connection that was just made are the same.
func (s *Stream) meetsItself() bool {
	local, ok := s.localAddr().(*net.TCPAddr)
	remote := s.addrs.remote.(*net.TCPAddr)
	return ok && local.Port == remote.Port && local.IP.Equal(remote.IP)
}

func (d *Dialer) connectOnce(t *task, network string, local *net.TCPAddr, addr netip.AddrPort, until time.Time) (*Stream, error) {
	w := t.ctx.w
	asked := net.TCPAddrFromAddrPort(addr) // what errors name
	ip, family := reachable(network, addr.Addr())
	addr = netip.AddrPortFrom(ip, addr.Port())
	var source net.Addr
	if local != nil {
		source = local
	}
	fail := func(call string, err error) error {
		return &net.OpError{
			Op: "dial", Net: network, Source: source, Addr: asked,
			Err: os.NewSyscallError(call, sysErr(err)),
		}
	}
	sc := core.SocketConfig{Flags: core.SocketNoDelay}
	keepAlive(&sc, d.KeepAlive, d.KeepAliveConfig)
	fd, call, err := core.OpenStream(family, &sc)
	if err != nil {
		return nil, fail(call.String(), err)
	}
	err = setTTL(fd, d.TTL)
	if err == nil {
		err = d.control(&t.ctx, networkOfFamily(family), asked.String(), fd)
	}
	if err != nil {
		_ = core.CloseSocket(fd)
		return nil, &net.OpError{Op: "dial", Net: network, Source: source, Addr: asked, Err: err}
	}
	if local != nil {
		from := bindAddr(local.AddrPort(), family)
		if err := core.Bind(fd, &from); err != nil {
			_ = core.CloseSocket(fd)
			return nil, fail("bind", err)
		}
	}
	s := w.newStream(fd, network)
	to := coreAddr(addr, family)
	res, err := s.awaitConnect(t, &to, until)
	if err == nil && res == 0 {
		s.addrPair().remote = net.TCPAddrFromAddrPort(addr) // for later, when the system may not know it any more
		s.armRecv()
		return s, nil
	}
	s.close(nil)
	if err == nil {
		return nil, fail(core.NameConnect, core.Errno(-res))
	}
	return nil, &net.OpError{Op: "dial", Net: network, Source: source, Addr: asked, Err: err}
}

// unixConnectRetry is the time between two tries to connect to a unix socket whose queue is full.
const unixConnectRetry = 5 * time.Millisecond

// dialUnix connects to a unix socket.
func (d *Dialer) dialUnix(t *task, path string, until time.Time) (*Stream, error) {
	asked := &net.UnixAddr{Name: path, Net: networkUnix}
	fail := func(call string, err error) error {
		return d.dialError(networkUnix, asked, os.NewSyscallError(call, sysErr(err)))
	}
	to, err := unixAddr(path)
	if err != nil {
		return nil, fail(core.NameConnect, err)
	}
	local, ok := d.LocalAddr.(*net.UnixAddr)
	if d.LocalAddr != nil && !ok {
		return nil, d.dialError(networkUnix, asked, mismatchedLocal(d.LocalAddr))
	}
	fd, call, err := core.OpenStream(core.AFUnix, &core.SocketConfig{})
	if err != nil {
		return nil, fail(call.String(), err)
	}
	if err := d.control(&t.ctx, networkUnix, path, fd); err != nil {
		_ = core.CloseSocket(fd)
		return nil, d.dialError(networkUnix, asked, err)
	}
	if local != nil {
		from, err := unixAddr(local.Name)
		if err == nil {
			err = core.Bind(fd, &from)
		}
		if err != nil {
			_ = core.CloseSocket(fd)
			return nil, fail("bind", err)
		}
	}
	s := t.ctx.w.newStream(fd, networkUnix)
	res, err := s.awaitConnect(t, &to, until)
	for err == nil && res == -core.ErrnoAGAIN {
		// The listener's queue is full, and nothing tells when it is not.
		switch {
		case !until.IsZero() && !time.Now().Before(until):
			err = os.ErrDeadlineExceeded
		case t.ctx.Sleep(unixConnectRetry) != nil:
			err = netError(t.err())
		default:
			res, err = s.awaitConnect(t, &to, until)
		}
	}
	if err == nil && res == 0 {
		s.addrPair().remote = asked
		s.armRecv()
		return s, nil
	}
	s.close(nil)
	if err == nil {
		return nil, fail(core.NameConnect, core.Errno(-res))
	}
	return nil, d.dialError(networkUnix, asked, err)
}

// A connecting stream keeps here what its connect needs.
type connecting struct {
	t         *task
	done      bool
	cancelled bool
	res       int32
}

// awaitConnect parks the task until the connect's own completion, whatever made it end. The error is
// why it was given up; res is the connect's result otherwise.
func (s *Stream) awaitConnect(t *task, to *core.Addr, until time.Time) (res int32, err error) {
	mem := core.Alloc(core.AddrBytesMax)
	if mem == nil {
		return -core.ErrnoNOMEM, nil
	}
	defer core.Free(mem)
	length, err := core.EncodeAddr(to, mem)
	if err != nil {
		return 0, err
	}
	state := &connecting{t: t}
	s.connecting = state
	sqe := s.w.stage(core.OpConnect, opConnect, s.slot)
	sqe.FD = s.fd
	sqe.Addr = uint64(uintptr(mem))
	sqe.Off = uint64(length)
	s.inFlight++
	var timeout sleeper
	if !until.IsZero() {
		timeout.init(s.w, t)
		s.w.timers.add(&timeout.timer, s.w.timers.after(time.Until(until)))
		defer s.w.timers.remove(&timeout.timer)
	}
	for !state.done {
		// Before the first wait too: a cancel that came while a name was looked up wakes nobody again.
		if !state.cancelled && (timeout.fired || t.err() != nil || s.closed) {
			state.cancelled = true
			s.w.stageCancel(opConnect, s.slot)
		}
		t.park()
	}
	s.connecting = nil
	switch {
	case state.res == 0:
		return 0, nil
	case t.err() != nil:
		return 0, netError(t.err())
	case timeout.fired:
		return 0, os.ErrDeadlineExceeded
	}
	return state.res, nil
}

func (s *Stream) onConnect(res int32) {
	state := s.connecting
	state.done, state.res = true, res
	s.w.wake(state.t)
	if s.closed {
		s.settle()
	}
}

// offload has fn called by the blocking pool and parks the task until it returns, or the task is
// cancelled: then fn's ctx is, and its result is dropped.
func offload[T any](c *Context, fn func(ctx context.Context) (T, error)) (T, error) {
	var zero T
	if _, err := c.task(); err != nil {
		return zero, netError(err)
	}
	h := SpawnBlocking(c, fn)
	if !h.done.finished() {
		if err := waitFor(c, h); err != nil {
			h.Cancel()
			return zero, netError(err)
		}
	}
	return h.take()
}
