package veloq

// Streams whose state another task changes at the moment when a call of theirs is over, but has not gone on.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/core"
)

// withStream runs fn as a task with a stream and its plain other end, and waits until the worker has no
// stream any more.
func withStream(t *testing.T, config Config, fn func(c *Context, s *Stream, peer *net.TCPConn) error) {
	t.Helper()
	config.Workers, config.CloseTimeout = 1, time.Millisecond
	rt := newTestRuntime(t, config)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = Spawn(rt, func(c *Context) (struct{}, error) {
		s, err := c.Dial("tcp", ln.Addr().String())
		if err != nil {
			return struct{}{}, err
		}
		defer func() { _ = s.Close() }()
		peer, err := ln.Accept()
		if err != nil {
			return struct{}{}, err
		}
		defer func() { _ = peer.Close() }()
		if err := fn(c, s, peer.(*net.TCPConn)); err != nil {
			return struct{}{}, err
		}
		_ = s.Close()
		return struct{}{}, until(c, func() bool { return c.w.streams == 0 })
	}).Wait(ctx)
	require.NoError(t, err)
}

// until waits for what nobody announces.
func until(c *Context, cond func() bool) error {
	for ends := clock() + int64(10*time.Second); !cond(); {
		if clock() > ends {
			return errors.New("never came")
		}
		if err := c.Sleep(time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// startBlocked has a task write what the peer's system has no room for, and returns once its send waits
// in the kernel.
func startBlocked(c *Context, s *Stream) (*LocalHandle[int], error) {
	h := SpawnLocal(c, func(*Context) (int, error) { return s.Write(make([]byte, 16<<20)) })
	return h, until(c, func() bool {
		o := s.send.out
		return o != nil && o.busy && o.blocked
	})
}

// Goal: a write deadline ends a Write also where an earlier one had passed, and was moved before the
// Write could see it.
func TestStream_WriteDeadlineMovedWhileCancelling(t *testing.T) {
	withStream(t, Config{}, func(c *Context, s *Stream, _ *net.TCPConn) error {
		h, err := startBlocked(c, s)
		require.NoError(t, err)
		require.NoError(t, s.SetWriteDeadline(time.Now().Add(-time.Second)))
		require.NoError(t, c.Yield()) // the writer asks for the end of its send
		require.NoError(t, s.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		err = Timeout(c, 10*time.Second, func(c *Context) error {
			_, err := h.Join(c)
			return err
		})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var op *net.OpError
		require.ErrorAs(t, err, &op, "the Write's error, not the Join's")
		return nil
	})
}

// Goal: what waits to write ends with its task also where that was cancelled before it began to wait.
func TestStream_WritesOfATaskThatWasCancelled(t *testing.T) {
	withStream(t, Config{}, func(c *Context, s *Stream, _ *net.TCPConn) error {
		blocked, err := startBlocked(c, s)
		require.NoError(t, err)
		late := func(what string, fn func() error) {
			err := Timeout(c, 0, func(*Context) error { return fn() })
			var te *TimeoutError
			require.ErrorAs(t, err, &te, what)
		}
		write := func(n int) func() error {
			return func() error { _, err := s.Write(make([]byte, n)); return err }
		}
		late("behind a writer", write(1))
		blocked.Cancel()
		_, err = blocked.Join(c)
		require.ErrorIs(t, err, context.Canceled)
		late("large", write(inlineMax+1))
		for err = nil; err == nil; _, err = s.TryWrite(make([]byte, inlineMax)) {
		}
		require.ErrorIs(t, err, ErrFull)
		late("without room", write(1))
		if core.SharesSockets { // else Detach is refused before it waits
			late("Detach", func() error { _, err := s.Detach(); return err })
		}
		return nil
	})
}

// Goal: a send ends also where the kernel missed the first cancel, which it answers by ENOENT: it does
// while it is about to try the send again. Method: that answer, to a cancel of what there is not.
func TestStream_CancelThatTheKernelMissed(t *testing.T) {
	withStream(t, Config{}, func(c *Context, s *Stream, _ *net.TCPConn) error {
		h, err := startBlocked(c, s)
		require.NoError(t, err)
		s.send.out.cancelled = true
		require.NoError(t, s.SetWriteDeadline(time.Now().Add(-time.Second)))
		require.NoError(t, c.Yield())
		require.NotNil(t, s.send.writer, "it waits for the end that it thinks it has asked for")
		c.w.stageCancel(opSendFile, s.slot)
		_, err = h.Join(c)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		return nil
	})
}

// Goal: a send that holds no receive buffer is not asked back for the sake of the group, which would be
// done again in every turn while the group is empty.
func TestStream_SpillLeavesCopiesAlone(t *testing.T) {
	withStream(t, Config{}, func(c *Context, s *Stream, _ *net.TCPConn) error {
		_, err := startBlocked(c, s)
		require.NoError(t, err)
		s.lending = true // as after a lease that has gone out since
		c.w.lending = append(c.w.lending, s)
		c.w.spillQueued()
		require.False(t, s.send.out.cancelled)
		require.False(t, s.lending)
		return nil
	})
}

// Goal: a stream ends that is closed after its reader got its bytes, and before the reader ran, with
// nothing of it under way. Method: the step that a worker short of time takes before the reader runs.
func TestStream_ClosedBeforeItsReaderRuns(t *testing.T) {
	withStream(t, Config{}, func(c *Context, s *Stream, _ *net.TCPConn) error {
		require.NoError(t, s.PauseRead())
		require.NoError(t, until(c, func() bool { return !s.recvArmed }))
		h := SpawnLocal(c, func(*Context) (int, error) { return s.Read(make([]byte, 8)) })
		require.NoError(t, until(c, func() bool { return s.recv.reader != nil }))
		s.deliver(Lease{heap: []byte("abc")})
		s.close(nil)
		c.w.settleStreams()
		n, err := h.Join(c)
		require.NoError(t, err)
		require.Equal(t, 3, n)
		return nil
	})
}

// Goal: a Writev of several large parts ends with its stream, also where that is given up between two
// of them.
func TestStream_GivenUpBetweenParts(t *testing.T) {
	withStream(t, Config{}, func(c *Context, s *Stream, _ *net.TCPConn) error {
		const part = 32 << 10
		h := SpawnLocal(c, func(*Context) (int64, error) {
			return s.Writev([][]byte{make([]byte, part), make([]byte, part)})
		})
		require.NoError(t, c.Yield())
		d := &s.send.writers.direct
		for range 3 { // turns that this task runs in: the first part goes out, its writer is woken behind it
			require.NotNil(t, s.send.writer)
			if d.ended {
				break
			}
			require.NoError(t, c.Yield())
			c.w.flush()
			c.w.enter(0)
			c.w.flip()
			c.w.confirm()
		}
		require.True(t, d.ended)
		s.close(nil)
		s.abandon()
		var n int64
		err := Timeout(c, 10*time.Second, func(c *Context) (err error) {
			n, err = h.Join(c)
			return err
		})
		require.ErrorIs(t, err, net.ErrClosed)
		require.EqualValues(t, part, n)
		return nil
	})
}

// roomHandler has a task write more than its peer takes, is refused room meanwhile, and then has the
// task give up.
type roomHandler struct {
	HandlerBase
	wrote    chan error
	writable chan struct{}
}

func (h *roomHandler) OnOpen(c *Context, s *Stream) {
	err := Go(c, func(c *Context) {
		_ = Go(c, func(c *Context) {
			err := until(c, func() bool { return s.send.out != nil && s.send.out.busy && s.send.out.blocked })
			if _, full := s.TryWrite([]byte{1}); err == nil && !errors.Is(full, ErrFull) {
				err = fmt.Errorf("TryWrite: %w", full)
			}
			_ = s.SetWriteDeadline(time.Now().Add(-time.Second))
			h.wrote <- err
		})
		_, err := s.Write(make([]byte, 16<<20))
		h.wrote <- err
	})
	if err != nil {
		h.wrote <- err
	}
}

func (h *roomHandler) OnData(*Context, *Stream, Lease) error { return nil }

func (h *roomHandler) OnWritable(*Context, *Stream) { close(h.writable) }

// Goal: a handler that was refused room hears of it also where a task that gives up made it.
func TestStream_RoomAfterAWriterGaveUp(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	h := &roomHandler{wrote: make(chan error, 2), writable: make(chan struct{})}
	srv, err := (&ListenConfig{}).StartHandler(t.Context(), rt, "tcp", "127.0.0.1:0", h)
	require.NoError(t, err)
	peer, err := net.Dial("tcp", srv.Addr().String())
	require.NoError(t, err)
	defer func() { _ = peer.Close() }()
	require.NoError(t, <-h.wrote)
	require.ErrorIs(t, <-h.wrote, os.ErrDeadlineExceeded)
	select {
	case <-h.writable:
	case <-time.After(20 * time.Second):
		t.Fatal("no OnWritable")
	}
}
