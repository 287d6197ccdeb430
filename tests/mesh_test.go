package tests

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

func newMesh[T any](t *testing.T, rt *veloq.Runtime, config veloq.MeshConfig) *veloq.Mesh[T] {
	t.Helper()
	m, err := veloq.NewMesh[T](rt, config)
	require.NoError(t, err)
	return m
}

// A stamp says who sent the message as its how manieth to that worker.
type stamp struct {
	from int
	seq  uint64
}

// ledger is one worker's book of what it received.
type ledger struct {
	next  []uint64
	wrong error
	total uint64
	_     [64]byte
}

func (l *ledger) take(from int, s stamp) {
	if l.wrong == nil && (s.from != from || s.seq != l.next[from]) {
		l.wrong = fmt.Errorf("from %d: got %+v, expected number %d", from, s, l.next[from])
	}
	l.next[from] = s.seq + 1
	l.total++
}

// Goal: between every pair each message arrives once and in order, whatever the capacity and the form
// of sending and receiving; the senders are faster than some edges, so they park. VELOQ_LONG: over 10^9 in all.
func TestMesh_EveryPairInOrder(t *testing.T) {
	for _, form := range []string{"recv", "batch", "handler"} {
		for _, capacity := range []int{1, 2, 64, 1024} {
			t.Run(fmt.Sprintf("%s/%d", form, capacity), func(t *testing.T) {
				const workers = 3
				each := sized(1_000_000_000/6/workers/workers, 300_000, 5_000)
				if capacity < 64 { // a wake for nearly each message
					each = sized(1_000_000, 20_000, 500)
				}
				everyPair(t, form, capacity, workers, each)
			})
		}
	}
}

func everyPair(t *testing.T, form string, capacity, workers, each int) {
	rt := newRuntime(t, veloq.Config{Workers: workers})
	m := newMesh[stamp](t, rt, veloq.MeshConfig{Capacity: capacity})
	books := make([]ledger, workers)
	for i := range books {
		books[i].next = make([]uint64, workers)
	}
	if form == "handler" {
		m.OnMessage(func(c *veloq.Context, from int, s stamp) { books[c.Worker()].take(from, s) })
	}
	var ends []*veloq.JoinHandle[struct{}]
	run := func(worker int, fn func(c *veloq.Context) error) {
		ends = append(ends, veloq.SpawnTo(rt, worker, func(c *veloq.Context) (struct{}, error) {
			return struct{}{}, fn(c)
		}))
	}
	for w := range workers {
		for to := range workers {
			run(w, func(c *veloq.Context) error { return sendStamps(c, m, form, to, each) })
		}
		if form == "handler" {
			continue
		}
		run(w, func(c *veloq.Context) error {
			vs := make([]stamp, 100)
			if form == "recv" {
				vs = vs[:1]
			}
			for got := 0; got < workers*each; {
				n, from, err := m.RecvBatch(c, vs)
				if err != nil {
					return err
				}
				for _, s := range vs[:n] {
					books[c.Worker()].take(from, s)
				}
				got += n
			}
			return nil
		})
	}
	for _, end := range ends {
		_, err := end.Wait(context.Background()) // as long as it takes: bounded by the test's own limit
		require.NoError(t, err)
	}
	require.NoError(t, m.Drain(soon(t)))
	for w := range books {
		require.NoError(t, books[w].wrong, "worker %d", w)
		require.EqualValues(t, workers*each, books[w].total, "worker %d", w)
	}
}

func sendStamps(c *veloq.Context, m *veloq.Mesh[stamp], form string, to, each int) error {
	batch := make([]stamp, 0, 97)
	for seq := range each {
		s := stamp{from: c.Worker(), seq: uint64(seq)}
		if form != "batch" {
			if err := m.Send(c, to, s); err != nil {
				return err
			}
			continue
		}
		if batch = append(batch, s); len(batch) < cap(batch) && seq < each-1 {
			continue
		}
		if n, err := m.SendBatch(c, to, batch); err != nil || n != len(batch) {
			return fmt.Errorf("sent %d of %d: %w", n, len(batch), err)
		}
		batch = batch[:0]
	}
	return nil
}

func TestMesh_BroadcastReachesTheOthers(t *testing.T) {
	const workers = 4
	rt := newRuntime(t, veloq.Config{Workers: workers})
	m := newMesh[string](t, rt, veloq.MeshConfig{})
	require.NoError(t, onWorker(t, rt, 2, func(c *veloq.Context) error {
		n, err := m.Broadcast(c, "all")
		require.Equal(t, workers-1, n)
		return err
	}))
	m.Close()
	for w := range workers {
		require.NoError(t, onWorker(t, rt, w, func(c *veloq.Context) error {
			if w != 2 {
				v, from, err := m.Recv(c)
				require.NoError(t, err)
				require.Equal(t, "all", v)
				require.Equal(t, 2, from)
			}
			_, _, err := m.Recv(c)
			require.ErrorIs(t, err, veloq.ErrMeshClosed)
			return nil
		}))
	}
}

