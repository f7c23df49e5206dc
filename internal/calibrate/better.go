package calibrate

import (
	"cmp"
	"math"
	"slices"
)

// DefaultFolds is how many parts the pairs are split into by default.
const DefaultFolds = 5

// HeldOut is how far the scores that a method maps lie from those they are to stand for, on pairs that its fit has
// not seen.
type HeldOut struct {
	Method Method  `json:"method"`
	RMSE   float64 `json:"rmse"`   // root of the mean squared error of one score
	Median float64 `json:"median"` // the median of the mapped scores less that of the others: what a baseline would move by
	Spread float64 `json:"spread"` // deviation of the mapped scores over that of the others; 0 when they never change
}

// Comparison says which mapping puts scores on another scale best.
type Comparison struct {
	N      int       `json:"n"`
	Folds  int       `json:"folds"`
	Errors []HeldOut `json:"errors"` // of Same, Quantile and Isotonic; none with fewer than two pairs
	Best   Method    `json:"best"`
}

// Better compares scores as they are, the quantile and the isotonic mapping from Judge to Human by k-fold
// cross-validation: each pair is in one of the folds and judged by the mapping that was fitted to the others. Which fold
// follows from the seed and the pair's place alone.
//
// The least error wins; but a method must be better than the simpler ones by more than one standard error of the mean
// difference of their squared errors, pair by pair (the one-standard-error rule, Breiman et al., 1984), else the
// simpler one stays: no mapping before quantile before isotonic, which mutes what it maps where the two agree little.
func Better(pairs []Pair, folds int, seed uint64) Comparison {
	n := len(pairs)
	folds = min(max(folds, 2), n)
	c := Comparison{N: n, Folds: folds, Best: Same}
	if n < 2 {
		c.Folds = 0
		return c
	}
	fold := foldsOf(n, folds, seed)
	var best []float64 // squared errors of the best so far
	for _, method := range [...]Method{Same, Quantile, Isotonic} {
		mapped := crossMapped(method, pairs, fold, folds)
		errors := make([]float64, n)
		for i, p := range pairs {
			errors[i] = (mapped[i] - p.Human) * (mapped[i] - p.Human)
		}
		c.Errors = append(c.Errors, heldOut(method, mapped, pairs, errors))
		if best == nil || clearlyLess(errors, best) {
			best, c.Best = errors, method
		}
	}
	return c
}

// foldsOf deals the places to folds of equal size, by a shuffle that the seed decides.
func foldsOf(n, folds int, seed uint64) []int {
	order := make([]int, n)
	keys := make([]uint64, n)
	for i := range order {
		order[i], keys[i] = i, mix(seed+uint64(i)*0x9e3779b97f4a7c15)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(keys[a], keys[b]), cmp.Compare(a, b)) })
	fold := make([]int, n)
	for place, i := range order {
		fold[i] = place % folds
	}
	return fold
}

// mix is how SplitMix64 ends (Steele et al., 2014).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// crossMapped are the scores as the mapping of the other folds has them.
func crossMapped(method Method, pairs []Pair, fold []int, folds int) []float64 {
	mapped := make([]float64, len(pairs))
	for k := range folds {
		var others []Pair
		for i, p := range pairs {
			if fold[i] != k {
				others = append(others, p)
			}
		}
		m := Fit(method, others)
		for i, p := range pairs {
			if fold[i] == k {
				mapped[i] = m.Apply(p.Judge)
			}
		}
	}
	return mapped
}

func heldOut(method Method, mapped []float64, pairs []Pair, errors []float64) HeldOut {
	human, _ := columns(pairs)
	h := HeldOut{Method: method, RMSE: math.Sqrt(mean(errors))}
	if sd := deviation(human); sd > 0 {
		h.Spread = deviation(mapped) / sd
	}
	h.Median = median(mapped) - median(human)
	return h
}

// clearlyLess reports whether a has the lesser mean by more than one standard error of the mean difference.
func clearlyLess(a, b []float64) bool {
	gain := make([]float64, len(a))
	for i := range a {
		gain[i] = b[i] - a[i]
	}
	return mean(gain) > deviation(gain)/math.Sqrt(float64(len(gain)))
}

// deviation is the standard deviation of a sample; 0 for fewer than two values.
func deviation(x []float64) float64 {
	if len(x) < 2 {
		return 0
	}
	m, sum := mean(x), 0.0
	for _, v := range x {
		sum += (v - m) * (v - m)
	}
	return math.Sqrt(sum / float64(len(x)-1))
}

func median(x []float64) float64 {
	sorted := slices.Sorted(slices.Values(x))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
