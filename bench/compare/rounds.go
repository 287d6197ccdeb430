package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// sample is what the load client reports of one run.
type sample struct {
	Requests    uint64  `json:"requests"`
	ReqPerS     float64 `json:"req_per_s"`
	CPUus       float64 `json:"server_cpu_us_per_req"`
	CPUShare    float64 `json:"server_cpu_share"`
	ClientCPUus float64 `json:"client_cpu_us_per_req"`
	ClientShare float64 `json:"client_cpu_share"`
	OthersShare float64 `json:"others_cpu_share"`
	RSSBytes    uint64  `json:"server_rss_bytes"`
	Threads     int     `json:"server_threads"`
	P50us       float64 `json:"p50_us"`
	P90us       float64 `json:"p90_us"`
	P99us       float64 `json:"p99_us"`
	P999us      float64 `json:"p999_us"`
	MaxUs       float64 `json:"max_us"`
}

// idleSample is what the load client reports of idle connections.
type idleSample struct {
	Connections int     `json:"idle_connections"`
	Answered    int     `json:"answered"`
	IdleBytes   float64 `json:"idle_bytes_per_conn"`
	UsedBytes   float64 `json:"used_bytes_per_conn"`
}

// cell is one server under one workload.
type cell struct {
	Server   string       `json:"server"`
	Workload string       `json:"workload,omitempty"`
	Samples  []sample     `json:"samples,omitempty"`
	Idle     []idleSample `json:"idle,omitempty"`
	Failures []string     `json:"failures,omitempty"`
}

// runner holds what all samples share.
type runner struct {
	cfg    *config
	out    string            // where the programs are
	broken map[string]string // programs that did not build, and why
}

// loadRounds measures every server under every workload once a round. A server that fails is a cell
// that says so, but with -table short the end; otherwise only an interrupt ends it early.
func (r *runner) loadRounds(ctx context.Context) ([]*cell, error) {
	var cells []*cell
	at := map[[2]string]*cell{}
	for _, w := range r.cfg.workloads {
		for _, s := range r.cfg.servers {
			c := &cell{Server: s.name, Workload: w.name}
			cells = append(cells, c)
			at[[2]string{w.name, s.name}] = c
		}
	}
	for round := range r.cfg.rounds {
		for _, w := range r.cfg.workloads {
			for _, i := range order(len(r.cfg.servers), round) {
				s := r.cfg.servers[i]
				c := at[[2]string{w.name, s.name}]
				got, err := r.leastDisturbed(ctx, s, w)
				if ctx.Err() != nil {
					return nil, errors.New("interrupted")
				}
				progress := fmt.Sprintf("round %d/%d  %-20s %-16s", round+1,
					r.cfg.rounds, w.name, s.name)
				if err != nil && r.cfg.short {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
				if err != nil {
					c.Failures = append(c.Failures, err.Error())
					r.cfg.tell("%s failed: %v", progress, err)
					continue
				}
				c.Samples = append(c.Samples, got)
				r.cfg.tell("%s %9.0f req/s %8.2f µs CPU  p99 %8.1f µs",
					progress, got.ReqPerS, got.CPUus, got.P99us)
			}
		}
	}
	return cells, nil
}

// leastDisturbed repeats a sample while other processes take CPU, and returns the calmest.
func (r *runner) leastDisturbed(ctx context.Context, s server, w workload) (sample, error) {
	var best sample
	for try := range r.cfg.retries + 1 {
		if try > 0 {
			waitCalm(ctx, r.cfg.patience)
		}
		got, err := r.loadOnce(ctx, s, w)
		if err != nil {
			return got, err
		}
		if try == 0 || got.OthersShare < best.OthersShare {
			best = got
		}
		if best.OthersShare <= othersMax {
			break
		}
	}
	return best, nil
}

func (r *runner) loadOnce(ctx context.Context, s server, w workload) (got sample, err error) {
	seconds := r.cfg.seconds + r.cfg.warmup
	args := []string{
		"-c", strconv.Itoa(w.connections),
		"-s", strconv.Itoa(w.sizeBytes),
		"-d", strconv.Itoa(w.depth),
		"-t", fmt.Sprint(r.cfg.seconds), "-w", fmt.Sprint(r.cfg.warmup),
	}
	if r.cfg.verify {
		args = append(args, "-v")
	}
	limit := time.Duration(seconds*float64(time.Second)) + 20*time.Second
	err = r.against(ctx, s, w.cpus, limit, &got, args...)
	if err == nil && got.Requests == 0 {
		err = errors.New("no request was answered in the measured time")
	}
	return got, err
}

// idleRounds weighs idle connections of every server once a round.
func (r *runner) idleRounds(ctx context.Context) ([]*cell, error) {
	var cells []*cell
	for _, s := range r.cfg.servers {
		cells = append(cells, &cell{Server: s.name})
	}
	for round := range r.cfg.rounds {
		for _, i := range order(len(r.cfg.servers), round) {
			s, c := r.cfg.servers[i], cells[i]
			var got idleSample
			n := strconv.Itoa(r.cfg.idle)
			err := r.against(ctx, s, r.cfg.serverCPUs[0], 3*time.Minute, &got, "-i", n)
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			progress := fmt.Sprintf("round %d/%d  %-16s", round+1, r.cfg.rounds, s.name)
			if err != nil {
				c.Failures = append(c.Failures, err.Error())
				r.cfg.tell("%s failed: %v", progress, err)
				continue
			}
			c.Idle = append(c.Idle, got)
			r.cfg.tell("%s %8.0f B idle %8.0f B after one echo, a connection",
				progress, got.IdleBytes, got.UsedBytes)
		}
	}
	return cells, nil
}

// against starts a fresh server, runs the load client on it, and ends it again.
func (r *runner) against(ctx context.Context, s server, cpus int, limit time.Duration, got any,
	args ...string,
) error {
	if reason, ok := r.broken[s.binary]; ok {
		return errors.New(reason)
	}
	p, err := startServer(r.cfg, s, cpus, filepath.Join(r.out, s.binary))
	if err != nil {
		return err
	}
	defer p.stop()
	args = append([]string{"-a", p.addr, "-p", strconv.Itoa(p.pid())}, args...)
	out, err := runLoad(ctx, r.cfg, cpus, filepath.Join(r.out, "load"), limit, args...)
	if err != nil {
		return p.why(err)
	}
	if err := json.Unmarshal(out, got); err != nil {
		return fmt.Errorf("the load client's output: %w", err)
	}
	return nil
}
