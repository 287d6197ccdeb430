package core

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/wire"
)

// Defaults are a promise: whoever changes one changes it here too.
func TestConfig_Defaults(t *testing.T) {
	c, err := (&Config{TLS: &tls.Config{}}).withDefaults()
	require.NoError(t, err)
	assert.Equal(t, 30*time.Second, c.IdleTimeout)
	assert.Equal(t, 10*time.Second, c.HandshakeTimeout)
	assert.Zero(t, c.KeepAlive)
	assert.Equal(t, 4<<20, c.RecvWindow)
	assert.Equal(t, 1<<20, c.SendBuffer)
	assert.Equal(t, 128, c.AcceptQueue)
	assert.Equal(t, 65536, c.MaxConns)
	assert.False(t, c.RequireRetry)
	assert.Equal(t, "bbr", c.Congestion)
	assert.Equal(t, 1452, c.MaxDatagram)
	assert.Equal(t, 64, RetryAbove)
}

func TestConfig_Refused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no TLS":             func(c *Config) { c.TLS = nil },
		"small window":       func(c *Config) { c.RecvWindow = 1000 },
		"small send buffer":  func(c *Config) { c.SendBuffer = 1 },
		"negative queue":     func(c *Config) { c.AcceptQueue = -1 },
		"negative keepalive": func(c *Config) { c.KeepAlive = -1 },
		"datagram of 1500":   func(c *Config) { c.MaxDatagram = 1500 },
		"unknown controller": func(c *Config) { c.Congestion = "reno" },
	} {
		c := Config{TLS: &tls.Config{}}
		change(&c)
		_, err := NewEndpoint(&c, false)
		assert.Error(t, err, name)
	}
	_, err := NewEndpoint(&Config{TLS: &tls.Config{}}, true)
	assert.Error(t, err, "a listener without a certificate")
}

func TestConn_WriteReadClose(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	c, s := p.connect()
	assert.Equal(t, DefaultALPN, c.TLS().NegotiatedProtocol)
	data := bytes.Repeat([]byte("0123456789"), 5000)
	n, err := c.Write(p.now, data)
	require.NoError(t, err)
	assert.Equal(t, len(data), n)
	require.NoError(t, c.CloseWrite(p.now))
	p.run(100 * time.Millisecond)
	got := make([]byte, 0, len(data))
	for {
		b := make([]byte, 999)
		n, err := s.Read(p.now, b)
		got = append(got, b[:n]...)
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		require.NotZero(t, n)
	}
	assert.Equal(t, data, got)
	_, err = c.Write(p.now, data)
	assert.ErrorIs(t, err, ErrWriteEnded)
	c.Close(p.now)
	p.run(time.Second)
	require.Error(t, s.Err())
	var end *CloseError
	require.ErrorAs(t, s.Err(), &end)
	assert.Equal(t, KindClosed, end.Kind)
	_, err = s.Write(p.now, data)
	assert.ErrorIs(t, err, ErrPeerStopped)
	p.run(time.Minute)
	assert.Zero(t, p.client.Len()+p.server.Len())
	assert.Empty(t, p.server.conns)
	assert.Empty(t, p.server.tokens)
	assert.Empty(t, p.client.conns)
	assert.Empty(t, p.client.tokens)
}

func TestConn_UnreadDataAtCloseResets(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	c, s := p.connect()
	_, err := c.Write(p.now, []byte("never read"))
	require.NoError(t, err)
	p.run(50 * time.Millisecond)
	s.Close(p.now)
	p.run(50 * time.Millisecond)
	_, err = c.Read(p.now, make([]byte, 10))
	var end *CloseError
	require.ErrorAs(t, err, &end)
	assert.Equal(t, KindReset, end.Kind)
	assert.True(t, end.Remote)
}

