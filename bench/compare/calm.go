package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"
)

// othersMax is how much CPU (of one CPU) other processes may take before a sample counts as
// disturbed.
const othersMax = 0.10

// waitCalm returns once this otherwise idle machine is quiet, or when patience ends.
func waitCalm(ctx context.Context, patience time.Duration) {
	const step = 300 * time.Millisecond
	for end := time.Now().Add(patience); time.Now().Before(end); {
		from, before := time.Now(), busyTime()
		select {
		case <-ctx.Done():
			return
		case <-time.After(step):
		}
		if float64(busyTime()-before) <= othersMax*float64(time.Since(from)) {
			return
		}
	}
}

// busyTime is the CPU time that all processes have used; 0 where /proc/stat does not tell.
func busyTime() time.Duration {
	const tick = 10 * time.Millisecond
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		// user nice system idle iowait irq softirq, after the name
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// calm keeps the undisturbed samples, or all of them when there is none.
func calm(samples []sample) []sample {
	var out []sample
	for _, s := range samples {
		if s.OthersShare <= othersMax {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return samples
	}
	return out
}
