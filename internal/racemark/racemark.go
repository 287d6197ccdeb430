// Package racemark tells the race detector about happens-before edges that go through C memory.
//
// Under -race, sync/atomic orders nothing on an address outside Go's heap and data segments, and
// neither do runtime.RaceAcquire and runtime.RaceReleaseMerge: the runtime drops such an address
// without a word. So the marks here are made on a word of Go's data segment that stands for the
// address. Without -race all of it compiles to nothing.
//
// Two addresses that are equal modulo 512 KiB share a word. That can hide a race between their
// users, but never invents one; words less than that apart never share.
package racemark
