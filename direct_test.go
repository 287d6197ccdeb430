package veloq

// What of the net door's connections can't be seen from outside: bytes that were there before the
// connection, writes that are staged, and whether a copy really takes the short way.

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/rawio"
)

// connected returns two ends of a TCP connection.
func connected(t *testing.T) (a, b *TCPConn) {
	t.Helper()
	l, err := ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	a, err = DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	require.NoError(t, err)
	b, err = l.AcceptTCP()
	require.NoError(t, err)
	for _, c := range []*TCPConn{a, b} {
		require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

// Goal: bytes that came with the connection are read first, by every way to read, and close and deadline
// hold for them too.
func TestDirect_UnreadComesFirst(t *testing.T) {
	ways := map[string]func(c *TCPConn) ([]byte, error){
		"Read":    func(c *TCPConn) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{c}) },
		"WriteTo": func(c *TCPConn) ([]byte, error) { return io.ReadAll(c) },
		"WriteTo a buffer": func(c *TCPConn) ([]byte, error) {
			var b bytes.Buffer
			n, err := c.WriteTo(&b)
			assert.EqualValues(t, b.Len(), n)
			return b.Bytes(), err
		},
		"WriteTo a file": func(c *TCPConn) ([]byte, error) {
			f, err := os.CreateTemp("", "veloq")
			require.NoError(t, err)
			defer func() { _ = os.Remove(f.Name()) }()
			defer func() { _ = f.Close() }()
			n, err := c.WriteTo(f)
			require.NoError(t, err)
			assert.EqualValues(t, 18, n)
			return os.ReadFile(f.Name())
		},
		"ReadFrom of a connection, bounded twice": func(c *TCPConn) ([]byte, error) {
			to, from := connected(t)
			for _, n := range []int64{3, 100} {
				limited := &io.LimitedReader{R: c, N: n}
				m, err := to.ReadFrom(limited)
				if err != nil || m != min(n, 15) || limited.N != n-m {
					return nil, errors.Join(err, errors.New("wrong count"))
				}
			}
			require.NoError(t, to.CloseWrite())
			return io.ReadAll(from)
		},
		"Copy to a connection": func(c *TCPConn) ([]byte, error) {
			to, from := connected(t)
			n, err := io.Copy(to, c)
			require.NoError(t, err)
			assert.EqualValues(t, 18, n)
			require.NoError(t, to.CloseWrite())
			return io.ReadAll(from)
		},
	}
	for name, read := range ways {
		t.Run(name, func(t *testing.T) {
			a, b := connected(t)
			c := newTCPConn(b.tcp, "tcp", []byte("was there "), newStager(StageOff, nil))
			_, err := a.Write([]byte("came now"))
			require.NoError(t, err)
			require.NoError(t, a.CloseWrite())
			got, err := read(c)
			require.NoError(t, err)
			assert.Equal(t, "was there came now", string(got))
		})
	}
	t.Run("deadline and close", func(t *testing.T) {
		_, b := connected(t)
		c := newTCPConn(b.tcp, "tcp", []byte("kept"), newStager(StageOff, nil))
		buf := make([]byte, 2)
		require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
		if runtime.GOOS != "windows" { // whose raw reads package net lets through past a deadline
			_, err := c.Read(buf)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		n, err := c.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, "ke", string(buf[:n]))
		require.NoError(t, c.Close())
		_, err = c.Read(buf)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// Goal: between stream connections, and to files, bytes do not pass through this package.
func TestDirect_CopiesTakeTheShortWay(t *testing.T) {
	if !rawio.Available {
		t.Skip("reads are package net's here")
	}
	targets := map[string]func(t *testing.T) (w io.Writer, end func()){
		"connection": func(t *testing.T) (io.Writer, func()) {
			to, from := connected(t)
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = io.Copy(io.Discard, from) })
			return to, func() { _ = to.Close(); wg.Wait() }
		},
		"file": func(t *testing.T) (io.Writer, func()) {
			f, err := os.CreateTemp("", "veloq")
			require.NoError(t, err)
			return f, func() { _ = f.Close(); _ = os.Remove(f.Name()) }
		},
		"buffer": func(*testing.T) (io.Writer, func()) { return &bytes.Buffer{}, func() {} },
	}
	for name, make := range targets {
		t.Run(name, func(t *testing.T) {
			a, b := connected(t)
			reads := 0
			call := b.d.in.call
			b.d.in.call = func(fd uintptr) bool {
				reads++
				return call(fd)
			}
			_, err := a.Write([]byte("some bytes"))
			require.NoError(t, err)
			require.NoError(t, a.CloseWrite())
			w, end := make(t)
			defer end()
			n, err := io.Copy(w, b)
			require.NoError(t, err)
			assert.EqualValues(t, 10, n)
			assert.Equal(t, name == "buffer", reads > 0, "%d reads", reads)
		})
	}
}

// stagingPair is connected, with the first end's writes staged, and not sent before release.
func stagingPair(t *testing.T) (a, b *TCPConn, release func()) {
	t.Helper()
	rt, err := New(Config{Workers: 1, Stage: StageOn})
	require.NoError(t, err)
	t.Cleanup(func() { _ = rt.Close() })
	rt.stager.mu.Lock()
	require.True(t, rt.stager.ready())
	rt.stager.sending = true // as if somebody did
	rt.stager.mu.Unlock()
	release = sync.OnceFunc(func() { go rt.stager.send() })
	t.Cleanup(release)
	under, b := connected(t)
	return newTCPConn(under.tcp, "tcp", nil, rt.stager), b, release
}

// Goal: what is staged goes before everything that is sent otherwise, whatever way that goes, and
// nothing is staged while somebody sends past this package.
func TestDirect_StagedBytesGoFirst(t *testing.T) {
	path := func(t *testing.T, text string) *os.File {
		f, err := os.CreateTemp("", "veloq")
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close(); _ = os.Remove(f.Name()) })
		_, err = f.WriteString(text)
		require.NoError(t, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		return f
	}
	const next = "then a longer text"
	ways := map[string]func(t *testing.T, c *TCPConn) error{
		"Write": func(_ *testing.T, c *TCPConn) error { return second(c.Write([]byte(next))) },
		"ReadFrom a file": func(t *testing.T, c *TCPConn) error {
			return second(c.ReadFrom(path(t, next)))
		},
		"Copy of a file": func(t *testing.T, c *TCPConn) error { return second(io.Copy(c, path(t, next))) },
		"Copy of a connection": func(t *testing.T, c *TCPConn) error {
			a, b := connected(t)
			_, err := a.Write([]byte(next))
			return errors.Join(err, a.CloseWrite(), second(io.Copy(c, b)))
		},
		"WriteBuffers": func(_ *testing.T, c *TCPConn) error {
			v := net.Buffers{[]byte("then a "), []byte("longer text")}
			return second(c.WriteBuffers(&v))
		},
		"net.Buffers": func(_ *testing.T, c *TCPConn) error {
			v := net.Buffers{[]byte("then a "), []byte("longer text")}
			return second(v.WriteTo(c))
		},
		"SyscallConn": func(_ *testing.T, c *TCPConn) error {
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			return raw.Write(func(fd uintptr) bool {
				n, again, err := rawio.Send(fd, []byte(next))
				return n == len(next) && !again && err == nil
			})
		},
		"NetConn": func(_ *testing.T, c *TCPConn) error { return second(c.NetConn().Write([]byte(next))) },
		"File": func(t *testing.T, c *TCPConn) error {
			f, err := c.File()
			if err != nil && runtime.GOOS == "windows" {
				t.Skip("no copies of sockets here: ", err)
			}
			require.NoError(t, err)
			return errors.Join(second(f.WriteString(next)), f.Close())
		},
	}
	skipWithoutStaging(t)
	for name, way := range ways {
		for _, end := range []string{"CloseWrite", "Close"} {
			t.Run(name+"/"+end, func(t *testing.T) {
				a, b, release := stagingPair(t)
				for _, word := range []string{"first", " ", "words, "} {
					require.NoError(t, second(a.Write([]byte(word))))
				}
				require.False(t, a.d.stage.idle(), "staged, and still here")
				done := make(chan error, 1)
				go func() {
					done <- errors.Join(way(t, a), second(a.Write([]byte("."))))
				}()
				release()
				require.NoError(t, <-done)
				if end == "Close" {
					require.NoError(t, a.Close())
				} else {
					require.NoError(t, a.CloseWrite())
				}
				got, err := io.ReadAll(b)
				require.NoError(t, err)
				assert.Equal(t, "first words, "+next+".", string(got))
			})
		}
	}
}

