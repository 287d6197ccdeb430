package interop

// This file changes if what is tried with quic-go does.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

const alpn = "interop"

func certificate(t testing.TB) tls.Certificate {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverTLS(t testing.TB) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{alpn}}
}

func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "interop", NextProtos: []string{alpn}}
}

func payload(t testing.TB, n int) []byte {
	b := make([]byte, n)
	_, err := rand.Read(b)
	require.NoError(t, err)
	return b
}

func quicConfig() *quic.Config {
	return &quic.Config{MaxIdleTimeout: 30 * time.Second, HandshakeIdleTimeout: 10 * time.Second}
}

// quicServer is quic-go's, which hands each connection's stream to serve.
func quicServer(t testing.TB, retry bool, serve func(*quic.Conn, *quic.Stream)) netip.AddrPort {
	t.Helper()
	tr := &quic.Transport{VerifySourceAddress: func(net.Addr) bool { return retry }}
	return quicServerOn(t, tr, quicConfig(), serve)
}

func quicServerOn(t testing.TB, tr *quic.Transport, cfg *quic.Config,
	serve func(*quic.Conn, *quic.Stream),
) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	tr.Conn = pc
	l, err := tr.Listen(serverTLS(t), cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close(); _ = tr.Close(); _ = pc.Close() })
	go func() {
		for {
			c, err := l.Accept(ctx)
			if err != nil {
				return
			}
			go func() {
				s, err := c.AcceptStream(ctx)
				if err == nil {
					serve(c, s)
				}
			}()
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func echo(_ *quic.Conn, s *quic.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.Close()
}

// roundTrip sends data, ends its direction, and wants it back.
func roundTrip(t testing.TB, s io.ReadWriter, closeWrite func() error, data []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(data)
		if err == nil {
			err = closeWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	assert.True(t, bytes.Equal(data, got), "%d bytes of %d, or other bytes", len(got), len(data))
}

func TestInterop_ClientToQuicGo(t *testing.T) {
	for name, retry := range map[string]bool{"plain": false, "retry": true} {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, quicServer(t, retry, echo), fate{})
			d := newDriver(t, core.Config{TLS: clientTLS()}, false)
			p := d.dial(r.addr())
			_, down := r.stats()
			assert.Equal(t, retry, down.retries > 0, "%+v", down)
			roundTrip(t, p, p.CloseWrite, payload(t, 5<<20))
			t.Logf("%+v", p.stats())
			require.NoError(t, p.Close())
			<-p.closed
		})
	}
}

// listen is the core as a server that echoes.
func listen(t testing.TB, cfg core.Config) (*driver, netip.AddrPort) {
	t.Helper()
	cfg.TLS = serverTLS(t)
	d := newDriver(t, cfg, true)
	addr := d.socket()
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		for {
			select {
			case <-d.done:
				return
			case p := <-d.accepted:
				d.wg.Add(1)
				go func() {
					defer d.wg.Done()
					b := make([]byte, 32<<10)
					for {
						n, err := p.Read(b)
						if err != nil {
							break
						}
						if _, err := p.Write(b[:n]); err != nil {
							break
						}
					}
					p.tryDo(func(now mono.Time) { _ = p.c.CloseWrite(now) })
				}()
			}
		}
	}()
	return d, addr
}

// quicDial is quic-go's client.
func quicDial(t testing.TB, addr netip.AddrPort) (*quic.Transport, *quic.Conn) {
	t.Helper()
	return quicDialWith(t, addr, quicConfig())
}

func quicDialWith(t testing.TB, addr netip.AddrPort, cfg *quic.Config) (*quic.Transport, *quic.Conn) {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	tr := &quic.Transport{Conn: pc}
	t.Cleanup(func() { _ = tr.Close(); _ = pc.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), clientTLS(), cfg)
	require.NoError(t, err)
	return tr, c
}

