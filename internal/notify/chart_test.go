package notify

import (
	"bytes"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// regression is an hour in which a call becomes three times as dear and a fifth worse eight minutes
// before its end, with a gap in the telemetry.
func regression() Breach {
	until := noon.Add(90 * time.Second)
	b := Breach{
		Key: testKey, Opened: noon.Add(-5 * time.Minute), Until: until, CostOver: 1.5, QualityUnder: 0.85,
		Baseline: detect.Baseline{
			Key: testKey, CostBuckets: 40, LnCost: math.Log(0.0104e12), LnCostDev: 0.06, QualityBuckets: 40, Quality: 0.87, QualityDev: 0.012,
		},
	}
	first := b.begins()
	for i := range 60 {
		m := kpi.Minute{Start: first.Add(time.Duration(i) * time.Minute), Arm: usage.None}
		cost, quality := 0.0104*(1+0.06*math.Sin(float64(i)/3)), 0.87+0.01*math.Cos(float64(i)/4)
		if i >= 52 {
			cost, quality = cost*3, quality*0.79
		}
		for j := range 40 {
			noise := float64(j-20) / 100
			m.CostCodes = append(m.CostCodes, int16(math.Round(math.Log2(cost*1e12*(1+noise))*100)))
			m.QualityCodes = append(m.QualityCodes, kpi.QualityCode(min(1, quality+noise/4)))
		}
		if i < 20 || i > 23 {
			b.Minutes = append(b.Minutes, m)
		}
	}
	return b
}

func TestChart(t *testing.T) {
	t.Parallel()
	drawn, err := Chart(regression())
	require.NoError(t, err)
	picture, err := png.Decode(bytes.NewReader(drawn))
	require.NoError(t, err)
	require.Equal(t, chartWidth, picture.Bounds().Dx())
	require.Less(t, len(drawn), 200<<10)
	_, _, _, alpha := picture.At(0, 0).RGBA()
	require.Equal(t, uint32(0xffff), alpha, "a picture without a ground is unreadable in a dark theme")
	if dir := os.Getenv("FLYBALL_CHART"); dir != "" { // to look at it
		require.NoError(t, os.WriteFile(filepath.Join(dir, "chart.png"), drawn, 0o600))
	}
}

// What the panels show is what was measured of untreated calls.
func TestChartMedians(t *testing.T) {
	t.Parallel()
	b := regression()
	for i := range b.Minutes { // a treated arm changes nothing
		m := b.Minutes[i]
		m.Arm, m.CostCodes = usage.Treated, []int16{1, 1, 1, 1, 1, 1}
		b.Minutes = append(b.Minutes, m)
	}
	cost, quality := medians(b)
	require.Len(t, cost, 60)
	require.InDelta(t, 0.0104, cost[10], 0.0015)
	require.InDelta(t, 0.0312, cost[59], 0.004)
	require.InDelta(t, 0.69, quality[59], 0.02)
	require.True(t, math.IsNaN(cost[22]), "three minutes of nothing are a gap")

	_, err := Chart(Breach{Key: testKey, Until: noon})
	require.ErrorContains(t, err, "nothing was measured")
	b.Key.Tenant = strings.Repeat("a long tenant ", 40)
	b.Baseline = detect.Baseline{} // without one there is no band, and still a picture
	_, err = Chart(b)
	require.NoError(t, err)
}

// No number breaks the axis.
func TestChartAxis(t *testing.T) {
	t.Parallel()
	for _, values := range [][]float64{{0}, {1e-12}, {1e9}, {math.NaN(), 0.5}, {0.3, 0.3}} {
		q := panel{values: values, scale: true}
		low, high, step := q.axis()
		require.Less(t, low, high)
		require.Positive(t, step)
		require.LessOrEqual(t, (high-low)/step, 12.0)
	}
}
