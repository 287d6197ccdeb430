package tests

// Servers, listeners and dials under seeded chance: whatever ends when, all of it ends, and what was not
// ended still serves. VELOQ_SEED runs one seed again, VELOQ_LONG=1 many.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// serverChaos is one round. Each goroutine and task has random numbers of its own, from the round's seed.
type serverChaos struct {
	seed    uint64
	streams atomic.Uint64 // of random numbers
	rt      *veloq.Runtime
	dead    string // where nobody listens
	full    string // where a dial hangs
	dir     string // for unix sockets; "" where there are none
	scarce  bool   // descriptors run out at times
	closing atomic.Bool

	mu      sync.Mutex
	servers []*chaosServer
	failure error
	wg      sync.WaitGroup
}

type chaosServer struct {
	*veloq.Server
	limit   int // of open connections; 0: none
	stopped atomic.Bool
}

func (sc *serverChaos) random() *rand.Rand { return rand.New(rand.NewPCG(sc.seed, sc.streams.Add(1))) }

func (sc *serverChaos) fail(format string, args ...any) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.failure == nil {
		sc.failure = fmt.Errorf(format, args...)
	}
}

// within runs fn; where that takes longer than patience the failure has all stacks.
func (sc *serverChaos) within(what string, fn func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		sc.fail("%s: not after %v: %+v\n%s", what, patience, sc.rt.Stats(), buf[:runtime.Stack(buf, true)])
		return false
	}
}

func rest(r *rand.Rand, most time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(most)))) }

// anyServer returns one of those that were started, stopped or not.
func (sc *serverChaos) anyServer(r *rand.Rand) *chaosServer {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.servers[r.IntN(len(sc.servers))]
}

// wild is a balancer that now and then chooses nobody.
type wild struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (b *wild) Choose(a *veloq.Accepted) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.r.IntN(a.Workers()+2) - 1
}

func (sc *serverChaos) address(r *rand.Rand) (network, address string) {
	if sc.dir != "" && r.IntN(4) == 0 {
		return "unix", filepath.Join(sc.dir, strconv.FormatUint(sc.streams.Add(1), 10))
	}
	return "tcp", "127.0.0.1:0"
}

// start starts one more server.
func (sc *serverChaos) start(r *rand.Rand) {
	balancers := []veloq.Balancer{
		nil, nil, veloq.RoundRobin(), veloq.SourceHash(), veloq.LeastConnections(), veloq.PowerOfTwo(), &wild{r: sc.random()},
	}
	lc := veloq.ListenConfig{
		MaxConns: max(r.IntN(6)-2, 0),
		Accept:   veloq.AcceptMode(r.IntN(2)),
		Balancer: balancers[r.IntN(len(balancers))],
	}
	network, address := sc.address(r)
	var srv *veloq.Server
	var err error
	if r.IntN(2) == 0 {
		srv, err = lc.StartHandler(context.Background(), sc.rt, network, address, &echoHandler{leases: r.IntN(2) == 0})
	} else {
		srv, err = lc.Start(context.Background(), sc.rt, network, address, echoTask)
	}
	if err != nil {
		if !sc.closing.Load() && !sc.scarce {
			sc.fail("start: %w", err)
		}
		return
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.servers = append(sc.servers, &chaosServer{Server: srv, limit: lc.MaxConns * sc.rt.Workers()})
}

// operate starts, adds to and ends servers.
func (sc *serverChaos) operate(r *rand.Rand) {
	for range 2 + r.IntN(5) {
		rest(r, 2*time.Millisecond)
		s := sc.anyServer(r)
		switch r.IntN(6) {
		case 0:
			sc.start(r)
		case 1, 2:
			network, address := sc.address(r)
			if _, err := s.Add(context.Background(), network, address); err != nil &&
				!errors.Is(err, net.ErrClosed) && !errors.Is(err, veloq.ErrClosed) && !sc.scarce {
				sc.fail("add: %w", err)
			}
		case 3:
			s.stopped.Store(true)
			sc.within("Server.Close", s.Close)
		case 4:
			s.stopped.Store(true)
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Int64N(int64(time.Millisecond))))
			sc.within("Server.Shutdown", func() { _ = s.Shutdown(ctx) })
			cancel()
		default: // a look at the bound
			for range 20 {
				if n := s.Conns(); s.limit > 0 && n > s.limit {
					sc.fail("%d connections, of %d", n, s.limit)
				}
				runtime.Gosched()
			}
		}
	}
}

