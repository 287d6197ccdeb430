package core

// This file changes if what is thrown at an endpoint does.

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// stormKinds are the kinds of datagrams, with how often each is thrown.
var stormKinds = []struct {
	name  string
	often int
	make  func(*storm) []byte
}{
	{"mutated", 20, (*storm).mutated},
	{"truncated", 8, func(s *storm) []byte { b := s.sample(); return b[:s.r.IntN(len(b)+1)] }},
	{"random", 8, (*storm).noise},
	{"replayed", 12, (*storm).sample},
	{"coalesced", 12, (*storm).coalesced},
	{"bad length", 12, (*storm).badLength},
	{"forged Initial", 10, (*storm).forgedInitial},
	{"forged Handshake", 1, (*storm).forgedHandshake},
	{"forged 1-RTT", 15, (*storm).forgedShort},
}

// prepare opens the calm connections and collects a datagram of every kind.
func (s *storm) prepare() {
	for range calmPairs {
		s.calm = append(s.calm, s.open())
	}
	hello := slices.IndexFunc(s.samples, func(b []byte) bool {
		return len(b) >= datagramMin && b[0]>>4&3 == byte(wire.Initial)
	})
	require.GreaterOrEqual(s.t, hello, 0)
	scid, dcid := cid(3), cid(4)
	first := bytes.Clone(s.samples[hello])
	retry, err := protect.AppendRetryTag(wire.AppendRetry(nil, scid, dcid, []byte("token"), 0), cid(5))
	require.NoError(s.t, err)
	other := bytes.Clone(first)
	other[4] = 2
	zeroRTT := append(wire.AppendLong(nil, wire.ZeroRTT, dcid, scid, nil, 2), make([]byte, 60)...)
	wire.PutLength(zeroRTT, len(zeroRTT)-60, 60)
	reset := s.bytes(resetMax)
	reset[0] = 0x40 | reset[0]&0x3f
	token := s.server.retryToken(s.now, toClient, cid(6), dcid)
	withToken := wire.AppendLong(nil, wire.Initial, dcid, scid, token, 2)
	withToken = append(withToken, make([]byte, 1200)...)
	wire.PutLength(withToken, len(withToken)-1200, 1200)
	s.samples = append(s.samples, retry, other, zeroRTT, reset, withToken,
		wire.AppendVersionNegotiation(nil, s.calm[0].client.local[0].id, scid, 9, 2, 3))
	s.exchange()
}

// one throws one datagram.
func (s *storm) one() {
	total := 0
	for _, k := range stormKinds {
		total += k.often
	}
	n := s.r.IntN(total)
	for _, k := range stormKinds {
		if n -= k.often; n < 0 {
			b := k.make(s)
			at, from := s.target()
			s.throw(k.name, at, from, b)
			return
		}
	}
}

// target draws who is attacked, and in whose name.
func (s *storm) target() (*Endpoint, netip.AddrPort) {
	if s.r.IntN(5) == 0 {
		if s.r.IntN(2) == 0 {
			return s.client, serverAddr
		}
		return s.client, s.spoofed[s.r.IntN(len(s.spoofed))]
	}
	switch s.r.IntN(4) {
	case 0:
		return s.server, clientAddr
	case 1:
		return s.server, malloryAddr
	}
	return s.server, s.spoofed[s.r.IntN(len(s.spoofed))]
}

func (s *storm) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.r.Uint32())
	}
	return b
}

// sample is a valid datagram that was delivered before.
func (s *storm) sample() []byte {
	if len(s.recent) > 0 && s.r.IntN(3) > 0 {
		return bytes.Clone(s.recent[s.r.IntN(len(s.recent))])
	}
	return bytes.Clone(s.samples[s.r.IntN(len(s.samples))])
}

func (s *storm) mutated() []byte { return s.twist(s.sample()) }

// twist changes, adds or takes out some bytes.
func (s *storm) twist(b []byte) []byte {
	for range 1 + s.r.IntN(4) {
		i := s.r.IntN(len(b))
		if s.r.IntN(2) == 0 {
			i = s.r.IntN(min(len(b), 40)) // the header
		}
		switch s.r.IntN(5) {
		case 0:
			b[i] ^= 1 << s.r.IntN(8)
		case 1:
			b[i] = byte(s.r.Uint32())
		case 2:
			b[i] = []byte{0, 0xff, 0x40, 0x80, 0xc0}[s.r.IntN(5)]
		case 3:
			b = slices.Insert(b, i, s.bytes(1+s.r.IntN(4))...)
		case 4:
			b = slices.Delete(b, i, min(len(b)-1, i+1+s.r.IntN(4)))
		}
	}
	return b
}

