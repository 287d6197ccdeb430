package main

// What is compared: the servers and the workloads.

// server is one program under test.
type server struct {
	name   string
	binary string   // in the output folder; several servers can share one
	args   []string // besides -addr and -workers
	color  string   // of its bars
}

func (s server) label() string { return s.name }

// isVeloq says that the program is the repository's own.
func (s server) isVeloq() bool { return s.binary == "echo" }

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
	{"veloq-net", "echo", []string{"-door", "net"}, "#7cc9a9"},
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
}

func (w workload) label() string { return w.name }

var allWorkloads = []workload{
	{"64x64B", 64, 64, 1},
	{"64x64B-depth16", 64, 64, 16},
	{"64x1KiB", 64, 1 << 10, 1},
	{"64x16KiB", 64, 16 << 10, 1},
	{"16x256KiB", 16, 256 << 10, 1},
	{"1000x64B", 1000, 64, 1},
	{"1x64B", 1, 64, 1},
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
