package core

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// forge makes a datagram with these frames, as if the connection had sent it.
func (c *Conn) forge(pn uint64, frames []byte) []byte {
	const pnLen = 4
	b := wire.AppendShort(nil, c.path.cid.id, c.writePhase, pnLen)
	pnOffset := len(b)
	b = append(wire.AppendPN(b, pn, pnLen), frames...)
	return c.spaces[recovery.AppSpace].write.Seal(b, pnOffset, pnLen, pn)
}

// Goal: whoever has the keys may name any source address. What that address is sent is three times what came
// from there, also if the datagram that opens the path is small or makes the server move at once.
func TestConn_SmallDatagramsFromASpoofedAddress(t *testing.T) {
	challenge := wire.Frame{Type: wire.FramePathChallenge, Path: [8]byte{1}}
	ping := wire.Frame{Type: wire.FramePing}
	for name, frames := range map[string][]byte{
		"challenge":          join(challenge),
		"move":               join(ping),
		"challenge and move": join(challenge, ping),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{}, Config{})
			c, s := p.connect()
			_, err := s.Write(p.now, make([]byte, 100_000))
			require.NoError(t, err)
			for p.step() {
				p.now += 1000
			}
			spoofed := Path{Local: serverAddr, Remote: netip.MustParseAddrPort("198.51.100.7:53")}
			received, sent := 0, 0
			for i := range 40 {
				b := c.forge(1<<20+uint64(i), frames)
				received += len(b)
				p.server.Recv(p.now, spoofed, NotECT, b)
				for {
					b := p.server.Send(p.now, p.buf)
					if b.N == 0 {
						break
					}
					if b.Path.Remote == spoofed.Remote {
						sent += b.N
					}
				}
				require.LessOrEqual(t, sent, 3*received, "after %d datagrams", i+1)
				p.now = p.now.Add(20 * time.Millisecond)
				p.server.Tick(p.now)
			}
			assert.Positive(t, sent)
		})
	}
}
