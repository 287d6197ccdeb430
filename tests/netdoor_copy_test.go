package tests

// io.Copy and net.Buffers with connections of the net door: the same bytes and results as with package
// net's, and without taking them into the program where that is possible.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// dropPipes has the pipes dropped, at the end of the test, that package net keeps for splice: until the
// collector has passed them by twice they look like a leak.
func dropPipes(t *testing.T) { t.Cleanup(settleMemory) }

// countedFile is a file that counts its reads: sendfile makes none.
type countedFile struct {
	*os.File
	reads int
}

func (f *countedFile) Read(p []byte) (int, error) {
	f.reads++
	return f.File.Read(p)
}

// someFile is a file of n bytes of a pattern, removed at the end of the test.
func someFile(t *testing.T, n int) *countedFile {
	t.Helper()
	f, err := os.CreateTemp("", "veloq")
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	})
	p := newPattern(7)
	for left := n; left > 0; {
		b := p.next(min(left, 100_000))
		_, err := f.Write(b)
		require.NoError(t, err)
		left -= len(b)
	}
	_, err = f.Seek(0, io.SeekStart)
	require.NoError(t, err)
	return &countedFile{File: f}
}

// Goal: what a TCPConn sends by ReadFrom arrives whole, from every kind of source, bounded or not; the
// count, what is left of the bound, and the errors are package net's; files are never read.
func TestNetdoorCopy_ReadFrom(t *testing.T) {
	const size = 60_000
	sameAsNet(t, []string{"tcp"}, func(t *testing.T, p netPackage, network string, seen *protocol) {
		dropPipes(t)
		sources := []struct {
			name string
			make func(t *testing.T) (r io.Reader, begin func())
		}{
			{"file", func(t *testing.T) (io.Reader, func()) { return someFile(t, size), nil }},
			{"memory", func(t *testing.T) (io.Reader, func()) {
				f := someFile(t, size)
				b, err := io.ReadAll(f.File)
				require.NoError(t, err)
				return bytes.NewReader(b), nil
			}},
			{"tcp", func(t *testing.T) (io.Reader, func()) { return sourceConn(t, p, "tcp", size) }},
			{"unix", func(t *testing.T) (io.Reader, func()) {
				needNetwork(t, "unix")
				return sourceConn(t, p, "unix", size)
			}},
			{"failing", func(*testing.T) (io.Reader, func()) {
				return io.MultiReader(strings.NewReader("abc"), errorReader{}), nil
			}},
		}
		for _, source := range sources {
			for _, limit := range []int64{-1, 0, 50_000, size, size + 1} {
				t.Run(fmt.Sprint(source.name, " ", limit), func(t *testing.T) {
					c, s := pair(t, p, network)
					r, begin := source.make(t)
					file, _ := r.(*countedFile)
					limited := &io.LimitedReader{R: r, N: limit}
					if limit >= 0 {
						r = limited
					}
					received := make(chan error, 1)
					var got bytes.Buffer
					go func() {
						_, err := io.Copy(&got, s)
						received <- err
					}()
					if begin != nil {
						go begin()
					}
					n, err := c.(io.ReaderFrom).ReadFrom(r)
					seen.note(t.Name()[strings.LastIndex(t.Name(), "/")+1:]+fmt.Sprint(" left ", limited.N), c, n, err)
					require.NoError(t, c.CloseWrite())
					require.NoError(t, await(t, "Copy", received))
					require.EqualValues(t, n, got.Len())
					if source.name != "failing" {
						require.NoError(t, newPattern(7).check(got.Bytes()))
					}
					if file != nil && runtime.GOOS == "linux" {
						assert.Zero(t, file.reads, "read, not sent by sendfile")
					}
				})
			}
		}
	})
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("on purpose") }

// sourceConn is a connection that n bytes of the pattern come from, and then the end.
func sourceConn(t *testing.T, p netPackage, network string, n int) (r io.Reader, begin func()) {
	t.Helper()
	c, s := pair(t, p, network)
	return s, func() {
		b := newPattern(7)
		for left := n; left > 0; {
			m := min(left, 30_000)
			if _, err := c.Write(b.next(m)); err != nil {
				return // the reader has had enough
			}
			left -= m
		}
		_ = c.CloseWrite()
	}
}

