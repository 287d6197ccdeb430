package veloq

// The blocking pool: goroutines for calls that would block a worker.

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// OverloadError is what SpawnBlocking fails with when the pool makes as many calls as it may and
// its queue is full. For errors.Is it is ErrFull.
type OverloadError struct {
	Running, Queued int // Config.BlockingMax, and how many waited
}

// Error implements error.
func (e *OverloadError) Error() string {
	return fmt.Sprintf("veloq: blocking pool is full: %d calls run and %d wait", e.Running, e.Queued)
}

// Is implements errors.Is.
func (e *OverloadError) Is(target error) bool { return target == ErrFull }

// BlockingStats are the blocking pool's counters since the runtime's start, and what it does now.
type BlockingStats struct {
	Goroutines  int    // the pool's, idle ones included
	Idle        int    // of them, those without a call
	Running     int    // calls that run
	Queued      int    // calls that wait
	RunningPeak int    // most calls that ran at once
	Done        uint64 // calls that ran to their end, of whatever kind
	Dropped     uint64 // calls that were cancelled, or whose runtime closed, before they began
	Refused     uint64 // calls that met an *OverloadError
}

// SpawnBlocking has fn called by a goroutine of the runtime's blocking pool, never by a worker: for
// files, databases, cgo, long computations. Config.BlockingMax calls run at once, in the order they
// came; Config.BlockingQueue more wait; a call beyond that is joined with an *OverloadError at
// once. The handle is Spawn's: Join parks a task, Wait blocks a goroutine, and a panic is carried
// to either.
//
// ctx is done when the handle's Cancel is called, the scope that s is ends, or the runtime closes.
// It has the values of s, and through WithContext also its end. A call that has begun is over when
// fn returns, and not before: fn should heed ctx. After runtime.LockOSThread fn must unlock.
//
// With a *Context or *TaskScope: Worker only. With a *Runtime: Any goroutine.
func SpawnBlocking[T any](s Spawner, fn func(ctx context.Context) (T, error)) *JoinHandle[T] {
	h := &JoinHandle[T]{}
	h.init(h, 1)
	job := &blockingJob{t: &h.task}
	job.run = func(ctx context.Context) { h.result, h.err = fn(ctx) }
	h.blocking = job
	if err := s.lend(job); err != nil {
		h.err = err
		h.ctx.finish()
		h.done.finish(nil)
	}
	return h
}

// lend implements Spawner.
func (c *Context) lend(job *blockingJob) error {
	if !c.w.here() {
		return c.w.elsewhere()
	}
	if c.w.stopping {
		return ErrClosed
	}
	if job.parent == nil {
		job.parent = context.WithoutCancel(c) // its values, and FromContext
	}
	return c.w.rt.lend(job)
}

// lend implements Spawner.
func (rt *Runtime) lend(job *blockingJob) error {
	if job.parent == nil {
		job.parent = context.Background()
	}
	job.rt = rt
	job.ctx, job.stop = context.WithCancelCause(job.parent)
	err := rt.pool.take(job)
	if err != nil {
		job.stop(err) // or the parent would keep it
	}
	return err
}

// BlockingStats returns the blocking pool's counters. Any goroutine.
func (rt *Runtime) BlockingStats() BlockingStats { return rt.pool.snapshot() }

// A blockingJob is one call.
type blockingJob struct {
	t      *task
	rt     *Runtime
	run    func(ctx context.Context)
	parent context.Context
	ctx    context.Context
	stop   context.CancelCauseFunc

	// The pool's lock guards these.
	state      jobState
	next, prev *blockingJob // in the queue
}

type jobState uint8

const (
	jobNew jobState = iota
	jobQueued
	jobRunning
	jobOver
)

// cancel drops a job that waits, and cancels the ctx of one that runs. dropped says that its own
// handle asks. Any goroutine.
func (j *blockingJob) cancel(err error, dropped bool) {
	if j.rt == nil {
		return // never lent
	}
	p := &j.rt.pool
	p.mu.Lock()
	if j.state == jobOver {
		p.mu.Unlock()
		return
	}
	if dropped {
		j.t.dropped.Store(true)
	}
	queued := j.state == jobQueued
	if queued {
		j.state = jobOver
		p.queue.remove(j)
		p.stats.Dropped++
	}
	p.mu.Unlock()
	j.stop(err)
	if queued {
		j.end(err)
	}
}

// end tells everybody that the call is over. failure is why it never was made, or how it ended
// badly.
func (j *blockingJob) end(failure error) {
	t := j.t
	j.stop(context.Canceled)
	t.failure = failure
	t.ended = true
	if pe, ok := failure.(*PanicError); ok && t.scope == nil {
		t.self.panicked(j.rt, pe)
	}
	(*worker)(nil).tellEnd(t)
}

// call makes the call, whatever becomes of it.
func (j *blockingJob) call() {
	failure := error(ErrGoexit) // unless it returns or panics
	defer func() {
		if failure != nil {
			if value := recover(); value != nil {
				failure = &PanicError{Value: value, Stack: debug.Stack()}
			}
		}
		j.rt.pool.finished(j)
		j.end(failure)
	}()
	j.run(j.ctx)
	failure = nil
}

// jobQueue is a FIFO of jobs, linked through them.
type jobQueue struct {
	head, tail *blockingJob
	len        int
}

