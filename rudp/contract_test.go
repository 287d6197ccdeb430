package rudp

// The error contract, line by line: what Read and Write return at each end of a stream.

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// is says that an error is an *net.OpError of this package that is target, and a timeout or not.
func is(t *testing.T, err error, op string, target error, timeout bool) {
	t.Helper()
	var e *net.OpError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, op, e.Op)
	assert.Equal(t, "rudp", e.Net)
	assert.NotNil(t, e.Source)
	assert.NotNil(t, e.Addr)
	assert.ErrorIs(t, err, target)
	assert.Equal(t, timeout, e.Timeout())
	assert.NotErrorIs(t, err, io.EOF)
}

func errOf(_ int, err error) error { return err }

// fill writes until Write fails and returns what it says.
func fill(s *Stream) error {
	for p := make([]byte, 64<<10); ; {
		if n, err := s.Write(p); err != nil || n < len(p) {
			return err
		}
	}
}

// reads reads until an error.
func reads(s *Stream) (n int, err error) {
	for p := make([]byte, 1000); err == nil; {
		var m int
		m, err = s.Read(p)
		n += m
	}
	return n, err
}

// Goal: the contract. Each case ends a fresh connection in one way, and says what client (c) and
// server (s) get. Virtual time: timeouts are the defaults.
func TestStream_Contract(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, w *world, c, s *Stream){
		"CloseWrite: bytes, then EOF; the other half lives": func(t *testing.T, _ *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 100_000))
			require.NoError(t, err)
			require.NoError(t, c.CloseWrite())
			require.NoError(t, c.CloseWrite())
			n, err := reads(s)
			assert.Equal(t, 100_000, n)
			assert.Equal(t, io.EOF, err)
			assert.Equal(t, io.EOF, errOf(s.Read(make([]byte, 1))), "again")
			is(t, errOf(c.Write([]byte{1})), "write", syscall.EPIPE, false)
			_, err = s.Write([]byte("still"))
			require.NoError(t, err)
			n, err = c.Read(make([]byte, 10))
			assert.Equal(t, 5, n)
			assert.NoError(t, err)
		},
		"Close: bytes, then EOF at the peer; its writes break": func(t *testing.T, _ *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 500_000))
			require.NoError(t, err)
			require.NoError(t, c.Close())
			require.NoError(t, c.Close())
			n, err := reads(s)
			assert.Equal(t, 500_000, n)
			assert.Equal(t, io.EOF, err)
			is(t, fill(s), "write", syscall.EPIPE, false)
			is(t, s.CloseWrite(), "close", syscall.EPIPE, false)
		},
		"local Close: ErrClosed everywhere": func(t *testing.T, _ *world, c, _ *Stream) {
			require.NoError(t, c.Close())
			is(t, errOf(c.Read(make([]byte, 1))), "read", net.ErrClosed, false)
			is(t, errOf(c.Read(nil)), "read", net.ErrClosed, false)
			is(t, errOf(c.Write([]byte{1})), "write", net.ErrClosed, false)
			is(t, c.CloseWrite(), "close", net.ErrClosed, false)
			is(t, c.Reset(1), "reset", net.ErrClosed, false)
			is(t, c.SetDeadline(time.Now()), "set", net.ErrClosed, false)
		},
		"Drain after Close, and after the end": func(t *testing.T, w *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 200_000))
			require.NoError(t, err)
			require.NoError(t, c.Close())
			require.NoError(t, c.Drain(context.Background()))
			assert.EqualValues(t, 200_000, s.Stats().StreamReceived)
			time.Sleep(time.Minute)
			assert.Zero(t, w.client.Stats().Conns)
			require.NoError(t, c.Drain(context.Background()))
			is(t, s.Drain(context.Background()), "drain", syscall.EPIPE, false)
		},
		"Reset after Close changes nothing": func(t *testing.T, w *world, c, s *Stream) {
			w.net.cut.Store(true) // so that it lingers
			_, err := c.Write(make([]byte, 200_000))
			require.NoError(t, err)
			require.NoError(t, c.Close())
			synctest.Wait()
			is(t, c.Reset(5), "reset", net.ErrClosed, false)
			w.net.cut.Store(false)
			n, err := reads(s)
			assert.Equal(t, 200_000, n)
			assert.Equal(t, io.EOF, err)
		},
		"Drain of what is given up": func(t *testing.T, w *world, c, s *Stream) {
			w.net.cut.Store(true)
			_, err := c.Write(make([]byte, 200_000))
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			is(t, c.Drain(ctx), "drain", context.DeadlineExceeded, true)
			require.NoError(t, c.Reset(1))
			is(t, c.Drain(context.Background()), "drain", net.ErrClosed, false)
			require.NoError(t, s.Drain(context.Background()), "nothing was written")
		},
		"local Close wakes Read and Write": func(t *testing.T, _ *world, c, _ *Stream) {
			read, written := make(chan error, 1), make(chan error, 1)
			go func() { read <- errOf(c.Read(make([]byte, 1))) }()
			go func() { written <- fill(c) }()
			synctest.Wait()
			require.NoError(t, c.Close())
			is(t, <-read, "read", net.ErrClosed, false)
			is(t, <-written, "write", net.ErrClosed, false)
		},
		"CloseWrite wakes Write": func(t *testing.T, _ *world, c, _ *Stream) {
			written := make(chan error, 1)
			go func() { written <- fill(c) }()
			synctest.Wait()
			require.NoError(t, c.CloseWrite())
			is(t, <-written, "write", syscall.EPIPE, false)
		},
		"peer's Reset: bytes, then its code": func(t *testing.T, _ *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, c.Drain(context.Background()))
			require.NoError(t, c.Reset(77))
			synctest.Wait()
			n, err := reads(s)
			assert.Equal(t, 1000, n)
			is(t, err, "read", syscall.ECONNRESET, false)
			var reset *ResetError
			require.ErrorAs(t, err, &reset)
			assert.EqualValues(t, 77, reset.Code)
			is(t, fill(s), "write", syscall.EPIPE, false)
			is(t, errOf(c.Read(make([]byte, 1))), "read", net.ErrClosed, false)
		},
		"peer's Reset wakes Write": func(t *testing.T, _ *world, c, s *Stream) {
			written := make(chan error, 1)
			go func() { written <- fill(s) }()
			synctest.Wait()
			require.NoError(t, c.Reset(1))
			is(t, <-written, "write", syscall.EPIPE, false)
		},
		"peer's Close with bytes unread resets": func(t *testing.T, _ *world, c, s *Stream) {
			_, err := s.Write(make([]byte, 1000))
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, c.Close())
			_, err = reads(s)
			is(t, err, "read", syscall.ECONNRESET, false)
			var reset *ResetError
			require.ErrorAs(t, err, &reset)
			assert.Zero(t, reset.Code)
		},
		"peer's endpoint closed without a FIN: never EOF": func(t *testing.T, w *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, c.Drain(context.Background()))
			require.NoError(t, w.client.Close())
			n, err := reads(s)
			assert.Equal(t, 1000, n)
			is(t, err, "read", syscall.ECONNRESET, false)
			is(t, errOf(c.Read(make([]byte, 1))), "read", net.ErrClosed, false)
			is(t, errOf(c.Write(make([]byte, 1))), "write", net.ErrClosed, false)
		},
		"dead peer: a timeout, never EOF": func(t *testing.T, w *world, c, s *Stream) {
			_, err := c.Write(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, c.Drain(context.Background()))
			w.net.cut.Store(true)
			start := time.Now()
			n, err := reads(s)
			assert.Equal(t, 1000, n)
			is(t, err, "read", syscall.ETIMEDOUT, true)
			assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.InDelta(t, 33, time.Since(start).Seconds(), 3, "idle since its own last keep-alive")
			is(t, fill(s), "write", syscall.EPIPE, true)
		},
		"dead peer wakes Write": func(t *testing.T, w *world, c, _ *Stream) {
			w.net.cut.Store(true)
			is(t, fill(c), "write", syscall.EPIPE, true)
		},
		"deadlines: usable after": func(t *testing.T, _ *world, c, s *Stream) {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
			is(t, errOf(c.Read(make([]byte, 1))), "read", os.ErrDeadlineExceeded, true)
			is(t, errOf(c.Read(nil)), "read", os.ErrDeadlineExceeded, true)
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Second)))
			require.NoError(t, c.SetReadDeadline(time.Time{}))
			written := 0
			var err error
			for err == nil {
				var n int
				n, err = c.Write(make([]byte, 30_000))
				written += n
			}
			is(t, err, "write", os.ErrDeadlineExceeded, true)
			require.NoError(t, c.SetWriteDeadline(time.Time{}))
			require.NoError(t, c.CloseWrite())
			n, err := reads(s)
			assert.Equal(t, io.EOF, err)
			assert.Equal(t, written, n, "a short count is what was taken")
			_, err = s.Write([]byte("ok"))
			require.NoError(t, err)
			n, err = c.Read(make([]byte, 8))
			assert.Equal(t, 2, n)
			assert.NoError(t, err)
		},
		"a deadline wakes Read and takes no bytes": func(t *testing.T, _ *world, c, s *Stream) {
			read := make(chan error, 1)
			go func() { read <- errOf(c.Read(make([]byte, 10))) }()
			synctest.Wait()
			require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
			is(t, <-read, "read", os.ErrDeadlineExceeded, true)
			_, err := s.Write([]byte("here"))
			require.NoError(t, err)
			synctest.Wait()
			is(t, errOf(c.Read(make([]byte, 10))), "read", os.ErrDeadlineExceeded, true)
			require.NoError(t, c.SetReadDeadline(time.Time{}))
			n, err := c.Read(make([]byte, 10))
			assert.Equal(t, 4, n)
			assert.NoError(t, err)
		},
		"Write blocks at its bound": func(t *testing.T, _ *world, c, s *Stream) {
			taken := make(chan int, 1)
			go func() {
				n, _ := c.Write(make([]byte, 64<<20))
				taken <- n
			}()
			time.Sleep(time.Minute) // virtual: all that can move has moved
			require.Empty(t, taken)
			held := int(s.Stats().StreamReceived) + DefaultSendBuffer
			require.NoError(t, c.Close())
			n := <-taken
			assert.Less(t, n, 64<<20)
			assert.InDelta(t, held, n, 64<<10)
			assert.LessOrEqual(t, int(s.Stats().StreamReceived), DefaultRecvWindow)
			assert.GreaterOrEqual(t, int(s.Stats().StreamReceived), 256<<10)
		},
		"a reset code that is none": func(t *testing.T, _ *world, c, _ *Stream) {
			is(t, c.Reset(1<<62), "reset", syscall.EINVAL, false)
			_, err := c.Write([]byte("alive"))
			assert.NoError(t, err)
		},
		"the socket fails": func(t *testing.T, w *world, c, s *Stream) {
			read := make(chan error, 1)
			go func() { read <- errOf(c.Read(make([]byte, 10))) }()
			synctest.Wait()
			w.cs.fail(syscall.ENETDOWN)
			err := <-read
			is(t, err, "read", syscall.ENETDOWN, false)
			assert.ErrorIs(t, err, syscall.ECONNABORTED)
			<-w.client.done
			is(t, errOf(c.Write(make([]byte, 10))), "write", syscall.EPIPE, false)
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

func TestDial_HandshakeTimeout(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		start := time.Now()
		_, err := w.client.Dial(context.Background(), "10.9.9.9:1")
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, "dial", op.Op)
		assert.True(t, op.Timeout())
		assert.ErrorIs(t, err, syscall.ETIMEDOUT)
		assert.InDelta(t, 10, time.Since(start).Seconds(), 0.1)
	})
}

