package tests

// Datagrams on the worker doors: every byte that was sent arrives as it was, in a datagram of its own;
// options, bounds, ends.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// packetShapes are the runtimes that datagrams are tested on. The tiny one has 4 buffers, room for 2 KiB.
func packetShapes() []shape {
	tiny := tinyConfig()
	tiny.PacketCount, tiny.PacketSize, tiny.PacketQueue = 4, 2048, 3
	return []shape{
		{name: "default", config: veloq.Config{Workers: 1}},
		{name: "tiny", config: tiny},
		{name: "workers", config: veloq.Config{Workers: 2}},
	}
}

// newPacketRuntime is newRuntime for tests of datagrams, which not every driver has.
func newPacketRuntime(t *testing.T, config veloq.Config) *veloq.Runtime {
	t.Helper()
	rt := newRuntime(t, config)
	if rt.Stats()[0].Packets == 0 {
		t.Skip("this driver receives no datagrams")
	}
	return rt
}

// longest is the longest payload that is not cut off.
func longest(config veloq.Config) int {
	if config.PacketSize == 0 {
		return 65507
	}
	return config.PacketSize - 176
}

func echoDatagrams(_ *veloq.Context, d *veloq.Datagram) error {
	ps := make([]veloq.Packet, 16)
	for {
		n, err := d.RecvBatch(ps)
		if err != nil {
			return err
		}
		for i := range ps[:n] {
			err := d.SendTo(ps[i].Data.Bytes(), ps[i].From)
			ps[i].Release()
			if err != nil {
				return err
			}
		}
	}
}

type packetEcho struct{ veloq.DatagramHandlerBase }

func (packetEcho) OnPackets(_ *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	for i := range ps {
		_ = d.SendTo(ps[i].Data.Bytes(), ps[i].From) // what is full is lost, as a network loses it
	}
}

// startPacketEcho serves echo on that door and returns the address.
func startPacketEcho(t *testing.T, rt *veloq.Runtime, door string) *veloq.DatagramServer {
	t.Helper()
	var s *veloq.DatagramServer
	var err error
	lc := &veloq.ListenConfig{}
	if door == "handler" {
		s, err = lc.StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", packetEcho{})
	} else {
		s, err = lc.StartDatagram(context.Background(), rt, "udp", "127.0.0.1:0", echoDatagrams)
	}
	require.NoError(t, err)
	t.Cleanup(func() { bounded(t, "DatagramServer.Close", s.Close) })
	return s
}

// pair is two sockets on one worker, the second connected to the first.
func pair(c *veloq.Context) (to, from *veloq.Datagram, err error) {
	to, err = c.ListenDatagram("udp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	from, err = c.DialDatagram("udp", to.LocalAddr().String())
	return to, from, err
}

// expect receives one datagram with a deadline and compares.
func expect(d *veloq.Datagram, want []byte) error {
	if err := d.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	p, err := d.Recv()
	if err != nil {
		return err
	}
	defer p.Release()
	if got := p.Data.Bytes(); !bytes.Equal(got, want) {
		return fmt.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	return nil
}

// Goal: both doors echo datagrams of every size, each byte checked, and nothing is left.
func TestDatagram_Echo(t *testing.T) {
	for _, sh := range packetShapes() {
		for _, door := range doors {
			t.Run(sh.name+"/"+door, func(t *testing.T) {
				noLeak(t)
				rt := newPacketRuntime(t, sh.config)
				s := startPacketEcho(t, rt, door)
				before := holds(rt)
				most := longest(sh.config)
				require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
					d, err := c.DialDatagram("udp", s.Addr().String())
					if err != nil {
						return err
					}
					defer func() { _ = d.Close() }()
					bytes := newPattern(1)
					for i := range 300 {
						b := bytes.next(i * 7919 % (most + 1))
						if err := d.Send(b); err != nil {
							return err
						}
						if err := expect(d, b); err != nil {
							return fmt.Errorf("datagram %d of %d bytes: %w", i, len(b), err)
						}
					}
					return nil
				}))
				settled(t, rt, before)
			})
		}
	}
}

func TestDatagram_Empty(t *testing.T) {
	for _, sh := range packetShapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newPacketRuntime(t, sh.config)
			require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
				to, from, err := pair(c)
				if err != nil {
					return err
				}
				for range 20 {
					for _, b := range [][]byte{nil, []byte("x"), {}, {}} {
						if err := from.Send(b); err != nil {
							return err
						}
						p, err := to.Recv()
						if err != nil {
							return err
						}
						if p.Data.Len() != len(b) || p.From != from.LocalAddr().(*net.UDPAddr).AddrPort() {
							return fmt.Errorf("%d bytes from %v", p.Data.Len(), p.From)
						}
						p.Release()
					}
				}
				return nil
			}))
		})
	}
}

