package rudp

// Endpoints: configuration, bad input, their end, what they leave behind.

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/rudp/internal/mono"
)

func TestConfig_Defaults(t *testing.T) {
	assert.Equal(t, 30*time.Second, DefaultIdleTimeout)
	assert.Equal(t, 10*time.Second, DefaultHandshakeTimeout)
	assert.Equal(t, 4<<20, DefaultRecvWindow)
	assert.Equal(t, 1<<20, DefaultSendBuffer)
	assert.Equal(t, 128, DefaultAcceptQueue)
	assert.Equal(t, 65536, DefaultMaxConns)
	assert.Equal(t, "rudp", DefaultALPN)
	c := serverConfig().core(false)
	assert.Equal(t, DefaultRecvWindow, c.RecvWindow)
	assert.Equal(t, DefaultSendBuffer, c.SendBuffer)
	assert.Equal(t, DefaultAcceptQueue-1, c.AcceptQueue)
}

func TestConfig_Invalid(t *testing.T) {
	for name, spoil := range map[string]func(c *Config){
		"no TLS":           func(c *Config) { c.TLS = nil },
		"TLS 1.2":          func(c *Config) { c.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} },
		"no certificate":   func(c *Config) { c.TLS = &tls.Config{} },
		"small window":     func(c *Config) { c.RecvWindow = windowMin - 1 },
		"large window":     func(c *Config) { c.RecvWindow = bufferMax + 1 },
		"small buffer":     func(c *Config) { c.SendBuffer = bufferMin - 1 },
		"large buffer":     func(c *Config) { c.SendBuffer = bufferMax + 1 },
		"negative time":    func(c *Config) { c.HandshakeTimeout = -1 },
		"negative pause":   func(c *Config) { c.KeepAlive = -1 },
		"negative queue":   func(c *Config) { c.AcceptQueue = -1 },
		"negative conns":   func(c *Config) { c.MaxConns = -1 },
		"other congestion": func(c *Config) { c.Congestion = "reno" },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no certificate" {
				needUDP(t) // it is found on an open socket
			}
			c := serverConfig()
			spoil(c)
			before := actors()
			l, err := Listen("udp", "127.0.0.1:0", c)
			assert.Nil(t, l)
			assert.ErrorIs(t, err, ErrConfig)
			var op *net.OpError
			assert.ErrorAs(t, err, &op)
			assert.Equal(t, "rudp", op.Net)
			if name != "no certificate" {
				_, err = Dial(context.Background(), "udp", "127.0.0.1:1", c)
				assert.ErrorIs(t, err, ErrConfig)
				sock := newMemNet().socket("10.0.0.1:1")
				_, err = NewEndpoint(sock, c)
				assert.ErrorIs(t, err, ErrConfig)
				assert.EqualValues(t, 1, sock.closeN.Load(), "it was the endpoint's")
			}
			await(t, "the actors' end", func() bool { return actors() <= before })
		})
	}
	_, err := Listen("udp", "127.0.0.1:0", nil)
	assert.ErrorIs(t, err, ErrConfig)
	smallest := serverConfig()
	smallest.RecvWindow, smallest.SendBuffer, smallest.AcceptQueue = windowMin, bufferMin, 1
	c, s, _ := pair(t, clientConfig(), smallest)
	go func() { _, _ = c.Write(make([]byte, 300_000)); c.Close() }()
	assert.Len(t, readAll(t, s), 300_000)
}

func TestDial_BadAddress(t *testing.T) {
	needUDP(t)
	for _, c := range []struct{ network, addr string }{
		{"tcp", "127.0.0.1:1"},
		{"udp", "127.0.0.1"},
		{"udp", "127.0.0.1:0"},
		{"udp", "127.0.0.1:nosuchservice"},
		{"udp", "name.invalid:1"},
		{"udp4", "[::1]:1"},
		{"udp6", "127.0.0.1:1"},
	} {
		_, err := Dial(testContext(t), c.network, c.addr, clientConfig())
		var op *net.OpError
		require.ErrorAs(t, err, &op, "%v", c)
		assert.Equal(t, "dial", op.Op)
		assert.Equal(t, "rudp", op.Net)
		assert.False(t, op.Timeout() && !errors.Is(err, context.DeadlineExceeded))
	}
	_, err := Listen("sctp", ":0", serverConfig())
	assert.ErrorAs(t, err, new(net.UnknownNetworkError))
	_, err = Listen("udp", "192.0.2.1:1", serverConfig())
	assert.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
}

