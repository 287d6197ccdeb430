package simnet

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
)

type action uint8

const (
	writeSome action = iota
	closeWrite
	closeBoth
	reset
	actions
)

func (a action) String() string { return [...]string{"write", "CloseWrite", "Close", "Reset"}[a] }

func (a action) do(u *User) {
	w := u.host.world
	switch a {
	case writeSome:
		if !u.Ended && u.WriteErr == nil && !u.gaveUp {
			u.ToWrite += 5000
		}
	case closeWrite:
		if !u.gaveUp {
			u.Ended = true
			_ = u.Conn.CloseWrite(w.Now)
		}
	case closeBoth:
		u.Close()
	case reset:
		u.Reset(9)
	}
}

// Goal: whatever order both sides write and end in, nobody hangs, EOF means every byte, and every end is
// told. Method: all sequences of three steps, each by either side, at once or a round trip later.
func TestSim_EveryInterleavingOfEnds(t *testing.T) {
	link := LinkConfig{Rate: 12_500_000, Queue: 375_000, Delay: 10 * time.Millisecond, Loss: 0.02}
	const steps = 3
	kinds := 1
	for range steps {
		kinds *= int(actions) * 2 * 2
	}
	stride := 1
	if raceOn {
		stride = 37
	}
	for code := 0; code < kinds; code += stride {
		w, err := New(Config{Seed: uint64(code) | 1, Up: link, Down: link})
		require.NoError(t, err)
		c := w.Dial(User{ReadChunk: 1000})
		s := w.serve(t, c, User{ReadChunk: 1000})
		name, acts := "", []action{}
		for k, rest := 0, code; k < steps; k++ {
			a, side, pause := action(rest%int(actions)), rest/int(actions)%2, rest/int(actions)/2%2
			rest /= int(actions) * 4
			u := []*User{c, s}[side]
			name += fmt.Sprintf("%s %v after %d RTT; ", u.host.Name, a, pause)
			w.Run(time.Duration(pause)*25*time.Millisecond, func() bool { return false })
			w.After(0, func() { a.do(u) })
			w.Run(0, func() bool { return false })
			acts = append(acts, a)
		}
		checkEnds(t, w, c, s, acts)
		if t.Failed() {
			t.Fatalf("code %d: %s", code, name)
		}
	}
}

func endOf(u *User) *core.CloseError {
	var end *core.CloseError
	if !errors.As(u.Conn.Err(), &end) {
		return &core.CloseError{}
	}
	return end
}

func checkEnds(t *testing.T, w *World, c, s *User, acts []action) {
	t.Helper()
	w.Run(100*time.Second, func() bool { return false })
	require.NoError(t, w.Err)
	closed, wasReset := false, false
	for _, a := range acts {
		closed = closed || a == closeBoth || a == reset
		wasReset = wasReset || a == reset
	}
	for _, u := range []*User{c, s} {
		if closed {
			// Who closed or reset made the connection end on both sides.
			assert.True(t, u.Closed, "%s is not closed", u.host.Name)
			assert.True(t, u.EOF || u.ReadErr != nil || u.gaveUp, "%s: read hangs", u.host.Name)
		} else {
			assert.Equal(t, core.KindIdleTimeout, endOf(u).Kind, "%s: %v", u.host.Name, u.Conn.Err())
			assert.True(t, u.EOF == u.Peer.Ended, "%s: end of stream: %v", u.host.Name, u.EOF)
			assert.Equal(t, u.Peer.Written, u.Received)
		}
		if u.EOF {
			assert.Equal(t, u.Peer.Written, u.Received)
		}
		var end *core.CloseError
		if u.ReadErr != nil && !u.gaveUp {
			require.True(t, errors.As(u.ReadErr, &end), "%v", u.ReadErr)
			// Both CONNECTION_CLOSE frames may be lost; then only silence tells.
			assert.True(t, end.Remote || end.Kind == core.KindIdleTimeout, "%s: %v", u.host.Name, end)
			if wasReset && end.Kind == core.KindReset {
				assert.Contains(t, []uint64{0, 9}, end.Code)
			}
		}
	}
	if closed {
		assert.True(t, w.Run(time.Minute, func() bool { return w.Client.Endpoint.Len()+w.Server.Endpoint.Len() == 0 }), "connections stay")
	}
}