func TestDatagram_Truncated(t *testing.T) {
	config := packetShapes()[1].config
	rt := newPacketRuntime(t, config)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		b := newPattern(3).next(3000)
		if err := errors.Join(from.Send(b), from.Send(b[:longest(config)]), from.Send(b[:5])); err != nil {
			return err
		}
		for i, want := range []int{longest(config), longest(config), 5} {
			p, err := to.Recv()
			if err != nil {
				return err
			}
			if !bytes.Equal(p.Data.Bytes(), b[:want]) || p.Truncated != (i == 0) {
				return fmt.Errorf("datagram %d: %d bytes, truncated %v", i, p.Data.Len(), p.Truncated)
			}
			p.Release()
		}
		// A short buffer of the caller's cuts too, as package net's does.
		if err := errors.Join(from.Send(b[:100]), from.Send(b[:3])); err != nil {
			return err
		}
		buf := make([]byte, 10)
		n, addr, err := to.ReadFromAddrPort(buf)
		if err != nil || n != 10 || !bytes.Equal(buf, b[:10]) || addr.Port() == 0 {
			return fmt.Errorf("%d bytes of %v: %w", n, addr, err)
		}
		n, err = to.Read(buf)
		if err != nil || n != 3 {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
		return nil
	}))
}

// Goal: a Datagram is what package net's interfaces say.
func TestDatagram_NetInterfaces(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		var pc net.PacketConn = to
		var conn net.Conn = from
		if _, err := conn.Write([]byte("ping")); err != nil {
			return err
		}
		buf := make([]byte, 100)
		n, addr, err := pc.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "ping" || addr.String() != conn.LocalAddr().String() {
			return fmt.Errorf("%q from %v: %w", buf[:n], addr, err)
		}
		if _, err := pc.WriteTo([]byte("pong"), addr); err != nil {
			return err
		}
		n, err = conn.Read(buf)
		if err != nil || string(buf[:n]) != "pong" {
			return fmt.Errorf("%q: %w", buf[:n], err)
		}
		if conn.RemoteAddr().String() != pc.LocalAddr().String() || to.RemoteAddr() != nil {
			return fmt.Errorf("remote %v, %v", conn.RemoteAddr(), to.RemoteAddr())
		}
		_, err = from.WriteTo([]byte("x"), addr)
		assert.ErrorIs(t, err, net.ErrWriteToConnected)
		_, err = to.Write([]byte("x"))
		assert.ErrorContains(t, err, "missing address")
		err = to.Send(make([]byte, 65508))
		assert.Error(t, err)
		err = from.Send(make([]byte, 65508))
		assert.ErrorIs(t, err, syscall.EMSGSIZE)
		err = to.SendTo([]byte("x"), netip.MustParseAddrPort("[::1]:9"))
		assert.ErrorContains(t, err, "non-IPv4 address")
		return nil
	}))
}

func TestDatagram_BadArguments(t *testing.T) {
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for _, network := range []string{"tcp", "udp7", "", "unixpacket"} {
			_, err := c.ListenDatagram(network, "127.0.0.1:0")
			assert.ErrorAs(t, err, new(net.UnknownNetworkError), network)
			_, err = c.DialDatagram(network, "127.0.0.1:1")
			assert.ErrorAs(t, err, new(net.UnknownNetworkError), network)
		}
		_, err := c.ListenDatagram("udp4", "[::1]:0")
		assert.ErrorAs(t, err, new(*net.AddrError))
		taken, err := c.ListenDatagram("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		_, err = c.ListenDatagram("udp", taken.LocalAddr().String())
		assert.ErrorIs(t, err, syscall.EADDRINUSE)
		f := fieldsOf(t, err)
		assert.Equal(t, opFields{"listen", "udp", "", taken.LocalAddr().String(), f.text}, f)
		_, err = (&veloq.Dialer{LocalAddr: &net.TCPAddr{}}).DialDatagram(c, "udp", "127.0.0.1:1")
		assert.ErrorContains(t, err, "mismatched local address type")
		return taken.Close()
	}))
	_, err := (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "tcp", "127.0.0.1:0", echoDatagrams)
	assert.ErrorAs(t, err, new(net.UnknownNetworkError))
	_, err = (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "udp", "256.0.0.1:0", echoDatagrams)
	assert.Error(t, err)
}

