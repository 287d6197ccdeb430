package tests

// What streams offer on both doors, beyond echo.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// withPeer runs fn as a task with a stream and its plain other end.
func withPeer(t *testing.T, sh shape, fn func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error) {
	t.Helper()
	rt := newRuntime(t, sh.config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	before := holds(rt)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		return fn(c, s, conn.(*net.TCPConn))
	}))
	settled(t, rt, before)
}

func forShapes(t *testing.T, fn func(t *testing.T, sh shape)) {
	for _, sh := range shapes() {
		t.Run(sh.name, func(t *testing.T) { fn(t, sh) })
	}
}

// Goal: Peek, Next, Skip, ReadLease, ReadFull and Read, mixed at random, see one and the same stream.
func TestStream_ReadsMixed(t *testing.T) {
	noLeak(t)
	total := sized(64<<20, 2<<20, 300_000)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			go func() {
				r, p := rand.New(rand.NewPCG(3, 3)), newPattern(21)
				for left := total; left > 0; {
					n := min(1+r.IntN(30_000), left)
					if _, err := peer.Write(p.next(n)); err != nil {
						return
					}
					left -= n
				}
				_ = peer.CloseWrite()
			}()
			r, p := rand.New(rand.NewPCG(4, 4)), newPattern(21)
			buf := make([]byte, 5000)
			for left := total; left > 0; {
				n := min(1+r.IntN(3000), left)
				var got []byte
				var err error
				switch r.IntN(7) {
				case 0:
					n, err = s.Read(buf[:n])
					got = buf[:n]
				case 1:
					n, err = s.ReadFull(buf[:n])
					got = buf[:n]
				case 2:
					got, err = s.Next(n)
				case 3: // what Peek shows is there afterwards
					var b []byte
					if b, err = s.Peek(n); err == nil {
						seen := *p
						err = seen.check(b)
					}
				case 4:
					if n, err = s.Skip(n); err == nil {
						p.next(n)
						left -= n
					}
				case 5:
					var l veloq.Lease
					if l, err = s.ReadLease(); err == nil {
						got = bytes.Clone(l.Bytes())
						l.Release()
					}
				case 6:
					err = c.Yield()
				}
				if err == nil {
					err = p.check(got)
				}
				if err != nil {
					return fmt.Errorf("%d left: %w", left, err)
				}
				left -= len(got)
			}
			if n, err := s.Read(buf); n != 0 || err != io.EOF { //nolint:errorlint // bare
				return fmt.Errorf("at the end: %d, %w", n, err)
			}
			return nil
		})
	})
}

// Goal: a Peek for the whole ReadLimit gets it, also when the receive had been stopped for too many
// unread bytes and not all of them are gone.
func TestStream_PeekAfterReceiveStopped(t *testing.T) {
	noLeak(t)
	const limit = 16 << 10
	sh := shape{config: veloq.Config{Workers: 1, ReadLimit: limit}}
	withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
		_ = peer.SetWriteBuffer(limit)
		// A small buffer of the kernel's, so that there is more to come than it had at the stop.
		if err := s.SetReadBuffer(limit); err != nil {
			return err
		}
		asked := make(chan struct{})
		go func() {
			_, _ = peer.Write(patternBlock()[:60*limit])
			select {
			case <-asked: // all of that may have arrived before the stop
				_, _ = peer.Write(patternBlock()[60*limit : 61*limit])
			case <-c.Done():
			}
		}()
		for s.Buffered() < limit {
			if err := c.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		_ = c.Sleep(5 * time.Millisecond) // so that the stop has taken effect
		all, err := s.Peek(s.Buffered())
		if err != nil {
			return fmt.Errorf("peek at what is there: %w", err)
		}
		if !bytes.Equal(all, patternBlock()[:len(all)]) {
			return errors.New("wrong bytes")
		}
		// Down to three quarters of the limit.
		skip := s.Buffered() - limit*3/4
		if _, err := s.Skip(skip); err != nil {
			return err
		}
		close(asked)
		b, err := s.Peek(limit)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, patternBlock()[skip:skip+limit]) {
			return errors.New("wrong bytes")
		}
		return nil
	})
}

