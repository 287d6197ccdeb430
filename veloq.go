// Package veloq is a network runtime: workers that each own a thread, a driver (io_uring, epoll or a
// completion port), buffers and timers, and on them two ways to do I/O. Handlers are callbacks; tasks
// are coroutines that read as blocking code; both run on a worker, and a worker crosses into C once a
// turn, however many connections it serves in it. Beside the workers, Listen and Dial are package net's
// for any goroutine, on connections that read and write with less CPU: docs/netdoor.md.
//
// docs/ownership.md says what may block where, and whose each buffer is.
package veloq

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/gid"
)

// Driver names a driver implementation.
type Driver uint8

// The drivers. A driver asked for by name that can't start is an error, never another driver.
const (
	DriverAuto  Driver = iota // the best that starts here
	DriverURing               // Linux io_uring
	DriverEpoll               // Linux epoll, where io_uring is refused
	DriverIOCP                // a Windows completion port
)

var driverNames = [...]string{"auto", "uring", "epoll", "iocp"} // by Driver

// String returns the driver's name.
func (d Driver) String() string { return nameOf(driverNames[:], uint8(d), "Driver") }

// ParseDriver returns the driver of that name: "auto", "uring", "epoll", "iocp".
func ParseDriver(name string) (Driver, error) {
	i := slices.Index(driverNames[:], name)
	if i < 0 {
		return DriverAuto, fmt.Errorf("veloq: unknown driver %q", name)
	}
	return Driver(i), nil
}

// nameOf is String for types whose values have names.
func nameOf(names []string, value uint8, kind string) string {
	if int(value) < len(names) {
		return names[value]
	}
	return fmt.Sprintf("%s(%d)", kind, value)
}

// Config says how a runtime is made. The zero value of each field is its default.
type Config struct {
	// Workers is how many; the default is half of GOMAXPROCS, at least 1: fewer workers make larger
	// batches, and the other half is left for goroutines and the collector.
	Workers int
	// Driver is DriverAuto by default. The environment's VELOQ_DRIVER, "auto", "uring", "epoll" or
	// "iocp", then decides; it does not override a driver that is named here.
	Driver Driver
	// PinCPU ties worker i to CPU i.
	PinCPU bool
	// Spin is how long an idle worker looks for work before it sleeps; off by default. It buys
	// latency on few connections with CPU.
	Spin time.Duration
	// WakeDelay is how long at most a sleeping worker lets a completion wait for others, so that many
	// wake it once: 1 µs to 10 ms, in whole microseconds; off by default. It buys CPU with latency where
	// there is much traffic that yet does not keep the worker busy; a worker whose completions mostly
	// come alone wakes at once. What other threads bring waits no longer than that either, timers don't
	// wait. A datagram socket's buffer must hold what arrives meanwhile. io_uring since Linux 6.12;
	// other drivers wake at once.
	WakeDelay time.Duration

	// ReadLimit is how many bytes may be unread on one stream before its receiving is paused, default
	// 256 KiB. What the kernel had already received by then comes on top, once.
	ReadLimit int
	// WriteHigh is how many bytes may wait to be sent on one stream before writers wait or, in a
	// handler, get ErrFull; default 256 KiB, at least 16 KiB.
	WriteHigh int
	// CloseTimeout is how long a closed stream goes on sending what was written, default 10 s.
	CloseTimeout time.Duration
	// InboxLimit is how many tasks from goroutines may wait on one worker to be started, default
	// 65536; beyond it Spawn and Go fail with ErrFull.
	InboxLimit int

	// BlockingMax is how many calls the blocking pool makes at once, each on a goroutine that the
	// system may give a thread; default 512. BlockingQueue is how many more may wait, default 10000,
	// -1 for none; beyond it SpawnBlocking fails with an *OverloadError. BlockingIdle is how long one of
	// its goroutines without a call is kept, default 30 s.
	BlockingMax, BlockingQueue int
	BlockingIdle               time.Duration

	// SubmissionEntries and CompletionEntries are the sizes of each worker's rings, powers of two,
	// default 4096 and 32768. A full ring costs a crossing, nothing else.
	SubmissionEntries, CompletionEntries int
	// BufferCount and BufferSize are each worker's receive buffers, default 128 of 64 KiB, each filled
	// by one connection after another; BufferCount is a power of two. On kernels before 6.12 a buffer
	// holds what one receive got, and BufferSize/4 and BufferCount*4 are used.
	BufferCount, BufferSize int
	// PacketCount and PacketSize are each worker's buffers for datagrams, default 256 of 66 KiB, one a
	// datagram, of which untouched pages take no memory; PacketCount is a power of two. PacketSize less
	// 176 bytes is the longest datagram that is not cut off.
	PacketCount, PacketSize int
	// PacketQueue is how many datagrams may be unread on one socket before its receiving is paused, and
	// the system's socket buffer fills and drops; default 128.
	PacketQueue int
	// ArenaSize is each of a worker's two areas for a turn's small sends in bytes, default 1 MiB.
	ArenaSize int

	// ZeroCopyMin is how many bytes in one piece are sent without a copy: leases, and tasks' writes of
	// over 16 KiB; 0, the default, is none. The kernel then reads the bytes until the peer's system has
	// acknowledged them: a lease keeps its buffer, and a Write returns, only then. A Write that is
	// given up meanwhile resets the connection. It costs less only for large pieces on a real network:
	// where the kernel reports that it copied, as on loopback, a stream stops by itself. io_uring
	// since Linux 6.2; other drivers copy.
	ZeroCopyMin int
	// Stage says whether the net door's small writes go out together; StageAuto by default.
	// The environment's VELOQ_STAGE, "auto", "on" or "off", then decides.
	Stage StageMode

	// Restrict makes each worker's ring refuse every operation but those that veloq uses
	// (io_uring_register(2), IORING_REGISTER_RESTRICTIONS): whoever gets hold of the ring can open no
	// file with it. A driver without a ring has nothing to restrict.
	Restrict bool

	// WatchdogAfter is how long a task or handler may keep a worker before it is reported to OnHog and
	// counted. The default, 0, is 100 ms where OnHog is set and else no watchdog; at least 1 ms. The
	// report comes a quarter of it late at most.
	WatchdogAfter time.Duration
	// OnHog gets each task or handler that keeps its worker for longer, once, while it does. It runs on
	// the watchdog's goroutine. Finding the stack stops the program's other goroutines for a moment.
	OnHog func(*Hog)

	// OnPanic gets the panic of a task that nobody joins and of a handler, on a goroutine of the
	// runtime's choice. The default, nil, crashes the program, as a goroutine's panic does.
	OnPanic func(*PanicError)

	// OnMisuse gets what a build with the tag veloq_debug finds, and no call could be told: leases and
	// buffers that were lost without a Release, connections without a Close. It is called on a goroutine
	// of the runtime's choice, and must not block for long: the collector may wait. The default, nil,
	// writes to stderr. Other builds never call it.
	OnMisuse func(*MisuseError)

	deny uint32 // core.Cap* that must not be used; for tests
}