// errCorrupt is of bytes that are not those that were sent; any other error may come of chance.
var errCorrupt = errors.New("other bytes than were sent")

// exchange sends to an echo server and checks what comes back; whole: to the end of both directions.
func (sc *serverChaos) exchange(r *rand.Rand, conn net.Conn, whole bool) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	seed := r.IntN(1 << 16)
	sent, back := newPattern(seed), newPattern(seed)
	buf := make([]byte, 8<<10)
	for range r.IntN(4) {
		n := 1 + r.IntN(len(buf))
		if _, err := conn.Write(sent.next(n)); err != nil {
			return err
		}
		if !whole && r.IntN(4) == 0 {
			return nil // leaves with bytes under way
		}
		if _, err := io.ReadFull(conn, buf[:n]); err != nil {
			return err
		}
		if err := back.check(buf[:n]); err != nil {
			return fmt.Errorf("%w: %w", errCorrupt, err)
		}
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || (!whole && r.IntN(2) == 0) {
		if c, ok := conn.(*net.TCPConn); ok && r.IntN(2) == 0 {
			_ = c.SetLinger(0)
		}
		return nil
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	n, err := conn.Read(buf)
	if n > 0 || (whole && !errors.Is(err, io.EOF)) {
		return fmt.Errorf("%w: %d bytes and %w for the end", errCorrupt, n, err)
	}
	return nil
}

// judge takes the error of a dial of s, or of the exchange. The address of one that was stopped may be
// somebody else's by now.
func (sc *serverChaos) judge(what string, s *chaosServer, err error) {
	if (errors.Is(err, errCorrupt) || errors.Is(err, os.ErrDeadlineExceeded)) && !s.stopped.Load() && !sc.closing.Load() {
		sc.fail("%s: %w", what, err)
	}
}

// client is a goroutine's connections.
func (sc *serverChaos) client(r *rand.Rand) {
	for range 1 + r.IntN(6) {
		srv := sc.anyServer(r)
		at := srv.Addrs()
		to := at[r.IntN(len(at))]
		conn, err := net.DialTimeout(to.Network(), to.String(), patience)
		if err != nil {
			sc.judge("dial", srv, err)
			continue
		}
		sc.judge("exchange", srv, sc.exchange(r, conn, false))
		_ = conn.Close()
	}
}

// dialer is a task that dials what answers, refuses and hangs.
func (sc *serverChaos) dialer(c *veloq.Context, r *rand.Rand) error {
	for range 1 + r.IntN(6) {
		srv := sc.anyServer(r)
		at := srv.Addrs()
		to := at[r.IntN(len(at))]
		network, address := to.Network(), to.String()
		d := veloq.Dialer{Timeout: patience}
		switch r.IntN(5) {
		case 0:
			network, address = "tcp", sc.dead
		case 1:
			network, address = "tcp", sc.full
			d.Timeout = time.Duration(1 + r.Int64N(int64(3*time.Millisecond)))
		case 2:
			d.Timeout = time.Duration(1 + r.Int64N(int64(time.Millisecond)))
		}
		s, err := d.DialStream(c, network, address)
		switch {
		case err == nil && address == sc.dead:
			sc.fail("somebody answers at %s", address)
		case err == nil:
			sc.judge("exchange", srv, sc.exchange(r, s, false))
			_ = s.Close()
		case c.Err() != nil:
			return err
		case address == sc.dead && !errors.Is(err, syscall.ECONNREFUSED) && !sc.scarce:
			sc.fail("dial of nobody: %w", err)
		case d.Timeout == patience:
			sc.judge("dial", srv, err)
		}
	}
	return nil
}

// listener is a task whose listener is closed while others dial it.
func (sc *serverChaos) listener(c *veloq.Context, r *rand.Rand) error {
	network, address := sc.address(r)
	l, err := c.Listen(network, address)
	if err != nil {
		return err
	}
	var dials []*veloq.LocalHandle[struct{}]
	for range r.IntN(5) {
		own := sc.random()
		dials = append(dials, veloq.SpawnLocal(c, func(c *veloq.Context) (struct{}, error) {
			s, err := c.Dial(network, l.Addr().String())
			if err == nil {
				_ = sc.exchange(own, s, false) // the listener may be gone, and its port somebody else's
				err = s.Close()
			}
			return struct{}{}, err
		}))
	}
	closer := veloq.SpawnLocal(c, func(c *veloq.Context) (struct{}, error) {
		_ = c.Sleep(time.Duration(r.Int64N(int64(2 * time.Millisecond))))
		return struct{}{}, l.Close()
	})
	for {
		s, err := l.Accept()
		if err != nil {
			break
		}
		_ = veloq.SpawnLocal(c, func(c *veloq.Context) (struct{}, error) {
			defer s.Close()
			return struct{}{}, echoTask(c, s)
		})
	}
	for _, h := range dials {
		_, _ = h.Join(c)
	}
	_, err = closer.Join(c)
	return err
}

// task spawns one, and may cancel it.
func (sc *serverChaos) task(r *rand.Rand) {
	fn := sc.dialer
	if r.IntN(3) == 0 {
		fn = sc.listener
	}
	own := sc.random()
	h := veloq.Spawn(sc.rt, func(c *veloq.Context) (struct{}, error) { return struct{}{}, fn(c, own) })
	if r.IntN(3) == 0 {
		rest(r, 2*time.Millisecond)
		h.Cancel()
	}
	sc.within("task", func() { _, _ = h.Wait(context.Background()) })
}

func (sc *serverChaos) begin(fn func(r *rand.Rand)) {
	r := sc.random()
	sc.wg.Go(func() { fn(r) })
}

// config is of the round's runtime.
func (sc *serverChaos) config(r *rand.Rand) veloq.Config {
	config := veloq.Config{}
	if r.IntN(2) == 0 {
		config = tinyConfig()
	}
	config.Workers = 1 + r.IntN(3)
	return config
}

// round is all of it. The runtime may be closed in the middle.
func (sc *serverChaos) round() error {
	r := sc.random()
	var err error
	if sc.rt, err = veloq.New(sc.config(r)); err != nil {
		return err
	}
	before := holds(sc.rt)
	for range 1 + r.IntN(3) {
		sc.start(r)
	}
	closes := r.IntN(4) == 0
	for range 1 + r.IntN(3) {
		sc.begin(sc.operate)
	}
	for range 2 + r.IntN(6) {
		sc.begin(sc.client)
		sc.begin(sc.task)
	}
	if sc.scarce {
		sc.begin(hog)
	}
	if closes {
		rest(r, 4*time.Millisecond)
		sc.closing.Store(true)
		sc.within("Runtime.Close", func() { sc.closeRuntime(r) })
	}
	sc.within("clients and tasks", sc.wg.Wait)
	if sc.failure == nil && !closes {
		sc.still(r, before)
	}
	for _, s := range sc.servers {
		sc.within("Server.Close", s.Close)
	}
	sc.within("Runtime.Close", func() { _ = sc.rt.Close() })
	return sc.failure
}

// closeRuntime is Close, or a Shutdown whose time may be too short.
func (sc *serverChaos) closeRuntime(r *rand.Rand) {
	if r.IntN(2) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Int64N(int64(4*time.Millisecond))))
		defer cancel()
		_ = sc.rt.Shutdown(ctx)
	}
	_ = sc.rt.Close()
}

