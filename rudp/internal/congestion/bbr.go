package congestion

// This file changes if the model of the path, or how it is probed, does.

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
)

type phase uint8

const (
	startup phase = iota
	drain
	probeBW
	probeRTT
)

const (
	startupGain  = 2.885 // 2/ln 2: the least that doubles the rate each round
	drainGain    = 1 / startupGain
	windowGain   = 2.0
	bwRounds     = 10
	fullGrowth   = 1.25 // growth below this for fullRounds rounds means that the path is full
	fullRounds   = 3
	probeGrowth  = 1.1 // of the bandwidth by a probe: it goes on then
	minRTTFor    = 10 * time.Second
	probeRTTFor  = 200 * time.Millisecond
	pacingMargin = 0.99
	lossCeiling  = 0.20 // of a round's bytes: beyond it loss is taken for congestion
	lossPackets  = 8    // in a round that can be judged
	lossRuns     = 12   // fewer in one round say more of chance than of the path: two in a row are needed
	lossCut      = 0.7
	extraRounds  = 10
)

// gains of ProbeBW: ask for more, give it back, cruise.
var gains = [...]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

// bbr models the path by its bandwidth (the most delivered in a round of late) and its round-trip time
// (the least of late), paces at the one and keeps a multiple of their product in flight. Loss moves
// nothing until a round loses more than the ceiling: then the flight is capped to what got through.
type bbr struct {
	datagram uint64
	phase    phase
	bw       maxFilter // bytes/s
	extra    maxFilter // bytes acknowledged beyond what the bandwidth explains: aggregation
	minRTT   time.Duration
	minRTTAt mono.Time

	round          uint64
	roundDelivered uint64 // a packet sent from here on ends the round
	roundLost      uint64
	roundRuns      int  // of losses
	lossy          bool // the last round was beyond the ceiling by too few runs
	roundAcked     uint64
	roundStart     bool

	fullBW    uint64
	fullCount int
	filled    bool

	pacingGain, gain float64
	cycle            int
	cycleAt          mono.Time
	cycleBW          uint64 // when this part of the cycle began
	cycleLost        bool

	probeDoneAt mono.Time
	probeRound  bool
	idleRestart bool

	window, priorWindow uint64
	ceiling             uint64 // on the flight, set by loss; 0: none
	undoCeiling         uint64
	undoBW              maxFilter
	undoAt              mono.Time // when the packets of the last cut were sent; never

	ackEpochAt    mono.Time
	ackEpochBytes uint64
	rate          uint64
	paced         bool // rate follows a round-trip time that was measured
	seed          uint64
}

func newBBR(datagram int, seed uint64) *bbr {
	b := &bbr{
		datagram: uint64(datagram), seed: seed, phase: startup,
		pacingGain: startupGain, gain: windowGain, probeDoneAt: never, undoAt: never,
	}
	b.bw.rounds, b.extra.rounds = bwRounds, extraRounds
	b.window = initialPackets * b.datagram
	b.rate = perSecond(b.window, recovery.InitialRTT)
	return b
}

func (b *bbr) SetDatagram(size int) {
	b.datagram = uint64(size)
	b.window = max(b.window, minPackets*2*b.datagram)
}

func (b *bbr) Window() uint64 {
	w := b.window
	if b.phase == probeRTT {
		w = min(w, b.probeWindow())
	}
	if b.ceiling != 0 {
		w = min(w, b.ceiling)
	}
	return max(w, minPackets*2*b.datagram)
}

func (b *bbr) Rate() uint64 { return b.rate }

func (b *bbr) OnSent(_ mono.Time, _ uint64, size int, inFlight uint64) {
	if inFlight == uint64(size) && b.phase == probeBW {
		b.idleRestart = true
	}
}

// bdp is the bandwidth-delay product in bytes times gain; the window before there is a model.
func (b *bbr) bdp(gain float64) uint64 {
	if b.minRTT == 0 || b.bw.get() == 0 {
		return uint64(gain * float64(initialPackets*b.datagram))
	}
	return uint64(gain * float64(b.bw.get()) * b.minRTT.Seconds())
}

// inflight is bdp with room for what is sent and acknowledged in bursts.
func (b *bbr) inflight(gain float64) uint64 {
	return b.bdp(gain) + 3*b.quantum()
}

// quantum is what leaves at once: a millisecond's worth, 2 packets to 64 KiB.
func (b *bbr) quantum() uint64 {
	return min(max(b.rate/1000, 2*b.datagram), 64<<10)
}

func (b *bbr) probeWindow() uint64 { return max(b.bdp(0.5), 4*b.datagram) }

