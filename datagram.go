package veloq

// Datagram: a UDP or unixgram socket on a worker: how it is made, its completions and its end.

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/wheel"
)

// Datagram is a datagram socket that lives on a worker: "udp", "udp4", "udp6" or "unixgram". In a task
// its calls park the task; in a handler they return at once (see DatagramHandler). One task may
// receive while others send.
//
// What is sent goes out at the end of the worker's turn, with everything else of that turn; datagrams
// of one socket keep their order, but for those of UDP that the socket has no room for at once. What
// the system finds wrong with a datagram is known only then: the next call that sends, or Flush,
// returns it.
//
// It is a net.PacketConn and a net.Conn, so that code written for those runs in a task, as long as it
// stays there.
//
// Every method is Worker only, unless it says otherwise: from another worker or goroutine it returns
// ErrWrongWorker. Errors are *net.OpError, with the same things inside as a Stream's.
type Datagram struct {
	retry   wheel.Timer // first: fireResend finds the datagram by its address
	w       *worker
	slot    uint64
	note    debugtag.Note[origin]
	server  *DatagramServer // nil for those that a task opened
	network string
	family  uint16
	fd      int32

	inFlight  int16 // ops whose completion is awaited; quiet sends are counted in out
	connected bool
	handled   bool // by server.handler
	closed    bool
	closeTold bool
	abandoned bool
	released  bool
	settling  bool

	recv     packetReceive
	out      packetQueue
	class    uint8 // traffic class of what is sent
	user     any
	closeErr error
	deadline *deadlines
	local    net.Addr
	remote   net.Addr
	unlink   string // the path to be removed at the end, "" for none
}

var (
	_ net.PacketConn = (*Datagram)(nil)
	_ net.Conn       = (*Datagram)(nil)
)

// datagrams is what a worker has of its datagram sockets.
type datagrams struct {
	dirty    turnList[*Datagram] // have something queued to send
	settling turnList[*Datagram]
	arrived  turnList[*Datagram] // handlers' that have unread packets
	blocks   []*packetBlock      // of blockClass bytes, for reuse
	spare    []packetSend
	// urgent: somebody waits for the end of quiet sends, which wakes nobody by itself.
	urgent bool
}

func (ds *datagrams) waiting() bool {
	return ds.dirty.len() > 0 || ds.settling.len() > 0 || ds.arrived.len() > 0 || ds.urgent
}

func (w *worker) freeDatagrams() {
	for i := range w.packetSends {
		if s := &w.packetSends[i]; s.owned {
			core.Free(unsafe.Pointer(s.b))
		}
	}
	ds := &w.datagrams
	for _, b := range ds.blocks {
		core.Free(unsafe.Pointer(b))
	}
	ds.blocks = nil
}

var datagramNetworks = []string{"udp", "udp4", "udp6", "unixgram"}

func checkDatagramNetwork(network string) error {
	if slices.Contains(datagramNetworks, network) && (network != "unixgram" || core.UnixDatagrams) {
		return nil
	}
	return net.UnknownNetworkError(network)
}

// ListenDatagram opens a datagram socket on the worker of the task: "udp", "udp4", "udp6" with an
// address as package net takes it, or "unixgram" with a path. Where the IP address is of a multicast
// group the socket is bound to its port, which it shares with others that are; JoinGroup joins the
// group. Worker only. Blocks (for a name).
func (c *Context) ListenDatagram(network, address string) (*Datagram, error) {
	return (&ListenConfig{}).ListenDatagram(c, network, address)
}

// ListenDatagram is Context.ListenDatagram with these settings. Worker only. Blocks (for a name).
func (lc *ListenConfig) ListenDatagram(c *Context, network, address string) (*Datagram, error) {
	if !c.w.here() {
		return nil, opError("listen", network, nil, c.w.elsewhere())
	}
	var addr netip.AddrPort
	var err error
	if _, ok := literal(address); ok || address == "" || network == "unixgram" {
		addr, err = resolveDatagram(c, network, address)
	} else {
		addr, err = offload(c, func(ctx context.Context) (netip.AddrPort, error) {
			return resolveDatagram(ctx, network, address)
		})
	}
	if err != nil {
		return nil, err
	}
	if c.w.stopping {
		return nil, opError("listen", network, nil, ErrClosed) // nobody would close it
	}
	o, err := lc.openDatagram(network, address, addr, false)
	if err != nil {
		return nil, err
	}
	return c.w.newDatagram(o)
}

// resolveDatagram finds the one address that a socket takes; a unix path is none. Any goroutine. Blocks
// (for a name).
func resolveDatagram(ctx context.Context, network, address string) (netip.AddrPort, error) {
	if err := checkDatagramNetwork(network); err != nil {
		return netip.AddrPort{}, opError("listen", network, nil, err)
	}
	if network == "unixgram" {
		return netip.AddrPort{}, nil
	}
	return resolveIP(ctx, network, address)
}

