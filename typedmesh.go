package veloq

// Mesh: messages of one Go type between the workers of a runtime, for programs.

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/gid"
)

// ErrMeshClosed is what a closed mesh answers; errors.Is finds net.ErrClosed in it.
var ErrMeshClosed error = thingClosed("mesh")

// thingClosed is the error of a thing of that name that is closed.
type thingClosed string

func (t thingClosed) Error() string      { return "veloq: " + string(t) + " closed" }
func (thingClosed) Is(target error) bool { return target == net.ErrClosed }

// MeshConfig says how a mesh is made. The zero value of each field is its default.
type MeshConfig struct {
	// Capacity is how many messages may wait from one worker to another: a power of two, 1 to 65536,
	// default 1024. A pair that never talks takes a page or two; one that does, room for Capacity
	// values of the mesh's type.
	Capacity int
}

// Mesh carries values of type T between the workers of a runtime: each ordered pair, a worker to
// itself included, has a bounded edge with one producer and one consumer and no lock. What one worker
// sends to another arrives once, in the order in which it was sent; between pairs there is no order.
// What a task or handler sends leaves when 64 messages for the same worker have come together,
// when the sender waits, and at the end of the worker's turn at the latest.
//
// A message is received by whoever calls Recv on its worker, or by OnMessage's function.
// A value belongs to the sender until Send returns nil and to the receiver from then on; its place in
// the edge stays the sending worker's.
type Mesh[T any] struct {
	rt     *Runtime
	ports  []*meshPort[T]
	clears bool // values may hold pointers: a place that was read is cleared for the collector

	closed  atomic.Bool
	silent  atomic.Int64  // ports that send no more
	drained atomic.Int64  // ports that have received all
	done    chan struct{} // closed when that is all of them
}

// meshPort is one worker's end. Its fields are that worker's, but for bell and the places of values.
type meshPort[T any] struct {
	m      *Mesh[T]
	w      *worker
	links  []meshLink[T] // by receiver
	closed bool          // sends no more
	over   bool          // received all

	blocked   int // links with waiting senders
	receivers taskList
	onMessage func(c *Context, from int, v T)

	run      []T    // what is left of the run that is being received
	runLen   uint32 // what it began with
	from     int    // whose it is
	nextFrom int    // the edge to look at first

	bell portBell
}

type meshLink[T any] struct {
	link
	values []T // cap places, made by the sender's first message
}

// NewMesh makes a mesh over the workers of rt. Errors: what is wrong with config, ErrClosed, or want of memory.
// It lives until it is closed and drained, or the runtime is closed. Any goroutine.
func NewMesh[T any](rt *Runtime, config MeshConfig) (*Mesh[T], error) {
	capacity := config.Capacity
	if capacity == 0 {
		capacity = meshCapacity
	}
	if capacity < 1 || capacity > 1<<16 || capacity&(capacity-1) != 0 {
		return nil, fmt.Errorf("veloq: MeshConfig.Capacity must be a power of two, 1 to 65536, is %d", capacity)
	}
	if rt.closing.Load() {
		return nil, ErrClosed
	}
	n := len(rt.workers)
	size := core.EdgeSizeBytes(uint32(capacity))
	slab := core.Alloc(size * uintptr(n*n))
	if slab == nil {
		return nil, core.Errno(core.ErrnoNOMEM).Sys()
	}
	m := &Mesh[T]{rt: rt, clears: hasPointers(reflect.TypeFor[T]()), done: make(chan struct{})}
	runtime.AddCleanup(m, func(slab unsafe.Pointer) { core.Free(slab) }, slab)
	for _, w := range rt.workers {
		m.ports = append(m.ports, &meshPort[T]{m: m, w: w, links: make([]meshLink[T], n)})
	}
	for from, p := range m.ports {
		for to := range p.links {
			l := &p.links[to]
			l.edge = core.InitEdge(unsafe.Add(slab, uintptr(from*n+to)*size), uint32(capacity))
			l.to, l.bell, l.cap = rt.workers[to], &m.ports[to].bell, uint32(capacity)
		}
	}
	for _, p := range m.ports {
		if !p.w.post(&note{do: func(w *worker) { w.addPort(p) }}) {
			return nil, ErrClosed
		}
	}
	return m, nil
}

