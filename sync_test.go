package veloq

// What can't be seen from outside: claims and queues one step at a time.

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A claimant of several places is claimed by one; the others find it gone, and take the next.
func TestClaimant_OneClaim(t *testing.T) {
	var a, b waitQueue
	first, second := &claimant{}, &claimant{}
	places := []*place{{by: first}, {by: first, index: 1}, {by: second}, {by: second, index: 1}}
	a.push(places[0])
	b.push(places[1])
	a.push(places[2])
	b.push(places[3])
	require.Same(t, places[0], a.claimFirst())
	require.Same(t, places[3], b.claimFirst(), "the first one's place was passed over")
	require.Nil(t, a.claimFirst())
	require.Nil(t, b.claimFirst())
	require.False(t, first.giveUp())
	require.Equal(t, int32(1), first.won.Load())
	require.Equal(t, int32(2), second.won.Load())
	for _, p := range places {
		require.False(t, p.queued)
	}
	gone := &claimant{}
	require.True(t, gone.giveUp())
	a.push(&place{by: gone})
	require.Empty(t, a.claimAll(nil))
}

// Places leave from anywhere in a queue.
func TestWaitQueue_Remove(t *testing.T) {
	for leaving := range 3 {
		var q waitQueue
		var places [3]place
		for i := range places {
			places[i].by = &claimant{}
			q.push(&places[i])
		}
		q.remove(&places[leaving])
		q.remove(&places[leaving])
		for i := range places {
			if i != leaving {
				require.Same(t, &places[i], q.claimFirst())
			}
		}
		require.Nil(t, q.head)
		require.Nil(t, q.tail)
	}
}

// A Select whose claim goes to one case takes nothing of another that becomes ready as it begins.
func TestCase_BeginTakesNothingAfterAClaim(t *testing.T) {
	ch := NewChan[int](2)
	require.NoError(t, ch.TrySend(1))
	var m Mutex
	var n Notify
	n.Notify()
	var o Oneshot[int]
	require.NoError(t, o.Send(1))
	h := &JoinHandle[int]{}
	h.done.finish(nil)
	v := 0
	for name, of := range map[string]Case{
		"recv": ch.RecvCase(&v), "send": ch.SendCase(2), "mutex": &m, "notify": &n, "oneshot": &o, "join": h,
	} {
		claimed := &claimant{}
		claimed.won.Store(7)
		p := &place{by: claimed, of: of}
		done, err := of.begin(nil, p)
		assert.NoError(t, err, name)
		assert.False(t, done, name)
		assert.False(t, p.queued, name)
	}
	assert.Equal(t, 1, ch.Len())
	assert.Zero(t, v)
	assert.True(t, m.TryLock())
	assert.True(t, n.noted)
	assert.Nil(t, ch.receivers.head)
	assert.Nil(t, ch.senders.head)
}

// What a task was handed that is unwound before it could take it goes to the next.
func TestCase_UndoPassesOn(t *testing.T) {
	var m Mutex
	require.True(t, m.TryLock())
	unwound, next := &place{by: &claimant{}}, &place{by: &claimant{}}
	for _, p := range []*place{unwound, next} {
		done, err := m.begin(nil, p)
		require.NoError(t, err)
		require.False(t, done)
	}
	m.Unlock()
	require.NotZero(t, unwound.by.won.Load())
	require.Zero(t, next.by.won.Load())
	m.leave(unwound)
	m.undo(unwound)
	require.NotZero(t, next.by.won.Load())
	require.False(t, m.TryLock())
	m.Unlock()
	require.True(t, m.TryLock())

	var n Notify
	unwound, next = &place{by: &claimant{}}, &place{by: &claimant{}}
	_, _ = n.begin(nil, unwound)
	_, _ = n.begin(nil, next)
	n.Notify()
	n.leave(unwound)
	n.undo(unwound)
	require.NotZero(t, next.by.won.Load())
}

func TestTicker_NextTick(t *testing.T) {
	for _, c := range []struct {
		missed                 MissedTicks
		due, now, period, want int64
	}{
		{TicksBurst, 100, 100, 10, 110},
		{TicksBurst, 100, 155, 10, 110},
		{TicksDelay, 100, 104, 10, 110},
		{TicksDelay, 100, 110, 10, 120},
		{TicksDelay, 100, 155, 10, 165},
		{TicksSkip, 100, 104, 10, 110},
		{TicksSkip, 100, 109, 10, 110},
		{TicksSkip, 100, 110, 10, 120},
		{TicksSkip, 100, 155, 10, 160},
		{TicksSkip, 100, 160, 10, 170},
	} {
		assert.Equal(t, c.want, nextTick(c.due, c.now, c.period, c.missed), "%+v", c)
	}
}

// A wait must ask the task, whose part a Timeout or a Scope may have ended, not the task's Context, nor
// the one that it was given.
func TestWaits_AskTheTask(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	wrong := regexp.MustCompile(`\b(t\.ctx|c)\.Err\(\)`)
	for _, name := range files {
		if name == "task.go" || name == "context.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		assert.Empty(t, wrong.FindAllString(string(b), -1), "%s: use t.err()", name)
	}
}

// Waits in one queue allocate nothing but what they carry, and a Mutex that is free nothing at all.
func TestSync_Allocations(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	h := Spawn(rt, func(c *Context) (map[string]float64, error) {
		var m Mutex
		var there, back Notify
		ch := NewChan[int](1)
		Spawn(c, func(c *Context) (int, error) {
			for there.Wait(c) == nil {
				back.Notify()
			}
			return 0, nil
		})
		return map[string]float64{
			"lock":   testing.AllocsPerRun(100, func() { _ = m.Lock(c); m.Unlock() }),
			"notify": testing.AllocsPerRun(100, func() { there.Notify(); _ = back.Wait(c) }),
			"chan":   testing.AllocsPerRun(100, func() { _ = ch.Send(c, 1); _, _ = ch.Recv(c) }),
			"sleep":  testing.AllocsPerRun(100, func() { _ = c.Sleep(time.Nanosecond) }),
		}, nil
	})
	got, err := h.Wait(t.Context())
	require.NoError(t, err)
	assert.Zero(t, got["lock"])
	assert.Zero(t, got["notify"])
	assert.Zero(t, got["chan"])
	assert.LessOrEqual(t, got["sleep"], 1.0)
}
