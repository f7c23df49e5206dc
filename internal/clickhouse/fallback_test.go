package clickhouse

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testFallbackCases: what a gateway marked a span with is what is read, once however often the span is stored.
func testFallbackCases(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	fired := &routing.Case{
		Rule: "fallback/a", Task: "rag", Model: "big", Instead: "small", Estimate: 300_000_000_001, Cheaper: 25_000_000_000,
		Ceiling: 50_000_000_000, Quality: 0.551, Threshold: 0.7, Predictor: "v3",
	}
	span := func(tenant string, i int, arm usage.Arm, tags map[string]string) usage.Span {
		return usage.Span{
			TraceID: fmt.Sprint("t", i), SpanID: "s", TenantID: tenant, SessionID: "c1", RequestedModel: "big", Model: "big", Task: "rag",
			Timestamp: now.Add(time.Duration(i) * time.Second), Cost: 7, Priced: true, PriceVersion: "v", Complexity: 1, Arm: arm, Tags: tags,
		}
	}
	marked := fired.Mark(map[string]string{"team": "search"})
	var spans []usage.Span
	for i := range 4 {
		spans = append(spans, span("org_1", 10-i, usage.None, marked))
	}
	spans = append(spans,
		span("org_1", 1, usage.Treated, marked), span("org_2", 2, usage.None, marked), span("org_2", 3, usage.None, nil),
		span(usage.DrillPrefix+"-x", 4, usage.None, marked), span("org_3", 5, usage.None, map[string]string{routing.TagRule: "fallback/a", routing.TagEstimate: "much"}))
	require.NoError(t, s.InsertSpans(t.Context(), spans, "f1"))
	require.NoError(t, s.InsertSpans(t.Context(), spans, "f1"), "a retry")
	require.NoError(t, s.InsertSpans(t.Context(), spans[:1], "f2"), "a span that came again, by another way")

	read := func(q FallbackQuery) []contract.FallbackCase {
		cases, err := s.FallbackCases(t.Context(), q)
		require.NoError(t, err)
		return cases
	}
	traces := func(q FallbackQuery) (found []string) {
		for _, c := range read(q) {
			found = append(found, c.Tenant+" "+c.Trace)
		}
		return found
	}
	asked := FallbackQuery{From: from, To: to, Stored: true, Shadowed: true, PerTenant: 3}
	require.Equal(t, []string{"org_2 t2", "org_3 t5", "org_1 t7", "org_1 t8", "org_1 t9"}, traces(asked))
	require.Equal(t, []string{"org_1 t1", "org_1 t7", "org_1 t8", "org_1 t9", "org_1 t10"}, traces(FallbackQuery{From: from, To: to, Tenant: "org_1", PerTenant: 100}))
	require.Empty(t, read(FallbackQuery{From: now.Add(-time.Hour), To: now, PerTenant: 100}), "made later")

	got := read(asked)
	require.Equal(t, contract.FallbackCase{
		Case: *fired, Tenant: "org_2", Trace: "t2", Span: "s", Session: "c1", At: now.Add(2 * time.Second), Served: "big", Arm: usage.None, Cost: 7,
	}, got[0])
	require.Zero(t, got[1].Estimate, "forged")
	testFallbackWorth(t, s, now)
}

// testFallbackWorth: calls that fell back cost 5 less and score 0.1 less than the holdback, and other tenants, other
// decisions and shadowed calls are in no sum.
func testFallbackWorth(t *testing.T, s *Store, now time.Time) {
	var spans []usage.Span
	var scores []usage.Quality
	for i := range 400 {
		span := usage.Span{
			TraceID: fmt.Sprint("w", i), SpanID: "s", TenantID: "org_worth", SessionID: fmt.Sprint("c", i/4), RequestedModel: "big", Model: "small",
			Timestamp: now.Add(time.Duration(i) * time.Millisecond), Cost: 20, Priced: true, PriceVersion: "v", Complexity: 1,
			Arm: usage.Treated, DecisionID: "fallback/a", Route: routing.Fallback,
		}
		score := 0.7
		if i/4%4 == 0 {
			span.Arm, span.Model, span.Cost, score = usage.Holdback, "big", 25, 0.8
		}
		switch i % 10 {
		case 8:
			span.DecisionID, span.Cost = "decision/x", 1000
		case 9:
			span.TenantID, span.Cost = usage.DrillPrefix, 1000
		}
		spans = append(spans, span)
		scores = append(scores, usage.Quality{
			ID: fmt.Sprint("w", i), TraceID: span.TraceID, TenantID: span.TenantID, Model: "big", Arm: span.Arm, Evaluator: "e", EvaluatorVersion: "1",
			Score: score, Confidence: 1, Kind: "judge", Timestamp: span.Timestamp,
		})
	}
	require.NoError(t, s.InsertSpans(t.Context(), spans, "w1"))
	require.NoError(t, s.InsertQuality(t.Context(), scores, "w2"))
	worth, err := s.FallbackWorth(t.Context(), WorthQuery{From: now.Add(-time.Minute), To: now.Add(time.Minute)})
	require.NoError(t, err)
	worth = slices.DeleteFunc(worth, func(w contract.FallbackWorth) bool { return w.Tenant != "org_worth" && w.Tenant != usage.DrillPrefix })
	require.Len(t, worth, 1, "drills are left out")
	w := worth[0]
	require.Equal(t, "fallback/a", w.Rule)
	require.Equal(t, int64(320), w.Treated+w.Holdback)
	require.Equal(t, 5*w.Treated, w.Saved.Pico.Int64())
	require.Equal(t, w.Saved.Pico, w.Saved.Low, "no spread")
	require.InDelta(t, -0.1, w.Quality.By, 1e-6)
	require.NotNil(t, w.Quality.Low)
	none, err := s.FallbackWorth(t.Context(), WorthQuery{From: now.Add(-time.Minute), To: now.Add(time.Minute), Tenant: "org_nobody"})
	require.NoError(t, err)
	require.Empty(t, none)
}
