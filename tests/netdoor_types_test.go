package tests

// The shape of the net door: every method and function that package net has, and what they say when
// there is nothing to work on.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// netTypes pairs package net's types with this package's.
var netTypes = map[reflect.Type]reflect.Type{
	reflect.TypeFor[*net.TCPConn]():      reflect.TypeFor[*veloq.TCPConn](),
	reflect.TypeFor[*net.TCPListener]():  reflect.TypeFor[*veloq.TCPListener](),
	reflect.TypeFor[*net.UDPConn]():      reflect.TypeFor[*veloq.UDPConn](),
	reflect.TypeFor[*net.UnixConn]():     reflect.TypeFor[*veloq.UnixConn](),
	reflect.TypeFor[*net.UnixListener](): reflect.TypeFor[*veloq.UnixListener](),
	reflect.TypeFor[*net.ListenConfig](): reflect.TypeFor[*veloq.ListenConfig](),
	reflect.TypeFor[*net.Dialer]():       reflect.TypeFor[*veloq.Dialer](),
}

// translated is a function type with package net's types exchanged, and without the receiver.
func translated(f reflect.Type) string {
	var b strings.Builder
	name := func(t reflect.Type) string {
		if ours, ok := netTypes[t]; ok {
			t = ours
		}
		return t.String()
	}
	for i := 1; i < f.NumIn(); i++ {
		b.WriteString(name(f.In(i)) + ", ")
	}
	b.WriteString("->")
	for out := range f.Outs() {
		b.WriteString(" " + name(out))
	}
	return b.String()
}

// missing says which methods of theirs ours lacks, or has otherwise.
func missing(theirs, ours reflect.Type) (found []string) {
	for m := range theirs.Methods() {
		own, ok := ours.MethodByName(m.Name)
		switch {
		case !ok:
			found = append(found, m.Name)
		case translated(m.Type) != translated(own.Type):
			found = append(found, fmt.Sprintf("%s is %s, not %s", m.Name, translated(own.Type), translated(m.Type)))
		}
	}
	return found
}

// Goal: what compiles with package net's types compiles with these.
func TestNetdoorTypes_HaveEveryMethod(t *testing.T) {
	elsewhere := map[reflect.Type][]string{
		// Of a network whose connections stay package net's.
		reflect.TypeFor[*net.Dialer](): {"DialIP"},
	}
	for theirs, ours := range netTypes {
		require.Positive(t, theirs.NumMethod())
		assert.ElementsMatch(t, elsewhere[theirs], missing(theirs, ours), "%v", ours)
	}
	assert.NotEmpty(t, missing(reflect.TypeFor[*net.TCPConn](), reflect.TypeFor[*veloq.UnixConn]()), "the check finds nothing")
}

// Goal: the settings too: a literal of package net's type is one of ours. Left out is what package net
// calls deprecated.
func TestNetdoorTypes_HaveEveryField(t *testing.T) {
	deprecated := map[string]bool{"Cancel": true, "DualStack": true}
	for _, theirs := range []reflect.Type{reflect.TypeFor[net.ListenConfig](), reflect.TypeFor[net.Dialer]()} {
		ours := netTypes[reflect.PointerTo(theirs)].Elem()
		for f := range theirs.Fields() {
			if !f.IsExported() || deprecated[f.Name] {
				continue
			}
			own, ok := ours.FieldByName(f.Name)
			if assert.True(t, ok, "%v.%s", ours, f.Name) {
				assert.Equal(t, f.Type, own.Type, f.Name)
			}
		}
	}
}

// called calls a method with zero values, and returns its last result as text; a panic too.
func called(receiver reflect.Value, m reflect.Method) (result string) {
	defer func() {
		if r := recover(); r != nil {
			result = fmt.Sprint("panic: ", r)
		}
	}()
	args := []reflect.Value{receiver}
	for i := 1; i < m.Type.NumIn(); i++ {
		args = append(args, reflect.Zero(m.Type.In(i)))
	}
	outs := m.Func.Call(args)
	if len(outs) == 0 {
		return "nothing"
	}
	return fmt.Sprint(outs[len(outs)-1])
}

// Goal: methods of a zero value are errors where package net's are; of a nil one they are too, where
// package net's panic or not; and none of ours panics.
func TestNetdoorTypes_ZeroAndNilReceivers(t *testing.T) {
	for theirs, ours := range netTypes {
		if strings.Contains(theirs.String(), "Config") || strings.Contains(theirs.String(), "Dialer") {
			continue
		}
		for m := range ours.Methods() {
			zero := called(reflect.New(ours.Elem()), m)
			null := called(reflect.Zero(ours), m)
			assert.Equal(t, zero, null, "%v.%s", ours, m.Name)
			assert.NotContains(t, zero, "panic", "%v.%s", ours, m.Name)
			theirMethod, ok := theirs.MethodByName(m.Name)
			if !ok {
				continue
			}
			want := called(reflect.New(theirs.Elem()), theirMethod)
			if !strings.Contains(want, "panic") {
				assert.Equal(t, want, zero, "%v.%s", ours, m.Name)
			}
		}
	}
}

