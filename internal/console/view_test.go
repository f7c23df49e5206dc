package console_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestNewIncident(t *testing.T) {
	key := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	plan := runbook.Plan(0.1)
	state := contract.IncidentState{
		ID:    contract.IncidentID(key, noon),
		Input: contract.IncidentInput{Key: key, Opened: noon, Tuning: contract.NewTuning(0.1)},
		Level: detect.Page, Phase: contract.IncidentOpen, Silent: true, Advice: "roll it back by hand",
		Acknowledged: &contract.Acknowledgement{Who: "Dana", Note: "looking", At: noon},
		Notes:        []contract.Note{{Who: "Eve", Text: "rolled back", At: noon}},
		Mute:         &contract.Mute{Until: noon.Add(time.Hour), Who: "Eve", Reason: "it is known"},
		Evidence:     contract.Evidence{Attribution: &runbook.Attribution{}},
		Previous:     &contract.PastIncident{ID: "incident/a/b/1", Opened: noon.Add(-time.Hour), Cause: "deployment", Query: "SELECT 1"},
		Steps: []runbook.Done{
			{Step: plan[0], At: noon.Add(time.Second), Verdict: runbook.Verdict{Status: runbook.Clear, Text: "no change"}},
			{Step: plan[1], At: noon.Add(13 * time.Second), Verdict: runbook.Verdict{Status: runbook.Unknown, Text: "no answer"}},
		},
		Finding: detect.Finding{
			Verdict: detect.Verdict{Rule: "cost_and_quality", Reason: "dear and bad"},
			Facts: detect.Facts{
				WindowMinutes: 2, CostKnown: true, CostSamples: 178, CostUSD: 0.012834, CostBaseline: 0.0044012,
				QualityKnown: true, QualitySamples: 36, Quality: 0.7, QualityBaseline: 0.88,
				SpendKnown: true, SpendPerMinute: 1234.56, CacheKnown: true, CacheHit: 0.1, CacheBaseline: 0.42,
			},
		},
	}
	got := console.NewIncident(state, "http://ui/x", noon)
	require.Equal(t, console.Incident{
		ID: state.ID, Handle: contract.Handle(state.ID), Key: key, Level: "PAGE", State: "taken by Dana, no telemetry", Opened: noon,
		Rule: "cost_and_quality", Reason: "dear and bad", Advice: "roll it back by hand", Link: "http://ui/x",
		Carried:      "there is no traffic before the incident to compare with",
		Acknowledged: &console.Remark{Who: "Dana", Text: "looking", At: noon},
		Notes:        []console.Remark{{Who: "Eve", Text: "rolled back", At: noon}},
		Mute:         &console.Mute{Target: state.ID, Until: noon.Add(time.Hour), Who: "Eve", Reason: "it is known"},
		Previous: &console.Previous{
			ID: "incident/a/b/1", Handle: contract.Handle("incident/a/b/1"), Opened: noon.Add(-time.Hour), Cause: "deployment", Query: "SELECT 1",
		},
		Evidence: []console.Evidence{
			{What: "Median cost of a call", Now: "$0.0128", Usual: "usually $0.0044"},
			{What: "Median quality", Now: "0.70", Usual: "usually 0.88"},
			{What: "Spend per minute", Now: "$1230", Usual: "usually $0"},
			{What: "Input read from cache", Now: "10 %", Usual: "usually 42 %"},
			{What: "Samples in 2 min", Now: "178 costs, 36 scores"},
		},
		Steps: []console.Step{
			{Name: "T0", Title: plan[0].Title, Status: "clear", Text: "no change", At: noon.Add(time.Second)},
			{Name: "T+2", Title: plan[1].Title, Status: "unknown", Text: "no answer", At: noon.Add(13 * time.Second)},
			{Name: "T+5", Title: plan[2].Title, Status: "pending", At: noon.Add(30 * time.Second)},
			{Name: "T+10", Title: plan[3].Title, Status: "pending", At: noon.Add(time.Minute)},
			{Name: "T+30", Title: plan[4].Title, Status: "pending", At: noon.Add(3 * time.Minute)},
		},
	}, got)
	require.Nil(t, console.NewIncident(state, "", noon.Add(time.Hour)).Mute, "it is over")
}

