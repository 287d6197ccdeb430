package simnet

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

var pathLink = LinkConfig{Rate: 12_500_000, Queue: 375_000, Delay: 10 * time.Millisecond}

const pathRTT = 20 * time.Millisecond

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// transferSize is what lasts through the moves of a test, and not much longer.
const transferSize = 8 << 20

// transfer begins some bytes each way; both users close at the end.
func transfer(t testing.TB, seed uint64, size int) (w *World, c, s *User) {
	t.Helper()
	w, err := New(Config{Seed: seed, Up: pathLink, Down: pathLink})
	require.NoError(t, err)
	u := User{ToWrite: size, ReadChunk: 32 << 10, HalfClose: true, CloseAtEOF: true}
	c = w.Dial(u)
	s = w.serve(t, c, u)
	w.Run(200*time.Millisecond, func() bool { return false })
	return w, c, s
}

// skipRace leaves out what costs minutes under the race detector: a world has one goroutine, and the seeds
// run there.
func skipRace(t *testing.T) {
	t.Helper()
	if raceOn {
		t.Skip("a long transfer on one goroutine; the seeds run under the race detector")
	}
}

func finish(t testing.TB, w *World, c, s *User) {
	t.Helper()
	assert.True(t, w.Run(time.Minute, func() bool { return c.Closed && s.Closed }), "%v", w.Err)
	require.NoError(t, w.Err)
	assert.Equal(t, s.ToWrite, c.Received)
	assert.Equal(t, c.ToWrite, s.Received)
	assert.True(t, c.EOF && s.EOF)
}

func TestSim_MigrateMidTransferTwice(t *testing.T) {
	w, c, s := transfer(t, 1, transferSize)
	for i, text := range []string{"10.0.1.1:5000", "10.0.1.2:5001"} {
		local := addr(text)
		w.Home(w.Client, local)
		w.After(0, func() { require.NoError(t, c.Conn.Migrate(w.Now, local)) })
		require.True(t, w.Run(time.Second, func() bool { return c.Migrated == i+1 }), "%v", w.Err)
		assert.NoError(t, c.Conn.MigrateErr())
		require.True(t, w.Run(time.Second, func() bool { return s.Conn.Path().Remote == local }))
		w.Run(100*time.Millisecond, func() bool { return false })
		before := c.Received
		w.Run(100*time.Millisecond, func() bool { return false })
		assert.Greater(t, c.Received, before, "the transfer goes on")
	}
	// The old addresses are not needed any more.
	w.Kill(ClientAddr)
	w.Kill(addr("10.0.1.1:5000"))
	finish(t, w, c, s)
}

// A path that nobody answers on is given up; the transfer never stops.
func TestSim_MigrateToDeadPath(t *testing.T) {
	skipRace(t)
	w, c, s := transfer(t, 2, 3*transferSize)
	dead := addr("10.0.1.9:1")
	w.Kill(dead)
	w.After(0, func() { require.NoError(t, c.Conn.Migrate(w.Now, dead)) })
	before := c.Received
	w.Run(100*time.Millisecond, func() bool { return false })
	assert.Greater(t, c.Received, before)
	require.True(t, w.Run(time.Minute, func() bool { return c.Migrated == 1 }))
	assert.ErrorIs(t, c.Conn.MigrateErr(), core.ErrPathFailed)
	assert.Equal(t, ClientAddr, c.Conn.Path().Local)
	finish(t, w, c, s)
}

func TestSim_MigrateRefused(t *testing.T) {
	w, c, s := transfer(t, 3, transferSize)
	assert.ErrorIs(t, s.Conn.Migrate(w.Now, addr("10.0.1.1:1")), core.ErrNotMigratable, "a server may not")
	finish(t, w, c, s)
	assert.ErrorIs(t, c.Conn.Migrate(w.Now, addr("10.0.1.1:1")), core.ErrNotMigratable, "too late")

	w, err := New(Config{Seed: 1})
	require.NoError(t, err)
	early := w.Dial(User{})
	assert.ErrorIs(t, early.Conn.Migrate(w.Now, addr("10.0.1.1:1")), core.ErrNotMigratable, "too early")
}

