package veloq

// What a socket remembers of the kernel's refusals.

import (
	"net"
	"syscall"
	"testing"

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