// A name's addresses are tried in turn: the first one leads nowhere.
func TestDial_SecondAddress(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		list := []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:1"), netip.MustParseAddrPort("10.0.0.2:2000")}
		end := time.Now().Add(10 * time.Second)
		var first error
		for i, to := range list {
			s, err := tryFor(context.Background(), end, len(list)-i, func(ctx context.Context) (*Stream, error) {
				return w.client.connect(ctx, to, "")
			})
			if i == 0 {
				first = err
				continue
			}
			require.NoError(t, err)
			assert.Equal(t, "10.0.0.2:2000", s.RemoteAddr().String())
		}
		assert.ErrorIs(t, first, errPartOver)
	})
}

func TestEndpoint_AddressOfAnotherKind(t *testing.T) {
	c, _ := net.Pipe()
	defer c.Close()
	_, err := NewEndpoint(pipePacketConn{c}, serverConfig())
	var addr *net.AddrError
	assert.ErrorAs(t, err, &addr)
}

type pipePacketConn struct{ net.Conn }

func (pipePacketConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, net.ErrClosed }
func (pipePacketConn) WriteTo([]byte, net.Addr) (int, error)  { return 0, net.ErrClosed }

// Goal: one socket dials and listens, over each kind of socket; a read that isn't rudp's harms
// nothing.
func TestEndpoint_EveryKindOfSocket(t *testing.T) {
	needUDP(t)
	for name, open := range map[string]func(t *testing.T) PacketConn{
		"veloq": func(t *testing.T) PacketConn {
			c, err := veloq.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			require.NoError(t, err)
			return c
		},
		"both families": func(t *testing.T) PacketConn {
			c, err := veloq.ListenUDP("udp", nil)
			require.NoError(t, err)
			return c
		},
		"package net": func(t *testing.T) PacketConn {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			require.NoError(t, err)
			return c
		},
		"nothing but a PacketConn": func(t *testing.T) PacketConn {
			c, err := net.ListenPacket("udp4", "127.0.0.1:0")
			require.NoError(t, err)
			return struct{ net.PacketConn }{c}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, client := testTLS()
			cfg := serverConfig()
			cfg.TLS = cfg.TLS.Clone()
			cfg.TLS.RootCAs, cfg.TLS.ServerName = client.RootCAs, client.ServerName
			var ends [2]*Endpoint
			for i := range ends {
				var err error
				ends[i], err = NewEndpoint(open(t), cfg)
				require.NoError(t, err)
				defer ends[i].Close()
			}
			for i, e := range ends { // each dials the other
				l, err := ends[1-i].Listen()
				require.NoError(t, err)
				_, err = ends[1-i].Listen()
				assert.ErrorIs(t, err, syscall.EADDRINUSE)
				to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.Addr().(Addr).Port())
				stray, err := net.Dial("udp4", to.String())
				require.NoError(t, err)
				for _, junk := range [][]byte{{}, {0}, make([]byte, 1500), make([]byte, 60_000), bytes.Repeat([]byte{0xff}, 1300)} {
					_, err = stray.Write(junk)
					require.NoError(t, err)
				}
				stray.Close()
				c, err := e.Dial(testContext(t), to.String())
				require.NoError(t, err)
				s, err := l.Accept()
				require.NoError(t, err)
				data := someBytes(1 << 20)
				go func() { _, _ = c.Write(data); c.Close() }()
				got, err := io.ReadAll(s)
				require.NoError(t, err)
				assert.True(t, bytes.Equal(data, got))
				s.Close()
				await(t, "junk is dropped", func() bool { return ends[1-i].Stats().Dropped >= 2 })
				require.NoError(t, l.Close())
			}
		})
	}
}

