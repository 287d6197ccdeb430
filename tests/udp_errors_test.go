package tests

// UDPConn's errors are package net's: text, fields, sentinels.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An errorCase makes one call that fails; the error is compared with package net's, part by part.
type errorCase struct {
	name string
	call func(listening, connected udpConn) error
}

func first(_ int, err error) error              { return err }
func second[T any](_ int, _ T, err error) error { return err }

func udpErrorCases(loopback *net.UDPAddr) []errorCase {
	p := []byte("bytes")
	other := &net.UDPAddr{IP: loopback.IP, Port: 9}
	otherAP := other.AddrPort()
	wrong := &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 9}
	return []errorCase{
		{"Write, not connected", func(l, _ udpConn) error { return first(l.Write(p)) }},
		{"WriteTo, connected", func(_, c udpConn) error { return first(c.WriteTo(p, other)) }},
		{"WriteToUDP, connected", func(_, c udpConn) error { return first(c.WriteToUDP(p, other)) }},
		{"WriteToUDPAddrPort, connected", func(_, c udpConn) error {
			return first(c.WriteToUDPAddrPort(p, otherAP))
		}},
		{"WriteMsgUDP, connected", func(_, c udpConn) error { return second(c.WriteMsgUDP(p, nil, other)) }},
		{"WriteMsgUDPAddrPort, connected", func(_, c udpConn) error {
			return second(c.WriteMsgUDPAddrPort(p, nil, otherAP))
		}},
		{"WriteTo nil", func(l, _ udpConn) error { return first(l.WriteTo(p, nil)) }},
		{"WriteTo TCPAddr", func(l, _ udpConn) error { return first(l.WriteTo(p, &net.TCPAddr{})) }},
		{"WriteToUDP nil", func(l, _ udpConn) error { return first(l.WriteToUDP(p, nil)) }},
		{"WriteToUDPAddrPort invalid", func(l, _ udpConn) error {
			return first(l.WriteToUDPAddrPort(p, netip.AddrPort{}))
		}},
		{"WriteMsgUDP nil", func(l, _ udpConn) error { return second(l.WriteMsgUDP(p, nil, nil)) }},
		{"WriteMsgUDPAddrPort invalid", func(l, _ udpConn) error {
			return second(l.WriteMsgUDPAddrPort(p, nil, netip.AddrPort{}))
		}},
		{"port 0", func(l, _ udpConn) error {
			return first(l.WriteToUDP(p, &net.UDPAddr{IP: loopback.IP}))
		}},
		{"port 0, AddrPort", func(l, _ udpConn) error {
			return first(l.WriteToUDPAddrPort(p, netip.AddrPortFrom(otherAP.Addr(), 0)))
		}},
		{"port out of range", func(l, _ udpConn) error {
			return first(l.WriteToUDP(p, &net.UDPAddr{IP: loopback.IP, Port: 70_000}))
		}},
		{"IP of 3 bytes", func(l, _ udpConn) error {
			return first(l.WriteToUDP(p, &net.UDPAddr{IP: net.IP{1, 2, 3}, Port: 9}))
		}},
		{"other family", func(l, _ udpConn) error {
			if loopback.IP.To4() != nil {
				ap := wrong.AddrPort()
				return errors.Join(first(l.WriteToUDP(p, wrong)), first(l.WriteToUDPAddrPort(p, ap)),
					second(l.WriteMsgUDP(p, nil, wrong)), second(l.WriteMsgUDPAddrPort(p, nil, ap)))
			}
			return first(l.WriteToUDP(p, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}))
		}},
		{"too long", func(l, c udpConn) error {
			big := make([]byte, 70_000)
			return errors.Join(first(l.WriteToUDP(big, other)), first(l.WriteToUDPAddrPort(big, otherAP)),
				first(c.Write(big)), second(l.WriteMsgUDP(big, nil, other)), second(c.WriteMsgUDP(big, nil, nil)))
		}},
		{"bad control message", func(l, _ udpConn) error {
			return second(l.WriteMsgUDP(p, make([]byte, 32), other))
		}},
		{"read deadline", func(l, c udpConn) error {
			buf := make([]byte, 9)
			past := time.Now().Add(-time.Second)
			_, _, _, addr, err := readMsgAt(l, past, buf)
			return errors.Join(readAt(l, past, buf), readAt(c, past, buf), fromAt(l, past, buf), err,
				fmt.Errorf("with %v", addr))
		}},
		{"write deadline", func(l, c udpConn) error {
			past := time.Now().Add(-time.Second)
			_ = l.SetWriteDeadline(past)
			_ = c.SetWriteDeadline(past)
			return errors.Join(first(l.WriteToUDP(p, other)), first(l.WriteToUDPAddrPort(p, otherAP)),
				second(l.WriteMsgUDP(p, nil, other)), first(c.Write(p)), second(c.WriteMsgUDP(p, nil, nil)))
		}},
		{"closed", func(l, c udpConn) error {
			_ = l.Close()
			_ = c.Close()
			buf := make([]byte, 9)
			_, _, _, _, msgErr := l.ReadMsgUDPAddrPort(buf, nil)
			return errors.Join(first(l.Read(buf)), first(c.Read(buf)), second(l.ReadFrom(buf)),
				second(l.ReadFromUDPAddrPort(buf)), msgErr, first(l.WriteToUDP(p, other)),
				first(l.WriteToUDPAddrPort(p, otherAP)), second(l.WriteMsgUDP(p, nil, other)), first(c.Write(p)),
				l.Close(), l.SetDeadline(time.Now()), l.SetReadBuffer(1), first(c.Read(nil)))
		}},
	}
}

