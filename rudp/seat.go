package rudp

// This file changes if how a worker drives an endpoint does.

import (
	"errors"
	"time"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// seat is an endpoint's place on a worker, which is its actor there: packets, timers and the task
// that waits for goroutines all run on the worker's thread, one after another. Only the worker
// touches it, but for notify.
type seat struct {
	g      *Group
	e      *Endpoint
	d      *veloq.Datagram
	timer  *veloq.Timer
	notify veloq.Notify
	held   core.Batch // what the socket's queue had no room for, in buf
	buf    []byte
	gone   bool
	worker uint16
}

// heldPause is how long a batch waits at most for room in the socket's queue before it is tried
// again: only handlers are told of room, and turns are tasks' too.
const heldPause = time.Millisecond

func newSeat(g *Group, c *veloq.Context, d *veloq.Datagram) (*seat, error) {
	local, _ := addrPort(d.LocalAddr())
	_ = d.SetDontFragment(true)
	_, _ = d.SetReadBuffer(socketRoom), d.SetWriteBuffer(socketRoom)
	_, _ = d.SetGRO(true)
	k := &socket{local: local, unusedAt: mono.Never, ecn: d.SetReceiveECN(true) == nil}
	e, err := prepareEndpoint(&g.cfg, k, c.Worker(), &g.resets)
	if err != nil {
		return nil, err
	}
	s := &seat{g: g, e: e, d: d, worker: uint16(c.Worker())}
	e.seat, e.accepts, e.sockets = s, g.accepts, []*socket{k}
	if err := s.begin(c); err != nil {
		if e.log != nil {
			go e.log.close()
		}
		return nil, err
	}
	return s, nil
}

func (s *seat) begin(c *veloq.Context) (err error) {
	if err := s.e.core.Listen(true); err != nil {
		return err
	}
	s.e.listener = &Listener{endpoint: s.e, closed: make(chan struct{})}
	if s.timer, err = c.AfterFunc(time.Hour, func(*veloq.Context) { s.turn() }); err != nil {
		return err
	}
	if err := veloq.Go(c, s.listen); err != nil {
		s.timer.Stop()
		return err
	}
	return nil
}

// listen is the task that runs a turn when goroutines ask for one.
func (s *seat) listen(c *veloq.Context) {
	for !s.gone {
		if err := s.notify.Wait(c); err != nil {
			return // the runtime ends: OnClose follows
		}
		s.turn()
	}
}

// turn is the actor's, as in Endpoint.run, but that the worker waits.
func (s *seat) turn() {
	if s.gone {
		return
	}
	e := s.e
	e.idle.Store(false)
	more := e.turn()
	if e.finished() {
		e.finish()
		return
	}
	at, now := e.core.Deadline(), e.now()
	if s.held.N > 0 {
		at = min(at, now.Add(heldPause))
	}
	if at < mono.Never {
		s.timer.Reset(max(at.Sub(now), 0))
	}
	e.idle.Store(true)
	e.mu.Lock()
	more = more || len(e.calls) > 0
	e.mu.Unlock()
	if more || e.inbox.Load() != nil {
		e.wake() // another turn, after what else the worker has
	}
}

// receive gives the core what is for this worker, and forwards what is not.
func (s *seat) receive(c *veloq.Context, ps []veloq.Packet) {
	now := s.e.now()
	for i := range ps {
		p := &ps[i]
		if p.Truncated {
			_, _ = s.d.SetGRO(false) // the runtime's PacketSize is too small for several in one
		}
		path := core.Path{Local: s.e.addr.AddrPort, Remote: unmapped(p.From)}
		p.Segments(func(b []byte) bool {
			to := int(s.e.core.Route(b))
			switch {
			case to != c.Worker() && to < len(s.g.seats) && len(b) <= datagramMax:
				s.forward(c, to, path, core.ECN(p.ECN), b)
			case len(b) > 0:
				s.e.core.Recv(now, path, core.ECN(p.ECN), b)
			}
			return true
		})
	}
}

// forward hands a datagram to another worker. If the edge is full it is lost, as on a network.
func (s *seat) forward(c *veloq.Context, to int, path core.Path, ecn core.ECN, b []byte) {
	p := datagrams.Get().(*packet)
	p.n = copy(p.buf, b)
	if err := s.g.mesh.TrySend(c, to, forwarded{path.Remote, ecn, p}); err != nil {
		s.e.unsent++
		p.release()
		return
	}
	s.e.forwarded++
}

// take receives what another worker forwarded.
func (s *seat) take(f *forwarded) {
	if !s.gone {
		path := core.Path{Local: s.e.addr.AddrPort, Remote: f.from}
		s.e.core.Recv(s.e.now(), path, f.ecn, f.data.buf[:f.data.n])
		s.turn()
	}
}

// send gives the socket a batch; false: it has no room, and the batch is kept.
func (s *seat) send(b *core.Batch, buf []byte) bool {
	if s.try(b, buf) {
		return true
	}
	if s.buf == nil {
		s.buf = make([]byte, core.SendMax)
	}
	s.held = *b
	s.held.Conn = nil
	copy(s.buf, buf[:b.N])
	return false
}

// sendHeld says whether nothing is kept any more.
func (s *seat) sendHeld() bool {
	if s.held.N > 0 {
		if !s.try(&s.held, s.buf) {
			return false
		}
		s.held = core.Batch{}
	}
	return true
}

// try is false if the socket's queue is full. Any other refusal loses the batch, as a network may.
func (s *seat) try(b *core.Batch, buf []byte) bool {
	m := veloq.Message{Data: buf[:b.N], To: b.Path.Remote}
	if b.N > b.Segment {
		m.SegmentSize = b.Segment
	}
	if s.e.ecn {
		m.ECN = veloq.ECN(b.ECN)
	}
	err := s.d.TrySend(&m)
	if errors.Is(err, veloq.ErrFull) {
		return false
	}
	if err != nil {
		s.e.unsent++
	}
	return true
}

// lost ends the endpoint because its socket is no more.
func (s *seat) lost(err error) {
	if !s.gone {
		s.e.failure = err
		s.e.finish()
	}
}

// leave is the end of the actor on its worker. The log is closed on a goroutine: its writers may be
// slow.
func (s *seat) leave() {
	s.gone = true
	s.timer.Stop()
	_ = s.d.Close()
	s.notify.Notify()
	s.g.resets.leave(s.worker)
	go func() {
		if s.e.log != nil {
			s.e.log.close()
		}
		close(s.e.done)
		s.g.seatEnded()
	}()
}
