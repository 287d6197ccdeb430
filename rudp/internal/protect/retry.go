package protect

// This file changes if the integrity of Retry packets (RFC 9001, section 5.8) does.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"

	"github.com/veloq/veloq/rudp/internal/wire"
)

const (
	retryKey   = "\xbe\x0c\x69\x0b\x9f\x66\x57\x5a\x1d\x76\x6b\x54\xe3\x68\xc8\x4e"
	retryNonce = "\x46\x15\x99\xd3\x5d\x63\x2b\xf2\x23\x98\x25\xbb"
)

// AppendRetryTag appends the integrity tag to a Retry packet that answers an Initial to odcid.
func AppendRetryTag(packet []byte, odcid wire.CID) ([]byte, error) {
	tag, err := retryTag(packet, odcid)
	return append(packet, tag...), err
}

// CheckRetry says whether a whole Retry packet, tag included, answers an Initial to odcid.
func CheckRetry(packet []byte, odcid wire.CID) bool {
	if len(packet) < Overhead {
		return false
	}
	body := packet[:len(packet)-Overhead]
	tag, err := retryTag(body, odcid)
	return err == nil && subtle.ConstantTimeCompare(tag, packet[len(body):]) == 1
}

func retryTag(packet []byte, odcid wire.CID) ([]byte, error) {
	block, err := aes.NewCipher([]byte(retryKey))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	pseudo := append([]byte{byte(odcid.Len())}, odcid.Bytes()...)
	return aead.Seal(nil, []byte(retryNonce), nil, append(pseudo, packet...)), nil
}
