package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/recovery"
)

// settled is a connection on which nothing is in flight any more.
func settled(t *testing.T) (p *pair, c, s *Conn) {
	p = newPair(t, Config{}, Config{})
	c, s = p.connect()
	_, err := c.Write(p.now, []byte("open"))
	require.NoError(t, err)
	p.run(time.Second)
	require.Zero(t, c.rec.Inflight)
	require.Zero(t, s.rec.Inflight)
	return p, c, s
}

// await lets time pass until the user of s could have had so many bytes.
func await(t *testing.T, p *pair, s *Conn, bytes uint64) {
	for end := p.now.Add(time.Second); s.Stats().StreamReceived < bytes; {
		require.Less(t, p.now, end)
		p.run(time.Millisecond)
	}
	require.Equal(t, bytes, s.Stats().StreamReceived)
}

// Both probes of a timeout carry what may be lost: whichever comes through delivers it, without another
// timeout of twice the length.
func TestConn_EachProbeCarriesTheData(t *testing.T) {
	for lost := range 2 {
		p, c, s := settled(t)
		before, probes, sent := s.Stats().StreamReceived, c.Stats().Probes, 0
		p.drop = func(fromClient bool, _ []byte) bool {
			if fromClient {
				sent++
			}
			// The data itself, and one of the probes.
			return fromClient && (sent == 1 || sent == 2+lost)
		}
		_, err := c.Write(p.now, make([]byte, 64))
		require.NoError(t, err)
		await(t, p, s, before+64)
		assert.Equal(t, 3, sent, "the data and two probes")
		assert.Equal(t, probes+1, c.Stats().Probes, "probe %d is lost", lost)
	}
}

// Of more small packets than one, each probe carries as much as fits.
func TestConn_OneProbeCarriesSeveralPackets(t *testing.T) {
	p, c, s := settled(t)
	before, probes, sent := s.Stats().StreamReceived, c.Stats().Probes, 0
	p.drop = func(fromClient bool, _ []byte) bool {
		if fromClient {
			sent++
		}
		return fromClient && sent <= 3
	}
	for range 2 {
		_, err := c.Write(p.now, make([]byte, 64))
		require.NoError(t, err)
		p.step()
	}
	await(t, p, s, before+128)
	assert.Equal(t, 4, sent, "the second probe has all that the first had")
	assert.Equal(t, probes+1, c.Stats().Probes)
}

// A PING among acknowledgments must not put off the probe for data that is in flight.
func TestConn_PingOfAcksWaitsForDataInFlight(t *testing.T) {
	p, c, s := settled(t)
	lose := true
	p.drop = func(fromClient bool, _ []byte) bool { return fromClient && lose }
	_, err := c.Write(p.now, make([]byte, 64))
	require.NoError(t, err)
	p.step()
	lose = false
	due, next := c.rec.Timer(), c.rec.NextPN(recovery.AppSpace)
	c.ackOnly = ackElicitEvery - 1
	answer := func() {
		_, err := s.Write(p.now, make([]byte, 4000)) // enough packets to be acknowledged at once
		require.NoError(t, err)
		for p.step() {
		}
		_, err = c.Read(p.now, make([]byte, 4000))
		require.NoError(t, err)
	}
	answer()
	require.Greater(t, c.rec.NextPN(recovery.AppSpace), next, "it has acknowledged")
	assert.Equal(t, due, c.rec.Timer())
	assert.Equal(t, 1, c.rec.Outstanding(recovery.AppSpace))

	p.run(time.Second) // the probe, and all is acknowledged
	require.Zero(t, c.rec.Outstanding(recovery.AppSpace))
	c.ackOnly = ackElicitEvery - 1
	next = c.rec.NextPN(recovery.AppSpace)
	answer()
	require.Greater(t, c.rec.NextPN(recovery.AppSpace), next)
	assert.Less(t, c.ackOnly, ackElicitEvery-1, "nothing is in flight: the PING goes")
}
