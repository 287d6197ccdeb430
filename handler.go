package veloq

// The handler door: callbacks on a worker.

import "runtime/debug"

// Handler is code that a worker calls for the connections of a server. All calls for one stream come
// from its worker, one after another, and must not block: whatever waits belongs into a task (Go,
// Spawn) or a goroutine; runtime.Goexit crashes the program. A panic goes to Config.OnPanic and closes
// the stream; without one it crashes the program.
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

// recovered is deferred around every callback.
func (s *Stream) recovered() {
	if s.w.rt.config.OnPanic == nil {
		return // the panic goes on, with the handler's stack
	}
	if value := recover(); value != nil {
		pe := &PanicError{Value: value, Stack: debug.Stack()}
		s.w.rt.reportPanic(pe)
		s.close(pe)
	}
}

func (s *Stream) tellOpen() {
	defer s.recovered()
	s.server.handler.OnOpen(&s.w.handlerContext, s)
}

func (s *Stream) tellData(l Lease) {
	defer s.recovered()
	if err := s.server.handler.OnData(&s.w.handlerContext, s, l); err != nil {
		s.close(err)
	}
}

func (s *Stream) tellWritable() {
	if !s.handled || s.closed {
		return
	}
	defer s.recovered()
	s.server.handler.OnWritable(&s.w.handlerContext, s)
}

func (s *Stream) tellClosed() {
	if !s.handled {
		return
	}
	defer s.recovered()
	s.server.handler.OnClose(&s.w.handlerContext, s, s.closeErr)
}
