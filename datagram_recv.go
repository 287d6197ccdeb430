package veloq

// The receiving half of a Datagram.

import (
	"net"
	"net/netip"
	"os"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// packetReceive is the receiving half of a Datagram.
type packetReceive struct {
	hdr    *core.Msghdr // C memory: how much space a buffer leaves before the payload
	unread []Packet     // from head on
	head   int
	spare  []Packet // a handler's batch, between two of them
	err    error    // what the socket had pending; the next receive returns it
	errors int      // in a row, without a packet between them
	reader *task    // parked in a receive

	armed    bool
	cancel   bool // of the receive, under way
	starving bool // waits for a buffer
	paused   bool // by PauseRead
	listed   bool // in w.datagrams.arrived
}

// errorsMax is how many errors in a row end a handler's socket. Single ones are about what was sent
// earlier, and the receiving goes on.
const errorsMax = 16

func (r *packetReceive) count() int { return len(r.unread) - r.head }

// armRecv starts the receive that goes on by itself, if the socket may receive now.
func (d *Datagram) armRecv() {
	r := &d.recv
	if r.armed || d.closed || r.starving || r.paused || r.err != nil ||
		r.count() >= d.w.rt.config.PacketQueue {
		return
	}
	w := d.w
	sqe := w.stage(core.OpRecvMsg, opRecvPacket, d.slot)
	sqe.FD = d.fd
	sqe.Addr = uint64(uintptr(unsafe.Pointer(r.hdr)))
	sqe.Len = 1
	sqe.Flags = core.SQEBufferSelect
	sqe.Mode = core.RecvMultishot
	sqe.BufGroup = w.packets.ring.ID
	r.armed = true
	d.inFlight++
}

// unstarve implements receiver.
func (d *Datagram) unstarve() {
	d.recv.starving = false
	d.armRecv()
}

// stopRecv asks for the end of the receive. What arrives before it counts.
func (d *Datagram) stopRecv() {
	if d.recv.armed && !d.recv.cancel {
		d.recv.cancel = true
		d.w.stageCancel(opRecvPacket, d.slot)
	}
}

func (d *Datagram) onRecv(res int32, flags uint32) {
	r := &d.recv
	if flags&core.CQEMore == 0 {
		r.armed, r.cancel = false, false
		d.inFlight--
	}
	if flags&core.CQEBuffer != 0 {
		d.take(d.w.packets.take(core.BufferIndex(flags), max(res, 0), 0))
	} else if res < 0 {
		d.onRecvError(res)
	}
	switch {
	case r.armed:
	case d.closed:
		d.settle()
	default:
		d.armRecv()
	}
}

// take queues one datagram.
func (d *Datagram) take(l Lease) {
	r := &d.recv
	if d.closed {
		l.Release()
		return
	}
	if r.head > 0 && len(r.unread) == cap(r.unread) {
		n := copy(r.unread, r.unread[r.head:])
		r.unread, r.head = r.unread[:n], 0
	}
	n := len(r.unread)
	if n < cap(r.unread) {
		r.unread = r.unread[:n+1]
	} else {
		r.unread = append(r.unread, Packet{})
	}
	if !d.parse(&r.unread[n], l) {
		r.unread = r.unread[:n]
		return
	}
	r.errors = 0
	d.w.stats.packetsIn++
	if d.handled {
		d.list()
	} else {
		d.w.wake(r.reader)
	}
	if r.count() >= d.w.rt.config.PacketQueue && (!d.handled || r.paused) {
		d.stopRecv()
	}
}

func (d *Datagram) onRecvError(res int32) {
	r := &d.recv
	switch {
	case undone(res):
		// Armed again, if anything still wants it.
	case res == -core.ErrnoNOBUFS, res == -core.ErrnoNOMEM:
		d.w.stats.noBuffers++
		if !d.closed && !r.starving {
			r.starving = true
			d.w.packets.starved = append(d.w.packets.starved, d)
		}
	default:
		d.w.stats.packetErrors++
		r.errors++
		err := d.sysError("read", core.NameRecv, res)
		if !d.handled {
			r.err = err
			d.w.wake(r.reader)
		} else if r.errors >= errorsMax {
			d.close(err)
		}
	}
}

// list has the handler called with what is unread, after this dispatch or the next.
func (d *Datagram) list() {
	if r := &d.recv; !r.listed && !r.paused {
		r.listed = true
		d.w.datagrams.arrived.add(d)
	}
}

// deliverPackets calls the handlers with what has arrived. It reports whether completions were
// collected meanwhile that must be dispatched.
func (w *worker) deliverPackets() bool {
	before := len(w.completions)
	for _, d := range w.datagrams.arrived.take() {
		d.recv.listed = false
		d.deliver()
	}
	return len(w.completions) > before
}

// deliver gives a handler all that is unread. The batch is the queue itself: what arrives meanwhile
// goes to another.
func (d *Datagram) deliver() {
	r := &d.recv
	if d.closed || r.paused || r.count() == 0 {
		return
	}
	whole, head := r.unread, r.head
	r.unread, r.head, r.spare = r.spare[:0], 0, nil
	d.tellPackets(whole[head:])
	for i := range whole[head:] {
		whole[head+i].Release()
	}
	clear(whole)
	r.spare = whole[:0]
	d.armRecv()
}

func (d *Datagram) dropUnread() {
	r := &d.recv
	for i := r.head; i < len(r.unread); i++ {
		r.unread[i].Release()
	}
	clear(r.unread)
	r.unread, r.head = r.unread[:0], 0
}

// spillPackets copies unread datagrams of all sockets out of the packet buffers: called when the group
// is empty, so that sockets that nobody reads can't keep the others from receiving.
func (w *worker) spillPackets() {
	w.stats.spills++
	for i := range w.slots.slots {
		d, ok := w.slots.slots[i].owner.(*Datagram)
		if !ok {
			continue
		}
		for k := d.recv.head; k < len(d.recv.unread); k++ {
			d.recv.unread[k].Data.spill()
		}
	}
}

// RecvBatch waits until at least one datagram has arrived and moves as many as there are and fit to
// ps. Each is the caller's to release. Worker only. Blocks.
func (d *Datagram) RecvBatch(ps []Packet) (int, error) {
	if err := d.awaitPacket(); err != nil || len(ps) == 0 {
		return 0, err
	}
	r := &d.recv
	n := copy(ps, r.unread[r.head:])
	clear(r.unread[r.head : r.head+n])
	r.head += n
	d.taken()
	if debugtag.Enabled {
		for i := range ps[:n] {
			ps[i].Data.trace(d.w, d.name(), false)
		}
	}
	return n, nil
}

// Recv waits for the next datagram, which is the caller's to release. One of no bytes is one like any
// other. An error of the system that is no deadline and no close is about what was sent before, such
// as ECONNREFUSED on a connected socket; the next Recv goes on. Worker only. Blocks.
func (d *Datagram) Recv() (Packet, error) {
	if err := d.awaitPacket(); err != nil {
		return Packet{}, err
	}
	r := &d.recv
	p := r.unread[r.head]
	r.unread[r.head] = Packet{}
	r.head++
	d.taken()
	if debugtag.Enabled {
		p.Data.trace(d.w, d.name(), false)
	}
	return p, nil
}

// Read copies the next datagram to p; what does not fit is lost. Worker only. Blocks.
func (d *Datagram) Read(p []byte) (int, error) {
	n, _, err := d.readInto(p)
	return n, err
}

// ReadFromAddrPort is Read that tells the sender too, and allocates nothing. Worker only. Blocks.
func (d *Datagram) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	n, packet, err := d.readInto(p)
	return n, packet.From, err
}

