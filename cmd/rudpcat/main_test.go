package main

// The program as its users see it: two processes and their standard streams.

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain runs the program itself when a test starts this binary again.
func TestMain(m *testing.M) {
	if os.Getenv("RUDPCAT_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func rudpcat(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUDPCAT_MAIN=1")
	return cmd
}

var announced = regexp.MustCompile(`listening on (\S+), pin ([0-9a-f]{64})`)

func TestRudpcat_BothWays(t *testing.T) {
	ours, theirs := bytes.Repeat([]byte("from the client. "), 100_000), bytes.Repeat([]byte("from the server. "), 50_000)
	server := rudpcat("-l", "127.0.0.1:0")
	server.Stdin = bytes.NewReader(theirs)
	var atServer, atClient, notes bytes.Buffer
	server.Stdout = &atServer
	errs, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	line, err := bufio.NewReader(errs).ReadString('\n')
	require.NoError(t, err)
	found := announced.FindStringSubmatch(line)
	require.Len(t, found, 3, line)
	client := rudpcat("-v", "-migrate-every", "5ms", "-pin", found[2], found[1])
	client.Stdin, client.Stdout, client.Stderr = bytes.NewReader(ours), &atClient, &notes
	require.NoError(t, client.Run(), notes.String())
	require.NoError(t, server.Wait())
	assert.True(t, bytes.Equal(ours, atServer.Bytes()))
	assert.True(t, bytes.Equal(theirs, atClient.Bytes()))
	assert.Regexp(t, `sent \d+ B in \d+ packets, \d+ lost; received 850000 B`, notes.String())
}

func TestRudpcat_WrongPin(t *testing.T) {
	server := rudpcat("-l", "127.0.0.1:0")
	errs, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	line, err := bufio.NewReader(errs).ReadString('\n')
	require.NoError(t, err)
	found := announced.FindStringSubmatch(line)
	require.Len(t, found, 3, line)
	wrong := bytes.Repeat([]byte("0"), 64)
	out, err := rudpcat("-pin", string(wrong), found[1]).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "not the pinned certificate")
	require.NoError(t, server.Process.Kill())
	_ = server.Wait()
}

func TestRudpcat_BadCommandLine(t *testing.T) {
	for _, args := range [][]string{
		{}, {"a", "b"}, {"-nosuch"}, {"-l", "-pin", "x", "a:1"}, {"-timeout", "-1s", "a:1"}, {"-l", "-migrate-every", "1s", "a:1"},
	} {
		cmd := rudpcat(args...)
		_ = cmd.Run()
		assert.Equal(t, 2, cmd.ProcessState.ExitCode(), "%q", args)
	}
	for _, args := range [][]string{{"nowhere"}, {"-pin", "short", "127.0.0.1:1"}, {"-timeout", "50ms", "127.0.0.1:9"}} {
		cmd := rudpcat(args...)
		_ = cmd.Run()
		assert.Equal(t, 1, cmd.ProcessState.ExitCode(), "%q", args)
	}
}