func (s *storm) noise() []byte {
	b := s.bytes(1 + s.r.IntN(1500))
	if s.r.IntN(2) == 0 && len(b) > 20 {
		b[0] |= 0xc0
		copy(b[1:], []byte{0, 0, 0, byte(s.r.IntN(3)), byte(s.r.IntN(24))})
	} else if s.r.IntN(2) == 0 && len(b) > CIDLen {
		// To a connection that exists.
		b[0] = 0x40 | b[0]&0x3f
		c := s.calm[s.r.IntN(len(s.calm))]
		copy(b[1:], [2]*Conn{c.client, c.server}[s.r.IntN(2)].local[0].id.Bytes())
	}
	return b
}

func (s *storm) coalesced() (b []byte) {
	for range 2 + s.r.IntN(4) {
		next := s.sample()
		switch s.r.IntN(4) {
		case 0:
			next = s.mutated()
		case 1:
			next = next[:s.r.IntN(len(next))]
		case 2:
			next = s.forgedInitial()
		}
		b = append(b, next...)
	}
	return b
}

// badLength changes a field of a long header that says how long another is.
func (s *storm) badLength() []byte {
	b := s.sample()
	for range 30 {
		if wire.IsLong(b) {
			break
		}
		b = bytes.Clone(s.samples[s.r.IntN(len(s.samples))])
	}
	if !wire.IsLong(b) || len(b) < 50 {
		return b
	}
	at := 5 // the destination ID's length
	if s.r.IntN(2) > 0 {
		at += 1 + int(b[at]) // the source ID's
		if s.r.IntN(3) > 0 && at < len(b) {
			at += 1 + int(b[at]) // the token's, or the packet's
			if s.r.IntN(2) > 0 {
				at++
			}
		}
	}
	if at >= len(b) {
		return b
	}
	switch s.r.IntN(3) {
	case 0:
		b[at] = byte(s.r.Uint32())
	case 1:
		b[at] += byte(s.r.IntN(5)) - 2
	case 2:
		copy(b[at:], wire.AppendVarint(nil, s.number()))
	}
	return b
}

// number is small, or plausible, or as large as can be.
func (s *storm) number() uint64 {
	switch s.r.IntN(5) {
	case 0, 1:
		return s.r.Uint64N(8)
	case 2:
		return s.r.Uint64N(1 << 12)
	case 3:
		return s.r.Uint64N(1 << 30)
	}
	return wire.MaxVarint - s.r.Uint64N(4)
}

// frames are legal and modest, or of any type with any numbers, or no frames at all.
func (s *storm) frames() (b []byte) {
	modest := s.r.IntN(2) == 0
	number := s.number
	if modest {
		number = func() uint64 { return s.r.Uint64N(64) }
	}
	for range 1 + s.r.IntN(6) {
		f := wire.Frame{
			Type: s.r.Uint64N(0x1f), Stream: 4 * (number() / 32), Offset: number(), Data: s.bytes(max(0, s.r.IntN(140)-20)),
			Fin: s.r.IntN(4) == 0, Limit: number(), Code: number(), Cause: number(), Seq: number(),
			RetirePriorTo: number(), CID: wire.MakeCID(s.bytes(s.r.IntN(21))), Token: [16]byte(s.bytes(16)),
			Path: [8]byte(s.bytes(8)), Largest: number(), Delay: number(),
		}
		switch {
		case modest && (f.Type == wire.FrameConnectionClose || f.Type == wire.FrameApplicationClose):
			f.Type = wire.FramePathChallenge
		case !modest && s.r.IntN(6) == 0:
			b = append(b, f.Data...)
			continue
		case f.Type == wire.FrameAck || f.Type == wire.FrameAckECN:
			from := min(number(), wire.MaxVarint-4)
			b = wire.AppendAck(b, []wire.Range{{Start: from, End: from + 1 + s.r.Uint64N(3)}}, f.Delay,
				wire.ECNCounts{ECT0: f.Type - wire.FrameAck}, 100)
			continue
		case f.Type > wire.FrameStream && f.Type < wire.FrameStream+8:
			f.Type = wire.FrameStream
		}
		b = f.Append(b)
	}
	if s.r.IntN(50) == 0 {
		return nil // a packet without frames
	}
	return b
}

