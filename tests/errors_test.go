package tests

// Bad input and bad luck: each gives the error that package net gives, and leaves nothing behind.

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// opFields is what a *net.OpError says.
type opFields struct{ op, network, source, addr, text string }

func fieldsOf(t *testing.T, err error) opFields {
	t.Helper()
	var oe *net.OpError
	require.ErrorAs(t, err, &oe)
	f := opFields{op: oe.Op, network: oe.Net, text: oe.Err.Error()}
	if oe.Source != nil {
		f.source = oe.Source.String()
	}
	if oe.Addr != nil {
		f.addr = oe.Addr.String()
	}
	return f
}

// closedPort is an address that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// Goal: a listen that fails does so as package net's, by all ways to listen, with the same fields.
func TestErrors_Listen(t *testing.T) {
	noLeak(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	cases := []struct {
		name, network, address string
		is                     error
	}{
		{"unknown network", "tcp7", "127.0.0.1:0", nil},
		{"packet network", "udp", "127.0.0.1:0", nil},
		{"empty network", "", "127.0.0.1:0", nil},
		{"no port", "tcp", "127.0.0.1", nil},
		{"port too large", "tcp", "127.0.0.1:70000", nil},
		{"unknown port", "tcp", "127.0.0.1:no-such-service", nil},
		{"too many colons", "tcp", "::1:0", nil},
		{"other family", "tcp4", "[::1]:0", nil},
		{"other family", "tcp6", "127.0.0.1:0", nil},
		{"occupied", "tcp", taken.Addr().String(), syscall.EADDRINUSE},
		{"not ours", "tcp", "192.0.2.1:0", syscall.EADDRNOTAVAIL},
	}
	handler := &echoHandler{}
	for _, workers := range []int{1, 2} {
		rt := newRuntime(t, veloq.Config{Workers: workers})
		ways := map[string]func(network, address string) error{
			"Context.Listen": func(network, address string) error {
				return inTask(t, rt, func(c *veloq.Context) error {
					l, err := c.Listen(network, address)
					if err == nil {
						_ = l.Close()
					}
					return err
				})
			},
			"Serve": func(network, address string) error {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				return rt.Serve(ctx, network, address, echoTask)
			},
			"ServeHandler": func(network, address string) error {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				return rt.ServeHandler(ctx, network, address, handler)
			},
		}
		for _, tc := range cases {
			for way, listen := range ways {
				t.Run(tc.name+"/"+tc.network+"/"+way, func(t *testing.T) {
					_, want := net.Listen(tc.network, tc.address)
					require.Error(t, want)
					got := listen(tc.network, tc.address)
					require.Error(t, got)
					if tc.network != "udp" { // which package net knows, though not for streams
						assert.Equal(t, fieldsOf(t, want), fieldsOf(t, got))
						assert.Equal(t, want.Error(), got.Error())
					}
					if tc.is != nil {
						require.ErrorIs(t, got, tc.is)
					}
					if strings.Contains(tc.name, "network") {
						var unknown net.UnknownNetworkError
						require.ErrorAs(t, got, &unknown)
					}
				})
			}
		}
	}
}

// Goal: the same for dialing.
func TestErrors_Dial(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	refusing := closedPort(t)
	before := holds(rt)
	cases := []struct {
		name, network, address string
		is                     error
	}{
		{"unknown network", "tcp7", "127.0.0.1:1", nil},
		{"packet network", "udp7", "127.0.0.1:1", nil},
		{"no port", "tcp", "127.0.0.1", nil},
		{"port too large", "tcp", "127.0.0.1:70000", nil},
		{"negative port", "tcp", "127.0.0.1:-1", nil},
		{"unknown port", "tcp", "127.0.0.1:no-such-service", nil},
		{"too many colons", "tcp", "::1:0", nil},
		{"other family", "tcp4", "[::1]:1", nil},
		{"other family", "tcp6", "127.0.0.1:1", nil},
		{"refused", "tcp", refusing, syscall.ECONNREFUSED},
		{"refused", "tcp4", refusing, syscall.ECONNREFUSED},
		{"refused", "tcp", strings.Replace(refusing, "127.0.0.1", "[::1]", 1), syscall.ECONNREFUSED},
		{"broadcast", "tcp", "255.255.255.255:1", nil},
	}
	for _, tc := range cases {
		t.Run(tc.name+"/"+tc.network, func(t *testing.T) {
			_, want := net.Dial(tc.network, tc.address)
			require.Error(t, want)
			got := inTask(t, rt, func(c *veloq.Context) error {
				s, err := c.Dial(tc.network, tc.address)
				assert.Nil(t, s)
				return err
			})
			require.Error(t, got)
			assert.Equal(t, fieldsOf(t, want), fieldsOf(t, got))
			assert.Equal(t, want.Error(), got.Error())
			if tc.is != nil {
				require.ErrorIs(t, got, tc.is)
			}
			settled(t, rt, before)
		})
	}
	t.Run("local address", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = taken.Close() }()
		from := taken.Addr().(*net.TCPAddr)
		_, want := (&net.Dialer{LocalAddr: from}).Dial("tcp", refusing)
		require.Error(t, want)
		got := inTask(t, rt, func(c *veloq.Context) error {
			_, err := (&veloq.Dialer{LocalAddr: from}).DialStream(c, "tcp", refusing)
			return err
		})
		require.ErrorIs(t, got, syscall.EADDRINUSE)
		assert.Equal(t, fieldsOf(t, want), fieldsOf(t, got))
		ips := []net.IP{
			net.IPv6loopback, net.IPv6unspecified, nil, net.IPv4zero, net.IPv4(127, 0, 0, 1),
		}
		for _, ip := range ips {
			from := &net.TCPAddr{IP: ip}
			for _, to := range []string{refusing, strings.Replace(refusing, "127.0.0.1", "[::1]", 1)} {
				_, want := (&net.Dialer{LocalAddr: from}).Dial("tcp", to)
				got := inTask(t, rt, func(c *veloq.Context) error {
					_, err := (&veloq.Dialer{LocalAddr: from}).DialStream(c, "tcp", to)
					return err
				})
				require.Error(t, got)
				assert.Equal(t, fieldsOf(t, want), fieldsOf(t, got), "from %v to %v", ip, to)
			}
		}
		settled(t, rt, before)
	})
}

