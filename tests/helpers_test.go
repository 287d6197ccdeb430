package tests

// What the black-box tests share: runtimes of several shapes, bounded waits, leak checks.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/core"
)

// patience bounds every wait; what takes longer has failed. VELOQ_PATIENCE overrides it.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("VELOQ_PATIENCE")); err == nil {
		return d
	}
	return 30 * time.Second
}()

// long is VELOQ_LONG=1: the sizes of the issue instead of those for every day.
var long = os.Getenv("VELOQ_LONG") == "1"

// sized picks a test's size.
func sized(longForm, usual, small int) int {
	switch {
	case long && !raceEnabled:
		return longForm
	case testing.Short() || raceEnabled:
		return small
	}
	return usual
}

// A shape is a runtime and the way its connections are accepted.
type shape struct {
	name   string
	config veloq.Config
	listen veloq.ListenConfig
}

func tinyConfig() veloq.Config {
	return veloq.Config{
		Workers: 1, SubmissionEntries: 8, CompletionEntries: 16, BufferCount: 4, BufferSize: 1024,
		ArenaSize: 16 << 10, ReadLimit: 4 << 10, WriteHigh: 4 << 10, WakeDelay: 200 * time.Microsecond,
	}
}

func shapes() []shape {
	return []shape{
		{name: "default", config: veloq.Config{Workers: 1}},
		{name: "tiny", config: tinyConfig()},
		{name: "reuseport", config: veloq.Config{Workers: 2}},
		{
			name: "spread", config: veloq.Config{Workers: 2},
			listen: veloq.ListenConfig{Accept: veloq.AcceptSpread},
		},
	}
}

var doors = []string{"task", "handler"}

// forAll runs fn for every shape and both doors.
func forAll(t *testing.T, fn func(t *testing.T, sh shape, door string)) {
	for _, sh := range shapes() {
		for _, door := range doors {
			t.Run(sh.name+"/"+door, func(t *testing.T) { fn(t, sh, door) })
		}
	}
}

// needDriver skips the tests of the worker doors where the build has none.
func needDriver(t testing.TB) {
	t.Helper()
	if !core.Available {
		t.Skip("no C core in this build, so no workers")
	}
}

// newRuntime starts a runtime that is closed at the end of the test, within patience.
func newRuntime(t *testing.T, config veloq.Config) *veloq.Runtime {
	t.Helper()
	needDriver(t)
	rt, err := veloq.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { bounded(t, "Runtime.Close", func() { _ = rt.Close() }) })
	return rt
}

// bounded runs fn and fails the test, with every goroutine's stack, if it takes longer than patience.
func bounded(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	await(t, what, done)
}

// await waits for ch to be closed or to yield.
func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		buf := make([]byte, 1<<20)
		t.Fatalf("%s: nothing after %v\n%s", what, patience, buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

// eventually polls what nobody announces: counters of the system and of the runtime.
func eventually(t *testing.T, what string, cond func() (ok bool, state any)) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		ok, state := cond()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v: %+v", what, patience, state)
		}
		time.Sleep(time.Millisecond)
	}
}

// soon is the context of waits in tests.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// inTask runs fn as a task and returns its error; a panic or a hang fails the test.
func inTask(t *testing.T, s veloq.Spawner, fn func(c *veloq.Context) error) error {
	t.Helper()
	return join(t, veloq.Spawn(s, func(c *veloq.Context) (struct{}, error) { return struct{}{}, fn(c) }))
}

// notHere is why a test can't be had on this system: a task returns it, which can't skip by itself.
type notHere string

func (e notHere) Error() string { return string(e) }

// ranOrSkipped fails the test with err, or skips it where the task said notHere.
func ranOrSkipped(t *testing.T, err error) {
	t.Helper()
	var reason notHere
	if errors.As(err, &reason) {
		t.Skip(string(reason))
	}
	require.NoError(t, err)
}

