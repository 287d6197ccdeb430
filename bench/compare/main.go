// Command compare runs every echo server under every workload, interleaved in rounds on one
// machine, and prints medians and ratios. ../README.md says how to read them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// config is the command line.
type config struct {
	servers   []server
	workloads []workload
	rounds    int
	seconds   float64
	warmup    float64
	retries   int
	patience  time.Duration
	// serverCPUs are the numbers of CPUs that servers are measured with, one after another.
	serverCPUs []int
	workers    int // 0: as many as the server has CPUs
	idle       int
	verify     bool
	short      bool     // -table short
	cpus       []string // those of this process: server and load client share them out
	veloqArgs  []string
	against    string // a checkout whose veloq runs too
	gnetTags   string
	command    string
}

func main() {
	// A server must die with this process even if it is killed outright; the kernel ties that
	// to the thread that started the server, so the thread has to stay.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	cfg.cpus = allowedCPUs()
	if len(cfg.cpus) < 2 && slices.Contains(cfg.serverCPUs, 1) {
		return errors.New("needs two CPUs: one for the server, one for the load client; " +
			"or -server-cpus 2, with which they share what there is")
	}
	b, err := newBuilder(cfg)
	if err != nil {
		return err
	}
	cfg.tell("building the load client and the servers")
	if err := b.buildLoad(ctx); err != nil {
		return err
	}
	broken := b.buildServers(ctx, cfg.servers)
	if err := ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	r := &runner{cfg: cfg, out: b.out, broken: broken}
	info := machineInfo(ctx, cfg, b.root)
	if cfg.idle > 0 {
		cells, err := r.idleRounds(ctx)
		if err != nil {
			return err
		}
		return writeIdleReport(b.out, info, cells)
	}
	cells, err := r.loadRounds(ctx)
	if err != nil {
		return err
	}
	if cfg.short {
		fmt.Print(shortTable(cfg, summarize(cells)))
	} else if err := writeReport(b.out, info, cfg, cells); err != nil {
		return err
	}
	if cfg.against != "" {
		fmt.Print("\n", againstTable(cells))
	}
	return nil
}

// tell shows progress.
func (c *config) tell(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func parse(args []string) (*config, error) {
	cfg := &config{command: "go run ./compare " + strings.Join(args, " ")}
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	serverList := fs.String("servers", "all", "servers, comma-separated: "+names(allServers))
	workloadList := fs.String("workloads", "all",
		"workloads, comma-separated: "+names(allWorkloads))
	only := fs.String("only", "", "quick: two workloads, 3 rounds of 1 s; net: the net door beside "+
		"Go's net, five workloads, one CPU and two; unless other flags say so")
	cpus := fs.String("server-cpus", "1", "how many CPUs the server has, and its GOMAXPROCS, 1 or 2; "+
		"with both, 1,2, all is measured with each. The load client has those that are left; "+
		"if none are, nothing is pinned")
	table := fs.String("table", "full", "full: every figure, and files; short: one small table, "+
		"and the first failure ends it")
	veloqArgs := fs.String("veloq-args", "", "further flags for examples/echo, space-separated")
	fs.StringVar(&cfg.against, "against", "", "the path of another checkout of the repository: veloq's "+
		"servers run from there too, and how the two compare is printed at the end")
	fs.IntVar(&cfg.rounds, "rounds", 5, "rounds; every server runs once in each")
	fs.Float64Var(&cfg.seconds, "seconds", 2, "seconds measured a sample")
	fs.Float64Var(&cfg.warmup, "warmup", 0.5, "seconds of load before that")
	fs.IntVar(&cfg.retries, "retries", 2,
		"times to repeat a sample that other processes disturbed")
	fs.DurationVar(&cfg.patience, "patience", 15*time.Second,
		"how long to wait for a calm machine before that")
	fs.IntVar(&cfg.workers, "workers", 0, "event loops or workers of each server; "+
		"0 is one for each of its CPUs")
	fs.IntVar(&cfg.idle, "idle", 0, "instead: memory of this many idle connections")
	fs.BoolVar(&cfg.verify, "verify", false, "check every echoed byte (dearer for the client)")
	fs.StringVar(&cfg.gnetTags, "gnet-tags", "", "build tags for gnet, such as poll_opt,gc_opt")
	if err := fs.Parse(args); err != nil {
		return nil, flag.ErrHelp // the flag set has told
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch *only {
	case "":
	case "quick":
		preset(set, "workloads", func() { *workloadList = "64x64B,64x16KiB" })
		preset(set, "rounds", func() { cfg.rounds = 3 })
		preset(set, "seconds", func() { cfg.seconds = 1 })
	case "net":
		preset(set, "servers", func() { *serverList = netServers })
		preset(set, "workloads", func() { *workloadList = netWorkloads })
		preset(set, "server-cpus", func() { *cpus = "1,2" })
	default:
		return nil, fmt.Errorf("-only %q: quick or net", *only)
	}
	for text := range strings.SplitSeq(*cpus, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 2 || slices.Contains(cfg.serverCPUs, n) {
			return nil, fmt.Errorf("-server-cpus %q: 1, 2, or 1,2", *cpus)
		}
		cfg.serverCPUs = append(cfg.serverCPUs, n)
	}
	switch *table {
	case "full":
	case "short":
		cfg.short = true
	default:
		return nil, fmt.Errorf("-table %q: full or short", *table)
	}
	if cfg.rounds < 1 || cfg.seconds <= 0 {
		return nil, errors.New("-rounds and -seconds must be positive")
	}
	if cfg.workers < 0 || cfg.warmup < 0 || cfg.idle < 0 || cfg.retries < 0 {
		return nil, errors.New("-workers, -warmup, -idle and -retries must not be negative")
	}
	cfg.veloqArgs = strings.Fields(*veloqArgs)
	var err error
	if cfg.servers, err = pick(allServers, *serverList); err != nil {
		return nil, err
	}
	if cfg.against != "" {
		if cfg.against, err = filepath.Abs(cfg.against); err != nil {
			return nil, err
		}
		cfg.servers = withOther(cfg.servers)
	}
	workloads, err := pick(allWorkloads, *workloadList)
	cfg.workloads = withCPUs(workloads, cfg.serverCPUs)
	return cfg, err
}

func preset(set map[string]bool, name string, apply func()) {
	if !set[name] {
		apply()
	}
}

// named is what a flag can list.
type named interface{ label() string }

func names[T named](all []T) string {
	var b []string
	for _, v := range all {
		b = append(b, v.label())
	}
	return strings.Join(b, ",")
}

// pick resolves a comma-separated list, in the order that the list gives.
func pick[T named](all []T, list string) ([]T, error) {
	if list == "all" {
		return all, nil
	}
	var out []T
next:
	for _, want := range strings.Split(list, ",") {
		for _, v := range all {
			if v.label() == strings.TrimSpace(want) {
				out = append(out, v)
				continue next
			}
		}
		return nil, fmt.Errorf("%q is none of %s", want, names(all))
	}
	return out, nil
}
