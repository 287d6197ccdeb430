package rudp

// This file changes if the actor's turn, or the end of an endpoint, does.

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

const (
	// batchesMax is how many sends a turn makes before it looks at what has come.
	batchesMax = 16
	// packetsMax is how many reads a turn takes before it sends.
	packetsMax = 64
	// lingering is for how long a socket that nobody uses any more is still read: what was on its
	// way to it when a connection migrated arrives within that.
	lingering = 3 * time.Second
)

// actor is the part of an Endpoint that only its actor touches.
type actor struct {
	core     *core.Endpoint
	ecn      bool
	sockets  []*socket // the first is the endpoint's own, the others came by migrations
	streams  map[*Stream]struct{}
	watched  []*Stream // with a migration to begin, or a Drain to answer
	listener *Listener
	offered  *Stream // accepted, but Accept's channel is full
	log      *qlog

	idleClose bool
	ending    bool // no new connections
	aborted   bool
	failure   error // why the sockets are at their end
	unsent    uint64
	forwarded uint64 // to other workers
	timer     *time.Timer
	timerAt   mono.Time
}

// run is the actor. In each turn it does what others ask for, what time asks for, and sends what
// that brings about.
func (e *Endpoint) run() {
	e.timer, e.timerAt = time.NewTimer(time.Hour), e.now().Add(time.Hour)
	for {
		more := e.turn()
		if e.finished() {
			break
		}
		e.wait(more)
	}
	e.finish()
}

// turn is one turn, but for the waiting. It reports whether there is more to send.
func (e *Endpoint) turn() (more bool) {
	now := e.now()
	e.obey(now)
	if e.core.Deadline() <= now {
		e.core.Tick(now)
	}
	e.report(now)
	more = e.flush()
	now = e.now()
	e.report(now)
	e.watch(now)
	return more || e.sendable()
}

// sendable says whether a flush would send something, or learn until when to wait: what came after the
// last one may have made it so.
func (e *Endpoint) sendable() bool {
	return e.core.Sendable() && (e.seat == nil || e.seat.held.N == 0)
}

// obey does what goroutines have asked for since the last turn.
func (e *Endpoint) obey(now mono.Time) {
	for s := e.inbox.Swap(nil); s != nil; {
		next := s.next
		s.next = nil
		s.pending.Store(false) // from here on s may be in the inbox again
		s.serve(now)
		s = next
	}
	e.mu.Lock()
	calls := e.calls
	e.calls = nil
	e.mu.Unlock()
	for _, f := range calls {
		f(now)
	}
}

// report takes the core's news to the streams.
func (e *Endpoint) report(now mono.Time) {
	for e.offer() {
		c := e.core.Accept()
		if c == nil {
			break
		}
		if e.listener == nil {
			c.Abort(now, 0)
			continue
		}
		s := e.attach(c)
		if s.serve(now); c.Err() != nil {
			s.end(now) // its event came before it had a handle
		}
		e.offered = s
	}
	for c := e.core.Next(); c != nil; c = e.core.Next() {
		events := c.Events()
		if s, ok := c.User.(*Stream); ok {
			s.on(events, now)
		}
	}
}

// offer hands the accepted stream to Accept and says whether there is room for another.
func (e *Endpoint) offer() bool {
	if e.offered == nil {
		return true
	}
	select {
	case e.accepts <- e.offered:
		e.offered = nil
		return true
	default:
		e.hungry.Store(true)
		select { // again: who has made room meanwhile has not seen the flag
		case e.accepts <- e.offered:
			e.offered = nil
			return true
		default:
			return false
		}
	}
}

// flush sends what is due and says whether there may be more.
func (e *Endpoint) flush() (more bool) {
	buf := sends.Get().(*[]byte)
	defer sends.Put(buf)
	if e.seat != nil && !e.seat.sendHeld() {
		return false
	}
	for range batchesMax {
		b := e.core.Send(e.now(), *buf)
		if b.N == 0 {
			return false
		}
		if b.Conn != nil {
			if s, ok := b.Conn.User.(*Stream); ok && b.Path != s.path {
				s.moved()
			}
		}
		if e.seat != nil {
			if !e.seat.send(&b, *buf) {
				return false
			}
		} else if s := e.socketAt(b.Path.Local); s != nil {
			e.unsent += uint64(s.send(&b, *buf))
		} else {
			e.unsent++
		}
	}
	return true
}

