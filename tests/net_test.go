package tests

// Addresses, sockets' settings and errors beside package net's own, for the same input.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// hasIPv6 reports whether the tests can use ::1.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

func needIPv6(t *testing.T) {
	t.Helper()
	if !hasIPv6() {
		t.Skip("no IPv6 loopback")
	}
}

// listening is what can be seen of a listener from outside.
type listening struct {
	network, ip string
	ipBytes     int  // net.IP's length tells a reader of Addr too
	v4, v6      bool // who can connect
	port        bool
}

func seen(t *testing.T, addr net.Addr) listening {
	t.Helper()
	a, ok := addr.(*net.TCPAddr)
	require.True(t, ok, "%T", addr)
	reaches := func(network, host string) bool {
		c, err := net.DialTimeout(network, fmt.Sprintf("%s:%d", host, a.Port), patience)
		if err != nil {
			require.ErrorIs(t, err, errRefused)
			return false
		}
		_ = c.Close()
		return true
	}
	return listening{
		network: a.Network(), ip: a.IP.String(), ipBytes: len(a.IP), port: a.Port > 0,
		v4: reaches("tcp4", "127.0.0.1"), v6: hasIPv6() && reaches("tcp6", "[::1]"),
	}
}

// A listenWay listens, lets see look at the address, and stops.
type listenWay struct {
	name string
	do   func(t *testing.T, lc veloq.ListenConfig, network, address string, see func(net.Addr)) error
}

func listenWays(t *testing.T) []listenWay {
	t.Helper()
	var ways []listenWay
	for _, workers := range []int{1, 2} {
		rt := newRuntime(t, veloq.Config{Workers: workers})
		ways = append(ways, listenWay{
			fmt.Sprintf("Start on %d", workers),
			func(t *testing.T, lc veloq.ListenConfig, network, address string, see func(net.Addr)) error {
				srv, err := lc.Start(t.Context(), rt, network, address, echoTask)
				if err != nil {
					assert.Nil(t, srv)
					return err
				}
				see(srv.Addr())
				bounded(t, "Server.Close", srv.Close)
				return nil
			},
		})
		if workers > 1 {
			continue
		}
		ways = append(ways, listenWay{
			"ListenStream",
			func(t *testing.T, lc veloq.ListenConfig, network, address string, see func(net.Addr)) error {
				var l *veloq.Listener
				err := inTask(t, rt, func(c *veloq.Context) (err error) {
					l, err = lc.ListenStream(c, network, address)
					return err
				})
				if err != nil {
					assert.Nil(t, l)
					return err
				}
				see(l.Addr())
				return inTask(t, rt, func(*veloq.Context) error { return l.Close() })
			},
		})
	}
	return ways
}

// Goal: the same family, address and clients as package net's listener, or the same error.
func TestNet_ListenTable(t *testing.T) {
	noLeak(t)
	taken, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	addresses := []string{
		"", ":", ":0", "0.0.0.0:0", "0.0.0.0:", "[::]:0", "[::ffff:0.0.0.0]:0", "127.0.0.1:0", "[::1]:0",
		"[::ffff:127.0.0.1]:0", "localhost:0", "localhost:",
		":" + port, "0.0.0.0:" + port, "[::]:" + port,
	}
	ways := listenWays(t)
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		for _, address := range addresses {
			var want listening
			l, wantErr := net.Listen(network, address)
			if wantErr == nil {
				want = seen(t, l.Addr())
				require.NoError(t, l.Close())
			}
			for _, way := range ways {
				t.Run(fmt.Sprintf("%s/%q/%s", network, strings.Replace(address, port, "taken", 1), way.name), func(t *testing.T) {
					err := way.do(t, veloq.ListenConfig{}, network, address, func(addr net.Addr) {
						assert.Equal(t, want, seen(t, addr))
					})
					if wantErr == nil {
						require.NoError(t, err)
						return
					}
					require.Error(t, err)
					assert.Equal(t, fieldsOf(t, wantErr), fieldsOf(t, err))
					assert.Equal(t, wantErr.Error(), err.Error())
				})
			}
		}
	}
}

