package clickhouse

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testLevels plays eight weeks in which one key's cost creeps up by 2 % and its quality down by 0.3 points a day from the
// second week on, and another's stays. By its own medians the baseline follows; within its bound it does not.
func testLevels(t *testing.T, s *Store) {
	ctx := t.Context()
	minimums := detect.Minimums{Cost: 10, Quality: 5, Buckets: 3}
	creeps, stays := usage.Key{Tenant: "t", Model: "m"}, usage.Key{Tenant: "u", Model: "m"}
	const days, calm, step = 56, 10, 3
	now := time.Now().UTC().Truncate(time.Hour).Add(-time.Hour + 10*time.Minute)
	first := now.AddDate(0, 0, -days)
	drift := func(day int) float64 { return float64(max(0, day-calm)) }
	var spans []usage.Span
	var scores []usage.Quality
	for day := range days {
		for n := range 60 {
			at := first.AddDate(0, 0, day).Add(time.Duration(n)*time.Minute - 65*time.Minute)
			for _, key := range []usage.Key{creeps, stays} {
				cost, score := 1e6, 0.9
				if key == creeps {
					cost, score = cost*math.Exp(0.02*drift(day)), score-0.003*drift(day)
				}
				id := fmt.Sprintf("%d-%d", day, n)
				spans = append(spans, usage.Span{
					TraceID: id, SpanID: id, TenantID: key.Tenant, RequestedModel: "m", Model: "m", Timestamp: at, Cost: usage.PicoUSD(cost), Priced: true,
					Tokens: usage.Tokens{UncachedInput: 50, Output: 20},
				})
				scores = append(scores, usage.Quality{ID: key.Tenant + id, TraceID: id, TenantID: key.Tenant, Model: "m", Timestamp: at, Score: score, Kind: "judge"})
			}
		}
	}
	require.NoError(t, s.InsertSpans(ctx, spans, "spans"))
	require.NoError(t, s.InsertQuality(ctx, scores, "scores"))
	rebuild := func(at time.Time) map[usage.Key]detect.Baseline {
		_, err := s.RebuildBaselines(ctx, at, minimums)
		require.NoError(t, err)
		all, err := s.Baselines(ctx, at)
		require.NoError(t, err)
		return all
	}
	drawn := func(tenant string, at time.Time) (levels []contract.DrawnLevel) {
		levels, err := s.DrawnLevels(ctx, tenant, at, minimums.Buckets)
		require.NoError(t, err)
		return levels
	}
	anchor := first.AddDate(0, 0, calm)
	rebuild(anchor)
	require.Len(t, drawn("", anchor), 8, "two keys and two pseudo-keys, cost and quality of each")
	var levels []contract.Level
	for _, l := range drawn("", anchor) {
		levels = append(levels, contract.Level{
			Key: l.Key, Measure: l.Measure, At: anchor, Value: l.Value, Bound: contract.DefaultBounds.Of(l.Measure), By: "calibration", Reason: "first",
			Ratings: calibrate.Ratings{Human: calibrate.Moments{N: 40, Mean: 0.8, SD: 0.1}, Residual: calibrate.Moments{N: 40, Mean: 0.1, SD: 0.05}},
		})
	}
	require.NoError(t, s.SetLevels(ctx, levels))
	back, err := s.Levels(ctx, "t", anchor)
	require.NoError(t, err)
	require.Len(t, back, 4)
	require.Equal(t, millis(anchor), back[0].At)
	for i := range back {
		back[i].At = anchor
		require.Contains(t, levels, back[i], "the round trip")
	}
	before, err := s.Levels(ctx, "", anchor.Add(-time.Second))
	require.NoError(t, err)
	require.Empty(t, before)

	var last map[usage.Key]detect.Baseline
	for day := calm + step; day <= days; day += step {
		at := first.AddDate(0, 0, day)
		last = rebuild(at)
		for key, b := range last {
			for _, l := range levels {
				if l.Key == key && l.Measure == contract.CostMeasure {
					require.LessOrEqual(t, math.Abs(b.LnCost-l.Value), l.Bound+1e-9, "day %d of %s", day, key)
				} else if l.Key == key {
					require.LessOrEqual(t, math.Abs(b.Quality-l.Value), l.Bound+1e-9, "day %d of %s", day, key)
				}
			}
		}
		now = at
	}
	b := last[creeps]
	calls, quality := math.Log(1e6)+0.02*drift(days-2), 0.9-0.003*drift(days-2)
	require.InDelta(t, math.Log(1.25), b.LnCost-math.Log(1e6), 0.011, "on the bound")
	require.InDelta(t, 0.85, b.Quality, 0.006)
	require.Greater(t, math.Exp(calls-b.LnCost), 1.9, "detection sees the calls at twice the baseline")
	require.Less(t, math.Exp(calls-b.LnCost-b.LnCostHeld), 1.35, "and would have seen a third more")
	require.Less(t, quality/b.Quality, 0.92)
	require.Greater(t, quality/(b.Quality+b.QualityHeld), 0.94)
	require.Zero(t, last[stays].LnCostHeld)
	require.Zero(t, last[stays].QualityHeld)
	for _, l := range drawn("t", now) {
		if l.Key == creeps && l.Measure == contract.CostMeasure {
			require.InDelta(t, b.LnCost+b.LnCostHeld, l.Value, 1e-9, "the drift stays known")
		}
	}

	// A person approves the move: the baseline is where the buckets are at once, and is held there from the next day on.
	moved := contract.Level{Key: creeps, Measure: contract.CostMeasure, At: now, Value: b.LnCost + b.LnCostHeld, Bound: math.Log(1.25), By: "ada", Reason: "longer prompts"}
	require.NoError(t, s.SetLevels(ctx, []contract.Level{moved}))
	_, err = s.RebuildTenant(ctx, "t", now, minimums)
	require.NoError(t, err)
	all, err := s.Baselines(ctx, now)
	require.NoError(t, err)
	require.Zero(t, all[creeps].LnCostHeld)
	require.InDelta(t, moved.Value, all[creeps].LnCost, 1e-9)
	require.InDelta(t, b.Quality, all[creeps].Quality, 1e-9, "quality was not approved")
	require.Zero(t, rebuild(now.AddDate(0, 0, 1))[creeps].LnCostHeld)
}