// join waits for a task's end and returns its error.
func join[T any](t *testing.T, h *veloq.JoinHandle[T]) error {
	t.Helper()
	_, err := h.Wait(soon(t))
	if errors.Is(err, context.DeadlineExceeded) {
		buf := make([]byte, 1<<20)
		t.Fatalf("task still runs after %v\n%s", patience, buf[:runtime.Stack(buf, true)])
	}
	var pe *veloq.PanicError
	if errors.As(err, &pe) {
		t.Fatalf("task: %v", pe)
	}
	return err
}

// onWorker runs fn as a task on that worker.
func onWorker(t *testing.T, rt *veloq.Runtime, worker int, fn func(c *veloq.Context) error) error {
	t.Helper()
	return join(t, veloq.SpawnTo(rt, worker, func(c *veloq.Context) (struct{}, error) {
		return struct{}{}, fn(c)
	}))
}

// usage is what must be back where it began.
type usage struct{ fds, goroutines int }

func currentUsage() usage {
	return usage{fds: openDescriptors(), goroutines: runtime.NumGoroutine()}
}

// noLeak fails the test if, at its end, more descriptors or goroutines are left than there were. It
// comes first in a test, so that its check comes last.
func noLeak(t *testing.T) {
	t.Helper()
	// The first listener of a process opens package net's own descriptors.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	stageOnce(t)
	before := currentUsage()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		eventually(t, fmt.Sprintf("leak, began with %+v", before), func() (bool, any) {
			now := currentUsage()
			if now.fds <= before.fds && now.goroutines <= before.goroutines {
				return true, nil
			}
			buf := make([]byte, 1<<20)
			return false, fmt.Sprintf("%+v\n%s", now, buf[:runtime.Stack(buf, true)])
		})
	})
}

// stageOnce has the first staged write behind it, whose ring stays: that is no test's leak.
func stageOnce(t *testing.T) {
	t.Helper()
	staged.Do(func() {
		l, err := veloq.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c, err := veloq.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		for range 200 { // one of them probes
			_, err := c.Write([]byte{1})
			require.NoError(t, err)
		}
		require.NoError(t, c.Close())
		require.NoError(t, l.Close())
	})
}

var staged sync.Once

// held is what a runtime's workers hold, summed.
type held struct{ tasks, streams, datagrams, slots, timers, buffersMissing, packetsMissing int }

func holds(rt *veloq.Runtime) held {
	var h held
	for _, w := range rt.Stats() {
		h.tasks += w.Tasks
		h.streams += w.Streams
		h.slots += w.Slots
		h.timers += w.Timers
		h.buffersMissing += w.Buffers - w.BuffersFree
		h.datagrams += w.Datagrams
		h.packetsMissing += w.Packets - w.PacketsFree
	}
	return h
}

// settled waits until the runtime holds no more than it did.
func settled(t *testing.T, rt *veloq.Runtime, before held) {
	t.Helper()
	eventually(t, fmt.Sprintf("runtime back to %+v", before), func() (bool, any) {
		now := holds(rt)
		return now == before, now
	})
}

func totals(rt *veloq.Runtime) veloq.WorkerStats {
	var sum veloq.WorkerStats
	for _, w := range rt.Stats() {
		sum.Turns += w.Turns
		sum.Crossings += w.Crossings
		sum.Waits += w.Waits
		sum.Delayed += w.Delayed
		sum.Submissions += w.Submissions
		sum.Completions += w.Completions
		sum.RingFull += w.RingFull
		sum.Overflows += w.Overflows
		sum.NoBuffers += w.NoBuffers
		sum.Spills += w.Spills
		sum.WritesFull += w.WritesFull
		sum.Accepted += w.Accepted
		sum.AcceptBackoffs += w.AcceptBackoffs
		sum.ZeroCopySends += w.ZeroCopySends
		sum.ZeroCopyCopied += w.ZeroCopyCopied
		sum.Streams += w.Streams
		sum.Buffers += w.Buffers
		sum.BuffersFree += w.BuffersFree
		sum.PacketsIn += w.PacketsIn
		sum.PacketsOut += w.PacketsOut
		sum.PacketErrors += w.PacketErrors
		sum.SegmentRefusals += w.SegmentRefusals
		sum.QuietShort += w.QuietShort
	}
	return sum
}

