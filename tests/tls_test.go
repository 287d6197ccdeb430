package tests

// crypto/tls on the task door: what docs/tasks.md says works.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "veloq"}, DNSNames: []string{"veloq"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool, ServerName: "veloq"}
}

// lockedTLS is a tls.Conn that several tasks may write: who waits for another's write parks.
type lockedTLS struct {
	*tls.Conn
	writing veloq.Mutex
}

func (l *lockedTLS) write(c *veloq.Context, p []byte) error {
	if err := l.writing.Lock(c); err != nil {
		return err
	}
	defer l.writing.Unlock()
	_, err := l.Write(p)
	return err
}

// Goal: one task reads and several write one tls.Conn, with writes that park all the time: a peer that
// reads slowly, and records larger than what is sent without waiting.
func TestTLS_SeveralTasksWrite(t *testing.T) {
	noLeak(t)
	serverConfig, clientConfig := tlsConfigs(t)
	const writers, record = 8, 40 << 10
	records := sized(400, 60, 10)
	config := tinyConfig()
	rt := newRuntime(t, config)
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, s *veloq.Stream) error {
		l := &lockedTLS{Conn: tls.Server(s, serverConfig)}
		if err := l.Handshake(); err != nil {
			return err
		}
		return veloq.Scope(c, func(sc *veloq.TaskScope) error {
			for i := range writers {
				err := sc.Go(func(c *veloq.Context) error {
					p := make([]byte, record)
					for k := range p {
						p[k] = byte(i)
					}
					for range records {
						if err := l.write(c, p); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			_, err := io.Copy(io.Discard, l) // until the client has all it wants
			return err
		})
	})
	conn := tls.Client(dial(t, srv.Addr()), clientConfig)
	// Meanwhile the client writes too: reads go on beside the writes.
	var wg sync.WaitGroup
	wg.Go(func() {
		for range records {
			if _, err := conn.Write(make([]byte, record)); err != nil {
				t.Errorf("client: %v", err)
				return
			}
		}
	})
	counts := [writers]int{}
	p := make([]byte, record)
	for range writers * records {
		_, err := io.ReadFull(conn, p)
		require.NoError(t, err)
		for _, b := range p {
			if b != p[0] {
				t.Fatal("two writes are mixed")
			}
		}
		counts[p[0]]++
	}
	for i, n := range counts {
		require.Equal(t, records, n, "writer %d", i)
	}
	bounded(t, "client's writes", wg.Wait)
	require.NoError(t, conn.CloseWrite())
	_, err := conn.Read(p)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, conn.Close())
	settled(t, rt, held{slots: 1})
}

// Goal: a TLS client in a task, with its handshake under a Timeout that a silent peer runs into.
func TestTLS_HandshakeTimeout(t *testing.T) {
	noLeak(t)
	_, clientConfig := tlsConfigs(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	rt := twoWorkers(t)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		err = veloq.Timeout(c, 5*time.Millisecond, func(*veloq.Context) error {
			return tls.Client(s, clientConfig).Handshake()
		})
		if !isTimeout(err) {
			return fmt.Errorf("handshake: %w", err)
		}
		return nil
	}))
	settled(t, rt, held{})
}
