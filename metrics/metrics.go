// Package metrics publishes a runtime's counters: as Prometheus text (an http.Handler) and as an expvar.
//
// Both look at the runtime when they are asked, and cost nothing before. A worker that stays in a task
// or handler for longer than Patience is left out of the answer and counted as silent.
package metrics

// Changes when the names or the formats of what is published do.

import (
	"bufio"
	"context"
	"errors"
	"expvar"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/veloq/veloq"
)

// Patience is how long a look waits for a worker.
const Patience = time.Second

// gauges are the fields of WorkerStats that go up and down; the other numbers are counters.
var gauges = map[string]bool{
	"Tasks": true, "Streams": true, "Datagrams": true, "Slots": true, "Timers": true, "BuffersFree": true, "Buffers": true,
	"PacketsFree": true, "Packets": true, "SocketsLeft": true,
	"PoolBytes": true, "PoolInUse": true, "Runnable": true, "Unbegun": true, "Load": true,
}

// Handler returns the handler of a scrape: the runtime's counters in Prometheus' text format, version
// 0.0.4, named veloq_<counter> and labelled with the worker. It answers 503 when the runtime is
// closed. Any goroutine.
func Handler(rt *veloq.Runtime) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		snap, err := look(r.Context(), rt)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = Write(w, snap) // the client is gone, if anything
	})
}

// Publish makes the runtime's counters the expvar of that name: an object by worker. It is null once the
// runtime is closed. As expvar.Publish, it panics if the name is taken. Any goroutine.
func Publish(name string, rt *veloq.Runtime) {
	expvar.Publish(name, expvar.Func(func() any {
		snap, err := look(context.Background(), rt)
		if err != nil {
			return nil
		}
		workers := map[string]veloq.WorkerStats{}
		for i, st := range snap.Workers {
			if !silent(snap, i) {
				workers[strconv.Itoa(i)] = st
			}
		}
		return workers
	}))
}

func look(ctx context.Context, rt *veloq.Runtime) (*veloq.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	snap, err := rt.Snapshot(ctx, 0)
	if err == nil && errors.Is(ctx.Err(), context.Canceled) {
		err = ctx.Err()
	}
	return snap, err
}

func silent(snap *veloq.Snapshot, worker int) bool {
	for _, i := range snap.Silent {
		if i == worker {
			return true
		}
	}
	return false
}

// Write writes a snapshot's counters in Prometheus' text format. The error is out's. Any goroutine.
func Write(out io.Writer, snap *veloq.Snapshot) error {
	b := bufio.NewWriter(out)
	fmt.Fprintf(b, "# TYPE veloq_workers gauge\nveloq_workers %d\n", len(snap.Workers))
	fmt.Fprintf(b, "# TYPE veloq_workers_silent gauge\nveloq_workers_silent %d\n", len(snap.Silent))
	kind := reflect.TypeFor[veloq.WorkerStats]()
	for f := range kind.NumField() {
		field := kind.Field(f)
		name := "veloq_" + snake(field.Name)
		switch {
		case field.Type == reflect.TypeFor[veloq.Histogram]():
			fmt.Fprintf(b, "# TYPE %s histogram\n", name)
		case gauges[field.Name]:
			fmt.Fprintf(b, "# TYPE %s gauge\n", name)
		default:
			name += "_total"
			fmt.Fprintf(b, "# TYPE %s counter\n", name)
		}
		for i := range snap.Workers {
			if silent(snap, i) {
				continue
			}
			switch v := reflect.ValueOf(&snap.Workers[i]).Elem().Field(f).Interface().(type) {
			case veloq.Histogram:
				writeHistogram(b, name, i, &v)
			default:
				fmt.Fprintf(b, "%s{worker=\"%d\"} %d\n", name, i, v)
			}
		}
	}
	return b.Flush()
}

// writeHistogram writes the buckets that hold something, summed up as the format wants it.
func writeHistogram(b *bufio.Writer, name string, worker int, h *veloq.Histogram) {
	sum := uint64(0)
	for i, n := range h.Counts {
		sum += n
		if n > 0 && i < len(h.Counts)-1 {
			fmt.Fprintf(b, "%s_bucket{worker=\"%d\",le=\"%d\"} %d\n", name, worker, h.Bound(i), sum)
		}
	}
	fmt.Fprintf(b, "%s_bucket{worker=\"%d\",le=\"+Inf\"} %d\n", name, worker, sum)
	fmt.Fprintf(b, "%s_sum{worker=\"%d\"} %d\n%s_count{worker=\"%d\"} %d\n", name, worker, h.Sum, name, worker, sum)
}

// snake turns RingFull into ring_full.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
