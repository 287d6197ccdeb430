package rudp

// Everything at once, by a seed: calls of every kind on streams that end in every way (chaos_side_test.go),
// on endpoints and groups that end at any moment. VELOQ_SEED runs one seed, VELOQ_LONG=1 two minutes of them.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// chaosPeriod is after how many bytes the pattern begins anew.
const chaosPeriod = 4093

// chaosBytes are those that every stream carries, again and again.
var chaosBytes = sync.OnceValue(func() []byte {
	b := make([]byte, chaosPeriod, 2<<20)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	for len(b)+chaosPeriod <= cap(b) {
		b = append(b, b[:chaosPeriod]...)
	}
	return b
})

func chaosAt(off int64, n int) []byte { return chaosBytes()[off%chaosPeriod:][:n] }

// chaos is one run.
type chaos struct {
	t       *testing.T
	mu      sync.Mutex
	seeds   *rand.Rand
	links   map[uint64]*[2]*chaosSide // by what the client's first bytes are
	loans   loans
	busy    atomic.Int64 // goroutines
	violent atomic.Bool  // more than streams has ended
	hasty   atomic.Bool  // a Dial was given up, which a shutdown waits for: nobody may answer
	real    bool         // time and sockets
	leases  chan chaosLease
	ends    []*chaosEnd
}

// chaosEnd is what dials and accepts.
type chaosEnd struct {
	addr      string
	dial      func(ctx context.Context) (*Stream, error)
	accept    func() (*Stream, error)
	shutdown  func(ctx context.Context) error
	ending    []func()
	endpoints func() []*Endpoint
}

func (x *chaos) rand() *rand.Rand {
	x.mu.Lock()
	defer x.mu.Unlock()
	return rand.New(rand.NewPCG(x.seeds.Uint64(), x.seeds.Uint64()))
}

func (x *chaos) run(f func(r *rand.Rand)) {
	x.busy.Add(1)
	r := x.rand()
	go func() {
		defer x.busy.Add(-1)
		f(r)
	}()
}

// pause passes a random time, mostly short.
func pause(r *rand.Rand, most time.Duration) {
	switch r.IntN(3) {
	case 0:
		runtime.Gosched()
	case 1:
		time.Sleep(time.Duration(r.Int64N(int64(most)/20 + 1)))
	default:
		time.Sleep(time.Duration(r.Int64N(int64(most))))
	}
}

// check says that err is one of those, or that something violent has happened, which allows more.
func (x *chaos) check(op string, err error, allowed ...error) {
	if x.violent.Load() {
		allowed = append(allowed, net.ErrClosed, syscall.ETIMEDOUT, syscall.ECONNRESET, syscall.ECONNABORTED,
			syscall.EPIPE)
		if op == "dial" {
			allowed = append(allowed, syscall.ECONNREFUSED)
		}
	}
	var e *net.OpError
	if err != io.EOF && (!errors.As(err, &e) || e.Net != networkName && e.Op != "dial" || e.Op != op) {
		x.t.Errorf("%s: not as an error should be: %#v", op, err)
	}
	for _, a := range allowed {
		if err == a || a != io.EOF && errors.Is(err, a) {
			return
		}
	}
	x.t.Errorf("%s: not by the contract (violent: %v): %v", op, x.violent.Load(), err)
}

// stir starts dialing and accepting, and what ends more than a stream unless the run is calm.
func (x *chaos) stir(calm bool) {
	for _, e := range x.ends {
		x.run(func(r *rand.Rand) {
			for {
				s, err := e.accept()
				if err != nil {
					x.check("accept", err, net.ErrClosed)
					return
				}
				pause(r, 5*time.Millisecond)
				x.drive(s, false, r)
			}
		})
	}
	var dialers sync.WaitGroup
	all, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 2 + x.rand().IntN(6) {
		dialers.Add(1)
		x.run(func(r *rand.Rand) {
			defer dialers.Done()
			pause(r, 20*time.Millisecond)
			ctx, cancel := context.WithCancel(all)
			defer cancel()
			if r.IntN(3) == 0 {
				x.hasty.Store(true)
				x.run(func(r *rand.Rand) { pause(r, 10*time.Millisecond); cancel() })
			}
			s, err := x.ends[r.IntN(len(x.ends))].dial(ctx)
			if err != nil {
				x.check("dial", err, context.Canceled)
				return
			}
			x.drive(s, true, r)
		})
	}
	if calm {
		dialers.Wait()
		return
	}
	for range 1 + x.rand().IntN(3) {
		x.run(func(r *rand.Rand) {
			pause(r, 40*time.Millisecond)
			x.violent.Store(true)
			e := x.ends[r.IntN(len(x.ends))]
			e.ending[r.IntN(len(e.ending))]()
			pause(r, 40*time.Millisecond)
			cancel() // nobody may answer any more
		})
	}
	dialers.Wait()
}

