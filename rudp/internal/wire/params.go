package wire

// This file changes if the transport parameters of RFC 9000, section 18 do.

import "time"

// Params are one side's transport parameters. Zero values are the defaults of RFC 9000 section 18.2
// only after DefaultParams.
type Params struct {
	OriginalDCID  CID // server only
	HasOriginal   bool
	RetrySCID     CID // server only
	HasRetry      bool
	InitialSCID   CID
	HasInitial    bool
	ResetToken    [16]byte // server only
	HasResetToken bool

	MaxIdleTimeout    time.Duration // 0: none
	MaxUDPPayload     uint64        // bytes
	MaxData           uint64        // bytes, as the four below
	MaxStreamBidiOwn  uint64        // for streams that the sender of the parameters opens
	MaxStreamBidiPeer uint64        // for streams that their receiver opens
	MaxStreamUni      uint64
	MaxStreamsBidi    uint64
	MaxStreamsUni     uint64
	AckDelayExponent  uint64
	MaxAckDelay       time.Duration
	DisableMigration  bool
	ActiveCIDLimit    uint64
}

const (
	paramOriginalDCID = iota
	paramMaxIdleTimeout
	paramResetToken
	paramMaxUDPPayload
	paramMaxData
	paramMaxStreamBidiLocal
	paramMaxStreamBidiRemote
	paramMaxStreamUni
	paramMaxStreamsBidi
	paramMaxStreamsUni
	paramAckDelayExponent
	paramMaxAckDelay
	paramDisableMigration
	paramPreferredAddress
	paramActiveCIDLimit
	paramInitialSCID
	paramRetrySCID
	paramCount
)

// DefaultParams are those of a peer that sends none.
func DefaultParams() Params {
	return Params{
		MaxUDPPayload:    65527,
		AckDelayExponent: 3,
		MaxAckDelay:      25 * time.Millisecond,
		ActiveCIDLimit:   2,
	}
}

// Append appends the parameters as TLS carries them.
func (p *Params) Append(b []byte) []byte {
	bytes := func(id uint64, v []byte) {
		b = AppendVarint(AppendVarint(b, id), uint64(len(v)))
		b = append(b, v...)
	}
	number := func(id, v uint64) {
		b = AppendVarint(AppendVarint(b, id), uint64(VarintLen(v)))
		b = AppendVarint(b, v)
	}
	if p.HasOriginal {
		bytes(paramOriginalDCID, p.OriginalDCID.Bytes())
	}
	if p.HasRetry {
		bytes(paramRetrySCID, p.RetrySCID.Bytes())
	}
	if p.HasInitial {
		bytes(paramInitialSCID, p.InitialSCID.Bytes())
	}
	if p.HasResetToken {
		bytes(paramResetToken, p.ResetToken[:])
	}
	number(paramMaxIdleTimeout, uint64(p.MaxIdleTimeout/time.Millisecond))
	number(paramMaxUDPPayload, p.MaxUDPPayload)
	number(paramMaxData, p.MaxData)
	number(paramMaxStreamBidiLocal, p.MaxStreamBidiOwn)
	number(paramMaxStreamBidiRemote, p.MaxStreamBidiPeer)
	number(paramMaxStreamUni, p.MaxStreamUni)
	number(paramMaxStreamsBidi, p.MaxStreamsBidi)
	number(paramMaxStreamsUni, p.MaxStreamsUni)
	number(paramAckDelayExponent, p.AckDelayExponent)
	number(paramMaxAckDelay, uint64(p.MaxAckDelay/time.Millisecond))
	number(paramActiveCIDLimit, p.ActiveCIDLimit)
	if p.DisableMigration {
		bytes(paramDisableMigration, nil)
	}
	return b
}

func paramError(reason string) error {
	return &Error{Code: TransportParamError, Frame: FrameCrypto, Reason: reason}
}

// ParseParams parses a peer's parameters; fromServer says which side sent them. Unknown ones are
// skipped. The error is an *Error with TRANSPORT_PARAMETER_ERROR.
func ParseParams(b []byte, fromServer bool) (p Params, err error) {
	p = DefaultParams()
	var seen uint32
	r := reader{b: b}
	for len(r.b) > 0 {
		id := r.varint()
		v := r.bytes(r.varint())
		if r.bad {
			return p, paramError("parameters cut short")
		}
		if id >= paramCount {
			continue
		}
		if seen&(1<<id) != 0 {
			return p, paramError("parameter sent twice")
		}
		seen |= 1 << id
		if !p.set(id, v, fromServer) {
			return p, paramError("parameter out of range")
		}
	}
	return p, nil
}

func (p *Params) set(id uint64, v []byte, fromServer bool) bool {
	switch id {
	case paramOriginalDCID, paramRetrySCID, paramInitialSCID, paramResetToken, paramPreferredAddress,
		paramDisableMigration:
		return p.setBytes(id, v, fromServer)
	}
	x, n := ParseVarint(v)
	if n == 0 || n != len(v) {
		return false
	}
	switch id {
	case paramMaxIdleTimeout:
		p.MaxIdleTimeout = time.Duration(min(x, 1<<40)) * time.Millisecond
	case paramMaxUDPPayload:
		p.MaxUDPPayload = x
		return x >= 1200
	case paramMaxData:
		p.MaxData = x
	case paramMaxStreamBidiLocal:
		p.MaxStreamBidiOwn = x
	case paramMaxStreamBidiRemote:
		p.MaxStreamBidiPeer = x
	case paramMaxStreamUni:
		p.MaxStreamUni = x
	case paramMaxStreamsBidi:
		p.MaxStreamsBidi = x
		return x <= 1<<60
	case paramMaxStreamsUni:
		p.MaxStreamsUni = x
		return x <= 1<<60
	case paramAckDelayExponent:
		p.AckDelayExponent = x
		return x <= 20
	case paramMaxAckDelay:
		p.MaxAckDelay = time.Duration(min(x, 1<<14)) * time.Millisecond
		return x < 1<<14
	case paramActiveCIDLimit:
		p.ActiveCIDLimit = x
		return x >= 2
	}
	return true
}

func (p *Params) setBytes(id uint64, v []byte, fromServer bool) bool {
	switch id {
	case paramDisableMigration:
		p.DisableMigration = true
		return len(v) == 0
	case paramInitialSCID:
		if len(v) > MaxCIDLen {
			return false
		}
		p.InitialSCID, p.HasInitial = MakeCID(v), true
		return true
	}
	if !fromServer || len(v) > MaxCIDLen && id != paramPreferredAddress {
		return false
	}
	switch id {
	case paramOriginalDCID:
		p.OriginalDCID, p.HasOriginal = MakeCID(v), true
	case paramRetrySCID:
		p.RetrySCID, p.HasRetry = MakeCID(v), true
	case paramResetToken:
		p.HasResetToken = true
		return copy(p.ResetToken[:], v) == 16 && len(v) == 16
	case paramPreferredAddress:
		// Two addresses with ports, an ID of 1 to 20 bytes and a reset token: never used, so only its size.
		return len(v) >= 4+2+16+2+1+1+16
	}
	return true
}
