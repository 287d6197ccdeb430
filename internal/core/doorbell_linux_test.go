//go:build cgo

package core

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// waiter returns what waits for a ring of d and takes it, for ten seconds at most.
func waiter(t *testing.T, d *Doorbell) func() error {
	t.Helper()
	fd, err := syscall.Dup(int(d.handle))
	if err != nil {
		t.Fatal(err)
	}
	handle := os.NewFile(uintptr(fd), "doorbell")
	t.Cleanup(func() { _ = handle.Close() })
	buf := make([]byte, 8)
	return func() error {
		if err := handle.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		_, err := handle.Read(buf)
		return err
	}
}
