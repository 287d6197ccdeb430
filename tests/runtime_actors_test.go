package tests

// The actors of TestRuntime_Chaos: what a random program may do, on goroutines and in tasks.

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/veloq/veloq"
)

type actor struct {
	x       *runtimeChaos
	r       *rand.Rand
	id, seq uint32
	order   inOrder
}

func (x *runtimeChaos) actor() *actor {
	id := x.ids.Add(1)
	return &actor{x: x, r: rand.New(rand.NewPCG(x.seed, uint64(id))), id: id, order: inOrder{}}
}

func (a *actor) next() mark {
	a.seq++
	return mark{a.id, a.seq}
}

func (a *actor) micros(n int) time.Duration { return time.Duration(a.r.IntN(n)) * time.Microsecond }

// outside is a goroutine's program.
func (a *actor) outside() {
	x := a.x
	for range 4 + a.r.IntN(12) {
		ctx, cancel := context.WithTimeout(context.Background(), a.micros(3000))
		switch a.r.IntN(8) {
		case 0:
			x.explain("lock", a.exclude(ctx, runtime.Gosched))
		case 1:
			x.explain("channels", a.channels(ctx))
		case 2:
			a.duel(x.rt, func(h *veloq.JoinHandle[uint32]) error { _, err := h.Wait(context.Background()); return err })
		case 3:
			a.blocking(x.rt, func(h *veloq.JoinHandle[uint32]) error { _, err := h.Wait(context.Background()); return err })
		case 4: // ended by its context
			h := a.hang(veloq.WithContext(ctx, x.rt))
			_, err := h.Wait(context.Background())
			x.explain("hang to the end of a context", err)
		default:
			h := a.spawn(x.rt, a.r.IntN(4))
			if a.r.IntN(4) == 0 {
				cancel()
				if _, err := h.Wait(ctx); !errors.Is(err, context.Canceled) {
					x.explain("Wait", err)
				}
			}
			if a.r.IntN(3) == 0 {
				h.Cancel()
			}
			v, err := h.Wait(context.Background())
			x.result(h, v, err)
			if _, again, ok := h.TryResult(); !ok || !errors.Is(again, err) && again != err {
				x.t.Errorf("seed %d: %v, then %v %v", x.seed, err, again, ok)
			}
		}
		cancel()
	}
}

// spawn starts a task whose result is its own id.
func (a *actor) spawn(s veloq.Spawner, depth int) *veloq.JoinHandle[uint32] {
	child := a.x.actor()
	fn := func(c *veloq.Context) (uint32, error) {
		return child.id, child.steps(c, depth)
	}
	var h *veloq.JoinHandle[uint32]
	switch a.r.IntN(3) {
	case 0:
		h = veloq.Spawn(s, fn)
	case 1:
		h = veloq.SpawnTo(s, a.r.IntN(a.x.rt.Workers()), fn)
	default:
		h = veloq.SpawnBalanced(s, fn)
	}
	a.x.results.Store(h, child.id)
	return h
}

// result checks what came of a task that spawn started.
func (x *runtimeChaos) result(h *veloq.JoinHandle[uint32], v uint32, err error) {
	if want, ok := x.results.Load(h); ok && err == nil && v != want {
		x.t.Errorf("seed %d: the result of task %d is %d", x.seed, want, v)
	}
	x.explain("task", err)
}

func (a *actor) steps(c *veloq.Context, depth int) error {
	for range 1 + a.r.IntN(12) {
		if err := a.step(c, depth); err != nil {
			a.x.explain("step", err)
			if c.Err() != nil || a.r.IntN(2) == 0 {
				return err
			}
		}
	}
	return nil
}

// within is c, or what is derived from it.
func (a *actor) within(c *veloq.Context) (context.Context, context.CancelFunc) {
	switch a.r.IntN(3) {
	case 0:
		return context.WithTimeout(c, a.micros(3000))
	case 1:
		return context.WithCancel(c)
	}
	return c, func() {}
}

