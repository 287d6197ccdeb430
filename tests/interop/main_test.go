package interop

// The suite runs under each mode of staged writes: as it is started, and by TestStage_Modes in
// processes of its own, since a process reads its mode once.

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

const (
	stageEnv = "VELOQ_STAGE"
	childEnv = "VELOQ_INTEROP_CHILD" // set in TestStage_Modes' processes
)

func TestMain(m *testing.M) {
	status := m.Run()
	if status == 0 && os.Getenv(childEnv) != "" {
		if err := stagedAs(os.Getenv(stageEnv)); err != nil {
			fmt.Println("FAIL:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// stagedAs reports whether the process staged writes, as the mode asks for.
func stagedAs(mode string) error {
	writes := veloq.DefaultStageStats().Writes - warmed
	fmt.Println(writes, "staged writes")
	if (writes > 0) != (mode == "on") {
		return fmt.Errorf("%d staged writes with %s=%s", writes, stageEnv, mode)
	}
	return nil
}

// Goal: every program runs with all its small writes staged, and with none; and the writes were.
func TestStage_Modes(t *testing.T) {
	if os.Getenv(stageEnv) != "" {
		t.Skip("this run's mode is set by ", stageEnv)
	}
	if runtime.GOOS != "linux" {
		t.Skip("no driver here sends on the sockets of Go's netpoller")
	}
	if _, err := veloq.Default(); err != nil {
		t.Skip("no worker to stage by: ", err)
	}
	for _, mode := range []string{"on", "off"} {
		t.Run(mode, func(t *testing.T) {
			// A hang there ends with that process's stacks, before this one's bound.
			args := []string{"-test.v", "-test.timeout=4m", "-test.skip=^Test(Stage|QUIC|HTTP3)_"}
			if testing.Short() {
				args = append(args, "-test.short")
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
			cmd.Env = append(os.Environ(), stageEnv+"="+mode, childEnv+"=1")
			out, err := cmd.CombinedOutput()
			text := string(out)
			require.NoError(t, err, text)
			passed := strings.Count(text, "--- PASS: ")
			require.Greater(t, passed, 50, text)
			for _, skipped := range skipLines.FindAllString(text, -1) {
				t.Log(skipped)
			}
			t.Logf("%d tests passed", passed)
		})
	}
}

// skipLines finds the skipped tests in the output of -test.v, each with its reason on the line before.
var skipLines = regexp.MustCompile(`(?m)^.*\n\s*--- SKIP: .*$`)
