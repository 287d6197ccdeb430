package rudp

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRing_Bounds(t *testing.T) {
	var r byteRing
	r.init(10_000) // not a power of two
	assert.Nil(t, r.peek())
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
	assert.Equal(t, data[:n], got[:n])
	assert.Zero(t, r.len())
}

// Memory grows by halves as it is needed, and an idle ring has none.
func TestRing_Grows(t *testing.T) {
	var r byteRing
	r.init(ringMax)
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
	r.write(make([]byte, ringMax))
	assert.Equal(t, ringMax, r.len())
}

// The end of a stream: what is left goes in whatever the bound.
func TestRing_Extend(t *testing.T) {
	var r byteRing
	r.init(ringMin)
	data := someBytes(50_000)
	require.Equal(t, ringMin, r.write(data))
	r.limit += len(data)
	r.extend(len(data) - ringMin)
	assert.Equal(t, len(data)-ringMin, r.write(data[ringMin:]))
	got := make([]byte, len(data))
	assert.Equal(t, len(data), r.read(got))
	assert.Equal(t, data, got)
}

// Goal: producer and consumer at once, each with its own sizes; under -race too.
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
	buf := make([]byte, 30_000)
	for len(got) < len(data) {
		n := r.read(buf[:1+rng.IntN(len(buf)-1)])
		got = append(got, buf[:n]...)
		if held := r.len(); held > r.limit {
			t.Fatalf("%d bytes held", held)
		}
	}
	assert.Equal(t, data, got)
}
