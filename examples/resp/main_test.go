package main

// The program as its users see it: a process and TCP connections.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

func start(t *testing.T, workers string) (addr string) {
	t.Helper()
	return program.Start(t, "-addr", "127.0.0.1:0", "-workers", workers).Line()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(60*time.Second)))
	return conn
}

// say sends text and expects want.
func say(conn net.Conn, text, want string) error {
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("%q: got %q and %w, expected %q", text, got[:n], err, want)
	}
	if string(got) != want {
		return fmt.Errorf("%q: got %q, expected %q", text, got, want)
	}
	return nil
}

// bulk writes a command as clients do.
func bulk(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

func TestServer_Commands(t *testing.T) {
	program.NeedWorkers(t)
	for _, workers := range []string{"1", "3"} {
		t.Run(workers, func(t *testing.T) {
			conn := dial(t, start(t, workers))
			big := strings.Repeat("v", 1<<20)
			for _, step := range [][2]string{
				{"PING\r\n", "+PONG\r\n"},
				{"\r\n" + bulk("ECHO", "a\r\nb"), "$4\r\na\r\nb\r\n"},
				{bulk("GET", "none"), "$-1\r\n"},
				{bulk("SET", "a", "1") + bulk("INCR", "a") + bulk("GET", "a"), "+OK\r\n:2\r\n$1\r\n2\r\n"},
				{bulk("MSET", "b", "x", "c", "y", "d", ""), "+OK\r\n"},
				{bulk("MGET", "d", "b", "zz", "c"), "*4\r\n$0\r\n\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n"},
				{bulk("INCR", "b"), "-ERR value is not an integer or out of range\r\n"},
				{bulk("EXISTS", "a", "b", "zz"), ":2\r\n"},
				{bulk("DBSIZE"), ":4\r\n"},
				{bulk("DEL", "a", "b", "zz") + bulk("DBSIZE"), ":2\r\n:2\r\n"},
				{bulk("SET", "big", big) + bulk("GET", "big"), "+OK\r\n$1048576\r\n" + big + "\r\n"},
				{bulk("FLUSHALL") + bulk("DBSIZE"), "+OK\r\n:0\r\n"},
				{bulk("SET", "a"), "-ERR unknown command or wrong number of arguments for 'SET'\r\n"},
				{bulk("QUIT"), "+OK\r\n"},
			} {
				require.NoError(t, say(conn, step[0], step[1]))
			}
			_, err := conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

// Every command cut at every place arrives whole; what is no command ends the connection with a word.
func TestServer_PiecesAndNonsense(t *testing.T) {
	program.NeedWorkers(t)
	addr := start(t, "2")
	conn := dial(t, addr)
	text := bulk("SET", "key", "value")
	for cut := 1; cut < len(text); cut++ {
		_, err := io.WriteString(conn, text[:cut])
		require.NoError(t, err)
		require.NoError(t, say(conn, text[cut:]+"PING\r\n", "+OK\r\n+PONG\r\n"))
	}
	for _, nonsense := range []string{
		"*x\r\n", "*99999999\r\n", "*1\r\n+PING\r\n", "*1\r\n$-1\r\n", "*1\r\n$99999999999\r\n",
		"*1\r\n$4\r\nPINGxx", strings.Repeat("x", lineMax+2),
	} {
		conn := dial(t, addr)
		require.NoError(t, say(conn, "PING\r\n", "+PONG\r\n"))
		require.NoError(t, say(conn, nonsense, "-ERR Protocol error: "), "%.20q", nonsense)
		_, _ = io.Copy(io.Discard, conn) // to its end, whether by FIN or by RST
	}
	require.NoError(t, say(conn, "PING\r\n", "+PONG\r\n"), "others are not disturbed")
}

// Goal: an INCR is done once, whoever's connection it comes by and wherever the key is.
func TestServer_ManyClientsOnOneKey(t *testing.T) {
	program.NeedWorkers(t)
	addr := start(t, "3")
	const clients, each, pipeline = 16, 50, 20
	var wg sync.WaitGroup
	for range clients {
		conn := dial(t, addr)
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := bufio.NewReader(conn)
			for range each {
				if _, err := io.WriteString(conn, strings.Repeat(bulk("INCR", "n"), pipeline)); !assert.NoError(t, err) {
					return
				}
				last := 0
				for range pipeline {
					var n int
					if _, err := fmt.Fscanf(r, ":%d\r\n", &n); !assert.NoError(t, err) || !assert.Greater(t, n, last) {
						return
					}
					last = n
				}
			}
		}()
	}
	wg.Wait()
	total := fmt.Sprint(clients * each * pipeline)
	require.NoError(t, say(dial(t, addr), bulk("GET", "n"), fmt.Sprintf("$%d\r\n%s\r\n", len(total), total)))
}

func TestServer_RedisBenchmark(t *testing.T) {
	program.NeedWorkers(t)
	tool, err := exec.LookPath("redis-benchmark")
	if err != nil {
		t.Skip("redis-benchmark is not installed: ", err)
	}
	_, port, err := net.SplitHostPort(start(t, "2"))
	require.NoError(t, err)
	for _, pipeline := range []string{"1", "16"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, tool, "-p", port, "-n", "20000", "-c", "50", "-r", "1000",
			"-P", pipeline, "-t", "ping,set,get,incr,mset", "-q").CombinedOutput()
		require.NoError(t, err, "%s", out)
		t.Logf("pipeline %s:\n%s", pipeline, out)
		for _, name := range []string{"SET", "GET", "INCR", "MSET"} {
			require.Regexp(t, name+`.*: [\d.]+ requests per second`, string(out))
		}
		require.NotContains(t, string(out), "Error")
	}
}
