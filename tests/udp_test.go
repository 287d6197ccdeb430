package tests

// UDPConn does what package net's does: every test runs on both, package net's as the oracle.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// udpConn is what both types have; a test below holds that it is all of net.UDPConn.
type udpConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDP([]byte) (int, *net.UDPAddr, error)
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteToUDP([]byte, *net.UDPAddr) (int, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	File() (*os.File, error)
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
	SyscallConn() (syscall.RawConn, error)
}

// A udpKind opens one of the two types.
type udpKind struct {
	name            string
	listen          func(network string, laddr *net.UDPAddr) (udpConn, error)
	dial            func(network string, laddr, raddr *net.UDPAddr) (udpConn, error)
	listenMulticast func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (udpConn, error)
}

// plainly keeps a nil of a concrete type from becoming an interface that is not nil.
func plainly[C udpConn](c C, err error) (udpConn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

func udpKinds() []udpKind {
	return []udpKind{
		{
			name:   "net",
			listen: func(n string, l *net.UDPAddr) (udpConn, error) { return plainly(net.ListenUDP(n, l)) },
			dial:   func(n string, l, r *net.UDPAddr) (udpConn, error) { return plainly(net.DialUDP(n, l, r)) },
			listenMulticast: func(n string, i *net.Interface, g *net.UDPAddr) (udpConn, error) {
				return plainly(net.ListenMulticastUDP(n, i, g))
			},
		},
		{
			name:   "veloq",
			listen: func(n string, l *net.UDPAddr) (udpConn, error) { return plainly(veloq.ListenUDP(n, l)) },
			dial:   func(n string, l, r *net.UDPAddr) (udpConn, error) { return plainly(veloq.DialUDP(n, l, r)) },
			listenMulticast: func(n string, i *net.Interface, g *net.UDPAddr) (udpConn, error) {
				return plainly(veloq.ListenMulticastUDP(n, i, g))
			},
		},
	}
}

// skipWithoutUDP skips where package net itself can't open a UDP socket, as under Wine.
func skipWithoutUDP(t *testing.T) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil && runtime.GOOS == "windows" {
		t.Skip("package net opens no UDP socket here: ", err)
	}
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// forUDP runs fn for both kinds and each family there is. loopback has no port.
func forUDP(t *testing.T, fn func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr)) {
	noLeak(t)
	skipWithoutUDP(t)
	for _, k := range udpKinds() {
		t.Run(k.name+"/udp4", func(t *testing.T) {
			fn(t, k, "udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		})
		t.Run(k.name+"/udp6", func(t *testing.T) {
			if !hasIPv6() {
				t.Skip("no IPv6 loopback here")
			}
			fn(t, k, "udp6", &net.UDPAddr{IP: net.IPv6loopback})
		})
	}
}

func listenUDP(t *testing.T, k udpKind, network string, laddr *net.UDPAddr) udpConn {
	t.Helper()
	c, err := k.listen(network, laddr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

func dialUDP(t *testing.T, k udpKind, network string, raddr *net.UDPAddr) udpConn {
	t.Helper()
	c, err := k.dial(network, nil, raddr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

func udpAddr(c udpConn) *net.UDPAddr { return c.LocalAddr().(*net.UDPAddr) }

func addrPort(c udpConn) netip.AddrPort { return udpAddr(c).AddrPort() }

func TestUDP_MethodSetOfNet(t *testing.T) {
	of, ours := reflect.TypeFor[*net.UDPConn](), reflect.TypeFor[*veloq.UDPConn]()
	require.Greater(t, of.NumMethod(), 20)
	for i := range of.NumMethod() {
		want := of.Method(i)
		got, ok := ours.MethodByName(want.Name)
		if !assert.True(t, ok, "no method %s", want.Name) {
			continue
		}
		assert.Equal(t, signature(want.Type), signature(got.Type), want.Name)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[veloq.UDPConn]()) {
		assert.False(t, f.IsExported(), "field %s", f.Name)
	}
}

// signature is a method's type without its receiver.
func signature(f reflect.Type) string {
	var b strings.Builder
	for i := 1; i < f.NumIn(); i++ {
		fmt.Fprint(&b, f.In(i), ",")
	}
	fmt.Fprint(&b, "->")
	for i := range f.NumOut() {
		fmt.Fprint(&b, f.Out(i), ",")
	}
	return b.String()
}

// Goal: each way of sending arrives by each way of receiving, with the right address.
func TestUDP_EveryWayThereAndBack(t *testing.T) {
	forUDP(t, func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr) {
		a, b := listenUDP(t, k, network, loopback), listenUDP(t, k, network, loopback)
		to, toAP := udpAddr(b), addrPort(b)
		type outcome struct {
			n    int
			addr string
		}
		sends := map[string]func(p []byte) (int, error){
			"WriteTo":            func(p []byte) (int, error) { return a.WriteTo(p, to) },
			"WriteToUDP":         func(p []byte) (int, error) { return a.WriteToUDP(p, to) },
			"WriteToUDPAddrPort": func(p []byte) (int, error) { return a.WriteToUDPAddrPort(p, toAP) },
			"WriteMsgUDP": func(p []byte) (int, error) {
				n, oobn, err := a.WriteMsgUDP(p, nil, to)
				assert.Zero(t, oobn)
				return n, err
			},
			"WriteMsgUDPAddrPort": func(p []byte) (int, error) {
				n, oobn, err := a.WriteMsgUDPAddrPort(p, nil, toAP)
				assert.Zero(t, oobn)
				return n, err
			},
		}
		receives := map[string]func(p []byte) (outcome, error){
			"ReadFrom": func(p []byte) (outcome, error) {
				n, from, err := b.ReadFrom(p)
				assert.IsType(t, &net.UDPAddr{}, from)
				return outcome{n, from.String()}, err
			},
			"ReadFromUDP": func(p []byte) (outcome, error) {
				n, from, err := b.ReadFromUDP(p)
				assert.Len(t, from.IP, map[string]int{"udp4": net.IPv4len, "udp6": net.IPv6len}[network])
				return outcome{n, from.String()}, err
			},
			"ReadFromUDPAddrPort": func(p []byte) (outcome, error) {
				n, from, err := b.ReadFromUDPAddrPort(p)
				return outcome{n, from.String()}, err
			},
			"ReadMsgUDP": func(p []byte) (outcome, error) {
				n, oobn, flags, from, err := b.ReadMsgUDP(p, nil)
				assert.Zero(t, oobn)
				assert.Zero(t, flags)
				return outcome{n, from.String()}, err
			},
			"ReadMsgUDPAddrPort": func(p []byte) (outcome, error) {
				n, _, _, from, err := b.ReadMsgUDPAddrPort(p, nil)
				return outcome{n, from.String()}, err
			},
			"Read": func(p []byte) (outcome, error) {
				n, err := b.Read(p)
				return outcome{n, a.LocalAddr().String()}, err
			},
		}
		for sent, send := range sends {
			for got, receive := range receives {
				for _, size := range []int{0, 1, 1200, 60_000} {
					p := udpPatterned(size, len(sent)*len(got))
					n, err := send(p)
					require.NoError(t, err, "%s %d", sent, size)
					require.Equal(t, size, n)
					buf := make([]byte, 65_536)
					out, err := receive(buf)
					require.NoError(t, err, "%s after %s of %d", got, sent, size)
					require.Equal(t, outcome{size, a.LocalAddr().String()}, out)
					require.Equal(t, p, buf[:size])
				}
			}
		}
	})
}

// patterned makes bytes of their own for each seed.
func udpPatterned(size, seed int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte((i + seed) % 251)
	}
	return p
}

func TestUDP_Connected(t *testing.T) {
	forUDP(t, func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr) {
		server := listenUDP(t, k, network, loopback)
		client := dialUDP(t, k, network, udpAddr(server))
		assert.Equal(t, server.LocalAddr().String(), client.RemoteAddr().String())
		buf := make([]byte, 100)
		for _, text := range []string{"question", ""} {
			n, err := client.Write([]byte(text))
			require.NoError(t, err)
			require.Equal(t, len(text), n)
			n, from, err := server.ReadFromUDPAddrPort(buf)
			require.NoError(t, err, "a datagram of %d bytes is no EOF", len(text))
			require.Equal(t, text, string(buf[:n]))
			require.Equal(t, addrPort(client), from)
		}
		n, oobn, err := client.WriteMsgUDP([]byte("by msg"), nil, nil)
		require.NoError(t, err)
		require.Equal(t, []int{6, 0}, []int{n, oobn})
		_, _, err = client.WriteMsgUDPAddrPort([]byte("by msg"), nil, netip.AddrPort{})
		require.NoError(t, err)
		for range 2 {
			n, err = server.Read(buf)
			require.NoError(t, err)
			require.Equal(t, "by msg", string(buf[:n]))
		}
		for _, text := range []string{"answer", ""} {
			_, err = server.WriteToUDPAddrPort([]byte(text), addrPort(client))
			require.NoError(t, err)
			n, err = client.Read(buf)
			require.NoError(t, err, "a datagram of %d bytes is no EOF", len(text))
			require.Equal(t, text, string(buf[:n]))
		}
	})
}

// Goal: what doesn't fit is lost, said by flags alone, and the next datagram is whole.
func TestUDP_Truncation(t *testing.T) {
	forUDP(t, func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr) {
		if runtime.GOOS == "windows" {
			t.Skip("Windows has an error for it")
		}
		a, b := listenUDP(t, k, network, loopback), listenUDP(t, k, network, loopback)
		say := func(text string) {
			_, err := a.WriteTo([]byte(text), b.LocalAddr())
			require.NoError(t, err)
		}
		buf := make([]byte, 4)
		say("0123456789")
		n, _, flags, _, err := b.ReadMsgUDPAddrPort(buf, nil)
		require.NoError(t, err)
		assert.Equal(t, "0123", string(buf[:n]))
		assert.Equal(t, msgTrunc, flags)
		say("abcdefgh")
		n, _, err = b.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
		assert.Equal(t, "abcd", string(buf[:n]))
		say("ABCDEFGH")
		n, err = b.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, "ABCD", string(buf[:n]))
		say("none of it")
		n, from, err := b.ReadFrom(nil)
		require.NoError(t, err)
		assert.Zero(t, n)
		assert.Equal(t, a.LocalAddr().String(), from.String())
		// Read of nothing takes nothing.
		say("next")
		n, err = b.Read(nil)
		require.NoError(t, err)
		assert.Zero(t, n)
		n, err = b.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, "next", string(buf[:n]))
	})
}

// Goal: on a socket for both families, an IPv4 peer has a mapped address, in every form package net's.
func TestUDP_DualStack(t *testing.T) {
	noLeak(t)
	skipWithoutUDP(t)
	if !hasIPv6() {
		t.Skip("no IPv6 here")
	}
	var saw [2][]string
	for i, k := range udpKinds() {
		both := listenUDP(t, k, "udp", nil)
		four := listenUDP(t, k, "udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		mask := strings.NewReplacer(fmt.Sprint(":", udpAddr(four).Port), ":F")
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(udpAddr(both).Port))
		buf := make([]byte, 10)
		note := func(a any) { saw[i] = append(saw[i], mask.Replace(fmt.Sprintf("%T %v", a, a))) }
		for range 4 {
			_, err := four.WriteToUDPAddrPort([]byte("x"), to)
			require.NoError(t, err)
		}
		_, ap, err := both.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
		note(ap)
		_, u, err := both.ReadFromUDP(buf)
		require.NoError(t, err)
		note(u)
		note(len(u.IP))
		_, _, _, u, err = both.ReadMsgUDP(buf, nil)
		require.NoError(t, err)
		note(u)
		note(len(u.IP))
		_, from, err := both.ReadFrom(buf)
		require.NoError(t, err)
		note(from)
		// And back, to the mapped form, the plain one, and package net's.
		for _, send := range []error{
			first(both.WriteToUDPAddrPort([]byte("m"), ap)),
			first(both.WriteToUDPAddrPort([]byte("m"), addrPort(four))),
			first(both.WriteTo([]byte("m"), from)),
			second(both.WriteMsgUDP([]byte("m"), nil, udpAddr(four))),
		} {
			require.NoError(t, send)
			_, err = four.Read(buf)
			require.NoError(t, err)
		}
	}
	assert.Equal(t, saw[0], saw[1])
}

// Goal: a link-local peer's zone is its interface's name, there and back.
func TestUDP_Zone(t *testing.T) {
	noLeak(t)
	skipWithoutUDP(t)
	list, err := net.Interfaces()
	require.NoError(t, err)
	var local *net.UDPAddr
	for _, ifi := range list {
		addrs, err := ifi.Addrs()
		require.NoError(t, err)
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if ok && n.IP.IsLinkLocalUnicast() && n.IP.To4() == nil && ifi.Flags&net.FlagUp != 0 {
				local = &net.UDPAddr{IP: n.IP, Zone: ifi.Name}
			}
		}
	}
	if local == nil {
		t.Skip("no interface has a link-local IPv6 address")
	}
	for _, k := range udpKinds() {
		a, b := listenUDP(t, k, "udp6", local), listenUDP(t, k, "udp6", local)
		for range 2 {
			_, err = a.WriteToUDPAddrPort([]byte("zone"), addrPort(b))
			require.NoError(t, err)
			_, from, err := b.ReadFromUDPAddrPort(make([]byte, 9))
			require.NoError(t, err)
			require.Equal(t, addrPort(a), from)
			_, err = b.WriteToUDP([]byte("back"), net.UDPAddrFromAddrPort(from))
			require.NoError(t, err)
			_, u, err := a.ReadFromUDP(make([]byte, 9))
			require.NoError(t, err)
			require.Equal(t, udpAddr(b), u)
		}
	}
}