// Close lets what was written arrive, on a bad link too, and the reader gets EOF.
func TestSim_CloseDeliversWhatWasWritten(t *testing.T) {
	link := LinkConfig{Rate: 1_250_000, Queue: 50_000, Delay: 20 * time.Millisecond, Loss: 0.1}
	for seed := uint64(1); seed < 30; seed++ {
		w, err := New(Config{Seed: seed, Up: link, Down: link})
		require.NoError(t, err)
		c := w.Dial(User{ToWrite: 300_000})
		s := w.serve(t, c, User{ReadChunk: 1000})
		w.Run(time.Minute, func() bool { return c.Written == c.ToWrite })
		w.After(0, c.Close)
		assert.True(t, w.Run(time.Minute, func() bool { return s.EOF }), "seed %d: %v", seed, s.ReadErr)
		require.NoError(t, w.Err)
		assert.Equal(t, 300_000, s.Received)
		assert.True(t, w.Run(time.Minute, func() bool { return c.Closed && s.Closed }))
	}
}

// A slow reader closes its own window and holds nobody up but its writer.
func TestSim_SlowReader(t *testing.T) {
	w, err := New(Config{Seed: 5, Client: core.Config{RecvWindow: 64 << 10}, Server: core.Config{SendBuffer: 32 << 10}})
	require.NoError(t, err)
	c := w.Dial(User{ToWrite: 100})
	s := w.serve(t, c, User{ToWrite: 1 << 20, ReadChunk: 100, HalfClose: true})
	w.Run(20*time.Second, func() bool { return false })
	require.NoError(t, w.Err)
	assert.LessOrEqual(t, s.Written, 64<<10+32<<10, "the writer is held back")
	assert.GreaterOrEqual(t, s.Written, 64<<10, "what fits goes")
	assert.Zero(t, c.Received)
	c.ReadChunk = 10_000
	c.buf = make([]byte, c.ReadChunk)
	w.After(0, func() {})
	assert.True(t, w.Run(time.Minute, func() bool { return c.EOF }), "%v %v", w.Err, c.ReadErr)
	assert.Equal(t, 1<<20, c.Received)
}

func TestSim_IdleTimeout(t *testing.T) {
	for _, keepAlive := range []time.Duration{0, 5 * time.Second} {
		w, err := New(Config{Seed: 5, Client: core.Config{KeepAlive: keepAlive}, Server: core.Config{IdleTimeout: 12 * time.Second}})
		require.NoError(t, err)
		c := w.Dial(User{ReadChunk: 10, ToWrite: 10})
		s := w.serve(t, c, User{ReadChunk: 10})
		w.Run(time.Minute, func() bool { return false })
		require.NoError(t, w.Err)
		assert.Equal(t, keepAlive == 0, c.Closed)
		assert.Equal(t, keepAlive == 0, s.Closed)
		if keepAlive == 0 {
			var end *core.CloseError
			require.ErrorAs(t, c.ReadErr, &end)
			assert.Equal(t, core.KindIdleTimeout, end.Kind, "never EOF")
		}
	}
}

// The peer that dies, rather than close, is found out: idle timeout, not end of stream.
func TestSim_PeerDies(t *testing.T) {
	w, err := New(Config{Seed: 5})
	require.NoError(t, err)
	c := w.Dial(User{ReadChunk: 1000, ToWrite: 1 << 20})
	w.serve(t, c, User{ReadChunk: 1000, ToWrite: 1 << 30})
	w.Run(50*time.Millisecond, func() bool { return false })
	w.Kill(ServerAddr)
	assert.True(t, w.Run(2*time.Minute, func() bool { return c.Closed }))
	var end *core.CloseError
	require.ErrorAs(t, c.ReadErr, &end)
	assert.Equal(t, core.KindIdleTimeout, end.Kind)
	assert.False(t, c.EOF)
	_, err = c.Conn.Write(w.Now, []byte("x"))
	assert.ErrorIs(t, err, core.ErrPeerStopped)
}
