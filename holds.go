package veloq

// Holds: what the build tag veloq_debug knows of each lease that the program was given, to find holds
// that are given back too often, used too late, or lost.

import (
	"fmt"
	"runtime"
	"sync"
)

// A holdTrace is shared by a lease and its copies, and lives as long as one of them: then the
// collector looks into the log.
type holdTrace struct{ log *holdLog }

type holdLog struct {
	w  *worker
	of string

	mu    sync.Mutex
	holds int  // of the program's
	lent  bool // to a handler, whose callback has not returned
	// The stacks of the call that returned the lease, of the last Retain and of the last end of a hold.
	got, retained, ended []uintptr
}

// trace begins the count of the program's holds on l: one, or if it is lent to a handler none yet.
// Leases of no bytes hold nothing.
func (l *Lease) trace(w *worker, of string, lent bool) {
	if l.buffer == nil && l.heap == nil {
		return
	}
	log := &holdLog{w: w, of: "lease of " + of, lent: lent}
	if !lent {
		log.holds, log.got = 1, callerStack(0)
	}
	t := &holdTrace{log: log}
	runtime.AddCleanup(t, (*holdLog).collected, log)
	l.note.Set(t)
}

// collected is called when no lease is left that could be released. Its buffer stays held: slices of
// its bytes may still be in use, which the collector does not see.
func (log *holdLog) collected() {
	log.mu.Lock()
	holds := log.holds
	log.mu.Unlock()
	if holds == 0 || log.w.rt.closing.Load() {
		return
	}
	log.w.lost.leases.Add(1)
	e := misuse(log.of, "lost without a Release", log.got)
	if log.retained != nil {
		e.What = fmt.Sprintf("%d holds lost without a Release", holds)
		e.Before += stackText(log.retained)
	}
	log.w.rt.misused(e)
}

// gone reports whether the program has no hold any more.
func (l *Lease) gone() bool {
	t := l.note.Get()
	if t == nil {
		return false
	}
	t.log.mu.Lock()
	defer t.log.mu.Unlock()
	return t.log.holds == 0 && !t.log.lent
}

// noteRetain counts one more hold.
func (l *Lease) noteRetain() {
	t := l.note.Get()
	if t == nil {
		return
	}
	log := t.log
	log.mu.Lock()
	defer log.mu.Unlock()
	if log.holds == 0 && !log.lent {
		panic(misuse(log.of, "retained after its last hold was given back", log.ended))
	}
	log.holds++
	log.retained = callerStack(0)
	runtime.KeepAlive(t)
}

// noteEnd counts one hold less, before it goes: what says how.
func (l *Lease) noteEnd(what string) {
	t := l.note.Get()
	if t == nil {
		return
	}
	log := t.log
	log.mu.Lock()
	defer log.mu.Unlock()
	switch {
	case log.holds > 0:
	case log.lent:
		panic(misuse(log.of, what+" by a handler that did not retain it: the hold is the worker's", nil))
	default:
		panic(misuse(log.of, what+" though its last hold was given back", log.ended))
	}
	log.holds--
	log.ended = callerStack(0)
	runtime.KeepAlive(t)
}

// endLoan is for when the callback has returned that l was lent to.
func (l *Lease) endLoan() {
	t := l.note.Get()
	if t == nil {
		return
	}
	t.log.mu.Lock()
	defer t.log.mu.Unlock()
	t.log.lent = false
	if t.log.ended == nil {
		t.log.ended = callerStack(0)
	}
	runtime.KeepAlive(t)
	l.note.Set(nil)
}
