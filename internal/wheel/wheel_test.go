package wheel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// model is the wheel that is too slow to be wrong: a list of what is pending, searched from end to end.
type model struct {
	cur    int64 // ticks
	timers map[*Timer]int64
	// early says that Next may be early until the wheel is empty: a timer was removed or moved, or it
	// lay beyond the range.
	early bool
}

func ceilTick(when int64) int64 {
	tick := when / Tick
	if when > tick*Tick {
		tick++
	}
	return tick
}

// earliest returns the tick in which the next timer fires.
func (m *model) earliest() int64 {
	tick := int64(math.MaxInt64)
	for _, when := range m.timers {
		tick = min(tick, max(ceilTick(when), m.cur))
	}
	return tick
}

func (m *model) due(now int64) []*Timer {
	var due []*Timer
	for t, when := range m.timers {
		if ceilTick(when) <= now/Tick {
			due = append(due, t)
		}
	}
	return due
}

// pair drives a Wheel and a model side by side and compares them after each step.
type pair struct {
	t    *testing.T
	w    Wheel
	m    model
	now  int64
	pool []*Timer

	// The batch that is firing: what must still fire, and the last tick seen.
	batch map[*Timer]bool
	tick  int64
	// react runs in a callback, after the pair has checked it.
	react func(*Timer)
}

func newPair(t *testing.T, timers int, now int64) *pair {
	p := &pair{t: t, now: now, pool: make([]*Timer, timers)}
	p.w.Init(now)
	p.m = model{cur: now / Tick, timers: map[*Timer]int64{}}
	for i := range p.pool {
		p.pool[i] = &Timer{Fire: p.fired}
	}
	return p
}

func (p *pair) add(t *Timer, when int64) {
	if _, ok := p.m.timers[t]; ok {
		p.m.early = true
	}
	if ceilTick(when)-p.m.cur >= slotMask<<topShift {
		p.m.early = true
	}
	p.w.Add(t, when)
	p.m.timers[t] = when
	delete(p.batch, t)
	if !t.Pending() || t.When() != when {
		p.t.Fatalf("timer added for %d: pending %v, when %d", when, t.Pending(), t.When())
	}
}

func (p *pair) remove(t *Timer) {
	_, want := p.m.timers[t]
	if got := p.w.Remove(t); got != want {
		p.t.Fatalf("Remove says %v, want %v", got, want)
	}
	if t.Pending() {
		p.t.Fatal("pending after Remove")
	}
	if want {
		p.m.early = true
	}
	delete(p.m.timers, t)
	delete(p.batch, t)
}

func (p *pair) fired(t *Timer, now int64) {
	when, ok := p.m.timers[t]
	switch {
	case !ok:
		p.t.Fatal("an idle timer fired")
	case when > now:
		p.t.Fatalf("fired %d ns early", when-now)
	case !p.batch[t]:
		p.t.Fatalf("fired outside its batch: when %d, now %d", when, now)
	case t.Pending():
		p.t.Fatal("pending in its own callback")
	case ceilTick(when) < p.tick:
		p.t.Fatalf("tick %d fired after tick %d", ceilTick(when), p.tick)
	}
	// Timers that were late already when they were added come first, whatever their tick.
	if p.tick = ceilTick(when); p.tick <= p.m.cur {
		p.tick = math.MinInt64
	}
	delete(p.m.timers, t)
	delete(p.batch, t)
	if p.react != nil {
		p.react(t)
	}
}

func (p *pair) advance(now int64) {
	p.now = max(p.now, now)
	p.batch = map[*Timer]bool{}
	for _, t := range p.m.due(p.now) {
		p.batch[t] = true
	}
	p.tick = math.MinInt64
	p.w.Advance(now)
	if len(p.batch) != 0 {
		p.t.Fatalf("%d timers did not fire by %d", len(p.batch), p.now)
	}
	p.m.cur = p.now / Tick
	p.check()
}

