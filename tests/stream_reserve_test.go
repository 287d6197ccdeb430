package tests

// Writing in place: Malloc and Flush.

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// mallocMax is the most that one Malloc gives.
const mallocMax = 32 << 10

// Goal: what is filled in place goes out whole and in order, mixed with every other write, against a peer
// that is slower than the writer.
func TestStream_MallocFlushMixed(t *testing.T) {
	noLeak(t)
	total := sized(64<<20, 4<<20, 500_000)
	forShapes(t, func(t *testing.T, sh shape) {
		withPeer(t, sh, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
			got := make(chan error, 1)
			go func() {
				p, buf, n := newPattern(11), make([]byte, 20_000), 0
				for {
					m, err := peer.Read(buf)
					if wrong := p.check(buf[:m]); wrong != nil {
						err = fmt.Errorf("after %d: %w", n, wrong)
					}
					if n += m; err == io.EOF { //nolint:errorlint // io.EOF comes bare
						if n != total {
							err = fmt.Errorf("EOF after %d", n)
						} else {
							err = nil
						}
						got <- err
						return
					}
					if err != nil {
						_ = peer.Close()
						got <- err
						return
					}
				}
			}()
			p, r, left := newPattern(11), rand.New(rand.NewPCG(1, 11)), total
			size := func() int {
				n := 1 + r.IntN([]int{40, 3000, mallocMax}[r.IntN(3)])
				n = min(n, left)
				left -= n
				return n
			}
			for left > 0 {
				switch r.IntN(4) {
				case 0:
					if n, err := s.Write(p.next(size())); err != nil {
						return fmt.Errorf("write %d: %w", n, err)
					}
				default:
					for range 1 + r.IntN(5) {
						if left == 0 {
							break
						}
						n := size()
						room, err := s.Malloc(n)
						if errors.Is(err, veloq.ErrFull) {
							left += n
							break
						}
						if err != nil {
							return err
						}
						if len(room) != n || cap(room) != n {
							return fmt.Errorf("room for %d: %d, %d", n, len(room), cap(room))
						}
						copy(room, p.next(n))
						if r.IntN(8) == 0 {
							if err := c.Yield(); err != nil { // a turn passes, which must not send it
								return err
							}
						}
					}
					if err := s.Flush(); err != nil {
						return err
					}
				}
			}
			require.NoError(t, s.CloseWrite())
			for len(got) == 0 {
				if err := c.Sleep(time.Millisecond); err != nil {
					return err
				}
			}
			return <-got
		})
	})
}

// Goal: what Malloc and Flush refuse, and that nothing is sent before its Flush.
func TestStream_MallocRefused(t *testing.T) {
	noLeak(t)
	config := veloq.Config{Workers: 1, WriteHigh: 40_000}
	withPeer(t, shape{config: config}, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
		require.NoError(t, s.Flush())
		for _, n := range []int{0, -1} {
			p, err := s.Malloc(n)
			require.NoError(t, err)
			require.Empty(t, p)
		}
		_, err := s.Malloc(mallocMax + 1)
		require.ErrorIs(t, err, veloq.ErrTooLong)
		p, err := s.Malloc(mallocMax)
		require.NoError(t, err)
		for i := range p {
			p[i] = 'b'
		}
		_, err = s.Malloc(10_000)
		require.ErrorIs(t, err, veloq.ErrFull)
		_, err = s.Write([]byte("a"))
		require.NoError(t, err)
		require.NoError(t, c.Sleep(time.Millisecond))
		require.Zero(t, s.Unsent())
		require.NoError(t, s.SetWriteDeadline(time.Now()))
		require.ErrorIs(t, s.Flush(), os.ErrDeadlineExceeded)
		_, err = s.Malloc(1)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, s.SetWriteDeadline(time.Time{}))
		require.NoError(t, s.Flush(), "it stayed")
		p, err = s.Malloc(10)
		require.NoError(t, err)
		copy(p, "0123456789")
		require.NoError(t, s.CloseWrite())
		require.Error(t, s.Flush())
		got := make(chan error, 1)
		go func() {
			b, err := io.ReadAll(peer)
			if err == nil && (len(b) != 1+mallocMax || b[0] != 'a' || b[1] != 'b' || b[mallocMax] != 'b') {
				err = fmt.Errorf("%d bytes: %.20q", len(b), b)
			}
			got <- err
		}()
		for len(got) == 0 {
			require.NoError(t, c.Sleep(time.Millisecond))
		}
		return <-got
	})
}

