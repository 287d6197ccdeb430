package veloq

// Datagram servers: one socket a worker on one address, each with a handler or a task.

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// DatagramHandler is code that a worker calls for a server's datagram socket. All calls for one socket
// come from its worker, one after another, and must not block; their Context is a Handler's. A panic goes to
// Config.OnPanic and closes the socket; without one it crashes the program.
type DatagramHandler interface {
	// OnOpen is the first call for a socket: the place to set its options.
	OnOpen(c *Context, d *Datagram)
	// OnPackets has what arrived since the last call, at least one. The packets are the worker's:
	// they are valid until OnPackets returns, and the bytes of those whose Data the handler retains
	// until it releases that.
	OnPackets(c *Context, d *Datagram, ps []Packet)
	// OnWritable comes once after a send returned ErrFull, when half of Config.WriteHigh is free.
	OnWritable(c *Context, d *Datagram)
	// OnClose is the last call. err is nil after the handler's own Close, context.Canceled after the
	// server's, and otherwise why the socket ended.
	OnClose(c *Context, d *Datagram, err error)
}

// DatagramHandlerBase has empty callbacks, to be embedded by handlers that need only some.
type DatagramHandlerBase struct{}

// OnOpen implements DatagramHandler.
func (DatagramHandlerBase) OnOpen(*Context, *Datagram) {}

// OnWritable implements DatagramHandler.
func (DatagramHandlerBase) OnWritable(*Context, *Datagram) {}

// OnClose implements DatagramHandler.
func (DatagramHandlerBase) OnClose(*Context, *Datagram, error) {}

// DatagramServer is datagram sockets on one address, one on each worker; the kernel spreads senders
// over them by their addresses' hash (SO_REUSEPORT, socket(7)). Where an address can't be shared
// (unixgram, Windows) there is one, on the first worker. Its methods are for any goroutine; those that
// block are not for tasks.
type DatagramServer struct {
	rt      *Runtime
	addr    net.Addr
	ctx     context.Context
	task    func(*Context, *Datagram) error
	handler DatagramHandler

	contexts handlerContexts // of its callbacks
	sockets  []*Datagram     // by worker; nil where it has none. Each is its worker's
	alive    atomic.Int64    // sockets, and tasks, that have not ended, and 1 until stop
	stopping atomic.Bool

	end ending
}