func (p *pair) check() {
	if got, want := p.w.Pending(), len(p.m.timers); got != want {
		p.t.Fatalf("Pending %d, want %d", got, want)
	}
	if len(p.m.timers) == 0 {
		p.m.early = false
	}
	next, ok := p.w.Next()
	if ok != (len(p.m.timers) > 0) {
		p.t.Fatalf("Next says %v with %d pending", ok, len(p.m.timers))
	}
	if !ok {
		return
	}
	want := p.m.earliest()
	if want > math.MaxInt64/Tick {
		want = math.MaxInt64
	} else {
		want *= Tick
	}
	if next > want || !p.m.early && next != want {
		p.t.Fatalf("Next %d, want %d (or less: %v), %d ticks off", next, want, p.m.early, (want-next)/Tick)
	}
}

// Goal: the wheel and the model never differ. Method: random operations whose distances are spread
// evenly over the levels, so that each level and each border between two is used; callbacks add and
// remove as well.
func TestWheel_AgreesWithModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			// From 0 to 63 bits: a distance of any magnitude. Few timers find more in the corners.
			limit := 10 + rnd.IntN(50)
			start := rnd.Int64N(1 << (20 + rnd.IntN(36)))
			distance := func() int64 { return rnd.Int64N(1 << (1 + rnd.IntN(limit))) }
			p := newPair(t, 1+rnd.IntN(60), start)
			pick := func() *Timer { return p.pool[rnd.IntN(len(p.pool))] }
			act := func() {
				switch rnd.IntN(8) {
				case 0:
					p.remove(pick())
				case 1:
					p.add(pick(), max(0, p.now-distance()))
				case 2:
					// On a border: the first tick of a slot of some level, or next to it.
					shift := tickBits + levelBits*rnd.IntN(levels+1)
					border := (p.now>>shift + 1) << shift
					p.add(pick(), max(0, border+rnd.Int64N(3)-1))
				default:
					p.add(pick(), p.now+distance())
				}
			}
			p.react = func(*Timer) {
				for range rnd.IntN(3) {
					act()
				}
			}
			for range 3000 {
				if p.now > 1<<61 {
					break
				}
				switch rnd.IntN(6) {
				case 0:
					p.advance(p.now + distance())
				case 1:
					if next, ok := p.w.Next(); ok && next < 1<<61 {
						p.advance(next + rnd.Int64N(3) - 1)
					}
				default:
					act()
					p.check()
				}
			}
			p.react = nil
			p.advance(math.MaxInt64)
		})
	}
}

// Goal: a loop that sleeps until Next, as a worker does, fires each timer in exactly its tick and
// wakes for nothing else, when no timer is removed.
func TestWheel_SleepUntilNext(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	p := newPair(t, 2000, 12345*Tick+678)
	distinct := map[int64]bool{}
	for _, timer := range p.pool {
		when := p.now + Tick + rnd.Int64N(1<<(21+rnd.IntN(33)))
		p.add(timer, when)
		distinct[ceilTick(when)] = true
	}
	wakes := 0
	for p.w.Pending() > 0 {
		next, ok := p.w.Next()
		require.True(t, ok)
		before := p.w.Pending()
		p.advance(next)
		require.Less(t, p.w.Pending(), before, "a wake for nothing")
		wakes++
	}
	assert.Equal(t, len(distinct), wakes)
}

// Goal: idle deadlines that are pushed back on each request, which is what servers do, cost a wake
// now and then at most, though Next may be early after a removal.
func TestWheel_SleepUntilNext_DeadlinesPushedBack(t *testing.T) {
	const timeout = 60_000 * Tick
	p := newPair(t, 500, 1<<40)
	for _, timer := range p.pool {
		p.add(timer, p.now+timeout)
	}
	wakes := 0
	for i := range 50_000 {
		now := p.now + Tick
		if next, _ := p.w.Next(); next <= now {
			wakes++
			p.advance(now)
		}
		p.now = now
		p.add(p.pool[i%len(p.pool)], now+timeout)
	}
	assert.Less(t, wakes, 40, "one wake a slot of the level is fine, one a request is not")
}