func (a *actor) step(c *veloq.Context, depth int) error {
	x := a.x
	if depth > 0 && a.r.IntN(3) > 0 {
		return a.nest(c, depth-1)
	}
	ctx, cancel := a.within(c)
	defer cancel()
	switch a.r.IntN(14) {
	case 0:
		d, began := a.micros(3000), time.Now()
		if err := c.Sleep(d); err != nil || time.Since(began) >= d {
			return err
		}
		x.t.Errorf("seed %d: slept less than %v", x.seed, d)
		return nil
	case 1:
		return c.Yield()
	case 2, 3:
		return a.exclude(ctx, func() { _ = c.Sleep(a.micros(2) * 300) })
	case 4, 5:
		return a.channels(ctx)
	case 6, 7, 8:
		return a.messages(c)
	case 9:
		return x.sums.Do(c, a.r.IntN(x.rt.Workers()), func(_ *veloq.Context, n *int) error { *n++; x.added.Add(1); return nil })
	case 10:
		return a.parcel(c)
	case 11:
		return a.ticks(c)
	case 12:
		a.blocking(c, func(h *veloq.JoinHandle[uint32]) error { return a.join(c, h) })
		return nil
	}
	switch a.r.IntN(6) {
	case 0:
		panic(chaosPanic{a.id})
	case 1:
		runtime.Goexit()
	}
	return errChaos
}

// nest does something of which tasks are a part.
func (a *actor) nest(c *veloq.Context, depth int) error {
	x := a.x
	switch a.r.IntN(8) {
	case 0:
		return a.scope(c, depth)
	case 1:
		return a.timeout(c, depth)
	case 2:
		h := a.spawn(c, depth)
		if a.r.IntN(3) == 0 {
			h.Cancel()
		}
		return a.join(c, h)
	case 3:
		h := veloq.SpawnLocal(c, func(c *veloq.Context) (int, error) { return depth, a.x.actor().steps(c, depth) })
		if a.r.IntN(3) == 0 {
			h.Cancel()
		}
		v, err := h.Join(c)
		if err == nil && v != depth {
			x.t.Errorf("seed %d: a local task's result is %d", x.seed, v)
		}
		return err
	case 4:
		a.duel(c, func(h *veloq.JoinHandle[uint32]) error { return a.join(c, h) })
		return nil
	case 5:
		h := a.hang(c)
		_ = c.Sleep(a.micros(2) * 500)
		h.Cancel()
		return a.join(c, h)
	case 7: // enough to be stolen
		var hs []*veloq.JoinHandle[uint32]
		for range 2 + a.r.IntN(30) {
			hs = append(hs, a.spawn(c, 0))
		}
		for i, h := range hs {
			if i%3 == 0 {
				h.Cancel()
			}
		}
		var err error
		for _, h := range hs {
			err = errors.Join(err, a.join(c, h))
		}
		return err
	case 6:
		x.detached.Add(1)
		err := veloq.Go(c, func(*veloq.Context) { panic(chaosDetached{}) })
		if err != nil {
			x.detached.Add(-1)
		}
		return err
	}
	return nil
}

// join waits for a handle in one of the ways there are.
func (a *actor) join(c *veloq.Context, h *veloq.JoinHandle[uint32]) (err error) {
	var v uint32
	switch a.r.IntN(4) {
	case 0:
		v, err = h.Join(c)
	case 1:
		ctx, cancel := a.within(c)
		defer cancel()
		v, err = h.Wait(ctx)
	case 2:
		if _, err = veloq.Select(c, h, c.After(time.Hour)); err == nil {
			var ok bool
			if v, err, ok = h.TryResult(); !ok {
				a.x.t.Errorf("seed %d: selected, and no result", a.x.seed)
			}
		}
	default: // by a goroutine, which tells
		var told veloq.Oneshot[func() (uint32, error)]
		go func() {
			v, err := h.Wait(c)
			_ = told.Send(func() (uint32, error) { return v, err })
		}()
		var say func() (uint32, error)
		if say, err = told.Recv(c); err == nil {
			v, err = say()
		}
	}
	a.x.result(h, v, err)
	return err
}

func (a *actor) exclude(ctx context.Context, inside func()) error {
	g := &a.x.lock
	var err error
	switch a.r.IntN(3) {
	case 0:
		err = g.Lock(ctx)
	case 1:
		_, err = veloq.Select(ctx, &a.x.quiet, g, a.x.silent.RecvCase(new(mark)))
	default:
		if !g.TryLock() {
			err = g.Lock(ctx)
		}
	}
	if err != nil {
		return err
	}
	defer g.Unlock()
	if g.inside.Add(1) != 1 {
		a.x.t.Errorf("seed %d: two hold the lock", a.x.seed)
	}
	defer g.inside.Add(-1)
	g.count++
	g.locked.Add(1)
	inside()
	return nil
}

