package notify

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-analyze/charts"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Breach is what the picture of an incident is drawn from.
type Breach struct {
	Key      usage.Key
	Baseline detect.Baseline
	Minutes  []kpi.Minute // of the hour up to Until, in order of time
	Opened   time.Time    // the incident
	Until    time.Time
	// Above which share of the baseline cost counts as a breach, and below which quality does; zero: no line.
	CostOver, QualityUnder float64
}

// chartSpan is how far back the picture reaches.
const chartSpan = time.Hour

// The picture is drawn at twice the size at which Slack shows it, for sharp screens. It has a ground of its
// own, so that it reads the same in Slack's light and dark themes.
const (
	chartWidth, chartHeight = 1200, 660
	chartLeft, chartRight   = 130, 50
	panelTop, panelHeight   = 100, 210
	panelGap                = 84
)

// The colours are told apart by those who see few: blue, orange and grey.
var (
	groundColor = charts.ColorFromHex("#ffffff")
	inkColor    = charts.ColorFromHex("#1d2433")
	faintColor  = charts.ColorFromHex("#6b7280")
	gridColor   = charts.ColorFromHex("#e5e7eb")
	bandColor   = charts.ColorFromHex("#dbeafe")
	usualColor  = charts.ColorFromHex("#3b82f6")
	lineColor   = charts.ColorFromHex("#111827")
	limitColor  = charts.ColorFromHex("#d9480f")
)

// panel is one quantity over the hour.
type panel struct {
	title   string
	values  []float64 // by minute; NaN: too little was measured
	usual   float64   // 0: not known
	spread  float64   // of what is usual, either way; as a factor where scale is set
	scale   bool
	limit   float64 // 0: none
	format  func(float64) string
	floor   float64 // the axis begins there, unless values are below
	ceiling float64 // and ends there; 0: where the values do
}

// Chart draws cost per call and quality over the last hour, each beside what is usual, as a PNG.
func Chart(b Breach) ([]byte, error) {
	cost, quality := medians(b)
	if !slices.ContainsFunc(cost, known) && !slices.ContainsFunc(quality, known) {
		return nil, errors.New("drawing the breach: nothing was measured in the last hour")
	}
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputPNG, Width: chartWidth, Height: chartHeight})
	p.FilledRect(0, 0, chartWidth, chartHeight, groundColor, groundColor, 0)
	name, room := plain(b.Key.String(), 200), legend(p)-chartLeft
	for shown := len([]rune(name)); width(p, name, 22) > room && shown > 1; shown-- {
		name = plain(b.Key.String(), shown)
	}
	write(p, name, chartLeft, 46, 22, inkColor)
	panels := []panel{
		{title: "Cost of a call (median)", values: cost, format: dollars, scale: true},
		{title: "Quality (median)", values: quality, format: func(v float64) string { return fmt.Sprintf("%.2f", v) }, floor: 1, ceiling: 1},
	}
	if b.Baseline.CostBuckets > 0 {
		panels[0].usual = math.Exp(b.Baseline.LnCost) / 1e12
		panels[0].spread = math.Exp(2 * max(b.Baseline.LnCostDev, 0.02))
		panels[0].limit = panels[0].usual * b.CostOver
	}
	if b.Baseline.QualityBuckets > 0 {
		panels[1].usual, panels[1].spread = b.Baseline.Quality, 2*max(b.Baseline.QualityDev, 0.005)
		panels[1].limit = panels[1].usual * b.QualityUnder
	}
	for i, q := range panels {
		q.draw(p, panelTop+i*(panelHeight+panelGap), b)
	}
	png, err := p.Bytes()
	if err != nil {
		return nil, fmt.Errorf("drawing the breach: %w", err)
	}
	return png, nil
}

func known(v float64) bool { return !math.IsNaN(v) }

// A point looks at its own minute, and at those before it as long as there are fewer samples than enough:
// an incident opens within a minute or two, and what opened it must be seen.
const (
	enough    = 20
	smoothing = 3 // minutes at most
)

// begins is the first minute of the picture; the last is the current, partial one.
func (b Breach) begins() time.Time {
	return b.Until.Truncate(time.Minute).Add(time.Minute - chartSpan)
}

// medians are the untreated calls' median cost in dollars and their median quality at each minute.
func medians(b Breach) (cost, quality []float64) {
	first := b.begins()
	n := int(chartSpan / time.Minute)
	costs, scores := make([][]int16, n), make([][]int16, n)
	for _, m := range b.Minutes {
		i := int(m.Start.Sub(first) / time.Minute)
		if m.Start.Before(first) || i >= n || m.Arm == usage.Treated {
			continue
		}
		costs[i], scores[i] = append(costs[i], m.CostCodes...), append(scores[i], m.QualityCodes...)
	}
	for i := range n {
		cost = append(cost, middle(costs[:i+1], 5, func(code float64) float64 { return math.Exp(kpi.LnCost(code)) / 1e12 }))
		quality = append(quality, middle(scores[:i+1], 3, kpi.Score))
	}
	return cost, quality
}

// middle is the median of the last minutes' codes as a value; NaN when there are fewer than least.
func middle(minutes [][]int16, least int, value func(float64) float64) float64 {
	var codes []int16
	for n := 1; n <= min(smoothing, len(minutes)) && len(codes) < enough; n++ {
		codes = append(codes, minutes[len(minutes)-n]...)
	}
	if len(codes) < least {
		return math.NaN()
	}
	slices.Sort(codes)
	return value(float64(codes[(len(codes)-1)/2]))
}

