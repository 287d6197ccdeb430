package core

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// inject gives a connection frames as if its peer had sent them, sealed, in a packet of their own.
func inject(c *Conn, s recovery.SpaceID, frames []byte) error {
	pn := uint64(c.spaces[s].acks.largest + 1)
	addr := c.path.addr
	err := c.onPayload(s, pn, frames, addr, NotECT)
	if err != nil {
		c.fail(err)
	}
	c.touch()
	return err
}

func join(frames ...wire.Frame) (b []byte) {
	for i := range frames {
		b = frames[i].Append(b)
	}
	return b
}

func cid(b byte) wire.CID { return wire.MakeCID([]byte{b, b, b, b, b, b, b, b, b, b}) }

// Goal: a peer that has the keys but breaks the rules ends its connection, with the code that RFC 9000
// names, and nothing else.
func TestConn_HostilePeer(t *testing.T) {
	ack := func(from, to uint64) []byte {
		return wire.AppendAck(nil, []wire.Range{{Start: from, End: to}}, 0, wire.ECNCounts{}, 100)
	}
	for name, c := range map[string]struct {
		client bool // who is attacked
		frames []byte
		code   uint64
	}{
		"acknowledges what was never sent": {false, ack(0, 1<<40), wire.ProtocolViolation},
		"another stream":                   {false, join(wire.Frame{Type: wire.FrameStream, Stream: 4, Data: []byte("x")}), wire.StreamLimitError},
		"a unidirectional stream":          {false, join(wire.Frame{Type: wire.FrameStream, Stream: 2, Data: []byte("x")}), wire.StreamLimitError},
		"our stream, never opened":         {false, join(wire.Frame{Type: wire.FrameStream, Stream: 1, Data: []byte("x")}), wire.StreamStateError},
		"a server's stream":                {true, join(wire.Frame{Type: wire.FrameStream, Stream: 1, Data: []byte("x")}), wire.StreamLimitError},
		"the client's second stream":       {true, join(wire.Frame{Type: wire.FrameMaxStreamData, Stream: 4, Limit: 1}), wire.StreamStateError},
		"beyond the window":                {false, join(wire.Frame{Type: wire.FrameStream, Offset: 1 << 40, Data: []byte("x")}), wire.FlowControlError},
		"at 2^62":                          {false, join(wire.Frame{Type: wire.FrameStream, Offset: 1<<62 - 2, Data: []byte("x")}), wire.FlowControlError},
		"reset beyond the window":          {false, join(wire.Frame{Type: wire.FrameResetStream, Limit: 1<<62 - 1}), wire.FlowControlError},
		"bytes after the end": {false, join(wire.Frame{Type: wire.FrameStream, Data: []byte("abc"), Fin: true},
			wire.Frame{Type: wire.FrameStream, Offset: 3, Data: []byte("d")}), wire.FinalSizeError},
		"two ends": {false, join(wire.Frame{Type: wire.FrameStream, Data: []byte("abc"), Fin: true},
			wire.Frame{Type: wire.FrameStream, Data: []byte("ab"), Fin: true}), wire.FinalSizeError},
		"reset below what came": {false, join(wire.Frame{Type: wire.FrameStream, Data: []byte("abc")},
			wire.Frame{Type: wire.FrameResetStream, Limit: 2}), wire.FinalSizeError},
		"bytes beyond the reset": {false, join(wire.Frame{Type: wire.FrameResetStream, Limit: 2},
			wire.Frame{Type: wire.FrameStream, Data: []byte("abc")}), wire.FinalSizeError},
		"a client confirms":       {false, join(wire.Frame{Type: wire.FrameHandshakeDone}), wire.ProtocolViolation},
		"a client's token":        {false, join(wire.Frame{Type: wire.FrameNewToken, Data: []byte("x")}), wire.ProtocolViolation},
		"retires what never was":  {false, join(wire.Frame{Type: wire.FrameRetireConnectionID, Seq: 99}), wire.ProtocolViolation},
		"one ID with two numbers": {false, join(wire.Frame{Type: wire.FrameNewConnectionID, Seq: 50, RetirePriorTo: 50, CID: cid(1)}, wire.Frame{Type: wire.FrameNewConnectionID, Seq: 51, CID: cid(1)}), wire.ProtocolViolation},
		"one number for two IDs":  {false, join(wire.Frame{Type: wire.FrameNewConnectionID, Seq: 50, RetirePriorTo: 50, CID: cid(1)}, wire.Frame{Type: wire.FrameNewConnectionID, Seq: 50, CID: cid(2)}), wire.ProtocolViolation},
		"more IDs than allowed":   {false, join(wire.Frame{Type: wire.FrameNewConnectionID, Seq: 50, CID: cid(1)}, wire.Frame{Type: wire.FrameNewConnectionID, Seq: 51, CID: cid(2)}, wire.Frame{Type: wire.FrameNewConnectionID, Seq: 52, CID: cid(3)}, wire.Frame{Type: wire.FrameNewConnectionID, Seq: 53, CID: cid(4)}), wire.ConnectionIDLimit},
		"TLS far ahead":           {false, join(wire.Frame{Type: wire.FrameCrypto, Offset: 1 << 30, Data: []byte("x")}), wire.CryptoBufferExceeded},
		"unknown frame":           {false, []byte{0x40, 0x52}, wire.FrameEncodingError},
		"frame cut short":         {false, []byte{wire.FrameMaxData}, wire.FrameEncodingError},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{}, Config{})
			client, server := p.connect()
			victim, peer := server, client
			if c.client {
				victim, peer = client, server
			}
			err := inject(victim, recovery.AppSpace, c.frames)
			var e *wire.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, c.code, e.Code, e.Reason)
			p.run(50 * time.Millisecond)
			if victim.path.cid.id != cid(1) { // else the answer goes to an ID that nobody has
				var end *CloseError
				require.ErrorAs(t, peer.Err(), &end, "the peer is told")
				assert.Equal(t, c.code, end.Code)
			}
			p.run(time.Minute)
			assert.Zero(t, p.client.Len()+p.server.Len())
		})
	}
}