// Goal: a Close takes effect whose cancel goes out along with the receive that it is to end, which has
// more to read than the kernel gives at once.
func TestStream_CloseOfAReceiveJustBegun(t *testing.T) {
	noLeak(t)
	const limit = 1 << 10
	rt := newRuntime(t, veloq.Config{Workers: 1, ReadLimit: limit, BufferCount: 1024, BufferSize: limit})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	before := holds(rt)
	var peer net.Conn
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		if peer, err = l.Accept(); err != nil {
			return err
		}
		if _, err := peer.Write(patternBlock()[:limit]); err != nil {
			return err
		}
		if _, err := s.Peek(limit); err != nil {
			return err
		}
		_ = c.Sleep(5 * time.Millisecond) // so that the stop has taken effect
		if _, err := peer.Write(patternBlock()[:100*limit]); err != nil {
			return err
		}
		_, err = s.Skip(limit)
		return err
	}))
	defer func() { _ = peer.Close() }() // which would end the receive
	settled(t, rt, before)
}

// Goal: the writes of several tasks on one stream come out whole and, each task's, in order; those of
// tasks that are cancelled hold nobody up.
func TestStream_ManyWriters(t *testing.T) {
	noLeak(t)
	rounds := sized(400, 40, 10)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			const writers = 6
			checked := make(chan error, 1)
			go func() { checked <- checkFrames(peer, writers, rounds) }()
			var hs []*veloq.LocalHandle[struct{}]
			for id := range writers {
				hs = append(hs, veloq.SpawnLocal(c, func(c *veloq.Context) (struct{}, error) {
					for i := range rounds {
						body := bytes.Repeat([]byte{byte(id)}, 1+(i*7919+id)%40_000)
						head := []byte{byte(id), byte(i), byte(len(body)), byte(len(body) >> 8), byte(len(body) >> 16)}
						// In parts of small and large sizes.
						cut := len(body) / 3
						n, err := s.Writev([][]byte{head, body[:cut], nil, body[cut:]})
						if err != nil || n != int64(len(head)+len(body)) {
							return struct{}{}, fmt.Errorf("writev %d: %w", n, err)
						}
						if i%3 == 0 {
							_ = c.Yield()
						}
					}
					return struct{}{}, nil
				}))
			}
			for _, h := range hs {
				if _, err := h.Join(c); err != nil {
					return err
				}
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
			for len(checked) == 0 {
				if err := c.Sleep(time.Millisecond); err != nil {
					return err
				}
			}
			return <-checked
		})
	})
}

func checkFrames(r io.Reader, writers, rounds int) error {
	next := make([]int, writers)
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(r, head); err == io.EOF { //nolint:errorlint // bare
			break
		} else if err != nil {
			return err
		}
		id, size := int(head[0]), int(head[2])|int(head[3])<<8|int(head[4])<<16
		if id >= writers || head[1] != byte(next[id]) {
			return fmt.Errorf("frame %v where %v are due", head, next)
		}
		next[id]++
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		if i := bytes.IndexFunc(body, func(b rune) bool { return b != rune(id) }); i >= 0 {
			return fmt.Errorf("frame of %d: another's byte at %d", id, i)
		}
	}
	for id, n := range next {
		if n != rounds {
			return fmt.Errorf("writer %d: %d of %d frames", id, n, rounds)
		}
	}
	return nil
}

