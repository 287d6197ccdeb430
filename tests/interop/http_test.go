package interop

// net/http's server and client over the net door, in all of its protocols: bodies, files, kept and
// taken connections.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An httpKind is one of net/http's protocols.
type httpKind struct {
	name  string
	proto string // as requests tell it
	tls   bool
	set   func(p *http.Protocols)
}

var httpKinds = []httpKind{
	{"http 1", "HTTP/1.1", false, func(p *http.Protocols) { p.SetHTTP1(true) }},
	{"https 1", "HTTP/1.1", true, func(p *http.Protocols) { p.SetHTTP1(true) }},
	{"http 2", "HTTP/2.0", false, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
	{"https 2", "HTTP/2.0", true, func(p *http.Protocols) { p.SetHTTP2(true) }},
}

// forHTTP runs fn for each protocol, with veloq at both ends and at each.
func forHTTP(t *testing.T, fn func(t *testing.T, server, client door, kind httpKind)) {
	t.Helper()
	for _, kind := range httpKinds {
		t.Run(kind.name, func(t *testing.T) {
			forDoors(t, func(t *testing.T, server, client door) { fn(t, server, client, kind) })
		})
	}
}

// A web is a server and a client of it.
type web struct {
	server    *http.Server
	transport *http.Transport
	client    *http.Client
	listener  net.Listener
	base      string
	served    chan error
}

// newWeb serves handler to the end of the test, if it is not ended before. tune, if there is one, sets
// what else is to be set.
func newWeb(t *testing.T, server, client door, kind httpKind, handler http.Handler, tune func(w *web)) *web {
	t.Helper()
	var protocols http.Protocols
	kind.set(&protocols)
	w := &web{
		server:    &http.Server{Handler: handler, Protocols: &protocols},
		transport: &http.Transport{DialContext: client.dialContext, Protocols: &protocols},
		listener:  server.listen(t, "tcp"),
		served:    make(chan error, 1),
	}
	w.client = &http.Client{Transport: w.transport}
	w.base = "http://" + w.listener.Addr().String()
	if tune != nil {
		tune(w)
	}
	if kind.tls {
		w.server.TLSConfig, w.transport.TLSClientConfig = certificates(t)
		w.base = "https://" + w.listener.Addr().String()
	}
	go func() {
		if kind.tls {
			w.served <- w.server.ServeTLS(w.listener, "", "")
			return
		}
		w.served <- w.server.Serve(w.listener)
	}()
	t.Cleanup(func() {
		w.transport.CloseIdleConnections()
		_ = w.server.Close()
		assert.ErrorIs(t, await(t, "end of Serve", w.served), http.ErrServerClosed)
	})
	return w
}

// do sends a request that ends with the test's patience.
func (w *web) do(t *testing.T, method, path string, body io.Reader, header ...string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(soon(t), method, w.base+path, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return w.client.Do(req)
}

// bodyOf reads and closes the body of an answer.
func bodyOf(t *testing.T, res *http.Response, err error) []byte {
	t.Helper()
	if !assert.NoError(t, err) { //nolint:testifylint // called from other goroutines
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	assert.NoError(t, err)
	return b
}

// get is the body of what is at path.
func (w *web) get(t *testing.T, path string) string {
	t.Helper()
	res, err := w.do(t, http.MethodGet, path, nil)
	return string(bodyOf(t, res, err))
}

// bytesOf is size bytes, the same for each seed.
func bytesOf(t *testing.T, seed byte, size int) []byte {
	t.Helper()
	b, err := io.ReadAll(randomBytes(seed, int64(size)))
	require.NoError(t, err)
	return b
}

// wholeBody answers with the request's body, once it is there.
func wholeBody(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(b)
}

// Goal: bodies of all sizes come back, from many goroutines at once.
func TestHTTP_Bodies(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		w := newWeb(t, server, client, kind, http.HandlerFunc(wholeBody), nil)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for _, size := range []int{0, 1, 100, 4096, 16 << 10, 65537, sized(500_000, 200_000)} {
					want := bytesOf(t, byte(i), size)
					res, err := w.do(t, http.MethodPost, "/", bytes.NewReader(want))
					got := bodyOf(t, res, err)
					assert.True(t, bytes.Equal(want, got), "%d bytes came back as %d others", size, len(got))
				}
			})
		}
		wg.Wait()
		res, err := w.do(t, http.MethodHead, "/", nil)
		assert.Empty(t, bodyOf(t, res, err))
		assert.Equal(t, kind.proto, res.Proto)
		assert.Equal(t, kind.tls, res.TLS != nil)
	})
}

