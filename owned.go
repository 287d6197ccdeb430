package veloq

// What Streams and Datagrams have alike as sockets that a worker owns: options, and the way to the
// descriptor.

import (
	"errors"
	"os"

	"github.com/veloq/veloq/internal/core"
)

// owned is a Stream or a Datagram.
type owned interface {
	check(op string) error
	opError(op string, err error) error
	descriptor() int32
}

func setOptionOf(s owned, option, value int32) error {
	if err := s.check("set"); err != nil {
		return err
	}
	if err := core.SetOption(s.descriptor(), option, value); err != nil {
		return s.opError("set", os.NewSyscallError("setsockopt", sysErr(err)))
	}
	return nil
}

func optionOf(s owned, option int32) (int32, error) {
	if err := s.check("get"); err != nil {
		return 0, err
	}
	v, err := core.GetOption(s.descriptor(), option)
	if err != nil {
		return 0, s.opError("get", os.NewSyscallError("getsockopt", sysErr(err)))
	}
	return v, nil
}

// rawOwned is what SyscallConn returns.
type rawOwned struct{ s owned }

// Control implements syscall.RawConn. The descriptor is valid until f returns. Worker only.
func (r rawOwned) Control(f func(fd uintptr)) error {
	if err := r.s.check("raw-control"); err != nil {
		return err
	}
	f(uintptr(r.s.descriptor()))
	return nil
}

// Read implements syscall.RawConn.
func (r rawOwned) Read(func(uintptr) bool) error {
	return r.s.opError("raw-read", errors.ErrUnsupported)
}

// Write implements syscall.RawConn.
func (r rawOwned) Write(func(uintptr) bool) error {
	return r.s.opError("raw-write", errors.ErrUnsupported)
}
