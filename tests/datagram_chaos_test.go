package tests

// Datagrams under seeded chance: flows of numbered ones between sockets of all kinds that end at any
// moment. What a flow was told is sent arrives once and as it was, as long as who receives it goes on:
// no flow has more under way than the system's buffers take.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

const flowHeader = 12 // flow, number, length

// A datagramFlow is what one sender sends to one sink.
type datagramFlow struct {
	id      uint32
	ordered bool // unixgram
	sink    *datagramSink

	mu    sync.Mutex
	sent  map[uint32]bool // by number: whether it arrived. Those whose call failed are not in it
	next  uint32
	last  int64 // the number that arrived last
	got   int
	given bool // up
}

// A datagramSink is a server, of tasks or handlers.
type datagramSink struct {
	*veloq.DatagramServer
	veloq.DatagramHandlerBase
	dc      *datagramChaos
	network string
	gro     bool
	stopped atomic.Bool
	mu      sync.Mutex
	r       *rand.Rand // of the handlers, on all workers
}

type datagramChaos struct {
	serverChaos // seed, runtime, failure
	most        int
	sinks       []*datagramSink
	flowsMu     sync.Mutex
	flows       []*datagramFlow
	held        sync.WaitGroup
}

// make makes one datagram of the flow, and number how many were made.
func (f *datagramFlow) make(b []byte, number uint32) {
	binary.BigEndian.PutUint32(b, f.id)
	binary.BigEndian.PutUint32(b[4:], number)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)))
	copy(b[flowHeader:], newPattern(int(f.id*1000+number)).next(len(b)-flowHeader))
}

// arrived checks one datagram against the model.
func (dc *datagramChaos) arrived(s *datagramSink, b []byte, truncated bool) {
	if len(b) < flowHeader {
		dc.fail("a datagram of %d bytes", len(b))
		return
	}
	id, number, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), int(binary.BigEndian.Uint32(b[8:]))
	dc.flowsMu.Lock()
	var f *datagramFlow
	if int(id) < len(dc.flows) {
		f = dc.flows[id]
	}
	dc.flowsMu.Unlock()
	if f == nil || f.sink != s {
		dc.fail("a datagram of no flow, or another sink's: %d", id)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	was, known := f.sent[number]
	want := make([]byte, size)
	f.make(want, number)
	switch {
	case !known || was:
		dc.fail("flow %d: %d arrived twice (%v) or was never sent", id, number, was)
	case truncated != (len(b) < size) || (truncated && len(b) < dc.most):
		dc.fail("flow %d: %d bytes of %d, truncated: %v", id, len(b), size, truncated)
	case string(b) != string(want[:len(b)]):
		dc.fail("flow %d: other bytes in %d, of %d", id, number, size)
	case f.ordered && int64(number) <= f.last:
		dc.fail("flow %d: %d after %d", id, number, f.last)
	}
	f.sent[number], f.last = true, int64(number)
	f.got++
}

// take checks a packet, and holds it for a while.
func (s *datagramSink) take(r *rand.Rand, p *veloq.Packet, retain bool) {
	p.Segments(func(b []byte) bool {
		s.dc.arrived(s, b, p.Truncated)
		return true
	})
	if r.IntN(8) > 0 {
		if !retain {
			p.Release()
		}
		return
	}
	l := p.Data
	if retain {
		l = l.Retain()
	}
	wait := time.Duration(r.Int64N(int64(2 * time.Millisecond)))
	s.dc.held.Go(func() {
		time.Sleep(wait)
		l.Release()
	})
}

func (s *datagramSink) open(d *veloq.Datagram) {
	if s.gro {
		_, _ = d.SetGRO(true)
	}
}

// OnOpen implements veloq.DatagramHandler.
func (s *datagramSink) OnOpen(_ *veloq.Context, d *veloq.Datagram) { s.open(d) }

// OnPackets implements veloq.DatagramHandler. It pauses at times.
func (s *datagramSink) OnPackets(c *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range ps {
		s.take(s.r, &ps[i], true)
	}
	if s.r.IntN(8) == 0 && d.PauseRead() == nil {
		if _, err := c.AfterFunc(time.Duration(s.r.Int64N(int64(2*time.Millisecond))), func(*veloq.Context) {
			_ = d.ResumeRead()
		}); err != nil {
			_ = d.ResumeRead()
		}
	}
}

