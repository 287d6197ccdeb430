package rudp

// This file changes if what a stream's user can do, or what those calls return, does.

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// Stream is one connection: a reliable, ordered stream of bytes in each direction. It is a
// net.Conn, an io.WriterTo and an io.ReaderFrom. All methods: any goroutine; reads take turns with
// reads, writes with writes. Slices given to a method are the caller's again when it returns;
// nothing is kept.
//
// Errors are *net.OpError with Net "rudp", but for io.EOF.
type Stream struct {
	endpoint *Endpoint

	// Between handle and actor.
	in       incoming
	out      byteRing
	lents    lentStack
	pending  atomic.Bool            // it is in the inbox
	next     *Stream                // in the inbox
	finish   atomic.Bool            // CloseWrite: nothing is written any more
	fate     atomic.Uint64          // 0: open; fateClosed; from fateReset on Reset, with its code
	readEnd  atomic.Pointer[ending] // set once all bytes before it are in the ring
	writeEnd atomic.Pointer[ending]
	addrs    atomic.Pointer[addrPair]
	final    atomic.Pointer[Stats]
	// delivered says that Close came to its good end: the peer has acknowledged everything.
	delivered atomic.Bool

	// The handle's.
	readTurn, writeTurn sync.Mutex
	reader, writer      waiter
	noMore              atomic.Bool // finish, as seen by writers

	connected chan struct{} // closed: dialing is over; nil: not dialed
	dialErr   error
	tls       tls.ConnectionState

	streamActor
}

// What becomes of a stream is decided once, by the first Close or Reset.
const (
	fateClosed = 1
	fateReset  = 2
)

func (s *Stream) isClosed() bool { return s.fate.Load() != 0 }

type ending struct{ err error }

type addrPair struct{ local, remote net.Addr }

var (
	_ net.Conn      = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
)

func newStream(e *Endpoint, c *core.Conn) *Stream {
	s := &Stream{endpoint: e}
	s.in.init()
	s.out.init(defaulted(e.cfg.SendBuffer, DefaultSendBuffer))
	s.reader.init()
	s.writer.init()
	s.conn = c
	c.Share(&s.in.freed)
	s.moved()
	if c.Connected() {
		s.tls = c.TLS()
	}
	return s
}

// signal has the actor look at the stream.
func (s *Stream) signal() {
	if s.pending.Load() || !s.pending.CompareAndSwap(false, true) {
		return // it will, and sees what came before this
	}
	e := s.endpoint
	for {
		s.next = e.inbox.Load()
		if e.inbox.CompareAndSwap(s.next, s) {
			break
		}
	}
	e.wake()
}

func (s *Stream) failed(op string, err error) error {
	a := s.addrs.Load()
	return &net.OpError{Op: op, Net: networkName, Source: a.local, Addr: a.remote, Err: err}
}

// Read waits for bytes and copies those that are there into p. Every byte that came in order is
// handed out before an error, which is io.EOF once the peer has ended its half by CloseWrite or
// Close and everything before that was read; net.ErrClosed after Close; a *ResetError (ECONNRESET)
// if the peer gave up; a timeout (ETIMEDOUT) if it fell silent; os.ErrDeadlineExceeded after the
// read deadline, which may be set anew. With an empty p it returns 0, nil. Blocks.
func (s *Stream) Read(p []byte) (int, error) {
	s.readTurn.Lock()
	defer s.readTurn.Unlock()
	if err := s.awaitBytes(len(p) > 0); err != nil || len(p) == 0 {
		return 0, err
	}
	n := s.in.read(p)
	s.relieve()
	return n, nil
}

// awaitBytes waits until there are bytes, in the reader's turn; without wait it only looks at what
// keeps every call from reading.
func (s *Stream) awaitBytes(wait bool) error {
	for {
		switch {
		case s.isClosed():
			return s.failed("read", net.ErrClosed)
		case s.reader.expired(s.endpoint):
			return s.failed("read", os.ErrDeadlineExceeded)
		case !wait:
			return nil
		}
		end := s.readEnd.Load() // before the bytes: then none can come after it
		if s.in.len() > 0 {
			return nil
		}
		if end != nil {
			if end.err == io.EOF {
				return io.EOF
			}
			return s.failed("read", end.err)
		}
		s.reader.armed.Store(true)
		if s.in.len() == 0 && s.readEnd.Load() == nil && !s.isClosed() &&
			!s.reader.expired(s.endpoint) {
			<-s.reader.kick
		}
		s.reader.armed.Store(false)
	}
}

// Write queues all of p to be sent. It waits while SendBuffer bytes are unacknowledged, so fewer
// than len(p) come back only with an error: net.ErrClosed after Close; EPIPE after CloseWrite, or
// once the peer reads no more or is gone; os.ErrDeadlineExceeded after the write deadline, which
// may be set anew. That it succeeds does not say that the peer has the bytes; see Drain. But what a Write has
// taken before Close was called, or reports as taken while it is, comes before the peer's io.EOF. Blocks.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writeTurn.Lock()
	defer s.writeTurn.Unlock()
	for {
		if err := s.writable(); err != nil {
			return n, err
		}
		if m := s.out.write(p[n:]); m > 0 {
			if s.isClosed() {
				continue // the actor may have looked for the last time before they were there
			}
			n += m
			s.signal()
		}
		if n == len(p) {
			return n, nil
		}
		s.awaitRoom()
	}
}

