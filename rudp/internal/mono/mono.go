// Package mono is the time of the rudp core: points on a monotonic clock that the caller reads.
// It changes only if the core's idea of time does.
package mono

import (
	"math"
	"time"
)

// Time is a point in nanoseconds since an origin that the driver chooses once. It only grows.
type Time int64

// Never is later than every point.
const Never Time = math.MaxInt64

// Add returns the point d later; Never stays Never.
func (t Time) Add(d time.Duration) Time {
	if t == Never || int64(t) > math.MaxInt64-max(int64(d), 0) {
		return Never
	}
	return t + Time(d)
}

// Sub returns the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }
