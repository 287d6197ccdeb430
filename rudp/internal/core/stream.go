package core

// This file changes if the calls of the connection's user, or flow control, do.

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// streamID is that of the only stream: the client's first bidirectional one.
const streamID = 0

// stream is both halves of the stream, and the windows of both sides.
type stream struct {
	send sendBuffer
	recv recvBuffer

	// Sending.
	opened     bool // the peer knows the stream; a server may not send before
	openSent   bool // a client has sent a STREAM frame
	peerStream uint64
	peerData   uint64 // bytes that the peer's limits allow in all
	blockedAt  uint64 // the limit that we told the peer we are blocked at, plus 1
	wantWrite  bool
	resetSent  bool
	resetCode  uint64
	resetAcked bool
	stopped    bool // the peer wants no more

	// Receiving.
	window    uint64 // how much may be under way or unread
	windowMax uint64
	limit     uint64 // what we allow the peer in all
	limitAt   mono.Time
	wantRead  bool
	freed     *atomic.Uint64 // Share's: recv.read as its user moves it
	peerReset bool
	peerCode  uint64
	stopSent  bool
	stopCode  uint64
	stopAcked bool

	userClosed bool // Close was called
	resetting  bool // Reset was called
	endCode    uint64
	finishing  bool // CONNECTION_CLOSE follows once both halves are settled
}

func (s *stream) init(cfg *Config) {
	s.send.limit, s.send.span = cfg.SendBuffer, sendSpan(cfg.SendBuffer)
	s.recv.fault = cfg.fault
	s.windowMax = uint64(cfg.RecvWindow)
	s.window = min(recvWindowFirst, s.windowMax)
	s.limit = s.window
	s.wantRead = true
}

// Errors of the stream's calls.
var (
	// ErrWriteEnded is Write's after CloseWrite, Close or Reset.
	ErrWriteEnded = errors.New("rudp: write after the stream's end")
	// ErrPeerStopped is Write's once the peer reads no more or is gone.
	ErrPeerStopped = errors.New("rudp: peer reads no more")
)

// Write copies as much of p as the send buffer has room for and returns how much: less than len(p)
// without an error means that EventWritable follows. p is not kept.
func (c *Conn) Write(now mono.Time, p []byte) (int, error) {
	c.at(now)
	if err := c.mayWrite(); err != nil {
		return 0, err
	}
	n := c.send.write(p)
	c.wantWrite = n < len(p)
	if n > 0 {
		c.touch()
	}
	return n, nil
}

// mayWrite returns what keeps the user from writing.
func (c *Conn) mayWrite() error {
	switch {
	case c.send.fin || c.resetting || c.userClosed:
		return ErrWriteEnded
	case c.stopped || c.err != nil:
		return ErrPeerStopped
	}
	return nil
}

// Read copies bytes in order into p: 0 and no error if there are none yet, and EventReadable follows. After
// the last byte it returns io.EOF, or the *CloseError that ended the stream before its end.
func (c *Conn) Read(now mono.Time, p []byte) (int, error) {
	c.at(now)
	if n := c.recv.take(p); n > 0 {
		c.openWindow()
		return n, nil
	}
	if err := c.readEnd(c.recv.ended()); err != nil {
		return 0, err
	}
	c.wantRead = true
	return 0, nil
}

// readEnd returns why nothing follows what can be read, if so; over says that this is the stream's end.
func (c *Conn) readEnd(over bool) error {
	switch {
	case c.peerReset:
		return &CloseError{Kind: KindReset, Code: c.peerCode, Remote: true}
	case over:
		return io.EOF
	case c.err != nil:
		return c.err
	}
	return nil
}

// Readable returns how many bytes Read has at once.
func (c *Conn) Readable() int { return c.recv.readable() }

// Writable returns for how many bytes the send buffer has room.
func (c *Conn) Writable() int { return max(c.send.room(), 0) }

// Unsent returns how many written bytes the peer has not acknowledged.
func (c *Conn) Unsent() int { return c.send.unacknowledged() }