func (c *Config) setDefaults() error {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&c.Workers, max(runtime.GOMAXPROCS(0)/2, 1))
	set(&c.ReadLimit, 256<<10)
	set(&c.WriteHigh, 256<<10)
	set(&c.InboxLimit, 65536)
	set(&c.BlockingMax, 512)
	set(&c.BlockingQueue, 10000)
	set(&c.SubmissionEntries, 4096)
	set(&c.CompletionEntries, max(32768, c.SubmissionEntries))
	set(&c.BufferCount, 128)
	set(&c.BufferSize, 64<<10)
	set(&c.ArenaSize, 1<<20)
	set(&c.PacketCount, 256)
	set(&c.PacketSize, 66<<10)
	set(&c.PacketQueue, 128)
	if c.WriteHigh > 0 {
		c.WriteHigh = max(c.WriteHigh, inlineMax)
	}
	if c.OnHog != nil && c.WatchdogAfter == 0 {
		c.WatchdogAfter = watchDefault
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = 10 * time.Second
	}
	if c.BlockingIdle == 0 {
		c.BlockingIdle = 30 * time.Second
	}
	if err := c.fromEnvironment(); err != nil {
		return err
	}
	return c.check()
}

func (c *Config) check() error {
	power := func(n, low, high int) bool { return n >= low && n <= high && n&(n-1) == 0 }
	switch {
	case c.Workers < 1 || c.Workers > workersMax:
		return configError("Workers must be 1 to %d, is %d", workersMax, c.Workers)
	case c.Driver > DriverIOCP:
		return configError("no driver %d", c.Driver)
	case c.Stage > StageOff:
		return configError("no stage mode %d", c.Stage)
	case c.Spin < 0 || c.Spin > time.Second:
		return configError("Spin must be 0 to 1s, is %v", c.Spin)
	case c.WakeDelay < 0 || c.WakeDelay > wakeDelayMax || c.WakeDelay%time.Microsecond != 0:
		return configError("WakeDelay must be whole microseconds, 0 to 10ms, is %v", c.WakeDelay)
	case c.ReadLimit < 1 || c.ReadLimit > 1<<30 || c.WriteHigh < 1 || c.WriteHigh > 1<<30 || c.InboxLimit < 1:
		return configError("ReadLimit and WriteHigh must be at most 1 GiB, and like InboxLimit positive")
	case c.ZeroCopyMin < 0:
		return configError("ZeroCopyMin must not be negative, is %d", c.ZeroCopyMin)
	case c.BlockingMax < 1 || c.BlockingQueue < -1 || c.BlockingIdle < 0:
		return configError("BlockingMax must be positive, BlockingQueue at least -1, BlockingIdle not negative")
	case c.WatchdogAfter < 0 || c.WatchdogAfter > 0 && c.WatchdogAfter < time.Millisecond:
		return configError("WatchdogAfter must be 0 or at least 1ms, is %v", c.WatchdogAfter)
	case c.CloseTimeout < 0:
		return configError("CloseTimeout must not be negative, is %v", c.CloseTimeout)
	case !power(c.SubmissionEntries, 8, 32768):
		return configError("SubmissionEntries must be a power of two, 8 to 32768, is %d", c.SubmissionEntries)
	case !power(c.CompletionEntries, c.SubmissionEntries, 65536):
		return configError("CompletionEntries must be a power of two, SubmissionEntries to 65536, is %d", c.CompletionEntries)
	case !power(c.BufferCount, 2, 8192):
		return configError("BufferCount must be a power of two, 2 to 8192, is %d", c.BufferCount)
	case c.BufferSize < 1024 || c.BufferSize > 1<<20:
		return configError("BufferSize must be 1 KiB to 1 MiB, is %d", c.BufferSize)
	case !power(c.PacketCount, 2, 8192):
		return configError("PacketCount must be a power of two, 2 to 8192, is %d", c.PacketCount)
	case c.PacketSize < 1024 || c.PacketSize > 1<<20:
		return configError("PacketSize must be 1 KiB to 1 MiB, is %d", c.PacketSize)
	case c.PacketQueue < 1:
		return configError("PacketQueue must be positive, is %d", c.PacketQueue)
	case c.ArenaSize < inlineMax || c.ArenaSize > 1<<30:
		return configError("ArenaSize must be 16 KiB to 1 GiB, is %d", c.ArenaSize)
	}
	return nil
}