// Goal: an end of the connection that a staged write meets is told by a later one.
func TestDirect_StagedWriteFails(t *testing.T) {
	skipWithoutStaging(t)
	a, b, release := stagingPair(t)
	require.NoError(t, b.SetLinger(0))
	require.NoError(t, b.Close())
	release()
	for {
		n, err := a.Write([]byte("x"))
		if err == nil {
			continue
		}
		assert.Zero(t, n)
		assert.True(t, errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET), "%v", err)
		var oe *net.OpError
		require.ErrorAs(t, err, &oe)
		assert.Equal(t, "write", oe.Op)
		break
	}
	require.NoError(t, a.Close())
}

// Goal: what a peer that does not read leaves over is kept in order, bounded, and goes out before FIN,
// whatever the deadline; and neither CloseWrite nor Close waits for it.
func TestDirect_StagedBytesOfASlowPeer(t *testing.T) {
	skipWithoutStaging(t)
	for _, end := range []string{"CloseWrite", "Close"} {
		t.Run(end, func(t *testing.T) {
			a, b, release := stagingPair(t)
			release()
			sent := 0
			require.NoError(t, a.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
			for {
				p := make([]byte, 1000)
				for i := range p {
					p[i] = byte((sent + i) % 251)
				}
				n, err := a.Write(p)
				sent += n
				if err != nil {
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					break
				}
			}
			if end == "Close" {
				require.NoError(t, a.Close())
				require.ErrorIs(t, a.Close(), net.ErrClosed)
				require.ErrorIs(t, a.SetDeadline(time.Time{}), net.ErrClosed)
			} else {
				require.NoError(t, a.CloseWrite())
			}
			n, err := a.Write([]byte("late"))
			assert.Zero(t, n)
			require.Error(t, err)
			got, err := io.ReadAll(b)
			require.NoError(t, err)
			require.Len(t, got, sent)
			for i := range got {
				if got[i] != byte(i%251) {
					t.Fatalf("byte %d of %d is %d", i, sent, got[i])
				}
			}
		})
	}
}

// fill writes until a peer that does not read has had room for no more several times, staged bytes
// included, and returns how much that was.
func fill(t *testing.T, c, peer *TCPConn) (sent int) {
	t.Helper()
	require.NoError(t, c.SetWriteBuffer(8<<10))
	require.NoError(t, peer.SetReadBuffer(8<<10))
	for full := 0; full < 4 || c.d.stage.idle(); {
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := c.Write(make([]byte, 1000))
		sent += n
		switch {
		case err == nil:
			full = 0
		case errors.Is(err, os.ErrDeadlineExceeded):
			full++
		default:
			require.NoError(t, err)
		}
	}
	return sent
}

// Goal: when the last staged bytes find no room for too long they are given up, which the peer gets to
// know; calls on what is closed return meanwhile.
func TestDirect_StagedBytesGivenUp(t *testing.T) {
	skipWithoutStaging(t)
	for name, ends := range map[string][]func(c *TCPConn) error{
		"Close":                 {(*TCPConn).Close},
		"CloseWrite then Close": {(*TCPConn).CloseWrite, (*TCPConn).Close},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, release := stagingPair(t)
			a.d.stage.st.lateClose = 100 * time.Millisecond
			release()
			fill(t, a, b)
			for _, end := range ends {
				require.NoError(t, end(a))
			}
			require.ErrorIs(t, second(a.Write([]byte("late"))), net.ErrClosed)
			require.ErrorIs(t, second(a.ReadFrom(strings.NewReader("late"))), net.ErrClosed)
			for a.d.under.SetReadDeadline(time.Time{}) == nil { // until it is given up
				runtime.Gosched()
			}
			require.False(t, a.d.stage.idle())
			require.ErrorIs(t, second(io.ReadAll(b)), syscall.ECONNRESET)
		})
	}
}

