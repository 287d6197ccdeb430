package tests

// Every byte of a stream arrives once and in order, whatever the sizes, the peer's pace and the way in
// which it ends.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// echoModes are the ways to echo in a task.
var echoModes = []func(*veloq.Context, *veloq.Stream) error{
	echoTask,
	func(_ *veloq.Context, s *veloq.Stream) error { // leases forwarded
		_, err := s.ReadFrom(s)
		return err
	},
	smallEchoTask, // one lease at a time
	func(_ *veloq.Context, s *veloq.Stream) error { // the bytes in place
		for {
			if _, err := s.Peek(1); err != nil {
				return err
			}
			b, err := s.Next(s.Buffered())
			if err != nil {
				return err
			}
			if _, err := s.Write(b); err != nil {
				return err
			}
		}
	},
	func(c *veloq.Context, s *veloq.Stream) error { // a reading and a writing task
		r, w := s.Split()
		pieces := make([][]byte, 0, 8)
		ended := false
		writer := veloq.SpawnLocal(c, func(c *veloq.Context) (struct{}, error) {
			for !ended || len(pieces) > 0 {
				if len(pieces) == 0 {
					if err := c.Yield(); err != nil {
						return struct{}{}, err
					}
					continue
				}
				p := pieces[0]
				pieces = pieces[1:]
				if _, err := w.Write(p); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, w.Close()
		})
		for {
			buf := make([]byte, 8<<10)
			n, err := r.Read(buf)
			if err != nil {
				ended = true
				break
			}
			for len(pieces) >= 8 {
				if err := c.Yield(); err != nil {
					return err
				}
			}
			pieces = append(pieces, buf[:n])
		}
		_, err := writer.Join(c)
		return err
	},
}

// exchange sends total bytes of the pattern in random pieces and checks that they come back, then FIN.
func exchange(conn *net.TCPConn, seed, total int) error {
	sent := make(chan error, 1)
	go func() {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		p := newPattern(seed)
		for left := total; left > 0; {
			n := 1 << r.IntN(21) // 1 B to 1 MiB
			n = min(1+r.IntN(n), left, patternPeriod)
			if _, err := conn.Write(p.next(n)); err != nil {
				sent <- fmt.Errorf("write: %w", err)
				return
			}
			left -= n
		}
		sent <- conn.CloseWrite()
	}()
	err := receive(conn, seed, total)
	if err != nil {
		_ = conn.Close()
	}
	return errors.Join(err, <-sent)
}

// receive checks total bytes of the pattern and the FIN after them.
func receive(conn net.Conn, seed, total int) error {
	r := rand.New(rand.NewPCG(uint64(seed), 2))
	p := newPattern(seed)
	buf := make([]byte, 256<<10)
	got := 0
	for {
		n, err := conn.Read(buf[:1+r.IntN(len(buf))])
		if err := p.check(buf[:n]); err != nil {
			return fmt.Errorf("after %d: %w", got, err)
		}
		got += n
		if err == io.EOF { //nolint:errorlint // net gives it bare
			break
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", got, total, err)
		}
	}
	if got != total {
		return fmt.Errorf("FIN after %d of %d bytes", got, total)
	}
	return nil
}

// Goal: the bytes of many write sizes survive every shape, door and way to echo.
func TestEcho_RandomSizes(t *testing.T) {
	noLeak(t)
	combinations := len(shapes()) * len(doors)
	total := sized(1<<30, 64<<20, 4<<20) / combinations
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		var modes atomic.Int32
		var srv *veloq.Server
		ways := len(echoModes)
		if door == "task" {
			srv = startTasks(t, rt, sh.listen, func(c *veloq.Context, s *veloq.Stream) error {
				return echoModes[int(modes.Add(1))%ways](c, s)
			})
		} else {
			srv = startHandler(t, rt, sh.listen, &echoHandler{})
		}
		before := holds(rt)
		conns := ways
		var wg sync.WaitGroup
		for i := range conns {
			conn := dial(t, srv.Addr())
			if long {
				require.NoError(t, conn.SetDeadline(time.Now().Add(20*patience)))
			}
			wg.Go(func() {
				if err := exchange(conn, i+1, total/conns); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				_ = conn.Close()
			})
		}
		wg.Wait()
		settled(t, rt, before)
		if door == "handler" {
			leases := startHandler(t, rt, sh.listen, &echoHandler{leases: true})
			require.NoError(t, exchange(dial(t, leases.Addr()), 99, total/8))
		}
	})
}

