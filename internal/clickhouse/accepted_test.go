package clickhouse

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testAccepted plays a price that rises for good: an incident opens, a person accepts the level, and baselines are
// drawn from what comes after.
func testAccepted(t *testing.T, s *Store) {
	ctx := t.Context()
	key, other := usage.Key{Tenant: "t", Model: "m"}, usage.Key{Tenant: "u", Model: "m"}
	minimums := detect.Minimums{Cost: 10, Quality: 5, Buckets: 3}
	at := time.Now().UTC().Truncate(time.Hour).Add(-4*time.Hour + 20*time.Minute)
	batch := 0
	// play stores two calls and a score a minute of the key and of another tenant's, which never changes.
	play := func(from, to time.Time, cost usage.PicoUSD, score float64) {
		batch++
		var spans []usage.Span
		var scores []usage.Quality
		for ; from.Before(to); from = from.Add(30 * time.Second) {
			id := fmt.Sprint(from.Unix())
			for _, tenant := range []string{"t", "u"} {
				c, q := cost, score
				if tenant == "u" {
					c, q = 1000, 0.9
				}
				spans = append(spans, usage.Span{
					TraceID: id, SpanID: id, TenantID: tenant, RequestedModel: "m", Model: "m", Timestamp: from, Cost: c, Priced: true,
					Tokens: usage.Tokens{UncachedInput: 50, CacheRead: 50, Output: 20},
				})
				if from.Second() == 0 {
					scores = append(scores, usage.Quality{ID: tenant + id, TraceID: id, TenantID: tenant, Model: "m", Timestamp: from, Score: q, Kind: "judge"})
				}
			}
		}
		require.NoError(t, s.InsertSpans(ctx, spans, fmt.Sprint(batch)))
		require.NoError(t, s.InsertQuality(ctx, scores, fmt.Sprint(batch)))
	}
	baselines := func(at time.Time) map[usage.Key]detect.Baseline {
		all, err := s.Baselines(ctx, at)
		require.NoError(t, err)
		return all
	}
	rebuild := func(at time.Time) map[usage.Key]detect.Baseline {
		n, err := s.RebuildBaselines(ctx, at, minimums)
		require.NoError(t, err)
		require.Equal(t, 4, n, "two keys and two pseudo-keys")
		return baselines(at)
	}
	opened := at.Add(-6 * time.Minute)
	play(at.Add(-3*time.Hour), opened, 1000, 0.9)
	old := rebuild(at)[key]
	require.InDelta(t, math.Log(1000), old.LnCost, 0.01)
	require.NoError(t, s.RecordIncident(ctx, contract.IncidentRecord{ID: "i", Key: key, OpenedAt: opened, UpdatedAt: opened}))

	_, err := s.AcceptLevel(ctx, key, at, "ada", "the new price", minimums)
	require.ErrorIs(t, err, ErrNoLevel)
	require.ErrorContains(t, err, "there are 0 costs and 0 scores since "+opened.Format("15:04")+", and a level takes 10 or 5")
	_, err = s.AcceptLevel(ctx, key.OfExperiment("ab"), at, "ada", "", minimums)
	require.ErrorIs(t, err, ErrNoLevel)
	require.ErrorContains(t, err, "experiment ab is compared with t/m")
	_, err = s.AcceptLevel(ctx, usage.Everything, at, "ada", "", minimums)
	require.ErrorIs(t, err, ErrNoLevel)

	play(opened, at, 5000, 0.6)
	before, err := s.BaselinesStored(ctx, old.Slot)
	require.NoError(t, err)
	accepted, err := s.AcceptLevel(ctx, key, at, "ada", "the new price", minimums)
	require.NoError(t, err)
	require.InDelta(t, math.Log(5000), accepted.LnCost, 0.01, "not of the quarter of an hour, most of which is the old level")
	require.InDelta(t, 0.6, accepted.Quality, 0.005)
	require.InDelta(t, 10_000, accepted.SpendPerMinute, 1)
	require.InDelta(t, 2, accepted.RequestsPerMin, 1e-9)
	require.InDelta(t, 0.5, accepted.CacheHit, 1e-9)
	require.Equal(t, "accepted "+at.Format(time.RFC3339), accepted.Version)
	require.Equal(t, old.LnCostDev, accepted.LnCostDev, "how it spreads is not known anew")
	require.Equal(t, accepted, baselines(at)[key], "at once")
	require.Equal(t, old.LnCost, baselines(at)[other].LnCost)
	after, err := s.BaselinesStored(ctx, old.Slot)
	require.NoError(t, err)
	require.True(t, after.After(before), "the sweep sees it")

	play(at, at.Add(time.Hour), 7000, 0.6)
	again, err := s.AcceptLevel(ctx, key, at, "ada", "the new price", minimums)
	require.NoError(t, err)
	require.Equal(t, accepted, again, "accepted twice is accepted once")
	require.EqualValues(t, 1, number(t, s, "SELECT count() FROM accepted_levels FINAL"))

	require.NoError(t, s.RecordIncident(ctx, contract.IncidentRecord{ID: "i", Key: key, OpenedAt: opened, EndedAt: at, UpdatedAt: at}))
	stays := rebuild(at.Add(15 * time.Minute))[key]
	require.Equal(t, accepted.Version, stays.Version)
	require.Equal(t, accepted.LnCost, stays.LnCost, "no bucket after it is whole")
	n, err := s.RebuildTenant(ctx, "t", at.Add(16*time.Minute), minimums)
	require.NoError(t, err)
	require.Equal(t, 2, n, "the tenant's own alone")
	require.Len(t, baselines(at), 4)
	require.Equal(t, accepted.LnCost, baselines(at)[key].LnCost)
	later := at.Add(time.Hour)
	n, err = s.RebuildTenant(ctx, "t", later, minimums)
	require.NoError(t, err)
	require.Equal(t, 4, n, "an hour without baselines gets everybody's")
	drawn := baselines(later)[key]
	require.Equal(t, 3, drawn.CostBuckets, "the three after it")
	require.InDelta(t, math.Log(7000), drawn.LnCost, 0.01)
	require.Equal(t, later.Format(time.RFC3339), drawn.Version)

	whole := usage.Key{Tenant: "t", Model: usage.AnyModel}
	pseudo, err := s.AcceptLevel(ctx, whole, later, "ada", "", minimums)
	require.NoError(t, err)
	require.InDelta(t, math.Log(7000), pseudo.LnCost, 0.01)
	require.InDelta(t, math.Log(7000), baselines(later)[whole].LnCost, 0.01)
}