// still checks that what was not stopped serves at every address, and that nothing is left then.
func (sc *serverChaos) still(r *rand.Rand, before held) {
	for _, s := range sc.servers {
		if s.stopped.Load() {
			continue
		}
		for _, at := range s.Addrs() {
			conn, err := net.DialTimeout(at.Network(), at.String(), patience)
			if err == nil {
				err = sc.exchange(r, conn, true)
				_ = conn.Close()
			}
			if err != nil {
				sc.fail("%v of a server with %d connections of %d no longer serves: %w", at, s.Conns(), s.limit, err)
				return
			}
		}
	}
	for _, s := range sc.servers {
		if !sc.within("Server.Close", s.Close) {
			return
		}
	}
	sc.left(before)
}

// left checks that the runtime holds what it did before.
func (sc *serverChaos) left(before held) {
	for end := time.Now().Add(patience); holds(sc.rt) != before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			sc.fail("left: %+v, began with %+v", holds(sc.rt), before)
			return
		}
	}
}

// Goal: servers, listeners and dials that meet one another's ends at any moment all end, leave nothing,
// keep their bounds and bytes, and those that go on still accept.
func TestServer_Chaos(t *testing.T) {
	needDriver(t)
	dir := ""
	if hasUnixSockets(t) {
		dir = filepath.Dir(socketPath(t))
	}
	full := fullListener(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	dead := dial(t, l.Addr()).LocalAddr().String() // a port that is taken, and no listener's
	for _, seed := range seeds(t, sized(2000, 25, 8)) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			noLeak(t)
			sc := &serverChaos{seed: seed, dead: dead, full: full, dir: dir}
			require.NoError(t, sc.round())
		})
	}
}
