package tests

// Seeded random programs of tasks, goroutines and workers over everything that can be waited for. What
// they must find: every wait ends, every result and value arrives once, locks exclude, nothing is left.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// A mark is a value that travels: the how manieth of whom.
type mark struct{ of, seq uint32 }

// arrivals sees to it that what was sent arrives once: each mark is entered by its sender and taken out by
// its receiver, who may be first.
type arrivals struct {
	mu   sync.Mutex
	open map[mark]int
}

func (l *arrivals) add(m mark, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[mark]int{}
	}
	if l.open[m] += n; l.open[m] == 0 {
		delete(l.open, m)
	}
}

// inOrder is one receiver's view: the last mark of each sender.
type inOrder map[uint32]uint32

type guarded struct {
	veloq.Mutex
	inside atomic.Int32
	count  int // the lock's
	locked atomic.Int64
}

type parcel struct {
	buf  veloq.Buffer
	want byte
}

// runtimeChaos is one run.
type runtimeChaos struct {
	t        *testing.T
	seed     uint64
	rt       *veloq.Runtime
	closes   bool // the runtime is closed in the middle
	ids      atomic.Uint32
	results  sync.Map     // of the tasks that spawn started, by their handles
	detached atomic.Int64 // panics that OnPanic is to get, less those that it got

	lock    guarded
	pipe    *veloq.Chan[mark]
	pipes   arrivals
	mesh    *veloq.Mesh[mark]
	meshes  arrivals
	order   *veloq.Sharded[inOrder] // of the mesh's messages
	sums    *veloq.Sharded[int]
	added   atomic.Int64
	pools   *veloq.Sharded[*veloq.Pool]
	parcels *veloq.Chan[parcel]

	// Nothing ever comes of these.
	silent *veloq.Chan[mark]
	full   *veloq.Chan[mark]
	held   veloq.Mutex
	quiet  veloq.Notify
	empty  veloq.Oneshot[int]
	deaf   *veloq.Mesh[mark] // nobody receives
	mute   *veloq.Mesh[mark] // nobody sends
}

type (
	chaosPanic    struct{ id uint32 }
	chaosDetached struct{}
)

var errChaos = errors.New("an actor's own")

// TestRuntime_Chaos runs seeds for two seconds, or for VELOQ_CHAOS. VELOQ_SEED runs one again.
func TestRuntime_Chaos(t *testing.T) {
	needDriver(t)
	noLeak(t)
	lasts := 1500 * time.Millisecond
	if long {
		lasts = time.Minute
	}
	if d, err := time.ParseDuration(os.Getenv("VELOQ_CHAOS")); err == nil {
		lasts = d
	}
	n := 0
	seed, alone := firstSeed(t)
	if alone {
		lasts = 0
	}
	for until := time.Now().Add(lasts); n == 0 || time.Now().Before(until) && !t.Failed(); n++ {
		runChaos(t, seed+uint64(n))
	}
	t.Logf("%d seeds from VELOQ_SEED=%d", n, seed)
}

