package tests

// Options of sockets: keep-alive in all its parts, and the time to live from birth, in all doors.

import (
	"context"
	"errors"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/core"
)

// optionOf asks the system, whichever door's or package's conn is.
func optionOf(t *testing.T, conn any, option int32) int32 {
	t.Helper()
	if !core.Available {
		t.Skip("no C core in this build, which asks the system")
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	var value int32
	var failed error
	require.NoError(t, raw.Control(func(fd uintptr) { value, failed = core.GetOption(int32(fd), option) }))
	require.NoError(t, failed)
	return value
}

// Goal: SetKeepAliveConfig leaves a Stream's socket as package net leaves its own, also where it is
// called again and says less.
func TestStream_KeepAliveConfig(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Wine has no TCP_KEEPIDLE and its kin")
	}
	noLeak(t)
	configs := []net.KeepAliveConfig{
		{Enable: true, Idle: 40 * time.Second, Interval: 1500 * time.Millisecond, Count: 4},
		{Enable: true},
		{Enable: true, Idle: -1, Interval: 7 * time.Second, Count: -1},
		{Enable: false, Idle: 50 * time.Second, Interval: -1, Count: 6},
		{Enable: true, Idle: -1, Interval: -1, Count: -1},
	}
	names := map[string]int32{
		"SO_KEEPALIVE": core.OptKeepAlive, "TCP_KEEPIDLE": core.OptKeepIdleS,
		"TCP_KEEPINTVL": core.OptKeepIntervalS, "TCP_KEEPCNT": core.OptKeepCount,
	}
	withPeer(t, shapes()[0], func(_ *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
		for i, config := range configs {
			require.NoError(t, peer.SetKeepAliveConfig(config))
			require.NoError(t, s.SetKeepAliveConfig(config))
			for name, option := range names {
				assert.Equal(t, optionOf(t, peer, option), optionOf(t, s, option), "config %d: %s", i, name)
			}
		}
		assert.EqualValues(t, 50, optionOf(t, s, core.OptKeepIdleS))
		assert.EqualValues(t, 7, optionOf(t, s, core.OptKeepIntervalS))
		assert.EqualValues(t, 6, optionOf(t, s, core.OptKeepCount))
		_ = s.Close()
		return nil
	})
	withPeer(t, shapes()[0], func(_ *veloq.Context, s *veloq.Stream, _ *net.TCPConn) error {
		require.NoError(t, s.Close())
		assert.ErrorIs(t, s.SetKeepAliveConfig(net.KeepAliveConfig{}), net.ErrClosed)
		return nil
	})
}

// inheritsTTL reports whether accepted sockets have the listening one's.
func inheritsTTL() bool { return runtime.GOOS != "windows" }

// Goal: a TTL in ListenConfig or Dialer is there from birth, on the worker doors.
func TestStream_TTLFromBirth(t *testing.T) {
	noLeak(t)
	lc, d := veloq.ListenConfig{TTL: 33}, veloq.Dialer{TTL: 44}
	addresses := []string{"127.0.0.1:0"}
	if hasIPv6() {
		addresses = append(addresses, "[::1]:0")
	}
	for _, address := range addresses {
		accepted(t, lc, d, address, func(c *veloq.Context, out, in *veloq.Stream) error {
			ttl, err := out.TTL()
			require.NoError(t, err)
			assert.Equal(t, 44, ttl, address)
			if ttl, err = in.TTL(); inheritsTTL() {
				require.NoError(t, err)
				assert.Equal(t, 33, ttl, address)
			}
			u, err := lc.ListenDatagram(c, "udp", address)
			require.NoError(t, err)
			ttl, err = u.TTL()
			require.NoError(t, err)
			assert.Equal(t, 33, ttl, address)
			du, err := d.DialDatagram(c, "udp", u.LocalAddr().String())
			require.NoError(t, err)
			ttl, err = du.TTL()
			require.NoError(t, err)
			assert.Equal(t, 44, ttl, address)
			assert.NoError(t, errors.Join(u.Close(), du.Close()))
			return nil
		})
	}
}

// Goal: the same in the net door, beside a Control of the caller's; unix sockets have none and don't mind.
func TestNetdoor_TTLFromBirth(t *testing.T) {
	noLeak(t)
	var controls int
	control := func(string, string, syscall.RawConn) error { controls++; return nil }
	lc, d := veloq.ListenConfig{TTL: 33, Control: control}, veloq.Dialer{TTL: 44, Control: control}
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	assert.EqualValues(t, 33, optionOf(t, l, core.OptTTL))
	conn, err := d.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	assert.EqualValues(t, 44, optionOf(t, conn, core.OptTTL))
	in, err := l.Accept()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
	if inheritsTTL() {
		assert.EqualValues(t, 33, optionOf(t, in, core.OptTTL))
	}
	u, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil && runtime.GOOS == "windows" {
		t.Skip("package net opens no UDP socket here: ", err)
	}
	require.NoError(t, err)
	defer func() { _ = u.Close() }()
	assert.EqualValues(t, 33, optionOf(t, u, core.OptTTL))
	assert.Equal(t, 3, controls)
	withContext := veloq.Dialer{TTL: 44, ControlContext: func(ctx context.Context, n, a string, c syscall.RawConn) error {
		assert.NotNil(t, ctx)
		return control(n, a, c)
	}}
	du, err := withContext.Dial("udp", u.LocalAddr().String())
	require.NoError(t, err)
	defer func() { _ = du.Close() }()
	assert.EqualValues(t, 44, optionOf(t, du, core.OptTTL))
	assert.Equal(t, 4, controls)
	if hasIPv6() {
		l6, err := lc.Listen(t.Context(), "tcp", "[::1]:0")
		require.NoError(t, err)
		defer func() { _ = l6.Close() }()
		assert.EqualValues(t, 33, optionOf(t, l6, core.OptTTL))
	}
	path := t.TempDir() + "/s"
	ul, err := lc.Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	defer func() { _ = ul.Close() }()
	uc, err := d.Dial("unix", path)
	require.NoError(t, err)
	require.NoError(t, uc.Close())
}

// Goal: a TTL that there is none of is an error of the call that asks for it, and nothing stays open.
func TestStream_TTLRefused(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	before := holds(rt)
	lc, d := veloq.ListenConfig{TTL: 1000}, veloq.Dialer{TTL: 1000}
	refused := func(op string, err error) {
		t.Helper()
		var oe *net.OpError
		if assert.ErrorAs(t, err, &oe) {
			assert.Equal(t, op, oe.Op)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		_, err := lc.ListenStream(c, "tcp", "127.0.0.1:0")
		refused("listen", err)
		_, err = lc.ListenDatagram(c, "udp", "127.0.0.1:0")
		refused("listen", err)
		_, err = d.DialStream(c, "tcp", l.Addr().String())
		refused("dial", err)
		_, err = d.DialDatagram(c, "udp", l.Addr().String())
		refused("dial", err)
		return nil
	}))
	_, err = lc.Start(t.Context(), rt, "tcp", "127.0.0.1:0", echoTask)
	refused("listen", err)
	_, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	refused("listen", err)
	_, err = d.Dial("tcp", l.Addr().String())
	refused("dial", err)
	settled(t, rt, before)
}
