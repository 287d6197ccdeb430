package recovery

// This file changes if delivery-rate sampling (draft-cheng-iccrg-delivery-rate-estimation) does.

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// rateState is what the sampler knew when a packet left.
type rateState struct {
	delivered   uint64 // bytes acknowledged by then
	lost        uint64
	deliveredAt mono.Time
	firstSent   mono.Time
	inFlight    uint64 // with the packet itself
	appLimited  bool
}

// Sample is what one acknowledgment tells about the path.
type Sample struct {
	Now   mono.Time
	Acked uint64 // bytes newly acknowledged
	Lost  uint64 // bytes newly declared lost
	// LostRuns is how many runs of packets in a row Lost consists of. A run that goes on where the last
	// one ended is not counted again.
	LostRuns int
	// InFlight is what remains in flight, Prior what was before.
	InFlight, Prior uint64
	// RTT is 0 if the acknowledgment gave no round-trip time.
	RTT time.Duration
	// Rate is the delivery rate in bytes/s, 0 if none could be taken. AppLimited says that the sender
	// had too little to send for it to show the path's capacity.
	Rate       uint64
	AppLimited bool
	// Delivered is the total, PriorDelivered the total when the newest acknowledged packet left: it
	// tells rounds apart. TxInFlight and LostSince are of that packet too.
	Delivered, PriorDelivered uint64
	TxInFlight, LostSince     uint64
	// CE says that the acknowledgment reported new congestion marks.
	CE bool
	// LargestAcked and LargestSent are numbers of the application's space: HyStart++ counts rounds by them.
	Largest uint64
	// SentAt is when the newest acknowledged packet left.
	SentAt mono.Time
}

// sampler turns acknowledgments into delivery rates.
type sampler struct {
	delivered   uint64
	lost        uint64
	deliveredAt mono.Time
	firstSent   mono.Time
	limitedTo   uint64 // samples up to here are limited by the application; 0: none
	newest      rateState
	newestSent  mono.Time
	newestPN    uint64
	any         bool
}

func (s *sampler) onSent(now mono.Time, p *Packet, inFlightBefore uint64) {
	if inFlightBefore == 0 {
		s.firstSent, s.deliveredAt = now, now
	}
	p.rate = rateState{
		delivered: s.delivered, lost: s.lost, deliveredAt: s.deliveredAt, firstSent: s.firstSent,
		inFlight: inFlightBefore + uint64(p.Size), appLimited: s.limitedTo != 0,
	}
}

func (s *sampler) begin() { s.any = false }

func (s *sampler) onAcked(now mono.Time, p *Packet) {
	s.delivered += uint64(p.Size)
	s.deliveredAt = now
	if !s.any || p.Sent > s.newestSent || p.Sent == s.newestSent && p.PN > s.newestPN {
		s.any = true
		s.newest, s.newestSent, s.newestPN = p.rate, p.Sent, p.PN
		s.firstSent = p.Sent
	}
}

// finish fills the sample's rate. minRTT guards against intervals too short to be real.
func (s *sampler) finish(now mono.Time, minRTT time.Duration, out *Sample) {
	if s.limitedTo != 0 && s.delivered > s.limitedTo {
		s.limitedTo = 0
	}
	out.Delivered = s.delivered
	if !s.any {
		return
	}
	out.PriorDelivered = s.newest.delivered
	out.AppLimited = s.newest.appLimited
	out.TxInFlight = s.newest.inFlight
	out.LostSince = s.lost - s.newest.lost
	out.SentAt = s.newestSent
	out.Largest = s.newestPN
	interval := max(s.newestSent.Sub(s.newest.firstSent), now.Sub(s.newest.deliveredAt))
	if interval <= 0 || interval < minRTT {
		return
	}
	out.Rate = uint64(float64(s.delivered-s.newest.delivered) / interval.Seconds())
}