// Goal: WriteTo and io.Copy from a TCPConn, to every kind of destination.
func TestNetdoorCopy_WriteTo(t *testing.T) {
	const size = 60_000
	for _, copyIt := range []struct {
		name string
		fn   func(w io.Writer, c fullConn) (int64, error)
	}{
		{"WriteTo", func(w io.Writer, c fullConn) (int64, error) { return c.(io.WriterTo).WriteTo(w) }},
		{"Copy", func(w io.Writer, c fullConn) (int64, error) { return io.Copy(w, c) }},
		{"CopyN", func(w io.Writer, c fullConn) (int64, error) { return io.CopyN(w, c, size) }},
	} {
		t.Run(copyIt.name, func(t *testing.T) {
			sameAsNet(t, []string{"tcp"}, func(t *testing.T, p netPackage, network string, seen *protocol) {
				dropPipes(t)
				for _, kind := range []string{"memory", "bufio", "file", "tcp", "unix", "net's tcp", "net's unix", "closed"} {
					t.Run(kind, func(t *testing.T) {
						r, begin := sourceConn(t, p, network, size)
						c := r.(fullConn)
						go begin()
						got, w := destination(t, p, kind)
						n, err := copyIt.fn(w, c)
						if kind == "closed" {
							// How much was received until the failure differs from run to run.
							seen.note(kind, c, n == 0, shorter(err))
							return
						}
						seen.note(kind, c, n, err)
						require.NoError(t, newPattern(7).check(got()))
					})
				}
			})
		})
	}
}

// shorter takes the outer layers off: those below name another connection.
func shorter(err error) error {
	for {
		oe, ok := err.(*net.OpError) //nolint:errorlint // one layer at a time
		if !ok {
			return err
		}
		err = oe.Err
	}
}

// destination is something to write to, and what arrived there.
func destination(t *testing.T, p netPackage, kind string) (got func() []byte, w io.Writer) {
	t.Helper()
	network := kind
	switch kind {
	case "memory":
		b := &bytes.Buffer{}
		return b.Bytes, b
	case "bufio":
		b := &bytes.Buffer{}
		buffered := bufio.NewWriter(b)
		return func() []byte {
			require.NoError(t, buffered.Flush())
			return b.Bytes()
		}, buffered
	case "file":
		f := someFile(t, 0)
		return func() []byte {
			b, err := os.ReadFile(filepath.Clean(f.Name()))
			require.NoError(t, err)
			return b
		}, f.File
	case "net's tcp", "net's unix":
		p, network = netPackages[0], strings.TrimPrefix(kind, "net's ")
	case "closed":
		c, _ := pair(t, p, "tcp")
		require.NoError(t, c.Close())
		return nil, c
	}
	c, s := pair(t, p, network)
	received := make(chan []byte, 1)
	go func() {
		b, err := io.ReadAll(s)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		received <- b
	}()
	return func() []byte {
		require.NoError(t, c.CloseWrite())
		return await(t, "receiver", received)
	}, c
}

// Goal: several buffers go out as one write: the peer of a socket of packets gets one. What was sent is
// taken from them, and writers don't mix.
func TestNetdoorCopy_WriteBuffers(t *testing.T) {
	t.Run("unixpacket", func(t *testing.T) {
		noLeak(t)
		c, s := pair(t, netPackages[1], "unixpacket")
		v := net.Buffers{[]byte("one "), nil, []byte("packet "), []byte("of four")}
		n, err := c.(*veloq.UnixConn).WriteBuffers(&v)
		require.NoError(t, err)
		assert.EqualValues(t, 18, n)
		assert.Empty(t, v)
		buf := make([]byte, 64)
		m, err := s.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, "one packet of four", string(buf[:m]))
	})
	t.Run("tcp", func(t *testing.T) {
		if resetReadsAsEnd() {
			t.Skip("package net gathers all buffers in one WSASend, and Wine refuses so many")
		}
		noLeak(t)
		c, s := pair(t, netPackages[1], "tcp")
		total := 0
		var v net.Buffers
		for i := range 3000 { // more than one writev takes
			b := newPattern(7).block[total : total+i%700]
			total += len(b)
			v = append(v, b)
		}
		sent := make(chan error, 1)
		go func() {
			n, err := c.(*veloq.TCPConn).WriteBuffers(&v)
			if err == nil && n != int64(total) {
				err = fmt.Errorf("%d of %d", n, total)
			}
			sent <- errors.Join(err, c.CloseWrite())
		}()
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.NoError(t, await(t, "WriteBuffers", sent))
		assert.Len(t, got, total)
		assert.True(t, bytes.HasPrefix(newPattern(7).block, got), "other bytes than were sent")
		require.NoError(t, c.Close())
		v = net.Buffers{[]byte("x")}
		_, err = c.(*veloq.TCPConn).WriteBuffers(&v)
		require.ErrorIs(t, err, net.ErrClosed)
		var oe *net.OpError
		require.ErrorAs(t, err, &oe)
		assert.Equal(t, "writev", oe.Op)
	})
	t.Run("net.Buffers.WriteTo", func(t *testing.T) {
		noLeak(t)
		c, s := pair(t, netPackages[1], "tcp")
		v := net.Buffers{[]byte("in "), []byte("order")}
		n, err := v.WriteTo(c)
		require.NoError(t, err)
		assert.EqualValues(t, 8, n)
		buf := make([]byte, 8)
		_, err = io.ReadFull(s, buf)
		require.NoError(t, err)
		assert.Equal(t, "in order", string(buf))
	})
}
