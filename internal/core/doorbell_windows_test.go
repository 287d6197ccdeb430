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
	// Package syscall's own has a wrong type for the key.
	get := syscall.NewLazyDLL("kernel32.dll").NewProc("GetQueuedCompletionStatus")
	return func() error {
		var bytes uint32
		var key, packet uintptr
		taken, _, err := get.Call(uintptr(d.handle), uintptr(unsafe.Pointer(&bytes)),
			uintptr(unsafe.Pointer(&key)), uintptr(unsafe.Pointer(&packet)),
			uintptr((10 * time.Second).Milliseconds()))
		if taken == 0 {
			return err
		}
		return nil
	}
}
