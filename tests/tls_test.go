package tests

// crypto/tls on the task door: what docs/tasks.md says works.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
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

func taskTLSConfigs(t *testing.T) (server, client *tls.Config) {
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

// taskTLS is TLS for several tasks of one worker: one that reads, any that write. crypto/tls holds
// a sync.Mutex while it writes to the connection below, and a reader may want that mutex too, when
// its peer asks for new keys. So the connection below never parks in a Write: it keeps the bytes,
// and who made them sends them after the call, in turn with the others.
type taskTLS struct {
	conn *tls.Conn
	below
}

// below is what crypto/tls sees of the stream.
type below struct {
	*veloq.Stream
	reader  *veloq.Context
	pending []byte
	sending veloq.Mutex
}

func (b *below) Write(p []byte) (int, error) {
	b.pending = append(b.pending, p...)
	return len(p), nil
}

// Read sends first: what a handshake is answered to must be on its way.
func (b *below) Read(p []byte) (int, error) {
	if err := b.flush(b.reader); err != nil {
		return 0, err
	}
	return b.Stream.Read(p)
}

func (b *below) flush(c *veloq.Context) error {
	if len(b.pending) == 0 {
		return nil
	}
	if err := b.sending.Lock(c); err != nil {
		return err
	}
	defer b.sending.Unlock()
	p := b.pending
	b.pending = nil
	_, err := b.Stream.Write(p)
	return err
}

func serverTLS(s *veloq.Stream, config *tls.Config) *taskTLS {
	l := &taskTLS{below: below{Stream: s}}
	l.conn = tls.Server(&l.below, config)
	return l
}

func (l *taskTLS) handshake(c *veloq.Context) error {
	l.reader = c
	return errors.Join(l.conn.Handshake(), l.flush(c))
}

func (l *taskTLS) read(c *veloq.Context, p []byte) (int, error) {
	l.reader = c
	return l.conn.Read(p)
}

// write bounds what is kept: a piece each time.
func (l *taskTLS) write(c *veloq.Context, p []byte) error {
	for len(p) > 0 {
		n, err := l.conn.Write(p[:min(len(p), 64<<10)])
		if err := errors.Join(err, l.flush(c)); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Goal: one task reads and several write one tls.Conn, with writes that park all the time: a peer
// that reads slowly, and records larger than what is sent without waiting.
func TestTLS_SeveralTasksWrite(t *testing.T) {
	noLeak(t)
	serverConfig, clientConfig := taskTLSConfigs(t)
	const writers, record = 8, 40 << 10
	records := sized(400, 60, 10)
	config := tinyConfig()
	rt := newRuntime(t, config)
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, s *veloq.Stream) error {
		l := serverTLS(s, serverConfig)
		if err := l.handshake(c); err != nil {
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
			for p := make([]byte, 16<<10); ; { // until the client has all it wants
				_, err := l.read(c, p)
				if err == io.EOF { //nolint:errorlint // io.EOF comes bare
					return sc.Wait()
				}
				if err != nil {
					return err
				}
			}
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
	_, clientConfig := taskTLSConfigs(t)
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
