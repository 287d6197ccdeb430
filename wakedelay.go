package veloq

// When a sleeping worker lets completions wait for others, so that many of them wake it once.

import "time"

const (
	// wakeDelayMax is the longest Config.WakeDelay.
	wakeDelayMax = 10 * time.Millisecond
	// delayedCount is of how many completions a delayed sleep ends before its time: what a wake costs
	// is then shared by enough of them.
	delayedCount = 64
	// delayCreditMax is how many vain delays in a row a worker forgives.
	delayCreditMax = 4
	// delayPauseMax is after how many plain sleeps at most it tries again.
	delayPauseMax = 256
)

// wakeDelay decides which sleeps are delayed. What comes alone, as in a closed loop with one peer, has
// waited in vain: the worker then soon sleeps plainly, and tries again ever more rarely, or as soon as
// a plain sleep brings more than one completion.
type wakeDelay struct {
	micros uint32 // Config.WakeDelay; 0: never
	credit int
	rest   int // plain sleeps until the next try
	pause  int // how many there will be after it, if it is vain
	// prompt: something is staged that may complete within the crossing, which has then to return.
	prompt bool
	rung   bool // another thread rang during the last sleep, and may again
}

// noteStaged notes an op that is staged for the next crossing.
func (d *wakeDelay) noteStaged(kind opKind) {
	switch kind {
	case opSendInline, opPacket, opTimer: // quiet, or later
	default:
		d.prompt = true
	}
}

// next returns the delay of the next sleep in microseconds, 0 for none. armed is when the kernel's timer
// expires, if there is one: one that does so just before the kernel begins to wait does not end the
// wait, so that the delay must not be longer than that.
func (d *wakeDelay) next(armed int64) uint32 {
	switch {
	case d.micros == 0 || d.rest > 0 || d.prompt || d.rung:
		return 0
	case armed == 0:
		return d.micros
	}
	left := time.Duration(armed - clock()).Microseconds()
	return uint32(max(min(left, int64(d.micros)), 0))
}

// learn notes what a sleep brought.
func (d *wakeDelay) learn(delayed bool, completions int) {
	switch {
	case d.micros == 0:
	case completions > 1:
		d.credit, d.rest, d.pause = min(d.credit+1, delayCreditMax), 0, 1
	case !delayed:
		d.rest = max(d.rest-1, 0)
	case d.credit > 0:
		d.credit--
	default:
		d.credit = 0
		d.rest = max(d.pause, 1)
		d.pause = min(2*d.rest, delayPauseMax)
	}
	d.rung = false
}
