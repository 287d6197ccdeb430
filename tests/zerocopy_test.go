package tests

// Sends without a copy: on loopback the kernel copies after all and says so, and a peer that does not
// read keeps it from letting go of the memory.

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

const zeroCopyMin = 32 << 10

// zeroCopyRuntime skips the test where nothing is sent without a copy.
func zeroCopyRuntime(t *testing.T) *veloq.Runtime {
	t.Helper()
	rt := newRuntime(t, veloq.Config{Workers: 1, ZeroCopyMin: zeroCopyMin, WriteHigh: 8 << 20, CloseTimeout: patience})
	if r := rt.Report(); !slices.Contains(r.Caps, "SEND_ZC") {
		t.Skipf("%s has no SEND_ZC here", r.Driver)
	}
	return rt
}

// stuck is a task in a Write that waits for the kernel to let go of its memory.
type stuck struct {
	rt     *veloq.Runtime
	peer   *net.TCPConn
	s      *veloq.Stream
	p      []byte // the memory: newPattern(3)'s bytes
	result chan error
}

// startStuck has a task write to a peer that does not read yet, and returns when all of it is with the
// kernel, which is more than the peer has room for.
func startStuck(t *testing.T) *stuck {
	t.Helper()
	k := &stuck{
		rt: zeroCopyRuntime(t), p: append([]byte(nil), newPattern(3).next(256<<10)...), result: make(chan error, 1),
	}
	streams := make(chan *veloq.Stream, 1)
	lc := veloq.ListenConfig{WriteBuffer: 1 << 20}
	srv := startTasks(t, k.rt, lc, func(_ *veloq.Context, s *veloq.Stream) error {
		if _, err := s.Read(make([]byte, 1)); err != nil {
			return err
		}
		streams <- s
		n, err := s.Write(k.p)
		if err == nil && n < len(k.p) {
			err = io.ErrShortWrite
		}
		k.result <- err
		return err
	})
	k.peer = dial(t, srv.Addr())
	require.NoError(t, k.peer.SetReadBuffer(4<<10))
	_, err := k.peer.Write([]byte{1})
	require.NoError(t, err)
	k.s = await(t, "stream", streams)
	eventually(t, "the kernel has it all", func() (bool, any) {
		unsent := -1
		_ = onWorker(t, k.rt, 0, func(*veloq.Context) error { unsent = k.s.Unsent(); return nil })
		return totals(k.rt).ZeroCopySends > 0 && unsent == 0, unsent
	})
	return k
}

// All bytes arrive, whether they come from a task's memory or from leases, and the kernel's report
// that it copied ends the attempts.
func TestZeroCopy_EveryByte(t *testing.T) {
	noLeak(t)
	rt := zeroCopyRuntime(t)
	before := holds(rt)
	size := sized(100<<20, 32<<20, 8<<20)
	for name, serve := range map[string]func(*veloq.Context, *veloq.Stream) error{
		"write": func(_ *veloq.Context, s *veloq.Stream) error {
			buf := make([]byte, 256<<10)
			for {
				n, err := s.ReadFull(buf)
				if n == 0 {
					return err
				}
				if _, err := s.Write(buf[:n]); err != nil {
					return err
				}
				clear(buf) // the memory is the task's again: what is not sent yet would show
			}
		},
		"leases": func(_ *veloq.Context, s *veloq.Stream) error {
			_, err := s.ReadFrom(s)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := startTasks(t, rt, veloq.ListenConfig{}, serve)
			c := dial(t, srv.Addr())
			sent := make(chan error, 1)
			go func() {
				out := newPattern(1)
				for left := size; left > 0; {
					n := min(left, 300_000)
					if _, err := c.Write(out.next(n)); err != nil {
						sent <- err
						return
					}
					left -= n
				}
				sent <- c.CloseWrite()
			}()
			in := newPattern(1)
			buf := make([]byte, 1<<20)
			got := 0
			for {
				n, err := c.Read(buf)
				require.NoError(t, in.check(buf[:n]))
				got += n
				if err == io.EOF {
					break
				}
				require.NoError(t, err)
			}
			require.NoError(t, await(t, "writer", sent))
			require.Equal(t, size, got)
			_ = c.Close()
		})
	}
	settled(t, rt, before)
	st := totals(rt)
	assert.Positive(t, st.ZeroCopySends)
	assert.Positive(t, st.ZeroCopyCopied, "loopback copies")
	assert.Less(t, st.ZeroCopySends, uint64(200), "a stream stops when it hears of a copy")
}

// A Write returns when the kernel has let go of its memory, which is when the peer has read.
func TestZeroCopy_WriteWaitsForThePeer(t *testing.T) {
	noLeak(t)
	k := startStuck(t)
	select {
	case err := <-k.result:
		t.Fatalf("Write returned %v while its memory was in use", err)
	default:
	}
	got := make([]byte, len(k.p))
	_, err := io.ReadFull(k.peer, got)
	require.NoError(t, err)
	require.NoError(t, newPattern(3).check(got))
	require.NoError(t, await(t, "Write", k.result))
	require.NoError(t, k.peer.Close())
}

// Whatever ends a Write that waits for the kernel, its memory is free when it returns: what the peer
// reads later are bytes that were written, up to a reset.
func TestZeroCopy_GivenUp(t *testing.T) {
	for _, end := range []struct {
		name  string
		do    func(k *stuck) error
		wants []error
	}{
		{"deadline", func(k *stuck) error {
			return onWorker(t, k.rt, 0, func(*veloq.Context) error {
				return k.s.SetWriteDeadline(time.Now().Add(-time.Second))
			})
		}, []error{os.ErrDeadlineExceeded}},
		{"close", func(k *stuck) error {
			return onWorker(t, k.rt, 0, func(*veloq.Context) error { return k.s.Close() })
		}, []error{net.ErrClosed}},
		{"runtime", func(k *stuck) error {
			bounded(t, "Close", func() { _ = k.rt.Close() })
			return nil
		}, []error{net.ErrClosed, veloq.ErrClosed}},
	} {
		t.Run(end.name, func(t *testing.T) {
			noLeak(t)
			k := startStuck(t)
			require.NoError(t, end.do(k))
			err := await(t, "Write", k.result)
			require.Error(t, err)
			require.True(t, slices.ContainsFunc(end.wants, func(w error) bool { return errors.Is(err, w) }), "%v", err)
			clear(k.p)
			in := newPattern(3)
			buf := make([]byte, 64<<10)
			for {
				n, err := k.peer.Read(buf)
				require.NoError(t, in.check(buf[:n]))
				if err != nil {
					require.ErrorIs(t, err, syscall.ECONNRESET)
					break
				}
			}
			require.NoError(t, k.peer.Close())
		})
	}
}

// Without SEND_ZC the option changes nothing.
func TestZeroCopy_Denied(t *testing.T) {
	t.Setenv("VELOQ_DENY", "SEND_ZC")
	rt := newRuntime(t, veloq.Config{Workers: 1, ZeroCopyMin: zeroCopyMin})
	srv := startTasks(t, rt, veloq.ListenConfig{}, echoTask)
	require.NoError(t, roundTrip(dial(t, srv.Addr()), newPattern(9).next(200_000)))
	require.Zero(t, totals(rt).ZeroCopySends)
}