// wait sleeps until there is something to do, unless there is, and takes what has come.
func (e *Endpoint) wait(more bool) {
	e.idle.Store(true)
	e.mu.Lock()
	more = more || len(e.calls) > 0
	e.mu.Unlock()
	if more || e.inbox.Load() != nil {
		e.idle.Store(false)
		e.takeAll(e.now(), packetsMax)
		return
	}
	deadline := e.core.Deadline()
	for _, s := range e.sockets[min(1, len(e.sockets)):] {
		deadline = min(deadline, s.unusedAt.Add(lingering))
	}
	now := e.now()
	if deadline < e.timerAt || e.timerAt <= now {
		// A deadline that moved later is left: the timer fires early, and finds that nothing is
		// due.
		e.timerAt = min(deadline, now.Add(time.Hour))
		e.timer.Reset(max(e.timerAt.Sub(now), 0))
	}
	select {
	case p := <-e.packets:
		e.idle.Store(false)
		e.take(e.now(), p)
		e.takeAll(e.now(), packetsMax-1)
	case <-e.kick:
	case <-e.timer.C:
		e.timerAt = 0
	}
	e.idle.Store(false)
}

func (e *Endpoint) takeAll(now mono.Time, most int) {
	for range most {
		select {
		case p := <-e.packets:
			e.take(now, p)
		default:
			return
		}
	}
}

// take gives the core what one read brought.
func (e *Endpoint) take(now mono.Time, p *packet) {
	if p.err != nil {
		e.dropSocket(now, p.socket, p.err)
		return
	}
	path := core.Path{Local: p.socket.local, Remote: p.from}
	size := p.segment
	if size <= 0 {
		size = p.n
	}
	if p.n == 0 {
		size = 1 // an empty datagram: nothing to do
	}
	for at := 0; at < p.n; at += size {
		e.core.Recv(now, path, p.ecn, p.buf[at:min(at+size, p.n)])
	}
	p.release()
}

func (e *Endpoint) addSocket(s *socket) {
	e.sockets = append(e.sockets, s)
	e.readers.Add(1)
	go e.read(s)
}

func (e *Endpoint) socketAt(local netip.AddrPort) *socket {
	for _, s := range e.sockets {
		if s.local == local {
			return s
		}
	}
	return nil
}

// dropSocket closes a socket. err, if any, is why it can't be used any more: the connections on it
// end. Of one that was dropped before, that is but its reader's last word.
func (e *Endpoint) dropSocket(now mono.Time, s *socket, err error) {
	i := slices.Index(e.sockets, s)
	if i < 0 {
		return
	}
	e.sockets = append(e.sockets[:i:i], e.sockets[i+1:]...)
	_ = s.pc.Close()
	if err == nil {
		return
	}
	for stream := range e.streams {
		if stream.conn.Path().Local == s.local {
			stream.fail(now, errSocket{err})
		}
	}
	if len(e.sockets) == 0 {
		e.failure = errSocket{err}
	} else if i == 0 && e.listener != nil {
		e.listener.failed(errSocket{err}) // connections that have migrated go on
		e.refuse(now)
	}
}

// watch looks after what no event announces.
func (e *Endpoint) watch(now mono.Time) {
	for i := 0; i < len(e.watched); {
		if e.watched[i].look(now) {
			i++
			continue
		}
		e.watched[i].inWatch = false
		e.watched = append(e.watched[:i], e.watched[i+1:]...)
	}
	if len(e.sockets) > 1 {
		e.tidy(now)
	}
}

