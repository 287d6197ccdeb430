package veloq

// What the system gave, and why not more.

import (
	"errors"
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

func noDriverError() error {
	return &DriverError{
		Step:  "build",
		Err:   core.ErrNoDriver,
		Cause: fmt.Sprintf("this program was built for %s/%s without the C core", runtime.GOOS, runtime.GOARCH),
		Cure: "build with CGO_ENABLED=1 and a C compiler, on Linux with liburing 2.3 or later, " +
			"for Windows with mingw-w64",
	}
}

// driverError is why no driver could be had: of each that was tried, if there were several.
func driverError(c *Config, r core.Report, err error) error {
	failed := r.Failed()
	if len(failed) == 0 {
		e := &DriverError{Step: stepNames[r.FailedStep], Err: sysErr(err)}
		if c.Driver != DriverAuto {
			e.Driver = c.Driver.String()
			e.Cause, e.Cure = "there is no such driver on "+runtime.GOOS, "use DriverAuto"
		}
		return e
	}
	if len(failed) == 1 {
		return attemptError(c, &failed[0])
	}
	var all []error
	for i := range failed {
		all = append(all, attemptError(c, &failed[i]))
	}
	return errors.Join(all...)
}

// attemptError says what stands behind a refusal: the same errno has several causes, and the system's
// own files tell them apart.
func attemptError(c *Config, a *core.Attempt) *DriverError {
	e := &DriverError{
		Driver: driverNames[a.Kind], Step: stepNames[a.FailedStep], Err: sysErr(core.Errno(-a.Error)),
	}
	switch a.Kind {
	case core.DriverURing:
		e.Cause, e.Cure = explainURing(c, a)
	case core.DriverEpoll:
		e.Cause, e.Cure = explainEpoll(c, a)
	case core.DriverIOCP:
		e.Cause, e.Cure = explainIOCP(a)
	}
	return e
}

func explainURing(c *Config, a *core.Attempt) (cause, cure string) {
	const allow = "allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
	denied := c.deny != 0 && a.FailedStep != core.StepSetup
	switch syscall.Errno(-a.Error) {
	case syscall.EPERM, syscall.EACCES:
		if v := firstLine("/proc/sys/kernel/io_uring_disabled"); v == "1" || v == "2" {
			return "kernel.io_uring_disabled is " + v,
				"set it to 0, or to 1 and run in the group of kernel.io_uring_group"
		}
		if seccompFiltered() {
			return "a seccomp filter refuses io_uring (containers have one by default)", allow
		}
		return "a security module refuses io_uring", "allow io_uring for this program in its policy"
	case syscall.ENOSYS:
		switch {
		case denied:
			return "VELOQ_DENY forbids what it can't do without", "unset VELOQ_DENY"
		case a.FailedStep == core.StepOps:
			return fmt.Sprintf("kernel %s lacks operation %d", kernelRelease(), a.MissingOp), "use Linux 5.10 or later"
		case seccompFiltered():
			return "a seccomp filter hides io_uring, or kernel " + kernelRelease() + " has none",
				allow + ", or use Linux 5.10 or later"
		}
		return "kernel " + kernelRelease() + " has no io_uring", "use Linux 5.10 or later"
	case syscall.ENOMEM:
		return "the rings and buffers don't fit the memory that may be locked (RLIMIT_MEMLOCK" + limit("Max locked memory") + ")",
			"raise RLIMIT_MEMLOCK (ulimit -l), or make Config.SubmissionEntries, CompletionEntries and BufferCount smaller"
	case syscall.EMFILE, syscall.ENFILE:
		return noDescriptors(c, 2)
	case syscall.EINVAL:
		return "kernel " + kernelRelease() + " refuses the rings' flags or sizes", "use Linux 5.10 or later"
	}
	return "", ""
}

func explainEpoll(c *Config, a *core.Attempt) (cause, cure string) {
	switch syscall.Errno(-a.Error) {
	case syscall.EPERM, syscall.EACCES, syscall.ENOSYS:
		return "a seccomp filter or security module refuses it",
			"allow epoll_create1, epoll_ctl, epoll_wait, timerfd_create, timerfd_settime and eventfd2 in the profile"
	case syscall.ENOMEM:
		return "the rings, buffers and tables don't fit the memory that this process may have (RLIMIT_AS" +
				limit("Max address space") + ")",
			"raise RLIMIT_AS (ulimit -v) or the container's memory, or make Config.BufferCount smaller"
	case syscall.EMFILE, syscall.ENFILE:
		return noDescriptors(c, 3)
	}
	return "", ""
}

func noDescriptors(c *Config, each int) (cause, cure string) {
	return fmt.Sprintf("no file descriptor is free for %d workers with %d each (RLIMIT_NOFILE%s)",
		c.Workers, each, limit("Max open files")), "raise RLIMIT_NOFILE (ulimit -n)"
}

// seccompFiltered reports whether this process runs under a seccomp filter.
func seccompFiltered() bool {
	status, _ := os.ReadFile("/proc/self/status")
	return strings.Contains(string(status), "\nSeccomp:\t2")
}

// limit returns " is N" for a soft limit of this process by its name in proc_pid_limits(5), nothing
// where it can't be read.
func limit(name string) string {
	limits, _ := os.ReadFile("/proc/self/limits")
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				return " is " + fields[0]
			}
		}
	}
	return ""
}

