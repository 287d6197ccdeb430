package core

// This file changes if what an endpoint must survive does, or what must hold meanwhile.

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// long is VELOQ_LONG=1: full counts instead of those for every day.
var long = os.Getenv("VELOQ_LONG") == "1"

const (
	calmPairs  = 3
	stormConns = 1024 // the server's MaxConns
	// heapSlack is how far the heap may move between two measurements of the same steady state.
	heapSlack = 3 << 20
)

var malloryAddr = netip.MustParseAddrPort("203.0.113.9:9999")

// stormConfig forgets soon, so that a short storm too comes to where as much ends as begins.
var stormConfig = Config{
	MaxConns: stormConns, HandshakeTimeout: 300 * time.Millisecond, IdleTimeout: time.Second,
}

// credit is what an address that never answers has sent, and been sent.
type credit struct{ received, sent int }

// calm is a connection whose ends must not notice the storm.
type calm struct {
	client, server *Conn
	exchanges      byte
}

// storm is a server and a client with calm connections between them, and mallory, who can send anything
// from any address. All that it draws comes from one seed.
type storm struct {
	t               testing.TB
	r               *rand.Rand
	now             mono.Time
	client, server  *Endpoint
	buf             []byte
	calm            []*calm
	mallory         *Conn // whose keys forge packets; its own endpoint is never asked for more
	malloryEndpoint *Endpoint
	samples, recent [][]byte // valid datagrams: of each kind; the last ones of calm connections
	taping          bool
	meddling        bool // three twisted copies overtake every datagram
	credits         map[netip.AddrPort]*credit
	spoofed         []netip.AddrPort
	counts          map[string]int
	hash            uint64
	pn              uint64
	floodSCID       wire.CID
}

func newStorm(t *testing.T, seed uint64, server Config) *storm {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	s := &storm{
		t: t, r: rand.New(rand.NewPCG(seed, 7)), now: mono.Time(time.Hour), buf: make([]byte, SendMax),
		credits: map[netip.AddrPort]*credit{}, counts: map[string]int{}, pn: 1 << 20,
	}
	for i := range 64 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), uint16(1000+i))
		s.spoofed = append(s.spoofed, a)
		s.credits[a] = &credit{}
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{testCert()}}
	server.WallClock = func() time.Time { return time.Unix(1<<31, 0) }
	var err error
	s.server, err = NewEndpoint(&server, true)
	require.NoError(t, err)
	s.client = s.newClient()
	return s
}

func (s *storm) newClient() *Endpoint {
	e, err := NewEndpoint(&Config{
		TLS: &tls.Config{
			InsecureSkipVerify: true, ServerName: "x", CurvePreferences: []tls.CurveID{tls.X25519},
		},
		WallClock: func() time.Time { return time.Unix(1<<31, 0) },
	}, false)
	require.NoError(s.t, err)
	return e
}

// deliver carries a datagram to whoever lives at its address, or puts it on that address's bill.
func (s *storm) deliver(path Path, b []byte) {
	h := fnv.New64a()
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], s.hash)
	_, _ = h.Write(head[:])
	_, _ = h.Write(b)
	s.hash = h.Sum64()
	if s.taping {
		s.samples = append(s.samples, bytes.Clone(b))
	}
	back := Path{Local: path.Remote, Remote: path.Local}
	at := map[netip.AddrPort]*Endpoint{serverAddr: s.server, clientAddr: s.client}[path.Remote]
	negotiation := len(b) > 5 && b[0]>>7 == 1 && binary.BigEndian.Uint32(b[1:]) == 0 // which nothing authenticates
	if at != nil && s.meddling && !negotiation {
		for range 3 {
			s.counts["meddled"]++
			at.Recv(s.now, back, NotECT, s.twist(bytes.Clone(b)))
		}
	}
	switch path.Remote {
	case serverAddr:
		s.server.Recv(s.now, back, NotECT, b)
	case clientAddr:
		s.client.Recv(s.now, back, NotECT, b)
	case malloryAddr:
		if s.malloryEndpoint != nil {
			s.malloryEndpoint.Recv(s.now, back, NotECT, b)
		}
	default:
		c := s.credits[path.Remote]
		require.NotNil(s.t, c, "a datagram to %v, who never sent one", path.Remote)
		c.sent += len(b)
		if c.sent > 3*c.received {
			require.Fail(s.t, "amplification", "%v was sent %d bytes for %d", path.Remote, c.sent, c.received)
		}
	}
}

