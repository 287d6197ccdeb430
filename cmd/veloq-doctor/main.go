// Command veloq-doctor says which driver a runtime gets on this machine, and for what it does not
// get the cause and the cure. It exits 0 if a runtime starts.
//
//	veloq-doctor
//	veloq-doctor -driver uring
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/veloq/veloq"
)

func main() {
	driver := flag.String("driver", "auto", "auto, uring, epoll or iocp")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	flag.Parse()
	d, err := veloq.ParseDriver(*driver)
	if err != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "veloq-doctor:", err, flag.Args())
		os.Exit(2)
	}
	printSystem()
	rt, err := veloq.New(veloq.Config{Driver: d, Workers: *workers})
	if err != nil {
		fmt.Printf("\nno runtime starts here:\n%s\n", indent(err.Error()))
		os.Exit(1)
	}
	printReport(rt.Report())
	if err := rt.Close(); err != nil {
		fmt.Println("close:", err)
		os.Exit(1)
	}
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}

// printSystem prints what decides: the kernel, its switch, limits, filters.
func printSystem() {
	fmt.Printf("system     %s/%s, %s, %d CPUs\n", runtime.GOOS, runtime.GOARCH, runtime.Version(), runtime.NumCPU())
	for _, line := range [][2]string{
		{"kernel", read("/proc/sys/kernel/osrelease")},
		{"io_uring", disabled(read("/proc/sys/kernel/io_uring_disabled"))},
		{"seccomp", seccomp(field("/proc/self/status", "Seccomp:"))},
		{"nofile", limit("Max open files")},
		{"memlock", limit("Max locked memory")},
		{"VELOQ_DRIVER", os.Getenv("VELOQ_DRIVER")},
		{"VELOQ_DENY", os.Getenv("VELOQ_DENY")},
	} {
		if line[1] != "" {
			fmt.Printf("%-10s %s\n", line[0], line[1])
		}
	}
}

func printReport(r veloq.Report) {
	driver := r.Driver
	if len(r.Emulated) > 0 {
		driver += ", translated"
	}
	fmt.Printf("\ndriver     %s, %d workers\n", driver, r.Workers)
	fmt.Printf("rings      %d submissions, %d completions\n", r.SubmissionEntries, r.CompletionEntries)
	fmt.Printf("buffers    %d x %d bytes a worker, %s\n", r.Buffers, r.BufferSize, scheme(r.Caps))
	fmt.Printf("uses       %s\n", strings.Join(r.Caps, " "))
	fmt.Printf("sockets    %s\n", strings.Join(r.Sockets, " "))
	for _, e := range r.Refused {
		fmt.Printf("\nnot got    driver %s: %s: %v\n  cause    %s\n  cure     %s\n", e.Driver, e.Step, e.Err, e.Cause, e.Cure)
	}
	for _, name := range r.Missing {
		cause, cure := explain(name, r.Caps)
		fmt.Printf("\nnot got    %s\n  cause    %s\n  cure     %s\n", name, cause, cure)
		if slices.Contains(r.Emulated, name) {
			fmt.Printf("  effect   the driver does it itself, with more system calls\n")
		}
	}
	for _, name := range r.SocketsLack {
		fmt.Printf("\nnot got    sockets: %s\n  cause    this system's sockets don't have it\n  cure     %s\n",
			name, socketCure(name))
	}
}

func scheme(caps []string) string {
	if slices.Contains(caps, "BUFFER_INCREMENTAL") {
		return "each filled piece by piece"
	}
	return "each for one receive"
}

// since is the first Linux with a feature, and with what it is of no use without.
var since = map[string]string{
	"SINGLE_ISSUER": "6.0", "DEFER_TASKRUN": "6.1", "COOP_TASKRUN": "5.19", "TASKRUN_FLAG": "5.19",
	"SUBMIT_ALL": "5.18", "REGISTERED_RING": "5.18", "ACCEPT_MULTISHOT": "5.19", "RECV_MULTISHOT": "6.0",
	"BUFFER_RING": "6.0", "BUFFER_INCREMENTAL": "6.12", "SKIP_SUCCESS": "5.17", "SEND_ZC": "6.0",
	"POLL_MULTISHOT": "5.13", "SHUTDOWN": "5.11", "TIMEOUT_UPDATE": "5.11", "RESTRICTED": "5.10",
	"MIN_WAIT": "6.12",
}

// needs is what a feature is of no use without.
var needs = map[string][]string{
	"RECV_MULTISHOT":     {"BUFFER_RING"},
	"BUFFER_RING":        {"RECV_MULTISHOT"},
	"BUFFER_INCREMENTAL": {"BUFFER_RING", "RECV_MULTISHOT"},
	"MIN_WAIT":           {"DEFER_TASKRUN"},
}

// socketsSince is the first Windows 10 with what sockets may have, and the first Linux.
var socketsSince = map[string][2]string{
	"UNIX": {"1803", "2.0"}, "UDP_SEGMENT": {"2004", "4.18"}, "UDP_GRO": {"2004", "5.0"},
	"PACKET_INFO": {"1507", "2.2"}, "ECN": {"1809", "2.6"}, "KEEPALIVE_TIMES": {"1709", "2.4"},
	"SOCKET_REUSE": {"1507", ""}, "REGISTERED_IO": {"1507", ""},
}

func socketCure(name string) string {
	const without = "none is needed: veloq does without"
	if runtime.GOOS == "windows" {
		return without + "; Windows 10 " + socketsSince[name][0] + " has it"
	}
	return without + "; Linux " + socketsSince[name][1] + " has it"
}

func explain(name string, caps []string) (cause, cure string) {
	for denied := range strings.SplitSeq(os.Getenv("VELOQ_DENY"), ",") {
		switch denied = strings.TrimSpace(denied); {
		case denied == name:
			return "VELOQ_DENY forbids it; Linux has it since " + since[name], "unset VELOQ_DENY"
		case slices.Contains(needs[name], denied):
			return "VELOQ_DENY forbids " + denied + ", which it needs; Linux has it since " + since[name],
				"unset VELOQ_DENY"
		}
	}
	if name == "COOP_TASKRUN" && slices.Contains(caps, "DEFER_TASKRUN") {
		return "DEFER_TASKRUN is in use, which is better and excludes it", "none is needed"
	}
	if name == "RESTRICTED" {
		return "nobody asked for it", "none is needed: Config.Restrict asks"
	}
	return "this kernel does not have it", "use Linux " + since[name] + " or later"
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// field returns the rest of the line of a file that begins with name.
func field(path, name string) string {
	for line := range strings.Lines(read(path)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func disabled(value string) string {
	switch value {
	case "0":
		return "allowed for everybody (kernel.io_uring_disabled is 0)"
	case "1":
		return "for privileged processes and kernel.io_uring_group only (kernel.io_uring_disabled is 1)"
	case "2":
		return "disabled (kernel.io_uring_disabled is 2)"
	}
	return value
}

func seccomp(mode string) string {
	switch mode {
	case "0":
		return "no filter"
	case "2":
		return "a filter is active"
	}
	return mode
}

// limit returns soft and hard limit of this process: proc_pid_limits(5).
func limit(name string) string {
	values := strings.Fields(field("/proc/self/limits", name))
	if len(values) < 2 {
		return ""
	}
	return values[0] + ", at most " + values[1]
}
