package rudp

// This file changes if how endpoints live on a runtime's workers does.

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// Group is an endpoint on each worker of a runtime, all on one address: a net.Listener. The kernel
// spreads clients over the workers' sockets (SO_REUSEPORT), and connection IDs carry the worker's
// number: what a client sends from another address, and so may reach another worker, is forwarded
// to the one that owns the connection. Where an address can't be shared (Windows) the first worker
// has it alone. Streams are as any others: for goroutines, and not for tasks, since their calls
// block. All methods: any goroutine.
type Group struct {
	rt      *veloq.Runtime
	network string
	cfg     Config
	server  *veloq.DatagramServer
	mesh    *veloq.Mesh[forwarded]
	accepts chan *Stream
	dials   atomic.Uint32 // of Dial, to take turns
	closed  chan struct{} // Close was called
	done    chan struct{} // all endpoints have ended
	started chan struct{} // server is set
	opened  chan struct{} // there is a seat
	resets  resetOwners   // of all endpoints
	once    sync.Once     // of closed
	over    sync.Once     // of done

	mu     sync.Mutex
	seats  []*seat // by worker; nil: it has none (yet)
	open   int     // seats that have not ended
	seated bool    // opened is closed
	ending bool
}

var _ net.Listener = (*Group)(nil)

// forwarded is a datagram on its way to the worker that it is for.
type forwarded struct {
	from netip.AddrPort
	ecn  core.ECN
	data *packet
}

// ListenOn takes connections on an address with the workers of rt. network is "udp", "udp4" or
// "udp6". The errors are *net.OpError; without drivers that receive datagrams it is one of the
// system's. Closing the Group keeps the connections that were accepted; the sockets close when the
// last of each worker has ended. Closing the runtime ends all. Any goroutine, never a task. Blocks.
func ListenOn(rt *veloq.Runtime, network, addr string, cfg *Config) (*Group, error) {
	g, err := newGroup(rt, network, cfg)
	if err == nil {
		defer close(g.started)
		g.server, err = (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt,
			network, addr, &groupHandler{g: g})
		if err == nil {
			return g, nil
		}
		g.mesh.Close()
	}
	return nil, &net.OpError{Op: "listen", Net: networkName, Addr: textAddr(addr), Err: err}
}

func newGroup(rt *veloq.Runtime, network string, cfg *Config) (*Group, error) {
	if err := checkNetwork(network); err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	g := &Group{
		rt: rt, network: network, cfg: *cfg, closed: make(chan struct{}), done: make(chan struct{}),
		started: make(chan struct{}), opened: make(chan struct{}), seats: make([]*seat, rt.Workers()),
		accepts: make(chan *Stream, rt.Workers()),
	}
	// One address, one set of keys, whichever worker answers.
	for _, key := range []*[32]byte{&g.cfg.StatelessResetKey, &g.cfg.TokenKey} {
		if *key == ([32]byte{}) {
			if _, err := rand.Read(key[:]); err != nil {
				return nil, err
			}
		}
	}
	tried := g.cfg.core(false)
	if _, err := core.NewEndpoint(&tried, true); err != nil { // on the workers nobody could be told
		return nil, invalid("%w", err)
	}
	var err error
	if g.mesh, err = veloq.NewMesh[forwarded](rt, veloq.MeshConfig{}); err != nil {
		return nil, err
	}
	g.mesh.OnMessage(func(c *veloq.Context, _ int, f forwarded) {
		if s := g.seat(c.Worker()); s != nil {
			s.take(&f)
		}
		f.data.release()
	})
	return g, nil
}

func (g *Group) seat(worker int) *seat {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seats[worker]
}

