// Command udp measures what a datagram costs a server: CPU time of the server's process over what it
// received, or what a load client had answered, for veloq's UDPConn and its worker doors beside package
// net and x/net.
//
//	cd bench/udp && go run .                    # all servers, 5 rounds of 1 s for each form of load
//	go run . -servers net-msg,veloq-handler -loads sink,sink@50000 -rounds 9
//	go run . -also "mine=/path/to/server -flag" # anything that prints its address and echoes
//
// The server has one CPU and GOMAXPROCS=1 or -procs, the client another; servers take turns in rounds; figures are
// medians. Linux only; needs cc and taskset. README.md says what the figures mean.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	servers []string
	loads   []load
	also    map[string][]string
	rounds  int
	seconds float64
	size    int
	depth   int
	sockets int
	procs   int
	delay   time.Duration
}

// A load is one form of what the client does.
type load struct {
	name  string
	flags []string
	sink  bool
}

// forms are the loads that -loads can name, at a rate or without.
var forms = map[string]load{
	"echo":     {"echo, sent one by one", nil, false},
	"echo-gso": {"echo, sent by GSO", []string{"-g"}, false},
	"sink":     {"received only, sent one by one", []string{"-k"}, true},
	"sink-gso": {"received only, sent by GSO", []string{"-k", "-g"}, true},
}

const (
	defaultServers = "net-msg,net,xnet,xnet-gro,veloq,veloq-msg,veloq-batch,veloq-gro," +
		"veloq-handler,veloq-handler-gro,veloq-handler-delay,veloq-task,veloq-task-gro,veloq-task-delay"
	defaultLoads = "echo,echo-gso,sink,sink-gso,sink@100000,sink-gso@100000"
)

// parseLoads reads FORM or FORM@RATE, with commas between.
func parseLoads(list string) ([]load, error) {
	var loads []load
	for text := range strings.SplitSeq(list, ",") {
		form, rate, paced := strings.Cut(text, "@")
		l, ok := forms[form]
		if !ok {
			return nil, fmt.Errorf("-loads: %q is none of %s", form,
				strings.Join(slices.Sorted(maps.Keys(forms)), ", "))
		}
		if paced {
			n, err := strconv.Atoi(rate)
			if err != nil || n <= 0 {
				return nil, fmt.Errorf("-loads: %q is no number of datagrams a second", rate)
			}
			l.name += fmt.Sprintf(", %d a second", n)
			l.flags = append(slices.Clone(l.flags), "-r", rate)
		}
		loads = append(loads, l)
	}
	return loads, nil
}

// retries is how often a sample is repeated that failed, as on a machine so busy that no answer came.
const retries = 3

// sample is what udpload prints.
type sample struct {
	Sent, Packets, Lost uint64
	PacketsPerS         float64 `json:"packets_per_s"`
	CPU                 float64 `json:"server_cpu_us_per_packet"`
	Share               float64 `json:"server_cpu_share"`
}

func (s sample) lostShare() float64 { return float64(s.Lost) / float64(max(s.Sent, 1)) }

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	o := options{also: map[string][]string{}}
	serveDoor := flag.String("serve", "", "be this server")
	sinking := flag.Bool("sink", false, "with -serve: answer only what asks for it")
	names := flag.String("servers", defaultServers, "servers; ratios are to the first")
	loads := flag.String("loads", defaultLoads,
		"forms of load: "+strings.Join(slices.Sorted(maps.Keys(forms)), ", ")+
			"; with @N, N datagrams a second at most")
	flag.Func("also", "name=command: a server of its own, for the echo loads (repeatable)", o.addAlso)
	flag.IntVar(&o.rounds, "rounds", 5, "rounds")
	flag.Float64Var(&o.seconds, "seconds", 1, "seconds a sample")
	flag.IntVar(&o.size, "size", 1200, "bytes a datagram")
	flag.IntVar(&o.depth, "depth", 32, "datagrams in flight a socket")
	flag.IntVar(&o.sockets, "sockets", 4, "the client's sockets")
	flag.IntVar(&o.procs, "procs", 1, "GOMAXPROCS of the servers, on their one CPU")
	flag.DurationVar(&o.delay, "delay", 200*time.Microsecond, "Config.WakeDelay of the servers with -delay")
	flag.Parse()
	if *serveDoor != "" {
		return serve(*serveDoor, *sinking, o.delay)
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	out, err := filepath.Abs("../../build/out/bench")
	if err != nil {
		return err
	}
	if o.loads, err = parseLoads(*loads); err != nil {
		return err
	}
	o.servers = strings.Split(*names, ",")
	for _, name := range o.servers {
		if doors[name] == nil {
			return fmt.Errorf("-servers: %q is none of %s", name, defaultServers)
		}
	}
	if o.rounds < 1 || o.seconds <= 0 || o.procs < 1 {
		return errors.New("-rounds, -seconds and -procs must be positive")
	}
	for name := range o.also {
		o.servers = append(o.servers, name)
	}
	client, err := buildClient(out)
	if err != nil {
		return err
	}
	fmt.Printf("%d B, %d sockets, %d in flight each; %d rounds of %g s; GOMAXPROCS=%d\n",
		o.size, o.sockets, o.depth, o.rounds, o.seconds, o.procs)
	for _, l := range o.loads {
		if err := o.measure(client, l); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) addAlso(s string) error {
	name, command, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want name=command")
	}
	o.also[name] = strings.Fields(command)
	return nil
}

