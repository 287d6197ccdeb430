package veloq

// Socket options of a live Stream, and its two halves.

import (
	"math"
	"net"
	"syscall"
	"time"

	"github.com/veloq/veloq/internal/core"
)

func (s *Stream) descriptor() int32 { return s.fd }

func (s *Stream) setOption(option, value int32) error { return setOptionOf(s, option, value) }

func (s *Stream) option(option int32) (int32, error) { return optionOf(s, option) }

func boolInt(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// SetNoDelay turns Nagle's algorithm off (true, the default) or on: TCP_NODELAY, tcp(7). Worker only.
func (s *Stream) SetNoDelay(on bool) error { return s.setOption(core.OptNoDelay, boolInt(on)) }

// NoDelay returns what SetNoDelay sets. Worker only.
func (s *Stream) NoDelay() (bool, error) {
	v, err := s.option(core.OptNoDelay)
	return v != 0, err
}

// SetKeepAlive turns keep-alive probes on or off: SO_KEEPALIVE, socket(7). Worker only.
func (s *Stream) SetKeepAlive(on bool) error { return s.setOption(core.OptKeepAlive, boolInt(on)) }

// KeepAlive returns what SetKeepAlive sets. Worker only.
func (s *Stream) KeepAlive() (bool, error) {
	v, err := s.option(core.OptKeepAlive)
	return v != 0, err
}

// SetKeepAlivePeriod sets the idle time before the first probe and the time between probes, rounded
// up to seconds: TCP_KEEPIDLE and TCP_KEEPINTVL, tcp(7). Worker only.
func (s *Stream) SetKeepAlivePeriod(d time.Duration) error {
	secs := int32((d + time.Second - 1) / time.Second)
	if err := s.setOption(core.OptKeepIdleS, secs); err != nil {
		return err
	}
	return s.setOption(core.OptKeepIntervalS, secs)
}

// KeepAlivePeriod returns the idle time before the first probe. Worker only.
func (s *Stream) KeepAlivePeriod() (time.Duration, error) {
	v, err := s.option(core.OptKeepIdleS)
	return time.Duration(v) * time.Second, err
}

// SetKeepAliveConfig sets all that is to be said about keep-alive probes, as net.TCPConn's does: of the
// times, to seconds, and the count 0 is package net's default (15 s, 15 s, 9), and negative leaves it as it is:
// SO_KEEPALIVE, socket(7); TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT, tcp(7). Worker only.
func (s *Stream) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	if err := s.SetKeepAlive(config.Enable); err != nil {
		return err
	}
	count := int32(min(config.Count, math.MaxInt32))
	if count == 0 {
		count = defaultKeepAliveCount
	}
	for _, o := range [...]struct{ name, value int32 }{
		{core.OptKeepIdleS, keepAliveSeconds(config.Idle)},
		{core.OptKeepIntervalS, keepAliveSeconds(config.Interval)},
		{core.OptKeepCount, count},
	} {
		if o.value < 0 {
			continue
		}
		if err := s.setOption(o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// SetLinger says what the close does with unsent bytes: SO_LINGER, socket(7). sec < 0: sent in the
// background, the default; 0: dropped, and the peer gets a reset; > 0: sent for that long at most.
// Worker only.
func (s *Stream) SetLinger(sec int) error {
	err := s.setOption(core.OptLingerS, int32(sec))
	if err == nil {
		s.lingers = sec > 0
	}
	return err
}

// Linger returns what SetLinger sets, in seconds; -1 when it is off, the default. Worker only.
func (s *Stream) Linger() (int, error) {
	v, err := s.option(core.OptLingerS)
	return int(v), err
}

// SetReadBuffer sets the size of the socket's receive buffer in bytes: SO_RCVBUF, socket(7); the
// system doubles it. Worker only.
func (s *Stream) SetReadBuffer(bytes int) error {
	return s.setOption(core.OptReceiveBufferBytes, int32(bytes))
}

// ReadBuffer returns the size of the socket's receive buffer in bytes. Worker only.
func (s *Stream) ReadBuffer() (int, error) {
	v, err := s.option(core.OptReceiveBufferBytes)
	return int(v), err
}

// SetWriteBuffer sets the size of the socket's send buffer in bytes: SO_SNDBUF, socket(7); the system
// doubles it. Worker only.
func (s *Stream) SetWriteBuffer(bytes int) error {
	return s.setOption(core.OptSendBufferBytes, int32(bytes))
}

// WriteBuffer returns the size of the socket's send buffer in bytes. Worker only.
func (s *Stream) WriteBuffer() (int, error) {
	v, err := s.option(core.OptSendBufferBytes)
	return int(v), err
}

// SetTTL sets the time to live of sent packets, 1 to 255: IP_TTL, and on a socket of IPv6
// IPV6_UNICAST_HOPS too. Worker only.
func (s *Stream) SetTTL(ttl int) error { return s.setOption(core.OptTTL, int32(ttl)) }

// TTL returns what SetTTL sets. Worker only.
func (s *Stream) TTL() (int, error) {
	v, err := s.option(core.OptTTL)
	return int(v), err
}

// SyscallConn gives the socket to calls that veloq has no method for: Control runs its function at
// once. Its Read and Write return errors.ErrUnsupported, since the driver reads and writes. Worker
// only.
func (s *Stream) SyscallConn() (syscall.RawConn, error) {
	if err := s.check("raw-control"); err != nil {
		return nil, err
	}
	return rawOwned{s}, nil
}

// Split returns the stream's two halves, for two tasks of its worker. Closing the write half sends
// FIN, closing the read half drops what arrives; when both are closed the stream is. Worker only.
func (s *Stream) Split() (*ReadHalf, *WriteHalf) {
	h := &halves{s: s, open: 2}
	return &ReadHalf{h: h}, &WriteHalf{h: h}
}

type halves struct {
	s    *Stream
	open int
}

func (h *halves) closeOne(closed *bool, half func() error) error {
	if err := h.s.check("close"); err != nil {
		return err
	}
	if *closed {
		return nil
	}
	*closed = true
	h.open--
	if h.open == 0 {
		return h.s.Close()
	}
	return half()
}

// ReadHalf is the receiving half of a split Stream. Its methods are the Stream's.
type ReadHalf struct {
	h      *halves
	closed bool
}

// Read is Stream.Read. Worker only. Blocks.
func (r *ReadHalf) Read(p []byte) (int, error) { return r.h.s.Read(p) }

// ReadLease is Stream.ReadLease. Worker only. Blocks.
func (r *ReadHalf) ReadLease() (Lease, error) { return r.h.s.ReadLease() }

// Stream returns the whole stream.
func (r *ReadHalf) Stream() *Stream { return r.h.s }

// Close is Stream.CloseRead, or Close when the write half is closed already. Worker only.
func (r *ReadHalf) Close() error { return r.h.closeOne(&r.closed, r.h.s.CloseRead) }

// WriteHalf is the sending half of a split Stream. Its methods are the Stream's.
type WriteHalf struct {
	h      *halves
	closed bool
}

// Write is Stream.Write. Worker only. Blocks.
func (w *WriteHalf) Write(p []byte) (int, error) { return w.h.s.Write(p) }

// WriteLease is Stream.WriteLease. Worker only. Blocks.
func (w *WriteHalf) WriteLease(l Lease) (int, error) { return w.h.s.WriteLease(l) }

// Stream returns the whole stream.
func (w *WriteHalf) Stream() *Stream { return w.h.s }

// Close is Stream.CloseWrite, or Close when the read half is closed already. Worker only.
func (w *WriteHalf) Close() error { return w.h.closeOne(&w.closed, w.h.s.CloseWrite) }