// fullListener has a kernel queue that takes nobody any more: dialing it hangs.
func fullListener(t *testing.T) string {
	t.Helper()
	addr, closeIt, err := shortListener()
	require.NoError(t, err)
	t.Cleanup(closeIt)
	for {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// Goal: a dial that its time ends says so as a timeout, one that is cancelled as that.
func TestErrors_DialGivenUp(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	before := holds(rt)
	addr := fullListener(t)
	_, want := net.DialTimeout("tcp", addr, 50*time.Millisecond)
	began := time.Now()
	err := inTask(t, rt, func(c *veloq.Context) error {
		_, err := (&veloq.Dialer{Timeout: 50 * time.Millisecond}).DialStream(c, "tcp", addr)
		return err
	})
	require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
	require.Equal(t, fieldsOf(t, want), fieldsOf(t, err))
	settled(t, rt, before)

	dialing := make(chan struct{})
	h := veloq.Spawn(rt, func(c *veloq.Context) (struct{}, error) {
		close(dialing)
		_, err := c.Dial("tcp", addr)
		return struct{}{}, err
	})
	await(t, "dial", dialing)
	eventually(t, "dial under way", func() (bool, any) { h := holds(rt); return h.streams == 1, h })
	h.Cancel()
	err = join(t, h)
	require.ErrorIs(t, err, context.Canceled)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, want = (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	require.Equal(t, fieldsOf(t, want).text, fieldsOf(t, err).text)
	settled(t, rt, before)
}

// Goal: a dial whose task was cancelled after the dial began and before it waited does not wait.
func TestErrors_DialCancelledBeforeItWaits(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	before := holds(rt)
	addr := fullListener(t)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		var h *veloq.LocalHandle[struct{}]
		d := veloq.Dialer{Control: func(string, string, syscall.RawConn) error {
			h.Cancel()
			return nil
		}}
		h = veloq.SpawnLocal(c, func(c *veloq.Context) (struct{}, error) {
			_, err := d.DialStream(c, "tcp", addr)
			return struct{}{}, err
		})
		_, err := h.Join(c)
		assert.ErrorIs(t, err, context.Canceled)
		return nil
	}))
	settled(t, rt, before)
}

