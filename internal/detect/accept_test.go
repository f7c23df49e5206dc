package detect

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestAccept(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := from.Add(10*time.Minute + 30*time.Second)
	minimums := Minimums{Cost: 4, Quality: 2, Buckets: 12}
	codes := func(n int, code int16) (all []int16) {
		for range n {
			all = append(all, code)
		}
		return all
	}
	old := Baseline{
		Version: "old", CostBuckets: 50, LnCost: 1, LnCostDev: 0.1, LnCostSD: 0.5, CostBucketN: 400, SpendPerMinute: 7, SpendDev: 0.3,
		QualityBuckets: 40, Quality: 0.9, QualityDev: 0.01, QualitySD: 0.1, QualityBucketN: 90, OutcomeBuckets: 30, OutcomeRate: 0.2,
	}
	minutes := []kpi.Minute{
		{Start: from, Arm: usage.None, Requests: 30, CostPico: 210, InputTokens: 200, OutputTokens: 50, CacheRead: 100, CostCodes: codes(5, 200), QualityCodes: codes(1, 120)},
		{Start: from, Arm: usage.Treated, Requests: 75, CostPico: 0, CostCodes: codes(90, 100), QualityCodes: codes(90, 10)},
	}
	b, err := Accept(old, minutes, from, at, minimums)
	require.NoError(t, err)
	want := old
	want.Version, want.LnCost, want.Completion, want.CacheHit = "accepted 2026-01-01T12:10:30Z", kpi.LnCost(200), 0.25, 0.5
	want.SpendPerMinute, want.RequestsPerMin = 20, 10
	require.Equal(t, want, b, "medians of what no flag touched, sums of all, and one score is not enough")

	b, err = Accept(Baseline{}, minutes, from, at, minimums)
	require.NoError(t, err)
	require.Equal(t, 12, b.CostBuckets, "a key without a past can be judged from now on")
	require.Equal(t, 5., b.CostBucketN)
	require.Zero(t, b.QualityBuckets)

	minutes[0].CostCodes, minutes[0].QualityCodes = codes(3, 200), codes(2, 120)
	b, err = Accept(old, minutes, from, at, minimums)
	require.NoError(t, err)
	want = old
	want.Version, want.Quality = b.Version, 0.6
	require.Equal(t, want, b, "quality alone")

	minutes[0].QualityCodes = nil
	_, err = Accept(old, minutes, from, at, minimums)
	require.ErrorContains(t, err, "there are 3 costs and 0 scores since 12:00, and a level takes 4 or 2")
}
