package tests

// What a turn and a request cost: crossings into C, and allocations.

import (
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/debugtag"
)

// Goal: a worker crosses into C once a turn, however many connections it serves, and once more only
// where a ring was full.
func TestCrossings_OneATurn(t *testing.T) {
	noLeak(t)
	const conns = 32
	rounds := sized(20_000, 2_000, 200)
	forAll(t, func(t *testing.T, sh shape, door string) {
		rt := newRuntime(t, sh.config)
		srv := startEcho(t, rt, sh.listen, door)
		before := totals(rt)
		var wg sync.WaitGroup
		for range conns {
			conn := dial(t, srv.Addr())
			wg.Go(func() {
				buf := make([]byte, 64)
				for range rounds / 8 {
					if err := roundTrip(conn, buf); err != nil {
						t.Errorf("echo: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		now := totals(rt)
		turns, crossings := now.Turns-before.Turns, now.Crossings-before.Crossings
		extra := now.RingFull - before.RingFull + now.Overflows - before.Overflows
		completions := now.Completions - before.Completions
		t.Logf("%d round trips: %d turns, %d crossings (%d for full rings), %d completions, %d submissions",
			conns*(rounds/8), turns, crossings, extra, completions, now.Submissions-before.Submissions)
		// A worker is between two turns when it counts: one each may be missing.
		require.LessOrEqual(t, crossings, turns+extra+uint64(rt.Workers()))
		require.LessOrEqual(t, turns, crossings+uint64(rt.Workers()))
		require.GreaterOrEqual(t, completions, uint64(conns*(rounds/8)))
		// A turn that nothing came of costs a crossing too: there must be few of them.
		require.LessOrEqual(t, turns, 2*completions+100)
	})
}

// Goal: an established connection is served without allocating. Method: a client that doesn't allocate
// either, and the process's own count.
func TestCrossings_NoAllocations(t *testing.T) {
	noLeak(t)
	for i, sh := range shapes() {
		rounds := sized(100_000, 10_000, 2_000)
		if i > 0 {
			rounds = sized(20_000, 2_000, 1_000) // the default shape is the one that is measured
		}
		for name, start := range map[string]func(*veloq.Runtime) *veloq.Server{
			"task": func(rt *veloq.Runtime) *veloq.Server { return startEcho(t, rt, sh.listen, "task") },
			"task leases": func(rt *veloq.Runtime) *veloq.Server {
				return startTasks(t, rt, sh.listen, smallEchoTask)
			},
			"handler": func(rt *veloq.Runtime) *veloq.Server { return startEcho(t, rt, sh.listen, "handler") },
			"handler leases": func(rt *veloq.Runtime) *veloq.Server {
				return startHandler(t, rt, sh.listen, &echoHandler{leases: true})
			},
		} {
			t.Run(sh.name+"/"+name, func(t *testing.T) {
				rt := newRuntime(t, sh.config)
				conn := dial(t, start(rt).Addr())
				for _, size := range []int{64, 3000} {
					out, in := make([]byte, size), make([]byte, size)
					trip := func() {
						if _, err := conn.Write(out); err != nil {
							t.Fatal(err)
						}
						if _, err := io.ReadFull(conn, in); err != nil {
							t.Fatal(err)
						}
					}
					for range rounds / 10 {
						trip()
					}
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					for range rounds {
						trip()
					}
					runtime.ReadMemStats(&after)
					each := float64(after.Mallocs-before.Mallocs) / float64(rounds)
					t.Logf("%d bytes: %.4f allocations a round trip", size, each)
					if !raceEnabled && !debugtag.Enabled { // both allocate themselves
						// The runtime has some of its own now and then, which short runs see more of.
						require.Less(t, each, 0.05, "size %d", size)
					}
				}
				require.NoError(t, conn.Close())
				require.NoError(t, rt.Close())
			})
		}
	}
}
