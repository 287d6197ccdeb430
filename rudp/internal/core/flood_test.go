package core

// This file changes if what a flood of Initial packets may cost a server does.

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// Goal: 100,000 Initials from addresses that never answer, each with an ID of its own and sealed as it must
// be, cost no memory that grows, above 64 half-open connections nothing but a Retry, and keep no client out.
// The ClientHello is either a real one, so that the handshake hangs until its time is over, or not one at
// all, so that it fails at once and the connection lingers to say so.
func TestEndpoint_FloodOfSpoofedInitials(t *testing.T) {
	count := 100_000
	if !long {
		count = 4_000
	}
	for name, c := range map[string]struct {
		hello bool
		retry bool
	}{"hello": {true, false}, "junk": {false, false}, "hello, Retry always": {true, true}} {
		t.Run(name, func(t *testing.T) {
			s := newStorm(t, 5, Config{RequireRetry: c.retry, HandshakeTimeout: 500 * time.Millisecond})
			for i := range 4096 {
				a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 443)
				s.spoofed = append(s.spoofed, a)
				s.credits[a] = &credit{}
			}
			s.calm = []*calm{s.open()}
			frames := s.clientHello()
			if !c.hello {
				frames = join(wire.Frame{Type: wire.FrameCrypto, Data: s.bytes(300)})
			}
			frames = append(frames, make([]byte, datagramMin-len(frames))...)
			var heaps []uint64
			retried := 0 // clients: a slot may be free when one comes
			for i := range count {
				from := s.spoofed[i%len(s.spoofed)]
				s.throw("flood", s.server, from, s.spoofedInitial(frames))
				if i%(count/8) == count/8-1 {
					if s.legitimate().retried {
						retried++
					}
					s.exchange()
					heaps = append(heaps, heap())
				}
			}
			stats := s.server.Stats()
			t.Logf("%+v; heap %v KiB", stats, kibs(heaps))
			bound := RetryAbove
			if c.retry {
				bound = 0
			}
			assert.LessOrEqual(t, stats.HalfOpen, bound)
			assert.LessOrEqual(t, stats.Conns, bound+2, "and the calm one, and a client's that drains")
			assert.Greater(t, stats.Retries, uint64(count/2))
			assert.Zero(t, stats.Refused)
			assert.GreaterOrEqual(t, retried, 4)
			assert.Less(t, slices.Max(heaps), slices.Min(heaps)+heapSlack)
		})
	}
}

// clientHello is what a client's first packets say. Its transport parameters name floodSCID.
func (s *storm) clientHello() []byte {
	c, err := s.newClient().Dial(s.now, toServer, nil)
	require.NoError(s.t, err)
	out := &c.spaces[recovery.InitialSpace].out
	hello := make([]byte, out.end-out.base)
	ringCopyOut(hello, out.ring, out.base)
	s.floodSCID = c.local[0].id
	return join(wire.Frame{Type: wire.FrameCrypto, Data: hello})
}

func (s *storm) spoofedInitial(frames []byte) []byte {
	dcid := wire.MakeCID(s.bytes(8))
	keys, _, err := protect.Initial(dcid)
	require.NoError(s.t, err)
	return s.sealed(wire.AppendLong(nil, wire.Initial, dcid, s.floodSCID, nil, 2), keys, 0, frames)
}

// legitimate is a client that comes in the middle of a flood, and is served.
func (s *storm) legitimate() *Conn {
	quiet := s.calm
	s.calm = []*calm{s.open()}
	c := s.calm[0].client
	s.exchange()
	c.Close(s.now)
	s.run(50 * time.Millisecond)
	require.Error(s.t, s.calm[0].server.Err())
	s.calm, s.samples = quiet, nil
	return c
}
