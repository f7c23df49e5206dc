package kpi

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMeasures(t *testing.T) {
	t.Parallel()
	m := Measures{
		Requests: 4, Cost: big.NewInt(6_000_000_000_000), ComplexityMilli: 4500, VelocityTokens: 300, VelocityMS: 2000,
		Tokens:   usage.Tokens{UncachedInput: 500, CacheRead: 250, CacheWrite5m: 200, CacheWrite1h: 50, Output: 400},
		Outcomes: 3, Good: 1, Scored: 2, ScoreCodes: 300,
	}
	for name, test := range map[string]struct {
		got  *float64
		want float64
	}{
		"six dollars over complexity 4.5":          {m.NTC(), 4.0 / 3},
		"300 tokens in 2 s":                        {m.Velocity(), 150},
		"400 out of 1000 in":                       {m.CompletionRatio(), 0.4},
		"250 of 1000 from the cache":               {m.CacheHitRate(), 0.25},
		"one good outcome of four calls":           {m.OutcomeRate(), 0.25},
		"codes 300 of two scores are 0.75 a score": {m.MeanQuality(), 0.75},
	} {
		require.NotNil(t, test.got, name)
		require.InDelta(t, test.want, *test.got, 1e-12, name)
	}
	none := Measures{Requests: 3, Cost: new(big.Int)}
	for _, got := range []*float64{none.NTC(), none.Velocity(), none.CompletionRatio(), none.CacheHitRate(), none.OutcomeRate(), none.MeanQuality()} {
		require.Nil(t, got, "no data is not zero")
	}
}

func TestComplexityMilli(t *testing.T) {
	t.Parallel()
	for complexity, want := range map[float64]int64{0: 1000, -1: 1000, 1: 1000, 0.0001: 1, 0.0005: 1, 2.5: 2500, 1e6: 1e9} {
		require.Equal(t, want, ComplexityMilli(complexity), "%v", complexity)
	}
}

func TestRank(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 0, Rank(1, 0.99))
	require.EqualValues(t, 1, Rank(4, 0.5))
	require.EqualValues(t, 2, Rank(5, 0.5))
	require.EqualValues(t, 18, Rank(20, 0.95))
	require.EqualValues(t, 98, Rank(100, 0.99))
}
