package rudp

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// loans counts what was lent and given back, each once.
type loans struct {
	t         testing.TB
	out, back atomic.Int64
}

// lend lends n bytes; they are spoiled when they come back, so that a later look at them shows.
func (l *loans) lend(s *Stream, p []byte) (int, error) {
	l.out.Add(1)
	p = bytes.Clone(p)
	var given atomic.Bool
	return s.WriteOwned(p, func() {
		if given.Swap(true) {
			l.t.Error("given back twice")
		}
		clear(p)
		l.back.Add(1)
	})
}

func (l *loans) open() int { return int(l.out.Load() - l.back.Load()) }

// Goal: what is lent is given back once at each end of a stream, and not before the bytes were
// acknowledged if there is still somebody to send them to. Virtual time.
func TestStream_WriteOwnedIsGivenBack(t *testing.T) {
	const size = 100_000
	for name, test := range map[string]func(t *testing.T, w *world, c, s *Stream, l *loans){
		"acknowledged, not before": func(t *testing.T, w *world, c, s *Stream, l *loans) {
			w.net.cut.Store(true)
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			time.Sleep(time.Second)
			assert.Equal(t, 1, l.open(), "the peer may need them again")
			w.net.cut.Store(false)
			require.NoError(t, c.Drain(context.Background()))
			synctest.Wait()
			assert.Zero(t, l.open())
			require.NoError(t, c.CloseWrite())
			assert.True(t, bytes.Equal(someBytes(size), readAll(t, s)))
		},
		"a few bytes, within the call": func(t *testing.T, w *world, c, s *Stream, l *loans) {
			w.net.cut.Store(true)
			n, err := l.lend(c, someBytes(lendMin-1))
			require.NoError(t, err)
			assert.Equal(t, lendMin-1, n)
			assert.Zero(t, l.open())
			w.net.cut.Store(false)
			require.NoError(t, c.CloseWrite())
			assert.Equal(t, someBytes(lendMin-1), readAll(t, s))
		},
		"nothing": func(t *testing.T, _ *world, c, s *Stream, l *loans) {
			n, err := l.lend(c, nil)
			assert.Zero(t, n)
			assert.NoError(t, err)
			n, err = c.WriteOwned(someBytes(size), nil)
			assert.Equal(t, size, n)
			assert.NoError(t, err)
			require.NoError(t, c.CloseWrite())
			assert.Len(t, readAll(t, s), size)
		},
		"Close delivers it": func(t *testing.T, _ *world, c, s *Stream, l *loans) {
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			require.NoError(t, c.Close())
			assert.True(t, bytes.Equal(someBytes(size), readAll(t, s)))
			require.NoError(t, c.Drain(context.Background()))
		},
		"Close with bytes unread": func(t *testing.T, w *world, c, s *Stream, l *loans) {
			_, err := s.Write(make([]byte, 1000))
			require.NoError(t, err)
			synctest.Wait()
			w.net.cut.Store(true)
			_, err = l.lend(c, someBytes(size))
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, c.Close())
		},
		"Reset": func(t *testing.T, w *world, c, _ *Stream, l *loans) {
			w.net.cut.Store(true)
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, c.Reset(1))
		},
		"Reset at once": func(t *testing.T, _ *world, c, _ *Stream, l *loans) {
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			require.NoError(t, c.Reset(1))
		},
		"the peer resets": func(t *testing.T, _ *world, c, s *Stream, l *loans) {
			for range 10 {
				_, err := l.lend(c, someBytes(size))
				require.NoError(t, err)
			}
			require.NoError(t, s.Reset(7))
		},
		"the peer closes with bytes unread": func(t *testing.T, _ *world, c, s *Stream, l *loans) {
			for range 10 {
				_, err := l.lend(c, someBytes(size))
				require.NoError(t, err)
			}
			synctest.Wait()
			require.NoError(t, s.Close())
		},
		"a dead peer": func(t *testing.T, w *world, c, _ *Stream, l *loans) {
			w.net.cut.Store(true)
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			is(t, err, "read", syscall.ETIMEDOUT, true)
			_, err = l.lend(c, someBytes(size))
			is(t, err, "write", syscall.EPIPE, true)
		},
		"the endpoint closes": func(t *testing.T, w *world, c, _ *Stream, l *loans) {
			w.net.cut.Store(true)
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			require.NoError(t, w.client.Close())
			assert.Zero(t, l.open())
			_, err = l.lend(c, someBytes(size))
			is(t, err, "write", net.ErrClosed, false)
		},
		"the socket fails": func(t *testing.T, w *world, c, _ *Stream, l *loans) {
			w.net.cut.Store(true)
			_, err := l.lend(c, someBytes(size))
			require.NoError(t, err)
			w.cs.fail(syscall.ENETDOWN)
			<-w.client.done
		},
		"refused: after Close": func(t *testing.T, _ *world, c, _ *Stream, l *loans) {
			require.NoError(t, c.Close())
			n, err := l.lend(c, someBytes(size))
			assert.Zero(t, n)
			is(t, err, "write", net.ErrClosed, false)
			assert.Zero(t, l.open())
		},
		"refused: after CloseWrite": func(t *testing.T, _ *world, c, _ *Stream, l *loans) {
			require.NoError(t, c.CloseWrite())
			n, err := l.lend(c, someBytes(size))
			assert.Zero(t, n)
			is(t, err, "write", syscall.EPIPE, false)
			assert.Zero(t, l.open())
		},
		"waiting for room: the deadline, then on": func(t *testing.T, w *world, c, s *Stream, l *loans) {
			w.net.cut.Store(true)
			n, err := l.lend(c, someBytes(3<<20))
			require.NoError(t, err, "whatever its length")
			assert.Equal(t, 3<<20, n)
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Second)))
			n, err = l.lend(c, someBytes(size))
			assert.Zero(t, n)
			is(t, err, "write", os.ErrDeadlineExceeded, true)
			assert.Equal(t, 1, l.open())
			n, err = c.Write([]byte{1})
			assert.Zero(t, n, "it counts for Write too")
			is(t, err, "write", os.ErrDeadlineExceeded, true)
			require.NoError(t, c.SetWriteDeadline(time.Time{}))
			w.net.cut.Store(false)
			go func() {
				_, err := l.lend(c, someBytes(size))
				assert.NoError(t, err)
				assert.NoError(t, c.CloseWrite())
			}()
			assert.True(t, bytes.Equal(append(someBytes(3<<20), someBytes(size)...), readAll(t, s)))
		},
		"waiting for room: Close": func(t *testing.T, w *world, c, _ *Stream, l *loans) {
			w.net.cut.Store(true)
			_, err := l.lend(c, someBytes(1<<20))
			require.NoError(t, err)
			waits := make(chan error, 1)
			go func() { _, err := l.lend(c, someBytes(size)); waits <- err }()
			synctest.Wait()
			require.NoError(t, c.Close())
			is(t, <-waits, "write", net.ErrClosed, false)
			assert.Equal(t, 1, l.open())
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := &loans{t: t}
			virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
				c, s := w.connect(t)
				test(t, w, c, s, l)
				time.Sleep(2 * time.Minute) // virtual
				if !assert.Zero(t, l.open(), "while the endpoints live") {
					t.Log(c.Stats())
				}
			})
			assert.Zero(t, l.open())
			assert.Positive(t, l.out.Load()+1)
		})
	}
}

