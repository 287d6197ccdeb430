//go:build race

package racemark

import (
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Enabled reports whether the race detector is on.
const Enabled = true

// One 8-byte word is what the race detector keeps one synchronisation state for.
const (
	wordSize  = 8
	wordCount = 1 << 16
)

var words [wordCount]uint64

func standIn(p unsafe.Pointer) unsafe.Pointer {
	return unsafe.Pointer(&words[uintptr(p)/wordSize%wordCount])
}

// Acquire says that what came before a ReleaseMerge of p happened before what follows. Call it
// after the atomic load of p that saw the other side's store. Any goroutine.
func Acquire(p unsafe.Pointer) { runtime.RaceAcquire(standIn(p)) }

// ReleaseMerge says that what came before it happens before what follows an Acquire of p. Call it
// before the atomic store to p. Any goroutine.
func ReleaseMerge(p unsafe.Pointer) { runtime.RaceReleaseMerge(standIn(p)) }

// Fence keeps an atomic store to C memory before the atomic loads that follow it. Any goroutine.
func Fence() {
	// A word on the stack: a shared one would order all its users for the race detector.
	var word uint32
	atomic.AddUint32(&word, 1)
}
