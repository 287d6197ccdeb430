package veloq

// Stealing: tasks that have not begun wait where workers without work of their own may take them.

import "sync/atomic"

const (
	// injectorSize is how many tasks may wait to be stolen; what is spawned beyond stays on its worker.
	injectorSize = 256
	// stealMax is how many tasks a worker takes at once, of half of what it finds.
	stealMax = 16
	// stealLooks is how many other workers one looks at before it sleeps.
	stealLooks = 8
	// stealUrgent is how many waiting tasks call a thief whatever came of earlier calls.
	stealUrgent = 32
	// thiefPauseMax bounds the turns in which no worker is woken, after waking some was in vain.
	thiefPauseMax = 255
)

// injector is a worker's queue of tasks that have not begun: filled by its worker, emptied from the
// front by any. A place's pointer is cleared by the owner alone, in sweep: who takes a task can't
// tell whether its place has been filled anew.
type injector struct {
	_      [64]byte
	head   atomic.Uint64 // moved by who takes
	_      [56]byte
	tail   atomic.Uint64 // the owner's
	swept  uint64        // the owner's: places before it are cleared
	_      [48]byte
	places [injectorSize]atomic.Pointer[task]
}

// len returns how many tasks wait, at some moment. Any thread.
func (q *injector) len() int {
	head := q.head.Load() // first: whoever sees it sees a tail at or past it
	return int(q.tail.Load() - head)
}

// push adds a task; false if there is no place. The owner only.
func (q *injector) push(t *task) bool {
	tail := q.tail.Load()
	if tail-q.head.Load() == injectorSize {
		return false
	}
	q.places[tail%injectorSize].Store(t)
	if tail-q.swept >= injectorSize {
		q.swept = tail - injectorSize + 1 // what was there before is overwritten
	}
	q.tail.Store(tail + 1)
	return true
}

// grab takes up to len(out) tasks, and half of them at most where share is set. Any thread.
func (q *injector) grab(out []*task, share bool) int {
	for {
		head := q.head.Load()
		n := int(q.tail.Load() - head)
		if share {
			n = (n + 1) / 2
		}
		if n = min(n, len(out)); n <= 0 {
			return 0
		}
		for i := range n {
			out[i] = q.places[(head+uint64(i))%injectorSize].Load()
		}
		// What was read is right if nobody took anything meanwhile: a place is filled anew only after
		// head has passed it.
		if q.head.CompareAndSwap(head, head+uint64(n)) {
			return n
		}
	}
}

// sweep clears the places of tasks that were taken, so that they don't keep them. The owner only.
func (q *injector) sweep() {
	for head := q.head.Load(); q.swept < head; q.swept++ {
		q.places[q.swept%injectorSize].Store(nil)
	}
}

// thieves is what a worker knows about those that it woke to steal from it.
type thieves struct {
	stolen atomic.Uint64 // tasks that others took; they count
	seen   uint64        // at the last call
	turn   uint64        // in which one was to be called last
	called bool          // and was woken
	pause  uint16        // turns to wait after the next call, while calls are in vain
	skip   uint16
}

// offer starts t where others may steal it until it begins.
func (w *worker) offer(t *task) {
	if len(w.rt.workers) == 1 || !w.injector.push(t) {
		t.ctx.w = w
		w.start(t)
		return
	}
	if w.injector.len() > 1 {
		w.callThief()
	}
}

// callThief wakes a worker that sleeps: once a turn and again when that one has taken something, and
// more and more rarely while calls lead to nothing: tasks that are over before a thief is awake are
// not worth one.
func (w *worker) callThief() {
	th := &w.thieves
	turn, stolen := w.stats.turns, th.stolen.Load()
	fruitless := th.called && stolen == th.seen
	if th.turn == turn && fruitless && w.injector.len() != stealUrgent {
		return
	}
	if th.turn != turn {
		th.turn = turn
		if th.skip > 0 && w.injector.len() < stealUrgent {
			th.skip--
			return
		}
		if fruitless {
			th.pause = min(2*th.pause+1, thiefPauseMax)
			th.skip = th.pause
		}
	} else if th.skip > 0 && w.injector.len() < stealUrgent {
		return
	}
	if !fruitless {
		th.pause, th.skip = 0, 0
	}
	th.seen, th.called = stolen, false
	n := len(w.rt.workers)
	for i := range n - 1 {
		other := w.rt.workers[(w.id+1+i)%n]
		if w.knockNow(other) {
			th.called = true
			w.stats.thievesCalled++
			return
		}
	}
}

// steal takes tasks from a worker that has more than it can begin now. It reports whether it got any.
func (w *worker) steal() bool {
	n := len(w.rt.workers)
	if n == 1 || w.stopping {
		return false
	}
	for range min(n-1, stealLooks) {
		if w.victim = (w.victim + 1) % n; w.victim == w.id {
			w.victim = (w.victim + 1) % n
		}
		victim := w.rt.workers[w.victim]
		if victim.injector.len() == 0 {
			continue
		}
		var loot [stealMax]*task
		got := victim.injector.grab(loot[:], true)
		if got == 0 {
			continue
		}
		// Added before it is taken away there: the sum is never too small.
		w.load.Add(int64(got))
		victim.load.Add(-int64(got))
		victim.thieves.stolen.Add(uint64(got))
		w.stats.stolen += uint64(got)
		for _, t := range loot[:got] {
			w.begin(t)
		}
		if victim.injector.len() > 1 {
			w.callThief() // there is work for another one
		}
		return true
	}
	return false
}

// lootWaits reports whether a worker has tasks that it would call a thief for: the look between saying
// that this one sleeps and sleeping. Its partner is offer: there the task is queued first and the
// sleeper looked for second, so one of the two sees the other.
func (w *worker) lootWaits() bool {
	n := len(w.rt.workers)
	if n == 1 || w.stopping {
		return false
	}
	for _, other := range w.rt.workers {
		if other.injector.len() > 1 {
			return true
		}
	}
	return false
}

// begin starts a task that came out of an injector.
func (w *worker) begin(t *task) {
	t.ctx.w = w
	w.start(t)
}

// beginAll starts what waits in the worker's own injector.
func (w *worker) beginAll() {
	var one [1]*task
	for w.injector.grab(one[:], false) > 0 {
		w.begin(one[0])
	}
	w.injector.sweep()
}

// nextTask returns what to resume next: in turn one that is runnable and one that has not begun.
func (w *worker) nextTask() *task {
	w.preferNew = !w.preferNew
	if w.preferNew || w.runq.len == 0 {
		var one [1]*task
		if w.injector.grab(one[:], false) > 0 {
			t := one[0]
			t.ctx.w = w
			w.adoptTask(t)
			return t
		}
	}
	return w.runq.pop()
}
