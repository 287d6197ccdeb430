package interop

// This file changes if what is tried with quic-go about key updates does.

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/core"
)

// keyTrace counts who quic-go says began key updates. An update is two events, one for each direction.
type keyTrace struct{ own, peers atomic.Int64 }

func (k *keyTrace) AddProducer() qlogwriter.Recorder { return k }
func (k *keyTrace) Close() error                     { return nil }

// SupportsSchemas is part of quic-go's interface.
func (k *keyTrace) SupportsSchemas(string) bool { return true }

func (k *keyTrace) RecordEvent(e qlogwriter.Event) {
	u, ok := e.(qlog.KeyUpdated)
	switch {
	case ok && u.Trigger == qlog.KeyUpdateLocal:
		k.own.Add(1)
	case ok && u.Trigger == qlog.KeyUpdateRemote:
		k.peers.Add(1)
	}
}

func (k *keyTrace) config() *quic.Config {
	cfg := quicConfig()
	cfg.Tracer = func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace { return k }
	return cfg
}

// Goal: keys are updated in mid-transfer, in both roles, at either side's wish: quic-go wishes it after its
// first 100 packets, rudp's core when its configuration says so.
func TestInterop_KeyUpdate(t *testing.T) {
	for name, c := range map[string]struct {
		after uint64 // packets
		check func(t *testing.T, k *keyTrace)
	}{
		"quic-go begins": {0, func(t *testing.T, k *keyTrace) {
			assert.EqualValues(t, 2, k.own.Load())
			assert.Zero(t, k.peers.Load())
		}},
		"rudp begins": {40, func(t *testing.T, k *keyTrace) {
			assert.Positive(t, k.peers.Load())
		}},
	} {
		t.Run(name+"/rudp dials", func(t *testing.T) {
			k := &keyTrace{}
			d := newDriver(t, core.Config{TLS: clientTLS(), KeyUpdateAfter: c.after}, false)
			p := d.dial(quicServerOn(t, &quic.Transport{}, k.config(), echo))
			roundTrip(t, p, p.CloseWrite, payload(t, 5<<20))
			assert.Positive(t, p.stats().KeyUpdates)
			c.check(t, k)
		})
		t.Run(name+"/quic-go dials", func(t *testing.T) {
			k := &keyTrace{}
			_, addr := listen(t, core.Config{KeyUpdateAfter: c.after})
			_, conn := quicDialWith(t, addr, k.config())
			s, err := conn.OpenStreamSync(context.Background())
			require.NoError(t, err)
			roundTrip(t, s, s.Close, payload(t, 5<<20))
			c.check(t, k)
		})
	}
}
