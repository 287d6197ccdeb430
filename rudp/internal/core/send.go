package core

// This file changes if how datagrams are put together, or when, does.

import (
	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// Batch is what one Send filled: N bytes of datagrams, each of Segment bytes but the last, which may be
// shorter. All go along Path with the mark ECN.
type Batch struct {
	Conn       *Conn // nil for what belongs to none
	Path       Path
	N, Segment int
	ECN        ECN
}

// SendMax is the most that one Batch holds, in bytes; buffers of this size are used best.
const SendMax = 64 << 10

const (
	pnLenMin = 2
	// handshakeFree is how many packets of the handshake may be in flight whatever the window says.
	handshakeFree = 16
	// segmentsMax is the kernel's UDP_MAX_SEGMENTS of old.
	segmentsMax = 64
	// ackElicitEvery is after how many packets that only acknowledge a PING asks for an acknowledgment, so
	// that ranges can be forgotten. Not while one is awaited anyway: that serves as well, and a PING would
	// put off the probe timeout of what is in flight by a round trip (RFC 9002, section 6.2.1).
	ackElicitEvery = 32
)

// openPacket is the packet that is being written: the last of its datagram.
type openPacket struct {
	active       bool
	space        recovery.SpaceID
	start        int // offsets into the datagram
	pnOffset     int
	pnLen        int
	pn           uint64
	meta         recovery.Packet
	offPath      bool // not on the path in use: doesn't count for its congestion
	endsWithData bool // its last frame has no length: no padding may follow
}

func (c *Conn) batch(p *pathState, n, segment int) Batch {
	b := Batch{Conn: c, Path: p.addr, N: n, Segment: segment}
	if c.cfg.ECN && !c.rec.ECNFailed() {
		b.ECN = ECT0
	}
	return b
}

// fill fills buf with as many datagrams as may go now along one path.
func (c *Conn) fill(now mono.Time, buf []byte) Batch {
	c.at(now)
	c.paceAt = mono.Never
	switch {
	case c.state == closing:
		return c.sendClose(now, buf)
	case c.state > closing:
		return Batch{}
	}
	c.checkLimits()
	if b, ok := c.sendProbe(now, buf); ok {
		return b
	}
	if b, ok := c.sendMTUProbe(now, buf); ok {
		return b
	}
	c.pacer.fill(now, c.rec.CC.Rate(), c.path.mtu.size)
	n, segment := 0, 0
	for len(buf)-n >= c.path.mtu.size && n < segmentsMax*c.path.mtu.size {
		size := c.path.mtu.size
		if n > 0 {
			size = segment
		}
		made := c.datagram(now, buf[n:n], size)
		if made == 0 {
			break
		}
		n += made
		if segment == 0 {
			segment = made
		}
		if made < segment || made < c.path.mtu.size {
			break
		}
	}
	if n == 0 {
		return Batch{}
	}
	return c.batch(c.path, n, segment)
}

// allowed says whether packets that count may go now; it notes what holds them back.
func (c *Conn) allowed(now mono.Time, size int) bool {
	if c.rec.Inflight+uint64(size) > c.rec.CC.Window() || c.rec.Full(recovery.AppSpace) {
		return false
	}
	if c.pacer.budget < float64(size) {
		c.paceAt = max(c.pacer.next(c.rec.CC.Rate(), c.path.mtu.size), now+1)
		return false
	}
	return true
}

// wants says whether the space has frames that ask for an acknowledgment.
func (c *Conn) wants(s recovery.SpaceID) bool {
	sp := &c.spaces[s]
	if sp.out.wants(1 << 62) {
		return true
	}
	if s != recovery.AppSpace {
		return false
	}
	pending := c.pending
	if !c.canSendStream() {
		pending &^= recovery.ResetStream | recovery.StopSending
	}
	return pending != 0 || c.pingNow || len(c.announce) > 0 || len(c.retire) > 0 || c.wantsStream()
}

// appReady says whether packets of the application's space may go.
func (c *Conn) appReady() bool {
	return c.spaces[recovery.AppSpace].write != nil && (c.client || c.handshakeDone)
}

// datagram builds one datagram of at most size bytes along the path in use and returns its length.
func (c *Conn) datagram(now mono.Time, b []byte, size int) int {
	if c.limited() {
		return 0
	}
	size = int(min(uint64(size), c.path.allowance()))
	pad := 0
	for s := recovery.InitialSpace; s < recovery.Spaces; s++ {
		sp := &c.spaces[s]
		if sp.write == nil || s == recovery.AppSpace && !c.appReady() {
			continue
		}
		if s == recovery.AppSpace {
			c.noteBlocked()
		}
		probe := c.probes[s] > 0
		if probe {
			c.refill(s)
		}
		// TLS messages don't wait for the window: it may be full of data that nobody can read before
		// they are through.
		free := probe || s != recovery.AppSpace && c.rec.Outstanding(s) < handshakeFree
		counted := probe || c.wants(s) && (free || c.allowed(now, size))
		if !counted && !sp.acks.due(now) || size-len(b) < probeMin {
			continue
		}
		before := len(b)
		b = c.packet(now, b, s, size, counted, probe)
		if len(b) > before && s == recovery.InitialSpace && (c.client || c.open.meta.Eliciting) {
			pad = datagramMin
		}
	}
	if len(b) == 0 {
		return 0
	}
	return len(c.finish(now, b, c.path, min(pad, size)))
}

// packet appends one packet with an ACK, if one is owed, and with everything else if counted.
func (c *Conn) packet(now mono.Time, b []byte, s recovery.SpaceID, size int, counted, probe bool) []byte {
	sp := &c.spaces[s]
	length := len(b)
	b, before := c.begin(b, s, c.path)
	room := size - protect.Overhead
	meta := &c.open.meta
	start := len(b)
	if largest := sp.acks.largest; sp.acks.eliciting > 0 {
		exponent := uint(3)
		if s == recovery.AppSpace {
			exponent = ackDelayExponent
		}
		n := len(b)
		b = sp.acks.append(b, now, exponent, room-len(b)-8)
		if len(b) > n {
			meta.AckedUpTo = largest
		}
	}
	acked := len(b)
	if counted {
		b = c.appendFrames(b, s, room)
	} else if c.ackOnly++; c.ackOnly >= ackElicitEvery && s == recovery.AppSpace && c.rec.Outstanding(s) == 0 {
		c.ackOnly = 0
		b = append(b, wire.FramePing)
	}
	if probe {
		c.probes[s]--
		// The PING goes even with other frames: those of a path's probe alone don't make a peer follow.
		if !c.open.endsWithData && len(b) < room {
			b = append(b, wire.FramePing)
		}
	}
	if len(b) == start {
		c.open = before
		return b[:length]
	}
	meta.Eliciting = len(b) > acked
	for len(b) < c.open.pnOffset+4 {
		b = append(b, wire.FramePadding) // header protection looks at bytes from there on
	}
	c.commit(b, &before)
	return b
}

func (c *Conn) appendFrames(b []byte, s recovery.SpaceID, room int) []byte {
	meta := &c.open.meta
	b = c.appendCrypto(b, s, room)
	if s != recovery.AppSpace {
		return b
	}
	if c.pending != 0 {
		b = c.appendStreamControl(b, room, meta)
	}
	b = c.appendCIDFrames(b, room, meta)
	if c.wantsStream() {
		b, c.open.endsWithData = c.appendStreamData(b, room, meta)
	}
	if c.pingNow {
		c.pingNow = false
		if meta.Count == 0 && meta.Control == 0 && room > len(b) {
			b = append(b, wire.FramePing)
		}
	}
	return b
}

func (c *Conn) appendCrypto(b []byte, s recovery.SpaceID, room int) []byte {
	out, meta := &c.spaces[s].out, &c.open.meta
	for meta.Count < recovery.MaxPieces && out.wants(1<<62) {
		space := room - len(b) - (1 + 8 + 2)
		if space < 1 {
			break
		}
		r, _, ok := out.pick(space, 1<<62)
		if !ok {
			break
		}
		size := int(r.Len())
		b = wire.AppendCrypto(b, r.Start, size)
		n := len(b)
		b = b[:n+size]
		ringCopyOut(b[n:], out.ring, r.Start)
		out.sent(r, false)
		meta.Pieces[meta.Count] = recovery.Piece{Offset: r.Start, Size: uint32(size), Crypto: true}
		meta.Count++
	}
	return b
}

// begin starts a packet. The one before in the datagram, if any, is returned open: commit seals it into the
// gap that is left, once the new one has come to something.
func (c *Conn) begin(b []byte, s recovery.SpaceID, p *pathState) (out []byte, before openPacket) {
	before = c.open
	if len(b) > 0 {
		b = b[:len(b)+protect.Overhead]
	} else {
		before = openPacket{}
	}
	if s == recovery.AppSpace && c.rec.NextPN(s) >= c.skipAt && c.confirmed {
		c.rec.Skip(s)
		c.skipAt = c.rec.NextPN(s) + 256 + c.ep.seed()%4096
	}
	o := &c.open
	*o = openPacket{active: true, space: s, start: len(b), pn: c.rec.NextPN(s)}
	o.meta.AckedUpTo = -1
	o.pnLen = max(pnLenMin, wire.PNLen(o.pn, c.rec.LargestAcked(s)))
	if s == recovery.AppSpace {
		b = wire.AppendShort(b, p.cid.id, c.writePhase, o.pnLen)
	} else {
		t := wire.Initial
		if s == recovery.HandshakeSpace {
			t = wire.Handshake
		}
		b = wire.AppendLong(b, t, p.cid.id, c.local[0].id, c.token, o.pnLen)
	}
	o.pnOffset = len(b)
	return wire.AppendPN(b, o.pn, o.pnLen), before
}

// commit seals the packet before the open one.
func (c *Conn) commit(b []byte, before *openPacket) {
	if !before.active {
		return
	}
	last := c.open
	c.open = *before
	c.seal(b[:last.start-protect.Overhead])
	c.open = last
}

// seal protects the open packet and records it as sent.
func (c *Conn) seal(b []byte) []byte {
	o := &c.open
	if o.space != recovery.AppSpace {
		wire.PutLength(b, o.pnOffset, len(b)-o.pnOffset+protect.Overhead)
	}
	sp := &c.spaces[o.space]
	packet := sp.write.Seal(b[o.start:], o.pnOffset-o.start, o.pnLen, o.pn)
	b = b[:o.start+len(packet)]
	o.active = false
	if o.space == recovery.AppSpace {
		c.sealed++
	}
	o.meta.Size = uint16(len(packet))
	o.meta.ECT = c.cfg.ECN && !c.rec.ECNFailed()
	o.meta.InFlight = (o.meta.Eliciting || o.meta.InFlight) && !o.offPath
	if o.meta.InFlight {
		c.pacer.budget -= float64(len(packet))
	}
	c.rec.OnSent(c.now, o.space, &o.meta)
	c.stats.PacketsSent++
	c.trace(Event{Kind: TracePacketSent, Space: o.space, PN: o.pn, Size: len(packet)})
	if o.meta.Eliciting && !c.elicitedSince {
		c.elicitedSince = true
		c.resetIdle()
	}
	return b
}

// finish completes the datagram, padded to at least pad bytes.
func (c *Conn) finish(now mono.Time, b []byte, p *pathState, pad int) []byte {
	if c.open.active {
		if short := pad - protect.Overhead - len(b); short > 0 && !c.open.endsWithData {
			n := len(b)
			b = b[:n+short]
			clear(b[n:])
			c.open.meta.InFlight = true
		}
		b = c.seal(b)
	}
	p.sent += uint64(len(b))
	c.stats.BytesSent += uint64(len(b))
	if c.client && c.rec.NextPN(recovery.HandshakeSpace) > 0 {
		c.discard(recovery.InitialSpace)
	}
	return b
}

// sendMTUProbe tries a larger datagram.
func (c *Conn) sendMTUProbe(now mono.Time, buf []byte) (Batch, bool) {
	m := &c.path.mtu
	size := m.next()
	if size == 0 || !c.confirmed || !c.path.validated || len(buf) < size || c.rec.PTOCount > 0 ||
		c.rec.Inflight+uint64(size) > c.rec.CC.Window() || !c.rec.RTT.Sampled() {
		return Batch{}, false
	}
	b, _ := c.begin(buf[:0], recovery.AppSpace, c.path)
	b = append(b, wire.FramePing)
	c.open.meta.Eliciting, c.open.meta.MTUProbe = true, true
	m.probing = size
	b = c.finish(now, b, c.path, size)
	return c.batch(c.path, len(b), len(b)), true
}

// noteIdle tells the sampler when there was less to send than the path could have taken. A handshake
// waits for the peer, never for the path.
func (c *Conn) noteIdle() {
	idle := c.state == handshaking || c.state == established && !c.wants(recovery.AppSpace)
	if idle && c.rec.Inflight < c.rec.CC.Window() {
		c.rec.SetAppLimited()
	}
}
