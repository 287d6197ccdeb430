package congestion

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
)

const mss = 1200

// drive gives a controller rounds on a path of some rate: each sends a window at the controller's rate, and
// acknowledgments come as the path lets packets out. lose says what share of a round is lost.
func drive(cc recovery.Controller, rounds int, rtt time.Duration, rate uint64, lose func(round int) float64) {
	driveRuns(cc, rounds, rtt, func(int) uint64 { return rate }, 1, lose)
}

// driveRuns is drive on a path whose rate may change, with losses in runs of so many packets.
func driveRuns(
	cc recovery.Controller, rounds int, rtt time.Duration, rateAt func(round int) uint64, run int,
	lose func(round int) float64,
) {
	var r recovery.RTT
	now := mono.Time(time.Second)
	var delivered, pn uint64
	for round := range rounds {
		window, rate := cc.Window(), rateAt(round)
		packets := max(window/mss, 1)
		lost := uint64(float64(packets) * lose(round))
		pace := min(cc.Rate(), rate)
		each := time.Duration(mss / float64(pace) * 1e9)
		queue := time.Duration(0)
		if cc.Rate() > rate {
			bdp := float64(rate) * rtt.Seconds()
			queue = time.Duration(max(float64(window)-bdp, 0) / float64(rate) * 1e9)
		}
		prior, sent := delivered, now
		for range packets {
			pn++
			cc.OnSent(now, pn, mss, window)
		}
		now = now.Add(rtt)
		for i := range packets - lost {
			now = now.Add(each)
			delivered += mss
			took := rtt + queue
			r.Update(took, 0)
			s := recovery.Sample{
				Now: now, Acked: mss, RTT: took, Delivered: delivered, PriorDelivered: prior, Prior: window - i*mss,
				InFlight: window - (i+1)*mss, TxInFlight: window, Largest: pn - packets + i + 1, SentAt: sent,
				Rate: min(uint64(float64((packets-lost)*mss)/rtt.Seconds()), uint64(float64(pace)*(1-lose(round)))),
			}
			lossAt := mono.Time(-1)
			if i == 0 && lost > 0 {
				s.Lost, s.LostRuns, lossAt = lost*mss, (int(lost)+run-1)/run, sent
			}
			cc.OnAck(&s, &r, lossAt, false)
		}
	}
}

func TestNew(t *testing.T) {
	assert.NotNil(t, New("", mss, 1))
	assert.NotNil(t, New(BBRName, mss, 1))
	assert.NotNil(t, New(CubicName, mss, 1))
	assert.Nil(t, New("vegas", mss, 1))
	assert.Equal(t, uint64(32*mss), New(BBRName, mss, 1).Window())
	assert.Equal(t, uint64(32*mss), New(CubicName, mss, 1).Window())
}

func TestBBR_FindsTheRateAndKeepsIt(t *testing.T) {
	const rate = 12_500_000
	for _, loss := range []float64{0, 0.05, 0.10} {
		b := newBBR(mss, 3)
		drive(b, 60, 20*time.Millisecond, rate, func(int) float64 { return loss })
		assert.True(t, b.filled, "startup is over")
		assert.InEpsilon(t, rate, b.bw.get(), 0.15, "loss %v", loss)
		assert.Zero(t, b.ceiling, "loss below the ceiling moves nothing")
	}
}

func TestBBR_CeilingOnLoss(t *testing.T) {
	from := func(first int) func(int) float64 {
		return func(round int) float64 {
			if round >= first {
				return 0.5
			}
			return 0
		}
	}
	const rate, rtt = 12_500_000, 20 * time.Millisecond
	clean, cut := newBBR(mss, 3), newBBR(mss, 3)
	drive(clean, 43, rtt, rate, from(100))
	drive(cut, 43, rtt, rate, from(40))
	assert.Zero(t, clean.ceiling)
	assert.NotZero(t, cut.ceiling)
	assert.Less(t, cut.Window(), clean.Window())
	before := cut.undoCeiling
	cut.OnSpurious(0, cut.undoAt)
	assert.Equal(t, before, cut.ceiling, "the losses were none")
	assert.Equal(t, mono.Time(never), cut.undoAt, "undone once")
}

