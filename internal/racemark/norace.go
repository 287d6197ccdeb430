//go:build !race

package racemark

import "unsafe"

// Enabled reports whether the race detector is on.
const Enabled = false

// Acquire says that what came before a ReleaseMerge of p happened before what follows. Call it
// after the atomic load of p that saw the other side's store. Any goroutine.
func Acquire(unsafe.Pointer) {}

// ReleaseMerge says that what came before it happens before what follows an Acquire of p. Call it
// before the atomic store to p. Any goroutine.
func ReleaseMerge(unsafe.Pointer) {}

// Fence keeps an atomic store to C memory before the atomic loads that follow it. Any goroutine.
func Fence() {}
