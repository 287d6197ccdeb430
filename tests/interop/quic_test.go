package interop

// quic-go over UDPConn: it must find the conn capable of control messages by itself, read it in
// batches, and send it segments that the kernel cuts.

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/veloq/veloq"
)

var _ quic.OOBCapablePacketConn = (*veloq.UDPConn)(nil)

// quicPair connects a client to a server over the given sockets.
func quicPair(t *testing.T, serverConn, clientConn net.PacketConn) (server, client *quic.Conn) {
	t.Helper()
	serverTLS, clientTLS := certificates(t, "veloq-interop")
	config := &quic.Config{EnableDatagrams: true}
	st, ct := &quic.Transport{Conn: serverConn}, &quic.Transport{Conn: clientConn}
	t.Cleanup(func() {
		assert.NoError(t, ct.Close())
		assert.NoError(t, st.Close())
	})
	ln, err := st.Listen(serverTLS, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	accepted := make(chan *quic.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := ln.Accept(soon(t)); err == nil {
			accepted <- c
		}
	}()
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: serverConn.LocalAddr().(*net.UDPAddr).Port}
	client, err = ct.Dial(soon(t), to, clientTLS, config)
	require.NoError(t, err)
	server = await(t, "accept", accepted)
	require.NotNil(t, server)
	t.Cleanup(func() {
		_ = client.CloseWithError(0, "")
		_ = server.CloseWithError(0, "")
	})
	return server, client
}

// echoStreams answers every stream with its own bytes until the connection ends.
func echoStreams(ctx context.Context, c *quic.Conn) {
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}()
	}
}

// exchange sends size bytes on each of several streams at once and checks what comes back.
func exchange(t *testing.T, server, client *quic.Conn, streams int, size int64) {
	t.Helper()
	ctx := soon(t)
	go echoStreams(ctx, server)
	g, ctx := errgroup.WithContext(ctx)
	for i := range streams {
		g.Go(func() error {
			s, err := client.OpenStreamSync(ctx)
			if err != nil {
				return err
			}
			g.Go(func() error {
				defer func() { _ = s.Close() }()
				_, err := io.Copy(s, randomBytes(byte(i), size))
				return err
			})
			want, _ := sumOf(randomBytes(byte(i), size))
			got, err := sumOf(s)
			assert.Equal(t, want, got, "stream %d", i)
			return err
		})
	}
	require.NoError(t, g.Wait())
}

func transferSize() int64 {
	if testing.Short() {
		return 256 << 10
	}
	return 4 << 20
}

func TestQUIC_StreamsAndDatagrams(t *testing.T) {
	forEnds(t, func(t *testing.T, serverKind, clientKind kind) {
		server, client := quicPair(t, listen(t, serverKind, loopback), listen(t, clientKind, loopback))
		exchange(t, server, client, 4, transferSize())
		require.NoError(t, client.SendDatagram([]byte("unreliable")))
		p, err := server.ReceiveDatagram(soon(t))
		require.NoError(t, err)
		require.Equal(t, "unreliable", string(p))
		if runtime.GOOS == "linux" {
			require.True(t, server.ConnectionState().GSO, "quic-go found no GSO at the server")
			require.True(t, client.ConnectionState().GSO, "quic-go found no GSO at the client")
		}
	})
}

// Goal: on a wildcard socket for both families quic-go asks for packet information, and answers from
// the address that was asked.
func TestQUIC_Wildcard(t *testing.T) {
	forEnds(t, func(t *testing.T, serverKind, clientKind kind) {
		server, client := quicPair(t, listen(t, serverKind, nil), listen(t, clientKind, nil))
		exchange(t, server, client, 1, transferSize()/4)
	})
}

// counting sees what quic-go sends, and does nothing else.
type counting struct {
	*veloq.UDPConn
	calls, cut, segments atomic.Int64
}

func (c *counting) WriteMsgUDP(p, oob []byte, addr *net.UDPAddr) (int, int, error) {
	c.calls.Add(1)
	if size := segmentSize(oob); size > 0 && len(p) > size {
		c.cut.Add(1)
		c.segments.Add(int64((len(p) + size - 1) / size))
	}
	return c.UDPConn.WriteMsgUDP(p, oob, addr)
}

// segmentSize finds UDP_SEGMENT among Linux's control messages (64-bit).
func segmentSize(oob []byte) int {
	const header, ipprotoUDP, udpSegment = 16, 17, 103
	for len(oob) >= header {
		size := int(binary.NativeEndian.Uint64(oob))
		if size < header || size > len(oob) {
			return 0
		}
		if binary.NativeEndian.Uint32(oob[8:]) == ipprotoUDP && binary.NativeEndian.Uint32(oob[12:]) == udpSegment {
			return int(binary.NativeEndian.Uint16(oob[header:]))
		}
		oob = oob[min((size+7)&^7, len(oob)):]
	}
	return 0
}

// Goal: quic-go doesn't only find GSO, it uses it: many datagrams leave by few calls.
func TestQUIC_SendsSegments(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("GSO is Linux's")
	}
	noLeak(t)
	c := &counting{UDPConn: listen(t, kinds["veloq"], loopback).(*veloq.UDPConn)}
	server, client := quicPair(t, listen(t, kinds["veloq"], loopback), c)
	exchange(t, server, client, 1, transferSize())
	calls, cut, segments := c.calls.Load(), c.cut.Load(), c.segments.Load()
	t.Logf("%d calls, %d of them cut into %d datagrams", calls, cut, segments)
	require.Positive(t, cut)
	require.GreaterOrEqual(t, segments, 4*cut, "cut into how many")
	// Full-size packets are 1,252 to 1,452 bytes here: what the transfer needs at least.
	require.Greater(t, segments, transferSize()/1500*8/10, "most of it went cut")
}

// Goal: a closed socket ends quic-go's connections with an error, and nothing hangs or is left.
func TestQUIC_SocketClosedInFlight(t *testing.T) {
	noLeak(t)
	clientConn := listen(t, kinds["veloq"], loopback)
	server, client := quicPair(t, listen(t, kinds["veloq"], loopback), clientConn)
	go echoStreams(soon(t), server)
	s, err := client.OpenStreamSync(soon(t))
	require.NoError(t, err)
	_, err = s.Write([]byte("before"))
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 6))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		done <- err
	}()
	require.NoError(t, clientConn.Close())
	require.Error(t, await(t, "read of a stream whose socket is gone", done))
}