// A few long runs of losses in one round are chance; the same in two rounds in a row is the path.
func TestBBR_CeilingNotByOneBurst(t *testing.T) {
	const rate, rtt = 12_500_000, 20 * time.Millisecond
	in := func(rounds ...int) func(int) float64 {
		return func(round int) float64 {
			if slices.Contains(rounds, round) {
				return 0.3
			}
			return 0
		}
	}
	for _, c := range []struct {
		name string
		run  int
		lose func(int) float64
		cut  bool
	}{
		{"one round, few runs", 100, in(2), false},
		{"one round, many runs", 1, in(40), true},
		{"two rounds apart, few runs", 100, in(2, 4), false},
		{"two rounds in a row, few runs", 100, in(40, 41), true},
	} {
		b := newBBR(mss, 3)
		driveRuns(b, 43, rtt, func(int) uint64 { return rate }, c.run, c.lose)
		assert.Equal(t, c.cut, b.ceiling != 0, c.name)
		assert.InEpsilon(t, rate, b.bw.get(), 0.15, c.name)
	}
}

// A probe that finds more goes on: a path that grows tenfold is known after twenty rounds.
func TestBBR_ProbesOnWhileThereIsMore(t *testing.T) {
	const little, rtt = 1_250_000, 20 * time.Millisecond
	b := newBBR(mss, 3)
	driveRuns(b, 50, rtt, func(round int) uint64 {
		if round < 30 {
			return little
		}
		return 10 * little
	}, 1, func(int) float64 { return 0 })
	assert.InEpsilon(t, 10*little, b.bw.get(), 0.15)
}

func TestCubic_CutsAndRecovers(t *testing.T) {
	c := newCubic(mss)
	c.ssthresh, c.window = 100*mss, 100*mss
	drive(c, 1, 50*time.Millisecond, 12_500_000, func(int) float64 { return 0.05 })
	assert.InDelta(t, 70*mss, c.window, 10*mss, "β is 0.7, and a round is one cut")
	cut := c.window
	drive(c, 40, 50*time.Millisecond, 12_500_000, func(int) float64 { return 0 })
	assert.Greater(t, c.window, cut*1.2, "back towards the old window, and beyond")
}

func TestCubic_SpuriousLossIsUndone(t *testing.T) {
	c := newCubic(mss)
	c.ssthresh, c.window = 100*mss, 100*mss
	c.cut(1000)
	assert.InDelta(t, 70*mss, c.window, 1)
	c.OnSpurious(2000, 900)
	assert.InDelta(t, 100*mss, c.window, 1)
	c.OnSpurious(3000, 900)
	assert.InDelta(t, 100*mss, c.window, 1, "once")
}

// HyStart++ ends slow start when round-trip times grow, before anything is lost.
func TestCubic_HyStart(t *testing.T) {
	c := newCubic(mss)
	drive(c, 30, 50*time.Millisecond, 2_500_000, func(int) float64 { return 0 })
	assert.Less(t, c.ssthresh, 1e9, "slow start is over without a loss")
	bdp := 2_500_000 * 0.05
	assert.Less(t, c.ssthresh, 4*bdp)
}

func TestCubic_PersistentCongestion(t *testing.T) {
	c := newCubic(mss)
	c.OnAck(&recovery.Sample{Now: 10, Lost: mss}, &recovery.RTT{}, 5, true)
	assert.Equal(t, uint64(2*mss), c.Window())
}

func TestMaxFilter(t *testing.T) {
	f := maxFilter{rounds: 10}
	for round, v := range []uint64{5, 9, 3, 4, 4, 2, 2, 1, 1, 1, 1, 1} {
		f.update(uint64(round), v)
	}
	assert.Equal(t, uint64(9), f.get())
	f.update(12, 1)
	assert.Less(t, f.get(), uint64(9), "the best is older than ten rounds")
	f.update(13, 7)
	assert.Equal(t, uint64(7), f.get())
}