func TestConn_ReadGivesBytesBeforeTheReset(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	c, s := p.connect()
	_, err := c.Write(p.now, []byte("hello"))
	require.NoError(t, err)
	p.run(50 * time.Millisecond)
	c.Reset(p.now, 42)
	p.run(50 * time.Millisecond)
	b := make([]byte, 10)
	n, err := s.Read(p.now, b)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(b[:n]))
	_, err = s.Read(p.now, b)
	var end *CloseError
	require.ErrorAs(t, err, &end)
	assert.Equal(t, CloseError{Kind: KindReset, Code: 42, Remote: true}, *end)
}

func TestConn_BadCertificate(t *testing.T) {
	p := newPair(t, Config{TLS: &tls.Config{ServerName: "elsewhere"}}, Config{})
	c, err := p.client.Dial(p.now, toServer, nil)
	require.NoError(t, err)
	p.run(time.Second)
	var end *CloseError
	require.ErrorAs(t, c.Err(), &end)
	assert.Equal(t, KindTransport, end.Kind)
	assert.False(t, end.Remote)
	var verification *tls.CertificateVerificationError
	assert.True(t, errors.As(c.Err(), &verification), "what TLS said is in the chain: %v", c.Err())
	assert.Nil(t, p.server.Accept())
}

func TestConn_ALPNMismatch(t *testing.T) {
	p := newPair(t, Config{TLS: &tls.Config{InsecureSkipVerify: true, ServerName: "x", NextProtos: []string{"other"}}}, Config{})
	c, err := p.client.Dial(p.now, toServer, nil)
	require.NoError(t, err)
	p.run(time.Second)
	var end *CloseError
	require.ErrorAs(t, c.Err(), &end)
	assert.Equal(t, uint64(wire.CryptoError+120), end.Code, "no_application_protocol")
	assert.True(t, end.Remote)
}

// Nothing is allocated for data, acknowledgments, flow control or timers once a connection has grown.
func TestConn_SteadyPathAllocatesNothing(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	c, s := p.connect()
	data, b := make([]byte, 16<<10), make([]byte, 64<<10)
	turn := func() {
		for range 4 {
			_, _ = c.Write(p.now, data)
			for p.step() {
				p.now += 50_000
			}
			for {
				n, err := s.Read(p.now, b)
				if n == 0 || err != nil {
					break
				}
			}
			p.now += 1_000_000
			p.client.Tick(p.now)
			p.server.Tick(p.now)
			for e := p.client.Next(); e != nil; e = p.client.Next() {
				e.Events()
			}
			for e := p.server.Next(); e != nil; e = p.server.Next() {
				e.Events()
			}
		}
	}
	for range 300 {
		turn()
	}
	before := s.Stats().StreamReceived
	assert.Zero(t, testing.AllocsPerRun(100, turn))
	assert.Greater(t, s.Stats().StreamReceived, before+100*4*8<<10)
}

func TestEndpoint_NoGoroutineStays(t *testing.T) {
	count := 1000
	if testing.Short() {
		count = 50
	}
	before := runtime.NumGoroutine()
	p := newPair(t, Config{}, Config{})
	for i := range count {
		c, s := p.connect()
		if i%2 == 0 {
			c.Close(p.now)
		} else {
			s.Abort(p.now, 3)
		}
	}
	p.run(time.Minute)
	assert.Zero(t, p.client.Len()+p.server.Len())
	// The last ones are on their way out, which nobody announces.
	for until := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before)
}

// Each set is held against a map.
func TestRangeSet_AgainstAModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var s rangeSet
		model := map[uint64]bool{}
		for range 60 {
			start := r.Uint64N(100)
			x := wire.Range{Start: start, End: start + r.Uint64N(12)}
			if r.IntN(3) == 0 {
				s.remove(x)
				for v := x.Start; v < x.End; v++ {
					delete(model, v)
				}
			} else {
				fresh := uint64(0)
				for v := x.Start; v < x.End; v++ {
					if !model[v] {
						fresh++
					}
					model[v] = true
				}
				require.Equal(t, fresh, s.add(x))
			}
			n := 0
			for i, o := range s {
				require.Less(t, o.Start, o.End)
				if i > 0 {
					require.Greater(t, o.Start, s[i-1].End, "%v", s)
				}
				n += int(o.Len())
			}
			require.Len(t, model, n)
			for v := range uint64(120) {
				require.Equal(t, model[v], s.contains(v), "%d in %v", v, s)
			}
		}
	}
}

