package veloq

// Servers: listeners on workers whose connections each get a task or a handler.

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/veloq/veloq/internal/core"
)

// Server accepts connections on a runtime's workers and serves each by a task or by a handler. Its
// methods are for any goroutine; those that block are not for tasks.
type Server struct {
	rt      *Runtime
	config  ListenConfig // not to be changed
	ctx     context.Context
	task    func(*Context, *Stream) error
	handler Handler

	contexts handlerContexts            // of its callbacks
	bindings atomic.Pointer[[]*binding] // what it listens on; the list is replaced under mu, and not changed
	conns    atomic.Int64               // open, on all workers
	open     []padded                   // by worker, that worker's alone
	placed   []placed                   // by worker: open there, or on the way
	alive    atomic.Int64               // listeners that have not been released, and 1 until stop
	stopping atomic.Bool
	aborting atomic.Bool

	mu  sync.Mutex // guards changes of bindings, and stopping's
	end ending
}

// placed is a counter on a cache line of its own that any worker moves.
type placed struct {
	n atomic.Int64
	_ [56]byte
}

// padded is a counter on a cache line of its own.
type padded struct {
	n int
	_ [56]byte
}

// Serve listens on address and runs fn as a task for each connection, on the worker that accepted it;
// the stream is closed when fn returns. fn's Context has the values and the Deadline of ctx. It returns
// when ctx is done (nil), after the connections that are open then have ended: their tasks see
// ctx's error wherever they wait; or with the error that ended it, ErrClosed when the runtime
// closed. Any goroutine, never a task. Blocks.
func (rt *Runtime) Serve(ctx context.Context, network, address string, fn func(*Context, *Stream) error) error {
	return (&ListenConfig{}).Serve(ctx, rt, network, address, fn)
}

// ServeHandler is Serve with a handler, whose callbacks run on the workers for every connection. Their
// Context has the values and the Deadline of ctx.
func (rt *Runtime) ServeHandler(ctx context.Context, network, address string, h Handler) error {
	return (&ListenConfig{}).ServeHandler(ctx, rt, network, address, h)
}

// Serve is Runtime.Serve with these settings. Any goroutine, never a task. Blocks.
func (lc *ListenConfig) Serve(ctx context.Context, rt *Runtime, network, address string, fn func(*Context, *Stream) error) error {
	s, err := lc.start(ctx, &Server{rt: rt, ctx: ctx, task: fn}, network, address)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// ServeHandler is Runtime.ServeHandler with these settings. Any goroutine, never a task. Blocks.
func (lc *ListenConfig) ServeHandler(ctx context.Context, rt *Runtime, network, address string, h Handler) error {
	s, err := lc.start(ctx, &Server{rt: rt, ctx: ctx, handler: h}, network, address)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// Start is Serve that returns once the server listens. ctx gives the tasks' values and bounds the
// looking up of a name; its end and Deadline don't concern the server, which goes on until Close or
// Shutdown. Any goroutine, never a task.
func (lc *ListenConfig) Start(ctx context.Context, rt *Runtime, network, address string, fn func(*Context, *Stream) error) (*Server, error) {
	return lc.start(ctx, &Server{rt: rt, ctx: context.WithoutCancel(ctx), task: fn}, network, address)
}

// StartHandler is Start with a handler. Any goroutine, never a task.
func (lc *ListenConfig) StartHandler(ctx context.Context, rt *Runtime, network, address string, h Handler) (*Server, error) {
	return lc.start(ctx, &Server{rt: rt, ctx: context.WithoutCancel(ctx), handler: h}, network, address)
}

func (lc *ListenConfig) start(ctx context.Context, s *Server, network, address string) (*Server, error) {
	s.config = *lc
	s.open = make([]padded, len(s.rt.workers))
	s.placed = make([]placed, len(s.rt.workers))
	s.end.done = make(chan struct{})
	s.bindings.Store(new([]*binding))
	s.alive.Store(1)
	b, fds, err := s.bind(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if s.handler != nil {
		s.contexts = newHandlerContexts(s.rt, s.ctx)
	}
	// The runtime knows the server before anything of it is on a worker, and ends it whatever is left.
	if !s.rt.addServer(s) {
		s.contexts.end()
		return nil, b.refuse(fds, ErrClosed)
	}
	if !s.begin(b, fds) { // Runtime.Shutdown came between
		return nil, b.refuse(fds, ErrClosed)
	}
	return s, nil
}

// run is the rest of Serve.
func (s *Server) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.abort(ctx.Err()) })
	defer stop()
	return s.end.wait()
}

