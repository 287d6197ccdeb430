package core

// This file changes if the tokens of Retry, or those of stateless resets, do.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/wire"
)

const (
	// resetMin is the size of the smallest datagram that can be a stateless reset.
	resetMin = 21
	resetMax = 43
	// tokenRandom is the size of a token's nonce, from which its key is drawn too.
	tokenRandom = 16
)

// resetToken is the stateless reset token of one of our IDs.
func (e *Endpoint) resetToken(id wire.CID) (t [16]byte) {
	h := hmac.New(sha256.New, e.cfg.StatelessResetKey[:])
	h.Write(id.Bytes())
	copy(t[:], h.Sum(nil))
	return t
}

// tokenAEAD returns the cipher for one token: no key seals twice, so that nonces can't collide.
func (e *Endpoint) tokenAEAD(random []byte) cipher.AEAD {
	h := hmac.New(sha256.New, e.cfg.TokenKey[:])
	h.Write(random)
	block, err := aes.NewCipher(h.Sum(nil)[:16])
	if err != nil {
		panic(err) // the key's size is constant
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// retryToken seals what the server must know when the client comes back: when, its first destination ID,
// and the ID that Retry gave it. The address is authenticated, not contained.
func (e *Endpoint) retryToken(now mono.Time, addr Path, odcid, scid wire.CID) []byte {
	token := make([]byte, tokenRandom, 128)
	e.random(token)
	plain := binary.BigEndian.AppendUint64(nil, uint64(now))
	plain = append(append(plain, byte(odcid.Len())), odcid.Bytes()...)
	plain = append(plain, scid.Bytes()...)
	address, _ := addr.Remote.MarshalBinary()
	return e.tokenAEAD(token).Seal(token, make([]byte, 12), plain, address)
}

// openToken returns what retryToken sealed for this address, if that was not too long ago.
func (e *Endpoint) openToken(now mono.Time, addr Path, token []byte) (odcid, scid wire.CID, ok bool) {
	if len(token) < tokenRandom+16 {
		return odcid, scid, false
	}
	address, _ := addr.Remote.MarshalBinary()
	plain, err := e.tokenAEAD(token[:tokenRandom]).Open(nil, make([]byte, 12), token[tokenRandom:], address)
	if err != nil || len(plain) < 9 {
		return odcid, scid, false
	}
	at := mono.Time(binary.BigEndian.Uint64(plain))
	n := int(plain[8])
	if rest := plain[9:]; len(rest) == n+CIDLen && n <= wire.MaxCIDLen {
		age := now.Sub(at)
		return wire.MakeCID(rest[:n]), wire.MakeCID(rest[n:]), age >= 0 && age <= retryTokenLife
	}
	return odcid, scid, false
}
