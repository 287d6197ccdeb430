package core

// This file changes if a connection's state, life or timers do.

import (
	"crypto/tls"
	"time"

	"github.com/veloq/veloq/rudp/internal/congestion"
	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

type connState uint8

const (
	handshaking connState = iota
	established           // TLS is done
	closing               // we sent CONNECTION_CLOSE
	draining              // the peer did
	gone
)

// Events are what a connection has to tell, as bits.
type Events uint8

const (
	EventConnected Events = 1 << iota // the handshake is done
	EventReadable                     // bytes, the end of the stream or an error wait for Read
	EventWritable                     // Write, which took less than it was given, takes bytes again or fails
	EventMigrated                     // Migrate came to its end
	EventClosed                       // the connection is over
	EventStalled                      // what Refer gave may wait for long: the peer reads nothing, or is silent
)

// pnSpace is what a connection has for each packet number space.
type pnSpace struct {
	read, write *protect.Keys
	acks        ackState
	out         sendBuffer // TLS messages
	in          recvBuffer
	discarded   bool
}

// Conn is one connection. Its methods belong to the endpoint's driver.
type Conn struct {
	// User is the driver's, untouched by the core.
	User any

	ep     *Endpoint
	cfg    *Config
	number uint64
	client bool
	state  connState
	now    mono.Time
	tls    *tls.QUICConn

	spaces        [recovery.Spaces]pnSpace
	rec           *recovery.Recovery
	pacer         pacer
	paceAt        mono.Time
	handshakeDone bool // TLS is done
	confirmed     bool // RFC 9001, section 4.1.2
	peerParams    bool
	peer          wire.Params

	// Connection IDs.
	born                  wire.CID // the ID that the first Initial came under; a server's
	odcid, firstSCID      wire.CID // the client's first destination; the peer's first source
	retrySCID             wire.CID
	token                 []byte
	retried, gotPacket    bool
	local                 []localCID
	nextLocal             uint64
	announce              []uint64
	remote                []remoteCID
	seenRemote            uint64
	retirePrior           uint64
	retire                []uint64
	retiredSeqs           rangeSet
	arrived               wire.CID // of the packet being read
	path, probe, fallback *pathState
	responses             []response
	migrateErr            error
	pingNow               bool
	largestNonProbe       int64
	probes                [recovery.Spaces]int // eliciting packets that a probe timeout asks for

	// Key phases.
	nextRead, prevRead *protect.Keys
	prevReadUntil      mono.Time
	readPhase          bool
	writePhase         bool
	phaseStart         uint64 // the first packet number read in this phase
	phaseSent          uint64 // the first sent in it
	generation         uint64
	sealed, forged     uint64

	// The stream.
	stream

	// Timers.
	handshakeAt, idleAt, keepAliveAt, closeAt, nudgeAt mono.Time
	closeAgainAt                                       mono.Time
	nudges                                             int
	idle                                               time.Duration
	elicitedSince                                      bool // an eliciting packet went since the last one came
	skipAt                                             uint64
	ackOnly                                            int // packets sent since the last one with a PING

	// The end.
	err         *CloseError
	closeFrame  wire.Frame
	closeDue    bool
	closeSeen   int
	closeAnswer int

	events  Events
	pending recovery.Control
	open    openPacket
	frame   wire.Frame
	event   Event
	stats   Stats

	queued, reported bool // in the endpoint's lists
	heapIndex        int
	deadline         mono.Time
	halfOpen         bool
}

// Stats are a connection's counters.
type Stats struct {
	RTT, MinRTT, RTTVar                  time.Duration
	Window, InFlight                     uint64 // bytes
	Rate                                 uint64 // bytes/s
	MTU                                  int    // bytes
	PacketsSent, PacketsReceived         uint64
	BytesSent, BytesReceived             uint64 // of datagrams, without IP and UDP headers
	PacketsLost, PacketsSpurious, Probes uint64
	Dropped                              uint64 // packets that were not authentic, or made no sense
	StreamSent, StreamReceived           uint64 // bytes acknowledged; bytes in order
	KeyUpdates                           uint64
}

func (e *Endpoint) newConn(now mono.Time, client bool, addr Path, tlsConf *tls.Config) *Conn {
	c := &Conn{
		ep: e, cfg: e.cfg, client: client, now: now, number: e.nextNumber,
		peer: wire.DefaultParams(), largestNonProbe: -1, heapIndex: -1, deadline: mono.Never,
		handshakeAt: now.Add(e.cfg.HandshakeTimeout), keepAliveAt: mono.Never,
		closeAt: mono.Never, closeAgainAt: mono.Never,
		nudgeAt: mono.Never, paceAt: mono.Never, prevReadUntil: mono.Never, idle: max(e.cfg.IdleTimeout, 0),
	}
	e.nextNumber++
	c.rec = recovery.New(c, congestion.New(e.cfg.Congestion, datagramMin, e.seed()), client)
	c.rec.PeerValidated = !client
	for i := range c.spaces {
		s := &c.spaces[i]
		s.acks.largest, s.acks.at = -1, mono.Never
		s.out.limit, s.out.span = 1<<30, 1<<30 // TLS bounds what it writes
	}
	c.stream.init(e.cfg)
	c.path = c.newPath(addr)
	c.pacer = pacer{budget: 10 * datagramMin, last: now}
	c.skipAt = 64 + e.seed()%1024
	quic := &tls.QUICConfig{TLSConfig: tlsConf}
	if client {
		c.tls = tls.QUICClient(quic)
	} else {
		c.tls = tls.QUICServer(quic)
	}
	c.resetIdle()
	return c
}

// at moves the connection's clock.
func (c *Conn) at(now mono.Time) { c.now = max(c.now, now) }

// touch makes the endpoint ask the connection for datagrams.
func (c *Conn) touch() { c.ep.enqueue(c) }

func (c *Conn) event1(e Events) {
	c.events |= e
	c.ep.report(c)
}

// Events returns what happened since the last call.
func (c *Conn) Events() Events {
	e := c.events
	c.events = 0
	return e
}

// Err returns why the connection is over, nil while it isn't.
func (c *Conn) Err() error {
	if c.err == nil {
		return nil
	}
	return c.err
}

// MigrateErr returns how the last Migrate ended.
func (c *Conn) MigrateErr() error { return c.migrateErr }

// Connected says whether the handshake is done.
func (c *Conn) Connected() bool { return c.handshakeDone }

// Client says which side this is.
func (c *Conn) Client() bool { return c.client }

// Path returns the path in use.
func (c *Conn) Path() Path { return c.path.addr }

// TLS returns the state of the TLS connection.
func (c *Conn) TLS() tls.ConnectionState { return c.tls.ConnectionState() }

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	s := c.stats
	s.RTT, s.MinRTT, s.RTTVar = c.rec.RTT.Smoothed, c.rec.RTT.Min, c.rec.RTT.Var
	s.Window, s.InFlight, s.Rate = c.rec.CC.Window(), c.rec.Inflight, c.rec.CC.Rate()
	s.MTU = c.path.mtu.size
	s.PacketsLost, s.PacketsSpurious, s.Probes = c.rec.LostPackets, c.rec.SpuriousPackets, c.rec.ProbeTimeouts
	s.StreamSent, s.StreamReceived = c.send.base, c.recv.ready
	return s
}