// ReadFrom implements net.PacketConn: ReadFromAddrPort, with the sender as a *net.UDPAddr or
// *net.UnixAddr. Worker only. Blocks.
func (d *Datagram) ReadFrom(p []byte) (int, net.Addr, error) {
	n, packet, err := d.readInto(p)
	switch {
	case err != nil:
		return 0, nil, err
	case d.family != core.AFUnix:
		return n, net.UDPAddrFromAddrPort(packet.From), nil
	case packet.Path == "":
		return n, nil, nil
	}
	return n, &net.UnixAddr{Name: packet.Path, Net: d.network}, nil
}

// readInto copies and releases the next datagram.
func (d *Datagram) readInto(p []byte) (int, Packet, error) {
	packet, err := d.Recv()
	if err != nil {
		return 0, Packet{}, err
	}
	n := copy(p, packet.Data.Bytes())
	packet.Release()
	return n, packet, nil
}

// taken goes on after the reader took something.
func (d *Datagram) taken() {
	r := &d.recv
	if r.head == len(r.unread) {
		r.unread, r.head = r.unread[:0], 0
	}
	if !r.armed && r.count() <= d.w.rt.config.PacketQueue/2 {
		d.armRecv()
	}
}

// awaitPacket parks the task until a datagram is there.
func (d *Datagram) awaitPacket() error {
	if err := d.check("read"); err != nil {
		return err
	}
	r := &d.recv
	t := d.w.running
	for r.count() == 0 {
		switch {
		case d.closed:
			return d.opError("read", net.ErrClosed)
		case d.deadline != nil && d.deadline.read.passed:
			return d.opError("read", os.ErrDeadlineExceeded)
		case r.err != nil:
			return d.takeRecvError()
		case t == nil:
			return d.opError("read", ErrNotTask)
		case r.reader != nil:
			return d.opError("read", ErrBusy)
		}
		if err := t.err(); err != nil {
			return d.opError("read", netError(err))
		}
		r.reader = t
		t.park()
		r.reader = nil
		d.settle()
	}
	return nil
}

// takeRecvError returns what the socket had pending, if anything, and goes on receiving.
func (d *Datagram) takeRecvError() error {
	err := d.recv.err
	d.recv.err = nil
	d.armRecv()
	return err
}

// TryRecvBatch is RecvBatch that does not wait: 0 where nothing has arrived, with the error that Recv
// would return, if there is one. Worker only.
func (d *Datagram) TryRecvBatch(ps []Packet) (int, error) {
	if err := d.check("read"); err != nil {
		return 0, err
	}
	if d.recv.count() == 0 {
		return 0, d.takeRecvError()
	}
	return d.RecvBatch(ps)
}

// PauseRead stops a handler's OnPackets: at most Config.PacketQueue datagrams are kept, further ones
// wait in the socket's buffer, and what finds no room there is dropped by the system. Worker only.
func (d *Datagram) PauseRead() error {
	if err := d.check("read"); err != nil {
		return err
	}
	d.recv.paused = true
	if d.recv.count() >= d.w.rt.config.PacketQueue {
		d.stopRecv()
	}
	return nil
}

// ResumeRead ends PauseRead: what was kept is delivered after this turn. Worker only.
func (d *Datagram) ResumeRead() error {
	if err := d.check("read"); err != nil {
		return err
	}
	d.recv.paused = false
	if d.recv.count() > 0 && d.handled {
		d.list()
	}
	d.armRecv()
	return nil
}