func explainIOCP(a *core.Attempt) (cause, cure string) {
	switch -a.Error {
	case core.ErrnoNOMEM:
		return "the rings, records and buffers don't fit the memory that Windows commits to",
			"free memory or enlarge the paging file, or make Config.BufferCount smaller"
	case core.ErrnoMFILE, core.ErrnoNOBUFS:
		return "Windows gives no socket or completion port", "close some, or use fewer workers"
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
	Workers int
	Driver  string
	Caps    []string // what the driver uses, of all that it knows
	Missing []string // what it knows and could not use
	// Emulated are those of Missing that the driver does itself, at the price of more system calls.
	Emulated []string
	// Sockets is what the system's sockets can do beyond what every driver needs, found by trying;
	// SocketsLack is what other versions of the system can.
	Sockets     []string
	SocketsLack []string
	// Refused are the better drivers that DriverAuto could not have, with cause and cure.
	Refused           []*DriverError
	SubmissionEntries int
	CompletionEntries int
	Buffers           int // receive buffers of each worker
	BufferSize        int // bytes
}

// Report says which driver runs, and with what. Any goroutine. Blocks: the process's first call tries
// out what its sockets can do, which takes milliseconds.
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
		switch bit := uint32(1) << i; {
		case r.Caps&bit != 0:
			out.Caps = append(out.Caps, name)
		case core.KnownCaps(r.Kind)&bit != 0:
			out.Missing = append(out.Missing, name)
		}
		if r.Emulated>>i&1 != 0 {
			out.Emulated = append(out.Emulated, name)
		}
	}
	found, known := core.Features()
	for i, name := range core.FeatureNames {
		switch bit := uint32(1) << i; {
		case found&bit != 0:
			out.Sockets = append(out.Sockets, name)
		case known&bit != 0:
			out.SocketsLack = append(out.SocketsLack, name)
		}
	}
	for i := range r.Failed() {
		out.Refused = append(out.Refused, attemptError(&rt.config, &r.Failed()[i]))
	}
	return out
}

// String returns the report as lines of text.
func (r Report) String() string {
	driver := r.Driver
	if len(r.Emulated) > 0 {
		driver += ", translated"
	}
	text := fmt.Sprintf("driver   %s, %d workers\nrings    %d submissions, %d completions\n"+
		"buffers  %d x %d bytes a worker\nuses     %s\nlacks    %s\nsockets  %s\n",
		driver, r.Workers, r.SubmissionEntries, r.CompletionEntries, r.Buffers, r.BufferSize,
		strings.Join(r.Caps, " "), strings.Join(r.Missing, " "), strings.Join(r.Sockets, " "))
	if len(r.Emulated) > 0 {
		text += "emulates " + strings.Join(r.Emulated, " ") + "\n"
	}
	for _, e := range r.Refused {
		text += "refused  " + strings.TrimPrefix(e.Error(), "veloq: ") + "\n"
	}
	return text
}
