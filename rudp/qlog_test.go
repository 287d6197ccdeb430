package rudp

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logs keeps what is logged, by side.
type logs struct {
	mu     sync.Mutex
	client map[bool]*logBuffer
}

type logBuffer struct {
	bytes.Buffer
	id     string
	closed int
	gate   chan struct{} // nil: writes at once
	err    error
}

func (b *logBuffer) Write(p []byte) (int, error) {
	if b.gate != nil {
		<-b.gate
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.Buffer.Write(p)
}

func (b *logBuffer) Close() error {
	b.closed++
	return nil
}

func (l *logs) open(id []byte, client bool) io.WriteCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil {
		l.client = map[bool]*logBuffer{}
	}
	b := &logBuffer{id: string(id)}
	l.client[client] = b
	return b
}

type logEvent struct {
	Time *float64
	Name string
	Data map[string]any
}

// parse reads a log back: RFC 7464 texts, the first one the header.
func parse(t *testing.T, text []byte) (header map[string]any, events []logEvent) {
	t.Helper()
	require.NotEmpty(t, text)
	require.EqualValues(t, 0x1e, text[0])
	for i, record := range bytes.Split(text[1:], []byte{0x1e}) {
		require.EqualValues(t, '\n', record[len(record)-1], "cut off")
		d := json.NewDecoder(bytes.NewReader(record))
		if i == 0 {
			require.NoError(t, d.Decode(&header))
			continue
		}
		d.DisallowUnknownFields()
		var e logEvent
		require.NoError(t, d.Decode(&e), "%s", record)
		require.NotNil(t, e.Time)
		events = append(events, e)
	}
	return header, events
}

func TestQLog_ParsesAndTellsTheStory(t *testing.T) {
	var l logs
	client, server := clientConfig(), serverConfig()
	client.QLog, server.QLog = l.open, l.open
	c, s, listener := pair(t, client, server)
	go func() {
		_, _ = c.Write(make([]byte, 2<<20))
		_ = c.Migrate(testContext(t), netip.AddrPort{})
		_ = c.CloseWrite()
	}()
	require.Len(t, readAll(t, s), 2<<20)
	require.NoError(t, s.Close())
	_, err := io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Endpoint().Close())
	require.NoError(t, listener.Endpoint().Close())
	require.Equal(t, l.client[true].id, l.client[false].id, "both sides name the connection alike")
	sent := map[bool]map[string]int{}
	for _, isClient := range []bool{true, false} {
		b := l.client[isClient]
		assert.Equal(t, 1, b.closed)
		header, events := parse(t, b.Bytes())
		assert.Equal(t, "urn:ietf:params:qlog:file:sequential", header["file_schema"])
		assert.Equal(t, "application/qlog+json-seq", header["serialization_format"])
		trace := header["trace"].(map[string]any)
		assert.Equal(t, side(isClient), trace["vantage_point"].(map[string]any)["type"])
		assert.Equal(t, []any{logSchema}, trace["event_schemas"])
		names := map[string]int{}
		last, state := 0.0, ""
		for _, e := range events {
			names[e.Name]++
			assert.GreaterOrEqual(t, *e.Time, last, "time goes on")
			last = *e.Time
			if e.Name == "quic:connection_state_updated" {
				state = e.Data["new"].(string)
			}
			if e.Name == "quic:packet_sent" {
				assert.Contains(t, []any{"initial", "handshake", "1RTT"}, e.Data["header"].(map[string]any)["packet_type"])
				assert.Greater(t, e.Data["raw"].(map[string]any)["length"], 16.0)
			}
		}
		for _, name := range []string{
			"quic:packet_sent", "quic:packet_received", "quic:recovery_metrics_updated", "quic:connection_state_updated",
			"quic:mtu_updated", "quic:migration_state_updated",
		} {
			assert.Positive(t, names[name], name)
		}
		assert.Zero(t, names["loglevel:warning"])
		assert.Contains(t, []string{"closing", "draining", "closed"}, state)
		sent[isClient] = names
	}
	assert.LessOrEqual(t, sent[false]["quic:packet_received"], sent[true]["quic:packet_sent"])
}

// Goal: a writer that is slow holds nobody up; the log says what is missing.
func TestQLog_SlowWriterLosesEvents(t *testing.T) {
	gate := make(chan struct{})
	b := &logBuffer{gate: gate}
	client := clientConfig()
	client.QLog = func([]byte, bool) io.WriteCloser { return b }
	c, s, _ := pair(t, client, serverConfig())
	const size = 48 << 20 // more packets than chunks
	go func() {
		_, _ = c.Write(make([]byte, size))
		_ = c.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, s)
	require.NoError(t, err)
	assert.EqualValues(t, size, n)
	close(gate)
	require.NoError(t, c.Endpoint().Close())
	_, events := parse(t, b.Bytes())
	warned := false
	for _, e := range events {
		warned = warned || e.Name == "loglevel:warning"
	}
	assert.True(t, warned)
}

func TestQLog_WriterThatFailsOrIsNil(t *testing.T) {
	b := &logBuffer{err: errors.New("disk full")}
	client, server := clientConfig(), serverConfig()
	client.QLog = func([]byte, bool) io.WriteCloser { return b }
	server.QLog = func([]byte, bool) io.WriteCloser { return nil }
	c, s, l := pair(t, client, server)
	go func() { _, _ = c.Write(make([]byte, 1<<20)); _ = c.Close() }()
	assert.Len(t, readAll(t, s), 1<<20)
	require.NoError(t, c.Endpoint().Close())
	require.NoError(t, l.Endpoint().Close())
	assert.Equal(t, 1, b.closed)
}
