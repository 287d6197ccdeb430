package tests

// The order of what a read looks at, reads up to a delimiter, and what is known without a read.

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
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

// Goal: lines of every length, cut by the network anywhere, come whole and in order from the reads up to
// a delimiter, mixed with each other and with other reads.
func TestStream_ReadsToDelimiter(t *testing.T) {
	noLeak(t)
	lines := sized(20_000, 2000, 300)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(_ *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			r := rand.New(rand.NewPCG(5, uint64(lines)))
			var all []string
			for i := range lines {
				line := fmt.Sprintf("%d:%s\n", i, strings.Repeat("x", r.IntN(3000)*(i%3)/2))
				all = append(all, line)
			}
			sent := make(chan error, 1)
			go func() {
				p := strings.Join(all, "")
				for r := rand.New(rand.NewPCG(6, 6)); len(p) > 0; {
					n := min(1+r.IntN(2000), len(p))
					if _, err := io.WriteString(peer, p[:n]); err != nil {
						sent <- err
						return
					}
					p = p[n:]
				}
				sent <- peer.CloseWrite()
			}()
			for i, want := range all {
				var got string
				var err error
				switch i % 4 {
				case 0:
					got, err = s.ReadString('\n')
				case 1:
					var p []byte
					p, err = s.ReadBytes('\n')
					got = string(p)
				case 2:
					var p []byte
					p, err = s.ReadSlice('\n')
					got = string(p)
				case 3: // across a part that was taken otherwise
					p := make([]byte, 2)
					_, err = s.ReadFull(p)
					require.NoError(t, err)
					got, err = s.ReadString('\n')
					got = string(p) + got
				}
				require.NoError(t, err, "line %d", i)
				require.Equal(t, want, got, "line %d", i)
			}
			got, err := s.ReadString('\n')
			require.Equal(t, io.EOF, err)
			require.Empty(t, got)
			return <-sent
		})
	})
}

// Goal: what ends the wait for a delimiter takes nothing: the stream's end, a deadline, too many bytes,
// a close, the task's end.
func TestStream_DelimiterNotThere(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			require.NoError(t, arrived(c, s, peer, "no end"))
			require.NoError(t, s.SetReadDeadline(time.Now().Add(2*time.Millisecond)))
			p, err := s.ReadSlice('\n')
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, "no end", string(p))
			require.NoError(t, s.SetReadDeadline(time.Time{}))
			require.Equal(t, 6, s.Buffered())
			require.NoError(t, peer.CloseWrite())
			for range 2 {
				got, err := s.ReadString('\n')
				require.Equal(t, io.EOF, err)
				require.Equal(t, "no end", got)
			}
			rest, err := io.ReadAll(s)
			require.NoError(t, err)
			require.Equal(t, "no end", string(rest))
			return nil
		})
	})
	t.Run("too long", func(t *testing.T) {
		withPeer(t, shape{config: tinyConfig()}, func(_ *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			sent := make(chan error, 1)
			go func() {
				_, err := io.WriteString(peer, strings.Repeat("x", 100_000)+"\n")
				sent <- err
			}()
			limit := tinyConfig().ReadLimit
			p, err := s.ReadBytes('\n')
			require.ErrorIs(t, err, veloq.ErrTooLong)
			require.GreaterOrEqual(t, len(p), limit)
			require.Equal(t, strings.Repeat("x", len(p)), string(p))
			_, err = s.Skip(99_999)
			require.NoError(t, err)
			line, err := s.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "x\n", line)
			return <-sent
		})
	})
	t.Run("closed", func(t *testing.T) {
		withPeer(t, shape{config: tinyConfig()}, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			require.NoError(t, arrived(c, s, peer, "no end"))
			h := veloq.SpawnLocal(c, func(*veloq.Context) (string, error) { return s.ReadString('\n') })
			require.NoError(t, c.Sleep(time.Millisecond)) // it waits then
			_, err := s.ReadString('\n')
			require.ErrorIs(t, err, veloq.ErrBusy)
			_, err = s.Read(make([]byte, 1))
			require.ErrorIs(t, err, veloq.ErrBusy, "though bytes are there: the other one waits for more behind them")
			require.Equal(t, 6, s.Buffered())
			require.NoError(t, s.Close())
			got, err := h.Join(c)
			require.ErrorIs(t, err, net.ErrClosed)
			require.Empty(t, got)
			return nil
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		withPeer(t, shape{config: tinyConfig()}, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			h := veloq.SpawnLocal(c, func(*veloq.Context) (string, error) { return s.ReadString('\n') })
			require.NoError(t, arrived(c, s, peer, "no end"))
			h.Cancel()
			got, err := h.Join(c)
			require.Error(t, err)
			require.Equal(t, "no end", got)
			_, err = peer.Write([]byte("\n"))
			require.NoError(t, err)
			got, err = s.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "no end\n", got)
			return nil
		})
	})
}