// smallBuffers bounds what the kernel takes for a connection, on both ends.
const smallBuffer = 32 << 10

func dialSmall(t *testing.T, addr net.Addr) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		_ = rc.Control(func(fd uintptr) {
			err = setBuffers(fd, smallBuffer)
		})
		return err
	}}
	c, err := d.Dial("tcp", addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// kernelBytes is the most that both ends' kernel buffers hold: the system doubles what is asked for,
// and one packet may go over.
const kernelBytes = 4*smallBuffer + 128<<10

// flooder is a handler that writes as much as it may and counts.
type flooder struct {
	veloq.HandlerBase
	accepted *atomic.Int64
	full     *atomic.Int64
}

var floodPiece = make([]byte, 10<<10)

func (f *flooder) OnOpen(c *veloq.Context, s *veloq.Stream) { f.OnWritable(c, s) }

func (f *flooder) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	for {
		n, err := s.Write(floodPiece)
		f.accepted.Add(int64(n))
		if err != nil {
			f.full.Add(1)
			return
		}
	}
}

// Goal: a peer that never reads, or to which nobody listens, costs a bounded amount of memory.
// Method: 100 peers; the writing side writes until its deadline, or ErrFull, and counts what was taken.
func TestEcho_PeerThatNeverReads(t *testing.T) {
	noLeak(t)
	const peers = 100
	const limit = 64 << 10
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{
				Workers: 1, WriteHigh: limit, ReadLimit: limit, CloseTimeout: 50 * time.Millisecond,
				BufferCount: 16, BufferSize: 16 << 10,
			})
			lc := veloq.ListenConfig{ReadBuffer: smallBuffer, WriteBuffer: smallBuffer}
			settleMemory()
			before := rssBytes()
			var accepted, ended atomic.Int64
			var srv *veloq.Server
			if door == "task" {
				srv = startTasks(t, rt, lc, func(c *veloq.Context, s *veloq.Stream) error {
					_ = s.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
					for {
						n, err := s.Write(floodPiece)
						accepted.Add(int64(n))
						if err != nil {
							ended.Add(1)
							if !errors.Is(err, os.ErrDeadlineExceeded) {
								t.Errorf("write: %v", err)
							}
							return c.Sleep(patience) // until it is cancelled
						}
					}
				})
			} else {
				srv = startHandler(t, rt, lc, &flooder{accepted: &accepted, full: &ended})
			}
			for range peers {
				dialSmall(t, srv.Addr())
			}
			eventually(t, "every writer held up", func() (bool, any) {
				return ended.Load() >= peers, ended.Load()
			})
			// Until nothing more is taken for a while: the kernel's buffers fill at their own pace.
			last, still := int64(-1), 0
			eventually(t, "writers stay held up", func() (bool, any) {
				now := accepted.Load()
				if now == last {
					still++
				} else {
					last, still = now, 0
				}
				return still > 100, now
			})
			perPeer := int(accepted.Load()) / peers
			// A write that is accepted whole may pass the mark by itself.
			require.LessOrEqual(t, perPeer, kernelBytes+limit+len(floodPiece))
			settleMemory()
			grown := rssBytes() - before
			t.Logf("%d bytes accepted a peer, %d bytes of memory a peer", perPeer, grown/peers)
			// Two chunks of slack a peer, and the goroutine and descriptor of its client.
			require.LessOrEqual(t, grown, peers*(limit+80<<10)+8<<20)
		})
	}
}

// Goal: the other direction: a server that doesn't read makes its peers wait.
func TestEcho_ServerThatNeverReads(t *testing.T) {
	noLeak(t)
	const peers = 50
	const limit = 64 << 10
	const buffers, bufferSize = 16, 16 << 10
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{
				Workers: 1, WriteHigh: limit, ReadLimit: limit, BufferCount: buffers, BufferSize: bufferSize,
			})
			lc := veloq.ListenConfig{ReadBuffer: smallBuffer, WriteBuffer: smallBuffer}
			var srv *veloq.Server
			if door == "task" {
				srv = startTasks(t, rt, lc, func(c *veloq.Context, _ *veloq.Stream) error {
					return c.Sleep(patience)
				})
			} else {
				srv = startHandler(t, rt, lc, &pauser{})
			}
			// The kernel goes on into free buffers, as fast as the peer sends, until the stop reaches it.
			const bound = kernelBytes + limit + 2*smallBuffer + buffers*bufferSize
			settleMemory()
			before := rssBytes()
			var wg sync.WaitGroup
			for range peers {
				conn := dialSmall(t, srv.Addr())
				wg.Go(func() {
					_ = conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
					sent := 0
					for {
						n, err := conn.Write(floodPiece)
						sent += n
						if err != nil {
							break
						}
					}
					if sent > bound {
						t.Errorf("%d bytes taken from a peer, more than %d", sent, bound)
					}
				})
			}
			wg.Wait()
			settleMemory()
			grown := rssBytes() - before
			t.Logf("%d bytes of memory a peer", grown/peers)
			require.LessOrEqual(t, grown, peers*(limit+2*smallBuffer+32<<10)+8<<20)
		})
	}
}

