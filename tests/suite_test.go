package tests

// What every driver must show, on every system: the same tests wherever the runtime starts.

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// startSuite serves by one of the doors, on two workers that share what one listener accepts.
func startSuite(t *testing.T, door string) (*veloq.Runtime, *veloq.Server) {
	t.Helper()
	rt := newRuntime(t, veloq.Config{Workers: 2})
	return rt, startEcho(t, rt, veloq.ListenConfig{Accept: veloq.AcceptSpread}, door)
}

// Goal: 100 MB there and back on one connection, the same bytes by their SHA-256.
func TestSuite_Echo100MB(t *testing.T) {
	noLeak(t)
	const total = 100 << 20
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			_, srv := startSuite(t, door)
			conn := dial(t, srv.Addr())
			sent, got := sha256.New(), sha256.New()
			done := make(chan error, 1)
			go func() {
				random := rand.NewChaCha8([32]byte{7})
				_, err := io.CopyN(io.MultiWriter(conn, sent), random, total)
				done <- errors.Join(err, conn.CloseWrite())
			}()
			n, err := io.Copy(got, conn)
			require.NoError(t, err)
			require.NoError(t, await(t, "sender", done))
			require.EqualValues(t, total, n)
			require.Equal(t, sent.Sum(nil), got.Sum(nil))
		})
	}
}

// Goal: 500 connections at once, each with its own bytes, on both workers.
func TestSuite_500Connections(t *testing.T) {
	noLeak(t)
	const conns, rounds = 500, 4
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt, srv := startSuite(t, door)
			var wg sync.WaitGroup
			var failed atomic.Int64
			all := make([]*net.TCPConn, conns)
			for i := range all {
				all[i] = dial(t, srv.Addr())
			}
			eventually(t, "all accepted", func() (bool, any) { return srv.Conns() == conns, srv.Conns() })
			for i, conn := range all {
				wg.Go(func() {
					for range rounds {
						if err := exchangeOnce(conn, fmt.Sprintf("connection %d of %d;", i, conns)); err != nil {
							failed.Add(1)
							t.Errorf("connection %d: %v", i, err)
							return
						}
					}
				})
			}
			wg.Wait()
			require.Zero(t, failed.Load())
			for i, stats := range rt.Stats() {
				require.Greater(t, stats.Streams, conns/4, "worker %d", i)
			}
		})
	}
}

func exchangeOnce(conn net.Conn, text string) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("%q came back as %q", text, got)
	}
	return nil
}

// Goal: what waits can be cancelled, and the stream is as good as before when bytes come later.
func TestSuite_CancelledReadLosesNothing(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	err = inTask(t, rt, func(c *veloq.Context) error {
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		peer, err := l.Accept()
		if err != nil {
			return err
		}
		defer func() { _ = peer.Close() }()
		buf := make([]byte, 100)
		for i := range 50 {
			_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
			if i%2 == 1 {
				if _, err := peer.Write([]byte{byte(i)}); err != nil {
					return err
				}
			}
			n, err := s.Read(buf)
			for i%2 == 1 && isTimeout(err) {
				_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
				n, err = s.Read(buf)
			}
			switch {
			case i%2 == 0 && !isTimeout(err):
				return fmt.Errorf("round %d: %d bytes, %w where nothing was sent", i, n, err)
			case i%2 == 1 && (err != nil || n != 1 || buf[0] != byte(i)):
				return fmt.Errorf("round %d: %d bytes, %v: %w", i, n, buf[:n], err)
			}
		}
		return s.Close()
	})
	require.NoError(t, err)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Goal: a reset is an error with the name that programs test for, and a refused dial too.
func TestSuite_ResetAndRefused(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	heard, read := make(chan error, 1), make(chan struct{})
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(_ *veloq.Context, s *veloq.Stream) error {
		_, err := s.Read(make([]byte, 10))
		close(read)
		if err == nil {
			_, err = s.Read(make([]byte, 10))
		}
		heard <- err
		return nil
	})
	conn := dial(t, srv.Addr())
	_, err := conn.Write([]byte("x"))
	require.NoError(t, err)
	// Before the reset: one that overtakes unread bytes is another test's.
	await(t, "the byte", read)
	require.NoError(t, conn.SetLinger(0))
	require.NoError(t, conn.Close())
	require.ErrorIs(t, await(t, "reset", heard), syscall.ECONNRESET)
	refused := closedPort(t)
	err = inTask(t, rt, func(c *veloq.Context) error {
		_, err := c.Dial("tcp", refused)
		return err
	})
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// Goal: a graceful stop serves what is open to its end and accepts nobody new.
func TestSuite_GracefulStop(t *testing.T) {
	noLeak(t)
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			_, srv := startSuite(t, door)
			conn := dial(t, srv.Addr())
			require.NoError(t, exchangeOnce(conn, "before"))
			stopped := make(chan error, 1)
			go func() { stopped <- srv.Shutdown(soon(t)) }()
			eventually(t, "refuses", func() (bool, any) {
				late, err := net.DialTimeout("tcp", srv.Addr().String(), time.Second)
				if err == nil {
					_ = late.Close()
				}
				return err != nil, err
			})
			require.NoError(t, exchangeOnce(conn, "after"))
			require.Empty(t, stopped)
			require.NoError(t, conn.CloseWrite())
			rest, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Empty(t, rest)
			require.NoError(t, await(t, "shutdown", stopped))
		})
	}
}
