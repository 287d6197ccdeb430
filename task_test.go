package veloq

import (
	"runtime"
	"testing"

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