type pauser struct{ veloq.HandlerBase }

func (*flooder) OnData(*veloq.Context, *veloq.Stream, veloq.Lease) error { return nil }

func (*pauser) OnOpen(_ *veloq.Context, s *veloq.Stream)                { _ = s.PauseRead() }
func (*pauser) OnData(*veloq.Context, *veloq.Stream, veloq.Lease) error { return nil }

// Goal: FIN of the client first: what was sent before comes back, then FIN. TestEcho_RandomSizes does
// that; here the server is first, and goes on reading.
func TestEcho_ServerClosesItsHalfFirst(t *testing.T) {
	noLeak(t)
	const total = 1 << 20
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		results := make(chan error, 1)
		var srv *veloq.Server
		if door == "task" {
			srv = startTasks(t, rt, sh.listen, func(_ *veloq.Context, s *veloq.Stream) error {
				err := func() error {
					if _, err := s.Write(newPattern(5).next(100_000)); err != nil {
						return err
					}
					if err := s.CloseWrite(); err != nil {
						return err
					}
					if _, err := s.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
						return fmt.Errorf("write after CloseWrite: %w", err)
					}
					p, buf, got := newPattern(6), make([]byte, 5000), 0
					for {
						n, err := s.Read(buf)
						if err := p.check(buf[:n]); err != nil {
							return err
						}
						got += n
						if err == io.EOF { //nolint:errorlint // bare
							if got != total {
								return fmt.Errorf("EOF after %d bytes", got)
							}
							return nil
						}
						if err != nil {
							return err
						}
					}
				}()
				results <- err
				return err
			})
		} else {
			srv = startHandler(t, rt, sh.listen, &halfCloser{results: results, p: newPattern(6), total: total})
		}
		conn := dial(t, srv.Addr())
		require.NoError(t, receive(conn, 5, 100_000))
		p := newPattern(6)
		for sent := 0; sent < total; sent += 1 << 16 {
			_, err := conn.Write(p.next(1 << 16))
			require.NoError(t, err)
		}
		require.NoError(t, conn.CloseWrite())
		require.NoError(t, await(t, "server's result", results))
	})
}

// halfCloser writes, closes its half, and then checks what it receives.
type halfCloser struct {
	veloq.HandlerBase
	results    chan error
	p          *pattern
	got, total int
	rest       []byte
}

func (h *halfCloser) OnOpen(c *veloq.Context, s *veloq.Stream) {
	h.rest = newPattern(5).next(100_000)
	h.OnWritable(c, s)
}

func (h *halfCloser) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	n, err := s.Write(h.rest)
	h.rest = h.rest[n:]
	if err == nil {
		_ = s.CloseWrite()
	}
}

func (h *halfCloser) OnData(_ *veloq.Context, _ *veloq.Stream, l veloq.Lease) error {
	h.got += l.Len()
	return h.p.check(l.Bytes())
}

func (h *halfCloser) OnClose(_ *veloq.Context, _ *veloq.Stream, err error) {
	if err == io.EOF { //nolint:errorlint // bare
		err = nil
		if h.got != h.total {
			err = fmt.Errorf("EOF after %d bytes", h.got)
		}
	}
	h.results <- err
}

// Goal: resets in the middle of transfers end those connections and nothing else.
func TestEcho_ResetMidTransfer(t *testing.T) {
	noLeak(t)
	rounds := sized(400, 60, 20)
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		srv := startEcho(t, rt, sh.listen, door)
		before := holds(rt)
		var wg sync.WaitGroup
		for i := range rounds {
			wg.Go(func() {
				conn, err := net.Dial("tcp", srv.Addr().String())
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				r := rand.New(rand.NewPCG(uint64(i), 7))
				go func() {
					for {
						if _, err := conn.Write(patternBlock()[:1+r.IntN(200_000)]); err != nil {
							return
						}
					}
				}()
				// Some read for a while first, some never.
				_, _ = io.CopyN(io.Discard, conn, int64(rand.IntN(200_000)*(i%3)))
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			})
			if i%16 == 15 {
				wg.Wait()
			}
		}
		wg.Wait()
		settled(t, rt, before)
		require.NoError(t, roundTrip(dial(t, srv.Addr()), []byte("still here")))
	})
}