// Goal: when the writer and the one next in line are both cancelled, the third gets its turn.
func TestStream_QueuedWriterCancelled(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			piece := make([]byte, 10<<10)
			sent := 0
			fill := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) {
				for {
					n, err := s.Write(piece)
					sent += n
					if err != nil {
						return 0, err
					}
				}
			})
			for last := -1; sent != last; { // until the first is held up
				last = sent
				if err := c.Sleep(20 * time.Millisecond); err != nil {
					return err
				}
			}
			second := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) { return s.Write(piece) })
			third := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) { return s.Write([]byte("third")) })
			if err := c.Yield(); err != nil {
				return err
			}
			fill.Cancel()
			second.Cancel()
			go func() { _, _ = io.Copy(io.Discard, peer) }()
			if _, err := fill.Join(c); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("first: %w", err)
			}
			if _, err := second.Join(c); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("second: %w", err)
			}
			n, err := third.Join(c)
			if n != 5 || err != nil {
				return fmt.Errorf("third: %d, %w", n, err)
			}
			return nil
		})
	})
}

// Goal: ReadFrom of other things than streams, WriteString, empty writes.
func TestStream_ReadFromAndStrings(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			const total = 200_000
			got := make(chan error, 1)
			go func() { got <- receive(peer, 31, total+5) }()
			p := newPattern(31)
			if n, err := s.ReadFrom(bytes.NewReader(p.next(total))); n != total || err != nil {
				return fmt.Errorf("ReadFrom: %d, %w", n, err)
			}
			if n, err := io.Copy(s, strings.NewReader("")); n != 0 || err != nil {
				return fmt.Errorf("nothing: %d, %w", n, err)
			}
			if n, err := s.WriteString(string(p.next(5))); n != 5 || err != nil {
				return fmt.Errorf("WriteString: %d, %w", n, err)
			}
			if n, err := s.WriteString(""); n != 0 || err != nil {
				return fmt.Errorf("empty: %d, %w", n, err)
			}
			if n, err := s.Writev([][]byte{nil, {}}); n != 0 || err != nil {
				return fmt.Errorf("empty: %d, %w", n, err)
			}
			failing := io.MultiReader(strings.NewReader(""), &failingReader{})
			if _, err := s.ReadFrom(failing); !errors.Is(err, errOdd) {
				return fmt.Errorf("failing reader: %w", err)
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
			for len(got) == 0 {
				if err := c.Sleep(time.Millisecond); err != nil {
					return err
				}
			}
			return <-got
		})
	})
}

type failingReader struct{}

func (*failingReader) Read([]byte) (int, error) { return 0, errOdd }

// Goal: the halves close the stream together, in either order.
func TestStream_Split(t *testing.T) {
	noLeak(t)
	for _, writeFirst := range []bool{true, false} {
		withPeer(t, shapes()[0], func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			r, w := s.Split()
			assert.Same(t, s, r.Stream())
			assert.Same(t, s, w.Stream())
			if _, err := w.Write([]byte("ping")); err != nil {
				return err
			}
			_, _ = peer.Write([]byte("pong"))
			buf := make([]byte, 4)
			if _, err := r.Read(buf); err != nil {
				return err
			}
			if writeFirst {
				require.NoError(t, w.Close())
				require.NoError(t, w.Close())
				_, err := w.Write(buf)
				require.ErrorIs(t, err, syscall.EPIPE)
				_, _ = peer.Write([]byte("more"))
				_, err = r.Read(buf)
				require.NoError(t, err)
				require.NoError(t, r.Close())
			} else {
				require.NoError(t, r.Close())
				_, err := r.Read(buf)
				require.Equal(t, io.EOF, err)
				_, err = w.Write([]byte("more"))
				require.NoError(t, err)
				require.NoError(t, w.Close())
			}
			_, err := s.Read(buf)
			require.ErrorIs(t, err, net.ErrClosed)
			return nil
		})
	}
}