// Goal: a NAT that gives the client another port, or another address, stops a transfer for no more than
// ten round trips and costs no byte. The longest silence of the client's reader is the measure.
func TestSim_RebindGap(t *testing.T) {
	skipRace(t)
	for name, external := range map[string]string{"port": "10.0.0.1:7777", "address": "10.9.9.9:7777"} {
		t.Run(name, func(t *testing.T) {
			w, c, s := transfer(t, 4, transferSize)
			var longest time.Duration
			last := w.Now
			c.onRead = func(*User, int) {
				longest = max(longest, w.Now.Sub(last))
				last = w.Now
			}
			window := s.Conn.Stats().Window
			w.After(0, func() { w.Rebind(ClientAddr, addr(external)) })
			require.True(t, w.Run(time.Second, func() bool { return s.Conn.Path().Remote == addr(external) }))
			if name == "port" {
				assert.GreaterOrEqual(t, s.Conn.Stats().Window, window/2, "the same path but for the port")
			}
			w.Run(500*time.Millisecond, func() bool { return false })
			c.onRead = nil
			t.Logf("silence of %v, %.1f round trips", longest, float64(longest)/float64(pathRTT))
			assert.LessOrEqual(t, longest, 10*pathRTT)
			finish(t, w, c, s)
		})
	}
}

// A reader whose NAT rebinds while the sender's datagrams go nowhere finds the way back by itself.
func TestSim_RebindOfAReader(t *testing.T) {
	skipRace(t)
	w, err := New(Config{Seed: 9, Up: pathLink, Down: pathLink})
	require.NoError(t, err)
	c := w.Dial(User{ToWrite: 1, ReadChunk: 32 << 10})
	w.serve(t, c, User{ToWrite: 8 << 20, ReadChunk: 10, HalfClose: true})
	w.Run(200*time.Millisecond, func() bool { return false })
	w.After(0, func() { w.Rebind(ClientAddr, addr("10.0.0.1:7777")) })
	// Nothing of the client is under way that would show the server its new address.
	w.Hook = func(from *Host, _ core.Path, _ []byte) bool { return from != w.Client }
	var last mono.Time
	c.onRead = func(*User, int) { last = w.Now }
	w.Run(2*pathRTT, func() bool { return false })
	w.Hook = nil
	silent, before := last, c.Received
	require.True(t, w.Run(10*time.Second, func() bool { return c.Received > before }))
	t.Logf("silence of %v", w.Now.Sub(silent))
	assert.Greater(t, w.Now.Sub(silent), 2*pathRTT, "the way back was lost")
	assert.LessOrEqual(t, w.Now.Sub(silent), 12*pathRTT)
	assert.True(t, w.Run(time.Minute, func() bool { return c.EOF }))
	assert.Equal(t, 8<<20, c.Received)
}

// An attacker off the path that only copies datagrams from another address can't take a connection away.
func TestSim_SpoofedMigration(t *testing.T) {
	w, c, s := transfer(t, 5, transferSize)
	attacker := addr("66.6.6.6:666")
	w.Kill(attacker)
	stolen := 0
	w.Hook = func(from *Host, p core.Path, b []byte) bool {
		if from == w.Client && stolen < 20 {
			stolen++
			// The copy overtakes the original.
			w.Inject(w.Server, core.Path{Local: ServerAddr, Remote: attacker}, append([]byte(nil), b...))
		}
		return true
	}
	finish(t, w, c, s)
	assert.Equal(t, 20, stolen)
	assert.Equal(t, ClientAddr, s.Conn.Path().Remote)
}

// Path MTU: the size grows to what the link takes, and shrinks when the link swallows it.
func TestSim_MTU(t *testing.T) {
	skipRace(t)
	for _, limit := range []int{1200, 1280, 1400, 1452, 0} {
		link := pathLink
		link.MTU = limit
		w, err := New(Config{Seed: 6, Up: link, Down: link})
		require.NoError(t, err)
		c := w.Dial(User{ToWrite: 4 << 20, ReadChunk: 1000, HalfClose: true})
		s := w.serve(t, c, User{ReadChunk: 32 << 10})
		require.True(t, w.Run(time.Minute, func() bool { return s.EOF }), "%v", w.Err)
		got, want := c.Conn.Stats().MTU, limit
		if limit == 0 {
			want = 1452
		}
		assert.LessOrEqual(t, got, want)
		assert.Greater(t, got, want-20, "found to within 16 bytes")
	}

	w, c, s := transfer(t, 7, transferSize)
	assert.Equal(t, 1452, c.Conn.Stats().MTU)
	link := pathLink
	link.MTU = 1250
	w.Client.SetLink(link)
	w.Server.SetLink(link)
	finish(t, w, c, s)
	assert.Less(t, c.Conn.Stats().MTU, 1251)
}