// quiet waits until no more than accepting goes on, and says what does if it never ends.
func (x *chaos) quiet(left int64, what string) {
	for end := time.Now().Add(patience); x.busy.Load() > left; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			for _, l := range x.links {
				l[0].tell()
				l[1].tell()
			}
			buf := make([]byte, 4<<20)
			x.t.Fatalf("%s: %d goroutines wait forever\n%s", what, x.busy.Load()-left,
				buf[:runtime.Stack(buf, true)])
		}
	}
}

// finish ends everything and checks what is left, and what came.
func (x *chaos) finish(calm bool) {
	if calm {
		x.quiet(int64(len(x.ends)), "streams")
	}
	violent := x.violent.Swap(true)
	for _, e := range x.ends {
		within := patience
		if x.hasty.Load() || violent {
			within = 20 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), within)
		if err := e.shutdown(ctx); err != nil && within == patience {
			x.t.Errorf("shutdown: %v", err)
		}
		cancel()
	}
	x.quiet(0, "everything")
	for _, e := range x.ends {
		for _, p := range e.endpoints() {
			<-p.done
		}
	}
	if n := x.loans.open(); n != 0 {
		x.t.Errorf("%d loans not given back", n)
	}
	for _, l := range x.links {
		x.compare(l[0], l[1], calm)
		x.compare(l[1], l[0], calm)
	}
}

// compare holds what a got against what b did.
func (x *chaos) compare(a, b *chaosSide, calm bool) {
	switch {
	case a == nil || b == nil:
	case a.readErr == io.EOF:
		if !b.ended.Load() && calm || a.got < b.sent.Load() || a.got > b.tried.Load() {
			x.t.Errorf("end after %d bytes, of %d to %d", a.got, b.sent.Load(), b.tried.Load())
		}
	case calm && a.proper && b.proper:
		x.t.Errorf("two that end as they should: %v", a.readErr)
	}
}

func chaosConfig(r *rand.Rand) *Config {
	cfg := serverConfig()
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.RootCAs, cfg.TLS.ServerName = clientConfig().TLS.RootCAs, "rudp.test"
	cfg.RecvWindow = []int{0, 32 << 10, 256 << 10}[r.IntN(3)]
	cfg.SendBuffer = []int{0, 8 << 10, 64 << 10}[r.IntN(3)]
	cfg.RequireRetry = r.IntN(4) == 0
	cfg.Congestion = []string{"bbr", "cubic"}[r.IntN(2)]
	cfg.KeepAlive, cfg.IdleTimeout = time.Second, 10*time.Second
	return cfg
}

// add makes an end of an endpoint.
func (x *chaos) add(e *Endpoint) {
	l, err := e.Listen()
	require.NoError(x.t, err)
	var current atomic.Pointer[Listener]
	current.Store(l)
	end := &chaosEnd{
		addr: e.Addr().String(), accept: func() (s *Stream, err error) {
			for { // the listener may be replaced
				if s, err = current.Load().AcceptStream(); err == nil || over(e) {
					return s, err
				}
				time.Sleep(time.Millisecond)
			}
		},
		shutdown: e.Shutdown, endpoints: func() []*Endpoint { return []*Endpoint{e} },
	}
	end.ending = []func(){
		func() { _ = e.Close() },
		func() { x.shortly(e.Shutdown) },
		func() {
			_ = current.Load().Close()
			if again, err := e.Listen(); err == nil {
				current.Store(again)
			} else {
				x.check("listen", err, net.ErrClosed, syscall.EADDRINUSE)
			}
		},
	}
	end.dial = func(ctx context.Context) (*Stream, error) { return e.Dial(ctx, x.other(end)) }
	x.ends = append(x.ends, end)
}

func over(e *Endpoint) bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// shortly has a shutdown a few milliseconds.
func (x *chaos) shortly(shutdown func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(x.rand().IntN(20))*time.Millisecond)
	defer cancel()
	if err := shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		x.t.Errorf("shutdown: %v", err)
	}
}

func (x *chaos) other(e *chaosEnd) string {
	if e == x.ends[0] {
		return x.ends[1].addr
	}
	return x.ends[0].addr
}

// chaosConn loses, doubles and holds back what is sent.
type chaosConn struct {
	*memConn
	mu   sync.Mutex
	r    *rand.Rand
	loss int // in a thousand; as many are doubled and overtaken
	late []byte
	to   net.Addr
}

func (c *chaosConn) WriteTo(p []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fate := c.r.IntN(1000)
	if fate >= 2*c.loss && fate < 3*c.loss && c.late == nil {
		c.late, c.to = bytes.Clone(p), to
		return len(p), nil
	}
	if fate >= c.loss {
		_, _ = c.memConn.WriteTo(p, to)
	}
	if fate < 2*c.loss && fate >= c.loss {
		_, _ = c.memConn.WriteTo(p, to)
	}
	if c.late != nil {
		_, _ = c.memConn.WriteTo(c.late, c.to)
		c.late = nil
	}
	return len(p), nil
}

