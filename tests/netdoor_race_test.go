package tests

// What the race detector sees of the net door's system calls.

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// childRaces uses a buffer while Read or Write has it.
func childRaces() {
	l, err := veloq.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c, err := veloq.Dial("tcp", l.Addr().String())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s, err := l.Accept()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.WriteString(s, "here already")
	buf := make([]byte, 8)
	done := make(chan bool)
	go func() {
		if os.Getenv("CHILD_RACE") == "read" {
			_, _ = c.Read(buf)
		} else {
			_, _ = c.Write(buf)
		}
		done <- true
	}()
	buf[3] = 1
	<-done
}

// Goal: a program that touches a buffer in a call's hands is told so under -race, as with package net.
func TestNetdoorRace_BufferInUse(t *testing.T) {
	if !raceEnabled {
		t.Skip("for -race")
	}
	if runtime.GOOS == "windows" {
		t.Skip("package net moves the bytes here")
	}
	for _, what := range []string{"read", "write"} {
		c := startChild(t, "races", "CHILD_RACE="+what, "GORACE=exitcode=0")
		for range c.lines { //nolint:revive // to its end
		}
		_ = c.cmd.Wait()
		assert.Contains(t, c.stderr.String(), "DATA RACE", what)
	}
}

// Goal: what one end did before its Write is seen by the other after its Read, whichever package either
// end is of: nothing is reported here under -race.
func TestNetdoorRace_BytesCarryOrder(t *testing.T) {
	noLeak(t)
	for _, listening := range netPackages {
		for _, dialing := range netPackages {
			p := listening
			p.dial = dialing.dial
			c, s := pair(t, p, "tcp")
			var fromC, fromS int
			done := make(chan int)
			go func() {
				fromC = 1
				_, _ = c.Write([]byte("x"))
				_, _ = c.Read(make([]byte, 1))
				done <- fromS
			}()
			_, err := s.Read(make([]byte, 1))
			require.NoError(t, err)
			assert.Equal(t, 1, fromC)
			fromS = 2
			_, err = s.Write([]byte("x"))
			require.NoError(t, err)
			assert.Equal(t, 2, await(t, "the other end", done))
		}
	}
}