// serve is a sink's task: all ways to receive, with deadlines that pass.
func (s *datagramSink) serve(c *veloq.Context, d *veloq.Datagram) error {
	r := s.dc.random()
	s.open(d)
	ps := make([]veloq.Packet, 1+r.IntN(8))
	for {
		n, err := 0, error(nil)
		switch r.IntN(5) {
		case 0:
			n, err = d.TryRecvBatch(ps)
			err = errors.Join(err, c.Yield())
		case 1:
			_ = d.SetReadDeadline(time.Now().Add(time.Duration(r.Int64N(int64(2 * time.Millisecond)))))
			n, err = d.RecvBatch(ps)
			_ = d.SetReadDeadline(time.Time{})
		case 2:
			if ps[0], err = d.Recv(); err == nil {
				n = 1
			}
		default:
			n, err = d.RecvBatch(ps)
		}
		for i := range ps[:n] {
			s.take(r, &ps[i], false)
		}
		var ne net.Error
		if err != nil && (!errors.As(err, &ne) || !ne.Timeout() || c.Err() != nil) {
			return err
		}
	}
}

// start starts a sink.
func (dc *datagramChaos) start(r *rand.Rand) error {
	s := &datagramSink{dc: dc, network: "udp", r: dc.random(), gro: dc.most > 60000 && r.IntN(2) == 0}
	address := "127.0.0.1:0"
	if dc.dir != "" && r.IntN(3) == 0 {
		s.network, address = "unixgram", filepath.Join(dc.dir, strconv.FormatUint(dc.streams.Add(1), 10))
	}
	var err error
	if lc := (&veloq.ListenConfig{}); r.IntN(2) == 0 {
		s.DatagramServer, err = lc.StartDatagramHandler(context.Background(), dc.rt, s.network, address, s)
	} else {
		s.DatagramServer, err = lc.StartDatagram(context.Background(), dc.rt, s.network, address, s.serve)
	}
	dc.sinks = append(dc.sinks, s)
	return err
}

// messages makes what one call sends, and notes its datagrams as sent. None has more than 4 datagrams.
func (f *datagramFlow) messages(r *rand.Rand, m *veloq.Message) (first, count uint32) {
	size := flowHeader + r.IntN([]int{8, 1400, 1400, 4000}[r.IntN(4)])
	n := 1
	if r.IntN(3) == 0 && size <= 1400 {
		n = 1 + r.IntN(4)
		m.SegmentSize = size
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.Data = make([]byte, 0, n*size)
	first = f.next
	for i := range n {
		b := make([]byte, size)
		if i == n-1 && i > 0 {
			b = b[:flowHeader+r.IntN(size-flowHeader+1)]
		}
		f.make(b, f.next)
		f.sent[f.next] = false
		f.next++
		m.Data = append(m.Data, b...)
	}
	return first, f.next - first
}

// unsent takes back what a call refused as a whole.
func (f *datagramFlow) unsent(first, count uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := first; n < first+count; n++ {
		delete(f.sent, n)
	}
}

// giveUp expects nothing more: a call failed, and who knows what of it went out.
func (f *datagramFlow) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.given = true
}

// missing is how many have not arrived.
func (f *datagramFlow) missing() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.given || f.sink.stopped.Load() {
		return 0
	}
	return len(f.sent) - f.got
}