// band is what is usual, from and to.
func (q panel) band() (low, high float64) {
	if q.scale {
		return q.usual / q.spread, q.usual * q.spread
	}
	return q.usual - q.spread, q.usual + q.spread
}

// axis is the range of values that the panel shows, and where its lines are.
func (q panel) axis() (low, high, step float64) {
	low, high = q.floor, q.ceiling
	widen := func(v float64) { low, high = min(low, v), max(high, v) }
	for _, v := range q.values {
		if known(v) {
			widen(v)
		}
	}
	if q.usual > 0 {
		from, to := q.band()
		widen(from)
		widen(to)
	}
	if q.limit > 0 {
		widen(q.limit)
	}
	if high <= low {
		high = low + 1
	}
	step = math.Pow(10, math.Floor(math.Log10((high-low)/3)))
	for _, times := range []float64{1, 2, 5, 10} {
		if (high-low)/(step*times) <= 4.2 {
			step *= times
			break
		}
	}
	return math.Floor(low/step) * step, math.Ceil(high/step) * step, step
}

// draw draws the panel with its top at y.
func (q panel) draw(p *charts.Painter, top int, b Breach) {
	low, high, step := q.axis()
	right := chartWidth - chartRight
	x := func(at float64) int { // minutes since the first
		return chartLeft + int(math.Round(at*float64(right-chartLeft)/(chartSpan.Minutes()-1)))
	}
	y := func(v float64) int {
		return top + panelHeight - int(math.Round((v-low)/(high-low)*float64(panelHeight)))
	}
	if q.usual > 0 {
		from, to := q.band()
		p.FilledRect(chartLeft, y(min(to, high)), right, y(max(from, low)), bandColor, bandColor, 0)
	}
	for v := low; v <= high+step/2; v += step {
		p.LineStroke([]charts.Point{{X: chartLeft, Y: y(v)}, {X: right, Y: y(v)}}, gridColor, 1.5)
		label := q.format(v)
		write(p, label, chartLeft-16-width(p, label, 15), y(v)+8, 15, faintColor)
	}
	if q.usual > 0 {
		p.LineStroke([]charts.Point{{X: chartLeft, Y: y(q.usual)}, {X: right, Y: y(q.usual)}}, usualColor, 2.5)
	}
	if q.limit > 0 {
		p.DashedLineStroke([]charts.Point{{X: chartLeft, Y: y(q.limit)}, {X: right, Y: y(q.limit)}}, limitColor, 2.5, []float64{10, 8})
	}
	first := b.begins()
	if at := b.Opened.Sub(first).Minutes(); at >= 0 && at <= chartSpan.Minutes()-1 {
		p.DashedLineStroke([]charts.Point{{X: x(at), Y: top}, {X: x(at), Y: top + panelHeight}}, faintColor, 2, []float64{3, 5})
	}
	var points []charts.Point
	for i, v := range q.values {
		if known(v) {
			points = append(points, charts.Point{X: x(float64(i)), Y: y(v)})
		} else {
			points = append(points, charts.Point{X: x(float64(i)), Y: math.MaxInt32}) // a gap
		}
	}
	p.LineStroke(points, lineColor, 4)
	write(p, q.caption(), chartLeft, top-14, 15, inkColor)
	for at := first.Truncate(15 * time.Minute).Add(15 * time.Minute); !at.After(first.Add(chartSpan - time.Minute)); at = at.Add(15 * time.Minute) {
		label := at.UTC().Format("15:04")
		if at.Sub(first) < 15*time.Minute {
			label += " UTC"
		}
		write(p, label, x(at.Sub(first).Minutes())-width(p, label, 13)/2, top+panelHeight+26, 13, faintColor)
	}
}

// caption is the title with the newest value beside what is usual.
func (q panel) caption() string {
	text := q.title
	if now := q.values[len(q.values)-1]; known(now) {
		text += ": now " + q.format(now)
	}
	if q.usual > 0 {
		text += ", usually " + q.format(q.usual)
	}
	return text
}

// legend says once what the lines of both panels are, and returns where it begins.
func legend(p *charts.Painter) (left int) {
	x := chartWidth - chartRight
	for _, entry := range []struct {
		text string
		mark func(x int)
	}{
		{"opened", func(x int) {
			p.DashedLineStroke([]charts.Point{{X: x + 20, Y: 26}, {X: x + 20, Y: 54}}, faintColor, 2, []float64{3, 5})
		}},
		{"breach", func(x int) {
			p.DashedLineStroke([]charts.Point{{X: x, Y: 40}, {X: x + 40, Y: 40}}, limitColor, 2.5, []float64{10, 8})
		}},
		{"usual", func(x int) {
			p.FilledRect(x, 30, x+40, 50, bandColor, bandColor, 0)
			p.LineStroke([]charts.Point{{X: x, Y: 40}, {X: x + 40, Y: 40}}, usualColor, 2.5)
		}},
		{"now", func(x int) { p.LineStroke([]charts.Point{{X: x, Y: 40}, {X: x + 40, Y: 40}}, lineColor, 4) }},
	} {
		x -= width(p, entry.text, 14)
		write(p, entry.text, x, 46, 14, faintColor)
		x -= 50
		entry.mark(x)
		x -= 26
	}
	return x
}

func write(p *charts.Painter, text string, x, y int, size float64, color charts.Color) {
	p.Text(text, x, y, 0, charts.FontStyle{FontSize: size, FontColor: color})
}

func width(p *charts.Painter, text string, size float64) int {
	box := p.MeasureText(text, 0, charts.FontStyle{FontSize: size, FontColor: inkColor})
	return box.Width()
}
