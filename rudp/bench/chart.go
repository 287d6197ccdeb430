//go:build linux

package main

// This file changes if how figures are drawn does.

import (
	"fmt"
	"strings"
	"time"
)

var colours = []string{"#0b6e4f", "#3fa34d", "#a3c585", "#c8553d", "#e8a87c", "#3d5a98", "#8d6a9f", "#777"}

// chart draws a panel of bars for each round-trip time.
func chart(rows []row, rtts []time.Duration, losses []float64) string {
	const width, panel, left, top, height = 860, 250, 50, 30, 180
	var b strings.Builder
	total := panel*len(rtts) + 20*((len(rows)+2)/3) + 20
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		width, total)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, total)
	for i, rtt := range rtts {
		y := panel * i
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">Mbit/s at a round trip of %v</text>`+"\n", left, y+18, rtt)
		for mark := 0; mark <= 100; mark += 25 {
			at := y + top + height - mark*height/100
			fmt.Fprintf(&b, `<path d="M%d %dH%d" stroke="#ddd"/><text x="%d" y="%d" text-anchor="end">%d</text>`+"\n",
				left, at, width-10, left-6, at+4, mark)
		}
		group := (width - left - 20) / len(losses)
		bar := (group - 20) / max(len(rows), 1)
		for j, loss := range losses {
			x := left + 10 + group*j
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%g %% loss</text>`+"\n",
				x+group/2-10, y+top+height+18, 100*loss)
			for k, r := range rows {
				h := int(r.cells[i*len(losses)+j].mbit * height / 100)
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n",
					x+bar*k, y+top+height-h, bar-2, h, colours[k%len(colours)])
			}
		}
	}
	for k, r := range rows {
		x, y := left+270*(k%3), panel*len(rtts)+20*(k/3)+8
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			x, y, colours[k%len(colours)], x+18, y+11, r.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