// Goal: only the socket's worker may use it, and nobody after the close.
func TestDatagram_WrongWorkerAndClosed(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	var d *veloq.Datagram
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		var err error
		d, err = c.ListenDatagram("udp", "127.0.0.1:0")
		return err
	}))
	all := func() map[string]error {
		_, recv := d.Recv()
		_, batch := d.RecvBatch(make([]veloq.Packet, 1))
		_, read := d.Read(make([]byte, 1))
		_, option := d.ReadBuffer()
		_, raw := d.SyscallConn()
		return map[string]error{
			"Recv": recv, "RecvBatch": batch, "Read": read, "ReadBuffer": option, "SyscallConn": raw,
			"Send":        d.Send(nil),
			"SendTo":      d.SendTo(nil, netip.MustParseAddrPort("127.0.0.1:9")),
			"Flush":       d.Flush(),
			"SetDeadline": d.SetDeadline(time.Time{}),
			"PauseRead":   d.PauseRead(),
			"ResumeRead":  d.ResumeRead(),
			"SetTTL":      d.SetTTL(3),
			"JoinGroup":   d.JoinGroup(netip.MustParseAddr("224.0.0.9"), 0),
		}
	}
	for name, err := range all() {
		assert.ErrorIs(t, err, veloq.ErrWrongWorker, name)
	}
	assert.ErrorIs(t, d.Close(), veloq.ErrWrongWorker)
	require.NoError(t, onWorker(t, rt, 1, func(*veloq.Context) error {
		for name, err := range all() {
			assert.ErrorIs(t, err, veloq.ErrWrongWorker, name)
		}
		return nil
	}))
	require.NoError(t, onWorker(t, rt, 0, func(*veloq.Context) error {
		if err := d.Close(); err != nil {
			return err
		}
		for name, err := range all() {
			assert.ErrorIs(t, err, net.ErrClosed, name)
			assert.ErrorAs(t, err, new(*net.OpError), name)
		}
		return d.Close()
	}))
}

// Goal: a close ends the receive that waits, with a receive and sends in flight; the socket goes.
func TestDatagram_CloseInFlight(t *testing.T) {
	noLeak(t)
	for _, sh := range packetShapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newPacketRuntime(t, sh.config)
			before := holds(rt)
			require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
				for range 20 {
					to, from, err := pair(c)
					if err != nil {
						return err
					}
					reader := veloq.Spawn(c, func(*veloq.Context) (int, error) {
						for n := 0; ; n++ {
							p, err := to.Recv()
							if err != nil {
								return n, err
							}
							p.Release()
						}
					})
					if err := c.Yield(); err != nil {
						return err
					}
					for range 10 {
						if err := from.Send(make([]byte, 500)); err != nil {
							return err
						}
					}
					if err := errors.Join(from.Close(), to.Close()); err != nil {
						return err
					}
					if _, err := reader.Join(c); !errors.Is(err, net.ErrClosed) {
						return fmt.Errorf("the receive returned %w", err)
					}
				}
				return nil
			}))
			settled(t, rt, before)
		})
	}
}

// Goal: what was sent before Close goes out.
func TestDatagram_CloseSendsAll(t *testing.T) {
	const count = 40
	for _, sh := range packetShapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newPacketRuntime(t, sh.config)
			require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
				to, from, err := pair(c)
				if err != nil {
					return err
				}
				bytes := newPattern(7)
				for range count {
					if err := from.Send(bytes.next(1000)); err != nil {
						return err
					}
				}
				if err := from.Close(); err != nil {
					return err
				}
				bytes = newPattern(7)
				for i := range count {
					if err := expect(to, bytes.next(1000)); err != nil {
						return fmt.Errorf("datagram %d: %w", i, err)
					}
				}
				return nil
			}))
		})
	}
}

func TestDatagram_RuntimeCloseInFlight(t *testing.T) {
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	s := startPacketEcho(t, rt, "task")
	h := veloq.Spawn(rt, func(c *veloq.Context) (struct{}, error) {
		d, err := c.DialDatagram("udp", s.Addr().String())
		if err != nil {
			return struct{}{}, err
		}
		for {
			if err := d.Send(make([]byte, 100)); err != nil {
				return struct{}{}, err
			}
			if err := expect(d, make([]byte, 100)); err != nil {
				return struct{}{}, err
			}
		}
	})
	eventually(t, "datagrams", func() (bool, any) { n := totals(rt).PacketsIn; return n > 100, n })
	bounded(t, "Runtime.Close", func() { assert.NoError(t, rt.Close()) })
	err := join(t, h)
	assert.True(t, errors.Is(err, net.ErrClosed) || errors.Is(err, veloq.ErrClosed), "%v", err)
}

