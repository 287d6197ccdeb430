package interop

// Programs that are not Go's, as clients of servers over the net door: curl, wrk, h2load,
// redis-benchmark. They are Debian's packages curl, wrk, nghttp2-client, redis-tools.

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// needTool skips where a program is not installed.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: %v", name, err)
	}
}

// runTool returns what a program said, which is to end well, and soon.
func runTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(soon(t), name, args...)
	// After a kill, its pipes may be held open by a child of its own.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return string(out)
}

// number is what the pattern's first group found in a program's output.
func number(t *testing.T, pattern, text string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	require.NotNil(t, found, "no %s in %s", pattern, text)
	n, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return n
}

// toolServer is a server over veloq for a client that is a program.
func toolServer(t *testing.T, kind httpKind, handler http.Handler) *web {
	t.Helper()
	noLeak(t)
	return newWeb(t, newDoor("veloq"), newDoor("veloq"), kind, handler, func(w *web) {
		w.server.ErrorLog = log.New(io.Discard, "", 0) // programs end in the middle of a handshake
	})
}

// Goal: curl sends and gets bodies in every protocol, on a connection that it keeps.
func TestTools_Curl(t *testing.T) {
	needTool(t, "curl")
	protocol := map[string]string{
		"http 1": "--http1.1", "https 1": "--http1.1", "http 2": "--http2-prior-knowledge", "https 2": "--http2",
	}
	for _, kind := range httpKinds {
		t.Run(kind.name, func(t *testing.T) {
			dir := t.TempDir()
			in, out, again := filepath.Join(dir, "in"), filepath.Join(dir, "out"), filepath.Join(dir, "again")
			content := bytesOf(t, 4, 3<<20)
			require.NoError(t, os.WriteFile(in, content, 0o600))
			mux := http.NewServeMux()
			mux.HandleFunc("POST /", wholeBody)
			mux.HandleFunc("GET /", func(rw http.ResponseWriter, r *http.Request) { http.ServeFile(rw, r, in) })
			w := toolServer(t, kind, mux)
			// The certificate is checked by the tests of Go's client.
			common := []string{
				"--silent", "--show-error", "--fail", "--insecure", protocol[kind.name],
				"--write-out", "%{http_version} %{num_connects}\n",
			}
			post := append(common[:len(common):len(common)], "--data-binary", "@"+in,
				"--header", "Expect: 100-continue", "--output", out, w.base+"/")
			get := append(common[:len(common):len(common)], "--output", again, w.base+"/")
			version := strings.TrimSuffix(strings.TrimPrefix(kind.proto, "HTTP/"), ".0")
			if kind.name == "http 2" { // curl 7.88 can't use such a connection again, with any server
				said := runTool(t, "curl", post...) + runTool(t, "curl", get...)
				require.Equal(t, strings.Repeat(version+" 1\n", 2), said)
			} else {
				said := runTool(t, "curl", append(append(post, "--next"), get...)...)
				require.Equal(t, version+" 1\n"+version+" 0\n", said)
			}
			for _, name := range []string{out, again} {
				got, err := os.ReadFile(name)
				require.NoError(t, err)
				require.True(t, bytes.Equal(content, got), name)
			}
		})
	}
}

// Goal: a second of wrk, over many connections, sees nothing but right answers.
func TestTools_Wrk(t *testing.T) {
	needTool(t, "wrk")
	for _, kind := range httpKinds[:2] {
		t.Run(kind.name, func(t *testing.T) {
			w := toolServer(t, kind, http.HandlerFunc(wholeBody))
			said := runTool(t, "wrk", "-t1", "-c32", "-d1s", "--timeout", "30s", w.base+"/")
			require.Positive(t, number(t, `(\d+) requests in`, said))
			require.NotContains(t, said, "Socket errors")
			require.NotContains(t, said, "Non-2xx")
		})
	}
}

// Goal: h2load's requests, many on each connection, all succeed.
func TestTools_H2load(t *testing.T) {
	needTool(t, "h2load")
	for _, kind := range httpKinds[2:] {
		t.Run(kind.name, func(t *testing.T) {
			const requests = 2000
			answer := strings.Repeat("x", 1000)
			w := toolServer(t, kind, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				_, _ = rw.Write([]byte(answer))
			}))
			said := runTool(t, "h2load", "-n", fmt.Sprint(requests), "-c4", "-m16", w.base+"/")
			require.Equal(t, requests, number(t, `(\d+) succeeded`, said))
			require.Equal(t, requests, number(t, `status codes: (\d+) 2xx`, said))
			require.Equal(t, requests*len(answer), number(t, `headers \(space savings [^)]*\), [^(]*\((\d+)\) data`, said))
		})
	}
}

// Goal: redis-benchmark's commands, in pipelines, are all answered without an error.
func TestTools_RedisBenchmark(t *testing.T) {
	needTool(t, "redis-benchmark")
	noLeak(t)
	l := newDoor("veloq").listen(t, "tcp")
	startRedis(t, l)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	said := runTool(t, "redis-benchmark", "-h", "127.0.0.1", "-p", port, "-n", "2000", "-c", "20", "-P", "8",
		"-d", "100", "--csv", "-t", "ping_mbulk,set,get,incr,lpush,lpop")
	for _, command := range []string{"PING_MBULK", "SET", "GET", "INCR", "LPUSH", "LPOP"} {
		require.Positive(t, number(t, `"`+command+`","(\d+)`, said))
	}
	require.NotContains(t, said, "rror from server")
}
