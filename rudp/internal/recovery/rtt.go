// Package recovery is RFC 9002 without congestion control: round-trip times, the list of packets in
// flight, loss by packet and time thresholds, probe timeouts, and delivery-rate samples.
package recovery

// This file changes if the estimate of the round-trip time (RFC 9002, section 5) does.

import "time"

const (
	// InitialRTT is assumed before the first sample.
	InitialRTT  = 333 * time.Millisecond
	granularity = time.Millisecond
)

// RTT estimates the round-trip time of a path.
type RTT struct {
	Latest, Min, Smoothed, Var time.Duration
	sampled                    bool
}

// Update takes a sample. ackDelay is what the peer said it waited, at most its max_ack_delay.
func (r *RTT) Update(sample, ackDelay time.Duration) {
	r.Latest = sample
	if !r.sampled {
		r.sampled = true
		r.Min, r.Smoothed, r.Var = sample, sample, sample/2
		return
	}
	r.Min = min(r.Min, sample)
	if sample >= r.Min+ackDelay {
		sample -= ackDelay
	}
	r.Var = (3*r.Var + (r.Smoothed - sample).Abs()) / 4
	r.Smoothed = (7*r.Smoothed + sample) / 8
}

// Sampled says whether there was a sample.
func (r *RTT) Sampled() bool { return r.sampled }

// SmoothedOr returns the smoothed round-trip time, or InitialRTT before the first sample.
func (r *RTT) SmoothedOr() time.Duration {
	if !r.sampled {
		return InitialRTT
	}
	return r.Smoothed
}

// PTO returns the probe timeout without backoff: RFC 9002, section 6.2.1.
func (r *RTT) PTO(maxAckDelay time.Duration) time.Duration {
	if !r.sampled {
		return InitialRTT + 4*(InitialRTT/2) + maxAckDelay
	}
	return r.Smoothed + max(4*r.Var, granularity) + maxAckDelay
}