// startTasks serves connections by tasks until the test ends.
func startTasks(t *testing.T, rt *veloq.Runtime, lc veloq.ListenConfig, fn func(*veloq.Context, *veloq.Stream) error) *veloq.Server {
	t.Helper()
	s, err := lc.Start(context.Background(), rt, "tcp", "127.0.0.1:0", fn)
	require.NoError(t, err)
	t.Cleanup(func() { bounded(t, "Server.Close", s.Close) })
	return s
}

// startHandler serves connections by a handler until the test ends.
func startHandler(t *testing.T, rt *veloq.Runtime, lc veloq.ListenConfig, h veloq.Handler) *veloq.Server {
	t.Helper()
	s, err := lc.StartHandler(context.Background(), rt, "tcp", "127.0.0.1:0", h)
	require.NoError(t, err)
	t.Cleanup(func() { bounded(t, "Server.Close", s.Close) })
	return s
}

// startEcho serves echo on that door.
func startEcho(t *testing.T, rt *veloq.Runtime, lc veloq.ListenConfig, door string) *veloq.Server {
	t.Helper()
	if door == "handler" {
		return startHandler(t, rt, lc, &echoHandler{})
	}
	return startTasks(t, rt, lc, echoTask)
}

// echoTask is the plainest echo.
func echoTask(_ *veloq.Context, s *veloq.Stream) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return err
		}
		if _, err := s.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// echoHandler echoes under backpressure: what Write refuses is kept, and nothing is received until it
// is through.
type echoHandler struct {
	veloq.HandlerBase
	leases bool // WriteLease instead of Write
}

func (h *echoHandler) OnData(_ *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	if s.UserData() != nil {
		return errors.New("OnData while paused")
	}
	var n int
	var err error
	if h.leases {
		n, err = s.WriteLease(l.Retain())
	} else {
		n, err = s.Write(l.Bytes())
	}
	if errors.Is(err, veloq.ErrFull) {
		s.SetUserData(bytes.Clone(l.Bytes()[n:]))
		return s.PauseRead()
	}
	return err
}

func (h *echoHandler) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	rest, _ := s.UserData().([]byte)
	n, err := s.Write(rest)
	if errors.Is(err, veloq.ErrFull) {
		s.SetUserData(rest[n:])
		return
	}
	s.SetUserData(nil)
	_ = s.ResumeRead()
}

// dial connects a plain client, closed at the end of the test.
func dial(t *testing.T, addr net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr.String(), patience)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn)
}

// roundTrip sends b and expects it back.
func roundTrip(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	got := make([]byte, len(b))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("sent %q, got %q", b, got)
	}
	return nil
}

// pattern is a stream of bytes whose every part says where in it it belongs: the period is prime, so
// that no buffer's or chunk's size hides a loss or a repetition.
type pattern struct {
	block []byte
	at    int
}

const patternPeriod = 1048573

var patternBlock = sync.OnceValue(func() []byte {
	b := make([]byte, 2*patternPeriod)
	r := rand.NewChaCha8([32]byte{'v', 'e', 'l', 'o', 'q'})
	_, _ = r.Read(b[:patternPeriod])
	copy(b[patternPeriod:], b)
	return b
})

func newPattern(seed int) *pattern {
	return &pattern{block: patternBlock(), at: int(uint(seed) * 7919 % patternPeriod)}
}

// next returns the next n bytes, at most the period.
func (p *pattern) next(n int) []byte {
	b := p.block[p.at : p.at+n]
	p.at = (p.at + n) % patternPeriod
	return b
}

// check takes the next bytes and compares.
func (p *pattern) check(got []byte) error {
	for len(got) > 0 {
		n := min(len(got), patternPeriod)
		at := p.at
		if want := p.next(n); !bytes.Equal(got[:n], want) {
			for i := range want {
				if got[i] != want[i] {
					return fmt.Errorf("byte %d of a piece of %d at pattern offset %d is wrong", i, n, at)
				}
			}
		}
		got = got[n:]
	}
	return nil
}

// settleMemory gives back what is garbage, so that the resident size says something.
func settleMemory() {
	for range 3 {
		runtime.GC()
	}
	debugFreeOSMemory()
}
