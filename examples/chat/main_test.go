package main

// The program as its users see it: a process and TCP connections.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

func start(t *testing.T, args ...string) (addr string) {
	t.Helper()
	program.NeedWorkers(t)
	return program.Start(t, append([]string{"-addr", "127.0.0.1:0"}, args...)...).Line()
}

type client struct {
	t *testing.T
	net.Conn
	lines *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	c := &client{t: t, Conn: conn, lines: bufio.NewReader(conn)}
	c.expect("* your name?")
	return c
}

// join dials, says its name and waits until it is in.
func join(t *testing.T, addr, name string) *client {
	t.Helper()
	c := dial(t, addr)
	c.say(name)
	c.expect("* " + name + " is here")
	return c
}

func (c *client) say(line string) {
	c.t.Helper()
	_, err := io.WriteString(c, line+"\n")
	require.NoError(c.t, err)
}

func (c *client) line() string {
	c.t.Helper()
	line, err := c.lines.ReadString('\n')
	require.NoError(c.t, err)
	return strings.TrimSuffix(line, "\n")
}

func (c *client) expect(want string) {
	c.t.Helper()
	require.Equal(c.t, want, c.line())
}

// until reads lines until one starts like that, and returns it.
func (c *client) until(prefix string) string {
	c.t.Helper()
	for {
		if line := c.line(); strings.HasPrefix(line, prefix) {
			return line
		}
	}
}

func (c *client) expectEnd() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.lines)
	require.NoError(c.t, err, "the end of the stream")
}

// Everybody hears everything, whichever workers they are on, and each speaker's lines keep their order.
func TestChat_EverybodyHearsEverything(t *testing.T) {
	for _, workers := range []string{"1", "3"} {
		t.Run(workers+" workers", func(t *testing.T) {
			addr := start(t, "-workers", workers)
			var all []*client
			for i := range 9 {
				name := fmt.Sprintf("n%d", i)
				c := join(t, addr, name)
				for _, other := range all {
					other.expect("* " + name + " is here")
				}
				all = append(all, c)
			}
			for round := range 20 {
				for i, speaker := range all {
					line := fmt.Sprintf("line %d", round)
					speaker.say(line)
					for _, listener := range all {
						listener.expect(fmt.Sprintf("n%d: %s", i, line))
					}
				}
			}
			all[0].say("/who")
			all[0].expect("* n0 n1 n2 n3 n4 n5 n6 n7 n8")
		})
	}
}

func TestChat_NameTakenAndFreedAgain(t *testing.T) {
	addr := start(t, "-workers", "2")
	ann := join(t, addr, "ann")
	other := dial(t, addr)
	for _, bad := range []string{"ann", "", "a b", strings.Repeat("x", 33)} {
		other.say(bad)
		other.expect("* your name?")
	}
	ann.say("/quit")
	ann.expect("* goodbye")
	ann.expectEnd()
	// The name is free once the task of its owner has ended, which the owner can't see.
	for {
		other.say("ann")
		if other.line() == "* ann is here" {
			return
		}
	}
}

func TestChat_LeavingIsTold(t *testing.T) {
	addr := start(t, "-workers", "2")
	ann := join(t, addr, "ann")
	bob := join(t, addr, "bob")
	ann.expect("* bob is here")
	require.NoError(t, bob.Close())
	ann.expect("* bob has left")
}

func TestChat_LineTooLong(t *testing.T) {
	addr := start(t)
	ann := join(t, addr, "ann")
	ann.say(strings.Repeat("x", lineMax))
	ann.until("* a line has at most 1023 bytes")
}

// A client that does not read loses lines and is told how many; the others lose none.
func TestChat_SlowReaderLosesItsLinesAlone(t *testing.T) {
	for _, workers := range []string{"1", "2"} {
		t.Run(workers+" workers", func(t *testing.T) {
			addr := start(t, "-workers", workers)
			slow := join(t, addr, "slow")
			ann := join(t, addr, "ann")
			// Far more than sockets and outboxes hold.
			text := strings.Repeat("x", 900)
			for i := range 12_000 {
				line := fmt.Sprintf("%d %s", i, text)
				ann.say(line)
				ann.expect("ann: " + line)
			}
			// The end, said until the slow one hears it: the first ones may be dropped as well.
			heard := make(chan struct{})
			defer func() { <-heard }()
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				defer close(heard)
				for {
					select {
					case <-stop:
						return
					default:
						ann.say("end")
						ann.expect("ann: end")
					}
				}
			}()
			last, got, dropped := -1, 0, 0
			for line := ""; line != "ann: end"; {
				line = slow.line()
				n := 0
				if _, err := fmt.Sscanf(line, "ann: %d ", &n); err == nil {
					require.Greater(t, n, last, "lines keep their order")
					last = n
					got++
				} else if _, err := fmt.Sscanf(line, "* %d lines were dropped", &n); err == nil {
					dropped += n
				}
			}
			assert.Positive(t, dropped)
			if workers == "1" { // a link between workers may lose lines on its own
				assert.GreaterOrEqual(t, got+dropped, 12_000)
			}
		})
	}
}

func TestChat_SilentReaderIsDisconnected(t *testing.T) {
	addr := start(t, "-patience", "200ms")
	slow := join(t, addr, "slow")
	ann := join(t, addr, "ann")
	_ = slow
	text := strings.Repeat("x", 900)
	gone := false
	for i := 0; !gone; i++ {
		ann.say(fmt.Sprintf("%d %s", i, text))
		gone = strings.HasPrefix(ann.line(), "* slow has left")
	}
}
