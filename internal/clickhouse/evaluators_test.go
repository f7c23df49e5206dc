package clickhouse

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testEvaluators keeps what evaluators count for: the newest record of each version stands, and earlier ones are kept for
// late scores.
func testEvaluators(t *testing.T, s *Store) {
	ctx, at := t.Context(), time.Date(2026, 5, 4, 9, 0, 0, 123e6, time.UTC)
	record := contract.EvaluatorRecord{
		Evaluator: "judge", Version: "2", Standing: contract.Trial, Since: at, By: "ana", Reason: "beside 1",
		AnchorMean: 0.7, AnchorSD: 0.1,
	}
	require.NoError(t, s.SetEvaluator(ctx, record))
	none, err := s.Evaluators(ctx)
	require.NoError(t, err)
	require.Equal(t, []contract.EvaluatorRecord{record}, none)

	counting := record
	counting.Standing, counting.Since = contract.Counting, at.Add(time.Hour)
	counting.Mapping = calibrate.Mapping{Method: calibrate.Quantile, From: []float64{0.1, 0.30000000000000004}, To: []float64{0.5, 0.9}}
	other := contract.EvaluatorRecord{Evaluator: "judge", Version: "1", Standing: contract.Retired, Since: at.Add(time.Hour), By: "ana"}
	require.NoError(t, s.SetEvaluators(ctx, []contract.EvaluatorRecord{counting, other}))
	got, err := s.Evaluators(ctx)
	require.NoError(t, err)
	require.Equal(t, []contract.EvaluatorRecord{other, counting}, got, "to the last bit of the mapping")
	history, err := s.EvaluatorHistory(ctx)
	require.NoError(t, err)
	require.Equal(t, []contract.EvaluatorRecord{other, counting, record}, history)

	// The same instant again replaces.
	other.Reason = "and why"
	require.NoError(t, s.SetEvaluator(ctx, other))
	got, err = s.Evaluators(ctx)
	require.NoError(t, err)
	require.Equal(t, []contract.EvaluatorRecord{other, counting}, got)

	bad := counting
	bad.Mapping.To = []float64{0.9, 0.5}
	require.ErrorContains(t, s.SetEvaluators(ctx, []contract.EvaluatorRecord{record, bad}), "knot 1 of the mapping is not above")
	got, err = s.Evaluators(ctx)
	require.NoError(t, err)
	require.Len(t, got, 2, "one bad record keeps all out")
}

