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
		"closed 2026-01-01T12:10:00Z (10m0s)", "| $0.003000 | $0.001000 | × 3.00 |", "ana deployed rag v3.2",
		"downgrade to claude-3-haiku: released (by bo); treated costs 0.3 × the holdback", "model, prompt_template_version",
	} {
		require.Contains(t, text, want)
	}
}
