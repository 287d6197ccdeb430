package rudp

// This file changes if which error a failure is does.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/veloq/veloq/rudp/internal/core"
)

// networkName is the Net of every *net.OpError, and of the addresses.
const networkName = "rudp"

// Addr is the address of one side.
type Addr struct{ netip.AddrPort }

// Network returns "rudp".
func (Addr) Network() string { return networkName }

// textAddr is an address that is nothing but text yet.
type textAddr string

func (textAddr) Network() string  { return networkName }
func (a textAddr) String() string { return string(a) }

// A ResetError is why Read fails when the peer gave the stream up before its end: by Reset with its
// code, by Close with bytes unread, or by closing its endpoint (code 0). errors.Is finds
// syscall.ECONNRESET.
type ResetError struct{ Code uint64 }

func (e *ResetError) Error() string {
	return fmt.Sprintf("connection reset by peer, code %d", e.Code)
}

// Is makes it syscall.ECONNRESET.
func (e *ResetError) Is(target error) bool { return target == syscall.ECONNRESET }

// A TransportError is a breach of the protocol or a failed handshake, found by either side.
// errors.Is finds syscall.ECONNRESET if the peer found it, syscall.ECONNABORTED if this side did;
// errors.As finds a tls.AlertError if it is an alert, and this side's error of package tls or x509.
type TransportError struct {
	Code   uint64 // RFC 9000, section 20.1
	Reason string
	Remote bool // the peer found it
	cause  error
}

func (e *TransportError) Error() string {
	side, reason := "local", e.Reason
	if e.Remote {
		side = "peer"
	}
	if alert, ok := e.alert(); ok && reason == "" {
		reason = alert.Error()
	}
	return fmt.Sprintf("%s error 0x%x: %s", side, e.Code, reason)
}

// alert is the TLS alert that the code stands for: RFC 9001, section 4.8.
func (e *TransportError) alert() (tls.AlertError, bool) {
	return tls.AlertError(e.Code & 0xff), e.Code&^0xff == 0x100
}

// Unwrap gives package tls's errors.
func (e *TransportError) Unwrap() []error {
	var list []error
	if e.cause != nil {
		list = append(list, e.cause)
	}
	if alert, ok := e.alert(); ok {
		list = append(list, alert)
	}
	return list
}

// Is makes it one of two error numbers.
func (e *TransportError) Is(target error) bool {
	return e.Remote && target == syscall.ECONNRESET || !e.Remote && target == syscall.ECONNABORTED
}

// timeoutError is syscall.ETIMEDOUT with a word about what took too long.
type timeoutError struct{ what string }

func (e *timeoutError) Error() string        { return e.what }
func (e *timeoutError) Timeout() bool        { return true }
func (e *timeoutError) Temporary() bool      { return false }
func (e *timeoutError) Is(target error) bool { return target == syscall.ETIMEDOUT }

// pipeError is syscall.EPIPE with the reason why the peer takes no more.
type pipeError struct{ cause error }

func (e *pipeError) Error() string {
	if e.cause == nil {
		return syscall.EPIPE.Error()
	}
	return syscall.EPIPE.Error() + ": " + e.cause.Error()
}

func (e *pipeError) Is(target error) bool { return target == syscall.EPIPE }
func (e *pipeError) Unwrap() error        { return e.cause }

func (e *pipeError) Timeout() bool {
	var t *timeoutError
	return errors.As(e.cause, &t)
}

// Errors of Migrate, and of calls that came too late.
var (
	// ErrNotMigratable is Migrate's on a server's side, or where the peer forbids it.
	ErrNotMigratable = errors.New("rudp: connection cannot migrate")
	// ErrPathFailed is Migrate's if nothing comes back along the new path.
	ErrPathFailed = errors.New("rudp: no answer on the new path")
	// ErrReplaced is Migrate's if another Migrate began before its end.
	ErrReplaced = errors.New("rudp: another migration began")
)

// errSocket is why the streams end of an endpoint whose socket failed.
type errSocket struct{ error }

func (e errSocket) Unwrap() error        { return e.error }
func (e errSocket) Is(target error) bool { return target == syscall.ECONNABORTED }

// connError says to the stream's user why its connection is over.
func connError(err error) error {
	var e *core.CloseError
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case core.KindClosed, core.KindReset:
		if e.Remote {
			return &ResetError{Code: e.Code}
		}
		return net.ErrClosed
	case core.KindIdleTimeout:
		return &timeoutError{"idle timeout"}
	case core.KindHandshakeTimeout:
		return &timeoutError{"handshake timeout"}
	case core.KindRefused:
		return syscall.ECONNREFUSED
	case core.KindVersion:
		return &TransportError{Reason: "no common version", Remote: true}
	case core.KindStatelessReset:
		return &TransportError{Reason: "peer lost the connection", Remote: true}
	}
	return &TransportError{Code: e.Code, Reason: e.Reason, Remote: e.Remote, cause: e.Cause}
}

// canceledError and lateError are what package net makes of a context's errors.
type (
	canceledError struct{}
	lateError     struct{}
)

func (canceledError) Error() string        { return "operation was canceled" }
func (canceledError) Is(target error) bool { return target == context.Canceled }
func (lateError) Error() string            { return "i/o timeout" }
func (lateError) Timeout() bool            { return true }
func (lateError) Temporary() bool          { return true }

func (lateError) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

func contextError(err error) error {
	switch err {
	case context.Canceled:
		return canceledError{}
	case context.DeadlineExceeded:
		return lateError{}
	}
	return err
}
