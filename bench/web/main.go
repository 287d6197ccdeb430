// Command web compares web servers on package net's listener and on veloq's: the same program, the
// same handler, wrk as the client. net/http, plain and with TLS, and fasthttp, each with veloq's staged
// writes as they are by default, on and off. They take turns, each sample in a fresh process.
//
//	go run ./web -rounds 7 -c 64
//	go run ./web -kinds https -listeners go,veloq -server-cpus 1,2
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"maps"
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
	if err := run(); errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

type options struct {
	kinds, names, cpus  []string
	rounds, conns, busy int
	seconds             time.Duration
}

// listeners are what a server can listen by: whose it is, and VELOQ_STAGE.
var listeners = map[string]struct{ from, stage string }{
	"go":           {"go", ""},
	"veloq":        {"veloq", "auto"},
	"veloq-staged": {"veloq", "on"},
	"veloq-direct": {"veloq", "off"},
}

// sample is one run of one server.
type sample struct{ perS, cpuUs, p99Us float64 }

func run() error {
	o, err := parse(os.Args[1:])
	if err != nil {
		return err
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
	build := exec.Command("go", "build", "-o", binary, "./servers/hello")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s (run it in bench/)", err, out)
	}
	for _, cpus := range o.cpus {
		for _, kind := range o.kinds {
			if err := o.compare(binary, kind, cpus); err != nil {
				return fmt.Errorf("%s, %w", kind, err)
			}
		}
	}
	return nil
}

func parse(args []string) (*options, error) {
	var o options
	fs := flag.NewFlagSet("web", flag.ContinueOnError)
	kinds := fs.String("kinds", "http,https,fasthttp", "servers: net/http plain or with TLS, fasthttp")
	names := fs.String("listeners", "go,veloq,veloq-staged,veloq-direct", "ratios are to the first")
	cpus := fs.String("server-cpus", "1", "1: the server has CPU 0 to itself, wrk CPU 1; "+
		"2: they share both; 1,2: all with each")
	fs.IntVar(&o.rounds, "rounds", 5, "samples of each")
	fs.IntVar(&o.conns, "c", 64, "connections")
	fs.IntVar(&o.busy, "busy", 0, "goroutines that use the CPUs beside the server's")
	fs.DurationVar(&o.seconds, "d", 3*time.Second, "how long a sample takes, whole seconds")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.rounds < 1 || o.conns < 1 || o.seconds < time.Second || o.seconds%time.Second != 0 {
		return nil, errors.New("-rounds, -c and -d must be positive, and -d whole seconds")
	}
	for _, list := range []struct {
		flag, text string
		of         []string
		to         *[]string
	}{
		{"kinds", *kinds, []string{"http", "https", "fasthttp"}, &o.kinds},
		{"listeners", *names, slices.Sorted(maps.Keys(listeners)), &o.names},
		{"server-cpus", *cpus, []string{"1", "2"}, &o.cpus},
	} {
		*list.to = strings.Split(list.text, ",")
		for _, one := range *list.to {
			if !slices.Contains(list.of, one) {
				return nil, fmt.Errorf("-%s: %q is none of %s", list.flag, one,
					strings.Join(list.of, ", "))
			}
		}
	}
	return &o, nil
}

// compare prints one table.
func (o *options) compare(binary, kind, cpus string) error {
	samples := map[string][]sample{}
	for round := range o.rounds {
		for i := range o.names {
			name := o.names[(i+round)%len(o.names)] // none always goes first
			s, err := o.measure(binary, kind, name, cpus)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			samples[name] = append(samples[name], s)
		}
	}
	first := o.names[0]
	fmt.Printf("\n| %s, server CPUs: %s | req/s | p99 ms | CPU µs a request | CPU / %s | req/s / %s | p99 / %s |\n"+
		"|---|--:|--:|--:|--:|--:|--:|\n", kind, cpus, first, first, first)
	base := median(samples[first])
	for _, name := range o.names {
		m := median(samples[name])
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", name, m.perS, m.p99Us/1000, m.cpuUs,
			m.cpuUs/base.cpuUs, m.perS/base.perS, m.p99Us/base.p99Us)
	}
	return nil
}

func (o *options) measure(binary, kind, name, cpus string) (s sample, err error) {
	pinned := func(cpu string, command ...string) *exec.Cmd {
		if cpus == "1" {
			command = append([]string{"taskset", "-c", cpu}, command...)
		}
		return exec.Command(command[0], command[1:]...)
	}
	by := listeners[name]
	server := pinned("0", binary, "-net", by.from, "-kind", kind, "-busy", strconv.Itoa(o.busy))
	server.Env = append(os.Environ(), "GOMAXPROCS="+cpus, "VELOQ_STAGE="+by.stage)
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
	if kind == "https" {
		url = "https://" + strings.TrimSpace(line) + "/"
	}
	load := func(d time.Duration) (n float64, p99 time.Duration, err error) {
		wrk := pinned("1", "wrk", "--latency", "--timeout", "30s", "-t1", "-c"+strconv.Itoa(o.conns), "-d"+d.String(), url)
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
