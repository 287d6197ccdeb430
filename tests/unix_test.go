package tests

// Unix sockets on the worker doors: streams and datagrams, their paths and their addresses, against
// package net's.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// hasUnixSockets asks what was tried out.
func hasUnixSockets(t *testing.T) bool {
	t.Helper()
	return slices.Contains(newRuntime(t, veloq.Config{Workers: 1}).Report().Sockets, "UNIX")
}

// Goal: where the system has no unix sockets, its own error says so.
func TestUnix_SystemWithout(t *testing.T) {
	if hasUnixSockets(t) {
		t.Skip("this system has them")
	}
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		_, err := c.Listen("unix", "vq.sock")
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, "listen", op.Op)
		require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
		_, err = c.Dial("unix", "vq.sock")
		require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
		return nil
	}))
}

// workerSocketPath is socketPath where the worker doors have unix sockets.
func workerSocketPath(t *testing.T) string {
	t.Helper()
	if !hasUnixSockets(t) {
		t.Skip("this system has no unix sockets")
	}
	return socketPath(t)
}

func gone(t *testing.T, path string) {
	t.Helper()
	_, err := os.Lstat(path)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// startUnixEcho serves echo on path by that door.
func startUnixEcho(t *testing.T, rt *veloq.Runtime, lc veloq.ListenConfig, door, path string) *veloq.Server {
	t.Helper()
	var s *veloq.Server
	var err error
	if door == "handler" {
		s, err = lc.StartHandler(context.Background(), rt, "unix", path, &echoHandler{})
	} else {
		s, err = lc.Start(context.Background(), rt, "unix", path, echoTask)
	}
	require.NoError(t, err)
	t.Cleanup(func() { bounded(t, "Server.Close", s.Close) })
	return s
}

// Goal: both doors echo over a unix socket, every byte checked, with package net's client and with a
// task's; half-close works; the path is gone at the end.
func TestUnix_StreamEcho(t *testing.T) {
	total := sized(64<<20, 8<<20, 1<<20)
	forAll(t, func(t *testing.T, sh shape, door string) {
		path := workerSocketPath(t)
		noLeak(t)
		rt := newRuntime(t, sh.config)
		s := startUnixEcho(t, rt, sh.listen, door, path)
		assert.Equal(t, &net.UnixAddr{Name: path, Net: "unix"}, s.Addr())
		before := holds(rt)

		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		go func() {
			bytes := newPattern(3)
			for left := total; left > 0; {
				n := min(left, 30011)
				if _, err := conn.Write(bytes.next(n)); err != nil {
					return // the reader says what was missing
				}
				left -= n
			}
			_ = conn.(*net.UnixConn).CloseWrite()
		}()
		bytes := newPattern(3)
		got, buf := 0, make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			require.NoError(t, bytes.check(buf[:n]))
			got += n
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
		}
		assert.Equal(t, total, got)
		require.NoError(t, conn.Close())

		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
			d, err := c.Dial("unix", path)
			if err != nil {
				return err
			}
			defer func() { _ = d.Close() }()
			assert.Equal(t, &net.UnixAddr{Name: path, Net: "unix"}, d.RemoteAddr())
			assert.Equal(t, &net.UnixAddr{Net: "unix"}, d.LocalAddr())
			for i := range 100 {
				if err := roundTrip(d, fmt.Appendf(nil, "hello %d", i)); err != nil {
					return err
				}
			}
			return nil
		}))
		settled(t, rt, before)
		bounded(t, "Close", s.Close)
		gone(t, path)
	})
}