// Goal: the first and last tick of the slots at every 64^k border, from both sides of the border.
func TestWheel_CascadeBorders(t *testing.T) {
	for level := 1; level <= levels+1; level++ {
		border := int64(1) << (level * levelBits)
		for _, from := range []int64{0, 1, border - 65, border - 64, border - 2, border - 1, border} {
			for _, to := range []int64{-1, 0, 1, 63, 64, 65, border - 1, border, border + 1} {
				if from < 0 || border+to <= from || border+to > math.MaxInt64/Tick {
					continue
				}
				for _, middle := range []int64{0, border - 1, border, border + to - 1} {
					p := newPair(t, 2, from*Tick)
					p.add(p.pool[0], (border+to)*Tick)
					p.add(p.pool[1], (border+to)*Tick-1)
					p.check()
					if middle > from && middle < border+to {
						p.advance(middle * Tick)
						require.Equal(t, 2, p.w.Pending())
					}
					p.advance((border+to)*Tick - 1)
					require.Equal(t, 2, p.w.Pending(), "early: from %d to %d", from, border+to)
					p.advance((border + to) * Tick)
					require.Zero(t, p.w.Pending(), "late: from %d to %d", from, border+to)
				}
			}
		}
	}
}

// Goal: a timer beyond the range does not hide a nearer one that was added later.
func TestWheel_BeyondRange(t *testing.T) {
	const span = int64(1) << (tickBits + levels*levelBits)
	p := newPair(t, 3, 0)
	p.add(p.pool[0], 5*span)
	p.add(p.pool[1], math.MaxInt64)
	p.check()
	p.advance(span / 2)
	p.add(p.pool[2], span+span/4)
	p.check()
	for wakes := 0; p.w.Pending() > 1; wakes++ {
		require.Less(t, wakes, 12, "a clamped timer wakes once a turn of the top level")
		next, _ := p.w.Next()
		p.advance(next)
	}
	p.advance(math.MaxInt64 - 1)
	assert.Equal(t, 1, p.w.Pending(), "a time in the last tick of int64 never comes")
	next, ok := p.w.Next()
	assert.True(t, ok)
	assert.LessOrEqual(t, next, int64(math.MaxInt64))
}

func TestWheel_ClockGoesBack(t *testing.T) {
	p := newPair(t, 2, 100*Tick)
	p.add(p.pool[0], 102*Tick)
	p.advance(50 * Tick)
	p.add(p.pool[1], 60*Tick)
	require.Equal(t, 2, p.w.Pending())
	p.advance(40 * Tick)
	assert.Equal(t, 1, p.w.Pending(), "the time that passed stays passed")
	p.advance(102 * Tick)
	assert.Zero(t, p.w.Pending())
}

func TestWheel_NegativeTimes(t *testing.T) {
	var w Wheel
	w.Init(math.MinInt64)
	var order []uint8
	fire := func(t *Timer, _ int64) { order = append(order, t.Kind) }
	timers := []Timer{{Kind: 2}, {Kind: 1}, {Kind: 3}, {Kind: 0}}
	for i, when := range []int64{-1, -Tick * 5000, 1, math.MinInt64} {
		timers[i].Fire = fire
		w.Add(&timers[i], when)
	}
	w.Advance(-1)
	assert.Equal(t, []uint8{0, 1}, order, "-1 rounds up to the tick of 0")
	w.Advance(Tick)
	assert.Equal(t, []uint8{0, 1, 2, 3}, order)
}

func TestTimer_AddsItselfInCallback(t *testing.T) {
	var w Wheel
	w.Init(0)
	fired := 0
	tm := Timer{}
	tm.Fire = func(t *Timer, now int64) {
		fired++
		w.Add(t, now)
	}
	w.Add(&tm, Tick)
	for i := range 3 {
		assert.Equal(t, 1, w.Advance(1000*Tick), "once an Advance, though it is due again at once")
		assert.Equal(t, i+1, fired)
		next, ok := w.Next()
		assert.True(t, ok)
		assert.LessOrEqual(t, next, 1000*Tick, "Next must not let the worker sleep")
	}
	assert.True(t, w.Remove(&tm))
	assert.Zero(t, w.Advance(1000*Tick))
}

