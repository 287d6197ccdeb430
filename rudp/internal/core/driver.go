package core

// This file changes if what a driver may ask of an endpoint, beside moving datagrams, does.

import "errors"

// Listen makes the endpoint take connections, or refuse new ones: those that wait for Accept are refused
// too. It fails if its TLS configuration has no certificate.
func (e *Endpoint) Listen(on bool) error {
	if on && len(e.tls.Certificates) == 0 && e.tls.GetCertificate == nil && e.tls.GetConfigForClient == nil {
		return errors.New("rudp: a listener's TLS needs a certificate")
	}
	e.server = on
	return nil
}

// Settled says that no connection has anything left to say: all that are known have been ended by the peer.
func (e *Endpoint) Settled() bool {
	for _, c := range e.conns {
		if c.state < draining {
			return false
		}
	}
	return true
}

// Confirmed says whether the handshake is confirmed: RFC 9001, section 4.1.2. Only then a client may migrate.
func (c *Conn) Confirmed() bool { return c.confirmed }

// Sendable says whether Send has to be asked again before waiting for anything.
func (e *Endpoint) Sendable() bool { return len(e.replies) > 0 || e.ready.first < len(e.ready.list) }

// Written returns how many bytes Write has taken; Acknowledged how many of the first ones the peer has.
func (c *Conn) Written() uint64 { return c.send.end }

// Acknowledged is beside Written.
func (c *Conn) Acknowledged() uint64 { return c.send.base }

// Stopped says that the peer wants no more bytes.
func (c *Conn) Stopped() bool { return c.stopped }