// pump moves what is due until nobody has anything to send.
func (s *storm) pump() {
	for moved := true; moved; {
		moved = false
		for _, e := range []*Endpoint{s.server, s.client, s.malloryEndpoint} {
			if e == nil {
				continue
			}
			if e.Deadline() <= s.now {
				e.Tick(s.now)
			}
			for b := e.Send(s.now, s.buf); b.N > 0; b = e.Send(s.now, s.buf) {
				moved = true
				for at := 0; at < b.N; at += b.Segment {
					s.deliver(b.Path, s.buf[at:min(at+b.Segment, b.N)])
				}
			}
		}
		if moved {
			s.now += 1000
		}
	}
}

// run lets d pass.
func (s *storm) run(d time.Duration) {
	for end := s.now.Add(d); s.now < end; {
		s.pump()
		s.now = max(s.now+1, min(end, s.server.Deadline(), s.client.Deadline()))
	}
	s.pump()
}

// open makes a calm connection, and takes its datagrams as samples.
func (s *storm) open() *calm {
	s.taping = true
	c, err := s.client.Dial(s.now, toServer, nil)
	require.NoError(s.t, err)
	s.run(5 * time.Millisecond)
	s.taping = false
	var server *Conn
	for a := s.server.Accept(); a != nil; a = s.server.Accept() {
		if a.path.addr == toClient {
			server = a
		}
	}
	require.NotNil(s.t, server, "%v", c.Err())
	return &calm{client: c, server: server}
}

// calmState is all of a connection that no datagram without its keys may change.
type calmState struct {
	stats                                  Stats
	path                                   Path
	state                                  connState
	largest, nonProbe                      int64
	ranges, eliciting                      int
	ackAt, idleAt                          mono.Time
	local, remote, retire, announce, paths int
	peerLimit, generation                  uint64
	pending                                recovery.Control
	err                                    *CloseError
}

func stateOf(c *Conn) calmState {
	a := &c.spaces[recovery.AppSpace].acks
	s := calmState{
		stats: c.Stats(), path: c.path.addr, state: c.state, largest: a.largest, nonProbe: c.largestNonProbe,
		ranges: len(a.ranges), eliciting: a.eliciting, ackAt: a.at, idleAt: c.idleAt, local: len(c.local),
		remote: len(c.remote), retire: len(c.retire), announce: len(c.announce), peerLimit: c.sendLimit(),
		generation: c.generation, pending: c.pending, err: c.err,
	}
	for _, p := range [...]*pathState{c.probe, c.fallback} {
		if p != nil {
			s.paths++
		}
	}
	s.stats.Dropped, s.stats.BytesReceived = 0, 0
	return s
}

// throw puts a datagram in front of the server or the client: nothing of a calm connection may change.
func (s *storm) throw(kind string, at *Endpoint, from netip.AddrPort, b []byte) {
	if len(b) == 0 {
		return
	}
	s.counts[kind]++
	path := Path{Local: serverAddr, Remote: from}
	if at == s.client {
		path.Local = clientAddr
	}
	if c := s.credits[from]; c != nil {
		c.received += len(b)
	}
	var before [2 * calmPairs]calmState
	for i, c := range s.calm {
		before[2*i], before[2*i+1] = stateOf(c.client), stateOf(c.server)
	}
	at.Recv(s.now, path, ECN(s.r.IntN(4)), b)
	for i, c := range s.calm {
		if before[2*i] != stateOf(c.client) || before[2*i+1] != stateOf(c.server) {
			assert.Equal(s.t, before[2*i], stateOf(c.client), kind)
			assert.Equal(s.t, before[2*i+1], stateOf(c.server), kind)
			s.t.FailNow()
		}
	}
	s.pump()
	for a := s.server.Accept(); a != nil; a = s.server.Accept() {
		continue // mallory's
	}
	for _, e := range []*Endpoint{s.server, s.client} {
		for c := e.Next(); c != nil; c = e.Next() {
			c.Events()
		}
	}
	s.now += mono.Time(s.r.IntN(400_000))
	s.pump()
}

