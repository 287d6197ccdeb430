package tests

// What the UDP tests ask of Linux, and what only Linux has: offloads, cmsgs, refusals of the kernel.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
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

// Goal: what GSO sends joined, GRO receives joined, and the sizes are told.
func TestUDPBatch_GRO(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		require.NoError(t, b.SetGRO(true))
		p := udpPatterned(30*1200+7, 3)
		_, err := a.WriteSegments(p, 1200, to)
		require.NoError(t, err)
		all, calls, joined := receiveAll(t, b, 31)
		require.Equal(t, p, bytes.Join(all, nil))
		require.Positive(t, joined, "nothing came joined")
		require.Less(t, calls, 16)
		// ReadMsgUDP has the control message for who asks for it.
		_, err = a.WriteSegments(p[:2400], 1200, to)
		require.NoError(t, err)
		oob := make([]byte, 128)
		n, oobn, _, _, err := b.ReadMsgUDPAddrPort(make([]byte, 65_536), oob)
		require.NoError(t, err)
		require.Equal(t, 2400, n)
		cmsgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		require.NoError(t, err)
		require.Len(t, cmsgs, 1)
		require.EqualValues(t, 1200, binary.NativeEndian.Uint32(cmsgs[0].Data))
		// And off again: each by itself.
		require.NoError(t, b.SetGRO(false))
		_, err = a.WriteSegments(p[:2400], 1200, to)
		require.NoError(t, err)
		_, _, joined = receiveAll(t, b, 2)
		require.Zero(t, joined)
	})
}

// Goal: a kernel that refuses to cut is asked once; every datagram arrives nevertheless, once.
// Method: a socket that sends without checksums (SO_NO_CHECK), which UDP_SEGMENT answers with EINVAL.
func TestUDPBatch_GSORefused(t *testing.T) {
	const soNoCheck = 11
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		control(t, a, func(fd int) error {
			return errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, soNoCheck, 1),
				optional6(syscall.SetsockoptInt(fd, syscall.IPPROTO_UDP, 101, 1))) // UDP_NO_CHECK6_TX
		})
		control(t, b, func(fd int) error {
			return optional6(syscall.SetsockoptInt(fd, syscall.IPPROTO_UDP, 102, 1)) // UDP_NO_CHECK6_RX
		})
		require.NoError(t, b.SetGRO(true))
		_, _, plainErr := a.WriteMsgUDPAddrPort(make([]byte, 20), segmentMessage(10), to)
		if !to.Addr().Is4() && plainErr == nil {
			receiveAll(t, b, 2)
			t.Skip("this kernel cuts without checksums over IPv6")
		}
		require.ErrorIs(t, plainErr, syscall.EINVAL, "the kernel cuts without checksums: no test")
		p := udpPatterned(5*1200+7, 3)
		for range 2 {
			n, err := a.WriteSegments(p, 1200, to)
			require.NoError(t, err)
			require.Equal(t, len(p), n)
			all, _, joined := receiveAll(t, b, 6)
			require.Equal(t, p, bytes.Join(all, nil))
			require.Zero(t, joined)
		}
		// In a batch, with whole ones around it.
		ms := []veloq.UDPMessage{
			{Buffers: [][]byte{[]byte("before")}, Addr: to},
			{Buffers: [][]byte{p[:100], p[100:]}, Addr: to, SegmentSize: 600},
			{Buffers: [][]byte{[]byte("after")}, Addr: to},
		}
		n, err := a.WriteBatch(ms, 0)
		require.NoError(t, err)
		require.Equal(t, 3, n)
		require.Equal(t, []int{6, len(p), 5}, []int{ms[0].N, ms[1].N, ms[2].N})
		all, _, _ := receiveAll(t, b, 13)
		require.Equal(t, "before"+string(p)+"after", string(bytes.Join(all, nil)))
		require.Len(t, all[1], 600)
	})
}