const workersMax = 1024

// fromEnvironment takes VELOQ_DRIVER, VELOQ_STAGE, and VELOQ_DENY: names of core.CapNames with commas between
// them, which the driver must do without. That is for tests: it shows here what an older kernel has.
func (c *Config) fromEnvironment() error {
	if name := os.Getenv("VELOQ_DRIVER"); name != "" {
		d, err := ParseDriver(name)
		if err != nil {
			return fmt.Errorf("%w in VELOQ_DRIVER: auto, uring, epoll or iocp", err)
		}
		if c.Driver == DriverAuto {
			c.Driver = d
		}
	}
	mode, err := stageFromEnvironment()
	if err != nil {
		return err
	}
	if c.Stage == StageAuto {
		c.Stage = mode
	}
	list := os.Getenv("VELOQ_DENY")
	if list == "" {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(core.CapNames[:], strings.TrimSpace(name))
		if i < 0 {
			return fmt.Errorf("veloq: unknown name %q in VELOQ_DENY: %s", name, strings.Join(core.CapNames[:], ", "))
		}
		c.deny |= 1 << i
	}
	return nil
}

func configError(format string, args ...any) error {
	return fmt.Errorf("veloq: Config."+format, args...)
}

func (c *Config) core() core.Config {
	return core.Config{
		Kind:            uint32(c.Driver),
		Deny:            c.deny,
		SQEntries:       uint32(c.SubmissionEntries),
		CQEntries:       uint32(c.CompletionEntries),
		BufferCount:     uint32(c.BufferCount),
		BufferSizeBytes: uint32(c.BufferSize),
		WholeCount:      uint32(c.BufferCount * 4),
		WholeSizeBytes:  uint32(c.BufferSize / 4),
		Restricted:      uint32(boolInt(c.Restrict)),
		PacketCount:     uint32(c.PacketCount),
		PacketSizeBytes: uint32(c.PacketSize),
	}
}

// Runtime is a set of workers. Its methods are for any goroutine; those that block are not for tasks.
type Runtime struct {
	config  Config
	workers []*worker
	mesh    *mesh // nil with one worker
	stager  *stager
	pool    blockingPool
	closing atomic.Bool
	looping sync.WaitGroup // workers that may still send to others
	done    sync.WaitGroup // workers that have not freed everything

	mu      sync.Mutex
	servers map[served]struct{}
	// listeners are those of the net door.
	listeners map[io.Closer]struct{}
	reports   []core.Report
	closed    chan struct{}
	freed     bool

	misuses misuses
}