// Goal: a closed runtime refuses everything with ErrClosed.
func TestErrors_ClosedRuntime(t *testing.T) {
	noLeak(t)
	for _, workers := range []int{1, 2} {
		rt := newRuntime(t, veloq.Config{Workers: workers})
		var kept *veloq.Context
		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error { kept = c; return nil }))
		require.NoError(t, rt.Close())
		require.NoError(t, rt.Close())
		require.NoError(t, rt.Shutdown(soon(t)))
		ctx := context.Background()
		for name, err := range map[string]error{
			"Serve":        rt.Serve(ctx, "tcp", "127.0.0.1:0", echoTask),
			"ServeHandler": rt.ServeHandler(ctx, "tcp", "127.0.0.1:0", &echoHandler{}),
			"Go":           veloq.Go(rt, func(*veloq.Context) {}),
			"Spawn":        inTask(t, rt, func(*veloq.Context) error { return nil }),
			"SpawnTo":      onWorker(t, rt, 0, func(*veloq.Context) error { return nil }),
		} {
			require.ErrorIs(t, err, veloq.ErrClosed, name)
		}
		require.Nil(t, rt.Stats())
		require.Error(t, kept.Sleep(time.Millisecond))
		_, err := kept.Dial("tcp", "127.0.0.1:1")
		require.Error(t, err)
		_, err = kept.Listen("tcp", "127.0.0.1:0")
		require.Error(t, err)
		require.Error(t, veloq.Go(kept, func(*veloq.Context) {}))
	}
}

// misuse calls every method of a stream, a listener and a context, and expects ErrWrongWorker.
func misuse(t *testing.T, where string, c *veloq.Context, s *veloq.Stream, l *veloq.Listener) {
	t.Helper()
	r, w := s.Split()
	one := []byte("x")
	call := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"Read":               call(s.Read(one)),
		"ReadFull":           call(s.ReadFull(one)),
		"ReadLease":          call(s.ReadLease()),
		"Peek":               call(s.Peek(1)),
		"Next":               call(s.Next(1)),
		"Skip":               call(s.Skip(1)),
		"ReadSlice":          call(s.ReadSlice(1)),
		"ReadBytes":          call(s.ReadBytes(1)),
		"ReadString":         call(s.ReadString(1)),
		"Write":              call(s.Write(one)),
		"Write large":        call(s.Write(make([]byte, 100_000))),
		"WriteString":        call(s.WriteString("x")),
		"Writev":             call(s.Writev([][]byte{one})),
		"Writev large":       call(s.Writev([][]byte{make([]byte, 100_000)})),
		"Writev nothing":     call(s.Writev(nil)),
		"Malloc":             call(s.Malloc(1)),
		"Flush":              s.Flush(),
		"WriteLease":         call(s.WriteLease(veloq.Lease{})),
		"ReadFrom":           call(s.ReadFrom(strings.NewReader("x"))),
		"ReadFrom stream":    call(s.ReadFrom(s)),
		"PauseRead":          s.PauseRead(),
		"ResumeRead":         s.ResumeRead(),
		"CloseRead":          s.CloseRead(),
		"CloseWrite":         s.CloseWrite(),
		"Close":              s.Close(),
		"SetDeadline":        s.SetDeadline(time.Now()),
		"SetReadDeadline":    s.SetReadDeadline(time.Now()),
		"SetWriteDeadline":   s.SetWriteDeadline(time.Now()),
		"SetNoDelay":         s.SetNoDelay(true),
		"NoDelay":            call(s.NoDelay()),
		"SetKeepAlive":       s.SetKeepAlive(true),
		"KeepAlive":          call(s.KeepAlive()),
		"SetKeepAlivePeriod": s.SetKeepAlivePeriod(time.Second),
		"SetKeepAliveConfig": s.SetKeepAliveConfig(net.KeepAliveConfig{}),
		"SetLinger":          s.SetLinger(0),
		"Linger":             call(s.Linger()),
		"KeepAlivePeriod":    call(s.KeepAlivePeriod()),
		"SyscallConn":        call(s.SyscallConn()),
		"SetReadBuffer":      s.SetReadBuffer(10_000),
		"ReadBuffer":         call(s.ReadBuffer()),
		"SetWriteBuffer":     s.SetWriteBuffer(10_000),
		"WriteBuffer":        call(s.WriteBuffer()),
		"SetTTL":             s.SetTTL(3),
		"TTL":                call(s.TTL()),
		"ReadHalf.Read":      call(r.Read(one)),
		"ReadHalf.ReadLease": call(r.ReadLease()),
		"ReadHalf.Close":     r.Close(),
		"WriteHalf.Write":    call(w.Write(one)),
		"WriteHalf.Close":    w.Close(),
		"Accept":             call(l.Accept()),
		"Listener.Close":     l.Close(),
		"Sleep":              c.Sleep(time.Millisecond),
		"Yield":              c.Yield(),
		"Dial":               call(c.Dial("tcp", "127.0.0.1:1")),
		"Listen":             call(c.Listen("tcp", "127.0.0.1:0")),
		"Go":                 veloq.Go(c, func(*veloq.Context) {}),
		"Spawn":              join(t, veloq.Spawn(c, func(*veloq.Context) (int, error) { return 0, nil })),
		"SpawnTo":            join(t, veloq.SpawnTo(c, 0, func(*veloq.Context) (int, error) { return 0, nil })),
	} {
		if !errors.Is(err, veloq.ErrWrongWorker) {
			t.Errorf("%s from %s: %v", name, where, err)
		}
	}
}

