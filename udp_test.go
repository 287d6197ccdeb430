package veloq

// What a socket remembers of the kernel's refusals; and the way over package net, on every system.

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/rawio"
)

func TestGSO_Refusals(t *testing.T) {
	for _, c := range []struct {
		errno   syscall.Errno
		limit   int
		refused bool
	}{
		{syscall.EIO, 0, true},
		{syscall.EINVAL, 1199, true},
		{syscall.EMSGSIZE, 1199, true},
		{syscall.ECONNREFUSED, 0, false},
		{syscall.EPERM, 0, false},
	} {
		limit, refused := gsoRefusal(c.errno, 1200)
		assert.Equal(t, c.limit, limit, c.errno)
		assert.Equal(t, c.refused, refused, c.errno)
	}
}

// Goal: a refusal only ever narrows what is tried.
func TestGSO_LimitNarrows(t *testing.T) {
	if !rawio.MsgDirect {
		t.Skip("package net does the work here")
	}
	c, err := ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	require.Equal(t, gsoUnlimited, c.gsoLimit(), "a kernel without UDP_SEGMENT")
	for _, step := range []struct{ refuse, want int }{{1400, 1400}, {2000, 1400}, {1199, 1199}, {0, 0}, {5, 0}} {
		c.refuseGSO(step.refuse)
		assert.Equal(t, step.want, c.gsoLimit())
	}
	require.NoError(t, c.Close())
	// Closed before it was asked: not cut, and not remembered.
	c, err = ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	assert.Zero(t, c.gsoLimit())
	assert.Zero(t, c.gso.limit.Load())
}

func TestGSO_Pieces(t *testing.T) {
	for _, c := range []struct {
		size, gso, piece int
		segment          bool
	}{
		{1200, gsoUnlimited, 54 * 1200, true},
		{100, gsoUnlimited, 6400, true},
		{1, gsoUnlimited, 64, true},
		{1200, 1199, 1200, false},
		{1200, 1200, 54 * 1200, true},
		{1200, 0, 1200, false},
		{32_743, gsoUnlimited, 65_486, true},
		{32_744, gsoUnlimited, 32_744, false}, // two would not fit
	} {
		m := UDPMessage{SegmentSize: c.size}
		piece, segment := m.pieces(c.gso)
		assert.Equal(t, c.piece, piece, "%+v", c)
		assert.Equal(t, c.segment, segment, "%+v", c)
	}
}

// portable is a UDPConn as it is where there are no direct calls.
func portable(t *testing.T) *UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil && runtime.GOOS == "windows" {
		t.Skip("package net opens no UDP socket here: ", err)
	}
	require.NoError(t, err)
	c := &UDPConn{netUDPConn: conn}
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return c
}

func addrOf(c *UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func TestUDP_PortableBatch(t *testing.T) {
	a, b := portable(t), portable(t)
	out := []UDPMessage{
		{Buffers: [][]byte{[]byte("one")}, Addr: addrOf(b)},
		{Buffers: [][]byte{[]byte("ga"), nil, []byte("thered")}, Addr: addrOf(b)},
		{Addr: addrOf(b)},
		{Buffers: [][]byte{[]byte("cut up")}, Addr: addrOf(b), SegmentSize: 4},
	}
	n, err := a.WriteBatch(out, 0)
	require.NoError(t, err)
	require.Equal(t, 4, n)
	assert.Equal(t, []int{3, 8, 0, 6}, []int{out[0].N, out[1].N, out[2].N, out[3].N})
	for _, want := range []string{"one", "gathered", "", "cut ", "up"} {
		in := []UDPMessage{{Buffers: [][]byte{make([]byte, 2), make([]byte, 20)}}, {}}
		n, err := b.ReadBatch(in, 0)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		m := in[0]
		got := string(m.Buffers[0][:min(2, m.N)]) + string(m.Buffers[1][:max(m.N-2, 0)])
		assert.Equal(t, want, got)
		assert.Equal(t, addrOf(a), m.Addr)
	}
	sent, err := a.WriteSegments([]byte("segments"), 5, addrOf(b))
	require.NoError(t, err)
	require.Equal(t, 8, sent)
	buf := make([]byte, 10)
	for _, want := range []string{"segme", "nts"} {
		n, from, err := b.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
		assert.Equal(t, want, string(buf[:n]))
		assert.Equal(t, addrOf(a), from)
	}
}

func TestUDP_PortableRefusals(t *testing.T) {
	a := portable(t)
	good := UDPMessage{Buffers: [][]byte{[]byte("x")}, Addr: addrOf(a)}
	for name, bad := range map[string]UDPMessage{
		"ECN":       {Addr: addrOf(a), ECN: ECNZero},
		"Local":     {Addr: addrOf(a), Local: netip.MustParseAddr("127.0.0.1")},
		"Interface": {Addr: addrOf(a), Interface: 1},
	} {
		n, err := a.WriteBatch([]UDPMessage{good, bad, good}, 0)
		assert.Equal(t, 1, n, name)
		assert.ErrorIs(t, err, errors.ErrUnsupported, name)
	}
	for name, err := range map[string]error{
		"SetGRO": a.SetGRO(true), "SetECN": a.SetECN(ECNZero), "SetReceiveECN": a.SetReceiveECN(true),
		"SetPacketInfo": a.SetPacketInfo(true),
	} {
		var op *net.OpError
		assert.ErrorIs(t, err, errors.ErrUnsupported, name)
		require.ErrorAs(t, err, &op, name)
		assert.Equal(t, "set", op.Op)
		assert.Equal(t, a.LocalAddr(), op.Addr)
	}
	_, err := a.WriteBatch([]UDPMessage{{Buffers: [][]byte{{1}}}}, 0)
	assert.ErrorContains(t, err, "missing address")
	_, err = a.WriteBatch([]UDPMessage{{Buffers: [][]byte{{1}}, Addr: addrOf(a), SegmentSize: -1}}, 0)
	assert.ErrorIs(t, err, syscall.EINVAL)
	require.NoError(t, a.Close())
	_, err = a.ReadBatch(make([]UDPMessage, 1), 0)
	assert.ErrorIs(t, err, net.ErrClosed)
	_, err = a.WriteBatch([]UDPMessage{good}, 0)
	assert.ErrorIs(t, err, net.ErrClosed)
}