func TestListener_Close(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, s := w.connect(t)
		waiting, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		require.NoError(t, err)
		accepted := make(chan error, 1)
		go func() {
			_, _ = w.l.Accept() // the one that waits
			_, err := w.l.Accept()
			accepted <- err
		}()
		synctest.Wait()
		third, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		require.NoError(t, err)
		_ = third
		<-accepted // it was taken
		fourth, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		require.NoError(t, err)
		go func() {
			_, err := w.l.Accept()
			if err == nil {
				_, err = w.l.Accept()
			}
			accepted <- err
		}()
		synctest.Wait()
		fifth, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		require.NoError(t, err)
		require.NoError(t, <-accepted)
		sixth, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		require.NoError(t, err)
		require.NoError(t, w.l.Close())
		require.NoError(t, w.l.Close())
		_, err = w.l.Accept()
		is2(t, err, "accept", net.ErrClosed)
		_, err = sixth.Read(make([]byte, 1))
		assert.ErrorIs(t, err, syscall.ECONNRESET, "nobody had accepted it")
		_, err = w.client.Dial(context.Background(), "10.0.0.2:2000")
		assert.ErrorIs(t, err, syscall.ETIMEDOUT)
		for _, alive := range []*Stream{c, waiting, fourth, fifth} {
			_, err = alive.Write([]byte("x"))
			assert.NoError(t, err)
		}
		n, err := s.Read(make([]byte, 2))
		assert.Equal(t, 1, n)
		assert.NoError(t, err)
		again, err := w.server.Listen()
		require.NoError(t, err)
		_, err = w.client.Dial(context.Background(), "10.0.0.2:2000")
		assert.NoError(t, err)
		_, err = again.Accept()
		assert.NoError(t, err)
	})
}

func is2(t *testing.T, err error, op string, target error) {
	t.Helper()
	var e *net.OpError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, op, e.Op)
	assert.Equal(t, "rudp", e.Net)
	assert.ErrorIs(t, err, target)
}

func TestEndpoint_AcceptQueue(t *testing.T) {
	server := serverConfig()
	server.AcceptQueue = 3
	virtual(t, clientConfig(), server, func(t *testing.T, w *world) {
		refused := 0
		for range 8 {
			_, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
			if err != nil {
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
				refused++
			}
		}
		assert.InDelta(t, 4, refused, 1, "3 wait, and one in the listener's hands")
		for range 8 - refused {
			_, err := w.l.Accept()
			require.NoError(t, err)
		}
		_, err := w.client.Dial(context.Background(), "10.0.0.2:2000")
		assert.NoError(t, err)
	})
}

func TestEndpoint_ShutdownDelivers(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, s := w.connect(t)
		_, err := c.Write(make([]byte, 300_000))
		require.NoError(t, err)
		got := make(chan int, 1)
		go func() {
			n, err := reads(s)
			assert.Equal(t, io.EOF, err)
			got <- n
		}()
		require.NoError(t, w.client.Shutdown(context.Background()))
		assert.Equal(t, 300_000, <-got)
		_, err = c.Write([]byte{1})
		is(t, err, "write", net.ErrClosed, false)
		_, err = w.client.Dial(context.Background(), "10.0.0.2:2000")
		is2(t, err, "dial", net.ErrClosed)
		_, err = w.client.Listen()
		is2(t, err, "listen", net.ErrClosed)
		assert.Zero(t, w.client.Stats().Unsent)
		require.NoError(t, w.client.Shutdown(context.Background()), "again")
	})
}

// Goal: a listener whose socket fails ends, also if a connection lives on at the address that it has
// migrated to.
func TestListener_OnlyItsSocketFails(t *testing.T) {
	both := serverConfig()
	both.TLS = both.TLS.Clone()
	both.TLS.RootCAs, both.TLS.ServerName = clientConfig().TLS.RootCAs, "rudp.test"
	virtual(t, both, serverConfig(), func(t *testing.T, w *world) {
		c, s := w.connect(t)
		l, err := w.client.Listen()
		require.NoError(t, err)
		k, err := newSocket(w.net.socket("10.0.0.1:1001"))
		require.NoError(t, err)
		m := &migration{socket: k, result: make(chan error, 1)}
		w.client.post(func(now mono.Time) { c.migrate(m, true, now) })
		require.NoError(t, <-m.result)
		accepted := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		synctest.Wait()
		w.cs.fail(net.ErrClosed)
		select {
		case err := <-accepted:
			is2(t, err, "accept", syscall.ECONNABORTED)
		case <-time.After(patience):
			t.Fatal("Accept waits for a socket that is no more")
		}
		_, err = c.Write([]byte("on"))
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		assert.Equal(t, "on", string(readAll(t, s)))
	})
}

// Goal: the reader of a socket that a migration has left says that it was closed when nothing of it is
// left, also where the endpoint has lost its own socket meanwhile.
func TestEndpoint_LateWordOfADroppedSocket(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		w.connect(t)
		left, err := newSocket(w.net.socket("10.0.0.1:1001"))
		require.NoError(t, err)
		e := w.client
		require.True(t, e.do(func(now mono.Time) {
			e.sockets = append(e.sockets, left)
			e.dropSocket(now, left, nil)
			e.dropSocket(now, e.sockets[0], syscall.ENETDOWN)
			e.take(now, &packet{socket: left, err: net.ErrClosed})
		}))
		<-e.done
		require.ErrorIs(t, e.failure, syscall.ENETDOWN)
	})
}