func TestDatagram_Deadline(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		for _, d := range []time.Duration{-time.Second, 5 * time.Millisecond} {
			if err := to.SetReadDeadline(time.Now().Add(d)); err != nil {
				return err
			}
			_, err = to.Recv()
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.True(t, isTimeout(err))
		}
		// Set from another task while one waits.
		if err := to.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		waits := veloq.Spawn(c, func(*veloq.Context) (veloq.Packet, error) { return to.Recv() })
		if err := c.Yield(); err != nil {
			return err
		}
		if err := to.SetReadDeadline(time.Now()); err != nil {
			return err
		}
		_, err = waits.Join(c)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		// Nothing was lost by it.
		if err := errors.Join(to.SetReadDeadline(time.Time{}), from.Send([]byte("late"))); err != nil {
			return err
		}
		if err := expect(to, []byte("late")); err != nil {
			return err
		}
		if err := from.SetWriteDeadline(time.Now().Add(-1)); err != nil {
			return err
		}
		assert.ErrorIs(t, from.Send([]byte("x")), os.ErrDeadlineExceeded)
		return errors.Join(from.SetWriteDeadline(time.Time{}), from.Send([]byte("x")), expect(to, []byte("x")))
	}))
}

// Goal: a second receive at a time is refused, one outside of a task too.
func TestDatagram_SecondReader(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, _, err := pair(c)
		if err != nil {
			return err
		}
		waits := veloq.Spawn(c, func(*veloq.Context) (veloq.Packet, error) { return to.Recv() })
		if err := c.Yield(); err != nil {
			return err
		}
		_, err = to.Recv()
		assert.ErrorIs(t, err, veloq.ErrBusy)
		n, err := to.TryRecvBatch(make([]veloq.Packet, 1))
		assert.Zero(t, n)
		assert.NoError(t, err)
		waits.Cancel()
		_, err = waits.Join(c)
		assert.ErrorIs(t, err, context.Canceled)
		return nil
	}))
}

// Goal: a socket that nobody reads takes the buffers of no other, and loses only what the system's
// socket buffer has no room for.
func TestDatagram_UnreadHoldsNoOther(t *testing.T) {
	config := packetShapes()[1].config
	rt := newPacketRuntime(t, config)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		var idle []*veloq.Datagram
		bytes := newPattern(1)
		for range 4 {
			to, from, err := pair(c)
			if err != nil {
				return err
			}
			for range 20 {
				if err := from.Send(bytes.next(700)); err != nil {
					return err
				}
			}
			if err := from.Flush(); err != nil {
				return err
			}
			idle = append(idle, to)
		}
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		for i := range 100 {
			b := bytes.next(900)
			if err := errors.Join(from.Send(b), expect(to, b)); err != nil {
				return fmt.Errorf("datagram %d: %w", i, err)
			}
		}
		// And those that were left are there, in order.
		bytes = newPattern(1)
		for _, d := range idle {
			for i := range 20 {
				if err := expect(d, bytes.next(700)); err != nil {
					return fmt.Errorf("kept datagram %d: %w", i, err)
				}
			}
		}
		return nil
	}))
	assert.NotZero(t, totals(rt).Spills)
}

// Goal: 100 MB in datagrams of 1,200 bytes, each byte checked; the receiver says how far it is, so that
// none may be lost.
func TestDatagram_100MB(t *testing.T) {
	const size, window = 1200, 64
	count := sized(100e6, 100e6, 10e6) / size
	for _, sh := range packetShapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newPacketRuntime(t, sh.config)
			rcv := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (*veloq.Datagram, error) {
				return c.ListenDatagram("udp", "127.0.0.1:0")
			})
			require.NoError(t, join(t, rcv))
			to, _ := rcv.Wait(soon(t))
			receiver := veloq.SpawnTo(rt, 0, func(*veloq.Context) (struct{}, error) {
				bytes := newPattern(5)
				ps := make([]veloq.Packet, 32)
				for done := 0; done < count; {
					if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
						return struct{}{}, err
					}
					n, err := to.RecvBatch(ps)
					if err != nil {
						return struct{}{}, fmt.Errorf("after %d datagrams: %w", done, err)
					}
					var from netip.AddrPort
					for i := range ps[:n] {
						if err := bytes.check(ps[i].Data.Bytes()); err != nil || ps[i].Data.Len() != size {
							return struct{}{}, fmt.Errorf("datagram %d, %d bytes: %w", done, ps[i].Data.Len(), err)
						}
						from = ps[i].From
						ps[i].Release()
						done++
						if done%(window/2) == 0 {
							if err := to.SendTo([]byte("credit"), from); err != nil {
								return struct{}{}, err
							}
						}
					}
				}
				return struct{}{}, nil
			})
			sender := veloq.SpawnTo(rt, rt.Workers()-1, func(c *veloq.Context) (struct{}, error) {
				d, err := c.DialDatagram("udp", to.LocalAddr().String())
				if err != nil {
					return struct{}{}, err
				}
				defer func() { _ = d.Close() }()
				bytes := newPattern(5)
				for sent, credit := 0, window; sent < count; {
					for ; credit > 0 && sent < count; sent, credit = sent+1, credit-1 {
						if err := d.Send(bytes.next(size)); err != nil {
							return struct{}{}, err
						}
					}
					if sent == count {
						break
					}
					if err := expect(d, []byte("credit")); err != nil {
						return struct{}{}, fmt.Errorf("after %d sent: %w", sent, err)
					}
					credit += window / 2
				}
				return struct{}{}, d.Flush()
			})
			require.NoError(t, join(t, sender))
			require.NoError(t, join(t, receiver))
			st := totals(rt)
			t.Logf("%d datagrams, %d turns, %d crossings", count, st.Turns, st.Crossings)
			assert.LessOrEqual(t, st.Crossings, st.Turns+st.RingFull+st.Overflows)
		})
	}
}

