package clickhouse

import (
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testScoredTuples joins what routers knew with the scores that count, and with no others.
func testScoredTuples(t *testing.T, s *Store) {
	ctx, at := t.Context(), time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	e := router.NewExtractor("salt")
	features, err := e.Features("How many ducks?").MarshalBinary()
	require.NoError(t, err)
	tuple := func(trace, span, tenant string) usage.Tuple {
		return usage.Tuple{
			TraceID: trace, SpanID: span, TenantID: tenant, Task: "chat", RequestedModel: "big", Model: "small", Timestamp: at,
			Reading: e.Name(), Features: features, EstimatedCost: 7, Predictor: "v", Predicted: 0.25,
		}
	}
	other := tuple("t4", "s", "org")
	other.Reading = "another"
	tuples := []usage.Tuple{tuple("t1", "a", "org"), tuple("t1", "b", "org"), tuple("t2", "s", "org"), tuple("t3", "s", "org"), other}
	require.NoError(t, s.InsertTuples(ctx, tuples, "one"))
	require.NoError(t, s.InsertTuples(ctx, tuples, "one"), "again, after an answer was lost")
	require.EqualValues(t, 5, number(t, s, "SELECT count() FROM tuples"))
	require.EqualValues(t, 5, number(t, s, "SELECT countIf(estimated_cost_pico_usd = 7 AND predictor = 'v' AND predicted_quality = 0.25 AND requested_model = 'big') FROM tuples"))

	score := func(id, tenant, trace, span string, value float64, change func(*usage.Quality)) usage.Quality {
		q := usage.Quality{
			ID: id, TraceID: trace, SpanID: span, TenantID: tenant, Model: "small", Evaluator: id, EvaluatorVersion: "1", Kind: "judge",
			Score: value, Confidence: 1, Timestamp: at.Add(time.Minute),
		}
		if change != nil {
			change(&q)
		}
		return q
	}
	require.NoError(t, s.InsertQuality(ctx, []usage.Quality{
		score("whole", "org", "t1", "", 0.5, nil), // of the whole trace
		score("own", "org", "t1", "a", 0.9, func(q *usage.Quality) { q.Mapped, q.Calibrated = true, 1 }),
		score("aside", "org", "t1", "a", 0, func(q *usage.Quality) { q.Aside = true }),
		score("ana", "org", "t1", "b", 0, func(q *usage.Quality) { q.Kind = "human" }),
		score("stranger", "other", "t2", "s", 1, nil),
		score("reading", "org", "t4", "s", 1, nil),
	}, "scores"))
	got, err := s.ScoredTuples(ctx, e.Name(), at, at.Add(time.Second))
	require.NoError(t, err)
	name := sha256.Sum256(features)
	want := router.Tuple{Prompt: string(name[:]), Features: e.Features("How many ducks?"), Task: "chat", Model: "small", At: at, Score: 0.75}
	second := want
	second.Score = 0.5
	require.Equal(t, []router.Tuple{want, second}, got)
	got, err = s.ScoredTuples(ctx, e.Name(), at.Add(time.Second), at.Add(time.Hour))
	require.NoError(t, err)
	require.Empty(t, got)
}

// testPredictors stores versions and what becomes of them; the latest state of each stands.
func testPredictors(t *testing.T, s *Store) {
	ctx, at := t.Context(), time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	salt, err := s.RouterSalt(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, salt)
	again, err := s.RouterSalt(ctx)
	require.NoError(t, err)
	require.Equal(t, salt, again)

	_, err = s.Predictor(ctx, "v1")
	require.ErrorIs(t, err, ErrNoPredictor)
	for i, version := range []string{"v1", "v2"} {
		m := &router.Model{Version: version, TrainedAt: at.Add(time.Duration(i) * time.Hour), Features: "r", N: 200 + i}
		raw, err := json.Marshal(m)
		require.NoError(t, err)
		require.NoError(t, s.AddPredictor(ctx, m, raw))
		back, err := s.Predictor(ctx, version)
		require.NoError(t, err)
		require.Equal(t, raw, back)
	}
	require.NoError(t, s.SetPredictorStates(ctx, []router.Change{{Version: "v1", State: router.InUse, Since: at, By: "ana", Reason: "first"}}))
	require.NoError(t, s.SetPredictorStates(ctx, []router.Change{
		{Version: "v2", State: router.InUse, Since: at.Add(2 * time.Hour), By: "ana", Reason: "better"},
		{Version: "v1", State: router.Retired, Since: at.Add(2 * time.Hour), By: "ana", Reason: "better"},
	}))
	all, err := s.Predictors(ctx)
	require.NoError(t, err)
	v1 := router.Version{Version: "v1", TrainedAt: at, N: 200, State: router.Retired, Since: at.Add(2 * time.Hour), By: "ana", Reason: "better", Used: true}
	v2 := router.Version{Version: "v2", TrainedAt: at.Add(time.Hour), N: 201, State: router.InUse, Since: at.Add(2 * time.Hour), By: "ana", Reason: "better", Used: true}
	require.Equal(t, []router.Version{v2, v1}, all)
	line := router.LineupOf(all)
	require.Equal(t, "v2", line.InUse.Version)
	require.Equal(t, "v1", line.Before.Version)
}