func TestNewGroup(t *testing.T) {
	key := usage.Key{Tenant: "org_42", Model: "gpt-4o"}
	id := contract.GroupID("provider:openai", noon)
	plan := runbook.Plan(1)
	got := console.NewGroup(contract.GroupState{
		ID: id, Input: contract.GroupInput{Cause: "provider:openai", Opened: noon, Tuning: contract.NewTuning(1)},
		Level: detect.Page, Phase: contract.IncidentRecovering, Reason: "two keys fail by it",
		Keys: []contract.GroupKey{
			{Key: key, Level: detect.Page, Reason: "dear"},
			{Key: usage.Key{Tenant: "acme", Model: "o3"}, Level: detect.Investigate, LeftAt: noon, Left: contract.Parted},
		},
		Steps:        []runbook.Done{{Step: plan[0], At: noon, Verdict: runbook.Verdict{Status: runbook.Found, Text: "openai is down"}}},
		Acknowledged: &contract.Acknowledgement{Who: "Dana", At: noon},
		Mute:         &contract.Mute{Until: noon.Add(time.Hour), Who: "Dana"},
	}, "http://ui/g", noon)
	require.Equal(t, "provider:openai", got.Cause)
	require.Equal(t, "recovering", got.State)
	require.Equal(t, []console.Member{{Key: key, Level: "PAGE", Reason: "dear"}, {Key: usage.Key{Tenant: "acme", Model: "o3"}, Level: "INVESTIGATE", Left: "parted"}}, got.Keys)
	require.Equal(t, "openai is down", got.Steps[0].Text)
	require.Equal(t, "Dana", got.Acknowledged.Who)
	require.Equal(t, id, got.Mute.Target)
}

func TestNewDecision(t *testing.T) {
	key := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	state := contract.DecisionState{
		ID: "decision/incident/org_42/claude-3-opus/1/downgrade/1",
		Input: contract.DecisionInput{
			Key: key, Incident: "incident/org_42/claude-3-opus/1",
			Proposal: contract.Proposal{Action: "downgrade", Value: "claude-3-sonnet", Rule: "downgrade_on_page", Reason: "it is cheaper"},
		},
		Status: contract.AwaitingApproval, Reason: "asked", Opened: noon, ExpiresAt: noon.Add(time.Hour),
		Trust: &contract.TrustAnswer{Approved: 3, Needed: 10},
		Plan:  contract.RolloutPlan{Plan: routing.Plan{Steps: []float64{0.5}, Holdback: 0.5, Reason: "3 calls a minute are too few"}},
	}
	asked := console.NewDecision(state, "")
	require.True(t, asked.Waiting)
	require.Equal(t, "it is cheaper", asked.Reason)
	require.Equal(t, "Its help cannot be proved: 3 calls a minute are too few", asked.Caution)
	require.Equal(t, "3 of 10 approvals before it may act by itself", asked.Trust)
	require.Equal(t, []float64{0.5}, asked.Shares)

	state.Status, state.Share, state.Plan.Plan.Provable = contract.Actuating, 0.5, true
	state.Rollout.Effect = &routing.Comparison{Reason: "the act helps"}
	acting := console.NewDecision(state, "")
	require.False(t, acting.Waiting)
	require.Equal(t, "asked", acting.Reason)
	require.Equal(t, "the act helps", acting.Effect)
	require.Empty(t, acting.Caution+acting.Trust)

	state.Frozen = "the cause is unclear"
	require.Equal(t, "Frozen at its share: the cause is unclear", console.NewDecision(state, "").Effect)
}
