//go:build !linux

package rudp

import "syscall"

// This file changes if other systems than Linux are kept from fragmenting.

// forbidFragments leaves it to the system, which sets Don't Fragment on IPv4 or not as it is
// configured.
func forbidFragments(syscall.Conn) {}
