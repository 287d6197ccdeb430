package simnet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serve gives each connection that the server accepts a user like u, paired with the client's.
func (w *World) serve(t testing.TB, client *User, u User) *User {
	t.Helper()
	require.True(t, w.Run(20*time.Second, func() bool {
		if c := w.Server.Endpoint.Accept(); c != nil {
			s := w.Server.Use(c, u)
			s.Peer, client.Peer = client, s
			return true
		}
		return false
	}), "no connection: %v", w.Err)
	return client.Peer
}

func TestSim_BothWays(t *testing.T) {
	link := LinkConfig{Rate: 12_500_000, Queue: 375_000, Delay: 10 * time.Millisecond}
	w, err := New(Config{Seed: 1, Up: link, Down: link})
	require.NoError(t, err)
	c := w.Dial(User{ToWrite: 1 << 20, ReadChunk: 4096, HalfClose: true, CloseAtEOF: true})
	s := w.serve(t, c, User{ToWrite: 3 << 20, ReadChunk: 4096, HalfClose: true, CloseAtEOF: true})
	assert.True(t, w.Run(20*time.Second, func() bool { return c.Closed && s.Closed }), "%v", w.Err)
	require.NoError(t, w.Err)
	assert.True(t, c.EOF && s.EOF)
	t.Logf("%v, client %+v\nserver %+v", time.Duration(w.Now)-time.Hour, c.Conn.Stats(), s.Conn.Stats())
	assert.True(t, w.Run(60*time.Second, func() bool { return w.Client.Endpoint.Len()+w.Server.Endpoint.Len() == 0 }))
}