func TestSim_KeyUpdates(t *testing.T) {
	link := pathLink
	link.Loss, link.Reorder, link.ReorderBy = 0.02, 0.05, 5*time.Millisecond
	cfg := core.Config{KeyUpdateAfter: 50}
	w, err := New(Config{Seed: 8, Up: link, Down: link, Client: cfg, Server: cfg})
	require.NoError(t, err)
	u := User{ToWrite: 2 << 20, ReadChunk: 32 << 10, HalfClose: true, CloseAtEOF: true}
	c := w.Dial(u)
	s := w.serve(t, c, u)
	require.True(t, w.Run(time.Minute, func() bool { return c.Closed && s.Closed }), "%v", w.Err)
	require.NoError(t, w.Err)
	assert.True(t, c.EOF && s.EOF)
	assert.Greater(t, c.Conn.Stats().KeyUpdates, uint64(1))
}

// Marks instead of losses: CUBIC slows down by them, and nothing is dropped.
func TestSim_ECN(t *testing.T) {
	skipRace(t)
	link := pathLink
	link.MarkAt = 60_000
	run := func(ecn bool) (dropped uint64) {
		cfg := core.Config{Congestion: "cubic", ECN: ecn}
		w, err := New(Config{Seed: 9, Up: link, Down: link, Client: cfg, Server: cfg})
		require.NoError(t, err)
		c := w.Dial(User{ToWrite: 20 << 20, ReadChunk: 1000, HalfClose: true})
		s := w.serve(t, c, User{ReadChunk: 32 << 10})
		require.True(t, w.Run(time.Minute, func() bool { return s.EOF }))
		return w.Client.Link().TailDropped
	}
	without, with := run(false), run(true)
	t.Logf("tail drops: %d without marks, %d with", without, with)
	assert.Positive(t, without)
	assert.Zero(t, with)
}

// Off the path: whoever doesn't know the keys changes nothing but counters.
func TestSim_JunkChangesNothing(t *testing.T) {
	w, c, s := transfer(t, 10, transferSize)
	var seen [][]byte
	w.Hook = func(_ *Host, _ core.Path, b []byte) bool {
		if len(seen) < 400 {
			seen = append(seen, append([]byte(nil), b...))
		}
		return true
	}
	w.Run(20*time.Millisecond, func() bool { return false })
	w.Hook = nil
	require.NotEmpty(t, seen)
	w.Run(100*time.Millisecond, func() bool { return false }) // the originals have arrived
	state := func(u *User) core.Stats {
		stats := u.Conn.Stats()
		stats.Dropped, stats.BytesReceived = 0, 0
		return stats
	}
	before := [2]core.Stats{state(c), state(s)}
	now := w.Now
	feed := func(to *Host, p core.Path, b []byte) { to.Endpoint.Recv(now, p, core.NotECT, b) }
	up := core.Path{Local: ServerAddr, Remote: ClientAddr}
	down := core.Path{Local: ClientAddr, Remote: ServerAddr}
	forger := core.Path{Local: ServerAddr, Remote: addr("66.6.6.6:1")}
	for i, b := range seen {
		flipped := append([]byte(nil), b...)
		flipped[i%len(b)] ^= byte(1 + i%255)
		cut := append([]byte(nil), b[:i%len(b)]...)
		random := make([]byte, 1+i*7%1500)
		for k := range random {
			random[k] = byte(w.Rng.Uint32())
		}
		for _, junk := range [][]byte{flipped, cut, random} {
			for _, p := range []core.Path{up, forger} {
				feed(w.Server, p, append([]byte(nil), junk...))
			}
			feed(w.Client, down, append([]byte(nil), junk...))
		}
	}
	assert.Equal(t, before, [2]core.Stats{state(c), state(s)})
	assert.Equal(t, 1, w.Server.Endpoint.Len(), "no connection is made of junk")
	// Replayed, authentic datagrams are nothing new either.
	for range 3 {
		for _, b := range seen {
			feed(w.Server, forger, append([]byte(nil), b...))
		}
	}
	assert.Equal(t, ClientAddr, s.Conn.Path().Remote, "old packets don't move a connection")
	finish(t, w, c, s)
}
