package rudp

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testTLS are a server's and a client's configurations that trust each other.
var testTLS = sync.OnceValues(func() (server, client *tls.Config) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rudp"}, DNSNames: []string{"rudp.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
	client = &tls.Config{RootCAs: roots, ServerName: "rudp.test", CurvePreferences: []tls.CurveID{tls.X25519}}
	return server, client
})

func serverConfig() *Config {
	s, _ := testTLS()
	return &Config{TLS: s}
}

func clientConfig() *Config {
	_, c := testTLS()
	return &Config{TLS: c}
}

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// netUDP says why package net opens no UDP socket, as under Wine; nil: it does.
func netUDP() error {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return c.Close()
}

// needUDP skips where package net opens no UDP socket, as under Wine.
func needUDP(t testing.TB) {
	t.Helper()
	err := netUDP()
	if err != nil && runtime.GOOS == "windows" {
		t.Skip("package net opens no UDP socket here: ", err)
	}
	require.NoError(t, err)
}

func listen(t testing.TB, cfg *Config) *Listener {
	t.Helper()
	needUDP(t)
	l, err := Listen("udp", "127.0.0.1:0", cfg)
	require.NoError(t, err)
	t.Cleanup(func() { l.Endpoint().Close() })
	return l
}

// pair connects two streams.
func pair(t testing.TB, client, server *Config) (c, s *Stream, l *Listener) {
	t.Helper()
	l = listen(t, server)
	c, err := Dial(testContext(t), "udp", l.Addr().String(), client)
	require.NoError(t, err)
	t.Cleanup(func() { c.Endpoint().Close() })
	s, err = l.AcceptStream()
	require.NoError(t, err)
	return c, s, l
}

// await polls for what no call waits for.
func await(t testing.TB, what string, until func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !until(); {
		if time.Now().After(end) {
			t.Fatal("never happened: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

// actors counts the goroutines that endpoints have.
func actors() int {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			return strings.Count(string(buf[:n]), "rudp.(*Endpoint).")
		}
		buf = make([]byte, 2*len(buf))
	}
}

func readAll(t testing.TB, s *Stream) []byte {
	t.Helper()
	b, err := io.ReadAll(s)
	require.NoError(t, err)
	return b
}
