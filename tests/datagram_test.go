package tests

// Datagrams on the worker doors: every byte that was sent arrives as it was, in a datagram of its own;
// bounds, ends.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
func datagramPair(c *veloq.Context) (to, from *veloq.Datagram, err error) {
	to, err = c.ListenDatagram("udp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	from, err = c.DialDatagram("udp", to.LocalAddr().String())
	return to, from, err
}

// inPair runs fn as a task with such a pair.
func inPair(t *testing.T, rt *veloq.Runtime, fn func(c *veloq.Context, to, from *veloq.Datagram) error) error {
	t.Helper()
	return inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := datagramPair(c)
		if err != nil {
			return err
		}
		return fn(c, to, from)
	})
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
			require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, from *veloq.Datagram) error {
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
	require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, from *veloq.Datagram) error {
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
	require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, from *veloq.Datagram) error {
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
					to, from, err := datagramPair(c)
					if err != nil {
						return err
					}
					reader := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) {
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
			require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, from *veloq.Datagram) error {
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
	require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, from *veloq.Datagram) error {
		for _, d := range []time.Duration{-time.Second, 5 * time.Millisecond} {
			if err := to.SetReadDeadline(time.Now().Add(d)); err != nil {
				return err
			}
			_, err := to.Recv()
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.True(t, isTimeout(err))
		}
		// Set from another task while one waits.
		if err := to.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		waits := veloq.SpawnLocal(c, func(*veloq.Context) (veloq.Packet, error) { return to.Recv() })
		if err := c.Yield(); err != nil {
			return err
		}
		if err := to.SetReadDeadline(time.Now()); err != nil {
			return err
		}
		_, err := waits.Join(c)
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
	require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, _ *veloq.Datagram) error {
		waits := veloq.SpawnLocal(c, func(*veloq.Context) (veloq.Packet, error) { return to.Recv() })
		if err := c.Yield(); err != nil {
			return err
		}
		_, err := to.Recv()
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
			to, from, err := datagramPair(c)
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
		to, from, err := datagramPair(c)
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

// Goal: receiving and sending allocate nothing, and a turn crosses once.
func TestDatagram_NoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rt := newPacketRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inPair(t, rt, func(c *veloq.Context, to, from *veloq.Datagram) error {
		b := make([]byte, 1200)
		there := from.LocalAddr().(*net.UDPAddr).AddrPort()
		message := veloq.Message{Data: make([]byte, 12000), SegmentSize: 1200}
		buf := make([]byte, 2000)
		ps := make([]veloq.Packet, 16)
		var err error
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