// Goal: every option reads back as it was set, on both families; the addresses are the peer's view.
func TestStream_OptionsAndAddresses(t *testing.T) {
	noLeak(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{Workers: 1})
			require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
				address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
				l, err := c.Listen(network, address)
				if err != nil {
					return err
				}
				defer func() { _ = l.Close() }()
				s, err := c.Dial(network, l.Addr().String())
				if err != nil {
					return err
				}
				defer func() { _ = s.Close() }()
				in, err := l.Accept()
				if err != nil {
					return err
				}
				defer func() { _ = in.Close() }()
				require.Equal(t, l.Addr().String(), s.RemoteAddr().String())
				require.Equal(t, in.LocalAddr().String(), s.RemoteAddr().String())
				require.Equal(t, in.RemoteAddr().String(), s.LocalAddr().String())
				for _, s := range []*veloq.Stream{s, in} {
					on, err := s.NoDelay()
					require.NoError(t, err)
					require.True(t, on)
					on, err = s.KeepAlive()
					require.NoError(t, err)
					require.True(t, on)
					for _, on := range []bool{false, true, false} {
						require.NoError(t, s.SetNoDelay(on))
						got, err := s.NoDelay()
						require.NoError(t, err)
						require.Equal(t, on, got)
						require.NoError(t, s.SetKeepAlive(on))
						got, err = s.KeepAlive()
						require.NoError(t, err)
						require.Equal(t, on, got)
					}
					require.NoError(t, s.SetKeepAlivePeriod(1500*time.Millisecond))
					for _, sec := range []int{-1, 0, 7, -1} {
						require.NoError(t, s.SetLinger(sec))
						got, err := s.Linger()
						require.NoError(t, err)
						require.Equal(t, sec, got)
					}
					raw, err := s.SyscallConn()
					require.NoError(t, err)
					var fd uintptr
					require.NoError(t, raw.Control(func(f uintptr) { fd = f }))
					require.NotZero(t, fd)
					require.ErrorIs(t, raw.Read(func(uintptr) bool { return true }), errors.ErrUnsupported)
					require.ErrorIs(t, raw.Write(func(uintptr) bool { return true }), errors.ErrUnsupported)
					require.NoError(t, s.SetReadBuffer(40_000))
					n, err := s.ReadBuffer()
					require.NoError(t, err)
					require.Contains(t, []int{40_000, 80_000}, n)
					require.NoError(t, s.SetWriteBuffer(50_000))
					n, err = s.WriteBuffer()
					require.NoError(t, err)
					require.Contains(t, []int{50_000, 100_000}, n)
					require.NoError(t, s.SetTTL(33))
					n, err = s.TTL()
					require.NoError(t, err)
					require.Equal(t, 33, n)
					require.NoError(t, s.SetLinger(1))
					require.NoError(t, s.SetLinger(-1))
					s.SetUserData(7)
					require.Equal(t, 7, s.UserData())
					require.Equal(t, 0, s.Worker())
				}
				return nil
			}))
		})
	}
}

// Goal: SetLinger(0) makes the close a reset.
func TestStream_LingerZeroResets(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	srv := startTasks(t, rt, veloq.ListenConfig{}, func(_ *veloq.Context, s *veloq.Stream) error {
		if _, err := s.Read(make([]byte, 1)); err != nil {
			return err
		}
		return s.SetLinger(0)
	})
	conn := dial(t, srv.Addr())
	_, err := conn.Write([]byte("x"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	if resetReadsAsEnd() && errors.Is(err, io.EOF) {
		t.Skip("this system tells readers of a reset that the stream ended")
	}
	require.ErrorIs(t, err, errReset)
}

// Goal: leases that a handler retains keep their bytes while the worker goes on, and may be released
// on any goroutine, also after the stream and the runtime are gone.
func TestStream_LeasesRetained(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		rt := newRuntime(t, sh.config)
		total := sized(16<<20, 1<<20, 200_000)
		leases := make(chan veloq.Lease, 2)
		h := &retainer{leases: leases}
		srv := startHandler(t, rt, sh.listen, h)
		before := held{slots: holds(rt).slots}
		conn := dial(t, srv.Addr())
		go func() {
			p := newPattern(41)
			for left := total; left > 0; {
				n := min(7000, left)
				if _, err := conn.Write(p.next(n)); err != nil {
					return
				}
				left -= n
			}
			_ = conn.CloseWrite()
		}()
		p := newPattern(41)
		for got := 0; got < total; {
			l := await(t, "lease", leases)
			require.NoError(t, p.check(l.Bytes()), "after %d", got)
			part := l.Slice(0, l.Len()/2).Retain()
			got += l.Len()
			l.Release()
			require.Len(t, part.Bytes(), part.Len())
			part.Release()
		}
		settled(t, rt, before)
		// One that outlives everything.
		last := dial(t, srv.Addr())
		_, err := last.Write([]byte("left"))
		require.NoError(t, err)
		l := await(t, "lease", leases)
		bounded(t, "Close", func() { _ = rt.Close() })
		require.Nil(t, l.Bytes())
		l.Release()
		require.Empty(t, veloq.Lease{}.Bytes())
		veloq.Lease{}.Release()
	})
}

