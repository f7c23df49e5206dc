package clickhouse

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// testRunawaySpend stores calls as they come, five a second and from one instant on 25, and looks for how long after
// it alert.yaml says so of the stored minutes, wherever in its minute the instant lies. With the 10 s that an
// INVESTIGATE is held it must be under a minute.
func testRunawaySpend(t *testing.T, s *Store) {
	const step = 5 * time.Second
	set, err := policy.Compile(policies.Files)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(21, 22))
	minute := time.Now().UTC().Truncate(time.Minute).Add(-5 * time.Minute)
	onsets := map[string]time.Time{}
	for offset := time.Duration(0); offset < time.Minute; offset += 10 * time.Second {
		onsets[fmt.Sprint("from ", offset)] = minute.Add(offset)
	}
	const median, sd = 1e9, 0.8 // pico-dollars
	store := func(from, to time.Time) {
		var spans []usage.Span
		for tenant, onset := range onsets {
			perSecond := 5
			if !from.Before(onset) {
				perSecond = 25
			}
			for range perSecond * int(to.Sub(from).Seconds()) {
				spans = append(spans, usage.Span{
					TenantID: tenant, RequestedModel: "m", Model: "m", Priced: true, Cost: usage.PicoUSD(median * math.Exp(sd*random.NormFloat64())),
					Timestamp: from.Add(time.Duration(random.Int64N(int64(to.Sub(from))))).Truncate(time.Millisecond),
				})
			}
		}
		require.NoError(t, s.InsertSpans(t.Context(), spans, from.String()))
	}
	baseline := detect.Baseline{
		CostBuckets: 100, LnCost: math.Log(median), LnCostDev: 0.03, LnCostSD: sd, CostBucketN: 4500,
		SpendPerMinute: 300 * median * math.Exp(sd*sd/2), SpendDev: 0.05, RequestsPerMin: 300,
	}
	store(minute.Add(-2*time.Minute), minute)
	found := map[string]time.Duration{}
	for at := minute; at.Before(minute.Add(2 * time.Minute)); at = at.Add(step) {
		store(at, at.Add(step))
		observations, err := s.Sweep(t.Context(), SweepQuery{At: at.Add(step)})
		require.NoError(t, err)
		for _, o := range observations {
			verdict, err := set.Alert(detect.Assemble(o, baseline, detect.DefaultMinimums, detect.None))
			require.NoError(t, err)
			if _, before := found[o.Key.Tenant]; verdict.Rule == "runaway-spend" && !before && !o.Key.Pseudo() {
				found[o.Key.Tenant] = at.Add(step).Sub(onsets[o.Key.Tenant])
			}
		}
	}
	require.Len(t, found, len(onsets))
	for tenant, after := range found {
		require.Positive(t, after, "%s: before it began", tenant)
		require.LessOrEqual(t, after, time.Minute-10*time.Second, tenant)
	}
	t.Log("runaway spend is seen", found, "after it began")
}