// chaosRuns calls run with seeds until the time is over.
func chaosRuns(t *testing.T, run func(t *testing.T, x *chaos, r *rand.Rand, calm bool)) {
	t.Helper()
	// Always the same ones, so that a run elsewhere drew what runs here drew.
	seed, each := uint64(1), 500*time.Millisecond
	if os.Getenv("VELOQ_LONG") == "1" {
		seed, each = rand.Uint64()>>16, 2*time.Minute
	}
	if text := os.Getenv("VELOQ_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		each = 0
	}
	runs := 0
	for end := time.Now().Add(each); ; seed++ {
		x := &chaos{
			t: t, seeds: rand.New(rand.NewPCG(seed, 0)), links: map[uint64]*[2]*chaosSide{}, loans: loans{t: t},
			real: true, leases: make(chan chaosLease, 64),
		}
		r := x.rand()
		run(t, x, r, r.IntN(2) == 0)
		if runs++; t.Failed() {
			t.Fatalf("VELOQ_SEED=%d", seed)
		}
		if time.Now().After(end) {
			t.Logf("%d runs, the last one with VELOQ_SEED=%d", runs, seed)
			return
		}
	}
}

func TestChaos_Sockets(t *testing.T) {
	needUDP(t)
	before := actors()
	chaosRuns(t, func(t *testing.T, x *chaos, r *rand.Rand, calm bool) {
		for range 2 {
			pc, err := veloq.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			require.NoError(t, err)
			e, err := NewEndpoint(pc, chaosConfig(r))
			require.NoError(t, err)
			x.add(e)
		}
		fds := chaosFiles()
		x.stir(calm)
		x.finish(calm)
		await(t, "all goroutines and files end", func() bool {
			return actors() <= before && (fds == 0 || chaosFiles() <= fds-2)
		})
	})
}

// chaosFiles counts this process's open files; 0: nobody tells.
func chaosFiles() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

// addGroup makes an end of a group, and of the end of its runtime.
func (x *chaos) addGroup(r *rand.Rand) *veloq.Runtime {
	rt, err := veloq.New(veloq.Config{
		Workers: 1 + r.IntN(2), PacketSize: []int{0, 2048}[r.IntN(2)], WriteHigh: []int{0, 16 << 10}[r.IntN(2)],
	})
	if err != nil {
		x.t.Skip("no workers here: ", err)
	}
	g, err := ListenOn(rt, "udp4", "127.0.0.1:0", chaosConfig(r))
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOTSUP) {
		_ = rt.Close()
		x.t.Skip("no datagrams on workers here: ", err)
	}
	require.NoError(x.t, err)
	end := &chaosEnd{
		addr: g.Addr().String(), accept: g.AcceptStream, shutdown: g.Shutdown, endpoints: g.Endpoints,
		ending: []func(){
			func() { _ = g.Close() },
			func() { x.shortly(g.Shutdown) },
			func() { _ = rt.Close() },
			func() {
				for _, e := range g.Endpoints() {
					_ = e.Close()
					return
				}
			},
		},
	}
	end.dial = func(ctx context.Context) (*Stream, error) { return g.Dial(ctx, x.other(end)) }
	x.ends = append(x.ends, end)
	return rt
}

func TestChaos_Groups(t *testing.T) {
	needUDP(t)
	before := actors()
	chaosRuns(t, func(t *testing.T, x *chaos, r *rand.Rand, calm bool) {
		one := x.addGroup(r)
		other := x.addGroup(r)
		off := int64(0)
		for _, l := range received(t, one, chaosBytes()[:100<<10]) {
			x.leases <- chaosLease{l, off}
			off += int64(l.Len())
		}
		x.stir(calm)
		x.finish(calm)
		close(x.leases)
		for l := range x.leases {
			l.Release()
		}
		if calm {
			allBack(t, one)
		}
		require.NoError(t, one.Close())
		require.NoError(t, other.Close())
		await(t, "all goroutines end", func() bool { return actors() <= before })
	})
}

func TestChaos_Memory(t *testing.T) {
	chaosRuns(t, func(t *testing.T, x *chaos, r *rand.Rand, calm bool) {
		synctest.Test(t, func(t *testing.T) {
			x.t, x.loans.t, x.real = t, t, false
			network := newMemNet()
			loss := []int{0, 10, 50}[r.IntN(3)]
			var conns []*memConn
			for _, addr := range []string{"10.0.0.1:1000", "10.0.0.2:2000"} {
				conns = append(conns, network.socket(addr))
				e, err := NewEndpoint(&chaosConn{memConn: conns[len(conns)-1], r: x.rand(), loss: loss}, chaosConfig(r))
				require.NoError(t, err)
				x.add(e)
			}
			x.stir(calm)
			x.finish(calm)
			for _, c := range conns {
				if c.closeN.Load() == 0 {
					t.Error("a socket is left open")
				}
			}
		})
	})
}
