package congestion

// This file changes if CUBIC (RFC 9438) or its slow start, HyStart++ (RFC 9406), does.

import (
	"math"
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
)

const (
	cubicC    = 0.4 // packets/s³
	cubicBeta = 0.7
	// cubicAlpha makes the Reno-friendly region average Reno's window: 3(1-β)/(1+β).
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta)

	hystartMinRTT  = 4 * time.Millisecond
	hystartMaxRTT  = 16 * time.Millisecond
	hystartSamples = 8
	hystartDivisor = 4
	hystartCSS     = 5 // rounds
	hystartLimit   = 8 // datagrams by which one acknowledgment may grow the window
)

type cubic struct {
	datagram float64
	window   float64 // bytes
	ssthresh float64
	wMax     float64
	k        float64 // seconds to wMax
	epoch    mono.Time
	wEst     float64
	srtt     time.Duration

	recoveryFrom mono.Time // losses of packets sent before don't count again
	undo         struct {
		at                              mono.Time
		window, ssthresh, wMax, k, wEst float64
		epoch                           mono.Time
	}
	hystart hystart
}

func newCubic(datagram int) *cubic {
	c := &cubic{datagram: float64(datagram), ssthresh: math.MaxFloat64, epoch: never, recoveryFrom: never}
	c.window = initialPackets * c.datagram
	c.undo.at = never
	c.hystart.reset()
	return c
}

func (c *cubic) SetDatagram(size int) {
	c.datagram = float64(size)
	c.window = max(c.window, minPackets*c.datagram)
}

func (c *cubic) Window() uint64 { return uint64(c.window) }

func (c *cubic) Rate() uint64 {
	rtt := c.srtt
	if rtt == 0 {
		rtt = recovery.InitialRTT
	}
	gain := 1.25
	if c.window < c.ssthresh {
		gain = 2
	}
	return perSecond(uint64(gain*c.window), rtt)
}

func (c *cubic) OnSent(_ mono.Time, pn uint64, _ int, _ uint64) { c.hystart.sent = pn }

func (c *cubic) OnAck(s *recovery.Sample, rtt *recovery.RTT, lossSentAt mono.Time, persistent bool) {
	c.srtt = rtt.SmoothedOr()
	if s.CE {
		lossSentAt = max(lossSentAt, s.SentAt)
	}
	if lossSentAt >= 0 && lossSentAt > c.recoveryFrom {
		c.cut(s.Now)
	}
	if persistent {
		c.window = minPackets * c.datagram
		c.recoveryFrom, c.epoch = s.Now, never
		return
	}
	if s.Acked == 0 || s.SentAt <= c.recoveryFrom || s.AppLimited && s.Prior < uint64(c.window/2) {
		return
	}
	if c.window < c.ssthresh {
		c.slowStart(s)
		return
	}
	c.avoid(s)
}

func (c *cubic) slowStart(s *recovery.Sample) {
	divisor := c.hystart.onAck(s)
	c.window += min(float64(s.Acked), hystartLimit*c.datagram) / divisor
	if c.hystart.done {
		c.ssthresh = c.window
	}
}

func (c *cubic) avoid(s *recovery.Sample) {
	if c.epoch == never {
		c.epoch = s.Now
		c.wEst = c.window
		c.k = math.Cbrt(max(c.wMax-c.window, 0) / c.datagram / cubicC)
		c.wMax = max(c.wMax, c.window)
	}
	t := s.Now.Sub(c.epoch).Seconds() + c.srtt.Seconds()
	target := c.wMax + cubicC*math.Pow(t-c.k, 3)*c.datagram
	target = min(max(target, c.window), 1.5*c.window)
	alpha := cubicAlpha
	if c.wEst >= c.wMax {
		alpha = 1
	}
	c.wEst += alpha * float64(s.Acked) / c.window * c.datagram
	c.window += (target - c.window) * float64(s.Acked) / c.window
	c.window = max(c.window, c.wEst)
}

func (c *cubic) cut(now mono.Time) {
	u := &c.undo
	u.at, u.window, u.ssthresh, u.wMax = now, c.window, c.ssthresh, c.wMax
	u.k, u.wEst, u.epoch = c.k, c.wEst, c.epoch
	c.recoveryFrom = now
	if c.window < c.wMax {
		c.wMax = c.window * (1 + cubicBeta) / 2 // fast convergence
	} else {
		c.wMax = c.window
	}
	c.window = max(c.window*cubicBeta, minPackets*c.datagram)
	c.ssthresh = c.window
	c.epoch = never
}

func (c *cubic) OnSpurious(now, sentAt mono.Time) {
	u := &c.undo
	if u.at == never || sentAt > u.at {
		return
	}
	c.window, c.ssthresh, c.wMax = max(c.window, u.window), u.ssthresh, u.wMax
	c.k, c.wEst, c.epoch = u.k, u.wEst, u.epoch
	c.recoveryFrom = min(c.recoveryFrom, u.at-1)
	u.at = never
}

// hystart ends slow start when round-trip times grow, and doubts for a few rounds before that.
type hystart struct {
	sent, roundEnd  uint64
	lastMin, curMin time.Duration
	samples         int
	css             bool
	cssBaseline     time.Duration
	cssRounds       int
	done            bool
}

const noRTT = time.Duration(math.MaxInt64)

func (h *hystart) reset() { h.lastMin, h.curMin = noRTT, noRTT }

// onAck returns by what growth must be divided.
func (h *hystart) onAck(s *recovery.Sample) float64 {
	if s.Largest >= h.roundEnd {
		h.lastMin, h.curMin, h.samples = h.curMin, noRTT, 0
		h.roundEnd = h.sent + 1
		if h.css {
			h.cssRounds++
			h.done = h.cssRounds >= hystartCSS
		}
	}
	if s.RTT > 0 {
		h.curMin = min(h.curMin, s.RTT)
		h.samples++
	}
	if h.samples >= hystartSamples && h.curMin != noRTT && h.lastMin != noRTT {
		grown := h.lastMin + min(max(h.lastMin/8, hystartMinRTT), hystartMaxRTT)
		switch {
		case !h.css && h.curMin >= grown:
			h.css, h.cssBaseline, h.cssRounds = true, h.curMin, 0
		case h.css && h.curMin < h.cssBaseline:
			h.css = false
		}
	}
	if h.css {
		return hystartDivisor
	}
	return 1
}