// New starts a runtime. If a worker can't start, none does, and the error (a *DriverError where the
// system refused) names the cause and the cure. Any goroutine. Blocks.
func New(config Config) (*Runtime, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	rt := &Runtime{
		config:  config,
		servers: map[served]struct{}{},
		reports: make([]core.Report, config.Workers),
		closed:  make(chan struct{}),
	}
	if !core.Available {
		return nil, noDriverError()
	}
	if config.Workers > 1 {
		m, err := newMesh(config.Workers)
		if err != nil {
			return nil, &DriverError{Step: "mesh", Err: err}
		}
		rt.mesh = m
	}
	for i := range config.Workers {
		rt.workers = append(rt.workers, newWorker(rt, i))
	}
	rt.stager = newStager(config.Stage, func() (core.Config, error) { return config.core(), nil })
	rt.stager.rt = rt
	rt.pool.init(&rt.config)
	if err := rt.start(); err != nil {
		if rt.mesh != nil {
			rt.mesh.free()
		}
		return nil, err
	}
	noteWorkers(rt.workers, true)
	if config.WatchdogAfter > 0 {
		go rt.watchdog()
	}
	return rt, nil
}

// start starts the workers one after another: a worker may send to the others only when all are
// there, which is when its start is waited for here.
func (rt *Runtime) start() error {
	for i, w := range rt.workers {
		started := make(chan error, 1)
		rt.looping.Add(1)
		rt.done.Add(1)
		go w.main(started)
		if err := <-started; err != nil {
			rt.looping.Done()
			rt.done.Done()
			for _, w := range rt.workers[:i] {
				w.post(&note{do: (*worker).stop})
			}
			rt.done.Wait()
			return err
		}
	}
	return nil
}

// Workers returns how many workers there are.
func (rt *Runtime) Workers() int { return len(rt.workers) }

// Close ends everything at once: servers, connections, tasks (which get ErrClosed wherever they wait,
// and are unwound by runtime.Goexit if they wait again after a second), and waits until it is
// over. Calls in the blocking pool have their ctx cancelled, and a second too: one that goes on keeps its
// goroutine. A second Close waits too. From a task it begins the end and returns ErrNotTask, since a task
// can't wait for its own; where tasks can't be told apart (docs/ownership.md) it would wait for ever.
// Any goroutine. Blocks.
func (rt *Runtime) Close() error {
	rt.closing.Store(true)
	rt.closeListeners()
	rt.pool.close()
	rt.stager.close()
	for _, w := range rt.workers {
		w.post(&note{do: (*worker).stop})
	}
	for _, w := range rt.workers {
		if gid.Supported && w.here() && !w.ended.Load() {
			go rt.awaitEnd() // perhaps nobody else closes it
			return ErrNotTask
		}
	}
	rt.awaitEnd()
	return nil
}

// awaitEnd waits until the workers have ended, and ends the rest.
func (rt *Runtime) awaitEnd() {
	rt.done.Wait()
	rt.pool.wait(stopGrace)
	rt.finish()
}

// finish frees what the workers shared, once.
func (rt *Runtime) finish() {
	rt.mu.Lock()
	if rt.freed {
		rt.mu.Unlock()
		<-rt.closed
		return
	}
	rt.freed = true
	servers := rt.servers
	rt.servers = nil
	rt.mu.Unlock()
	noteWorkers(rt.workers, false)
	if rt.mesh != nil {
		rt.mesh.free()
	}
	for s := range servers {
		s.runtimeEnded()
	}
	close(rt.closed)
	rt.tellLeft()
}

// Shutdown stops the servers, waits until their connections and all tasks have ended by themselves,
// and closes the runtime. If ctx is done before, it closes anyway and returns the context's error.
// Any goroutine, never a task. Blocks.
func (rt *Runtime) Shutdown(ctx context.Context) error {
	rt.mu.Lock()
	servers := make([]served, 0, len(rt.servers))
	for s := range rt.servers {
		servers = append(servers, s)
	}
	rt.mu.Unlock()
	rt.closeListeners()
	var late error
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			late = err
			break
		}
	}
	// Once somebody closes the runtime, what is left is ended, and may never be counted as over.
	for late == nil && !rt.closing.Load() && !rt.idle() {
		late = ctx.Err()
		if late == nil {
			// Tasks end at their own time, and tell nobody: look again soon.
			timer := time.NewTimer(time.Millisecond)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
	}
	if err := rt.Close(); err != nil {
		return err
	}
	return late
}

