//go:build amd64 || arm64

package gid

const supported = true

// Get returns a word that no other goroutine which is alive now shares: the address of the running
// goroutine's descriptor. It is an identity to compare, never an address to follow. Any goroutine.
func Get() uintptr
