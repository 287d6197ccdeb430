package tests

// Connections that change doors.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// sharesSockets skips the test where a socket can't leave its driver.
func sharesSockets(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a socket belongs to one completion port for good")
	}
}

// pump sends the pattern on c and checks that it comes back, in pieces of odd sizes.
func pump(c net.Conn, size int) <-chan error {
	done := make(chan error, 2)
	go func() {
		out := newPattern(7)
		for left := size; left > 0; {
			n := min(left, 1+left%7001)
			if _, err := c.Write(out.next(n)); err != nil {
				done <- err
				return
			}
			left -= n
		}
		done <- nil
	}()
	result := make(chan error, 1)
	go func() {
		in := newPattern(7)
		buf := make([]byte, 9973)
		for got := 0; got < size; {
			n, err := c.Read(buf)
			if err == nil {
				err = in.check(buf[:n])
			}
			if err != nil {
				result <- err
				return
			}
			got += n
		}
		result <- <-done
	}()
	return result
}

// echoSome echoes n bytes at least, by the calls that both doors' connections have.
func echoSome(c net.Conn, n int) error {
	buf := make([]byte, 4096)
	for n > 0 {
		m, err := c.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:m]); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// One connection goes from a task to a goroutine and back, many times, under a peer that never pauses.
func TestDetach_ThereAndBackUnderLoad(t *testing.T) {
	sharesSockets(t)
	noLeak(t)
	for _, network := range []string{"tcp", "unix"} {
		rt := newRuntime(t, veloq.Config{Workers: 2})
		rounds := sized(2000, 300, 60)
		const each = 16 << 10
		address := "127.0.0.1:0"
		if network == "unix" {
			address = workerSocketPath(t)
		}
		srv, err := (&veloq.ListenConfig{}).Start(t.Context(), rt, network, address, func(c *veloq.Context, s *veloq.Stream) error {
			for {
				if err := echoSome(s, each); err != nil {
					_ = s.Close() // what was attached is not the server's to close
					return err
				}
				conn, err := s.Detach()
				if err != nil {
					return err
				}
				// A goroutine serves it for a while, and this task waits for that without blocking
				// the worker.
				there := make(chan error, 1)
				back := make(chan struct{})
				go func() {
					there <- echoSome(conn, each)
					close(back)
				}()
				for {
					select {
					case <-back:
					default:
						if err := c.Sleep(time.Millisecond); err != nil {
							return err
						}
						continue
					}
					break
				}
				if err := <-there; err != nil {
					_ = conn.Close()
					return err
				}
				if s, err = veloq.Attach(c, conn); err != nil {
					return err
				}
			}
		})
		require.NoError(t, err)
		t.Cleanup(func() { bounded(t, "Server.Close", srv.Close) })
		before := holds(rt)
		c, err := net.Dial(network, srv.Addr().String())
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		require.NoError(t, await(t, "pump", pump(c, rounds*2*each)))
		require.NoError(t, c.Close())
		settled(t, rt, before)
	}
}

// What had arrived goes along, in both directions, and what a caller had taken can be given back.
func TestDetach_BufferedBytes(t *testing.T) {
	sharesSockets(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, s *veloq.Stream) error {
		if _, err := s.Peek(10); err != nil {
			return err
		}
		if _, err := s.Skip(2); err != nil {
			return err
		}
		conn, err := s.Detach()
		if err != nil {
			return err
		}
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil {
			return err
		}
		if s, err = veloq.Attach(c, conn, []byte("X"), one); err != nil {
			return err
		}
		rest := make([]byte, 9)
		if _, err := s.ReadFull(rest); err != nil {
			return err
		}
		_, err = s.Write(rest)
		return errors.Join(err, s.Close())
	})
	c := dial(t, srv.Addr())
	_, err := c.Write([]byte("0123456789"))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	// What the connection had buffered comes before what the caller gives back.
	require.Equal(t, "3456789X2", string(got))
}