// Goal: bodies of unknown length, in chunks where the protocol has them, each there when it was
// flushed; with a trailer behind.
func TestHTTP_Chunked(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		const rounds = 50
		w := newWeb(t, server, client, kind, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			assert.Equal(t, int64(-1), r.ContentLength)
			if kind.proto == "HTTP/1.1" {
				assert.Equal(t, []string{"chunked"}, r.TransferEncoding)
			}
			rw.Header().Set("Trailer", "Sum")
			control := http.NewResponseController(rw)
			assert.NoError(t, control.EnableFullDuplex())
			assert.NoError(t, control.Flush())
			line := make([]byte, 5)
			n := 0
			for ; ; n++ {
				if _, err := io.ReadFull(r.Body, line); err != nil {
					assert.ErrorIs(t, err, io.EOF)
					break
				}
				_, _ = rw.Write(line)
				assert.NoError(t, control.Flush())
			}
			rw.Header().Set("Sum", fmt.Sprint(n))
		}), nil)
		body, feed := io.Pipe()
		res, err := w.do(t, http.MethodPost, "/", body)
		require.NoError(t, err)
		if kind.proto == "HTTP/1.1" {
			require.Equal(t, []string{"chunked"}, res.TransferEncoding)
		}
		got := make([]byte, 5)
		for i := range rounds {
			want := fmt.Sprintf("%05d", i)
			_, err := io.WriteString(feed, want)
			require.NoError(t, err)
			_, err = io.ReadFull(res.Body, got)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
		}
		require.NoError(t, feed.Close())
		require.Empty(t, bodyOf(t, res, nil))
		require.Equal(t, fmt.Sprint(rounds), res.Trailer.Get("Sum"))
	})
}

// Goal: requests one after another use one connection, until a side says Connection: close.
func TestHTTP_KeepAlive(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		var made atomic.Int64
		w := newWeb(t, server, client, kind, http.HandlerFunc(wholeBody), func(w *web) {
			w.server.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					made.Add(1)
				}
			}
		})
		for i := range 100 {
			var got httptrace.GotConnInfo
			trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { got = info }}
			ctx := httptrace.WithClientTrace(soon(t), trace)
			want := fmt.Sprint(i)
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base, strings.NewReader(want))
			require.NoError(t, err)
			res, err := w.client.Do(req)
			require.Equal(t, want, string(bodyOf(t, res, err)))
			require.Equal(t, i > 0, got.Reused)
		}
		require.EqualValues(t, 1, made.Load())
		require.EqualValues(t, 1, client.dialed.Load())
		w.server.SetKeepAlivesEnabled(false)
		w.get(t, "/")
		w.get(t, "/")
		require.Greater(t, made.Load(), int64(1))
	})
}

// Goal: files go out whole and in parts (by sendfile(2) where the connection is bare), and a large
// upload arrives in one.
func TestHTTP_Files(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		dir := t.TempDir()
		size := sized(4<<20, 1<<20)
		content := bytesOf(t, 7, size)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), content, 0o600))
		mux := http.NewServeMux()
		mux.HandleFunc("GET /file", func(rw http.ResponseWriter, r *http.Request) {
			http.ServeFile(rw, r, filepath.Join(dir, "file"))
		})
		mux.HandleFunc("PUT /upload", func(_ http.ResponseWriter, r *http.Request) {
			f, err := os.Create(filepath.Join(dir, "upload"))
			if !assert.NoError(t, err) {
				return
			}
			_, err = io.Copy(f, r.Body)
			assert.NoError(t, err)
			assert.NoError(t, f.Close())
		})
		w := newWeb(t, server, client, kind, mux, nil)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { assert.True(t, w.get(t, "/file") == string(content), "the file") })
		}
		wg.Wait()
		res, err := w.do(t, http.MethodGet, "/file", nil, "Range", fmt.Sprintf("bytes=%d-", size-1000))
		require.True(t, bytes.Equal(content[size-1000:], bodyOf(t, res, err)), "the file's end")
		require.Equal(t, http.StatusPartialContent, res.StatusCode)
		f, err := os.Open(filepath.Join(dir, "file"))
		require.NoError(t, err)
		defer func() { _ = f.Close() }()
		res, err = w.do(t, http.MethodPut, "/upload", f)
		require.Empty(t, bodyOf(t, res, err))
		got, err := os.ReadFile(filepath.Join(dir, "upload"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got), "the upload")
	})
}

// tellsRead says when it is first read.
type tellsRead struct {
	io.Reader
	read atomic.Bool
}