// Goal: a close of the server's side at any moment, with receives and sends in flight, frees everything
// and loses nothing of what was written before.
func TestEcho_CloseWithOpsInFlight(t *testing.T) {
	noLeak(t)
	rounds := sized(400, 60, 20)
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		var srv *veloq.Server
		const size = 300_000
		if door == "task" {
			srv = startTasks(t, rt, sh.listen, func(c *veloq.Context, s *veloq.Stream) error {
				// A second task reads meanwhile, and is in its read when the stream closes.
				reader := veloq.SpawnLocal(c, func(*veloq.Context) (struct{}, error) {
					buf := make([]byte, 4096)
					for {
						if _, err := s.Read(buf); err != nil {
							return struct{}{}, err
						}
					}
				})
				if _, err := s.Write(newPattern(8).next(size)); err != nil {
					return err
				}
				_ = s.Close()
				_, err := reader.Join(c)
				if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
					t.Errorf("read at close: %v", err)
				}
				return err
			})
		} else {
			srv = startHandler(t, rt, sh.listen, &closer{})
		}
		before := holds(rt)
		var wg sync.WaitGroup
		for i := range rounds {
			conn := dial(t, srv.Addr())
			wg.Go(func() {
				// Nothing is sent: bytes that nobody read would make the close a reset.
				if err := receive(conn, 8, size); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				_ = conn.Close()
			})
			if i%16 == 15 {
				wg.Wait()
			}
		}
		wg.Wait()
		settled(t, rt, before)
	})
}

// closer writes all it has and closes at once, sends in flight.
type closer struct{ veloq.HandlerBase }

func (h *closer) OnOpen(c *veloq.Context, s *veloq.Stream) {
	s.SetUserData(newPattern(8).next(300_000))
	h.OnWritable(c, s)
}

func (h *closer) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	rest := s.UserData().([]byte)
	n, err := s.Write(rest)
	s.SetUserData(rest[n:])
	if err == nil {
		_ = s.Close()
	}
}

func (h *closer) OnData(*veloq.Context, *veloq.Stream, veloq.Lease) error { return nil }

// Goal: cancelling a task at any moment of any wait ends it and leaves nothing behind.
func TestTask_CancelRaces(t *testing.T) {
	noLeak(t)
	rounds := sized(20_000, 1500, 200)
	for _, sh := range shapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newRuntime(t, sh.config)
			srv := startTasks(t, rt, sh.listen, echoTask)
			silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
			require.NoError(t, err)
			before := holds(rt)
			big := make([]byte, 4<<20)
			waits := []func(c *veloq.Context) error{
				func(c *veloq.Context) error { return c.Sleep(patience) },
				func(c *veloq.Context) error { // accept
					l, err := c.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						return err
					}
					defer func() { _ = l.Close() }()
					_, err = l.Accept()
					return err
				},
				func(c *veloq.Context) error { // dial, again and again
					for {
						s, err := c.Dial("tcp", srv.Addr().String())
						if err != nil {
							return err
						}
						_ = s.SetLinger(0)
						_ = s.Close()
						if err := c.Err(); err != nil {
							return err
						}
					}
				},
				func(c *veloq.Context) error { // read, with bytes coming and going
					s, err := c.Dial("tcp", srv.Addr().String())
					if err != nil {
						return err
					}
					defer func() { _ = s.Close() }()
					_ = s.SetLinger(0)
					buf := make([]byte, 1000)
					for {
						if _, err := s.Write(buf); err != nil {
							return err
						}
						if _, err := s.ReadFull(buf); err != nil {
							return err
						}
						if err := c.Yield(); err != nil {
							return err
						}
					}
				},
				func(c *veloq.Context) error { // write without a reader
					s, err := c.Dial("tcp", silent.Addr().String())
					if err != nil {
						return err
					}
					defer func() { _ = s.Close() }()
					_ = s.SetLinger(0)
					for {
						if _, err := s.Write(big); err != nil {
							return err
						}
					}
				},
			}
			silentEnded := make(chan struct{})
			go func() { // so that the silent one's queue has room
				defer close(silentEnded)
				for {
					c, err := silent.Accept()
					if err != nil {
						return
					}
					defer func() { _ = c.Close() }() // when all is over
				}
			}()
			defer func() { <-silentEnded }()
			defer func() { _ = silent.Close() }()
			var wg sync.WaitGroup
			workers := 8
			for i := range workers {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 9))
					for range rounds / workers / len(shapes()) {
						wait := waits[r.IntN(len(waits))]
						h := veloq.Spawn(rt, func(c *veloq.Context) (struct{}, error) {
							return struct{}{}, wait(c)
						})
						spin(r.IntN(300))
						h.Cancel()
						ctx, cancel := context.WithTimeout(context.Background(), patience)
						_, err := h.Wait(ctx)
						cancel()
						if !errors.Is(err, context.Canceled) {
							t.Errorf("cancelled task: %v", err)
							return
						}
					}
				})
			}
			wg.Wait()
			settled(t, rt, before)
		})
	}
}