// What was written before goes out before, and the socket's options stay.
func TestDetach_WritesAndOptions(t *testing.T) {
	sharesSockets(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	conns := make(chan net.Conn, 1)
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(_ *veloq.Context, s *veloq.Stream) error {
		if err := errors.Join(s.SetNoDelay(false), s.SetKeepAlive(false)); err != nil {
			return err
		}
		if _, err := s.WriteString("from the task "); err != nil {
			return err
		}
		conn, err := s.Detach()
		if err != nil {
			return err
		}
		_, err = s.Write([]byte("x"))
		assert.ErrorIs(t, err, net.ErrClosed)
		conns <- conn
		return nil
	})
	c := dial(t, srv.Addr())
	conn := await(t, "conn", conns)
	require.IsType(t, &veloq.TCPConn{}, conn)
	require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
	_, err := conn.Write([]byte("from the goroutine"))
	require.NoError(t, err)
	require.NoError(t, inTask(t, rt, func(ctx *veloq.Context) error {
		s, err := veloq.Attach(ctx, conn)
		if err != nil {
			return err
		}
		noDelay, err := s.NoDelay()
		assert.NoError(t, err)
		assert.False(t, noDelay)
		keepAlive, err := s.KeepAlive()
		assert.NoError(t, err)
		assert.False(t, keepAlive)
		return s.Close()
	}))
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "from the task from the goroutine", string(got))
}

// A stream that can't leave now is what it was.
func TestDetach_Refused(t *testing.T) {
	sharesSockets(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, s *veloq.Stream) error {
		reader := veloq.SpawnLocal(c, func(*veloq.Context) (string, error) {
			buf := make([]byte, 5)
			_, err := s.ReadFull(buf)
			return string(buf), err
		})
		if err := c.Yield(); err != nil { // the reader waits now
			return err
		}
		_, err := s.Detach()
		assert.ErrorIs(t, err, veloq.ErrBusy)
		if _, err := s.WriteString("go"); err != nil {
			return err
		}
		got, err := reader.Join(c)
		assert.Equal(t, "hello", got, "%v", err)
		if err != nil {
			return err
		}
		if err := s.SetWriteDeadline(time.Now().Add(-time.Second)); err != nil {
			return err
		}
		_, _ = s.Write([]byte("late"))
		if err := s.SetWriteDeadline(time.Time{}); err != nil {
			return err
		}
		conn, err := s.Detach()
		if err != nil {
			return err
		}
		return conn.Close()
	})
	c := dial(t, srv.Addr())
	buf := make([]byte, 2)
	_, err := io.ReadFull(c, buf)
	require.NoError(t, err)
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = c.Read(buf)
	require.Equal(t, io.EOF, err)

	require.NoError(t, inTask(t, rt, func(ctx *veloq.Context) error {
		a, b := net.Pipe()
		defer func() { _ = errors.Join(a.Close(), b.Close()) }()
		_, err := veloq.Attach(ctx, a)
		assert.ErrorIs(t, err, errors.ErrUnsupported)
		_, err = veloq.Attach(ctx, (*veloq.TCPConn)(nil))
		assert.ErrorIs(t, err, errors.ErrUnsupported)
		return nil
	}))
	echo := startTasks(t, rt, veloq.ListenConfig{}, echoTask)
	plain := dial(t, echo.Addr())
	require.NoError(t, plain.Close())
	require.ErrorIs(t, inTask(t, rt, func(ctx *veloq.Context) error {
		_, err := veloq.Attach(ctx, plain)
		return err
	}), net.ErrClosed)
}

// An end that comes with the last bytes is there for the next door too.
func TestDetach_EndOfStream(t *testing.T) {
	sharesSockets(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	results := make(chan string, 1)
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(c *veloq.Context, s *veloq.Stream) error {
		for s.Buffered() < 3 {
			if err := c.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		conn, err := s.Detach()
		if err != nil {
			return err
		}
		go func() {
			b, err := io.ReadAll(conn)
			if err != nil {
				b = []byte(err.Error())
			}
			_ = conn.SetReadDeadline(time.Now().Add(-time.Second))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				b = append(b, " no deadline"...)
			}
			_ = conn.Close()
			results <- string(b)
		}()
		return nil
	})
	c := dial(t, srv.Addr())
	_, err := c.Write([]byte("end"))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	require.Equal(t, "end", await(t, "goroutine", results))
}

// Goal: a FIN that was asked for just before goes out before the connection changes doors.
func TestDetach_AfterCloseWrite(t *testing.T) {
	sharesSockets(t)
	noLeak(t)
	withPeer(t, shapes()[0], func(_ *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
		if _, err := s.Write([]byte("all")); err != nil {
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		conn, err := s.Detach()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		got, err := io.ReadAll(peer)
		if err == nil && string(got) != "all" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
}