func (r *tellsRead) Read(p []byte) (int, error) {
	r.read.Store(true)
	return r.Reader.Read(p)
}

// Goal: Expect: 100-continue holds the body back until the handler reads it, and for good if that
// refuses.
func TestHTTP_ExpectContinue(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		var body *tellsRead
		w := newWeb(t, server, client, kind, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			assert.False(t, body.read.Load(), "the body was sent unasked")
			if r.URL.Path == "/refuse" {
				rw.WriteHeader(http.StatusExpectationFailed)
				return
			}
			wholeBody(rw, r)
		}), func(w *web) { w.transport.ExpectContinueTimeout = patience })
		want := bytesOf(t, 3, 100_000)
		body = &tellsRead{Reader: bytes.NewReader(want)}
		res, err := w.do(t, http.MethodPost, "/", body, "Expect", "100-continue")
		require.True(t, bytes.Equal(want, bodyOf(t, res, err)))
		body = &tellsRead{Reader: bytes.NewReader(want)}
		res, err = w.do(t, http.MethodPost, "/refuse", body, "Expect", "100-continue")
		require.Empty(t, bodyOf(t, res, err))
		require.Equal(t, http.StatusExpectationFailed, res.StatusCode)
		require.False(t, body.read.Load())
	})
}

// Goal: a handler takes the connection and speaks another protocol on it.
func TestHTTP_Hijack(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		ended := make(chan error, 1)
		w := newWeb(t, server, client, httpKinds[0], http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			c, buf, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				ended <- err
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_ = buf.Flush()
			_, err = io.Copy(c, buf)
			ended <- err
		}), nil)
		res, err := w.do(t, http.MethodGet, "/", nil, "Connection", "Upgrade", "Upgrade", "echo")
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		both := res.Body.(io.ReadWriteCloser)
		want := bytesOf(t, 5, sized(4<<20, 1<<20))
		wrote := make(chan error, 1)
		go func() {
			_, err := both.Write(want)
			wrote <- err
		}()
		got := make([]byte, len(want))
		_, err = io.ReadFull(both, got)
		require.NoError(t, err)
		require.NoError(t, await(t, "write", wrote))
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, both.Close())
		require.NoError(t, await(t, "handler", ended))
	})
}

// Goal: httptest's server runs on a listener of veloq's, with and without TLS, and ends with
// connections open.
func TestHTTP_Httptest(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		for _, https := range []bool{false, true} {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(wholeBody))
			require.NoError(t, srv.Listener.Close())
			srv.Listener = server.listen(t, "tcp")
			srv.EnableHTTP2 = https
			if https {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			c := srv.Client()
			c.Transport.(*http.Transport).DialContext = client.dialContext
			for i := range 5 {
				want := strings.Repeat("x", 1000*i)
				res, err := c.Post(srv.URL, "text/plain", strings.NewReader(want))
				require.Equal(t, want, string(bodyOf(t, res, err)))
				srv.CloseClientConnections()
				c.CloseIdleConnections() // a POST is not tried again on a connection that broke
			}
			srv.Close()
			_, err := c.Get(srv.URL)
			require.Error(t, err)
		}
	})
}

// serverSide is where a handler tells what became of it.
type serverSide struct {
	in    chan struct{} // it runs
	out   chan struct{} // closed to let it go on
	ended chan error    // what it ended with
}

func newServerSide() *serverSide {
	return &serverSide{in: make(chan struct{}, 1), out: make(chan struct{}), ended: make(chan error, 1)}
}

// Goal: Shutdown closes the listener at once, lets the request that runs end well, and returns then.
func TestHTTP_Shutdown(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		side := newServerSide()
		begun := make(chan struct{})
		want := bytesOf(t, 2, 300_000)
		w := newWeb(t, server, client, kind, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			side.in <- struct{}{}
			<-side.out
			_, _ = rw.Write(want)
		}), func(w *web) { w.server.RegisterOnShutdown(func() { close(begun) }) })
		got := make(chan []byte, 1)
		go func() {
			res, err := w.do(t, http.MethodGet, "/", nil)
			got <- bodyOf(t, res, err)
		}()
		await(t, "request", side.in)
		down := make(chan error, 1)
		go func() { down <- w.server.Shutdown(soon(t)) }()
		await(t, "begin of Shutdown", begun)
		_, err := client.dialContext(soon(t), "tcp", w.listener.Addr().String())
		require.Error(t, err, "the listener was open still")
		require.Empty(t, down, "Shutdown did not wait")
		close(side.out)
		require.True(t, bytes.Equal(want, await(t, "answer", got)))
		require.NoError(t, await(t, "Shutdown", down))
	})
}