// Goal: the stream's order is that of the calls, whichever they are, and losses are sent again from
// where the bytes lie. Bytes that came back are spoiled, so one look too many shows.
func TestStream_WriteOwnedKeepsOrder(t *testing.T) {
	l := &loans{t: t}
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, s := w.connect(t)
		data := someBytes(6 << 20)
		var outages sync.WaitGroup
		defer outages.Wait()
		outages.Go(func() { // what is on its way is lost
			for range 40 {
				time.Sleep(3 * time.Millisecond)
				w.net.cut.Store(true)
				time.Sleep(time.Millisecond)
				w.net.cut.Store(false)
			}
		})
		go func() {
			r := rand.New(rand.NewPCG(4, 2))
			for at := 0; at < len(data); {
				p := data[at:min(at+1+r.IntN([]int{100, 5000, 100_000}[r.IntN(3)]), len(data))]
				var n int
				var err error
				if r.IntN(2) == 0 {
					n, err = c.Write(p)
				} else {
					n, err = l.lend(c, p)
				}
				if !assert.NoError(t, err) || !assert.Equal(t, len(p), n) {
					return
				}
				at += n
			}
			assert.NoError(t, c.CloseWrite())
		}()
		assert.True(t, bytes.Equal(data, readAll(t, s)))
		require.NoError(t, c.Drain(context.Background()))
		synctest.Wait()
		assert.Zero(t, l.open())
	})
}

