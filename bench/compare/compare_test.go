package main

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMedian_OddEvenNone(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

// Every round runs everybody once, and over the rounds nobody keeps one neighbour.
func TestOrder_PermutesAndVaries(t *testing.T) {
	const n = 5
	before := map[[2]int]int{}
	for round := range n {
		got := order(n, round)
		if s := slices.Sorted(slices.Values(got)); !slices.Equal(s, []int{0, 1, 2, 3, 4}) {
			t.Fatalf("round %d runs %v", round, got)
		}
		for i := 1; i < n; i++ {
			before[[2]int{got[i-1], got[i]}]++
		}
	}
	for pair, times := range before {
		if times == n {
			t.Errorf("%v run in that order in every round", pair)
		}
	}
}

func TestParse_BadInput(t *testing.T) {
	for _, args := range [][]string{
		{"-servers", "nosuch"},
		{"-workloads", "64x64B,nosuch"},
		{"-only", "slow"},
		{"-server-cpus", "3"},
		{"-server-cpus", "0"},
		{"-server-cpus", "1,1"},
		{"-server-cpus", ""},
		{"-workers", "-1"},
		{"-table", "long"},
		{"-rounds", "0"},
		{"-seconds", "-1"},
		{"stray"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestParse_PresetYieldsToFlags(t *testing.T) {
	cfg, err := parse([]string{"-only", "quick", "-rounds", "7"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.rounds != 7 || cfg.seconds != 1 || len(cfg.workloads) != 2 {
		t.Errorf("rounds %d, seconds %g, workloads %v", cfg.rounds, cfg.seconds, cfg.workloads)
	}
}

// Two versions are compared round by round: what slowed a whole round does not count.
func TestAgainst_RatiosWithinRounds(t *testing.T) {
	cfg, err := parse([]string{"-servers", "veloq-task,gonet", "-against", "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range cfg.servers {
		got = append(got, s.name+"="+s.binary)
	}
	if want := []string{"veloq-task=echo", "veloq-task@other=echo-other", "gonet=gonet"}; !slices.Equal(got, want) {
		t.Errorf("servers %v, want %v", got, want)
	}
	if !filepath.IsAbs(cfg.against) {
		t.Errorf("-against %q: the build runs in another folder", cfg.against)
	}
	samples := func(cpu ...float64) (out []sample) {
		for _, v := range cpu {
			out = append(out, sample{CPUus: v, ReqPerS: 100, P99us: 10})
		}
		return out
	}
	table := againstTable([]*cell{
		{Server: "veloq-task", Workload: "1x64B", Samples: samples(4, 40, 6)},
		{Server: "veloq-task@other", Workload: "1x64B", Samples: samples(5, 50, 5)},
		{Server: "gonet", Workload: "1x64B", Samples: samples(1, 1, 1)},
		{Server: "veloq-task", Workload: "64x64B", Samples: samples(1)},
		{Server: "veloq-task@other", Workload: "64x64B"},
	})
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), table)
	}
	if want := "0.800 ( 0.800 to  1.200)"; !strings.Contains(lines[1], want) {
		t.Errorf("%q lacks %q", lines[1], want)
	}
	if want := "not every round"; !strings.Contains(lines[2], want) {
		t.Errorf("%q lacks %q", lines[2], want)
	}
}

// -only net is the net door's table in one run: every server under every workload, on one CPU and two.
func TestParse_NetOnOneAndTwoCPUs(t *testing.T) {
	cfg, err := parse([]string{"-only", "net"})
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.servers) != 4 || len(cfg.workloads) != 10 {
		t.Fatalf("%d servers, %d workloads", len(cfg.servers), len(cfg.workloads))
	}
	seen := map[string]bool{}
	for _, w := range cfg.workloads {
		if seen[w.name] || (w.cpus == 2) != strings.HasSuffix(w.name, "-2cpus") {
			t.Errorf("%q: %d CPUs, or a second of that name", w.name, w.cpus)
		}
		seen[w.name] = true
	}
	for _, s := range cfg.servers {
		for _, other := range cfg.servers {
			if s.name != other.name && s.binary == other.binary && slices.Equal(s.args, other.args) {
				t.Errorf("%s is %s", s.name, other.name)
			}
		}
	}
}

func TestShareOut_ServerAndClient(t *testing.T) {
	for _, c := range []struct {
		all            []string
		n              int
		server, client []string
	}{
		{[]string{"4", "6"}, 1, []string{"4"}, []string{"6"}},
		{[]string{"4", "6"}, 2, nil, nil},
		{[]string{"0", "1", "2", "3"}, 2, []string{"0", "1"}, []string{"2"}},
		{nil, 1, nil, nil},
	} {
		server, client := shareOut(c.all, c.n)
		if !slices.Equal(server, c.server) || !slices.Equal(client, c.client) {
			t.Errorf("%v for %d: %v and %v", c.all, c.n, server, client)
		}
	}
	command := []string{"echo", "-x"}
	two := pinned([]string{"0", "1"}, command)
	if want := []string{"taskset", "-c", "0,1", "echo", "-x"}; !slices.Equal(two, want) {
		t.Error(two)
	}
	if got := pinned(nil, command); !slices.Equal(got, command) {
		t.Error(got)
	}
}

// A server without samples is a row that says why; the ratios of the others stand.
func TestReport_FailedServer(t *testing.T) {
	cfg, err := parse([]string{"-servers", "veloq-task,gnet,limit", "-workloads", "1x64B"})
	if err != nil {
		t.Fatal(err)
	}
	rows := summarize([]*cell{
		{
			Server: "veloq-task", Workload: "1x64B",
			Failures: []string{"does not build: no <such> folder"},
		},
		{Server: "gnet", Workload: "1x64B", Samples: []sample{{ReqPerS: 100, CPUus: 8}}},
		{Server: "limit", Workload: "1x64B", Samples: []sample{{ReqPerS: 150, CPUus: 4}}},
	})
	if got := rows[2].CPUTo["gnet"]; got != 0.5 {
		t.Errorf("limit's CPU to gnet's is %v, want 0.5", got)
	}
	table := markdown(info{}, cfg, rows)
	if !strings.Contains(table, "failed in 1 of 1 rounds: does not build") {
		t.Errorf("the table hides the failure:\n%s", table)
	}
	width := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		if n := strings.Count(line, "|"); width == 0 {
			width = n
		} else if n != width {
			t.Errorf("%d columns, want %d: %s", n-1, width-1, line)
		}
	}
	for _, m := range metrics {
		wellFormed(t, drawChart(m, cfg, rows, info{}))
	}
}

func wellFormed(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, svg)
		}
	}
}

