package interop

// This file changes if what is tried with quic-go about the ends of connections does.

import (
	"context"
	"crypto/tls"
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

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func listenRudp(t *testing.T, cfg rudp.Config) (*rudp.Listener, netip.AddrPort) {
	t.Helper()
	cfg.TLS = serverTLS(t)
	l, err := rudp.Listen("udp4", "127.0.0.1:0", &cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Endpoint().Close()) })
	return l, netip.MustParseAddrPort(l.Addr().String())
}

func dialRudp(t *testing.T, addr netip.AddrPort) *rudp.Stream {
	t.Helper()
	s, err := rudp.Dial(soon(t), "udp4", addr.String(), &rudp.Config{TLS: clientTLS()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Endpoint().Close()) })
	return s
}

// dialQuic is a connection of quic-go's to a listener, with its stream, of which one byte has been echoed.
func dialQuic(t *testing.T, l *rudp.Listener, addr netip.AddrPort) (*quic.Conn, *quic.Stream, *rudp.Stream) {
	t.Helper()
	_, c := quicDial(t, addr)
	stream, err := c.OpenStreamSync(soon(t))
	require.NoError(t, err)
	_, err = stream.Write([]byte{1})
	require.NoError(t, err)
	s, err := l.AcceptStream()
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 1))
	require.NoError(t, err)
	_, err = s.Write([]byte{2})
	require.NoError(t, err)
	_, err = io.ReadFull(stream, make([]byte, 1))
	require.NoError(t, err)
	return c, stream, s
}

// Goal: a server that comes back without its state, but with its key, ends the connections that it had, in
// both roles: at once, not by the idle timeout.
func TestInterop_StatelessReset(t *testing.T) {
	t.Run("quic-go forgets", func(t *testing.T) {
		key := quic.StatelessResetKey{1, 2, 3}
		first := quicServerOn(t, &quic.Transport{StatelessResetKey: &key}, quicConfig(), echo)
		r := newRelay(t, first, fate{})
		s := dialRudp(t, r.addr())
		_, err := s.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, 5))
		require.NoError(t, err)
		r.toward(quicServerOn(t, &quic.Transport{StatelessResetKey: &key}, quicConfig(), echo))
		begin := time.Now()
		_, err = s.Write(make([]byte, 1000))
		require.NoError(t, err)
		_, err = s.Read(make([]byte, 1))
		var transport *rudp.TransportError
		require.ErrorAs(t, err, &transport)
		assert.True(t, transport.Remote)
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		assert.Less(t, time.Since(begin), rudp.DefaultIdleTimeout/2)
	})
	t.Run("rudp forgets", func(t *testing.T) {
		cfg := rudp.Config{StatelessResetKey: [32]byte{4, 5, 6}}
		l, addr := listenRudp(t, cfg)
		r := newRelay(t, addr, fate{})
		c, stream, _ := dialQuic(t, l, r.addr())
		_, again := listenRudp(t, cfg)
		r.toward(again)
		begin := time.Now()
		_, err := stream.Write(make([]byte, 1000))
		require.NoError(t, err)
		<-c.Context().Done()
		var reset *quic.StatelessResetError
		require.ErrorAs(t, context.Cause(c.Context()), &reset)
		assert.Less(t, time.Since(begin), rudp.DefaultIdleTimeout/2)
	})
	t.Run("another key", func(t *testing.T) {
		l, addr := listenRudp(t, rudp.Config{StatelessResetKey: [32]byte{4, 5, 6}})
		r := newRelay(t, addr, fate{})
		c, stream, s := dialQuic(t, l, r.addr())
		other, elsewhere := listenRudp(t, rudp.Config{StatelessResetKey: [32]byte{7}})
		r.toward(elsewhere)
		_, err := stream.Write([]byte{3})
		require.NoError(t, err)
		for other.Endpoint().Stats().Resets == 0 {
			time.Sleep(time.Millisecond) // until the stranger has said what it knows
		}
		r.toward(addr)
		_, err = io.ReadFull(s, make([]byte, 1))
		require.NoError(t, err, "the connection lives")
		assert.NoError(t, context.Cause(c.Context()))
	})
}

