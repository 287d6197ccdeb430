package core

// This file changes if how a driver writes and reads the stream without a copy does.

import (
	"math"
	"sync/atomic"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// Refer is Write without a copy, and without a bound: all of p belongs to the stream, and its bytes must
// not change, until Kept passes them, or the connection has been reset, was stopped by its peer or is
// over. Bound says how much to keep to. A connection has either Write or Refer.
func (c *Conn) Refer(now mono.Time, p []byte) error {
	c.at(now)
	if err := c.mayWrite(); err != nil || len(p) == 0 {
		return err
	}
	c.send.refer(p)
	c.touch()
	return nil
}

// Kept returns the offset below which the peer has every byte, and how many bytes from there on the send
// buffer's bound allows. When one of them changes EventWritable follows.
func (c *Conn) Kept() (from uint64, bound int) {
	c.wantWrite = c.send.base < c.send.end
	return c.send.base, int(c.send.end-c.send.base) + c.send.room()
}

// silent is from how many probe timeouts in a row on a peer is taken for silent.
const silent = 2

func (c *Conn) stalledNow() {
	if !c.send.refs.empty() {
		c.event1(EventStalled)
	}
}

// Stalled says that what Refer gave may stay for long. When it becomes so EventStalled is told.
func (c *Conn) Stalled() bool {
	return c.rec.PTOCount >= silent || c.send.next >= c.sendLimit() && c.send.next < c.send.end
}

// Replace has bytes that one call of Refer gave, and that began at offset start, read from p instead,
// which has the same bytes.
func (c *Conn) Replace(start uint64, p []byte) { c.send.refs.replace(start, p) }

// Share has the user take bytes out of the ring itself, on another thread maybe: it raises freed to the
// offset below which it needs none any more. A connection has either Read or Share.
func (c *Conn) Share(freed *atomic.Uint64) { c.freed = freed }

// Incoming returns what Share's user may look at: a byte of offset off, from freed up to ready, lies at
// off modulo the ring's length, which is a power of two. Bytes stay there until freed passes them, also
// in a ring that a larger one has followed. mark: once freed has come so far, call Incoming again, so that
// the peer may send more. err, once nothing follows ready, is what Read would return there. If there
// is none, EventReadable follows when ready moves.
func (c *Conn) Incoming(now mono.Time) (ring []byte, ready, mark uint64, err error) {
	c.at(now)
	c.takeBack()
	mark = math.MaxUint64
	if !c.recv.fin {
		mark = c.limit - c.window/2
	}
	err = c.readEnd(c.recv.done())
	c.wantRead = err == nil
	return c.recv.ring, c.recv.ready, mark, err
}

// takeBack counts as read what Share's user needs no more.
func (c *Conn) takeBack() {
	if c.freed != nil {
		c.recv.read = c.freed.Load()
		c.openWindow()
	}
}

// Unshare ends Share: the user has taken what is below offset read, may look at it for as long as it
// likes, and takes nothing more. Close or Reset must follow.
func (c *Conn) Unshare(read uint64) {
	c.freed = nil
	c.recv.read = read
	c.recv.mute = true
}