// Goal: a Flush that waits for a peer who doesn't read ends with its deadline, its stream's close or its
// task, having sent nothing; meanwhile nobody else reserves.
func TestStream_FlushEndedWhileItWaits(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a send there takes more than the socket's buffer, so that a Flush need not wait")
	}
	noLeak(t)
	for _, how := range []string{"deadline", "close", "cancel"} {
		t.Run(how, func(t *testing.T) {
			config := tinyConfig()
			withPeer(t, shape{config: config}, func(c *veloq.Context, s *veloq.Stream, peer *net.TCPConn) error {
				require.NoError(t, s.SetWriteBuffer(1))
				for full := 0; full < 3; { // until the system takes no more
					if _, err := s.TryWrite(make([]byte, 4096)); errors.Is(err, veloq.ErrFull) {
						full++
					} else if err != nil {
						return err
					}
					require.NoError(t, c.Sleep(time.Millisecond))
				}
				p, err := s.Malloc(5000)
				require.NoError(t, err)
				h := veloq.SpawnLocal(c, func(*veloq.Context) (struct{}, error) { return struct{}{}, s.Flush() })
				require.NoError(t, c.Sleep(time.Millisecond))
				_, err = s.Malloc(1)
				require.ErrorIs(t, err, veloq.ErrBusy)
				require.ErrorIs(t, s.Flush(), veloq.ErrBusy)
				unsent := s.Unsent()
				var want error
				switch how {
				case "deadline":
					want = os.ErrDeadlineExceeded
					require.NoError(t, s.SetWriteDeadline(time.Now().Add(time.Millisecond)))
				case "close":
					want = net.ErrClosed
					require.NoError(t, s.SetLinger(0))
					require.NoError(t, s.Close())
				case "cancel":
					h.Cancel()
				}
				_, err = h.Join(c)
				require.Error(t, err)
				if want != nil {
					require.ErrorIs(t, err, want)
				}
				for i := range p { // still there to be written
					p[i] = 1
				}
				if how != "close" {
					require.LessOrEqual(t, s.Unsent(), unsent, "some was sent")
					require.NoError(t, s.SetLinger(0))
				}
				_ = peer.SetLinger(0)
				_ = peer.Close()
				return nil
			})
		})
	}
}

// Goal: room that was reserved and not sent when its stream was closed is never another stream's: who
// still writes to it harms nobody.
func TestStream_MallocOutlivesClose(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	srv := startTasks(t, rt, veloq.ListenConfig{}, echoTask)
	rounds := sized(2000, 200, 50)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for range rounds {
			dead, err := c.Dial("tcp", srv.Addr().String())
			if err != nil {
				return err
			}
			stale, err := dead.Malloc(3000)
			require.NoError(t, err)
			_, err = dead.WriteString("x")
			require.NoError(t, err)
			_, err = dead.ReadFull(make([]byte, 1)) // so the server has it
			require.NoError(t, err)
			require.NoError(t, dead.Close())
			for srv.Conns() > 0 { // the server has heard of the end: it is released
				require.NoError(t, c.Sleep(time.Millisecond))
			}
			s, err := c.Dial("tcp", srv.Addr().String())
			if err != nil {
				return err
			}
			p, err := s.Malloc(3000)
			require.NoError(t, err)
			for i := range p {
				p[i] = 'p'
			}
			for i := range stale {
				stale[i] = 'X'
			}
			require.ErrorIs(t, dead.Flush(), net.ErrClosed)
			require.NoError(t, s.Flush())
			got := make([]byte, 3000)
			_, err = s.ReadFull(got)
			require.NoError(t, err)
			for _, b := range got {
				if b != 'p' {
					return fmt.Errorf("got %q", b)
				}
			}
			require.NoError(t, s.Close())
			for srv.Conns() > 0 {
				require.NoError(t, c.Sleep(time.Millisecond))
			}
		}
		return nil
	}))
	runtime.GC() // which frees those chunks, and finds nothing wrong
}

// A flushHandler answers the first bytes with total bytes that it fills in place.
type flushHandler struct {
	veloq.HandlerBase
	p    *pattern
	left int
	full int
}

func (h *flushHandler) OnData(_ *veloq.Context, s *veloq.Stream, _ veloq.Lease) error {
	return h.send(s)
}

func (h *flushHandler) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	if err := h.send(s); err != nil {
		_ = s.Close()
	}
}

func (h *flushHandler) send(s *veloq.Stream) error {
	for {
		switch err := s.Flush(); {
		case errors.Is(err, veloq.ErrFull):
			h.full++
			return nil
		case err != nil:
			return err
		case h.left == 0:
			return s.Close()
		}
		n := min(h.left, 3000)
		room, err := s.Malloc(n)
		if err != nil {
			return err
		}
		copy(room, h.p.next(n))
		h.left -= n
	}
}

// Goal: a handler's Flush never waits: it is refused, and goes on from OnWritable with what stayed.
func TestStream_FlushInHandler(t *testing.T) {
	noLeak(t)
	total := sized(32<<20, 3<<20, 500_000)
	forShapes(t, func(t *testing.T, sh shape) {
		rt := newRuntime(t, sh.config)
		h := &flushHandler{p: newPattern(12), left: total}
		srv := startHandler(t, rt, sh.listen, h)
		conn := dial(t, srv.Addr())
		_, err := conn.Write([]byte("go"))
		require.NoError(t, err)
		got, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Len(t, got, total)
		require.NoError(t, newPattern(12).check(got))
		bounded(t, "Server.Close", srv.Close)
		assert.Positive(t, h.full, "it was never refused: the test showed nothing")
	})
}