// Goal: what the actor was asked for in its last turn is done, since it may have brought a socket.
func TestEndpoint_LastTurnsCalls(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, _ := w.connect(t)
		late := w.net.socket("10.0.0.1:1001")
		k, err := newSocket(late)
		require.NoError(t, err)
		m := &migration{socket: k, result: make(chan error, 1)}
		w.client.post(func(now mono.Time) {
			w.client.abortAll(now)
			w.client.post(func(now mono.Time) { c.migrate(m, true, now) })
		})
		<-w.client.done
		assert.Equal(t, net.ErrClosed, <-m.result)
		assert.Positive(t, late.closeN.Load())
	})
}

func TestEndpoint_ShutdownGivesUp(t *testing.T) {
	virtual(t, clientConfig(), serverConfig(), func(t *testing.T, w *world) {
		c, _ := w.connect(t)
		w.net.cut.Store(true)
		_, err := c.Write(make([]byte, 300_000))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		assert.ErrorIs(t, w.client.Shutdown(ctx), context.DeadlineExceeded)
		assert.ErrorIs(t, c.Drain(context.Background()), net.ErrClosed)
	})
}

// Goal: no goroutine and no socket is left, whichever side ends first.
func TestEndpoint_NothingLeftAfterThousandConnects(t *testing.T) {
	needUDP(t)
	before := actors()
	l, err := Listen("udp", "127.0.0.1:0", serverConfig())
	require.NoError(t, err)
	var served sync.WaitGroup
	served.Add(1)
	go func() {
		defer served.Done()
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			served.Add(1)
			go func() {
				defer served.Done()
				_, _ = io.Copy(s, s)
				s.Close()
			}()
		}
	}()
	const connects, atOnce = 1000, 8
	var clients sync.WaitGroup
	for range atOnce {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for i := range connects / atOnce {
				c, err := Dial(testContext(t), "udp", l.Addr().String(), clientConfig())
				if !assert.NoError(t, err) {
					return
				}
				_, err = c.Write([]byte("ping"))
				assert.NoError(t, err)
				if i%3 == 0 {
					assert.NoError(t, c.Reset(1))
					continue
				}
				assert.NoError(t, c.CloseWrite())
				b, err := io.ReadAll(c)
				assert.NoError(t, err)
				assert.Equal(t, "ping", string(b))
				c.Close()
			}
		}()
	}
	clients.Wait()
	require.NoError(t, l.Close())
	served.Wait()
	require.NoError(t, l.Endpoint().Shutdown(testContext(t)))
	await(t, "all goroutines end", func() bool { return actors() <= before })
}

func TestStream_NetHTTP(t *testing.T) {
	l := listen(t, serverConfig())
	body := someBytes(1 << 20)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, body) {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write(got)
	}), ReadHeaderTimeout: patience}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return Dial(ctx, "udp", addr, clientConfig())
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			for range 3 {
				resp, err := client.Post("http://"+l.Addr().String()+"/", "application/octet-stream", bytes.NewReader(body))
				if !assert.NoError(t, err) {
					return
				}
				got, err := io.ReadAll(resp.Body)
				assert.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				assert.True(t, bytes.Equal(body, got))
				resp.Body.Close()
			}
		}()
	}
	all.Wait()
}

func TestStream_CryptoTLS(t *testing.T) {
	c, s, _ := pair(t, clientConfig(), serverConfig())
	serverTLS, clientTLS := testTLS()
	inner, outer := tls.Server(s, serverTLS), tls.Client(c, clientTLS)
	data := someBytes(1 << 20)
	go func() {
		_, _ = outer.Write(data)
		_ = outer.CloseWrite()
	}()
	got, err := io.ReadAll(inner)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	require.NoError(t, inner.Close())
	_, err = outer.Read(make([]byte, 1))
	assert.Equal(t, io.EOF, err)
}

func TestStream_AllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	c, s, _ := pair(t, clientConfig(), serverConfig())
	go func() { _, _ = io.Copy(s, s) }()
	p := make([]byte, 4096)
	turn := func() {
		if _, err := c.Write(p); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			t.Error(err)
		}
	}
	for range 2000 {
		turn() // rings, pools and the window grow to what they need
	}
	assert.Less(t, testing.AllocsPerRun(2000, turn), 1.0)
}
