package tests

// What workers owe to their connections and tasks, whatever else the process does.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// beside runs fn while that many goroutines do work over and over.
func beside(n int, work func(), fn func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for !stop.Load() {
				work()
			}
		})
	}
	defer wg.Wait()
	defer stop.Store(true)
	fn()
}

// Goal: a worker has its completions also while goroutines that never pause hold every processor.
func TestRuntime_ServesWhileProcessorsAreBusy(t *testing.T) {
	noLeak(t)
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{Workers: 1})
			conn := dial(t, startEcho(t, rt, veloq.ListenConfig{}, door).Addr())
			var sink atomic.Uint64
			work := func() {
				x := sink.Load()
				for range 1 << 20 {
					x = x*6364136223846793005 + 1442695040888963407
				}
				sink.Store(x)
			}
			beside(2*runtime.GOMAXPROCS(0), work, func() {
				for range 20 {
					require.NoError(t, roundTrip(conn, []byte("is anybody there")))
				}
			})
		})
	}
}

// Goal: no completion is lost and no byte wrong while the collector runs all the time.
func TestRuntime_EchoWhileCollecting(t *testing.T) {
	noLeak(t)
	total := sized(64<<20, 8<<20, 1<<20)
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{Workers: 1})
			conn := dial(t, startEcho(t, rt, veloq.ListenConfig{}, door).Addr())
			beside(1, runtime.GC, func() {
				sent := make(chan error, 1)
				go func() {
					p := newPattern(3)
					var err error
					for left := total; left > 0 && err == nil; left -= 8 << 10 {
						_, err = conn.Write(p.next(8 << 10))
					}
					sent <- errors.Join(err, conn.CloseWrite())
				}()
				p := newPattern(3)
				buf := make([]byte, 64<<10)
				got := 0
				for {
					n, err := conn.Read(buf)
					require.NoError(t, p.check(buf[:n]))
					got += n
					if errors.Is(err, io.EOF) {
						break
					}
					require.NoError(t, err)
				}
				require.NoError(t, await(t, "sender", sent))
				require.Equal(t, total, got)
			})
		})
	}
}

// Goal: connections that send without end leave others their share.
func TestRuntime_FloodsLeaveOthersTheirShare(t *testing.T) {
	noLeak(t)
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{Workers: 1})
			srv := startEcho(t, rt, veloq.ListenConfig{}, door)
			const floods = 4
			var moved atomic.Int64
			var ended sync.WaitGroup
			conns := make([]*net.TCPConn, floods)
			for i := range conns {
				conns[i] = dial(t, srv.Addr())
				ended.Go(func() {
					block := make([]byte, 256<<10)
					for {
						if _, err := conns[i].Write(block); err != nil {
							return
						}
					}
				})
				ended.Go(func() {
					block := make([]byte, 256<<10)
					for {
						n, err := conns[i].Read(block)
						if err != nil {
							return
						}
						moved.Add(int64(n))
					}
				})
			}
			eventually(t, "floods", func() (bool, any) { return moved.Load() > 4<<20, moved.Load() })
			began := moved.Load()
			other := dial(t, srv.Addr())
			const rounds = 100
			for range rounds {
				require.NoError(t, roundTrip(other, []byte("and me")))
			}
			during := moved.Load() - began
			t.Logf("%d KiB of flood for each round trip beside it", during/rounds/1024)
			for _, conn := range conns {
				_ = conn.Close()
			}
			ended.Wait()
		})
	}
}

// Goal: tasks from outside go to the less loaded of two workers: all get about as many.
func TestRuntime_SpawnSpreads(t *testing.T) {
	noLeak(t)
	const workers, tasks = 4, 400
	rt := newRuntime(t, veloq.Config{Workers: workers})
	handles := make([]*veloq.JoinHandle[int], tasks)
	for i := range handles {
		handles[i] = veloq.Spawn(rt, func(c *veloq.Context) (int, error) { return c.Worker(), c.Sleep(patience) })
	}
	var counts [workers]int
	eventually(t, "all run", func() (bool, any) { return holds(rt).tasks == tasks, holds(rt) })
	for i, s := range rt.Stats() {
		counts[i] = s.Tasks
	}
	for _, n := range counts {
		require.Greater(t, n, tasks/workers*3/4, "%v", counts)
	}
	for _, h := range handles {
		h.Cancel()
	}
	for _, h := range handles {
		_ = join(t, h)
	}
}

// startOutcome is what childStartFails tells.
type startOutcome struct {
	Error         string
	NoDescriptors bool   // by errors.Is
	Left          string // of descriptors and goroutines, if more than before
	Echoed        bool   // with fewer workers
}

// childStartFails asks for more workers than there are descriptors for.
func childStartFails() {
	var out startOutcome
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // package net's own descriptors come with the first
	if err != nil {
		fail(err)
	}
	_ = l.Close()
	before := currentUsage()
	if err := limitDescriptors(before.fds + 16); err != nil {
		fail(err)
	}
	rt, err := veloq.New(veloq.Config{Workers: 64})
	if err == nil || rt != nil {
		fail(errors.New("64 workers started on 16 descriptors"))
	}
	out.Error, out.NoDescriptors = err.Error(), errors.Is(err, syscall.EMFILE)
	after := currentUsage()
	for end := time.Now().Add(patience); after.goroutines > before.goroutines && time.Now().Before(end); after = currentUsage() {
		runtime.Gosched() // the workers' goroutines have told that they end, and are about to
	}
	if after != before {
		out.Left = fmt.Sprintf("%+v, before %+v", after, before)
	}
	rt, err = veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		fail(err)
	}
	srv, err := (&veloq.ListenConfig{}).Start(context.Background(), rt, "tcp", "127.0.0.1:0", echoTask)
	if err != nil {
		fail(err)
	}
	conn, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		fail(err)
	}
	out.Echoed = roundTrip(conn, []byte("with one worker")) == nil
	_ = conn.Close()
	_ = rt.Close()
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// Goal: where one worker can't start none does, nothing is left of the others, and the cause is named.
func TestRuntime_StartFailsAsAWhole(t *testing.T) {
	if !hasDescriptorLimit {
		t.Skip("no limit on descriptors that a process could lower")
	}
	var out startOutcome
	startChild(t, "start-fails").line(&out)
	require.True(t, out.NoDescriptors, out.Error)
	require.Contains(t, out.Error, "RLIMIT_NOFILE")
	require.Empty(t, out.Left)
	require.True(t, out.Echoed)
}
