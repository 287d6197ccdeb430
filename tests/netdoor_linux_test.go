package tests

// What of the net door only Linux has: raw system calls, splice, descriptors as messages.

import (
	"io"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/rawio"
)

func nonblocking(t *testing.T, c syscall.Conn) bool {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var flags uintptr
	var errno syscall.Errno
	require.NoError(t, raw.Control(func(fd uintptr) {
		flags, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
	}))
	require.Zero(t, errno)
	return flags&syscall.O_NONBLOCK != 0
}

// Goal: a descriptor that somebody has set to blocking, as File().Fd() does, holds up nobody: reads
// still obey the deadline, and the connection goes on. (Package net's Read blocks its thread then.)
func TestNetdoorConn_BlockingDescriptor(t *testing.T) {
	if !rawio.Available {
		t.Skip("reads are package net's here, and wait in the system")
	}
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			noLeak(t)
			c, s := pair(t, netPackages[1], network)
			f, err := c.File()
			require.NoError(t, err)
			f.Fd() // shares the file description, whose O_NONBLOCK it takes away
			require.NoError(t, f.Close())
			require.False(t, nonblocking(t, c), "nothing to be tested")
			require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
			_, err = s.Write([]byte("late"))
			require.NoError(t, err)
			buf := make([]byte, 4)
			_, err = io.ReadFull(c, buf)
			require.NoError(t, err)
			assert.Equal(t, "late", string(buf))
		})
	}
}

// Goal: descriptors go through as messages, beside bytes and to Read's peer; one that arrives is open
// and not inherited by programs that are started.
func TestNetdoorUnix_PassesDescriptors(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket"} {
		t.Run(network, func(t *testing.T) {
			noLeak(t)
			a, b := pair(t, netPackages[1], network)
			c, s := a.(*veloq.UnixConn), b.(*veloq.UnixConn)
			r, w, err := os.Pipe()
			require.NoError(t, err)
			defer func() { _ = r.Close() }()
			n, oobn, err := c.WriteMsgUnix([]byte("take it"), syscall.UnixRights(int(w.Fd())), nil)
			require.NoError(t, err)
			require.NoError(t, w.Close())
			assert.Equal(t, 7, n)
			assert.Positive(t, oobn)
			buf, oob := make([]byte, 16), make([]byte, 64)
			n, oobn, _, _, err = s.ReadMsgUnix(buf, oob)
			require.NoError(t, err)
			assert.Equal(t, "take it", string(buf[:n]))
			messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
			require.NoError(t, err)
			require.Len(t, messages, 1)
			fds, err := syscall.ParseUnixRights(&messages[0])
			require.NoError(t, err)
			require.Len(t, fds, 1)
			flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), syscall.F_GETFD, 0)
			require.Zero(t, errno)
			assert.NotZero(t, flags&syscall.FD_CLOEXEC)
			passed := os.NewFile(uintptr(fds[0]), "passed")
			_, err = passed.WriteString("through it")
			require.NoError(t, err)
			require.NoError(t, passed.Close())
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			assert.Equal(t, "through it", string(got))
		})
	}
}

// Goal: names without files.
func TestNetdoorUnix_AbstractNames(t *testing.T) {
	noLeak(t)
	l, err := veloq.Listen("unix", "@veloq-"+strconv.Itoa(os.Getpid()))
	require.NoError(t, err)
	c, err := veloq.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, roundTripBetween(c, s, "no file"))
	for _, c := range []io.Closer{c, s, l} {
		require.NoError(t, c.Close())
	}
}
