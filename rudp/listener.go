package rudp

// This file changes if how connections are accepted does.

import (
	"net"
	"sync"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// Listener takes an endpoint's connections: a net.Listener. All methods: any goroutine.
type Listener struct {
	endpoint *Endpoint
	owns     bool // the endpoint ends with its last connection
	closed   chan struct{}
	once     sync.Once
	err      error // what became of the socket; set before closed is
}

var _ net.Listener = (*Listener)(nil)

// Accept waits for a connection whose handshake is done and returns it as a net.Conn. After Close
// it is an *net.OpError with net.ErrClosed, or with what became of the socket. Blocks.
func (l *Listener) Accept() (net.Conn, error) {
	s, err := l.AcceptStream()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// AcceptStream is Accept with the stream's own type. Blocks.
func (l *Listener) AcceptStream() (*Stream, error) {
	err := net.ErrClosed
	select {
	case <-l.closed:
	default:
		select {
		case s := <-l.endpoint.accepts:
			l.endpoint.feed()
			return s, nil
		case <-l.closed:
			if l.err != nil {
				err = l.err
			}
		case <-l.endpoint.done:
			if l.endpoint.failure != nil {
				err = l.endpoint.failure
			}
		}
	}
	return nil, &net.OpError{Op: "accept", Net: networkName, Addr: l.Addr(), Err: err}
}

// Addr returns the address of the endpoint's socket.
func (l *Listener) Addr() net.Addr { return l.endpoint.addr }

// Endpoint returns what the listener takes connections of.
func (l *Listener) Endpoint() *Endpoint { return l.endpoint }

// Close ends waiting Accepts and refuses connections from now on, also those that nobody has
// accepted. Accepted ones live on. The endpoint of the function Listen ends with the last of them,
// which Shutdown of Endpoint waits for. A second call returns nil.
func (l *Listener) Close() error {
	l.end()
	e := l.endpoint
	e.do(func(now mono.Time) {
		if e.listener == l {
			e.refuse(now)
		}
		e.idleClose = e.idleClose || l.owns
	})
	return nil
}

// failed ends the listener for what became of its socket.
func (l *Listener) failed(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.closed)
	})
}

func (l *Listener) end() { l.once.Do(func() { close(l.closed) }) }

// feed tells the actor that there is room for another stream, if it waits for that.
func (e *Endpoint) feed() {
	if e.hungry.Load() && e.hungry.CompareAndSwap(true, false) {
		e.post(func(mono.Time) {})
	}
}