// Goal: DualStack decides who can connect to a wildcard, and nothing about other addresses.
func TestNet_DualStack(t *testing.T) {
	noLeak(t)
	needIPv6(t)
	auto, on, off := veloq.DualStackAuto, veloq.DualStackOn, veloq.DualStackOff
	cases := []struct {
		network, address string
		dual             veloq.DualStack
		ip               string
		v4, v6           bool
	}{
		{"tcp", ":0", auto, "::", true, true},
		{"tcp", ":0", on, "::", true, true},
		{"tcp", ":0", off, "::", false, true},
		{"tcp", "[::]:0", on, "::", true, true},
		{"tcp", "[::]:0", off, "::", false, true},
		{"tcp", "0.0.0.0:0", on, "::", true, true},
		{"tcp", "0.0.0.0:0", off, "0.0.0.0", true, false},
		{"tcp6", ":0", auto, "::", false, true},
		{"tcp6", ":0", on, "::", true, true},
		{"tcp6", ":0", off, "::", false, true},
		{"tcp4", ":0", on, "0.0.0.0", true, false},
		{"tcp4", ":0", off, "0.0.0.0", true, false},
		{"tcp", "[::1]:0", on, "::1", false, true},
		{"tcp", "127.0.0.1:0", on, "127.0.0.1", true, false},
		{"tcp", "127.0.0.1:0", off, "127.0.0.1", true, false},
	}
	ways := listenWays(t)
	for _, tc := range cases {
		for _, way := range ways {
			t.Run(fmt.Sprintf("%s/%q/%d/%s", tc.network, tc.address, tc.dual, way.name), func(t *testing.T) {
				lc := veloq.ListenConfig{DualStack: tc.dual}
				require.NoError(t, way.do(t, lc, tc.network, tc.address, func(addr net.Addr) {
					got := seen(t, addr)
					assert.Equal(t, tc.ip, got.ip)
					assert.Equal(t, tc.v4, got.v4, "IPv4 clients")
					assert.Equal(t, tc.v6, got.v6, "IPv6 clients")
				}))
			})
		}
	}
}

// Goal: to dial a wildcard is to dial this host, as package net has it.
func TestNet_DialWildcard(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	for _, listener := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listener)
		if err != nil {
			continue // no IPv6
		}
		port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			for _, host := range []string{"", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "localhost"} {
				t.Run(fmt.Sprintf("%s/%s/%q", listener, network, host), func(t *testing.T) {
					conn, want := net.Dial(network, host+":"+port)
					if want == nil {
						_ = conn.Close()
					}
					err := inTask(t, rt, func(c *veloq.Context) error {
						s, err := c.Dial(network, host+":"+port)
						if err != nil {
							return err
						}
						return s.Close()
					})
					if want == nil {
						assert.NoError(t, err)
						return
					}
					if dialsIPv4Wildcard && host == "[::]" {
						return
					}
					require.Error(t, err)
					assert.Equal(t, want.Error(), err.Error())
				})
			}
		}
		require.NoError(t, l.Close())
	}
}

// accepted runs fn as a task with both ends of a connection, dialed and accepted by veloq.
func accepted(t *testing.T, lc veloq.ListenConfig, d veloq.Dialer, address string, fn func(c *veloq.Context, out, in *veloq.Stream) error) {
	t.Helper()
	rt := newRuntime(t, veloq.Config{Workers: 1})
	before := holds(rt)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		l, err := lc.ListenStream(c, "tcp", address)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		out, err := d.DialStream(c, "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = out.Close() }()
		in, err := l.Accept()
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		return fn(c, out, in)
	}))
	settled(t, rt, before)
}

// Goal: both ends know their addresses, as the plain other end sees them, also where an IPv4 client
// comes to a listener of both families.
func TestNet_AddressesAfterAccept(t *testing.T) {
	noLeak(t)
	for _, listen := range []string{":0", "127.0.0.1:0", "[::1]:0"} {
		for _, client := range []string{"127.0.0.1", "::1"} {
			l, err := net.Listen("tcp", listen)
			if err != nil {
				continue // no IPv6
			}
			at := func(a net.Addr) string {
				return net.JoinHostPort(client, fmt.Sprint(a.(*net.TCPAddr).Port))
			}
			conn, err := net.Dial("tcp", at(l.Addr()))
			if err != nil {
				require.NoError(t, l.Close())
				continue // not for this family
			}
			plain, err := l.Accept()
			require.NoError(t, err)
			want := [2]net.Addr{plain.LocalAddr(), plain.RemoteAddr()}
			_, _, _ = plain.Close(), conn.Close(), l.Close()
			t.Run(listen+"/"+client, func(t *testing.T) {
				rt := newRuntime(t, veloq.Config{Workers: 1})
				got := make(chan [2]net.Addr, 1)
				var lc veloq.ListenConfig
				srv, err := lc.Start(t.Context(), rt, "tcp", listen, func(_ *veloq.Context, s *veloq.Stream) error {
					got <- [2]net.Addr{s.LocalAddr(), s.RemoteAddr()}
					return nil
				})
				require.NoError(t, err)
				conn, err := net.Dial("tcp", at(srv.Addr()))
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				addrs := await(t, "accept", got)
				assert.Equal(t, conn.RemoteAddr().String(), addrs[0].String())
				assert.Equal(t, conn.LocalAddr().String(), addrs[1].String())
				for i, addr := range addrs {
					assert.IsType(t, want[i], addr)
					w, g := want[i].(*net.TCPAddr), addr.(*net.TCPAddr)
					assert.Equal(t, w.IP, g.IP)
					assert.Equal(t, w.Zone, g.Zone)
					assert.Equal(t, w.Network(), g.Network())
				}
			})
		}
	}
}