// ---- options

// segmentEcho sends count segments and a short one as one message and expects all of them.
func segmentEcho(from, to *veloq.Datagram, size, count int) error {
	b := newPattern(11).next(size*count + size/3)
	if err := from.SendMessage(&veloq.Message{Data: b, SegmentSize: size}); err != nil {
		return err
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for left := b; len(left) > 0; {
		p, err := to.Recv()
		if err != nil {
			return fmt.Errorf("%d bytes are missing: %w", len(left), err)
		}
		var bad error
		p.Segments(func(part []byte) bool {
			want := left[:min(size, len(left))]
			if !bytes.Equal(part, want) {
				bad = fmt.Errorf("a segment of %d bytes, want %d", len(part), len(want))
				return false
			}
			left = left[len(part):]
			return true
		})
		p.Release()
		if bad != nil {
			return bad
		}
	}
	return nil
}

// Goal: a message with a segment size arrives as datagrams of that size, whoever cuts it; with GRO on
// they come together where the kernel puts them together.
func TestDatagram_GSOAndGRO(t *testing.T) {
	for _, gro := range []bool{false, true} {
		for _, sh := range packetShapes() {
			if sh.config.PacketSize != 0 && gro {
				continue // together they don't fit such buffers
			}
			t.Run(fmt.Sprintf("%s/gro=%v", sh.name, gro), func(t *testing.T) {
				rt := newPacketRuntime(t, sh.config)
				require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
					to, from, err := pair(c)
					if err != nil {
						return err
					}
					on, err := to.SetGRO(gro)
					if err != nil {
						return err
					}
					for _, size := range []int{1, 100, 1200, 1400} {
						for _, count := range []int{1, 2, 10, 40} {
							if err := segmentEcho(from, to, size, count); err != nil {
								return fmt.Errorf("%d x %d bytes: %w", count, size, err)
							}
						}
					}
					t.Logf("GSO %v, GRO %v", from.GSO(), on)
					return nil
				}))
				if from := totals(rt); gro {
					t.Logf("%d sends, %d receives", from.PacketsOut, from.PacketsIn)
				}
			})
		}
	}
}

// Goal: where the kernel refuses to cut, the datagrams arrive all the same, and it is not asked again.
// Method: a socket without checksums, for which it refuses (udp(7): SO_NO_CHECK).
func TestDatagram_GSORefused(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		if !from.GSO() {
			t.Skip("this driver never has the kernel cut")
		}
		raw, err := from.SyscallConn()
		if err != nil {
			return err
		}
		if err := errors.Join(raw.Control(func(fd uintptr) { err = dropChecksums(fd) }), err); err != nil {
			t.Skipf("checksums stay on here: %v", err)
		}
		if err := segmentEcho(from, to, 1200, 10); err != nil {
			return err
		}
		if from.GSO() {
			return errors.New("the refusal was not remembered")
		}
		if err := segmentEcho(from, to, 1200, 10); err != nil {
			return err
		}
		// One with an ECN and a source keeps them when it is cut here.
		return nil
	}))
	assert.EqualValues(t, 1, totals(rt).SegmentRefusals)
}