// Goal: paths are removed at the close, or not where that was asked for; abstract names have none.
func TestUnix_Paths(t *testing.T) {
	path := workerSocketPath(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		l, err := c.Listen("unix", path)
		if err != nil {
			return err
		}
		_, err = c.Listen("unix", path)
		assert.ErrorIs(t, err, syscall.EADDRINUSE)
		if err := l.Close(); err != nil {
			return err
		}
		gone(t, path)
		l, err = c.Listen("unix", path)
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			return err
		}
		_, err = os.Lstat(path)
		assert.NoError(t, err)
		// What is left refuses, as a dead server's does: as soon as the socket is closed.
		for err = nil; err == nil; {
			var s *veloq.Stream
			if s, err = c.Dial("unix", path); err == nil {
				err = errors.Join(s.Close(), c.Sleep(time.Millisecond))
			}
		}
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, netErr := net.Dial("unix", path)
		assert.Equal(t, fieldsOf(t, netErr), fieldsOf(t, err))
		if err := os.Remove(path); err != nil {
			return err
		}
		_, err = c.Dial("unix", path)
		assert.ErrorIs(t, err, syscall.ENOENT)
		if runtime.GOOS != "linux" {
			return nil
		}
		name := fmt.Sprintf("@veloq-%d", os.Getpid())
		l, err = c.Listen("unix", name)
		if err != nil {
			return err
		}
		assert.Equal(t, &net.UnixAddr{Name: name, Net: "unix"}, l.Addr())
		d, err := c.Dial("unix", name)
		if err != nil {
			return err
		}
		s, err := l.Accept()
		if err != nil {
			return err
		}
		assert.Equal(t, name, s.LocalAddr().String())
		assert.Equal(t, name, d.RemoteAddr().String())
		return errors.Join(s.Close(), d.Close(), l.Close())
	}))
}

// Goal: bad paths give what package net gives.
func TestUnix_Errors(t *testing.T) {
	path := workerSocketPath(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	tooLong := strings.Repeat("x", 109)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for _, address := range []string{tooLong, strings.Repeat("x", 108), filepath.Join(path, "no", "folder")} {
			_, err := c.Listen("unix", address)
			_, netErr := net.Listen("unix", address)
			assert.Equal(t, fieldsOf(t, netErr), fieldsOf(t, err))
			_, err = c.Dial("unix", address)
			_, netErr = net.Dial("unix", address)
			assert.Equal(t, fieldsOf(t, netErr), fieldsOf(t, err))
			_, err = c.ListenDatagram("unixgram", address)
			_, netErr = net.ListenPacket("unixgram", address)
			assert.Equal(t, fieldsOf(t, netErr), fieldsOf(t, err))
			_, err = c.DialDatagram("unixgram", address)
			_, netErr = net.Dial("unixgram", address)
			assert.Equal(t, fieldsOf(t, netErr), fieldsOf(t, err))
		}
		// Messages that must not be torn are no stream.
		_, err := c.Listen("unixpacket", path)
		assert.ErrorAs(t, err, new(net.UnknownNetworkError))
		_, err = c.Dial("unixpacket", path)
		assert.ErrorAs(t, err, new(net.UnknownNetworkError))
		_, err = (&veloq.Dialer{LocalAddr: &net.TCPAddr{}}).DialStream(c, "unix", path)
		assert.ErrorContains(t, err, "mismatched local address type")
		_, err = (&veloq.Dialer{LocalAddr: &net.UnixAddr{}}).DialStream(c, "tcp", "127.0.0.1:1")
		assert.ErrorContains(t, err, "mismatched local address type")
		return nil
	}))
	_, err := (&veloq.ListenConfig{}).Start(context.Background(), rt, "unix", tooLong, echoTask)
	assert.ErrorIs(t, err, syscall.EINVAL)
}

// Goal: a dial to a listener whose queue is full waits, for its timeout or for room, and leaks no EAGAIN.
func TestUnix_DialQueueFull(t *testing.T) {
	path := workerSocketPath(t)
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	// A listener of the test's own, with room for one.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer func() { _ = syscall.Close(fd) }()
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	require.NoError(t, syscall.Listen(fd, 0))
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		var open []*veloq.Stream
		dialer := &veloq.Dialer{Timeout: 50 * time.Millisecond}
		var err error
		for range 10 {
			var s *veloq.Stream
			if s, err = dialer.DialStream(c, "unix", path); err != nil {
				break
			}
			open = append(open, s)
		}
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		waits := veloq.SpawnLocal(c, func(c *veloq.Context) (*veloq.Stream, error) { return c.Dial("unix", path) })
		if err := c.Sleep(20 * time.Millisecond); err != nil {
			return err
		}
		for range open {
			peer, _, err := syscall.Accept(fd)
			if err != nil {
				return err
			}
			defer func() { _ = syscall.Close(peer) }()
		}
		s, err := waits.Join(c)
		if err != nil {
			return err
		}
		open = append(open, s)
		for _, s := range open {
			if err := s.Close(); err != nil {
				return err
			}
		}
		return nil
	}))
}

