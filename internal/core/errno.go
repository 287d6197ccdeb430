package core

import (
	"strconv"
	"syscall"
)

// Errno is a portable error number (include/veloq/base.h). Sys gives the system's own.
type Errno int32

// Error implements error.
func (e Errno) Error() string {
	if e == ErrNoDriver {
		return "no driver for this system"
	}
	if sys := e.Sys(); sys != 0 {
		return sys.Error()
	}
	return "errno " + strconv.Itoa(int(e))
}

// Unwrap makes errors.Is work with the errno names of package syscall.
func (e Errno) Unwrap() error {
	if sys := e.Sys(); sys != 0 {
		return sys
	}
	return nil
}

// Sys returns the system's own number.
func (e Errno) Sys() syscall.Errno { return sysErrno(e) }

// ErrNoDriver is what every call answers where the module was built without the C core.
const ErrNoDriver Errno = 1 << 20
