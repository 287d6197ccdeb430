package tests

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// sayWorker answers each connection with the number of its worker, and holds it.
func sayWorker(c *veloq.Context, s *veloq.Stream) error {
	if _, err := s.WriteString(strconv.Itoa(c.Worker()) + "\n"); err != nil {
		return err
	}
	_, err := s.Read(make([]byte, 1))
	return err
}

// placedOn opens n connections one after another and returns the worker of each.
func placedOn(t *testing.T, addr net.Addr, n int) []int {
	t.Helper()
	workers := make([]int, n)
	for i := range workers {
		line, err := bufio.NewReader(dial(t, addr)).ReadString('\n')
		require.NoError(t, err)
		workers[i], err = strconv.Atoi(strings.TrimSpace(line))
		require.NoError(t, err)
	}
	return workers
}

type fixed int

func (f fixed) Choose(*veloq.Accepted) int { return int(f) }

func TestServer_Balancers(t *testing.T) {
	const workers = 4
	rt := newRuntime(t, veloq.Config{Workers: workers})
	start := func(b veloq.Balancer) *veloq.Server {
		return startTasks(t, rt, veloq.ListenConfig{Balancer: b}, sayWorker)
	}
	count := func(on []int) (counts [workers]int) {
		for _, w := range on {
			counts[w]++
		}
		return counts
	}
	t.Run("in turn", func(t *testing.T) {
		require.Equal(t, []int{0, 1, 2, 3, 0, 1, 2, 3}, placedOn(t, start(veloq.RoundRobin()).Addr(), 8))
	})
	t.Run("by source", func(t *testing.T) {
		on := placedOn(t, start(veloq.SourceHash()).Addr(), 8)
		for _, w := range on {
			require.Equal(t, on[0], w, "one client, one worker")
		}
	})
	t.Run("fewest connections", func(t *testing.T) {
		require.Equal(t, [workers]int{5, 5, 5, 5}, count(placedOn(t, start(veloq.LeastConnections()).Addr(), 20)))
	})
	t.Run("two choices", func(t *testing.T) {
		for w, n := range count(placedOn(t, start(veloq.PowerOfTwo()).Addr(), 100)) {
			require.InDelta(t, 25, n, 12.5, "worker %d", w)
		}
	})
	t.Run("one of its own", func(t *testing.T) {
		require.Equal(t, []int{3, 3, 3}, placedOn(t, start(fixed(3)).Addr(), 3))
		require.Equal(t, []int{0, 0}, placedOn(t, start(fixed(workers)).Addr(), 2), "no such worker")
	})
}

// Goal: what a connection held of a balancer's count is given back when it ends.
func TestServer_BalancerForgetsClosed(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 2})
	s := startTasks(t, rt, veloq.ListenConfig{Balancer: veloq.LeastConnections()}, sayWorker)
	for range 5 {
		a, b := dial(t, s.Addr()), dial(t, s.Addr())
		var first, second int
		_, err := fmt.Fscan(a, &first)
		require.NoError(t, err)
		_, err = fmt.Fscan(b, &second)
		require.NoError(t, err)
		require.NotEqual(t, first, second)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		eventually(t, "connections gone", func() (bool, any) { return s.Conns() == 0, s.Conns() })
	}
}

func TestSpawn_BalancedAndLocal(t *testing.T) {
	const workers = 4
	rt := newRuntime(t, veloq.Config{Workers: workers})
	require.NoError(t, onWorker(t, rt, 2, func(c *veloq.Context) error {
		for range 100 {
			w, err := veloq.SpawnLocal(c, func(c *veloq.Context) (int, error) { return c.Worker(), nil }).Join(c)
			require.NoError(t, err)
			require.Equal(t, 2, w)
		}
		// Tasks that stay: each worker gets about a quarter.
		held := make([]*veloq.JoinHandle[int], 400)
		var begun [workers]atomic.Int64
		for i := range held {
			held[i] = veloq.SpawnBalanced(c, func(c *veloq.Context) (int, error) {
				begun[c.Worker()].Add(1)
				for c.Err() == nil {
					_ = c.Sleep(patience)
				}
				return 0, nil
			})
		}
		for sum := int64(0); sum < int64(len(held)); {
			require.NoError(t, c.Sleep(time.Millisecond))
			sum = 0
			for i := range begun {
				sum += begun[i].Load()
			}
		}
		for w := range begun {
			require.Less(t, begun[w].Load(), int64(150), "worker %d, mean 100", w)
		}
		for _, h := range held {
			h.Cancel()
		}
		for _, h := range held {
			if _, err := h.Join(c); err != nil {
				return err
			}
		}
		return nil
	}))
}
