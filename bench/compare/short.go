package main

import (
	"fmt"
	"strings"
)

// shortTable is the figures that build/run shows, in plain text.
func shortTable(cfg *config, rows []row) string {
	var b strings.Builder
	disturbed, samples := 0, 0
	for _, w := range cfg.workloads {
		fmt.Fprintf(&b, "\n%s; medians of the calm samples of %d rounds of %g s\n\n",
			w.describe(), cfg.rounds, cfg.seconds)
		fmt.Fprintf(&b, "%-16s %10s %12s %9s %9s %13s %15s\n", "server", "req/s", "CPU µs/req",
			"p50 µs", "p99 µs", "CPU / gonet", "req/s / gonet")
		for _, r := range rows {
			if r.Workload != w.name {
				continue
			}
			fmt.Fprintf(&b, "%-16s %10.0f %12.2f %9.0f %9.0f %13s %15s\n", r.Server, r.ReqPerS,
				r.CPUus, r.P50us, r.P99us, shown(r.CPUTo, "gonet", false),
				shown(r.ReqPerSTo, "gonet", false))
			disturbed += r.Disturbed
			samples += r.Samples
		}
	}
	b.WriteString("\nCPU µs/req is what the server's process used a request, the kernel's work for it included;\n" +
		"below 1.00 in CPU / gonet is less than Go's net. p50 and p99 are seen by the load client.\n")
	if disturbed > 0 {
		fmt.Fprintf(&b, "Other processes were busy during %d of %d samples: repeat this on a calm machine.\n",
			disturbed, samples)
	}
	return b.String()
}