// Goal: Close ends what runs: the client sees its answer break off.
func TestHTTP_CloseUnderRequest(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		side := newServerSide()
		w := newWeb(t, server, client, kind, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusOK)
			assert.NoError(t, http.NewResponseController(rw).Flush())
			<-r.Context().Done()
			side.ended <- r.Context().Err()
		}), nil)
		res, err := w.do(t, http.MethodGet, "/", nil)
		require.NoError(t, err)
		require.NoError(t, w.server.Close())
		_, err = io.ReadAll(res.Body)
		require.Error(t, err)
		require.NoError(t, res.Body.Close())
		require.ErrorIs(t, await(t, "handler", side.ended), context.Canceled)
	})
}

// Goal: a client that cancels returns at once, and the handler learns of it; as well while the answer's
// body comes.
func TestHTTP_ClientCancels(t *testing.T) {
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		side := newServerSide()
		w := newWeb(t, server, client, kind, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				rw.WriteHeader(http.StatusOK)
				_, _ = rw.Write([]byte("begun"))
				assert.NoError(t, http.NewResponseController(rw).Flush())
			}
			side.in <- struct{}{}
			<-r.Context().Done()
			side.ended <- r.Context().Err()
			<-side.out // the answer's end might else get to the client before its own cancel does
		}), nil)
		for _, path := range []string{"/", "/body"} {
			ctx, cancel := context.WithCancel(soon(t))
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+path, nil)
			require.NoError(t, err)
			result := make(chan error, 1)
			go func() {
				res, err := w.client.Do(req)
				if err == nil {
					_, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
				result <- err
			}()
			await(t, "request", side.in)
			cancel()
			require.ErrorIs(t, await(t, "client", result), context.Canceled)
			require.ErrorIs(t, await(t, "handler", side.ended), context.Canceled)
			side.out <- struct{}{}
		}
	})
}

// Goal: a client's time limits end a request that the server sits on.
func TestHTTP_ClientTimeouts(t *testing.T) {
	const short = 20 * time.Millisecond
	forHTTP(t, func(t *testing.T, server, client door, kind httpKind) {
		for _, tune := range []func(w *web){
			func(w *web) { w.client.Timeout = short },
			func(w *web) { w.transport.ResponseHeaderTimeout = short },
		} {
			over := make(chan struct{})
			w := newWeb(t, server, client, kind, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				<-over // not the request's end: an answer to that may still be taken, over package net too
			}), tune)
			res, err := w.do(t, http.MethodGet, "/", nil)
			close(over)
			if err == nil {
				_ = res.Body.Close()
			}
			var timeout net.Error
			require.ErrorAs(t, err, &timeout)
			require.True(t, timeout.Timeout(), "%v", err)
		}
	})
}

// Goal: each of the server's time limits ends a connection whose client is slow: in the header, in the
// body, in taking the answer, and between requests.
func TestHTTP_ServerTimeouts(t *testing.T) {
	const short = 20 * time.Millisecond
	header := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
	cases := []struct {
		name string
		set  func(s *http.Server)
		send string
		want string // begin of what comes before the end of the stream
	}{
		{"header", func(s *http.Server) { s.ReadHeaderTimeout = short }, header[:30], ""},
		{"body", func(s *http.Server) { s.ReadTimeout = short }, header + "abc", "HTTP/1.1 400 "},
		{"idle", func(s *http.Server) { s.IdleTimeout = short }, header + "abcde", "HTTP/1.1 200 "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			forDoors(t, func(t *testing.T, server, client door) {
				w := newWeb(t, server, client, httpKinds[0], http.HandlerFunc(wholeBody),
					func(w *web) { c.set(w.server) })
				conn := client.dial(t, w.listener)
				_, err := io.WriteString(conn, c.send)
				require.NoError(t, err)
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.True(t, strings.HasPrefix(string(got), c.want), "%q", got)
			})
		})
	}
	t.Run("answer", func(t *testing.T) {
		forDoors(t, func(t *testing.T, server, client door) {
			ended := make(chan error, 1)
			w := newWeb(t, server, client, httpKinds[0], http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				var err error
				for err == nil {
					_, err = rw.Write(make([]byte, 1<<16))
				}
				ended <- err
			}), func(w *web) { w.server.WriteTimeout = short })
			conn := client.dial(t, w.listener)
			_, err := io.WriteString(conn, header+"abcde")
			require.NoError(t, err)
			require.ErrorIs(t, await(t, "handler", ended), os.ErrDeadlineExceeded)
		})
	})
}
