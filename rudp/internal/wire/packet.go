package wire

// This file changes if the packet headers of RFC 8999 or RFC 9000, section 17 do.

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
)

// Version1 is QUIC version 1.
const Version1 uint32 = 1

// MaxCIDLen is the longest connection ID that version 1 allows.
const MaxCIDLen = 20

// A CID is a connection ID of 0 to 20 bytes. Two are equal by == if their bytes are.
type CID struct {
	len uint8
	b   [MaxCIDLen]byte
}

// MakeCID copies b, which must be at most MaxCIDLen bytes.
func MakeCID(b []byte) (c CID) {
	if len(b) > MaxCIDLen {
		panic("rudp: connection ID of more than 20 bytes")
	}
	c.len = uint8(copy(c.b[:], b))
	return c
}

// Bytes returns the ID's bytes, which alias c.
func (c *CID) Bytes() []byte { return c.b[:c.len] }

// Len returns the ID's length in bytes.
func (c CID) Len() int { return int(c.len) }

func (c CID) String() string { return hex.EncodeToString(c.b[:c.len]) }

// PacketType tells the packets of version 1 apart.
type PacketType uint8

// The first four are the values of the type bits of a long header.
const (
	Initial PacketType = iota
	ZeroRTT
	Handshake
	Retry
	VersionNegotiation
	Short
)

const (
	formBit  = 0x80
	fixedBit = 0x40
	// KeyPhaseBit, SpinBit and the reserved bits are those of the first byte.
	KeyPhaseBit       = 0x04
	SpinBit           = 0x20
	ShortReservedBits = 0x18
	LongReservedBits  = 0x0c
)

// Header is what a packet shows before its protection is removed.
type Header struct {
	Type    PacketType
	Version uint32
	DCID    CID
	SCID    CID    // long headers
	Token   []byte // Initial and Retry
	// Tag is the integrity tag of a Retry, or the list of versions of a Version Negotiation.
	Tag []byte
	// PNOffset is where the protected packet number begins, End where the packet ends: what follows
	// in the datagram is the next packet. Both 0 for Retry; End is the datagram's for short headers.
	PNOffset, End int
}

// Errors of ParseHeader. What can't be parsed is dropped in silence.
var (
	ErrShort   = errors.New("packet cut short")
	ErrFixed   = errors.New("fixed bit is 0")
	ErrCIDLen  = errors.New("connection ID too long")
	ErrVersion = errors.New("unknown version")
)

// IsLong says whether the datagram begins with a long header.
func IsLong(b []byte) bool { return len(b) > 0 && b[0]&formBit != 0 }

// ParseHeader parses the packet at the front of b. cidLen is the length of the connection IDs that the
// receiver hands out, which short headers don't say. With ErrVersion the header's version-independent
// fields (Version, DCID, SCID) are set: RFC 8999.
func ParseHeader(b []byte, cidLen int) (h Header, err error) {
	if len(b) == 0 {
		return h, ErrShort
	}
	if b[0]&formBit == 0 {
		h.Type = Short
		if b[0]&fixedBit == 0 {
			return h, ErrFixed
		}
		if len(b) < 1+cidLen {
			return h, ErrShort
		}
		h.DCID = MakeCID(b[1 : 1+cidLen])
		h.PNOffset, h.End = 1+cidLen, len(b)
		return h, nil
	}
	rest, err := h.invariants(b)
	if err != nil {
		return h, err
	}
	switch {
	case h.Version == 0:
		h.Type, h.Tag, h.End = VersionNegotiation, rest, len(b)
		if len(rest) == 0 || len(rest)%4 != 0 {
			return h, ErrShort
		}
		return h, nil
	case h.Version != Version1:
		return h, ErrVersion
	case b[0]&fixedBit == 0:
		return h, ErrFixed
	}
	return h, h.version1(b, rest)
}

// invariants parses what every version's long header has.
func (h *Header) invariants(b []byte) (rest []byte, err error) {
	if len(b) < 6 {
		return nil, ErrShort
	}
	h.Version = binary.BigEndian.Uint32(b[1:])
	rest = b[5:]
	for _, c := range []*CID{&h.DCID, &h.SCID} {
		if len(rest) < 1 {
			return nil, ErrShort
		}
		n := int(rest[0])
		if len(rest) < 1+n {
			return nil, ErrShort
		}
		if n > MaxCIDLen {
			return nil, ErrCIDLen
		}
		*c = MakeCID(rest[1 : 1+n])
		rest = rest[1+n:]
	}
	return rest, nil
}

