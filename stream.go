package veloq

// Stream: a connection of TCP or of a unix socket on a worker: its state, its completions and its end.

import (
	"net"
	"os"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// Stream is a connection of TCP or of a unix socket ("unix") that lives on a worker. In a task its calls park the task and block
// nobody else; in a handler they return at once (see Handler). One task may read while others write.
//
// It is a net.Conn, so that code written for one runs in a task, as long as it stays there.
//
// Every method is Worker only, unless it says otherwise: from another worker or goroutine it returns
// ErrWrongWorker. Errors are *net.OpError as package net makes them, with the same things inside:
// errors.Is works for net.ErrClosed, os.ErrDeadlineExceeded, io.EOF and the system's errno.
type Stream struct {
	// Small fields share words: idle connections are many.
	w        *worker
	slot     uint64
	note     debugtag.Note[origin]
	at       *binding // of a server; nil for dialed and accepted ones
	fd       int32
	inFlight int16 // ops in flight, inline sends not counted
	network  networkID

	handled    bool // by server.handler: the handler door
	recvArmed  bool
	recvCancel bool // a cancel of the receive is under way
	starving   bool // waits for a receive buffer
	paused     bool // by PauseRead
	readShut   bool // CloseRead was called
	dirty      bool // in w.dirty
	settling   bool // in w.settling
	shutWanted bool // CloseWrite was called
	shutSent   bool
	closed     bool // Close was called, or what amounts to it
	closeTold  bool // OnClose was called
	abandoned  bool // unsent bytes are given up
	released   bool // the descriptor is on its way out
	lingers    bool // close(2) may block
	lending    bool // in w.lending
	// The kernel copies what it is given not to: for good, that depends on the route.
	copiedAnyway bool
	wasReset     bool // by reset
	wantRoom     bool // a handler met ErrFull and waits for OnWritable

	recv       receive
	send       sending
	user       any
	closeErr   error       // why it closed; nil by the user's wish
	connecting *connecting // while it connects
	deadline   *deadlines  // nil until one is set
	addrs      *addrPair   // nil until one is asked for
}

var _ net.Conn = (*Stream)(nil)

// addrPair holds the addresses once they have been asked for.
type addrPair struct {
	local, remote net.Addr
}

// newStream makes the stream of an open socket. The worker owns fd from here.
func (w *worker) newStream(fd int32, network string) *Stream {
	s := &Stream{w: w, fd: fd, network: networkOf(network)}
	s.slot = w.slots.add(s)
	w.streams++
	w.load.Add(1)
	if debugtag.Enabled {
		s.note.Set(w.origin())
	}
	return s
}

// complete implements operand.
func (s *Stream) complete(kind opKind, res int32, flags uint32) {
	switch kind {
	case opRecv:
		s.onRecv(res, flags)
	case opSendInline:
		s.onSendInline(res)
	case opSend:
		s.onSend(res)
	case opSendFile:
		s.onSendFile(res)
	case opShutdown, opReset:
		s.inFlight--
		s.w.wake(s.send.writer)
		s.settle()
	case opConnect:
		s.inFlight--
		s.onConnect(res)
	}
}

// Close closes the stream: waiting calls return net.ErrClosed, what was written is still sent in the
// background, for Config.CloseTimeout at most, and then the socket is closed. It returns at once. A
// second Close does nothing.
func (s *Stream) Close() error {
	if err := s.check("close"); err != nil {
		return err
	}
	s.close(nil)
	return nil
}

// close begins the end; why is what the handler's OnClose will hear, nil for the user's own Close.
func (s *Stream) close(why error) {
	if s.closed {
		return
	}
	s.closed = true
	s.closeErr = why
	s.stopRecv()
	s.dropUnread()
	s.wakeAll()
	if s.send.failed != nil {
		s.abandon()
	} else if s.pending() > 0 {
		s.boundClose()
	}
	if s.connecting != nil {
		s.connecting.cancelled = true
		s.w.stageCancel(opConnect, s.slot)
	}
	s.settle()
}

// abandon gives up what has not been sent.
func (s *Stream) abandon() {
	if s.abandoned {
		return
	}
	s.abandoned = true
	if o := s.send.out; o != nil && o.busy && o.blocked {
		s.cancelSend()
	}
	s.dropOut()
	s.settle()
}

// cancelMissed implements canceller.
func (s *Stream) cancelMissed() {
	if s.recvArmed && s.recvCancel {
		s.w.stageCancel(opRecv, s.slot)
	}
	if o := s.send.out; o != nil && o.busy && o.cancelled {
		s.cancelSend()
	}
	if c := s.connecting; c != nil && c.cancelled && !c.done {
		s.w.stageCancel(opConnect, s.slot)
	}
}

// abort implements operand: the runtime ends.
func (s *Stream) abort() {
	s.close(ErrClosed)
	s.abandon()
}

// inUse implements holder.
func (s *Stream) inUse() bool { return s.inFlight > 0 }

// discard implements holder.
func (s *Stream) discard() {
	if s.fd >= 0 {
		_ = core.CloseSocket(s.fd)
	}
	s.orphanReserved()
	if s.send.out != nil {
		s.send.out.drop()
		s.send.out.free()
	}
}

func (s *Stream) wakeAll() {
	s.w.wake(s.recv.reader)
	s.w.wake(s.send.writer)
	s.send.wakeQueue(s.w)
}

// settle has the worker look at the stream once this dispatch is over: whether a half-close or the
// end of the socket can go out now.
func (s *Stream) settle() {
	if !s.settling && (s.closed || s.shutWanted) {
		s.settling = true
		s.w.settling.add(s)
	}
}

// settleStreams takes the next step of every stream that is shutting down or closing.
func (w *worker) settleStreams() {
	for _, s := range w.settling.take() {
		s.settling = false
		s.step()
	}
}

// turnList is objects that wait for one step of the turn. Those that are added while it is taken
// wait for the next turn's.
type turnList[T any] struct {
	list, taken []T
}

type streamList = turnList[*Stream]

func (l *turnList[T]) add(s T) { l.list = append(l.list, s) }

func (l *turnList[T]) len() int { return len(l.list) }

// take empties the list. What it returns is valid until the next take.
func (l *turnList[T]) take() []T {
	clear(l.taken) // keeps no stream alive that has ended
	l.list, l.taken = l.taken[:0], l.list
	return l.taken
}

func (s *Stream) step() {
	if s.closed && !s.closeTold {
		s.closeTold = true
		s.tellClosed()
	}
	if s.released {
		return
	}
	if s.unconfirmed() {
		return // the end of that send comes back here
	}
	if s.sendingFile() {
		return // its end comes back here
	}
	out := s.send.out
	if out != nil && (out.busy || (out.bytes > 0 && !s.abandoned)) {
		return // its completion comes back here
	}
	if s.shutWanted && !s.shutSent && !s.closed {
		s.shutSent = true
		sqe := s.w.stage(core.OpShutdown, opShutdown, s.slot)
		sqe.FD = s.fd
		sqe.Len = core.ShutWrite
		s.inFlight++
		return
	}
	if s.closed && s.inFlight == 0 && s.recv.reader == nil && s.send.writer == nil {
		s.release()
	}
}

// release closes the descriptor and leaves the worker's table: no op is in flight any more.
func (s *Stream) release() {
	s.released = true
	s.dropOut()
	s.orphanReserved()
	s.clearDeadlines()
	w := s.w
	if s.fd >= 0 {
		sqe := w.stage(core.OpClose, opClose, s.slot)
		sqe.FD = s.fd
		sqe.Flags = w.skipSuccess
		if s.lingers {
			sqe.Flags |= core.SQEMayBlock
		}
		s.fd = -1
	}
	w.slots.remove(s.slot)
	w.streams--
	w.load.Add(-1)
	if s.at != nil {
		s.at.server.connEnded(w)
	}
}

// check is what every public method asks first: the right caller, and still open.
func (s *Stream) check(op string) error {
	if !s.w.here() {
		return s.opError(op, s.w.elsewhere())
	}
	if s.closed && op != "close" {
		s.w.giveWay()
		return s.opError(op, net.ErrClosed)
	}
	return nil
}

// opError wraps err as package net does: with both addresses and the network.
func (s *Stream) opError(op string, err error) error {
	e := &net.OpError{Op: op, Net: s.network.String(), Err: err}
	// The addresses are asked of the socket on first use; a wrong caller must not do that here.
	if s.w.here() {
		e.Source, e.Addr = s.localAddr(), s.remoteAddr()
	}
	return e
}

// sysError is opError for a completion's negative result.
func (s *Stream) sysError(op, call string, res int32) error {
	return s.opError(op, os.NewSyscallError(call, core.Errno(-res).Sys()))
}

// LocalAddr returns the local address, a *net.TCPAddr or *net.UnixAddr, or nil where the system can't say. It is known
// from the first call on; before that, and for the first call itself, Worker only.
func (s *Stream) LocalAddr() net.Addr { return s.localAddr() }

// RemoteAddr returns the peer's address, as LocalAddr does the local one.
func (s *Stream) RemoteAddr() net.Addr { return s.remoteAddr() }

func (s *Stream) localAddr() net.Addr {
	p := s.addrPair()
	if p.local == nil && s.fd >= 0 {
		if a, err := core.LocalAddr(s.fd); err == nil {
			p.local = streamAddr(&a)
		}
	}
	return p.local
}

func (s *Stream) remoteAddr() net.Addr {
	p := s.addrPair()
	if p.remote == nil && s.fd >= 0 && s.connecting == nil {
		if a, err := core.PeerAddr(s.fd); err == nil {
			p.remote = streamAddr(&a)
		}
	}
	return p.remote
}

func (s *Stream) addrPair() *addrPair {
	if s.addrs == nil {
		s.addrs = &addrPair{}
	}
	return s.addrs
}

// IsActive reports whether the stream is open at both ends, as far as the worker has been told, without
// a read: false after Close, after the peer's FIN or a reset, though unread bytes may be there, after an
// error of a read or a write, and after CloseRead. What the peer does is heard while the stream receives:
// not while it is paused, or Config.ReadLimit bytes are unread. From elsewhere it is false. Worker only.
func (s *Stream) IsActive() bool {
	return s.w.here() && !s.closed && s.connecting == nil && s.recv.err == nil && s.send.failed == nil
}

// UserData returns what SetUserData stored, nil before.
func (s *Stream) UserData() any { return s.user }

// SetUserData stores one value with the stream, for handlers.
func (s *Stream) SetUserData(v any) { s.user = v }

// Worker returns the index of the worker that the stream lives on. Any goroutine.
func (s *Stream) Worker() int { return s.w.id }