// Goal: calls that lend race with every end, and nothing is lost or given back twice. Under -race too.
func TestStream_WriteOwnedRacesWithTheEnd(t *testing.T) {
	for _, end := range []func(w *world, c, s *Stream){
		func(_ *world, c, _ *Stream) { _ = c.Close() },
		func(_ *world, c, _ *Stream) { _ = c.CloseWrite() },
		func(_ *world, c, _ *Stream) { _ = c.Reset(1) },
		func(_ *world, _, s *Stream) { _ = s.Reset(1) },
		func(_ *world, _, s *Stream) { _ = s.Close() },
		func(w *world, _, _ *Stream) { _ = w.client.Close() },
		func(w *world, _, _ *Stream) { w.cs.fail(syscall.ENETDOWN) },
	} {
		for range 8 {
			l := &loans{t: t}
			w := newWorld(t, clientConfig(), serverConfig())
			c, s := w.connect(t)
			go func() { _, _ = io.Copy(io.Discard, s) }()
			var writers sync.WaitGroup
			for range 3 {
				writers.Go(func() {
					for p := make([]byte, 5000); ; {
						if _, err := l.lend(c, p); err != nil {
							return
						}
					}
				})
			}
			await(t, "loans", func() bool { return l.back.Load() > 10 })
			end(w, c, s)
			writers.Wait()
			require.NoError(t, w.client.Close())
			require.NoError(t, w.server.Close())
			require.Zero(t, l.open())
		}
	}
}

// Goal: a write that succeeds while the stream is closed is delivered before the peer's end of stream; one that
// is too late says so. The copy of so many bytes takes longer than the actor needs for a Close.
func TestStream_WriteRacesWithClose(t *testing.T) {
	data := someBytes(900_000)
	for name, write := range map[string]func(s *Stream) (int, error){
		"Write":      func(s *Stream) (int, error) { return s.Write(data) },
		"WriteOwned": func(s *Stream) (int, error) { return s.WriteOwned(data[:lendMin], nil) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
				for i := range 100 {
					c, s := w.connect(t)
					written := make(chan int, 1)
					begin := make(chan struct{})
					go func() {
						<-begin
						n := 0
						for {
							m, err := write(c)
							if n += m; err != nil {
								written <- n
								return
							}
						}
					}()
					go func() {
						<-begin
						for range i * 100 {
							runtime.Gosched()
						}
						assert.NoError(t, c.Close())
					}()
					close(begin)
					got, err := reads(s)
					assert.Equal(t, io.EOF, err)
					assert.GreaterOrEqual(t, got, <-written)
					require.NoError(t, s.Close())
				}
			})
		})
	}
}

func TestStream_WriteOwnedAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	c, s, _ := pair(t, clientConfig(), serverConfig())
	p := make([]byte, 16<<10)
	got := make([]byte, len(p))
	free := func() {}
	turn := func() {
		if _, err := c.WriteOwned(p, free); err != nil {
			t.Error(err)
		}
		for n := 0; n < len(got); {
			l, err := s.ReadLease(0)
			if err != nil {
				t.Fatal(err)
			}
			n += copy(got[n:], l.Bytes())
			l.Release()
		}
	}
	for range 1000 {
		turn() // rings, pools and the window grow to what they need
	}
	assert.Less(t, testing.AllocsPerRun(1000, turn), 1.0)
}