// Goal: a descriptor that somebody made blocking blocks no thread of ours: deadlines still hold.
func TestUDP_BlockingDescriptor(t *testing.T) {
	noLeak(t)
	skipWithoutUDP(t)
	if runtime.GOOS != "linux" {
		t.Skip("package net does the work here")
	}
	c, err := veloq.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	makeBlocking(t, c)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
	bounded(t, "reads of a blocking descriptor", func() {
		buf := make([]byte, 9)
		assert.ErrorIs(t, second(c.ReadFromUDPAddrPort(buf)), os.ErrDeadlineExceeded)
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, _, _, _, err := c.ReadMsgUDPAddrPort(buf, nil)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err = c.ReadBatch([]veloq.UDPMessage{{Buffers: [][]byte{buf}}}, 0)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestUDP_Multicast(t *testing.T) {
	noLeak(t)
	skipWithoutUDP(t)
	group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 253)}
	for _, k := range udpKinds() {
		t.Run(k.name, func(t *testing.T) {
			c, err := k.listenMulticast("udp4", nil, group)
			if err != nil && runtime.GOOS != "linux" {
				t.Skip("no multicast here: ", err)
			}
			if errors.Is(err, syscall.ENODEV) {
				t.Skip("no interface with multicast: ", err)
			}
			require.NoError(t, err)
			defer func() { _ = c.Close() }()
			require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
			// Loopback of multicast is off on it, so what it gets is sent to it alone.
			peer := listenUDP(t, k, "udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: udpAddr(c).Port}
			_, err = peer.WriteTo([]byte("hello"), to)
			require.NoError(t, err)
			n, err := c.Read(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 5, n)
		})
	}
}

// Goal: NetConn is the same socket.
func TestUDP_NetConn(t *testing.T) {
	skipWithoutUDP(t)
	c, err := veloq.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	assert.Equal(t, c.LocalAddr(), c.NetConn().LocalAddr())
	require.NoError(t, c.NetConn().Close())
	_, _, err = c.ReadFromUDPAddrPort(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)
}