// hasPointers reports whether values of the type may refer to memory.
func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return false
	case reflect.Array:
		return t.Len() > 0 && hasPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	}
	return true
}

// port returns the caller's end.
func (m *Mesh[T]) port(c *Context) (*meshPort[T], error) {
	if c.w.rt != m.rt {
		return nil, ErrWrongWorker
	}
	if !c.w.here() {
		return nil, c.w.elsewhere()
	}
	return m.ports[c.w.id], nil
}

// out returns the caller's end of the edge to a worker.
func (m *Mesh[T]) out(c *Context, to int) (*meshPort[T], *meshLink[T], error) {
	p, err := m.port(c)
	if err != nil {
		return nil, nil, err
	}
	if to < 0 || to >= len(p.links) {
		return nil, nil, ErrNoWorker
	}
	if p.closed {
		return nil, nil, ErrMeshClosed
	}
	return p, &p.links[to], nil
}

// push sends one value if there is room.
func (l *meshLink[T]) push(w *worker, v *T) bool {
	if l.room(w) == 0 {
		return false
	}
	if l.values == nil {
		l.values = make([]T, l.cap)
	}
	l.values[l.sent&(l.cap-1)] = *v
	l.add(w, 1)
	return true
}

// pushAll sends as many of vs as there is room for.
func (l *meshLink[T]) pushAll(w *worker, vs []T) (sent int) {
	for sent < len(vs) && l.room(w) > 0 {
		if l.values == nil {
			l.values = make([]T, l.cap)
		}
		at := l.sent & (l.cap - 1)
		n := min(uint32(len(vs)-sent), l.free, l.cap-at, runMax-l.pending)
		copy(l.values[at:at+n], vs[sent:])
		l.add(w, n)
		sent += int(n)
	}
	return sent
}

// TrySend sends v to a worker, or returns ErrFull at once. Errors: ErrMeshClosed, ErrNoWorker, and
// ErrWrongWorker where c is not the caller's or another runtime's. Worker only.
func (m *Mesh[T]) TrySend(c *Context, to int, v T) error {
	_, l, err := m.out(c, to)
	if err != nil {
		return err
	}
	if l.senders.len() > 0 || !l.push(c.w, &v) {
		return ErrFull
	}
	return nil
}

// Send sends v to a worker. While the edge is full it parks the task until half of it is free, in turn
// with other tasks that wait to send there; in a handler it returns ErrFull. Errors: TrySend's,
// and the Context's Err; after an error v was not sent. Worker only.
func (m *Mesh[T]) Send(c *Context, to int, v T) error {
	p, l, err := m.out(c, to)
	if err != nil {
		return err
	}
	if l.senders.len() == 0 && l.push(c.w, &v) {
		return nil
	}
	one := [1]T{v}
	_, err = p.wait(c, l, one[:])
	return err
}

// SendBatch sends vs in order and returns how many were sent: all of them where the error is nil. It
// parks as Send does, and another task's messages may come between those before and after. vs is
// not kept. Worker only.
func (m *Mesh[T]) SendBatch(c *Context, to int, vs []T) (int, error) {
	p, l, err := m.out(c, to)
	if err != nil {
		return 0, err
	}
	n := 0
	if l.senders.len() == 0 {
		n = l.pushAll(c.w, vs)
	}
	if n == len(vs) {
		return n, nil
	}
	rest, err := p.wait(c, l, vs[n:])
	return n + rest, err
}

