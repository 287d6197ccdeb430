package veloq

// The mesh beside Go's channels and beside the plainest ring in Go, all between two workers' threads
// or two goroutines, with as many places.

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/veloq/veloq/internal/core"
)

const benchCapacity = 1024

// ring is a single-producer, single-consumer ring of Go memory, whose ends spin when they can't go on.
type ring struct {
	_          [64]byte
	tail       atomic.Uint64
	cachedHead uint64
	_          [48]byte
	head       atomic.Uint64
	cachedTail uint64
	_          [48]byte
	values     [benchCapacity]uint64
}

func (r *ring) push(vs []uint64) {
	for len(vs) > 0 {
		tail := r.tail.Load()
		for tail-r.cachedHead == benchCapacity {
			if r.cachedHead = r.head.Load(); tail-r.cachedHead == benchCapacity {
				runtime.Gosched()
			}
		}
		n := min(len(vs), int(benchCapacity-(tail-r.cachedHead)))
		for i, v := range vs[:n] {
			r.values[(tail+uint64(i))%benchCapacity] = v
		}
		r.tail.Store(tail + uint64(n))
		vs = vs[n:]
	}
}

func (r *ring) pop(vs []uint64) int {
	head := r.head.Load()
	for r.cachedTail == head {
		if r.cachedTail = r.tail.Load(); r.cachedTail == head {
			runtime.Gosched()
		}
	}
	n := min(len(vs), int(r.cachedTail-head))
	for i := range n {
		vs[i] = r.values[(head+uint64(i))%benchCapacity]
	}
	r.head.Store(head + uint64(n))
	return n
}

func benchRing(b *testing.B, batch int) {
	r := &ring{}
	var wg sync.WaitGroup
	wg.Add(1)
	b.ResetTimer()
	go func() {
		defer wg.Done()
		out := make([]uint64, batch)
		for got := 0; got < b.N; {
			got += r.pop(out)
		}
	}()
	vs := make([]uint64, batch)
	for sent := 0; sent < b.N; sent += batch {
		r.push(vs[:min(batch, b.N-sent)])
	}
	wg.Wait()
}

func BenchmarkMesh_GoRing(b *testing.B)   { benchRing(b, 1) }
func BenchmarkMesh_GoRing64(b *testing.B) { benchRing(b, 64) }

func BenchmarkMesh_GoChannel(b *testing.B) {
	ch := make(chan uint64, benchCapacity)
	done := make(chan struct{})
	b.ResetTimer()
	go func() {
		defer close(done)
		for range b.N {
			<-ch
		}
	}()
	for i := range b.N {
		ch <- uint64(i)
	}
	<-done
}

// benchMesh sends b.N messages from worker 0 to worker 1.
func benchMesh(b *testing.B, send, recv func(b *testing.B, c *Context, m *Mesh[uint64]) error) {
	if !core.Available {
		b.Skip("no C core in this build")
	}
	rt, err := New(Config{Workers: 2})
	if err != nil {
		b.Fatal(err)
	}
	defer rt.Close()
	m, err := NewMesh[uint64](rt, MeshConfig{Capacity: benchCapacity})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	ends := []*JoinHandle[struct{}]{
		SpawnTo(rt, 0, func(c *Context) (struct{}, error) { return struct{}{}, send(b, c, m) }),
		SpawnTo(rt, 1, func(c *Context) (struct{}, error) { return struct{}{}, recv(b, c, m) }),
	}
	for _, end := range ends {
		if _, err := end.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func sendOnes(b *testing.B, c *Context, m *Mesh[uint64]) error {
	for i := range b.N {
		if err := m.Send(c, 1, uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

func recvOnes(b *testing.B, c *Context, m *Mesh[uint64]) error {
	for range b.N {
		if _, _, err := m.Recv(c); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkMesh_SendRecv(b *testing.B) { benchMesh(b, sendOnes, recvOnes) }

func BenchmarkMesh_SendRecv64(b *testing.B) {
	benchMesh(b, func(b *testing.B, c *Context, m *Mesh[uint64]) error {
		var vs [64]uint64
		for sent := 0; sent < b.N; sent += len(vs) {
			if _, err := m.SendBatch(c, 1, vs[:min(len(vs), b.N-sent)]); err != nil {
				return err
			}
		}
		return nil
	}, func(b *testing.B, c *Context, m *Mesh[uint64]) error {
		var vs [64]uint64
		for got := 0; got < b.N; {
			n, _, err := m.RecvBatch(c, vs[:])
			if err != nil {
				return err
			}
			got += n
		}
		return nil
	})
}

func BenchmarkMesh_SendOnMessage(b *testing.B) {
	var got int
	var waiting *task
	benchMesh(b, func(b *testing.B, c *Context, m *Mesh[uint64]) error {
		return sendOnes(b, c, m)
	}, func(b *testing.B, c *Context, m *Mesh[uint64]) error {
		got = 0
		m.OnMessage(func(c *Context, _ int, _ uint64) {
			if got++; got == b.N {
				c.w.wake(waiting)
			}
		})
		waiting, _ = c.task()
		for got < b.N {
			waiting.park()
		}
		return nil
	})
}