// openWindow lets the peer send more once half of the window is used, and widens the window if that took
// less than four round trips: the peer is held back by it then.
func (c *Conn) openWindow() {
	if c.recv.fin || c.limit-c.recv.read > c.window/2 {
		return
	}
	if rtt := c.rec.RTT.SmoothedOr(); c.now.Sub(c.limitAt) < 4*rtt && c.window < c.windowMax {
		c.window = min(2*c.window, c.windowMax)
	}
	c.limitAt = c.now
	c.limit = c.recv.read + c.window
	c.pending |= recovery.MaxData | recovery.MaxStreamData
	c.touch()
}

// widenWindow makes room for a sender that is held back although the user reads all there is: what is in
// the window waits for bytes that were lost.
func (c *Conn) widenWindow() {
	if c.recv.fin || c.window >= c.windowMax || uint64(c.recv.readable()) > c.window/8 ||
		c.limit-c.recv.high > c.window/4 || c.now.Sub(c.limitAt) < c.rec.RTT.SmoothedOr() {
		return
	}
	c.window = min(2*c.window, c.windowMax)
	c.limitAt = c.now
	c.limit = c.recv.read + c.window
	c.pending |= recovery.MaxData | recovery.MaxStreamData
}

// CloseWrite ends the sending half once what was written is delivered.
func (c *Conn) CloseWrite(now mono.Time) error {
	c.at(now)
	switch {
	case c.send.fin || c.resetting || c.userClosed:
		return nil
	case c.stopped || c.err != nil:
		return ErrPeerStopped
	}
	c.send.fin = true
	c.touch()
	return nil
}

// Reset gives up both directions with the code, which is below 2^62. The connection closes once the peer
// knows.
func (c *Conn) Reset(now mono.Time, code uint64) {
	c.at(now)
	if c.err != nil || c.resetting {
		return
	}
	c.resetting, c.userClosed, c.finishing, c.endCode = true, true, true, code
	if !c.handshakeDone {
		c.abort(code, "reset")
		return
	}
	c.resetSend(code)
	c.stopReceiving(code)
	c.settle()
	c.touch()
}

// Close ends the connection: what was written is delivered first, unless there are unread bytes; then, as
// with TCP, it is a reset. Nothing can be read or written any more.
func (c *Conn) Close(now mono.Time) {
	c.at(now)
	if c.err != nil || c.userClosed {
		return
	}
	if c.recv.readable() > 0 || !c.handshakeDone && c.send.end == 0 {
		c.Reset(now, 0)
		return
	}
	c.userClosed, c.finishing = true, true
	c.send.fin = true
	if c.handshakeDone {
		c.settle()
	}
	c.touch()
}

// Abort closes at once: the peer is told the code, nothing more is delivered.
func (c *Conn) Abort(now mono.Time, code uint64) {
	c.at(now)
	if c.err == nil {
		c.abort(code, "")
	}
}

func (c *Conn) resetSend(code uint64) {
	if c.resetSent || c.send.done() {
		return
	}
	c.resetSent, c.resetCode = true, code
	c.send.drop()
	c.pending |= recovery.ResetStream
}

func (c *Conn) stopReceiving(code uint64) {
	if c.stopSent || c.recv.done() || c.peerReset {
		return
	}
	c.stopSent, c.stopCode = true, code
	c.pending |= recovery.StopSending
}

// settle closes the connection when its user is done with it and the peer has got what it should.
func (c *Conn) settle() {
	if !c.finishing || c.state != established {
		return
	}
	sent := c.send.done() || c.resetSent && c.resetAcked || !c.canSendStream() && (c.resetting || c.send.end == 0)
	told := !c.resetting || !c.stopSent || c.stopAcked || c.recv.done() || !c.canSendStream()
	if !sent || !told {
		return
	}
	c.abort(c.endCode, "")
}

func (c *Conn) onStreamAcked(r wire.Range, fin bool) {
	before := c.send.room()
	c.send.onAcked(r, fin)
	if c.wantWrite && c.send.room() > before {
		c.wantWrite = false
		c.event1(EventWritable)
	}
}

// sendLimit returns up to which offset the peer takes bytes.
func (c *Conn) sendLimit() uint64 { return min(c.peerStream, c.peerData) }

// checkStream says whether the ID is that of the only stream.
func (c *Conn) checkStream(f *wire.Frame) error {
	switch {
	case f.Stream == streamID:
		c.openedByPeer()
		return nil
	case (f.Stream&1 == 1) == c.client:
		return wire.Breach(wire.StreamLimitError, f.Type, "only one stream")
	}
	return wire.Breach(wire.StreamStateError, f.Type, "a stream that was never opened")
}

