// Package rawio has the system calls of the net door, made by the caller's own goroutine and never
// blocking.
package rawio
