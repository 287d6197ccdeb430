package tests

// What the tests under seeded chance share: which seeds they run.

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// firstSeed is where the seeds of a test of chance begin: VELOQ_SEED's, which is then the only one;
// always the same one, so that a run elsewhere drew what runs here drew; or, for the long form, any. A seed
// fixes what is drawn, and not when things happen.
func firstSeed(t *testing.T) (seed uint64, alone bool) {
	t.Helper()
	if text := os.Getenv("VELOQ_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "VELOQ_SEED")
		return seed, true
	}
	if long {
		return rand.Uint64() >> 16, false
	}
	return 1, false
}

// seeds are the seeds of a test of chance that runs count of them.
func seeds(t *testing.T, count int) []uint64 {
	t.Helper()
	first, alone := firstSeed(t)
	if alone {
		count = 1
	}
	list := make([]uint64, count)
	for i := range list {
		list[i] = first + uint64(i)
	}
	return list
}