// testAside stores scores that count as calibrated beside some that do not, and asks everything that reads scores.
func testAside(t *testing.T, s *Store) {
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Minute)
	at := now.Add(-40 * time.Minute).Truncate(bucketLength) // a bucket that has ended
	key := usage.Key{Tenant: "org", Model: "m"}
	var spans []usage.Span
	var scores []usage.Quality
	score := func(i int, evaluator string, value float64, change func(*usage.Quality)) {
		q := usage.Quality{
			ID: fmt.Sprint(evaluator, i), TraceID: fmt.Sprint("t", i), TenantID: "org", Model: "m", Evaluator: evaluator, EvaluatorVersion: "1",
			Kind: "judge", Score: value, Confidence: 1, Timestamp: at.Add(time.Duration(i) * time.Second),
		}
		change(&q)
		scores = append(scores, q)
	}
	for i := range 60 {
		spans = append(spans, usage.Span{
			TraceID: fmt.Sprint("t", i), SpanID: fmt.Sprint("s", i), TenantID: "org", RequestedModel: "m", Model: "m",
			Timestamp: at.Add(time.Duration(i) * time.Second), Cost: 1000, Priced: true, UsageComplete: true, Complexity: 1,
		})
		score(i, "plain", 0.8, func(*usage.Quality) {})
		score(i, "mapped", 0.3, func(q *usage.Quality) { q.Mapped, q.Calibrated = true, 0.8 })
		score(i, "trial", 0.1, func(q *usage.Quality) { q.Aside = true })
		score(i, "ana", 0.2, func(q *usage.Quality) { q.Kind = "human" })
	}
	require.NoError(t, s.InsertSpans(ctx, spans, "spans"))
	require.NoError(t, s.InsertQuality(ctx, scores, "scores"))
	code := int64(kpi.QualityCode(0.8))

	minutes, err := s.Minutes(ctx, key, at, now)
	require.NoError(t, err)
	require.Len(t, minutes, 1)
	require.Len(t, minutes[0].QualityCodes, 120, "detection and rollouts see those that count")
	require.Equal(t, 0.8, kpi.QualitySample(minutes[0].QualityCodes).Median)

	observed, err := s.Sweep(ctx, SweepQuery{At: at.Add(59 * time.Second)})
	require.NoError(t, err)
	require.Equal(t, 120, observed[0].Windows[0].QualityN)
	require.Equal(t, 0.8, observed[0].Windows[0].Quality)

	_, err = s.RebuildBaselines(ctx, now, detect.Minimums{Cost: 8, Quality: 2, Buckets: 12})
	require.NoError(t, err)
	require.EqualValues(t, 120, number(t, s, "SELECT quality_n FROM baseline_buckets FINAL WHERE model = 'm'"))
	require.Equal(t, code, number(t, s, "SELECT quality_q25 FROM baseline_buckets FINAL WHERE model = 'm'"))

	measured := func(kinds ...string) kpi.Measures {
		all, err := s.KPI(ctx, KPIQuery{From: at, To: now, Quality: true, QualityKinds: kinds}, now)
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0].Measures
	}
	check := func() {
		t.Helper()
		require.EqualValues(t, 120, measured().Scored)
		require.EqualValues(t, 120*code, measured().ScoreCodes)
		require.EqualValues(t, 120, measured("judge").Scored, "nor when its kind is asked for")
		require.EqualValues(t, 60, measured("human").Scored)
		require.Equal(t, 0.2, measured("human").Quality.P50)
		for _, table := range []string{"quality_1m", "quality_1h", "quality_1d"} {
			require.EqualValues(t, 180, number(t, s, "SELECT sum(scored) FROM "+table), table)
			require.EqualValues(t, 60, number(t, s, "SELECT sum(aside) FROM "+table), table)
		}
	}
	check()
	require.NoError(t, s.RebuildRollups(ctx, at, now, func(string) {}))
	check()

	totals, err := s.Totals(ctx, at, now)
	require.NoError(t, err)
	require.Equal(t, []any{int64(120), 0.8}, []any{totals.Scored, totals.MeanQuality})
	live, err := s.Live(ctx, at, at.Add(time.Minute), time.Minute, 5)
	require.NoError(t, err)
	require.Equal(t, []any{int64(120), 0.8}, []any{live[0].Scored, live[0].Quality})
	flows, err := s.Flows(ctx, key, runbook.Times{Before: at.Add(-time.Hour), From: at, To: now})
	require.NoError(t, err)
	var scored int64
	for _, f := range flows {
		scored += f.Now.Scored
	}
	require.EqualValues(t, 120, scored)
	worst, err := s.WorstTraces(ctx, key, at, now, 1)
	require.NoError(t, err)
	require.Equal(t, 0.2, *worst[0].Score, "the person's, not the 0.1 of the trial")
}

// What was stored before standings were known counts as it did.
func testAsideUpgrade(t *testing.T, s *Store) {
	ctx, at := t.Context(), time.Now().UTC().Add(-time.Hour).Truncate(time.Hour)
	require.NoError(t, s.conn.Exec(ctx, fmt.Sprintf(`INSERT INTO quality (id, trace_id, timestamp, tenant_id, requested_model, evaluator, kind, score)
SELECT toString(number), 't', toDateTime64(%d, 3, 'UTC'), 'org', 'm', 'e', ['judge', 'human'][number + 1], [0.5, 0.25][number + 1] FROM numbers(2)`, at.Unix())))
	require.EqualValues(t, 1, number(t, s, "SELECT countIf(counts) FROM quality"))
	require.EqualValues(t, 2, number(t, s, "SELECT countIf(calibrated = score) FROM quality"))
	require.EqualValues(t, 0, number(t, s, "SELECT sum(aside) FROM quality_1h"))
	require.EqualValues(t, 100, number(t, s, "SELECT sum(code_sum) FROM quality_1h WHERE kind != 'human'"))
}

