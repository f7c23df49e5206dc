package calibrate

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// made are pairs of two evaluators that each see quality with some noise; bend is the second one's scale.
func made(n int, noise float64, bend func(float64) float64) []Pair {
	random := rand.New(rand.NewPCG(11, 3))
	clip := func(x float64) float64 { return max(0, min(1, x)) }
	pairs := make([]Pair, n)
	for i := range pairs {
		quality := 0.7 + 0.1*random.NormFloat64()
		pairs[i] = Pair{clip(quality + noise*random.NormFloat64()), clip(bend(quality + noise*random.NormFloat64()))}
	}
	return pairs
}

func TestBetter(t *testing.T) {
	t.Parallel()
	of := func(c Comparison, m Method) HeldOut {
		for _, e := range c.Errors {
			if e.Method == m {
				return e
			}
		}
		t.Fatalf("no errors of %s", m)
		return HeldOut{}
	}
	// The same scale needs no mapping. Both agree so well that a curve could gain nothing.
	same := Better(made(2000, 0, func(x float64) float64 { return x }), DefaultFolds, 1)
	require.Equal(t, Same, same.Best)
	require.Zero(t, of(same, Same).RMSE)

	// Another scale, and close agreement: both mappings undo it, and the simpler one is taken.
	scaled := Better(made(2000, 0, func(x float64) float64 { return 0.2 + x/2 }), DefaultFolds, 1)
	require.Equal(t, Quantile, scaled.Best)
	require.Greater(t, of(scaled, Same).RMSE, 0.1)
	require.Less(t, of(scaled, Quantile).RMSE, 0.005)

	// Much noise: the curve errs less on each score, and mutes them; quantiles keep the spread.
	noisy := Better(made(4000, 0.1, func(x float64) float64 { return x * x }), DefaultFolds, 1)
	require.Equal(t, Isotonic, noisy.Best)
	require.Less(t, of(noisy, Isotonic).RMSE, of(noisy, Quantile).RMSE)
	require.InDelta(t, 0.5, of(noisy, Isotonic).Spread, 0.05, "the correlation of two that see the half of the variance")
	require.InDelta(t, 1, of(noisy, Quantile).Spread, 0.02)
	for _, m := range []Method{Quantile, Isotonic} {
		require.Less(t, math.Abs(of(noisy, m).Median), 0.01)
	}
	require.Greater(t, math.Abs(of(noisy, Same).Median), 0.15)

	for n := range 2 {
		require.Equal(t, Comparison{N: n, Best: Same}, Better(made(n, 0.1, math.Sqrt), DefaultFolds, 1))
	}
}

// A held-out error is over each pair once, by a fit that has not seen it; the seed alone decides the folds.
func TestBetterProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pairs := scores(2, 60).Draw(t, "pairs")
		folds, seed := rapid.IntRange(0, 80).Draw(t, "folds"), rapid.Uint64().Draw(t, "seed")
		c := Better(pairs, folds, seed)
		require.Equal(t, c, Better(pairs, folds, seed))
		require.Len(t, c.Errors, 3)
		fold := foldsOf(len(pairs), c.Folds, seed)
		count := make([]int, c.Folds)
		for _, f := range fold {
			count[f]++
		}
		for _, n := range count {
			require.True(t, n == len(pairs)/c.Folds || n == len(pairs)/c.Folds+1)
		}
		// A pair's own score has no part in how it is mapped.
		i := rapid.IntRange(0, len(pairs)-1).Draw(t, "pair")
		before := crossMapped(Isotonic, pairs, fold, c.Folds)[i]
		pairs[i].Human = 1 - pairs[i].Human
		require.Equal(t, before, crossMapped(Isotonic, pairs, fold, c.Folds)[i])
		for _, e := range c.Errors {
			require.False(t, math.IsNaN(e.RMSE) || math.IsNaN(e.Spread) || math.IsNaN(e.Median))
		}
	})
}
