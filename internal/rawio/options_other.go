//go:build !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd && !windows

package rawio

import "errors"

// SetReusePort is not available.
func SetReusePort(uintptr) error { return errors.ErrUnsupported }

// SetV6Only is not available.
func SetV6Only(uintptr, bool) error { return errors.ErrUnsupported }

// SetBuffers is not available.
func SetBuffers(uintptr, int, int) error { return errors.ErrUnsupported }

// SetTTL is not available.
func SetTTL(uintptr, bool, int) error { return errors.ErrUnsupported }

// SetBacklog is not available.
func SetBacklog(uintptr, int) error { return errors.ErrUnsupported }