// Goal: codes mean the same at both ends, whoever gives them.
func TestInterop_Codes(t *testing.T) {
	t.Run("rudp's Reset", func(t *testing.T) {
		l, addr := listenRudp(t, rudp.Config{})
		c, stream, s := dialQuic(t, l, addr)
		require.NoError(t, s.Reset(77))
		_, err := stream.Read(make([]byte, 1))
		var app *quic.ApplicationError
		var code quic.StreamErrorCode
		var reset *quic.StreamError
		if errors.As(err, &reset) {
			assert.True(t, reset.Remote)
			code = reset.ErrorCode
		} else {
			require.ErrorAs(t, err, &app)
			code = quic.StreamErrorCode(app.ErrorCode)
		}
		assert.EqualValues(t, 77, code)
		<-c.Context().Done()
		require.ErrorAs(t, context.Cause(c.Context()), &app)
		assert.True(t, app.Remote)
		assert.EqualValues(t, 77, app.ErrorCode)
	})
	t.Run("rudp's Close", func(t *testing.T) {
		l, addr := listenRudp(t, rudp.Config{})
		c, stream, s := dialQuic(t, l, addr)
		_, err := s.Write([]byte("the rest"))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		got, err := io.ReadAll(stream)
		assert.Equal(t, "the rest", string(got), "%v", err)
		<-c.Context().Done()
		var app *quic.ApplicationError
		require.ErrorAs(t, context.Cause(c.Context()), &app)
		assert.True(t, app.Remote)
		assert.Zero(t, app.ErrorCode)
	})
	t.Run("quic-go's streams", func(t *testing.T) {
		s := dialRudp(t, quicServer(t, false, func(_ *quic.Conn, s *quic.Stream) {
			s.CancelRead(5)
			s.CancelWrite(6)
		}))
		_, err := s.Read(make([]byte, 1))
		var reset *rudp.ResetError
		require.ErrorAs(t, err, &reset)
		assert.EqualValues(t, 6, reset.Code)
		for err = nil; err == nil; {
			_, err = s.Write(make([]byte, 1000))
		}
		assert.ErrorIs(t, err, syscall.EPIPE)
	})
	t.Run("quic-go's connection", func(t *testing.T) {
		s := dialRudp(t, quicServer(t, false, func(c *quic.Conn, _ *quic.Stream) {
			_ = c.CloseWithError(1<<40, "enough")
		}))
		_, err := s.Read(make([]byte, 1))
		var reset *rudp.ResetError
		require.ErrorAs(t, err, &reset)
		assert.EqualValues(t, 1<<40, reset.Code)
	})
	t.Run("refused by rudp", func(t *testing.T) {
		l, addr := listenRudp(t, rudp.Config{MaxConns: 1})
		dialQuic(t, l, addr)
		_, err := quic.DialAddr(soon(t), addr.String(), clientTLS(), quicConfig())
		var transport *quic.TransportError
		require.ErrorAs(t, err, &transport)
		assert.True(t, transport.Remote)
		assert.Equal(t, quic.ConnectionRefused, transport.ErrorCode)
	})
	t.Run("more streams", func(t *testing.T) {
		l, addr := listenRudp(t, rudp.Config{})
		c, _, _ := dialQuic(t, l, addr)
		_, err := c.OpenStream()
		assert.ErrorAs(t, err, new(*quic.StreamLimitReachedError))
		_, err = c.OpenUniStream()
		assert.ErrorAs(t, err, new(*quic.StreamLimitReachedError))
	})
}

// Goal: no common protocol is TLS's alert 120 at both ends.
func TestInterop_ALPN(t *testing.T) {
	const noApplicationProtocol = 0x100 + 120
	other := clientTLS()
	other.NextProtos = []string{"other"}
	_, addr := listenRudp(t, rudp.Config{})
	_, err := quic.DialAddr(soon(t), addr.String(), other, quicConfig())
	var theirs *quic.TransportError
	require.ErrorAs(t, err, &theirs)
	assert.EqualValues(t, noApplicationProtocol, theirs.ErrorCode)
	assert.True(t, theirs.Remote)

	_, err = rudp.Dial(soon(t), "udp4", quicServer(t, false, echo).String(), &rudp.Config{TLS: other})
	var ours *rudp.TransportError
	require.ErrorAs(t, err, &ours)
	assert.EqualValues(t, noApplicationProtocol, ours.Code)
	assert.True(t, ours.Remote)
	assert.ErrorIs(t, err, tls.AlertError(120))
}
