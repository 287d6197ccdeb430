package interop

// HTTP/3 by quic-go/http3 over UDPConn.

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHTTP3_Requests(t *testing.T) {
	forEnds(t, func(t *testing.T, serverKind, clientKind kind) {
		serverTLS, clientTLS := certificates(t)
		mux := http.NewServeMux()
		mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s from %s", r.Proto, r.URL.Query().Get("name"))
		})
		mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		server := &http3.Server{Handler: mux, TLSConfig: http3.ConfigureTLSConfig(serverTLS)}
		serverConn := listen(t, serverKind, loopback)
		served := make(chan error, 1)
		go func() { served <- server.Serve(serverConn) }()
		qt := &quic.Transport{Conn: listen(t, clientKind, loopback)}
		transport := &http3.Transport{
			TLSClientConfig: clientTLS,
			Dial: func(ctx context.Context, addr string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
				to, err := net.ResolveUDPAddr("udp", addr)
				if err != nil {
					return nil, err
				}
				return qt.DialEarly(ctx, to, tc, qc)
			},
		}
		client := &http.Client{Transport: transport, Timeout: patience}
		base := "https://" + serverConn.LocalAddr().String()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				res, err := client.Get(fmt.Sprintf("%s/hello?name=%d", base, i))
				if !assert.NoError(t, err) {
					return
				}
				defer func() { _ = res.Body.Close() }()
				body, err := io.ReadAll(res.Body)
				assert.NoError(t, err)
				assert.Equal(t, fmt.Sprintf("HTTP/3.0 from %d", i), string(body))
			})
		}
		wg.Wait()
		want, err := io.ReadAll(randomBytes(1, transferSize()))
		require.NoError(t, err)
		res, err := client.Post(base+"/echo", "application/octet-stream", bytes.NewReader(want))
		require.NoError(t, err)
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "%d bytes came back as %d others", len(want), len(got))
		require.NoError(t, res.Body.Close())
		require.NoError(t, transport.Close())
		require.NoError(t, qt.Close())
		require.NoError(t, server.Close())
		require.ErrorIs(t, await(t, "server", served), http.ErrServerClosed)
	})
}
