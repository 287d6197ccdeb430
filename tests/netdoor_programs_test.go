package tests

// Programs of the standard library on the net door, unmodified: they take its listeners and dialers for
// package net's.

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/rpc"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// httpServer serves handler by a listener of that package's, and returns a client that dials by that
// package too.
func httpServer(t *testing.T, server, client netPackage, https bool, handler http.Handler) (string, *http.Client) {
	t.Helper()
	l, err := server.listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(handler)
	require.NoError(t, srv.Listener.Close())
	srv.Listener = l
	srv.EnableHTTP2 = https
	if https {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	c := srv.Client()
	tr := c.Transport.(*http.Transport)
	tr.DialContext = client.dialContext
	tr.ForceAttemptHTTP2 = https
	t.Cleanup(tr.CloseIdleConnections)
	return srv.URL, c
}

// Goal: HTTP/1.1, and HTTP/2 over TLS, with veloq at either end and at both: bodies both ways, files,
// many requests at once on kept connections.
func TestNetdoorPrograms_HTTP(t *testing.T) {
	file := someFile(t, 500_000)
	content, err := os.ReadFile(filepath.Clean(file.Name()))
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // HTTP/1.1 has no answer before the question's end
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/proto", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file.Name()) })
	ends := [][2]netPackage{{netPackages[1], netPackages[1]}, {netPackages[1], netPackages[0]}, {netPackages[0], netPackages[1]}}
	for _, e := range ends {
		for _, https := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s serves %s, tls %t", e[0].name, e[1].name, https), func(t *testing.T) {
				noLeak(t)
				at, client := httpServer(t, e[0], e[1], https, mux)
				get := func(resp *http.Response, err error) []byte {
					if !assert.NoError(t, err) { //nolint:testifylint // called from other goroutines
						return nil
					}
					defer func() { _ = resp.Body.Close() }()
					b, err := io.ReadAll(resp.Body)
					assert.NoError(t, err)
					return b
				}
				want := "HTTP/1.1"
				if https {
					want = "HTTP/2.0"
				}
				require.Equal(t, want, string(get(client.Get(at+"/proto"))))
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						for n := range sized(10, 10, 4) {
							body := newPattern(i).next(1 + n*n*5_000)
							got := get(client.Post(at+"/echo", "application/octet-stream", bytes.NewReader(body)))
							assert.True(t, bytes.Equal(body, got), "a body of %d bytes", len(body))
						}
						assert.True(t, bytes.Equal(content, get(client.Get(at+"/file"))), "the file")
					})
				}
				wg.Wait()
			})
		}
	}
}

// Goal: what takes a connection from net/http goes on with veloq's: Hijack, as websockets do, and the
// reverse proxy's upgrade.
func TestNetdoorPrograms_HijackThroughProxy(t *testing.T) {
	noLeak(t)
	types := make(chan string, 2)
	upgrade := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Errorf("Hijack: %v", err)
			return
		}
		defer func() { _ = c.Close() }()
		types <- fmt.Sprintf("%T", c)
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	behind, client := httpServer(t, netPackages[1], netPackages[1], false, upgrade)
	target, err := url.Parse(behind)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: client.Transport,
	}
	front, _ := httpServer(t, netPackages[1], netPackages[1], false, proxy)
	c, err := veloq.Dial("tcp", strings.TrimPrefix(front, "http://"))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	head := make([]byte, 0, 512)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		var b [1]byte
		_, err := io.ReadFull(c, b[:])
		require.NoError(t, err)
		head = append(head, b[0])
	}
	require.Contains(t, string(head), " 101 ")
	require.NoError(t, roundTrip(c, []byte("through the proxy")))
	require.Equal(t, "*veloq.TCPConn", await(t, "Hijack", types))
}

// Goal: a server's time limits, which are deadlines that net/http sets, end a connection that is silent.
func TestNetdoorPrograms_HTTPTimeouts(t *testing.T) {
	noLeak(t)
	l, err := veloq.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Millisecond}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	c, err := veloq.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err = io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, srv.Shutdown(soon(t)))
	require.ErrorIs(t, await(t, "Serve", ended), http.ErrServerClosed)
}

// Goal: crypto/tls with veloq at both ends: bytes both ways at once, half-close, a read deadline that is
// moved on, and a close below.
func TestNetdoorPrograms_TLS(t *testing.T) {
	server, client := tlsConfigs(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			noLeak(t)
			config := client.Clone()
			config.MaxVersion = version
			c, s := pair(t, netPackages[1], "tcp")
			a, b := tls.Client(c, config), tls.Server(s, server)
			require.NoError(t, bothWays(a, b, sized(8<<20, 2<<20, 512<<10)))
			require.Equal(t, version, a.ConnectionState().Version)

			require.NoError(t, a.SetReadDeadline(past))
			_, err := a.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, a.SetReadDeadline(time.Now().Add(patience)))
			require.NoError(t, bothWays(a, b, 100))

			require.NoError(t, a.CloseWrite())
			_, err = b.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			_, err = io.WriteString(b, "still open")
			require.NoError(t, err)
			_, err = io.ReadFull(a, make([]byte, 10))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			_, err = a.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			_, err = b.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			assert.Same(t, c, a.NetConn())
		})
	}
}

// bothWays sends n bytes in each direction at once.
func bothWays(a, b net.Conn, n int) error {
	results := make(chan error, 4)
	for i, c := range []net.Conn{a, b} {
		go func() {
			_, err := c.Write(newPattern(i).next(n % patternPeriod))
			results <- err
		}()
		go func() {
			got := make([]byte, n%patternPeriod)
			_, err := io.ReadFull(c, got)
			results <- errors.Join(err, newPattern(1-i).check(got))
		}()
	}
	return errors.Join(<-results, <-results, <-results, <-results)
}

// Doubler is net/rpc's service.
type Doubler struct{}

// Double is its method.
func (Doubler) Double(n int, out *int) error {
	*out = 2 * n
	return nil
}

// Goal: net/rpc, over TCP and unix(7) sockets.
func TestNetdoorPrograms_RPC(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			needNetwork(t, network)
			noLeak(t)
			srv := rpc.NewServer()
			require.NoError(t, srv.Register(Doubler{}))
			c, s := pair(t, netPackages[1], network)
			go srv.ServeConn(s)
			client := rpc.NewClient(c)
			var calls []*rpc.Call
			for i := range 100 {
				calls = append(calls, client.Go("Doubler.Double", i, new(int), nil))
			}
			for i, call := range calls {
				<-call.Done
				require.NoError(t, call.Error)
				require.Equal(t, 2*i, *call.Reply.(*int))
			}
			require.NoError(t, client.Close())
		})
	}
}

// Goal: names are resolved, all their addresses tried, and the resolver that is named is asked.
func TestNetdoorPrograms_Names(t *testing.T) {
	noLeak(t)
	l, err := veloq.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	c, err := veloq.Dial("tcp", net.JoinHostPort("localhost", port))
	require.NoError(t, err)
	require.NoError(t, c.Close())

	asked := errors.New("asked on purpose")
	d := veloq.Dialer{Resolver: &net.Resolver{
		PreferGo: true,
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, asked },
	}}
	_, err = d.Dial("tcp", "no-such-host.veloq.test.:1")
	require.ErrorContains(t, err, asked.Error())
	t.Run("worker door", func(t *testing.T) {
		rt := newRuntime(t, veloq.Config{Workers: 1})
		err := inTask(t, rt, func(c *veloq.Context) error {
			_, err := d.DialStream(c, "tcp", "no-such-host.veloq.test.:1")
			return err
		})
		require.ErrorContains(t, err, asked.Error())
	})
}
