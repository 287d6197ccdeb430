package tests

// Where a runtime starts although io_uring is refused, and what it says then. Filters and limits
// can't be taken back, so each case is a process of its own.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

const refuseEnv = "VELOQ_TEST_REFUSE"

func registerDriverChildren() { children["refused"] = childRefused }

// outcome is what the child tells.
type outcome struct {
	Driver  string
	Refused []refusal
	Text    string // of the report
	Echoed  bool
	Error   string // of New
	Errno   int    // in that error
	Named   string // what New says where DriverURing is asked for by name
}

type refusal struct {
	Driver, Step, Cause, Cure string
	Errno                     int
}

// What seccomp(2) and prctl(2) take.
const (
	prSetNoNewPrivs   = 38
	seccompSetFilter  = 1
	seccompSyncAll    = 1
	seccompKill       = 0x80000000
	seccompErrno      = 0x00050000
	seccompAllow      = 0x7fff0000
	sysIOURingSetup   = 425
	sysIOURingEnter   = 426
	sysIOURingReg     = 427
	rlimitMemlock     = 8
	nobody            = 65534
	descriptorsNeeded = 256
)

var sysSeccomp = map[string]uintptr{"amd64": 317, "arm64": 277}[runtime.GOARCH]

// forbid makes every thread of the process get verdict for one system call.
func forbid(call, verdict uint32) error {
	const load, equal, ret = 0x20, 0x15, 0x06
	filter := []syscall.SockFilter{
		{Code: load, K: 0}, // seccomp_data.nr
		{Code: equal, K: call, Jf: 1},
		{Code: ret, K: verdict},
		{Code: ret, K: seccompAllow},
	}
	program := syscall.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("prctl: %w", e)
	}
	_, _, e := syscall.RawSyscall(sysSeccomp, seccompSetFilter, seccompSyncAll, uintptr(unsafe.Pointer(&program)))
	if e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}

// refuse does to this process what the case says.
func refuse(how string) error {
	switch how {
	case "setup EPERM":
		return forbid(sysIOURingSetup, seccompErrno|uint32(syscall.EPERM))
	case "setup ENOSYS":
		return forbid(sysIOURingSetup, seccompErrno|uint32(syscall.ENOSYS))
	case "setup ENOMEM":
		return forbid(sysIOURingSetup, seccompErrno|uint32(syscall.ENOMEM))
	case "setup kill":
		return forbid(sysIOURingSetup, seccompKill)
	case "enter kill":
		return forbid(sysIOURingEnter, seccompKill)
	case "register EPERM":
		return forbid(sysIOURingReg, seccompErrno|uint32(syscall.EPERM))
	case "memlock 0":
		if err := syscall.Setrlimit(rlimitMemlock, &syscall.Rlimit{}); err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			return syscall.Setuid(nobody) // root may lock whatever it wants
		}
		return nil
	case "nofile 256":
		return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: descriptorsNeeded, Max: descriptorsNeeded})
	case "nofile 3":
		return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: 3})
	case "":
		return nil
	}
	return fmt.Errorf("no case %q", how)
}