// pointer is for functions that return no interface: theirs of nothing is a nil pointer.
func pointer[T any](v *T, err error) (any, error) {
	if v == nil {
		return nil, err
	}
	return v, err
}

// netFunctions are the functions that make something from a network and an address, of both packages.
func netFunctions(ctx context.Context) map[string][2]func(network, address string) (any, error) {
	type fn = func(network, address string) (any, error)
	tcp := func(address string) *net.TCPAddr {
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			return nil
		}
		return a
	}
	unix := func(network, address string) *net.UnixAddr {
		if address == "" {
			return nil
		}
		return &net.UnixAddr{Name: address, Net: network}
	}
	port := func(address string) netip.AddrPort {
		a, _ := netip.ParseAddrPort(address)
		return a
	}
	var theirConfig net.ListenConfig
	var ourConfig veloq.ListenConfig
	var theirDialer net.Dialer
	var ourDialer veloq.Dialer
	return map[string][2]fn{
		"Listen": {
			func(n, a string) (any, error) { return net.Listen(n, a) },
			func(n, a string) (any, error) { return veloq.Listen(n, a) },
		},
		"ListenPacket": {
			func(n, a string) (any, error) { return net.ListenPacket(n, a) },
			func(n, a string) (any, error) { return veloq.ListenPacket(n, a) },
		},
		"ListenConfig.Listen": {
			func(n, a string) (any, error) { return theirConfig.Listen(ctx, n, a) },
			func(n, a string) (any, error) { return ourConfig.Listen(ctx, n, a) },
		},
		"ListenConfig.ListenPacket": {
			func(n, a string) (any, error) { return theirConfig.ListenPacket(ctx, n, a) },
			func(n, a string) (any, error) { return ourConfig.ListenPacket(ctx, n, a) },
		},
		"ListenTCP": {
			func(n, a string) (any, error) { return pointer(net.ListenTCP(n, tcp(a))) },
			func(n, a string) (any, error) { return pointer(veloq.ListenTCP(n, tcp(a))) },
		},
		"ListenUnix": {
			func(n, a string) (any, error) { return pointer(net.ListenUnix(n, unix(n, a))) },
			func(n, a string) (any, error) { return pointer(veloq.ListenUnix(n, unix(n, a))) },
		},
		"ListenUnixgram": {
			func(n, a string) (any, error) { return pointer(net.ListenUnixgram(n, unix(n, a))) },
			func(n, a string) (any, error) { return pointer(veloq.ListenUnixgram(n, unix(n, a))) },
		},
		"Dial": {
			func(n, a string) (any, error) { return net.Dial(n, a) },
			func(n, a string) (any, error) { return veloq.Dial(n, a) },
		},
		"DialTimeout": {
			func(n, a string) (any, error) { return net.DialTimeout(n, a, patience) },
			func(n, a string) (any, error) { return veloq.DialTimeout(n, a, patience) },
		},
		"Dialer.DialContext": {
			func(n, a string) (any, error) { return theirDialer.DialContext(ctx, n, a) },
			func(n, a string) (any, error) { return ourDialer.DialContext(ctx, n, a) },
		},
		"DialTCP": {
			func(n, a string) (any, error) { return pointer(net.DialTCP(n, nil, tcp(a))) },
			func(n, a string) (any, error) { return pointer(veloq.DialTCP(n, nil, tcp(a))) },
		},
		"Dialer.DialTCP": {
			func(n, a string) (any, error) { return pointer(theirDialer.DialTCP(ctx, n, netip.AddrPort{}, port(a))) },
			func(n, a string) (any, error) { return pointer(ourDialer.DialTCP(ctx, n, netip.AddrPort{}, port(a))) },
		},
		"DialUnix": {
			func(n, a string) (any, error) { return pointer(net.DialUnix(n, nil, unix(n, a))) },
			func(n, a string) (any, error) { return pointer(veloq.DialUnix(n, nil, unix(n, a))) },
		},
		"Dialer.DialUnix": {
			func(n, a string) (any, error) { return pointer(theirDialer.DialUnix(ctx, n, nil, unix(n, a))) },
			func(n, a string) (any, error) { return pointer(ourDialer.DialUnix(ctx, n, nil, unix(n, a))) },
		},
	}
}