// channels sends or receives on the pipe, which always moves.
func (a *actor) channels(ctx context.Context) (err error) {
	x, m, into := a.x, a.next(), mark{}
	index := 0
	switch a.r.IntN(5) {
	case 0:
		err = x.pipe.Send(ctx, m)
	case 1:
		err = x.pipe.TrySend(m)
	case 2:
		index, err = veloq.Select(ctx, x.pipe.SendCase(m), x.pipe.RecvCase(&into), &x.quiet)
	case 3:
		index, err = veloq.SelectBiased(ctx, x.pipe.RecvCase(&into), x.silent.RecvCase(&mark{}), x.pipe.SendCase(m))
		if index == 0 || index == 2 {
			index = map[int]int{0: 1, 2: 0}[index]
		}
	default:
		index = 1
		bound, cancel := context.WithTimeout(ctx, a.micros(2000))
		defer cancel()
		into, err = x.pipe.Recv(bound)
	}
	switch {
	case err != nil:
	case index == 0:
		x.pipes.add(m, 1)
	case index == 1:
		x.check(a.order, into)
		x.pipes.add(into, -1)
	default:
		x.t.Errorf("seed %d: case %d of a Select", x.seed, index)
	}
	return err
}

func (a *actor) messages(c *veloq.Context) (err error) {
	x, to := a.x, a.r.IntN(a.x.rt.Workers())
	switch a.r.IntN(5) {
	case 0:
		return veloq.Timeout(c, a.micros(2000), func(*veloq.Context) error { return x.receive(c, false) })
	case 1:
		m := a.next()
		if err = x.mesh.TrySend(c, to, m); err == nil {
			x.meshes.add(m, 1)
		}
	case 2:
		vs := make([]mark, 1+a.r.IntN(40))
		for i := range vs {
			vs[i] = a.next()
		}
		n := 0
		n, err = x.mesh.SendBatch(c, to, vs)
		for _, m := range vs[:n] {
			x.meshes.add(m, 1)
		}
	case 3:
		m, n := a.next(), 0
		n, err = x.mesh.Broadcast(c, m)
		x.meshes.add(m, n)
	default:
		m := a.next()
		if err = x.mesh.Send(c, to, m); err == nil {
			x.meshes.add(m, 1)
		}
	}
	return err
}

func (a *actor) parcel(c *veloq.Context) error {
	buf, err := (*a.x.pools.Local(c)).Get(1 + a.r.IntN(4000))
	if err != nil {
		return err
	}
	p := parcel{buf, byte(a.r.IntN(256))}
	for i := range buf.Bytes() {
		buf.Bytes()[i] = p.want
	}
	if err = a.x.parcels.Send(c, p); err != nil {
		buf.Release()
	} else if p, e := a.x.parcels.TryRecv(); e == nil {
		a.x.open(p)
	}
	return err
}

func (a *actor) ticks(c *veloq.Context) error {
	if a.r.IntN(3) == 0 {
		return a.after(c)
	}
	period, began := time.Millisecond+a.micros(1000), time.Now()
	tk := c.NewTicker(period, veloq.MissedTicks(a.r.IntN(3)))
	for n := range 1 + a.r.IntN(3) {
		var err error
		if a.r.IntN(2) == 0 {
			err = tk.Wait(c)
		} else {
			_, err = veloq.Select(c, tk, &a.x.quiet, c.After(time.Hour))
		}
		if err != nil {
			return err
		}
		if time.Since(began) < time.Duration(n+1)*period {
			a.x.t.Errorf("seed %d: tick %d came early", a.x.seed, n)
		}
	}
	return nil
}