func testHumanPairs(t *testing.T, s *Store) {
	ctx, at := t.Context(), time.Now().UTC().Add(-48*time.Hour).Truncate(time.Minute)
	n := 0
	say := func(tenant, trace, span, evaluator, version, kind string, score float64, after time.Duration) usage.Quality {
		n++
		return usage.Quality{
			ID: fmt.Sprint("q", n), TraceID: trace, SpanID: span, TenantID: tenant, Model: "m", Evaluator: evaluator, EvaluatorVersion: version,
			Kind: kind, Score: score, Confidence: 1, Timestamp: at.Add(after),
		}
	}
	require.NoError(t, s.InsertQuality(ctx, []usage.Quality{
		// Ana rated twice, and counts once: (0.75 + 0.25) / 2.
		say("org", "t1", "", "ana", "", "human", 0.5, time.Hour), say("org", "t1", "", "ana", "", "human", 1, time.Hour), say("org", "t1", "", "ben", "", "human", 0.25, 2*time.Hour),
		say("org", "t1", "s1", "judge", "1", "judge", 0.5, 0), say("org", "t1", "s2", "judge", "1", "judge", 0.75, time.Second),
		say("org", "t1", "s1", "judge", "2", "judge", 0.125, time.Minute),
		// A rating of a span is of that span.
		say("org", "t2", "s2", "ana", "", "human", 0.5, 0), say("org", "t2", "s1", "judge", "1", "judge", 0.25, 0), say("org", "t2", "s2", "judge", "1", "judge", 0.875, 0),
		// Another tenant's trace of the same name, one that nobody rated, and one that was scored later.
		say("other", "t1", "", "judge", "1", "judge", 0.25, 0), say("org", "t3", "", "judge", "1", "judge", 0.25, 0),
		say("org", "t4", "", "ana", "", "human", 0.5, 0), say("org", "t4", "", "judge", "1", "judge", 0.5, 24*time.Hour),
	}, "scores"))
	key := usage.Key{Tenant: "org", Model: "m"}
	first := contract.RatedScore{Key: key, Evaluator: "judge", Version: "1", TraceID: "t1", At: at.Add(time.Second), Human: 0.5, Judge: 0.625, Raters: 2}
	second := contract.RatedScore{Key: key, Evaluator: "judge", Version: "2", TraceID: "t1", At: at.Add(time.Minute), Human: 0.5, Judge: 0.125, Raters: 2}
	spanned := contract.RatedScore{Key: key, Evaluator: "judge", Version: "1", TraceID: "t2", At: at, Human: 0.5, Judge: 0.875, Raters: 1}
	for name, test := range map[string]struct {
		q    contract.HumanPairsQuery
		want []contract.RatedScore
	}{
		"all":           {contract.HumanPairsQuery{}, []contract.RatedScore{spanned, first, second}},
		"a version":     {contract.HumanPairsQuery{Evaluator: "judge", Version: "2"}, []contract.RatedScore{second}},
		"a tenant":      {contract.HumanPairsQuery{Tenant: "other"}, nil},
		"the newest":    {contract.HumanPairsQuery{Limit: 2}, []contract.RatedScore{first, second}},
		"another judge": {contract.HumanPairsQuery{Evaluator: "nobody"}, nil},
	} {
		test.q.From, test.q.To = at, at.Add(time.Hour)
		got, err := s.HumanPairs(ctx, test.q)
		require.NoError(t, err, name)
		require.Equal(t, test.want, got, name)
	}
}

