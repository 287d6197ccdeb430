package rudp

// This file changes if what the actor does for a stream does.

import (
	"errors"
	"io"
	"math"
	"net"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// streamActor is the part of a Stream that only the actor touches.
type streamActor struct {
	conn      *core.Conn // nil once it is over
	path      core.Path
	given     bool // Close or Reset has reached the core
	gaveUp    bool // it was a reset
	ended     bool // CloseWrite has reached the core
	closing   bool // Close or Reset was seen
	override  error
	migration *migration
	drains    []drain
	inWatch   bool
	waiting   lentList // not yet in the core
	kept      lentList // in the core, until acknowledged
	freed     uint64   // the peer has every byte below, and they are given back
	dropped   bool     // the core has forgotten what was written
	leases    int      // in kept
	shown     int      // the length of the ring that the user sees
}

type drain struct {
	upTo   uint64 // bytes acknowledged
	answer chan error
}

// migration is one call of Migrate.
type migration struct {
	socket *socket
	begun  bool
	result chan error
}

// serve tells the core what the user has written and asked for, and the user what came.
func (s *Stream) serve(now mono.Time) {
	if s.conn == nil {
		s.dropLents()
		return
	}
	if fate := s.fate.Load(); fate != 0 && !s.closing {
		s.closing = true
		taken := s.in.taken.Load()
		_, ready, _, _ := s.conn.Incoming(now)
		s.conn.Unshare(taken)
		switch {
		case fate >= fateReset:
			s.giveUp(now, fate-fateReset)
		case ready > taken:
			s.giveUp(now, 0)
		}
	}
	finish := s.finish.Load() // before the ring: then all of its bytes are seen
	s.push(now)
	s.settle()
	if s.leases > 0 && s.conn.Stalled() {
		s.copyLeases()
	}
	s.show(now)
	switch {
	case s.given:
	case s.closing:
		s.given = true
		s.conn.Close(now)
	case finish && !s.ended:
		s.ended = true
		_ = s.conn.CloseWrite(now) // it fails where Write did already
	}
}

func (s *Stream) giveUp(now mono.Time, code uint64) {
	if !s.given {
		s.given, s.gaveUp = true, true
		s.conn.Reset(now, code)
		s.dropLents()
	}
}

// push tells the core of what was written. The core sends it from where it lies.
func (s *Stream) push(now mono.Time) {
	for {
		p := s.out.next() // before the loans: those that come before p are seen then
		s.waiting.append(s.lents.take())
		l := s.waiting.first
		if l != nil && l.before == s.out.taken {
			s.waiting.pop()
			l.start = s.conn.Written()
			if s.conn.Refer(now, l.data[:len(l.data):len(l.data)]) != nil {
				s.out.release(len(l.data))
				l.giveBack()
				s.endWriting()
				continue
			}
			s.kept.append(lentList{l, l})
			if l.isLease {
				s.leases++
			}
			continue
		}
		if l != nil {
			p = p[:min(uint64(len(p)), l.before-s.out.taken)]
		}
		if len(p) == 0 {
			if l == nil {
				return
			}
			continue // the bytes before the loan have come since
		}
		s.out.take(len(p))
		if s.conn.Refer(now, p) != nil {
			s.endWriting() // nobody will ever get them
		}
	}
}

// settle gives back what the peer has acknowledged, in the stream's order.
func (s *Stream) settle() {
	if s.dropped {
		return
	}
	upTo, bound := s.conn.Kept()
	for s.freed < upTo {
		l := s.kept.first
		if l == nil || l.start > s.freed {
			end := upTo
			if l != nil {
				end = min(end, l.start)
			}
			s.out.discard(int(end - s.freed))
			s.freed = end
			continue
		}
		if l.end() > upTo {
			break
		}
		s.freed = l.end()
		s.out.release(len(l.data))
		if l.isLease {
			s.leases--
		}
		s.kept.pop().giveBack()
	}
	s.out.limit.Store(int64(bound))
	if room := s.out.room(); room >= bound/32 {
		s.writer.wake()
	}
}

// dropLents gives back everything that was lent, acknowledged or not: the core has forgotten it.
func (s *Stream) dropLents() {
	s.dropped = true
	s.waiting.append(s.lents.take())
	s.waiting.giveBack()
	s.kept.giveBack()
}

// copyLeases gives leases back whose bytes may wait for long, and goes on with copies.
func (s *Stream) copyLeases() {
	for l := s.kept.first; l != nil; l = l.next {
		if l.isLease {
			l.keepCopy()
			s.conn.Replace(l.start, l.data)
		}
	}
	s.leases = 0
}

func (s *Stream) endWriting() {
	if s.writeEnd.Load() != nil {
		return
	}
	var cause error
	switch {
	case s.override != nil:
		cause = s.override
	case s.conn.Err() != nil:
		cause = connError(s.conn.Err())
	}
	s.writeEnd.Store(&ending{&pipeError{cause}})
	s.writer.wake()
}

// show lets the user see what came in order, and the core how far the user is.
func (s *Stream) show(now mono.Time) {
	if s.closing || s.readEnd.Load() != nil {
		return
	}
	for {
		ring, ready, mark, err := s.conn.Incoming(now)
		if len(ring) > s.shown {
			shown := ring // the slice that the user's pointer keeps
			s.in.ring.Store(&shown)
			s.shown = len(ring)
		}
		moved := ready != s.in.ready.Load()
		s.in.ready.Store(ready)
		s.in.mark.Store(mark)
		switch {
		case err != nil:
			s.in.mark.Store(math.MaxUint64)
			s.endReading(err)
			return
		case moved:
			s.reader.wake()
		}
		if s.in.freed.Load() < mark {
			return
		} // the user came so far before it could see the mark
	}
}

func (s *Stream) endReading(err error) {
	if err != io.EOF {
		err = connError(err)
		if s.override != nil {
			err = s.override
		}
	}
	s.readEnd.Store(&ending{err})
	s.reader.wake()
}

// on does what events of the core ask for.
func (s *Stream) on(events core.Events, now mono.Time) {
	if s.conn == nil {
		return
	}
	if events&core.EventConnected != 0 && s.connected != nil {
		s.tls = s.conn.TLS()
		close(s.connected)
	}
	if events&core.EventMigrated != 0 && s.migration != nil && s.migration.begun {
		s.moved()
		s.leave(s.migration, migrateError(s.conn.MigrateErr()))
	}
	if events&core.EventClosed != 0 {
		s.end(now)
		return
	}
	if s.conn.Stopped() {
		s.endWriting()
		s.dropLents()
	}
	s.serve(now)
}

func migrateError(err error) error {
	switch err {
	case core.ErrPathFailed:
		return ErrPathFailed
	case core.ErrNotMigratable:
		return ErrNotMigratable
	}
	return err
}

// fail ends the connection for a reason of this side's.
func (s *Stream) fail(now mono.Time, err error) {
	if s.conn == nil {
		return
	}
	if s.override == nil {
		s.override = err
	}
	s.conn.Abort(now, 0)
}

// end is the last that the actor does for a stream: the user sees all that can still be read, and
// every call that waits learns why nothing more comes.
func (s *Stream) end(now mono.Time) {
	if s.conn == nil {
		return
	}
	s.show(now)
	s.endWriting()
	s.dropLents()
	if s.readEnd.Load() == nil {
		s.endReading(net.ErrClosed)
	}
	if s.migration != nil {
		err := s.readEnd.Load().err
		if err == io.EOF { // the end of what the peer sends is no reason; that of the connection is
			err = net.ErrClosed
		}
		s.leave(s.migration, err)
	}
	var e *core.CloseError
	s.delivered.Store(s.override == nil && s.given && !s.conn.Stopped() &&
		errors.As(s.conn.Err(), &e) && e.Kind == core.KindClosed && !e.Remote)
	for _, d := range s.drains {
		d.answer <- s.drained()
	}
	s.drains = nil
	last := statsOf(s.conn)
	s.final.Store(&last)
	if s.connected != nil {
		select {
		case <-s.connected:
		default:
			s.dialErr = s.why()
			close(s.connected)
		}
	}
	s.conn.User = nil
	s.conn = nil
	delete(s.endpoint.streams, s)
	s.reader.wake()
	s.writer.wake()
}

// why is the reason that Dial tells.
func (s *Stream) why() error {
	if s.override != nil {
		return s.override
	}
	if err := s.conn.Err(); err != nil {
		return connError(err)
	}
	return net.ErrClosed
}

// moved tells the handle which addresses the connection uses now.
func (s *Stream) moved() {
	p := s.conn.Path()
	if p != s.path {
		s.path = p
		s.addrs.Store(&addrPair{Addr{p.Local}, Addr{p.Remote}})
	}
}

// watch has the actor look at the stream every turn.
func (s *Stream) watch() {
	if !s.inWatch {
		s.inWatch = true
		s.endpoint.watched = append(s.endpoint.watched, s)
	}
}

// look says whether the stream is to be watched on.
func (s *Stream) look(now mono.Time) bool {
	if s.conn == nil {
		return false
	}
	s.beginMigration(now)
	s.answerDrains()
	return s.migration != nil && !s.migration.begun || len(s.drains) > 0
}

func (s *Stream) drain(answer chan error, now mono.Time) {
	if s.conn == nil {
		answer <- s.drained()
		return
	}
	s.serve(now)
	s.drains = append(s.drains, drain{s.conn.Written(), answer})
	s.watch()
}

func (s *Stream) answerDrains() {
	kept := s.drains[:0]
	for _, d := range s.drains {
		if s.conn.Stopped() {
			s.endWriting()
			s.dropLents()
		}
		switch {
		case s.writeEnd.Load() != nil || s.gaveUp:
			d.answer <- s.drained()
		case s.conn.Acknowledged() >= d.upTo:
			d.answer <- nil
		default:
			kept = append(kept, d)
		}
	}
	clear(s.drains[len(kept):])
	s.drains = kept
}

// migrate begins a migration once the handshake is confirmed; opened says that its socket is new.
func (s *Stream) migrate(m *migration, opened bool, now mono.Time) {
	if opened {
		s.endpoint.addSocket(m.socket)
	}
	if s.conn == nil {
		m.result <- net.ErrClosed
		return
	}
	if s.migration != nil {
		s.leave(s.migration, ErrReplaced)
	}
	s.migration = m
	m.socket.users++
	s.beginMigration(now)
	if s.migration == m && !m.begun {
		s.watch()
	}
}

func (s *Stream) beginMigration(now mono.Time) {
	m := s.migration
	if m == nil || m.begun || !s.conn.Confirmed() {
		return
	}
	m.begun = true
	if err := s.conn.Migrate(now, m.socket.local); err != nil {
		s.leave(m, migrateError(err))
	}
}

// leave ends a call of Migrate.
func (s *Stream) leave(m *migration, err error) {
	if s.migration != m {
		return
	}
	s.migration = nil
	m.socket.users--
	m.result <- err
}
