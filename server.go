package veloq

// Servers: listeners on workers whose connections each get a task or a handler.

import (
	"context"
	"net"
	"runtime/pprof"
	"sync"
	"sync/atomic"

	"github.com/veloq/veloq/internal/core"
)

// Server accepts connections on a runtime's workers and serves each by a task or by a handler. Its
// methods are for any goroutine; those that block are not for tasks.
type Server struct {
	rt      *Runtime
	network string
	addr    net.Addr
	mode    AcceptMode
	max     int
	ctx     context.Context
	task    func(*Context, *Stream) error
	handler Handler

	contexts  handlerContexts // of its callbacks
	listeners []*Listener     // by worker; nil where it has none. Each is its worker's
	conns     atomic.Int64    // open, on all workers
	open      []padded        // by worker, that worker's alone
	placed    []placed        // by worker: open there, or on the way
	balancer  Balancer
	labels    []context.Context // of its tasks' samples in profiles, by worker
	alive     atomic.Int64      // listeners that have not been released, and 1 until stop
	stopping  atomic.Bool
	aborting  atomic.Bool

	mu   sync.Mutex
	err  error
	done chan struct{}
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
	if s.rt.closing.Load() {
		return nil, opError("listen", network, nil, ErrClosed)
	}
	if err := checkNetwork(network); err != nil {
		return nil, opError("listen", network, nil, err)
	}
	s.network, s.mode, s.max = network, lc.Accept, lc.MaxConns
	s.listeners = make([]*Listener, len(s.rt.workers))
	s.open = make([]padded, len(s.rt.workers))
	s.placed = make([]placed, len(s.rt.workers))
	s.done = make(chan struct{})
	s.balancer = lc.Balancer
	if !core.ReusePort || network == networkUnix || s.balancer != nil {
		s.mode = AcceptSpread
	}
	listeners := 1
	if s.mode == AcceptReusePort {
		listeners = len(s.rt.workers)
	}
	fds, err := lc.openAll(ctx, s, address, listeners)
	if err != nil {
		return nil, err
	}
	for _, w := range s.rt.workers {
		s.labels = append(s.labels, pprof.WithLabels(w.labels, pprof.Labels("listener", s.addr.String())))
	}
	if s.handler != nil {
		s.contexts = newHandlerContexts(s.rt, s.ctx)
	}
	s.alive.Store(int64(listeners) + 1)
	for i, fd := range fds {
		posted := s.rt.workers[i].post(&note{do: func(w *worker) {
			if w.stopping || s.stopping.Load() {
				_ = core.CloseSocket(fd)
				removePath(unlinkPath(s.addr))
				s.listenerEnded()
				return
			}
			l := &Listener{w: w, fd: fd, network: s.network, addr: s.addr, server: s, unlink: unlinkPath(s.addr)}
			l.retry.Fire = fireRetry
			l.slot = w.slots.add(l)
			s.listeners[w.id] = l
			l.arm()
		}})
		if !posted {
			_ = core.CloseSocket(fd)
			removePath(unlinkPath(s.addr))
			s.listenerEnded()
		}
	}
	if !s.rt.addServer(s) {
		s.Close()
		return nil, opError("listen", network, nil, ErrClosed)
	}
	return s, nil
}

// openAll opens the server's listening sockets.
func (lc *ListenConfig) openAll(ctx context.Context, s *Server, address string, count int) ([]int32, error) {
	if s.network == networkUnix {
		fd, bound, err := lc.openUnix(address)
		s.addr = bound
		return []int32{fd}, err
	}
	addr, err := resolveListen(ctx, s.network, address)
	if err != nil {
		return nil, err
	}
	each := *lc
	fds := make([]int32, 0, count)
	for range count {
		share := count > 1 && len(fds) == 0
		fd, bound, err := each.open(s.network, addr, share)
		if err != nil {
			for _, fd := range fds {
				_ = core.CloseSocket(fd)
			}
			return nil, listenError(s.network, addr, err)
		}
		fds = append(fds, fd)
		s.addr = bound
		// The others share the port that the first one got.
		addr = bound.AddrPort()
		each.ReusePort = true
	}
	return fds, nil
}

