package tests

// Streams used at random, on both doors, with peers that do as they like: whatever happens, the bytes that
// arrive are a prefix of those that were sent, and everything ends and leaves nothing behind.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// TestStream_Chaos runs a few seeds; VELOQ_SEED=n runs that one alone, VELOQ_LONG=1 many.
func TestStream_Chaos(t *testing.T) {
	needDriver(t)
	file := fileOf(t, patternBlock())
	for _, seed := range seeds(t, sized(400, 8, 4)) {
		ok := t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			noLeak(t)
			k := &streamChaos{t: t, seed: seed, file: file}
			k.run()
		})
		if !ok {
			return // what comes after a hang says nothing
		}
	}
}

// streamChaos is one round: a runtime, its servers, and the plain other ends of their connections.
type streamChaos struct {
	t    *testing.T
	rt   *veloq.Runtime
	seed uint64
	made atomic.Uint64 // generators
	file *os.File      // patternBlock, to be sent

	opened, closed atomic.Int64 // calls of OnOpen and OnClose
	others         sync.WaitGroup
	mu             sync.Mutex
	peers          []io.Closer // and their listeners
	over           bool        // peers are closed
	wrong          error
}

// rand returns a generator of its own for each that asks.
func (k *streamChaos) rand() *rand.Rand { return rand.New(rand.NewPCG(k.seed, k.made.Add(1))) }

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// size is of a random order of magnitude, up to limit.
func size(r *rand.Rand, limit int) int {
	return 1 + r.IntN(min(limit, pick(r, 1, 100, 3000, 17<<10, 70<<10, 1_000_000)))
}

func moment(r *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(pick(r, limit, limit/10, limit/100))))
}

func chaosConfig(r *rand.Rand) veloq.Config {
	entries := pick(r, 8, 64, 4096)
	return veloq.Config{
		Workers: 1 + r.IntN(2), SubmissionEntries: entries, CompletionEntries: entries * pick(r, 1, 2, 8),
		BufferCount: pick(r, 2, 4, 16, 128), BufferSize: pick(r, 1024, 4096, 64<<10),
		ReadLimit: pick(r, 1, 1000, 4096, 256<<10), WriteHigh: pick(r, 1, 70<<10, 256<<10),
		ArenaSize: pick(r, 16<<10, 50<<10, 1<<20), CloseTimeout: pick(r, time.Millisecond, 20*time.Millisecond, 300*time.Millisecond),
		ZeroCopyMin: pick(r, 0, 0, 3000, 32<<10), WakeDelay: pick(r, 0, 0, 200*time.Microsecond),
		Spin: pick(r, 0, 0, 50*time.Microsecond), PacketCount: 2, PacketSize: 1024,
	}
}

// report keeps the first thing that was wrong.
func (k *streamChaos) report(where string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", where, err)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.wrong == nil {
			k.wrong = err
		}
	}
	return err
}

func (k *streamChaos) run() {
	t, r := k.t, k.rand()
	config := chaosConfig(r)
	k.rt = newRuntime(t, config)
	before := holds(k.rt)
	t.Cleanup(func() {
		if t.Failed() {
			var b strings.Builder
			_ = k.rt.Dump(&b)
			t.Logf("VELOQ_SEED=%d, %+v\n%s", k.seed, config, b.String())
		}
		k.closePeers()
	})
	var servers []*veloq.Server
	tasks := []*veloq.JoinHandle[struct{}]{}
	for _, network := range networks(t) {
		for range 2 + r.IntN(8) {
			tasks = append(tasks, k.startDial(network))
		}
		for _, door := range doors {
			srv := k.start(network, door, r)
			servers = append(servers, srv)
			for range 2 + r.IntN(12) {
				if conn, err := net.Dial(network, srv.Addr().String()); err == nil {
					k.addPeer(conn)
				}
			}
		}
	}
	ended := k.end(r, servers)
	for _, h := range tasks {
		_ = join(t, h) // an error is that of a dial
	}
	if !ended {
		if config.ZeroCopyMin > 0 {
			k.closePeers() // or they keep the kernel from letting go of what it sends without a copy
		}
		for _, srv := range servers {
			bounded(t, "Server.Close", srv.Close)
		}
		settled(t, k.rt, before)
	}
	k.closePeers()
	bounded(t, "peers", k.others.Wait)
	if ended {
		bounded(t, "Runtime.Close", func() { _ = k.rt.Close() })
	} else {
		settled(t, k.rt, before)
		require.Equal(t, k.opened.Load(), k.closed.Load(), "OnOpen, OnClose")
	}
	require.NoError(t, k.wrong)
}

