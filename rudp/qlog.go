package rudp

// This file changes if the log of a connection's events, or how it is written, does.

import (
	"encoding/hex"
	"io"
	"strconv"
	"time"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
)

const (
	logChunk  = 32 << 10 // bytes that are written at once
	logChunks = 32       // chunks that may wait; what finds no room is lost
	logSchema = "urn:ietf:params:qlog:events:quic-12"
	logRecord = 0x1e // RFC 7464: begins each text
)

// qlog writes the events of an endpoint's connections, a file for each, in the JSON-SEQ form of
// draft-ietf-quic-qlog-main-schema with the events of draft-ietf-quic-qlog-quic-events. The actor
// turns events into text and hands it to a goroutine in chunks; it never waits for that, but in the
// end.
type qlog struct {
	open  func(connectionID []byte, client bool) io.WriteCloser
	files map[uint64]*logFile // by the connection's number; the actor's
	work  chan logWork
	done  chan struct{}
}

// logFile is one connection's log.
type logFile struct {
	id     []byte
	client bool
	start  mono.Time
	chunk  []byte
	events int    // in the chunk
	lost   uint64 // since the last chunk that found room
	state  string
	at     float64 // of the last event, in ms

	w io.WriteCloser // the writer's
}

// logWork is a piece of text for a file; the last one closes it.
type logWork struct {
	file *logFile
	text []byte
	last bool
}

func newQLog(open func([]byte, bool) io.WriteCloser) *qlog {
	l := &qlog{
		open: open, files: map[uint64]*logFile{}, work: make(chan logWork, logChunks),
		done: make(chan struct{}),
	}
	go l.write()
	return l
}

// write is the goroutine that writes. It opens a file with its first text.
func (l *qlog) write() {
	defer close(l.done)
	opened := map[*logFile]bool{}
	for work := range l.work {
		f := work.file
		if !opened[f] {
			opened[f] = true
			f.w = l.open(f.id, f.client)
		}
		if f.w != nil && len(work.text) > 0 {
			if _, err := f.w.Write(work.text); err != nil {
				_ = f.w.Close()
				f.w = nil // nobody to tell; what follows goes nowhere
			}
		}
		if work.last {
			if f.w != nil {
				_ = f.w.Close()
			}
			delete(opened, f)
		}
	}
}

// close writes what is left and closes all files.
func (l *qlog) close() {
	for number, f := range l.files {
		l.finish(number, f)
	}
	close(l.work)
	<-l.done
}

func (l *qlog) finish(number uint64, f *logFile) {
	delete(l.files, number)
	f.noteLost()
	// The one text that waits for room: a file must end. Its goroutine waits for nothing but the
	// writer.
	l.work <- logWork{f, f.chunk, true}
}

// noteLost says in the log how many events are missing from it.
func (f *logFile) noteLost() {
	if f.lost > 0 {
		b := append(f.chunk, logRecord)
		b = append(b, `{"time":`...)
		b = strconv.AppendFloat(b, f.at, 'f', -1, 64)
		b = append(b, `,"name":"loglevel:warning","data":{"message":"`...)
		b = strconv.AppendUint(b, f.lost, 10)
		f.chunk = append(b, " events are missing: their writer is too slow\"}}\n"...)
		f.lost = 0
	}
}

// Trace implements core.Tracer.
func (l *qlog) Trace(e *core.Event) {
	f := l.files[e.Conn]
	if f == nil {
		f = &logFile{id: append([]byte(nil), e.ID.Bytes()...), client: e.Client, start: e.At}
		l.files[e.Conn] = f
		f.header()
	}
	f.append(e)
	if e.Kind == core.TraceState && f.state == "closed" {
		l.finish(e.Conn, f)
		return
	}
	if len(f.chunk) < logChunk {
		return
	}
	f.noteLost()
	select {
	case l.work <- logWork{file: f, text: f.chunk}:
	default:
		f.lost += uint64(f.events)
	}
	f.chunk, f.events = make([]byte, 0, logChunk+1024), 0
}