// Goal: the callbacks of one batch may remove, move and keep one another.
func TestTimer_RemovesAndMovesItsBatch(t *testing.T) {
	var w Wheel
	w.Init(0)
	var order []uint8
	timers := make([]Timer, 6)
	for i := range timers {
		timers[i].Kind = uint8(i)
		timers[i].Fire = func(tm *Timer, now int64) {
			order = append(order, tm.Kind)
			if tm.Kind == 1 {
				assert.True(t, w.Remove(&timers[2]), "expired, not fired: still pending")
				assert.False(t, w.Remove(&timers[0]), "fired")
				w.Add(&timers[3], now+10*Tick)
				w.Add(&timers[0], now)
			}
		}
		w.Add(&timers[i], int64(1+i)*Tick)
	}
	assert.Equal(t, 4, w.Advance(50*Tick))
	assert.Equal(t, []uint8{0, 1, 4, 5}, order)
	order = nil
	assert.Equal(t, 1, w.Advance(50*Tick))
	assert.Equal(t, 1, w.Advance(60*Tick))
	assert.Equal(t, []uint8{0, 3}, order)
	assert.Zero(t, w.Pending())
}

func TestTimer_PanicInCallback(t *testing.T) {
	var w Wheel
	w.Init(0)
	fired := 0
	timers := make([]Timer, 3)
	for i := range timers {
		timers[i].Fire = func(*Timer, int64) {
			if fired++; fired == 1 {
				panic("first")
			}
		}
		w.Add(&timers[i], Tick)
	}
	assert.Panics(t, func() { w.Advance(Tick) })
	next, ok := w.Next()
	assert.True(t, ok)
	assert.LessOrEqual(t, next, Tick, "the rest of the batch is still due")
	assert.Equal(t, 2, w.Advance(Tick))
}

func TestWheel_Pop(t *testing.T) {
	var w Wheel
	w.Init(0)
	timers := make([]Timer, 3)
	for i := range timers {
		w.Add(&timers[i], int64(3-i)*Tick)
	}
	assert.Nil(t, w.Pop(), "nothing is due before Expire")
	w.Expire(2 * Tick)
	assert.Equal(t, 3, w.Pending())
	assert.Same(t, &timers[2], w.Pop())
	assert.Same(t, &timers[1], w.Pop())
	assert.Nil(t, w.Pop())
	assert.Equal(t, 1, w.Pending())
}

func TestTimer_Size(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(Timer{}), uintptr(48))
}

func TestWheel_NeverAllocates(t *testing.T) {
	var w Wheel
	w.Init(0)
	now := int64(0)
	timers := make([]Timer, 100)
	for i := range timers {
		timers[i].Fire = func(t *Timer, now int64) { w.Add(t, now+Tick) }
	}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for i := range timers {
			w.Add(&timers[i], now+int64(i*i)*Tick)
		}
		w.Remove(&timers[50])
		now += 70 * Tick
		w.Advance(now)
		_, _ = w.Next()
	}))
}

// Each operation is four bytes: what, which timer, and a distance as mantissa and exponent.
func FuzzWheel(f *testing.F) {
	f.Add([]byte{0, 0, 1, 20, 0, 1, 1, 26, 3, 0, 1, 26, 2, 0, 0, 0, 4, 0, 0, 0})
	f.Add([]byte{0, 0, 255, 55, 0, 1, 1, 62, 3, 0, 255, 48, 5, 0, 3, 20, 4, 0, 0, 0, 4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		p := newPair(t, 16, 0)
		for op := range slices.Chunk(ops, 4) {
			if len(op) < 4 || p.now > 1<<61 {
				break
			}
			timer := p.pool[op[1]%16]
			distance := int64(op[2]) << (op[3] % 54)
			switch op[0] % 6 {
			case 0, 1:
				p.add(timer, p.now+distance)
				p.check()
			case 2:
				p.remove(timer)
				p.check()
			case 3:
				p.advance(p.now + distance)
			case 4:
				if next, ok := p.w.Next(); ok && next < 1<<61 {
					p.advance(next)
				}
			case 5:
				// The next batch meddles with one of its own, or of a later one.
				p.react = func(*Timer) {
					if op[2]&1 != 0 {
						p.remove(timer)
					} else {
						p.add(timer, p.now+distance)
					}
				}
			}
		}
		p.react = nil
		p.advance(math.MaxInt64)
	})
}