// end lets things go on for a while and begins the end. It reports whether it ended the runtime.
func (k *streamChaos) end(r *rand.Rand, servers []*veloq.Server) bool {
	time.Sleep(moment(r, 60*time.Millisecond)) // any moment will do
	ctx, cancel := context.WithTimeout(context.Background(), moment(r, 30*time.Millisecond))
	defer cancel()
	switch r.IntN(6) {
	case 0:
		for _, srv := range servers {
			bounded(k.t, "Server.Close", srv.Close)
		}
	case 1:
		for _, srv := range servers {
			bounded(k.t, "Server.Shutdown", func() { _ = srv.Shutdown(ctx) })
		}
	case 2:
		bounded(k.t, "Runtime.Close", func() { _ = k.rt.Close() })
		return true
	case 3:
		bounded(k.t, "Runtime.Shutdown", func() { _ = k.rt.Shutdown(ctx) })
		return true
	}
	return false
}

func networks(t *testing.T) []string {
	if hasUnixSockets(t) {
		return []string{"tcp", "unix"}
	}
	return []string{"tcp"}
}

func addressOf(t *testing.T, network string) string {
	if network == "unix" {
		return workerSocketPath(t)
	}
	return "127.0.0.1:0"
}

func (k *streamChaos) start(network, door string, r *rand.Rand) *veloq.Server {
	lc := veloq.ListenConfig{Accept: pick(r, veloq.AcceptReusePort, veloq.AcceptSpread)}
	if r.IntN(2) == 0 {
		lc.WriteBuffer, lc.ReadBuffer = 4<<10, 4<<10
	}
	start := func() (*veloq.Server, error) {
		if door == "handler" {
			return lc.StartHandler(context.Background(), k.rt, network, addressOf(k.t, network), &chaosHandler{k: k})
		}
		return lc.Start(context.Background(), k.rt, network, addressOf(k.t, network), k.serve)
	}
	srv, err := start()
	require.NoError(k.t, err)
	return srv
}

// startDial has a task dial a plain listener, and use the connection.
func (k *streamChaos) startDial(network string) *veloq.JoinHandle[struct{}] {
	l, err := net.Listen(network, addressOf(k.t, network))
	require.NoError(k.t, err)
	k.mu.Lock()
	k.peers = append(k.peers, l)
	k.mu.Unlock()
	k.others.Go(func() {
		if conn, err := l.Accept(); err == nil {
			k.addPeer(conn)
		}
	})
	return veloq.Spawn(k.rt, func(c *veloq.Context) (struct{}, error) {
		defer func() { _ = l.Close() }()
		s, err := c.Dial(network, l.Addr().String())
		if err != nil {
			return struct{}{}, err
		}
		defer func() { _ = s.Close() }()
		_ = k.serve(c, s) // whatever ended it
		return struct{}{}, nil
	})
}

// A flow is what one direction carries: its first byte says what follows, the bytes of a pattern or,
// where several send without an order, ever the same.
type flow struct {
	id  byte
	p   *pattern // nil before the first byte
	all []byte   // the same, for those
}

