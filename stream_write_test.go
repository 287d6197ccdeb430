package veloq

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: bytes that are written while an earlier send is staged and was left behind by an enter, as a
// kernel may do that has no memory for it, go out behind it and as they are. Method: the enter that
// consumes nothing is the one that is not made; what follows it in a turn is.
func TestStream_WriteAfterEnterLeftSendsBehind(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	written := Spawn(rt, func(c *Context) (int, error) {
		s, err := c.Dial("tcp", ln.Addr().String())
		if err != nil {
			return 0, err
		}
		total := 0
		for _, p := range []string{"first ", "second ", "third"} {
			n, err := s.Write([]byte(p))
			total += n
			if err != nil {
				return total, err
			}
			c.w.flush()
			c.w.flip()
			if !c.w.partial {
				t.Error("the send was not left behind")
			}
			c.w.confirm()
		}
		return total, s.Close()
	})
	conn, err := ln.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "first second third", string(got))
	n, err := written.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, len("first second third"), n)
}

// Goal: a stream ends that is given up in the turn in which its last bytes wait to be sent, with nothing
// else of it under way.
func TestStream_AbandonedBeforeItsTurnToSend(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	var peer net.Conn
	h := Spawn(rt, func(c *Context) (struct{}, error) {
		s, err := c.Dial("tcp", ln.Addr().String())
		if err != nil {
			return struct{}{}, err
		}
		if peer, err = ln.Accept(); err != nil {
			return struct{}{}, err
		}
		if err := peer.(*net.TCPConn).CloseWrite(); err != nil {
			return struct{}{}, err
		}
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			return struct{}{}, fmt.Errorf("read: %w", err)
		}
		if _, err := s.Write([]byte("a little")); err != nil {
			return struct{}{}, err
		}
		if err := s.Close(); err != nil {
			return struct{}{}, err
		}
		s.abandon()
		for ends := clock() + int64(10*time.Second); c.w.streams > 0; {
			if clock() > ends {
				return struct{}{}, errors.New("the stream does not end")
			}
			if err := c.Sleep(time.Millisecond); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	_, err = h.Wait(t.Context())
	require.NoError(t, err)
	require.NoError(t, peer.Close())
}
