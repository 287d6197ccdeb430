package veloq

// The watchdog: who keeps a worker for too long.

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Hog is a task or handler that has kept its worker for long.
type Hog struct {
	Worker int
	For    time.Duration // so far
	Name   string        // of Context.SetName; empty for handlers and tasks without one
	Stack  []byte        // of its goroutine, as runtime.Stack has it; nil where it can't be told apart
}

// String returns a report of some lines.
func (h *Hog) String() string {
	name := ""
	if h.Name != "" {
		name = fmt.Sprintf(" %q", h.Name)
	}
	return fmt.Sprintf("veloq: worker %d is kept by a task or handler%s for %v\n%s", h.Worker, name, h.For, h.Stack)
}

// watched is what a worker shows the watchdog. On a line of its own: the watchdog seldom reads it.
type watched struct {
	_     [64]byte
	on    bool          // constant
	knows bool          // whose goroutine is whose; constant
	beat  atomic.Uint64 // counts the turns
	sleep atomic.Bool   // in a wait of the kernel's
	hogs  atomic.Uint64

	mu    sync.Mutex
	byG   map[uintptr]*coroutine // whose goroutine it is; nil for the worker's own
	names map[uintptr]uint64     // the goroutine's number in stacks
}

// watchDefault is Config.WatchdogAfter where only OnHog is set.
const watchDefault = 100 * time.Millisecond

// introduce notes the number of the calling goroutine, co's or the worker's own.
func (wd *watched) introduce(g uintptr, co *coroutine) {
	if !wd.knows {
		return
	}
	var buf [64]byte
	n := goroutineNumber(buf[:runtime.Stack(buf[:], false)])
	wd.mu.Lock()
	defer wd.mu.Unlock()
	if wd.byG == nil {
		wd.byG, wd.names = map[uintptr]*coroutine{}, map[uintptr]uint64{}
	}
	wd.byG[g], wd.names[g] = co, n
}

// goroutineNumber reads the number in "goroutine 12 [running]:".
func goroutineNumber(stack []byte) uint64 {
	fields := bytes.Fields(stack)
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.ParseUint(string(fields[1]), 10, 64)
	return n
}

func (wd *watched) leave(g uintptr) {
	if !wd.knows {
		return
	}
	wd.mu.Lock()
	defer wd.mu.Unlock()
	delete(wd.byG, g)
	delete(wd.names, g)
}

// who returns the goroutine that runs on the worker and the name of its task.
func (w *worker) who() (number uint64, name string) {
	g := w.currentG.Load()
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	if co := w.watch.byG[g]; co != nil {
		if p := co.name.Load(); p != nil {
			name = *p
		}
	}
	return w.watch.names[g], name
}

// watchdog looks at the workers until the runtime has ended.
func (rt *Runtime) watchdog() {
	after := rt.config.WatchdogAfter
	period := min(max(after/4, time.Millisecond), time.Second)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	beats := make([]uint64, len(rt.workers))
	since := make([]time.Time, len(rt.workers))
	for i := range since {
		since[i] = time.Now()
	}
	told := make([]bool, len(rt.workers))
	for {
		var now time.Time
		select {
		case <-rt.closed:
			return
		case now = <-ticker.C:
		}
		for i, w := range rt.workers {
			beat := w.watch.beat.Load()
			if beat != beats[i] || w.watch.sleep.Load() || w.ended.Load() {
				beats[i], since[i], told[i] = beat, now, false
				continue
			}
			if now.Sub(since[i]) < after || told[i] {
				continue
			}
			told[i] = true
			rt.tellHog(w, beat, now.Sub(since[i]))
		}
	}
}

// tellHog reports the worker's hog, unless it has gone on meanwhile.
func (rt *Runtime) tellHog(w *worker, beat uint64, kept time.Duration) {
	number, name := w.who()
	hog := &Hog{Worker: w.id, For: kept, Name: name}
	if number != 0 {
		hog.Stack = stackOf(number)
	}
	if w.watch.beat.Load() != beat {
		return
	}
	w.watch.hogs.Add(1)
	if w.injector.len() > 0 {
		// Any worker that is awake steals before it sleeps.
		rt.workers[(w.id+1)%len(rt.workers)].post(&note{do: func(*worker) {}})
	}
	if rt.config.OnHog != nil {
		rt.config.OnHog(hog)
	}
}

// stackOf returns the stack of one goroutine out of all of them. It stops the world for a moment.
func stackOf(number uint64) []byte {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		if len(buf) >= 64<<20 {
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if goroutineNumber(stack[:min(len(stack), 64)]) == number {
			return append([]byte(nil), stack...)
		}
	}
	return nil
}