// writable returns what keeps every call from writing.
func (s *Stream) writable() error {
	end := s.writeEnd.Load()
	switch {
	case s.isClosed():
		return s.failed("write", net.ErrClosed)
	case s.noMore.Load():
		return s.failed("write", &pipeError{})
	case end != nil:
		return s.failed("write", end.err)
	case s.writer.expired(s.endpoint):
		return s.failed("write", os.ErrDeadlineExceeded)
	}
	return nil
}

// awaitRoom waits until there may be room, or writable may have something to say. Writer's turn.
func (s *Stream) awaitRoom() {
	s.writer.armed.Store(true)
	if s.out.room() <= 0 && s.writeEnd.Load() == nil && !s.isClosed() && !s.noMore.Load() &&
		!s.writer.expired(s.endpoint) {
		<-s.writer.kick
	}
	s.writer.armed.Store(false)
}

const (
	copySize   = 32 << 10
	writeToMax = 64 << 10
)

var copies = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// WriteTo writes to w what comes, from where it was received, until io.EOF, which it returns as nil.
// w gets at most 64 KiB at a time, only to be read. Blocks.
func (s *Stream) WriteTo(w io.Writer) (n int64, err error) {
	for {
		l, err := s.ReadLease(writeToMax)
		if err == io.EOF { //nolint:errorlint // io.EOF comes bare
			return n, nil
		}
		if err != nil {
			return n, err
		}
		m, err := w.Write(l.data)
		short := m < l.Len()
		l.Release()
		n += int64(m)
		switch {
		case err != nil:
			return n, err
		case short:
			return n, io.ErrShortWrite
		}
	}
}

// ReadFrom writes what r gives until io.EOF, which it returns as nil. Blocks.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	buf := copies.Get().(*[]byte)
	defer copies.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{r}, *buf)
}

// CloseWrite ends the writing half: the peer reads io.EOF after what was written. Reading goes on.
// A Write that waits returns EPIPE. Errors: net.ErrClosed after Close, EPIPE if the peer is gone. A
// second call returns nil.
func (s *Stream) CloseWrite() error {
	switch end := s.writeEnd.Load(); {
	case s.isClosed():
		return s.failed("close", net.ErrClosed)
	case s.noMore.Load():
		return nil
	case end != nil:
		return s.failed("close", end.err)
	}
	s.noMore.Store(true)
	s.writer.wake()
	s.writeTurn.Lock() // who was writing has left: nothing follows what is in the ring
	s.finish.Store(true)
	s.writeTurn.Unlock()
	s.signal()
	return nil
}

// Close ends both directions and returns at once. The endpoint delivers what was written and then
// closes the connection; Endpoint.Shutdown waits for that, and IdleTimeout bounds it where the peer
// is gone. With bytes unread it resets instead, as TCP does: what was written may be lost, and the
// peer's Read fails with a *ResetError of code 0. Waiting calls return net.ErrClosed. A second call
// returns nil.
func (s *Stream) Close() error {
	if !s.fate.CompareAndSwap(0, fateClosed) {
		return nil
	}
	s.wakeAll()
	s.signal()
	return nil
}

// Reset gives both directions up: what was written and not delivered is lost, and the peer's Read
// fails with a *ResetError of this code, which is below 2^62. It returns at once. After Close it
// returns net.ErrClosed.
func (s *Stream) Reset(code uint64) error {
	if code >= 1<<62 {
		return s.failed("reset", syscall.EINVAL)
	}
	if !s.fate.CompareAndSwap(0, fateReset+code) {
		return s.failed("reset", net.ErrClosed)
	}
	s.wakeAll()
	s.signal()
	return nil
}

func (s *Stream) wakeAll() {
	s.reader.stop()
	s.writer.stop()
}

// abandon gives up a connection that Dial doesn't wait for any more.
func (s *Stream) abandon() { _ = s.Reset(0) }

// Drain waits until the peer's system has acknowledged all bytes written so far; its program need
// not have read them. It may follow Close. Errors: ctx's; EPIPE if the peer is gone, net.ErrClosed
// if this side gave up. Blocks.
func (s *Stream) Drain(ctx context.Context) error {
	answer := make(chan error, 1)
	e := s.endpoint
	var err error
	if e.post(func(now mono.Time) { s.drain(answer, now) }) {
		select {
		case err = <-answer:
		case <-e.done:
			err = s.drained()
		case <-ctx.Done():
			err = contextError(ctx.Err())
		}
	} else {
		<-e.done
		err = s.drained()
	}
	if err != nil {
		return s.failed("drain", err)
	}
	return nil
}

// drained is what Drain says once nothing more can be delivered.
func (s *Stream) drained() error {
	if s.delivered.Load() {
		return nil
	}
	if end := s.writeEnd.Load(); end != nil && !s.isClosed() {
		return end.err
	}
	return net.ErrClosed
}