func childRefused() {
	var out outcome
	for how := range strings.SplitSeq(os.Getenv(refuseEnv), ",") {
		if err := refuse(how); err != nil {
			fmt.Fprintln(os.Stderr, "refuse:", err)
			os.Exit(2)
		}
	}
	if rt, err := veloq.New(veloq.Config{Workers: 1, Driver: veloq.DriverURing}); err != nil {
		out.Named = err.Error()
	} else {
		_ = rt.Close()
	}
	rt, err := veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		out.Error = err.Error()
		var errno syscall.Errno
		if errors.As(err, &errno) {
			out.Errno = int(errno)
		}
	} else {
		report := rt.Report()
		out.Driver, out.Text = report.Driver, report.String()
		for _, e := range report.Refused {
			var errno syscall.Errno
			_ = errors.As(e.Err, &errno)
			out.Refused = append(out.Refused, refusal{e.Driver, e.Step, e.Cause, e.Cure, int(errno)})
		}
		out.Echoed = echoOnce(rt) == nil
		_ = rt.Close()
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// echoOnce serves one connection to itself.
func echoOnce(rt *veloq.Runtime) error {
	var lc veloq.ListenConfig
	srv, err := lc.Start(context.Background(), rt, "tcp", "127.0.0.1:0", func(_ *veloq.Context, s *veloq.Stream) error {
		_, err := s.ReadFrom(s)
		return err
	})
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := strings.Repeat("0123456789", 20000)
	go func() { _, _ = io.WriteString(conn, sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != sent {
		return errors.New("other bytes came back")
	}
	return nil
}

func runRefused(t *testing.T, how string, env ...string) outcome {
	t.Helper()
	if sysSeccomp == 0 {
		t.Skip("seccomp(2)'s number is not known on " + runtime.GOARCH)
	}
	var stderr strings.Builder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=refused", refuseEnv+"="+how, "VELOQ_DRIVER=", "VELOQ_DENY=")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	var out outcome
	require.NoError(t, json.Unmarshal(text, &out), "%s", text)
	return out
}

// Goal: a runtime starts, serves, and says why it has no io_uring.
func TestDriver_URingRefused(t *testing.T) {
	needDriver(t)
	for how, want := range map[string]struct {
		errno syscall.Errno
		step  string
		cause string
	}{
		"setup EPERM":            {syscall.EPERM, "setup", "seccomp filter refuses"},
		"setup ENOSYS":           {syscall.ENOSYS, "setup", "seccomp filter hides"},
		"setup ENOMEM":           {syscall.ENOMEM, "setup", "RLIMIT_MEMLOCK"},
		"setup kill":             {syscall.EPERM, "setup", "seccomp filter refuses"},
		"enter kill":             {syscall.EPERM, "setup", "seccomp filter refuses"},
		"register EPERM":         {syscall.EPERM, "probe", "seccomp filter refuses"},
		"memlock 0":              {syscall.ENOMEM, "", "RLIMIT_MEMLOCK is 0"},
		"setup EPERM,nofile 256": {syscall.EPERM, "setup", "seccomp filter refuses"},
	} {
		t.Run(how, func(t *testing.T) {
			out := runRefused(t, how)
			if how == "memlock 0" && out.Driver == "uring" {
				t.Skip("this kernel does not count locked memory for rings")
			}
			require.Empty(t, out.Error)
			assert.Equal(t, "epoll", out.Driver)
			assert.True(t, out.Echoed)
			require.Len(t, out.Refused, 1)
			r := out.Refused[0]
			assert.Equal(t, "uring", r.Driver)
			assert.Equal(t, want.errno, syscall.Errno(r.Errno))
			if want.step != "" {
				assert.Equal(t, want.step, r.Step)
			}
			assert.Contains(t, r.Cause, want.cause)
			assert.NotEmpty(t, r.Cure)
			assert.Contains(t, out.Text, r.Cause)
			assert.Contains(t, out.Named, "uring "+r.Step, "by name it is an error, not another driver")
		})
	}
}

func TestDriver_FewDescriptors(t *testing.T) {
	needDriver(t)
	out := runRefused(t, "nofile 256")
	assert.Empty(t, out.Error)
	assert.True(t, out.Echoed)

	out = runRefused(t, "nofile 3")
	assert.Equal(t, syscall.EMFILE, syscall.Errno(out.Errno))
	assert.Contains(t, out.Error, "uring setup")
	assert.Contains(t, out.Error, "epoll setup")
	assert.Contains(t, out.Error, "RLIMIT_NOFILE")
}

func TestDriver_Environment(t *testing.T) {
	needDriver(t)
	out := runRefused(t, "", "VELOQ_DRIVER=epoll")
	assert.Equal(t, "epoll", out.Driver)
	assert.Empty(t, out.Refused, "it was asked for")
	assert.Empty(t, out.Named, "a driver named in Config is not overridden")

	out = runRefused(t, "setup EPERM", "VELOQ_DRIVER=uring")
	assert.Contains(t, out.Error, "uring setup")
	assert.NotContains(t, out.Error, "epoll")

	out = runRefused(t, "", "VELOQ_DRIVER=kqueue")
	assert.Contains(t, out.Error, `unknown driver "kqueue" in VELOQ_DRIVER`)

	out = runRefused(t, "", "VELOQ_DENY=BUFFER_INCREMENTAL, DEFER_TASKRUN")
	assert.True(t, out.Echoed)
	assert.Regexp(t, "lacks .*DEFER_TASKRUN.*BUFFER_INCREMENTAL", out.Text)

	out = runRefused(t, "", "VELOQ_DENY=TELEPATHY")
	assert.Contains(t, out.Error, `unknown name "TELEPATHY" in VELOQ_DENY`)
}

// Goal: without what an older kernel lacks io_uring still serves, says so, and nothing better was
// refused: whatever of it is denied, alone or all together.
func TestDriver_URingTranslated(t *testing.T) {
	needDriver(t)
	const old = "SINGLE_ISSUER,DEFER_TASKRUN,COOP_TASKRUN,TASKRUN_FLAG,SUBMIT_ALL,REGISTERED_RING," +
		"BUFFER_INCREMENTAL,SKIP_SUCCESS,SEND_ZC"
	const all = "ACCEPT_MULTISHOT RECV_MULTISHOT BUFFER_RING POLL_MULTISHOT SHUTDOWN TIMEOUT_UPDATE"
	for deny, emulates := range map[string]string{
		"ACCEPT_MULTISHOT": "ACCEPT_MULTISHOT",
		"RECV_MULTISHOT":   "RECV_MULTISHOT BUFFER_RING",
		"BUFFER_RING":      "RECV_MULTISHOT BUFFER_RING",
		"POLL_MULTISHOT":   "POLL_MULTISHOT",
		"SHUTDOWN":         "SHUTDOWN",
		"TIMEOUT_UPDATE":   "TIMEOUT_UPDATE",
		"ACCEPT_MULTISHOT,RECV_MULTISHOT,POLL_MULTISHOT": "ACCEPT_MULTISHOT RECV_MULTISHOT BUFFER_RING POLL_MULTISHOT",
		old + "," + strings.ReplaceAll(all, " ", ","):    all,
	} {
		t.Run(deny, func(t *testing.T) {
			out := runRefused(t, "", "VELOQ_DENY="+deny)
			require.Empty(t, out.Error)
			assert.Equal(t, "uring", out.Driver)
			assert.Empty(t, out.Refused)
			assert.True(t, out.Echoed)
			assert.Contains(t, out.Text, "driver   uring, translated, ")
			assert.Contains(t, out.Text, "\nemulates "+emulates+"\n")
			for name := range strings.SplitSeq(deny, ",") {
				assert.NotRegexp(t, "uses .*"+name, out.Text)
				assert.Regexp(t, "lacks .*"+name, out.Text)
			}
		})
	}
	out := runRefused(t, "", "VELOQ_DENY="+old)
	assert.Equal(t, "uring", out.Driver)
	assert.NotContains(t, out.Text, "translated", "what is done by other means needs no emulation")
	assert.NotContains(t, out.Text, "emulates")

	out = runRefused(t, "", "VELOQ_DENY=RESTRICTED")
	assert.NotContains(t, out.Text, "translated")
}

// Goal: worker i stays on CPU i.
func TestConfig_PinCPU(t *testing.T) {
	needDriver(t)
	workers := min(2, runtime.NumCPU())
	rt, err := veloq.New(veloq.Config{Workers: workers, PinCPU: true})
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("the process may not run on the first CPUs")
	}
	require.NoError(t, err)
	defer func() { _ = rt.Close() }()
	for worker := range workers {
		require.NoError(t, onWorker(t, rt, worker, func(*veloq.Context) error {
			var mask [128]uint64
			n, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
			if errno != 0 {
				return errno
			}
			var want [128]uint64
			want[worker/64] = 1 << (worker % 64)
			assert.Equal(t, want[:n/8], mask[:n/8], "worker %d", worker)
			return nil
		}))
	}
}