func (h *Header) version1(b, rest []byte) error {
	h.Type = PacketType(b[0] >> 4 & 3)
	if h.Type == Retry {
		if len(rest) < 16 {
			return ErrShort
		}
		h.Token, h.Tag, h.End = rest[:len(rest)-16], rest[len(rest)-16:], len(b)
		return nil
	}
	if h.Type == Initial {
		size, n := ParseVarint(rest)
		if n == 0 || uint64(len(rest)-n) < size {
			return ErrShort
		}
		h.Token = rest[n : n+int(size)]
		rest = rest[n+int(size):]
	}
	size, n := ParseVarint(rest)
	if n == 0 || uint64(len(rest)-n) < size {
		return ErrShort
	}
	h.PNOffset = len(b) - len(rest) + n
	h.End = h.PNOffset + int(size)
	return nil
}

// LengthSize is the size of the Length field that AppendLong leaves room for.
const LengthSize = 2

// AppendLong appends a long header up to the packet number: a token for Initial only, and LengthSize
// bytes that PutLength fills.
func AppendLong(b []byte, t PacketType, dcid, scid CID, token []byte, pnLen int) []byte {
	b = append(b, formBit|fixedBit|byte(t)<<4|byte(pnLen-1))
	b = binary.BigEndian.AppendUint32(b, Version1)
	b = append(append(b, dcid.len), dcid.b[:dcid.len]...)
	b = append(append(b, scid.len), scid.b[:scid.len]...)
	if t == Initial {
		b = AppendVarint(b, uint64(len(token)))
		b = append(b, token...)
	}
	return append(b, 0, 0)
}

// PutLength writes n, which is below 16,384, into the Length field that ends at offset end.
func PutLength(b []byte, end, n int) {
	binary.BigEndian.PutUint16(b[end-LengthSize:], uint16(n)|0x4000)
}

// AppendShort appends a short header up to the packet number.
func AppendShort(b []byte, dcid CID, keyPhase bool, pnLen int) []byte {
	first := byte(fixedBit | (pnLen - 1))
	if keyPhase {
		first |= KeyPhaseBit
	}
	return append(append(b, first), dcid.b[:dcid.len]...)
}

// AppendVersionNegotiation appends a Version Negotiation packet. random fills the bits that mean nothing.
func AppendVersionNegotiation(b []byte, dcid, scid CID, random byte, versions ...uint32) []byte {
	b = append(b, formBit|fixedBit|random, 0, 0, 0, 0)
	b = append(append(b, dcid.len), dcid.b[:dcid.len]...)
	b = append(append(b, scid.len), scid.b[:scid.len]...)
	for _, v := range versions {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// AppendRetry appends a Retry packet without its integrity tag.
func AppendRetry(b []byte, dcid, scid CID, token []byte, random byte) []byte {
	b = append(b, formBit|fixedBit|byte(Retry)<<4|random&0x0f)
	b = binary.BigEndian.AppendUint32(b, Version1)
	b = append(append(b, dcid.len), dcid.b[:dcid.len]...)
	b = append(append(b, scid.len), scid.b[:scid.len]...)
	return append(b, token...)
}

// HasVersion says whether a Version Negotiation's list names v.
func (h *Header) HasVersion(v uint32) bool {
	for list := h.Tag; len(list) >= 4; list = list[4:] {
		if binary.BigEndian.Uint32(list) == v {
			return true
		}
	}
	return false
}

// PNLen returns how many bytes tell pn apart, given that the peer has everything up to acked
// (-1: nothing). RFC 9000, appendix A.2.
func PNLen(pn uint64, acked int64) int {
	unacked := pn - uint64(acked) // -1 makes it pn + 1
	switch {
	case unacked < 1<<7:
		return 1
	case unacked < 1<<15:
		return 2
	case unacked < 1<<23:
		return 3
	default:
		return 4
	}
}

// AppendPN appends the n low bytes of pn.
func AppendPN(b []byte, pn uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		b = append(b, byte(pn>>(8*i)))
	}
	return b
}

// DecodePN restores a packet number from its n low bytes; largest is the largest received so far, -1
// if none. RFC 9000, appendix A.3.
func DecodePN(largest int64, truncated uint64, n int) uint64 {
	expected := uint64(largest + 1)
	win := uint64(1) << (8 * n)
	half := win / 2
	candidate := expected&^(win-1) | truncated
	switch {
	case candidate+half <= expected && candidate < 1<<62-win:
		return candidate + win
	case candidate > expected+half && candidate >= win:
		return candidate - win
	}
	return candidate
}
