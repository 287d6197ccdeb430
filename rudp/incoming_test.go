package rudp

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStream_ReadLease(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, w *world, c, s *Stream){
		"bytes in order, several at a time, back in any order": func(t *testing.T, _ *world, c, s *Stream) {
			data := someBytes(100_000)
			_, err := c.Write(data)
			require.NoError(t, err)
			require.NoError(t, c.Drain(context.Background()))
			var held []Lease
			at := 0
			for at < len(data) {
				if len(held)%3 == 2 { // and a Read between
					n, err := s.Read(make([]byte, 777))
					require.NoError(t, err)
					at += n
				}
				l, err := s.ReadLease(5000)
				require.NoError(t, err)
				require.LessOrEqual(t, l.Len(), 5000)
				require.True(t, bytes.Equal(data[at:at+l.Len()], l.Bytes()))
				at += l.Len()
				held = append(held, l)
			}
			assert.Zero(t, s.in.freed.Load())
			r := rand.New(rand.NewPCG(1, 1))
			for _, i := range r.Perm(len(held)) {
				require.NotNil(t, held[i].Bytes())
				held[i].Release()
				assert.Nil(t, held[i].Bytes())
				held[i].Release() // again: nothing
			}
			assert.EqualValues(t, len(data), s.in.freed.Load())
			assert.Empty(t, s.in.list)
			assert.Zero(t, s.in.leases.Load())
			assert.Nil(t, Lease{}.Bytes())
			Lease{}.Release()
		},
		"the window waits for the release": func(t *testing.T, _ *world, c, s *Stream) {
			data := someBytes(12 << 20)
			go func() {
				_, _ = c.Write(data)
				_ = c.CloseWrite()
			}()
			var got []byte
			var held []Lease
			for len(got) < len(data) {
				time.Sleep(time.Minute) // virtual: all that can come has come
				for s.in.len() > 0 {
					l, err := s.ReadLease(0)
					require.NoError(t, err)
					got = append(got, l.Bytes()...)
					held = append(held, l)
				}
				sum := 0
				for _, l := range held {
					sum += l.Len()
				}
				require.Positive(t, sum)
				require.LessOrEqual(t, sum, DefaultRecvWindow)
				require.EqualValues(t, len(got), s.Stats().StreamReceived)
				for i := range held {
					assert.True(t, bytes.Equal(got[len(got)-sum:][:held[i].Len()], held[i].Bytes()), "as it was")
					sum -= held[i].Len()
					held[i].Release()
				}
				held = held[:0]
			}
			assert.True(t, bytes.Equal(data, got))
			_, err := s.ReadLease(0)
			assert.Equal(t, io.EOF, err)
		},
		"leased bytes outlive Close, and count as read": func(t *testing.T, _ *world, c, s *Stream) {
			data := someBytes(50_000)
			_, err := c.Write(data)
			require.NoError(t, err)
			require.NoError(t, c.Drain(context.Background()))
			l, err := s.ReadLease(0)
			require.NoError(t, err)
			kept := []Lease{l}
			for s.in.len() > 0 {
				l, err = s.ReadLease(0)
				require.NoError(t, err)
				kept = append(kept, l)
			}
			require.NoError(t, s.Close())
			_, err = s.ReadLease(0)
			is(t, err, "read", net.ErrClosed, false)
			_, err = c.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err, "not a reset")
			_ = fill(c) // what comes now must not lie where they do
			time.Sleep(time.Minute)
			var got []byte
			for _, l := range kept {
				got = append(got, l.Bytes()...)
				l.Release()
				assert.Nil(t, l.Bytes())
			}
			assert.True(t, bytes.Equal(data, got))
		},
		"bytes, then the peer's reset": func(t *testing.T, _ *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, c.Drain(context.Background()))
			require.NoError(t, c.Reset(77))
			synctest.Wait()
			l, err := s.ReadLease(0)
			require.NoError(t, err)
			assert.Equal(t, 1000, l.Len())
			_, err = s.ReadLease(0)
			is(t, err, "read", syscall.ECONNRESET, false)
			assert.Equal(t, make([]byte, 1000), l.Bytes())
			l.Release()
		},
		"the endpoint is gone": func(t *testing.T, w *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 1000))
			require.NoError(t, err)
			synctest.Wait()
			l, err := s.ReadLease(10)
			require.NoError(t, err)
			require.NoError(t, w.server.Close())
			assert.Len(t, l.Bytes(), 10)
			l.Release()
			_, err = s.ReadLease(0)
			is(t, err, "read", net.ErrClosed, false)
		},
		"a deadline, and on": func(t *testing.T, _ *world, c, s *Stream) {
			require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Second)))
			_, err := s.ReadLease(0)
			is(t, err, "read", os.ErrDeadlineExceeded, true)
			require.NoError(t, s.SetReadDeadline(time.Time{}))
			_, err = c.Write([]byte("on"))
			require.NoError(t, err)
			l, err := s.ReadLease(0)
			require.NoError(t, err)
			assert.Equal(t, "on", string(l.Bytes()))
			l.Release()
		},
		"Close wakes it": func(t *testing.T, _ *world, _, s *Stream) {
			waits := make(chan error, 1)
			go func() { _, err := s.ReadLease(0); waits <- err }()
			synctest.Wait()
			require.NoError(t, s.Close())
			is(t, <-waits, "read", net.ErrClosed, false)
		},
		"forwarded: a lease lent on": func(t *testing.T, w *world, c, s *Stream) {
			c2, s2 := w.connect(t)
			data := someBytes(9 << 20)
			go func() {
				_, _ = c.Write(data)
				_ = c.CloseWrite()
			}()
			go func() {
				for {
					l, err := s.ReadLease(64 << 10)
					if err != nil {
						assert.Equal(t, io.EOF, err)
						break
					}
					_, err = s2.WriteOwned(l.Bytes(), l.Release)
					assert.NoError(t, err)
				}
				assert.NoError(t, s2.CloseWrite())
			}()
			assert.True(t, bytes.Equal(data, readAll(t, c2)))
			synctest.Wait()
			assert.Zero(t, s.in.leases.Load())
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := serverConfig()
			server.KeepAlive = 5 * time.Second
			virtual(t, clientConfig(), server, func(t *testing.T, w *world) {
				c, s := w.connect(t)
				test(t, w, c, s)
			})
		})
	}
}