// ---- datagrams

func TestUnix_DatagramEcho(t *testing.T) {
	path := workerSocketPath(t)
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	s, err := (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "unixgram", path,
		func(_ *veloq.Context, d *veloq.Datagram) error {
			for {
				p, err := d.Recv()
				if err != nil {
					return err
				}
				err = d.SendMessage(&veloq.Message{Data: p.Data.Bytes(), Path: p.Path})
				p.Release()
				if err != nil {
					return err
				}
			}
		})
	require.NoError(t, err)
	assert.Equal(t, &net.UnixAddr{Name: path, Net: "unixgram"}, s.Addr())
	mine := path + "c"
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := (&veloq.Dialer{LocalAddr: &net.UnixAddr{Name: mine, Net: "unixgram"}}).DialDatagram(c, "unixgram", path)
		if err != nil {
			return err
		}
		bytes := newPattern(1)
		for i := range 200 {
			b := bytes.next(i * 331 % 60000)
			if err := d.Send(b); err != nil {
				return err
			}
			if err := expect(d, b); err != nil {
				return fmt.Errorf("datagram %d of %d bytes: %w", i, len(b), err)
			}
		}
		return d.Close()
	}))
	eventually(t, "the client's path gone", func() (bool, any) {
		_, err := os.Lstat(mine)
		return errors.Is(err, os.ErrNotExist), err
	})
	bounded(t, "Close", s.Close)
	gone(t, path)
}

// senderTo returns a socket that sends to path, connected or not, and a message for it to send.
func senderTo(c *veloq.Context, path string, connected bool) (d *veloq.Datagram, m *veloq.Message, err error) {
	m = &veloq.Message{Data: make([]byte, 1000)}
	if connected {
		d, err = c.DialDatagram("unixgram", path)
	} else {
		d, err = c.ListenDatagram("unixgram", "")
		m.Path = path
	}
	return d, m, err
}

// fillQueue sends m until there is no room.
func fillQueue(t *testing.T, d *veloq.Datagram, m *veloq.Message) {
	var err error
	for err == nil {
		err = d.TrySend(m)
	}
	assert.ErrorIs(t, err, veloq.ErrFull)
}

// Goal: a receiver that is slow holds up the sender, and nothing is lost or overtaken: connected, and
// unconnected, where nothing tells of room.
func TestUnix_DatagramOrderUnderPressure(t *testing.T) {
	count := sized(20000, 5000, 1000)
	for _, connected := range []bool{true, false} {
		for _, sh := range packetShapes() {
			t.Run(fmt.Sprintf("%s/connected=%v", sh.name, connected), func(t *testing.T) {
				path := workerSocketPath(t)
				rt := newPacketRuntime(t, sh.config)
				// Package net's, which reads one by one and so is behind.
				to, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
				require.NoError(t, err)
				defer func() { _ = to.Close() }()
				require.NoError(t, to.SetReadDeadline(time.Now().Add(patience)))
				sender := veloq.SpawnTo(rt, rt.Workers()-1, func(c *veloq.Context) (struct{}, error) {
					d, m, err := senderTo(c, path, connected)
					if err != nil {
						return struct{}{}, err
					}
					bytes := newPattern(2)
					for i := range count {
						m.Data = append(fmt.Appendf(m.Data[:0], "%d ", i), bytes.next(600)...)
						if err := d.SendMessage(m); err != nil {
							return struct{}{}, fmt.Errorf("datagram %d: %w", i, err)
						}
					}
					return struct{}{}, errors.Join(d.Flush(), d.Close())
				})
				eventually(t, "the receiver is behind", func() (bool, any) {
					short := totals(rt).QuietShort
					return short > 0, short
				})
				bytes := newPattern(2)
				buf := make([]byte, 4096)
				for i := range count {
					n, err := to.Read(buf)
					require.NoError(t, err)
					want := fmt.Sprintf("%d ", i)
					require.Equal(t, want, string(buf[:min(len(want), n)]))
					require.NoError(t, bytes.check(buf[len(want):n]))
				}
				require.NoError(t, join(t, sender))
			})
		}
	}
}

