package tests

// The servers' chaos where descriptors run out at times: a process of its own with few of them.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hog takes all descriptors that are left, some times, and gives them back.
func hog(r *rand.Rand) {
	for range 1 + r.IntN(4) {
		rest(r, time.Millisecond)
		var taken []*os.File
		for {
			f, err := os.Open(os.DevNull)
			if err != nil {
				break
			}
			taken = append(taken, f)
		}
		rest(r, 3*time.Millisecond)
		for _, f := range taken {
			_ = f.Close()
		}
	}
}

// chaosPeers are where nobody listens, a port that is taken, and where a dial hangs.
func chaosPeers() (dead, full string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return "", "", err
	}
	full, _, err = shortListener()
	for err == nil {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", full, 200*time.Millisecond); err == nil {
			chaosKept = append(chaosKept, c)
		}
	}
	chaosKept = append(chaosKept, l, conn)
	return conn.LocalAddr().String(), full, nil
}

var chaosKept []any // of a child, until it ends

// childServerChaos runs rounds with few descriptors, and answers each seed with why it failed.
func childServerChaos() {
	dead, full, err := chaosPeers()
	if err == nil {
		err = limitDescriptors(currentUsage().fds + 60)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(2)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		seed, _ := strconv.ParseUint(in.Text(), 10, 64)
		answer := ""
		before := currentUsage().fds
		sc := &serverChaos{seed: seed, dead: dead, full: full, scarce: true}
		if err := sc.round(); err != nil {
			answer = err.Error()
		} else if now := currentUsage().fds; now > before {
			answer = fmt.Sprintf("%d descriptors, %d before", now, before)
		}
		_ = json.NewEncoder(os.Stdout).Encode(answer)
	}
}

// Goal: the same where descriptors run out at times: what is accepted then waits, and is served after.
func TestServer_ChaosWithoutDescriptors(t *testing.T) {
	if !hasDescriptorLimit {
		t.Skip("no limit on descriptors that a process could lower")
	}
	c := startChild(t, "server-chaos")
	for _, seed := range seeds(t, sized(500, 8, 3)) {
		var answer string
		_, err := fmt.Fprintln(c.in, seed)
		require.NoError(t, err)
		text, ok := <-c.lines // the round's own waits are bounded
		require.True(t, ok, "seed %d: %s", seed, c.stderr)
		require.NoError(t, json.Unmarshal([]byte(text), &answer))
		require.Empty(t, answer, "seed %d", seed)
	}
}
