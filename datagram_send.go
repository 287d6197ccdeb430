package veloq

// The sending half of a Datagram: quiet sends out of the arena, and a queue for what the socket had no
// room for.

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/wheel"
)

const (
	// segmentsMax is the most datagrams that the kernel cuts one send into: UDP_MAX_SEGMENTS of its
	// oldest versions.
	segmentsMax = 64
	// payloadMax4 and payloadMax6 are the longest payloads of UDP over IPv4 and IPv6.
	payloadMax4 = 65507
	payloadMax6 = 65527
	// queueQuietMax is how many queued datagrams of one socket go out in a turn.
	queueQuietMax = 64
	// resendAfter is when a send is tried again where nothing tells of room: an unconnected unixgram
	// socket's is the receiver's.
	resendAfter = time.Millisecond
)

// A packetSend is one quiet datagram of the last enters. Its place in worker.packetSends is in its
// token.
type packetSend struct {
	d     *Datagram
	b     *packetBlock
	res   int32 // of its completion, if it had one
	owned bool  // b is no part of an arena
}

// packetQueue is a Datagram's datagrams on their way out.
type packetQueue struct {
	queue   []*packetBlock // from head on; in memory of their own
	head    int
	bytes   int     // in blocks of their own, whether queued or in flight
	quiet   int     // quiet sends that are not confirmed
	polling bool    // a poll for room is in flight
	blocked bool    // a send found no room: the next ones wait for it
	vain    bool    // the poll said that there is room, and nothing has gone out since
	dirty   bool    // in w.datagrams.dirty
	noGSO   bool    // the kernel refused to cut: datagrams are cut here
	full    bool    // a handler met ErrFull and waits for OnWritable
	err     error   // why a datagram did not go out; the next call that sends returns it
	writers []*task // wait for room, or in Flush
}

func (o *packetQueue) count() int { return len(o.queue) - o.head }

// pending reports whether anything is still on its way.
func (o *packetQueue) pending() bool { return o.quiet > 0 || o.count() > 0 }

func (o *packetQueue) push(b *packetBlock) {
	if o.head > 32 && o.head > len(o.queue)/2 {
		n := copy(o.queue, o.queue[o.head:])
		clear(o.queue[n:])
		o.queue, o.head = o.queue[:n], 0
	}
	o.queue = append(o.queue, b)
}

func (o *packetQueue) pushFront(b *packetBlock) {
	if o.head > 0 {
		o.head--
		o.queue[o.head] = b
		return
	}
	o.queue = slices.Insert(o.queue, 0, b)
}

func (o *packetQueue) pop() *packetBlock {
	b := o.queue[o.head]
	o.queue[o.head] = nil
	o.head++
	if o.head == len(o.queue) {
		o.queue, o.head = o.queue[:0], 0
	}
	return b
}

// Send sends p to the address that the socket is connected to. It copies p. In a task it waits while
// Config.WriteHigh bytes wait to go out; a handler gets ErrFull, with nothing sent, and OnWritable later.
// Worker only. Blocks (in a task).
func (d *Datagram) Send(p []byte) error { return d.send(&Message{Data: p}, true) }

// SendTo sends p to an address, with a socket that is not connected; otherwise as Send.
func (d *Datagram) SendTo(p []byte, to netip.AddrPort) error {
	return d.send(&Message{Data: p, To: to}, true)
}

// SendMessage sends m, or with SegmentSize the datagrams in it; otherwise as Send. Nothing of m is kept.
func (d *Datagram) SendMessage(m *Message) error { return d.send(m, true) }

// SendBatch sends several messages and returns how many it took: all of them, or those before the one
// that the error is about; otherwise as Send.
func (d *Datagram) SendBatch(ms []Message) (int, error) {
	for i := range ms {
		if err := d.send(&ms[i], true); err != nil {
			return i, err
		}
	}
	return len(ms), nil
}

// TrySend is SendMessage that never waits, in a task either. Worker only.
func (d *Datagram) TrySend(m *Message) error { return d.send(m, false) }