func (c *Conn) resetIdle() {
	c.idleAt = mono.Never
	if c.idle > 0 {
		c.idleAt = c.now.Add(max(c.idle, 3*c.rec.PTO()))
	}
	if c.cfg.KeepAlive > 0 && c.state == established {
		pause := c.cfg.KeepAlive
		if c.idle > 0 {
			pause = min(pause, c.idle/2)
		}
		c.keepAliveAt = c.now.Add(pause)
	}
}

// Deadline returns when Tick must be called; Never if nothing is awaited.
func (c *Conn) Deadline() mono.Time {
	if c.state >= closing {
		return min(c.closeAt, c.closeAgainAt)
	}
	at := min(c.idleAt, c.keepAliveAt, c.nudgeAt, c.pathDeadline(), c.path.mtu.raiseAt, c.prevReadUntil)
	if !c.handshakeDone {
		at = min(at, c.handshakeAt)
	}
	c.rec.AtLimit = c.limited()
	at = min(at, c.rec.Timer())
	if c.rec.AtLimit {
		return at // nothing can go, whatever is due
	}
	at = min(at, c.paceAt)
	for i := range c.spaces {
		if c.spaces[i].write != nil {
			at = min(at, c.spaces[i].acks.at)
		}
	}
	return at
}

// Tick does what is due.
func (c *Conn) Tick(now mono.Time) {
	c.at(now)
	if c.state >= closing {
		if now >= c.closeAt {
			c.vanish()
		} else if now >= c.closeAgainAt {
			// Nobody acknowledges CONNECTION_CLOSE: a second one makes up for the first's loss.
			c.closeAgainAt, c.closeDue = mono.Never, true
			c.touch()
		}
		return
	}
	switch {
	case !c.handshakeDone && now >= c.handshakeAt:
		c.end(&CloseError{Kind: KindHandshakeTimeout})
		c.vanish()
		return
	case now >= c.idleAt:
		c.end(&CloseError{Kind: KindIdleTimeout})
		c.vanish()
		return
	}
	if now >= c.keepAliveAt {
		c.keepAliveAt = mono.Never
		c.pingNow = true
	}
	if now >= c.nudgeAt {
		c.nudge()
	}
	if now >= c.prevReadUntil {
		c.prevRead, c.prevReadUntil = nil, mono.Never
	}
	if now >= c.path.mtu.raiseAt {
		c.path.mtu.raise()
	}
	c.pathTimers(now)
	c.rec.AtLimit = c.limited()
	if now >= c.rec.Timer() {
		if probe, s := c.rec.OnTimer(now); probe {
			c.onProbeTimeout(s)
		}
	}
	c.touch()
}

