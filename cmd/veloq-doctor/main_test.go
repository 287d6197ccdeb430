package main

// The program as its users see it: a process with an exit status.

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

func TestDoctor_NamesTheDriver(t *testing.T) {
	program.NeedWorkers(t)
	status, stdout, stderr := program.Run(t, "-workers", "1")
	assert.Zero(t, status, stderr)
	assert.Regexp(t, `(?m)^driver     (uring|uring, translated|epoll|iocp), 1 workers$`, stdout)
}

// Goal: where nothing starts it says why, and exits with 1.
func TestDoctor_NothingStarts(t *testing.T) {
	status, stdout, _ := program.Run(t, "-workers", "100000")
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "no runtime starts here:\n  veloq: ")
}

func TestDoctor_BadCommandLine(t *testing.T) {
	for _, args := range [][]string{{"-driver", "nosuch"}, {"stray"}, {"-nosuch"}} {
		status, stdout, stderr := program.Run(t, args...)
		assert.Equal(t, 2, status, "%q", args)
		assert.Empty(t, stdout)
		assert.NotEmpty(t, stderr)
	}
}