// Goal: calls that wait for staged bytes end by a deadline that is set meanwhile, and by Close.
func TestDirect_WaitingForStagedBytes(t *testing.T) {
	skipWithoutStaging(t)
	for name, end := range map[string]func(c *TCPConn) (want error, err error){
		"deadline": func(c *TCPConn) (error, error) {
			return os.ErrDeadlineExceeded, c.SetWriteDeadline(time.Now().Add(-time.Second))
		},
		"close": func(c *TCPConn) (error, error) { return net.ErrClosed, c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, release := stagingPair(t)
			require.NoError(t, second(a.Write([]byte("staged"))))
			result := make(chan error, 1)
			go func() { result <- second(a.Write(make([]byte, 1<<20))) }()
			for a.d.stage.waiting.Load() == 0 {
				runtime.Gosched()
			}
			want, err := end(a)
			require.NoError(t, err)
			require.ErrorIs(t, <-result, want)
			release()
			buf := make([]byte, 6)
			_, err = io.ReadFull(b, buf)
			require.NoError(t, err)
			assert.Equal(t, "staged", string(buf))
		})
	}
}

// Goal: staging turns itself on where several goroutines write at about the same time, and off where
// one does.
func TestStager_FindsOutWhetherItPays(t *testing.T) {
	st := newStager(StageAuto, nil)
	require.False(t, st.active.Load())
	for range stageProbes {
		st.judge(stageWorth, 0)
	}
	require.True(t, st.active.Load(), "probes found batches")
	for range 100 {
		st.judge(stageWorth, 0)
	}
	require.True(t, st.active.Load())
	for range 100 {
		st.judge(1, 0)
	}
	require.False(t, st.active.Load(), "batches of one")
	for range stageProbes - 1 {
		st.judge(stageWorth, 0)
	}
	st.judge(1, 0)
	st.judge(stageWorth, 0)
	require.False(t, st.active.Load(), "probes in a row")
	st.judge(stageWorth, 0)
	require.True(t, st.active.Load())
	for range stageLateMax {
		require.True(t, st.active.Load())
		st.judge(stageWorth, 2*stageLate)
	}
	require.False(t, st.active.Load(), "late")
	on := newStager(StageOn, nil)
	on.judge(1, time.Second)
	require.True(t, on.active.Load())
}