func (b *bbr) OnAck(s *recovery.Sample, rtt *recovery.RTT, _ mono.Time, persistent bool) {
	b.countRound(s)
	b.judgeLoss(s)
	if s.Rate > 0 && (!s.AppLimited || s.Rate >= b.bw.get()) {
		b.bw.update(b.round, s.Rate)
	}
	b.countExtra(s)
	b.checkFull(s)
	b.checkPhase(s)
	b.updateMinRTT(s)
	b.setRate(rtt)
	b.setWindow(s)
	if persistent {
		b.priorWindow = max(b.priorWindow, b.window)
		b.window = minPackets * 2 * b.datagram
	}
	b.idleRestart = false
}

func (b *bbr) countRound(s *recovery.Sample) {
	b.roundLost += s.Lost
	b.roundRuns += s.LostRuns
	b.roundAcked += s.Acked
	b.roundStart = false
	if s.Acked > 0 && s.PriorDelivered >= b.roundDelivered {
		b.roundDelivered = s.Delivered
		b.round++
		b.roundStart = true
	}
}

// judgeLoss is the ceiling, held against each round as a whole. A loss rate below it is the path's nature;
// above it the queue is too short for what is in flight, or the path has shrunk: no more than got through
// in the round is tried for now.
func (b *bbr) judgeLoss(s *recovery.Sample) {
	if !b.roundStart {
		return
	}
	lost, acked, runs := b.roundLost, b.roundAcked, b.roundRuns
	b.roundLost, b.roundAcked, b.roundRuns = 0, 0, 0
	beyond := lost >= lossPackets*b.datagram && float64(lost) > lossCeiling*float64(lost+acked)
	again := b.lossy
	b.lossy = beyond && !again
	if !beyond || runs < lossRuns && !again {
		return
	}
	if b.undoAt == never || s.SentAt > b.undoAt {
		b.undoAt, b.undoCeiling, b.undoBW = s.SentAt, b.ceiling, b.bw
	}
	b.ceiling = max(acked, uint64(lossCut*float64(s.TxInFlight)), 4*b.datagram)
	b.cycleLost = true
	if b.phase == startup {
		b.fill()
	}
}

// countExtra measures how far acknowledgments run ahead of the bandwidth, because they come in bursts.
func (b *bbr) countExtra(s *recovery.Sample) {
	if b.bw.get() == 0 || s.Acked == 0 {
		return
	}
	expected := uint64(float64(b.bw.get()) * s.Now.Sub(b.ackEpochAt).Seconds())
	if b.ackEpochBytes <= expected || b.ackEpochBytes > 1<<24 {
		b.ackEpochAt, b.ackEpochBytes, expected = s.Now, 0, 0
	}
	b.ackEpochBytes += s.Acked
	b.extra.update(b.round, min(b.ackEpochBytes-min(expected, b.ackEpochBytes), b.bdp(1)))
}

func (b *bbr) checkFull(s *recovery.Sample) {
	if b.filled || !b.roundStart || s.AppLimited {
		return
	}
	if float64(b.bw.get()) >= float64(b.fullBW)*fullGrowth {
		b.fullBW, b.fullCount = b.bw.get(), 0
		return
	}
	b.fullCount++
	if b.fullCount >= fullRounds {
		b.fill()
	}
}

func (b *bbr) fill() { b.filled = true }

func (b *bbr) checkPhase(s *recovery.Sample) {
	switch {
	case b.phase == startup && b.filled:
		b.phase, b.pacingGain, b.gain = drain, drainGain, windowGain
	case b.phase == drain && s.InFlight <= b.inflight(1):
		b.enterProbeBW(s.Now)
	case b.phase == probeBW:
		b.advanceCycle(s)
	}
}

func (b *bbr) enterProbeBW(now mono.Time) {
	b.phase, b.gain = probeBW, windowGain
	// Any phase but the one that drains what was never asked for.
	b.cycle = int(b.seed % uint64(len(gains)-1))
	if b.cycle >= 1 {
		b.cycle++
	}
	b.seed = b.seed*6364136223846793005 + 1442695040888963407
	b.cycleAt, b.cycleBW, b.pacingGain = now, b.bw.get(), gains[b.cycle]
}

