// Command web compares net/http on package net's listener with net/http on veloq's: the same program,
// the same handler, wrk as the client. The two take turns, each sample in a fresh process.
//
//	go run ./web -rounds 7 -c 64
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds, conns, cpus, busy int
	seconds                   time.Duration
}

// sample is one run of one server.
type sample struct{ perS, cpuUs, p99Us float64 }

func run() error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "samples of each server")
	flag.IntVar(&o.conns, "c", 64, "connections")
	flag.IntVar(&o.cpus, "cpus", 1, "1: the server has CPU 0 to itself, wrk CPU 1; 2: nothing is pinned")
	flag.IntVar(&o.busy, "busy", 0, "goroutines that use the CPUs beside the server's")
	flag.DurationVar(&o.seconds, "d", 3*time.Second, "how long a sample takes")
	flag.Parse()
	if o.cpus != 1 && o.cpus != 2 {
		return errors.New("-cpus: 1 or 2")
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("%w: it is Debian's package wrk", err)
	}
	dir, err := os.MkdirTemp("", "web")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "hello")
	if out, err := exec.Command("go", "build", "-o", binary, "./servers/hello").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s (run it in bench/)", err, out)
	}
	names := []string{"go", "veloq"}
	samples := map[string][]sample{}
	for round := range o.rounds {
		for i := range names {
			name := names[(i+round)%len(names)] // neither always goes first
			s, err := measure(o, binary, name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			samples[name] = append(samples[name], s)
		}
	}
	fmt.Printf("| net/http on | req/s | p99 ms | CPU µs a request | CPU / go | req/s / go | p99 / go |\n" +
		"|---|--:|--:|--:|--:|--:|--:|\n")
	base := median(samples["go"])
	for _, name := range names {
		m := median(samples[name])
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", name, m.perS, m.p99Us/1000, m.cpuUs,
			m.cpuUs/base.cpuUs, m.perS/base.perS, m.p99Us/base.p99Us)
	}
	return nil
}

func measure(o options, binary, from string) (s sample, err error) {
	pinned := func(cpu int, command ...string) *exec.Cmd {
		if o.cpus == 1 {
			command = append([]string{"taskset", "-c", strconv.Itoa(cpu)}, command...)
		}
		return exec.Command(command[0], command[1:]...)
	}
	server := pinned(0, binary, "-net", from, "-busy", strconv.Itoa(o.busy))
	server.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(o.cpus))
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return s, err
	}
	if err := server.Start(); err != nil {
		return s, err
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return s, err
	}
	url := "http://" + strings.TrimSpace(line) + "/"
	load := func(d time.Duration) (n float64, p99 time.Duration, err error) {
		wrk := pinned(1, "wrk", "--latency", "--timeout", "30s", "-t1", "-c"+strconv.Itoa(o.conns), "-d"+d.String(), url)
		text, err := wrk.CombinedOutput()
		if err != nil {
			return 0, 0, fmt.Errorf("wrk: %w: %s", err, text)
		}
		return requests(string(text))
	}
	if _, _, err := load(time.Second); err != nil { // warm
		return s, err
	}
	before, err := cpuTime(server.Process.Pid)
	if err != nil {
		return s, err
	}
	begin := time.Now()
	n, p99, err := load(o.seconds)
	if err != nil {
		return s, err
	}
	took := time.Since(begin)
	after, err := cpuTime(server.Process.Pid)
	if err != nil {
		return s, err
	}
	return sample{
		perS: n / took.Seconds(), cpuUs: float64((after - before).Microseconds()) / n,
		p99Us: float64(p99.Microseconds()),
	}, nil
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkP99      = regexp.MustCompile(`(?m)^ +99% +(\S+)$`)
)

// requests reads how many wrk made, and the latency that 99 in 100 kept to; answers that were not
// right, or none, are no result.
func requests(text string) (n float64, p99 time.Duration, err error) {
	found, slow := wrkRequests.FindStringSubmatch(text), wrkP99.FindStringSubmatch(text)
	if found == nil || slow == nil || strings.Contains(text, "Socket errors") || strings.Contains(text, "Non-2xx") {
		return 0, 0, fmt.Errorf("wrk: %s", text)
	}
	if n, err = strconv.ParseFloat(found[1], 64); err != nil {
		return 0, 0, err
	}
	p99, err = time.ParseDuration(slow[1])
	return n, p99, err
}

// cpuTime is what the process has used, from /proc/PID/stat, proc(5), in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may have spaces in it
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// median is each figure's own.
func median(list []sample) sample {
	middle := func(figure func(sample) float64) float64 {
		values := make([]float64, len(list))
		for i, s := range list {
			values[i] = figure(s)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return sample{
		perS:  middle(func(s sample) float64 { return s.perS }),
		cpuUs: middle(func(s sample) float64 { return s.cpuUs }),
		p99Us: middle(func(s sample) float64 { return s.p99Us }),
	}
}
