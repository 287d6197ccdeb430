package tests

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: a connection of IPv4 that a socket of both families accepted has the TTL too, on both doors.
func TestStream_TTLOfMappedConnection(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6, so no socket of both families")
	}
	noLeak(t)
	lc := veloq.ListenConfig{TTL: 33}
	check := func(conn syscall.Conn) {
		raw, err := conn.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			ttl, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL)
			assert.NoError(t, err)
			assert.Equal(t, 33, ttl)
		}))
	}
	loopback := func(a net.Addr) string { return fmt.Sprintf("127.0.0.1:%d", a.(*net.TCPAddr).Port) }
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		l, err := lc.ListenStream(c, "tcp", ":0")
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		out, err := c.Dial("tcp", loopback(l.Addr()))
		if err != nil {
			return err
		}
		defer func() { _ = out.Close() }()
		in, err := l.Accept()
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		check(in)
		return nil
	}))
	l, err := lc.Listen(t.Context(), "tcp", ":0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	out := dial(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.Addr().(*net.TCPAddr).Port})
	in, err := l.Accept()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
	check(in.(syscall.Conn))
	_ = out.Close()
}

// Goal: a dial that the system would answer by itself, its source port being the one that it dials, is
// tried again with another.
func TestStream_DialMeetsNotItself(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	to := l.Addr().(*net.TCPAddr)
	require.NoError(t, l.Close())
	tries := 0
	d := veloq.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if tries++; tries > 1 {
			return nil
		}
		var bound error
		err := c.Control(func(fd uintptr) {
			bound = syscall.Bind(int(fd), &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: to.Port})
		})
		return errors.Join(err, bound)
	}}
	err = inTask(t, rt, func(c *veloq.Context) error {
		_, err := d.DialStream(c, "tcp", to.String())
		return err
	})
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Equal(t, 2, tries)
}
