package veloq

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/racemark"
	"github.com/veloq/veloq/internal/wheel"
)

// A flood keeps one source of a worker's work full for ever, and counts what the worker did of it.
type flood struct {
	name  string
	start func(t *testing.T, rt *Runtime, count *atomic.Int64, stop *atomic.Bool) (end func())
}

func floods() []flood {
	return []flood{
		{"tasks", floodTasks},
		{"mesh", floodMesh},
		{"inbox", floodInbox},
		{"timers", floodTimers},
		{"completions", floodCompletions},
	}
}

// More tasks than a turn's budget that yield for ever, some of them new ones.
func floodTasks(t *testing.T, rt *Runtime, count *atomic.Int64, stop *atomic.Bool) func() {
	var more func(c *Context)
	more = func(c *Context) {
		for i := 0; !stop.Load(); i++ {
			count.Add(1)
			if i == 100 { // a new task in its place
				_ = Go(c, more)
				return
			}
			_ = c.Yield()
		}
	}
	h := SpawnTo(rt, 0, func(c *Context) (struct{}, error) {
		for range 2 * tasksPerTurn {
			_ = Go(c, more)
		}
		return struct{}{}, nil
	})
	return func() {
		_, err := h.Wait(t.Context())
		require.NoError(t, err)
	}
}

// Another worker sends as fast as it can, and the handler sends to its own worker for each message.
func floodMesh(t *testing.T, rt *Runtime, count *atomic.Int64, stop *atomic.Bool) func() {
	m, err := NewMesh[int](rt, MeshConfig{Capacity: 1 << 14})
	require.NoError(t, err)
	m.OnMessage(func(c *Context, _ int, v int) {
		count.Add(1)
		if !stop.Load() {
			_ = m.TrySend(c, 0, v)
		}
	})
	h := SpawnTo(rt, 1, func(c *Context) (struct{}, error) {
		for !stop.Load() {
			if err := m.Send(c, 0, 1); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return func() {
		_, err := h.Wait(t.Context())
		require.NoError(t, err)
		require.NoError(t, m.Drain(t.Context()))
	}
}

// Notes that post themselves again.
func floodInbox(t *testing.T, rt *Runtime, count *atomic.Int64, stop *atomic.Bool) func() {
	const notes = 2 * notesPerTurn
	var left atomic.Int64
	left.Store(notes)
	ended := make(chan struct{})
	for range notes {
		n := &note{}
		n.do = func(w *worker) {
			count.Add(1)
			if stop.Load() {
				if left.Add(-1) == 0 {
					close(ended)
				}
				return
			}
			w.post(n)
		}
		require.True(t, rt.workers[0].post(n))
	}
	return func() { <-ended }
}

// Timers that are due as soon as they were added, more than a turn's budget.
func floodTimers(t *testing.T, rt *Runtime, count *atomic.Int64, stop *atomic.Bool) func() {
	const timers = 2 * timersPerTurn
	var left atomic.Int64
	left.Store(timers)
	ended := make(chan struct{})
	require.True(t, rt.workers[0].post(&note{do: func(w *worker) {
		for range timers {
			tm := &wheel.Timer{}
			tm.Fire = func(tm *wheel.Timer, now int64) {
				count.Add(1)
				if stop.Load() {
					if left.Add(-1) == 0 {
						close(ended)
					}
					return
				}
				w.timers.add(tm, now-1)
			}
			w.timers.add(tm, 0)
		}
	}}))
	return func() { <-ended }
}

// A connection to itself that echoes without end.
func floodCompletions(t *testing.T, rt *Runtime, count *atomic.Int64, stop *atomic.Bool) func() {
	var l *Listener
	_, err := SpawnTo(rt, 0, func(c *Context) (struct{}, error) {
		var err error
		l, err = c.Listen("tcp", "127.0.0.1:0")
		return struct{}{}, err
	}).Wait(t.Context())
	require.NoError(t, err)
	h := SpawnTo(rt, 0, func(*Context) (struct{}, error) {
		defer l.Close()
		s, err := l.Accept()
		if err != nil {
			return struct{}{}, err
		}
		defer s.Close()
		buf := make([]byte, 1024)
		for {
			n, err := s.Read(buf)
			if err != nil {
				return struct{}{}, nil
			}
			count.Add(1)
			if _, err := s.Write(buf[:n]); err != nil {
				return struct{}{}, err
			}
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		defer conn.Close()
		buf := make([]byte, 1)
		for !stop.Load() {
			if _, err := conn.Write(buf); err != nil {
				done <- err
				return
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return func() {
		require.NoError(t, <-done)
		_, err := h.Wait(t.Context())
		require.NoError(t, err)
	}
}

// Goal: in every mix of sources that each have more than the worker can do, each of them goes on: none
// waits for another to run dry. What a turn left behind is counted.
func TestWorker_NoSourceStarves(t *testing.T) {
	if runtime.GOOS == "windows" && racemark.Enabled {
		t.Skip("Wine runs out of mappings: thousands of stacks, and the race detector's own")
	}
	all := floods()
	for mix := 1; mix < 1<<len(all); mix++ {
		name := ""
		for i, f := range all {
			if mix&(1<<i) != 0 {
				name += "+" + f.name
			}
		}
		t.Run(name[1:], func(t *testing.T) {
			rt := newTestRuntime(t, Config{Workers: 2})
			var stop atomic.Bool
			counts := make([]atomic.Int64, len(all))
			var ends []func()
			for i, f := range all {
				if mix&(1<<i) != 0 {
					ends = append(ends, f.start(t, rt, &counts[i], &stop))
				}
			}
			waitMix(t, rt, all, counts, mix)
			stats := rt.Stats()[0]
			stop.Store(true)
			for _, end := range ends {
				end()
			}
			for i, left := range []uint64{stats.BudgetTasks, stats.BudgetMesh, stats.BudgetInbox, stats.BudgetTimers} {
				if mix&(1<<i) != 0 {
					require.Positive(t, left, "%s left nothing for the next turn", all[i].name)
				}
			}
		})
	}
}

// waitMix waits for 30 turns, of which each source that floods must have had some, and its share.
func waitMix(t *testing.T, rt *Runtime, all []flood, counts []atomic.Int64, mix int) {
	t.Helper()
	turns, steps := uint64(30), int64(20)
	if racemark.Enabled {
		turns, steps = 5, 2
	}
	first := rt.Stats()[0].Turns // answered by the inbox itself: it is never starved
	for {
		now := rt.Stats()[0].Turns
		late := ""
		for i, f := range all {
			if n := counts[i].Load(); mix&(1<<i) != 0 && n < steps {
				late += fmt.Sprint(" ", f.name, " ", n)
			}
		}
		if late == "" && now-first >= turns {
			return
		}
		// Completions come at the pace of a client on another thread: many turns for each.
		require.Less(t, now-first, uint64(2_000_000), "starved:%s", late)
	}
}
