package rudp

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// read copies out what there is and gives it back.
func (r *byteRing) read(p []byte) (n int) {
	for n < len(p) {
		s := r.next()
		if s == nil {
			break
		}
		m := copy(p[n:], s)
		r.take(m)
		r.discard(m)
		n += m
	}
	return n
}

func (r *byteRing) len() int { return int(r.held.Load()) }

func TestRing_Bounds(t *testing.T) {
	var r byteRing
	r.init(10_000) // not a power of two
	assert.Nil(t, r.next())
	assert.Zero(t, r.read(make([]byte, 10)))
	data := someBytes(30_000)
	assert.Equal(t, 10_000, r.write(data))
	assert.Nil(t, r.space(1))
	assert.Zero(t, r.write(data))
	got := make([]byte, 30_000)
	n := r.read(got[:4_000])
	require.Equal(t, 4_000, n)
	assert.Equal(t, 4_000, r.write(data[10_000:]))
	n += r.read(got[n:])
	assert.Equal(t, 14_000, n)
	assert.True(t, bytes.Equal(data[:n], got[:n]))
	assert.Zero(t, r.len())
}

// Memory doubles as it is needed, and an idle ring has none.
func TestRing_Grows(t *testing.T) {
	var r byteRing
	const limit = 256 << 10
	r.init(limit)
	assert.Zero(t, len(r.tail.buf))
	r.write(make([]byte, 1))
	assert.Len(t, r.tail.buf, ringMin)
	r.write(make([]byte, ringMin))
	assert.Len(t, r.tail.buf, 2*ringMin)
	assert.Equal(t, ringMin+1, r.read(make([]byte, 1<<20)))
	for range 100 {
		assert.Equal(t, ringMin, r.write(make([]byte, ringMin)))
		assert.Equal(t, ringMin, r.read(make([]byte, ringMin)))
	}
	assert.Len(t, r.head.buf, 2*ringMin)
	r.write(make([]byte, limit))
	assert.Equal(t, limit, r.len())
}

// Bytes that were taken stay as they are until they are given back, also over several segments, and
// count against the limit until then.
func TestRing_TakenBytesStay(t *testing.T) {
	var r byteRing
	r.init(100_000)
	data := someBytes(100_000)
	var spans [][]byte
	taken := 0
	for at := 0; at < len(data); {
		at += r.write(data[at:min(at+3_000, len(data))])
		for p := r.next(); p != nil; p = r.next() {
			spans = append(spans, p)
			r.take(len(p))
			taken += len(p)
		}
	}
	require.Equal(t, len(data), taken)
	assert.Zero(t, r.write(data))
	at := 0
	for i, p := range spans {
		require.True(t, bytes.Equal(data[at:at+len(p)], p))
		at += len(p)
		if i%3 == 2 || i == len(spans)-1 { // several at once, beyond the end of a segment
			r.discard(at - (100_000 - r.len()))
		}
	}
	assert.Zero(t, r.len())
	assert.Equal(t, len(data), r.write(data))
}

// A limit that moves extends the ring, or makes it wait; and what is held elsewhere.
func TestRing_Extend(t *testing.T) {
	var r byteRing
	r.init(10_000)
	data := someBytes(60_000)
	require.Equal(t, 10_000, r.write(data))
	r.limit.Store(50_000)
	require.Equal(t, 40_000, r.write(data[10_000:]))
	r.limit.Store(10_000)
	assert.Equal(t, -40_000, r.room())
	got := make([]byte, 60_000)
	require.Equal(t, 45_000, r.read(got[:45_000]))
	r.hold(5_000)
	assert.Zero(t, r.write(data[50_000:]))
	r.release(5_000)
	require.Equal(t, 5_000, r.write(data[50_000:]))
	require.Equal(t, 10_000, r.read(got[45_000:]))
	assert.True(t, bytes.Equal(data[:55_000], got[:55_000]))
}

// Goal: producer and consumer at once, each with its own sizes, and bytes given back long after they
// were taken; under -race too.
func TestRing_TwoGoroutines(t *testing.T) {
	var r byteRing
	r.init(40_000)
	data := someBytes(4 << 20)
	go func() {
		rng := rand.New(rand.NewPCG(1, 1))
		for left := data; len(left) > 0; {
			n := r.write(left[:min(len(left), 1+rng.IntN(20_000))])
			left = left[n:]
		}
	}()
	rng := rand.New(rand.NewPCG(2, 2))
	got := make([]byte, 0, len(data))
	var kept [][]byte
	for len(got) < len(data) {
		if p := r.next(); p != nil {
			p = p[:1+rng.IntN(len(p))]
			r.take(len(p))
			kept = append(kept, p)
		}
		for len(kept) > 8 || len(kept) > 0 && rng.IntN(4) == 0 {
			got = append(got, kept[0]...)
			r.discard(len(kept[0]))
			kept = kept[1:]
		}
		if held := r.len(); held > 40_000 {
			t.Fatalf("%d bytes held", held)
		}
	}
	assert.True(t, bytes.Equal(data, got))
}
