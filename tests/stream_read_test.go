package tests

// The order of what a read looks at, reads up to a delimiter, and what is known without a read.

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// arrived has peer send p and waits until the stream has all of it, unread.
func arrived(c *veloq.Context, s *veloq.Stream, peer net.Conn, p string) error {
	want := s.Buffered() + len(p)
	if _, err := io.WriteString(peer, p); err != nil {
		return err
	}
	for end := time.Now().Add(patience); s.Buffered() < want && time.Now().Before(end); {
		if err := c.Sleep(time.Millisecond); err != nil {
			return err
		}
	}
	if s.Buffered() != want {
		return notArrived(s.Buffered())
	}
	return nil
}

type notArrived int

func (notArrived) Error() string { return "what the peer sent has not arrived" }

// Goal: a read deadline that has passed comes before bytes that are there and before the end of the
// stream, whatever reads, as in package net; moved, it gives all of them.
func TestStream_PassedDeadlineComesFirst(t *testing.T) {
	noLeak(t)
	reads := map[string]func(s *veloq.Stream) ([]byte, error){
		"Read": func(s *veloq.Stream) ([]byte, error) {
			buf := make([]byte, 4)
			n, err := s.Read(buf)
			return buf[:n], err
		},
		"ReadFull": func(s *veloq.Stream) ([]byte, error) {
			buf := make([]byte, 4)
			n, err := s.ReadFull(buf)
			return buf[:n], err
		},
		"ReadLease": func(s *veloq.Stream) ([]byte, error) {
			l, err := s.ReadLease()
			defer l.Release()
			return append([]byte(nil), l.Bytes()...), err
		},
		"Next": func(s *veloq.Stream) ([]byte, error) {
			p, err := s.Next(4)
			if err != nil {
				assert.Equal(t, "0123", string(p), "what there is comes with the error, and stays")
				return nil, err
			}
			return p, err
		},
		"Skip": func(s *veloq.Stream) ([]byte, error) {
			n, err := s.Skip(4)
			return []byte("0123")[:n], err
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			forShapes(t, func(t *testing.T, sh shape) {
				withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
					for range 2 { // the second time a deadline has passed before
						require.NoError(t, arrived(c, s, peer, "0123456789"))
						require.NoError(t, s.SetReadDeadline(time.Now().Add(-time.Second)))
						for range 2 {
							got, err := read(s)
							require.ErrorIs(t, err, os.ErrDeadlineExceeded)
							require.Empty(t, got)
							require.Equal(t, 10, s.Buffered())
						}
						n, err := s.Read(nil)
						require.NoError(t, err, "a read of nothing does not look at it")
						require.Zero(t, n)
						require.NoError(t, s.SetReadDeadline(time.Now().Add(patience)))
						got, err := read(s)
						require.NoError(t, err)
						rest := make([]byte, 10-len(got))
						_, err = io.ReadFull(s, rest)
						require.NoError(t, err)
						require.Equal(t, "0123456789", string(got)+string(rest))
					}
					require.NoError(t, peer.CloseWrite())
					_, err := s.Peek(1)
					require.ErrorIs(t, err, io.EOF)
					require.NoError(t, s.SetReadDeadline(time.Now()))
					_, err = s.Read(make([]byte, 1))
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.NoError(t, s.SetReadDeadline(time.Time{}))
					_, err = s.Read(make([]byte, 1))
					require.Equal(t, io.EOF, err)
					return nil
				})
			})
		})
	}
}

// Goal: the same of a deadline that passes by itself while bytes are there, and of package net's own
// connection: the two agree at each step.
func TestStream_DeadlinePassesWhileBytesWait(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			require.NoError(t, arrived(c, s, peer, "abc"))
			_, err := s.Write([]byte("abc"))
			require.NoError(t, err)
			require.NoError(t, c.Sleep(time.Millisecond)) // so that it goes out
			at := time.Now().Add(5 * time.Millisecond)
			require.NoError(t, s.SetReadDeadline(at))
			require.NoError(t, peer.SetReadDeadline(at))
			require.NoError(t, c.Sleep(20*time.Millisecond))
			for _, conn := range []net.Conn{s, peer} {
				n, err := conn.Read(make([]byte, 3))
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "%T", conn)
				assert.Zero(t, n, "%T", conn)
				assert.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
				got := make([]byte, 3)
				_, err = io.ReadFull(conn, got)
				assert.NoError(t, err, "%T", conn)
				assert.Equal(t, "abc", string(got), "%T", conn)
			}
			return nil
		})
	})
}

// Goal: IsActive tells what the worker has heard of the connection's end, without a read, and no read
// loses a byte by it.
func TestStream_IsActive(t *testing.T) {
	noLeak(t)
	until := func(c *veloq.Context, s *veloq.Stream) {
		for end := time.Now().Add(patience); s.IsActive() && time.Now().Before(end); {
			require.NoError(t, c.Sleep(time.Millisecond))
		}
		require.False(t, s.IsActive())
	}
	ends := map[string]func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn){
		"peer's FIN": func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) {
			_, err := io.WriteString(peer, "last words")
			require.NoError(t, err)
			require.NoError(t, peer.CloseWrite())
			until(c, s)
			got, err := io.ReadAll(s)
			require.NoError(t, err)
			require.Equal(t, "last words", string(got))
			_, err = s.Write([]byte("still open this way"))
			require.NoError(t, err)
		},
		"reset": func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) {
			require.NoError(t, peer.SetLinger(0))
			require.NoError(t, peer.Close())
			until(c, s)
		},
		"Close":     func(_ *veloq.Context, s *veloq.Stream, _ *net.TCPConn) { require.NoError(t, s.Close()) },
		"CloseRead": func(_ *veloq.Context, s *veloq.Stream, _ *net.TCPConn) { require.NoError(t, s.CloseRead()) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			forShapes(t, func(t *testing.T, sh shape) {
				withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
					require.True(t, s.IsActive())
					require.NoError(t, arrived(c, s, peer, "hello"))
					require.True(t, s.IsActive())
					_, err := s.Skip(5)
					require.NoError(t, err)
					require.NoError(t, s.SetReadDeadline(time.Now()))
					_, err = s.Read(make([]byte, 1))
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.True(t, s.IsActive(), "a deadline ends nothing")
					require.NoError(t, s.SetReadDeadline(time.Time{}))
					elsewhere := make(chan bool, 1)
					go func() { elsewhere <- s.IsActive() }()
					require.False(t, <-elsewhere)
					end(c, s, peer)
					require.False(t, s.IsActive())
					return nil
				})
			})
		})
	}
	t.Run("CloseWrite", func(t *testing.T) {
		withPeer(t, shapes()[0], func(_ *veloq.Context, s *veloq.Stream, _ *net.TCPConn) error {
			require.NoError(t, s.CloseWrite())
			require.True(t, s.IsActive(), "the peer may still send")
			return nil
		})
	})
}