// buildClient compiles bench/udpload into out, a folder.
func buildClient(out string) (string, error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(out, "udpload")
	c := exec.Command("cc", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-o", path,
		"../udpload/udpload.c", "../load/proc.c")
	if said, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("udpload does not build: %w\n%s", err, said)
	}
	return path, nil
}

// measure runs all servers under one load and prints its table.
func (o *options) measure(client string, l load) error {
	samples := map[string][]sample{}
	for round := range o.rounds {
		for i := range o.servers {
			name := o.servers[(i+round)%len(o.servers)]
			if _, foreign := o.also[name]; foreign && l.sink {
				continue
			}
			s, err := o.sample(client, name, l)
			for retry := 0; err != nil && retry < retries; retry++ {
				fmt.Fprintf(os.Stderr, "%s, %s: %v; again\n", name, l.name, err)
				s, err = o.sample(client, name, l)
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", name, l.name, err)
			}
			samples[name] = append(samples[name], s)
		}
	}
	fmt.Printf("\n| %s | CPU µs a datagram | to %s | spread | thousands a second | server busy | lost |\n",
		l.name, o.servers[0])
	fmt.Println("|---|--:|--:|--:|--:|--:|--:|")
	base := median(samples[o.servers[0]], func(s sample) float64 { return s.CPU })
	for _, name := range o.servers {
		list := samples[name]
		if len(list) == 0 {
			continue
		}
		cpu := median(list, func(s sample) float64 { return s.CPU })
		fmt.Printf("| %s | %.2f | %.2f | %.0f %% | %.0f | %.0f %% | %.2f %% |\n",
			name, cpu, cpu/base, 100*spread(list)/cpu,
			median(list, func(s sample) float64 { return s.PacketsPerS })/1000,
			100*median(list, func(s sample) float64 { return s.Share }),
			100*median(list, sample.lostShare))
	}
	return nil
}

func median(list []sample, of func(sample) float64) float64 {
	v := make([]float64, len(list))
	for i, s := range list {
		v[i] = of(s)
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// spread is half the range of CPU.
func spread(list []sample) float64 {
	low, high := list[0].CPU, list[0].CPU
	for _, s := range list {
		low, high = min(low, s.CPU), max(high, s.CPU)
	}
	return (high - low) / 2
}

// sample starts a server, loads it once and ends it.
func (o *options) sample(client, name string, l load) (s sample, err error) {
	args, foreign := o.also[name]
	if !foreign {
		self, err := os.Executable()
		if err != nil {
			return s, err
		}
		args = []string{self, "-serve", name, "-sink=" + strconv.FormatBool(l.sink), "-delay", o.delay.String()}
	}
	server := exec.Command("taskset", append([]string{"-c", "0"}, args...)...) // execs: same pid
	server.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(o.procs))
	server.Stderr = os.Stderr
	stdout, err := server.StdoutPipe()
	if err != nil {
		return s, err
	}
	if err := server.Start(); err != nil {
		return s, err
	}
	patience := time.Duration(o.seconds*float64(time.Second)) + 20*time.Second
	limit := time.AfterFunc(patience, func() { _ = server.Process.Kill() })
	defer func() {
		limit.Stop()
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return s, fmt.Errorf("does not start: %w", err)
	}
	flags := append([]string{
		"-c", "1", client, "-a", strings.TrimSpace(addr), "-p", strconv.Itoa(server.Process.Pid),
		"-t", fmt.Sprint(o.seconds), "-w", "0.3", "-s", strconv.Itoa(o.size), "-d", strconv.Itoa(o.depth),
		"-c", strconv.Itoa(o.sockets),
	}, l.flags...)
	load := exec.Command("taskset", flags...)
	load.Stderr = os.Stderr
	out, err := load.Output()
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(out, &s)
}
