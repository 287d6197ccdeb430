//go:build linux

package main

// This file changes if what the simulated link does to packets does.

import (
	"math/rand/v2"
	"time"
)

// linkConfig is one direction of a link.
type linkConfig struct {
	Rate      float64       // bits a second
	Queue     int           // bytes that may wait
	Delay     time.Duration // one way
	Loss      float64       // share of packets that are lost
	Burst     float64       // mean length of a run of losses; up to 1: each packet on its own
	Reorder   float64       // share that is held back for Extra
	Extra     time.Duration
	Duplicate float64
}

// linkStats count a direction's packets.
type linkStats struct {
	Packets, Bytes int64         // offered
	Lost, Dropped  int64         // by chance; by the full queue
	Waited         time.Duration // all packets' time in the queue; a dropped one's is what was before it
}

// link decides about each packet from a seed: the same packets at the same times fare alike.
type link struct {
	linkConfig
	rng   *rand.Rand
	free  time.Duration // when the line is idle again
	bad   bool          // within a run of losses
	stats linkStats
}

func newLink(c linkConfig, seed uint64, direction uint64) *link {
	return &link{linkConfig: c, rng: rand.New(rand.NewPCG(seed, direction))}
}

// offer takes a packet at time now and returns when it arrives, and when its duplicate does; 0: not
// at all.
func (l *link) offer(now time.Duration, size int) (at, again time.Duration) {
	l.stats.Packets++
	l.stats.Bytes += int64(size)
	backlog := max(l.free-now, 0)
	l.stats.Waited += backlog
	if backlog.Seconds()*l.Rate/8 > float64(l.Queue) {
		l.stats.Dropped++
		return 0, 0
	}
	l.free = max(l.free, now) + time.Duration(float64(size)*8/l.Rate*1e9)
	if l.lost() {
		l.stats.Lost++
		return 0, 0
	}
	at = l.free + l.Delay
	if l.Reorder > 0 && l.rng.Float64() < l.Reorder {
		at += l.Extra
	}
	if l.Duplicate > 0 && l.rng.Float64() < l.Duplicate {
		again = at + l.Extra
	}
	return at, again
}

// lost is Bernoulli's, or a chain of two states whose bad one lasts Burst packets on average.
func (l *link) lost() bool {
	if l.Loss <= 0 {
		return false
	}
	if l.Burst <= 1 {
		return l.rng.Float64() < l.Loss
	}
	if l.bad {
		l.bad = l.rng.Float64() >= 1/l.Burst
	} else {
		l.bad = l.rng.Float64() < l.Loss/(1-l.Loss)/l.Burst
	}
	return l.bad
}