// run is the rest of Serve.
func (s *Server) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.abort(ctx.Err()) })
	defer stop()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.addr }

// Conns returns how many connections are open.
func (s *Server) Conns() int { return int(s.conns.Load()) }

// Close stops listening and ends every connection: tasks see context.Canceled, handlers OnClose with
// it. It returns when all have ended. Blocks.
func (s *Server) Close() {
	s.abort(context.Canceled)
	<-s.done
}

// Shutdown stops listening and waits until the connections have ended by themselves, or ctx is done:
// then it returns the context's error, and the connections go on. Blocks.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the listening.
func (s *Server) stop() {
	if !s.stopping.CompareAndSwap(false, true) {
		return
	}
	for i, w := range s.rt.workers {
		w.post(&note{do: func(*worker) {
			if l := s.listeners[i]; l != nil {
				l.close()
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
		if !ok || conn.server != s {
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
		if st, ok := t.self.(*serveTask); ok && st.s.server == s {
			t.ctx.cancel(cause)
		}
	}
}

// failed ends the server for a listener's error.
func (s *Server) failed(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
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
	if l := s.listeners[w.id]; l != nil {
		l.arm()
	} else if s.max > 0 {
		// The one listening socket is another worker's, and may wait for this.
		s.rt.workers[0].post(&note{do: func(*worker) {
			if l := s.listeners[0]; l != nil {
				l.arm()
			}
		}})
	}
}

func (s *Server) maybeDone() {
	if s.alive.Load() != 0 || s.conns.Load() != 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
	default:
		if s.err == nil && s.rt.closing.Load() {
			s.err = ErrClosed
		}
		s.contexts.end()
		close(s.done)
		s.rt.removeServer(s)
	}
}

// wants reports whether the worker's listener should go on accepting.
func (s *Server) wants(w *worker) bool {
	if s.stopping.Load() {
		return false
	}
	if s.max <= 0 {
		return true
	}
	if s.mode == AcceptSpread {
		return s.conns.Load() < int64(s.max*len(s.rt.workers))
	}
	return s.open[w.id].n < s.max
}

// place finds the worker for a connection that w accepted.
func (s *Server) place(w *worker, fd int32) {
	s.conns.Add(1)
	to := w
	switch {
	case s.balancer != nil:
		i := s.balancer.Choose(&Accepted{server: s, w: w, fd: fd})
		if i >= 0 && i < len(s.rt.workers) {
			to = s.rt.workers[i]
		}
	case s.mode == AcceptSpread:
		to = s.rt.leastLoaded(w)
	}
	s.placed[to.id].n.Add(1)
	if to == w {
		s.adopt(w, fd)
		return
	}
	// Counted from here on: many are accepted before the other worker takes the first.
	to.load.Add(s.connLoad())
	if !to.send(w, message{kind: messageAdopt, server: s, fd: fd}) {
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
func (s *Server) adopt(w *worker, fd int32) {
	s.open[w.id].n++
	conn := w.newStream(fd, s.network)
	conn.server = s
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
	st.self = st
	st.detached = true
	st.ctx.t, st.ctx.w, st.ctx.values = &st.task, w, s.ctx
	w.load.Add(1)
	w.start(&st.task)
}

// serveTask is the task of a server's connection.
type serveTask struct {
	task
	s *Stream
}

func (st *serveTask) runTask(c *Context) {
	if labels := st.s.server.labels; labels != nil {
		st.label(labels[c.w.id])
	}
	// Deferred: also when fn panics or calls Goexit.
	defer func() {
		if !st.s.closed {
			st.s.close(nil)
		}
	}()
	_ = st.s.server.task(c, st.s) // the task's error ends its connection, and only that
}

func (st *serveTask) panicked(rt *Runtime, failure *PanicError) { rt.reportPanic(failure) }

// end is for a server whose runtime has ended: nothing of it is left.
func (s *Server) end() {
	s.alive.Store(0)
	s.conns.Store(0)
	s.maybeDone()
}
