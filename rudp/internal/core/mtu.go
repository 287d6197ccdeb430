package core

// This file changes if how the path's datagram size is found does (DPLPMTUD, RFC 8899).

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
)

const (
	mtuProbes     = 3  // losses that show that a size doesn't pass
	mtuStep       = 16 // bytes: closer than this is good enough
	mtuRaiseAfter = 10 * time.Minute
	// blackHole is how many probe timeouts in a row make sizes above the minimum suspect.
	blackHole = 2
)

// mtuState searches between the largest size that passed and the smallest that didn't.
type mtuState struct {
	size    int // what passes
	low     int
	high    int // not known to fail
	ceiling int
	probing int // the size in flight, 0: none
	lost    int
	raiseAt mono.Time
}

func (m *mtuState) init(c *Conn) {
	limit := c.cfg.MaxDatagram
	if c.peer.MaxUDPPayload > 0 {
		limit = int(min(uint64(limit), c.peer.MaxUDPPayload))
	}
	*m = mtuState{size: datagramMin, low: datagramMin, high: limit, ceiling: limit, raiseAt: mono.Never}
}

// next returns the size to try, 0 if the search is over or a probe is in flight. The largest comes first:
// on most paths it passes.
func (m *mtuState) next() int {
	switch {
	case m.probing != 0 || m.high-m.low < mtuStep:
		return 0
	case m.high == m.ceiling:
		return m.high
	}
	return (m.low + m.high + 1) / 2
}

func (m *mtuState) onAcked(size int) bool {
	if size == m.probing {
		m.probing, m.lost = 0, 0
	}
	if size <= m.size {
		return false
	}
	m.size, m.low = size, size
	m.high = max(m.high, size)
	return true
}

func (m *mtuState) onLost(now mono.Time, size int) {
	if size != m.probing {
		return
	}
	m.probing = 0
	if m.lost++; m.lost < mtuProbes {
		return
	}
	m.lost = 0
	m.high = size - 1
	if m.high-m.low < mtuStep {
		m.raiseAt = now.Add(mtuRaiseAfter)
	}
}

// shrink goes back to the least after the path seems to swallow larger datagrams.
func (m *mtuState) shrink(now mono.Time) bool {
	if m.size == datagramMin {
		return false
	}
	m.size, m.low, m.high, m.probing, m.lost = datagramMin, datagramMin, datagramMin, 0, 0
	m.raiseAt = now.Add(mtuRaiseAfter)
	return true
}

func (m *mtuState) raise() { m.high, m.raiseAt = m.ceiling, mono.Never }
