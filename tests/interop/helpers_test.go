package interop

// What the tests share: bounded waits, leak checks, certificates, connections of both kinds.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// patience bounds every wait; what takes longer has failed. VELOQ_PATIENCE overrides it.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("VELOQ_PATIENCE")); err == nil {
		return d
	}
	return 60 * time.Second
}()

// soon is the context of waits in a test.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// await waits for ch to be closed or to yield; a hang fails the test with every goroutine's stack.
func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		buf := make([]byte, 1<<20)
		t.Fatalf("%s: nothing after %v\n%s", what, patience, buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

// usage is what must be back where it began.
type usage struct{ fds, goroutines int }

func currentUsage() usage {
	u := usage{goroutines: runtime.NumGoroutine()}
	// The folder itself is open while it is read, each time alike. None on Windows: 0, each time.
	list, _ := os.ReadDir("/dev/fd")
	u.fds = len(list)
	return u
}

// noLeak fails the test if, at its end, more descriptors or goroutines are left than there were. It
// comes first in a test, so that its check comes last.
func noLeak(t *testing.T) {
	t.Helper()
	warmUp(t)
	before := currentUsage()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		end := time.Now().Add(patience)
		for now := currentUsage(); now.fds > before.fds || now.goroutines > before.goroutines; now = currentUsage() {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Fatalf("left %+v of %+v\n%s", now, before, buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// warmed is how many staged writes were warmUp's.
var warmed uint64

// warmUp opens what a process opens once and keeps: the poller's descriptors, and the ring of staged
// writes.
var warmUp = func() func(t *testing.T) {
	var once sync.Once
	return func(t *testing.T) {
		once.Do(func() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer func() { require.NoError(t, l.Close()) }()
			c, err := veloq.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			for range 200 { // one of them probes
				_, err := c.Write([]byte{1})
				require.NoError(t, err)
			}
			require.NoError(t, c.Close())
			warmed = veloq.DefaultStageStats().Writes
		})
	}
}()

// A packetConn is what the libraries are given.
type packetConn interface {
	net.PacketConn
	net.Conn
}

// A kind opens UDP connections of veloq's type or package net's.
type kind struct {
	name   string
	listen func(laddr *net.UDPAddr) (packetConn, error)
	dial   func(raddr *net.UDPAddr) (packetConn, error)
}

var kinds = map[string]kind{
	"veloq": {
		"veloq",
		func(a *net.UDPAddr) (packetConn, error) { return veloq.ListenUDP("udp", a) },
		func(a *net.UDPAddr) (packetConn, error) { return veloq.DialUDP("udp", nil, a) },
	},
	"net": {
		"net",
		func(a *net.UDPAddr) (packetConn, error) { return net.ListenUDP("udp", a) },
		func(a *net.UDPAddr) (packetConn, error) { return net.DialUDP("udp", nil, a) },
	},
}

// forEnds runs fn with veloq at both ends and at each end against package net's.
func forEnds(t *testing.T, fn func(t *testing.T, server, client kind)) {
	for _, ends := range [][2]string{{"veloq", "veloq"}, {"veloq", "net"}, {"net", "veloq"}} {
		t.Run("server "+ends[0]+", client "+ends[1], func(t *testing.T) {
			noLeak(t)
			fn(t, kinds[ends[0]], kinds[ends[1]])
		})
	}
}

var loopback = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}

// listen opens a socket that is closed at the end of the test.
func listen(t *testing.T, k kind, laddr *net.UDPAddr) packetConn {
	t.Helper()
	c, err := k.listen(laddr)
	if err != nil && runtime.GOOS == "windows" {
		t.Skip("package net opens no UDP socket here: ", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// certificates returns a server's configuration for 127.0.0.1 and its client's.
func certificates(t *testing.T, protocols ...string) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:     []string{"localhost"},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: protocols,
	}
	return server, &tls.Config{RootCAs: pool, NextProtos: protocols, ServerName: "127.0.0.1"}
}

// randomBytes is a stream of size bytes, the same for each seed.
func randomBytes(seed byte, size int64) io.Reader {
	return io.LimitReader(mathrand.NewChaCha8([32]byte{seed}), size)
}

// sumOf reads r to its end and returns length and SHA-256 as text.
func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d bytes, %x", n, h.Sum(nil)), err
}