// after has the worker call back.
func (a *actor) after(c *veloq.Context) error {
	d, began := a.micros(3000), time.Now()
	var told veloq.Oneshot[int]
	tm, err := c.AfterFunc(d, func(*veloq.Context) { _ = told.Send(1) })
	if err != nil {
		return err
	}
	defer tm.Stop()
	if a.r.IntN(2) == 0 {
		_ = c.Sleep(a.micros(3000))
		if began = time.Now(); !tm.Reset(d) {
			return nil // it was called
		}
	}
	if _, err = told.Recv(c); err == nil && time.Since(began) < d {
		a.x.t.Errorf("seed %d: called early", a.x.seed)
	}
	return err
}

func (a *actor) timeout(c *veloq.Context, depth int) error {
	d, began := a.micros(3000), time.Now()
	hangs := a.r.IntN(2) == 0
	err := veloq.Timeout(c, d, func(in *veloq.Context) error {
		if hangs {
			return a.hangs([]*veloq.Context{c, in}[a.r.IntN(2)])
		}
		return a.steps(in, depth)
	})
	var te *veloq.TimeoutError
	if errors.As(err, &te) && te.After == d && time.Since(began) < d {
		a.x.t.Errorf("seed %d: timed out early", a.x.seed)
	}
	return err
}