// Add has the server listen on one more address, with the settings that it was started with, and
// returns what it is bound to: the connections of all are the server's alike, MaxConns counts them
// together, and Close ends all. ctx bounds the looking up of a name. After an error the server is what
// it was: net.ErrClosed once it ends. Any goroutine, never a task. Blocks (for a name).
func (s *Server) Add(ctx context.Context, network, address string) (net.Addr, error) {
	b, fds, err := s.bind(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if !s.begin(b, fds) {
		return nil, b.refuse(fds, net.ErrClosed)
	}
	return b.addr, nil
}

// Addr returns the address that the server was started on. Any goroutine.
func (s *Server) Addr() net.Addr { return (*s.bindings.Load())[0].addr }

// Addrs returns all addresses that the server listens on, in the order they were added. The slice is the
// caller's. Any goroutine.
func (s *Server) Addrs() []net.Addr {
	var all []net.Addr
	for _, b := range *s.bindings.Load() {
		all = append(all, b.addr)
	}
	return all
}

// Conns returns how many connections are open.
func (s *Server) Conns() int { return int(s.conns.Load()) }

// Close stops listening and ends every connection: tasks see context.Canceled, handlers OnClose with
// it. It returns when all have ended. Blocks.
func (s *Server) Close() {
	s.abort(context.Canceled)
	<-s.end.done
}

// Shutdown stops listening and waits until the connections have ended by themselves, or ctx is done:
// then it returns the context's error, and the connections go on. Blocks.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	return s.end.within(ctx)
}

// stop ends the listening.
func (s *Server) stop() {
	s.mu.Lock() // or else begin would count listeners of a server that has ended
	first := s.stopping.CompareAndSwap(false, true)
	s.mu.Unlock()
	if !first {
		return
	}
	for i, w := range s.rt.workers {
		w.post(&note{do: func(*worker) {
			for _, b := range *s.bindings.Load() {
				if l := b.listeners[i]; l != nil {
					l.close()
				}
			}
		}})
	}
	s.listenerEnded() // the 1 that stood for the server itself
}

// abort ends the listening and the connections; cause is what those hear.
func (s *Server) abort(cause error) {
	s.stop()
	if !s.aborting.CompareAndSwap(false, true) {
		return
	}
	for _, w := range s.rt.workers {
		w.post(&note{do: func(w *worker) { s.abortConns(w, cause) }})
	}
}

func (s *Server) abortConns(w *worker, cause error) {
	for i := range w.slots.slots {
		conn, ok := w.slots.slots[i].owner.(*Stream)
		if !ok || conn.at == nil || conn.at.server != s {
			continue
		}
		if s.handler != nil {
			conn.close(cause)
			conn.abandon()
		}
	}
	if s.handler != nil {
		return
	}
	for t := w.live; t != nil; t = t.liveNext {
		if st, ok := t.self.(*serveTask); ok && st.s.at.server == s {
			t.ctx.cancel(cause)
		}
	}
}

// failed ends the server for a listener's error.
func (s *Server) failed(err error) {
	s.end.because(err)
	s.stop()
}

// listenerEnded and connEnded account for what is gone; the last one of all ends the server.
func (s *Server) listenerEnded() {
	if s.alive.Add(-1) == 0 {
		s.maybeDone()
	}
}