// spin passes about that many microseconds.
func spin(us int) {
	for end := time.Now().Add(time.Duration(us) * time.Microsecond); time.Now().Before(end); {
		if us > 20 {
			time.Sleep(time.Microsecond)
		}
	}
}

// Goal: a read deadline that expires as bytes arrive loses none and repeats none.
func TestStream_DeadlineRacesWithData(t *testing.T) {
	noLeak(t)
	total := sized(8<<20, 200_000, 60_000)
	for _, sh := range shapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newRuntime(t, sh.config)
			result := make(chan error, 1)
			var expired int
			srv := startTasks(t, rt, sh.listen, func(_ *veloq.Context, s *veloq.Stream) error {
				err := func() error {
					p, buf, got := newPattern(3), make([]byte, 3000), 0
					for i := 0; ; i++ {
						_ = s.SetReadDeadline(time.Now().Add(time.Duration(i%40) * 100 * time.Microsecond))
						var n int
						var err error
						var piece []byte
						switch i % 4 {
						case 0, 1:
							n, err = s.Read(buf)
							piece = buf[:n]
						case 2:
							var l veloq.Lease
							if l, err = s.ReadLease(); err == nil {
								piece = append(buf[:0], l.Bytes()...)
								l.Release()
							}
						case 3: // what a Peek that failed showed must still be there
							if piece, err = s.Next(700); err != nil {
								piece = nil
							}
						}
						if err := p.check(piece); err != nil {
							return fmt.Errorf("after %d: %w", got, err)
						}
						got += len(piece)
						switch {
						case errors.Is(err, os.ErrDeadlineExceeded):
							expired++
						case errors.Is(err, io.EOF):
							if i%4 == 3 && got < total {
								continue // fewer than 700 left: the other ways take them
							}
							if got != total {
								return fmt.Errorf("EOF after %d bytes", got)
							}
							return nil
						case err != nil:
							return err
						}
					}
				}()
				result <- err
				return err
			})
			conn := dial(t, srv.Addr())
			p, r := newPattern(3), rand.New(rand.NewPCG(1, 1))
			for left := total; left > 0; {
				n := min(1+r.IntN(1000), left)
				_, err := conn.Write(p.next(n))
				require.NoError(t, err)
				left -= n
				if r.IntN(3) == 0 {
					spin(r.IntN(2000)) // the pace, so that deadlines expire between pieces
				}
			}
			require.NoError(t, conn.CloseWrite())
			require.NoError(t, await(t, "reader", result))
			require.Positive(t, expired, "no deadline expired: the test showed nothing")
		})
	}
}

// Goal: a write that its deadline ends says exactly how much of it went out.
func TestStream_WriteDeadlineCountsBytes(t *testing.T) {
	noLeak(t)
	for _, sh := range shapes() {
		t.Run(sh.name, func(t *testing.T) {
			rt := newRuntime(t, sh.config)
			counts := make(chan int, 1)
			lc := sh.listen
			lc.WriteBuffer = smallBuffer
			srv := startTasks(t, rt, lc, func(_ *veloq.Context, s *veloq.Stream) error {
				p, accepted := newPattern(4), 0
				for i := 1; ; i++ {
					_ = s.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
					piece := p.next(min(i*17_000, 900_000))
					n, err := s.Write(piece)
					accepted += n
					if err != nil {
						if !errors.Is(err, os.ErrDeadlineExceeded) {
							t.Errorf("write: %v", err)
						}
						break
					}
				}
				counts <- accepted
				return nil
			})
			conn := dialSmall(t, srv.Addr())
			accepted := await(t, "writer", counts)
			_ = conn.SetDeadline(time.Now().Add(patience))
			require.NoError(t, receive(conn, 4, accepted))
		})
	}
}
