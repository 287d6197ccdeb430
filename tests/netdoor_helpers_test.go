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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	fileConn    func(*os.File) (net.Conn, error)
}

var netPackages = []netPackage{
	{
		name: "net", listen: net.Listen, dial: net.Dial, dialTimeout: net.DialTimeout,
		dialContext: (&net.Dialer{}).DialContext, fileConn: net.FileConn,
	},
	{
		name: "veloq", listen: veloq.Listen, dial: veloq.Dial, dialTimeout: veloq.DialTimeout,
		dialContext: (&veloq.Dialer{}).DialContext, fileConn: veloq.FileConn,
	},
}

// onBoth runs fn for package net, whose results are the expected ones, and for veloq.
func onBoth(t *testing.T, fn func(t *testing.T, p netPackage)) {
	for _, p := range netPackages {
		t.Run(p.name, func(t *testing.T) { fn(t, p) })
	}
}