// Goal: everything of a worker refuses to be used from elsewhere, and is as good as before then.
func TestErrors_WrongWorker(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2})
	before := holds(rt)
	type things struct {
		c *veloq.Context
		s *veloq.Stream
		l *veloq.Listener
	}
	made, release := make(chan things, 1), make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(release) })
	owner := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (struct{}, error) {
		l, err := c.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return struct{}{}, err
		}
		s, err := c.Dial("tcp", l.Addr().String())
		if err != nil {
			return struct{}{}, err
		}
		peer, err := l.Accept()
		if err != nil {
			return struct{}{}, err
		}
		made <- things{c, s, l}
		for open := true; open; {
			if err := c.Sleep(time.Millisecond); err != nil {
				return struct{}{}, err
			}
			select {
			case <-release:
				open = false
			default:
			}
		}
		// Nothing of what was tried from elsewhere has happened.
		if _, err := s.Write([]byte("good as new")); err != nil {
			return struct{}{}, err
		}
		b, err := peer.Next(11)
		if err != nil || string(b) != "good as new" {
			t.Errorf("after misuse: %q, %v", b, err)
		}
		r, w := s.Split()
		return struct{}{}, errors.Join(r.Close(), w.Close(), peer.Close(), l.Close())
	})
	th := await(t, "stream of worker 0", made)
	misuse(t, "a goroutine", th.c, th.s, th.l)
	other := veloq.SpawnTo(rt, 1, func(*veloq.Context) (struct{}, error) {
		// A plain goroutine waits for the joins of misuse, not this worker.
		return struct{}{}, nil
	})
	require.NoError(t, join(t, other))
	require.NoError(t, onWorker(t, rt, 1, func(*veloq.Context) error {
		for name, err := range map[string]error{
			"Read":  func() error { _, err := th.s.Read(make([]byte, 1)); return err }(),
			"Write": func() error { _, err := th.s.Write([]byte("x")); return err }(),
			"Close": th.s.Close(),
			"Sleep": th.c.Sleep(time.Millisecond),
			"Go":    veloq.Go(th.c, func(*veloq.Context) {}),
			"l":     th.l.Close(),
		} {
			if !errors.Is(err, veloq.ErrWrongWorker) {
				t.Errorf("%s from another worker: %v", name, err)
			}
		}
		return nil
	}))
	once.Do(func() { close(release) })
	require.NoError(t, join(t, owner))
	settled(t, rt, before)
}

