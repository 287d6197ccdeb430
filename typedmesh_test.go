package veloq

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/racemark"
)

// Goal: no wake is lost. Two workers that never look for mail before they sleep send one message to and
// fro, so that each of them sleeps and is woken for each; every fourth round trip fills the edge first,
// so that the sender sleeps for want of room too. VELOQ_LONG=1: 10^6 cycles.
func TestMesh_NoWakeIsLost(t *testing.T) {
	trips := 20_000
	switch {
	case os.Getenv("VELOQ_LONG") == "1" && !racemark.Enabled:
		trips = 750_000
	case testing.Short() || racemark.Enabled:
		trips = 2_000
	}
	rt := newTestRuntime(t, Config{Workers: 2})
	for _, w := range rt.workers {
		require.True(t, w.post(&note{do: func(w *worker) { w.talk.never = true }}))
	}
	m, err := NewMesh[int](rt, MeshConfig{Capacity: 2})
	require.NoError(t, err)
	burst := func(trip int) int {
		if trip%4 == 0 {
			return 5
		}
		return 1
	}
	pong := SpawnTo(rt, 1, func(c *Context) (int, error) {
		for trip := range trips {
			for range burst(trip) {
				if v, _, err := m.Recv(c); err != nil || v != trip {
					return v, err
				}
			}
			if err := m.Send(c, 0, -trip); err != nil {
				return trip, err
			}
		}
		return trips, nil
	})
	ping := SpawnTo(rt, 0, func(c *Context) (int, error) {
		for trip := range trips {
			for range burst(trip) {
				if err := m.Send(c, 1, trip); err != nil {
					return trip, err
				}
			}
			if v, _, err := m.Recv(c); err != nil || v != -trip {
				return v, err
			}
		}
		return trips, nil
	})
	for _, h := range []*JoinHandle[int]{ping, pong} {
		n, err := h.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, trips, n)
	}
	sleeps := uint64(0)
	for _, w := range rt.Stats() {
		sleeps += w.Waits
	}
	t.Logf("%d round trips, %d sleeps", trips, sleeps)
	require.Greater(t, sleeps, uint64(trips), "the workers did not sleep, so nothing was tested")
}
