package tests

// Batches of datagrams: what they carry, and what happens when they can't go or come in full.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// veloqUDP listens on loopback until the end of the test.
func veloqUDP(t *testing.T, network string, loopback *net.UDPAddr) *veloq.UDPConn {
	t.Helper()
	c, err := veloq.ListenUDP(network, loopback)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// forBatch runs fn on each family, and on a socket for both that is reached by IPv4.
func forBatch(t *testing.T, fn func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort)) {
	noLeak(t)
	skipWithoutUDP(t)
	four, six := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.UDPAddr{IP: net.IPv6loopback}
	t.Run("udp4", func(t *testing.T) {
		b := veloqUDP(t, "udp4", four)
		fn(t, veloqUDP(t, "udp4", four), b, addrPort(b))
	})
	t.Run("udp6", func(t *testing.T) {
		needIPv6(t)
		b := veloqUDP(t, "udp6", six)
		fn(t, veloqUDP(t, "udp6", six), b, addrPort(b))
	})
	t.Run("mapped", func(t *testing.T) {
		needIPv6(t)
		b := veloqUDP(t, "udp", nil)
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addrPort(b).Port())
		fn(t, veloqUDP(t, "udp", nil), b, to)
	})
}

// roomFor makes count messages with a buffer each.
func roomFor(count, size int) []veloq.UDPMessage {
	ms := make([]veloq.UDPMessage, count)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, size)}
	}
	return ms
}

// receiveAll reads batches until it has count datagrams, cut apart where the kernel joined them.
func receiveAll(t *testing.T, c *veloq.UDPConn, count int) (all [][]byte, calls, joined int) {
	t.Helper()
	for len(all) < count {
		ms := roomFor(16, 65_536)
		n, err := c.ReadBatch(ms, 0)
		require.NoError(t, err, "after %d of %d", len(all), count)
		require.Positive(t, n)
		calls++
		for _, m := range ms[:n] {
			p := m.Buffers[0][:m.N]
			if m.SegmentSize == 0 {
				all = append(all, p)
				continue
			}
			joined++
			for len(p) > 0 {
				size := min(m.SegmentSize, len(p))
				all, p = append(all, p[:size]), p[size:]
			}
		}
	}
	require.Len(t, all, count)
	return all, calls, joined
}

func TestUDPBatch_ThereAndBack(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		const count = 40
		out := make([]veloq.UDPMessage, count)
		for i := range out {
			p := udpPatterned(i*31, i)
			out[i] = veloq.UDPMessage{Buffers: [][]byte{p[:i], nil, p[i:]}, Addr: to}
		}
		out[7].Buffers = nil // nothing is a datagram too
		n, err := a.WriteBatch(out, 0)
		require.NoError(t, err)
		require.Equal(t, count, n)
		in := roomFor(64, 2000)
		for i := range in {
			in[i].Buffers = [][]byte{make([]byte, 5), make([]byte, 0), make([]byte, 1995)}
		}
		got := 0
		for calls := 0; got < count; calls++ {
			n, err := b.ReadBatch(in[got:], 0)
			require.NoError(t, err)
			require.Positive(t, n)
			got += n
		}
		for i, m := range in[:count] {
			want := udpPatterned(i*31, i)
			if i == 7 {
				want = nil
			}
			require.Equal(t, len(want), m.N, "message %d", i)
			p := append(append([]byte{}, m.Buffers[0][:min(5, m.N)]...), m.Buffers[2][:max(m.N-5, 0)]...)
			require.Equal(t, string(want), string(p), "message %d", i)
			require.Equal(t, len(want), out[i].N)
			require.Equal(t, addrPort(a).Port(), m.Addr.Port())
			require.Equal(t, to.Addr().Unmap(), m.Addr.Addr().Unmap())
			require.Zero(t, m.Flags)
			require.Zero(t, m.SegmentSize)
		}
		// The answer goes to the address as it came.
		_, err = b.WriteBatch([]veloq.UDPMessage{{Buffers: [][]byte{[]byte("back")}, Addr: in[0].Addr}}, 0)
		require.NoError(t, err)
		n, err = a.Read(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 4, n)
	})
}

// Goal: larger than the kernel takes in a call, both ways, with a reader that runs beside.
func TestUDPBatch_LargerThanTheKernelTakes(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		_ = b.SetReadBuffer(4 << 20) // as much as the system lets
		const rounds = 2500
		ms := make([]veloq.UDPMessage, rounds)
		for i := range ms {
			ms[i] = veloq.UDPMessage{Buffers: [][]byte{{byte(i), byte(i >> 8)}}, Addr: to}
		}
		n, err := a.WriteBatch(ms, 0)
		require.NoError(t, err)
		require.Equal(t, rounds, n)
		// Of a flood as many come as the receive buffer takes: whole, in order, none twice. The mark at
		// its end finds room at the latest after a read.
		const mark = 0xffff
		last, got := -1, 0
		for last != mark {
			in := roomFor(2000, 16)
			n, err := b.ReadBatch(in, 0)
			require.NoError(t, err)
			require.LessOrEqual(t, n, veloq.BatchMax)
			for _, m := range in[:n] {
				require.Equal(t, 2, m.N)
				seq := int(m.Buffers[0][0]) | int(m.Buffers[0][1])<<8
				require.Greater(t, seq, last)
				if last = seq; last == mark {
					break
				}
				got++
			}
			_, err = a.WriteBatch([]veloq.UDPMessage{{Buffers: [][]byte{{0xff, 0xff}}, Addr: to}}, 0)
			require.NoError(t, err)
		}
		require.GreaterOrEqual(t, got, 64)
	})
}