// Goal: marks and addresses that are sent with a datagram arrive with it, over both versions of IP, also
// after the kernel refused to cut.
func TestDatagram_ECNAndPacketInfo(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", "dual"} {
		t.Run(host, func(t *testing.T) {
			rt := newPacketRuntime(t, veloq.Config{Workers: 1})
			require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
				bind, dst := net.JoinHostPort(host, "0"), host
				if host == "dual" {
					bind, dst = ":0", "127.0.0.1"
				}
				to, err := c.ListenDatagram("udp", bind)
				if err != nil {
					if host == "::1" {
						t.Skipf("no IPv6 here: %v", err)
					}
					return err
				}
				from, err := c.ListenDatagram("udp", bind)
				if err != nil {
					return err
				}
				if err := errors.Join(to.SetReceiveECN(true), to.SetReceivePacketInfo(true)); err != nil {
					return err
				}
				there := netip.AddrPortFrom(netip.MustParseAddr(dst), to.LocalAddr().(*net.UDPAddr).AddrPort().Port())
				for _, refused := range []bool{false, true} {
					for _, ecn := range []veloq.ECN{veloq.ECNNone, veloq.ECNOne, veloq.ECNZero, veloq.ECNCE} {
						m := veloq.Message{Data: []byte("mark"), To: there, ECN: ecn, From: there.Addr()}
						if refused {
							m.SegmentSize = 2
						}
						if err := from.SendMessage(&m); err != nil {
							return err
						}
						for range 1 + min(m.SegmentSize, 1) {
							p, err := to.Recv()
							if err != nil {
								return err
							}
							if p.ECN != ecn || p.To != there.Addr() || p.Interface == 0 || p.From.Addr() != there.Addr() {
								return fmt.Errorf("sent ECN %d, got %+v", ecn, p)
							}
							p.Release()
						}
					}
					raw, err := from.SyscallConn()
					if err != nil {
						return err
					}
					_ = raw.Control(func(fd uintptr) { _ = dropChecksums(fd) })
				}
				// The socket's own mark, where a message has none.
				if err := errors.Join(from.SetTrafficClass(0xb8|2), from.SendTo([]byte("x"), there)); err != nil {
					return err
				}
				p, err := to.Recv()
				if host != "dual" && (err != nil || p.ECN != veloq.ECNZero) {
					return fmt.Errorf("ECN %d: %w", p.ECN, err)
				}
				p.Release()
				class, err := from.TrafficClass()
				assert.Equal(t, 0xba, class)
				return err
			}))
		})
	}
}

func TestDatagram_Multicast(t *testing.T) {
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skipf("no interface lo: %v", err)
	}
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	group := netip.MustParseAddr("239.255.71.3")
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		// Two sockets on one port, which multicast allows.
		a, err := c.ListenDatagram("udp4", group.String()+":0")
		if err != nil {
			return err
		}
		port := a.LocalAddr().(*net.UDPAddr).Port
		b, err := c.ListenDatagram("udp4", fmt.Sprintf("%v:%d", group, port))
		if err != nil {
			return err
		}
		from, err := c.ListenDatagram("udp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if err := errors.Join(a.JoinGroup(group, loopback.Index), b.JoinGroup(group, loopback.Index)); err != nil {
			t.Skipf("no multicast here: %v", err)
		}
		if err := errors.Join(from.SetMulticastInterface(loopback.Index), from.SetMulticastLoop(true),
			from.SetMulticastTTL(1)); err != nil {
			return err
		}
		there := netip.AddrPortFrom(group, uint16(port))
		if err := errors.Join(from.SendTo([]byte("all"), there), expect(a, []byte("all")), expect(b, []byte("all"))); err != nil {
			return err
		}
		if err := errors.Join(b.LeaveGroup(group, loopback.Index), from.SendTo([]byte("one"), there),
			expect(a, []byte("one"))); err != nil {
			return err
		}
		assert.ErrorIs(t, b.LeaveGroup(group, loopback.Index), syscall.EADDRNOTAVAIL)
		assert.Error(t, a.JoinGroup(netip.MustParseAddr("10.0.0.1"), 0))
		assert.Error(t, a.JoinGroup(netip.Addr{}, 0))
		return nil
	}))
}

func TestDatagram_Options(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.ListenDatagram("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if err := errors.Join(d.SetTTL(7), d.SetReadBuffer(100000), d.SetWriteBuffer(50000),
			d.SetBroadcast(false), d.SetBroadcast(true), d.SetDontFragment(true)); err != nil {
			return err
		}
		ttl, err := d.TTL()
		assert.Equal(t, 7, ttl)
		assert.NoError(t, err)
		rb, err := d.ReadBuffer()
		assert.GreaterOrEqual(t, rb, 100000)
		assert.NoError(t, err)
		wb, err := d.WriteBuffer()
		assert.GreaterOrEqual(t, wb, 50000)
		assert.NoError(t, err)
		assert.Error(t, d.SetTTL(1000))
		raw, err := d.SyscallConn()
		if err != nil {
			return err
		}
		seen := false
		assert.NoError(t, raw.Control(func(uintptr) { seen = true }))
		assert.True(t, seen)
		assert.ErrorIs(t, raw.Read(nil), errors.ErrUnsupported)
		assert.ErrorIs(t, raw.Write(nil), errors.ErrUnsupported)
		d.SetUserData(5)
		assert.Equal(t, 5, d.UserData())
		assert.Equal(t, 0, d.Worker())
		return nil
	}))
}