// Goal: a stream whose peer has reset it says who that was, also when nobody asked before.
func TestNet_RemoteAddrAfterReset(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Wine forgets the peer of a connection that was reset")
	}
	noLeak(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{Workers: 1})
			got := make(chan net.Addr, 1)
			var lc veloq.ListenConfig
			srv, err := lc.Start(t.Context(), rt, "tcp", address, func(_ *veloq.Context, s *veloq.Stream) error {
				_, err := s.Read(make([]byte, 1))
				got <- s.RemoteAddr()
				return err
			})
			if err != nil {
				t.Skip("no such address here: ", err)
			}
			defer srv.Close()
			conn := dial(t, srv.Addr())
			require.NoError(t, conn.SetLinger(0))
			require.NoError(t, conn.Close())
			addr := await(t, "reset", got)
			require.NotNil(t, addr)
			require.Equal(t, conn.LocalAddr().String(), addr.String())
		})
	}
}

// Goal: keep-alive and no-delay are what package net sets on both ends, or what was asked for.
func TestNet_ConnectionDefaults(t *testing.T) {
	noLeak(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue // no IPv6
		}
		conn, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		plain, err := l.Accept()
		require.NoError(t, err)
		wantIdle, wantInterval, readable := keepAliveTimes(plain.LocalAddr(), plain.RemoteAddr())
		_, _, _ = plain.Close(), conn.Close(), l.Close()
		for _, tc := range []struct {
			ask  time.Duration
			on   bool
			secs int
		}{
			{0, true, 15},
			{time.Minute, true, 60},
			{1500 * time.Millisecond, true, 2},
			{-1, false, 0},
		} {
			t.Run(fmt.Sprintf("%s/%v", address, tc.ask), func(t *testing.T) {
				if readable && tc.ask == 0 {
					require.Equal(t, [2]int{15, 15}, [2]int{wantIdle, wantInterval}, "package net's own")
				}
				lc, d := veloq.ListenConfig{KeepAlive: tc.ask}, veloq.Dialer{KeepAlive: tc.ask}
				accepted(t, lc, d, address, func(_ *veloq.Context, out, in *veloq.Stream) error {
					for name, s := range map[string]*veloq.Stream{"dialed": out, "accepted": in} {
						on, err := s.NoDelay()
						require.NoError(t, err)
						assert.True(t, on, name)
						on, err = s.KeepAlive()
						require.NoError(t, err)
						assert.Equal(t, tc.on, on, name)
						idle, interval, ok := keepAliveTimes(s.LocalAddr(), s.RemoteAddr())
						assert.Equal(t, readable, ok, name)
						if ok && tc.on {
							assert.Equal(t, [2]int{tc.secs, tc.secs}, [2]int{idle, interval}, name)
						}
						require.NoError(t, s.SetKeepAlivePeriod(90*time.Second))
						if idle, interval, ok = keepAliveTimes(s.LocalAddr(), s.RemoteAddr()); ok {
							assert.Equal(t, [2]int{90, 90}, [2]int{idle, interval}, name)
							period, err := s.KeepAlivePeriod()
							require.NoError(t, err)
							assert.Equal(t, 90*time.Second, period, name)
						}
					}
					return nil
				})
			})
		}
	}
}