func TestAxis_RoundSteps(t *testing.T) {
	for _, c := range []struct{ longest, step, top float64 }{
		{0, 1, 1}, {4.65, 1, 5}, {7.69, 2, 8}, {93, 20, 100}, {310000, 100000, 400000},
	} {
		step, top := axis(c.longest)
		if step != c.step || top != c.top {
			t.Errorf("axis(%g) = %g, %g, want %g, %g",
				c.longest, step, top, c.step, c.top)
		}
	}
}

func TestLastLine_CrashAndPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "",
		"one\ntwo\n":                           "two",
		"panic: no\n\ngoroutine 1:\n\tmain.go": "panic: no",
	} {
		if got := lastLine(in); got != want {
			t.Errorf("lastLine(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseCPUList(t *testing.T) {
	for in, want := range map[string][]string{
		"0": {"0"}, "0-2": {"0", "1", "2"}, "1,4-5,9": {"1", "4", "5", "9"}, "": nil, "a-b": nil,
	} {
		if got := parseCPUList(in); !slices.Equal(got, want) {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}

func TestShortTable_ColumnsAndRatios(t *testing.T) {
	cfg, err := parse([]string{"-servers", "veloq-task,gonet", "-workloads", "1x64B", "-table", "short"})
	if err != nil {
		t.Fatal(err)
	}
	table := shortTable(cfg, summarize([]*cell{
		{Server: "veloq-task", Workload: "1x64B", Samples: []sample{{ReqPerS: 300, CPUus: 4}}},
		{Server: "gonet", Workload: "1x64B", Samples: []sample{{ReqPerS: 200, CPUus: 8, OthersShare: 1}}},
	}))
	for _, want := range []string{"0.50            1.50", "1.00            1.00", "1 of 2 samples"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
}