func readMsgAt(c udpConn, at time.Time, buf []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	_ = c.SetReadDeadline(at)
	return c.ReadMsgUDPAddrPort(buf, nil)
}

func readAt(c udpConn, at time.Time, buf []byte) error {
	_ = c.SetReadDeadline(at)
	return first(c.Read(buf))
}

func fromAt(c udpConn, at time.Time, buf []byte) error {
	_ = c.SetReadDeadline(at)
	return second(c.ReadFromUDPAddrPort(buf))
}

var udpSentinels = map[string]error{
	"ErrClosed": net.ErrClosed, "ErrDeadlineExceeded": os.ErrDeadlineExceeded,
	"ErrWriteToConnected": net.ErrWriteToConnected, "EINVAL": syscall.EINVAL, "EMSGSIZE": syscall.EMSGSIZE,
	"EDESTADDRREQ": syscall.EDESTADDRREQ, "ECONNREFUSED": syscall.ECONNREFUSED,
}

// described takes an error apart: texts, fields, sentinels. Ports, which differ, are masked.
func described(err error, mask *strings.Replacer) []string {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		var all []string
		for _, e := range list.Unwrap() {
			all = append(all, described(e, mask)...)
		}
		return all
	}
	var parts []string
	add := func(format string, args ...any) {
		parts = append(parts, mask.Replace(fmt.Sprintf(format, args...)))
	}
	add("%v", err)
	var op *net.OpError
	if errors.As(err, &op) {
		add("Op=%s Net=%s Source=%v Addr=%v Err=%T", op.Op, op.Net, op.Source, op.Addr, op.Err)
		add("timeout=%v temporary=%v", op.Timeout(), op.Temporary())
		if op.Addr != nil {
			add("network of the address %s", op.Addr.Network())
		}
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		add("call %s", call.Syscall)
	}
	for name, sentinel := range udpSentinels {
		if errors.Is(err, sentinel) {
			add("is %s", name)
		}
	}
	return parts
}

// maskPorts hides what differs between two runs.
func maskPorts(a, b udpConn) *strings.Replacer {
	return strings.NewReplacer(fmt.Sprint(":", udpAddr(a).Port), ":A", fmt.Sprint(":", udpAddr(b).Port), ":B")
}

// Goal: every error has the text, the fields and the sentinels of package net's.
func TestUDP_ErrorsOfNet(t *testing.T) {
	noLeak(t)
	skipWithoutUDP(t)
	four := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	families := map[string]*net.UDPAddr{"udp4": four, "udp": four}
	if hasIPv6() {
		families["udp6"] = &net.UDPAddr{IP: net.IPv6loopback}
	}
	for network, loopback := range families {
		for i, c := range udpErrorCases(loopback) {
			t.Run(network+"/"+c.name, func(t *testing.T) {
				var saw [2][]string
				for j, k := range udpKinds() {
					l := listenUDP(t, k, network, loopback)
					conn := dialUDP(t, k, network, udpAddr(l))
					mask := maskPorts(l, conn)
					err := udpErrorCases(loopback)[i].call(l, conn)
					saw[j] = described(err, mask)
				}
				require.NotEmpty(t, saw[0])
				assert.ElementsMatch(t, saw[0], saw[1])
			})
		}
	}
}

// Goal: constructors refuse what package net's refuse, with its errors and a nil that is one.
func TestUDP_OpenErrorsOfNet(t *testing.T) {
	skipWithoutUDP(t)
	var saw [2][]string
	for i, k := range udpKinds() {
		none := strings.NewReplacer()
		note := func(c udpConn, err error) {
			assert.Nil(t, c)
			if assert.Error(t, err) {
				saw[i] = append(saw[i], described(err, none)...)
			}
		}
		note(k.listen("tcp", nil))
		note(k.listen("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}))
		note(k.listen("udp4", &net.UDPAddr{IP: net.IPv6loopback}))
		note(k.dial("udp5", nil, nil))
		note(k.dial("udp", nil, nil))
		note(k.dial("udp4", nil, &net.UDPAddr{IP: net.IPv6loopback, Port: 1}))
		note(k.listenMulticast("udp", nil, nil))
		note(k.listenMulticast("tcp", nil, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251)}))
		note(k.listenMulticast("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	}
	assert.ElementsMatch(t, saw[0], saw[1])
}

// Goal: an ICMP error comes with the next call, as package net has it.
func TestUDP_ConnectionRefused(t *testing.T) {
	noLeak(t)
	skipWithoutUDP(t)
	if runtime.GOOS != "linux" {
		t.Skip("when the error of an ICMP message comes is the system's own")
	}
	var saw [2][]string
	for i, k := range udpKinds() {
		gone := listenUDP(t, k, "udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		c := dialUDP(t, k, "udp4", udpAddr(gone))
		require.NoError(t, gone.Close())
		mask := maskPorts(gone, c)
		buf := make([]byte, 10)
		for _, call := range []func() error{
			func() error { return first(c.Read(buf)) },
			func() error { return second(c.ReadFromUDPAddrPort(buf)) },
			func() error { _, _, _, _, err := c.ReadMsgUDP(buf, nil); return err },
			func() error { return first(c.Write(buf)) },
		} {
			_, err := c.Write([]byte("x")) // loopback: the answer is there before it returns
			require.NoError(t, err)
			err = call()
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			saw[i] = append(saw[i], described(err, mask)...)
		}
	}
	assert.Equal(t, saw[0], saw[1])
}