type retainer struct {
	veloq.HandlerBase
	leases chan veloq.Lease
	queue  []veloq.Lease
}

func (h *retainer) OnData(c *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	h.queue = append(h.queue, l.Retain())
	if len(h.queue) > 1 {
		return nil // the task below is at it
	}
	return veloq.Go(c, func(c *veloq.Context) {
		for len(h.queue) > 0 {
			select {
			case h.leases <- h.queue[0]:
				h.queue = h.queue[1:]
			default:
				if c.Sleep(time.Millisecond) != nil {
					return
				}
			}
		}
	})
}

// Goal: a paused handler hears nothing, not even the end, and misses nothing once resumed.
func TestStream_PauseAndResume(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		const total = 300_000
		rt := newRuntime(t, sh.config)
		h := &pausing{result: make(chan error, 1), p: newPattern(51), total: total}
		srv := startHandler(t, rt, sh.listen, h)
		conn := dial(t, srv.Addr())
		_, err := conn.Write(newPattern(51).next(total))
		require.NoError(t, err)
		require.NoError(t, conn.CloseWrite())
		require.NoError(t, await(t, "handler's end", h.result))
		require.Greater(t, h.pauses, 1)
		settled(t, rt, held{slots: holds(rt).slots})
	})
}

type pausing struct {
	veloq.HandlerBase
	result chan error
	p      *pattern
	got    int
	total  int
	pauses int
	paused bool
}

func (h *pausing) OnData(c *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	if h.paused {
		return errors.New("OnData while paused")
	}
	h.got += l.Len()
	if err := h.p.check(l.Bytes()); err != nil {
		return err
	}
	if h.pauses > 30 {
		return nil
	}
	h.pauses++
	h.paused = true
	if err := s.PauseRead(); err != nil {
		return err
	}
	return veloq.Go(c, func(c *veloq.Context) {
		_ = c.Sleep(time.Millisecond)
		h.paused = false
		if err := s.ResumeRead(); err != nil && !errors.Is(err, net.ErrClosed) {
			panic(err)
		}
	})
}

func (h *pausing) OnClose(_ *veloq.Context, _ *veloq.Stream, err error) {
	switch {
	case h.paused:
		err = fmt.Errorf("closed while paused: %w", err)
	case h.got != h.total:
		err = fmt.Errorf("%d of %d bytes: %w", h.got, h.total, err)
	case err == io.EOF: //nolint:errorlint // bare
		err = nil
	}
	h.result <- err
}

