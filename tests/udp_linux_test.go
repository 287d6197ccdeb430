package tests

// What the UDP tests ask of Linux, and what only Linux has: offloads, cmsgs, refusals of the kernel.

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	msgTrunc  = syscall.MSG_TRUNC
	msgCtrunc = syscall.MSG_CTRUNC
)

// control runs fn on a socket's descriptor.
func control(t *testing.T, c syscall.Conn, fn func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = fn(int(fd)) }))
	require.NoError(t, err)
}

func makeBlocking(t *testing.T, c syscall.Conn) {
	control(t, c, func(fd int) error { return syscall.SetNonblock(fd, false) })
}