// exchange moves bytes both ways over every calm connection and looks at each.
func (s *storm) exchange() {
	s.recent = s.recent[:0]
	for i, c := range s.calm {
		c.exchanges++
		there, back := bytes.Repeat([]byte{c.exchanges}, 1500), bytes.Repeat([]byte{^c.exchanges}, 700)
		first := len(s.samples)
		s.taping = true
		for _, w := range []struct {
			from, to *Conn
			p        []byte
		}{{c.client, c.server, there}, {c.server, c.client, back}} {
			n, err := w.from.Write(s.now, w.p)
			require.NoError(s.t, err)
			require.Equal(s.t, len(w.p), n)
			got := make([]byte, 2000)
			for n, patience := 0, 0; n < len(w.p); patience++ {
				require.Less(s.t, patience, 1000, "connection %d: %d bytes of %d", i, n, len(w.p))
				s.run(100 * time.Microsecond)
				m, err := w.to.Read(s.now, got[n:])
				require.NoError(s.t, err)
				n += m
				if n >= len(w.p) {
					require.Equal(s.t, w.p, got[:n])
				}
			}
		}
		s.taping = false
		s.recent = append(s.recent, s.samples[first:]...)
		s.samples = s.samples[:first]
	}
	s.run(ackDelay + time.Millisecond)
}

// check is about the server as a whole.
func (s *storm) check() {
	e := s.server
	require.LessOrEqual(s.t, e.Len(), stormConns)
	require.LessOrEqual(s.t, len(e.conns), e.Len()*(cidsMax+2))
	require.LessOrEqual(s.t, len(e.tokens), e.Len()*(cidsMax+1))
	require.LessOrEqual(s.t, len(e.replies), repliesMax)
	require.LessOrEqual(s.t, len(e.timers.conns), e.Len())
	e.Conns(func(c *Conn) bool {
		require.NoError(s.t, c.Check())
		require.LessOrEqual(s.t, len(c.responses), responsesMax)
		require.LessOrEqual(s.t, len(c.local), cidsMax)
		require.LessOrEqual(s.t, len(c.retiredSeqs), retiredMax+1)
		return true
	})
}

// heap is what is in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func stormCount() int {
	switch {
	case long:
		return 1_000_000
	case raceOn || testing.Short():
		return 3_000
	}
	return 15_000
}

// Goal: whatever is thrown at a server and a client by one who hasn't the keys of their connections,
// but may have those of others, and may name any source address: no panic, memory stays bounded, no
// address is sent more than three times what came from there, and connections whose keys he hasn't
// got don't notice.
func TestEndpoint_Storm(t *testing.T) {
	s := newStorm(t, 1, stormConfig)
	s.prepare()
	count := stormCount()
	var heaps []uint64
	for i := range count {
		s.one()
		if i%256 == 0 {
			s.exchange()
			s.check()
		}
		if i%(count/8) == count/8-1 {
			heaps = append(heaps, heap())
		}
	}
	s.exchange()
	sent, received := 0, 0
	for _, c := range s.credits {
		sent, received = sent+c.sent, received+c.received
	}
	t.Logf("%v; %+v; spoofed addresses sent %d bytes and were sent %d; heap %v KiB",
		s.counts, s.server.Stats(), received, sent, kibs(heaps))
	for _, kind := range stormKinds {
		assert.Greater(t, s.counts[kind.name], count/300, kind.name)
	}
	assert.Positive(t, sent, "the bound was put to the test")
	stats := s.server.Stats()
	assert.Positive(t, stats.Retries)
	assert.Positive(t, stats.Negotiations)
	assert.Positive(t, stats.Resets)
	assert.Positive(t, stats.ForgedInitial)
	assert.Less(t, slices.Max(heaps), slices.Min(heaps)+heapSlack)
	for range 20 { // mallory's connections end; the calm ones stay
		s.run(500 * time.Millisecond)
		s.exchange()
	}
	assert.Equal(t, len(s.calm), s.server.Len())
	assert.Equal(t, len(s.calm), s.client.Len())
}

