package core

// This file changes if what tracers see does.

import (
	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// TraceKind tells events apart; the names follow qlog's.
type TraceKind uint8

// What the fields of an Event mean is in the comment of each kind.
const (
	TracePacketSent     TraceKind = iota // Space, PN, Size
	TracePacketReceived                  // Space, PN, Size
	TracePacketLost                      // Space, PN, Size
	TracePacketDropped                   // Size
	TraceMetrics                         // A: window, B: bytes in flight, C: smoothed RTT in ns, D: rate in bytes/s
	TraceKeyUpdate                       // A: generation
	TracePath                            // A: 1 probed, 2 validated, 3 failed, 4 in use
	TraceMTU                             // A: bytes
	TraceState                           // A: the new state
)

// Event is one thing that happened in a connection. Conn is its number within the endpoint.
type Event struct {
	At         mono.Time
	Conn       uint64
	Kind       TraceKind
	Space      recovery.SpaceID
	PN         uint64
	Size       int
	A, B, C, D uint64
	ID         wire.CID // the destination of the client's first packet
	Client     bool     // which side this is
}

// A Tracer gets events as they happen, on the goroutine that drives the core. The event is valid during
// the call. It must not call the core.
type Tracer interface{ Trace(e *Event) }

func (c *Conn) trace(e Event) {
	if t := c.cfg.Tracer; t != nil {
		e.At, e.Conn, e.ID, e.Client = c.now, c.number, c.odcid, c.client
		c.event = e
		t.Trace(&c.event)
	}
}
