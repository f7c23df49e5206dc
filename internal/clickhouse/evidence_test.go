package clickhouse

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// calls are n equal spans of key (tenant t, model m) from a time on, a second apart.
func calls(n int, from time.Time, span usage.Span) []usage.Span {
	var spans []usage.Span
	for i := range n {
		s := span
		s.TenantID, s.Timestamp, s.Priced = "t", from.Add(time.Duration(i)*time.Second), true
		if s.RequestedModel == "" {
			s.RequestedModel = "m"
		}
		if s.TraceID == "" {
			s.TraceID = fmt.Sprint(s.Model, s.PromptTemplate, from.Unix(), i)
		}
		s.SpanID = s.TraceID
		spans = append(spans, s)
	}
	return spans
}

// testEvidence plays a regression: at base a new template asks the model m for thrice the output, a
// flag reroutes some calls, and callers of the tenant turn to a dearer model.
func testEvidence(t *testing.T, s *Store) {
	ctx := t.Context()
	key, tenant := usage.Key{Tenant: "t", Model: "m"}, usage.Key{Tenant: "t", Model: usage.AnyModel}
	base := time.Now().UTC().Truncate(time.Minute).Add(-2 * time.Hour)
	before, to := base.Add(-20*time.Minute), base.Add(10*time.Minute)
	tokens := func(input, output int64) usage.Tokens { return usage.Tokens{UncachedInput: input, Output: output} }
	var spans []usage.Span
	for _, part := range [][]usage.Span{
		calls(40, before, usage.Span{Model: "m-1", PromptTemplate: "v1", Cost: 100, Tokens: tokens(1000, 200)}),
		calls(10, before, usage.Span{Model: "m-1", PromptTemplate: "other", Cost: 50, Tokens: tokens(100, 10)}),
		calls(20, before, usage.Span{RequestedModel: "dear", Model: "d-1", PromptTemplate: "v1", Cost: 1000, Tokens: tokens(10, 10)}),
		calls(10, base, usage.Span{Model: "m-1", PromptTemplate: "v1", Cost: 100, Tokens: tokens(1000, 200)}),
		calls(30, base, usage.Span{Model: "m-1", PromptTemplate: "v2", Cost: 400, Tokens: tokens(1000, 600)}),
		calls(10, base.Add(3*time.Minute), usage.Span{Model: "cheap", PromptTemplate: "v2", Cost: 10, Tokens: tokens(1000, 9000), Arm: usage.Treated}),
		calls(5, base, usage.Span{Model: "m-1", PromptTemplate: "lab", Cost: 7, Tokens: tokens(1, 1), ExperimentID: "ab"}),
		calls(80, base, usage.Span{RequestedModel: "dear", Model: "d-1", PromptTemplate: "v1", Cost: 1000, Tokens: tokens(10, 10)}),
		calls(1, base.Add(time.Minute), usage.Span{Model: "m-1", PromptTemplate: "v2", Cost: 500, Tokens: tokens(1000, 600), TraceID: "costly"}),
		calls(1, base.Add(time.Minute), usage.Span{Model: "m-1", PromptTemplate: "v2", Cost: 400, Tokens: tokens(1000, 600), TraceID: "bad"}),
	} {
		spans = append(spans, part...)
	}
	require.NoError(t, s.InsertSpans(ctx, spans, "a"))
	require.NoError(t, s.InsertQuality(ctx, []usage.Quality{
		{ID: "1", TraceID: "bad", TenantID: "t", Model: "m", Timestamp: base.Add(2 * time.Minute), Score: 0.2, Kind: "judge"},
		{ID: "2", TraceID: "bad", TenantID: "t", Model: "m", Timestamp: base.Add(2 * time.Minute), Score: 0.9, Kind: "judge"},
		{ID: "3", TraceID: "costly", TenantID: "t", Model: "m", Timestamp: base.Add(2 * time.Minute), Score: 1, Kind: "judge"},
	}, "a"))

	t.Run("first seen", func(t *testing.T) {
		got, err := s.FirstSeen(t.Context(), key, base, to, time.Hour)
		require.NoError(t, err)
		require.Equal(t, []Sighting{
			{SeenTemplate, "v2", base, 32},
		}, got, "not what a flag or an experiment brought")
		got, err = s.FirstSeen(t.Context(), key, base, to, time.Minute)
		require.NoError(t, err)
		require.Empty(t, got, "without earlier traffic nothing is new")
		got, err = s.FirstSeen(t.Context(), tenant, base, to, time.Hour)
		require.NoError(t, err)
		require.Len(t, got, 1)
	})
	t.Run("completion", func(t *testing.T) {
		outcome := func(id string, arm usage.Arm, experiment string, value float64, at time.Time) usage.Outcome {
			return usage.Outcome{ID: id, TraceID: id, TenantID: "t", Model: "m", PromptTemplate: "v1", ExperimentID: experiment, Arm: arm, Kind: "k", Value: value, Timestamp: at}
		}
		require.NoError(t, s.InsertOutcomes(t.Context(), []usage.Outcome{
			outcome("1", usage.None, "", 1, base), outcome("2", usage.Holdback, "", 0, base), outcome("3", usage.Treated, "", 1, base),
			outcome("4", usage.None, "ab", 1, base), outcome("5", usage.None, "", 2, base.Add(-time.Minute)), outcome("6", usage.None, "", 1, base.Add(-time.Minute)),
		}, "a"))
		got, err := s.Completion(t.Context(), key, base, to)
		require.NoError(t, err)
		require.Equal(t, []CompletionChange{
			{Template: "v2", Requests: 32, Ratio: 0.6},
			{Template: "v1", Requests: 10, RequestsBefore: 40, Ratio: 0.2, RatioBefore: 0.2, Change: 1, Outcomes: 2, Good: 1, OutcomesBefore: 2, GoodBefore: 2},
			{Template: "other", RequestsBefore: 10, RatioBefore: 0.1},
		}, got)
	})
	t.Run("attribution", func(t *testing.T) {
		got, err := s.Attribution(t.Context(), key, base, to, before, base)
		require.NoError(t, err)
		// Per minute: v2 rises by 12,900/10; v1 from 4,000/20 to 1,000/10; other falls by 500/20; cheap adds 100/10.
		rise := 1290. - 100 - 25 + 10
		want := []Attribution{
			{"m", "m-1", "v2", 32, 0, 12_900, 0, 1290 / rise},
			{"m", "cheap", "v2", 10, 0, 100, 0, 10 / rise},
			{"m", "m-1", "other", 0, 10, 0, 500, -25 / rise},
			{"m", "m-1", "v1", 10, 40, 1000, 4000, -100 / rise},
		}
		require.Len(t, got, len(want))
		for i := range want {
			require.InDelta(t, want[i].Share, got[i].Share, 1e-12)
			got[i].Share = want[i].Share
		}
		require.Equal(t, want, got)
		_, err = s.Attribution(t.Context(), key, base, base, before, base)
		require.ErrorContains(t, err, "a range is empty")
	})
	t.Run("model shares", func(t *testing.T) {
		got, err := s.ModelShares(t.Context(), "t", base, to, before, base)
		require.NoError(t, err)
		require.Equal(t, []ModelShare{
			{"dear", 80, 20, 80. / 132, 20. / 70, 80_000, 20_000},
			{"m", 52, 50, 52. / 132, 50. / 70, 14_000, 4500},
		}, got)
	})
	t.Run("worst traces", func(t *testing.T) {
		got, err := s.WorstTraces(t.Context(), key, base, to, 3)
		require.NoError(t, err)
		require.Len(t, got, 3)
		require.Equal(t, []string{"bad", "costly"}, []string{got[0].TraceID, got[1].TraceID})
		require.InDelta(t, 0.2, *got[0].Score, 1e-9)
		require.Nil(t, got[2].Score)
		require.EqualValues(t, 400, got[2].Cost)
		got, err = s.WorstTraces(t.Context(), tenant, base, to, 1)
		require.NoError(t, err)
		require.Equal(t, "bad", got[0].TraceID, "400 at a score of 0.2 is 2,000 per unit of quality")
	})
	t.Run("deployments", func(t *testing.T) {
		shipped := []usage.Deployment{
			{ID: "ours", Service: "rag", TenantID: "t", Model: "m", PromptTemplate: "v2", Previous: map[string]string{"prompt_template_version": "v1"}, Version: "7", By: "kim", Timestamp: base},
			{ID: "global", Service: "gateway", Version: "1", Previous: map[string]string{}, Timestamp: base.Add(-time.Minute)},
			{ID: "other model", TenantID: "t", Model: "x", Previous: map[string]string{}, Timestamp: base},
			{ID: "other tenant", TenantID: "u", Model: "m", Previous: map[string]string{}, Timestamp: base},
			{ID: "too late", TenantID: "t", Previous: map[string]string{}, Timestamp: to},
		}
		require.NoError(t, s.InsertDeployments(t.Context(), shipped, "a"))
		require.NoError(t, s.InsertDeployments(t.Context(), shipped[:1], "b"), "the same deployment reported again")
		got, err := s.Deployments(t.Context(), key, before, to)
		require.NoError(t, err)
		require.Equal(t, shipped[:2], got)
		got, err = s.Deployments(t.Context(), tenant, before, to)
		require.NoError(t, err)
		require.Len(t, got, 3)
	})
}

func TestAttributeSharesSumToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Attribution {
			return Attribution{
				Cost:       usage.PicoUSD(rapid.Int64Range(0, math.MaxInt64).Draw(t, "cost")),
				CostBefore: usage.PicoUSD(rapid.Int64Range(0, math.MaxInt64).Draw(t, "before")),
			}
		}), 1, 5).Draw(t, "parts")
		now, before := rapid.Int64Range(1, 1440).Draw(t, "now"), rapid.Int64Range(1, 40_000).Draw(t, "before")
		rise := new(big.Rat)
		for _, p := range parts {
			rise.Add(rise, big.NewRat(int64(p.Cost), now))
			rise.Sub(rise, big.NewRat(int64(p.CostBefore), before))
		}
		attribute(parts, now, before)
		sum, size := 0., 0.
		for _, p := range parts {
			sum += p.Share
			size += math.Abs(p.Share)
		}
		if rise.Sign() <= 0 {
			require.Zero(t, size)
			return
		}
		require.InDelta(t, 1, sum, 1e-12*(1+size))
	})
}

func testLive(t *testing.T, s *Store) {
	base := time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)
	spans := append(calls(3, base, usage.Span{Model: "m", Cost: 100, Tokens: usage.Tokens{UncachedInput: 5, CacheRead: 5, Output: 1}}),
		calls(1, base.Add(6*time.Minute), usage.Span{Model: "m", Cost: 800, Tokens: usage.Tokens{UncachedInput: 5, Output: 1}})...)
	spans = append(spans, usage.Span{TenantID: "u", RequestedModel: "free", Model: "free", Timestamp: base})
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), []usage.Quality{
		{ID: "1", TenantID: "t", Model: "m", Timestamp: base, Score: 0.5, Kind: "judge"},
		{ID: "2", TenantID: "t", Model: "m", Timestamp: base, Score: 0.7, Kind: "judge"},
		{ID: "3", TenantID: "t", Model: "m", Timestamp: base, Score: 0.1, Kind: "human"},
	}, "a"))
	points, err := s.Live(t.Context(), base, base.Add(10*time.Minute), 5*time.Minute, 10)
	require.NoError(t, err)
	key := usage.Key{Tenant: "t", Model: "m"}
	require.Len(t, points, 3)
	require.InDelta(t, math.Log(100), points[0].CostP50, 0.01)
	require.InDelta(t, math.Log(800), points[1].CostP50, 0.01)
	points[0].CostP50, points[1].CostP50 = 0, 0
	require.Equal(t, []SeriesPoint{
		{Key: key, Arm: usage.None, At: base, Requests: 3, Spend: 300, CostN: 3, Quality: 0.5, Scored: 2},
		{Key: key, Arm: usage.None, At: base.Add(5 * time.Minute), Requests: 1, Spend: 800, CostN: 1},
		{Key: usage.Key{Tenant: "u", Model: "free"}, Arm: usage.None, At: base, Requests: 1},
	}, points)
	_, err = s.Live(t.Context(), base, base.Add(time.Hour), 90*time.Second, 10)
	require.ErrorContains(t, err, "whole minutes")

	totals, err := s.Totals(t.Context(), base, base.Add(10*time.Minute))
	require.NoError(t, err)
	require.Equal(t, Totals{Keys: 2, Requests: 5, Unpriced: 1, InputTokens: 35, OutputTokens: 4, CacheRead: 15, Spend: big.NewInt(1100), Scored: 2, MeanQuality: 0.6}, totals)
	totals, err = s.Totals(t.Context(), base.Add(-time.Hour), base)
	require.NoError(t, err)
	require.Zero(t, totals.Spend.Sign())
	require.Equal(t, Totals{Spend: totals.Spend}, totals)
}