// Goal: what the network reports of a connected socket's datagrams is returned once, by a receive or by
// a send, and the socket goes on.
func TestDatagram_Refused(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		addr := to.LocalAddr().String()
		if err := errors.Join(to.Close(), c.Sleep(2*time.Millisecond)); err != nil {
			return err
		}
		if err := from.Send([]byte("nobody")); err != nil {
			return err
		}
		_, err = from.Recv()
		assert.True(t, errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET), "%v", err)
		to, err = c.ListenDatagram("udp", addr)
		if err != nil {
			return err
		}
		if err := errors.Join(from.Send([]byte("back")), expect(to, []byte("back"))); err != nil {
			return err
		}
		return errors.Join(to.SendTo([]byte("here"), from.LocalAddr().(*net.UDPAddr).AddrPort()),
			expect(from, []byte("here")))
	}))
}

// Goal: an error of a send is returned by Flush, or the next send, once.
func TestDatagram_SendError(t *testing.T) {
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.ListenDatagram("udp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		// From the loopback's address nothing goes elsewhere.
		away := netip.MustParseAddrPort("192.0.2.1:9")
		if err := d.SendTo([]byte("x"), away); err != nil {
			return err
		}
		err = d.Flush()
		assert.Error(t, err)
		f := fieldsOf(t, err)
		assert.Equal(t, "write", f.op)
		assert.NoError(t, d.Flush())
		if err := d.SendTo([]byte("x"), away); err != nil {
			return err
		}
		if err := c.Sleep(2 * time.Millisecond); err != nil {
			return err
		}
		here := d.LocalAddr().(*net.UDPAddr).AddrPort()
		assert.Error(t, d.SendTo([]byte("y"), here))
		return errors.Join(d.SendTo([]byte("z"), here), expect(d, []byte("z")))
	}))
	assert.EqualValues(t, 2, totals(rt).PacketErrors)
}

// ---- servers

type spreadHandler struct {
	veloq.DatagramHandlerBase
	opened, closed atomic.Int32
	packets        [2]atomic.Int32 // by worker
	why            atomic.Value
}

func (h *spreadHandler) OnOpen(*veloq.Context, *veloq.Datagram) { h.opened.Add(1) }

func (h *spreadHandler) OnPackets(c *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	h.packets[c.Worker()].Add(int32(len(ps)))
	for i := range ps {
		_ = d.SendTo(ps[i].Data.Bytes(), ps[i].From)
	}
}

func (h *spreadHandler) OnClose(_ *veloq.Context, _ *veloq.Datagram, err error) {
	h.closed.Add(1)
	h.why.Store(err)
}

// Goal: a server has a socket on each worker, all get senders, and each sender has its one.
func TestDatagram_ServerSpreads(t *testing.T) {
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	h := &spreadHandler{}
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for i := range 64 {
			d, err := c.DialDatagram("udp", s.Addr().String())
			if err != nil {
				return err
			}
			b := []byte{byte(i)}
			if err := errors.Join(d.Send(b), expect(d, b), d.Close()); err != nil {
				return err
			}
		}
		return nil
	}))
	if h.opened.Load() == 2 {
		assert.NotZero(t, h.packets[0].Load())
		assert.NotZero(t, h.packets[1].Load())
	}
	assert.EqualValues(t, 64, h.packets[0].Load()+h.packets[1].Load())
	bounded(t, "Close", s.Close)
	assert.Equal(t, h.opened.Load(), h.closed.Load())
	assert.ErrorIs(t, h.why.Load().(error), context.Canceled)
}

func TestDatagram_ServeEnds(t *testing.T) {
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	boom := errors.New("boom")
	err := rt.ServeDatagram(soon(t), "udp", "127.0.0.1:0", func(*veloq.Context, *veloq.Datagram) error { return boom })
	assert.ErrorIs(t, err, boom)
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{}, 2)
	ended := make(chan error, 1)
	go func() {
		ended <- rt.ServeDatagram(ctx, "udp", "127.0.0.1:0", func(_ *veloq.Context, d *veloq.Datagram) error {
			started <- struct{}{}
			_, err := d.Recv()
			assert.ErrorIs(t, err, context.Canceled)
			return err
		})
	}()
	await(t, "a socket", started)
	cancel()
	assert.NoError(t, await(t, "the end", ended))
	// A runtime's Shutdown ends servers that would go on for ever.
	_, err = (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "udp", "127.0.0.1:0", echoDatagrams)
	require.NoError(t, err)
	assert.NoError(t, rt.Shutdown(soon(t)))
	_, err = (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "udp", "127.0.0.1:0", echoDatagrams)
	assert.ErrorIs(t, err, veloq.ErrClosed)
}

