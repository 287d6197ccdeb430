// Package debugz shows a runtime at work: a page with its workers, tasks, connections and what they
// measure, which keeps itself up to date. It needs nothing but itself: no scripts, fonts or pictures
// from elsewhere.
//
// The page tells addresses of clients and names of tasks: serve it where only its readers get.
package debugz

// Changes when what the page shows, or how, does.

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/veloq/veloq"
)

const (
	// patience is how long a look waits for a worker.
	patience = time.Second
	// listMax is how many tasks and connections of each worker are listed.
	listMax = 200
	// rateSpan is the least time between the looks that rates are taken from.
	rateSpan = 500 * time.Millisecond
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"picture": picture, "short": short, "count": count,
}).Parse(pageText))

// Handler returns the page of the runtime. It answers 503 once the runtime is closed, and 405 to what is
// not a GET or HEAD. A worker that does not answer within a second is shown as silent. Any goroutine.
func Handler(rt *veloq.Runtime) http.Handler { return &handler{rt: rt} }

type handler struct {
	rt *veloq.Runtime

	mu     sync.Mutex
	before look // that rates are taken from
	last   look
}

// look is a snapshot and when it was taken.
type look struct {
	snap *veloq.Snapshot
	at   time.Time
}

// view is what the page shows.
type view struct {
	Report  string
	Workers []workerView
	Tasks   []veloq.TaskInfo
	Conns   []veloq.ConnInfo
	Misuses []*veloq.MisuseError
	Batch   veloq.Histogram
	Ops     veloq.Histogram
	Latency veloq.Histogram
	TasksN  int
	ConnsN  int
}

type workerView struct {
	Number int
	Silent bool
	veloq.WorkerStats
	TurnRate, CompletionRate string
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	snap, err := h.rt.Snapshot(ctx, listMax)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'")
	v := h.view(look{snap: snap, at: time.Now()})
	_ = page.Execute(w, v) // the client is gone, if anything
}

func (h *handler) view(now look) *view {
	h.mu.Lock()
	if h.last.snap == nil {
		h.before, h.last = now, now
	} else if now.at.Sub(h.last.at) >= rateSpan {
		h.before, h.last = h.last, now
	}
	before := h.before
	h.mu.Unlock()
	v := &view{Report: fmt.Sprint(h.rt.Report()), Tasks: now.snap.Tasks, Conns: now.snap.Conns, Misuses: now.snap.Misuses}
	quiet := map[int]bool{}
	for _, i := range now.snap.Silent {
		quiet[i] = true
	}
	for i, st := range now.snap.Workers {
		wv := workerView{Number: i, Silent: quiet[i], WorkerStats: st}
		if seconds := now.at.Sub(before.at).Seconds(); seconds > 0 && !wv.Silent {
			old := before.snap.Workers[i]
			wv.TurnRate = rate(st.Turns, old.Turns, seconds)
			wv.CompletionRate = rate(st.Completions, old.Completions, seconds)
		}
		v.Workers = append(v.Workers, wv)
		v.TasksN += st.Tasks
		v.ConnsN += st.Streams + st.Datagrams
		add(&v.Batch, &st.Batch)
		add(&v.Ops, &st.Ops)
		add(&v.Latency, &st.Latency)
	}
	return v
}

func rate(now, before uint64, seconds float64) string {
	if before > now { // the look before had no answer
		return ""
	}
	return count(uint64(float64(now-before) / seconds))
}

func add(sum, h *veloq.Histogram) {
	sum.Sum += h.Sum
	for i, n := range h.Counts {
		sum.Counts[i] += n
	}
}

// count writes a number with few digits.
func count(n uint64) string {
	switch {
	case n >= 10_000_000_000:
		return fmt.Sprintf("%dG", n/1_000_000_000)
	case n >= 10_000_000:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 10_000:
		return fmt.Sprintf("%dk", n/1_000)
	}
	return fmt.Sprint(n)
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }

// The measures of a picture, in its own units.
const (
	pictureWidth  = 460
	pictureHeight = 150
	pictureFoot   = 18 // for the scale
	barMax        = 56.0
)

// picture draws a histogram as SVG: a bar for each power of two from the first to the last that has
// values. unit is "ns" or empty.
func picture(title, unit string, h veloq.Histogram) template.HTML {
	first, last, most := len(h.Counts), -1, uint64(0)
	for i, n := range h.Counts {
		if n > 0 {
			first, last, most = min(first, i), i, max(most, n)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<figure><svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, pictureWidth, pictureHeight, title)
	if last >= 0 {
		step := min(float64(pictureWidth)/float64(last-first+1), barMax)
		every := (last-first)/8 + 1
		for i := first; i <= last; i++ {
			x := float64(i-first) * step
			bar := float64(h.Counts[i]) / float64(most) * (pictureHeight - pictureFoot - 2)
			if h.Counts[i] > 0 {
				bar = max(bar, 1)
			}
			label := bound(h.Bound(i), unit)
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>up to %s: %d</title></rect>`,
				x+1, pictureHeight-pictureFoot-bar, max(step-2, 1), bar, label, h.Counts[i])
			if (i-first)%every == 0 {
				fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`, x+step/2, pictureHeight-4, label)
			}
		}
	}
	fmt.Fprintf(&b, `</svg><figcaption>%s: %s in all; half up to %s, 99 %% up to %s</figcaption></figure>`,
		title, count(h.Count()), bound(h.Quantile(0.5), unit), bound(h.Quantile(0.99), unit))
	return template.HTML(b.String()) // made of numbers and of the page's own words
}

func bound(v uint64, unit string) string {
	if unit != "ns" {
		return count(v)
	}
	// Bounds are 2^n-1: as powers of two of ns they read as µs and ms.
	switch d := time.Duration(min(v, 1<<62)); {
	case d < time.Microsecond:
		return fmt.Sprintf("%dns", d)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0fµs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0fms", float64(d)/1e6)
	default:
		return fmt.Sprintf("%.0fs", d.Seconds())
	}
}
