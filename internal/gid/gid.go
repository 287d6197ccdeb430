// Package gid tells goroutines apart cheaply, so that a worker-only object can answer a call from
// another goroutine with an error instead of a data race.
package gid

// Supported says whether Get works on this architecture; where it does not, Get returns 0 and
// callers can't tell goroutines apart.
const Supported = supported
