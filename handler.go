package veloq

// The handler door: callbacks on a worker.

import (
	"context"
	"runtime/debug"
	"slices"

	"github.com/veloq/veloq/internal/debugtag"
)

// Handler is code that a worker calls for the connections of a server. All calls for one stream come
// from its worker, one after another, and must not block: whatever waits belongs into a task (Go,
// Spawn) or a goroutine; runtime.Goexit crashes the program. A panic goes to Config.OnPanic and closes
// the stream; without one it crashes the program.
//
// The Context is the same for all calls of a server on a worker. It has the values of the context that
// the server was started with, and is done when the server has ended.
type Handler interface {
	// OnOpen is the first call for a stream.
	OnOpen(c *Context, s *Stream)
	// OnData has bytes that arrived. The lease is the worker's: it is valid until OnData returns,
	// unless the handler retains it. Any number of bytes, as they came. An error closes the stream
	// and is what OnClose gets.
	OnData(c *Context, s *Stream, l Lease) error
	// OnWritable comes once after a Write returned ErrFull, when half of Config.WriteHigh is free.
	OnWritable(c *Context, s *Stream)
	// OnClose is the last call. err is nil after the handler's own Close, io.EOF after the peer's
	// FIN, and otherwise why the connection ended.
	OnClose(c *Context, s *Stream, err error)
}

// HandlerBase has empty callbacks, to be embedded by handlers that need only some.
type HandlerBase struct{}

// OnOpen implements Handler.
func (HandlerBase) OnOpen(*Context, *Stream) {}

// OnWritable implements Handler.
func (HandlerBase) OnWritable(*Context, *Stream) {}

// OnClose implements Handler.
func (HandlerBase) OnClose(*Context, *Stream, error) {}

// handlerContexts are the Contexts of a server's callbacks, one for each worker, so that a call
// allocates none. They see the values of the context that the server was started with, and end with
// the server, or with their workers.
type handlerContexts []Context

func newHandlerContexts(rt *Runtime, values context.Context) handlerContexts {
	cs := make(handlerContexts, len(rt.workers))
	for i, w := range rt.workers {
		c := &cs[i]
		c.w, c.values = w, values
		w.post(&note{do: func(w *worker) {
			w.handlerContexts = append(w.handlerContexts, c)
			if w.stopping {
				c.cancel(ErrClosed)
			}
		}})
	}
	return cs
}

func (cs handlerContexts) of(w *worker) *Context { return &cs[w.id] }

// end is for a server that has ended. Any goroutine.
func (cs handlerContexts) end() {
	for i := range cs {
		c, err := &cs[i], errEnded
		if c.w.rt.closing.Load() {
			err = ErrClosed
		}
		c.cancelUnbegun(err)
		c.w.post(&note{do: func(w *worker) {
			if at := slices.Index(w.handlerContexts, c); at >= 0 {
				w.handlerContexts = slices.Delete(w.handlerContexts, at, at+1)
			}
		}})
	}
}

// closer is what a handler's panic closes.
type closer interface {
	close(why error)
}

// recovered is deferred around every callback about c.
func (w *worker) recovered(c closer) {
	if w.rt.config.OnPanic == nil {
		return // the panic goes on, with the handler's stack
	}
	if value := recover(); value != nil {
		pe := &PanicError{Value: value, Stack: debug.Stack()}
		w.rt.reportPanic(pe)
		c.close(pe)
	}
}

func (s *Stream) tellOpen() {
	defer s.w.recovered(s)
	s.at.server.handler.OnOpen(s.at.server.contexts.of(s.w), s)
}

func (s *Stream) tellData(l Lease) {
	defer s.w.recovered(s)
	if debugtag.Enabled {
		l.trace(s.w, s.name(), true)
		defer l.endLoan()
	}
	if err := s.at.server.handler.OnData(s.at.server.contexts.of(s.w), s, l); err != nil {
		s.close(err)
	}
}

func (s *Stream) tellWritable() {
	if !s.handled || s.closed {
		return
	}
	defer s.w.recovered(s)
	s.at.server.handler.OnWritable(s.at.server.contexts.of(s.w), s)
}

func (s *Stream) tellClosed() {
	if !s.handled {
		return
	}
	defer s.w.recovered(s)
	s.at.server.handler.OnClose(s.at.server.contexts.of(s.w), s, s.closeErr)
}
