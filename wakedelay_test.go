package veloq

// Which sleeps are delayed, by what the earlier ones brought.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func delayOf(d time.Duration) *wakeDelay { return &wakeDelay{micros: uint32(d.Microseconds())} }

// sleeps lets n sleeps bring so many completions each, and returns how many were delayed.
func (d *wakeDelay) sleeps(n, completions int) (delayed int) {
	for range n {
		is := d.next(0) > 0
		if is {
			delayed++
		}
		d.learn(is, completions)
	}
	return delayed
}

func TestWakeDelay_OffNeverDelays(t *testing.T) {
	d := delayOf(0)
	assert.Zero(t, d.sleeps(100, 10))
	assert.Zero(t, d.sleeps(100, 1))
}

func TestWakeDelay_CrowdsAreWaitedFor(t *testing.T) {
	d := delayOf(time.Millisecond)
	assert.Equal(t, 1000, d.sleeps(1000, 2))
	assert.EqualValues(t, 1000, d.next(0))
}

// What comes alone waits in fewer than one of a hundred sleeps, so that it hardly shows in the latency.
func TestWakeDelay_LoneOnesSoonAreNot(t *testing.T) {
	d := delayOf(time.Millisecond)
	d.sleeps(100, 30)
	assert.LessOrEqual(t, d.sleeps(1000, 1), 20)
	assert.LessOrEqual(t, d.sleeps(100_000, 1), 1000)
	assert.NotZero(t, d.sleeps(2*delayPauseMax, 1), "and it is tried again")
}

func TestWakeDelay_ACrowdBringsItBack(t *testing.T) {
	d := delayOf(time.Millisecond)
	d.sleeps(10_000, 1)
	d.rest = delayPauseMax // in the middle of a pause
	assert.Zero(t, d.next(0))
	d.learn(false, 2)
	assert.NotZero(t, d.next(0))
}

// A sleep now and then that brings only one, as the first of a burst, changes nothing.
func TestWakeDelay_ForgivesSomeVainOnes(t *testing.T) {
	d := delayOf(time.Millisecond)
	d.sleeps(delayCreditMax, 20)
	for range 100 {
		assert.Equal(t, 1, d.sleeps(1, 1))
		assert.Equal(t, 1, d.sleeps(1, 20))
	}
}

func TestWakeDelay_NotBeforeWhatCompletesAtOnce(t *testing.T) {
	for kind, at := range map[opKind]bool{
		opRecv: true, opRecvPacket: true, opAccept: true, opConnect: true, opSend: true, opSendZC: true,
		opCancel: true, opShutdown: true, opClose: true, opWake: true,
		opPacket: false, opSendInline: false, opTimer: false,
	} {
		d := delayOf(time.Millisecond)
		d.noteStaged(kind)
		assert.Equal(t, at, d.next(0) == 0, "kind %d", kind)
	}
}

func TestWakeDelay_NotAfterARing(t *testing.T) {
	d := delayOf(time.Millisecond)
	d.rung = true
	assert.Zero(t, d.next(0))
	d.learn(false, 2)
	assert.NotZero(t, d.next(0), "once")
}

func TestWakeDelay_NoLongerThanTheTimer(t *testing.T) {
	d := delayOf(time.Millisecond)
	assert.Zero(t, d.next(clock()-1), "expired")
	assert.Zero(t, d.next(clock()), "just now")
	assert.LessOrEqual(t, d.next(clock()+int64(300*time.Microsecond)), uint32(300))
	assert.EqualValues(t, 1000, d.next(clock()+int64(time.Hour)))
}
