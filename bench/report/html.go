package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"strings"
)

// Pages are written without html/template: it finds methods by name, so the linker keeps every exported method of every type in the binary, which
// made that 13 MB larger.

//go:embed head.html
var pageHead string

// markup is what is HTML already; everything else becomes text.
type markup string

// cell is a cell of a table: text, markup, or a number.
type cell any

// writer writes a page.
type writer struct{ bytes.Buffer }

// text writes elements around a text.
func (w *writer) text(before string, text any, after string) {
	w.WriteString(before)
	if m, ok := text.(markup); ok {
		w.WriteString(string(m))
	} else {
		w.WriteString(html.EscapeString(fmt.Sprint(text)))
	}
	w.WriteString(after)
}

// head begins a table; headings that begin with a space are of text.
func (w *writer) head(names ...string) {
	w.WriteString("<table>\n<tr>")
	for _, n := range names {
		if n[0] == ' ' {
			w.text(`<th class="t">`, n[1:], "</th>")
		} else {
			w.text("<th>", n, "</th>")
		}
	}
	w.WriteString("</tr>\n")
}

// row writes a row, whose first cells are texts as many as left says, and the last if last says so.
func (w *writer) row(weak bool, left int, last bool, cells ...cell) {
	if weak {
		w.WriteString(`<tr class="weak">`)
	} else {
		w.WriteString("<tr>")
	}
	for i, c := range cells {
		if i < left || last && i == len(cells)-1 {
			w.text(`<td class="t">`, c, "</td>")
		} else {
			w.text("<td>", c, "</td>")
		}
	}
	w.WriteString("</tr>\n")
}

func (w *writer) plots(all ...markup) {
	w.WriteString(`<div class="plots">`)
	for _, p := range all {
		w.WriteString(string(p))
	}
	w.WriteString("</div>\n")
}

const tableEnd = "</table>\n"

// html is the whole page.
func (p *page) html() []byte {
	var w writer
	w.WriteString(pageHead)
	for _, r := range p.Runs {
		drops := ""
		if r.Run.Drops {
			drops = ", caches dropped before reading"
		}
		w.text("<p>", fmt.Sprintf("%s UTC, %s, %d CPUs (%s), Linux %s, seed %d, repeats %d%s", r.Run.Begin.UTC().Format("2006-01-02 15:04"), r.Run.Release, r.Run.Host.CPUs,
			r.Run.Host.Model, r.Run.Host.Kernel, r.Run.Options.Seed, r.Run.Repeats, drops), "<br>\n<code>")
		for _, word := range r.Run.Command {
			w.text("", word, " ")
		}
		w.WriteString("</code></p>\n")
	}
	w.head(" target", " what it is", " what it promises")
	for _, t := range p.Targets {
		w.row(false, 3, false, t.Name, t.Spec, t.Durability)
	}
	w.WriteString(tableEnd)
	if len(p.Skipped) > 0 {
		w.WriteString("<p>Left out:</p>\n")
		w.head(" target", " workload/phase", " why")
		for _, s := range p.Skipped {
			w.row(false, 3, false, s.Target, s.Workload+"/"+s.Phase, s.Why)
		}
		w.WriteString(tableEnd)
	}
	if p.Unequal {
		w.WriteString(`<p class="note">The targets promise different things: a rate that was bought with a weaker promise is not a better rate.</p>` + "\n")
	}
	if len(p.Goals) > 0 {
		w.WriteString("<h2>Goals</h2>\n<p>Means of the repeats, in brackets the least and the most. Bold: the goal is missed.</p>\n")
		w.head(" what", "goal: cost", "reached", "goal: rate", "reached", " what holds it back")
		wanted, reached := func(b bound) string { return b.Goal }, func(b bound) string { return b.Reached }
		for _, g := range p.Goals {
			w.row(false, 1, true, g.What, shown(g.Cost, false, wanted), shown(g.Cost, true, reached), shown(g.Rates, false, wanted), shown(g.Rates, true, reached), g.Why)
		}
		w.WriteString(tableEnd)
	}
	if len(p.Ratios) > 0 {
		w.WriteString("<h2>Ratios</h2>\n<p>Rates divided by those of another target; more is faster. Intervals hold the ratio with 95 % confidence; grey: no difference is shown. " +
			"Server CPU is the ratio of what an operation costs, and its interval.</p>\n")
		w.plots(p.RatioPlot)
		w.WriteString("<details><summary>All ratios</summary>\n")
		w.head(" workload/phase, workers", " of", "rate", "95 %", "server CPU", "95 %", " remark")
		for _, r := range p.Ratios {
			var remarks []string
			if r.Different {
				remarks = append(remarks, "different promises")
			}
			if r.Coarse {
				remarks = append(remarks, "too short for CPU")
			}
			w.row(!r.Certain, 2, true, r.What, r.Of, r.Rate, r.Interval, r.CPU, r.CPUInterval, strings.Join(remarks, "; "))
		}
		w.WriteString(tableEnd + "</details>\n")
	}
	for i := range p.Workloads {
		p.Workloads[i].html(&w)
	}
	w.WriteString("</body>\n</html>\n")
	return w.Bytes()
}

func (s *section) html(w *writer) {
	w.text("<h2>", s.Name, "</h2>\n")
	if s.About != "" {
		w.text("<p>", s.About, ".</p>\n")
	}
	w.head(" phase", " target", "workers", "repeats", " unit", "units/s", "MiB/s", "server CPU us/unit", "server CPU s/GiB", "client CPU us/unit", "p50 ms", "p99 ms", "worst ms")
	for _, r := range s.Rows {
		w.row(false, 2, false, r.Phase, r.Target, r.Workers, r.Repeats, r.Unit, r.Rate, r.MiB, r.Server, r.GiB, r.Client, r.P50, r.P99, r.Worst)
	}
	w.WriteString(tableEnd)
	w.plots(s.Plots...)
	if len(s.Drifts) > 0 {
		w.WriteString("<p>What servers held while it ran: the mean and the slope are of what came after the first quarter; grey: no trend is shown.</p>\n")
		w.head(" phase", " target", " what", "mean", "most", "an hour", "95 %")
		for _, d := range s.Drifts {
			w.row(!d.Shown, 3, false, d.Phase, d.Target, d.What, d.Mean, d.Most, d.PerHour, d.Low+" to "+d.High)
		}
		w.WriteString(tableEnd)
		w.plots(s.Held...)
	}
	w.WriteString("<details><summary>Latencies</summary>")
	w.plots(s.Latencies...)
	w.WriteString("</details>\n")
}
