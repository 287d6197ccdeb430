package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Charts: one SVG a metric, one panel a workload, one bar a server. Each panel has its own axis,
// because a 64-byte and a 256 KiB echo share no scale.

type metric struct {
	file  string
	title string
	unit  string
	get   func(row) float64
}

var metrics = []metric{
	{
		"cpu", "Server CPU a request (lower is better)", "µs",
		func(r row) float64 { return r.CPUus },
	},
	{
		"rate", "Throughput (higher is better)", "req/s",
		func(r row) float64 { return r.ReqPerS },
	},
	{"p50", "Latency, median (lower is better)", "µs", func(r row) float64 { return r.P50us }},
	{
		"p99", "Latency, 99th percentile (lower is better)", "µs",
		func(r row) float64 { return r.P99us },
	},
}

const (
	chartWidth  = 1040
	panelGap    = 28
	panelWidth  = (chartWidth - 3*panelGap) / 2
	nameWidth   = 124
	valueWidth  = 78
	plotWidth   = panelWidth - nameWidth - valueWidth
	barHeight   = 16
	barPitch    = 22
	headHeight  = 96
	panelTitle  = 26
	panelAxis   = 40
	fontFamily  = "DejaVu Sans, Verdana, Arial, sans-serif"
	colorText   = "#1f2933"
	colorFaint  = "#66727f"
	colorGrid   = "#dde3e9"
	colorFailed = "#b42318"
)

func drawChart(m metric, cfg *config, rows []row, in info) string {
	panelHeight := panelTitle + barPitch*len(cfg.servers) + panelAxis
	panelRows := (len(cfg.workloads) + 1) / 2
	height := headHeight + panelRows*(panelHeight+panelGap)
	var b strings.Builder
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" `+
			`font-family="%s" font-size="12" fill="%s">`+"\n",
		chartWidth, height, chartWidth, height, fontFamily, colorText)
	fmt.Fprintf(&b, `<title>%s</title>`+"\n", html.EscapeString(m.title))
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	text(&b, panelGap, 32, "start", 18, colorText, "Echo: "+m.title)
	text(&b, panelGap, 52, "start", 11, colorFaint,
		fmt.Sprintf("medians of the calm samples of %d interleaved rounds of %g s, Linux %s, %s, %s",
			in.Rounds, in.Seconds, in.Kernel, in.Go, in.Commit))
	drawLegend(&b, cfg.servers)
	for i, w := range cfg.workloads {
		x := panelGap + (i%2)*(panelWidth+panelGap)
		y := headHeight + (i/2)*(panelHeight+panelGap)
		drawPanel(&b, x, y, m, w, cfg.servers, rows)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func drawLegend(b *strings.Builder, servers []server) {
	x := panelGap
	for _, s := range servers {
		fmt.Fprintf(b,
			`<rect x="%d" y="66" width="12" height="12" rx="2" fill="%s"/>`+"\n",
			x, s.color)
		text(b, x+18, 76, "start", 12, colorText, s.name)
		x += 30 + 7*len(s.name)
	}
}

func drawPanel(b *strings.Builder, x, y int, m metric, w workload, servers []server, rows []row) {
	text(b, x, y+14, "start", 13, colorText, fmt.Sprintf("%s (%s)", w.name, m.unit))
	byServer := map[string]row{}
	longest := 0.0
	for _, r := range rows {
		if r.Workload == w.name {
			byServer[r.Server] = r
			longest = math.Max(longest, m.get(r))
		}
	}
	step, top := axis(longest)
	left, base := x+nameWidth, y+panelTitle+barPitch*len(servers)
	at := func(v float64) int { return left + int(math.Round(v/top*plotWidth)) }
	for i := 0; float64(i)*step <= top*1.0001; i++ {
		v := float64(i) * step
		line(b, at(v), y+panelTitle-4, base+2, colorGrid)
		text(b, at(v), base+16, "middle", 10, colorFaint, short(v))
	}
	for i, s := range servers {
		r := byServer[s.name]
		barY := y + panelTitle + i*barPitch
		text(b, left-8, barY+12, "end", 12, colorText, s.name)
		if r.Samples == 0 {
			text(b, left+6, barY+12, "start", 11, colorFailed, "failed")
			continue
		}
		v := m.get(r)
		fmt.Fprintf(b,
			`<rect x="%d" y="%d" width="%d" height="%d" rx="2" fill="%s"><title>%s</title>`+
				"</rect>\n",
			left, barY, max(at(v)-left, 1), barHeight, s.color,
			html.EscapeString(fmt.Sprintf("%s: %g %s", s.name, v, m.unit)))
		text(b, at(v)+6, barY+12, "start", 11, colorText, short(v))
	}
	line(b, left, y+panelTitle-4, base+2, colorFaint)
}

// line is vertical: grid lines and the axis are.
func line(b *strings.Builder, x, top, bottom int, color string) {
	fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s"/>`+"\n",
		x, top, x, bottom, color)
}

func text(b *strings.Builder, x, y int, anchor string, size int, color, s string) {
	fmt.Fprintf(b,
		`<text x="%d" y="%d" text-anchor="%s" font-size="%d" fill="%s">%s</text>`+"\n",
		x, y, anchor, size, color, html.EscapeString(s))
}

// axis picks a round step (1, 2 or 5 times a power of ten) that gives at most five of them, and
// where the axis ends.
func axis(longest float64) (step, top float64) {
	if longest <= 0 {
		return 1, 1
	}
	power := math.Pow(10, math.Floor(math.Log10(longest/5)))
	for _, f := range []float64{1, 2, 5, 10} {
		step = f * power
		if longest/step <= 5 {
			break
		}
	}
	return step, step * math.Ceil(longest/step)
}

// short prints a figure in at most four digits or with a k or M.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", v/1e6), ".00") + "M"
	case v >= 1e4:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v/1e3), ".0") + "k"
	case v >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
