package main

import (
	"os"
	"strconv"
	"strings"
)

// allowedCPUs lists the CPUs that this process may use: a container's need not begin with 0.
func allowedCPUs() []string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), "Cpus_allowed_list:")
	line, _, _ := strings.Cut(rest, "\n")
	return parseCPUList(strings.TrimSpace(line))
}

// shareOut gives the server n of the CPUs and the load client, which has one thread, the next one.
// Where that leaves it none, neither is pinned.
func shareOut(all []string, n int) (server, client []string) {
	if len(all) <= n {
		return nil, nil
	}
	return all[:n], all[n : n+1]
}

// pinned is a command on these CPUs; taskset becomes it, with the same pid.
func pinned(cpus, command []string) []string {
	if len(cpus) == 0 {
		return command
	}
	return append([]string{"taskset", "-c", strings.Join(cpus, ",")}, command...)
}

// parseCPUList reads the kernel's form of a set of CPUs, such as "0-3,8".
func parseCPUList(list string) []string {
	var out []string
	for _, part := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err1 := strconv.Atoi(low)
		last, err2 := strconv.Atoi(high)
		if err1 != nil || err2 != nil {
			return nil
		}
		for cpu := first; cpu <= last; cpu++ {
			out = append(out, strconv.Itoa(cpu))
		}
	}
	return out
}