func (rt *Runtime) idle() bool {
	for _, w := range rt.workers {
		if w.load.Load() > 0 {
			return false
		}
	}
	return !rt.pool.busy()
}

// A served is a Server or a DatagramServer.
type served interface {
	Shutdown(ctx context.Context) error
	// runtimeEnded is called when the runtime has ended.
	runtimeEnded()
}

func (rt *Runtime) addServer(s served) bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closing.Load() || rt.servers == nil {
		return false
	}
	rt.servers[s] = struct{}{}
	return true
}

func (rt *Runtime) removeServer(s served) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	delete(rt.servers, s)
}

// submit implements Spawner: the task goes to the less loaded of two workers.
func (rt *Runtime) submit(t *task, target int) error {
	if target == anyWorker || target == someWorker || target == leastWorker {
		target = rt.choose()
	}
	if target < 0 || target >= len(rt.workers) {
		return ErrNoWorker
	}
	if rt.closing.Load() {
		return ErrClosed
	}
	w := rt.workers[target]
	t.ctx.w = w
	w.load.Add(1)
	err := w.postStart(t)
	if err != nil {
		w.load.Add(-1)
	}
	return err
}

// choose returns the less loaded of two workers taken at random.
func (rt *Runtime) choose() int {
	n := len(rt.workers)
	if n == 1 {
		return 0
	}
	return lessLoaded(n, func(i int) int64 { return rt.workers[i].load.Load() })
}

// leastLoaded returns the worker with the fewest tasks and streams, w where it is one of them.
func (rt *Runtime) leastLoaded(w *worker) *worker {
	best := w
	for _, other := range rt.workers {
		if other.load.Load() < best.load.Load() {
			best = other
		}
	}
	return best
}

// submit implements Spawner: the task stays on the worker, unless it is sent to another.
// home implements LocalSpawner.
func (c *Context) home() *worker { return c.w }

func (c *Context) submit(t *task, target int) error {
	w := c.w
	if !w.here() {
		return w.elsewhere()
	}
	if t.ctx.values == nil {
		t.ctx.values = c.values
	}
	if target == leastWorker {
		target = w.rt.choose()
	}
	if target == someWorker || target == anyWorker || target == w.id {
		if w.stopping {
			return ErrClosed
		}
		if target == someWorker {
			t.stealable = true
			w.load.Add(1)
			w.offer(t)
			return nil
		}
		t.ctx.w = w
		w.load.Add(1)
		w.start(t)
		return nil
	}
	if target < 0 || target >= len(w.rt.workers) {
		return ErrNoWorker
	}
	to := w.rt.workers[target]
	t.ctx.w = to
	to.load.Add(1)
	if !to.ended.Load() && w.rt.mesh.edge(w.id, target).push(message{kind: messageStart, t: t}) {
		w.knockLater(to)
		return nil
	}
	err := to.postStart(t)
	if err != nil {
		to.load.Add(-1)
	}
	return err
}

// reportPanic is for panics that nobody joins.
func (rt *Runtime) reportPanic(pe *PanicError) {
	if rt.config.OnPanic != nil {
		rt.config.OnPanic(pe)
		return
	}
	panic(pe)
}

// broken is for a driver that can't go on: there is nothing to be saved.
func (rt *Runtime) broken(w *worker, err error) {
	panic(fmt.Sprintf("veloq: worker %d: driver: %v", w.id, err))
}

func (rt *Runtime) noteReport(worker int, r core.Report) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.reports[worker] = r
}

var defaultRuntime struct {
	mu sync.Mutex
	rt *Runtime
}

// Default returns the runtime that package-level functions use: made on the first call, with the
// zero Config, and made anew should it have been closed. Any goroutine.
func Default() (*Runtime, error) {
	defaultRuntime.mu.Lock()
	defer defaultRuntime.mu.Unlock()
	if rt := defaultRuntime.rt; rt != nil && !rt.closing.Load() {
		return rt, nil
	}
	rt, err := New(Config{})
	if err != nil {
		return nil, err
	}
	defaultRuntime.rt = rt
	return rt, nil
}

var packageStager struct {
	once sync.Once
	st   *stager
}

// defaultStager is the one of connections that package-level functions make.
func defaultStager() *stager {
	packageStager.once.Do(func() {
		mode, err := stageFromEnvironment()
		if err != nil {
			mode = StageOff // New says why, to who asks for a runtime
		}
		packageStager.st = newStager(mode, func() (core.Config, error) {
			var config Config
			err := config.setDefaults()
			return config.core(), err
		})
	})
	return packageStager.st
}