// shortWriter takes less than it is given.
type shortWriter struct{ err error }

func (w shortWriter) Write(p []byte) (int, error) { return len(p) - 1, w.err }

// WriteTo gives back what its writer refuses too, and says how much it took.
func TestStream_WriteToShort(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, s := w.connect(t)
		_, err := c.Write(make([]byte, 100))
		require.NoError(t, err)
		synctest.Wait()
		n, err := s.WriteTo(shortWriter{})
		assert.EqualValues(t, 99, n)
		assert.Equal(t, io.ErrShortWrite, err)
		_, err = c.Write(make([]byte, 100))
		require.NoError(t, err)
		n, err = s.WriteTo(shortWriter{syscall.ENOSPC})
		assert.EqualValues(t, 99, n)
		assert.Equal(t, syscall.ENOSPC, err)
		assert.Zero(t, s.in.leases.Load())
		assert.EqualValues(t, 200, s.in.freed.Load())
	})
}

// Goal: readers of both kinds and releases on other goroutines at once; every byte comes once and in
// order, and the window never closes for good. Under -race too.
func TestStream_LeasesAcrossGoroutines(t *testing.T) {
	w := newWorld(t, clientConfig(), &Config{TLS: serverConfig().TLS, RecvWindow: 64 << 10})
	c, s := w.connect(t)
	data := someBytes(8 << 20)
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	later := make(chan Lease, 8)
	released := make(chan struct{})
	at := 0
	go func() {
		defer close(released)
		off := 0
		for l := range later {
			off += l.Len()
			l.Release()
		}
	}()
	r := rand.New(rand.NewPCG(3, 1))
	buf := make([]byte, 9000)
	for {
		if r.IntN(3) == 0 {
			n, err := s.Read(buf[:1+r.IntN(len(buf)-1)])
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(data[at:at+n], buf[:n]))
			at += n
			continue
		}
		l, err := s.ReadLease(1 + r.IntN(20_000))
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		require.True(t, bytes.Equal(data[at:at+l.Len()], l.Bytes()))
		at += l.Len()
		later <- l
	}
	close(later)
	<-released
	assert.Equal(t, len(data), at)
	require.NoError(t, w.client.Close())
	require.NoError(t, w.server.Close())
}
