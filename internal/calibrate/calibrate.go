// Package calibrate says how far an evaluator's scores can be trusted, and makes those of two evaluators
// comparable. It is arithmetic over pairs of scores, and never reads a clock.
package calibrate

import (
	"cmp"
	"math"
	"slices"
)

// Pair is two scores of one call: what is trusted, and what is to be judged by it.
type Pair struct {
	Human float64 `json:"human"` // a person's rating, or the score of the evaluator that is to be replaced
	Judge float64 `json:"judge"` // the evaluator's score
}

// Gate is the rank correlation with people below which an evaluator's scores page nobody.
const Gate = 0.7

// LeastPairs is how many calls that people rated an evaluator is judged by at the least.
const LeastPairs = 100

// Correlation is how far two scores agree. A measure without meaning, because one of the scores never changes or
// there are fewer than two pairs, is 0 and Known is false.
type Correlation struct {
	N        int     `json:"n"`
	Known    bool    `json:"known"`
	Pearson  float64 `json:"pearson"`
	Spearman float64 `json:"spearman"`      // Pearson's of the mid-ranks, so that ties count as the textbook has it
	Kendall  float64 `json:"kendall_tau_b"` // (C − D) / √((C + D + Tx) (C + D + Ty)), ties corrected for (Kendall, 1945)
}

// Passes reports whether the scores may page. No data passes nothing.
func (c Correlation) Passes() bool { return c.Known && c.Spearman >= Gate }

// z95 is the normal quantile of a two-sided interval of 95 %.
const z95 = 1.959963984540054

// SpearmanInterval is the interval of 95 % of the rank correlation, by Fisher's z with a variance of
// (1 + ρ²/2) / (n − 3) (Bonett and Wright, 2000). Fewer than four pairs say nothing: −1 to 1.
func (c Correlation) SpearmanInterval() (low, high float64) {
	if !c.Known || c.N < 4 {
		return -1, 1
	}
	z, half := math.Atanh(c.Spearman), z95*math.Sqrt((1+c.Spearman*c.Spearman/2)/float64(c.N-3))
	return math.Tanh(z - half), math.Tanh(z + half)
}

// Verdict is what a gate makes of a correlation.
type Verdict string

// The verdicts.
const (
	Passes       Verdict = "passes"
	Fails        Verdict = "fails"
	Inconclusive Verdict = "inconclusive" // the gate lies within the interval, or there are too few pairs
)

// Verdict compares the interval of the rank correlation with the gate: where Passes takes the estimate at its word, this
// knows how little it may stand on. Fewer than LeastPairs pairs are inconclusive.
func (c Correlation) Verdict() Verdict {
	low, high := c.SpearmanInterval()
	switch {
	case c.N < LeastPairs || !c.Known:
		return Inconclusive
	case low >= Gate:
		return Passes
	case high < Gate:
		return Fails
	}
	return Inconclusive
}

// Correlate measures the agreement of the pairs.
func Correlate(pairs []Pair) Correlation {
	x, y := columns(pairs)
	c := Correlation{N: len(pairs)}
	r, ok := pearson(x, y)
	if !ok {
		return c
	}
	c.Known, c.Pearson = true, r
	c.Spearman, _ = pearson(midRanks(x), midRanks(y))
	c.Kendall = tauB(x, y)
	return c
}

func columns(pairs []Pair) (x, y []float64) {
	for _, p := range pairs {
		x, y = append(x, p.Human), append(y, p.Judge)
	}
	return x, y
}

// pearson is the product-moment correlation; ok is false where either side has no variance.
func pearson(x, y []float64) (r float64, ok bool) {
	if len(x) < 2 {
		return 0, false
	}
	mx, my := mean(x), mean(y)
	var sxx, syy, sxy float64
	for i := range x {
		dx, dy := x[i]-mx, y[i]-my
		sxx, syy, sxy = sxx+dx*dx, syy+dy*dy, sxy+dx*dy
	}
	if sxx == 0 || syy == 0 {
		return 0, false
	}
	return ratio(sxy, sxx, syy), true
}

func mean(x []float64) float64 {
	var sum float64
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// midRanks are the ranks from 1 on, equal values sharing the mean of theirs.
func midRanks(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(x[a], x[b]) })
	ranks := make([]float64, len(x))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && x[order[to]] == x[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			ranks[i] = float64(from+1+to) / 2
		}
		from = to
	}
	return ranks
}

// tauB counts concordant pairs by Knight's method (1966): sorted by x and then y, the discordant ones are the
// exchanges of a merge sort by y. It takes n log n steps.
func tauB(x, y []float64) float64 {
	n := len(x)
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(x[a], x[b]), cmp.Compare(y[a], y[b])) })
	ys := make([]float64, n)
	for i, o := range order {
		ys[i] = y[o]
	}
	tiesX := tied(n, func(i int) bool { return x[order[i]] == x[order[i-1]] })
	tiesXY := tied(n, func(i int) bool { return x[order[i]] == x[order[i-1]] && ys[i] == ys[i-1] })
	discordant := exchanges(ys, make([]float64, n)) // sorts ys
	tiesY := tied(n, func(i int) bool { return ys[i] == ys[i-1] })
	all := float64(n) * float64(n-1) / 2
	concordantLess := all - tiesX - tiesY + tiesXY - 2*discordant
	return ratio(concordantLess, all-tiesX, all-tiesY)
}

// ratio is s/√(a b), within −1 and 1. The root of the product is exact where the result is, unless that is too small or too
// large for a float.
func ratio(s, a, b float64) float64 {
	root := math.Sqrt(a * b)
	if root == 0 || math.IsInf(root, 0) {
		root = math.Sqrt(a) * math.Sqrt(b)
	}
	return max(-1, min(1, s/root))
}

// tied is the number of pairs within runs of equal elements.
func tied(n int, same func(i int) bool) (pairs float64) {
	run := 1.0
	for i := 1; i < n; i++ {
		if !same(i) {
			run = 0
		}
		pairs += run
		run++
	}
	return pairs
}

// exchanges sorts v and counts the pairs that stood the wrong way round.
func exchanges(v, buffer []float64) (count float64) {
	if len(v) < 2 {
		return 0
	}
	half := len(v) / 2
	count = exchanges(v[:half], buffer[:half]) + exchanges(v[half:], buffer[half:])
	i, j := 0, half
	for k := range buffer[:len(v)] {
		if j == len(v) || i < half && v[i] <= v[j] {
			buffer[k] = v[i]
			i++
			continue
		}
		buffer[k] = v[j]
		count += float64(half - i)
		j++
	}
	copy(v, buffer[:len(v)])
	return count
}
