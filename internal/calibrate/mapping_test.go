package calibrate

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestApply(t *testing.T) {
	t.Parallel()
	m := Mapping{From: []float64{0.2, 0.4, 0.8}, To: []float64{0.5, 0.7, 0.7}}
	for score, want := range map[float64]float64{0: 0.5, 0.2: 0.5, 0.3: 0.6, 0.4: 0.7, 0.6: 0.7, 1: 0.7} {
		require.InDelta(t, want, m.Apply(score), 1e-15)
	}
	require.Equal(t, 0.3, Mapping{}.Apply(0.3), "the zero mapping leaves scores as they are")
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for message, m := range map[string]Mapping{
		"2 knots and 1 values":                   {From: []float64{0, 1}, To: []float64{0}},
		"knot 0 of the mapping is not a score":   {From: []float64{math.NaN()}, To: []float64{0}},
		"knot 1 of the mapping is not a score":   {From: []float64{0, 1}, To: []float64{0, 1.5}},
		"knot 1 of the mapping is not above":     {From: []float64{1, 1}, To: []float64{0, 1}},
		"knot 1 of the mapping is not above the": {From: []float64{0, 1}, To: []float64{1, 0}},
		"65 knots: at most 64":                   {From: ascending(65), To: make([]float64, 65)},
	} {
		require.ErrorContains(t, m.Validate(), message)
	}
	require.NoError(t, Mapping{}.Validate())
}

func ascending(n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = float64(i) / float64(n)
	}
	return v
}

// 0.2 and 0.3 are the wrong way round and share their mean; the two people of 0.4 share theirs.
func TestIsotonicByHand(t *testing.T) {
	t.Parallel()
	m := FitIsotonic([]Pair{{0.1, 0.1}, {0.5, 0.2}, {0.3, 0.3}, {0.6, 0.4}, {0.8, 0.4}})
	require.Equal(t, []float64{0.1, 0.2, 0.3, 0.4}, m.From)
	require.InDeltaSlice(t, []float64{0.1, 0.4, 0.4, 0.7}, m.To, 1e-15)
}

// Five scores of 0.5 stand for a fifth to the whole of the people's: its mean, not its end.
func TestQuantileByHand(t *testing.T) {
	t.Parallel()
	m := FitQuantile([]Pair{{0.2, 0.5}, {0.9, 0.5}, {0.4, 0.1}, {0.6, 0.5}, {0.8, 0.5}})
	require.Equal(t, []float64{0.1, 0.5}, m.From)
	require.InDeltaSlice(t, []float64{0.2, 0.675}, m.To, 1e-15)
}

// Where two evaluators differ by scale alone, both mappings undo it.
func TestMappingUndoesAScale(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 1))
	var pairs []Pair
	for range 5000 {
		s := 0.5 + random.Float64()/2
		pairs = append(pairs, Pair{s, s*s*0.6 + 0.1})
	}
	for _, method := range []Method{Quantile, Isotonic} {
		m := Fit(method, pairs)
		require.NoError(t, m.Validate())
		for _, p := range pairs[:500] {
			require.InDelta(t, p.Human, m.Apply(p.Judge), 0.002, method)
		}
	}
	require.Zero(t, Fit(Isotonic, nil))
	require.Zero(t, Fit(Same, pairs))
}

func TestMappingProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pairs := scores(1, 200).Draw(t, "pairs")
		if rapid.Bool().Draw(t, "no ties") {
			for i := range pairs {
				pairs[i].Judge += float64(i) * 1e-6
			}
		}
		moment := rapid.Float64Range(0, 1)
		for _, m := range []Mapping{
			FitIsotonic(pairs), FitQuantile(pairs),
			FitNormal(moment.Draw(t, "mean"), moment.Draw(t, "sd"), moment.Draw(t, "anchor"), moment.Draw(t, "anchor sd")),
		} {
			require.NoError(t, m.Validate())
			require.LessOrEqual(t, len(m.From), maxKnots)
			last := 0.0
			for _, s := range ascending(101) {
				got := m.Apply(s)
				require.True(t, got >= last && got <= 1, "%v after %v", got, last)
				last = got
			}
			text, err := json.Marshal(m)
			require.NoError(t, err)
			var back Mapping
			require.NoError(t, json.Unmarshal(text, &back))
			require.Equal(t, m, back)
			require.Less(t, len(text), 4096, "it fits a row")
		}
	})
}

// The fit has the least squared error of all monotone step functions, each of which is a partition of the scores into
// runs with rising means.
func TestIsotonicIsLeastSquares(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pairs := scores(1, 9).Draw(t, "pairs")
		m := FitIsotonic(pairs)
		var got float64
		for _, p := range pairs {
			got += square(m.Apply(p.Judge) - p.Human)
		}
		require.InDelta(t, bruteIsotonic(pairs), got, 1e-9)
	})
}

func square(x float64) float64 { return x * x }

func bruteIsotonic(pairs []Pair) float64 {
	var levels []float64
	of := map[float64][]float64{}
	for _, p := range pairs {
		if of[p.Judge] == nil {
			levels = append(levels, p.Judge)
		}
		of[p.Judge] = append(of[p.Judge], p.Human)
	}
	slices.Sort(levels)
	best := math.Inf(1)
	for cuts := range 1 << (len(levels) - 1) {
		var sum, last float64
		ok := true
		var run []float64
		for i, level := range levels {
			run = append(run, of[level]...)
			if i < len(levels)-1 && cuts>>i&1 == 0 {
				continue
			}
			m := mean(run)
			ok = ok && m >= last-1e-12
			last = m
			for _, h := range run {
				sum += square(h - m)
			}
			run = nil
		}
		if ok {
			best = min(best, sum)
		}
	}
	return best
}
