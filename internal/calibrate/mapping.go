package calibrate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Method is how scores are put on another evaluator's scale.
type Method string

// The methods.
const (
	Same     Method = "same"     // as they are
	Isotonic Method = "isotonic" // the monotone curve of least squares (pool adjacent violators)
	Quantile Method = "quantile" // equal ranks get equal scores
	Normal   Method = "normal"   // mean and deviation of an anchor set as they were when it was anchored
)

// Mapping turns an evaluator's scores into those that a baseline is drawn from: linear between its knots, and
// constant beyond them. The zero Mapping leaves scores as they are. It is monotone: no order of scores changes.
type Mapping struct {
	Method Method    `json:"method,omitempty"`
	From   []float64 `json:"from,omitempty"` // ascending, as many as To
	To     []float64 `json:"to,omitempty"`   // not descending, 0..1
}

// Apply maps one score, 0..1, to another.
func (m Mapping) Apply(score float64) float64 {
	n := len(m.From)
	if n == 0 {
		return score
	}
	i := sort.SearchFloat64s(m.From, score)
	switch i {
	case 0:
		return m.To[0]
	case n:
		return m.To[n-1]
	}
	part := (score - m.From[i-1]) / (m.From[i] - m.From[i-1])
	return m.To[i-1] + part*(m.To[i]-m.To[i-1])
}

// Validate refuses a mapping that is not monotone within 0..1.
func (m Mapping) Validate() error {
	if len(m.From) != len(m.To) {
		return fmt.Errorf("a mapping has %d knots and %d values", len(m.From), len(m.To))
	}
	for i := range m.From {
		switch {
		case !(m.To[i] >= 0 && m.To[i] <= 1) || math.IsNaN(m.From[i]) || math.IsInf(m.From[i], 0):
			return fmt.Errorf("knot %d of the mapping is not a score", i)
		case i > 0 && (m.From[i] <= m.From[i-1] || m.To[i] < m.To[i-1]):
			return fmt.Errorf("knot %d of the mapping is not above the one before", i)
		}
	}
	if len(m.From) > maxKnots {
		return fmt.Errorf("a mapping has %d knots: at most %d", len(m.From), maxKnots)
	}
	return nil
}

// maxKnots bounds a mapping, so that it fits into a row, and into a look-up for every score.
const maxKnots = 64

// Fit is the mapping of a method from Judge to Human. Same, and any method without pairs, leaves scores as they are.
func Fit(method Method, pairs []Pair) Mapping {
	switch {
	case len(pairs) == 0:
		return Mapping{}
	case method == Isotonic:
		return FitIsotonic(pairs)
	case method == Quantile:
		return FitQuantile(pairs)
	}
	return Mapping{}
}

// FitIsotonic fits the monotone curve from Judge to Human of least squared error, by pooling adjacent violators
// (Ayer et al., 1955). Pairs with one score of the judge count together. A curve of more than 64 knots keeps that many of
// them, both ends among them.
func FitIsotonic(pairs []Pair) Mapping {
	sorted := slices.SortedFunc(slices.Values(pairs), func(a, b Pair) int { return cmp.Compare(a.Judge, b.Judge) })
	type block struct{ from, to, sum, n float64 }
	var blocks []block
	for _, p := range sorted {
		if last := len(blocks) - 1; last >= 0 && blocks[last].to == p.Judge {
			blocks[last].sum += p.Human
			blocks[last].n++
		} else {
			blocks = append(blocks, block{p.Judge, p.Judge, p.Human, 1})
		}
	}
	pooled := blocks[:0:0]
	for _, b := range blocks {
		pooled = append(pooled, b)
		for n := len(pooled); n > 1 && pooled[n-2].sum/pooled[n-2].n >= pooled[n-1].sum/pooled[n-1].n; n = len(pooled) {
			pooled[n-2].to = pooled[n-1].to
			pooled[n-2].sum += pooled[n-1].sum
			pooled[n-2].n += pooled[n-1].n
			pooled = pooled[:n-1]
		}
	}
	m := Mapping{Method: Isotonic}
	for _, b := range pooled {
		m.add(b.from, b.sum/b.n)
		m.add(b.to, b.sum/b.n)
	}
	return m.thinned()
}

// FitQuantile maps each quantile of Judge to the same one of Human: it needs no pairing, only that both scored
// like calls. One score of the judge that stands at many quantiles is mapped to the mean of those of Human. It has at
// most 64 knots, as FitIsotonic.
func FitQuantile(pairs []Pair) Mapping {
	x, y := columns(pairs)
	slices.Sort(x)
	slices.Sort(y)
	m := Mapping{Method: Quantile}
	for from := 0; from < len(y); {
		to := from + 1
		for to < len(y) && y[to] == y[from] {
			to++
		}
		m.add(y[from], mean(x[from:to]))
		from = to
	}
	return m.thinned()
}

// thinned keeps knots at even distances of their order, where there are too many: where scores are dense, knots are.
func (m Mapping) thinned() Mapping {
	n := len(m.From)
	if n <= maxKnots {
		return m
	}
	thin := Mapping{Method: m.Method}
	for k := range maxKnots {
		i := k * (n - 1) / (maxKnots - 1)
		thin.From, thin.To = append(thin.From, m.From[i]), append(thin.To, m.To[i])
	}
	return thin
}

// FitNormal is the mapping that gives scores with the present moments those that the anchor set had: rolling
// z-normalisation. Deviations of 0 leave the deviation alone.
func FitNormal(nowMean, nowSD, anchorMean, anchorSD float64) Mapping {
	slope := 1.0
	if nowSD > 0 && anchorSD > 0 {
		slope = anchorSD / nowSD
	}
	m := Mapping{Method: Normal}
	const steps = 20 // the line is cut at 0 and 1, so its ends alone would not do
	for k := range steps + 1 {
		s := float64(k) / steps
		m.add(s, anchorMean+(s-nowMean)*slope)
	}
	return m
}

// add appends a knot, within 0..1; of knots with one score the last stands.
func (m *Mapping) add(from, to float64) {
	to = max(0, min(1, to))
	if n := len(m.From); n > 0 {
		to = max(to, m.To[n-1])
		if from <= m.From[n-1] {
			m.To[n-1] = to
			return
		}
	}
	m.From, m.To = append(m.From, from), append(m.To, to)
}
