package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// The examples of RFC 9000, appendix A.1, and the ends of each size.
func TestVarint(t *testing.T) {
	for text, v := range map[string]uint64{
		"c2197c5eff14e88c": 151288809941952652, "9d7f3e7d": 494878333, "7bbd": 15293, "25": 37,
		"00": 0, "3f": 63, "4040": 64, "7fff": 16383, "80004000": 16384, "bfffffff": 1<<30 - 1,
		"c000000040000000": 1 << 30, "ffffffffffffffff": MaxVarint,
	} {
		b := unhex(t, text)
		got, n := ParseVarint(b)
		assert.Equal(t, v, got, text)
		assert.Equal(t, len(b), n, text)
		assert.Equal(t, b, AppendVarint(nil, v), text)
		assert.Equal(t, len(b), VarintLen(v), text)
		for i := range b {
			_, n = ParseVarint(b[:i])
			assert.Zero(t, n, "%s cut to %d", text, i)
		}
	}
	v, n := ParseVarint(unhex(t, "4025"))
	assert.Equal(t, uint64(37), v, "longer than needed")
	assert.Equal(t, 2, n)
	assert.Panics(t, func() { AppendVarint(nil, MaxVarint+1) })
}

// RFC 9000, appendices A.2 and A.3, then every distance within a window.
func TestPacketNumber(t *testing.T) {
	assert.Equal(t, 2, PNLen(0xac5c02, 0xabe8b3))
	assert.Equal(t, 3, PNLen(0xace8fe, 0xabe8b3))
	assert.Equal(t, uint64(0xa82f9b32), DecodePN(0xa82f30ea, 0x9b32, 2))
	for n := 1; n <= 2; n++ {
		win := int64(1) << (8 * n)
		for _, largest := range []int64{-1, 0, 1, win/2 - 1, win / 2, win - 1, win, 3*win + 5, 1<<62 - 2*win} {
			for d := -win/2 + 1; d <= win/2; d += 1 + win/512 {
				pn := largest + 1 + d
				if pn < 0 || pn >= 1<<62 {
					continue
				}
				require.Equal(t, uint64(pn), DecodePN(largest, uint64(pn)&uint64(win-1), n), "largest %d, distance %d", largest, d)
			}
		}
	}
}

func TestHeader_LongRoundTrip(t *testing.T) {
	d, s := MakeCID([]byte{1, 2, 3, 4, 5, 6, 7, 8}), MakeCID([]byte{9, 10})
	for _, typ := range []PacketType{Initial, Handshake} {
		b := AppendLong(nil, typ, d, s, []byte("token"), 2)
		off := len(b)
		b = append(AppendPN(b, 0x0102, 2), make([]byte, 30)...)
		PutLength(b, off, 32)
		b = append(b, "next packet"...)
		h, err := ParseHeader(b, 8)
		require.NoError(t, err)
		assert.Equal(t, typ, h.Type)
		assert.Equal(t, d, h.DCID)
		assert.Equal(t, s, h.SCID)
		assert.Equal(t, off, h.PNOffset)
		assert.Equal(t, off+32, h.End)
		if typ == Initial {
			assert.Equal(t, "token", string(h.Token))
		}
		for i := range h.End {
			_, err := ParseHeader(b[:i], 8)
			assert.Error(t, err, "cut to %d", i)
		}
	}
}

// Golden packets: what is on the wire changes only by intent.
func TestHeader_Golden(t *testing.T) {
	d, s := MakeCID([]byte{0xd0, 0xd1, 0xd2}), MakeCID([]byte{0x50})
	assert.Equal(t, "c10000000103d0d1d2015002746f0000",
		hex.EncodeToString(AppendLong(nil, Initial, d, s, []byte("to"), 2)))
	assert.Equal(t, "e30000000103d0d1d201500000", hex.EncodeToString(AppendLong(nil, Handshake, d, s, nil, 4)))
	assert.Equal(t, "45d0d1d2", hex.EncodeToString(AppendShort(nil, d, true, 2)))
	assert.Equal(t, "ca0000000003d0d1d2015000000001",
		hex.EncodeToString(AppendVersionNegotiation(nil, d, s, 0x0a, Version1)))
	assert.Equal(t, "f50000000103d0d1d20150746f", hex.EncodeToString(AppendRetry(nil, d, s, []byte("to"), 0xf5)))
}