func kibs(bytes []uint64) (list []uint64) {
	for _, n := range bytes {
		list = append(list, n>>10)
	}
	return list
}

// The same seed throws the same, and is answered the same.
func TestEndpoint_StormIsDeterministic(t *testing.T) {
	run := func(seed uint64) (hash uint64) {
		t.Run("", func(t *testing.T) {
			s := newStorm(t, seed, stormConfig)
			s.prepare()
			for range 1000 {
				s.one()
			}
			hash = s.hash
		})
		return hash
	}
	assert.Equal(t, run(3), run(3))
	assert.NotEqual(t, run(3), run(4))
}

// Goal: every datagram of a connection's life, once more in any order, from its own address or another,
// changes nothing at either end.
func TestConn_ReplaysChangeNothing(t *testing.T) {
	s := newStorm(t, 2, Config{MaxConns: stormConns})
	s.calm = []*calm{s.open()}
	s.taping = true
	c := s.calm[0]
	for range 20 {
		_, err := c.client.Write(s.now, make([]byte, 20_000))
		require.NoError(t, err)
		_, err = c.server.Write(s.now, make([]byte, 20_000))
		require.NoError(t, err)
		s.run(5 * time.Millisecond)
		for _, side := range []*Conn{c.client, c.server} {
			for n := 1; n > 0; {
				n, err = side.Read(s.now, s.buf)
				require.NoError(t, err)
			}
		}
	}
	s.run(100 * time.Millisecond)
	s.taping = false
	require.Greater(t, len(s.samples), 500)
	samples := s.samples
	rounds := 4
	if long {
		rounds = 100
	}
	for range rounds {
		for _, i := range s.r.Perm(len(samples)) {
			if h, err := wire.ParseHeader(samples[i], CIDLen); err != nil || h.Type != wire.Short {
				continue // the handshake's may begin another connection: the storm has those
			}
			s.throw("replay", s.server, clientAddr, bytes.Clone(samples[i]))
			s.throw("replay", s.server, s.spoofed[i%len(s.spoofed)], bytes.Clone(samples[i]))
			s.throw("replay", s.client, serverAddr, bytes.Clone(samples[i]))
		}
		s.exchange() // before the connection has been idle for too long: replays don't count
	}
	assert.Greater(t, s.counts["replay"], 4000)
}

// Goal: who sees every datagram and is faster, but can only garble copies, keeps nobody from connecting.
func TestEndpoint_GarbledHandshakes(t *testing.T) {
	count := 100
	if long {
		count = 3000
	}
	for name, retry := range map[string]bool{"plain": false, "retry": true} {
		t.Run(name, func(t *testing.T) {
			s := newStorm(t, 6, Config{RequireRetry: retry})
			s.meddling = true
			for range count {
				c := s.open()
				require.NoError(t, c.client.Err())
				require.NoError(t, c.server.Err())
				s.calm, s.samples = []*calm{c}, nil
				s.exchange()
				c.client.Close(s.now)
				s.run(time.Second)
				require.Error(t, c.server.Err())
			}
			assert.Greater(t, s.counts["meddled"], 20*count)
		})
	}
}
