package main

import "slices"

// collect reads one figure of every sample.
func collect[S any](samples []S, get func(S) float64) []float64 {
	out := make([]float64, 0, len(samples))
	for _, s := range samples {
		out = append(out, get(s))
	}
	return out
}

// median of nothing is 0; of an even count, the mean of the middle two.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// spread is the whole range of the samples as a share of their median.
func spread(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return ratio(slices.Max(v)-slices.Min(v), median(v))
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
