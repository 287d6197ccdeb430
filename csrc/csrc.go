// Package csrc holds the C core. It is a Go package so that cgo and CMake compile the same files; it
// has no Go code, and only internal/core imports it.
package csrc

/*
#cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -I${SRCDIR}/../include
#cgo linux pkg-config: liburing
#cgo windows LDFLAGS: -lws2_32 -lmswsock -lsynchronization
*/
import "C"

import _ "github.com/veloq/veloq/include"
