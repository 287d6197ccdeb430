package rudp

// This file changes if what can be asked of an endpoint, or how goroutines reach its actor, does.

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// Endpoint is all connections of one socket, to dial and to listen on. All methods: any goroutine.
type Endpoint struct {
	cfg   *Config
	start time.Time
	addr  Addr

	// How others reach the actor.
	inbox   atomic.Pointer[Stream] // streams with orders, the last one first
	idle    atomic.Bool            // the actor waits, or is about to
	kick    chan struct{}
	packets chan *packet
	accepts chan *Stream
	hungry  atomic.Bool   // a stream waits for room in accepts
	quit    chan struct{} // closed: readers end
	done    chan struct{} // closed: the actor has ended
	readers sync.WaitGroup

	mu    sync.Mutex
	calls []func(now mono.Time) // what the actor is to run
	ended bool                  // the actor takes no more calls
	last  EndpointStats

	seat *seat // on a worker; nil: a goroutine's
	actor
}

// EndpointStats are an endpoint's counters.
type EndpointStats struct {
	Conns    int // connections, those that are ending included
	HalfOpen int // of those, servers' handshakes under way

	Accepted     uint64 // connections handed to Accept
	Refused      uint64 // by AcceptQueue or MaxConns
	Retries      uint64 // clients that were asked to come again with a token
	BadTokens    uint64
	Negotiations uint64 // answers to other versions
	Resets       uint64 // stateless resets sent
	Forged       uint64 // first packets that were not authentic

	Dropped   uint64 // datagrams that belong to no connection, or make no sense
	Unsent    uint64 // sends that the system refused, and datagrams lost on the way to their worker
	Forwarded uint64 // datagrams that came to another worker than theirs: see Group
}

func newEndpoint(pc PacketConn, cfg *Config) (*Endpoint, error) {
	s, err := newSocket(pc)
	if err != nil {
		_ = pc.Close()
		return nil, err
	}
	e, err := prepareEndpoint(cfg, s, 0, nil)
	if err != nil {
		_ = pc.Close()
		return nil, err
	}
	e.packets, e.kick = make(chan *packet, 64), make(chan struct{}, 1)
	e.accepts = make(chan *Stream, 1)
	e.addSocket(s)
	go e.run()
	return e, nil
}

// prepareEndpoint makes an endpoint that nobody drives yet, for a socket that isn't read yet.
func prepareEndpoint(cfg *Config, s *socket, worker int, resets core.Resets) (*Endpoint, error) {
	c := cfg.core(s.ecn)
	c.Worker, c.Resets = uint16(worker), resets
	e := &Endpoint{
		cfg: cfg, start: time.Now().Add(-time.Hour), addr: Addr{s.local},
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	e.ecn = s.ecn
	e.streams = map[*Stream]struct{}{}
	if cfg.QLog != nil {
		e.log = newQLog(cfg.QLog)
		c.Tracer = e.log
	}
	var err error
	if e.core, err = core.NewEndpoint(&c, false); err != nil {
		if e.log != nil {
			e.log.close()
		}
		return nil, invalid("%w", err)
	}
	return e, nil
}

func (e *Endpoint) now() mono.Time { return mono.Time(time.Since(e.start)) }

// wake makes the actor look at the inbox and at the calls, if it waits.
func (e *Endpoint) wake() {
	if e.idle.Load() && e.idle.CompareAndSwap(true, false) {
		if e.seat != nil {
			e.seat.notify.Notify()
			return
		}
		select {
		case e.kick <- struct{}{}:
		default:
		}
	}
}

// post has the actor run f; false if it has ended.
func (e *Endpoint) post(f func(now mono.Time)) bool {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return false
	}
	e.calls = append(e.calls, f)
	e.mu.Unlock()
	e.wake()
	return true
}

// do has the actor run f and waits for it; false if the actor has ended before.
func (e *Endpoint) do(f func(now mono.Time)) bool {
	ran := make(chan struct{})
	if !e.post(func(now mono.Time) { f(now); close(ran) }) {
		return false
	}
	select {
	case <-ran:
		return true
	case <-e.done:
	}
	select {
	case <-ran:
		return true
	default:
		return false
	}
}

