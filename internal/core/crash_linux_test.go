//go:build cgo && linux

package core

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	// Names C frames in the traceback of a crash below Go. It sets process-global state, so only tests
	// import it, never the library.
	_ "github.com/ianlancetaylor/cgosymbolizer"
)

// crashEnv makes the test binary crash in C instead of running its tests.
const crashEnv = "VELOQ_CRASH_IN_C"

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		doorbellRing(&Doorbell{handle: -1}) // breaks an assertion: no descriptor to write to
	}
	os.Exit(m.Run())
}

// A broken assertion in C aborts the process with the C function and line in Go's traceback. The
// binary that go test runs has no DWARF, so one is built that has.
func TestAssert_CrashNamesCFrames(t *testing.T) {
	if testing.Short() {
		t.Skip("links a second test binary; not with -short")
	}
	binary := filepath.Join(t.TempDir(), "core.test")
	build := exec.Command("go", "test", "-c", "-ldflags=-w=false -s=false", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	run := exec.Command(binary, "-test.run=^$")
	run.Env = append(os.Environ(), crashEnv+"=1", "GOTRACEBACK=all")
	out, err := run.CombinedOutput()
	if err == nil {
		t.Fatalf("it did not crash:\n%s", out)
	}
	for _, want := range []string{"veloq: ", "broken: ", "vq_doorbell_ring", "doorbell_linux.c:", "vq_assert_fail"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in the traceback", want)
		}
	}
	if t.Failed() {
		t.Logf("traceback:\n%s", out)
	}
}