// Goal: accepted connections have the listener's buffer sizes.
func TestNet_AcceptedInheritBuffers(t *testing.T) {
	noLeak(t)
	lc := veloq.ListenConfig{ReadBuffer: 20_000, WriteBuffer: 30_000}
	accepted(t, lc, veloq.Dialer{}, "127.0.0.1:0", func(_ *veloq.Context, _, in *veloq.Stream) error {
		n, err := in.ReadBuffer()
		require.NoError(t, err)
		assert.Contains(t, []int{20_000, 40_000}, n)
		n, err = in.WriteBuffer()
		require.NoError(t, err)
		assert.Contains(t, []int{30_000, 60_000}, n)
		return nil
	})
}

// Goal: the halves are for two tasks; closing one leaves the other as it was, the peer hears of the
// write half alone, and of the end when both are closed.
func TestNet_SplitForTwoTasks(t *testing.T) {
	noLeak(t)
	withPeer(t, shapes()[0], func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
		r, w := s.Split()
		heard := make(chan string, 1)
		go func() {
			b, _ := io.ReadAll(peer)
			_, _ = peer.Write([]byte("after your FIN"))
			_ = peer.CloseWrite()
			heard <- string(b)
		}()
		reader := veloq.SpawnLocal(c, func(*veloq.Context) (string, error) {
			var got []byte
			buf := make([]byte, 100)
			for {
				n, err := r.Read(buf)
				got = append(got, buf[:n]...)
				if errors.Is(err, io.EOF) {
					return string(got), r.Close()
				}
				if err != nil {
					return "", err
				}
			}
		})
		writer := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) {
			n, err := w.Write([]byte("all there is"))
			return n, errors.Join(err, w.Close())
		})
		if _, err := writer.Join(c); err != nil {
			return err
		}
		got, err := reader.Join(c)
		if err != nil {
			return err
		}
		assert.Equal(t, "after your FIN", got)
		assert.Equal(t, "all there is", <-heard) // it was sent before what the reader got
		assert.ErrorIs(t, s.SetNoDelay(true), net.ErrClosed)
		assert.NoError(t, w.Close()) // again is once
		return nil
	})
}

// Goal: an Accept that waits, and one that comes later, get package net's error when the listener is
// closed; its address stays.
func TestNet_AcceptAfterClose(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	before := holds(rt)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		l, err := c.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addr := l.Addr().String()
		waiting := veloq.SpawnLocal(c, func(*veloq.Context) (*veloq.Stream, error) { return l.Accept() })
		require.NoError(t, c.Yield())
		require.NoError(t, l.Close())
		require.NoError(t, l.Close())
		s, errWaiting := waiting.Join(c)
		assert.Nil(t, s)
		s, errLater := l.Accept()
		assert.Nil(t, s)
		plain, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, plain.Close())
		_, wantErr := plain.Accept()
		want := fieldsOf(t, wantErr)
		want.addr = addr
		for _, err := range []error{errWaiting, errLater} {
			require.ErrorIs(t, err, net.ErrClosed)
			assert.Equal(t, want, fieldsOf(t, err))
		}
		assert.Equal(t, addr, l.Addr().String())
		return nil
	}))
	settled(t, rt, before)
}

// Goal: one default runtime, whoever asks first, and another once that was closed.
func TestNet_Default(t *testing.T) {
	needDriver(t)
	noLeak(t)
	for range 2 {
		const askers = 8
		var wg sync.WaitGroup
		var got [askers]*veloq.Runtime
		for i := range got {
			wg.Go(func() {
				rt, err := veloq.Default()
				assert.NoError(t, err)
				got[i] = rt
			})
		}
		wg.Wait()
		require.NotNil(t, got[0])
		for _, rt := range got {
			require.Same(t, got[0], rt)
		}
		require.NoError(t, inTask(t, got[0], func(*veloq.Context) error { return nil }))
		bounded(t, "Runtime.Close", func() { _ = got[0].Close() })
		require.ErrorIs(t, veloq.Go(got[0], func(*veloq.Context) {}), veloq.ErrClosed)
		next, err := veloq.Default()
		require.NoError(t, err)
		require.NotSame(t, got[0], next)
		bounded(t, "Runtime.Close", func() { _ = next.Close() })
		bounded(t, "Runtime.Close", func() { _ = next.Close() }) // again is once
	}
}

