//go:build linux

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// send offers n packets of 1,250 bytes at a rate and returns what arrived when.
func send(l *link, n int, every time.Duration) (arrivals []time.Duration) {
	for i := range n {
		if at, _ := l.offer(time.Duration(i)*every, 1250); at > 0 {
			arrivals = append(arrivals, at)
		}
	}
	return arrivals
}

func TestLink_SameSeedSameFate(t *testing.T) {
	c := linkConfig{Rate: 1e8, Queue: 375_000, Delay: time.Millisecond, Loss: 0.1, Burst: 3, Reorder: 0.1, Extra: time.Millisecond}
	a, b := send(newLink(c, 7, 1), 5000, time.Millisecond), send(newLink(c, 7, 1), 5000, time.Millisecond)
	assert.Equal(t, a, b)
	assert.NotEqual(t, a, send(newLink(c, 8, 1), 5000, time.Millisecond))
}

func TestLink_RateDelayAndQueue(t *testing.T) {
	l := newLink(linkConfig{Rate: 1e8, Queue: 375_000, Delay: 10 * time.Millisecond}, 1, 1)
	arrivals := send(l, 1000, 50*time.Microsecond) // twice the rate
	assert.InDelta(t, 10.1e6, float64(arrivals[0]), 1e3, "100 us on the line, 10 ms of way")
	assert.EqualValues(t, 1000-len(arrivals), l.stats.Dropped)
	assert.InDelta(t, 500+300, len(arrivals), 2, "what the line takes, and what the queue holds")
	for i, at := range arrivals[1:] {
		assert.InDelta(t, 1e5, float64(at-arrivals[i]), 1e3)
	}
}

func TestLink_Losses(t *testing.T) {
	for _, burst := range []float64{1, 4} {
		l := newLink(linkConfig{Rate: 1e9, Queue: 1 << 20, Loss: 0.05, Burst: burst}, 1, 1)
		runs, before := 0, false
		for i := range 200_000 {
			at, _ := l.offer(time.Duration(i)*time.Millisecond, 100)
			if at == 0 && !before {
				runs++
			}
			before = at == 0
		}
		assert.InDelta(t, 0.05, float64(l.stats.Lost)/200_000, 0.005)
		assert.InDelta(t, burst, float64(l.stats.Lost)/float64(runs), 0.15*burst)
	}
}

func TestLink_Duplicates(t *testing.T) {
	l := newLink(linkConfig{Rate: 1e9, Queue: 1 << 20, Duplicate: 1, Extra: time.Millisecond}, 1, 1)
	at, again := l.offer(0, 100)
	assert.Equal(t, time.Millisecond, again-at)
}
