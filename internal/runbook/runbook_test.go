package runbook

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

var onset = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestPlan(t *testing.T) {
	t.Parallel()
	var after []time.Duration
	for _, s := range Plan(0.1) {
		after = append(after, s.After)
	}
	require.Equal(t, []time.Duration{0, 12 * time.Second, 30 * time.Second, time.Minute, 3 * time.Minute}, after)
}

func TestJudgeChange(t *testing.T) {
	t.Parallel()
	deploy := func(before time.Duration) []usage.Deployment {
		return []usage.Deployment{{Service: "rag", Version: "v3.2", By: "ana", Timestamp: onset.Add(-before)}}
	}
	for name, c := range map[string]struct {
		deployments []usage.Deployment
		seen        []FirstSeen
		status      Status
		cause       string
	}{
		"nothing":                      {nil, nil, Clear, ""},
		"deployed a minute before":     {deploy(time.Minute), nil, Found, CauseDeployment},
		"deployed an hour before":      {deploy(time.Hour), nil, Clear, ""},
		"deployed well after":          {deploy(-5 * time.Minute), nil, Clear, ""},
		"a new template":               {nil, []FirstSeen{{"prompt_template_version", "rag-v3.2", onset.Add(-time.Minute), 0.9}}, Found, CauseFirstSeen},
		"a new template, little of it": {nil, []FirstSeen{{"prompt_template_version", "rag-v3.2", onset, 0.02}}, Clear, ""},
	} {
		v := JudgeChange(c.deployments, c.seen, onset)
		require.Equal(t, c.status, v.Status, name)
		require.Equal(t, c.cause, v.Cause, name)
		require.NotEmpty(t, v.Text, name)
	}
}

func TestJudgeProvider(t *testing.T) {
	t.Parallel()
	require.Equal(t, Unknown, JudgeProvider(ProviderHealth{Description: "timeout"}).Status)
	require.Equal(t, Clear, JudgeProvider(ProviderHealth{Provider: "anthropic", Indicator: "none", Description: "All Systems Operational"}).Status)
	v := JudgeProvider(ProviderHealth{Provider: "anthropic", Indicator: "major", Description: "Partial outage", Incident: "Elevated errors"})
	require.Equal(t, Verdict{Found, CauseProvider, "anthropic reports a major problem: Partial outage (Elevated errors)"}, v)
}

func TestJudgeCompletion(t *testing.T) {
	t.Parallel()
	require.Equal(t, CauseSpike, JudgeCompletion(Completion{Now: 1, Before: 0.5, Calls: 100}, 50).Cause)
	require.Equal(t, CauseDrop, JudgeCompletion(Completion{Now: 0.2, Before: 0.5, Calls: 100}, 50).Cause)
	require.Equal(t, Clear, JudgeCompletion(Completion{Now: 0.5, Before: 0.5, Calls: 100}, 50).Status)
	require.Equal(t, Unknown, JudgeCompletion(Completion{Now: 5, Before: 0.5, Calls: 49}, 50).Status)
	require.Equal(t, Unknown, JudgeCompletion(Completion{Now: 5, Calls: 100}, 50).Status)
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := Report{
		ID: "incident/o'brien/m/1", Key: usage.Key{Tenant: "o'brien", Model: "m"}, Opened: onset, Closed: onset.Add(10 * time.Minute),
		Finding: detect.Finding{
			Verdict: detect.Verdict{Level: detect.Page, Rule: "page-cost-and-quality", Reason: "cost is 3 × its baseline"},
			Facts:   detect.Facts{CostKnown: true, CostUSD: 0.003, CostBaseline: 0.001, CostRatio: 3},
		},
		Steps: []Done{{Step: Plan(1)[0], At: onset, Verdict: Verdict{Found, CauseDeployment, "ana deployed rag v3.2"}}, {Step: Plan(1)[1], At: onset, Verdict: Verdict{Clear, "", "fine"}}},
		Acts:  []Act{{Action: "downgrade", Target: "claude-3-haiku", State: "released", By: "bo", Effect: "treated costs 0.3 × the holdback"}},
	}
	require.Equal(t, CauseDeployment, Cause(r.Steps))
	require.Contains(t, r.Query(), `tenant_id = 'o\'brien'`)
	text := r.Markdown()
	for _, want := range []string{
		"closed 2026-01-01T12:10:00Z (10m)", "| $0.003000 | $0.001000 | × 3.00 |", "ana deployed rag v3.2",
		"downgrade to claude-3-haiku: released (by bo); treated costs 0.3 × the holdback", "model, prompt_template_version",
	} {
		require.Contains(t, text, want)
	}
}

func TestCorrelatedIsWhatExplainsTheIncident(t *testing.T) {
	t.Parallel()
	late := usage.Deployment{Service: "late", Timestamp: onset.Add(10 * time.Minute)}
	rag := usage.Deployment{Service: "rag", Version: "v3", Model: "b", Previous: map[string]string{"model": "a"}, Timestamp: onset.Add(-time.Minute)}
	require.Equal(t, "rag", Correlated([]usage.Deployment{late, rag}, onset).Service)
	require.Nil(t, Correlated([]usage.Deployment{late}, onset))
	require.Equal(t, "b", NewModel([]usage.Deployment{late, rag}, nil, onset))
	rag.Model = ""
	require.Equal(t, "rag v3", NewModel([]usage.Deployment{rag}, nil, onset), "a deployment that does not name its model")
	rag.Model = "a"
	require.Empty(t, NewModel([]usage.Deployment{rag}, nil, onset), "the same model as before")
	require.Equal(t, "x", NewModel(nil, []FirstSeen{{"prompt_template_version", "p", onset, 1}, {"model", "x", onset, 0.2}}, onset))
	require.Empty(t, NewModel(nil, []FirstSeen{{"model", "x", onset, 0.01}, {"model", "y", onset.Add(time.Hour), 1}}, onset))
}