// Bytes go through both buffers in pieces that are lost, repeated and out of order.
func TestBuffers_AgainstAModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		send := sendBuffer{limit: 10_000, span: 15_000}
		var recv recvBuffer
		var written, got []byte
		type flight struct {
			r   wire.Range
			fin bool
			p   []byte
		}
		var flying []flight
		for range 600 {
			switch r.IntN(6) {
			case 0:
				if !send.fin {
					p := make([]byte, r.IntN(3000))
					for i := range p {
						p[i] = byte(r.Uint32())
					}
					n := send.write(p)
					written = append(written, p[:n]...)
					send.fin = len(written) > 30_000
				}
			case 1, 2:
				x, fin, ok := send.pick(1+r.IntN(1500), recv.read+20_000)
				if ok {
					p := make([]byte, x.Len())
					if len(p) > 0 {
						ringCopyOut(p, send.ring, x.Start)
					}
					send.sent(x, fin)
					flying = append(flying, flight{x, fin, p})
				}
			case 3, 4:
				if len(flying) == 0 {
					continue
				}
				i := r.IntN(len(flying))
				f := flying[i]
				flying = append(flying[:i], flying[i+1:]...)
				if r.IntN(4) == 0 {
					send.onLost(f.r, f.fin)
					continue
				}
				for range 1 + r.IntN(2) {
					_, err := recv.insert(f.r.Start, f.p, f.fin)
					require.NoError(t, err)
				}
				send.onAcked(f.r, f.fin)
			case 5:
				p := make([]byte, r.IntN(5000))
				got = append(got, p[:recv.take(p)]...)
			}
			require.True(t, bytes.HasPrefix(written, got))
			require.LessOrEqual(t, send.unacknowledged(), 10_000)
			require.LessOrEqual(t, int(send.end-send.base), 15_000)
			above := uint64(0)
			for _, x := range send.acked {
				above += x.Len()
			}
			require.Equal(t, above, send.above)
		}
	}
}

// What counts against the send buffer is what the peer has not got; what it has got of the bytes after a
// hole is kept, up to the span.
func TestSendBuffer_HoleDoesNotFillIt(t *testing.T) {
	const limit, packet = 100_000, 1000
	b := sendBuffer{limit: limit, span: 4 * limit}
	chunk := make([]byte, packet)
	hole := wire.Range{}
	for i := 0; ; i++ {
		if b.write(chunk) < packet {
			break
		}
		r, _, ok := b.pick(packet, 1<<62)
		require.True(t, ok)
		b.sent(r, false)
		if i == 0 {
			hole = r
			continue
		}
		b.onAcked(r, false)
		b.onAcked(wire.Range{Start: r.Start - packet/2, End: r.End}, false) // again, with some that were not
		require.LessOrEqual(t, b.unacknowledged(), packet)
	}
	assert.EqualValues(t, 4*limit, b.end-b.base, "the span bounds what is kept")
	assert.LessOrEqual(t, len(b.ring), roundUp(4*limit))
	assert.Zero(t, b.room())
	b.onAcked(hole, false)
	assert.Zero(t, b.unacknowledged())
	assert.Equal(t, limit, b.room())
	for b.write(chunk) > 0 {
	}
	assert.Equal(t, limit, b.unacknowledged(), "the limit bounds what the peer has not got")
	b.drop()
	assert.Zero(t, b.unacknowledged())
}

func TestSendSpan(t *testing.T) {
	assert.Equal(t, 4<<20, sendSpan(1<<20))
	assert.Equal(t, 1<<30, sendSpan(1<<29))
	assert.Equal(t, 1<<30, sendSpan(1<<30))
}