func TestDial_ContextEnds(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := w.client.Dial(ctx, "10.9.9.9:1")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.True(t, err.(*net.OpError).Timeout())
		ctx, cancel = context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		_, err = w.client.Dial(ctx, "10.9.9.9:1")
		assert.ErrorIs(t, err, context.Canceled)
		assert.False(t, err.(*net.OpError).Timeout())
		_, err = w.client.Dial(ctx, "10.0.0.2:2000")
		assert.ErrorIs(t, err, context.Canceled, "before it begins")
		time.Sleep(30 * time.Second)
		assert.Zero(t, w.client.Stats().Conns, "given up")
	})
}

func TestDial_Refused(t *testing.T) {
	server := serverConfig()
	server.MaxConns = 1
	virtual(t, clientConfig(), server, func(t *testing.T, w *world) {
		w.connect(t)
		_, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		assert.EqualValues(t, 1, w.server.Stats().Refused)
	})
}

func TestDial_NoCommonALPN(t *testing.T) {
	client := clientConfig()
	client.TLS = client.TLS.Clone()
	client.TLS.NextProtos = []string{"something else"}
	virtual(t, client, serverConfig(), func(t *testing.T, w *world) {
		_, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		var transport *TransportError
		require.ErrorAs(t, err, &transport)
		assert.True(t, transport.Remote)
		assert.EqualValues(t, 0x178, transport.Code)
		assert.Contains(t, err.Error(), "unsupported application protocols")
	})
}

