//go:build race

package gid

import "sync/atomic"

// Running is the same for the race detector, which wants to see an atomic store.
type Running struct{ g atomic.Uintptr }

// Set names g. The thread that it is about only.
func (r *Running) Set(g uintptr) { r.g.Store(g) }

// Load returns what was Set. Any goroutine.
func (r *Running) Load() uintptr { return r.g.Load() }