func runChaos(t *testing.T, seed uint64) {
	defer func() {
		if t.Failed() {
			t.Logf("VELOQ_SEED=%d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	x := &runtimeChaos{t: t, seed: seed, closes: r.IntN(3) == 0}
	config := veloq.Config{Workers: 2 + r.IntN(3), BlockingMax: 1 + r.IntN(3), BlockingQueue: 4, OnPanic: x.panicked}
	if r.IntN(2) == 0 {
		config.SubmissionEntries, config.CompletionEntries = 8, 16
	}
	if r.IntN(3) == 0 {
		config.InboxLimit = 4
	}
	if r.IntN(4) == 0 {
		config.Spin = 50 * time.Microsecond
	}
	rt, err := veloq.New(config)
	require.NoError(t, err)
	x.rt = rt
	x.setUp(r)
	var drains sync.WaitGroup
	drains.Go(x.drainPipe)
	drains.Go(x.drainParcels)
	var receivers []*veloq.JoinHandle[uint32]
	for w := range rt.Workers() {
		receivers = append(receivers, veloq.SpawnTo(rt, w, func(c *veloq.Context) (uint32, error) { return 0, x.receive(c, true) }))
	}
	stay := rt.Workers() // receivers
	if r.IntN(3) == 0 {
		x.mesh.OnMessage(func(c *veloq.Context, _ int, m mark) { x.got(c, m) })
		stay = 0
	}
	if x.closes && r.IntN(10) == 0 {
		require.NoError(t, veloq.Go(rt, func(c *veloq.Context) {
			for {
				_ = x.full.Send(c, mark{}) // takes no notice of the end
				if i, _ := veloq.Select(c, &x.lock, x.silent.RecvCase(new(mark))); i == 0 {
					x.lock.Unlock()
				}
			}
		}))
	}
	var actors sync.WaitGroup
	for range 2 + r.IntN(6) {
		a := x.actor()
		actors.Go(func() { a.outside() })
	}
	if x.closes {
		time.Sleep(time.Duration(r.IntN(8000)) * time.Microsecond)
		bounded(t, "Runtime.Close", func() { _ = rt.Close() })
	}
	bounded(t, "actors outside", actors.Wait)
	if !x.closes {
		x.await(stay)
	}
	x.pipe.Close()
	x.parcels.Close()
	bounded(t, "drains", drains.Wait)
	x.mesh.Close()
	for _, h := range receivers {
		if err := join(t, h); !errors.Is(err, veloq.ErrMeshClosed) && !errors.Is(err, veloq.ErrBusy) && (!x.closes || !errors.Is(err, veloq.ErrClosed)) {
			t.Errorf("receiver: %v", err)
		}
	}
	if !x.closes {
		x.balance()
	}
	bounded(t, "Runtime.Close", func() { _ = rt.Close() })
	x.late()
	require.Zero(t, x.lock.inside.Load())
	require.EqualValues(t, x.lock.locked.Load(), x.lock.count)
	require.True(t, x.lock.TryLock(), "left locked")
}

func (x *runtimeChaos) setUp(r *rand.Rand) {
	var err [8]error
	x.mesh, err[0] = veloq.NewMesh[mark](x.rt, veloq.MeshConfig{Capacity: 1 << r.IntN(5)})
	x.deaf, err[1] = veloq.NewMesh[mark](x.rt, veloq.MeshConfig{Capacity: 1})
	x.mute, err[7] = veloq.NewMesh[mark](x.rt, veloq.MeshConfig{Capacity: 1})
	x.order, err[2] = veloq.NewSharded(x.rt, func(*veloq.Context) (inOrder, error) { return inOrder{}, nil })
	x.sums, err[3] = veloq.NewSharded(x.rt, func(*veloq.Context) (int, error) { return 0, nil })
	x.pools, err[4] = veloq.NewSharded(x.rt, func(c *veloq.Context) (*veloq.Pool, error) {
		return veloq.BindPool(c, veloq.PoolConfig{Sizes: []int{64 << 10}, Limit: 256 << 10})
	})
	x.pipe, x.parcels = veloq.NewChan[mark](1+r.IntN(3)), veloq.NewChan[parcel](1)
	x.silent, x.full = veloq.NewChan[mark](1), veloq.NewChan[mark](1)
	err[5] = x.full.TrySend(mark{})
	err[6] = x.held.Lock(context.Background())
	require.NoError(x.t, errors.Join(err[:]...))
}

// await waits until no more than n tasks are left, in two looks: one may be handed from worker to worker.
func (x *runtimeChaos) await(n int) {
	looks := 0
	eventually(x.t, "all tasks end", func() (bool, any) {
		stats, load := x.rt.Stats(), 0
		for _, w := range stats {
			load += w.Load
		}
		if looks++; load > n {
			looks = 0
		}
		return looks == 2, stats
	})
}

// balance is what must hold once all has ended by itself.
func (x *runtimeChaos) balance() {
	t := x.t
	require.NoError(t, x.mesh.Drain(soon(t)))
	require.Empty(t, x.pipes.open)
	require.Empty(t, x.meshes.open)
	for w := range x.rt.Workers() {
		require.NoError(t, onWorker(t, x.rt, w, func(c *veloq.Context) error {
			x.added.Add(-int64(*x.sums.Local(c)))
			if st := (*x.pools.Local(c)).Stats(); st.InUse != 0 {
				return fmt.Errorf("worker %d: %+v", w, st)
			}
			return (*x.pools.Local(c)).Close()
		}))
	}
	eventually(t, "panics are told", func() (bool, any) { return x.detached.Load() == 0, x.detached.Load() })
	require.Zero(t, x.added.Load(), "calls of Sharded.Do")
	settled(t, x.rt, held{})
}

// late makes calls to a runtime that has ended.
func (x *runtimeChaos) late() {
	t := x.t
	_, err, ok := veloq.Spawn(x.rt, func(*veloq.Context) (int, error) { return 0, nil }).TryResult()
	require.True(t, ok)
	require.ErrorIs(t, err, veloq.ErrClosed)
	_, err, ok = veloq.SpawnBlocking(x.rt, func(context.Context) (int, error) { return 0, nil }).TryResult()
	require.True(t, ok)
	require.ErrorIs(t, err, veloq.ErrClosed)
	require.ErrorIs(t, veloq.Go(x.rt, func(*veloq.Context) {}), veloq.ErrClosed)
	_, err = veloq.NewMesh[int](x.rt, veloq.MeshConfig{})
	require.ErrorIs(t, err, veloq.ErrClosed)
}

func (x *runtimeChaos) panicked(pe *veloq.PanicError) {
	switch pe.Value.(type) {
	case chaosDetached:
		x.detached.Add(-1)
	case chaosPanic: // of a handle that nobody joined
	default:
		x.t.Errorf("panic: %v", pe)
	}
}

// explain fails the run for an error that nobody can have meant.
func (x *runtimeChaos) explain(what string, err error) {
	var pe *veloq.PanicError
	if errors.As(err, &pe) {
		if _, ok := pe.Value.(chaosPanic); ok {
			return
		}
	}
	for _, known := range []error{
		context.Canceled, os.ErrDeadlineExceeded, context.DeadlineExceeded, errChaos, veloq.ErrGoexit,
		veloq.ErrFull, veloq.ErrScopeEnded, veloq.ErrBusy,
	} {
		if errors.Is(err, known) {
			return
		}
	}
	if err == nil || x.closes && errors.Is(err, veloq.ErrClosed) {
		return
	}
	x.t.Errorf("seed %d: %s: %v", x.seed, what, err)
}

// ---- those who take what the actors send

func (x *runtimeChaos) check(order inOrder, m mark) {
	if last, ok := order[m.of]; ok && last >= m.seq {
		x.t.Errorf("seed %d: %v after %d", x.seed, m, last)
	}
	order[m.of] = m.seq
}

func (x *runtimeChaos) drainPipe() {
	order := inOrder{}
	for {
		m, err := x.pipe.Recv(context.Background())
		if err != nil {
			return
		}
		x.check(order, m)
		x.pipes.add(m, -1)
	}
}

func (x *runtimeChaos) drainParcels() {
	for {
		p, err := x.parcels.Recv(context.Background())
		if err != nil {
			return
		}
		x.open(p)
	}
}

func (x *runtimeChaos) open(p parcel) {
	b := p.buf.Bytes()
	if n := bytes.Count(b, []byte{p.want}); n != len(b) || b == nil && !x.closes {
		x.t.Errorf("seed %d: %d of %d bytes of a buffer are its own", x.seed, n, len(b))
	}
	p.buf.Release()
}

func (x *runtimeChaos) got(c *veloq.Context, m mark) {
	x.check(*x.order.Local(c), m)
	x.meshes.add(m, -1)
}

// receive takes the mesh's messages for a worker.
func (x *runtimeChaos) receive(c *veloq.Context, all bool) error {
	vs := make([]mark, 3)
	for {
		n, _, err := x.mesh.RecvBatch(c, vs)
		if err != nil {
			return err
		}
		for _, m := range vs[:n] {
			x.got(c, m)
		}
		if !all {
			return nil
		}
	}
}
