//go:build !linux || 386 || s390x

package rawio

import "errors"

// Available reports whether Recv and Send work here.
const Available = false

// Recv is not available.
func Recv(uintptr, []byte) (n int, again bool, err error) { return 0, false, errors.ErrUnsupported }

// Send is not available.
func Send(uintptr, []byte) (n int, again bool, err error) { return 0, false, errors.ErrUnsupported }

// MarkStaged does nothing here: nothing is staged.
func MarkStaged() {}
