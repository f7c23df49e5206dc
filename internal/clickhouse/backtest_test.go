package clickhouse

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestKnownSQL(t *testing.T) {
	from := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	q := KnownQuery{From: from, To: from.Add(time.Hour), Every: 15 * time.Second, Tenant: "org_1", Model: "m"}
	sql, args := q.SQL(from, from.Add(time.Hour))
	golden(t, "known", sql, args)
}

// testKnown tells what came in by when: rows count from when they came in, and not at all when that is too late for any
// window. That the sums are the sweep's is tested in package backtest.
func testKnown(t *testing.T, s *Store) {
	insert := func(at, ingested time.Time, experiment string) {
		cohort := "production"
		if experiment != "" {
			cohort = "experiment"
		}
		require.NoError(t, s.conn.Exec(t.Context(), `INSERT INTO spans (timestamp, ingested_at, tenant_id, requested_model, model, cohort, experiment_id, cost_pico_usd, output_tokens, arm)
VALUES ('`+at.Format("2006-01-02 15:04:05")+`', '`+ingested.Format("2006-01-02 15:04:05")+`', 't', 'm', 'm', '`+cohort+`', '`+experiment+`', 1000, 5, 'none')`))
	}
	from := time.Now().UTC().Truncate(time.Hour).Add(-48 * time.Hour)
	insert(from.Add(-5*time.Minute), from.Add(-4*time.Minute), "")                    // before the range: with its first tick
	insert(from.Add(time.Minute), from.Add(70*time.Second), "")                       // tick 5 of 15 s
	insert(from.Add(time.Minute), from.Add(10*time.Minute), "")                       // late
	insert(from.Add(2*time.Minute), from.Add(40*time.Minute), "")                     // too late for every window
	insert(from.Add(3*time.Minute), from.Add(3*time.Minute+time.Second), "ab")        // an experiment's
	insert(from.Add(90*time.Minute), from.Add(90*time.Minute+time.Second), "")        // in another chunk
	insert(from.Add(23*time.Minute+time.Hour), from.Add(2*time.Hour+time.Second), "") // after the range
	type known struct {
		tick, minute int64
		model        string
	}
	var all []known
	first := from.Unix() / 60
	require.NoError(t, s.Known(t.Context(), KnownQuery{From: from, To: from.Add(2 * time.Hour), Every: 15 * time.Second}, func(tick int64, a detect.Arrival) error {
		require.EqualValues(t, 1, a.Volume.Requests)
		require.Len(t, a.Costs, 1)
		all = append(all, known{tick, a.Minute - first, a.Key.Model})
		return nil
	}))
	require.Equal(t, []known{{0, -5, "m"}, {5, 1, "m"}, {13, 3, "m" + usage.ExperimentMark + "ab"}, {40, 1, "m"}, {361, 90, "m"}}, all)
}

// testBaselinesKnown stores baselines twice in an hour: until the second time, a sweep compared with the first.
func testBaselinesKnown(t *testing.T, s *Store) {
	slot := time.Now().UTC().Truncate(time.Hour)
	require.NoError(t, s.conn.Exec(t.Context(), "SYSTEM STOP MERGES baselines"))
	store := func(slot, at time.Time, model string, cost float64) {
		require.NoError(t, s.insertBaselines(t.Context(), slot, at, map[usage.Key]detect.Baseline{{Tenant: "t", Model: model}: {Key: usage.Key{Tenant: "t", Model: model}, LnCost: cost, CostBuckets: 20}}))
	}
	store(slot.Add(-time.Hour), slot, "m", 1)
	store(slot, slot, "m", 2)
	changes, err := s.BaselineChanges(t.Context(), slot.Add(-time.Hour), slot.Add(2*time.Hour))
	require.NoError(t, err)
	require.NotEmpty(t, changes)
	between := changes[len(changes)-1].Add(time.Millisecond)
	require.Eventually(t, func() bool { return time.Now().After(between.Add(5 * time.Millisecond)) }, time.Second, time.Millisecond)
	store(slot, slot, "m", 3)
	store(slot, slot, "n", 4)
	cost := func(at time.Time) map[string]float64 {
		known, err := s.BaselinesKnown(t.Context(), at)
		require.NoError(t, err)
		costs := map[string]float64{}
		for k, b := range known {
			costs[k.Model] = b.LnCost
		}
		return costs
	}
	require.Equal(t, map[string]float64{"m": 2}, cost(between))
	require.Equal(t, map[string]float64{"m": 3, "n": 4}, cost(slot.Add(59*time.Minute+59*time.Second)))
	require.Empty(t, cost(changes[0].Add(-time.Second)), "nothing was stored by then")
	require.Empty(t, cost(slot.Add(26*time.Hour)), "what is a day old serves no more")
}

func testRecomputeBaselines(t *testing.T, s *Store) {
	now := time.Now().UTC()
	minimums := detect.Minimums{Cost: 1, Quality: 1, Buckets: 1}
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{{TenantID: "t", RequestedModel: "m", Model: "m", Cost: 1000, Priced: true, Timestamp: now.Add(-90 * time.Minute)}}, "a"))
	_, err := s.RebuildBaselines(t.Context(), now.Truncate(time.Hour), minimums)
	require.NoError(t, err)
	stored, err := s.Baselines(t.Context(), now)
	require.NoError(t, err)
	again, err := s.RecomputeBaselines(t.Context(), now, minimums)
	require.NoError(t, err)
	require.Len(t, again, 2, "the key and its tenant")
	for k, b := range stored {
		b.Version = again[k].Version
		require.Equal(t, b, again[k])
	}
	before := number(t, s, "SELECT count() FROM baselines")
	require.EqualValues(t, len(stored), before, "and nothing was stored again")
}

func testShadowRows(t *testing.T, s *Store) {
	at := time.Now().UTC().Truncate(time.Millisecond)
	key := usage.Key{Tenant: "t", Model: "m"}
	rows := []ShadowRow{
		{At: at, Key: key, Set: "shadow", Seq: 1, Kind: "level", Level: "PAGE", State: `{"level":"PAGE"}`},
		{At: at, Key: key, Set: "shadow", Seq: 2, Kind: "fire", Level: "PAGE", Rule: "r", Reason: "why", Revision: "v", Facts: "{}", State: `{"level":"PAGE","x":1}`},
		{At: at, Key: key, Set: "live", Seq: 3, Kind: "fire", State: "{}"},
		{At: at.Add(time.Minute), Key: key, Set: "live", Seq: 1, Kind: "resolve"},
		{At: at, Key: usage.Key{Tenant: "*"}, Set: "shadow", Seq: 4, Kind: "run", Revision: "v"},
	}
	require.NoError(t, s.RecordShadow(t.Context(), rows))
	require.NoError(t, s.RecordShadow(t.Context(), rows), "told twice")
	changes, err := s.ShadowChanges(t.Context(), at, at.Add(time.Second))
	require.NoError(t, err)
	require.Equal(t, []ShadowRow{rows[0], rows[1], rows[2], rows[4]}, changes)
	states, err := s.ShadowStates(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []ShadowRow{rows[1], rows[4]}, states, "the live set's alert is over")
}