func TestHeader_Refused(t *testing.T) {
	for text, want := range map[string]error{
		"":         ErrShort,
		"00":       ErrFixed,
		"40d0":     ErrShort,
		"c0000000": ErrShort,
		"c00000000115" + "00000000000000000000000000000000000000000000": ErrCIDLen,
		"80000000010000":              ErrFixed,
		"c0000000020000":              ErrVersion,
		"c0000000000000":              ErrShort, // a Version Negotiation without versions
		"c0000000000000000000":        ErrShort, // with half of one
		"c00000000100000100":          ErrShort, // Initial, token cut
		"c0000000010000004010":        ErrShort, // Initial, payload cut
		"f0000000010000" + "00000000": ErrShort, // Retry without room for its tag
	} {
		_, err := ParseHeader(unhex(t, text), 8)
		assert.ErrorIs(t, err, want, text)
	}
	h, err := ParseHeader(unhex(t, "c0ff00001d02d0d10150"), 8)
	assert.ErrorIs(t, err, ErrVersion)
	assert.Equal(t, "d0d1", h.DCID.String(), "the invariant fields are set")
	assert.Equal(t, "50", h.SCID.String())
}

// Every frame, as bytes and as fields.
func frames() map[string]Frame {
	return map[string]Frame{
		"01":                      {Type: FramePing},
		"020a000002":              {Type: FrameAck, Largest: 10, first: 2},
		"020a0502020100" + "0100": {Type: FrameAck, Largest: 10, Delay: 5, count: 2, first: 2, ranges: []byte{1, 0, 1, 0}},
		"030a000002010203":        {Type: FrameAckECN, Largest: 10, first: 2, ECN: ECNCounts{1, 2, 3}},
		"04000540ff":              {Type: FrameResetStream, Code: 5, Limit: 255},
		"050007":                  {Type: FrameStopSending, Code: 7},
		"060102abcd":              {Type: FrameCrypto, Offset: 1, Data: []byte{0xab, 0xcd}},
		"0701aa":                  {Type: FrameNewToken, Data: []byte{0xaa}},
		"0a0002abcd":              {Type: FrameStream, Data: []byte{0xab, 0xcd}},
		"0f004100" + "01ab":       {Type: FrameStream, Offset: 256, Data: []byte{0xab}, Fin: true},
		"0b0000":                  {Type: FrameStream, Fin: true, Data: []byte{}},
		"1005":                    {Type: FrameMaxData, Limit: 5},
		"110005":                  {Type: FrameMaxStreamData, Limit: 5},
		"1205":                    {Type: FrameMaxStreamsBidi, Limit: 5},
		"1305":                    {Type: FrameMaxStreamsUni, Limit: 5},
		"1405":                    {Type: FrameDataBlocked, Limit: 5},
		"150005":                  {Type: FrameStreamDataBlocked, Limit: 5},
		"1605":                    {Type: FrameStreamsBlockedBidi, Limit: 5},
		"1705":                    {Type: FrameStreamsBlockedUni, Limit: 5},
		"18020102d0d1000102030405060708090a0b0c0d0e0f": {
			Type: FrameNewConnectionID, Seq: 2, RetirePriorTo: 1, CID: MakeCID([]byte{0xd0, 0xd1}),
			Token: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		},
		"1903":               {Type: FrameRetireConnectionID, Seq: 3},
		"1a0102030405060708": {Type: FramePathChallenge, Path: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}},
		"1b0102030405060708": {Type: FramePathResponse, Path: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}},
		"1c0a06026f68":       {Type: FrameConnectionClose, Code: 10, Cause: 6, Data: []byte("oh")},
		"1d07026f68":         {Type: FrameApplicationClose, Code: 7, Data: []byte("oh")},
		"1e":                 {Type: FrameHandshakeDone},
	}
}

