package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// builder compiles the load client and the servers into build/out/bench.
type builder struct {
	cfg  *config
	root string // of the repository
	out  string
}

func newBuilder(cfg *config) (*builder, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "bench", "load", "load.c")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return nil, errors.New("not inside the repository: no bench/load above")
		}
		dir = filepath.Dir(dir)
	}
	out := filepath.Join(dir, "build", "out", "bench")
	return &builder{cfg, dir, out}, os.MkdirAll(out, 0o755)
}

// buildLoad compiles the load client, without which nothing can run.
func (b *builder) buildLoad(ctx context.Context) error {
	return b.buildC(ctx, "load")
}

// buildServers compiles each program once. A program that does not build is an entry in the
// result, so that the others still run.
func (b *builder) buildServers(ctx context.Context, servers []server) map[string]string {
	broken := map[string]string{}
	done := map[string]bool{}
	for _, s := range servers {
		if done[s.binary] {
			continue
		}
		done[s.binary] = true
		var err error
		peers := filepath.Join(b.root, "bench")
		switch {
		case s.binary == "limit":
			err = b.buildC(ctx, s.binary)
		case s.binary == otherBinary:
			err = b.buildGo(ctx, b.cfg.against, "./examples/echo", s.binary, "")
		case s.isVeloq():
			err = b.buildGo(ctx, b.root, "./examples/echo", s.binary, "")
		case s.binary == "gnet":
			err = b.buildGo(ctx, peers, "./servers/gnet", s.binary, b.cfg.gnetTags)
		default:
			err = b.buildGo(ctx, peers, "./servers/"+s.binary, s.binary, "")
		}
		if err != nil {
			broken[s.binary] = "does not build: " + err.Error()
			fmt.Fprintf(os.Stderr, "%s %s\n", s.binary, broken[s.binary])
		}
	}
	return broken
}

func (b *builder) buildGo(ctx context.Context, dir, pkg, name, tags string) error {
	out := filepath.Join(b.out, name)
	c := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", out, pkg)
	c.Dir = dir
	return quietly(c)
}

func (b *builder) buildC(ctx context.Context, name string) error {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	config := exec.CommandContext(ctx, "pkg-config", "--cflags", "--libs", "liburing")
	flags, err := config.Output()
	if err != nil {
		return fmt.Errorf("pkg-config: %w (install pkg-config and liburing-dev)", err)
	}
	sources, err := filepath.Glob(filepath.Join(b.root, "bench", name, "*.c"))
	if err != nil {
		return err
	}
	args := []string{"-O2", "-g", "-std=gnu11", "-Wall", "-Wextra"}
	args = append(args, "-o", filepath.Join(b.out, name))
	args = append(args, sources...)
	args = append(args, strings.Fields(string(flags))...)
	return quietly(exec.CommandContext(ctx, cc, args...))
}

// quietly runs a command; its output is only of interest when it fails, and then the end of it.
func quietly(c *exec.Cmd) error {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLine(out.String()))
	}
	return nil
}

// lastLine is the newest thing that a program said, on one line. A Go program that crashes ends
// with a stack, so there it is the line that says why.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for _, l := range lines {
		if strings.HasPrefix(l, "panic: ") || strings.HasPrefix(l, "fatal error: ") {
			return l
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}