// fullHandler sends to a receiver that does not read, until it is refused.
type fullHandler struct {
	veloq.DatagramHandlerBase
	path     string
	sent     atomic.Int32
	refused  chan error
	writable chan struct{}
}

func (h *fullHandler) OnPackets(_ *veloq.Context, d *veloq.Datagram, _ []veloq.Packet) {
	for {
		if err := d.SendMessage(&veloq.Message{Data: bytes.Repeat([]byte("f"), 500), Path: h.path}); err != nil {
			h.refused <- err
			return
		}
		h.sent.Add(1)
	}
}

func (h *fullHandler) OnWritable(*veloq.Context, *veloq.Datagram) { h.writable <- struct{}{} }

// Goal: a handler's sends are bounded by Config.WriteHigh; it hears when there is room, and what was
// accepted arrives.
func TestUnix_DatagramHandlerFull(t *testing.T) {
	path := workerSocketPath(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, WriteHigh: 64 << 10})
	to, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = to.Close() }()
	h := &fullHandler{path: path, refused: make(chan error, 1), writable: make(chan struct{}, 1)}
	server := path + "h"
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "unixgram", server, h)
	require.NoError(t, err)
	defer bounded(t, "Close", s.Close)
	conn, err := net.Dial("unixgram", server)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("go"))
	require.NoError(t, err)
	assert.ErrorIs(t, await(t, "the refusal", h.refused), veloq.ErrFull)
	assert.Greater(t, int(h.sent.Load())*500, 32<<10)
	assert.Less(t, int(h.sent.Load())*500, 80<<10)
	require.NoError(t, to.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1000)
	for range h.sent.Load() {
		n, err := to.Read(buf)
		require.NoError(t, err)
		require.Equal(t, 500, n)
	}
	await(t, "OnWritable", h.writable)
}

// Goal: TrySend never waits, a Send that waits ends by its deadline, its cancel and the close; a close
// gives up after Config.CloseTimeout on a receiver that does not read.
func TestUnix_DatagramFullEnds(t *testing.T) {
	path := workerSocketPath(t)
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, WriteHigh: 16 << 10, CloseTimeout: 20 * time.Millisecond})
	to, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = to.Close() }()
	before := holds(rt)
	for _, connected := range []bool{true, false} {
		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
			d, m, err := senderTo(c, path, connected)
			if err != nil {
				return err
			}
			fillQueue(t, d, m)
			// Room for a few that the receiver's queue takes; then none.
			if err := d.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				return err
			}
			for err = nil; err == nil; {
				err = d.SendMessage(m)
			}
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			if err := d.SetWriteDeadline(time.Time{}); err != nil {
				return err
			}
			waits := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) { return 0, d.SendMessage(m) })
			flushes := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) { return 0, d.Flush() })
			if err := c.Sleep(2 * time.Millisecond); err != nil {
				return err
			}
			waits.Cancel()
			_, err = waits.Join(c)
			assert.ErrorIs(t, err, context.Canceled)
			if err := d.Close(); err != nil {
				return err
			}
			_, err = flushes.Join(c)
			assert.ErrorIs(t, err, net.ErrClosed)
			return nil
		}))
		settled(t, rt, before)
	}
}

// Goal: a send that waits for room costs the worker next to nothing. Method: its turns are counted while
// it waits; one that asked again and again would make tens of thousands.
func TestUnix_DatagramWaitsQuietly(t *testing.T) {
	path := workerSocketPath(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, WriteHigh: 16 << 10})
	to, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = to.Close() }()
	for _, connected := range []bool{true, false} {
		full := make(chan struct{})
		h := veloq.Spawn(rt, func(c *veloq.Context) (struct{}, error) {
			d, m, err := senderTo(c, path, connected)
			if err != nil {
				return struct{}{}, err
			}
			fillQueue(t, d, m)
			close(full)
			return struct{}{}, d.Flush()
		})
		await(t, "a full queue", full)
		before := totals(rt).Turns
		time.Sleep(100 * time.Millisecond) // the time in which turns are counted
		turns := totals(rt).Turns - before
		assert.Less(t, turns, uint64(2000), "connected: %v", connected)
		h.Cancel()
		assert.ErrorIs(t, join(t, h), context.Canceled)
	}
}
