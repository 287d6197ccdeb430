package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// info is where and how a comparison ran.
type info struct {
	Command string  `json:"command"`
	Commit  string  `json:"commit"`
	Time    string  `json:"time"`
	Kernel  string  `json:"kernel"`
	CPU     string  `json:"cpu"`
	CPUs    int     `json:"cpus"`
	Go      string  `json:"go"`
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"`
	// ServerCPUs are those of -server-cpus; a workload's name says which, if it is not 1.
	ServerCPUs []int `json:"server_cpus"`
	Workers    int   `json:"workers"` // 0: one for each of them
}

func machineInfo(ctx context.Context, cfg *config, root string) info {
	in := info{
		Command: cfg.command,
		Time:    time.Now().UTC().Format(time.RFC3339),
		CPUs:    runtime.NumCPU(),
		Go:      runtime.Version(),
		Rounds:  cfg.rounds,
		Seconds: cfg.seconds,
		Workers: cfg.workers,

		ServerCPUs: cfg.serverCPUs,
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		in.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(b), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		in.CPU = strings.Trim(line, " \t:")
	}
	git := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--dirty")
	out, err := git.Output()
	if err == nil {
		in.Commit = strings.TrimSpace(string(out))
	}
	return in
}

// placement says what runs where.
func (in info) placement() string {
	workers := "a worker for each CPU of the server"
	if in.Workers > 0 {
		workers = fmt.Sprintf("%d worker(s) a server", in.Workers)
	}
	var where []string
	for _, n := range in.ServerCPUs {
		text := fmt.Sprintf("server on %d CPU(s), load client on another", n)
		if in.CPUs <= n {
			text = fmt.Sprintf("server and load client share %d CPU(s)", in.CPUs)
		}
		where = append(where, fmt.Sprintf("%s, GOMAXPROCS=%d", text, n))
	}
	return strings.Join(where, "; ") + "; " + workers
}

func (in info) header() string {
	return fmt.Sprintf("`%s` at %s, %s\n\n", in.Command, in.Commit, in.Time) +
		fmt.Sprintf("%d x %s, Linux %s, %s; %s; ",
			in.CPUs, in.CPU, in.Kernel, in.Go, in.placement()) +
		fmt.Sprintf("medians of the calm samples of %d interleaved rounds of %g s.\n", in.Rounds, in.Seconds)
}

// row is a server's medians under one workload, and what they are against the yardsticks.
type row struct {
	Server      string             `json:"server"`
	Workload    string             `json:"workload"`
	Samples     int                `json:"samples"`
	Failure     string             `json:"failure,omitempty"`
	ReqPerS     float64            `json:"req_per_s"`
	CPUus       float64            `json:"server_cpu_us_per_req"`
	CPUSpread   float64            `json:"server_cpu_spread"` // (max - min) / median
	CPUShare    float64            `json:"server_cpu_share"`
	ClientCPUus float64            `json:"client_cpu_us_per_req"`
	ClientShare float64            `json:"client_cpu_share"`
	P50us       float64            `json:"p50_us"`
	P99us       float64            `json:"p99_us"`
	Disturbed   int                `json:"disturbed"`  // samples that others disturbed
	CPUTo       map[string]float64 `json:"cpu_to"`     // own CPU a request / yardstick's
	ReqPerSTo   map[string]float64 `json:"req_per_to"` // own throughput / yardstick's
}

var yardsticks = []string{"gnet", "gonet", "limit"}

// summarize turns cells into rows; the ratios are ratios of medians.
func summarize(cells []*cell) []row {
	var rows []row
	find := map[[2]string]*row{}
	for _, c := range cells {
		r := row{Server: c.Server, Workload: c.Workload, Samples: len(c.Samples)}
		if len(c.Failures) > 0 {
			r.Failure = fmt.Sprintf("failed in %d of %d rounds: %s", len(c.Failures),
				len(c.Failures)+len(c.Samples), c.Failures[0])
		}
		// Lost CPU time hardly moves CPU a request, but throughput and latency it does.
		used := calm(c.Samples)
		of := func(get func(sample) float64) float64 { return median(collect(used, get)) }
		r.ReqPerS = of(func(s sample) float64 { return s.ReqPerS })
		r.CPUus = of(func(s sample) float64 { return s.CPUus })
		r.CPUSpread = spread(collect(used, func(s sample) float64 { return s.CPUus }))
		r.CPUShare = of(func(s sample) float64 { return s.CPUShare })
		r.ClientCPUus = of(func(s sample) float64 { return s.ClientCPUus })
		r.ClientShare = of(func(s sample) float64 { return s.ClientShare })
		r.P50us = of(func(s sample) float64 { return s.P50us })
		r.P99us = of(func(s sample) float64 { return s.P99us })
		for _, s := range c.Samples {
			if s.OthersShare > othersMax {
				r.Disturbed++
			}
		}
		rows = append(rows, r)
	}
	for i := range rows {
		find[[2]string{rows[i].Workload, rows[i].Server}] = &rows[i]
	}
	for i := range rows {
		r := &rows[i]
		r.CPUTo, r.ReqPerSTo = map[string]float64{}, map[string]float64{}
		for _, y := range yardsticks {
			if o := find[[2]string{r.Workload, y}]; o != nil && o.Samples > 0 &&
				r.Samples > 0 {
				r.CPUTo[y] = ratio(r.CPUus, o.CPUus)
				r.ReqPerSTo[y] = ratio(r.ReqPerS, o.ReqPerS)
			}
		}
	}
	return rows
}