func newFlow(id byte) *flow {
	f := &flow{id: id, p: newPattern(int(id))}
	if id%4 == 1 {
		f.all = bytes.Repeat([]byte{id}, 1<<18)
	}
	return f
}

// next returns up to n bytes to send; sent takes those that were.
func (f *flow) next(n int) []byte {
	if f.all != nil {
		return f.all[:min(n, len(f.all))]
	}
	return f.p.block[f.p.at : f.p.at+n]
}

func (f *flow) sent(n int) { f.p.at = (f.p.at + n) % patternPeriod }

// check takes the next bytes that arrived.
func (f *flow) check(got []byte) error {
	if f.p == nil && len(got) > 0 {
		*f = *newFlow(got[0])
		got = got[1:]
	}
	if f.all == nil && len(got) > 0 {
		return f.p.check(got)
	}
	if n := bytes.Count(got, f.all[:min(1, len(f.all))]); f.all != nil && n != len(got) {
		return fmt.Errorf("%d of %d bytes are not %d", len(got)-n, len(got), f.id)
	}
	return nil
}

// addPeer has the plain other end of a stream do as it likes.
func (k *streamChaos) addPeer(conn net.Conn) {
	k.mu.Lock()
	over := k.over
	k.peers = append(k.peers, conn)
	k.mu.Unlock()
	if over {
		_ = conn.Close()
		return
	}
	r, w := k.rand(), k.rand()
	if tcp, ok := conn.(*net.TCPConn); ok && r.IntN(2) == 0 {
		_ = tcp.SetReadBuffer(4 << 10)
		_ = tcp.SetWriteBuffer(4 << 10)
	}
	k.others.Go(func() { k.readPeer(conn, r) })
	k.others.Go(func() { k.writePeer(conn, w) })
}

func (k *streamChaos) closePeers() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	for _, conn := range k.peers {
		_ = conn.Close()
	}
}

func (k *streamChaos) readPeer(conn net.Conn, r *rand.Rand) {
	var in flow
	buf := make([]byte, size(r, 70<<10))
	left, slow := pick(r, 0, 0, size(r, 1<<20), 1<<30, 1<<30, 1<<30), r.IntN(3) == 0
	for left > 0 {
		n, err := conn.Read(buf)
		if k.report("peer", in.check(buf[:n])) != nil || err != nil {
			break
		}
		left -= n
		if slow {
			time.Sleep(moment(r, 3*time.Millisecond))
		}
	}
	leavePeer(conn, r)
}

func (k *streamChaos) writePeer(conn net.Conn, r *rand.Rand) {
	out := newFlow(byte(r.Uint32()))
	_, err := conn.Write([]byte{out.id})
	slow := r.IntN(3) == 0
	for left := pick(r, 0, size(r, 1<<20), 4<<20); left > 0 && err == nil; {
		var n int
		n, err = conn.Write(out.next(size(r, 1<<18)))
		out.sent(n)
		left -= n
		if slow {
			time.Sleep(moment(r, 3*time.Millisecond))
		}
	}
	leavePeer(conn, r)
}

// leavePeer is a FIN, an RST, an end in the middle of the other direction, or nothing.
func leavePeer(conn net.Conn, r *rand.Rand) {
	switch r.IntN(6) {
	case 0, 1:
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	case 2:
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	case 3:
		_ = conn.Close()
	}
}

// chaosHandler echoes, floods or drops.
type chaosHandler struct{ k *streamChaos }

type chaosConn struct {
	r     *rand.Rand
	in    flow
	out   *flow
	echo  bool
	rest  []byte // of the echo
	ended bool
}

func (h *chaosHandler) OnOpen(c *veloq.Context, s *veloq.Stream) {
	h.k.opened.Add(1)
	r := h.k.rand()
	m := &chaosConn{r: r, out: newFlow(byte(r.Uint32())), echo: r.IntN(2) == 0}
	s.SetUserData(m)
	if !m.echo {
		_, _ = s.Write([]byte{m.out.id})
		m.flood(s)
	}
	_, _ = c.AfterFunc(moment(r, 50*time.Millisecond), func(c *veloq.Context) { h.finish(c, s, m) })
}

