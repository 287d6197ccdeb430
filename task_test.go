package veloq

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Goexit costs its coroutine, and nothing that stays: neither stacks nor goroutines pile up.
func TestTask_GoexitLeavesNothing(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	exits := func(n int) {
		h := Spawn(rt, func(c *Context) (struct{}, error) {
			for range n {
				_, err := Spawn(c, func(*Context) (struct{}, error) {
					runtime.Goexit()
					return struct{}{}, nil
				}).Join(c)
				if err != ErrGoexit { //nolint:errorlint // bare
					return struct{}{}, err
				}
			}
			return struct{}{}, nil
		})
		_, err := h.Wait(t.Context())
		require.NoError(t, err)
	}
	stacks := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	exits(100)
	goroutines, before := runtime.NumGoroutine(), stacks()
	exits(20_000)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2)
	require.LessOrEqual(t, stacks(), before+1<<20)
}

// Goal: a worker that ends tells everybody who waits for what it will not do any more: also those whose
// notes lie behind others that a full turn had left over.
func TestWorker_RefusesAllThatCameLate(t *testing.T) {
	rt := &Runtime{config: Config{Workers: 1}}
	w := newWorker(rt, 0)
	rt.workers = []*worker{w}
	note := func() (*JoinHandle[int], *note) {
		h := &JoinHandle[int]{}
		h.init(h, 0)
		return h, &note{start: &h.task}
	}
	left, first := note()
	late, second := note()
	w.inboxRest = first
	w.inbox.push(second)
	w.refuseLate()
	for _, h := range []*JoinHandle[int]{left, late} {
		_, err, ended := h.TryResult()
		require.True(t, ended)
		require.ErrorIs(t, err, ErrClosed)
	}
}

// Goal: a Cancel that meets the task's beginning reaches the part of it that runs.
func TestCancel_TaskBeginsMeanwhile(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	parks := make(chan struct{})
	h := SpawnTo(rt, 0, func(c *Context) (int, error) {
		return 0, Timeout(c, time.Hour, func(*Context) error {
			return Scope(c, func(s *TaskScope) error {
				SpawnLocal(s, func(c *Context) (int, error) { close(parks); return 0, c.Sleep(time.Hour) })
				return s.Wait()
			})
		})
	})
	<-parks
	cancelUnowned(&h.task)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := h.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

// Goal: who asks for Done between a Context's end and the news of it gets a channel that is closed, once.
func TestContext_DoneWhileItEnds(t *testing.T) {
	var c Context
	require.True(t, c.err.CompareAndSwap(nil, &errEnded))
	<-c.Done()
	c.closeDone()
	<-c.Done()
}

// Goal: a call that the blocking pool refuses leaves nothing with the context.Context that it was to end with.
func TestBlocking_RefusedIsForgotten(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1, BlockingMax: 1, BlockingQueue: -1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	call := func() *JoinHandle[int] {
		return SpawnBlocking(WithContext(ctx, rt), func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil })
	}
	first, second := call(), call()
	_, err, ended := second.TryResult()
	require.True(t, ended)
	require.ErrorIs(t, err, ErrFull)
	require.Error(t, second.blocking.ctx.Err())
	require.NoError(t, first.blocking.ctx.Err())
}

// Goal: a worker that has ended takes nobody for itself who got its goroutine's descriptor.
func TestWorker_EndedIsNobody(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2})
	require.NoError(t, rt.Close())
	for _, w := range rt.workers {
		require.Zero(t, w.currentG.Load())
	}
}

// Goal: a task that another worker sent to one that ended at that moment is refused while the other goes
// on: its scope, which waits for that, ends and is not unwound.
func TestWorker_RefusesWhileOthersGoOn(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 2})
	ended := rt.workers[1]
	require.True(t, ended.post(&note{do: (*worker).stop}))
	h := SpawnTo(rt, 0, func(c *Context) (int, error) {
		for !ended.ended.Load() {
			if err := c.Yield(); err != nil {
				return 0, err
			}
		}
		return 0, Scope(c, func(s *TaskScope) error {
			child := &JoinHandle[int]{}
			child.init(child, 0)
			child.task.scope, child.ctx.w = s, ended
			s.link(&child.task)
			require.True(t, rt.mesh.edge(0, 1).push(message{kind: messageStart, t: &child.task}))
			return s.Wait()
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := h.Wait(ctx)
	require.ErrorIs(t, err, ErrClosed)
}