// onProbeTimeout prepares two packets that ask for an acknowledgment: RFC 9002, section 6.2.4.
func (c *Conn) onProbeTimeout(s recovery.SpaceID) {
	c.probes[s] = 2
	if s == recovery.HandshakeSpace && c.client && c.appReady() {
		// A server that has confirmed the handshake can't read Handshake packets any more; this it can.
		c.probes[recovery.AppSpace] = 1
	}
	if c.rec.PTOCount >= silent {
		c.stalledNow()
	}
	if c.rec.PTOCount >= blackHole && c.confirmed && c.path.mtu.shrink(c.now) {
		c.rec.CC.SetDatagram(c.path.mtu.size)
		c.trace(Event{Kind: TraceMTU, A: uint64(c.path.mtu.size)})
	}
}

// refill gives a probe something to carry where nothing waits to be sent: what the oldest packets carried,
// without calling them lost. The second probe carries it again if the first had room for all: a single
// loss then costs no further timeout, which backs off.
func (c *Conn) refill(s recovery.SpaceID) {
	if s == recovery.AppSpace && c.wantsStream() || c.spaces[s].out.wants(1<<62) {
		return
	}
	n := 0
	c.rec.Oldest(s, func(p *recovery.Packet) bool {
		if !p.Eliciting || p.MTUProbe {
			return true
		}
		c.resend(s, p)
		n++
		return n < 2 || s != recovery.AppSpace
	})
}

// nudgesMax bounds how long a silence of the peer's user is taken for trouble on the path.
const nudgesMax = 6

// nudge asks a peer that fell silent in the middle of sending whether it can still reach us: behind a NAT
// whose binding changed only a packet from here opens the way.
func (c *Conn) nudge() {
	c.nudgeAt = mono.Never
	if c.nudges++; c.nudges <= nudgesMax {
		c.pingNow = true
		c.nudgeAt = c.now.Add(2 * c.rec.PTO() << c.nudges)
	}
}

// PacketAcked implements recovery.Owner.
func (c *Conn) PacketAcked(s recovery.SpaceID, p *recovery.Packet) {
	sp := &c.spaces[s]
	for i := range p.Count {
		piece := &p.Pieces[i]
		r := wire.Range{Start: piece.Offset, End: piece.Offset + uint64(piece.Size)}
		if piece.Crypto {
			sp.out.onAcked(r, false)
		} else {
			c.onStreamAcked(r, piece.Fin)
		}
	}
	if p.AckedUpTo >= 0 {
		sp.acks.forget(p.AckedUpTo)
	}
	if p.Control&recovery.ResetStream != 0 {
		c.resetAcked = true
	}
	if p.Control&recovery.StopSending != 0 {
		c.stopAcked = true
	}
	if p.MTUProbe && p.Path == c.rec.Path && c.path.mtu.onAcked(int(p.Size)) {
		c.rec.CC.SetDatagram(c.path.mtu.size)
		c.trace(Event{Kind: TraceMTU, A: uint64(c.path.mtu.size)})
	}
}

// PacketLost implements recovery.Owner.
func (c *Conn) PacketLost(s recovery.SpaceID, p *recovery.Packet) {
	c.trace(Event{Kind: TracePacketLost, Space: s, PN: p.PN, Size: int(p.Size)})
	if p.MTUProbe && p.Path == c.rec.Path {
		c.path.mtu.onLost(c.now, int(p.Size))
	}
	c.resend(s, p)
}

// resend makes what the packet carried wait to be sent again.
func (c *Conn) resend(s recovery.SpaceID, p *recovery.Packet) {
	for i := range p.Count {
		piece := &p.Pieces[i]
		r := wire.Range{Start: piece.Offset, End: piece.Offset + uint64(piece.Size)}
		if piece.Crypto {
			c.spaces[s].out.onLost(r, false)
		} else if !c.resetSent {
			c.send.onLost(r, piece.Fin)
			if piece.Size == 0 && !piece.Fin {
				c.openSent = false // it opened the stream, which the server needs to know
			}
		}
	}
	again := p.Control &^ (recovery.NewConnectionID | recovery.RetireConnectionID)
	c.pending |= again
	if p.Control&recovery.NewConnectionID != 0 && !containsSeq(c.announce, p.NewCID) {
		c.announce = append(c.announce, p.NewCID)
	}
	if p.Control&recovery.RetireConnectionID != 0 && !containsSeq(c.retire, p.RetireCID) {
		c.retire = append(c.retire, p.RetireCID)
	}
}

func containsSeq(list []uint64, seq uint64) bool {
	for _, s := range list {
		if s == seq {
			return true
		}
	}
	return false
}

// discard drops a packet number space and its keys: RFC 9001, section 4.9.
func (c *Conn) discard(s recovery.SpaceID) {
	sp := &c.spaces[s]
	if sp.discarded {
		return
	}
	*sp = pnSpace{discarded: true}
	sp.acks.at = mono.Never
	sp.acks.largest = -1
	c.probes[s] = 0
	c.rec.Discard(s)
}
