package veloq

// Left: connections and sockets that were dropped, or outlive the task that opened them, as the build
// tag veloq_debug finds them.

import (
	"fmt"
	"net"
	"runtime"
	"sync/atomic"

	"github.com/veloq/veloq/internal/debugtag"
)

// ---- of the net door: package net closes the descriptor of what the collector finds

// An openNote is what is known of an object of the net door until it is closed, and after that object.
type openNote struct {
	rt     *Runtime // that it was opened by; nil for the package's functions
	of     string
	opened []uintptr
	over   atomic.Bool // closed, or others may hold what is below
}

// noteOpen has the collector report c if it is dropped without a Close.
func noteOpen[T any](c *T, note *debugtag.Note[openNote], rt *Runtime, local, remote net.Addr) {
	n := &openNote{rt: rt, of: fmt.Sprintf("%T %v", c, local), opened: callerStack(1)}
	if remote != nil {
		n.of += fmt.Sprintf("<-%v", remote)
	}
	note.Set(n)
	runtime.AddCleanup(c, (*openNote).collected, n)
}

func (n *openNote) collected() {
	if !n.over.Load() {
		n.rt.misused(misuse(n.of, "dropped without a Close, and so closed by the collector", n.opened))
	}
}

// noteOver is for when it was closed, or handed out in another form.
func noteOver(note debugtag.Note[openNote]) {
	if n := note.Get(); n != nil {
		n.over.Store(true)
	}
}

// ---- of a worker, which closes them when it ends

// An origin is where a worker's socket comes from.
type origin struct {
	opened []uintptr
	by     *task // nil for a handler
}

// origin is for a socket that is being made.
func (w *worker) origin() *origin { return &origin{opened: callerStack(1), by: w.running} }

// orphaned reports whether the task has ended that opened the socket.
func (o *origin) orphaned() bool { return o != nil && o.by != nil && o.by.ended }

func (o *origin) created() string {
	if o == nil {
		return ""
	}
	return stackText(o.opened)
}

// A socket is a Stream, Datagram or Listener.
type socket interface {
	describe() ConnInfo
	name() string
	madeBy() *origin // nil for a server's
	left() bool
}

func (s *Stream) madeBy() *origin {
	if s.at != nil {
		return nil
	}
	return s.note.Get()
}

func (d *Datagram) madeBy() *origin {
	if d.server != nil {
		return nil
	}
	return d.note.Get()
}

func (l *Listener) madeBy() *origin { return l.note.Get() }

// name is Stream.name for a listener.
func (l *Listener) name() string { return fmt.Sprintf("listener %v on worker %d", l.addr, l.w.id) }

// left reports whether the stream's task has ended and left it open, and no other waits in it.
func (s *Stream) left() bool {
	return s.madeBy().orphaned() && !s.closed && s.recv.reader == nil && s.send.writer == nil
}

func (d *Datagram) left() bool {
	return d.madeBy().orphaned() && !d.closed && d.recv.reader == nil && len(d.out.writers) == 0
}

func (l *Listener) left() bool { return l.madeBy().orphaned() && !l.closed && l.acceptor == nil }

// leftSockets calls found for each socket that was left open.
func (w *worker) leftSockets(found func(s socket)) {
	for i := range w.slots.slots {
		if s, ok := w.slots.slots[i].owner.(socket); ok && s.left() {
			found(s)
		}
	}
}

// countLeft is how many there are.
func (w *worker) countLeft() (n int) {
	w.leftSockets(func(socket) { n++ })
	return n
}

// noteLeft keeps what there is for tellLeft.
func (w *worker) noteLeft() {
	m := &w.rt.misuses
	m.mu.Lock()
	defer m.mu.Unlock()
	w.leftSockets(func(s socket) {
		m.left = append(m.left,
			misuse(s.name(), "left open by the task that opened it, until the runtime's end", s.madeBy().opened))
	})
}

// tellLeft tells what the workers noted, when the runtime has ended.
func (rt *Runtime) tellLeft() {
	for _, e := range rt.misuses.left {
		rt.misused(e)
	}
}
