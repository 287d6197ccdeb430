package veloq

// What staged bytes make of deadlines and of the ways to end a connection.

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// aMoment is how long a test waits for what must not happen.
const aMoment = 20 * time.Millisecond

// soonOr waits for ch for a moment, and reports whether it yielded.
func soonOr[T any](ch <-chan T) (v T, ok bool) {
	select {
	case v = <-ch:
		return v, true
	case <-time.After(aMoment):
		return v, false
	}
}

// within waits for what must happen.
func within[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(30 * time.Second):
		require.FailNow(t, what+" hangs")
		panic("unreachable")
	}
}

// Goal: a deadline that no int64 of nanoseconds holds is none that has passed, and the epoch is one.
func TestDirect_DeadlinesOutOfRange(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	require.NoError(t, second(a.Write([]byte("staged "))))
	require.NoError(t, a.SetWriteDeadline(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
	long := make([]byte, 2*stageWriteMax)
	written := make(chan error, 1)
	go func() { written <- second(a.Write(long)) }()
	for len(written) == 0 && a.d.stage.waiting.Load() == 0 {
		runtime.Gosched()
	}
	_, _ = soonOr(make(chan error)) // a deadline that has passed shows by then
	release()
	require.NoError(t, within(t, "Write", written))
	_, err := io.ReadFull(b, make([]byte, len("staged ")+len(long)))
	require.NoError(t, err)
	require.NoError(t, a.SetWriteDeadline(time.Unix(0, 0)))
	require.ErrorIs(t, second(a.Write([]byte("late"))), os.ErrDeadlineExceeded)
}

// Goal: CloseWrite ends a Write that waits for room, as package net's does, and what Writes have
// returned for goes out.
func TestDirect_CloseWriteWakesWrite(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	release()
	fill(t, a, b)
	require.NoError(t, a.SetWriteDeadline(time.Time{}))
	written := make(chan error, 1)
	go func() { written <- second(a.Write(make([]byte, 1000))) }()
	for a.d.out.TryLock() {
		a.d.out.Unlock()
		runtime.Gosched()
	}
	require.NoError(t, a.CloseWrite())
	err := within(t, "Write", written)
	require.ErrorIs(t, err, syscall.EPIPE)
	require.NoError(t, second(io.ReadAll(b)))
}

// Goal: bytes that a Write has returned for go out though its deadline passes, without another call.
func TestDirect_StagedBytesOutliveTheDeadline(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	release()
	sent := fill(t, a, b)
	require.NoError(t, a.SetWriteDeadline(time.Unix(1, 0)))
	require.NoError(t, b.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, err := io.ReadFull(b, make([]byte, sent))
	require.NoError(t, err, "%d of %d bytes", n, sent)
}

// Goal: once a batch has lost bytes of a connection, nothing that came after them goes out, and the peer
// does not take what arrived for all.
func TestDirect_NothingFollowsLostBytes(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	require.NoError(t, second(a.Write([]byte("what came after"))))
	st := a.d.stage.st
	st.mu.Lock()
	a.d.stage.failed = -int32(syscall.ENOBUFS) // as if the batch before had said so
	st.mu.Unlock()
	release()
	require.ErrorIs(t, second(a.Write(make([]byte, 2*stageWriteMax))), syscall.ENOBUFS)
	v := net.Buffers{[]byte("and this")}
	require.ErrorIs(t, second(a.WriteBuffers(&v)), syscall.ENOBUFS)
	require.NoError(t, a.Close())
	got, err := io.ReadAll(b)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Empty(t, got)
}

// Goal: Close after SetLinger(0) throws away what finds no room, and resets at once.
func TestDirect_LingerZeroDropsStagedBytes(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	release()
	fill(t, a, b)
	require.NoError(t, a.SetLinger(0))
	require.NoError(t, a.Close())
	for end := time.Now().Add(20 * time.Second); a.d.under.SetReadDeadline(time.Time{}) == nil; {
		require.True(t, time.Now().Before(end), "still open")
		time.Sleep(time.Millisecond)
	}
	require.ErrorIs(t, second(io.ReadAll(b)), syscall.ECONNRESET)
}

// Goal: whoever gets the socket from NetConn may close it: no batch will send by its number.
func TestDirect_NetConnWaitsForBatches(t *testing.T) {
	skipWithoutStaging(t)
	a, _, release := stagingPair(t)
	require.NoError(t, second(a.Write([]byte("staged"))))
	require.NoError(t, a.SetWriteDeadline(time.Unix(1, 0)))
	got := make(chan *net.TCPConn, 1)
	go func() { got <- a.NetConn() }()
	_, early := soonOr(got)
	require.False(t, early, "bytes are staged still")
	release()
	within(t, "NetConn", got)
	require.True(t, a.d.stage.settled())
}

// Goal: what Close wakes while the last bytes go out says that the connection is closed, by every way
// to read.
func TestDirect_LateCloseWakesReads(t *testing.T) {
	skipWithoutStaging(t)
	ways := map[string]func(c *TCPConn) error{
		"Read": func(c *TCPConn) error { return second(c.Read(make([]byte, 1))) },
		"SyscallConn": func(c *TCPConn) error {
			raw, err := c.SyscallConn()
			return errors.Join(err, raw.Read(func(uintptr) bool { return false }))
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			a, b, release := stagingPair(t)
			a.d.stage.st.lateClose = time.Second
			release()
			fill(t, a, b)
			require.NoError(t, a.SetDeadline(time.Time{}))
			read := make(chan error, 1)
			go func() { read <- way(a) }()
			_, early := soonOr(read)
			require.False(t, early)
			require.NoError(t, a.Close())
			require.ErrorIs(t, within(t, "the call", read), net.ErrClosed)
			require.ErrorIs(t, a.CloseWrite(), net.ErrClosed)
			require.NoError(t, b.Close())
		})
	}
}

// A slowDeadlines is a connection whose SetReadDeadline takes its time.
type slowDeadlines struct {
	net.Conn
	entered, leave chan struct{}
}

func (c *slowDeadlines) SetReadDeadline(t time.Time) error {
	c.entered <- struct{}{}
	<-c.leave
	return c.Conn.SetReadDeadline(t)
}

// Goal: a deadline that is being set while Close begins does not undo what wakes the calls.
func TestDirect_DeadlineRacesClose(t *testing.T) {
	skipWithoutStaging(t)
	a, _, release := stagingPair(t)
	require.NoError(t, second(a.Write([]byte("staged"))))
	require.NoError(t, a.SetDeadline(time.Time{}))
	slow := &slowDeadlines{Conn: a.d.under, entered: make(chan struct{}, 1), leave: make(chan struct{})}
	a.d.under = slow
	set, closed, read := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { set <- a.SetReadDeadline(time.Time{}) }()
	<-slow.entered
	go func() { closed <- a.Close() }()
	_, over := soonOr(closed)
	close(slow.leave)
	require.NoError(t, within(t, "SetReadDeadline", set))
	if !over {
		require.NoError(t, within(t, "Close", closed))
	}
	go func() { read <- second(a.Read(make([]byte, 1))) }()
	require.ErrorIs(t, within(t, "Read", read), net.ErrClosed)
	release()
}

// Goal: a connection that sends no more, or has lost bytes, can still be shared; a closed one can't.
func TestDirect_FileAfterTheEnd(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	release()
	fill(t, a, b)
	require.NoError(t, a.CloseWrite())
	f, err := a.File()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, a.Close())
	require.ErrorIs(t, second(a.File()), net.ErrClosed)
}

// Goal: a connection that has lost bytes does not go on at a worker, and one whose sending direction has
// ended does.
func TestDirect_AttachAfterTheEnd(t *testing.T) {
	skipWithoutStaging(t)
	attach := func(t *testing.T, a *TCPConn) error {
		rt := a.d.stage.st.rt
		_, err := Spawn(rt, func(c *Context) (struct{}, error) {
			s, err := Attach(c, a)
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, s.Close()
		}).Wait(t.Context())
		return err
	}
	t.Run("lost", func(t *testing.T) {
		a, _, release := stagingPair(t)
		release()
		st := a.d.stage.st
		require.NoError(t, second(a.Write([]byte("x"))))
		a.d.stage.awaitDone(0)
		st.mu.Lock()
		a.d.stage.failed = -int32(syscall.ENOBUFS)
		st.mu.Unlock()
		require.ErrorIs(t, attach(t, a), syscall.ENOBUFS)
	})
	t.Run("CloseWrite", func(t *testing.T) {
		a, b, release := stagingPair(t)
		release()
		sent := fill(t, a, b)
		require.NoError(t, a.CloseWrite())
		got := make(chan error, 1)
		go func() {
			p, err := io.ReadAll(b)
			if err == nil && len(p) != sent {
				err = errors.New("not all that was written")
			}
			got <- err
		}()
		err := attach(t, a)
		for errors.Is(err, syscall.EPIPE) { // the last bytes are on their way
			runtime.Gosched()
			err = attach(t, a)
		}
		require.NoError(t, err)
		require.NoError(t, within(t, "the end", got))
	})
}