func (f *logFile) header() {
	id := hex.EncodeToString(f.id)
	f.chunk = append(f.chunk, logRecord)
	f.chunk = append(f.chunk, `{"file_schema":"urn:ietf:params:qlog:file:sequential",`+
		`"serialization_format":"application/qlog+json-seq","title":"rudp",`+
		`"trace":{"event_schemas":["`+logSchema+`"],"vantage_point":{"type":"`+side(f.client)+`"},`+
		`"common_fields":{"group_id":"`+id+`","time_format":"relative_to_epoch",`+
		`"reference_time":{"clock_type":"monotonic","epoch":"unknown","wall_clock_time":"`+
		time.Now().UTC().Format(time.RFC3339Nano)+`"}}}}`+"\n"...)
}

// append adds one event.
func (f *logFile) append(e *core.Event) {
	b := append(f.chunk, logRecord)
	b = append(b, `{"time":`...)
	f.at = float64(e.At.Sub(f.start)) / 1e6
	b = strconv.AppendFloat(b, f.at, 'f', -1, 64)
	b = append(b, `,"name":"quic:`...)
	switch e.Kind {
	case core.TracePacketSent:
		b = packetEvent(b, "packet_sent", e)
	case core.TracePacketReceived:
		b = packetEvent(b, "packet_received", e)
	case core.TracePacketLost:
		b = packetEvent(b, "packet_lost", e)
	case core.TracePacketDropped:
		b = append(b, `packet_dropped","data":{"raw":{"length":`...)
		b = append(strconv.AppendInt(b, int64(e.Size), 10), '}')
	case core.TraceMetrics:
		b = append(b, `recovery_metrics_updated","data":{"congestion_window":`...)
		b = append(strconv.AppendUint(b, e.A, 10), `,"bytes_in_flight":`...)
		b = append(strconv.AppendUint(b, e.B, 10), `,"smoothed_rtt":`...)
		b = append(strconv.AppendFloat(b, float64(e.C)/1e6, 'f', -1, 64), `,"pacing_rate":`...)
		b = strconv.AppendUint(b, 8*e.D, 10)
	case core.TraceKeyUpdate:
		b = append(b, `key_updated","data":{"key_type":"`...)
		b = append(append(b, side(f.client)...), `_1rtt_secret","key_phase":`...)
		b = strconv.AppendUint(b, e.A, 10)
	case core.TracePath:
		b = append(b, `migration_state_updated","data":{"new":"`...)
		b = append(append(b, pathStates[min(e.A, uint64(len(pathStates)-1))]...), '"')
	case core.TraceMTU:
		b = append(b, `mtu_updated","data":{"new":`...)
		b = strconv.AppendUint(b, e.A, 10)
	case core.TraceState:
		old := f.state
		f.state = connStates[min(e.A, uint64(len(connStates)-1))]
		b = append(b, `connection_state_updated","data":{`...)
		if old != "" {
			b = append(append(append(b, `"old":"`...), old...), `",`...)
		}
		b = append(append(append(b, `"new":"`...), f.state...), '"')
	}
	f.chunk = append(b, "}}\n"...)
	f.events++
}

var (
	pathStates = [...]string{
		"", "probing_started", "probing_successful", "probing_abandoned", "migration_complete",
	}
	connStates = [...]string{"attempted", "handshake_complete", "closing", "draining", "closed"}
	packetType = [recovery.Spaces]string{"initial", "handshake", "1RTT"}
)

func side(client bool) string {
	if client {
		return "client"
	}
	return "server"
}

func packetEvent(b []byte, name string, e *core.Event) []byte {
	b = append(append(b, name...), `","data":{"header":{"packet_type":"`...)
	b = append(append(b, packetType[e.Space]...), `","packet_number":`...)
	b = append(strconv.AppendUint(b, e.PN, 10), `},"raw":{"length":`...)
	return append(strconv.AppendInt(b, int64(e.Size), 10), '}')
}
