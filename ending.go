package veloq

// The end that servers of connections and of datagrams have alike: once, with the first error.

import (
	"context"
	"sync"
)

// ending is a server's end to come.
type ending struct {
	mu   sync.Mutex
	err  error         // why it ended, or will; nil by the user's wish
	done chan struct{} // closed when nothing of the server is left
}

// because records why the server ends, unless something was before.
func (e *ending) because(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

// wait returns the reason once nothing is left.
func (e *ending) wait() error {
	<-e.done
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// within waits until nothing is left, or returns the error of ctx.
func (e *ending) within(ctx context.Context) error {
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish is called when nothing is left, and again.
func (e *ending) finish(rt *Runtime, s served, contexts handlerContexts) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.done:
	default:
		if e.err == nil && rt.closing.Load() {
			e.err = ErrClosed
		}
		contexts.end()
		close(e.done)
		rt.removeServer(s)
	}
}