// optional6: the option is only IPv6 sockets'.
func optional6(err error) error {
	if errors.Is(err, syscall.ENOPROTOOPT) {
		return nil
	}
	return err
}

// segmentMessage is UDP_SEGMENT's control message, by hand.
func segmentMessage(size uint16) []byte {
	b := make([]byte, syscall.CmsgSpace(2))
	binary.NativeEndian.PutUint64(b, uint64(syscall.CmsgLen(2)))
	binary.NativeEndian.PutUint32(b[8:], syscall.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(b[12:], 103)
	binary.NativeEndian.PutUint16(b[16:], size)
	return b
}

// Goal: ECN is the socket's, or a message's own; DSCP stays.
func TestUDPBatch_ECN(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		require.NoError(t, b.SetReceiveECN(true))
		control(t, a, func(fd int) error {
			return errors.Join(syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_TOS, 0xb8),
				optional6(syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS, 0xb8)))
		})
		see := func(want ...veloq.ECN) {
			t.Helper()
			var got []veloq.ECN
			for len(got) < len(want) {
				ms := roomFor(8, 2000)
				for i := range ms {
					ms[i].OOB = make([]byte, 64)
				}
				n, err := b.ReadBatch(ms, 0)
				require.NoError(t, err)
				for _, m := range ms[:n] {
					got = append(got, m.ECN)
					require.Positive(t, m.NN)
				}
			}
			require.Equal(t, want, got)
		}
		for _, e := range []veloq.ECN{veloq.ECNZero, veloq.ECNOne, veloq.ECNCE, veloq.ECNNone} {
			require.NoError(t, a.SetECN(e))
			_, err := a.WriteToUDPAddrPort([]byte("x"), to)
			require.NoError(t, err)
			see(e)
		}
		control(t, a, func(fd int) error {
			tos, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_TOS)
			require.Equal(t, 0xb8, tos)
			return err
		})
		require.NoError(t, a.SetECN(veloq.ECNOne))
		_, err := a.WriteBatch([]veloq.UDPMessage{
			{Buffers: [][]byte{{1}}, Addr: to, ECN: veloq.ECNZero},
			{Buffers: [][]byte{{2}}, Addr: to},
			{Buffers: [][]byte{{3}}, Addr: to, ECN: veloq.ECNCE},
			{Buffers: [][]byte{make([]byte, 30)}, Addr: to, ECN: veloq.ECNZero, SegmentSize: 10},
		}, 0)
		require.NoError(t, err)
		see(veloq.ECNZero, veloq.ECNOne, veloq.ECNCE, veloq.ECNZero, veloq.ECNZero, veloq.ECNZero)
		require.ErrorIs(t, a.SetECN(4), syscall.EINVAL)
		require.NoError(t, b.SetReceiveECN(false))
	})
}

