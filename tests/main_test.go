package tests

// Tests that need a process of their own run this binary again: TestMain sends it to its part.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const childEnv = "VELOQ_TEST_CHILD"

// children are the parts, by name.
var children = map[string]func(){}

func debugFreeOSMemory() { debug.FreeOSMemory() }

func TestMain(m *testing.M) {
	registerChildren()
	if part := os.Getenv(childEnv); part != "" {
		fn, ok := children[part]
		if !ok {
			fmt.Fprintln(os.Stderr, "no child part", part)
			os.Exit(3)
		}
		fn()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func registerChildren() {
	children["serve"] = childServe
	children["start-fails"] = childStartFails
	children["http"] = childHTTP
	children["races"] = childRaces
	children["server-chaos"] = childServerChaos
	children["panic-task"] = childPanicTask
	children["panic-handler"] = childPanicHandler
	registerDriverChildren()
}

// A child is another process of this binary that answers lines with lines of JSON.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string
	stderr *lockedText
}

// lockedText is written by one goroutine and read by others.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func startChild(t *testing.T, part string, env ...string) *child {
	t.Helper()
	if part != "http" && part != "races" {
		needDriver(t)
	}
	c := &child{t: t, lines: make(chan string, 16), stderr: &lockedText{}}
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(append(os.Environ(), childEnv+"="+part), env...)
	c.cmd.Stderr = c.stderr
	var err error
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	go func() {
		defer close(c.lines)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			c.lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		_ = c.in.Close()
		kill := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
		defer kill.Stop()
		for range c.lines { //nolint:revive // to its end
		}
		err := c.cmd.Wait()
		if part == "serve" && err != nil {
			t.Errorf("child: %v\n%s", err, c.stderr)
		}
	})
	return c
}

// line returns the child's next line.
func (c *child) line(into any) {
	c.t.Helper()
	text := await(c.t, "child's answer", c.lines)
	if text == "" {
		c.t.Fatalf("child ended: %s", c.stderr)
	}
	require.NoError(c.t, json.Unmarshal([]byte(text), into), text)
}

// ask sends a command and decodes its answer.
func (c *child) ask(command string, into any) {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, command)
	require.NoError(c.t, err)
	c.line(into)
}