func (c *Conn) openedByPeer() {
	if !c.client {
		c.opened = true
	}
}

func (c *Conn) readableNow() {
	if c.wantRead {
		c.wantRead = false
		c.event1(EventReadable)
	}
}

func (c *Conn) onStream(f *wire.Frame) error {
	if err := c.checkStream(f); err != nil {
		return err
	}
	end := f.Offset + uint64(len(f.Data))
	if end > c.limit {
		return wire.Breach(wire.FlowControlError, f.Type, "beyond the window")
	}
	if c.peerReset {
		return c.checkAfterReset(f, end)
	}
	c.takeBack()
	c.widenWindow()
	readable, done := c.recv.readable(), c.recv.done()
	if _, err := c.recv.insert(f.Offset, f.Data, f.Fin); err != nil {
		return err
	}
	if c.userClosed {
		c.discardUnread()
		return nil
	}
	if c.recv.readable() > readable || c.recv.done() && !done || c.recv.fault == FaultEarlyFIN && f.Fin {
		c.readableNow()
	}
	return nil
}

func (c *Conn) checkAfterReset(f *wire.Frame, end uint64) error {
	if end > c.recv.final || f.Fin && end != c.recv.final {
		return wire.Breach(wire.FinalSizeError, f.Type, "bytes beyond the final size")
	}
	return nil
}

// discardUnread keeps a closed stream from filling up: its user reads no more, and the peer is told.
func (c *Conn) discardUnread() {
	if n := c.recv.readable(); n > 0 {
		c.recv.read = c.recv.ready
		c.stopReceiving(0)
	}
}

func (c *Conn) onResetStream(f *wire.Frame) error {
	if err := c.checkStream(f); err != nil {
		return err
	}
	switch {
	case c.recv.fin && f.Limit != c.recv.final || f.Limit < c.recv.high:
		return wire.Breach(wire.FinalSizeError, f.Type, "another final size")
	case f.Limit > c.limit:
		return wire.Breach(wire.FlowControlError, f.Type, "beyond the window")
	case c.peerReset || c.recv.done():
		return nil
	}
	c.peerReset, c.peerCode = true, f.Code
	c.recv.fin, c.recv.final = true, f.Limit
	c.recv.have = nil
	c.readableNow()
	return nil
}

func (c *Conn) onStopSending(f *wire.Frame) error {
	if err := c.checkStream(f); err != nil {
		return err
	}
	if c.stopped || c.send.done() {
		return nil
	}
	c.stopped = true
	c.resetSend(f.Code)
	if c.wantWrite {
		c.wantWrite = false
		c.event1(EventWritable)
	}
	return nil
}

func (c *Conn) onMaxData(f *wire.Frame) error {
	if f.Type == wire.FrameMaxStreamData {
		if err := c.checkStream(f); err != nil {
			return err
		}
		c.peerStream = max(c.peerStream, f.Limit)
		return nil
	}
	c.peerData = max(c.peerData, f.Limit)
	return nil
}

// appendStreamControl writes the stream's frames other than its bytes.
func (c *Conn) appendStreamControl(b []byte, room int, meta *recovery.Packet) []byte {
	const each = 1 + 8 + 8 + 8
	f := &c.frame
	for c.pending != 0 && room-len(b) >= each {
		bit := c.pending & -c.pending
		c.pending &^= bit
		switch bit {
		case recovery.HandshakeDone:
			*f = wire.Frame{Type: wire.FrameHandshakeDone}
		case recovery.MaxData:
			if c.recv.fin {
				continue
			}
			*f = wire.Frame{Type: wire.FrameMaxData, Limit: c.limit}
		case recovery.MaxStreamData:
			if c.recv.fin || c.stopSent {
				continue
			}
			*f = wire.Frame{Type: wire.FrameMaxStreamData, Stream: streamID, Limit: c.limit}
		case recovery.DataBlocked, recovery.StreamDataBlocked:
			if c.send.next < c.sendLimit() || c.send.next == c.send.end {
				continue
			}
			*f = wire.Frame{Type: wire.FrameDataBlocked, Limit: c.peerData}
			if bit == recovery.StreamDataBlocked {
				*f = wire.Frame{Type: wire.FrameStreamDataBlocked, Stream: streamID, Limit: c.peerStream}
			}
		case recovery.ResetStream:
			if !c.canSendStream() {
				c.pending |= bit
				return b
			}
			*f = wire.Frame{Type: wire.FrameResetStream, Stream: streamID, Code: c.resetCode, Limit: c.send.next}
			c.openSent = true
		case recovery.StopSending:
			if c.peerReset || c.recv.done() {
				c.stopAcked = true
				continue
			}
			if !c.canSendStream() {
				c.pending |= bit
				return b
			}
			*f = wire.Frame{Type: wire.FrameStopSending, Stream: streamID, Code: c.stopCode}
		}
		b = f.Append(b)
		meta.Control |= bit
	}
	return b
}