func testBothScored(t *testing.T, s *Store) {
	ctx, at := t.Context(), time.Now().UTC().Add(-time.Hour).Truncate(time.Minute)
	old, now := contract.EvaluatorVersion{Evaluator: "a", Version: "1"}, contract.EvaluatorVersion{Evaluator: "b", Version: "1"}
	var scores []usage.Quality
	say := func(by contract.EvaluatorVersion, trace, span string, score float64, after time.Duration) {
		scores = append(scores, usage.Quality{
			ID: fmt.Sprint("q", len(scores)), TraceID: trace, SpanID: span, TenantID: "org", Model: "m", Evaluator: by.Evaluator, EvaluatorVersion: by.Version,
			Kind: "judge", Score: score, Confidence: 1, Timestamp: at.Add(after),
		})
	}
	// Of a trace with two spans each is a pair; what the other did not score is none.
	say(old, "spans", "1", 0.5, 0)
	say(old, "spans", "2", 0.25, 0)
	say(now, "spans", "2", 0.75, time.Second)
	say(now, "spans", "1", 1, time.Second)
	say(now, "spans", "3", 0, time.Second)
	// One of the two names no spans: the means of the trace.
	say(old, "means", "", 0.5, 2*time.Second)
	say(now, "means", "1", 0.25, 2*time.Second)
	say(now, "means", "2", 0.75, 3*time.Second)
	// Other spans, another version, one alone, and one out of the range.
	say(old, "others", "1", 0.5, 0)
	say(now, "others", "2", 0.5, 0)
	say(old, "version", "", 0.5, 0)
	say(contract.EvaluatorVersion{Evaluator: "b", Version: "2"}, "version", "", 0.5, 0)
	say(old, "alone", "", 0.5, 0)
	say(old, "late", "", 0.5, 0)
	say(now, "late", "", 0.5, time.Hour)
	require.NoError(t, s.InsertQuality(ctx, scores, "scores"))
	key := usage.Key{Tenant: "org", Model: "m"}
	q := contract.BothScoredQuery{Old: old, New: now, From: at, To: at.Add(time.Minute)}
	got, part, err := s.BothScored(ctx, q)
	require.NoError(t, err)
	require.Equal(t, 1, part)
	require.Equal(t, []contract.BothScored{
		{Key: key, TraceID: "spans", At: at.Add(time.Second), Old: 0.5, New: 1},
		{Key: key, TraceID: "spans", At: at.Add(time.Second), Old: 0.25, New: 0.75},
		{Key: key, TraceID: "means", At: at.Add(3 * time.Second), Old: 0.5, New: 0.5},
	}, got)

	// Of more than the limit a share is taken, the same one each time.
	scores = nil
	for i := range 4000 {
		say(old, fmt.Sprint("many-", i), "", float64(i)/4000, 10*time.Second)
		say(now, fmt.Sprint("many-", i), "", float64(i)/4000, 10*time.Second)
	}
	for i := range scores {
		scores[i].ID = fmt.Sprint("many-", i)
	}
	require.NoError(t, s.InsertQuality(ctx, scores, "many"))
	q.Limit = 1000
	got, part, err = s.BothScored(ctx, q)
	require.NoError(t, err)
	require.Equal(t, 5, part)
	require.InDelta(t, 800, len(got), 120)
	again, _, err := s.BothScored(ctx, q)
	require.NoError(t, err)
	require.Equal(t, got, again)

	given, err := s.EvaluatorScores(ctx, at, at.Add(time.Minute))
	require.NoError(t, err)
	require.Len(t, given, 3)
	require.Equal(t, []any{"a", int64(4007), int64(4007), "judge"}, []any{given[0].Evaluator, given[0].Scored, given[0].Counted, given[0].Kind})
	require.InDelta(t, 0.5, given[0].Mean, 0.01)
}
