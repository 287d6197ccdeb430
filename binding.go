package veloq

// What a server listens on: one address with its listening sockets, on one worker or on each.

import (
	"context"
	"net"
	"runtime/pprof"

	"github.com/veloq/veloq/internal/core"
)

// binding is one address of a server.
type binding struct {
	server    *Server
	network   string
	addr      net.Addr
	spread    bool              // one listening socket, on the first worker, for all of them
	listeners []*Listener       // by worker; nil where it has none. Each is its worker's
	labels    []context.Context // of the server's tasks' samples in profiles, by worker
}

// bind opens the listening sockets of one more address.
func (s *Server) bind(ctx context.Context, network, address string) (*binding, []int32, error) {
	if s.rt.closing.Load() {
		return nil, nil, opError("listen", network, nil, ErrClosed)
	}
	if s.stopping.Load() {
		return nil, nil, opError("listen", network, nil, net.ErrClosed)
	}
	if err := checkNetwork(network); err != nil {
		return nil, nil, opError("listen", network, nil, err)
	}
	lc := &s.config
	b := &binding{
		server: s, network: network, listeners: make([]*Listener, len(s.rt.workers)),
		spread: lc.Accept != AcceptReusePort || lc.Balancer != nil ||
			!core.ReusePort || network == networkUnix,
	}
	count := 1
	if !b.spread {
		count = len(s.rt.workers)
	}
	fds, err := lc.openAll(ctx, b, address, count)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range s.rt.workers {
		label := pprof.Labels("listener", b.addr.String())
		b.labels = append(b.labels, pprof.WithLabels(w.labels, label))
	}
	return b, fds, nil
}

// openAll opens the listening sockets of a binding.
func (lc *ListenConfig) openAll(ctx context.Context, b *binding, address string, count int) ([]int32, error) {
	if b.network == networkUnix {
		fd, bound, err := lc.openUnix(address)
		b.addr = bound
		return []int32{fd}, err
	}
	addr, err := resolveListen(ctx, b.network, address)
	if err != nil {
		return nil, err
	}
	each := *lc
	fds := make([]int32, 0, count)
	for range count {
		share := count > 1 && len(fds) == 0
		fd, bound, err := each.open(b.network, addr, share)
		if err != nil {
			for _, fd := range fds {
				_ = core.CloseSocket(fd)
			}
			return nil, listenError(b.network, addr, err)
		}
		fds = append(fds, fd)
		b.addr = bound
		// The others share the port that the first one got.
		addr = bound.AddrPort()
		each.ReusePort = true
	}
	return fds, nil
}

// begin gives the sockets to their workers. It reports false, and does nothing, for a server that
// ends.
func (s *Server) begin(b *binding, fds []int32) bool {
	s.mu.Lock()
	if s.stopping.Load() {
		s.mu.Unlock()
		return false
	}
	s.alive.Add(int64(len(fds)))
	list := append([]*binding(nil), *s.bindings.Load()...)
	list = append(list, b)
	s.bindings.Store(&list)
	s.mu.Unlock()
	for i, fd := range fds {
		if !s.rt.workers[i].post(&note{do: func(w *worker) { b.listen(w, fd) }}) {
			b.drop(fd)
			s.listenerEnded()
		}
	}
	return true
}

// listen starts accepting on a worker, unless the server ended meanwhile.
func (b *binding) listen(w *worker, fd int32) {
	if w.stopping || b.server.stopping.Load() {
		b.drop(fd)
		b.server.listenerEnded()
		return
	}
	l := &Listener{w: w, fd: fd, network: b.network, addr: b.addr, at: b, unlink: unlinkPath(b.addr)}
	l.retry.Fire = fireRetry
	l.slot = w.slots.add(l)
	b.listeners[w.id] = l
	l.arm()
}

// refuse drops the sockets of a binding that does not begin, and returns the error.
func (b *binding) refuse(fds []int32, why error) error {
	for _, fd := range fds {
		b.drop(fd)
	}
	return opError("listen", b.network, nil, why)
}

// drop closes a listening socket that no worker has.
func (b *binding) drop(fd int32) {
	_ = core.CloseSocket(fd)
	removePath(unlinkPath(b.addr))
}

// wants reports whether the worker's listener should go on accepting.
func (b *binding) wants(w *worker) bool {
	return !b.server.stopping.Load() && !b.full(w, b.server.conns.Load())
}

// admit counts one more connection, unless there are as many as may be.
func (b *binding) admit(w *worker) bool {
	s := b.server
	if s.config.MaxConns <= 0 {
		s.conns.Add(1)
		return true
	}
	for {
		conns := s.conns.Load()
		if b.full(w, conns) {
			return false
		}
		if s.conns.CompareAndSwap(conns, conns+1) {
			return true
		}
	}
}

// full reports whether a server with so many connections has as many as it may, or the worker has. Those
// that all workers' one socket accepted may be more on one worker, and then fewer are for the others.
func (b *binding) full(w *worker, conns int64) bool {
	s := b.server
	limit := s.config.MaxConns
	switch {
	case limit <= 0:
		return false
	case conns >= int64(limit*len(s.rt.workers)):
		return true
	}
	return !b.spread && s.open[w.id].n >= limit
}