func TestDial_UntrustedCertificate(t *testing.T) {
	client := clientConfig()
	client.TLS = client.TLS.Clone()
	client.TLS.ServerName = "" // the address, which the certificate doesn't have
	virtual(t, client, serverConfig(), func(t *testing.T, w *world) {
		_, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		var transport *TransportError
		require.ErrorAs(t, err, &transport)
		assert.False(t, transport.Remote)
		assert.ErrorIs(t, err, syscall.ECONNABORTED)
		assert.Contains(t, err.Error(), "10.0.0.2")
	})
}

func TestErrors_Text(t *testing.T) {
	for want, err := range map[string]error{
		"connection reset by peer, code 7":       &ResetError{7},
		"peer error 0x178: tls: no application":  &TransportError{Code: 0x178, Remote: true},
		"local error 0xa: what":                  &TransportError{Code: 10, Reason: "what"},
		syscall.EPIPE.Error() + ": idle timeout": &pipeError{&timeoutError{"idle timeout"}},
		syscall.EPIPE.Error():                    &pipeError{},
		"operation was canceled":                 contextError(context.Canceled),
		"i/o timeout":                            contextError(context.DeadlineExceeded),
	} {
		assert.Contains(t, err.Error(), want)
	}
	assert.Nil(t, contextError(nil))
	assert.False(t, errors.Is(&pipeError{}, syscall.ECONNRESET))
}