// ServeDatagram opens a socket on address on each worker and runs fn as a task for each; the socket is
// closed when fn returns. fn's Context has the values of ctx. It returns when ctx is done (nil), after
// the tasks, which see context.Canceled wherever they wait, have ended; or with the error of the first
// task that returned one, or ErrClosed when the runtime closed. Any goroutine, never a task. Blocks.
func (rt *Runtime) ServeDatagram(ctx context.Context, network, address string, fn func(*Context, *Datagram) error) error {
	s, err := (&ListenConfig{}).StartDatagram(ctx, rt, network, address, fn)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// ServeDatagramHandler is ServeDatagram with a handler, whose callbacks run on the workers.
func (rt *Runtime) ServeDatagramHandler(ctx context.Context, network, address string, h DatagramHandler) error {
	s, err := (&ListenConfig{}).StartDatagramHandler(ctx, rt, network, address, h)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// StartDatagram is ServeDatagram that returns once the sockets are bound. ctx gives the tasks' values;
// the server goes on until Close. Any goroutine, never a task. Blocks.
func (lc *ListenConfig) StartDatagram(ctx context.Context, rt *Runtime, network, address string, fn func(*Context, *Datagram) error) (*DatagramServer, error) {
	return lc.startDatagram(ctx, &DatagramServer{rt: rt, task: fn}, network, address)
}

// StartDatagramHandler is StartDatagram with a handler. Any goroutine, never a task. Blocks.
func (lc *ListenConfig) StartDatagramHandler(ctx context.Context, rt *Runtime, network, address string, h DatagramHandler) (*DatagramServer, error) {
	return lc.startDatagram(ctx, &DatagramServer{rt: rt, handler: h}, network, address)
}

func (lc *ListenConfig) startDatagram(ctx context.Context, s *DatagramServer, network, address string) (*DatagramServer, error) {
	if s.rt.closing.Load() {
		return nil, opError("listen", network, nil, ErrClosed)
	}
	addr, err := resolveDatagram(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if !s.rt.receivesDatagrams() {
		return nil, opError("listen", network, nil, core.Errno(core.ErrnoNOTSUP).Sys())
	}
	count := len(s.rt.workers)
	if network == "unixgram" || !core.ReusePort {
		count = 1
	}
	opened, err := lc.openDatagrams(network, address, addr, count)
	if err != nil {
		return nil, err
	}
	s.ctx, s.addr = ctx, opened[0].local
	s.sockets = make([]*Datagram, len(s.rt.workers))
	s.end.done = make(chan struct{})
	if s.handler != nil {
		s.contexts = newHandlerContexts(s.rt, s.ctx)
	}
	s.alive.Store(int64(count) + 1)
	// Before anything of it is on a worker: whatever is left, the runtime ends the server.
	if !s.rt.addServer(s) {
		s.contexts.end()
		for i := range opened {
			opened[i].drop()
		}
		return nil, opError("listen", network, nil, ErrClosed)
	}
	for i := range opened {
		o := opened[i]
		if !s.rt.workers[i].post(&note{do: func(w *worker) { s.adopt(w, o) }}) {
			o.drop()
			s.socketEnded()
		}
	}
	return s, nil
}

// receivesDatagrams reports whether the runtime's driver has a packet group.
func (rt *Runtime) receivesDatagrams() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.reports[0].PacketCount > 0
}

// openDatagrams opens count sockets on one address.
func (lc *ListenConfig) openDatagrams(network, path string, addr netip.AddrPort, count int) ([]openedDatagram, error) {
	each := *lc
	var opened []openedDatagram
	for range count {
		o, err := each.openDatagram(network, path, addr, count > 1 && len(opened) == 0)
		if err != nil {
			for i := range opened {
				opened[i].drop()
			}
			return nil, err
		}
		opened = append(opened, o)
		// The others share the port that the first one got.
		if a, ok := o.local.(*net.UDPAddr); ok {
			addr = netip.AddrPortFrom(addr.Addr(), uint16(a.Port))
		}
		each.ReusePort = true
	}
	return opened, nil
}

// drop closes a socket that reached no worker.
func (o *openedDatagram) drop() {
	_ = core.CloseSocket(o.fd)
	removePath(o.unlink)
}

// adopt starts serving on a worker.
func (s *DatagramServer) adopt(w *worker, o openedDatagram) {
	if w.stopping || s.stopping.Load() {
		o.drop()
		s.socketEnded()
		return
	}
	d, err := w.newDatagram(o)
	if err != nil {
		s.failed(err)
		s.socketEnded()
		return
	}
	d.server = s
	s.sockets[w.id] = d
	if s.handler != nil {
		d.handled = true
		d.tellOpen()
		return
	}
	st := &datagramTask{d: d}
	st.init(st, 0)
	s.alive.Add(1)
	w.serve(&st.task, s.ctx)
}

// datagramTask is the task of a server's socket.
type datagramTask struct {
	task
	d *Datagram
}

func (st *datagramTask) runTask(c *Context) {
	s := st.d.server
	// Deferred: also when fn panics or calls Goexit.
	defer func() {
		if !st.d.closed {
			st.d.close(nil)
		}
		s.socketEnded()
	}()
	if err := s.task(c, st.d); err != nil && !s.stopping.Load() {
		s.failed(err)
	}
}

func (st *datagramTask) panicked(rt *Runtime, failure *PanicError) { rt.reportPanic(failure) }

// run is the rest of ServeDatagram.
func (s *DatagramServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	return s.end.wait()
}

// Addr returns the address that the server's sockets are bound to.
func (s *DatagramServer) Addr() net.Addr { return s.addr }

// Close closes the sockets: tasks see context.Canceled, handlers OnClose with it; what was sent still
// goes out, for Config.CloseTimeout at most. It returns when all have ended. Blocks.
func (s *DatagramServer) Close() {
	s.stop()
	<-s.end.done
}

// Shutdown is Close that waits until ctx is done at most, and returns the context's error then. Blocks.
func (s *DatagramServer) Shutdown(ctx context.Context) error {
	s.stop()
	return s.end.within(ctx)
}

func (s *DatagramServer) stop() {
	if !s.stopping.CompareAndSwap(false, true) {
		return
	}
	for _, w := range s.rt.workers {
		w.post(&note{do: s.stopOn})
	}
	s.socketEnded() // the 1 that stood for the server itself
}

func (s *DatagramServer) stopOn(w *worker) {
	if s.handler == nil {
		for t := w.live; t != nil; t = t.liveNext {
			if st, ok := t.self.(*datagramTask); ok && st.d.server == s {
				t.ctx.cancel(context.Canceled)
			}
		}
		return
	}
	if d := s.sockets[w.id]; d != nil {
		d.close(context.Canceled)
	}
}

// failed ends the server for an error of one of its sockets.
func (s *DatagramServer) failed(err error) {
	s.end.because(err)
	s.stop()
}

// socketEnded accounts for what is gone; the last one of all ends the server.
func (s *DatagramServer) socketEnded() {
	if s.alive.Add(-1) == 0 {
		s.end.finish(s.rt, s, s.contexts)
	}
}

// runtimeEnded implements served: nothing of the server is left.
func (s *DatagramServer) runtimeEnded() { s.end.finish(s.rt, s, s.contexts) }

func (d *Datagram) tellOpen() {
	defer d.w.recovered(d)
	d.server.handler.OnOpen(d.server.contexts.of(d.w), d)
}

func (d *Datagram) tellPackets(ps []Packet) {
	defer d.w.recovered(d)
	if debugtag.Enabled {
		for i := range ps {
			ps[i].Data.trace(d.w, d.name(), true)
			defer ps[i].Data.endLoan()
		}
	}
	d.server.handler.OnPackets(d.server.contexts.of(d.w), d, ps)
}

func (d *Datagram) tellWritable() {
	if !d.handled || d.closed {
		return
	}
	defer d.w.recovered(d)
	d.server.handler.OnWritable(d.server.contexts.of(d.w), d)
}

func (d *Datagram) tellClosed() {
	if !d.handled {
		return
	}
	defer d.w.recovered(d)
	d.server.handler.OnClose(d.server.contexts.of(d.w), d, d.closeErr)
}
