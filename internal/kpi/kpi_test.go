package kpi

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestCodes(t *testing.T) {
	t.Parallel()
	_, ok := CostCode(0)
	require.False(t, ok)
	rapid.Check(t, func(t *rapid.T) {
		c := usage.PicoUSD(rapid.Int64Range(1, math.MaxInt64).Draw(t, "pico"))
		code, ok := CostCode(c)
		require.True(t, ok)
		require.InDelta(t, math.Log(float64(c)), LnCost(float64(code)), 0.0036, "half a code is 0.35 %")
		s := rapid.Float64Range(0, 1).Draw(t, "score")
		require.InDelta(t, s, Score(float64(QualityCode(s))), 0.0026)
	})
}

func TestSample(t *testing.T) {
	t.Parallel()
	require.Equal(t, Sample{}, QualitySample(nil))
	require.True(t, math.IsInf(Sample{}.MedianSE(), 1))
	one := QualitySample([]int16{100})
	require.Equal(t, Sample{N: 1, Median: 0.5}, one)
	// The lower median of an even count, as ClickHouse's quantileExactLow takes it.
	s := QualitySample([]int16{180, 100, 160, 120})
	require.Equal(t, 4, s.N)
	require.InDelta(t, 0.6, s.Median, 1e-9)
	require.InDelta(t, (0.9-0.6)/1.349, s.SD, 1e-9)
}
