//go:build linux && !386 && !s390x

package tests

// The length of a listener's queue, which only a system call tells that package syscall has no function
// for.

import (
	"encoding/binary"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: a listener's queue is as long as it was asked to be; with MPTCP, package net's default, and
// without.
func TestNetdoorListener_Backlog(t *testing.T) {
	noLeak(t)
	for _, multipath := range []bool{true, false} {
		lc := veloq.ListenConfig{Backlog: 7}
		lc.SetMultipathTCP(multipath)
		l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		raw, err := l.(syscall.Conn).SyscallConn()
		require.NoError(t, err)
		var info [104]byte // struct tcp_info, tcp(7); of a listening socket its sacked is the queue's length
		var errno syscall.Errno
		require.NoError(t, raw.Control(func(fd uintptr) {
			size := uint32(len(info))
			_, _, errno = syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
				uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		}))
		require.Zero(t, errno)
		assert.EqualValues(t, 7, binary.NativeEndian.Uint32(info[28:]), "multipath %t", multipath)
		c, err := veloq.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, l.Close())
	}
}
