package calibrate

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func zip(x, y []float64) []Pair {
	pairs := make([]Pair, len(x))
	for i := range x {
		pairs[i] = Pair{x[i], y[i]}
	}
	return pairs
}

// The figures are worked by hand from the ranks; the data is from the books that are named.
func TestCorrelateTextbook(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		x, y                       []float64
		pearson, spearman, kendall float64 // NaN: not looked at
	}{
		// Kendall, Rank Correlation Methods, chapter 3. Of 45 pairs 4 are tied in the first ranking, 9 in the second and 1
		// in both; the other 33 are concordant: 33/√(41 × 36). The squares of differences sum to 13, the ties are
		// corrected for by 2 and 7: (165 − 13 − 2 − 7)/√((165 − 4)(165 − 14)).
		"Kendall: ties in both": {
			[]float64{1, 2.5, 2.5, 4.5, 4.5, 6.5, 6.5, 8, 9.5, 9.5},
			[]float64{1, 2, 4.5, 4.5, 4.5, 4.5, 8, 8, 8, 10},
			math.NaN(), 143 / math.Sqrt(161*151), 33 / math.Sqrt(41*36),
		},
		// Siegel, Nonparametric Statistics (1956), chapter 9: status striving and yielding to a group, 12 students, three
		// ties of two. Squares sum to 109.5: (143 + 141.5 − 109.5)/(2 √(143 × 141.5)) = 0.615; 25/√(66 × 63) = 0.388.
		"Siegel: ties in one": {
			[]float64{3, 4, 2, 1, 8, 11, 10, 6, 7, 12, 5, 9},
			[]float64{1.5, 1.5, 3.5, 3.5, 5, 6, 7, 8, 9, 10.5, 10.5, 12},
			math.NaN(), 175 / (2 * math.Sqrt(143*141.5)), 25 / math.Sqrt(66*63),
		},
		// Anscombe, Graphs in Statistical Analysis (1973), the first set: 55.01/√(110 × 41.2727).
		"Anscombe: Pearson": {
			[]float64{10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5},
			[]float64{8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68},
			0.81642051634484, math.NaN(), math.NaN(),
		},
		// Without ties: 1 − 6 × 194/(10 × 99) = −29/165, and 18 concordant against 27 discordant pairs.
		"no ties": {
			[]float64{86, 97, 99, 100, 101, 103, 106, 110, 112, 113},
			[]float64{2, 20, 28, 27, 50, 29, 7, 17, 6, 12},
			math.NaN(), -29.0 / 165, -5.0 / 45,
		},
		"opposite": {[]float64{1, 2, 3}, []float64{9, 4, 1}, math.NaN(), -1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, pairs := range [][]Pair{zip(test.x, test.y), zip(test.y, test.x)} {
				got := Correlate(pairs)
				require.True(t, got.Known)
				require.Equal(t, len(test.x), got.N)
				for _, m := range []struct{ want, got float64 }{{test.pearson, got.Pearson}, {test.spearman, got.Spearman}, {test.kendall, got.Kendall}} {
					if !math.IsNaN(m.want) {
						require.InDelta(t, m.want, m.got, 1e-12)
					}
				}
			}
		})
	}
}

// Without variance or pairs there is no agreement to speak of, and nothing passes.
func TestCorrelateNothing(t *testing.T) {
	t.Parallel()
	for name, pairs := range map[string][]Pair{
		"none": nil, "one": {{0.5, 0.5}}, "a judge that says one thing": {{0.1, 0.5}, {0.9, 0.5}}, "people who do": {{0.5, 0.1}, {0.5, 0.9}},
	} {
		got := Correlate(pairs)
		require.Equal(t, Correlation{N: len(pairs)}, got, name)
		require.False(t, got.Passes(), name)
		require.Equal(t, Inconclusive, got.Verdict(), name)
	}
}

// By hand for ρ = 0.5 and n = 100: z = 0.54931 ± 1.95996 √(1.125/97) = 0.54931 ± 0.21107.
func TestSpearmanInterval(t *testing.T) {
	t.Parallel()
	low, high := Correlation{N: 100, Known: true, Spearman: 0.5}.SpearmanInterval()
	require.InDelta(t, 0.3259, low, 1e-4)
	require.InDelta(t, 0.6414, high, 1e-4)
	low, high = Correlation{N: 3, Known: true, Spearman: 1}.SpearmanInterval()
	require.Equal(t, []float64{-1, 1}, []float64{low, high})
	low, high = Correlation{N: 4, Known: true, Spearman: 1}.SpearmanInterval()
	require.Equal(t, []float64{1, 1}, []float64{low, high})
	for name, test := range map[string]struct {
		n    int
		rho  float64
		want Verdict
	}{
		"well above": {100, 0.85, Passes}, "above, and many": {5000, 0.72, Passes}, "above, perhaps": {100, 0.72, Inconclusive},
		"below, perhaps": {100, 0.65, Inconclusive}, "well below": {100, 0.4, Fails}, "few": {LeastPairs - 1, 0.99, Inconclusive},
	} {
		require.Equal(t, test.want, Correlation{N: test.n, Known: true, Spearman: test.rho}.Verdict(), name)
	}
}

// scores draws pairs with many ties.
func scores(least, most int) *rapid.Generator[[]Pair] {
	grid := rapid.Map(rapid.IntRange(0, 12), func(k int) float64 { return float64(k) / 12 })
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Pair { return Pair{grid.Draw(t, "human"), grid.Draw(t, "judge")} }), least, most)
}

func TestCorrelateProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pairs := scores(0, 40).Draw(t, "pairs")
		got := Correlate(pairs)
		for _, r := range []float64{got.Pearson, got.Spearman, got.Kendall} {
			require.LessOrEqual(t, math.Abs(r), 1.0)
		}
		low, high := got.SpearmanInterval()
		require.True(t, -1 <= low && low <= got.Spearman && got.Spearman <= high && high <= 1, "%v in %v..%v", got, low, high)

		x, y := columns(pairs)
		back := Correlate(zip(y, x))
		require.InDelta(t, got.Pearson, back.Pearson, 1e-12, "symmetry")
		require.InDelta(t, got.Spearman, back.Spearman, 1e-12, "symmetry")
		require.InDelta(t, got.Kendall, back.Kendall, 1e-12, "symmetry")

		if got.Known {
			require.InDelta(t, bruteTauB(pairs), got.Kendall, 1e-12, "Knight's count is the pairs'")
		}
		bent := slices.Clone(pairs)
		for i := range bent {
			bent[i].Judge, bent[i].Human = math.Exp(3*bent[i].Judge), math.Cbrt(bent[i].Human)-7
		}
		curved := Correlate(bent)
		require.InDelta(t, got.Spearman, curved.Spearman, 1e-12, "ranks see no monotone transform")
		require.InDelta(t, got.Kendall, curved.Kendall, 1e-12, "ranks see no monotone transform")
		order := rapid.Permutation(pairs).Draw(t, "order")
		require.InDelta(t, got.Kendall, Correlate(order).Kendall, 1e-12)
	})
}

// bruteTauB looks at every pair of pairs.
func bruteTauB(pairs []Pair) float64 {
	var s, x, y float64
	for i, a := range pairs {
		for _, b := range pairs[:i] {
			dx, dy := float64(cmp.Compare(a.Human, b.Human)), float64(cmp.Compare(a.Judge, b.Judge))
			s, x, y = s+dx*dy, x+dx*dx, y+dy*dy
		}
	}
	return s / math.Sqrt(x) / math.Sqrt(y)
}