func TestEndpoint_VersionNegotiation(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	unknown := make([]byte, 1200)
	copy(unknown, []byte{0xc0, 0x0a, 0x0b, 0x0c, 0x0d, 2, 1, 2, 3, 7, 8, 9})
	p.server.Recv(p.now, toClient, NotECT, append([]byte(nil), unknown[:1199]...))
	assert.Zero(t, p.server.Send(p.now, p.buf).N, "too small to be answered")
	p.server.Recv(p.now, toClient, NotECT, unknown)
	b := p.server.Send(p.now, p.buf)
	h, err := wire.ParseHeader(p.buf[:b.N], CIDLen)
	require.NoError(t, err)
	assert.Equal(t, wire.VersionNegotiation, h.Type)
	assert.True(t, h.HasVersion(wire.Version1))
	assert.Equal(t, "070809", h.DCID.String())
	assert.Equal(t, "0102", h.SCID.String())
	assert.Zero(t, p.server.Len())

	// A client believes one only before anything else came, and only without its own version.
	for _, versions := range [][]uint32{{wire.Version1, 5}, {5}} {
		c, err := p.client.Dial(p.now, toServer, nil)
		require.NoError(t, err)
		vn := wire.AppendVersionNegotiation(nil, c.local[0].id, c.odcid, 1, versions...)
		p.client.Recv(p.now, toServer, NotECT, vn)
		if len(versions) == 2 {
			assert.NoError(t, c.Err())
			c.Abort(p.now, 1)
			continue
		}
		var end *CloseError
		require.ErrorAs(t, c.Err(), &end)
		assert.Equal(t, KindVersion, end.Kind)
	}
}

func TestEndpoint_RetryToken(t *testing.T) {
	p := newPair(t, Config{}, Config{RequireRetry: true})
	e := p.server
	odcid, scid := wire.MakeCID([]byte{1, 2, 3, 4, 5, 6, 7, 8}), e.newCID()
	token := e.retryToken(p.now, toClient, odcid, scid)
	o, s, ok := e.openToken(p.now.Add(time.Second), toClient, token)
	assert.True(t, ok)
	assert.Equal(t, odcid, o)
	assert.Equal(t, scid, s)
	_, _, ok = e.openToken(p.now.Add(retryTokenLife+1), toClient, token)
	assert.False(t, ok, "expired")
	_, _, ok = e.openToken(p.now, Path{Local: serverAddr, Remote: serverAddr}, token)
	assert.False(t, ok, "another address")
	for i := range token {
		bad := append([]byte(nil), token...)
		bad[i] ^= 0x10
		_, _, ok = e.openToken(p.now, toClient, bad)
		assert.False(t, ok, "byte %d changed", i)
	}
	_, _, ok = e.openToken(p.now, toClient, token[:20])
	assert.False(t, ok)

	c, _ := p.connect()
	assert.True(t, c.retried)
	assert.Positive(t, e.Stats().Retries)
}

// Above 64 half-open connections an endpoint asks for tokens by itself, and a flood makes it hold no more.
func TestEndpoint_FloodOfInitials(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	for range 500 {
		_, err := p.client.Dial(p.now, toServer, nil)
		require.NoError(t, err)
		for {
			b := p.client.Send(p.now, p.buf)
			if b.N == 0 {
				break
			}
			for at := 0; at < b.N; at += b.Segment {
				p.server.Recv(p.now, toClient, NotECT, p.buf[at:min(at+b.Segment, b.N)])
			}
		}
		for p.server.Send(p.now, p.buf).N > 0 {
		}
	}
	stats := p.server.Stats()
	assert.Equal(t, RetryAbove, stats.HalfOpen)
	assert.Equal(t, RetryAbove, stats.Conns)
	assert.Greater(t, stats.Retries, uint64(400))
}

