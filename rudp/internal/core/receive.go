package core

// This file changes if what is done with packets and frames that come does.

import (
	"bytes"
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// receive takes a datagram, whose bytes are overwritten.
func (c *Conn) receive(now mono.Time, addr Path, ecn ECN, datagram []byte) {
	c.at(now)
	if c.state >= closing {
		c.receiveAfterClose(addr, datagram)
		return
	}
	p := c.pathAt(addr)
	if p == nil && c.client && addr.Remote != c.path.addr.Remote {
		c.drop(len(datagram)) // servers don't move
		return
	}
	var tail [16]byte
	if len(datagram) >= resetMin {
		copy(tail[:], datagram[len(datagram)-16:])
	}
	size := len(datagram)
	if p != nil {
		p.received += uint64(size)
	}
	c.stats.BytesReceived += uint64(size)
	var first wire.CID
	authentic := false
	for rest := datagram; len(rest) > 0 && c.state < closing; {
		h, err := wire.ParseHeader(rest, CIDLen)
		if err != nil || first.Len() > 0 && h.DCID != first {
			c.drop(len(rest))
			break
		}
		first = h.DCID
		packet := rest[:max(h.End, 0)]
		rest = rest[h.End:]
		ok := c.onPacket(&h, addr, ecn, packet)
		authentic = authentic || ok
	}
	if p == nil {
		// A path that the datagram opened has nothing but this datagram to its credit.
		if p = c.pathAt(addr); p != nil {
			p.received += uint64(size)
		}
	}
	if !authentic && size >= resetMin && c.state < closing && c.ep.tokens[tail] == c {
		c.drain(&CloseError{Kind: KindStatelessReset, Remote: true})
	}
	if authentic && c.state < closing {
		c.settle()
	}
	c.touch()
}

func (c *Conn) drop(size int) {
	c.stats.Dropped++
	c.trace(Event{Kind: TracePacketDropped, Size: size})
}

// onPacket takes one packet and says whether it was authentic.
func (c *Conn) onPacket(h *wire.Header, addr Path, ecn ECN, packet []byte) bool {
	switch h.Type {
	case wire.VersionNegotiation:
		return c.onVersionNegotiation(h)
	case wire.Retry:
		return c.onRetry(h, packet)
	case wire.ZeroRTT:
		c.drop(len(packet))
		return false
	}
	s := recovery.InitialSpace
	switch h.Type {
	case wire.Handshake:
		s = recovery.HandshakeSpace
	case wire.Short:
		s = recovery.AppSpace
	}
	sp := &c.spaces[s]
	if sp.read == nil {
		c.drop(len(packet))
		return false
	}
	pn, payload, err := c.unseal(s, h, packet)
	if err != nil {
		c.fail(err)
		return false
	}
	if payload == nil {
		c.drop(len(packet))
		return false
	}
	if sp.acks.seen(pn) {
		return true
	}
	if err := c.onAuthentic(s, h); err != nil {
		c.fail(err)
		return true
	}
	c.arrived = h.DCID
	c.stats.PacketsReceived++
	c.trace(Event{Kind: TracePacketReceived, Space: s, PN: pn, Size: len(packet)})
	c.elicitedSince = false
	c.resetIdle()
	if err := c.onPayload(s, pn, payload, addr, ecn); err != nil {
		c.fail(err)
	}
	return true
}

// onAuthentic does what the first packets of the handshake bring about.
func (c *Conn) onAuthentic(s recovery.SpaceID, h *wire.Header) error {
	if h.Type != wire.Short {
		if !c.gotPacket {
			c.gotPacket = true
			if c.client {
				c.firstSCID = h.SCID
				c.remote[0].id = h.SCID
				c.path.cid = c.remote[0]
			}
		} else if h.SCID != c.firstSCID {
			return &wire.Error{Code: wire.ProtocolViolation, Reason: "source connection ID changed"}
		}
	}
	if s == recovery.HandshakeSpace && !c.client {
		c.path.validated = true
		c.discard(recovery.InitialSpace)
	}
	return nil
}

// unseal removes a packet's protection. No payload: it is not authentic.
func (c *Conn) unseal(s recovery.SpaceID, h *wire.Header, packet []byte) (pn uint64, payload []byte, err error) {
	sp := &c.spaces[s]
	truncated, pnLen, ok := sp.read.Unprotect(packet, h.PNOffset)
	if !ok {
		return 0, nil, nil
	}
	pn = wire.DecodePN(sp.acks.largest, truncated, pnLen)
	keys, next := sp.read, false
	if s == recovery.AppSpace && (packet[0]&wire.KeyPhaseBit != 0) != c.readPhase {
		keys, next = c.nextRead, true
		if c.prevRead != nil && pn < c.phaseStart {
			keys, next = c.prevRead, false
		}
	}
	payload, openErr := keys.Open(packet, h.PNOffset+pnLen, pn)
	if openErr != nil {
		c.forged++
		if _, limit := keys.Limits(); c.forged >= limit {
			return pn, nil, &wire.Error{Code: wire.AEADLimitReached, Reason: "too many forgeries"}
		}
		return pn, nil, nil
	}
	reserved := byte(wire.LongReservedBits)
	if s == recovery.AppSpace {
		reserved = wire.ShortReservedBits
	}
	if packet[0]&reserved != 0 {
		return pn, nil, &wire.Error{Code: wire.ProtocolViolation, Reason: "reserved bits set"}
	}
	if len(payload) == 0 {
		return pn, nil, &wire.Error{Code: wire.ProtocolViolation, Reason: "packet without frames"}
	}
	if next {
		return pn, payload, c.onNextPhase(pn)
	}
	return pn, payload, nil
}

func (c *Conn) onPayload(s recovery.SpaceID, pn uint64, payload []byte, addr Path, ecn ECN) error {
	eliciting, probing, atOnce := false, true, s != recovery.AppSpace
	before := c.recv.high + c.recv.ready + uint64(len(c.recv.have))
	f := &c.frame
	for b := payload; len(b) > 0; {
		n, err := f.Parse(b)
		if err != nil {
			return err
		}
		b = b[n:]
		if s != recovery.AppSpace && !inHandshake(f.Type) {
			return wire.Breach(wire.ProtocolViolation, f.Type, "frame not allowed in the handshake")
		}
		switch f.Type {
		case wire.FramePadding, wire.FramePathChallenge, wire.FramePathResponse, wire.FrameNewConnectionID:
		default:
			probing = false
		}
		switch f.Type {
		case wire.FramePadding, wire.FrameAck, wire.FrameAckECN, wire.FrameConnectionClose, wire.FrameApplicationClose:
		default:
			eliciting = true
		}
		if err := c.onFrame(s, f, addr); err != nil {
			return err
		}
		if c.state >= closing {
			return nil
		}
	}
	sp := &c.spaces[s]
	if sp.discarded {
		return nil
	}
	stale := before == c.recv.high+c.recv.ready+uint64(len(c.recv.have))
	if c.cfg.fault == FaultNoDupAck && s == recovery.AppSpace && eliciting && stale && c.recv.high > 0 && !probing {
		eliciting = false
	} else {
		sp.acks.onPacket(c.now, pn, ecn, eliciting, atOnce)
	}
	if s == recovery.AppSpace {
		c.onAppPacket(pn, eliciting, probing, addr)
	}
	return nil
}

func (c *Conn) onAppPacket(pn uint64, eliciting, probing bool, addr Path) {
	if eliciting {
		c.nudgeAt, c.nudges = mono.Never, 0
		if c.client && !c.recv.fin && c.recv.high > 0 && c.recv.high < c.limit {
			c.nudgeAt = c.now.Add(max(3*c.rec.PTO(), 10*time.Millisecond))
		}
	}
	if probing || int64(pn) <= c.largestNonProbe {
		return
	}
	c.largestNonProbe = int64(pn)
	if !c.client && c.handshakeDone && addr != c.path.addr {
		c.onPeerMoved(addr)
	}
}

// inHandshake says which frames Initial and Handshake packets may hold: RFC 9000, section 12.4.
func inHandshake(typ uint64) bool {
	switch typ {
	case wire.FramePadding, wire.FramePing, wire.FrameAck, wire.FrameAckECN, wire.FrameCrypto, wire.FrameConnectionClose:
		return true
	}
	return false
}

func (c *Conn) onFrame(s recovery.SpaceID, f *wire.Frame, addr Path) error {
	switch f.Type {
	case wire.FramePadding, wire.FramePing, wire.FrameStreamsBlockedBidi, wire.FrameStreamsBlockedUni,
		wire.FrameMaxStreamsBidi, wire.FrameMaxStreamsUni, wire.FrameDataBlocked:
		return nil
	case wire.FrameAck, wire.FrameAckECN:
		return c.onAck(s, f)
	case wire.FrameCrypto:
		return c.onCrypto(s, f)
	case wire.FrameStream:
		return c.onStream(f)
	case wire.FrameResetStream:
		return c.onResetStream(f)
	case wire.FrameStopSending:
		return c.onStopSending(f)
	case wire.FrameMaxData, wire.FrameMaxStreamData:
		return c.onMaxData(f)
	case wire.FrameStreamDataBlocked:
		return c.checkStream(f)
	case wire.FrameNewToken:
		if !c.client {
			return wire.Breach(wire.ProtocolViolation, f.Type, "token from a client")
		}
	case wire.FrameNewConnectionID:
		return c.onNewCID(f)
	case wire.FrameRetireConnectionID:
		return c.onRetireCID(f)
	case wire.FramePathChallenge:
		if len(c.responses) < responsesMax {
			c.responses = append(c.responses, response{addr: addr, data: f.Path})
			c.considerPath(addr)
		}
	case wire.FramePathResponse:
		c.onPathResponse(f)
	case wire.FrameConnectionClose, wire.FrameApplicationClose:
		c.onClose(f)
	case wire.FrameHandshakeDone:
		if !c.client {
			return wire.Breach(wire.ProtocolViolation, f.Type, "a client can't confirm")
		}
		c.confirm()
	}
	return nil
}

// considerPath prepares to answer a challenge on a path that is not in use: the peer probes it before it
// moves there.
func (c *Conn) considerPath(addr Path) {
	if c.client || !c.handshakeDone || c.pathAt(addr) != nil {
		return
	}
	if c.probe != nil {
		c.retirePathCID(c.probe)
		c.probe = nil
	}
	p := c.newPath(addr)
	if !c.assignCID(p) {
		return
	}
	c.probe = p
	c.startChallenge(p)
}

func (c *Conn) onAck(s recovery.SpaceID, f *wire.Frame) error {
	exponent := c.peer.AckDelayExponent
	if s != recovery.AppSpace {
		exponent = 3
	}
	delay := time.Duration(min(f.Delay<<exponent, 1<<40)) * time.Microsecond
	if f.Delay > 1<<40 {
		delay = time.Hour
	}
	if err := c.rec.OnAck(c.now, s, f, delay); err != nil {
		return err
	}
	if c.client && s == recovery.HandshakeSpace {
		c.rec.PeerValidated = true
	}
	if c.cfg.Tracer != nil {
		c.trace(Event{
			Kind: TraceMetrics, A: c.rec.CC.Window(), B: c.rec.Inflight,
			C: uint64(c.rec.RTT.Smoothed), D: c.rec.CC.Rate(),
		})
	}
	return nil
}

func (c *Conn) onVersionNegotiation(h *wire.Header) bool {
	expected := c.client && !c.gotPacket && !c.retried && h.SCID == c.odcid && h.DCID == c.local[0].id
	if !expected || h.HasVersion(wire.Version1) {
		c.drop(0)
		return false
	}
	c.end(&CloseError{Kind: KindVersion, Remote: true})
	c.vanish()
	return true
}

func (c *Conn) onRetry(h *wire.Header, packet []byte) bool {
	if !c.client || c.gotPacket || c.retried || len(h.Token) == 0 || h.DCID != c.local[0].id ||
		h.SCID == c.odcid || !protect.CheckRetry(packet, c.odcid) {
		c.drop(len(packet))
		return false
	}
	c.retried, c.retrySCID = true, h.SCID
	c.token = bytes.Clone(h.Token)
	c.remote[0].id = h.SCID
	c.path.cid = c.remote[0]
	if err := c.initialKeys(h.SCID); err != nil {
		c.fail(err)
		return true
	}
	c.rec.LoseAll(recovery.InitialSpace)
	c.rec.PTOCount = 0 // the server is there, and the token doesn't keep forever
	return true
}

func (c *Conn) initialKeys(dcid wire.CID) error {
	client, server, err := protect.Initial(dcid)
	if err != nil {
		return err
	}
	sp := &c.spaces[recovery.InitialSpace]
	sp.write, sp.read = server, client
	if c.client {
		sp.write, sp.read = client, server
	}
	return nil
}

// receiveAfterClose looks only for the peer's own CONNECTION_CLOSE.
func (c *Conn) receiveAfterClose(addr Path, datagram []byte) {
	if c.state != closing {
		return
	}
	if c.path.addr == addr {
		c.path.received += uint64(len(datagram))
	}
	h, err := wire.ParseHeader(datagram, CIDLen)
	if err == nil && h.Type == wire.Short && c.spaces[recovery.AppSpace].read != nil {
		if _, payload, err := c.unseal(recovery.AppSpace, &h, datagram); err == nil && payload != nil {
			f := &c.frame
			for b := payload; len(b) > 0; {
				n, err := f.Parse(b)
				if err != nil {
					break
				}
				b = b[n:]
				if f.Type == wire.FrameConnectionClose || f.Type == wire.FrameApplicationClose {
					c.state, c.closeAgainAt = draining, mono.Never
					c.closeDue = false
					return
				}
			}
		}
	}
	c.onClosing()
}
