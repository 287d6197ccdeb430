package veloq

// What the system gave, and why not more.

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/veloq/veloq/internal/core"
)

// DriverError is why a runtime could not start, and what to do about it.
type DriverError struct {
	Driver string // "uring", …; empty before one was chosen
	Step   string // what was refused: "setup", "probe", "ops", "buffers", "doorbell", …
	Err    error  // the system's errno, for errors.Is
	Cause  string // why, as far as it can be known
	Cure   string // what the user can do
}

// Error implements error.
func (e *DriverError) Error() string {
	var b strings.Builder
	b.WriteString("veloq: ")
	if e.Driver != "" {
		b.WriteString(e.Driver + " ")
	}
	fmt.Fprintf(&b, "%s: %v", e.Step, e.Err)
	if e.Cause != "" {
		b.WriteString(": " + e.Cause)
	}
	if e.Cure != "" {
		b.WriteString("; " + e.Cure)
	}
	return b.String()
}

// Unwrap returns the system's error.
func (e *DriverError) Unwrap() error { return e.Err }

var stepNames = [...]string{"", "config", "setup", "probe", "ops", "buffers", "doorbell"}

var driverNames = [...]string{"auto", "uring", "epoll", "iocp"}

func noDriverError() error {
	return &DriverError{
		Step:  "build",
		Err:   core.ErrNoDriver,
		Cause: fmt.Sprintf("this program was built for %s/%s without the C core", runtime.GOOS, runtime.GOARCH),
		Cure:  "build on Linux with CGO_ENABLED=1, a C compiler and liburing 2.3 or later",
	}
}

func driverError(c *Config, r core.Report, err error) error {
	e := &DriverError{Step: stepNames[r.FailedStep], Err: sysErr(err)}
	if int(r.Kind) < len(driverNames) && r.Kind != core.DriverAuto {
		e.Driver = driverNames[r.Kind]
	}
	if r.Kind == core.DriverURing {
		e.Cause, e.Cure = explainURing(c, r)
	}
	return e
}

// explainURing says what stands behind a refusal: the same errno has several causes, and the
// system's own files tell them apart.
func explainURing(c *Config, r core.Report) (cause, cure string) {
	switch syscall.Errno(-r.Error) {
	case syscall.EPERM, syscall.EACCES:
		if v := firstLine("/proc/sys/kernel/io_uring_disabled"); v == "1" || v == "2" {
			return "kernel.io_uring_disabled is " + v,
				"set it to 0, or to 1 and run in the group of kernel.io_uring_group"
		}
		return "a seccomp filter or security module refuses io_uring (containers do by default)",
			"allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
	case syscall.ENOSYS:
		if r.FailedStep == core.StepSetup {
			return "this kernel has no io_uring, or a seccomp filter hides it (kernel " + kernelRelease() + ")",
				"use Linux 6.0 or later, or allow io_uring_setup, io_uring_enter and io_uring_register"
		}
		return fmt.Sprintf("kernel %s lacks operation %d", kernelRelease(), r.MissingOp),
			"use Linux 6.0 or later"
	case syscall.ENOMEM:
		return "the rings and buffers don't fit the memory that may be locked (RLIMIT_MEMLOCK)",
			"raise RLIMIT_MEMLOCK (ulimit -l), or make Config.SubmissionEntries, CompletionEntries and BufferCount smaller"
	case syscall.EMFILE, syscall.ENFILE:
		return fmt.Sprintf("no file descriptor is free for %d workers with two each (RLIMIT_NOFILE)", c.Workers),
			"raise RLIMIT_NOFILE (ulimit -n)"
	case syscall.EINVAL:
		return "kernel " + kernelRelease() + " refuses the rings' flags or sizes", "use Linux 6.0 or later"
	}
	return "", ""
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func kernelRelease() string {
	if v := firstLine("/proc/sys/kernel/osrelease"); v != "" {
		return v
	}
	return "unknown"
}

// Report is what a runtime got from the system.
type Report struct {
	Workers           int
	Driver            string
	Caps              []string // what the driver uses, of all that it knows
	Missing           []string // what it knows and could not use
	SubmissionEntries int
	CompletionEntries int
	Buffers           int // receive buffers of each worker
	BufferSize        int // bytes
}

// Report says which driver runs, and with what. Any goroutine.
func (rt *Runtime) Report() Report {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	r := rt.reports[0]
	out := Report{
		Workers: len(rt.workers), Driver: driverNames[r.Kind],
		SubmissionEntries: int(r.SQEntries), CompletionEntries: int(r.CQEntries),
		Buffers: int(r.BufferCount), BufferSize: int(r.BufferSizeBytes),
	}
	for i, name := range core.CapNames {
		if r.Caps&(1<<i) != 0 {
			out.Caps = append(out.Caps, name)
		} else {
			out.Missing = append(out.Missing, name)
		}
	}
	return out
}

// String returns the report as lines of text.
func (r Report) String() string {
	return fmt.Sprintf("driver   %s, %d workers\nrings    %d submissions, %d completions\n"+
		"buffers  %d x %d bytes a worker\nuses     %s\nlacks    %s\n",
		r.Driver, r.Workers, r.SubmissionEntries, r.CompletionEntries, r.Buffers, r.BufferSize,
		strings.Join(r.Caps, " "), strings.Join(r.Missing, " "))
}