// Goal: one bad entry stops the batch there: those before it went, its error is package net's.
func TestUDPBatch_BadEntry(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		good := func(text string) veloq.UDPMessage {
			return veloq.UDPMessage{Buffers: [][]byte{[]byte(text)}, Addr: to}
		}
		connected, err := veloq.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		require.NoError(t, err)
		defer func() { _ = connected.Close() }()
		big := veloq.UDPMessage{Buffers: [][]byte{make([]byte, 40_000), make([]byte, 40_000)}, Addr: to}
		for name, c := range map[string]struct {
			bad    veloq.UDPMessage
			oracle func() error
		}{
			"no address": {veloq.UDPMessage{Buffers: [][]byte{{1}}}, func() error {
				_, err := a.NetConn().WriteToUDPAddrPort(nil, netip.AddrPort{})
				return err
			}},
			"too long": {big, func() error {
				_, _, err := a.NetConn().WriteMsgUDPAddrPort(make([]byte, 80_000), nil, to)
				return err
			}},
		} {
			n, err := a.WriteBatch([]veloq.UDPMessage{good("one"), good("two"), c.bad, good("never")}, 0)
			require.Equal(t, 2, n, name)
			want, got := new(net.OpError), new(net.OpError)
			require.ErrorAs(t, c.oracle(), &want)
			require.ErrorAs(t, err, &got, name)
			assert.Equal(t, want.Op, got.Op)
			assert.Equal(t, want.Net, got.Net)
			assert.Equal(t, want.Source, got.Source)
			assert.Equal(t, fmt.Sprint(want.Addr), fmt.Sprint(got.Addr))
			assert.Equal(t, errors.Unwrap(want.Err), errors.Unwrap(got.Err), name)
			all, _, _ := receiveAll(t, b, 2)
			require.Equal(t, [][]byte{[]byte("one"), []byte("two")}, all)
		}
		n, err := connected.WriteBatch([]veloq.UDPMessage{{Buffers: [][]byte{{1}}}, good("address")}, 0)
		require.Equal(t, 1, n)
		require.ErrorIs(t, err, net.ErrWriteToConnected)
		receiveAll(t, b, 1)
		n, err = a.WriteBatch([]veloq.UDPMessage{{Buffers: [][]byte{{1}}, Addr: to, SegmentSize: -1}}, 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, syscall.EINVAL)
		n, err = a.WriteBatch(nil, 0)
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = a.ReadBatch(nil, 0)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestUDPBatch_DeadlineAndClose(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		done := make(chan error, 2)
		read := func() { done <- first(b.ReadBatch(roomFor(4, 10), 0)) }
		go read()
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Millisecond)))
		err := await(t, "deadline", done)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "read", op.Op)
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		go read()
		go read()
		require.NoError(t, b.Close())
		require.ErrorIs(t, await(t, "close", done), net.ErrClosed)
		require.ErrorIs(t, await(t, "close", done), net.ErrClosed)
		ms := []veloq.UDPMessage{{Buffers: [][]byte{{1}}, Addr: to}}
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(-time.Second)))
		n, err := a.WriteBatch(ms, 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		n, err = a.WriteSegments([]byte("abc"), 1, to)
		require.Zero(t, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, a.Close())
		n, err = a.WriteBatch(ms, 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, net.ErrClosed)
		want := errors.ErrUnsupported
		if runtime.GOOS == "linux" {
			want = net.ErrClosed
		}
		require.ErrorIs(t, a.SetGRO(true), want)
	})
}

// Goal: WriteSegments cuts as it says, at every border, whatever the kernel does of it.
func TestUDPBatch_WriteSegments(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		for _, c := range []struct{ bytes, size int }{
			{1, 1},
			{10, 1},
			{10, 3},
			{10, 10},
			{10, 11},
			{1200, 1200},
			{1201, 1200},
			{64 * 1200, 1200},
			{64*100 + 1, 100},
			{65*100 + 1, 100},
			{65_487, 1200},
			{65_488, 1200},
			{100_000, 30_000},
			{100_000, 50_000},
		} {
			p := udpPatterned(c.bytes, c.size)
			n, err := a.WriteSegments(p, c.size, to)
			require.NoError(t, err, "%+v", c)
			require.Equal(t, c.bytes, n)
			count := (c.bytes + c.size - 1) / c.size
			all, _, _ := receiveAll(t, b, count)
			for i, got := range all {
				require.Equal(t, p[i*c.size:min((i+1)*c.size, len(p))], got, "%+v, datagram %d", c, i)
			}
		}
		n, err := a.WriteSegments(nil, 10, to)
		require.NoError(t, err)
		require.Zero(t, n)
		for _, size := range []int{0, -1, 65_508} {
			n, err = a.WriteSegments([]byte("x"), size, to)
			require.Zero(t, n)
			require.ErrorIs(t, err, syscall.EINVAL)
		}
	})
}

