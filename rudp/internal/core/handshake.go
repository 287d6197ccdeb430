package core

// This file changes if the tie to TLS, or how keys come and go, does (RFC 9001, sections 4 to 6).

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

func levelOf(s recovery.SpaceID) tls.QUICEncryptionLevel {
	return [...]tls.QUICEncryptionLevel{
		tls.QUICEncryptionLevelInitial, tls.QUICEncryptionLevelHandshake, tls.QUICEncryptionLevelApplication,
	}[s]
}

func spaceOf(l tls.QUICEncryptionLevel) recovery.SpaceID {
	switch l {
	case tls.QUICEncryptionLevelInitial:
		return recovery.InitialSpace
	case tls.QUICEncryptionLevelHandshake:
		return recovery.HandshakeSpace
	}
	return recovery.AppSpace
}

// params are our transport parameters.
func (c *Conn) params() []byte {
	p := wire.DefaultParams()
	p.InitialSCID, p.HasInitial = c.local[0].id, true
	if !c.client {
		p.OriginalDCID, p.HasOriginal = c.odcid, true
		p.RetrySCID, p.HasRetry = c.retrySCID, c.retried
		p.ResetToken, p.HasResetToken = c.ep.resetToken(c.local[0].id), true
		p.MaxStreamsBidi = 1
	}
	p.MaxIdleTimeout = max(c.cfg.IdleTimeout, 0)
	p.MaxUDPPayload = datagramMax
	p.MaxData, p.MaxStreamBidiOwn, p.MaxStreamBidiPeer = c.limit, c.limit, c.limit
	p.AckDelayExponent, p.MaxAckDelay = ackDelayExponent, ackDelay
	p.ActiveCIDLimit = cidsMax
	return p.Append(nil)
}

// startTLS begins the handshake.
func (c *Conn) startTLS() error {
	c.tls.SetTransportParameters(c.params())
	if err := c.tls.Start(context.Background()); err != nil {
		return tlsError(err)
	}
	return c.tlsEvents()
}

func tlsError(err error) error {
	var alert tls.AlertError
	e := &wire.Error{Code: wire.CryptoError + 80, Frame: wire.FrameCrypto, Reason: err.Error()} // internal_error
	if errors.As(err, &alert) {
		e.Code = wire.CryptoError + uint64(alert)
	}
	return &tlsFailure{e, err}
}

// tlsFailure is a transport error that keeps what TLS said.
type tlsFailure struct{ breach, cause error }

func (f *tlsFailure) Error() string { return f.breach.Error() }

func (f *tlsFailure) Unwrap() []error { return []error{f.breach, f.cause} }

func (c *Conn) tlsEvents() error {
	for {
		e := c.tls.NextEvent()
		switch e.Kind {
		case tls.QUICNoEvent:
			return nil
		case tls.QUICWriteData:
			c.spaces[spaceOf(e.Level)].out.write(e.Data)
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			if err := c.setSecret(&e); err != nil {
				return err
			}
		case tls.QUICTransportParameters:
			if err := c.onPeerParams(e.Data); err != nil {
				return err
			}
		case tls.QUICHandshakeDone:
			c.onHandshakeDone()
		}
	}
}

func (c *Conn) setSecret(e *tls.QUICEvent) error {
	if e.Level == tls.QUICEncryptionLevelEarly {
		return nil
	}
	keys, err := protect.NewKeys(e.Suite, e.Data)
	if err != nil {
		return err
	}
	sp := &c.spaces[spaceOf(e.Level)]
	if e.Kind == tls.QUICSetWriteSecret {
		sp.write = keys
		if e.Level == tls.QUICEncryptionLevelHandshake {
			c.rec.HasHandshakeKeys = true
		}
		return nil
	}
	sp.read = keys
	if e.Level == tls.QUICEncryptionLevelApplication {
		c.nextRead, err = keys.Next()
	}
	return err
}

func (c *Conn) onPeerParams(data []byte) error {
	p, err := wire.ParseParams(data, c.client)
	if err != nil {
		return err
	}
	wrong := !p.HasInitial || p.InitialSCID != c.firstSCID
	if c.client {
		wrong = wrong || !p.HasOriginal || p.OriginalDCID != c.odcid ||
			p.HasRetry != c.retried || c.retried && p.RetrySCID != c.retrySCID
	}
	if wrong {
		return wire.Breach(wire.TransportParamError, wire.FrameCrypto, "connection IDs don't match")
	}
	c.peer, c.peerParams = p, true
	c.peerData, c.peerStream = p.MaxData, p.MaxStreamBidiOwn
	if c.client {
		c.peerStream = p.MaxStreamBidiPeer
		if p.MaxStreamsBidi == 0 {
			return wire.Breach(wire.StreamLimitError, wire.FrameCrypto, "peer takes no stream")
		}
		if p.HasResetToken {
			c.remote[0].token, c.remote[0].hasToken = p.ResetToken, true
			c.path.cid = c.remote[0]
			c.awaitReset(p.ResetToken)
		}
	}
	if p.MaxIdleTimeout > 0 && (c.idle == 0 || p.MaxIdleTimeout < c.idle) {
		c.idle = p.MaxIdleTimeout
	}
	c.rec.MaxAckDelay = p.MaxAckDelay
	c.path.mtu.init(c)
	return nil
}