func TestEndpoint_Limits(t *testing.T) {
	t.Run("accept queue", func(t *testing.T) {
		p := newPair(t, Config{}, Config{AcceptQueue: 2})
		var last *Conn
		for range 3 {
			var err error
			last, err = p.client.Dial(p.now, toServer, nil)
			require.NoError(t, err)
			p.run(20 * time.Millisecond)
		}
		var end *CloseError
		require.ErrorAs(t, last.Err(), &end)
		assert.Equal(t, KindRefused, end.Kind)
		assert.NotNil(t, p.server.Accept())
		c, err := p.client.Dial(p.now, toServer, nil)
		require.NoError(t, err)
		p.run(20 * time.Millisecond)
		assert.NoError(t, c.Err())
	})
	t.Run("connections", func(t *testing.T) {
		p := newPair(t, Config{MaxConns: 2}, Config{MaxConns: 1})
		p.connect()
		c, err := p.client.Dial(p.now, toServer, nil)
		require.NoError(t, err)
		p.run(20 * time.Millisecond)
		assert.ErrorContains(t, c.Err(), "refused")
	})
}

// A server that lost its state says so, and the client believes it: at once, not after 30 seconds.
func TestEndpoint_StatelessReset(t *testing.T) {
	key := [32]byte{1, 2, 3}
	p := newPair(t, Config{}, Config{StatelessResetKey: key})
	c, _ := p.connect()
	again, err := NewEndpoint(&Config{TLS: p.server.cfg.TLS, StatelessResetKey: key}, true)
	require.NoError(t, err)
	p.server = again
	_, err = c.Write(p.now, []byte("are you there?"))
	require.NoError(t, err)
	p.run(100 * time.Millisecond)
	var end *CloseError
	require.ErrorAs(t, c.Err(), &end)
	assert.Equal(t, KindStatelessReset, end.Kind)
	assert.Equal(t, uint64(1), again.Stats().Resets)

	other, err := NewEndpoint(&Config{TLS: p.server.cfg.TLS}, true)
	require.NoError(t, err)
	p = newPair(t, Config{}, Config{})
	c, _ = p.connect()
	p.server = other
	_, err = c.Write(p.now, []byte("are you there?"))
	require.NoError(t, err)
	p.run(100 * time.Millisecond)
	assert.NoError(t, c.Err(), "a reset by whoever doesn't have the key is noise")
}

// Two endpoints that know nothing of each other's connections don't talk forever.
func TestEndpoint_ResetsEnd(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	stray := make([]byte, 1200)
	for i := range stray {
		stray[i] = 0x55
	}
	p.server.Recv(p.now, toClient, NotECT, stray)
	count := 0
	for ; count < 100 && p.step(); count++ {
		p.now += 10_000_000
	}
	assert.Less(t, count, 40)
}

func TestEndpoint_Route(t *testing.T) {
	p := newPair(t, Config{Worker: 3}, Config{Worker: 1000})
	c, s := p.connect()
	var first []byte
	p.drop = func(fromClient bool, b []byte) bool {
		if fromClient {
			first = append([]byte(nil), b...)
		}
		return false
	}
	_, err := c.Write(p.now, []byte("x"))
	require.NoError(t, err)
	p.run(20 * time.Millisecond)
	require.NotEmpty(t, first)
	elsewhere := newPair(t, Config{}, Config{Worker: 7}).server
	assert.Equal(t, uint16(1000), elsewhere.Route(first), "the ID names the worker")
	assert.Equal(t, uint16(1000), p.server.Route(first))
	assert.Equal(t, uint16(7), elsewhere.Route([]byte{1, 2, 3}), "junk stays")
	initial := func(dcid string) []byte {
		return append([]byte{0xc0, 0, 0, 0, 1, byte(len(dcid))}, dcid+"\x00\x00\x40\x00"...)
	}
	assert.Equal(t, uint16(7), elsewhere.Route(initial("12345678")), "what begins a connection stays")
	assert.Equal(t, uint16(3), elsewhere.Route(initial("\x00\x0312345678")), "an answer to a dialer does not")
	assert.Equal(t, uint16(3), func() uint16 { id := c.local[0].id; return uint16(id.Bytes()[0])<<8 | uint16(id.Bytes()[1]) }())
	_ = s
}