// Write implements net.Conn: Send.
func (d *Datagram) Write(p []byte) (int, error) {
	if err := d.Send(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteTo implements net.PacketConn: SendTo a *net.UDPAddr or *net.UnixAddr.
func (d *Datagram) WriteTo(p []byte, addr net.Addr) (int, error) {
	m := Message{Data: p}
	switch a := addr.(type) {
	case *net.UDPAddr:
		if a != nil {
			m.To = a.AddrPort()
		}
	case *net.UnixAddr:
		if a != nil {
			m.Path = a.Name
		}
	}
	if err := d.send(&m, true); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush waits until everything sent has been handed to the kernel or failed, and returns what failed
// first, if anything did since the last call that sent. Worker only. Blocks.
func (d *Datagram) Flush() error {
	if err := d.check("write"); err != nil {
		return err
	}
	for d.out.pending() {
		t := d.w.running
		if t == nil {
			return d.opError("write", ErrNotTask)
		}
		if err := d.parkWriter(t); err != nil {
			return err
		}
	}
	return d.takeError()
}

func (d *Datagram) takeError() error {
	err := d.out.err
	d.out.err = nil
	return err
}

// parkWriter parks t until something has gone out. The error is why it must not wait any longer, which
// may have come before, when nobody waited to be woken.
func (d *Datagram) parkWriter(t *task) error {
	if err := d.interrupted(t); err != nil {
		return err
	}
	d.out.writers = append(d.out.writers, t)
	d.w.datagrams.urgent = true
	t.park()
	i := slices.Index(d.out.writers, t)
	d.out.writers = slices.Delete(d.out.writers, i, i+1)
	if d.closed {
		d.settle()
	}
	return d.interrupted(t)
}

// interrupted returns why a waiting send must end now.
func (d *Datagram) interrupted(t *task) error {
	switch {
	case d.closed:
		return d.opError("write", net.ErrClosed)
	case d.deadline != nil && d.deadline.write.passed:
		return d.opError("write", os.ErrDeadlineExceeded)
	}
	if err := t.err(); err != nil {
		return d.opError("write", netError(err))
	}
	return nil
}

func (d *Datagram) wakeWriters() {
	for _, t := range d.out.writers {
		d.w.wake(t)
	}
}

var errMissingAddress = errors.New("missing address")

// allowed checks a message before any of it is sent.
func (d *Datagram) allowed(m *Message) error {
	named := m.To.IsValid() || m.Path != ""
	switch {
	case d.out.err != nil:
		return d.takeError()
	case d.deadline != nil && d.deadline.write.passed:
		return d.opError("write", os.ErrDeadlineExceeded)
	case d.connected && named:
		return d.opError("write", net.ErrWriteToConnected)
	case !d.connected && (!named || m.To.IsValid() == (d.family == core.AFUnix)):
		return d.opError("write", errMissingAddress)
	case d.family == core.AF4 && m.To.IsValid() && !m.To.Addr().Unmap().Is4():
		return d.opError("write", &net.AddrError{Err: "non-IPv4 address", Addr: m.To.Addr().String()})
	case d.family == core.AFUnix:
		return nil
	case len(m.Data) > d.payloadMax() && (m.SegmentSize <= 0 || m.SegmentSize > d.payloadMax()):
		return d.opError("write", os.NewSyscallError(core.NameSend, core.Errno(core.ErrnoMSGSIZE).Sys()))
	}
	return nil
}

func (d *Datagram) payloadMax() int {
	if d.family == core.AF4 {
		return payloadMax4
	}
	return payloadMax6
}

func (d *Datagram) send(m *Message, wait bool) error {
	if err := d.check("write"); err != nil {
		return err
	}
	if err := d.allowed(m); err != nil {
		return err
	}
	for d.out.bytes >= d.w.rt.config.WriteHigh {
		t := d.w.running
		if t == nil || !wait {
			d.out.full = d.out.full || t == nil
			d.w.datagrams.urgent = true
			d.w.stats.writesFull++
			return d.opError("write", ErrFull)
		}
		if err := d.parkWriter(t); err != nil {
			return err
		}
	}
	size := m.SegmentSize
	if size <= 0 || len(m.Data) <= size {
		return d.put(m, m.Data, 0)
	}
	step, segment := size, 0
	if !d.out.noGSO && d.family != core.AFUnix && core.Segments {
		// The longest of IPv4: on a socket of IPv6 it may go out as that.
		step, segment = min(segmentsMax, payloadMax4/size)*size, size
	}
	for rest := m.Data; len(rest) > 0; {
		n := min(step, len(rest))
		cut := segment
		if n <= size {
			cut = 0
		}
		if err := d.put(m, rest[:n], cut); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// put makes the block of one send and stages it, or queues it behind others.
func (d *Datagram) put(m *Message, payload []byte, segment int) error {
	var control core.Control
	c := &control
	if segment == 0 && m.ECN == 0 && !m.From.IsValid() && m.Interface == 0 {
		c = nil
	} else {
		*c = core.Control{Addr: m.From, Interface: uint32(m.Interface), Segment: uint16(segment)}
		if m.ECN != 0 {
			c.Class, c.HasClass = d.class&^3|uint8(m.ECN&3), true
		}
	}
	w := d.w
	size := blockSize(c != nil, len(payload))
	a := w.arena
	inArena := d.out.count() == 0 && !d.ordered() && a.room() >= size
	var b *packetBlock
	if inArena {
		b = (*packetBlock)(unsafe.Add(a.base, a.used))
	} else if b = w.takeBlock(size); b == nil {
		return d.opError("write", os.NewSyscallError(core.NameSend, core.Errno(core.ErrnoNOMEM).Sys()))
	}
	length, err := d.encode(b, m)
	if err != nil {
		if !inArena {
			w.giveBlock(b, size)
		}
		return err
	}
	b.fill(payload, c, d.goesAs4(m))
	b.setName(length)
	if inArena {
		a.used += size
		d.stageQuiet(b, false)
		return nil
	}
	d.out.bytes += int(b.size)
	d.out.push(b)
	d.markDirty()
	return nil
}

// ordered reports whether no datagram may overtake another: unixgram keeps the order, and a send that
// finds no room must hold up the next.
func (d *Datagram) ordered() bool { return d.family == core.AFUnix }

// encode writes the message's destination into the block; 0 bytes on a connected socket.
func (d *Datagram) encode(b *packetBlock, m *Message) (int, error) {
	if d.connected {
		return 0, nil
	}
	if d.family == core.AFUnix {
		n := core.PutUnixName(b.name[:], m.Path)
		if n == 0 {
			return 0, d.opError("write", os.NewSyscallError(core.NameSend, core.Errno(core.ErrnoINVAL).Sys()))
		}
		return n, nil
	}
	var zone uint32
	if name := m.To.Addr().Zone(); name != "" {
		zone = zoneScope(name)
	}
	return core.PutName(b.name[:], m.To, zone, d.family), nil
}

// goesAs4 reports whether a message is sent as IPv4.
func (d *Datagram) goesAs4(m *Message) bool {
	if d.connected {
		a, ok := d.remote.(*net.UDPAddr)
		return ok && a.IP.To4() != nil
	}
	return d.family == core.AF4 || m.To.Addr().Unmap().Is4()
}

// stageQuiet sends a block within the enter that submits it: what can't go at once completes with an
// error, and all else without a completion, where the driver can.
func (d *Datagram) stageQuiet(b *packetBlock, owned bool) {
	w := d.w
	sqe := w.stage(core.OpSendMsg, opPacket, uint64(len(w.packetSends)))
	sqe.FD = d.fd
	sqe.Addr = uint64(uintptr(unsafe.Pointer(b)))
	sqe.Len = 1
	sqe.OpFlags = core.MsgDontWait | core.MsgNoSignal
	sqe.Flags = w.skipSuccess
	w.packetSends = append(w.packetSends, packetSend{d: d, b: b, owned: owned})
	w.stats.quietSends++
	d.out.quiet++
	if len(d.out.writers) > 0 || d.out.full || d.closed {
		w.datagrams.urgent = true
	}
}

// takeBlock returns C memory for a block of that size, nil if there is none.
func (w *worker) takeBlock(size uint32) *packetBlock {
	if size > blockClass {
		return (*packetBlock)(core.Alloc(uintptr(size)))
	}
	if n := len(w.datagrams.blocks); n > 0 {
		b := w.datagrams.blocks[n-1]
		w.datagrams.blocks = w.datagrams.blocks[:n-1]
		return b
	}
	return (*packetBlock)(core.Alloc(blockClass))
}

// blocksMax bounds the blocks that a worker keeps for reuse.
const blocksMax = 256

func (w *worker) giveBlock(b *packetBlock, size uint32) {
	if size <= blockClass && len(w.datagrams.blocks) < blocksMax {
		w.datagrams.blocks = append(w.datagrams.blocks, b)
		return
	}
	core.Free(unsafe.Pointer(b))
}

// end gives a block of the queue back.
func (d *Datagram) end(b *packetBlock) {
	d.out.bytes -= int(b.size)
	d.w.giveBlock(b, b.size)
}

func (d *Datagram) markDirty() {
	if !d.out.dirty {
		d.out.dirty = true
		d.w.datagrams.dirty.add(d)
	}
}

// flushPackets stages what sockets have queued.
func (w *worker) flushPackets() {
	for _, d := range w.datagrams.dirty.take() {
		d.out.dirty = false
		d.stageQueue()
	}
}

func (d *Datagram) stageQueue() {
	o := &d.out
	switch {
	case d.released || o.count() == 0 || o.polling || d.retry.Pending():
		return
	case d.abandoned:
		d.dropQueue()
		return
	case o.quiet > 0 && (d.ordered() || o.blocked):
		return // confirmPackets comes back here
	case o.blocked:
		o.blocked = false
		d.awaitSpace()
		return
	}
	count := queueQuietMax
	if d.ordered() {
		count = 1
	}
	for range min(count, o.count()) {
		d.stageQuiet(o.pop(), true)
	}
	if o.count() > 0 {
		d.w.datagrams.urgent = true
	}
}

func fireResend(t *wheel.Timer, _ int64) { (*Datagram)(unsafe.Pointer(t)).markDirty() }

// awaitSpace has the queue looked at again when there may be room. A send that waits in the kernel would
// not do: one that io_uring tries again may have given away its payload at the first try, and is then
// sent without it.
func (d *Datagram) awaitSpace() {
	const pollOut = 4
	w := d.w
	if d.out.vain || (d.ordered() && !d.connected) || w.driver.Report.Caps&core.CapPollMultishot == 0 {
		d.out.vain = false
		w.timers.add(&d.retry, w.timers.after(resendAfter))
		return
	}
	sqe := w.stage(core.OpPoll, opSend, d.slot)
	sqe.FD = d.fd
	sqe.OpFlags = pollOut
	d.out.polling = true
	d.inFlight++
}

// onSpace takes the completion of that poll.
func (d *Datagram) onSpace() {
	d.out.polling = false
	d.out.vain = true
	d.inFlight--
	d.markDirty()
	d.settle()
}

// confirmPackets ends the quiet datagrams of an enter that consumed all. Last to first: what has to
// wait goes to the front of its queue.
func (w *worker) confirmPackets() {
	if w.partial {
		return
	}
	w.datagrams.urgent = false
	if len(w.packetSends) == 0 {
		return
	}
	sends := w.packetSends
	w.packetSends = w.datagrams.spare // callbacks below send again
	for i := len(sends) - 1; i >= 0; i-- {
		s := &sends[i]
		s.d.out.quiet--
		s.d.sent(s.b, s.owned, s.res)
		if s.d.out.quiet == 0 {
			s.d.drained()
		}
	}
	clear(sends)
	w.datagrams.spare = sends[:0]
}

// sent ends one send: the datagram is gone, or waits again, or failed.
func (d *Datagram) sent(b *packetBlock, owned bool, res int32) {
	switch {
	case res >= 0:
		d.out.vain = false
		d.w.stats.packetsOut++
	case d.abandoned:
	case undone(res) || res == -core.ErrnoNOMEM:
		d.w.stats.quietShort++
		d.out.blocked = d.out.blocked || res == -core.ErrnoAGAIN || res == -core.ErrnoNOMEM
		d.requeue(b, owned)
		return
	case b.segment > 0 && (res == -core.ErrnoIO || res == -core.ErrnoINVAL):
		// No offload on the way out, or none for this socket: for good, so it is not asked again.
		d.out.noGSO = true
		d.w.stats.segmentRefusals++
		d.requeueCut(b)
	default:
		d.w.stats.packetErrors++
		if d.out.err == nil {
			d.out.err = d.sysError("write", core.NameSend, res)
		}
	}
	if owned {
		d.end(b)
	}
}

// requeue puts a block in front of the queue.
func (d *Datagram) requeue(b *packetBlock, owned bool) {
	if !owned {
		own := d.w.takeBlock(b.size)
		if own == nil {
			return // as a network does
		}
		b.copyTo(own)
		b = own
		d.out.bytes += int(b.size)
	}
	d.out.pushFront(b)
	d.markDirty()
}

// requeueCut puts a refused block's segments in front of the queue, each as a datagram of its own.
func (d *Datagram) requeueCut(b *packetBlock) {
	payload, size := b.payload(), int(b.segment)
	for at := (len(payload) - 1) / size * size; at >= 0; at -= size {
		part := payload[at:min(at+size, len(payload))]
		own := d.w.takeBlock(blockSize(true, len(part)))
		if own == nil {
			return
		}
		b.part(own, part)
		d.out.bytes += int(own.size)
		d.out.pushFront(own)
	}
	d.markDirty()
}

// drained goes on after something went out.
func (d *Datagram) drained() {
	o := &d.out
	if o.count() > 0 {
		d.markDirty()
	}
	d.wakeWriters()
	if o.full && o.bytes <= d.w.rt.config.WriteHigh/2 {
		o.full = false
		d.tellWritable()
	}
	d.settle()
}

// dropQueue drops what is queued; what the kernel reads comes back by its completion.
func (d *Datagram) dropQueue() {
	for d.out.count() > 0 {
		d.end(d.out.pop())
	}
}