// Goal: where a datagram arrived is told, and an answer leaves from there.
func TestUDPBatch_PacketInfo(t *testing.T) {
	noLeak(t)
	for _, c := range []struct{ network, local string }{{"udp4", "127.0.0.7"}, {"udp", "127.0.0.7"}, {"udp6", "::1"}} {
		t.Run(c.network+" "+c.local, func(t *testing.T) {
			if c.network != "udp4" {
				needIPv6(t)
			}
			local := netip.MustParseAddr(c.local)
			server := veloqUDP(t, c.network, nil)
			require.NoError(t, server.SetPacketInfo(true))
			client := veloqUDP(t, "udp", nil)
			_, err := client.WriteToUDPAddrPort([]byte("ask"), netip.AddrPortFrom(local, addrPort(server).Port()))
			require.NoError(t, err)
			ms := roomFor(1, 100)
			_, err = server.ReadBatch(ms, 0)
			require.NoError(t, err)
			require.Equal(t, local, ms[0].Local.Unmap())
			require.Positive(t, ms[0].Interface)
			_, err = server.WriteBatch([]veloq.UDPMessage{{
				Buffers: [][]byte{[]byte("answer")}, Addr: ms[0].Addr, Local: ms[0].Local, Interface: ms[0].Interface,
			}}, 0)
			require.NoError(t, err)
			_, from, err := client.ReadFromUDPAddrPort(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, local, from.Addr().Unmap())
			// By the interface alone.
			_, err = server.WriteBatch([]veloq.UDPMessage{{
				Buffers: [][]byte{[]byte("answer")}, Addr: ms[0].Addr, Interface: ms[0].Interface,
			}}, 0)
			require.NoError(t, err)
			_, err = client.Read(make([]byte, 10))
			require.NoError(t, err)
		})
	}
	four := veloqUDP(t, "udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	_, err := four.WriteBatch([]veloq.UDPMessage{{
		Buffers: [][]byte{{1}}, Addr: addrPort(four), Local: netip.IPv6Loopback(),
	}}, 0)
	var wrong *net.AddrError
	require.ErrorAs(t, err, &wrong)
	// An address that is not this host's: the kernel's own answer.
	_, err = four.WriteBatch([]veloq.UDPMessage{{
		Buffers: [][]byte{{1}}, Addr: addrPort(four), Local: netip.MustParseAddr("192.0.2.1"),
	}}, 0)
	require.Error(t, err)
	var call *os.SyscallError
	require.ErrorAs(t, err, &call)
	require.Equal(t, "sendmmsg", call.Syscall)
}

// Goal: flags say what was cut, of the caller's memory and never of our own.
func TestUDPBatch_Flags(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		require.NoError(t, b.SetReceiveECN(true))
		require.NoError(t, b.SetPacketInfo(true))
		for range 3 {
			_, err := a.WriteToUDPAddrPort([]byte("0123456789"), to)
			require.NoError(t, err)
		}
		ms := roomFor(1, 4)
		_, err := b.ReadBatch(ms, 0)
		require.NoError(t, err)
		require.Equal(t, 4, ms[0].N)
		require.Equal(t, msgTrunc, ms[0].Flags)
		require.Zero(t, ms[0].NN)
		require.True(t, ms[0].Local.IsValid())
		ms[0].OOB = make([]byte, 8) // less than a header
		_, err = b.ReadBatch(ms, 0)
		require.NoError(t, err)
		require.Equal(t, msgTrunc|msgCtrunc, ms[0].Flags)
		require.False(t, ms[0].Local.IsValid())
		// The caller's flags are the kernel's: a look takes nothing.
		for range 2 {
			ms = roomFor(1, 20)
			_, err = b.ReadBatch(ms, syscall.MSG_PEEK)
			require.NoError(t, err)
			require.Equal(t, 10, ms[0].N)
		}
	})
}

// Goal: a peer that is gone is an error of the batch, and the next batch goes on.
func TestUDPBatch_ConnectionRefused(t *testing.T) {
	noLeak(t)
	gone := veloqUDP(t, "udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	c, err := veloq.DialUDP("udp4", nil, udpAddr(gone))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, gone.Close())
	ms := []veloq.UDPMessage{{Buffers: [][]byte{{1}}}, {Buffers: [][]byte{{2}}}, {Buffers: [][]byte{{3}}}}
	say := func() {
		_, err := c.Write([]byte("x")) // loopback: the answer is there before it returns
		require.NoError(t, err)
	}
	var op *net.OpError
	say()
	n, err := c.WriteBatch(ms, 0)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorAs(t, err, &op)
	require.Equal(t, c.RemoteAddr(), op.Addr)
	require.Zero(t, n)
	say()
	_, err = c.ReadBatch(roomFor(2, 10), 0)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorAs(t, err, &op)
	require.Equal(t, c.RemoteAddr(), op.Addr)
	// What arrives amid a batch is lost in the kernel; the batch goes on and counts all of it.
	n, err = c.WriteBatch(ms, 0)
	require.NoError(t, err)
	require.Equal(t, 3, n)
}
