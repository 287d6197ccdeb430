package rudp

// This file changes if what can be configured, or a default or a limit, does.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/veloq/veloq/rudp/internal/core"
)

// Defaults of Config.
const (
	DefaultIdleTimeout      = core.DefaultIdleTimeout
	DefaultHandshakeTimeout = core.DefaultHandshakeTimeout
	DefaultRecvWindow       = core.DefaultRecvWindow
	DefaultSendBuffer       = core.DefaultSendBuffer
	DefaultAcceptQueue      = core.DefaultAcceptQueue
	DefaultMaxConns         = core.DefaultMaxConns

	// DefaultALPN is the protocol that TLS negotiates if Config.TLS names none.
	DefaultALPN = core.DefaultALPN
)

// Config sets up an endpoint. All but TLS may be zero, which means the default. It must not change
// while an endpoint uses it.
type Config struct {
	// TLS is required: a certificate to listen; to dial, what tls.Client needs. TLS 1.3 is
	// enforced. Without NextProtos it is DefaultALPN.
	TLS *tls.Config

	// IdleTimeout ends a connection from which nothing came for so long; the smaller of both sides'
	// counts. Default 30 s; negative: never. It bounds for how long Close goes on delivering to a
	// peer that is gone.
	IdleTimeout time.Duration
	// HandshakeTimeout ends a handshake that takes longer. Default 10 s.
	HandshakeTimeout time.Duration
	// KeepAlive is how long a silence lasts before the endpoint ends it with a packet. Default 0:
	// never.
	KeepAlive time.Duration

	// RecvWindow is how many bytes may wait for Read, or be under way, at most; it begins with 256
	// KiB and grows as the path needs. 32 KiB to 1 GiB, default 4 MiB.
	RecvWindow int
	// SendBuffer is how many bytes written may be unacknowledged before Write waits. 8 KiB to 1
	// GiB, default 1 MiB. What the peer has acknowledged after a byte that it lacks is kept too: in
	// all up to four times as much, or 1 GiB if that is less.
	SendBuffer int

	// AcceptQueue is how many connections may wait for Accept; more are refused. Default 128.
	AcceptQueue int
	// MaxConns is how many connections the endpoint has at most. Default 65536.
	MaxConns int
	// RequireRetry makes every client show first that it receives at its address (RFC 9000, section
	// 8.1). Without it that is so only while more than 64 handshakes are under way.
	RequireRetry bool
	// Congestion is the congestion controller: "bbr" or "cubic". Default "bbr".
	Congestion string

	// StatelessResetKey and TokenKey are kept secret. Set them to the same values in every process
	// that serves an address, and across restarts; zero: random.
	StatelessResetKey, TokenKey [32]byte

	// QLog is called for each connection, with the first destination connection ID (RFC 9000) and
	// which side this is, and may return where its events are written, in qlog's JSON-SEQ format
	// (draft-ietf-quic-qlog-main-schema). nil: not logged. It runs, as the writes do, on a
	// goroutine of the log's own: a writer that is slow loses events, and the log says how many.
	QLog func(connectionID []byte, client bool) io.WriteCloser
}

// Limits of Config.
const (
	windowMin = 32 << 10
	bufferMin = 8 << 10
	bufferMax = 1 << 30
)

// ErrConfig is what every error about a Config is.
var ErrConfig = errors.New("rudp: invalid configuration")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
}

// check finds what no endpoint could work with.
func (c *Config) check() error {
	switch {
	case c == nil || c.TLS == nil:
		return invalid("TLS is required")
	case c.TLS.MaxVersion != 0 && c.TLS.MaxVersion < tls.VersionTLS13:
		return invalid("TLS.MaxVersion is below TLS 1.3")
	case c.HandshakeTimeout < 0 || c.KeepAlive < 0:
		return invalid("HandshakeTimeout and KeepAlive must not be negative")
	case c.RecvWindow != 0 && (c.RecvWindow < windowMin || c.RecvWindow > bufferMax):
		return invalid("RecvWindow must be 32 KiB to 1 GiB")
	case c.SendBuffer != 0 && (c.SendBuffer < bufferMin || c.SendBuffer > bufferMax):
		return invalid("SendBuffer must be 8 KiB to 1 GiB")
	case c.AcceptQueue < 0 || c.MaxConns < 0:
		return invalid("AcceptQueue and MaxConns must not be negative")
	case c.Congestion != "" && c.Congestion != "bbr" && c.Congestion != "cubic":
		return invalid("Congestion must be \"bbr\" or \"cubic\", not %q", c.Congestion)
	}
	return nil
}

func (c *Config) handshakeTimeout() time.Duration {
	return defaulted(c.HandshakeTimeout, DefaultHandshakeTimeout)
}

func defaulted[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// core returns the configuration of the core.
func (c *Config) core(ecn bool) core.Config {
	return core.Config{
		TLS: c.TLS, IdleTimeout: c.IdleTimeout, HandshakeTimeout: c.HandshakeTimeout,
		KeepAlive:  c.KeepAlive,
		RecvWindow: defaulted(c.RecvWindow, DefaultRecvWindow),
		SendBuffer: defaulted(c.SendBuffer, DefaultSendBuffer),
		// One more waits in the Listener's hands.
		AcceptQueue: max(defaulted(c.AcceptQueue, DefaultAcceptQueue)-1, 1), MaxConns: c.MaxConns,
		RequireRetry: c.RequireRetry, Congestion: c.Congestion, ECN: ecn,
		StatelessResetKey: c.StatelessResetKey, TokenKey: c.TokenKey,
	}
}