// tidy closes the sockets that migrations have left.
func (e *Endpoint) tidy(now mono.Time) {
	for _, s := range e.sockets[1:] {
		used := s.users > 0
		for stream := range e.streams {
			used = used || stream.conn.Path().Local == s.local
		}
		switch {
		case used:
			s.unusedAt = mono.Never
		case s.unusedAt == mono.Never:
			s.unusedAt = now
		case now >= s.unusedAt.Add(lingering):
			e.dropSocket(now, s, nil)
			return // the list has changed; the next turn goes on
		}
	}
}

// attach gives a connection its handle.
func (e *Endpoint) attach(c *core.Conn) *Stream {
	s := newStream(e, c)
	c.User = s
	e.streams[s] = struct{}{}
	return s
}

// refuse stops taking connections. Those that nobody has accepted are refused.
func (e *Endpoint) refuse(now mono.Time) {
	_ = e.core.Listen(false)
	e.listener = nil
	for {
		select {
		case s := <-e.accepts:
			s.turnAway(e, now)
			continue
		default:
		}
		break
	}
	if e.offered != nil {
		e.offered.fail(now, net.ErrClosed)
		e.offered = nil
	}
	if e.seat != nil {
		e.seat.g.feed() // there is room for others' now
	}
}

// turnAway ends a stream that waited for Accept. Those of a group wait together, so that it may be
// another worker's, which alone touches it.
func (s *Stream) turnAway(by *Endpoint, now mono.Time) {
	if s.endpoint == by {
		s.fail(now, net.ErrClosed)
		return
	}
	s.endpoint.post(func(now mono.Time) { s.fail(now, net.ErrClosed) })
}

func (e *Endpoint) stopListening(now mono.Time) {
	e.ending = true
	if e.listener != nil {
		e.listener.end()
	}
	e.refuse(now)
}

func (e *Endpoint) closeAll(now mono.Time) {
	e.stopListening(now)
	e.idleClose = true
	for s := range e.streams {
		s.fate.CompareAndSwap(0, fateClosed)
		s.serve(now)
		s.wakeAll()
	}
}

func (e *Endpoint) abortAll(now mono.Time) {
	e.stopListening(now)
	e.aborted = true
	for s := range e.streams {
		s.fate.CompareAndSwap(0, fateClosed)
		s.fail(now, net.ErrClosed)
	}
	e.core.Conns(func(c *core.Conn) bool {
		c.Abort(now, 0)
		return true
	})
}

// finished says whether nothing is left to do for the endpoint.
func (e *Endpoint) finished() bool {
	switch {
	case e.failure != nil:
		return true
	case e.core.Sendable() || e.seat != nil && e.seat.held.N > 0:
		return false
	case e.aborted:
		return true
	}
	quiet := e.core.Settled()
	return e.idleClose && e.listener == nil && len(e.streams) == 0 && quiet
}

// finish closes what is left and tells everybody who waits.
func (e *Endpoint) finish() {
	now := e.now()
	e.stopListening(now)
	err := e.failure
	if err == nil {
		err = net.ErrClosed
	}
	for s := range e.streams {
		s.fail(now, err)
		s.end(now)
	}
	e.mu.Lock()
	e.ended = true
	late := e.calls
	e.calls, e.last = nil, e.stats()
	e.mu.Unlock()
	for _, f := range late {
		f(now) // it may have brought something that has to be closed, or let go
	}
	close(e.quit)
	if e.seat != nil {
		e.seat.leave()
		return
	}
	e.timer.Stop()
	for _, s := range e.sockets {
		_ = s.pc.SetReadDeadline(time.Unix(1, 0)) // for sockets whose Close doesn't end a read
		_ = s.pc.Close()
	}
	e.readers.Wait()
	if e.log != nil {
		e.log.close()
	}
	close(e.done)
}

func (e *Endpoint) stats() EndpointStats {
	c := e.core.Stats()
	return EndpointStats{
		Conns: c.Conns, HalfOpen: c.HalfOpen, Accepted: c.Accepted, Refused: c.Refused,
		Retries:   c.Retries,
		BadTokens: c.BadTokens, Negotiations: c.Negotiations, Resets: c.Resets, Forged: c.ForgedInitial,
		Dropped: c.Dropped, Unsent: e.unsent, Forwarded: e.forwarded,
	}
}
