//go:build cgo

package core

import (
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// waiter returns what waits for a ring of d and takes it, for ten seconds at most.
func waiter(t *testing.T, d *Doorbell) func() error {
	t.Helper()
	limit := uint32((10 * time.Second).Milliseconds())
	return func() error {
		var bytes uint32
		var key uint64 // what package syscall calls a uint32 is a pointer's size
		var packet *syscall.Overlapped
		return syscall.GetQueuedCompletionStatus(syscall.Handle(d.handle), &bytes, (*uint32)(unsafe.Pointer(&key)), &packet, limit)
	}
}