// onHandshakeDone is when TLS has finished: at the server that confirms the handshake too.
func (c *Conn) onHandshakeDone() {
	c.handshakeDone = true
	c.state = established
	c.trace(Event{Kind: TraceState, A: uint64(c.state)})
	c.event1(EventConnected | EventWritable)
	c.halfOpenDone()
	if !c.client {
		c.pending |= recovery.HandshakeDone
		c.confirm()
		c.ep.accepted(c)
	}
	c.resetIdle()
}

// confirm is when both sides are known to have the keys of the application's space.
func (c *Conn) confirm() {
	if c.confirmed {
		return
	}
	c.confirmed = true
	c.rec.HandshakeConfirmed, c.rec.PeerValidated = true, true
	c.discard(recovery.InitialSpace)
	c.discard(recovery.HandshakeSpace)
	if c.ep.conns[c.born] == c {
		delete(c.ep.conns, c.born)
	}
	if !c.peerWantsNoCIDs() {
		c.issueCIDs()
	}
	c.settle()
}

func (c *Conn) peerWantsNoCIDs() bool { return c.path.cid.id.Len() == 0 && c.client }

func (c *Conn) onCrypto(s recovery.SpaceID, f *wire.Frame) error {
	in := &c.spaces[s].in
	if f.Offset+uint64(len(f.Data)) > in.read+cryptoMax {
		return wire.Breach(wire.CryptoBufferExceeded, f.Type, "TLS messages too far ahead")
	}
	if _, err := in.insert(f.Offset, f.Data, false); err != nil {
		return err
	}
	var chunk [1024]byte
	for {
		n := in.take(chunk[:])
		if n == 0 {
			break
		}
		if err := c.tls.HandleData(levelOf(s), chunk[:n]); err != nil {
			_ = c.tlsEvents() // an alert may be among them
			return tlsError(err)
		}
		if err := c.tlsEvents(); err != nil {
			return err
		}
		in = &c.spaces[s].in
	}
	if in.readable() == 0 && len(in.have) == 0 {
		in.ring = nil // TLS is silent most of the time
	}
	return nil
}

// UpdateKeys moves to the next key phase now, if RFC 9001, section 6.1 allows it.
func (c *Conn) UpdateKeys(now mono.Time) bool {
	c.at(now)
	if !c.mayUpdateKeys() {
		return false
	}
	return c.updateWriteKeys() == nil
}

// mayUpdateKeys holds once the peer has acknowledged a packet of this phase.
func (c *Conn) mayUpdateKeys() bool {
	return c.confirmed && c.state == established && c.readPhase == c.writePhase && c.prevRead == nil &&
		c.rec.LargestAcked(recovery.AppSpace) >= int64(c.phaseSent) && c.rec.NextPN(recovery.AppSpace) > c.phaseSent
}

func (c *Conn) updateWriteKeys() error {
	sp := &c.spaces[recovery.AppSpace]
	next, err := sp.write.Next()
	if err != nil {
		return err
	}
	sp.write, c.writePhase = next, !c.writePhase
	c.sealed, c.phaseSent = 0, c.rec.NextPN(recovery.AppSpace)
	c.generation++
	c.stats.KeyUpdates++
	c.trace(Event{Kind: TraceKeyUpdate, A: c.generation})
	return nil
}

// onNextPhase is when a packet of the next phase proved authentic.
func (c *Conn) onNextPhase(pn uint64) error {
	sp := &c.spaces[recovery.AppSpace]
	next, err := c.nextRead.Next()
	if err != nil {
		return err
	}
	c.prevRead, c.prevReadUntil = sp.read, c.now.Add(max(3*c.rec.PTO(), time.Millisecond))
	sp.read, c.nextRead = c.nextRead, next
	c.readPhase, c.phaseStart = !c.readPhase, pn
	if c.writePhase != c.readPhase {
		return c.updateWriteKeys()
	}
	return nil
}

// checkLimits renews keys in time, and gives up where they may be used no more.
func (c *Conn) checkLimits() {
	sp := &c.spaces[recovery.AppSpace]
	if sp.write == nil {
		return
	}
	limit, _ := sp.write.Limits()
	after := c.cfg.KeyUpdateAfter
	if after == 0 || after > limit/2 {
		after = limit / 2
	}
	if c.sealed >= after && c.mayUpdateKeys() {
		if err := c.updateWriteKeys(); err != nil {
			c.fail(err)
		}
	}
	if c.sealed >= limit-1 {
		c.fail(&wire.Error{Code: wire.AEADLimitReached, Reason: "key used up"})
	}
}
