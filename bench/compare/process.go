package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a running server.
type process struct {
	cmd    *exec.Cmd
	addr   string
	stderr bytes.Buffer
	exited chan struct{} // closed once the process is gone and stderr complete
}

// startServer runs a server and waits for the address on its first line.
func startServer(cfg *config, s server, cpus int, path string) (*process, error) {
	workers := cfg.workers
	if workers == 0 {
		workers = cpus
	}
	args := []string{path, "-addr", "127.0.0.1:0", "-workers", strconv.Itoa(workers)}
	args = append(args, s.args...)
	if s.isVeloq() {
		args = append(args, cfg.veloqArgs...)
	}
	serverSet, _ := shareOut(cfg.cpus, cpus)
	args = pinned(serverSet, args)
	p := &process{cmd: exec.Command(args[0], args[1:]...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(cpus))
	p.cmd.Stderr = &p.stderr
	// Own process group: Ctrl-C reaches compare alone, which then ends the server itself.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	// A pipe of its own, not StdoutPipe: Wait would close that under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p.cmd.Stdout = w
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(r).ReadString('\n')
	p.addr = strings.TrimSpace(line)
	if err == nil {
		_, _, err = net.SplitHostPort(p.addr)
	}
	if err != nil {
		p.stop()
		if said := lastLine(p.stderr.String()); said != "" {
			return nil, errors.New("does not start: " + said)
		}
		return nil, fmt.Errorf("does not start: %w", err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the server by its pid and waits for it: politely, then not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(2 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// why adds the server's own last words to an error of the load client, if it has died.
func (p *process) why(err error) error {
	select {
	case <-p.exited:
		return fmt.Errorf("%w; the server ended: %s %s", err, p.cmd.ProcessState,
			lastLine(p.stderr.String()))
	case <-time.After(200 * time.Millisecond): // a dying process closes its sockets first
		return err
	}
}

// runLoad runs the load client to its end and returns the JSON it printed.
func runLoad(ctx context.Context, cfg *config, cpus int, path string, limit time.Duration,
	args ...string,
) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, clientSet := shareOut(cfg.cpus, cpus)
	args = pinned(clientSet, append([]string{path}, args...))
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%s (%s)", lastLine(string(exit.Stderr)), exit)
	}
	return out, err
}