func TestConn_AcknowledgesASkippedNumber(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	c, _ := p.connect()
	c.skipAt = c.rec.NextPN(recovery.AppSpace)
	skipped := c.skipAt
	_, err := c.Write(p.now, []byte("x"))
	require.NoError(t, err)
	for p.client.Send(p.now, p.buf).N > 0 {
	}
	require.Equal(t, skipped+2, c.rec.NextPN(recovery.AppSpace))
	err = inject(c, recovery.AppSpace, wire.AppendAck(nil, []wire.Range{{Start: skipped, End: skipped + 2}}, 0, wire.ECNCounts{}, 100))
	var e *wire.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, uint64(wire.ProtocolViolation), e.Code)
}

// Goal: in Initial and Handshake packets every frame but those of RFC 9000's table 3 is a breach.
func TestConn_FramesOfTheWrongLevel(t *testing.T) {
	legal := []uint64{
		wire.FramePadding, wire.FramePing, wire.FrameAck, wire.FrameAckECN, wire.FrameCrypto, wire.FrameConnectionClose,
	}
	for typ := uint64(0); typ <= wire.FrameHandshakeDone; typ++ {
		if typ > wire.FrameStream && typ < wire.FrameMaxData {
			continue // STREAM with other flags
		}
		for _, space := range []recovery.SpaceID{recovery.InitialSpace, recovery.HandshakeSpace} {
			p := newPair(t, Config{}, Config{})
			c, err := p.client.Dial(p.now, toServer, nil)
			require.NoError(t, err)
			for p.client.Send(p.now, p.buf).N > 0 {
			}
			frame := join(wire.Frame{Type: typ, Data: []byte("x"), CID: cid(1), Seq: 1})
			if typ == wire.FrameAck || typ == wire.FrameAckECN {
				frame = wire.AppendAck(nil, []wire.Range{{Start: 0, End: 1}}, 0, wire.ECNCounts{ECT0: typ - wire.FrameAck}, 100)
			}
			err = inject(c, space, frame)
			if slices.Contains(legal, typ) {
				if err != nil { // for a reason of its own: there is nothing to acknowledge, or no keys
					assert.NotContains(t, err.Error(), "not allowed", "0x%x", typ)
				}
				continue
			}
			var e *wire.Error
			require.ErrorAs(t, err, &e, "0x%x", typ)
			assert.Equal(t, uint64(wire.ProtocolViolation), e.Code, "0x%x", typ)
			assert.Equal(t, typ, e.Frame)
			assert.GreaterOrEqual(t, c.state, closing)
		}
	}
}