// Goal: OnClose comes once, last, and with the reason, in every way that a connection can end.
func TestStream_OnCloseReasons(t *testing.T) {
	noLeak(t)
	boom := errors.New("handler's own")
	type end struct {
		name string
		open func(c *veloq.Context, s *veloq.Stream)
		data func(c *veloq.Context, s *veloq.Stream) error
		peer func(conn *net.TCPConn)
		srv  func(srv *veloq.Server, rt *veloq.Runtime)
		is   error // nil is nil
	}
	none := func(*net.TCPConn) {}
	ends := []end{
		{name: "Close in OnData", data: func(_ *veloq.Context, s *veloq.Stream) error { return s.Close() }, peer: none},
		{name: "Close in OnOpen", open: func(_ *veloq.Context, s *veloq.Stream) { _ = s.Close() }, peer: none},
		{name: "error of OnData", data: func(*veloq.Context, *veloq.Stream) error { return boom }, peer: none, is: boom},
		{name: "Close twice and an error", data: func(_ *veloq.Context, s *veloq.Stream) error {
			_, _ = s.Close(), s.Close()
			return boom
		}, peer: none},
		{name: "FIN", peer: func(c *net.TCPConn) { _ = c.CloseWrite() }, is: io.EOF},
		{name: "close", peer: func(c *net.TCPConn) { _ = c.Close() }, is: io.EOF},
		{name: "reset", peer: func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, is: syscall.ECONNRESET},
		{name: "read deadline", open: func(_ *veloq.Context, s *veloq.Stream) {
			_ = s.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		}, peer: none, is: errTimeout},
		{name: "Server.Close", peer: none, srv: func(s *veloq.Server, _ *veloq.Runtime) { s.Close() }, is: context.Canceled},
		{name: "Runtime.Close", peer: none, srv: func(_ *veloq.Server, rt *veloq.Runtime) { _ = rt.Close() }, is: veloq.ErrClosed},
		{name: "panic in OnData", data: func(*veloq.Context, *veloq.Stream) error { panic("boom") }, peer: none, is: errPanic},
		{name: "panic in OnOpen", open: func(*veloq.Context, *veloq.Stream) { panic("boom") }, peer: none, is: errPanic},
		{name: "closed by a task", data: func(c *veloq.Context, s *veloq.Stream) error {
			return veloq.Go(c, func(c *veloq.Context) { _ = c.Sleep(time.Millisecond); _ = s.Close() })
		}, peer: none},
	}
	forShapes(t, func(t *testing.T, sh shape) {
		for _, e := range ends {
			t.Run(e.name, func(t *testing.T) {
				config := sh.config
				onPanic, reported := panics()
				config.OnPanic = onPanic
				rt := newRuntime(t, config)
				h := &lifeTeller{open: e.open, data: e.data, ends: make(chan error, 10)}
				srv := startHandler(t, rt, sh.listen, h)
				conn := dial(t, srv.Addr())
				if e.open == nil {
					require.NoError(t, roundTrip(conn, []byte("x")))
				}
				if e.data != nil {
					h.armed.Store(true)
					_, _ = conn.Write([]byte("y"))
				}
				e.peer(conn)
				if e.srv != nil {
					bounded(t, e.name, func() { e.srv(srv, rt) })
				}
				err := await(t, "OnClose", h.ends)
				switch e.is { //nolint:errorlint // markers
				case nil:
					require.NoError(t, err)
				case errTimeout:
					var ne net.Error
					require.ErrorAs(t, err, &ne)
					require.True(t, ne.Timeout())
				case errPanic:
					var pe *veloq.PanicError
					require.ErrorAs(t, err, &pe)
					require.Equal(t, "boom", await(t, "OnPanic", reported).Value)
				default:
					require.ErrorIs(t, err, e.is)
				}
				_ = conn.Close()
				bounded(t, "Server.Close", srv.Close)
				require.Empty(t, h.ends, "OnClose came again")
				require.Equal(t, int32(1), h.opened.Load())
				require.Zero(t, h.afterEnd.Load(), "a callback after OnClose")
				require.Empty(t, reported)
				if e.name != "Runtime.Close" {
					settled(t, rt, held{})
				}
			})
		}
	})
}

var (
	errTimeout = errors.New("marker: a timeout")
	errPanic   = errors.New("marker: a panic")
)

type lifeTeller struct {
	open             func(*veloq.Context, *veloq.Stream)
	data             func(*veloq.Context, *veloq.Stream) error
	armed            atomic.Bool
	ends             chan error
	opened, afterEnd atomic.Int32
	ended            atomic.Bool
}

func (h *lifeTeller) OnOpen(c *veloq.Context, s *veloq.Stream) {
	h.opened.Add(1)
	if h.open != nil {
		h.open(c, s)
	}
}