type panickyHandler struct {
	veloq.DatagramHandlerBase
	closed chan error
}

func (h *panickyHandler) OnPackets(*veloq.Context, *veloq.Datagram, []veloq.Packet) { panic("packets") }

func (h *panickyHandler) OnClose(_ *veloq.Context, _ *veloq.Datagram, err error) { h.closed <- err }

func TestDatagram_HandlerPanics(t *testing.T) {
	panics := make(chan *veloq.PanicError, 4)
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, OnPanic: func(pe *veloq.PanicError) { panics <- pe }})
	h := &panickyHandler{closed: make(chan error, 4)}
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.DialDatagram("udp", s.Addr().String())
		if err != nil {
			return err
		}
		return errors.Join(d.Send([]byte("x")), d.Flush())
	}))
	assert.Equal(t, "packets", await(t, "the panic", panics).Value)
	assert.ErrorAs(t, await(t, "OnClose", h.closed), new(*veloq.PanicError))
	bounded(t, "Close", s.Close)
}

// pausingPackets keeps one packet's lease and pauses; what comes meanwhile is delivered on ResumeRead.
type pausingPackets struct {
	veloq.DatagramHandlerBase
	kept chan veloq.Lease
	got  chan string
	d    atomic.Pointer[veloq.Datagram]
}

func (h *pausingPackets) OnPackets(_ *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	if h.d.Load() == nil {
		h.d.Store(d)
		_ = d.PauseRead()
		h.kept <- ps[0].Data.Retain()
		ps = ps[1:]
	}
	for i := range ps {
		h.got <- string(ps[i].Data.Bytes())
	}
}

func TestDatagram_HandlerPausesAndRetains(t *testing.T) {
	const count = 300 // more than the queue and the buffers hold
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, PacketCount: 16, PacketQueue: 8})
	h := &pausingPackets{kept: make(chan veloq.Lease, 1), got: make(chan string, count)}
	s, err := (&veloq.ListenConfig{ReadBuffer: 1 << 20}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	defer bounded(t, "Close", s.Close)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.DialDatagram("udp", s.Addr().String())
		if err != nil {
			return err
		}
		for i := range count {
			if err := d.Send(fmt.Appendf(nil, "%d", i)); err != nil {
				return err
			}
			if i == 0 {
				for h.d.Load() == nil {
					if err := c.Sleep(time.Millisecond); err != nil {
						return err
					}
				}
			}
		}
		if err := d.Flush(); err != nil {
			return err
		}
		if len(h.got) != 0 {
			return errors.New("OnPackets while paused")
		}
		return h.d.Load().ResumeRead()
	}))
	for i := 1; i < count; i++ {
		require.Equal(t, fmt.Sprint(i), await(t, "a datagram", h.got))
	}
	kept := <-h.kept
	assert.Equal(t, "0", string(kept.Bytes()))
	kept.Release()
	eventually(t, "buffers back", func() (bool, any) {
		st := totals(rt)
		now := holds(rt).packetsMissing
		return now == 0, fmt.Sprint(now, st.PacketsIn)
	})
}

// Goal: receiving and sending allocate nothing, and a turn crosses once.
func TestDatagram_NoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := pair(c)
		if err != nil {
			return err
		}
		b := make([]byte, 1200)
		there := from.LocalAddr().(*net.UDPAddr).AddrPort()
		message := veloq.Message{Data: make([]byte, 12000), SegmentSize: 1200}
		buf := make([]byte, 2000)
		ps := make([]veloq.Packet, 16)
		round := func() {
			for range 10 {
				err = errors.Join(err, from.Send(b))
			}
			for n := 0; n < 10 && err == nil; {
				got, e := to.RecvBatch(ps)
				for i := range ps[:got] {
					ps[i].Release()
				}
				n, err = n+got, e
			}
			if err == nil {
				err = to.SendTo(b, there)
			}
			if err == nil {
				_, _, err = from.ReadFromAddrPort(buf)
			}
			if err == nil {
				err = from.SendMessage(&message)
			}
			for n := 0; n < 10 && err == nil; {
				got, e := to.RecvBatch(ps)
				for i := range ps[:got] {
					ps[i].Release()
				}
				n, err = n+got, e
			}
		}
		round()
		if n := testing.AllocsPerRun(200, round); n != 0 {
			return fmt.Errorf("%v allocations a round of 21 datagrams", n)
		}
		return err
	}))
	st := totals(rt)
	assert.LessOrEqual(t, st.Crossings, st.Turns)
}