// Accept waits for a connection whose handshake is done and returns it as a net.Conn. After Close
// it is an *net.OpError with net.ErrClosed. Blocks.
func (g *Group) Accept() (net.Conn, error) {
	s, err := g.AcceptStream()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// AcceptStream is Accept with the stream's own type. Blocks.
func (g *Group) AcceptStream() (*Stream, error) {
	select {
	case <-g.closed:
	default:
		select {
		case s := <-g.accepts:
			g.feed()
			return s, nil
		case <-g.closed:
		case <-g.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: networkName, Addr: g.Addr(), Err: net.ErrClosed}
}

// feed tells those endpoints that wait for it of room among the streams to accept.
func (g *Group) feed() {
	for _, e := range g.Endpoints() {
		e.feed()
	}
}

// Dial is Endpoint.Dial from the group's address, with the workers' endpoints in turn. What the peer
// sends may reach any worker, and is forwarded. After Close the error is net.ErrClosed's. Blocks.
func (g *Group) Dial(ctx context.Context, addr string) (*Stream, error) {
	return dialEach(ctx, g.network, addr, &g.cfg, g.connect)
}

func (g *Group) connect(ctx context.Context, to netip.AddrPort, host string) (*Stream, error) {
	select {
	case <-g.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case <-g.opened:
	case <-g.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	list, first := g.Endpoints(), g.dials.Add(1)
	for i := range uint32(len(list)) {
		e := list[(first+i)%uint32(len(list))]
		select {
		case <-e.done: // its socket has failed, or somebody has closed it: the others go on
		default:
			return e.connect(ctx, to, host)
		}
	}
	return nil, net.ErrClosed
}

// Addr returns the address of the sockets.
func (g *Group) Addr() net.Addr {
	a, _ := addrPort(g.server.Addr())
	return Addr{a}
}

// Endpoints returns those of the workers that have one.
func (g *Group) Endpoints() (list []*Endpoint) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.seats {
		if s != nil {
			list = append(list, s.e)
		}
	}
	return list
}

// Close ends waiting Accepts and refuses connections from now on, also those that nobody has
// accepted. Accepted ones live on. A second call returns nil.
func (g *Group) Close() error {
	g.each(func(e *Endpoint, now mono.Time) {
		e.refuse(now)
		e.idleClose = true
	})
	return nil
}

// each has every endpoint's actor run f, and those that come later end at once.
func (g *Group) each(f func(e *Endpoint, now mono.Time)) {
	g.once.Do(func() { close(g.closed) })
	g.mu.Lock()
	g.ending = true
	none := g.open == 0
	g.mu.Unlock()
	if none {
		go g.end()
		return
	}
	for _, e := range g.Endpoints() {
		e.post(func(now mono.Time) { f(e, now) })
	}
}

// Shutdown is Endpoint.Shutdown of all endpoints at once: it closes every stream, waits until what
// was written is delivered, and ends what is left when ctx ends. Blocks.
func (g *Group) Shutdown(ctx context.Context) error {
	g.each(func(e *Endpoint, now mono.Time) { e.closeAll(now) })
	if endsWithin(ctx, g.done) {
		return nil
	}
	g.each(func(e *Endpoint, now mono.Time) { e.abortAll(now) })
	<-g.done
	return contextError(ctx.Err())
}

// seatEnded counts the seats; the last one ends the group.
func (g *Group) seatEnded() {
	g.mu.Lock()
	g.open--
	last := g.open == 0
	g.mu.Unlock()
	if last {
		g.end()
	}
}

// end takes down what the endpoints shared.
func (g *Group) end() {
	g.over.Do(func() {
		<-g.started
		if g.server != nil {
			g.server.Close()
		}
		g.once.Do(func() { close(g.closed) })
		g.mesh.Close()
		close(g.done)
	})
}

// groupHandler is what the workers call.
type groupHandler struct {
	veloq.DatagramHandlerBase
	g *Group
}

// OnOpen gives the worker its endpoint.
func (h *groupHandler) OnOpen(c *veloq.Context, d *veloq.Datagram) {
	s, err := newSeat(h.g, c, d)
	if err != nil {
		_ = d.Close() // the configuration was tried before: there is no memory, or no randomness
		return
	}
	h.g.mu.Lock()
	h.g.seats[c.Worker()] = s
	if h.g.open++; !h.g.seated {
		h.g.seated = true
		close(h.g.opened)
	}
	ending := h.g.ending
	h.g.mu.Unlock()
	d.SetUserData(s)
	if ending {
		s.e.idleClose = true
		s.e.refuse(s.e.now())
	}
	s.turn()
}

// OnPackets takes what has come.
func (h *groupHandler) OnPackets(c *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	if s, ok := d.UserData().(*seat); ok {
		s.receive(c, ps)
		s.turn()
	}
}

// OnWritable goes on sending.
func (h *groupHandler) OnWritable(_ *veloq.Context, d *veloq.Datagram) {
	if s, ok := d.UserData().(*seat); ok {
		s.turn()
	}
}

// OnClose ends the endpoint with its socket.
func (h *groupHandler) OnClose(_ *veloq.Context, d *veloq.Datagram, err error) {
	if s, ok := d.UserData().(*seat); ok {
		if err == nil || errors.Is(err, context.Canceled) {
			err = net.ErrClosed
		}
		s.lost(errSocket{err})
	}
}
