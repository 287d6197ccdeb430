// Package program lets the tests of a program see it as its users do: as a process with arguments,
// standard streams and an exit status. The process is the test binary, started again.
package program

// What the tests of programs need of their processes, and of the build, changes here.

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/veloq/veloq"
)

// mainEnv is set in the processes that are the program.
const mainEnv = "VELOQ_PROGRAM_MAIN"

// Main is the body of a package's TestMain: it runs the tests, or in a process that New made, main.
// Does not return.
func Main(m *testing.M, main func()) {
	if os.Getenv(mainEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// NeedWorkers skips the test where the build has no workers. Any other reason why a runtime does not
// start fails it.
func NeedWorkers(t *testing.T) {
	t.Helper()
	rt, err := veloq.New(veloq.Config{Workers: 1})
	var refused *veloq.DriverError
	if errors.As(err, &refused) && refused.Step == "build" {
		t.Skip(err)
	}
	must(t, err)
	must(t, rt.Close())
}

// New returns the program with those arguments, not yet started.
func New(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	return cmd
}

// Run runs the program to its end and returns what it said. Blocks.
func Run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := New(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		must(t, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// A Server is a program that runs until the end of the test.
type Server struct {
	t   *testing.T
	out *bufio.Reader
}

// Start starts the program. At the end of the test it is interrupted, and fails the test if it does not
// exit with 0; where there are no interrupts it is killed. Its stderr is the test's.
func Start(t *testing.T, args ...string) *Server {
	t.Helper()
	cmd := New(args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		err := cmd.Process.Signal(os.Interrupt)
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the exit of %q: %v", args, err)
		}
	})
	return &Server{t: t, out: bufio.NewReader(out)}
}

// Line returns the next line of the program's stdout, without its end. Blocks.
func (s *Server) Line() string {
	s.t.Helper()
	line, err := s.out.ReadString('\n')
	must(s.t, err)
	return strings.TrimSpace(line)
}

// must is here since packages that are no tests import nothing of other modules.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
