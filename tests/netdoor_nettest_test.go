package tests

// The connections of the net door under golang.org/x/net/nettest, which holds a net.Conn to what
// package net promises. Not with crypto/tls on top: its connections, on whatever they lie, don't survive
// a write that timed out, which nettest asks for.

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"

	"github.com/veloq/veloq"
)

// pipeOn makes pairs of connected connections, through a listener and a dial of the net door.
func pipeOn(t *testing.T, network, address string) nettest.MakePipe {
	return func() (c1, c2 net.Conn, stop func(), err error) {
		if network == "unix" {
			address = socketPath(t)
		}
		ln, err := veloq.Listen(network, address)
		if err != nil {
			return nil, nil, nil, err
		}
		defer func() { _ = ln.Close() }()
		type result struct {
			conn net.Conn
			err  error
		}
		accepted := make(chan result, 1)
		go func() {
			c, err := ln.Accept()
			accepted <- result{c, err}
		}()
		c1, err = veloq.Dial(network, ln.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		r := <-accepted
		if r.err != nil {
			_ = c1.Close()
			return nil, nil, nil, r.err
		}
		return c1, r.conn, func() { _ = c1.Close(); _ = r.conn.Close() }, nil
	}
}

func TestNetdoor_Nettest(t *testing.T) {
	t.Run("tcp4", func(t *testing.T) { nettest.TestConn(t, pipeOn(t, "tcp4", "127.0.0.1:0")) })
	t.Run("tcp6", func(t *testing.T) {
		if !nettest.SupportsIPv6() {
			t.Skip("no IPv6 here")
		}
		nettest.TestConn(t, pipeOn(t, "tcp6", "[::1]:0"))
	})
	t.Run("unix", func(t *testing.T) {
		if !nettest.TestableNetwork("unix") {
			t.Skip("no unix sockets here")
		}
		nettest.TestConn(t, pipeOn(t, "unix", ""))
	})
}
