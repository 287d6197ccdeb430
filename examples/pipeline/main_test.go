package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

func TestPipeline_CountsPrimes(t *testing.T) {
	needWorkers(t)
	for _, workers := range []int{1, 2, 4} {
		for below, want := range map[uint64]int{0: 0, 3: 1, 1000: 168, 100_000: 9592} {
			n, err := count(t.Context(), workers, below)
			require.NoError(t, err)
			require.Equal(t, want, n, "below %d, %d workers", below, workers)
		}
	}
}

// needWorkers skips where the build has no workers.
func needWorkers(t *testing.T) {
	t.Helper()
	rt, err := veloq.New(veloq.Config{Workers: 1})
	var refused *veloq.DriverError
	if errors.As(err, &refused) && refused.Step == "build" {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.NoError(t, rt.Close())
}