func TestCauseIsWhatChecksFound(t *testing.T) {
	t.Parallel()
	plan := Plan(1)
	done := []Done{
		{Step: plan[0], Verdict: Verdict{Status: Clear}},
		{Step: plan[1], Verdict: Verdict{Found, CauseProvider, ""}},
		{Step: plan[4], Verdict: Verdict{Found, CauseSpike, ""}},
	}
	require.Equal(t, CauseProvider, Cause(done))
	require.Empty(t, CauseBefore(done, T2), "a step is no evidence for itself")
	done[1] = Again(done[1], Done{Step: plan[1], Verdict: Verdict{Status: Clear}})
	require.Empty(t, Cause(done), "the report only concludes")
	done[1] = Again(done[1], Done{Step: plan[1], Verdict: Verdict{Status: Unknown}})
	require.Equal(t, []Status{Found, Clear}, []Status{done[1].Earlier[0].Verdict.Status, done[1].Earlier[1].Verdict.Status})
	require.Empty(t, done[1].Earlier[1].Earlier, "history is a list, not a tree")
}

func TestReportTellsEverything(t *testing.T) {
	t.Parallel()
	rise, err := Attribute(Times{onset.Add(-time.Hour), onset, onset.Add(time.Hour)}, []string{ByTemplate}, []Flow{
		{Template: "rag-v3.2", Now: Traffic{Requests: 10, Cost: 2e12}, Before: Traffic{Requests: 10, Cost: 1e12}},
	})
	require.NoError(t, err)
	plan := Plan(1)
	text := Report{
		ID: "incident/t/m/1", Key: usage.Key{Tenant: "t", Model: "m"}, Opened: onset, Rise: &rise, Worst: []string{"trace-1"},
		Steps: []Done{
			{Step: plan[1], At: onset, Verdict: Verdict{Found, CauseDeployment, "a change explains it"}, Needs: "roll it back"},
			Again(Done{Step: plan[2], At: onset, Verdict: Verdict{Status: Unknown, Text: "too few calls"}}, Done{Step: plan[2], At: onset.Add(time.Minute), Verdict: Verdict{Status: Clear, Text: "as usual"}, Why: "walked again by ada"}),
		},
		Links: []string{"https://status.example.com"}, Notes: []Event{{onset, "ada: it is\n## the launch"}}, Timeline: []Event{{onset, "opened"}},
		Previous: &Past{ID: "incident/t/m/0", Opened: onset.Add(-time.Hour), Reason: "it went by itself", Query: "SELECT 1"}, Recalibration: "calibration/t",
	}.Markdown()
	for _, want := range []string{
		"still open", "## What carries it", "| rag-v3.2 |", "nobody took on what is to be done: roll it back", "walked again by ada", "- before, at 12:00:00, unknown: too few calls",
		"- trace-1\n", "<https://status.example.com>", "- 12:00:00 ada: it is ## the launch", "## When\n\n- 12:00:00 opened", "its cause stayed unclear. it went by itself", "SELECT 1", "`calibration/t`",
	} {
		require.Contains(t, text, want)
	}
}

func TestQueryOfEveryKindOfKey(t *testing.T) {
	t.Parallel()
	k := usage.Key{Tenant: "t", Model: "m"}
	query := func(k usage.Key) string { return Report{Key: k, Opened: onset}.Query() }
	require.Contains(t, query(k), "WHERE tenant_id = 't' AND requested_model = 'm'\n  AND timestamp >=")
	require.Contains(t, query(k.OfExperiment("ab")), "requested_model = 'm' AND experiment_id = 'ab'")
	require.Contains(t, query(usage.Key{Tenant: "t", Model: usage.AnyModel}), "WHERE tenant_id = 't'\n  AND timestamp")
	require.Contains(t, query(usage.Key{Tenant: "t", Model: usage.AnyModel}), "requested_model, model, count()")
	require.Contains(t, query(usage.Everything), "WHERE timestamp >=")
}

func TestWorstTracesInLines(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"a"}, Completion{Worst: []string{"a"}}.Lines())
	lines := Completion{Worst: []string{"a"}, Traces: []Trace{{ID: "a", Model: "m-1", Cost: 2e12, OutputTokens: 9}}}.Lines()
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "a: $2.00")
}

func TestLasting(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{
		"0s": 0, "10s": 10 * time.Second, "30m": 30 * time.Minute, "4m5s": 4*time.Minute + 5*time.Second, "10m": 10 * time.Minute,
		"2h": 2 * time.Hour, "2h30m": 150 * time.Minute, "1h0m3s": time.Hour + 3*time.Second, "1m20s": 80*time.Second + 300*time.Millisecond,
	} {
		require.Equal(t, want, lasting(d))
	}
}
