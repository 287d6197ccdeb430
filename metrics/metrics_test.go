package metrics

import (
	"bytes"
	"encoding/json"
	"expvar"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

func newRuntime(t *testing.T) *veloq.Runtime {
	t.Helper()
	rt, err := veloq.New(veloq.Config{Workers: 2})
	if err != nil {
		t.Skip("no runtime here: ", err)
	}
	t.Cleanup(func() { _ = rt.Close() })
	_, err = veloq.Spawn(rt, func(c *veloq.Context) (struct{}, error) { return struct{}{}, c.Sleep(1) }).Wait(t.Context())
	require.NoError(t, err)
	return rt
}

var (
	typeLine   = regexp.MustCompile(`^# TYPE (veloq_[a-z_]+) (counter|gauge|histogram)$`)
	sampleLine = regexp.MustCompile(`^(veloq_[a-z_]+)(\{worker="[01]"(,le="(\d+|\+Inf)")?\})? \d+$`)
)

// Goal: every line is of the format, every sample follows the line with its type, none comes twice.
func TestHandler_IsPrometheusText(t *testing.T) {
	rt := newRuntime(t)
	rec := httptest.NewRecorder()
	Handler(rt).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, rec.Code)
	require.Contains(t, rec.Header().Get("Content-Type"), "version=0.0.4")
	family, kind := "", ""
	seen := map[string]bool{}
	for line := range strings.Lines(rec.Body.String()) {
		line = strings.TrimSuffix(line, "\n")
		if m := typeLine.FindStringSubmatch(line); m != nil {
			family, kind = m[1], m[2]
			require.Equal(t, kind == "counter", strings.HasSuffix(family, "_total"), line)
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		require.NotNil(t, m, "%q", line)
		name := m[1]
		if kind == "histogram" {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		}
		require.Equal(t, family, name, "%q", line)
		key := strings.SplitN(line, " ", 2)[0]
		require.False(t, seen[key], key)
		seen[key] = true
	}
	for _, want := range []string{
		`veloq_turns_total{worker="0"}`, `veloq_stolen_total{worker="1"}`, `veloq_tasks{worker="0"}`,
		`veloq_batch_bucket{worker="0",le="+Inf"}`, `veloq_latency_sum{worker="1"}`, `veloq_workers`,
	} {
		require.True(t, seen[want], want)
	}
	require.NoError(t, rt.Close())
	rec = httptest.NewRecorder()
	Handler(rt).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusServiceUnavailable, rec.Code)
}

func TestWrite_SilentWorkerIsLeftOut(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Write(&out, &veloq.Snapshot{Workers: make([]veloq.WorkerStats, 2), Silent: []int{1}}))
	require.Contains(t, out.String(), "veloq_workers_silent 1\n")
	require.Contains(t, out.String(), `worker="0"`)
	require.NotContains(t, out.String(), `worker="1"`)
}

func TestWrite_BucketsAddUp(t *testing.T) {
	st := veloq.WorkerStats{}
	st.Batch.Counts[1], st.Batch.Counts[4], st.Batch.Sum = 3, 2, 23
	var out bytes.Buffer
	require.NoError(t, Write(&out, &veloq.Snapshot{Workers: []veloq.WorkerStats{st}}))
	require.Contains(t, out.String(), `veloq_batch_bucket{worker="0",le="1"} 3
veloq_batch_bucket{worker="0",le="15"} 5
veloq_batch_bucket{worker="0",le="+Inf"} 5
veloq_batch_sum{worker="0"} 23
veloq_batch_count{worker="0"} 5
`)
}

func TestPublish_IsJSON(t *testing.T) {
	rt := newRuntime(t)
	Publish("veloq_test", rt)
	var got map[string]veloq.WorkerStats
	require.NoError(t, json.Unmarshal([]byte(expvar.Get("veloq_test").String()), &got))
	require.Len(t, got, 2)
	require.Positive(t, got["0"].Turns)
	require.NoError(t, rt.Close())
	require.Equal(t, "null", expvar.Get("veloq_test").String())
}