// Goal: on the right worker, but where nothing may wait or not with that Context.
func TestErrors_NotTheRunningTask(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1})
	var first *veloq.Context
	hold := make(chan struct{})
	waiting := veloq.Spawn(rt, func(c *veloq.Context) (struct{}, error) {
		first = c
		close(hold)
		return struct{}{}, c.Sleep(patience)
	})
	await(t, "first task", hold)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		assert.ErrorIs(t, first.Sleep(time.Millisecond), veloq.ErrNotTask)
		assert.ErrorIs(t, first.Yield(), veloq.ErrNotTask)
		_, err := first.Dial("tcp", "127.0.0.1:1")
		assert.ErrorIs(t, err, veloq.ErrNotTask)
		_, err = veloq.SpawnTo(c, 7, func(*veloq.Context) (int, error) { return 0, nil }).Join(c)
		assert.ErrorIs(t, err, veloq.ErrNoWorker)
		_, err = veloq.SpawnTo(c, -1, func(*veloq.Context) (int, error) { return 0, nil }).Join(c)
		assert.ErrorIs(t, err, veloq.ErrNoWorker)
		return nil
	}))
	waiting.Cancel()
	require.ErrorIs(t, join(t, waiting), context.Canceled)
	results := make(chan error, 1)
	srv := startHandler(t, rt, veloq.ListenConfig{}, &waitingHandler{results: results})
	dial(t, srv.Addr())
	require.ErrorIs(t, await(t, "handler", results), veloq.ErrNotTask)
	require.ErrorIs(t, onWorker(t, rt, 1, func(*veloq.Context) error { return nil }), veloq.ErrNoWorker)
	require.ErrorIs(t, onWorker(t, rt, -5, func(*veloq.Context) error { return nil }), veloq.ErrNoWorker)
}

type waitingHandler struct {
	echoHandler
	results chan error
}

func (h *waitingHandler) OnOpen(c *veloq.Context, s *veloq.Stream) {
	_, err := s.Read(make([]byte, 1))
	if err2 := c.Sleep(time.Millisecond); !errors.Is(err2, veloq.ErrNotTask) {
		err = err2
	}
	h.results <- err
}

