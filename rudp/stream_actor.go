package rudp

// This file changes if what the actor does for a stream does.

import (
	"errors"
	"io"
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

// serve moves bytes both ways as far as there is room and gives the core what the user has asked
// for.
func (s *Stream) serve(now mono.Time) {
	if s.conn == nil {
		return
	}
	if fate := s.fate.Load(); fate != 0 && !s.closing {
		s.closing = true
		switch {
		case fate >= fateReset:
			s.giveUp(now, fate-fateReset)
		case s.in.len() > 0 || s.conn.Readable() > 0:
			s.giveUp(now, 0)
		}
	}
	finish := s.finish.Load() // before the ring: then all of its bytes are seen
	s.push(now)
	s.pull(now)
	switch {
	case s.given || s.out.len() > 0:
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
	}
}

// push moves what was written into the core's send buffer.
func (s *Stream) push(now mono.Time) {
	moved := false
	for p := s.out.peek(); p != nil; p = s.out.peek() {
		n, err := s.conn.Write(now, p)
		if err != nil {
			n = len(p) // nobody will ever get them
			s.endWriting()
		}
		if n == 0 {
			break
		}
		s.out.discard(n)
		moved = true
	}
	if moved {
		s.writer.wake()
	}
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

// pull moves what came in order to the user's ring. What it has no room for stays in the core, and
// closes the window to the peer.
func (s *Stream) pull(now mono.Time) {
	if s.closing || s.given {
		s.discard(now)
		return
	}
	moved := false
	for s.readEnd.Load() == nil {
		var room []byte
		if want := s.conn.Readable(); want > 0 {
			if room = s.in.space(want); room == nil {
				s.stalled.Store(true)
				if room = s.in.space(want); room == nil {
					break
				}
				s.stalled.Store(false)
			}
		}
		n, err := s.conn.Read(now, room)
		if n > 0 {
			s.in.commit(n)
			moved = true
			continue
		}
		if err == nil {
			break
		}
		s.endReading(err)
	}
	if moved {
		s.reader.wake()
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

// discard throws away what comes after Close, while what was written is still on its way.
func (s *Stream) discard(now mono.Time) {
	buf := sends.Get().(*[]byte)
	defer sends.Put(buf)
	for {
		if n, err := s.conn.Read(now, *buf); n == 0 || err != nil {
			return
		}
	}
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

// end is the last that the actor does for a stream: all that can still be read goes into the ring,
// and every call that waits learns why nothing more comes.
func (s *Stream) end(now mono.Time) {
	if s.conn == nil {
		return
	}
	if n := s.conn.Readable(); n > 0 && !s.closing && !s.given {
		s.in.limit += n + s.in.limit
		s.in.extend(n) // room for all, whatever lies before it
	}
	s.pull(now)
	s.endWriting()
	if s.readEnd.Load() == nil {
		s.endReading(net.ErrClosed)
	}
	if s.migration != nil {
		s.leave(s.migration, s.readEnd.Load().err)
	}
	var e *core.CloseError
	s.delivered.Store(s.override == nil && s.closing && s.out.len() == 0 &&
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
	s.drains = append(s.drains, drain{s.conn.Written() + uint64(s.out.len()), answer})
	s.watch()
}

func (s *Stream) answerDrains() {
	kept := s.drains[:0]
	for _, d := range s.drains {
		if s.conn.Stopped() {
			s.endWriting()
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