// Addr returns the address of the endpoint's socket.
func (e *Endpoint) Addr() net.Addr { return e.addr }

// Stats returns the counters; once the endpoint has ended, the last ones. Blocks until the actor
// answers.
func (e *Endpoint) Stats() (s EndpointStats) {
	if e.do(func(mono.Time) { s = e.stats() }) {
		return s
	}
	<-e.done
	return e.last
}

// Listen makes the endpoint take connections. It has one Listener at a time; after its Close there
// may be another. Errors are *net.OpError: net.ErrClosed, EADDRINUSE while there is a Listener,
// ErrConfig if Config.TLS has no certificate.
func (e *Endpoint) Listen() (*Listener, error) {
	l := &Listener{endpoint: e, closed: make(chan struct{})}
	err := net.ErrClosed
	e.do(func(mono.Time) {
		switch {
		case e.ending:
		case e.listener != nil:
			err = syscall.EADDRINUSE
		default:
			if err = e.core.Listen(true); err != nil {
				err = invalid("%w", err)
				return
			}
			e.listener = l
		}
	})
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: networkName, Addr: e.addr, Err: err}
	}
	return l, nil
}

// Dial connects to addr from the endpoint's socket; else it is as the function Dial, with network
// "udp". Blocks.
func (e *Endpoint) Dial(ctx context.Context, addr string) (*Stream, error) {
	return dialEach(ctx, "udp", addr, e.cfg, e.connect)
}

// connect dials one address. host is the name that a certificate must have if TLS names none.
func (e *Endpoint) connect(ctx context.Context, to netip.AddrPort, host string) (*Stream, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t := e.cfg.TLS
	if t.ServerName == "" && !t.InsecureSkipVerify {
		t = t.Clone()
		t.ServerName = host
	}
	var s *Stream
	err := net.ErrClosed
	e.do(func(now mono.Time) {
		if e.ending || len(e.sockets) == 0 {
			return
		}
		var c *core.Conn
		if c, err = e.core.Dial(now, core.Path{Local: e.sockets[0].local, Remote: to}, t); err != nil {
			err = connError(err)
			return
		}
		s = e.attach(c)
		s.connected = make(chan struct{})
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-s.connected: // also when the endpoint ends
		return s, s.dialErr
	case <-ctx.Done():
		s.abandon()
		return nil, context.Cause(ctx)
	}
}

// closeWhenIdle ends the endpoint once it has neither connections nor a Listener.
func (e *Endpoint) closeWhenIdle() { e.post(func(mono.Time) { e.idleClose = true }) }

// Close ends all connections at once: what was written and not yet delivered is lost, the peers'
// Read fails with a *ResetError, calls on this side with net.ErrClosed. It returns when the sockets
// are closed, which waits for no network. A second call returns nil.
func (e *Endpoint) Close() error {
	e.post(func(now mono.Time) { e.abortAll(now) })
	<-e.done
	return nil
}

// Shutdown ends the endpoint gently: no connection is taken any more, every stream is closed as by
// its own Close, and when all that was written has been delivered the sockets close. If ctx ends
// before, what is left is ended as by Close, and ctx's error returned. Blocks.
func (e *Endpoint) Shutdown(ctx context.Context) error {
	e.post(func(now mono.Time) { e.closeAll(now) })
	if endsWithin(ctx, e.done) {
		return nil
	}
	_ = e.Close()
	return contextError(ctx.Err())
}

// endsWithin waits for done, or for the end of ctx; done counts if both have come.
func endsWithin(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// open makes another socket of the same kind, for a migration.
func (e *Endpoint) open(local netip.AddrPort) (*socket, error) {
	network := "udp4"
	if !local.Addr().Is4() {
		network = "udp6"
	}
	pc, err := veloq.ListenUDP(network, net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, err
	}
	s, err := newSocket(pc)
	if err != nil {
		_ = pc.Close()
		return nil, err
	}
	s.ecn = s.ecn && e.ecn
	return s, nil
}