func TestMesh_WrongUse(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	other := newRuntime(t, veloq.Config{Workers: 2})
	for _, capacity := range []int{-1, 3, 1 << 17} {
		_, err := veloq.NewMesh[int](rt, veloq.MeshConfig{Capacity: capacity})
		require.ErrorContains(t, err, "Capacity")
	}
	m := newMesh[int](t, rt, veloq.MeshConfig{Capacity: 1})
	var kept *veloq.Context
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		kept = c
		for _, to := range []int{-1, 2, math.MaxInt} {
			require.ErrorIs(t, m.Send(c, to, 1), veloq.ErrNoWorker)
			require.ErrorIs(t, m.TrySend(c, to, 1), veloq.ErrNoWorker)
		}
		require.NoError(t, m.TrySend(c, 1, 1))
		require.ErrorIs(t, m.TrySend(c, 1, 2), veloq.ErrFull)
		return nil
	}))
	require.ErrorIs(t, m.Send(kept, 0, 1), veloq.ErrWrongWorker, "a goroutine with a task's Context")
	require.NoError(t, onWorker(t, other, 0, func(c *veloq.Context) error {
		require.ErrorIs(t, m.Send(c, 0, 1), veloq.ErrWrongWorker)
		_, _, err := m.Recv(c)
		require.ErrorIs(t, err, veloq.ErrWrongWorker)
		return nil
	}))
	m.Close()
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		err := m.Send(c, 0, 1)
		require.ErrorIs(t, err, veloq.ErrMeshClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		return nil
	}))
	require.NoError(t, rt.Close())
	_, err := veloq.NewMesh[int](rt, veloq.MeshConfig{})
	require.ErrorIs(t, err, veloq.ErrClosed)
	require.ErrorIs(t, m.Drain(soon(t)), veloq.ErrClosed, "one message was never received")
}

// Goal: a sender that is parked for room comes back when it is cancelled or the mesh closes, and what
// it could not send is not received; the one behind it goes on.
func TestMesh_ParkedSenderIsCancelled(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	m := newMesh[int](t, rt, veloq.MeshConfig{Capacity: 2})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		n, err := m.SendBatch(c, 1, []int{1, 2})
		require.NoError(t, err)
		require.Equal(t, 2, n)
		sender := func(v int) *veloq.JoinHandle[struct{}] {
			return veloq.SpawnTo(c, 0, func(c *veloq.Context) (struct{}, error) {
				return struct{}{}, m.Send(c, 1, v)
			})
		}
		first, second := sender(3), sender(4)
		require.NoError(t, c.Yield()) // both park
		require.ErrorIs(t, m.TrySend(c, 1, 9), veloq.ErrFull, "others wait")
		first.Cancel()
		_, err = first.Join(c)
		require.ErrorIs(t, err, context.Canceled)
		reader := veloq.SpawnTo(c, 1, func(c *veloq.Context) ([]int, error) {
			var got []int
			for range 3 {
				v, _, err := m.Recv(c)
				if err != nil {
					return nil, err
				}
				got = append(got, v)
			}
			return got, nil
		})
		got, err := reader.Join(c)
		require.NoError(t, err)
		require.Equal(t, []int{1, 2, 4}, got)
		_, err = second.Join(c)
		return err
	}))
}

func TestMesh_CloseWakesParkedSender(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	m := newMesh[int](t, rt, veloq.MeshConfig{Capacity: 4})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		sender := veloq.SpawnTo(c, 0, func(c *veloq.Context) (int, error) {
			return m.SendBatch(c, 1, make([]int, 10))
		})
		require.NoError(t, c.Yield())
		m.Close()
		n, err := sender.Join(c)
		require.ErrorIs(t, err, veloq.ErrMeshClosed)
		require.Equal(t, 4, n)
		require.ErrorIs(t, m.Drain(context.Background()), veloq.ErrNotTask)
		return nil
	}))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, m.Drain(ctx), context.Canceled, "nobody has received")
	require.NoError(t, onWorker(t, rt, 1, func(c *veloq.Context) error {
		for range 4 {
			_, _, err := m.Recv(c)
			require.NoError(t, err)
		}
		_, _, err := m.Recv(c)
		require.ErrorIs(t, err, veloq.ErrMeshClosed)
		return nil
	}))
	require.NoError(t, m.Drain(soon(t)))
}

// Goal: a message that woke a receiver which was cancelled at that moment goes to the next one.
func TestMesh_CancelledReceiverLosesNothing(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 1})
	m := newMesh[int](t, rt, veloq.MeshConfig{})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		receiver := func() *veloq.JoinHandle[int] {
			return veloq.SpawnTo(c, 0, func(c *veloq.Context) (int, error) {
				v, _, err := m.Recv(c)
				return v, err
			})
		}
		for i := range 1000 {
			first, second := receiver(), receiver()
			require.NoError(t, c.Yield())
			require.NoError(t, m.Send(c, 0, i))
			if i%2 == 0 {
				require.NoError(t, c.Yield()) // the message is seen, the first receiver awake
			}
			first.Cancel()
			v, err := first.Join(c)
			if err == nil {
				require.Equal(t, i, v)
				second.Cancel()
				_, err = second.Join(c)
				require.ErrorIs(t, err, context.Canceled)
				continue
			}
			require.ErrorIs(t, err, context.Canceled)
			v, err = second.Join(c)
			require.NoError(t, err)
			require.Equal(t, i, v)
		}
		return nil
	}))
}

