package main

// The program as its users see it: two processes and their standard streams.

import (
	"bufio"
	"bytes"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

var announced = regexp.MustCompile(`listening on (\S+), pin ([0-9a-f]{64})`)

// listen starts a server and returns what it says of itself.
func listen(t *testing.T, server *exec.Cmd) (addr, pinned string) {
	t.Helper()
	errs, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	line, err := bufio.NewReader(errs).ReadString('\n')
	require.NoError(t, err)
	found := announced.FindStringSubmatch(line)
	require.Len(t, found, 3, line)
	return found[1], found[2]
}

func TestRudpcat_BothWays(t *testing.T) {
	ours, theirs := bytes.Repeat([]byte("from the client. "), 100_000), bytes.Repeat([]byte("from the server. "), 50_000)
	server := program.New("-l", "127.0.0.1:0")
	server.Stdin = bytes.NewReader(theirs)
	var atServer, atClient, notes bytes.Buffer
	server.Stdout = &atServer
	addr, pinned := listen(t, server)
	client := program.New("-v", "-migrate-every", "5ms", "-pin", pinned, addr)
	client.Stdin, client.Stdout, client.Stderr = bytes.NewReader(ours), &atClient, &notes
	require.NoError(t, client.Run(), notes.String())
	require.NoError(t, server.Wait())
	assert.True(t, bytes.Equal(ours, atServer.Bytes()))
	assert.True(t, bytes.Equal(theirs, atClient.Bytes()))
	assert.Regexp(t, `sent \d+ B in \d+ packets, \d+ lost; received 850000 B`, notes.String())
}

func TestRudpcat_WrongPin(t *testing.T) {
	server := program.New("-l", "127.0.0.1:0")
	addr, _ := listen(t, server)
	wrong := bytes.Repeat([]byte("0"), 64)
	out, err := program.New("-pin", string(wrong), addr).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "not the pinned certificate")
	require.NoError(t, server.Process.Kill())
	_ = server.Wait()
}

func TestRudpcat_BadCommandLine(t *testing.T) {
	for _, args := range [][]string{
		{}, {"a", "b"}, {"-nosuch"}, {"-l", "-pin", "x", "a:1"}, {"-timeout", "-1s", "a:1"}, {"-l", "-migrate-every", "1s", "a:1"},
	} {
		status, _, _ := program.Run(t, args...)
		assert.Equal(t, 2, status, "%q", args)
	}
	for _, args := range [][]string{{"nowhere"}, {"-pin", "short", "127.0.0.1:1"}, {"-timeout", "50ms", "127.0.0.1:9"}} {
		status, _, _ := program.Run(t, args...)
		assert.Equal(t, 1, status, "%q", args)
	}
}
