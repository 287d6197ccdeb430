// Package congestion holds the congestion controllers: a model of the path in the manner of BBR with a
// ceiling on loss, and CUBIC (RFC 9438) with HyStart++ (RFC 9406).
package congestion

// This file changes if the choice among controllers does.

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/recovery"
)

// Name of a controller, as configurations spell it.
const (
	BBRName   = "bbr"
	CubicName = "cubic"
)

const (
	// initialPackets is the first window. RFC 9002 recommends ten; thirty-two, paced over the first
	// round trip, end short transfers a round trip or two earlier.
	initialPackets = 32
	minPackets     = 2
	never          = -1
)

// New returns the controller of that name, or nil. datagram is the size of full datagrams in bytes; seed
// spreads the phases of connections that began together.
func New(name string, datagram int, seed uint64) recovery.Controller {
	switch name {
	case "", BBRName:
		return newBBR(datagram, seed)
	case CubicName:
		return newCubic(datagram)
	}
	return nil
}

// perSecond returns bytes/s.
func perSecond(bytes uint64, d time.Duration) uint64 {
	return uint64(float64(bytes) / max(d, time.Microsecond).Seconds())
}