// Goal: bad input and refusals are the same errors, by every function, and never come with something
// that looks like a connection.
func TestNetdoorTypes_FunctionsFailAlike(t *testing.T) {
	noLeak(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	nowhere := socketPath(t)
	cases := [][2]string{
		{"tcp7", "127.0.0.1:0"},
		{"", "127.0.0.1:0"},
		{"tcp", "127.0.0.1"},
		{"tcp", "127.0.0.1:70000"},
		{"tcp", "127.0.0.1:no-such-service"},
		{"tcp", "::1:0"},
		{"tcp4", "[::1]:0"},
		{"tcp6", "127.0.0.1:0"},
		{"tcp", "192.0.2.1:x"},
		{"tcp", ""},
		{"tcp", closedPort(t)},
		{"tcp", taken.Addr().String()},
		{"udp", "127.0.0.1"},
		{"udp7", "127.0.0.1:0"},
		{"ip", "127.0.0.1"},
		{"ip4:no-such-protocol", "127.0.0.1"},
		{"unix", ""},
		{"unix", nowhere},
		{"unix", nowhere + "/" + "below"},
		{"unix", nowhere + strings.Repeat("x", 200)},
		{"unixgram", nowhere},
		{"unixgram", nowhere + strings.Repeat("x", 200)},
		{"unixpacket", nowhere},
		{"unixfoo", nowhere},
	}
	failed := 0
	for name, pair := range netFunctions(context.Background()) {
		for _, c := range cases {
			what := fmt.Sprintf("%s(%q, %q)", name, c[0], c[1])
			try := func(fn func(network, address string) (any, error)) (any, error) {
				v, err := fn(c[0], c[1])
				if err == nil {
					require.NoError(t, v.(interface{ Close() error }).Close(), what)
				}
				_ = os.Remove(nowhere)
				return v, err
			}
			_, want := try(pair[0])
			got, err := try(pair[1])
			assert.Equal(t, describe(want, nil), describe(err, nil), what)
			if err != nil {
				failed++
				assert.Nil(t, got, what)
				noHiddenNil(t, what, got, err)
			}
		}
	}
	assert.Greater(t, failed, 150)
}

// Goal: giving up a dial, before and during it, is told as package net tells it.
func TestNetdoorTypes_DialGivenUp(t *testing.T) {
	noLeak(t)
	full := fullListener(t)
	for _, p := range netPackages {
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, err := p.dialContext(ctx, "tcp", full)
			assert.Equal(t, "operation was canceled", errors.Unwrap(err).Error())
			require.ErrorIs(t, err, context.Canceled)

			_, err = p.dialTimeout("tcp", full, time.Millisecond)
			assert.True(t, isTimeout(err), "%v", err)
			_, err = p.dialTimeout("tcp", full, -time.Second)
			assert.True(t, isTimeout(err), "%v", err)
		})
	}
	_, err := (&veloq.Dialer{Deadline: time.Unix(1, 0)}).Dial("tcp", full)
	assert.True(t, isTimeout(err), "%v", err)
}

// Goal: errors of a connection name the network that was asked for, by whichever function it was made.
func TestNetdoorTypes_ErrorsNameTheNetwork(t *testing.T) {
	noLeak(t)
	l, err := veloq.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	to := l.Addr().(*net.TCPAddr)
	conns := map[string]func() (net.Conn, error){
		"Dial":           func() (net.Conn, error) { return veloq.Dial("tcp4", to.String()) },
		"DialTCP":        func() (net.Conn, error) { return veloq.DialTCP("tcp4", nil, to) },
		"Dialer.DialTCP": func() (net.Conn, error) { return dialPort("tcp4", to.AddrPort()) },
	}
	for name, dial := range conns {
		c, err := dial()
		require.NoError(t, err, name)
		s, err := l.AcceptTCP()
		require.NoError(t, err, name)
		// Each end makes an error of its own in turn: a write after its sending half was closed.
		for end, one := range map[string]*veloq.TCPConn{"dialed": c.(*veloq.TCPConn), "accepted": s} {
			require.NoError(t, one.CloseWrite())
			_, err = one.Write([]byte("x"))
			var oe *net.OpError
			require.ErrorAs(t, err, &oe)
			assert.Equal(t, "tcp4", oe.Net, "%s, %s", name, end)
			var call *os.SyscallError
			require.ErrorAs(t, err, &call, "not the system's")
		}
		_ = c.Close()
		_ = s.Close()
	}
}

func dialPort(network string, to netip.AddrPort) (net.Conn, error) {
	return (&veloq.Dialer{}).DialTCP(context.Background(), network, netip.AddrPort{}, to)
}
