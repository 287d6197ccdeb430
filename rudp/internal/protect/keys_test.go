package protect

import (
	"bytes"
	"crypto/tls"
	_ "embed"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/wire"
)

//go:embed testdata/rfc9001.txt
var vectors string

func vector(t *testing.T, name string) []byte {
	t.Helper()
	var text strings.Builder
	found := false
	for line := range strings.Lines(vectors) {
		if !strings.HasPrefix(line, "  ") {
			found = strings.TrimSpace(line) == name
		} else if found {
			text.WriteString(strings.TrimSpace(line))
		}
	}
	return unhex(t, text.String())
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	require.NotEmpty(t, b)
	return b
}

var exampleDCID = wire.MakeCID([]byte{0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08})

// RFC 9001, appendix A.1.
func TestInitial_Keys(t *testing.T) {
	client, server, err := Initial(exampleDCID)
	require.NoError(t, err)
	for _, c := range []struct {
		keys            *Keys
		secret, key, iv string
	}{
		{client, "c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea", "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c"},
		{server, "3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b", "cf3a5331653c364c88f0f379b6067e37", "0ac1493ca1905853b0bba03e"},
	} {
		assert.Equal(t, c.secret, hex.EncodeToString(c.keys.secret))
		assert.Equal(t, c.iv, hex.EncodeToString(c.keys.iv[:]))
		key, err := expandLabel(tls.TLS_AES_128_GCM_SHA256, c.keys.secret, "quic key", 16)
		require.NoError(t, err)
		assert.Equal(t, c.key, hex.EncodeToString(key))
	}
}

// RFC 9001, appendices A.2 and A.3: packets sealed and opened.
func TestKeys_InitialVectors(t *testing.T) {
	client, server, err := Initial(exampleDCID)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		keys     *Keys
		header   string
		pnOffset int
		pnLen    int
		pn       uint64
		pad      int
	}{
		"client": {client, "c300000001088394c8f03e5157080000449e00000002", 18, 4, 2, 1162},
		"server": {server, "c1000000010008f067a5502a4262b50040750001", 18, 2, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			payload := vector(t, name+" payload")
			payload = append(payload, make([]byte, max(0, c.pad-len(payload)))...)
			header := unhex(t, c.header)
			sealed := c.keys.Seal(append(append(make([]byte, 0, 1500), header...), payload...), c.pnOffset, c.pnLen, c.pn)
			require.Equal(t, vector(t, name+" packet"), sealed)

			h, err := wire.ParseHeader(sealed, 8)
			require.NoError(t, err)
			assert.Equal(t, wire.Initial, h.Type)
			require.Equal(t, c.pnOffset, h.PNOffset)
			require.Equal(t, len(sealed), h.End)
			truncated, pnLen, ok := c.keys.Unprotect(sealed, h.PNOffset)
			require.True(t, ok)
			assert.Equal(t, c.pnLen, pnLen)
			assert.Equal(t, c.pn, wire.DecodePN(-1, truncated, pnLen))
			assert.Equal(t, header, sealed[:len(header)])
			opened, err := c.keys.Open(sealed, len(header), c.pn)
			require.NoError(t, err)
			assert.Equal(t, payload, opened)
		})
	}
}

// RFC 9001, appendix A.4.
func TestRetry_Vector(t *testing.T) {
	packet := unhex(t, "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
	tagged, err := AppendRetryTag(bytes.Clone(packet[:len(packet)-Overhead]), exampleDCID)
	require.NoError(t, err)
	assert.Equal(t, packet, tagged)
	assert.True(t, CheckRetry(packet, exampleDCID))

	assert.False(t, CheckRetry(packet, wire.MakeCID([]byte{1})), "another original ID")
	assert.False(t, CheckRetry(packet[:15], exampleDCID), "too short for a tag")
	packet[8] ^= 1
	assert.False(t, CheckRetry(packet, exampleDCID), "a flipped bit")
}

// RFC 9001, appendix A.5: ChaCha20, a short header, and the next secret of a key update.
func TestKeys_ChaCha20Vector(t *testing.T) {
	secret := unhex(t, "9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
	k, err := NewKeys(tls.TLS_CHACHA20_POLY1305_SHA256, secret)
	require.NoError(t, err)
	assert.Equal(t, "e0459b3474bdd0e44a41c144", hex.EncodeToString(k.iv[:]))
	assert.Equal(t, "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4", hex.EncodeToString(k.hp.chacha[:]))

	const pn = 654360564
	sealed := k.Seal(append(unhex(t, "4200bff4"), 1), 1, 3, pn)
	assert.Equal(t, "4cfe4189655e5cd55c41f69080575d7999c25a5bfb", hex.EncodeToString(sealed))
	truncated, n, ok := k.Unprotect(sealed, 1)
	require.True(t, ok)
	assert.Equal(t, uint64(pn), wire.DecodePN(pn-1, truncated, n))
	opened, err := k.Open(sealed, 4, pn)
	require.NoError(t, err)
	assert.Equal(t, []byte{1}, opened)

	next, err := k.Next()
	require.NoError(t, err)
	assert.Equal(t, "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9", hex.EncodeToString(next.secret))
	assert.Same(t, k.hp, next.hp, "header protection outlives key updates")
}

func TestKeys_EverySuite(t *testing.T) {
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			secret := bytes.Repeat([]byte{7}, hashOf(suite)().Size())
			seal, err := NewKeys(suite, secret)
			require.NoError(t, err)
			open, err := NewKeys(suite, secret)
			require.NoError(t, err)
			make := func() []byte {
				b := wire.AppendShort(make([]byte, 0, 100), exampleDCID, true, 2)
				return append(wire.AppendPN(b, 0x1234, 2), "some payload"...)
			}
			for bit := -1; bit < 8*(len(make())+Overhead); bit++ {
				p := seal.Seal(make(), 9, 2, 0x1234)
				if bit >= 0 {
					p[bit/8] ^= 1 << (bit % 8)
				}
				truncated, n, ok := open.Unprotect(p, 9)
				require.True(t, ok)
				_, err := open.Open(p, 9+n, wire.DecodePN(0x1230, truncated, n))
				assert.Equal(t, bit < 0, err == nil, "flipped bit %d", bit)
			}
			_, _, ok := open.Unprotect(make()[:11+Overhead+1], 9)
			assert.False(t, ok, "too short for a sample")
		})
	}
	_, err := NewKeys(tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, make([]byte, 32))
	assert.Error(t, err)
}

func TestKeys_NothingAllocatedPerPacket(t *testing.T) {
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256} {
		k, err := NewKeys(suite, make([]byte, 32))
		require.NoError(t, err)
		buf := make([]byte, 1500)
		pn := uint64(0)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			pn++
			p := k.Seal(buf[:1200], 9, 2, pn)
			if _, n, ok := k.Unprotect(p, 9); !ok || n < 1 {
				panic("too short")
			}
			_, _ = k.Open(p, 11, pn)
		}), tls.CipherSuiteName(suite))
	}
}