// finish sees to it that the stream ends.
func (h *chaosHandler) finish(c *veloq.Context, s *veloq.Stream, m *chaosConn) {
	switch m.r.IntN(6) {
	case 0:
		_ = s.SetDeadline(time.Now().Add(moment(m.r, 10*time.Millisecond) - time.Millisecond))
		return
	case 1:
		_ = s.CloseWrite()
		_, _ = c.AfterFunc(moment(m.r, 30*time.Millisecond), func(*veloq.Context) { _ = s.Close() })
		return
	case 2:
		err := veloq.Go(c, func(c *veloq.Context) {
			defer func() { _ = s.Close() }()
			conn, err := s.Detach()
			if err != nil {
				return
			}
			s, err := veloq.Attach(c, conn)
			if err != nil {
				_ = conn.Close()
				return
			}
			_ = veloq.Timeout(c, moment(m.r, 20*time.Millisecond), func(c *veloq.Context) error {
				(&session{k: h.k, r: m.r, s: s, in: &m.in}).read(c)
				return s.Close()
			})
		})
		if err == nil {
			return
		}
	case 3:
		_ = s.SetLinger(0)
	}
	_ = s.Close()
}

func (m *chaosConn) flood(s *veloq.Stream) {
	for range 10 {
		n, err := s.Write(m.out.next(size(m.r, 1<<18)))
		m.out.sent(n)
		if err != nil {
			return
		}
	}
}

func (h *chaosHandler) OnData(c *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	m := s.UserData().(*chaosConn)
	if m.ended {
		return h.k.report("handler", errors.New("OnData after OnClose"))
	}
	if err := h.k.report("handler", m.in.check(l.Bytes())); err != nil {
		return err
	}
	switch {
	case !m.echo:
	case len(m.rest) > 0:
		m.rest = append(m.rest, l.Bytes()...)
	default:
		n, err := m.send(s, l)
		if errors.Is(err, veloq.ErrFull) {
			m.rest = bytes.Clone(l.Bytes()[n:])
			_ = s.PauseRead()
		}
	}
	switch m.r.IntN(40) {
	case 0:
		return io.ErrNoProgress
	case 1:
		_ = s.Close()
	case 2, 3:
		_ = s.PauseRead()
		_, _ = c.AfterFunc(moment(m.r, 5*time.Millisecond), func(*veloq.Context) { _ = s.ResumeRead() })
	case 4:
		h.k.hold(l.Retain(), moment(m.r, 5*time.Millisecond))
	}
	return nil
}

func (m *chaosConn) send(s *veloq.Stream, l veloq.Lease) (int, error) {
	if m.r.IntN(2) == 0 {
		return s.WriteLease(l.Retain())
	}
	return s.Write(l.Bytes())
}

func (h *chaosHandler) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	m := s.UserData().(*chaosConn)
	if m.ended {
		_ = h.k.report("handler", errors.New("OnWritable after OnClose"))
	}
	if !m.echo {
		m.flood(s)
		return
	}
	n, _ := s.Write(m.rest)
	if m.rest = m.rest[n:]; len(m.rest) == 0 {
		_ = s.ResumeRead()
	}
}

func (h *chaosHandler) OnClose(_ *veloq.Context, s *veloq.Stream, _ error) {
	m := s.UserData().(*chaosConn)
	if m.ended {
		_ = h.k.report("handler", errors.New("a second OnClose"))
	}
	m.ended = true
	h.k.closed.Add(1)
}

// hold releases a lease later, from another thread.
func (k *streamChaos) hold(l veloq.Lease, d time.Duration) {
	k.others.Go(func() {
		time.Sleep(d)
		l.Release()
	})
}
