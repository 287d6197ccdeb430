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
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
			c := newTCPConn(b.tcp, "tcp", []byte("was there "))
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
		c := newTCPConn(b.tcp, "tcp", []byte("kept"))
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

// notebook stages what is short, and sends it to the socket when it is flushed.
type notebook struct {
	mu      sync.Mutex
	c       *TCPConn
	kept    []byte
	staged  int
	refused error
}

func (n *notebook) stage(p []byte) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused != nil || len(p) > 8 {
		return false, n.refused
	}
	n.kept = append(n.kept, p...)
	n.staged++
	return true, nil
}

func (n *notebook) flush() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.kept) == 0 {
		return nil
	}
	_, err := n.c.tcp.Write(n.kept)
	n.kept = nil
	return err
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
	for name, way := range ways {
		for _, end := range []string{"CloseWrite", "Close"} {
			t.Run(name+"/"+end, func(t *testing.T) {
				if name == "SyscallConn" && !rawio.Available {
					t.Skip("no raw calls here")
				}
				a, b := connected(t)
				n := &notebook{c: a}
				a.d.stage.by = n
				for _, word := range []string{"first", " ", "words, "} {
					require.NoError(t, second(a.Write([]byte(word))))
				}
				require.Equal(t, 3, n.staged)
				require.NoError(t, way(t, a))
				require.NoError(t, second(a.Write([]byte(".")))) // the last bytes, staged again
				require.Equal(t, name == "NetConn" || name == "File", n.staged == 3+piecesStaged(name))
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
	t.Run("an error comes out of the next Write", func(t *testing.T) {
		a, _ := connected(t)
		broken := errors.New("on purpose")
		a.d.stage.by = &notebook{c: a, refused: broken}
		n, err := a.Write([]byte("x"))
		assert.Zero(t, n)
		require.ErrorIs(t, err, broken)
		var oe *net.OpError
		require.ErrorAs(t, err, &oe)
		assert.Equal(t, "write", oe.Op)
	})
}

// piecesStaged is how many of a way's own writes are short enough.
func piecesStaged(way string) int {
	if way == "net.Buffers" {
		return 1
	}
	return 0
}

func second[T any](_ T, err error) error { return err }
