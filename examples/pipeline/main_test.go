package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/tests/program"
)

func TestPipeline_CountsPrimes(t *testing.T) {
	program.NeedWorkers(t)
	for _, workers := range []int{1, 2, 4} {
		for below, want := range map[uint64]int{0: 0, 3: 1, 1000: 168, 100_000: 9592} {
			n, err := count(t.Context(), workers, below)
			require.NoError(t, err)
			require.Equal(t, want, n, "below %d, %d workers", below, workers)
		}
	}
}
