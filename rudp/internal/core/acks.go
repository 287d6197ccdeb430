package core

// This file changes if when or what is acknowledged does (RFC 9000, section 13.2).

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/wire"
)

const (
	ackRangesMax = 64
	ackEvery     = 2 // eliciting packets
	// ackDelay is the max_ack_delay that we announce; ackDelayExponent scales the field on the wire.
	ackDelay         = 10 * time.Millisecond
	ackDelayExponent = 3
)

// ackState is what one packet number space owes the peer.
type ackState struct {
	ranges    rangeSet
	floor     uint64 // below it every packet counts as seen
	largest   int64
	largestAt mono.Time // when it came
	eliciting int       // eliciting packets since the last ACK
	now       bool      // don't wait
	at        mono.Time // when an ACK is due; Never
	ecn       wire.ECNCounts
}

// seen says whether the packet came before, or is too old to tell.
func (a *ackState) seen(pn uint64) bool { return pn < a.floor || a.ranges.contains(pn) }

// onPacket records an authentic packet that was not seen.
func (a *ackState) onPacket(now mono.Time, pn uint64, ecn ECN, eliciting, atOnce bool) {
	inOrder := int64(pn) == a.largest+1
	a.ranges.add(wire.Range{Start: pn, End: pn + 1})
	if len(a.ranges) > ackRangesMax {
		a.floor = a.ranges[0].End
		a.ranges = a.ranges[:copy(a.ranges, a.ranges[1:])]
	}
	if int64(pn) > a.largest {
		a.largest, a.largestAt = int64(pn), now
	}
	switch ecn {
	case ECT0:
		a.ecn.ECT0++
	case ECT1:
		a.ecn.ECT1++
	case CE:
		a.ecn.CE++
	}
	if !eliciting {
		return
	}
	a.eliciting++
	if atOnce || !inOrder || ecn == CE || a.eliciting >= ackEvery {
		a.now = true
	}
	a.at = min(a.at, now.Add(ackDelay))
}

// due says that an ACK must go even if nothing else does.
func (a *ackState) due(now mono.Time) bool { return a.now || now >= a.at }

// append puts an ACK frame into b if one is owed and it fits.
func (a *ackState) append(b []byte, now mono.Time, exponent uint, room int) []byte {
	if a.eliciting == 0 || len(a.ranges) == 0 {
		a.eliciting, a.now, a.at = 0, false, mono.Never
		return b
	}
	delay := uint64(max(now.Sub(a.largestAt), 0)/time.Microsecond) >> exponent
	n := len(b)
	b = wire.AppendAck(b, a.ranges, delay, a.ecn, room)
	if len(b) > n {
		a.eliciting, a.now, a.at = 0, false, mono.Never
	}
	return b
}

// forget drops ranges up to pn: the peer knows that we have them.
func (a *ackState) forget(pn int64) {
	if pn >= 0 && uint64(pn)+1 > a.floor {
		a.floor = uint64(pn) + 1
		a.ranges.remove(wire.Range{Start: 0, End: a.floor})
	}
}