func TestInterop_QuicGoToServer(t *testing.T) {
	for name, retry := range map[string]bool{"plain": false, "retry": true} {
		t.Run(name, func(t *testing.T) {
			d, addr := listen(t, core.Config{RequireRetry: retry})
			_, c := quicDial(t, addr)
			s, err := c.OpenStreamSync(context.Background())
			require.NoError(t, err)
			roundTrip(t, s, s.Close, payload(t, 5<<20))
			require.NoError(t, c.CloseWithError(0, ""))
			var stats core.EndpointStats
			d.do(func(mono.Time) { stats = d.endpoint.Stats() })
			assert.Equal(t, retry, stats.Retries > 0)
		})
	}
}

func TestInterop_ClientMigrates(t *testing.T) {
	conns := make(chan *quic.Conn, 1)
	addr := quicServer(t, false, func(c *quic.Conn, s *quic.Stream) {
		conns <- c
		echo(c, s)
	})
	d := newDriver(t, core.Config{TLS: clientTLS()}, false)
	p := d.dial(addr)
	data := payload(t, 1<<20)
	for i := range 3 {
		_, err := p.Write(data)
		require.NoError(t, err)
		got := make([]byte, len(data))
		_, err = io.ReadFull(p, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		local := d.socket()
		d.do(func(now mono.Time) { err = p.c.Migrate(now, local) })
		require.NoError(t, err, "migration %d", i)
		<-p.migrated
		d.do(func(mono.Time) {
			assert.NoError(t, p.c.MigrateErr())
			assert.Equal(t, local, p.c.Path().Local)
		})
	}
	roundTrip(t, p, p.CloseWrite, data)
	var local netip.AddrPort
	d.do(func(mono.Time) { local = p.c.Path().Local })
	assert.Equal(t, local.String(), (<-conns).RemoteAddr().String(), "quic-go has followed")
}

func TestInterop_QuicGoMigrates(t *testing.T) {
	d, addr := listen(t, core.Config{})
	_, c := quicDial(t, addr)
	s, err := c.OpenStreamSync(context.Background())
	require.NoError(t, err)
	data := payload(t, 1<<20)
	exchange := func() {
		go func() { _, _ = s.Write(data) }()
		got := make([]byte, len(data))
		_, err = io.ReadFull(s, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
	}
	exchange()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	tr := &quic.Transport{Conn: pc}
	t.Cleanup(func() { _ = tr.Close(); _ = pc.Close() })
	path, err := c.AddPath(tr)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, path.Probe(ctx))
	require.NoError(t, path.Switch())
	exchange()
	d.do(func(mono.Time) {
		d.endpoint.Conns(func(c *core.Conn) bool {
			assert.Equal(t, pc.LocalAddr().(*net.UDPAddr).AddrPort(), c.Path().Remote)
			return true
		})
	})
}

// Each way to end is understood by the other side.
func TestInterop_Reset(t *testing.T) {
	got := make(chan error, 1)
	addr := quicServer(t, false, func(_ *quic.Conn, s *quic.Stream) {
		_, err := io.ReadAll(s)
		got <- err
	})
	d := newDriver(t, core.Config{TLS: clientTLS()}, false)
	p := d.dial(addr)
	_, err := p.Write([]byte("hello"))
	require.NoError(t, err)
	d.do(func(now mono.Time) { p.c.Reset(now, 77) })
	err = <-got
	var stream *quic.StreamError
	var app *quic.ApplicationError
	switch {
	case errors.As(err, &stream):
		assert.Equal(t, quic.StreamErrorCode(77), stream.ErrorCode)
	case errors.As(err, &app):
		assert.Equal(t, quic.ApplicationErrorCode(77), app.ErrorCode)
	default:
		assert.Fail(t, "other error", "%v", err)
	}
	<-p.closed
}

func TestInterop_PeerResets(t *testing.T) {
	addr := quicServer(t, false, func(_ *quic.Conn, s *quic.Stream) {
		s.CancelRead(5)
		s.CancelWrite(6)
	})
	d := newDriver(t, core.Config{TLS: clientTLS()}, false)
	p := d.dial(addr)
	_, err := io.ReadAll(p)
	var reset *core.CloseError
	require.ErrorAs(t, err, &reset)
	assert.Equal(t, core.KindReset, reset.Kind)
	assert.Equal(t, uint64(6), reset.Code)
	for err = nil; err == nil; {
		_, err = p.Write(make([]byte, 1000))
	}
	assert.ErrorIs(t, err, core.ErrPeerStopped)
}