// noHiddenNil fails the test for an interface that is not nil and holds nil.
func noHiddenNil(t *testing.T, what string, values ...any) {
	t.Helper()
	for _, v := range values {
		if v == nil {
			continue
		}
		if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
			t.Errorf("%s: a nil %T", what, v)
		}
		var oe *net.OpError
		if err, ok := v.(error); ok && errors.As(err, &oe) {
			noHiddenNil(t, what+"'s Source, Addr, Err", any(oe.Source), any(oe.Addr), any(oe.Err))
			_ = oe.Error() // which asks its addresses
		}
	}
}

// Goal: what fails returns nothing beside the error, and no interface that holds nil.
func TestNet_NoInterfaceHoldsNil(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	refusing := closedPort(t)
	for _, bad := range [][2]string{
		{"udp", "127.0.0.1:0"}, {"tcp", "127.0.0.1"}, {"tcp", "192.0.2.1:0"}, {"tcp4", "[::1]:0"}, {"tcp", ":no-such-service"},
	} {
		var lc veloq.ListenConfig
		srv, err := lc.Start(t.Context(), rt, bad[0], bad[1], echoTask)
		require.Nil(t, srv)
		require.Error(t, err)
		noHiddenNil(t, "Start", err)
		srv, err = lc.StartHandler(t.Context(), rt, bad[0], bad[1], &echoHandler{})
		require.Nil(t, srv)
		require.Error(t, err)
		noHiddenNil(t, "StartHandler", err)
	}
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for _, bad := range [][2]string{{"udp", refusing}, {"tcp", "127.0.0.1"}, {"tcp", refusing}, {"tcp6", refusing}} {
			for _, d := range []veloq.Dialer{{}, {LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}} {
				s, err := d.DialStream(c, bad[0], bad[1])
				require.Nil(t, s)
				require.Error(t, err)
				noHiddenNil(t, "Dial", err)
			}
		}
		l, err := c.Listen("udp", "127.0.0.1:0")
		require.Nil(t, l)
		noHiddenNil(t, "Listen", err)
		return nil
	}))
	// Closed before anybody asked for its addresses.
	accepted(t, veloq.ListenConfig{}, veloq.Dialer{}, "127.0.0.1:0", func(c *veloq.Context, out, in *veloq.Stream) error {
		for _, s := range []*veloq.Stream{out, in} {
			require.NoError(t, s.Close())
			for range 3 {
				require.NoError(t, c.Yield())
			}
			require.NoError(t, c.Sleep(time.Millisecond)) // by then turns have closed the descriptor
			noHiddenNil(t, "addresses", any(s.LocalAddr()), any(s.RemoteAddr()))
			_, err := s.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			noHiddenNil(t, "Read", err)
			_, err = s.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			noHiddenNil(t, "Write", err)
		}
		return nil
	})
	// Errors of a caller from elsewhere, who must not ask the socket.
	keep := make(chan *veloq.Stream, 1)
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(_ *veloq.Context, s *veloq.Stream) error {
		keep <- s
		_, err := s.Read(make([]byte, 1))
		return err
	})
	dial(t, srv.Addr())
	_, err := await(t, "stream", keep).Read(make([]byte, 1))
	require.ErrorIs(t, err, veloq.ErrWrongWorker)
	noHiddenNil(t, "Read", err)
}

// Goal: echo over IPv6, by both doors and both networks.
func TestNet_IPv6Echo(t *testing.T) {
	noLeak(t)
	needIPv6(t)
	for _, network := range []string{"tcp", "tcp6"} {
		for _, door := range doors {
			t.Run(network+"/"+door, func(t *testing.T) {
				rt := newRuntime(t, veloq.Config{Workers: 2})
				var lc veloq.ListenConfig
				var srv *veloq.Server
				var err error
				if door == "task" {
					srv, err = lc.Start(t.Context(), rt, network, "[::1]:0", echoTask)
				} else {
					srv, err = lc.StartHandler(t.Context(), rt, network, "[::1]:0", &echoHandler{})
				}
				require.NoError(t, err)
				require.NoError(t, roundTrip(dial(t, srv.Addr()), []byte("by package net")))
				require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
					s, err := c.Dial(network, srv.Addr().String())
					if err != nil {
						return err
					}
					defer func() { _ = s.Close() }()
					assert.NotNil(t, s.LocalAddr().(*net.TCPAddr).IP.To16())
					assert.Nil(t, s.LocalAddr().(*net.TCPAddr).IP.To4())
					return roundTrip(s, []byte("by a task"))
				}))
				bounded(t, "Server.Close", srv.Close)
			})
		}
	}
}
