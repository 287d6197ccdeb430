// Package pin names a peer by its certificate instead of by an authority: the one side makes a
// certificate of its own, the other is told its pin, the SHA-256 of it in hexadecimal, and takes no
// other.
package pin

// This file changes if what a pin is, or how it is checked, does.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrMismatch is what a handshake fails with if the peer has another certificate than the pinned
// one.
var ErrMismatch = errors.New("pin: not the pinned certificate")

// lifetime is how long a certificate is good for. Nobody but the pin vouches for it, so it need not
// be short.
const lifetime = 10 * 365 * 24 * time.Hour

// Server returns a configuration with a new certificate and key (ECDSA, P-256), and the
// certificate's pin. Any goroutine.
func Server() (cfg *tls.Config, pin string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "rudp"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, "", err
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, Of(der), nil
}

// Of returns the pin of a certificate, given in DER. Any goroutine.
func Of(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Client returns a configuration that takes exactly the certificate with this pin. The error tells
// that pin is none. Any goroutine.
func Client(pin string) (*tls.Config, error) {
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("pin: %q is not a SHA-256 in hexadecimal", pin)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The chain and the name are not looked at: the callback below is all of the check, and TLS
		// has verified by then that the peer holds the certificate's key.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return ErrMismatch
			}
			sum := sha256.Sum256(state.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(sum[:], want) != 1 {
				return ErrMismatch
			}
			return nil
		},
	}, nil
}
