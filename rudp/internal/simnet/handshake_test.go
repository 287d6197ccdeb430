package simnet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
)

// exchange connects, moves a little data each way, and closes.
func exchange(t testing.TB, w *World) (c, s *User) {
	t.Helper()
	u := User{ToWrite: 2000, ReadChunk: 4096, HalfClose: true, CloseAtEOF: true}
	c = w.Dial(u)
	done := func() bool {
		if conn := w.Server.Endpoint.Accept(); conn != nil {
			s = w.Server.Use(conn, u)
			s.Peer, c.Peer = c, s
		}
		return s != nil && c.Closed && s.Closed
	}
	assert.True(t, w.Run(5*time.Minute, done), "not over: %v, %v", w.Err, c.Conn.Err())
	require.NoError(t, w.Err)
	assert.True(t, c.EOF, "client: %v", c.Conn.Err())
	if assert.NotNil(t, s) {
		assert.True(t, s.EOF, "server: %v", s.Conn.Err())
	}
	return c, s
}

// Goal: no loss of single datagrams can hang a handshake. Method: every pattern of loss among the first
// eight datagrams, of the client, of the server, and of four of each.
func TestSim_HandshakeUnderEveryLossPattern(t *testing.T) {
	link := LinkConfig{Rate: 12_500_000, Queue: 375_000, Delay: 10 * time.Millisecond}
	run := func(t *testing.T, seed uint64, retry bool, up, down uint, n, m int) {
		cfg := core.Config{HandshakeTimeout: 3 * time.Minute, IdleTimeout: 3 * time.Minute, RequireRetry: retry}
		w, err := New(Config{Seed: seed, Up: link, Down: link, Client: cfg, Server: cfg})
		require.NoError(t, err)
		w.Client.Script(up, n)
		w.Server.Script(down, m)
		exchange(t, w)
		if t.Failed() {
			t.Fatalf("lost of the client's %b, of the server's %b, retry %v, seed %d", up, down, retry, seed)
		}
	}
	step := uint(1)
	if raceOn {
		step = 7
	}
	for pattern := uint(0); pattern < 256; pattern += step {
		for _, postQuantum := range []uint64{0, 1} { // a ClientHello of two datagrams, or of one
			run(t, postQuantum, false, pattern, 0, 8, 0)
			run(t, postQuantum, false, 0, pattern, 0, 8)
			run(t, postQuantum, false, pattern&15, pattern>>4, 4, 4)
			run(t, postQuantum, true, pattern&15, pattern>>4, 4, 4)
		}
	}
}

func TestSim_NobodyThere(t *testing.T) {
	w, err := New(Config{Seed: 1, Up: LinkConfig{Loss: 1}})
	require.NoError(t, err)
	c := w.Dial(User{ReadChunk: 10})
	begin := w.Now
	assert.True(t, w.Run(time.Minute, func() bool { return c.Closed }))
	assert.Equal(t, core.DefaultHandshakeTimeout, w.Now.Sub(begin))
	var end *core.CloseError
	require.ErrorAs(t, c.ReadErr, &end)
	assert.Equal(t, core.KindHandshakeTimeout, end.Kind)
	assert.Zero(t, w.Client.Endpoint.Len())
}

// The client that vanishes in the middle leaves nothing at the server.
func TestSim_HalfOpenEnds(t *testing.T) {
	w, err := New(Config{Seed: 1})
	require.NoError(t, err)
	w.Dial(User{ReadChunk: 10})
	w.Client.Script(0b1110, 4)
	w.Server.SetLink(LinkConfig{Loss: 1})
	w.Run(time.Second, func() bool { return w.Server.Endpoint.Stats().HalfOpen == 1 })
	assert.Equal(t, 1, w.Server.Endpoint.Stats().HalfOpen)
	w.Run(time.Minute, func() bool { return w.Server.Endpoint.Len() == 0 })
	assert.Zero(t, w.Server.Endpoint.Stats().HalfOpen)
	assert.Zero(t, w.Server.Endpoint.Len())
	assert.LessOrEqual(t, w.Server.Link().SentBytes, uint64(3*1200*4+28*20), "no amplifier")
}
