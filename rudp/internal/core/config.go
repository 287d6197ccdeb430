package core

// This file changes if what can be configured, or a default or a limit, does.

import (
	"crypto/tls"
	"errors"
	"io"
	"time"

	"github.com/veloq/veloq/rudp/internal/congestion"
)

// Defaults and limits.
const (
	DefaultIdleTimeout      = 30 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultRecvWindow       = 4 << 20
	DefaultSendBuffer       = 1 << 20
	DefaultAcceptQueue      = 128
	DefaultMaxConns         = 65536
	// RetryAbove is how many half-open connections make an endpoint ask for a token.
	RetryAbove = 64

	recvWindowFirst = 256 << 10
	recvWindowMin   = 16 << 10
	recvWindowMax   = 1 << 30
	sendBufferMin   = 4 << 10
	// sendSpanTimes is how many send buffers a connection keeps at most. All but one can only hold what the
	// peer has got, after bytes that it has not: as much passes while one byte is lost three times in a row.
	sendSpanTimes  = 4
	datagramMin    = 1200
	datagramMax    = 1452
	cryptoMax      = 64 << 10 // bytes of TLS messages out of order or unread
	retryTokenLife = 30 * time.Second
)

// Config sets up an endpoint. Zero values are the defaults. It must not change once in use.
type Config struct {
	TLS *tls.Config // required; TLS 1.3 is enforced

	IdleTimeout      time.Duration // DefaultIdleTimeout; negative: none
	HandshakeTimeout time.Duration // DefaultHandshakeTimeout
	KeepAlive        time.Duration // how long a silence lasts before a PING ends it; 0: never
	RecvWindow       int           // bytes to which the window grows; DefaultRecvWindow
	SendBuffer       int           // bytes that the peer has not got; DefaultSendBuffer
	AcceptQueue      int           // connections not yet accepted
	MaxConns         int
	RequireRetry     bool   // ask every client for a token, not only under load
	Congestion       string // "bbr" or "cubic"
	Worker           uint16 // is in each connection ID
	Resets           Resets // nil: the endpoint shares its address with no other
	ECN              bool   // datagrams are marked ECT(0); only if the socket can set and tell marks

	StatelessResetKey [32]byte // zero: drawn from Rand
	TokenKey          [32]byte // zero: drawn from Rand

	// Rand is the source of connection IDs, challenges and the like; crypto/rand's reader if nil.
	Rand io.Reader
	// WallClock tells TLS the time, for certificates; time.Now if nil.
	WallClock func() time.Time
	Tracer    Tracer

	// MaxDatagram bounds what path MTU discovery tries, 1200 to 1452 bytes; 0: 1452.
	MaxDatagram int
	// KeyUpdateAfter is how many packets one key seals; 0: half of what its AEAD allows.
	KeyUpdateAfter uint64

	fault Fault
}

// Resets is what the endpoints on one address tell each other of stateless resets, whose connection IDs are
// noise. It is called by all of their drivers.
type Resets interface {
	// Await says that the token ends a connection of the worker's; Forget that it no longer does.
	Await(token [16]byte, worker uint16)
	Forget(token [16]byte, worker uint16)
	Owner(token [16]byte) (worker uint16, ok bool)
}

// sendSpan returns how many bytes a connection keeps at most with such a send buffer.
func sendSpan(buffer int) int {
	return max(buffer, min(buffer, recvWindowMax/sendSpanTimes)*sendSpanTimes)
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// withDefaults returns a copy that is complete, or what is wrong.
func (c *Config) withDefaults() (*Config, error) {
	d := *c
	set(&d.IdleTimeout, DefaultIdleTimeout)
	set(&d.HandshakeTimeout, DefaultHandshakeTimeout)
	set(&d.RecvWindow, DefaultRecvWindow)
	set(&d.SendBuffer, DefaultSendBuffer)
	set(&d.AcceptQueue, DefaultAcceptQueue)
	set(&d.MaxConns, DefaultMaxConns)
	set(&d.MaxDatagram, datagramMax)
	set(&d.Congestion, congestion.BBRName)
	switch {
	case d.TLS == nil:
		return nil, errors.New("rudp: Config.TLS is required")
	case d.RecvWindow < recvWindowMin || d.RecvWindow > recvWindowMax:
		return nil, errors.New("rudp: RecvWindow must be 16 KiB to 1 GiB")
	case d.SendBuffer < sendBufferMin || d.SendBuffer > recvWindowMax:
		return nil, errors.New("rudp: SendBuffer must be 4 KiB to 1 GiB")
	case d.AcceptQueue < 1 || d.MaxConns < 1:
		return nil, errors.New("rudp: AcceptQueue and MaxConns must be positive")
	case d.HandshakeTimeout < 0 || d.KeepAlive < 0:
		return nil, errors.New("rudp: HandshakeTimeout and KeepAlive must not be negative")
	case d.MaxDatagram < datagramMin || d.MaxDatagram > datagramMax:
		return nil, errors.New("rudp: MaxDatagram must be 1200 to 1452")
	case congestion.New(d.Congestion, datagramMin, 0) == nil:
		return nil, errors.New(`rudp: Congestion must be "bbr" or "cubic"`)
	}
	return &d, nil
}

// A Fault is a defect planted on purpose, so that tests can show that their checks would find it.
type Fault uint8

// The planted defects.
const (
	FaultNone         Fault = iota
	FaultEarlyFIN           // end of stream is told before the bytes that are still missing
	FaultDropOverflow       // bytes beyond the ring are dropped, yet acknowledged
	FaultNoDupAck           // a packet with nothing new in it is not acknowledged
)

// Plant puts a defect into a configuration. For tests only.
func (c *Config) Plant(f Fault) { c.fault = f }
