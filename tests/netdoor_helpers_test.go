package tests

// What the tests of the net door share: both packages behind one table of functions, so that what
// package net does is what is expected.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/veloq/veloq"
)

// socketPath is a new path for a unix(7) socket, whose folder goes when the test ends.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "veloq") // t.TempDir's are too long for an address
	require.NoError(t, err)
	path := filepath.Join(dir, "s")
	t.Cleanup(func() {
		_ = os.Remove(path)
		_ = os.Remove(dir)
	})
	return path
}

// tlsConfigs returns a server's and a client's, which trust each other.
func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"localhost"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS12,
	}
	return server, &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// A netPackage is package net, or this one's net door.
type netPackage struct {
	name        string
	listen      func(network, address string) (net.Listener, error)
	dial        func(network, address string) (net.Conn, error)
	dialTimeout func(network, address string, timeout time.Duration) (net.Conn, error)
	dialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

var netPackages = []netPackage{
	{
		name: "net", listen: net.Listen, dial: net.Dial, dialTimeout: net.DialTimeout,
		dialContext: (&net.Dialer{}).DialContext,
	},
	{
		name: "veloq", listen: veloq.Listen, dial: veloq.Dial, dialTimeout: veloq.DialTimeout,
		dialContext: (&veloq.Dialer{}).DialContext,
	},
}

// needNetwork skips where this machine lacks the network.
func needNetwork(t *testing.T, network string) {
	t.Helper()
	switch network {
	case "tcp6":
		needIPv6(t)
	case "unix", "unixgram", "unixpacket":
		if !nettest.TestableNetwork(network) {
			t.Skip("no " + network + " sockets here")
		}
	}
}

// anyAddress is where a test listens on that network.
func anyAddress(t *testing.T, network string) string {
	t.Helper()
	switch network {
	case "tcp6":
		return "[::1]:0"
	case "tcp", "tcp4":
		return "127.0.0.1:0"
	}
	return socketPath(t)
}

// pair connects two ends of that package's, closed at the end of the test.
func pair(t *testing.T, p netPackage, network string) (client, server fullConn) {
	t.Helper()
	needNetwork(t, network)
	ln, err := p.listen(network, anyAddress(t, network))
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
		}
		accepted <- c
	}()
	c, err := p.dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	s := await(t, "Accept", accepted)
	require.NotNil(t, s)
	t.Cleanup(func() { _ = s.Close() })
	return c.(fullConn), s.(fullConn)
}

// fullConn is what TCPConn and UnixConn share, of both packages.
type fullConn interface {
	net.Conn
	syscall.Conn
	CloseRead() error
	CloseWrite() error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	File() (*os.File, error)
}

// describe tells all of an error that a program may look at, without the addresses, which differ from
// run to run.
func describe(err error, c net.Conn) string {
	side := func(addr net.Addr) string {
		switch {
		case addr == nil:
			return "nil"
		case c == nil:
			return addr.String()
		case c.LocalAddr() != nil && addr.String() == c.LocalAddr().String():
			return "local"
		case c.RemoteAddr() != nil && addr.String() == c.RemoteAddr().String():
			return "remote"
		}
		return "other"
	}
	switch e := err.(type) { //nolint:errorlint // one layer at a time
	case nil:
		return "nil"
	case *net.OpError:
		return fmt.Sprintf("OpError{%s %s %s->%s timeout=%t temporary=%t: %s}", e.Op, e.Net,
			side(e.Source), side(e.Addr), e.Timeout(), e.Temporary(), describe(e.Err, c))
	case *os.SyscallError:
		return fmt.Sprintf("SyscallError{%s: %s}", e.Syscall, describe(e.Err, c))
	}
	return fmt.Sprintf("%T(%v)", err, err)
}

// A protocol is what a scenario saw, to be compared between the packages.
type protocol struct{ lines []string }

func (p *protocol) note(what string, c net.Conn, n any, err error) {
	p.lines = append(p.lines, fmt.Sprintf("%s: %v, %s", what, n, describe(err, c)))
}

// sameAsNet runs a scenario on both packages, and holds what veloq's says to what package net's does.
func sameAsNet(t *testing.T, networks []string, scenario func(t *testing.T, p netPackage, network string, seen *protocol)) {
	t.Helper()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			needNetwork(t, network)
			var seen [2]protocol
			for i, p := range netPackages {
				t.Run(p.name, func(t *testing.T) {
					noLeak(t)
					scenario(t, p, network, &seen[i])
				})
			}
			require.NotEmpty(t, seen[0].lines)
			assert.Equal(t, seen[0].lines, seen[1].lines)
		})
	}
}

var streamNetworks = []string{"tcp", "tcp4", "tcp6", "unix"}