// Broadcast sends v to every other worker, in the order of their numbers, parking as Send does. It
// returns how many got it: all where the error is nil. Worker only.
func (m *Mesh[T]) Broadcast(c *Context, v T) (int, error) {
	n := 0
	for to := range m.ports {
		if to == c.w.id {
			continue
		}
		if err := m.Send(c, to, v); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// wait sends vs as room comes, in turn with the link's other senders.
func (p *meshPort[T]) wait(c *Context, l *meshLink[T], vs []T) (n int, err error) {
	t, err := c.task()
	if err != nil {
		if err == ErrNotTask { //nolint:errorlint // ours, bare
			err = ErrFull
		}
		return 0, err
	}
	if l.senders.len() == 0 {
		p.blocked++
	}
	l.senders.add(t)
	for n < len(vs) {
		if p.closed {
			err = ErrMeshClosed
			break
		}
		if err = t.err(); err != nil {
			break
		}
		if l.senders.first() == t {
			if n += l.pushAll(p.w, vs[n:]); n == len(vs) || l.awaitRoom() {
				continue
			}
		}
		t.park()
	}
	l.senders.remove(t)
	if next := l.senders.first(); next != nil {
		p.w.wake(next)
	} else {
		p.blocked--
	}
	return n, err
}

// refill begins the next run, of the edges in turn.
func (p *meshPort[T]) refill() bool {
	for range p.m.ports {
		from := p.nextFrom
		if p.nextFrom++; p.nextFrom == len(p.m.ports) {
			p.nextFrom = 0
		}
		l := &p.m.ports[from].links[p.w.id]
		var one [1]core.Msg
		if l.edge.Pop(one[:]) > 0 {
			first, n := uint32(one[0].Token), uint32(one[0].Token>>recordShift)
			p.run, p.runLen, p.from = l.values[first:first+n], n, from
			return true
		}
	}
	return false
}

// take moves values of one run to vs and returns how many.
func (p *meshPort[T]) take(vs []T) int {
	if len(p.run) == 0 && !p.refill() {
		return 0
	}
	n := copy(vs, p.run)
	if p.m.clears {
		clear(p.run[:n])
	}
	if p.run = p.run[n:]; len(p.run) == 0 {
		sender := p.m.ports[p.from]
		sender.links[p.w.id].consume(p.w, sender.w, &sender.bell, p.runLen)
	}
	return n
}

// waiting reports whether a take would find something.
func (p *meshPort[T]) waiting() bool {
	if len(p.run) > 0 {
		return true
	}
	for _, sender := range p.m.ports {
		if sender.links[p.w.id].edge.Len() > 0 {
			return true
		}
	}
	return false
}

// Recv receives the next message for this worker and says which worker sent it; it parks until there
// is one. Several tasks may wait: each message goes to one of them. When the mesh is closed, what was
// sent before still arrives, and then ErrMeshClosed. Other errors: ErrBusy where OnMessage takes
// the messages, ErrNotTask in a handler that finds none, the Context's Err. Worker only.
func (m *Mesh[T]) Recv(c *Context) (v T, from int, err error) {
	var one [1]T
	_, from, err = m.RecvBatch(c, one[:])
	return one[0], from, err
}

// RecvBatch is Recv for up to len(vs) messages of one sender: it returns how many, at least one where
// the error is nil, and does not wait for more. vs is not kept. Worker only.
func (m *Mesh[T]) RecvBatch(c *Context, vs []T) (n, from int, err error) {
	p, err := m.port(c)
	if err != nil || len(vs) == 0 {
		return 0, 0, err
	}
	if p.receivers.len() == 0 && p.onMessage == nil {
		n = p.take(vs)
	}
	if n == 0 {
		if n, err = p.await(c, vs); err != nil {
			return 0, 0, err
		}
	}
	from = p.from
	p.received()
	return n, from, nil
}

// received looks whether that was the last message of a closed mesh.
func (p *meshPort[T]) received() {
	if p.m.closed.Load() {
		p.bell.ring(p.w, p.w)
	}
}

// await parks until it has taken something, in turn with the port's other receivers.
func (p *meshPort[T]) await(c *Context, vs []T) (int, error) {
	switch {
	case p.onMessage != nil:
		return 0, ErrBusy
	case p.over:
		return 0, ErrMeshClosed
	}
	t, err := c.task()
	if err != nil {
		return 0, err
	}
	p.receivers.add(t)
	defer func() {
		// A wake that came for this one is not lost on the others.
		p.receivers.remove(t)
		if next := p.receivers.first(); next != nil && (p.over || p.waiting()) {
			p.w.wake(next)
		}
	}()
	for {
		if err := t.err(); err != nil {
			return 0, err
		}
		if p.onMessage != nil {
			return 0, ErrBusy
		}
		if p.receivers.first() == t {
			if n := p.take(vs); n > 0 {
				return n, nil
			}
		}
		if p.settle(); p.over {
			return 0, ErrMeshClosed
		}
		t.park()
	}
}

// OnMessage makes fn receive every message, on the worker that it is for, called by the worker itself
// as a handler is: it must not block, and TrySend from it may return ErrFull. A panic in it
// goes to Config.OnPanic, whose default crashes the program; the next message follows. At most 1024
// messages are handed out between two looks at the worker's other work. It applies to what
// has not been received yet; tasks in Recv get ErrBusy. Call it once. Any goroutine.
func (m *Mesh[T]) OnMessage(fn func(c *Context, from int, v T)) {
	for _, p := range m.ports {
		p.w.post(&note{do: func(w *worker) {
			p.onMessage = fn
			p.wakeReceivers()
			p.bell.ring(w, w)
		}})
	}
}

func (p *meshPort[T]) wakeReceivers() {
	for _, t := range p.receivers.tasks {
		p.w.wake(t)
	}
}

// drain implements port.
func (p *meshPort[T]) drain() (more bool) {
	if !p.bell.take() || p.w.stopping {
		return false
	}
	if p.blocked > 0 {
		for i := range p.links {
			if l := &p.links[i]; l.senders.len() > 0 && l.waiting.Load() == 0 {
				p.w.wake(l.senders.first())
			}
		}
	}
	if p.onMessage != nil {
		for range portBudget {
			if p.over || !p.handle() {
				return p.settle()
			}
		}
		p.bell.set.Store(1)
		return true
	}
	if t := p.receivers.first(); t != nil && p.waiting() {
		p.w.wake(t)
	}
	return p.settle()
}

// settle ends the port when nothing can come any more.
func (p *meshPort[T]) settle() (more bool) {
	// The senders' silence first: what they sent before is in the edges then.
	if p.over || p.m.silent.Load() < int64(len(p.m.ports)) || p.waiting() {
		return false
	}
	p.over = true
	p.w.mail.Store(1) // drainPorts forgets it
	p.wakeReceivers()
	if p.m.drained.Add(1) == int64(len(p.m.ports)) {
		close(p.m.done)
	}
	return false
}

// handle hands one message to the handler, if there is one.
func (p *meshPort[T]) handle() (handled bool) {
	var one [1]T
	if p.take(one[:]) == 0 {
		return false
	}
	handled = true // also after a panic
	if rt := p.w.rt; rt.config.OnPanic != nil {
		defer func() {
			if value := recover(); value != nil {
				rt.reportPanic(&PanicError{Value: value, Stack: debug.Stack()})
			}
		}()
	}
	p.onMessage(&p.w.handlerContext, p.from, one[0])
	return handled
}

// ended implements port.
func (p *meshPort[T]) ended() bool { return p.over }

// Close ends the sending: every later send, and one that waits for room, returns ErrMeshClosed. What
// was sent arrives. It returns at once; a second Close does nothing. Any goroutine.
func (m *Mesh[T]) Close() {
	if !m.closed.CompareAndSwap(false, true) {
		return
	}
	for _, p := range m.ports {
		p.w.post(&note{do: p.close})
	}
}

// close ends the port's sending, on its worker.
func (p *meshPort[T]) close(w *worker) {
	p.closed = true
	for i := range p.links {
		l := &p.links[i]
		l.publish(w)
		for _, t := range l.senders.tasks {
			w.wake(t)
		}
	}
	if p.m.silent.Add(1) == int64(len(p.m.ports)) {
		for _, other := range p.m.ports {
			other.bell.ring(w, other.w)
		}
	}
}

// Drain closes the mesh and waits until every message was received: until OnMessage's function has
// returned from it, or a Recv has. It returns ctx's error if that is done before, and ErrClosed if the
// runtime ends. From a task it closes the mesh and returns ErrNotTask. Any goroutine. Blocks.
func (m *Mesh[T]) Drain(ctx context.Context) error {
	m.Close()
	for _, w := range m.rt.workers {
		if gid.Supported && w.here() && !w.ended.Load() {
			return ErrNotTask
		}
	}
	select {
	case <-m.done:
		return nil
	case <-m.rt.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
