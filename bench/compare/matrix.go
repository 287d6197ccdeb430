package main

// What is compared: the servers and the workloads.

import "fmt"

// server is one program under test.
type server struct {
	name   string
	binary string   // in the output folder; several servers can share one
	args   []string // besides -addr and -workers
	color  string   // of its bars
}

func (s server) label() string { return s.name }

// isVeloq says that the program is the repository's own, of this version or another.
func (s server) isVeloq() bool { return s.binary == "echo" || s.binary == otherBinary }

var allServers = []server{
	{
		"veloq-handler", "echo",
		[]string{"-door", "handler", "-driver", "auto", "-spin", "0s"},
		"#0b7a53",
	},
	{
		"veloq-task", "echo",
		[]string{"-door", "task", "-driver", "auto", "-spin", "0s"},
		"#37b384",
	},
	{"veloq-net", "echo", []string{"-door", "net", "-stage", "auto"}, "#7cc9a9"},
	{"veloq-net-staged", "echo", []string{"-door", "net", "-stage", "on"}, "#a3dbc2"},
	{"veloq-net-direct", "echo", []string{"-door", "net", "-stage", "off"}, "#5aa98a"},
	{"gonet", "gonet", nil, "#2f7fc1"},
	{"gnet", "gnet", nil, "#d1702c"},
	{"netpoll", "netpoll", nil, "#8a63b8"},
	{"nbio", "nbio", nil, "#b5992b"},
	{"limit", "limit", nil, "#6b7280"},
}

// workload is one shape of load.
type workload struct {
	name        string
	connections int
	sizeBytes   int
	depth       int // requests in flight a connection
	cpus        int // the server's
}

func (w workload) label() string { return w.name }

func (w workload) describe() string {
	s := fmt.Sprintf("%d connections, %d bytes, %d in flight each",
		w.connections, w.sizeBytes, w.depth)
	if w.cpus > 1 {
		s += fmt.Sprintf(", the server on %d CPUs", w.cpus)
	}
	return s
}

var allWorkloads = []workload{
	{"64x64B", 64, 64, 1, 1},
	{"64x64B-depth16", 64, 64, 16, 1},
	{"64x1KiB", 64, 1 << 10, 1, 1},
	{"64x16KiB", 64, 16 << 10, 1, 1},
	{"16x256KiB", 16, 256 << 10, 1, 1},
	{"1000x64B", 1000, 64, 1, 1},
	{"1x64B", 1, 64, 1, 1},
}

// What -only net picks.
const (
	netServers   = "gonet,veloq-net,veloq-net-staged,veloq-net-direct"
	netWorkloads = "1x64B,64x64B,1000x64B,64x16KiB,16x256KiB"
)

// withCPUs is every workload for every number of CPUs that the server is to have.
func withCPUs(workloads []workload, cpus []int) []workload {
	var out []workload
	for _, w := range workloads {
		for _, n := range cpus {
			on := w
			on.cpus = n
			if n > 1 {
				on.name += fmt.Sprintf("-%dcpus", n)
			}
			out = append(out, on)
		}
	}
	return out
}

// order returns who runs when in a round. It rotates by one each round and every second round
// runs backwards, so that no server always follows the same one or always meets a warm machine.
func order(n, round int) []int {
	out := make([]int, n)
	for i := range out {
		j := (i + round) % n
		if round%2 == 1 {
			j = (n - 1 - i + round) % n
		}
		out[i] = j
	}
	return out
}