// sealed puts frames into a packet behind head, which ends before the packet number.
func (s *storm) sealed(head []byte, keys *protect.Keys, pn uint64, frames []byte) []byte {
	pnLen := int(head[0]&3) + 1
	for len(frames) < 4 {
		frames = append(frames, wire.FramePadding)
	}
	pnOffset := len(head)
	b := append(wire.AppendPN(head, pn, pnLen), frames...)
	if wire.IsLong(b) {
		wire.PutLength(b, pnOffset, len(b)-pnOffset+protect.Overhead)
	}
	return keys.Seal(b, pnOffset, pnLen, pn)
}

// forgedInitial is what everybody can make: the keys come from the ID.
func (s *storm) forgedInitial() []byte {
	dcid, scid := wire.MakeCID(s.bytes(7+s.r.IntN(14))), wire.MakeCID(s.bytes(s.r.IntN(21)))
	if s.r.IntN(4) == 0 {
		dcid = s.calm[s.r.IntN(len(s.calm))].server.local[0].id
	}
	keys, serverKeys, err := protect.Initial(dcid)
	require.NoError(s.t, err)
	if s.r.IntN(8) == 0 {
		keys = serverKeys
	}
	var token []byte
	if s.r.IntN(4) == 0 {
		token = s.bytes(s.r.IntN(100))
	}
	frames := s.frames()
	if s.r.IntN(12) > 0 {
		frames = append(frames, make([]byte, max(0, datagramMin-len(frames)))...)
	}
	head := wire.AppendLong(nil, wire.Initial, dcid, scid, token, 1+s.r.IntN(4))
	return s.sealed(head, keys, s.r.Uint64N(1<<10), frames)
}

// knock makes a connection of mallory's own: with all keys, or with those of the handshake only.
func (s *storm) knock(established bool) bool {
	e := s.newClient()
	c, err := e.Dial(s.now, Path{Local: malloryAddr, Remote: serverAddr}, nil)
	require.NoError(s.t, err)
	s.malloryEndpoint, s.mallory = e, c
	if established {
		s.run(2 * time.Millisecond)
		s.malloryEndpoint = nil
		return c.Confirmed()
	}
	// The flight that answers the server's is never sent.
	for range 4 {
		for b := e.Send(s.now, s.buf); b.N > 0; b = e.Send(s.now, s.buf) {
			s.server.Recv(s.now, Path{Local: serverAddr, Remote: malloryAddr}, NotECT, s.buf[:b.N])
		}
		for b := s.server.Send(s.now, s.buf); b.N > 0; b = s.server.Send(s.now, s.buf) {
			s.deliver(b.Path, s.buf[:b.N])
		}
		if c.spaces[recovery.HandshakeSpace].write != nil {
			break
		}
	}
	s.malloryEndpoint = nil
	return c.spaces[recovery.HandshakeSpace].write != nil
}

// alive says whether the server still listens to mallory's connection.
func (s *storm) alive() bool {
	if s.mallory == nil {
		return false
	}
	c := s.server.conns[s.mallory.path.cid.id]
	return c != nil && c.state < closing
}

// forgedHandshake is a packet that only who takes part in a handshake can make.
func (s *storm) forgedHandshake() []byte {
	if !s.knock(false) {
		return s.noise()
	}
	c := s.mallory
	head := wire.AppendLong(nil, wire.Handshake, c.path.cid.id, c.local[0].id, nil, 4)
	b := s.sealed(head, c.spaces[recovery.HandshakeSpace].write, s.r.Uint64N(100), s.frames())
	s.mallory = nil
	return b
}

// forgedShort is a packet of a peer that has the keys and obeys no rule.
func (s *storm) forgedShort() []byte {
	if (!s.alive() || s.mallory.spaces[recovery.AppSpace].write == nil) && !s.knock(true) {
		s.mallory = nil
		return s.noise()
	}
	c := s.mallory
	s.pn += 1 + s.r.Uint64N(3)
	head := wire.AppendShort(nil, c.path.cid.id, s.r.IntN(50) == 0, 4)
	return s.sealed(head, c.spaces[recovery.AppSpace].write, s.pn, s.frames())
}
