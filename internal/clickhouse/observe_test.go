package clickhouse

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testObserve compares one key's windows from stored calls with what the sweep makes of all keys: at the newest
// moment, where both can be had, at one within the history, and at one that the sweep's table does not keep.
func testObserve(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	for name, end := range map[string]time.Time{"now": now, "three days ago": now.Add(-72 * time.Hour)} {
		spans, evaluations := traffic(rand.New(rand.NewPCG(21, 22)), 1500, end.Add(-25*time.Minute), end)
		outcomes := slices.DeleteFunc(outcomesOf(rand.New(rand.NewPCG(23, 24)), spans), func(o usage.Outcome) bool { return o.Timestamp.After(end) })
		require.NoError(t, s.InsertSpans(t.Context(), spans, name))
		require.NoError(t, s.InsertQuality(t.Context(), evaluations, name))
		require.NoError(t, s.InsertOutcomes(t.Context(), outcomes, name))
		swept, err := s.Sweep(t.Context(), SweepQuery{At: end})
		require.NoError(t, err)
		experiments, err := s.Sweep(t.Context(), SweepQuery{At: end, Experiments: true})
		require.NoError(t, err)
		swept = append(swept, experiments...)
		want := append(observe(spans, evaluations, end, outcomes...), observeExperiments(spans, evaluations, end, outcomes...)...)
		require.Equal(t, name == "now", len(swept) == len(want))
		require.Greater(t, len(want), 20)
		for _, w := range want {
			got, ok, err := s.Observe(t.Context(), ObserveQuery{Key: w.Key, At: end, StoredBy: time.Now().Add(time.Minute)})
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, w, got, "%s %s", name, w.Key)
			if name == "now" {
				require.Contains(t, swept, got, "the sweep says the same")
			}
		}

		// Within the history nothing later counts, though it is of the same minute.
		earlier := end.Add(-7*time.Minute - 13*time.Second)
		before := func(at time.Time) bool { return at.After(earlier) }
		spans = slices.DeleteFunc(spans, func(p usage.Span) bool { return before(p.Timestamp) })
		evaluations = slices.DeleteFunc(evaluations, func(q usage.Quality) bool { return before(q.Timestamp) })
		outcomes = slices.DeleteFunc(outcomes, func(o usage.Outcome) bool { return before(o.Timestamp) })
		for _, w := range observe(spans, evaluations, earlier, outcomes...) {
			got, _, err := s.Observe(t.Context(), ObserveQuery{Key: w.Key, At: earlier})
			require.NoError(t, err)
			require.Equal(t, w, got, "%s", w.Key)
		}
	}

	key := usage.Key{Tenant: "org_1", Model: "model-2"}
	later, err := s.StoredLater(t.Context(), ObserveQuery{Key: key, At: now}, now.Add(-time.Hour))
	require.NoError(t, err)
	all, _, err := s.Observe(t.Context(), ObserveQuery{Key: key, At: now})
	require.NoError(t, err)
	require.Equal(t, all.Whole.Requests+int64(all.Windows[len(detect.Windows)-1].QualityN), later, "everything was stored within this test")
	nothing, ok, err := s.Observe(t.Context(), ObserveQuery{Key: key, At: now, StoredBy: now.Add(-time.Hour)})
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, detect.Observation{Key: key}, nothing)

	last, err := s.LastCall(t.Context(), usage.Everything, now)
	require.NoError(t, err)
	require.WithinDuration(t, now, last, time.Minute)
	last, err = s.LastCall(t.Context(), usage.Key{Tenant: "nobody", Model: "x"}, now)
	require.NoError(t, err)
	require.Zero(t, last)
}