// Goal: batches from several goroutines at once keep each other's entries apart.
func TestUDPBatch_Concurrent(t *testing.T) {
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		_ = b.SetReadBuffer(4 << 20)
		const senders, batch = 4, 8
		rounds := sized(500, 50, 10)
		tokens := make(chan struct{}, 64) // no more in flight than any receive buffer takes
		var sending, receiving sync.WaitGroup
		for s := range senders {
			sending.Go(func() {
				for r := range rounds {
					ms := make([]veloq.UDPMessage, batch)
					for i := range ms {
						tokens <- struct{}{}
						ms[i] = veloq.UDPMessage{Buffers: [][]byte{{byte(s)}, udpPatterned(600+r, s)}, Addr: to}
					}
					n, err := a.WriteBatch(ms, 0)
					if !assert.NoError(t, err) || !assert.Equal(t, batch, n) {
						return
					}
				}
			})
		}
		var mu sync.Mutex
		counts, left := [senders]int{}, senders*batch*rounds
		for range 2 {
			receiving.Go(func() {
				for {
					ms := roomFor(5, 2000)
					n, err := b.ReadBatch(ms, 0)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					for _, m := range ms[:n] {
						s := int(m.Buffers[0][0])
						assert.Equal(t, udpPatterned(m.N-1, s), m.Buffers[0][1:m.N])
						counts[s]++
						left--
						<-tokens
					}
					over := left == 0
					mu.Unlock()
					if over {
						_ = b.Close()
					}
				}
			})
		}
		sending.Wait()
		receiving.Wait()
		for s, n := range counts {
			require.Equal(t, batch*rounds, n, "sender %d", s)
		}
	})
}

// Goal: the calls that promise to allocate nothing keep it, errors and growth apart.
func TestUDP_Allocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	if runtime.GOOS != "linux" {
		t.Skip("package net does the work here")
	}
	forBatch(t, func(t *testing.T, a, b *veloq.UDPConn, to netip.AddrPort) {
		connected, err := veloq.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		require.NoError(t, err)
		defer func() { _ = connected.Close() }()
		_ = connected.SetDeadline(time.Now().Add(patience))
		p, buf, oob := make([]byte, 1200), make([]byte, 65_536), make([]byte, 128)
		toUDP := net.UDPAddrFromAddrPort(to)
		out, in := make([]veloq.UDPMessage, 16), roomFor(16, 65_536)
		for i := range out {
			out[i] = veloq.UDPMessage{Buffers: [][]byte{p}, Addr: to, ECN: veloq.ECNZero}
		}
		must := func(_ int, err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		receive := func() {
			_, _, err := b.ReadFromUDPAddrPort(buf)
			must(0, err)
		}
		drain := func(count int) {
			for count > 0 {
				n, err := b.ReadBatch(in, 0)
				must(n, err)
				count -= n
			}
		}
		for name, c := range map[string]struct {
			allocs float64
			fn     func()
		}{
			"WriteToUDPAddrPort, ReadFromUDPAddrPort": {0, func() {
				must(a.WriteToUDPAddrPort(p, to))
				receive()
			}},
			"WriteToUDP":  {0, func() { must(a.WriteToUDP(p, toUDP)); receive() }},
			"Write, Read": {0, func() { must(connected.Write(p)); must(b.Read(buf)) }},
			"WriteMsgUDPAddrPort, ReadMsgUDPAddrPort": {0, func() {
				n, _, err := a.WriteMsgUDPAddrPort(p, nil, to)
				must(n, err)
				n, _, _, _, err = b.ReadMsgUDPAddrPort(buf, oob)
				must(n, err)
			}},
			"WriteMsgUDP": {0, func() {
				n, _, err := a.WriteMsgUDP(p, nil, toUDP)
				must(n, err)
				receive()
			}},
			"ReadFromUDP": {1, func() {
				must(a.WriteToUDPAddrPort(p, to))
				n, _, err := b.ReadFromUDP(buf)
				must(n, err)
			}},
			"WriteBatch, ReadBatch": {0, func() { must(a.WriteBatch(out, 0)); drain(len(out)) }},
			"WriteSegments":         {0, func() { must(a.WriteSegments(buf[:12_000], 1200, to)); drain(10) }},
		} {
			c.fn()
			assert.LessOrEqual(t, testing.AllocsPerRun(100, c.fn), c.allocs, name)
		}
	})
}
