package calibrate

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// By hand: 1, 2, 3, 4 have the mean 2.5 and the variance 5/3; √(0.2²/100 + 0.1²/50) = 0.0244949, times 1.95996.
func TestMomentsAndChange(t *testing.T) {
	t.Parallel()
	require.Equal(t, Moments{N: 4, Mean: 2.5, SD: math.Sqrt(5.0 / 3)}, MomentsOf([]float64{1, 2, 3, 4}))
	require.Equal(t, Moments{N: 1, Mean: 7}, MomentsOf([]float64{7}))
	require.Equal(t, Moments{}, MomentsOf(nil))
	change := Moments{N: 100, Mean: 0.8, SD: 0.2}.Since(Moments{N: 50, Mean: 0.7, SD: 0.1})
	require.True(t, change.Known)
	require.InDelta(t, 0.1, change.By, 1e-12)
	require.InDelta(t, 0.051991, change.Low, 1e-6)
	require.InDelta(t, 0.148009, change.High, 1e-6)
	require.False(t, Moments{N: LeastHeldOut - 1}.Since(Moments{N: 100}).Known)
	require.False(t, Moments{N: 100}.Since(Moments{N: LeastHeldOut - 1}).Known)
}

// The interval of 95 % misses a change of nothing in about one of twenty.
func TestChangeCovers(t *testing.T) {
	t.Parallel()
	missed := 0
	const rounds = 2000
	for round := range rounds {
		sample := func(n, salt int) Moments {
			x := make([]float64, n)
			for i := range x { // uniform, from the hash
				x[i] = float64(mix(uint64(round*1000+salt*100+i))>>11) / (1 << 53)
			}
			return MomentsOf(x)
		}
		if c := sample(LeastHeldOut, 1).Since(sample(60, 3)); c.Low > 0 || c.High < 0 {
			missed++
		}
	}
	require.InDelta(t, 0.05, float64(missed)/rounds, 0.025)
}

func TestForFitIsHalf(t *testing.T) {
	t.Parallel()
	fit := 0
	for n := range 10_000 {
		if ForFit(fmt.Sprintf("%032x", n)) {
			fit++
		}
	}
	require.InDelta(t, 5000, fit, 250)
}

func TestMappingThen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		first := Fit(rapid.SampledFrom([]Method{Same, Quantile, Isotonic}).Draw(t, "method"), scores(1, 30).Draw(t, "pairs"))
		moment := rapid.Float64Range(0.2, 0.8)
		next := FitNormal(moment.Draw(t, "now"), 0.1, moment.Draw(t, "anchor"), rapid.Float64Range(0.05, 0.2).Draw(t, "sd"))
		both := first.Then(next)
		require.NoError(t, both.Validate())
		for _, s := range first.From {
			require.InDelta(t, next.Apply(first.Apply(s)), both.Apply(s), 1e-12, "at a knot")
		}
		require.Equal(t, first, first.Then(Mapping{}))
		require.Equal(t, next, Mapping{}.Then(next))
	})
}