// Floods of frames that each cost memory or an answer don't add up.
func TestConn_Floods(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	_, s := p.connect()
	for i := range 20_000 {
		require.NoError(t, inject(s, recovery.AppSpace, join(
			wire.Frame{Type: wire.FramePathChallenge, Path: [8]byte{byte(i)}},
			wire.Frame{Type: wire.FramePing},
			wire.Frame{Type: wire.FrameMaxStreamData, Limit: uint64(i)},
			wire.Frame{Type: wire.FrameStreamDataBlocked, Limit: uint64(i)},
		)), "%d", i)
		if i%8 == 0 {
			for p.server.Send(p.now, p.buf).N > 0 {
			}
		}
		p.now += 1000
	}
	assert.LessOrEqual(t, len(s.responses), responsesMax)
	assert.NoError(t, s.Check())

	// IDs that come and go, from a peer that acknowledges no retirement.
	var err error
	for i := 0; i < 20_000 && err == nil; i++ {
		err = inject(s, recovery.AppSpace, join(
			wire.Frame{Type: wire.FrameNewConnectionID, Seq: uint64(100 + i), RetirePriorTo: uint64(100 + i), CID: cidOf(i)}))
		for p.server.Send(p.now, p.buf).N > 0 {
		}
	}
	var e *wire.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, uint64(wire.ConnectionIDLimit), e.Code)
	assert.LessOrEqual(t, len(s.retire), retiredMax+cidsMax)
	assert.LessOrEqual(t, len(s.remote), cidsMax+1)
	assert.NoError(t, s.Check())
}

func cidOf(i int) wire.CID {
	return wire.MakeCID([]byte{byte(i), byte(i >> 8), byte(i >> 16), 1, 2, 3, 4, 5})
}

// A sender of one byte in two makes gaps; beyond a bound it is told off.
func TestConn_Gaps(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	_, s := p.connect()
	var err error
	n := 0
	for ; n < 100_000 && err == nil; n++ {
		err = inject(s, recovery.AppSpace, join(wire.Frame{Type: wire.FrameStream, Offset: uint64(2*n + 1), Data: []byte("x")}))
		require.LessOrEqual(t, len(s.recv.have), gapsMax+1)
	}
	require.Error(t, err)
	assert.Greater(t, n, gapsMax)
}

// Overlapping bytes are taken once: the first to come count.
func TestConn_OverlappingData(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	_, s := p.connect()
	require.NoError(t, inject(s, recovery.AppSpace, join(
		wire.Frame{Type: wire.FrameStream, Offset: 2, Data: []byte("cd")},
		wire.Frame{Type: wire.FrameStream, Offset: 0, Data: []byte("abcdef")},
		wire.Frame{Type: wire.FrameStream, Offset: 1, Data: []byte("bcdefgh"), Fin: true},
		wire.Frame{Type: wire.FrameStream, Offset: 0, Data: []byte("ab")},
	)))
	b := make([]byte, 20)
	n, err := s.Read(p.now, b)
	require.NoError(t, err)
	assert.Equal(t, "abcdefgh", string(b[:n]))
}