// Goal: the states of a stream give the errors that those of a net.Conn give.
func TestErrors_StreamStates(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 1, ReadLimit: 10_000})
	before := holds(rt)
	peerOf := func(t *testing.T, fn func(c *veloq.Context, s *veloq.Stream, peer net.Conn) error) {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = l.Close() }()
		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
			s, err := c.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			peer, err := l.Accept() // has been waiting since the dial, so it doesn't hold the worker
			if err != nil {
				return err
			}
			defer func() { _ = peer.Close() }()
			return fn(c, s, peer)
		}))
		settled(t, rt, before)
	}
	buf := make([]byte, 100)
	t.Run("closed", func(t *testing.T) {
		peerOf(t, func(c *veloq.Context, s *veloq.Stream, peer net.Conn) error {
			local, remote := s.LocalAddr().String(), s.RemoteAddr().String()
			assert.Equal(t, peer.RemoteAddr().String(), local)
			assert.Equal(t, peer.LocalAddr().String(), remote)
			require.NoError(t, s.Close())
			require.NoError(t, s.Close())
			// The worker's next turns carry it out.
			fin := make(chan error, 1)
			go func() {
				_ = peer.SetReadDeadline(time.Now().Add(patience))
				_, err := peer.Read(make([]byte, 1))
				fin <- err
			}()
			for len(fin) == 0 {
				require.NoError(t, c.Sleep(time.Millisecond))
			}
			assert.Equal(t, io.EOF, <-fin)
			_ = peer.Close()
			_, want := peer.Read(buf)
			_, err := s.Read(buf)
			assert.ErrorIs(t, err, net.ErrClosed)
			w, g := fieldsOf(t, want), fieldsOf(t, err)
			w.source, w.addr = w.addr, w.source
			assert.Equal(t, w, g)
			_, want = peer.Write(buf)
			_, err = s.Write(buf)
			assert.ErrorIs(t, err, net.ErrClosed)
			w, g = fieldsOf(t, want), fieldsOf(t, err)
			w.source, w.addr = w.addr, w.source
			assert.Equal(t, w, g)
			want, err = peer.SetDeadline(time.Now()), s.SetDeadline(time.Now())
			assert.ErrorIs(t, err, net.ErrClosed)
			assert.Equal(t, fieldsOf(t, want).op, fieldsOf(t, err).op)
			for name, err := range map[string]error{
				"NoDelay": s.SetNoDelay(true), "CloseWrite": s.CloseWrite(), "CloseRead": s.CloseRead(),
				"Pause": s.PauseRead(), "Resume": s.ResumeRead(),
			} {
				assert.ErrorIs(t, err, net.ErrClosed, name)
			}
			return nil
		})
	})
	t.Run("half closed", func(t *testing.T) {
		peerOf(t, func(_ *veloq.Context, s *veloq.Stream, peer net.Conn) error {
			require.NoError(t, s.CloseWrite())
			require.NoError(t, s.CloseWrite())
			_, err := s.Write(buf)
			require.ErrorIs(t, err, syscall.EPIPE)
			require.NoError(t, peer.(*net.TCPConn).CloseWrite())
			_, want := peer.Write(buf)
			w, g := fieldsOf(t, want), fieldsOf(t, err)
			w.source, w.addr = w.addr, w.source
			assert.Equal(t, w, g)
			_, err = s.Read(buf)
			assert.Equal(t, io.EOF, err)
			_, err = s.Read(buf)
			assert.Equal(t, io.EOF, err)
			_, err = s.Peek(1)
			assert.Equal(t, io.EOF, err)
			_, err = s.ReadFull(buf)
			assert.Equal(t, io.EOF, err)
			n, err := s.Read(nil)
			assert.Zero(t, n)
			assert.NoError(t, err)
			return nil
		})
	})
	t.Run("reset", func(t *testing.T) {
		lost := false
		peerOf(t, func(c *veloq.Context, s *veloq.Stream, peer net.Conn) error {
			_, _ = peer.Write([]byte("last words"))
			_ = peer.(*net.TCPConn).SetLinger(0)
			_ = peer.Close()
			var err error
			for err == nil {
				_, err = s.Read(buf)
			}
			if resetReadsAsEnd() && errors.Is(err, io.EOF) {
				lost = true
				return nil
			}
			require.ErrorIs(t, err, syscall.ECONNRESET)
			f := fieldsOf(t, err)
			assert.Equal(t, opFields{
				"read", "tcp", s.LocalAddr().String(), peer.LocalAddr().String(),
				os.NewSyscallError(readCall, errReset).Error(),
			}, f)
			_, err = s.Read(buf)
			require.ErrorIs(t, err, syscall.ECONNRESET)
			err = nil
			for err == nil { // the first is accepted, and its failure comes with a later one
				require.NoError(t, c.Sleep(time.Millisecond))
				_, err = s.Write(buf)
			}
			require.ErrorIs(t, err, errAfterReset)
			return nil
		})
		if lost {
			t.Skip("this system tells readers of a reset that the stream ended")
		}
	})
	t.Run("deadlines", func(t *testing.T) {
		peerOf(t, func(_ *veloq.Context, s *veloq.Stream, peer net.Conn) error {
			_ = peer.SetReadDeadline(time.Now())
			_, want := peer.Read(buf)
			for _, d := range []time.Duration{-time.Second, 0, 5 * time.Millisecond} {
				require.NoError(t, s.SetReadDeadline(time.Now().Add(d)))
				_, err := s.Read(buf)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				w, g := fieldsOf(t, want), fieldsOf(t, err)
				w.source, w.addr = w.addr, w.source
				assert.Equal(t, w, g)
			}
			require.NoError(t, s.SetWriteDeadline(time.Now().Add(-time.Second)))
			_, err := s.Write(buf)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			// One that is far away is not one that has passed.
			year3000 := time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
			for _, far := range []time.Time{{}, year3000, time.Now().Add(1<<63 - 1)} {
				require.NoError(t, s.SetDeadline(far))
				_, err = s.Write(buf)
				require.NoError(t, err)
				_, err = peer.Write([]byte("0123456789"))
				require.NoError(t, err)
				n, err := s.Read(buf)
				require.NoError(t, err)
				assert.Equal(t, 10, n)
			}
			return nil
		})
	})
	t.Run("arguments", func(t *testing.T) {
		peerOf(t, func(_ *veloq.Context, s *veloq.Stream, peer net.Conn) error {
			n, err := s.Read(nil)
			assert.Zero(t, n)
			assert.NoError(t, err)
			n, err = s.Write(nil)
			assert.Zero(t, n)
			assert.NoError(t, err)
			_, err = s.Peek(10_001)
			assert.ErrorIs(t, err, veloq.ErrTooLong)
			_, err = s.Next(10_001)
			assert.ErrorIs(t, err, veloq.ErrTooLong)
			b, err := s.Peek(0)
			assert.Empty(t, b)
			assert.NoError(t, err)
			b, err = s.Next(-1)
			assert.Empty(t, b)
			assert.NoError(t, err)
			n, err = s.Skip(0)
			assert.Zero(t, n)
			assert.NoError(t, err)
			assert.Error(t, s.SetTTL(1000))
			_, _ = peer.Write([]byte("abc"))
			_ = peer.(*net.TCPConn).CloseWrite()
			b, err = s.Peek(5)
			assert.Equal(t, "abc", string(b))
			assert.Equal(t, io.EOF, err)
			n, err = s.ReadFull(buf[:5])
			assert.Equal(t, 3, n)
			assert.Equal(t, io.ErrUnexpectedEOF, err)
			return nil
		})
	})
	t.Run("second reader", func(t *testing.T) {
		peerOf(t, func(c *veloq.Context, s *veloq.Stream, peer net.Conn) error {
			h := veloq.SpawnLocal(c, func(*veloq.Context) (int, error) { return s.Read(make([]byte, 10)) })
			_ = c.Yield()
			_, err := s.Read(buf)
			assert.ErrorIs(t, err, veloq.ErrBusy)
			_, _ = peer.Write([]byte("x"))
			n, err := h.Join(c)
			assert.Equal(t, 1, n)
			return err
		})
	})
}

