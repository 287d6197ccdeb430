package veloq

// Histograms of what workers measure.

import "math/bits"

// histogramBuckets is how many powers of two a histogram tells apart.
const histogramBuckets = 40

// Histogram counts values by powers of two: Counts[0] the zeros, Counts[i] those from 2^(i-1) to
// 2^i-1, the last one also all above.
type Histogram struct {
	Counts [histogramBuckets]uint64
	Sum    uint64 // of the values
}

func (h *Histogram) add(v uint64) {
	h.Counts[min(bits.Len64(v), histogramBuckets-1)]++
	h.Sum += v
}

// Bound returns the largest value of bucket i.
func (h *Histogram) Bound(i int) uint64 { return 1<<i - 1 }

// Count returns how many values were counted.
func (h *Histogram) Count() uint64 {
	n := uint64(0)
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns the bound of the bucket in which the value lies that a part q of all, 0 to 1, do not
// exceed: at most twice that value. It is 0 without values.
func (h *Histogram) Quantile(q float64) uint64 {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := max(uint64(q*float64(n)+0.5), 1)
	for i, c := range h.Counts {
		if rank <= c {
			return h.Bound(i)
		}
		rank -= c
	}
	return h.Bound(histogramBuckets - 1)
}
