package tests

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/debugtag"
)

// parkedTasks starts one task that sleeps and one that joins it.
func parkedTasks(t *testing.T, rt *veloq.Runtime) []*veloq.JoinHandle[struct{}] {
	t.Helper()
	ready := make(chan struct{}, 2)
	sleeper := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (struct{}, error) {
		c.SetName("the sleeper")
		ready <- struct{}{}
		return struct{}{}, c.Sleep(time.Hour)
	})
	joiner := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (struct{}, error) {
		ready <- struct{}{}
		return sleeper.Join(c)
	})
	await(t, "first task", ready)
	await(t, "second task", ready)
	return []*veloq.JoinHandle[struct{}]{sleeper, joiner}
}

func TestRuntime_DumpListsTasksAndConnections(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	handles := parkedTasks(t, rt)
	var l *veloq.Listener
	_, err := veloq.SpawnTo(rt, 1, func(c *veloq.Context) (struct{}, error) {
		var err error
		l, err = c.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return struct{}{}, err
		}
		_, err = c.Dial("tcp", l.Addr().String())
		return struct{}{}, err
	}).Wait(t.Context())
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, rt.Dump(&out))
	text := out.String()
	t.Log(text)
	require.Contains(t, text, `name="the sleeper"`)
	require.Contains(t, text, "state=parked")
	require.Contains(t, text, "<-"+l.Addr().String()+" door=task state=open")
	if debugtag.Enabled {
		require.Contains(t, text, "op=(*Context).Sleep")
		require.Contains(t, text, "op=(*JoinHandle[...]).Join")
		require.Contains(t, text, "tests.parkedTasks")
	} else {
		require.Contains(t, text, "-tags veloq_debug")
	}
	handles[0].Cancel()
	_, err = handles[1].Wait(t.Context())
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, rt.Close())
	require.ErrorIs(t, rt.Dump(&out), veloq.ErrClosed)
}

// Goal: the debug build says of every task where it was made, however that was.
func TestRuntime_SnapshotNamesTheMaker(t *testing.T) {
	if !debugtag.Enabled {
		t.Skip("for -tags veloq_debug")
	}
	rt := newRuntime(t, veloq.Config{Workers: 2})
	var gate veloq.Notify
	wait := func(c *veloq.Context) (struct{}, error) { return struct{}{}, gate.Wait(c) }
	waitOnly := func(c *veloq.Context) { _, _ = wait(c) }
	makers := map[string]func(c *veloq.Context, s *veloq.TaskScope){
		"Spawn":         func(c *veloq.Context, _ *veloq.TaskScope) { veloq.Spawn(c, wait) },
		"SpawnTo":       func(c *veloq.Context, _ *veloq.TaskScope) { veloq.SpawnTo(c, 1, wait) },
		"SpawnBalanced": func(c *veloq.Context, _ *veloq.TaskScope) { veloq.SpawnBalanced(c, wait) },
		"SpawnLocal":    func(c *veloq.Context, _ *veloq.TaskScope) { veloq.SpawnLocal(c, wait) },
		"Go":            func(c *veloq.Context, _ *veloq.TaskScope) { _ = veloq.Go(c, waitOnly) },
		"TaskScope.Go": func(_ *veloq.Context, s *veloq.TaskScope) {
			_ = s.Go(func(c *veloq.Context) error { _, err := wait(c); return err })
		},
	}
	made := make(chan struct{})
	h := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (struct{}, error) {
		return struct{}{}, veloq.Scope(c, func(s *veloq.TaskScope) error {
			for _, make := range makers {
				make(c, s)
			}
			close(made)
			return gate.Wait(c)
		})
	})
	await(t, "tasks", made)
	eventually(t, "all of them", func() (bool, any) {
		snap, err := rt.Snapshot(t.Context(), 100)
		require.NoError(t, err)
		first := map[string]bool{} // who called veloq to make a task
		for _, task := range snap.Tasks {
			name, _, _ := strings.Cut(task.Created, "\n")
			first[name] = true
		}
		n := 0
		for name := range first {
			if strings.Contains(name, "TestRuntime_SnapshotNamesTheMaker.func") {
				n++
			}
		}
		return n == len(makers), first
	})
	gate.NotifyAll()
	h.Cancel()
	_, _ = h.Wait(t.Context())
}
