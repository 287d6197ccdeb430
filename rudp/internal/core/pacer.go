package core

// This file changes if how packets are spread over time does.

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// pacer is a bucket that fills at the controller's rate. Packets leave in bursts of about a millisecond's
// worth, which is what a timer can hit and what one system call carries.
type pacer struct {
	budget float64 // bytes
	last   mono.Time
}

const pacerQuantum = time.Millisecond

func quantum(rate uint64, datagram int) float64 {
	return min(max(float64(rate)*pacerQuantum.Seconds(), float64(datagram)), 64<<10)
}

// fill brings the budget up to now. After silence it holds a burst of a few packets.
func (p *pacer) fill(now mono.Time, rate uint64, datagram int) {
	limit := max(2*quantum(rate, datagram), 10*float64(datagram))
	p.budget = min(p.budget+float64(rate)*max(now.Sub(p.last), 0).Seconds(), limit)
	p.last = now
}

// next returns when a burst may leave.
func (p *pacer) next(rate uint64, datagram int) mono.Time {
	missing := quantum(rate, datagram) - p.budget
	if missing <= 0 {
		return p.last
	}
	return p.last.Add(time.Duration(missing/float64(max(rate, 1))*1e9) + 1)
}
