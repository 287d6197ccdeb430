package veloq

// Misuse: the mistakes that only the build tag veloq_debug finds, and who hears of them.

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// MisuseError is a mistake in the use of a buffer, lease or connection that only the build tag
// veloq_debug finds. A call that is itself the mistake panics with it; one that shows later, by what
// was never called, goes to Config.OnMisuse.
type MisuseError struct {
	// Of says what it is about: "lease of stream 127.0.0.1:80<-127.0.0.1:4000 on worker 0".
	Of string
	// What was wrong.
	What string
	// Before is the stack of the call that the mistake goes back to: the other Release, the call that
	// returned the lease, or the one that opened the connection.
	Before string
}

// Error implements error; the text ends with the earlier call's stack.
func (e *MisuseError) Error() string {
	text := "veloq: " + e.Of + ": " + e.What
	if e.Before != "" {
		text += "; earlier:\n" + e.Before
	}
	return text
}

func misuse(of, what string, before []uintptr) *MisuseError {
	e := &MisuseError{Of: of, What: what}
	if len(before) > 0 {
		e.Before = stackText(before)
	}
	return e
}

// callerStack returns the stack from the caller's caller on, less so many frames.
func callerStack(less int) []uintptr {
	const own = 3 // runtime.Callers, this function, its caller
	pcs := make([]uintptr, 32)
	return pcs[:runtime.Callers(own+less, pcs)]
}

// misusesMax is how many of the last finds Snapshot lists.
const misusesMax = 64

// misuses is what was found of a runtime without a call that could be told.
type misuses struct {
	mu   sync.Mutex
	last []*MisuseError
	left []*MisuseError // when the workers ended; to be told when that is over
}

// misused tells of a find. Never on a worker: who is told may wait. Without a runtime rt is nil.
func (rt *Runtime) misused(e *MisuseError) {
	if rt != nil {
		rt.misuses.mu.Lock()
		if len(rt.misuses.last) == misusesMax {
			rt.misuses.last = slices.Delete(rt.misuses.last, 0, 1)
		}
		rt.misuses.last = append(rt.misuses.last, e)
		rt.misuses.mu.Unlock()
		if rt.config.OnMisuse != nil {
			rt.config.OnMisuse(e)
			return
		}
	}
	fmt.Fprintln(os.Stderr, e)
}

func (m *misuses) list() []*MisuseError {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.last)
}

// lost counts what the collector found, on its own goroutine.
type lost struct{ leases, buffers atomic.Uint64 }

// name says in a MisuseError which stream it is.
func (s *Stream) name() string {
	return fmt.Sprintf("stream %v<-%v on worker %d", s.localAddr(), s.remoteAddr(), s.w.id)
}

// name is Stream.name for a datagram socket.
func (d *Datagram) name() string {
	return fmt.Sprintf("datagram socket %v on worker %d", d.local, d.w.id)
}
