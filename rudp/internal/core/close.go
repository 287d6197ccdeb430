package core

// This file changes if how connections end does (RFC 9000, section 10).

import (
	"errors"
	"fmt"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// Kind says how a connection or stream ended.
type Kind uint8

// The ways to end.
const (
	KindClosed           Kind = iota // closed by an application without complaint: code 0
	KindReset                        // given up by an application: Code
	KindIdleTimeout                  // nothing came for too long
	KindHandshakeTimeout             // the handshake took too long
	KindTransport                    // a breach of the protocol or a failed handshake: Code, Reason
	KindRefused                      // the server takes no more connections
	KindVersion                      // no common version
	KindStatelessReset               // the peer has lost the connection's state
)

// CloseError says how a connection or stream ended, and by which side.
type CloseError struct {
	Kind   Kind
	Code   uint64 // the application's, or the transport's error code
	Reason string
	Remote bool  // the peer ended it
	Cause  error // what TLS had to say, if anything
}

func (e *CloseError) Error() string {
	side := "local"
	if e.Remote {
		side = "peer"
	}
	switch e.Kind {
	case KindClosed:
		return "rudp: connection closed by " + side
	case KindReset:
		return fmt.Sprintf("rudp: reset by %s, code %d", side, e.Code)
	case KindIdleTimeout:
		return "rudp: idle timeout"
	case KindHandshakeTimeout:
		return "rudp: handshake timeout"
	case KindRefused:
		return "rudp: connection refused"
	case KindVersion:
		return "rudp: no common version"
	case KindStatelessReset:
		return "rudp: peer lost the connection"
	}
	return fmt.Sprintf("rudp: %s: error 0x%x: %s", side, e.Code, e.Reason)
}

func (e *CloseError) Unwrap() error { return e.Cause }

// end records why the connection is over and tells its user.
func (c *Conn) end(e *CloseError) {
	if c.err != nil {
		return
	}
	c.err = e
	c.paceAt = mono.Never
	c.event1(EventClosed | EventReadable | EventWritable)
}

// abort sends CONNECTION_CLOSE with an application's code.
func (c *Conn) abort(code uint64, reason string) {
	kind := KindReset
	if code == 0 && !c.resetting {
		kind = KindClosed
	}
	c.close(wire.Frame{Type: wire.FrameApplicationClose, Code: code, Data: []byte(reason)},
		&CloseError{Kind: kind, Code: code})
}

// fail closes because of an error.
func (c *Conn) fail(err error) {
	if c.state >= closing {
		return
	}
	var e *wire.Error
	if !errors.As(err, &e) {
		e = &wire.Error{Code: wire.InternalError, Reason: err.Error()}
	}
	why := &CloseError{Kind: KindTransport, Code: e.Code, Reason: e.Reason}
	var f *tlsFailure
	if errors.As(err, &f) {
		why.Cause = f.cause
	}
	c.close(wire.Frame{Type: wire.FrameConnectionClose, Code: e.Code, Cause: e.Frame, Data: []byte(e.Reason)}, why)
}

func (c *Conn) close(f wire.Frame, e *CloseError) {
	if c.state >= closing {
		return
	}
	c.end(e)
	c.state = closing
	c.trace(Event{Kind: TraceState, A: uint64(c.state)})
	c.closeFrame, c.closeDue, c.closeAnswer = f, true, 1
	c.closeAt = c.now.Add(3 * c.rec.PTO())
	c.closeAgainAt = c.now.Add(c.rec.PTO() * 3 / 2)
	c.release()
	c.touch()
}

// release gives back what only a living connection needs; what can still be read stays.
func (c *Conn) release() {
	c.send.drop()
	c.recv.have = nil
	if c.recv.readable() == 0 {
		c.recv.ring = nil
	}
	_ = c.tls.Close()
}

// onClosing counts packets that come after we closed: the first, second, fourth, … are answered.
func (c *Conn) onClosing() {
	if c.closeSeen++; c.closeSeen >= c.closeAnswer {
		c.closeAnswer *= 2
		c.closeDue = true
		c.touch()
	}
}

func (c *Conn) onClose(f *wire.Frame) {
	e := &CloseError{Kind: KindTransport, Code: f.Code, Reason: string(f.Data), Remote: true}
	switch {
	case f.Type == wire.FrameApplicationClose && f.Code == 0:
		e.Kind = KindClosed
	case f.Type == wire.FrameApplicationClose:
		e.Kind = KindReset
	case f.Code == wire.ConnectionRefused:
		e.Kind = KindRefused
	case f.Code == wire.NoError:
		e.Kind = KindClosed
	}
	c.drain(e)
}

// drain waits without a word until nothing of the connection can be under way any more.
func (c *Conn) drain(e *CloseError) {
	if c.state >= draining {
		return
	}
	c.end(e)
	c.state, c.closeAgainAt = draining, mono.Never
	c.trace(Event{Kind: TraceState, A: uint64(c.state)})
	c.closeDue = false
	c.closeAt = c.now.Add(3 * c.rec.PTO())
	c.release()
	c.touch()
}

// vanish takes the connection out of the endpoint.
func (c *Conn) vanish() {
	if c.state == gone {
		return
	}
	c.state = gone
	c.closeAt, c.closeAgainAt = mono.Never, mono.Never
	c.trace(Event{Kind: TraceState, A: uint64(c.state)})
	c.release()
	c.spaces = [recovery.Spaces]pnSpace{}
	c.ep.remove(c)
}

// sendClose builds the datagram with CONNECTION_CLOSE, at every level whose keys we have: which ones the
// peer has is unknown.
func (c *Conn) sendClose(now mono.Time, buf []byte) Batch {
	if !c.closeDue || len(buf) < datagramMin || c.path.allowance() < datagramMin {
		return Batch{}
	}
	c.closeDue = false
	b := buf[:0]
	for s := recovery.InitialSpace; s < recovery.Spaces; s++ {
		if c.spaces[s].write == nil || s == recovery.AppSpace && !c.client && !c.handshakeDone {
			continue
		}
		f := c.closeFrame
		if s != recovery.AppSpace && f.Type == wire.FrameApplicationClose {
			f = wire.Frame{Type: wire.FrameConnectionClose, Code: wire.ApplicationError}
		}
		f.Data = f.Data[:min(len(f.Data), 256)]
		var before openPacket
		b, before = c.begin(b, s, c.path)
		b = f.Append(b)
		c.commit(b, &before)
	}
	if len(b) == 0 {
		return Batch{}
	}
	pad := 0
	if c.spaces[recovery.InitialSpace].write != nil {
		pad = datagramMin
	}
	b = c.finish(now, b, c.path, pad)
	return c.batch(c.path, len(b), len(b))
}

// refusal is a datagram that refuses a connection without keeping anything of it.
func refusal(b []byte, keys *protect.Keys, dcid, scid wire.CID) []byte {
	b = wire.AppendLong(b, wire.Initial, dcid, scid, nil, 2)
	pnOffset := len(b)
	b = wire.AppendPN(b, 0, 2)
	f := wire.Frame{Type: wire.FrameConnectionClose, Code: wire.ConnectionRefused}
	b = f.Append(b)
	wire.PutLength(b, pnOffset, len(b)-pnOffset+protect.Overhead)
	return keys.Seal(b, pnOffset, 2, 0)
}
