package core

import "strconv"

// Errno is a portable error number (include/veloq/base.h). Sys gives the system's own.
type Errno int32

// Error implements error.
func (e Errno) Error() string {
	if e == ErrNoDriver {
		return "no driver for this system"
	}
	if sys := sysError(e); sys != nil {
		return sys.Error()
	}
	return "errno " + strconv.Itoa(int(e))
}

// Unwrap makes errors.Is work with the errno names of package syscall.
func (e Errno) Unwrap() error { return sysError(e) }

// Sys returns the system's own error, e itself where there is none: a syscall.Errno, or on Windows
// one that wraps it.
func (e Errno) Sys() error {
	if sys := sysError(e); sys != nil {
		return sys
	}
	return e
}

// ErrNoDriver is what every call answers where the module was built without the C core.
const ErrNoDriver Errno = 1 << 20
