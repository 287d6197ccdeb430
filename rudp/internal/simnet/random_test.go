package simnet

import (
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

var (
	seeds = flag.Int("seeds", 300, "how many seeds TestSim_Seeds runs")
	seed  = flag.Uint64("seed", 0, "the only seed that TestSim_Seeds runs, if not 0")
)

// randomLink draws a link; bad ones are rare enough for transfers to end.
func randomLink(r *rand.Rand) LinkConfig {
	l := LinkConfig{
		Rate:  []int64{0, 125_000, 1_250_000, 12_500_000, 125_000_000}[r.IntN(5)],
		Delay: []time.Duration{0, 100 * time.Microsecond, 5 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}[r.IntN(5)],
	}
	if l.Rate > 0 {
		l.Queue = 6000 + r.IntN(400_000)
	}
	maybe := func(f func()) {
		if r.IntN(3) == 0 {
			f()
		}
	}
	maybe(func() { l.Jitter = 1 + time.Duration(r.Int64N(int64(l.Delay)+1e6)) })
	maybe(func() { l.Loss = 0.15 * r.Float64() })
	maybe(func() { l.BurstLoss, l.BurstMean = 0.08*r.Float64(), 2+4*r.Float64() })
	maybe(func() { l.Duplicate = 0.1 * r.Float64() })
	maybe(func() { l.Reorder, l.ReorderBy = 0.1*r.Float64(), 1+time.Duration(r.Int64N(int64(l.Delay)+2e6)) })
	maybe(func() { l.Flip = 0.03 * r.Float64() })
	maybe(func() { l.Truncate = 0.02 * r.Float64() })
	maybe(func() { l.MTU = 1200 + r.IntN(300) })
	maybe(func() { l.MarkAt = 1 + r.IntN(100_000) })
	maybe(func() {
		from := mono.Time(time.Hour) + mono.Time(r.Int64N(int64(3*time.Second)))
		l.Outages = append(l.Outages, Outage{from, from + mono.Time(r.Int64N(int64(2*time.Second)))})
	})
	return l
}

func randomConfig(r *rand.Rand) core.Config {
	c := core.Config{
		Congestion:       []string{"bbr", "cubic"}[r.IntN(2)],
		RecvWindow:       []int{16 << 10, 100_000, 1 << 20, 4 << 20}[r.IntN(4)],
		SendBuffer:       []int{4 << 10, 60_000, 1 << 20}[r.IntN(3)],
		ECN:              r.IntN(2) == 0,
		RequireRetry:     r.IntN(3) == 0,
		HandshakeTimeout: patience,
		IdleTimeout:      patience,
	}
	if r.IntN(3) == 0 {
		c.KeyUpdateAfter = uint64(20 + r.IntN(200))
	}
	if r.IntN(4) == 0 {
		c.KeepAlive = time.Duration(1+r.IntN(10)) * time.Second
	}
	return c
}

// scenario is one seed's world, run to its end.
type scenario struct {
	w    *World
	c, s *User
	over bool
}

// FuzzSim sets script, the fate of the first datagrams of both sides, and patience for the time that
// handshakes take then.
var (
	script   [2]uint32
	patience = time.Minute
)

func runSeed(seed uint64, fault core.Fault) (*scenario, error) {
	r := rand.New(rand.NewPCG(seed, 99))
	cfg := Config{Seed: seed, Up: randomLink(r), Down: randomLink(r), Client: randomConfig(r), Server: randomConfig(r)}
	if r.IntN(2) == 0 {
		cfg.Down = cfg.Up
	}
	moves := r.IntN(3)
	if moves > 0 {
		// A client that only reads learns from nobody that its NAT has another binding.
		cfg.Client.KeepAlive = 2 * time.Second
	}
	cfg.Client.Plant(fault)
	cfg.Server.Plant(fault)
	w, err := New(cfg)
	if err != nil {
		return nil, err
	}
	size := func() int { return []int{0, 1, 3000, 100_000, 400_000}[r.IntN(5)] }
	user := func() User {
		return User{
			ToWrite: size(), Chunk: 1 + r.IntN(20_000), ReadChunk: 1 + r.IntN(20_000),
			HalfClose: true, CloseAtEOF: true,
		}
	}
	sc := &scenario{w: w}
	w.Client.Script(uint(script[0]), bits.Len32(script[0]))
	w.Server.Script(uint(script[1]), bits.Len32(script[1]))
	cu, su := user(), user()
	cu.Refer, su.Share = seed&1 == 0, seed&1 == 0 // not drawn: old seeds stay what they were
	cu.Share, su.Refer = seed&2 == 0, seed&2 == 0
	sc.c = w.Dial(cu)
	for i := range moves {
		moveClient(w, sc, i, r)
	}
	done := func() bool {
		if c := w.Server.Endpoint.Accept(); c != nil && sc.s == nil {
			sc.s = w.Server.Use(c, su)
			sc.s.Peer, sc.c.Peer = sc.c, sc.s
		}
		return sc.s != nil && sc.c.Closed && sc.s.Closed
	}
	ended := w.Run(10*patience, done)
	sc.over = true
	if w.Err != nil {
		return sc, w.Err
	}
	if !ended {
		return sc, fmt.Errorf("not over after %v: %s", time.Duration(w.Now)-time.Hour, sc)
	}
	for _, u := range []*User{sc.c, sc.s} {
		if !u.EOF || u.Received != u.Peer.ToWrite {
			return sc, fmt.Errorf("%s: read %d of %d bytes, EOF %v, read error %v, closed: %v",
				u.host.Name, u.Received, u.Peer.ToWrite, u.EOF, u.ReadErr, u.Conn.Err())
		}
	}
	if !w.Run(5*patience, func() bool { return w.Client.Endpoint.Len()+w.Server.Endpoint.Len() == 0 }) {
		return sc, fmt.Errorf("connections are left: %d, %d; %v", w.Client.Endpoint.Len(), w.Server.Endpoint.Len(), w.Err)
	}
	return sc, nil
}

func (sc *scenario) String() string {
	text := fmt.Sprintf("client %+v err %v", sc.c.Conn.Stats(), sc.c.Conn.Err())
	if sc.s != nil {
		text += fmt.Sprintf("\nserver %+v err %v", sc.s.Conn.Stats(), sc.s.Conn.Err())
	}
	return text
}

// moveClient rebinds the client's NAT, or migrates, some time into the connection.
func moveClient(w *World, sc *scenario, i int, r *rand.Rand) {
	when := time.Duration(r.Int64N(int64(5 * time.Second)))
	port := uint16(3000 + i)
	migrate := r.IntN(2) == 0
	var move func()
	move = func() {
		if sc.over {
			return
		}
		if sc.s == nil || !sc.c.Connected {
			// Connections move only once both sides have finished the handshake.
			w.After(100*time.Millisecond, move)
			return
		}
		if migrate {
			local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), port)
			w.Home(w.Client, local)
			_ = sc.c.Conn.Migrate(w.Now, local)
			return
		}
		w.Rebind(sc.c.Conn.Path().Local, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, 9}), port))
	}
	w.After(when, move)
}

