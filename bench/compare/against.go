package main

// Two versions of veloq, side by side.

import (
	"fmt"
	"slices"
	"strings"
)

// A server of the other version has its own's name with a mark behind it.
const (
	otherBinary = "echo-other"
	otherMark   = "@other"
)

// withOther adds each of veloq's servers from another checkout behind its own.
func withOther(servers []server) []server {
	var out []server
	for _, s := range servers {
		out = append(out, s)
		if s.isVeloq() {
			s.name, s.binary = s.name+otherMark, otherBinary
			out = append(out, s)
		}
	}
	return out
}

// againstTable is how this tree's servers compare with the other's: medians of the ratios within each
// round, which what disturbs a whole round leaves alone, and the least and the greatest of them.
func againstTable(cells []*cell) string {
	find := map[[2]string]*cell{}
	for _, c := range cells {
		find[[2]string{c.Workload, c.Server}] = c
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s %-16s %24s %24s %24s\n", "this / other", "", "CPU", "requests", "p99")
	for _, c := range cells {
		o := find[[2]string{c.Workload, c.Server + otherMark}]
		if o == nil {
			continue
		}
		fmt.Fprintf(&b, "%-16s %-16s", c.Workload, c.Server)
		if len(c.Samples) == 0 || len(c.Samples) != len(o.Samples) {
			b.WriteString(" not every round has both\n")
			continue
		}
		for _, get := range []func(sample) float64{
			func(s sample) float64 { return s.CPUus },
			func(s sample) float64 { return s.ReqPerS },
			func(s sample) float64 { return s.P99us },
		} {
			var ratios []float64
			for i := range c.Samples {
				ratios = append(ratios, ratio(get(c.Samples[i]), get(o.Samples[i])))
			}
			fmt.Fprintf(&b, "  %6.3f (%6.3f to %6.3f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
		}
		b.WriteString("\n")
	}
	return b.String()
}