func TestFrame_ParseAndAppend(t *testing.T) {
	for text, want := range frames() {
		b := unhex(t, text)
		var got Frame
		n, err := got.Parse(append(bytes.Clone(b), 0x01)[:len(b)+1])
		require.NoError(t, err, text)
		assert.Equal(t, len(b), n, text)
		if len(got.ranges) == 0 {
			got.ranges = nil
		}
		assert.Equal(t, want, got, text)
		assert.Equal(t, text, hex.EncodeToString(got.Append(nil)))
		for i := 1; i < len(b); i++ {
			_, err := got.Parse(b[:i])
			var wrong *Error
			require.ErrorAs(t, err, &wrong, "%s cut to %d", text, i)
			assert.Equal(t, uint64(FrameEncodingError), wrong.Code)
		}
	}
}

func TestFrame_Forms(t *testing.T) {
	var f Frame
	n, err := f.Parse([]byte{0, 0, 0, 1})
	require.NoError(t, err)
	assert.Equal(t, 3, n, "a run of padding is one frame")
	n, err = f.Parse(unhex(t, "0c0003abcdef"))
	require.NoError(t, err)
	assert.Equal(t, 6, n, "a stream frame without length takes the rest")
	assert.Equal(t, uint64(3), f.Offset)
	assert.Len(t, f.Data, 3)
}

func TestFrame_Refused(t *testing.T) {
	for name, text := range map[string]string{
		"unknown type":                     "1f",
		"type in two bytes":                "4001",
		"ack: first range below 0":         "0202000003",
		"ack: gap below 0":                 "02050001000500",
		"ack: length below 0":              "02050001000105",
		"crypto beyond 2^62":               "06ffffffffffffffff01aa",
		"stream beyond 2^62":               "0e00ffffffffffffffff01aa",
		"new token, empty":                 "0700",
		"max streams above 2^60":           "12d000000000000001",
		"connection ID of 0 bytes":         "18000000",
		"connection ID of 21 bytes":        "18000015" + "000000000000000000000000000000000000000000" + "00000000000000000000000000000000",
		"retires more than it brings":      "180102" + "01aa" + "00000000000000000000000000000000",
		"close: reason longer than packet": "1c000005aa",
	} {
		var f Frame
		_, err := f.Parse(unhex(t, text))
		var wrong *Error
		require.ErrorAs(t, err, &wrong, name)
	}
}

func TestFrame_AckRanges(t *testing.T) {
	ranges := []Range{{0, 1}, {3, 10}, {20, 21}, {100, 5000}}
	b := AppendAck(nil, ranges, 77, ECNCounts{}, 1000)
	var f Frame
	n, err := f.Parse(b)
	require.NoError(t, err)
	assert.Equal(t, len(b), n)
	assert.Equal(t, uint64(77), f.Delay)
	var got []Range
	for it := f.AckRanges(); it.Next(); {
		got = append([]Range{it.Range}, got...)
	}
	assert.Equal(t, ranges, got)
	for room := range len(b) {
		short := AppendAck(nil, ranges, 77, ECNCounts{}, room)
		assert.LessOrEqual(t, len(short), room)
		if len(short) > 0 {
			_, err := f.Parse(short)
			require.NoError(t, err)
			assert.Equal(t, uint64(4999), f.Largest, "the newest range stays")
		}
	}
	b = AppendAck(nil, ranges, 77, ECNCounts{CE: 9}, 1000)
	_, err = f.Parse(b)
	require.NoError(t, err)
	assert.Equal(t, ECNCounts{CE: 9}, f.ECN)
}