func (a *actor) scope(c *veloq.Context, depth int) error {
	var live atomic.Int64
	err := veloq.Scope(c, func(s *veloq.TaskScope) error {
		for range 1 + a.r.IntN(4) {
			child := a.x.actor()
			fn := func(c *veloq.Context) (uint32, error) {
				live.Add(1)
				defer live.Add(-1)
				if child.r.IntN(4) == 0 {
					return 0, child.hangs(c)
				}
				return child.id, child.steps(c, depth)
			}
			switch a.r.IntN(6) {
			case 0:
				_ = s.Go(func(c *veloq.Context) error { _, err := fn(c); return err })
			case 1:
				veloq.SpawnLocal(s, fn)
			case 2:
				veloq.SpawnBlocking(s, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
			case 3:
				veloq.SpawnTo(s, a.r.IntN(a.x.rt.Workers()), fn).Cancel()
			default:
				veloq.SpawnTo(s, a.r.IntN(a.x.rt.Workers()), fn)
			}
		}
		switch a.r.IntN(6) {
		case 4:
			panic(chaosPanic{a.id})
		case 5:
			runtime.Goexit()
		case 0:
			_ = c.Sleep(a.micros(1000))
			return errChaos
		case 1:
			_ = c.Sleep(a.micros(1000))
			return s.Cancel()
		case 2:
			return veloq.Timeout(c, a.micros(3000), func(*veloq.Context) error { return errors.Join(s.Wait(), errChaos) })
		}
		// Some children wait for ever, and may fill the blocking pool.
		return errors.Join(errChaos, veloq.Timeout(c, a.micros(3000), func(c *veloq.Context) error { return a.steps(c, depth-1) }))
	})
	if n := live.Load(); n != 0 && !a.x.closes {
		a.x.t.Errorf("seed %d: %d children outlive their scope", a.x.seed, n)
	}
	return err
}

// blocking makes a call in the blocking pool, and ends it.
func (a *actor) blocking(s veloq.Spawner, join func(*veloq.JoinHandle[uint32]) error) {
	ends, d, end := a.r.IntN(4), a.micros(500), make(chan struct{})
	h := veloq.SpawnBlocking(s, func(ctx context.Context) (uint32, error) {
		switch ends {
		case 0:
			panic(chaosPanic{a.id})
		case 1:
			runtime.Goexit()
		case 2:
			<-ctx.Done()
			return 0, ctx.Err()
		}
		time.Sleep(d)
		return a.id, nil
	})
	if ends == 2 || a.r.IntN(3) == 0 {
		go func() {
			defer close(end)
			h.Cancel()
		}()
	}
	a.x.explain("blocking call", join(h))
}

// duel has a waiter satisfied, in one way or more, and cancelled at the same moment: it gets one of what
// it waited for, or none, and the rest is still there.
func (a *actor) duel(s veloq.Spawner, join func(*veloq.JoinHandle[uint32]) error) {
	x, ch, note, lock := a.x, veloq.NewChan[uint32](1), &veloq.Notify{}, &veloq.Mutex{}
	lock.TryLock()
	given := 1 + a.r.Uint32N(7) // bits
	how, delay := a.r.IntN(3), a.r.IntN(200)
	h := veloq.SpawnTo(s, a.r.IntN(x.rt.Workers()), func(c *veloq.Context) (took uint32, err error) {
		i, cases := 0, []veloq.Case{ch.RecvCase(new(uint32)), note, lock, &x.quiet, x.silent.RecvCase(new(mark))}
		switch {
		case how == 0:
			i, err = veloq.Select(c, cases...)
		case how == 1:
			i, err = veloq.SelectBiased(c, cases...)
		case given&1 != 0:
			_, err = ch.Recv(c)
		case given&2 != 0:
			i, err = 1, note.Wait(c)
		default:
			i, err = 2, lock.Lock(c)
		}
		return 1 << max(i, 0), err
	})
	for range delay {
		runtime.Gosched()
	}
	var both sync.WaitGroup
	both.Go(h.Cancel)
	if given&1 != 0 {
		_ = ch.TrySend(7)
	}
	if given&2 != 0 {
		note.Notify()
	}
	if given&4 != 0 {
		lock.Unlock()
	}
	both.Wait()
	joined := join(h)
	took, err, ended := h.TryResult()
	if !ended {
		return // the caller was cancelled
	}
	x.explain("duel", errors.Join(joined, err))
	if err != nil {
		took = 0
	}
	left := uint32(0)
	for {
		i, _ := veloq.TrySelect(ch.RecvCase(new(uint32)), note, lock)
		if i < 0 {
			break
		}
		left |= 1 << i
	}
	if took&left != 0 || took|left != given {
		x.t.Errorf("seed %d: of %b the waiter has %b (%v), and %b is left", x.seed, given, took, err, left)
	}
}

// hang starts a task that waits for ever.
func (a *actor) hang(s veloq.Spawner) *veloq.JoinHandle[uint32] {
	child := a.x.actor()
	return veloq.SpawnTo(s, a.r.IntN(a.x.rt.Workers()), func(c *veloq.Context) (uint32, error) { return 0, child.hangs(c) })
}

// hangs waits for ever.
func (a *actor) hangs(c *veloq.Context) (err error) {
	x := a.x
	ctx, cancel := context.WithCancel(c)
	defer cancel()
	if a.r.IntN(2) == 0 {
		ctx = c
	}
	kind := a.r.IntN(16)
	switch kind {
	case 0:
		err = c.Sleep(time.Hour)
	case 1:
		_, err = x.silent.Recv(ctx)
	case 2:
		err = x.full.Send(ctx, mark{})
	case 3:
		err = x.held.Lock(ctx)
	case 4:
		err = x.quiet.Wait(ctx)
	case 5:
		_, err = x.empty.Recv(ctx)
	case 6:
		_, err = veloq.Select(ctx, &x.held, &x.quiet, &x.empty, x.silent.RecvCase(new(mark)), x.full.SendCase(mark{}), c.After(time.Hour))
	case 7:
		err = c.NewTicker(time.Hour, veloq.TicksBurst).Wait(c)
	case 8:
		_, _, err = x.mute.Recv(c)
	case 9:
		to := a.r.IntN(x.rt.Workers())
		for err == nil {
			err = x.deaf.Send(c, to, mark{})
		}
	case 10:
		h := a.hang(c)
		defer h.Cancel()
		_, err = h.Join(c)
	case 11:
		h := veloq.SpawnLocal(c, func(c *veloq.Context) (int, error) { return 0, a.hangs(c) })
		defer h.Cancel()
		_, err = h.Join(c)
	case 12:
		for err == nil {
			err = c.Yield()
		}
	case 13:
		err = veloq.Timeout(c, time.Hour, func(in *veloq.Context) error { return a.hangs([]*veloq.Context{c, in}[a.r.IntN(2)]) })
	case 14:
		err = veloq.Scope(c, func(s *veloq.TaskScope) error {
			h := a.hang(s)
			if err := s.Wait(); err != nil {
				return err
			}
			_, err, _ := h.TryResult() // why it could not begin
			return err
		})
	default:
		h := veloq.SpawnBlocking(c, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		defer h.Cancel()
		_, err = h.Join(c)
	}
	if err == nil {
		x.t.Errorf("seed %d: what waits for ever came back: %d, %v", x.seed, kind, c.Err())
	}
	return err
}