func (h *lifeTeller) OnData(c *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	if h.ended.Load() {
		h.afterEnd.Add(1)
	}
	if h.armed.Load() {
		return h.data(c, s)
	}
	_, err := s.WriteLease(l.Retain())
	return err
}

func (h *lifeTeller) OnWritable(*veloq.Context, *veloq.Stream) {}

func (h *lifeTeller) OnClose(_ *veloq.Context, s *veloq.Stream, err error) {
	h.ended.Store(true)
	// The stream is closed for the handler as well.
	if _, werr := s.Write([]byte("x")); !errors.Is(werr, net.ErrClosed) {
		err = fmt.Errorf("write in OnClose: %w", werr)
	}
	h.ends <- err
}

// Goal: ErrFull comes when WriteHigh is reached, says how much was taken, and OnWritable follows once.
func TestStream_HandlerBackpressure(t *testing.T) {
	noLeak(t)
	forShapes(t, func(t *testing.T, sh shape) {
		rt := newRuntime(t, sh.config)
		const total = 8 << 20
		h := &source{result: make(chan error, 1), p: newPattern(61), left: total}
		srv := startHandler(t, rt, sh.listen, h)
		conn := dial(t, srv.Addr())
		eventually(t, "ErrFull", func() (bool, any) { s := totals(rt); return s.WritesFull > 0, s })
		require.NoError(t, receive(conn, 61, total))
		_ = conn.Close()
		require.NoError(t, await(t, "source's end", h.result))
		require.Positive(t, h.full)
	})
}

// source writes the pattern in pieces of many sizes as far as it may.
type source struct {
	veloq.HandlerBase
	result chan error
	p      *pattern
	left   int
	rest   []byte
	full   int
	turn   int
	failed error
	waits  bool
}

func (h *source) OnOpen(c *veloq.Context, s *veloq.Stream) { h.waits = true; h.OnWritable(c, s) }

func (h *source) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	if !h.waits {
		h.failed = errors.New("OnWritable that nobody waited for")
	}
	h.waits = false
	for {
		if len(h.rest) == 0 {
			if h.left == 0 {
				_ = s.Close()
				return
			}
			h.turn++
			n := min(1+(h.turn*7919)%50_000, h.left)
			h.rest, h.left = h.p.next(n), h.left-n
		}
		n, err := s.Write(h.rest)
		h.rest = h.rest[n:]
		if errors.Is(err, veloq.ErrFull) {
			if len(h.rest) == 0 {
				h.failed = errors.New("ErrFull though all was taken")
			}
			h.full++
			h.waits = true
			return
		}
		if err != nil {
			h.failed = err
			return
		}
	}
}

func (h *source) OnData(*veloq.Context, *veloq.Stream, veloq.Lease) error { return nil }

func (h *source) OnClose(_ *veloq.Context, _ *veloq.Stream, err error) {
	if h.failed != nil {
		err = h.failed
	}
	h.result <- err
}

// Goal: streams of one worker forwarded to each other in both directions, as a proxy does.
func TestStream_Proxy(t *testing.T) {
	noLeak(t)
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		back := startEcho(t, rt, sh.listen, door)
		front := startTasks(t, rt, sh.listen, func(c *veloq.Context, s *veloq.Stream) error {
			up, err := c.Dial("tcp", back.Addr().String())
			if err != nil {
				return err
			}
			defer func() { _ = up.Close() }()
			there := veloq.SpawnLocal(c, func(*veloq.Context) (int64, error) {
				n, err := up.ReadFrom(s)
				_ = up.CloseWrite()
				return n, err
			})
			if _, err := s.ReadFrom(up); err != nil {
				return err
			}
			_, err = there.Join(c)
			return err
		})
		before := holds(rt)
		var wg sync.WaitGroup
		for i := range 4 {
			conn := dial(t, front.Addr())
			wg.Go(func() {
				if err := exchange(conn, 70+i, sized(16<<20, 500_000, 100_000)); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				_ = conn.Close()
			})
		}
		wg.Wait()
		settled(t, rt, before)
	})
}