func TestParams(t *testing.T) {
	p := DefaultParams()
	p.OriginalDCID, p.HasOriginal = MakeCID([]byte{1}), true
	p.RetrySCID, p.HasRetry = MakeCID([]byte{2}), true
	p.InitialSCID, p.HasInitial = MakeCID(nil), true
	p.ResetToken, p.HasResetToken = [16]byte{5}, true
	p.MaxIdleTimeout, p.MaxAckDelay = 30*time.Second, 5*time.Millisecond
	p.MaxData, p.MaxStreamBidiOwn, p.MaxStreamBidiPeer, p.MaxStreamsBidi = 1, 2, 3, 4
	p.DisableMigration, p.ActiveCIDLimit, p.MaxUDPPayload = true, 7, 1452
	b := p.Append(nil)
	got, err := ParseParams(b, true)
	require.NoError(t, err)
	assert.Equal(t, p, got)
	_, err = ParseParams(b, false)
	assert.Error(t, err, "a client must not send a server's")
	_, err = ParseParams(append(b, b...), true)
	assert.Error(t, err, "twice")
	got, err = ParseParams(unhex(t, "7f99021234"), false)
	require.NoError(t, err, "unknown ones are skipped")
	assert.Equal(t, DefaultParams(), got)
	for name, text := range map[string]string{
		"payload limit below 1200":  "03024000",
		"ack delay exponent of 21":  "0a0115",
		"one connection ID":         "0e0101",
		"migration flag with value": "0c0101",
		"number longer than value":  "0104ff",
		"value cut short":           "0402",
		"initial ID of 21 bytes":    "0f15" + "000000000000000000000000000000000000000000",
	} {
		_, err := ParseParams(unhex(t, text), false)
		var wrong *Error
		require.ErrorAs(t, err, &wrong, name)
		assert.Equal(t, uint64(TransportParamError), wrong.Code)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(unhex(f, "c00000000108d0d1d2d3d4d5d6d70150004010aabbccddeeff00112233445566778899"), 8)
	f.Add(unhex(f, "40d0d1d2d3d4d5d6d7d8"), 8)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		h, err := ParseHeader(b, n&0xf)
		if err != nil {
			return
		}
		if h.End > len(b) || h.PNOffset > h.End {
			t.Fatalf("offsets %d, %d beyond %d", h.PNOffset, h.End, len(b))
		}
	})
}

// Whatever parses is encoded again to what parses to the same.
func FuzzFrame(f *testing.F) {
	for text := range frames() {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var x, y Frame
			n, err := x.Parse(b)
			if err != nil {
				var wrong *Error
				if !errors.As(err, &wrong) {
					t.Fatal("not an *Error: ", err)
				}
				return
			}
			if n < 1 || n > len(b) {
				t.Fatalf("length %d of %d", n, len(b))
			}
			if x.Type != FramePadding {
				again := x.Append(nil)
				if m, err := y.Parse(again); err != nil || m != len(again) {
					t.Fatalf("%x became %x: %d, %v", b[:n], again, m, err)
				}
				if third := y.Append(nil); !bytes.Equal(again, third) {
					t.Fatalf("%x, then %x", again, third)
				}
			}
			if x.Type == FrameAck || x.Type == FrameAckECN {
				last := uint64(math.MaxUint64)
				for it := x.AckRanges(); it.Next(); last = it.Start {
					if it.Start >= it.End || it.End > last {
						t.Fatalf("range %v above %d", it.Range, last)
					}
				}
			}
			b = b[n:]
		}
	})
}

func FuzzParams(f *testing.F) {
	p := DefaultParams()
	f.Add(p.Append(nil), true)
	f.Fuzz(func(t *testing.T, b []byte, server bool) {
		p, err := ParseParams(b, server)
		if err != nil {
			return
		}
		q, err := ParseParams(p.Append(nil), server)
		if err != nil || p != q {
			t.Fatalf("%+v became %+v: %v", p, q, err)
		}
	})
}
