package clickhouse

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/runbook"
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
		{ID: "4", TraceID: "costly", TenantID: "t", Model: "m", Timestamp: base.Add(2 * time.Minute), Score: 1, Kind: "human"},
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
	t.Run("flows", func(t *testing.T) {
		times := runbook.Times{Before: before, From: base, To: to}
		got, err := s.Flows(t.Context(), key, times)
		require.NoError(t, err)
		sums := func(n int64, cost usage.PicoUSD) runbook.Traffic { return runbook.Traffic{Requests: n, Cost: cost} }
		want := []runbook.Flow{
			{RequestedModel: "m", Model: "", Template: "", Now: runbook.Traffic{Scored: 3, ScoreCodes: 40 + 180 + 200}},
			{RequestedModel: "m", Model: "cheap", Template: "v2", Now: sums(10, 100)},
			{RequestedModel: "m", Model: "m-1", Template: "other", Before: sums(10, 500)},
			{RequestedModel: "m", Model: "m-1", Template: "v1", Now: sums(10, 1000), Before: sums(40, 4000)},
			{RequestedModel: "m", Model: "m-1", Template: "v2", Now: sums(32, 12_900)},
		}
		require.Equal(t, want, got, "of all arms, without experiments and human ratings")
		dear := runbook.Flow{RequestedModel: "dear", Model: "d-1", Template: "v1", Now: sums(80, 80_000), Before: sums(20, 20_000)}
		got, err = s.Flows(t.Context(), tenant, times)
		require.NoError(t, err)
		require.Equal(t, append([]runbook.Flow{dear}, want...), got)
		shift, err := runbook.JudgeShift(times, got)
		require.NoError(t, err)
		require.Equal(t, "callers turned to dear: 61 % of the calls against 29 % before, 85 % of the spend against 82 %", shift.Text)
		a, err := runbook.Attribute(times, []string{runbook.ByTemplate}, want)
		require.NoError(t, err)
		// An hour: v2 and its rerouted calls rise by 13,000 * 6, v1 from 4,000 * 3 to 1,000 * 6, other falls by 500 * 3.
		require.EqualValues(t, 78_000-6000-1500, a.Spend.Rise)
		require.Equal(t, "v2", a.Dimensions[0].Parts[0].Value)
		require.EqualValues(t, 78_000, a.Dimensions[0].Parts[0].Spend.Rise)
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

// testPastIncident: closed is the key's only incident so far.
func testPastIncident(t *testing.T, s *Store, closed contract.IncidentRecord) {
	ctx, key, later := t.Context(), closed.Key, closed.EndedAt.Add(time.Hour)
	past, err := s.PastIncident(ctx, key, later)
	require.NoError(t, err)
	require.Equal(t, contract.PastIncident{ID: closed.ID, Opened: closed.OpenedAt, Closed: closed.EndedAt, Reason: closed.Reason, Query: past.Query}, *past)
	require.Contains(t, past.Query, "tenant_id = 't'")
	requireRuns(t, s, past.Query)
	past, err = s.PastIncident(ctx, key, closed.OpenedAt)
	require.NoError(t, err)
	require.Nil(t, past, "an incident does not teach itself")
	past, err = s.PastIncident(ctx, usage.Key{Tenant: "t", Model: "another"}, later)
	require.NoError(t, err)
	require.Nil(t, past)

	state := contract.IncidentState{Steps: []runbook.Done{{Step: runbook.Plan(1)[0], Verdict: runbook.Verdict{Status: runbook.Found, Cause: runbook.CauseFirstSeen}}}}
	newer := closed
	newer.ID, newer.OpenedAt, newer.EndedAt = "incident/t/m/2", closed.OpenedAt.Add(time.Minute), closed.EndedAt.Add(time.Minute)
	newer.Detail, err = json.Marshal(state)
	require.NoError(t, err)
	newer.Report = "# What happened\n\n```sql\nSELECT 1\n```\n"
	member := newer
	member.ID, member.Rule, member.Detail, member.Report = contract.GroupID("provider:openai", newer.OpenedAt)+"/t/m/2", "provider:openai", nil, ""
	member.OpenedAt, member.EndedAt = newer.OpenedAt.Add(time.Minute), newer.EndedAt.Add(time.Minute)
	require.NoError(t, s.RecordIncidents(ctx, []contract.IncidentRecord{newer, member}))
	past, err = s.PastIncident(ctx, key, member.OpenedAt)
	require.NoError(t, err)
	require.Equal(t, contract.PastIncident{
		ID: newer.ID, Opened: newer.OpenedAt, Closed: newer.EndedAt, Cause: runbook.CauseFirstSeen, Reason: newer.Reason, Query: "SELECT 1",
	}, *past)
	past, err = s.PastIncident(ctx, key, later)
	require.NoError(t, err)
	require.Equal(t, "provider:openai", past.Cause, "as one of many keys")
	requireRuns(t, s, past.Query)
}

// requireRuns runs a query as it is printed, on this database.
func requireRuns(t *testing.T, s *Store, query string) {
	t.Helper()
	rows, err := s.conn.Query(t.Context(), strings.ReplaceAll(query, "flyball.", s.database+"."))
	require.NoError(t, err)
	require.NoError(t, rows.Close())
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
	past, err := s.PastIncident(ctx, key, now)
	require.NoError(t, err)
	require.Nil(t, past, "the only one is open")

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
	testPastIncident(t, s, closed)

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
