package recovery

// This file changes if acknowledgment, loss or probe rules (RFC 9002, section 6) do.

import (
	"math"
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// An Owner is told of each packet's fate. The packet is valid during the call.
type Owner interface {
	PacketAcked(s SpaceID, p *Packet)
	// PacketLost says that what the packet carried must be sent again; PacketAcked may still follow.
	PacketLost(s SpaceID, p *Packet)
}

// A Controller decides how much may be in flight and how fast it leaves. Not for concurrent use.
type Controller interface {
	// OnSent is told of each packet in flight; inFlight includes it.
	OnSent(now mono.Time, pn uint64, size int, inFlight uint64)
	// OnAck is told of each acknowledgment or timeout that settled packets. persistent says that nothing
	// got through for so long that the path must be taken for new (RFC 9002, section 7.6).
	OnAck(s *Sample, rtt *RTT, lossSentAt mono.Time, persistent bool)
	// OnSpurious says that the losses of packets sent since sentAt were none.
	OnSpurious(now, sentAt mono.Time)
	// Window is in bytes, Rate in bytes/s.
	Window() uint64
	Rate() uint64
	// SetDatagram tells the size of full datagrams in bytes.
	SetDatagram(size int)
}

const (
	packetThreshold    = 3
	packetThresholdMax = 256
	sentMax            = 16384
	maxPTOShift        = 10
	spreadMin          = 10 * time.Millisecond // what timers and schedulers may add, on paths however short
	never              = -2                    // no packet, nor the one before the first
)

// Recovery tracks what one connection has in flight. Not for concurrent use.
type Recovery struct {
	RTT      RTT
	CC       Controller
	Owner    Owner
	Inflight uint64 // bytes
	PTOCount int

	MaxAckDelay time.Duration // the peer's
	IsClient    bool
	// HandshakeConfirmed and HasHandshakeKeys steer the timers during the handshake; PeerValidated says
	// that the peer has validated our address.
	HandshakeConfirmed, HasHandshakeKeys, PeerValidated bool
	// AtLimit says that anti-amplification forbids to send: no probe timer then.
	AtLimit bool
	Path    uint8 // packets of other paths settle without effect on RTT and CC

	spaces     [Spaces]space
	sampler    sampler
	sample     Sample // reused: it is passed to an interface
	threshold  uint64 // of packets
	timeNum    int    // the time threshold in eighths
	firstRTTAt mono.Time

	LostPackets, SpuriousPackets, ProbeTimeouts uint64
}

// New returns the state of a connection that has sent nothing.
func New(owner Owner, cc Controller, client bool) *Recovery {
	r := &Recovery{
		Owner: owner, CC: cc, IsClient: client, threshold: packetThreshold, timeNum: 9,
		MaxAckDelay: 25 * time.Millisecond, firstRTTAt: mono.Never,
	}
	for i := range r.spaces {
		r.spaces[i].largestAcked, r.spaces[i].lastLost = -1, never
		r.spaces[i].lossAt = mono.Never
	}
	return r
}

// NextPN returns the number of the space's next packet.
func (r *Recovery) NextPN(s SpaceID) uint64 { return r.spaces[s].next }

// LargestAcked returns the largest number acknowledged, -1 if none was.
func (r *Recovery) LargestAcked(s SpaceID) int64 { return r.spaces[s].largestAcked }

// Full says that the list of sent packets has reached its bound.
func (r *Recovery) Full(s SpaceID) bool { return r.spaces[s].next-r.spaces[s].base >= sentMax }

// Outstanding returns the number of eliciting packets in flight.
func (r *Recovery) Outstanding(s SpaceID) int { return r.spaces[s].eliciting }

// Memory returns the bytes that the lists of packets hold.
func (r *Recovery) Memory() (slots int) {
	for i := range r.spaces {
		slots += len(r.spaces[i].slots) + cap(r.spaces[i].forgotten)
	}
	return slots
}

// Skip leaves out a packet number, so that a peer that acknowledges what it never got is found out.
func (r *Recovery) Skip(s SpaceID) {
	p := r.spaces[s].push()
	*p = Packet{PN: r.spaces[s].next - 1, state: skipped}
}

// OnSent records a packet with the number that NextPN gave.
func (r *Recovery) OnSent(now mono.Time, s SpaceID, sent *Packet) {
	sp := &r.spaces[s]
	p := sp.push()
	*p = *sent
	p.PN, p.Sent, p.Path, p.state = sp.next-1, now, r.Path, idle
	if !p.InFlight {
		return
	}
	p.state = flying
	r.sampler.onSent(now, p, r.Inflight)
	r.Inflight += uint64(p.Size)
	if p.Eliciting {
		sp.eliciting++
		sp.lastEliciting = now
	}
	r.CC.OnSent(now, p.PN, int(p.Size), r.Inflight)
}

// SetAppLimited says that the sender has nothing more to send though the window has room.
func (r *Recovery) SetAppLimited() {
	r.sampler.limitedTo = max(r.sampler.delivered+r.Inflight, 1)
}

func (r *Recovery) leaveFlight(sp *space, p *Packet) {
	if p.state != flying {
		return
	}
	if p.Path == r.Path {
		r.Inflight -= uint64(p.Size)
	}
	if p.Eliciting {
		sp.eliciting--
	}
	p.state = settled
}

// OnAck takes an ACK frame. delay is the peer's ack delay. The error is an *wire.Error.
func (r *Recovery) OnAck(now mono.Time, s SpaceID, f *wire.Frame, delay time.Duration) error {
	sp := &r.spaces[s]
	if f.Largest >= sp.next {
		return wire.Breach(wire.ProtocolViolation, f.Type, "acknowledges what was never sent")
	}
	sample := &r.sample
	*sample = Sample{Now: now, Prior: r.Inflight}
	r.sampler.begin()
	spurious := r.ackForgotten(now, s, f)
	var newest Packet
	acked, eliciting := 0, false
	for it := f.AckRanges(); it.Next(); {
		for pn := it.End; pn > max(it.Start, sp.base); {
			pn--
			p := sp.at(pn)
			switch p.state {
			case skipped:
				return wire.Breach(wire.ProtocolViolation, f.Type, "acknowledges a number left out")
			case settled:
				continue
			}
			if acked == 0 {
				newest = *p
			}
			acked++
			eliciting = eliciting || p.Eliciting
			if p.state == flying && p.Path == r.Path {
				sample.Acked += uint64(p.Size)
				r.sampler.onAcked(now, p)
			}
			r.leaveFlight(sp, p)
			p.state = settled
			r.Owner.PacketAcked(s, p)
		}
	}
	if acked == 0 {
		return nil
	}
	if largest := int64(f.Largest); largest > sp.largestAcked {
		sp.largestAcked = largest
		if eliciting && newest.PN == f.Largest && newest.Path == r.Path {
			r.updateRTT(now, s, now.Sub(newest.Sent), delay)
			sample.RTT = r.RTT.Latest
		}
	}
	sample.CE = r.checkECN(sp, f, &newest)
	lossSentAt, persistent := r.detectLost(now, s, sample)
	sp.shed()
	r.sampler.finish(now, r.RTT.Min, sample)
	sample.InFlight = r.Inflight
	if sample.Acked > 0 || sample.Lost > 0 || sample.CE {
		r.CC.OnAck(sample, &r.RTT, lossSentAt, persistent)
	}
	if spurious != mono.Never {
		r.CC.OnSpurious(now, spurious)
	}
	if !r.IsClient || r.PeerValidated || s != InitialSpace {
		r.PTOCount = 0
	}
	return nil
}

func (r *Recovery) updateRTT(now mono.Time, s SpaceID, sample, delay time.Duration) {
	if s == InitialSpace {
		delay = 0
	}
	if r.HandshakeConfirmed {
		delay = min(delay, r.MaxAckDelay)
	}
	if !r.RTT.sampled {
		r.firstRTTAt = now
	}
	r.RTT.Update(max(sample, 1), delay)
}

// ackForgotten looks for acknowledgments of packets that were declared lost: they were only late. The
// thresholds widen by how late. It returns when the oldest of them was sent, or Never.
func (r *Recovery) ackForgotten(now mono.Time, s SpaceID, f *wire.Frame) (oldest mono.Time) {
	sp := &r.spaces[s]
	oldest = mono.Never
	if len(sp.forgotten) == 0 {
		return oldest
	}
	sp.expire(now, 3*r.RTT.PTO(r.MaxAckDelay))
	last := len(sp.forgotten) - 1
	for it := f.AckRanges(); last >= 0 && it.Next(); {
		for last >= 0 && sp.forgotten[last].PN >= it.End {
			last--
		}
		for last >= 0 && sp.forgotten[last].PN >= it.Start {
			p := &sp.forgotten[last]
			last--
			if p.state == settled {
				continue
			}
			p.state = settled
			r.SpuriousPackets++
			if p.Path == r.Path && !p.MTUProbe {
				oldest = min(oldest, p.Sent)
				r.widen(now, sp, p)
			}
			r.Owner.PacketAcked(s, p)
		}
	}
	return oldest
}

// widen makes the thresholds such that the packet would not have been declared lost.
func (r *Recovery) widen(now mono.Time, sp *space, p *Packet) {
	if sp.largestAcked > int64(p.PN) {
		distance := uint64(sp.largestAcked) - p.PN
		r.threshold = min(max(r.threshold, distance+1), packetThresholdMax)
	}
	for r.timeNum < 16 && now.Sub(p.Sent) > r.lossDelay() {
		r.timeNum++
	}
}

func (r *Recovery) lossDelay() time.Duration {
	return max(max(r.RTT.SmoothedOr(), r.RTT.Latest)*time.Duration(r.timeNum)/8, granularity)
}

// detectLost declares packets lost: RFC 9002, section 6.1, and persistent congestion, section 7.6.
// lossSentAt is when the newest of them was sent that tells of congestion, -1 if none does.
func (r *Recovery) detectLost(now mono.Time, s SpaceID, sample *Sample) (lossSentAt mono.Time, persistent bool) {
	sp := &r.spaces[s]
	sp.lossAt = mono.Never
	lossSentAt = -1
	if sp.largestAcked < 0 {
		return lossSentAt, false
	}
	delay := r.lossDelay()
	horizon := 3 * (r.RTT.SmoothedOr() + max(4*r.RTT.Var, granularity) + r.MaxAckDelay)
	runStart := mono.Never
	for pn := sp.base; pn < sp.next && int64(pn) < sp.largestAcked; pn++ {
		p := sp.at(pn)
		if p.state == settled && p.Eliciting {
			runStart = mono.Never
		}
		if p.state != flying {
			continue
		}
		if now.Sub(p.Sent) < delay && sp.largestAcked-int64(pn) < int64(r.threshold) {
			sp.lossAt = p.Sent.Add(delay)
			break
		}
		r.leaveFlight(sp, p)
		r.LostPackets++
		if p.Path == r.Path && !p.MTUProbe {
			sample.Lost += uint64(p.Size)
			if int64(pn) != sp.lastLost+1 {
				sample.LostRuns++
			}
			sp.lastLost = int64(pn)
			r.sampler.lost += uint64(p.Size)
			lossSentAt = p.Sent
			if p.Eliciting && p.Sent > r.firstRTTAt {
				runStart = min(runStart, p.Sent)
				persistent = persistent || p.Sent.Sub(runStart) > horizon
			}
		}
		r.Owner.PacketLost(s, p)
		p.state = idle // for the copy: not yet acknowledged
		sp.forget(p)
		p.state = settled
		p.Eliciting = false // a loss doesn't end a run of losses
	}
	return lossSentAt, persistent
}

// Timer returns when OnTimer must be called: for a loss by time, or a probe. Never if nothing is awaited.
func (r *Recovery) Timer() mono.Time {
	if at, _ := r.lossTime(); at != mono.Never {
		return at
	}
	at, _ := r.ptoTime()
	return at
}

func (r *Recovery) lossTime() (mono.Time, SpaceID) {
	at, which := mono.Never, InitialSpace
	for i := range r.spaces {
		if r.spaces[i].lossAt < at {
			at, which = r.spaces[i].lossAt, SpaceID(i)
		}
	}
	return at, which
}

// ptoTime is GetPtoTimeAndSpace of RFC 9002, appendix A.8. The first probe waits for two round trips and
// the peer's delay at most, as in RFC 8985, section 7.2: a variance that is only a guess yet, or one late
// packet, would have it wait for three and more. It costs two packets if it was wrong.
func (r *Recovery) ptoTime() (mono.Time, SpaceID) {
	shift := min(r.PTOCount, maxPTOShift)
	at, which := mono.Never, InitialSpace
	if r.AtLimit {
		return at, which
	}
	for i := range r.spaces {
		s := SpaceID(i)
		sp := &r.spaces[s]
		if sp.eliciting == 0 {
			continue
		}
		var delay time.Duration
		if s == AppSpace {
			if !r.HandshakeConfirmed {
				continue
			}
			delay = r.MaxAckDelay
		}
		period := r.RTT.PTO(delay)
		if s == AppSpace && shift == 0 && r.RTT.Sampled() {
			period = min(period, r.RTT.Smoothed+max(r.RTT.Smoothed, spreadMin)+delay)
		}
		if t := sp.lastEliciting.Add(period << shift); t < at {
			at, which = t, s
		}
	}
	if at == mono.Never && r.IsClient && !r.PeerValidated {
		// The server may be silenced by its anti-amplification limit: only we can go on.
		which = InitialSpace
		if r.HasHandshakeKeys {
			which = HandshakeSpace
		}
		last := max(r.spaces[InitialSpace].lastEliciting, r.spaces[HandshakeSpace].lastEliciting)
		at = last.Add(r.RTT.PTO(0) << shift)
	}
	return at, which
}

// OnTimer does what is due. probe says that up to two eliciting packets must be sent in space s,
// whatever the window says.
func (r *Recovery) OnTimer(now mono.Time) (probe bool, s SpaceID) {
	if at, s := r.lossTime(); at != mono.Never {
		if now < at {
			return false, s
		}
		sample := &r.sample
		*sample = Sample{Now: now, Prior: r.Inflight}
		r.sampler.begin()
		lossSentAt, persistent := r.detectLost(now, s, sample)
		r.spaces[s].shed()
		r.sampler.finish(now, r.RTT.Min, sample)
		sample.InFlight = r.Inflight
		if sample.Lost > 0 {
			r.CC.OnAck(sample, &r.RTT, lossSentAt, persistent)
		}
		return false, s
	}
	at, s := r.ptoTime()
	if now < at {
		return false, s
	}
	r.PTOCount++
	r.ProbeTimeouts++
	return true, s
}

// Oldest calls visit with the packets in flight, the oldest first, until it returns false.
func (r *Recovery) Oldest(s SpaceID, visit func(*Packet) bool) {
	sp := &r.spaces[s]
	for pn := sp.base; pn < sp.next; pn++ {
		if p := sp.at(pn); p.state == flying && !visit(p) {
			return
		}
	}
}

// Discard drops a space whose keys are gone: RFC 9002, section 6.4.
func (r *Recovery) Discard(s SpaceID) {
	sp := &r.spaces[s]
	for pn := sp.base; pn < sp.next; pn++ {
		r.leaveFlight(sp, sp.at(pn))
	}
	next := sp.next
	*sp = space{largestAcked: -1, lastLost: never, lossAt: mono.Never, discarded: true}
	sp.base, sp.next = next, next
	r.PTOCount = 0
}

// LoseAll gives back what every packet of the space carried, without a word to congestion control: after
// a Retry, or when a probe must carry what may be lost.
func (r *Recovery) LoseAll(s SpaceID) {
	sp := &r.spaces[s]
	for pn := sp.base; pn < sp.next; pn++ {
		if p := sp.at(pn); p.state == flying {
			r.leaveFlight(sp, p)
			r.Owner.PacketLost(s, p)
		}
	}
	sp.shed()
}

// NewPath starts over on another path: what is in flight no longer counts. cc is its controller; with
// keepRTT the path is thought to be the same (only the port changed).
func (r *Recovery) NewPath(cc Controller, keepRTT bool) {
	r.Path++
	r.Inflight = 0
	r.CC = cc
	r.PTOCount = 0
	r.sampler.limitedTo = 0
	if !keepRTT {
		r.RTT = RTT{}
		r.firstRTTAt = mono.Never
	}
	for i := range r.spaces {
		r.spaces[i].ecn = ecnState{total: r.spaces[i].ecn.total}
	}
}

// PTO returns the probe timeout with the peer's delay and without backoff.
func (r *Recovery) PTO() time.Duration { return r.RTT.PTO(r.MaxAckDelay) }

// Check returns what is inconsistent, or "".
func (r *Recovery) Check() string {
	var sum uint64
	for i := range r.spaces {
		sp := &r.spaces[i]
		eliciting := 0
		for pn := sp.base; pn < sp.next; pn++ {
			p := sp.at(pn)
			if p.state != flying {
				continue
			}
			if p.Path == r.Path {
				sum += uint64(p.Size)
			}
			if p.Eliciting {
				eliciting++
			}
		}
		if eliciting != sp.eliciting {
			return "count of eliciting packets is off"
		}
		if sp.next-sp.base > sentMax+64 || len(sp.forgotten) > forgottenMax {
			return "list of sent packets beyond its bound"
		}
	}
	if sum != r.Inflight {
		return "bytes in flight are off"
	}
	if r.Inflight > math.MaxInt64 {
		return "bytes in flight below 0"
	}
	return ""
}
