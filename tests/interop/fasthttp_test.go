package interop

// fasthttp's server and client over the net door.

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

// fastPair serves handler and returns a client of it and its URL.
func fastPair(t *testing.T, server, client door, secure bool, handler fasthttp.RequestHandler) (*fasthttp.HostClient, string) {
	t.Helper()
	l := server.listen(t, "tcp")
	// A goroutine of each end's sleeps that long before it sees that it is to end.
	const idle = 50 * time.Millisecond
	s := &fasthttp.Server{Handler: handler, StreamRequestBody: true, MaxIdleWorkerDuration: idle}
	c := &fasthttp.HostClient{
		Addr: l.Addr().String(), IsTLS: secure, ReadTimeout: patience, WriteTimeout: patience,
		MaxIdleConnDuration: idle,
		Dial: func(address string) (net.Conn, error) {
			return client.dialContext(context.Background(), "tcp", address)
		},
	}
	scheme := "http://"
	if secure {
		s.TLSConfig, c.TLSConfig = certificates(t)
		scheme = "https://"
	}
	served := make(chan error, 1)
	go func() {
		if secure {
			served <- s.ServeTLS(l, "", "")
			return
		}
		served <- s.Serve(l)
	}()
	t.Cleanup(func() {
		c.CloseIdleConnections()
		assert.NoError(t, s.ShutdownWithContext(soon(t)))
		assert.NoError(t, await(t, "end of Serve", served))
	})
	return c, scheme + l.Addr().String()
}

// keepDate starts what fasthttp starts once and keeps, a clock: that is no test's leak.
func keepDate() { _ = new(fasthttp.ResponseHeader).Header() }

// Goal: bodies both ways, a file (by sendfile(2) where the connection is bare), a stream in chunks.
func TestFastHTTP_Requests(t *testing.T) {
	keepDate()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %t", secure), func(t *testing.T) {
			content := bytesOf(t, 9, sized(4<<20, 1<<20))
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			forDoors(t, func(t *testing.T, server, client door) {
				c, base := fastPair(t, server, client, secure, fastHandler(t, path))
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						for _, size := range []int{1, 1000, 70_000} {
							want := bytesOf(t, byte(i), size)
							got := fastDo(t, c, fasthttp.MethodPost, base+"/echo", want)
							assert.True(t, bytes.Equal(want, got), "%d bytes came back as %d others", size, len(got))
						}
						assert.Equal(t, "line 0\nline 1\nline 2\n", string(fastDo(t, c, fasthttp.MethodGet, base+"/lines", nil)))
					})
				}
				wg.Wait()
				require.True(t, bytes.Equal(content, fastDo(t, c, fasthttp.MethodGet, base+"/file", nil)), "the file")
			})
		})
	}
}

func fastHandler(t *testing.T, path string) fasthttp.RequestHandler {
	return func(r *fasthttp.RequestCtx) {
		switch string(r.Path()) {
		case "/echo":
			r.SetBody(r.PostBody())
		case "/lines":
			r.SetBodyStreamWriter(func(w *bufio.Writer) {
				for i := range 3 {
					_, _ = fmt.Fprintf(w, "line %d\n", i)
					_ = w.Flush()
				}
			})
		case "/file":
			f, err := os.Open(path)
			if assert.NoError(t, err) {
				info, err := f.Stat()
				assert.NoError(t, err)
				r.SetBodyStream(f, int(info.Size())) // which closes it
			}
		default:
			r.SetStatusCode(fasthttp.StatusNotFound)
		}
	}
}

// fastDo is the body of an answer.
func fastDo(t *testing.T, c *fasthttp.HostClient, method, url string, body []byte) []byte {
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.Header.SetMethod(method)
	req.SetRequestURI(url)
	req.SetBody(body)
	if !assert.NoError(t, c.DoTimeout(req, res, patience)) {
		return nil
	}
	assert.Equal(t, fasthttp.StatusOK, res.StatusCode())
	return bytes.Clone(res.Body())
}

// Goal: a request that nobody answers ends by the client's limit, and the next one is answered.
func TestFastHTTP_Timeout(t *testing.T) {
	keepDate()
	forDoors(t, func(t *testing.T, server, client door) {
		release := make(chan struct{})
		c, base := fastPair(t, server, client, false, func(r *fasthttp.RequestCtx) {
			if string(r.Path()) == "/slow" {
				<-release
			}
		})
		_, _, err := c.GetTimeout(nil, base+"/slow", 20*time.Millisecond)
		require.ErrorIs(t, err, fasthttp.ErrTimeout)
		close(release)
		status, _, err := c.GetTimeout(nil, base+"/", patience)
		require.NoError(t, err)
		require.Equal(t, fasthttp.StatusOK, status)
	})
}
