package tests

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/debugtag"
)

func TestPool_SizesAndLimit(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		p, err := veloq.BindPool(c, veloq.PoolConfig{Sizes: []int{64 << 10, 4 << 10}, Limit: 512 << 10})
		require.NoError(t, err)
		require.Zero(t, p.Stats().Bytes, "nothing is taken before it is asked for")
		var held []veloq.Buffer
		for _, want := range [][2]int{{0, 4 << 10}, {1, 4 << 10}, {4 << 10, 4 << 10}, {4<<10 + 1, 64 << 10}, {64 << 10, 64 << 10}} {
			b, err := p.Get(want[0])
			require.NoError(t, err)
			require.Equal(t, want[0], b.Len())
			require.Len(t, b.Bytes(), want[0])
			require.Equal(t, want[1], b.Cap())
			held = append(held, b)
		}
		_, err = p.Get(64<<10 + 1)
		require.ErrorIs(t, err, veloq.ErrTooLong)
		_, err = p.Get(-1)
		require.ErrorIs(t, err, veloq.ErrTooLong)
		require.Equal(t, 512<<10, p.Stats().Bytes)
		// Two slabs: 64 small ones and 4 large ones. The small ones' rest comes from the large ones.
		for range 64 - 3 + 4 - 2 {
			b, err := p.Get(100)
			require.NoError(t, err)
			held = append(held, b)
		}
		_, err = p.Get(100)
		require.ErrorIs(t, err, veloq.ErrFull)
		require.Equal(t, len(held), p.Stats().InUse)
		seen := map[*byte]bool{}
		for i, b := range held {
			b = b.Resize(b.Cap())
			require.False(t, seen[&b.Bytes()[0]], "handed out twice")
			seen[&b.Bytes()[0]] = true
			for j := range b.Bytes() {
				b.Bytes()[j] = byte(i)
			}
		}
		for i, b := range held {
			b = b.Resize(b.Cap())
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, b.Cap()), b.Bytes(), "buffers overlap")
			b.Release()
			require.Nil(t, b.Bytes())
		}
		require.Zero(t, p.Stats().InUse)
		_, err = p.Get(100)
		require.NoError(t, err)
		require.Equal(t, 512<<10, p.Stats().Bytes)
		return nil
	}))
}

func TestPool_WrongConfig(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 1})
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		for _, config := range []veloq.PoolConfig{
			{Sizes: []int{0}}, {Sizes: []int{100}}, {Sizes: []int{32 << 20}}, {Sizes: []int{-64}}, {Limit: -1},
		} {
			_, err := veloq.BindPool(c, config)
			require.ErrorContains(t, err, "PoolConfig")
		}
		return nil
	}))
	_, err := veloq.BindPool(keptContext(t, rt), veloq.PoolConfig{})
	require.ErrorIs(t, err, veloq.ErrWrongWorker)
}

// Goal: a pool answers its own worker only; its buffers come back from wherever they are released, also
// when the pool is closed by then; nothing is left of it.
func TestPool_ComesBackFromElsewhere(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	var pool *veloq.Pool
	bufs := make(chan veloq.Buffer, 1000)
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		p, err := veloq.BindPool(c, veloq.PoolConfig{Sizes: []int{1024}, Limit: 1 << 20})
		require.NoError(t, err)
		pool = p
		for range cap(bufs) {
			b, err := p.Get(1000)
			require.NoError(t, err)
			bufs <- b
		}
		return nil
	}))
	if debugtag.Enabled {
		require.Panics(t, func() { _, _ = pool.Get(1) })
	} else {
		_, err := pool.Get(1)
		require.ErrorIs(t, err, veloq.ErrWrongWorker)
	}
	require.ErrorIs(t, pool.Close(), veloq.ErrWrongWorker)
	require.Zero(t, pool.Stats())
	release := func(n int) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range n / 4 {
					(<-bufs).Release()
				}
			}()
		}
		wg.Wait()
	}
	release(400)
	require.NoError(t, onWorker(t, rt, 1, func(*veloq.Context) error {
		(<-bufs).Release()
		return nil
	}))
	require.NoError(t, onWorker(t, rt, 0, func(*veloq.Context) error {
		require.Equal(t, 599, pool.Stats().InUse)
		require.NoError(t, pool.Close())
		require.NoError(t, pool.Close())
		_, err := pool.Get(1)
		require.ErrorIs(t, err, veloq.ErrPoolClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotZero(t, pool.Stats().Bytes, "599 are out")
		return nil
	}))
	kept := <-bufs
	kept.Bytes()[0] = 1
	release(596)
	(<-bufs).Release()
	(<-bufs).Release()
	require.Equal(t, byte(1), kept.Bytes()[0])
	require.NotZero(t, rt.Stats()[0].PoolBytes)
	kept.Release()
	eventually(t, "memory freed", func() (bool, any) {
		st := rt.Stats()[0]
		return st.PoolBytes == 0 && st.PoolInUse == 0, st.PoolBytes
	})
}

