package tests

// Datagrams' options: segments, marks, addresses, multicast; and the errors that the network reports.

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

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
					to, from, err := datagramPair(c)
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
	ranOrSkipped(t, inTask(t, rt, func(c *veloq.Context) error {
		to, from, err := datagramPair(c)
		if err != nil {
			return err
		}
		if !from.GSO() {
			return notHere("this driver never has the kernel cut")
		}
		raw, err := from.SyscallConn()
		if err != nil {
			return err
		}
		if err := errors.Join(raw.Control(func(fd uintptr) { err = dropChecksums(fd) }), err); err != nil {
			return notHere("checksums stay on here: " + err.Error())
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
			ranOrSkipped(t, inTask(t, rt, func(c *veloq.Context) error {
				bind, dst := net.JoinHostPort(host, "0"), host
				if host == "dual" {
					bind, dst = ":0", "127.0.0.1"
				}
				to, err := c.ListenDatagram("udp", bind)
				if err != nil {
					if host == "::1" {
						return notHere("no IPv6 here: " + err.Error())
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
							want := ecn
							if !sendsECN() {
								want = veloq.ECNNone
							}
							if p.ECN != want || p.To != there.Addr() || p.Interface == 0 || p.From.Addr() != there.Addr() {
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
				if !sendsECN() && host != "127.0.0.1" {
					return nil // Wine has no IPV6_TCLASS either
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
	ranOrSkipped(t, inTask(t, rt, func(c *veloq.Context) error {
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
			return notHere("no multicast here: " + err.Error())
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
	if losesErrors() {
		t.Skip("Wine loses errors of datagram sockets, and then what arrives")
	}
	receives := map[string]func(c *veloq.Context, d *veloq.Datagram) error{
		"Recv": func(_ *veloq.Context, d *veloq.Datagram) error {
			_, err := d.Recv()
			return err
		},
		"TryRecvBatch": func(c *veloq.Context, d *veloq.Datagram) error {
			for end := time.Now().Add(patience); time.Now().Before(end); {
				if n, err := d.TryRecvBatch(make([]veloq.Packet, 1)); n > 0 || err != nil {
					return err
				}
				if err := c.Sleep(time.Millisecond); err != nil {
					return err
				}
			}
			return errors.New("no error was told")
		},
	}
	for name, receive := range receives {
		t.Run(name, func(t *testing.T) {
			rt := newPacketRuntime(t, veloq.Config{Workers: 1})
			require.NoError(t, inTask(t, rt, func(c *veloq.Context) error { return refusedOnce(t, c, receive) }))
		})
	}
}

func refusedOnce(t *testing.T, c *veloq.Context, receive func(*veloq.Context, *veloq.Datagram) error) error {
	to, from, err := datagramPair(c)
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
	err = receive(c, from)
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