// send is a flow's task.
func (dc *datagramChaos) send(c *veloq.Context, r *rand.Rand, f *datagramFlow) error {
	var d *veloq.Datagram
	var err error
	var m veloq.Message
	connected := r.IntN(2) == 0
	switch to := f.sink.Addr().(type) {
	case *net.UDPAddr:
		if connected {
			d, err = c.DialDatagram("udp", to.String())
		} else {
			d, err = c.ListenDatagram("udp", "127.0.0.1:0")
			m.To = to.AddrPort()
		}
	case *net.UnixAddr:
		if connected {
			d, err = c.DialDatagram("unixgram", to.Name)
		} else {
			d, err = c.ListenDatagram("unixgram", filepath.Join(dc.dir, strconv.FormatUint(dc.streams.Add(1), 10)))
			m.Path = to.Name
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	window := 2
	if f.ordered {
		window = 64 // nothing is lost there: what has no room waits
	}
	for range r.IntN(60) {
		for began := time.Now(); f.missing() > window; {
			if f.sink.stopped.Load() || dc.closing.Load() {
				return nil
			}
			if time.Since(began) > patience {
				dc.fail("flow %d: %d of %d never arrived (%s, driver's %+v)", f.id, f.missing(), f.next, f.sink.network, dc.rt.Stats())
				return nil
			}
			if err := c.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		one := m
		first, count := f.messages(r, &one)
		switch r.IntN(6) {
		case 0:
			if err = d.TrySend(&one); errors.Is(err, veloq.ErrFull) {
				f.unsent(first, count)
				err = nil
			}
		case 1:
			_ = d.SetWriteDeadline(time.Now().Add(-1))
			if err := d.SendMessage(&one); err == nil {
				dc.fail("flow %d: sent after its deadline", f.id)
			}
			f.unsent(first, count)
			_ = d.SetWriteDeadline(time.Time{})
		case 2:
			_, err = d.SendBatch([]veloq.Message{one})
		case 3:
			err = errors.Join(d.SendMessage(&one), d.Flush())
		default:
			err = d.SendMessage(&one)
		}
		if err != nil {
			f.giveUp()
			return err
		}
	}
	if r.IntN(2) == 0 {
		return d.Flush()
	}
	return nil
}

// operate ends a sink at times.
func (dc *datagramChaos) operate(r *rand.Rand) {
	s := dc.sinks[r.IntN(len(dc.sinks))]
	rest(r, 6*time.Millisecond)
	switch r.IntN(3) {
	case 0:
		s.stopped.Store(true)
		dc.within("DatagramServer.Close", s.Close)
	case 1:
		s.stopped.Store(true)
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Int64N(int64(time.Millisecond))))
		defer cancel()
		dc.within("DatagramServer.Shutdown", func() { _ = s.Shutdown(ctx) })
	}
}

// flow runs one flow's task, and may cancel it.
func (dc *datagramChaos) flow(r *rand.Rand) {
	s := dc.sinks[r.IntN(len(dc.sinks))]
	f := &datagramFlow{sink: s, ordered: s.network == "unixgram", sent: map[uint32]bool{}, last: -1}
	dc.flowsMu.Lock()
	f.id = uint32(len(dc.flows))
	dc.flows = append(dc.flows, f)
	dc.flowsMu.Unlock()
	own := dc.random()
	h := veloq.Spawn(dc.rt, func(c *veloq.Context) (struct{}, error) { return struct{}{}, dc.send(c, own, f) })
	if r.IntN(4) == 0 {
		rest(r, 5*time.Millisecond)
		h.Cancel()
	}
	dc.within("flow", func() {
		if _, err := h.Wait(context.Background()); err != nil {
			f.giveUp()
			if !errors.Is(err, context.Canceled) && !s.stopped.Load() && !dc.closing.Load() {
				dc.fail("flow %d: %w", f.id, err)
			}
		}
	})
}

func (dc *datagramChaos) config(r *rand.Rand) veloq.Config {
	config := veloq.Config{}
	if r.IntN(2) == 0 {
		config = tinyConfig()
		config.PacketCount, config.PacketSize, config.PacketQueue = 2<<r.IntN(3), 2048, 1+r.IntN(3)
	}
	if r.IntN(2) == 0 {
		config.WriteHigh = 4 << 10
	}
	config.Workers = 1 + r.IntN(3)
	dc.most = longest(config)
	return config
}

// round is all of it. The runtime may be closed in the middle.
func (dc *datagramChaos) round() error {
	r := dc.random()
	var err error
	if dc.rt, err = veloq.New(dc.config(r)); err != nil {
		return err
	}
	before := holds(dc.rt)
	for range 1 + r.IntN(3) {
		if err := dc.start(r); err != nil {
			return err
		}
	}
	closes := r.IntN(4) == 0
	for range r.IntN(3) {
		dc.begin(dc.operate)
	}
	for range 1 + r.IntN(6) {
		dc.begin(dc.flow)
	}
	if closes {
		rest(r, 6*time.Millisecond)
		dc.closing.Store(true)
		dc.within("Runtime.Close", func() { dc.closeRuntime(r) })
	}
	dc.within("flows", dc.wg.Wait)
	for end := time.Now().Add(patience); !closes && dc.failure == nil; time.Sleep(time.Millisecond) {
		missing := ""
		for _, f := range dc.flows {
			if n := f.missing(); n > 0 {
				missing += fmt.Sprintf("flow %d on %s: %d of %d; ", f.id, f.sink.network, n, f.next)
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(end) {
			dc.fail("never arrived: %s\n%+v", missing, dc.rt.Stats())
		}
	}
	for _, s := range dc.sinks {
		s.stopped.Store(true)
		dc.within("DatagramServer.Close", s.Close)
	}
	dc.within("leases", dc.held.Wait)
	if !closes && dc.failure == nil {
		dc.left(before)
	}
	dc.within("Runtime.Close", func() { _ = dc.rt.Close() })
	return dc.failure
}

// Goal: datagrams that were sent arrive once and whole, whatever ends beside them, and nothing is left.
func TestDatagram_Chaos(t *testing.T) {
	dir := ""
	newPacketRuntime(t, veloq.Config{Workers: 1})
	if hasUnixSockets(t) {
		dir = filepath.Dir(socketPath(t))
	}
	for _, seed := range seeds(t, sized(2000, 25, 8)) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			noLeak(t)
			dc := &datagramChaos{serverChaos: serverChaos{seed: seed, dir: dir}}
			require.NoError(t, dc.round())
		})
	}
}