// An openedDatagram is a bound socket on its way to its worker.
type openedDatagram struct {
	fd      int32
	network string
	family  uint16
	local   net.Addr
	remote  net.Addr
	unlink  string
}

// openDatagram makes a bound socket; share lets later ones have the port too. Any goroutine.
func (lc *ListenConfig) openDatagram(network, path string, addr netip.AddrPort, share bool) (openedDatagram, error) {
	o := openedDatagram{network: network}
	sc := core.SocketConfig{
		Flags:              core.SocketBroadcast,
		ReceiveBufferBytes: int32(lc.ReadBuffer),
		SendBufferBytes:    int32(lc.WriteBuffer),
	}
	if lc.ReusePort {
		sc.Flags |= core.SocketReusePort
	}
	fail := func(err error) (openedDatagram, error) {
		if network == "unixgram" {
			return o, opError("listen", network, &net.UnixAddr{Name: path, Net: network}, err)
		}
		return o, listenError(network, addr, err)
	}
	var at core.Addr
	if network == "unixgram" {
		o.family = core.AFUnix
		var err error
		if at, err = unixAddr(path); err != nil {
			return fail(os.NewSyscallError("bind", err))
		}
		sc.Flags = 0
	} else {
		if ip := addr.Addr(); ip.IsMulticast() {
			sc.Flags |= core.SocketShared
			wildcard := netip.IPv6Unspecified()
			if ip.Unmap().Is4() {
				wildcard = netip.IPv4Unspecified()
			}
			// Bound to its port alone, and to the group's own version of IP.
			network = network[:3] + map[bool]string{true: "4", false: "6"}[ip.Unmap().Is4()]
			addr = netip.AddrPortFrom(wildcard, addr.Port())
		}
		family, v6, ip, err := lc.familyFor(network, addr)
		if err != nil {
			return fail(err)
		}
		o.family = family
		sc.Flags |= v6
		at = coreAddr(netip.AddrPortFrom(ip, addr.Port()), family)
	}
	fd, call, err := core.OpenDatagram(o.family, &sc)
	if err != nil {
		return fail(os.NewSyscallError(call.String(), sysErr(err)))
	}
	o.fd = fd
	if o.family != core.AFUnix {
		if err := setTTL(fd, lc.TTL); err != nil {
			_ = core.CloseSocket(fd)
			return fail(err)
		}
	}
	bound, call, err := bindDatagram(fd, &at, share)
	if err != nil {
		_ = core.CloseSocket(fd)
		return fail(os.NewSyscallError(call.String(), sysErr(err)))
	}
	o.local = datagramAddr(&bound)
	o.unlink = unlinkPath(o.local)
	return o, nil
}

// bindDatagram is bindAndListen without the listening.
func bindDatagram(fd int32, at *core.Addr, share bool) (core.Addr, core.Call, error) {
	if err := core.Bind(fd, at); err != nil {
		return core.Addr{}, core.CallBind, err
	}
	if share {
		if err := core.SetOption(fd, core.OptReusePort, 1); err != nil {
			return core.Addr{}, core.CallSetsockopt, err
		}
	}
	bound, err := core.LocalAddr(fd)
	return bound, core.CallGetsockname, err
}

// datagramAddr is package net's form of a datagram socket's address.
func datagramAddr(a *core.Addr) net.Addr {
	if a.Family == core.AFUnix {
		return &net.UnixAddr{Name: unixPath(a.Path[:a.PathLen]), Net: "unixgram"}
	}
	if tcp := tcpAddr(a); tcp != nil {
		return &net.UDPAddr{IP: tcp.IP, Port: tcp.Port, Zone: tcp.Zone}
	}
	return nil
}

// newDatagram makes the Datagram of a socket, which the worker owns from here, also when it fails: for
// want of memory, or of a driver that receives datagrams.
func (w *worker) newDatagram(o openedDatagram) (*Datagram, error) {
	d := &Datagram{
		w: w, fd: o.fd, network: o.network, family: o.family, local: o.local, remote: o.remote,
		connected: o.remote != nil, unlink: o.unlink,
	}
	mem := core.Alloc(unsafe.Sizeof(core.Msghdr{}))
	if mem == nil || w.packets.ring.Count == 0 {
		core.Free(mem)
		_ = core.CloseSocket(o.fd)
		removePath(d.unlink)
		err := error(core.Errno(core.ErrnoNOMEM).Sys())
		if mem != nil {
			err = core.Errno(core.ErrnoNOTSUP).Sys()
		}
		return nil, opError("listen", o.network, o.local, err)
	}
	name, control := d.spaces()
	d.recv.hdr = (*core.Msghdr)(mem)
	*d.recv.hdr = core.Msghdr{NameLen: name, ControlLen: uint64(control)}
	d.retry.Fire = fireResend
	d.slot = w.slots.add(d)
	w.sockets++
	w.load.Add(1)
	if debugtag.Enabled {
		d.note.Set(w.origin())
	}
	d.armRecv()
	return d, nil
}

