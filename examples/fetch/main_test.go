package main

// The program as its users see it: a process with an exit status, against its own target.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// target starts the program with -serve and returns the URL that its paths follow.
func target(t *testing.T) string {
	t.Helper()
	return "http://" + program.Start(t, "-serve", "127.0.0.1:0").Line()
}

func TestFetch_InParallel(t *testing.T) {
	program.NeedWorkers(t)
	base := target(t)
	for _, workers := range []string{"1", "2"} {
		var args []string
		for i := range 100 {
			args = append(args, fmt.Sprintf("%s/bytes/%d", base, i*1000))
		}
		args = append(args, base+"/nothing")
		status, stdout, stderr := program.Run(t, append([]string{"-p", "7", "-workers", workers, "-timeout", "1m"}, args...)...)
		assert.Zero(t, status, stderr)
		for i := range 100 {
			assert.Contains(t, stdout, fmt.Sprintf("200 %s/bytes/%d %d bytes", base, i*1000, i*1000))
		}
		assert.Contains(t, stdout, "404 "+base+"/nothing 0 bytes")
		assert.Equal(t, 101, strings.Count(stdout, "\n"))
	}
}

// Each has its own time: one that is over fails that URL, and the others go on.
func TestFetch_Timeouts(t *testing.T) {
	program.NeedWorkers(t)
	base := target(t)
	status, stdout, stderr := program.Run(t, "-p", "2", "-timeout", "50ms", base+"/slow/1h", base+"/bytes/5",
		"ftp://127.0.0.1/", "http://127.0.0.1:1/")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, errFailed.Error())
	assert.Contains(t, stdout, "FAIL "+base+"/slow/1h")
	assert.Contains(t, stdout, "timed out after 50ms")
	assert.Equal(t, 4, strings.Count(stdout, "\n"), stdout) // how bytes/5 fares is up to the machine
	assert.Contains(t, stdout, "not an http:// URL")
	assert.Contains(t, stdout, "FAIL http://127.0.0.1:1/")

	status, stdout, stderr = program.Run(t, "-total", "50ms", base+"/slow/1h", base+"/slow/2h")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "timed out after 50ms")
	assert.NotContains(t, stdout, "200")
}

func TestFetch_FailFast(t *testing.T) {
	program.NeedWorkers(t)
	base := target(t)
	began := time.Now()
	status, stdout, stderr := program.Run(t, "-fail-fast", "-timeout", "1h", "-total", "1h", base+"/slow/1h", "http:///")
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "FAIL http:///")
	assert.Contains(t, stderr, "not an http:// URL")
	assert.NotContains(t, stdout, "slow")
	assert.Less(t, time.Since(began), time.Hour)
}

func TestFetch_Usage(t *testing.T) {
	for _, args := range [][]string{{}, {"-p", "0", "http://127.0.0.1/"}, {"-serve", "127.0.0.1:0", "http://x/"}, {"-nonsense"}} {
		status, stdout, stderr := program.Run(t, args...)
		assert.Equal(t, 2, status, "%q", args)
		assert.Empty(t, stdout)
		assert.NotEmpty(t, stderr)
	}
}
