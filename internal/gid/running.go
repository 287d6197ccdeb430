//go:build !race

package gid

import "sync/atomic"

// Running names the goroutine that runs on a thread now: by Get, or 0. The thread sets it at every
// switch between its coroutines, which an atomic exchange would make a fifth slower.
//
// The plain store is enough. A goroutine that compares Load with its own Get is either the last one
// that its own thread set, or on another thread: then what it loads, however old, names a goroutine
// that had not ended when it was set, and one descriptor becomes another goroutine's only under locks
// of the Go scheduler, which order the later Set before. Anybody else gets a hint.
type Running struct{ g uintptr }

// Set names g. The thread that it is about only.
func (r *Running) Set(g uintptr) { r.g = g }

// Load returns what was Set. Any goroutine.
func (r *Running) Load() uintptr { return atomic.LoadUintptr(&r.g) }