// Migrate moves the connection to another local address and returns when the peer has answered
// there: data goes on along the old path until then (RFC 9000, section 9). local may be the zero
// value or have port 0: the system chooses. Only the side that dialed may migrate, and not from a
// Group's address: ErrNotMigratable. Other errors: ErrPathFailed, those of opening a socket, ErrReplaced,
// net.ErrClosed or Read's once the connection is over, and ctx's, after which the connection may still
// move. Blocks.
func (s *Stream) Migrate(ctx context.Context, local netip.AddrPort) error {
	if err := s.migrateTo(ctx, local); err != nil {
		return s.failed("migrate", contextError(err))
	}
	return nil
}

func (s *Stream) migrateTo(ctx context.Context, local netip.AddrPort) error {
	e := s.endpoint
	if s.connected == nil || e.seat != nil {
		return ErrNotMigratable
	}
	remote, _ := addrPort(s.RemoteAddr())
	local = unmapped(local)
	if !local.Addr().IsValid() {
		local = netip.AddrPortFrom(netip.IPv4Unspecified(), local.Port())
		if !remote.Addr().Is4() {
			local = netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())
		}
	}
	if local.Addr().Is4() != remote.Addr().Is4() {
		return &net.AddrError{Err: "not of the peer's family", Addr: local.String()}
	}
	m := &migration{result: make(chan error, 1)}
	if !e.do(func(mono.Time) { m.socket = e.socketAt(local) }) {
		return net.ErrClosed
	}
	opened := m.socket == nil
	if opened {
		var err error
		if m.socket, err = e.open(local); err != nil {
			return err
		}
	}
	if !e.post(func(now mono.Time) { s.migrate(m, opened, now) }) {
		if opened {
			_ = m.socket.pc.Close()
		}
		return net.ErrClosed
	}
	select {
	case err := <-m.result:
		return err
	case <-ctx.Done():
		e.post(func(mono.Time) { s.leave(m, ctx.Err()) })
		return ctx.Err()
	}
}

// SetDeadline sets both deadlines. A call that waits, or begins, after its deadline returns
// os.ErrDeadlineExceeded; the stream stays usable. The zero time: none.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline sets that of Read.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadline(&s.reader, t) }

// SetWriteDeadline sets that of Write.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.writer, t) }

func (s *Stream) setDeadline(w *waiter, t time.Time) error {
	if s.isClosed() {
		return s.failed("set", net.ErrClosed)
	}
	w.set(s.endpoint, t)
	return nil
}

// LocalAddr returns the address of this side's socket, which Migrate changes.
func (s *Stream) LocalAddr() net.Addr { return s.addrs.Load().local }

// RemoteAddr returns the peer's address, as seen from here. It changes when the peer migrates, or a
// NAT between the two gives it another one.
func (s *Stream) RemoteAddr() net.Addr { return s.addrs.Load().remote }

// ConnectionState returns what TLS has negotiated.
func (s *Stream) ConnectionState() tls.ConnectionState { return s.tls }

// Endpoint returns the endpoint of the connection.
func (s *Stream) Endpoint() *Endpoint { return s.endpoint }

// Stats are a connection's counters and estimates.
type Stats struct {
	RTT, MinRTT, RTTVar time.Duration
	Window, InFlight    uint64 // bytes that may be, and are, under way
	Rate                uint64 // at which the connection sends, in bytes a second
	MTU                 int    // bytes of a datagram

	PacketsSent, PacketsReceived uint64
	BytesSent, BytesReceived     uint64 // of datagrams, without IP and UDP headers
	PacketsLost                  uint64
	PacketsSpurious              uint64 // taken for lost, yet acknowledged later
	Probes                       uint64 // probe timeouts: RFC 9002, section 6.2
	Dropped                      uint64 // packets that were not authentic, or made no sense
	StreamSent, StreamReceived   uint64 // bytes acknowledged; bytes in order
	KeyUpdates                   uint64
}

// Stats returns the counters; after the connection's end, the last ones. Blocks until the actor
// answers.
func (s *Stream) Stats() (st Stats) {
	s.endpoint.do(func(mono.Time) {
		if s.conn != nil {
			st = statsOf(s.conn)
		}
	})
	if last := s.final.Load(); last != nil {
		return *last
	}
	return st
}

func statsOf(c *core.Conn) Stats {
	s := c.Stats()
	return Stats{
		RTT: s.RTT, MinRTT: s.MinRTT, RTTVar: s.RTTVar, Window: s.Window,
		InFlight: s.InFlight, Rate: s.Rate, MTU: s.MTU, PacketsSent: s.PacketsSent,
		PacketsReceived: s.PacketsReceived, BytesSent: s.BytesSent,
		BytesReceived: s.BytesReceived, PacketsLost: s.PacketsLost, PacketsSpurious: s.PacketsSpurious,
		Probes: s.Probes, Dropped: s.Dropped, StreamSent: s.StreamSent, StreamReceived: s.StreamReceived,
		KeyUpdates: s.KeyUpdates,
	}
}