func testAudit(t *testing.T, s *Store) {
	ctx := t.Context()
	now := time.Now().UTC().Truncate(time.Millisecond)
	key := usage.Key{Tenant: "t", Model: "m"}
	open := contract.IncidentRecord{
		ID: "incident/t/m/1", Key: key, OpenedAt: now.Add(-time.Hour), Level: "PAGE", State: "open", Step: "T+2",
		Rule: "cost-and-quality", Reason: "cost × 3", Detail: json.RawMessage(`{"a":1}`), UpdatedAt: now,
	}
	require.NoError(t, s.RecordIncident(ctx, open))
	older := open
	older.Step, older.UpdatedAt = "T0", now.Add(-time.Minute)
	require.NoError(t, s.RecordIncident(ctx, older))
	got, err := s.Incidents(ctx, now)
	require.NoError(t, err)
	require.Equal(t, []contract.IncidentRecord{open}, got, "an older update changes nothing")
	_, found, err := s.LastReport(ctx, key)
	require.NoError(t, err)
	require.False(t, found)

	closed := open
	closed.State, closed.EndedAt, closed.Report, closed.UpdatedAt = "resolved", now.Add(time.Minute), "# What happened\n\n| a | b |", now.Add(time.Minute)
	require.NoError(t, s.RecordIncident(ctx, closed))
	require.NoError(t, s.RecordIncident(ctx, closed))
	got, err = s.Incidents(ctx, now)
	require.NoError(t, err)
	require.Equal(t, []contract.IncidentRecord{closed}, got)
	got, err = s.Incidents(ctx, time.Time{})
	require.NoError(t, err)
	require.Len(t, got, 1, "of all times")
	got, err = s.Incidents(ctx, now.Add(time.Hour))
	require.NoError(t, err)
	require.Empty(t, got, "it ended before")
	last, found, err := s.LastReport(ctx, key)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, closed, last)

	decision := contract.DecisionRecord{
		ID: "decision/incident/t/m/1/downgrade/1", Incident: open.ID, Key: key, OpenedAt: now, Action: "downgrade", Mode: contract.Ask,
		Value: "small", Status: contract.AwaitingApproval, Effect: contract.Unproven, Reason: "needs a person", Rule: "downgrade-on-cost", Revision: "r1", UpdatedAt: now,
	}
	require.NoError(t, s.RecordDecision(ctx, decision))
	decision.Status, decision.By, decision.Share, decision.UpdatedAt = contract.Actuating, "kim", 0.5, now.Add(time.Second)
	require.NoError(t, s.RecordDecision(ctx, decision))
	decisions, err := s.Decisions(ctx, open.ID)
	require.NoError(t, err)
	require.Equal(t, []contract.DecisionRecord{decision}, decisions)
	decisions, err = s.Decisions(ctx, "incident/t/m/2")
	require.NoError(t, err)
	require.Empty(t, decisions)

	at, err := s.LastActEnded(ctx, key)
	require.NoError(t, err)
	require.Zero(t, at, "none has ended")
	for n, ended := range []struct {
		model  string
		after  time.Duration
		shares []float64
	}{
		{key.Model, time.Minute, []float64{0, 0.1, 0.5, 0}},
		{key.Model, 2 * time.Minute, []float64{0, 0.1, 0}},
		{key.Model, 3 * time.Minute, []float64{0, 0}}, // a question that nobody answered
		{"another", 4 * time.Minute, []float64{0, 0.1, 0}},
	} {
		var state contract.DecisionState
		for _, share := range ended.shares {
			state.History = append(state.History, contract.Transition{At: now, Share: share})
		}
		decision.ID, decision.Key.Model = fmt.Sprintf("decision/incident/t/m/1/downgrade/%d", n+2), ended.model
		decision.Share, decision.Status, decision.EndedAt, decision.UpdatedAt = 0, contract.Expired, now.Add(ended.after), now.Add(ended.after)
		decision.Detail, err = json.Marshal(state)
		require.NoError(t, err)
		require.NoError(t, s.RecordDecision(ctx, decision))
	}
	at, err = s.LastActEnded(ctx, key)
	require.NoError(t, err)
	require.Equal(t, now.Add(2*time.Minute), at)
}