// Goal: a Config that can't be is refused with its field's name, and starts nothing.
func TestErrors_Config(t *testing.T) {
	noLeak(t)
	for field, configs := range map[string][]veloq.Config{
		"Workers":      {{Workers: -1}, {Workers: 1 << 20}},
		"Spin":         {{Spin: -1}, {Spin: time.Hour}},
		"WakeDelay":    {{WakeDelay: -1}, {WakeDelay: time.Second}, {WakeDelay: 1500 * time.Nanosecond}},
		"ReadLimit":    {{ReadLimit: -1}},
		"WriteHigh":    {{WriteHigh: -1}},
		"InboxLimit":   {{InboxLimit: -1}},
		"CloseTimeout": {{CloseTimeout: -1}},
		"SubmissionEntries": {
			{SubmissionEntries: 7}, {SubmissionEntries: 4}, {SubmissionEntries: 1 << 16}, {SubmissionEntries: -8},
		},
		"CompletionEntries": {
			{CompletionEntries: 17}, {SubmissionEntries: 64, CompletionEntries: 32}, {CompletionEntries: 1 << 20},
		},
		"BufferCount": {{BufferCount: 3}, {BufferCount: 1}, {BufferCount: 1 << 15}, {BufferCount: -4}},
		"BufferSize":  {{BufferSize: 100}, {BufferSize: 2 << 20}, {BufferSize: -1}},
		"ArenaSize":   {{ArenaSize: 1000}, {ArenaSize: 1<<30 + 1}},
		"driver":      {{Driver: 99}},
	} {
		for _, config := range configs {
			rt, err := veloq.New(config)
			require.Error(t, err, "%s: %+v", field, config)
			require.Nil(t, rt)
			require.Contains(t, err.Error(), field)
		}
	}
	_, err := veloq.ParseDriver("kqueue")
	require.Error(t, err)
}
