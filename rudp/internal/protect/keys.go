// Package protect is QUIC's packet protection (RFC 9001): keys from TLS secrets, AEAD, header
// protection, key update, the limits of each AEAD, and the integrity tag of Retry.
package protect

// This file changes if how packets are sealed or opened does.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/veloq/veloq/rudp/internal/wire"
)

// Overhead is the size of the AEAD's tag in bytes.
const Overhead = 16

// sampleSize is how many bytes of ciphertext header protection looks at, which begin maxPNLen bytes
// after the packet number does.
const (
	sampleSize = 16
	maxPNLen   = 4
)

// Keys protect one direction at one encryption level. They are not safe for concurrent use: the nonce is
// built in place, so that nothing is allocated per packet.
type Keys struct {
	suite  uint16
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte
	hp     *headerKey
}

type headerKey struct {
	block  cipher.Block // AES; nil for ChaCha20
	chacha [32]byte
	mask   [16]byte
}

// Limits of a key, RFC 9001 section 6.6: packets it may seal, and forgeries it may be shown.
func (k *Keys) Limits() (confidentiality, integrity uint64) {
	if k.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		return 1 << 62, 1 << 36
	}
	return 1 << 23, 1 << 52
}

func hashOf(suite uint16) func() hash.Hash {
	if suite == tls.TLS_AES_256_GCM_SHA384 {
		return sha512.New384
	}
	return sha256.New
}

// expandLabel is HKDF-Expand-Label of TLS 1.3 (RFC 8446, section 7.1) with an empty context.
func expandLabel(suite uint16, secret []byte, label string, size int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(append(info, "tls13 "...), label...)
	info = append(info, 0)
	return hkdf.Expand(hashOf(suite), secret, string(info), size)
}

// NewKeys derives the keys of a TLS traffic secret, which is copied.
func NewKeys(suite uint16, secret []byte) (*Keys, error) {
	k, err := newAEAD(suite, secret)
	if err != nil {
		return nil, err
	}
	hp, err := expandLabel(suite, secret, "quic hp", keySize(suite))
	if err != nil {
		return nil, err
	}
	k.hp = &headerKey{}
	if suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		copy(k.hp.chacha[:], hp)
		return k, nil
	}
	k.hp.block, err = aes.NewCipher(hp)
	return k, err
}

func keySize(suite uint16) int {
	if suite == tls.TLS_AES_128_GCM_SHA256 {
		return 16
	}
	return 32
}

func newAEAD(suite uint16, secret []byte) (*Keys, error) {
	k := &Keys{suite: suite, secret: append([]byte(nil), secret...)}
	key, err := expandLabel(suite, secret, "quic key", keySize(suite))
	if err != nil {
		return nil, err
	}
	iv, err := expandLabel(suite, secret, "quic iv", len(k.iv))
	if err != nil {
		return nil, err
	}
	copy(k.iv[:], iv)
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384:
		var block cipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			k.aead, err = cipher.NewGCM(block)
		}
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		k.aead, err = chacha20poly1305.New(key)
	default:
		err = fmt.Errorf("no QUIC protection for cipher suite 0x%04x", suite)
	}
	return k, err
}

// Next returns the keys of the next key phase; header protection stays as it is (RFC 9001, section 6.1).
func (k *Keys) Next() (*Keys, error) {
	secret, err := expandLabel(k.suite, k.secret, "quic ku", len(k.secret))
	if err != nil {
		return nil, err
	}
	next, err := newAEAD(k.suite, secret)
	if err != nil {
		return nil, err
	}
	next.hp = k.hp
	return next, nil
}

// initialSalt is that of version 1, RFC 9001 section 5.2.
const initialSalt = "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a"

// Initial derives the keys of Initial packets from the client's first destination connection ID.
func Initial(dcid wire.CID) (client, server *Keys, err error) {
	const suite = tls.TLS_AES_128_GCM_SHA256
	initial, err := hkdf.Extract(sha256.New, dcid.Bytes(), []byte(initialSalt))
	if err != nil {
		return nil, nil, err
	}
	for _, side := range []struct {
		label string
		keys  **Keys
	}{{"client in", &client}, {"server in", &server}} {
		secret, err := expandLabel(suite, initial, side.label, sha256.Size)
		if err != nil {
			return nil, nil, err
		}
		if *side.keys, err = NewKeys(suite, secret); err != nil {
			return nil, nil, err
		}
	}
	return client, server, nil
}

func (k *Keys) makeNonce(pn uint64) []byte {
	k.nonce = k.iv
	low := k.nonce[4:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)^pn)
	return k.nonce[:]
}

// Seal protects the packet in b: its header, whose packet number is the pnLen bytes at pnOffset, and its
// payload. b must have room for Overhead bytes more and hold at least 4 bytes from pnOffset on. The
// packet is sealed in place and returned, longer by Overhead.
func (k *Keys) Seal(b []byte, pnOffset, pnLen int, pn uint64) []byte {
	head := pnOffset + pnLen
	b = k.aead.Seal(b[:head], k.makeNonce(pn), b[head:], b[:head])
	mask := k.hp.maskOf(b[pnOffset+maxPNLen:][:sampleSize])
	b[0] ^= mask[0] & firstByteMask(b[0])
	for i := range pnLen {
		b[pnOffset+i] ^= mask[1+i]
	}
	return b
}

func firstByteMask(first byte) byte {
	if first&0x80 != 0 {
		return 0x0f
	}
	return 0x1f
}

// Unprotect removes header protection in place: the first byte and the packet number of packet, which
// must hold exactly one packet. ok is false if the packet is too short to have been protected.
func (k *Keys) Unprotect(packet []byte, pnOffset int) (truncated uint64, pnLen int, ok bool) {
	if len(packet) < pnOffset+maxPNLen+sampleSize {
		return 0, 0, false
	}
	mask := k.hp.maskOf(packet[pnOffset+maxPNLen:][:sampleSize])
	packet[0] ^= mask[0] & firstByteMask(packet[0])
	pnLen = int(packet[0]&3) + 1
	for i := range pnLen {
		packet[pnOffset+i] ^= mask[1+i]
		truncated = truncated<<8 | uint64(packet[pnOffset+i])
	}
	return truncated, pnLen, true
}

// ErrOpen says that a packet is not authentic.
var ErrOpen = errors.New("packet not authentic")

// Open decrypts in place the payload of a packet whose header protection has been removed; head is where
// the payload begins. The payload aliases packet. A packet that is not authentic keeps its header but
// its payload is lost.
func (k *Keys) Open(packet []byte, head int, pn uint64) ([]byte, error) {
	payload, err := k.aead.Open(packet[head:head], k.makeNonce(pn), packet[head:], packet[:head])
	if err != nil {
		return nil, ErrOpen
	}
	return payload, nil
}

func (h *headerKey) maskOf(sample []byte) *[16]byte {
	if h.block != nil {
		h.block.Encrypt(h.mask[:], sample)
		return &h.mask
	}
	clear(h.mask[:5])
	c, err := chacha20.NewUnauthenticatedCipher(h.chacha[:], sample[4:16])
	if err != nil {
		panic(err) // key and nonce have constant sizes
	}
	c.SetCounter(binary.LittleEndian.Uint32(sample))
	c.XORKeyStream(h.mask[:5], h.mask[:5])
	return &h.mask
}
