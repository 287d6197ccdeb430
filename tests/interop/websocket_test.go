package interop

// coder/websocket over the net door: it takes connections from net/http at both ends.

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// echoSockets answers each message with itself, until the socket ends; it tells why.
func echoSockets(t *testing.T, ended chan<- error) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, nil)
		if !assert.NoError(t, err) {
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(-1)
		for {
			kind, message, err := c.Read(r.Context())
			if err == nil {
				err = c.Write(r.Context(), kind, message)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	})
}

func TestWebSocket_Echo(t *testing.T) {
	for _, kind := range httpKinds[:2] {
		t.Run(kind.name, func(t *testing.T) {
			forDoors(t, func(t *testing.T, server, client door) {
				const sockets = 5
				ended := make(chan error, sockets)
				w := newWeb(t, server, client, kind, echoSockets(t, ended), nil)
				var wg sync.WaitGroup
				for i := range sockets {
					wg.Go(func() { echoSocket(t, w, byte(i)) })
				}
				wg.Wait()
				for range sockets {
					err := await(t, "handler", ended)
					assert.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(err), "%v", err)
				}
			})
		})
	}
}

// echoSocket sends messages of all sizes on a socket of its own, and closes it.
func echoSocket(t *testing.T, w *web, seed byte) {
	c, res, err := websocket.Dial(soon(t), w.base, &websocket.DialOptions{HTTPClient: w.client})
	if !assert.NoError(t, err) {
		return
	}
	assert.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	c.SetReadLimit(-1)
	for _, size := range []int{0, 1, 125, 126, 4096, 65535, 65536, sized(1<<20, 200_000)} {
		want := bytesOf(t, seed, size)
		if !assert.NoError(t, c.Write(soon(t), websocket.MessageBinary, want)) {
			return
		}
		kind, got, err := c.Read(soon(t))
		assert.NoError(t, err)
		assert.Equal(t, websocket.MessageBinary, kind)
		assert.True(t, bytes.Equal(want, got), "%d bytes came back as %d others", size, len(got))
	}
	assert.NoError(t, c.Close(websocket.StatusNormalClosure, "done"))
}

// Goal: pings are answered while the other side reads; a cancelled read ends the socket, and the other
// side learns of it.
func TestWebSocket_PingAndCancel(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		ended := make(chan error, 1)
		w := newWeb(t, server, client, httpKinds[0], echoSockets(t, ended), nil)
		c, _, err := websocket.Dial(soon(t), w.base, &websocket.DialOptions{HTTPClient: w.client})
		require.NoError(t, err)
		defer func() { _ = c.CloseNow() }()
		ctx, cancel := context.WithCancel(soon(t))
		defer cancel()
		read := make(chan error, 1)
		go func() {
			_, _, err := c.Read(ctx)
			read <- err
		}()
		for range 10 {
			require.NoError(t, c.Ping(soon(t)))
		}
		cancel()
		require.ErrorIs(t, await(t, "cancelled read", read), context.Canceled)
		require.Error(t, await(t, "handler", ended))
	})
}