func markdown(in info, cfg *config, rows []row) string {
	var b strings.Builder
	b.WriteString("# Echo, side by side\n\n" + in.header())
	b.WriteString("\nCPU is the server's, µs a request, lower is better; \"share of limit\" is " +
		"the limit's CPU over the server's own, 1.00 is the limit itself. \"calm\" counts samples during " +
		"which other processes took at most 10 % of a CPU; only those are used, unless there are none.\n")
	for _, w := range cfg.workloads {
		fmt.Fprintf(&b, "\n## %s: %s\n\n", w.name, w.describe())
		b.WriteString("| server | calm | req/s | CPU µs | spread | p50 µs | p99 µs " +
			"| CPU / gnet | CPU / gonet | share of limit " +
			"| req/s / gnet | req/s / gonet | req/s / limit | server, client busy |\n")
		b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
		for _, r := range rows {
			if r.Workload == w.name {
				b.WriteString(r.markdown())
			}
		}
	}
	return b.String()
}

func (r row) markdown() string {
	var b strings.Builder
	if r.Samples == 0 {
		fmt.Fprintf(&b, "| %s | %s |%s\n", r.Server, r.Failure, strings.Repeat(" |", 12))
		return b.String()
	}
	name := r.Server
	if r.Failure != "" {
		name += " (" + r.Failure + ")"
	}
	fmt.Fprintf(&b,
		"| %s | %d/%d | %.0f | %.2f | ±%.0f %% | %.0f | %.0f "+
			"| %s | %s | %s | %s | %s | %s | %.0f %%, %.0f %% |\n",
		name, r.Samples-r.Disturbed, r.Samples, r.ReqPerS, r.CPUus, r.CPUSpread*50, r.P50us, r.P99us,
		shown(r.CPUTo, "gnet", false),
		shown(r.CPUTo, "gonet", false),
		shown(r.CPUTo, "limit", true),
		shown(r.ReqPerSTo, "gnet", false),
		shown(r.ReqPerSTo, "gonet", false),
		shown(r.ReqPerSTo, "limit", false),
		r.CPUShare*100, r.ClientShare*100)
	return b.String()
}

// shown prints a ratio, or a dash where the yardstick did not run.
func shown(m map[string]float64, key string, invert bool) string {
	v, ok := m[key]
	if !ok || v == 0 {
		return "–"
	}
	if invert {
		v = 1 / v
	}
	return fmt.Sprintf("%.2f", v)
}

// writeReport prints the table and leaves it, the samples and the charts in the output folder.
func writeReport(out string, in info, cfg *config, cells []*cell) error {
	rows := summarize(cells)
	table := markdown(in, cfg, rows)
	fmt.Print(table)
	if err := os.WriteFile(filepath.Join(out, "compare.md"), []byte(table), 0o644); err != nil {
		return err
	}
	all := map[string]any{"run": in, "rows": rows, "cells": cells}
	err := writeJSON(filepath.Join(out, "compare.json"), all)
	if err != nil {
		return err
	}
	for _, m := range metrics {
		chart := drawChart(m, cfg, rows, in)
		path := filepath.Join(out, "compare-"+m.file+".svg")
		if err := os.WriteFile(path, []byte(chart), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func writeIdleReport(out string, in info, cells []*cell) error {
	var b strings.Builder
	b.WriteString("# Idle connections\n\n" + in.header())
	b.WriteString("\nGrowth of the server's resident memory, bytes a connection: " +
		"before any byte came, and after one echo on each.\n\n")
	b.WriteString("| server | idle | after one echo | answered |\n|---|--:|--:|--:|\n")
	for _, c := range cells {
		if len(c.Idle) == 0 {
			fmt.Fprintf(&b, "| %s | %s | | |\n", c.Server, c.Failures[0])
			continue
		}
		last := c.Idle[len(c.Idle)-1]
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %d of %d |\n", c.Server,
			median(collect(c.Idle, func(s idleSample) float64 { return s.IdleBytes })),
			median(collect(c.Idle, func(s idleSample) float64 { return s.UsedBytes })),
			last.Answered, last.Connections)
	}
	fmt.Print(b.String())
	path := filepath.Join(out, "idle.md")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return err
	}
	return writeJSON(filepath.Join(out, "idle.json"), map[string]any{"run": in, "cells": cells})
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