func TestPool_RuntimeEnds(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 1})
	var pool *veloq.Pool
	var buf veloq.Buffer
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) (err error) {
		if pool, err = veloq.BindPool(c, veloq.PoolConfig{}); err == nil {
			buf, err = pool.Get(10)
		}
		return err
	}))
	require.NoError(t, rt.Close())
	require.Nil(t, buf.Bytes())
	buf.Release()
	_, err := pool.Get(1)
	require.ErrorIs(t, err, veloq.ErrClosed)
}

// Buffers of a pool are sent like any bytes, copied or where they lie.
func TestPool_BuffersAreSent(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 1})
	s := startEcho(t, rt, veloq.ListenConfig{}, "task")
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		p, err := veloq.BindPool(c, veloq.PoolConfig{HugePages: true})
		require.NoError(t, err)
		conn, err := c.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		for _, size := range []int{1000, 200_000} {
			b, err := p.Get(size)
			require.NoError(t, err)
			require.NoError(t, newPattern(size).fill(b.Bytes()))
			reader := veloq.SpawnLocal(c, func(*veloq.Context) ([]byte, error) {
				got := make([]byte, size)
				_, err := io.ReadFull(conn, got)
				return got, err
			})
			_, err = conn.Write(b.Bytes())
			require.NoError(t, err)
			got, err := reader.Join(c)
			require.NoError(t, err)
			require.True(t, bytes.Equal(b.Bytes(), got))
			b.Release()
		}
		t.Logf("pages: %s", p.Stats().Pages)
		require.Contains(t, []string{"plain", "advised", "huge"}, p.Stats().Pages)
		return nil
	}))
}

// fill writes the pattern's next bytes.
func (p *pattern) fill(b []byte) error {
	copy(b, p.next(len(b)))
	return nil
}

// Goal: under veloq_debug each mistake is named with the call that it goes back to; else it is harmless.
func TestPool_Misuse(t *testing.T) {
	lost := make(chan error, 1)
	out := 0 // buffers, when one has been lost
	rt := newRuntime(t, veloq.Config{Workers: 1, OnMisuse: func(e *veloq.MisuseError) { lost <- e }})
	mistake := func(fn func()) (err error) {
		defer func() { err, _ = recover().(error) }()
		fn()
		return nil
	}
	require.NoError(t, onWorker(t, rt, 0, func(c *veloq.Context) error {
		p, err := veloq.BindPool(c, veloq.PoolConfig{Sizes: []int{256}, Limit: 256 << 10})
		require.NoError(t, err)
		b, err := p.Get(100)
		require.NoError(t, err)
		late := b.Bytes()
		b.Release()
		err = mistake(b.Release)
		require.Equal(t, 0, p.Stats().InUse)
		if !debugtag.Enabled {
			require.NoError(t, err)
			return nil
		}
		require.ErrorContains(t, err, "released twice")
		require.ErrorContains(t, err, "TestPool_Misuse")
		require.Equal(t, bytes.Repeat([]byte{0xdb}, 100), late, "poisoned")
		late[7] = 1
		err = mistake(func() { _, _ = p.Get(1) })
		require.ErrorContains(t, err, "written to at byte 7")
		require.ErrorContains(t, err, "TestPool_Misuse")
		loseOne(t, p)
		out = p.Stats().InUse
		return nil
	}))
	if !debugtag.Enabled {
		return
	}
	eventually(t, "lost buffer reported", func() (bool, any) {
		runtime.GC()
		select {
		case err := <-lost:
			require.ErrorContains(t, err, "lost without a Release")
			require.ErrorContains(t, err, "loseOne")
			require.EqualValues(t, 1, rt.Stats()[0].PoolLost)
			require.Equal(t, out, rt.Stats()[0].PoolInUse, "its bytes may still be in use")
			return true, nil
		default:
			return false, nil
		}
	})
}

//go:noinline
func loseOne(t *testing.T, p *veloq.Pool) {
	b, err := p.Get(50)
	require.NoError(t, err)
	require.NotNil(t, b.Bytes())
}
