package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/rackfs/rackfs/vfs"
)

// Sizes of plots.
const (
	plotHeight = 7 * vg.Centimeter
	perLabel   = 1.0 * vg.Centimeter // width of a label of a dot plot
	plotMargin = 3.2 * vg.Centimeter
	lineWidth  = 10 * vg.Centimeter
	dotRadius  = 3
	legendRoom = 1.3 // of an axis that the legend is above
	spread     = 0.5 // of a label's width that its dots take
)

// colours tell targets apart (Okabe and Ito's, which colour-blind people can tell apart too).
var colours = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {230, 159, 0, 255}, {86, 180, 233, 255}, {0, 0, 0, 255},
}

func colour(i int) color.Color { return colours[i%len(colours)] }

func glyph(i int) draw.GlyphDrawer {
	shapes := []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.RingGlyph{}, draw.PyramidGlyph{}}
	return shapes[i%len(shapes)]
}

// dot is a value at a label, with whiskers.
type dot struct {
	label       int
	v, low, hig float64
}

// dots are those of one target.
type dots struct {
	name string
	dots []dot
}

// dotPlot plots values by label on a logarithmic axis. What is not positive cannot be shown and is left out; "" if nothing can.
func dotPlot(title, unit string, labels []string, all []dots) (markup, error) {
	p := newPlot(title, unit)
	shown := false
	for i, d := range all {
		var xy plotter.XYs
		var whiskers plotter.YErrors
		shift := spread * ((float64(i)+0.5)/float64(len(all)) - 0.5)
		for _, x := range d.dots {
			if !positive(x.v) {
				continue
			}
			xy = append(xy, plotter.XY{X: float64(x.label) + shift, Y: x.v})
			low, high := x.low, x.hig
			if !positive(low) || !positive(high) {
				low, high = x.v, x.v
			}
			whiskers = append(whiskers, struct{ Low, High float64 }{x.v - low, high - x.v})
		}
		if len(xy) == 0 {
			continue
		}
		shown = true
		s, err := plotter.NewScatter(xy)
		if err != nil {
			return "", vfs.Wrap("report.plot", err)
		}
		s.GlyphStyle = draw.GlyphStyle{Color: colour(i), Radius: dotRadius, Shape: glyph(i)}
		e, err := plotter.NewYErrorBars(struct {
			plotter.XYs
			plotter.YErrors
		}{xy, whiskers})
		if err != nil {
			return "", vfs.Wrap("report.plot", err)
		}
		e.LineStyle.Color = colour(i)
		p.Add(e, s)
		p.Legend.Add(d.name, s)
	}
	if !shown {
		return "", nil
	}
	p.NominalX(labels...)
	p.X.Min, p.X.Max = -0.5, float64(len(labels))-0.5
	p.X.Tick.Label.Rotation = math.Pi / 6
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XRight, draw.YCenter
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	roomy(p)
	return svg(p, plotMargin+perLabel*vg.Length(len(labels)), plotHeight)
}

// line is a curve of one target.
type line struct {
	name   string
	points plotter.XYs
}

// linePlot plots curves on logarithmic axes; ticks, if there are any, replace those of the x axis.
func linePlot(title, x, y string, ticks []plot.Tick, all []line) (markup, error) {
	p := newPlot(title, y)
	p.X.Label.Text = x
	shown := false
	for i, l := range all {
		var xy plotter.XYs
		for _, q := range l.points {
			if positive(q.X) && positive(q.Y) {
				xy = append(xy, q)
			}
		}
		if len(xy) == 0 {
			continue
		}
		shown = true
		c, s, err := plotter.NewLinePoints(xy)
		if err != nil {
			return "", vfs.Wrap("report.plot", err)
		}
		c.LineStyle.Color = colour(i)
		s.GlyphStyle = draw.GlyphStyle{Color: colour(i), Radius: dotRadius / 2, Shape: glyph(i)}
		p.Add(c, s)
		p.Legend.Add(l.name, c, s)
	}
	if !shown {
		return "", nil
	}
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Y.Tick.Marker, p.X.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	if len(ticks) > 0 {
		p.X.Tick.Marker = plot.ConstantTicks(ticks)
	}
	roomy(p)
	return svg(p, lineWidth, plotHeight)
}

// timePlot plots curves over time on linear axes that begin at 0.
func timePlot(title, y string, all []line) (markup, error) {
	p := newPlot(title, y)
	p.X.Label.Text = "minutes"
	for i, l := range all {
		c, err := plotter.NewLine(l.points)
		if err != nil {
			return "", vfs.Wrap("report.plot", err)
		}
		c.LineStyle.Color = colour(i)
		p.Add(c)
		p.Legend.Add(l.name, c)
	}
	p.X.Min, p.Y.Min, p.Y.Max = 0, 0, p.Y.Max*legendRoom
	return svg(p, lineWidth, plotHeight)
}

func newPlot(title, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = title, y
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	return p
}

// roomy leaves room above, for the legend, and makes axes of one value wide enough to have ticks.
func roomy(p *plot.Plot) {
	if p.X.Scale != nil && p.X.Min == p.X.Max {
		p.X.Min, p.X.Max = p.X.Min/2, p.X.Max*2
	}
	low, high := math.Floor(math.Log10(p.Y.Min)), math.Ceil(math.Log10(p.Y.Max*1.5))
	p.Y.Min, p.Y.Max = math.Pow(10, low), math.Pow(10, max(high, low+1))
}

func positive(v float64) bool { return v > 0 && !math.IsInf(v, 0) && !math.IsNaN(v) }

// svg is a plot as an element of a page.
func svg(p *plot.Plot, w, h vg.Length) (markup, error) {
	to, err := p.WriterTo(w, h, "svg")
	if err != nil {
		return "", vfs.Wrap("report.svg", err)
	}
	var b bytes.Buffer
	if _, err := to.WriteTo(&b); err != nil {
		return "", vfs.Wrap("report.svg", err)
	}
	_, body, ok := bytes.Cut(b.Bytes(), []byte("<svg"))
	if !ok {
		return "", vfs.Errorf(vfs.KindInternal, "report.svg", "a plot without <svg>")
	}
	return markup(fmt.Sprintf("<svg%s", body)), nil // what gonum has escaped
}