func (b *bbr) advanceCycle(s *recovery.Sample) {
	elapsed := s.Now.Sub(b.cycleAt) > b.minRTT
	switch gain := gains[b.cycle]; {
	case gain > 1:
		if !elapsed || s.Prior < b.inflight(gain) && !b.cycleLost && s.Now.Sub(b.cycleAt) < 3*b.minRTT {
			return
		}
		if !b.cycleLost && float64(b.bw.get()) >= probeGrowth*float64(b.cycleBW) {
			// There was more, and there may be more still: the path has grown, or startup ended too early.
			b.cycleAt, b.cycleBW = s.Now, b.bw.get()
			b.liftCeiling()
			return
		}
	case gain < 1:
		if !elapsed && s.InFlight > b.inflight(1) {
			return
		}
	case !elapsed:
		return
	}
	b.cycle = (b.cycle + 1) % len(gains)
	b.cycleAt, b.cycleBW, b.cycleLost = s.Now, b.bw.get(), false
	b.pacingGain = gains[b.cycle]
	if b.cycle == 0 {
		b.liftCeiling()
	}
}

// liftCeiling asks again: a ceiling that still holds is found again.
func (b *bbr) liftCeiling() {
	b.ceiling += b.ceiling / 4
	if b.ceiling > 2*b.inflight(windowGain) {
		b.ceiling = 0
	}
}

func (b *bbr) updateMinRTT(s *recovery.Sample) {
	expired := b.minRTT != 0 && s.Now.Sub(b.minRTTAt) > minRTTFor
	if s.RTT > 0 && (b.minRTT == 0 || s.RTT <= b.minRTT || expired) {
		b.minRTT, b.minRTTAt = s.RTT, s.Now
	}
	if expired && b.phase != probeRTT && !b.idleRestart {
		b.priorWindow = b.window
		b.phase, b.pacingGain, b.gain = probeRTT, 1, 1
		b.probeDoneAt = never
	}
	if b.phase != probeRTT {
		return
	}
	switch {
	case b.probeDoneAt == never:
		if s.InFlight <= b.probeWindow() {
			b.probeDoneAt = s.Now.Add(max(probeRTTFor, b.minRTT))
			b.probeRound = false
			b.roundDelivered = s.Delivered
		}
	default:
		b.probeRound = b.probeRound || b.roundStart
		if b.probeRound && s.Now > b.probeDoneAt {
			b.minRTTAt = s.Now
			b.window = max(b.window, b.priorWindow)
			if b.filled {
				b.enterProbeBW(s.Now)
			} else {
				b.phase, b.pacingGain, b.gain = startup, startupGain, windowGain
			}
		}
	}
}

func (b *bbr) setRate(rtt *recovery.RTT) {
	bw := b.bw.get()
	if bw == 0 {
		return
	}
	if !b.paced && rtt.Sampled() {
		// The first window goes within a fraction of the first round trip that was measured.
		b.paced = true
		b.rate = max(b.rate, uint64(startupGain*float64(perSecond(b.window, rtt.Smoothed))))
	}
	rate := uint64(b.pacingGain * pacingMargin * float64(bw))
	if b.pacingGain > 1 {
		rate = uint64(b.pacingGain * float64(bw))
	}
	if b.filled || rate > b.rate || b.phase == probeRTT {
		b.rate = rate
	}
}

func (b *bbr) setWindow(s *recovery.Sample) {
	target := b.inflight(b.gain)
	if b.filled {
		target += b.extra.get()
		b.window = min(b.window+s.Acked, target)
	} else if b.window < target || s.Delivered < initialPackets*b.datagram {
		b.window += s.Acked
	}
	b.window = max(b.window, 2*minPackets*b.datagram)
}

func (b *bbr) OnSpurious(_, sentAt mono.Time) {
	if b.undoAt != never && sentAt >= b.undoAt {
		b.ceiling, b.bw, b.undoAt = b.undoCeiling, b.undoBW, never
	}
}

// maxFilter keeps the largest value of the last rounds: the best, and the best since each of them.
type maxFilter struct {
	rounds uint64
	best   [3]struct{ round, value uint64 }
}

func (f *maxFilter) get() uint64 { return f.best[0].value }

func (f *maxFilter) update(round, value uint64) {
	type entry = struct{ round, value uint64 }
	now := entry{round, value}
	if value >= f.best[0].value || round-f.best[2].round > f.rounds {
		f.best = [3]entry{now, now, now}
		return
	}
	if value >= f.best[1].value {
		f.best[1], f.best[2] = now, now
	} else if value >= f.best[2].value {
		f.best[2] = now
	}
	switch age := round - f.best[0].round; {
	case age > f.rounds:
		f.best = [3]entry{f.best[1], f.best[2], now}
		if round-f.best[0].round > f.rounds {
			f.best = [3]entry{f.best[1], f.best[2], now}
		}
	case f.best[1].round == f.best[0].round && age > f.rounds/4:
		f.best[1], f.best[2] = now, now
	case f.best[2].round == f.best[1].round && age > f.rounds/2:
		f.best[2] = now
	}
}
