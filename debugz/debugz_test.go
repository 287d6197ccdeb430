package debugz

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// busyRuntime has a connection, a named task, and something in every histogram.
func busyRuntime(t *testing.T) *veloq.Runtime {
	t.Helper()
	rt, err := veloq.New(veloq.Config{Workers: 2})
	if err != nil {
		t.Skip("no runtime here: ", err)
	}
	t.Cleanup(func() { _ = rt.Close() })
	s, err := (&veloq.ListenConfig{}).Start(context.Background(), rt, "tcp", "127.0.0.1:0",
		func(c *veloq.Context, s *veloq.Stream) error {
			c.SetName("echo <of> tests")
			buf := make([]byte, 64)
			for {
				n, err := s.Read(buf)
				if err != nil {
					return err
				}
				if _, err := s.Write(buf[:n]); err != nil {
					return err
				}
			}
		})
	require.NoError(t, err)
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	for range 200 {
		_, err = conn.Write([]byte("x"))
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	return rt
}

func get(h http.Handler, method string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, "/debugz", nil))
	return rec
}

func TestHandler_ShowsTheRuntime(t *testing.T) {
	rt := busyRuntime(t)
	h := Handler(rt)
	rec := get(h, http.MethodGet)
	require.Equal(t, http.StatusOK, rec.Code)
	text := rec.Body.String()
	require.Contains(t, text, "echo &lt;of&gt; tests", "names are escaped")
	require.Contains(t, text, "127.0.0.1:")
	require.Contains(t, text, "Connections: 1")
	require.Equal(t, 3, strings.Count(text, "<svg"))
	require.Greater(t, strings.Count(text, "<rect"), 2)
	require.Contains(t, rec.Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.Empty(t, regexp.MustCompile(`(?:src|href)="?https?:`).FindString(text), "something from elsewhere")
	require.Equal(t, http.StatusMethodNotAllowed, get(h, http.MethodPost).Code)
	require.NoError(t, rt.Close())
	require.Equal(t, http.StatusServiceUnavailable, get(h, http.MethodGet).Code)
}

func TestView_RatesAndSilentWorkers(t *testing.T) {
	rt := busyRuntime(t)
	h := &handler{rt: rt}
	start := time.Now()
	at := func(d time.Duration, turns uint64, silent ...int) *view {
		snap := &veloq.Snapshot{Workers: make([]veloq.WorkerStats, 2), Silent: silent}
		snap.Workers[0].Turns = turns
		return h.view(look{snap: snap, at: start.Add(d)})
	}
	require.Empty(t, at(0, 100).Workers[0].TurnRate, "nothing to compare with")
	require.Equal(t, "50", at(2*time.Second, 200).Workers[0].TurnRate)
	v := at(4*time.Second, 300, 1)
	require.Equal(t, "50", v.Workers[0].TurnRate)
	require.True(t, v.Workers[1].Silent)
	require.Empty(t, v.Workers[1].TurnRate)
}

func TestPicture_OfNothingAndOfExtremes(t *testing.T) {
	require.Contains(t, string(picture("none", "", veloq.Histogram{})), "0 in all")
	var h veloq.Histogram
	h.Counts[0], h.Counts[len(h.Counts)-1] = 1, 1<<40
	text := string(picture("all", "ns", h))
	require.Equal(t, 2, strings.Count(text, "<rect")-strings.Count(text, `height="0.0"`))
	require.NotContains(t, text, "NaN")
}

// Goal: a real browser draws the page, runs its script under its own policy, and shows what comes later.
// VELOQ_SCREENSHOT names a file to keep a picture in.
func TestPage_InABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium is installed")
	}
	rt := busyRuntime(t)
	hits := make(chan struct{}, 100)
	h := Handler(rt)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/debugz" {
			hits <- struct{}{}
		}
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	dir := t.TempDir()
	shot := os.Getenv("VELOQ_SCREENSHOT")
	if shot == "" {
		shot = filepath.Join(dir, "page.png")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	run := func(args ...string) string {
		args = append([]string{
			"--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + filepath.Join(dir, "profile"),
			"--virtual-time-budget=3500", "--window-size=1200,900",
		}, append(args, srv.URL+"/debugz")...)
		out, err := exec.CommandContext(ctx, browser, args...).Output()
		require.NoError(t, err)
		return string(out)
	}
	dom := run("--dump-dom")
	require.Contains(t, dom, "echo &lt;of&gt; tests")
	require.Contains(t, dom, `<span id="state">live</span>`)
	require.Greater(t, len(hits), 1, "the page did not ask again")
	require.Regexp(t, `<td>0</td><td>\d+k?</td>`, dom, "rates come with the second look")
	run("--screenshot=" + shot)
	info, err := os.Stat(shot)
	require.NoError(t, err)
	require.Greater(t, info.Size(), int64(10_000), "an empty picture")
}
