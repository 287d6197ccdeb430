package interop

// This file changes if what is tried with quic-go over package rudp itself does.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp"
)

// Goal: a quic-go client on a rudp.Listener: bytes both ways, the end, and what its close means here.
func TestInterop_QuicGoToListener(t *testing.T) {
	l, err := rudp.Listen("udp4", "127.0.0.1:0", &rudp.Config{TLS: serverTLS(t), RequireRetry: true})
	require.NoError(t, err)
	defer func() { assert.NoError(t, l.Endpoint().Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := quic.DialAddr(ctx, l.Addr().String(), clientTLS(), quicConfig())
	require.NoError(t, err)
	stream, err := c.OpenStreamSync(ctx)
	require.NoError(t, err)
	data := payload(t, 3<<20)
	go func() {
		_, _ = stream.Write(data)
		_ = stream.Close()
	}()
	s, err := l.AcceptStream()
	require.NoError(t, err)
	assert.Equal(t, alpn, s.ConnectionState().NegotiatedProtocol)
	go func() { _, _ = io.Copy(s, s); _ = s.CloseWrite() }()
	got, err := io.ReadAll(stream)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	assert.Positive(t, l.Endpoint().Stats().Retries)

	second, err := quic.DialAddr(ctx, l.Addr().String(), clientTLS(), quicConfig())
	require.NoError(t, err)
	stream, err = second.OpenStreamSync(ctx)
	require.NoError(t, err)
	_, err = stream.Write([]byte("cut off"))
	require.NoError(t, err)
	s, err = l.AcceptStream()
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 7))
	require.NoError(t, err)
	require.NoError(t, second.CloseWithError(9, "gone"))
	_, err = s.Read(make([]byte, 1))
	var reset *rudp.ResetError
	require.ErrorAs(t, err, &reset, "no FIN came: never the end of the stream")
	assert.EqualValues(t, 9, reset.Code)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
}

// Goal: a rudp.Stream to a quic-go server, with a migration between; Close is code 0 there.
func TestInterop_DialQuicGo(t *testing.T) {
	closed := make(chan error, 1)
	addr := quicServer(t, true, func(c *quic.Conn, s *quic.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
		<-c.Context().Done()
		closed <- context.Cause(c.Context())
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := rudp.Dial(ctx, "udp4", addr.String(), &rudp.Config{TLS: clientTLS()})
	require.NoError(t, err)
	data := payload(t, 3<<20)
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(data[:1<<20])
		err = errors.Join(err, s.Migrate(ctx, netip.AddrPort{}))
		_, more := s.Write(data[1<<20:])
		wrote <- errors.Join(err, more, s.CloseWrite())
	}()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.NoError(t, <-wrote)
	assert.True(t, bytes.Equal(data, got))
	require.NoError(t, s.Close())
	var application *quic.ApplicationError
	require.ErrorAs(t, <-closed, &application)
	assert.True(t, application.Remote)
	assert.Zero(t, application.ErrorCode)
}
