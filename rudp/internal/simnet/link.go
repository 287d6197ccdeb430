// Package simnet runs rudp's core on virtual time: seeded links between two endpoints, users that write and
// read by a script, and checks after every event. It is for tests only.
package simnet

// This file changes if what a link can do to datagrams does.

import (
	"math/rand/v2"
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// LinkConfig is one direction of a path. Zero values are a perfect link.
type LinkConfig struct {
	Rate      int64         // bytes/s with headers; 0: no limit
	Queue     int           // bytes that wait for the rate; 0: no limit
	Delay     time.Duration // one way
	Jitter    time.Duration // added at random, in order
	Loss      float64       // of datagrams
	BurstLoss float64       // of datagrams, in bursts of BurstMean
	BurstMean float64
	Duplicate float64
	Reorder   float64 // of datagrams, late by up to ReorderBy
	ReorderBy time.Duration
	Flip      float64 // of datagrams, one bit
	Truncate  float64 // of datagrams
	Outages   []Outage
	MTU       int // datagrams above are dropped; 0: no limit
	MarkAt    int // bytes queued from which datagrams are marked CE; 0: never
}

// Outage is a time in which nothing passes.
type Outage struct{ From, To mono.Time }

// burstMax is the silence after which a burst of losses is over: counted in datagrams alone, a burst would
// outlast any number of probes that back off.
const burstMax = 100 * time.Millisecond

// headers are those of IPv4 and UDP: they take time on the wire too.
const headers = 28

// LinkStats count datagrams and bytes, the latter with headers.
type LinkStats struct {
	Sent, SentBytes              uint64
	TailDropped, Lost, Delivered uint64
	Flipped, Duplicated          uint64
}

// link is one direction. deliver is called with each datagram's time of arrival.
type link struct {
	LinkConfig
	rng    *rand.Rand
	free   mono.Time // when the sender's side has sent all that waits
	last   mono.Time // the latest arrival in order
	bad    bool
	sent   mono.Time // when the last datagram met the chain of bursts
	stats  LinkStats
	script []bool // the fate of the first datagrams: true is lost
}

func (l *link) chance(p float64) bool { return p > 0 && l.rng.Float64() < p }

// lost decides a datagram's fate. Bursts are a chain of two states.
func (l *link) lost(now mono.Time, size int) bool {
	if len(l.script) > 0 {
		drop := l.script[0]
		l.script = l.script[1:]
		return drop
	}
	for _, o := range l.Outages {
		if now >= o.From && now < o.To {
			return true
		}
	}
	if l.BurstLoss > 0 {
		leave := 1 / l.BurstMean
		if now.Sub(l.sent) > burstMax {
			l.bad = false
		}
		l.sent = now
		if l.bad {
			l.bad = !l.chance(leave)
		} else {
			l.bad = l.chance(leave * l.BurstLoss / (1 - l.BurstLoss))
		}
		if l.bad {
			return true
		}
	}
	return l.chance(l.Loss) || l.MTU > 0 && size > l.MTU
}

// send takes a datagram; deliver gets it, or what became of it, with the time of its arrival.
func (l *link) send(now mono.Time, b []byte, deliver func(at mono.Time, b []byte, marked bool)) {
	size := len(b) + headers
	l.stats.Sent++
	l.stats.SentBytes += uint64(size)
	marked := false
	at := now
	if l.Rate > 0 {
		waiting := int(float64(max(l.free.Sub(now), 0)) * float64(l.Rate) / 1e9)
		if l.Queue > 0 && waiting+size > l.Queue {
			l.stats.TailDropped++
			return
		}
		marked = l.MarkAt > 0 && waiting > l.MarkAt
		l.free = max(l.free, now).Add(time.Duration(float64(size) / float64(l.Rate) * 1e9))
		at = l.free
	}
	// Loss is behind the bottleneck: a lost datagram took its time there too.
	if l.lost(now, len(b)) {
		l.stats.Lost++
		return
	}
	at = at.Add(l.Delay)
	if l.Jitter > 0 {
		at = at.Add(time.Duration(l.rng.Int64N(int64(l.Jitter))))
	}
	if l.chance(l.Reorder) {
		at = at.Add(time.Duration(l.rng.Int64N(int64(l.ReorderBy) + 1)))
	} else {
		at = max(at, l.last)
		l.last = at
	}
	if l.chance(l.Flip) {
		bit := l.rng.IntN(8 * len(b))
		b[bit/8] ^= 1 << (bit % 8)
		l.stats.Flipped++
	}
	if l.chance(l.Truncate) {
		b = b[:l.rng.IntN(len(b))]
	}
	l.stats.Delivered++
	deliver(at, b, marked)
	if l.chance(l.Duplicate) {
		l.stats.Duplicated++
		deliver(at.Add(time.Duration(l.rng.Int64N(int64(l.Delay)+1000))), append([]byte(nil), b...), marked)
	}
}
