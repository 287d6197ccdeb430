//go:build linux && (amd64 || arm64 || riscv64 || loong64)

package rawio

import (
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMsgBatch_LayoutOfKernel(t *testing.T) {
	assert.EqualValues(t, 64, unsafe.Sizeof(mmsghdr{}))
	assert.EqualValues(t, 56, unsafe.Offsetof(mmsghdr{}.len))
	assert.EqualValues(t, syscall.SizeofSockaddrInet6, MsgNameSize)
}

func TestMsgName_BothWays(t *testing.T) {
	var n MsgName
	got, _ := n.Get()
	assert.False(t, got.IsValid())
	where, size := n.pointer()
	assert.Nil(t, where)
	assert.Zero(t, size)
	n.Set6(netip.MustParseAddr("fe80::1").As16(), 443, 7)
	got, scope := n.Get()
	assert.Equal(t, netip.MustParseAddrPort("[fe80::1]:443"), got)
	assert.EqualValues(t, 7, scope)
	n.Set4([4]byte{127, 0, 0, 1}, 65_535) // over the longer one
	got, scope = n.Get()
	assert.Equal(t, netip.MustParseAddrPort("127.0.0.1:65535"), got)
	assert.Zero(t, scope)
	_, size = n.pointer()
	assert.EqualValues(t, syscall.SizeofSockaddrInet4, size)
}

// Goal: what is appended is what package syscall reads, and what is parsed again.
func TestMsgControl_BothWays(t *testing.T) {
	c := MsgControl{
		TrafficBits: 2, HasTraffic: true, Local: netip.MustParseAddr("127.0.0.9"), Interface: 3,
	}
	const v4, v6, udp = syscall.IPPROTO_IP, syscall.IPPROTO_IPV6, syscall.IPPROTO_UDP
	for _, s := range []struct {
		v6, to4 bool
		local   string
		kinds   [][2]int32
	}{
		{false, true, "0.0.0.0", [][2]int32{
			{v4, syscall.IP_TOS},
			{v4, syscall.IP_PKTINFO},
		}},
		{true, true, "::ffff:127.0.0.9", [][2]int32{
			{v4, syscall.IP_TOS},
			{v6, syscall.IPV6_PKTINFO},
		}},
		{true, false, "::ffff:127.0.0.9", [][2]int32{
			{v6, syscall.IPV6_TCLASS},
			{v6, syscall.IPV6_PKTINFO},
		}},
	} {
		b := AppendSegment(c.Append(nil, s.v6, s.to4), 1200)
		parsed, err := syscall.ParseSocketControlMessage(b)
		require.NoError(t, err)
		require.Len(t, parsed, 3)
		for i, kind := range append(s.kinds, [2]int32{udp, udpSegment}) {
			assert.Equal(t, kind, [2]int32{parsed[i].Header.Level, parsed[i].Header.Type})
		}
		assert.Len(t, parsed[2].Data, 2)
		var got MsgControl
		got.Parse(b)
		assert.EqualValues(t, 2, got.TrafficBits)
		assert.True(t, got.HasTraffic)
		assert.Equal(t, 3, got.Interface)
		// Sent, an IPv4 source is the second field of in_pktinfo; received, the third.
		assert.Equal(t, s.local, got.Local.String())
		assert.LessOrEqual(t, len(b), MsgControlSize)
	}
	assert.Empty(t, (&MsgControl{}).Append(nil, true, true))
}

// Goal: no bytes make Parse read outside of them or run for ever.
func FuzzMsgControl_Parse(f *testing.F) {
	whole := MsgControl{HasTraffic: true, Interface: 1, Local: netip.IPv6Loopback()}
	f.Add(whole.Append(nil, true, false))
	f.Add(AppendSegment(nil, 9)[:20])
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c MsgControl
		c.Parse(b[:len(b):len(b)])
		assert.LessOrEqual(t, c.TrafficBits, uint8(ecnMask))
	})
}

// Goal: Clear leaves no reference to the caller's memory, whatever was in the batch.
func TestMsgBatch_ClearForgets(t *testing.T) {
	var b MsgBatch
	for range 3 {
		b.Begin()
		b.Buffer(make([]byte, 10))
		b.OOB(make([]byte, 10))
	}
	b.Begin()
	b.ControlRoom(MsgControlSize)
	b.Seal()
	require.Equal(t, 4, b.Len())
	b.Clear()
	require.Zero(t, b.Len())
	for _, h := range b.hdrs[:cap(b.hdrs)] {
		assert.Zero(t, h)
	}
	for _, v := range b.iovs[:cap(b.iovs)] {
		assert.Zero(t, v)
	}
}
