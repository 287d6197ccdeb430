package wire

// This file changes if the error codes of RFC 9000, section 20 do.

import "fmt"

// Transport error codes, RFC 9000 section 20.1. CryptoError plus a TLS alert is the code of that alert.
const (
	NoError              = 0x00
	InternalError        = 0x01
	ConnectionRefused    = 0x02
	FlowControlError     = 0x03
	StreamLimitError     = 0x04
	StreamStateError     = 0x05
	FinalSizeError       = 0x06
	FrameEncodingError   = 0x07
	TransportParamError  = 0x08
	ConnectionIDLimit    = 0x09
	ProtocolViolation    = 0x0a
	InvalidToken         = 0x0b
	ApplicationError     = 0x0c
	CryptoBufferExceeded = 0x0d
	KeyUpdateError       = 0x0e
	AEADLimitReached     = 0x0f
	NoViablePath         = 0x10
	CryptoError          = 0x0100
)

// Error is a breach of the protocol: the code that CONNECTION_CLOSE carries, the type of the frame at
// fault (0 if none), and a reason in words.
type Error struct {
	Code   uint64
	Frame  uint64
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("quic error 0x%x (frame 0x%x): %s", e.Code, e.Frame, e.Reason)
}

// Breach returns an *Error.
func Breach(code, frame uint64, reason string) error {
	return &Error{Code: code, Frame: frame, Reason: reason}
}
