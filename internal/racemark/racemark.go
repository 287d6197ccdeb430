// Package racemark tells the race detector about happens-before edges that go through C memory.
//
// Under -race, sync/atomic orders nothing on an address outside Go's heap and data segments, and
// neither do runtime.RaceAcquire and runtime.RaceReleaseMerge: the runtime drops such an address
// without a word. So the marks here are made on a word of Go's data segment that stands for the
// address. Without -race all of it compiles to nothing.
//
// And sync/atomic is not sequentially consistent there: under -race a Store to C memory is a
// release store and a Load an acquire load, so that a Load can overtake a Store (seen on amd64: 2
// rounds in 1,000 of a store-buffering test). Swap, Add and CompareAndSwap keep their order. Where
// a protocol needs a Store before a Load, put a Fence between them.
//
// Two addresses that are equal modulo 512 KiB share a word. That can hide a race between their
// users, but never invents one; words less than that apart never share.
package racemark