func (q *jobQueue) push(j *blockingJob) {
	j.prev = q.tail
	if q.tail == nil {
		q.head = j
	} else {
		q.tail.next = j
	}
	q.tail = j
	q.len++
}

func (q *jobQueue) remove(j *blockingJob) {
	if j.prev == nil {
		q.head = j.next
	} else {
		j.prev.next = j.next
	}
	if j.next == nil {
		q.tail = j.prev
	} else {
		j.next.prev = j.prev
	}
	j.next, j.prev = nil, nil
	q.len--
}

// blockingPool is the runtime's.
type blockingPool struct {
	max, queueMax int
	idleTime      time.Duration

	mu      sync.Mutex
	queue   jobQueue
	running map[*blockingJob]struct{}
	idle    []*blockingGoroutine // the latest last, which is called first
	count   int                  // goroutines
	closed  bool
	gone    chan struct{} // closed when a closed pool's last goroutine has ended
	stats   BlockingStats
}

func (p *blockingPool) init(c *Config) {
	p.max, p.queueMax, p.idleTime = c.BlockingMax, max(c.BlockingQueue, 0), c.BlockingIdle
	p.running = map[*blockingJob]struct{}{}
	p.gone = make(chan struct{})
}

// take accepts a job or refuses it.
func (p *blockingPool) take(j *blockingJob) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if n := len(p.idle); n > 0 {
		g := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.start(j)
		g.next <- j // has room: an idle one is given one job
		return nil
	}
	if p.count < p.max {
		p.count++
		p.start(j)
		g := &blockingGoroutine{pool: p, next: make(chan *blockingJob, 1)}
		go g.serve(j)
		return nil
	}
	if p.queue.len >= p.queueMax {
		p.stats.Refused++
		return &OverloadError{Running: len(p.running), Queued: p.queue.len}
	}
	j.state = jobQueued
	p.queue.push(j)
	return nil
}

// start accounts for a job that a goroutine will run now. The caller holds the lock.
func (p *blockingPool) start(j *blockingJob) {
	j.state = jobRunning
	p.running[j] = struct{}{}
	p.stats.RunningPeak = max(p.stats.RunningPeak, len(p.running))
}

// finished accounts for a call that has returned.
func (p *blockingPool) finished(j *blockingJob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	j.state = jobOver
	delete(p.running, j)
	p.stats.Done++
}

// dequeue starts the job that has waited longest, if there is one. The caller holds the lock.
func (p *blockingPool) dequeue() *blockingJob {
	j := p.queue.head
	if j != nil {
		p.queue.remove(j)
		p.start(j)
	}
	return j
}

// close refuses new calls, drops those that wait, and cancels the ctx of those that run.
func (p *blockingPool) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	var waiting []*blockingJob
	for j := p.queue.head; j != nil; j = p.queue.head {
		p.queue.remove(j)
		j.state = jobOver
		waiting = append(waiting, j)
	}
	p.stats.Dropped += uint64(len(waiting))
	running := make([]*blockingJob, 0, len(p.running))
	for j := range p.running {
		running = append(running, j)
	}
	for _, g := range p.idle {
		close(g.next)
	}
	p.idle = nil
	if p.count == 0 {
		close(p.gone)
	}
	p.mu.Unlock()
	for _, j := range waiting {
		j.end(ErrClosed)
	}
	for _, j := range running {
		j.stop(ErrClosed)
	}
}

// wait waits for the goroutines of a closed pool, but not for ever.
func (p *blockingPool) wait(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.gone:
	case <-timer.C:
	}
}

func (p *blockingPool) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.running)+p.queue.len > 0
}

func (p *blockingPool) snapshot() BlockingStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.stats
	st.Goroutines, st.Idle = p.count, len(p.idle)
	st.Running, st.Queued = len(p.running), p.queue.len
	return st
}

// blockingGoroutine is one of the pool's.
type blockingGoroutine struct {
	pool *blockingPool
	next chan *blockingJob // one job, for an idle one; closed at the pool's end
}

// serve makes one call after another, until there has been none for a while.
func (g *blockingGoroutine) serve(j *blockingJob) {
	p := g.pool
	ended := false
	defer func() {
		if !ended {
			g.replace() // a call ended this goroutine by runtime.Goexit
		}
	}()
	for j != nil {
		j.call()
		j = g.another()
	}
	ended = true
	p.leave()
}

// another returns the next job: one that waits, or that comes while the goroutine is idle.
func (g *blockingGoroutine) another() *blockingJob {
	p := g.pool
	p.mu.Lock()
	if j := p.dequeue(); j != nil || p.closed {
		p.mu.Unlock()
		return j
	}
	p.idle = append(p.idle, g)
	p.mu.Unlock()
	timer := time.NewTimer(p.idleTime)
	defer timer.Stop()
	select {
	case j := <-g.next:
		return j
	case <-timer.C:
	}
	p.mu.Lock()
	if i := slices.Index(p.idle, g); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return <-g.next // called, or told to end, at the last moment
}

// replace has a new goroutine go on in this one's place.
func (g *blockingGoroutine) replace() {
	p := g.pool
	p.mu.Lock()
	j := p.dequeue()
	p.mu.Unlock()
	if j == nil {
		p.leave()
		return
	}
	go (&blockingGoroutine{pool: p, next: make(chan *blockingJob, 1)}).serve(j)
}

// leave accounts for a goroutine that ends.
func (p *blockingPool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count--
	if p.closed && p.count == 0 {
		close(p.gone)
	}
}