// canSendStream says whether frames of the stream may go: a server must not name a stream that the
// client has not opened.
func (c *Conn) canSendStream() bool { return c.client || c.opened }

// wantsStream says whether there are stream bytes to send.
func (c *Conn) wantsStream() bool {
	if c.resetSent || !c.canSendStream() {
		return false
	}
	return c.send.wants(c.sendLimit()) || c.client && !c.openSent
}

// noteBlocked tells the peer once for each limit that it holds us back.
func (c *Conn) noteBlocked() {
	limit := c.sendLimit()
	if c.resetSent || c.send.next < limit || c.send.next == c.send.end || c.blockedAt == limit+1 {
		return
	}
	c.blockedAt = limit + 1
	c.stalledNow()
	if c.peerStream <= c.peerData {
		c.pending |= recovery.StreamDataBlocked
	} else {
		c.pending |= recovery.DataBlocked
	}
}

// appendStreamData writes stream bytes: lost ranges first, then new ones. full says that the last frame
// has no length and reaches to the packet's end.
func (c *Conn) appendStreamData(b []byte, room int, meta *recovery.Packet) (out []byte, full bool) {
	limit := c.sendLimit()
	for meta.Count < recovery.MaxPieces {
		off := c.send.next
		if len(c.send.lost) > 0 {
			off = c.send.lost[0].Start
		}
		space := room - len(b) - wire.StreamOverhead(streamID, off, 0) + 1 // without length
		if space < 1 {
			break
		}
		r, fin, ok := c.send.pick(space, limit)
		if !ok {
			if c.client && !c.openSent {
				b = wire.AppendStream(b, streamID, c.send.next, 0, false, true)
				c.noteStream(meta, r, false)
			}
			break
		}
		size := int(r.Len())
		withLength := size+wire.StreamOverhead(streamID, off, size) <= room-len(b)
		b = wire.AppendStream(b, streamID, r.Start, size, fin, withLength)
		n := len(b)
		b = b[:n+size]
		if size > 0 {
			c.send.copyOut(b[n:], r.Start)
		}
		c.send.sent(r, fin)
		c.noteStream(meta, r, fin)
		if !withLength {
			return b, true
		}
	}
	return b, false
}

func (c *Conn) noteStream(meta *recovery.Packet, r wire.Range, fin bool) {
	c.openSent = true
	meta.Pieces[meta.Count] = recovery.Piece{Offset: r.Start, Size: uint32(r.Len()), Fin: fin}
	meta.Count++
}

// MemoryBound returns the bytes that the connection holds for its user, and the most that its
// configuration allows.
func (c *Conn) MemoryBound() (held, bound int) {
	held = len(c.send.ring) + len(c.recv.ring) + 16*(cap(c.send.acked)+cap(c.send.lost)+cap(c.recv.have))
	for i := range c.spaces {
		s := &c.spaces[i]
		held += len(s.out.ring) + len(s.in.ring) + 16*cap(s.acks.ranges)
	}
	bound = roundUp(sendSpan(c.cfg.SendBuffer)) + roundUp(c.cfg.RecvWindow) + 16*(4*gapsMax+2*16384) +
		6*cryptoMax*2 + 3*16*2*(ackRangesMax+1)
	return held, bound
}

func roundUp(n int) int {
	size := ringMin
	for size < n {
		size *= 2
	}
	return size
}
