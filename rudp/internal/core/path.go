package core

// This file changes if paths are validated, or connections migrate, otherwise (RFC 9000, sections 8, 9).

import (
	"errors"
	"net/netip"
	"time"

	"github.com/veloq/veloq/rudp/internal/congestion"
	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// Path is a pair of addresses. The driver chooses Local, by which it finds the socket to send on.
type Path struct{ Local, Remote netip.AddrPort }

// ECN is the mark in a datagram's IP header, as the header has it.
type ECN uint8

// The four marks of RFC 3168.
const (
	NotECT ECN = iota
	ECT1
	ECT0
	CE
)

// pathState is what is known of one path.
type pathState struct {
	addr      Path
	cid       remoteCID
	validated bool
	// received and sent are bytes; until the path is validated three times what came may go.
	received, sent uint64

	challenge   [8]byte
	challengeAt mono.Time // when to send one (again); Never
	challenges  int
	failAt      mono.Time

	mtu mtuState
}

// amplification is three: RFC 9000, section 8.
const amplification = 3

const (
	challengesMax = 6
	// probeMin is room for a packet with a challenge, or an ACK.
	probeMin = 64
)

// limited says that anti-amplification forbids to send on the path in use.
func (c *Conn) limited() bool {
	if c.confirmed {
		return c.path.allowance() < probeMin
	}
	return c.path.allowance() < datagramMin
}

// allowance is how many bytes anti-amplification lets go.
func (p *pathState) allowance() uint64 {
	if p.validated {
		return 1 << 62
	}
	return amplification*p.received - min(amplification*p.received, p.sent)
}

type response struct {
	addr Path
	data [8]byte
}

const responsesMax = 4

func (c *Conn) newPath(addr Path) *pathState {
	p := &pathState{addr: addr, challengeAt: mono.Never, failAt: mono.Never}
	p.mtu.init(c)
	if c.client {
		p.received = 1 << 60 // only what others may have us send is limited
	}
	return p
}

// startChallenge begins to validate the path.
func (c *Conn) startChallenge(p *pathState) {
	c.ep.random(p.challenge[:])
	p.challengeAt, p.challenges = c.now, 0
	p.failAt = c.now.Add(3 * max(c.rec.PTO(), recovery.InitialRTT*3/2))
	c.trace(Event{Kind: TracePath, A: 1})
}

// Errors of Migrate.
var (
	ErrNotMigratable = errors.New("rudp: connection cannot migrate")
	ErrPathFailed    = errors.New("rudp: no answer on the new path")
)

// Migrate begins to move the connection to another local address: only clients may (RFC 9000, section 9).
// The path is probed first; data goes on along the old one. EventMigrated tells the end, MigrateErr how it
// was. A second call gives up the first.
func (c *Conn) Migrate(now mono.Time, local netip.AddrPort) error {
	c.at(now)
	if !c.client || c.state != established || !c.confirmed || c.peer.DisableMigration {
		return ErrNotMigratable
	}
	c.touch() // the first call's ID is retired even if this one fails
	if c.probe != nil {
		c.retirePathCID(c.probe)
		c.probe = nil
	}
	p := c.newPath(Path{Local: local, Remote: c.path.addr.Remote})
	if c.path.cid.id.Len() > 0 && !c.assignCID(p) {
		return ErrNotMigratable
	}
	if c.path.cid.id.Len() == 0 {
		p.cid = c.path.cid
	}
	c.probe, c.migrateErr = p, nil
	c.startChallenge(p)
	return nil
}

// samePlace says that only the port differs: most likely the same path behind another NAT binding.
func samePlace(a, b Path) bool {
	return a.Local.Addr() == b.Local.Addr() && a.Remote.Addr() == b.Remote.Addr()
}

// use makes p the path that everything goes along.
func (c *Conn) use(p *pathState) {
	same := samePlace(p.addr, c.path.addr)
	c.path = p
	if same {
		p.mtu.size = max(p.mtu.size, datagramMin)
	} else {
		c.rec.NewPath(congestion.New(c.cfg.Congestion, p.mtu.size, c.ep.seed()), false)
		c.pacer = pacer{budget: float64(4 * p.mtu.size), last: c.now}
	}
	c.rec.CC.SetDatagram(p.mtu.size)
	c.trace(Event{Kind: TracePath, A: 4})
}

// onPeerMoved follows the peer to the address of its newest packet that was not a mere probe.
func (c *Conn) onPeerMoved(addr Path) {
	old := c.path
	if c.fallback != nil && c.fallback.addr == addr {
		// Back where it was.
		p := c.fallback
		c.fallback = nil
		c.retirePathCID(old)
		c.use(p)
		return
	}
	p := c.probe
	if p != nil && p.addr == addr {
		c.probe = nil
	} else {
		p = c.newPath(addr)
		if !c.assignCID(p) {
			p.cid = old.cid
		}
	}
	if samePlace(addr, old.addr) {
		p.mtu = old.mtu
	}
	if old.validated {
		if c.fallback != nil && c.fallback.cid.seq != old.cid.seq {
			c.retirePathCID(c.fallback)
		}
		c.fallback = old
		// Whoever merely forwards copies of packets can't keep the true peer from answering this.
		c.startChallenge(old)
	} else if old.cid.seq != p.cid.seq {
		c.retirePathCID(old)
	}
	c.use(p)
	if !p.validated {
		c.startChallenge(p)
	}
}

func (c *Conn) onPathResponse(f *wire.Frame) {
	for _, p := range [...]*pathState{c.path, c.probe, c.fallback} {
		if p == nil || p.failAt == mono.Never || p.challenges == 0 || p.challenge != f.Path {
			continue
		}
		p.validated = true
		p.challengeAt, p.failAt = mono.Never, mono.Never
		c.trace(Event{Kind: TracePath, A: 2})
		switch p {
		case c.probe:
			if !c.client {
				return // the client moves when it sends more than probes from there
			}
			old := c.path
			c.probe = nil
			c.use(p)
			c.retirePathCID(old)
			c.pingNow = true // a packet that isn't a probe makes the peer follow
			c.event1(EventMigrated)
		case c.path:
			if c.fallback != nil {
				if c.fallback.cid.seq != p.cid.seq {
					c.retirePathCID(c.fallback)
				}
				c.fallback = nil
			}
		}
		return
	}
}

// pathTimers gives up paths that don't answer.
func (c *Conn) pathTimers(now mono.Time) {
	if p := c.probe; p != nil && now >= p.failAt {
		c.trace(Event{Kind: TracePath, A: 3})
		c.retirePathCID(p)
		c.probe, c.migrateErr = nil, ErrPathFailed
		c.event1(EventMigrated)
	}
	if p := c.fallback; p != nil && now >= p.failAt {
		p.challengeAt, p.failAt = mono.Never, mono.Never
	}
	if p := c.path; now >= p.failAt {
		c.trace(Event{Kind: TracePath, A: 3})
		p.challengeAt, p.failAt = mono.Never, mono.Never
		if c.fallback != nil {
			back := c.fallback
			c.fallback = nil
			if back.cid.seq != p.cid.seq {
				c.retirePathCID(p)
			}
			c.use(back)
		}
	}
}

func (c *Conn) pathDeadline() mono.Time {
	at := mono.Never
	for _, p := range [...]*pathState{c.path, c.probe, c.fallback} {
		if p != nil {
			at = min(at, p.failAt)
			if p.allowance() >= probeMin {
				at = min(at, p.challengeAt)
			}
		}
	}
	return at
}

// sendProbe builds a datagram that only validates a path: a challenge, or the answer to one.
func (c *Conn) sendProbe(now mono.Time, buf []byte) (Batch, bool) {
	if c.spaces[recovery.AppSpace].write == nil || !c.handshakeDone {
		return Batch{}, false
	}
	for len(c.responses) > 0 {
		r := c.responses[0]
		c.responses = c.responses[:copy(c.responses, c.responses[1:])]
		p := c.pathAt(r.addr)
		if p == nil || p.allowance() < probeMin || len(buf) < datagramMin {
			continue
		}
		return c.probeDatagram(now, buf, p, wire.FramePathResponse, r.data), true
	}
	for _, p := range [...]*pathState{c.path, c.probe, c.fallback} {
		if p == nil || now < p.challengeAt || p.allowance() < probeMin || len(buf) < datagramMin {
			continue
		}
		p.challenges++
		p.challengeAt = now.Add(c.challengePause() << min(p.challenges-1, 3))
		if p.challenges >= challengesMax || p == c.fallback && p.challenges >= 2 {
			p.challengeAt = mono.Never
		}
		return c.probeDatagram(now, buf, p, wire.FramePathChallenge, p.challenge), true
	}
	return Batch{}, false
}

func (c *Conn) challengePause() time.Duration {
	if !c.rec.RTT.Sampled() {
		return recovery.InitialRTT
	}
	return min(c.rec.PTO(), recovery.InitialRTT)
}

func (c *Conn) pathAt(addr Path) *pathState {
	for _, p := range [...]*pathState{c.path, c.probe, c.fallback} {
		if p != nil && p.addr == addr {
			return p
		}
	}
	return nil
}

func (c *Conn) probeDatagram(now mono.Time, buf []byte, p *pathState, typ uint64, data [8]byte) Batch {
	b, _ := c.begin(buf[:0], recovery.AppSpace, p)
	b = append(append(b, byte(typ)), data[:]...)
	c.open.meta.Eliciting = true
	c.open.offPath = p != c.path
	// Full size, which shows that the path takes it, unless anti-amplification forbids.
	b = c.finish(now, b, p, int(min(datagramMin, p.allowance())))
	return c.batch(p, len(b), len(b))
}