// Goal: whatever links do, what is read is what was written, in order and whole, within bounded time and
// memory. Method: seeds draw links, configurations, users and moves; a world checks itself after each event.
func TestSim_Seeds(t *testing.T) {
	first, last := uint64(1), uint64(*seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	if raceOn {
		last = min(last, 40)
	}
	failed := 0
	for s := first; s <= last; s++ {
		if _, err := runSeed(s, core.FaultNone); err != nil {
			t.Errorf("seed %d: %v", s, err)
			if failed++; failed == 5 {
				t.Fatal("enough")
			}
		}
	}
}

// Seeds that found something.
func TestSim_OldFindings(t *testing.T) {
	for _, s := range []uint64{278, 384, 531, 887, 1631, 4103} {
		_, err := runSeed(s, core.FaultNone)
		assert.NoError(t, err, "seed %d", s)
	}
}

func TestSim_SameSeedSameTrace(t *testing.T) {
	for s := uint64(1000); s < 1010; s++ {
		a, err := runSeed(s, core.FaultNone)
		require.NoError(t, err)
		b, err := runSeed(s, core.FaultNone)
		require.NoError(t, err)
		assert.Equal(t, a.w.Hash(), b.w.Hash(), "seed %d", s)
		assert.Equal(t, a.w.Now, b.w.Now)
	}
	a, err := runSeed(1000, core.FaultNone)
	require.NoError(t, err)
	b, err := runSeed(1001, core.FaultNone)
	require.NoError(t, err)
	assert.NotEqual(t, a.w.Hash(), b.w.Hash(), "the hash sees what happens")
}

// Goal: the checks above can fail. Each planted defect is found within a few seeds.
func TestSim_PlantedDefectsAreFound(t *testing.T) {
	for name, fault := range map[string]core.Fault{
		"end of stream before its data":       core.FaultEarlyFIN,
		"overflow dropped but acknowledged":   core.FaultDropOverflow,
		"a duplicate that's not acknowledged": core.FaultNoDupAck,
	} {
		t.Run(name, func(t *testing.T) {
			for s := uint64(1); s <= 60; s++ {
				if _, err := runSeed(s, fault); err != nil {
					t.Logf("found by seed %d: %v", s, err)
					return
				}
			}
			t.Error("60 seeds, and nothing found")
		})
	}
}