func TestMesh_HandlerTakesOverAndPanics(t *testing.T) {
	var panics atomic.Int64
	rt := newRuntime(t, veloq.Config{Workers: 2, OnPanic: func(*veloq.PanicError) { panics.Add(1) }})
	m := newMesh[int](t, rt, veloq.MeshConfig{})
	waiting := veloq.SpawnTo(rt, 1, func(c *veloq.Context) (int, error) {
		v, _, err := m.Recv(c)
		return v, err
	})
	var sum atomic.Int64
	m.OnMessage(func(_ *veloq.Context, _ int, v int) {
		if v%100 == 0 {
			panic("every hundredth")
		}
		sum.Add(int64(v))
	})
	_, err := waiting.Wait(soon(t))
	require.ErrorIs(t, err, veloq.ErrBusy)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		for v := range 5000 {
			if err := m.Send(c, 1, v); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, m.Drain(soon(t)))
	require.EqualValues(t, 50, panics.Load())
	require.EqualValues(t, 5000*4999/2-100*50*49/2, sum.Load())
}

// A received value is the collector's: its place in the edge keeps no reference.
func TestMesh_PlacesKeepNothing(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	m := newMesh[*[1024]byte](t, rt, veloq.MeshConfig{})
	var gone weak.Pointer[[1024]byte]
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		v := new([1024]byte)
		gone = weak.Make(v)
		return m.Send(c, 1, v)
	}))
	require.NoError(t, onWorker(t, rt, 1, func(c *veloq.Context) error {
		v, _, err := m.Recv(c)
		require.NotNil(t, v)
		return err
	}))
	eventually(t, "value collected", func() (bool, any) {
		runtime.GC()
		return gone.Value() == nil, nil
	})
	runtime.KeepAlive(m)
}

func TestMesh_RuntimeEndsUnderIt(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2})
	m := newMesh[int](t, rt, veloq.MeshConfig{Capacity: 8})
	sender := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (struct{}, error) {
		for {
			if err := m.Send(c, 1, 1); err != nil {
				return struct{}{}, err
			}
		}
	})
	receiver := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) {
		v, _, err := m.Recv(c)
		return v, err
	})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error { return c.Yield() }))
	require.NoError(t, rt.Close())
	_, err := sender.Wait(soon(t))
	require.ErrorIs(t, err, veloq.ErrClosed)
	_, err = receiver.Wait(soon(t))
	require.ErrorIs(t, err, veloq.ErrClosed)
}

func TestSharded_EachOnItsWorker(t *testing.T) {
	const workers = 4
	rt := newRuntime(t, veloq.Config{Workers: workers})
	s, err := veloq.NewSharded(rt, func(c *veloq.Context) (int, error) { return c.Worker() * 10, nil })
	require.NoError(t, err)
	require.NoError(t, onWorker(t, rt, 1, func(c *veloq.Context) error {
		require.Equal(t, 10, *s.Local(c))
		for w := range workers {
			require.NoError(t, s.Do(c, w, func(c *veloq.Context, v *int) error {
				require.Equal(t, w, c.Worker())
				require.Same(t, s.Local(c), v)
				*v++
				return nil
			}))
		}
		require.ErrorIs(t, s.Do(c, workers, nil), veloq.ErrNoWorker)
		failed := errors.New("failed")
		require.ErrorIs(t, s.Do(c, 3, func(*veloq.Context, *int) error { return failed }), failed)

		sum, err := veloq.MapReduce(c, s,
			func(_ *veloq.Context, v *int) (string, error) { return fmt.Sprint(*v), nil },
			func(a, b string) string { return a + " " + b })
		require.NoError(t, err)
		require.Equal(t, "1 11 21 31", sum)
		_, err = veloq.MapReduce(c, s,
			func(c *veloq.Context, _ *int) (int, error) {
				if c.Worker() == 2 {
					return 0, failed
				}
				return 1, nil
			},
			func(a, b int) int { return a + b })
		require.ErrorIs(t, err, failed)
		return nil
	}))
	require.Nil(t, s.Local(keptContext(t, rt)), "not from a goroutine")
	_, err = veloq.NewSharded(rt, func(c *veloq.Context) (int, error) {
		if c.Worker() == 1 {
			return 0, context.DeadlineExceeded
		}
		return 0, nil
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// keptContext returns the Context of a task that has ended.
func keptContext(t *testing.T, rt *veloq.Runtime) *veloq.Context {
	t.Helper()
	var kept *veloq.Context
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		kept = c
		return nil
	}))
	return kept
}
