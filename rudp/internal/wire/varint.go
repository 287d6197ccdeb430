// Package wire is QUIC version 1 in bytes: variable-length integers, packet headers, frames and
// transport parameters (RFC 8999, RFC 9000). It holds no state and knows no connection.
//
// Whatever is parsed aliases the input; nothing is copied or kept.
package wire

// This file changes if the integer encoding of RFC 9000, section 16 does.

import "encoding/binary"

// MaxVarint is the largest number that a variable-length integer can carry.
const MaxVarint = 1<<62 - 1

// VarintLen returns how many bytes v takes: 1, 2, 4 or 8. v must be at most MaxVarint.
func VarintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	default:
		return 8
	}
}

// AppendVarint appends v in its shortest form. v must be at most MaxVarint.
func AppendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v>>8)|0x40, byte(v))
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|0x80<<24)
	case v <= MaxVarint:
		return binary.BigEndian.AppendUint64(b, v|0xc0<<56)
	}
	panic("rudp: number beyond 2^62-1 on its way to the wire")
}

// ParseVarint reads the integer at the front of b. n is its length in bytes, 0 if b ends before it does.
func ParseVarint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	switch n {
	case 1:
		return uint64(b[0]), 1
	case 2:
		return uint64(binary.BigEndian.Uint16(b)) & 0x3fff, 2
	case 4:
		return uint64(binary.BigEndian.Uint32(b)) & 0x3fffffff, 4
	default:
		return binary.BigEndian.Uint64(b) & MaxVarint, 8
	}
}