func (s *Server) connEnded(w *worker) {
	s.open[w.id].n--
	s.placed[w.id].n.Add(-1)
	if s.conns.Add(-1) == 0 && s.alive.Load() == 0 {
		s.maybeDone()
	}
	s.armOn(w)
	if s.config.MaxConns <= 0 {
		return
	}
	// Listening sockets that wait for this may be other workers': one for all is the first's, and
	// beside one of those any may.
	var spread, own bool
	for _, b := range *s.bindings.Load() {
		spread, own = spread || b.spread, own || !b.spread
	}
	for i, other := range s.rt.workers {
		if spread && other != w && (own || i == 0) {
			other.post(&note{do: s.armOn})
		}
	}
}

// armOn has a worker's listening sockets accept again, if there is room.
func (s *Server) armOn(w *worker) {
	for _, b := range *s.bindings.Load() {
		if l := b.listeners[w.id]; l != nil {
			l.arm()
		}
	}
}

func (s *Server) maybeDone() {
	if s.alive.Load() == 0 && s.conns.Load() == 0 {
		s.end.finish(s.rt, s, s.contexts)
	}
}

// place finds the worker for a connection that w accepted, and admitted.
func (b *binding) place(w *worker, fd int32) {
	s := b.server
	to := w
	switch {
	case s.config.Balancer != nil:
		i := s.config.Balancer.Choose(&Accepted{server: s, w: w, fd: fd})
		if i >= 0 && i < len(s.rt.workers) {
			to = s.rt.workers[i]
		}
	case b.spread:
		to = s.rt.leastLoaded(w)
	}
	s.placed[to.id].n.Add(1)
	if to == w {
		b.adopt(w, fd)
		return
	}
	// Counted from here on: many are accepted before the other worker takes the first.
	to.load.Add(s.connLoad())
	if !to.send(w, message{kind: messageAdopt, at: b, fd: fd}) {
		to.load.Add(-s.connLoad())
		s.placed[to.id].n.Add(-1)
		_ = core.CloseSocket(fd)
		s.conns.Add(-1)
	}
}

// connLoad is what a connection adds to its worker's load: its stream, and its task.
func (s *Server) connLoad() int64 {
	if s.handler != nil {
		return 1
	}
	return 2
}

// adopt starts serving a connection on its worker.
func (b *binding) adopt(w *worker, fd int32) {
	s := b.server
	s.open[w.id].n++
	conn := w.newStream(fd, b.network)
	conn.at = b
	w.stats.accepted++
	if w.stopping || s.aborting.Load() {
		conn.close(ErrClosed)
		return
	}
	if s.handler != nil {
		conn.handled = true
		conn.armRecv()
		conn.tellOpen()
		return
	}
	conn.armRecv()
	st := &serveTask{s: conn}
	st.init(st, 0)
	w.serve(&st.task, s.ctx)
}

// serve starts a server's task, which sees the values of ctx.
func (w *worker) serve(t *task, ctx context.Context) {
	t.detached = true
	t.ctx.w, t.ctx.values = w, ctx
	w.load.Add(1)
	w.start(t)
}

// serveTask is the task of a server's connection.
type serveTask struct {
	task
	s *Stream
}

func (st *serveTask) runTask(c *Context) {
	st.label(st.s.at.labels[c.w.id])
	// Deferred: also when fn panics or calls Goexit.
	defer func() {
		if !st.s.closed {
			st.s.close(nil)
		}
	}()
	_ = st.s.at.server.task(c, st.s) // the task's error ends its connection, and only that
}

func (st *serveTask) panicked(rt *Runtime, failure *PanicError) { rt.reportPanic(failure) }

// runtimeEnded implements served: nothing of the server is left.
func (s *Server) runtimeEnded() {
	s.alive.Store(0)
	s.conns.Store(0)
	s.maybeDone()
}
