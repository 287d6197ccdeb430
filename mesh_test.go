package veloq

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/core"
)

func newTestMesh(t *testing.T) *mesh {
	t.Helper()
	if !core.Available {
		t.Skip("no C core in this build")
	}
	m, err := newMesh(2)
	require.NoError(t, err)
	t.Cleanup(m.free)
	return m
}

// Many times around the ring in batches of every size: each message arrives once, in order, with the
// value that was sent with it.
func TestMesh_ValuesStayWithTheirRecords(t *testing.T) {
	e := newTestMesh(t).edge(0, 1)
	sent, seen := int32(0), int32(0)
	var batch [meshBatch]core.Msg
	for round := range 3 * meshSlots {
		for range round%(meshCapacity+3) + 1 {
			if !e.push(message{kind: messageAdopt, fd: sent}) {
				require.Equal(t, meshCapacity, e.edge.Len())
				break
			}
			sent++
		}
		for range round%5 + 1 {
			for _, rec := range batch[:e.edge.Pop(batch[:round%meshBatch+1])] {
				require.Equal(t, seen, e.values[rec.Token].fd)
				seen++
			}
		}
	}
	require.Greater(t, sent, int32(4*meshSlots))
}

func TestMesh_FullEdgeRefuses(t *testing.T) {
	e := newTestMesh(t).edge(1, 0)
	for i := range meshCapacity {
		require.True(t, e.push(message{fd: int32(i)}))
	}
	require.False(t, e.push(message{}))
	var one [1]core.Msg
	require.Equal(t, 1, e.edge.Pop(one[:]))
	require.True(t, e.push(message{fd: -1}))
	require.False(t, e.push(message{}))
}

// A worker that sends more than an edge holds, to a worker that is busy, loses nothing: the inbox
// takes the rest.
func TestMesh_OverflowTakesTheInbox(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2})
	const tasks = 3 * meshCapacity
	h := SpawnTo(rt, 0, func(c *Context) (int, error) {
		handles := make([]*JoinHandle[int], tasks)
		for i := range handles { // no park: worker 1 is rung only at the end of this turn
			handles[i] = SpawnTo(c, 1, func(c *Context) (int, error) { return c.Worker() * i, nil })
		}
		return joinSum(c, handles)
	})
	sum, err := h.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, tasks*(tasks-1)/2, sum)
}

// joinSum joins all, and adds up what they return.
func joinSum[H interface{ Join(c *Context) (int, error) }](c *Context, handles []H) (sum int, err error) {
	for _, h := range handles {
		v, err := h.Join(c)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

func newTestRuntime(t *testing.T, c Config) *Runtime {
	t.Helper()
	if !core.Available {
		t.Skip("no C core in this build")
	}
	rt, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Close()) })
	return rt
}