// Goal: without a driver nothing is staged, and the attempt is not made at every write.
func TestStager_NoDriver(t *testing.T) {
	skipWithoutStaging(t)
	asked := 0
	st := newStager(StageOn, func() (core.Config, error) {
		asked++
		return core.Config{}, errors.New("none")
	})
	a, b := connected(t)
	c := newTCPConn(a.tcp, "tcp", nil, st)
	for range 2 * stageProbeEvery {
		require.NoError(t, second(c.Write([]byte("x"))))
	}
	require.False(t, st.active.Load())
	require.LessOrEqual(t, asked, 1)
	require.Zero(t, st.counted())
	got := make([]byte, 2*stageProbeEvery)
	_, err := io.ReadFull(b, got)
	require.NoError(t, err)
}

// Goal: connections outlive the runtime that staged their writes.
func TestStager_RuntimeEnds(t *testing.T) {
	skipWithoutStaging(t)
	rt, err := New(Config{Workers: 1, Stage: StageOn})
	require.NoError(t, err)
	under, b := connected(t)
	a := newTCPConn(under.tcp, "tcp", nil, rt.stager)
	require.NoError(t, second(a.Write([]byte("before "))))
	require.NoError(t, rt.Close())
	require.NoError(t, second(a.Write([]byte("after"))))
	require.NoError(t, a.Close())
	got, err := io.ReadAll(b)
	require.NoError(t, err)
	assert.Equal(t, "before after", string(got))
}

func skipWithoutStaging(t *testing.T) {
	t.Helper()
	if !core.SharesSockets || !rawio.Available {
		t.Skip("nothing is staged here")
	}
}

func second[T any](_ T, err error) error { return err }