// Goal: a frame without bytes, far ahead, moves the highest offset though nothing is there yet. What comes
// after it finds its place: no loop, no panic, no wrong byte.
func TestConn_EmptyFramesAhead(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	_, s := p.connect()
	require.NoError(t, inject(s, recovery.AppSpace, join(
		wire.Frame{Type: wire.FrameStream, Offset: 100_000},
		wire.Frame{Type: wire.FrameStream, Offset: 5000, Data: []byte("later")},
		wire.Frame{Type: wire.FrameStream, Offset: 50_000},
		wire.Frame{Type: wire.FrameStream, Offset: 0, Data: []byte("now")},
	)))
	require.NoError(t, inject(s, recovery.AppSpace, join(
		wire.Frame{Type: wire.FrameStream, Offset: 3, Data: bytes.Repeat([]byte{'x'}, 4997-4000)},
		wire.Frame{Type: wire.FrameStream, Offset: 1000, Data: bytes.Repeat([]byte{'x'}, 4000)},
	)))
	b := make([]byte, 6000)
	n, err := s.Read(p.now, b)
	require.NoError(t, err)
	assert.Equal(t, "now"+strings.Repeat("x", 4997)+"later", string(b[:n]))
	require.NoError(t, s.Check())

	// TLS's messages: their ring comes and goes.
	var in recvBuffer
	for _, off := range []uint64{0, 300} {
		_, err := in.insert(off+100, nil, false)
		require.NoError(t, err)
		_, err = in.insert(off, bytes.Repeat([]byte{'y'}, 300), false)
		require.NoError(t, err)
		assert.Equal(t, 300, in.take(b))
		in.ring = nil
	}
}

// Authentic packets with any frames: no panic, no inconsistency, no memory without bound.
func FuzzConn_Frames(f *testing.F) {
	f.Add(join(wire.Frame{Type: wire.FrameStream, Data: []byte("abc"), Fin: true}), false, uint8(1))
	f.Add(join(wire.Frame{Type: wire.FrameResetStream, Limit: 2}, wire.Frame{Type: wire.FrameStopSending}), true, uint8(2))
	f.Add(wire.AppendAck(nil, []wire.Range{{Start: 0, End: 2}, {Start: 4, End: 6}}, 3, wire.ECNCounts{ECT0: 2}, 100), true, uint8(0))
	f.Add(join(wire.Frame{Type: wire.FrameNewConnectionID, Seq: 9, RetirePriorTo: 9, CID: cid(3)}, wire.Frame{Type: wire.FramePathChallenge}), false, uint8(3))
	f.Add(join(wire.Frame{Type: wire.FrameRetireConnectionID, Seq: 1}, wire.Frame{Type: wire.FrameCrypto, Data: []byte{4, 0, 0, 1, 0}}), true, uint8(4))
	f.Fuzz(func(t *testing.T, frames []byte, client bool, cut uint8) {
		if len(frames) == 0 || len(frames) > 1400 {
			return
		}
		p := newPair(t, Config{}, Config{})
		c, s := p.connect()
		victim := s
		if client {
			victim = c
		}
		_, _ = c.Write(p.now, make([]byte, 3000))
		_, _ = s.Write(p.now, make([]byte, 3000))
		at := min(int(cut), len(frames))
		for _, part := range [][]byte{frames[:at], frames[at:]} {
			if len(part) == 0 || victim.state >= closing {
				continue
			}
			if err := inject(victim, recovery.AppSpace, part); err != nil {
				var e *wire.Error
				if !errors.As(err, &e) {
					t.Fatalf("not a breach of the protocol: %v", err)
				}
			}
			p.run(5 * time.Millisecond)
			for _, x := range []*Conn{c, s} {
				if err := x.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		p.run(3 * time.Minute)
		if n := p.client.Len() + p.server.Len(); n != 0 {
			t.Fatalf("%d connections are left", n)
		}
	})
}

// Datagrams of any kind in front of an endpoint that has a connection.
func FuzzEndpoint_Recv(f *testing.F) {
	f.Add([]byte{0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e})
	f.Add([]byte{0x40, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := newPair(t, Config{}, Config{})
		c, s := p.connect()
		p.server.Recv(p.now, toClient, NotECT, append([]byte(nil), b...))
		p.client.Recv(p.now, toServer, CE, b)
		p.run(10 * time.Millisecond)
		if c.Err() != nil || s.Err() != nil || p.server.Len() != 1 {
			t.Fatalf("%v, %v, %d connections", c.Err(), s.Err(), p.server.Len())
		}
	})
}