// complete implements operand.
func (d *Datagram) complete(kind opKind, res int32, flags uint32) {
	switch kind {
	case opRecvPacket:
		d.onRecv(res, flags)
	case opSend:
		d.onSpace()
	}
}

// Close closes the socket: waiting calls return net.ErrClosed, unread packets are dropped, what was
// sent still goes out in the background, for Config.CloseTimeout at most. It returns at once. A second
// Close does nothing.
func (d *Datagram) Close() error {
	if err := d.check("close"); err != nil {
		return err
	}
	d.close(nil)
	return nil
}

func (d *Datagram) close(why error) {
	if d.closed {
		return
	}
	d.closed = true
	d.closeErr = why
	d.stopRecv()
	d.dropUnread()
	d.wakeAll()
	if d.out.pending() {
		d.w.datagrams.urgent = true
		d.timersOf().boundClose()
	}
	d.settle()
}

// abandon gives up what has not been sent.
func (d *Datagram) abandon() {
	if d.abandoned {
		return
	}
	d.abandoned = true
	d.dropQueue()
	if d.out.polling {
		d.w.stageCancel(opSend, d.slot)
	}
	d.settle()
}

// cancelMissed implements canceller.
func (d *Datagram) cancelMissed() {
	if d.recv.armed && d.recv.cancel {
		d.w.stageCancel(opRecvPacket, d.slot)
	}
	if d.abandoned && d.out.polling {
		d.w.stageCancel(opSend, d.slot)
	}
}

// abort implements operand: the runtime ends.
func (d *Datagram) abort() {
	d.close(ErrClosed)
	d.abandon()
}

// inUse implements holder.
func (d *Datagram) inUse() bool { return d.inFlight > 0 }

// discard implements holder.
func (d *Datagram) discard() {
	if d.fd >= 0 {
		_ = core.CloseSocket(d.fd)
		d.fd = -1
		removePath(d.unlink)
	}
	d.dropQueue()
	core.Free(unsafe.Pointer(d.recv.hdr))
	d.recv.hdr = nil
}

func (d *Datagram) wakeAll() {
	d.w.wake(d.recv.reader)
	d.wakeWriters()
}

// settle has the worker look at a closed socket once this dispatch is over.
func (d *Datagram) settle() {
	if d.closed && !d.settling {
		d.settling = true
		d.w.datagrams.settling.add(d)
	}
}

// settleDatagrams takes the next step of every datagram socket that is closing.
func (w *worker) settleDatagrams() {
	for _, d := range w.datagrams.settling.take() {
		d.settling = false
		d.step()
	}
}

func (d *Datagram) step() {
	if !d.closeTold {
		d.closeTold = true
		d.tellClosed()
	}
	// Whatever is left comes back here by its completion, or with its task.
	if d.released || d.inFlight > 0 || d.out.pending() || d.recv.reader != nil || len(d.out.writers) > 0 {
		return
	}
	d.released = true
	d.deadline.clear()
	w := d.w
	w.timers.remove(&d.retry)
	sqe := w.stage(core.OpClose, opClose, d.slot)
	sqe.FD = d.fd
	sqe.Flags = w.skipSuccess
	d.fd = -1
	removePath(d.unlink)
	core.Free(unsafe.Pointer(d.recv.hdr))
	d.recv.hdr = nil
	w.slots.remove(d.slot)
	w.sockets--
	w.load.Add(-1)
	if d.server != nil {
		d.server.socketEnded()
	}
}

// SetUnlinkOnClose says whether Close removes the path that a unixgram socket is bound to, as it does
// unless told otherwise. Worker only.
func (d *Datagram) SetUnlinkOnClose(unlink bool) {
	d.unlink = ""
	if unlink {
		d.unlink = unlinkPath(d.local)
	}
}

// check is what every public method asks first: the right caller, and still open.
func (d *Datagram) check(op string) error {
	if !d.w.here() {
		return d.opError(op, d.w.elsewhere())
	}
	if d.closed && op != "close" {
		d.w.giveWay()
		return d.opError(op, net.ErrClosed)
	}
	return nil
}

func (d *Datagram) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: d.network, Source: d.local, Addr: d.remote, Err: err}
}

// sysError is opError for a completion's negative result.
func (d *Datagram) sysError(op, call string, res int32) error {
	return d.opError(op, os.NewSyscallError(call, core.Errno(-res).Sys()))
}

// LocalAddr returns the address that the socket is bound to, a *net.UDPAddr or a *net.UnixAddr. Any
// goroutine.
func (d *Datagram) LocalAddr() net.Addr { return d.local }

// RemoteAddr returns the address that the socket is connected to, nil for one that is not. Any
// goroutine.
func (d *Datagram) RemoteAddr() net.Addr { return d.remote }

// UserData returns what SetUserData stored, nil before.
func (d *Datagram) UserData() any { return d.user }

// SetUserData stores one value with the socket, for handlers.
func (d *Datagram) SetUserData(v any) { d.user = v }

// Worker returns the index of the worker that the socket lives on. Any goroutine.
func (d *Datagram) Worker() int { return d.w.id }
