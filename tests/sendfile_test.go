package tests

// Sending files from a stream.

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// fileOf makes a file of those bytes. It is closed and gone when the test ends.
func fileOf(t *testing.T, content []byte) *os.File {
	t.Helper()
	dir, err := os.MkdirTemp("", "veloq")
	require.NoError(t, err)
	name := filepath.Join(dir, "content")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = f.Close()
		_ = os.Remove(name)
		_ = os.Remove(dir)
	})
	return f
}

func patterned(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return b
}

// readOf returns all that a peer reads of a stream whose task runs fn.
func readOf(t *testing.T, sh shape, fn func(s *veloq.Stream) error) []byte {
	t.Helper()
	rt := newRuntime(t, sh.config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	task := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (struct{}, error) {
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return struct{}{}, err
		}
		defer func() { _ = s.Close() }()
		return struct{}{}, fn(s)
	})
	peer, err := l.Accept()
	require.NoError(t, err)
	defer func() { _ = peer.Close() }()
	require.NoError(t, peer.SetDeadline(time.Now().Add(patience)))
	got, err := io.ReadAll(peer)
	require.NoError(t, join(t, task))
	require.NoError(t, err)
	return got
}

// Goal: parts of a file arrive in order with what is written before, between and after, by whichever
// kind of write; the file's own position is not used.
func TestSendFile_InOrderWithWrites(t *testing.T) {
	content := patterned(3<<20 + 123)
	forShapes(t, func(t *testing.T, sh shape) {
		noLeak(t)
		f := fileOf(t, content)
		var want []byte
		got := readOf(t, sh, func(s *veloq.Stream) error {
			large := patterned(100_000)
			write := func(p []byte) {
				n, err := s.Write(p)
				require.NoError(t, err)
				require.Equal(t, len(p), n)
				want = append(want, p...)
			}
			send := func(off, n int64) {
				sent, err := s.SendFile(f, off, n)
				require.NoError(t, err)
				if n < 0 {
					n = int64(len(content)) - off
				}
				require.Equal(t, n, sent)
				want = append(want, content[off:off+n]...)
			}
			write([]byte("head"))
			send(0, -1)
			write(large)
			send(1000, 5)
			send(2<<20, 1<<20)
			send(77, 0)
			send(int64(len(content)), -1)
			write([]byte("tail"))
			send(int64(len(content))-1, 1)
			return nil
		})
		require.Equal(t, len(want), len(got))
		assert.True(t, bytes.Equal(want, got), "other bytes, or in another order")
		position, err := f.Seek(0, io.SeekCurrent)
		require.NoError(t, err)
		assert.Zero(t, position)
	})
}

// Goal: what can't be is said: an end before n bytes, a closed file, offsets that are none, a closed
// stream. After the file's faults the stream goes on.
func TestSendFile_Invalid(t *testing.T) {
	noLeak(t)
	f := fileOf(t, patterned(10_000))
	closed := fileOf(t, nil)
	require.NoError(t, closed.Close())
	got := readOf(t, shapes()[0], func(s *veloq.Stream) error {
		n, err := s.SendFile(f, 9_000, 1_500)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.EqualValues(t, 1_000, n)
		n, err = s.SendFile(f, 20_000, 1)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Zero(t, n)
		_, err = s.SendFile(f, -1, 1)
		require.ErrorIs(t, err, os.ErrInvalid)
		_, err = s.SendFile(f, 1, 1<<63-1)
		require.ErrorIs(t, err, os.ErrInvalid)
		_, err = s.SendFile(closed, 0, 1)
		require.Error(t, err) // os.ErrClosed is not what Windows says
		_, err = s.Write([]byte("still"))
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		_, err = s.SendFile(f, 0, 1)
		require.Error(t, err)
		require.NoError(t, s.Close())
		_, err = s.SendFile(f, 0, 1)
		require.ErrorIs(t, err, net.ErrClosed)
		return nil
	})
	require.Len(t, got, 1_005)
	assert.Equal(t, "still", string(got[1_000:]))
}

// sendingTo runs a task that sends all of f to the peer it returns, and gives the stream to fn once
// some of it has arrived. It returns what SendFile did and what the peer then reads.
func sendingTo(t *testing.T, f *os.File, fn func(rt *veloq.Runtime, s *veloq.Stream, peer *net.TCPConn)) (sent int64, got []byte, err error) {
	t.Helper()
	rt := newRuntime(t, shapes()[0].config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	stream := make(chan *veloq.Stream, 1)
	sender := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int64, error) {
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return 0, err
		}
		defer func() { _ = s.Close() }()
		stream <- s
		return s.SendFile(f, 0, -1)
	})
	conn, err := l.Accept()
	require.NoError(t, err)
	peer := conn.(*net.TCPConn)
	defer func() { _ = peer.Close() }()
	require.NoError(t, peer.SetDeadline(time.Now().Add(patience)))
	got = make([]byte, 1000)
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	fn(rt, await(t, "the stream", stream), peer)
	sent, err = sender.Wait(soon(t))
	rest, _ := io.ReadAll(peer)
	return sent, append(got, rest...), err
}

// Goal: with a peer that does not read, the write deadline and Close by another task each end it; what
// arrives is a true prefix, and no more of it than what was sent.
func TestSendFile_EndedInFlight(t *testing.T) {
	content := patterned(64 << 20)
	f := fileOf(t, content)
	for _, e := range []struct {
		name string
		end  func(s *veloq.Stream) error
		want error
	}{
		{"deadline", func(s *veloq.Stream) error { return s.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{"close", func(s *veloq.Stream) error { return s.Close() }, net.ErrClosed},
	} {
		t.Run(e.name, func(t *testing.T) {
			noLeak(t)
			sent, got, err := sendingTo(t, f, func(rt *veloq.Runtime, s *veloq.Stream, _ *net.TCPConn) {
				require.NoError(t, onWorker(t, rt, 0, func(*veloq.Context) error { return e.end(s) }))
			})
			require.ErrorIs(t, err, e.want)
			assert.Less(t, sent, int64(len(content)))
			require.LessOrEqual(t, len(got), len(content))
			assert.True(t, bytes.Equal(content[:len(got)], got), "other bytes than the file's")
		})
	}
}

// Goal: a peer that resets ends it with an error of the write.
func TestSendFile_PeerResets(t *testing.T) {
	noLeak(t)
	f := fileOf(t, patterned(64<<20))
	_, _, err := sendingTo(t, f, func(_ *veloq.Runtime, _ *veloq.Stream, peer *net.TCPConn) {
		require.NoError(t, peer.SetLinger(0))
		require.NoError(t, peer.Close())
	})
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "write", op.Op)
}

// Goal: in a handler there is nobody to wait: it says so.
func TestSendFile_InHandler(t *testing.T) {
	noLeak(t)
	f := fileOf(t, patterned(10))
	said := make(chan error, 1)
	rt := newRuntime(t, shapes()[0].config)
	srv := startHandler(t, rt, veloq.ListenConfig{}, &fileHandler{f: f, said: said})
	peer, err := net.Dial("tcp", srv.Addr().String())
	require.NoError(t, err)
	require.ErrorIs(t, await(t, "the handler", said), veloq.ErrNotTask)
	require.NoError(t, peer.Close())
}

type fileHandler struct {
	echoHandler
	f    *os.File
	said chan error
}

func (h *fileHandler) OnOpen(_ *veloq.Context, s *veloq.Stream) {
	_, err := s.SendFile(h.f, 0, 1)
	h.said <- err
}
