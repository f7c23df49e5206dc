package workflows

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

// The details are read as they are, so the golden files are: testdata/details/*.md.
func TestDetails(t *testing.T) {
	for name, text := range map[string]string{
		"sweep_begins":        sweepDetails(contract.SweepState{Rounds: 3}),
		"sweep_well":          sweepDetails(sweepState(0)),
		"sweep_failing":       sweepDetails(sweepState(7)),
		"alertloop_pending":   alertLoopDetails(loopState(alert.Pending, nil), night),
		"alertloop_firing":    alertLoopDetails(loopState(alert.Firing, withIncident), night),
		"alertloop_silent":    alertLoopDetails(loopState(alert.Firing, func(s *contract.AlertLoopState) { withIncident(s); s.Alert.Silent = true }), night),
		"alertloop_closing":   alertLoopDetails(loopState(alert.Quiet, func(s *contract.AlertLoopState) { withIncident(s); s.Closing, s.Flags = true, s.Flags[:1] }), night),
		"incident_opened":     incidentDetails(incidentState(nil)),
		"incident_asks":       incidentDetails(incidentState(asksPeople)),
		"incident_template":   incidentDetails(incidentState(templateDeployed)),
		"incident_recovering": incidentDetails(incidentState(recovers)),
		"incident_closing": incidentDetails(incidentState(func(s *contract.IncidentState) {
			recovers(s)
			s.Phase, s.Reason = contract.IncidentClosing, "resolved by ada: a load test"
		})),
		"incident_closed":   incidentDetails(incidentState(closes)),
		"incident_left":     incidentDetails(incidentState(isLeft)),
		"incident_webhook":  incidentDetails(incidentState(rolledBack)),
		"decision_proposed": decisionDetails(decisionState(func(s *contract.DecisionState) { s.Plan = contract.RolloutPlan{} })),
		"decision_asks":     decisionDetails(decisionState(asksFor(5))),
		"decision_thin":     decisionDetails(decisionState(asksFor(0.01))),
		"decision_holds":    decisionDetails(decisionState(holds)),
		"decision_frozen":   decisionDetails(decisionState(func(s *contract.DecisionState) { holds(s); s.Frozen = "the cause is still unclear at T+10" })),
		"decision_denied":   decisionDetails(decisionState(denied)),
		"decision_sampling": decisionDetails(decisionState(func(s *contract.DecisionState) {
			p := &s.Input.Proposal
			p.Action, p.Kind, p.Value, p.Approvers = contract.ScoreCalls, routing.Sampling, "", nil
			asksFor(5)(s)
		})),
		"decision_rollback": decisionDetails(decisionState(func(s *contract.DecisionState) {
			d := ragDeployed
			s.Input.Proposal.Action, s.Input.Proposal.Kind, s.Input.Proposal.Value, s.Input.Proposal.Deployment = contract.RollBack, "", d.Service, &d
			s.Status, s.ExpiresAt = contract.AwaitingApproval, three.Add(2*time.Hour)
		})),
		"calibration_begins": calibrationDetails(contract.CalibrationState{Why: "it was started"}),
		"calibration_failed": calibrationDetails(contract.CalibrationState{Tenant: "org_42", Runs: 3, Baselines: 12, At: three, Why: "once more", Who: "ada", Failed: "ClickHouse is away"}),
		"calibration_drifted": calibrationDetails(contract.CalibrationState{Runs: 1, Baselines: 12, At: three, Expires: three.Add(movesWait), Drift: &contract.DriftReport{
			Compared: 24, First: 2, More: 3,
			Refused: []contract.LevelDrift{
				{Key: usage.Key{Tenant: "org_42", Model: "claude-3-opus"}, Measure: contract.CostMeasure, From: 20, To: 20.5, Bound: 0.22, Since: three.AddDate(0, -1, 0)},
				{Key: usage.Key{Tenant: "org_42", Model: "claude-3-opus"}, Measure: contract.QualityMeasure, From: 0.9, To: 0.8, Bound: 0.05, Since: three.AddDate(0, -1, 0), Verdict: contract.Deny, Who: "ada"},
			},
			Within: []contract.LevelDrift{{Key: usage.Key{Tenant: "org_42", Model: "claude-3-opus"}, Measure: contract.CostMeasure, From: 20, To: 19.9, Bound: 0.22, Since: three.AddDate(0, -1, 0)}},
		}}),
		"calibration_evaluators": calibrationDetails(contract.CalibrationState{Judges: true, Runs: 1, At: three, Evaluators: []contract.EvaluatorDrift{
			{EvaluatorVersion: contract.EvaluatorVersion{Evaluator: "helpfulness", Version: "2026-05"}, Standing: contract.Failing, Text: "fails: Spearman 0.41"},
		}}),
		"autonomy_begins": autonomyDetails(contract.AutonomyState{Tenant: "org_42"}),
		"autonomy_earned": autonomyDetails(contract.AutonomyState{Tenant: "org_42", Classes: map[string]contract.Trust{
			"upgrade": {Rule: "page-severe-quality", Approved: 3}, "downgrade": {Rule: "page-cost-and-quality", Approved: 12, Granted: 2},
			"hard_stop": {Rule: "runaway"},
		}}),
	} {
		t.Run(name, func(t *testing.T) {
			path := "testdata/details/" + name + ".md"
			if *rewrite {
				require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err, "run the test with -update to write the golden file")
			require.Equal(t, string(want), text)
		})
	}
	entries, err := os.ReadDir("testdata/details")
	require.NoError(t, err)
	require.Len(t, entries, 29, "a golden file that nothing is compared with")
}

// The titles head the notices, where there is one line.
func TestTitles(t *testing.T) {
	require.Equal(t, "PAGE org_42/claude-3-opus: cost × 3.00 and quality × 0.80", incidentTitle(incidentState(nil)))
	require.Equal(t, "org_42/claude-3-opus: downgrade to claude-3-sonnet: cost per call is 3.00× its baseline", decisionTitle(decisionState(nil)))
}

// What is made up for the details: one night's incident.

var (
	night   = contract.NewTuning(1)
	three   = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	opus    = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	nightly = contract.IncidentID(opus, three)
	act     = contract.DecisionID(nightly, "downgrade", 1)
)

func sweepState(failed int) contract.SweepState {
	return contract.SweepState{Rounds: 4, Last: contract.SweepReport{Ticks: 720, Failed: failed, Keys: 120, Signals: 31, LastTick: three}}
}

func found() detect.Finding {
	return detect.Finding{
		Key: opus, Tick: three.UnixMilli(), EvaluatedAt: three, Revision: "r1",
		Verdict: detect.Verdict{Level: detect.Page, Rule: "page-cost-and-quality", Reason: "cost × 3.00 and quality × 0.80"},
		Facts: detect.Facts{
			CostKnown: true, CostUSD: 0.012, CostBaseline: 0.004, CostRatio: 3, QualityKnown: true, Quality: 0.7, QualityBaseline: 0.87, QualityRatio: 0.8,
			SpendKnown: true, SpendPerMinute: 3.6, SpendBaseline: 1.2, SpendRatio: 3,
		},
	}
}

func loopState(phase alert.Phase, change func(*contract.AlertLoopState)) contract.AlertLoopState {
	f := found()
	s := contract.AlertLoopState{Key: opus, Alert: alert.State{Phase: phase, Level: detect.Page, Peak: detect.Page, Since: three}, Finding: &f}
	if change != nil {
		change(&s)
	}
	return s
}

// withIncident is a loop with an incident and a flag of each kind.
func withIncident(s *contract.AlertLoopState) {
	s.Incident = nightly
	flag := func(kind routing.Kind, value string, share float64, decision string) routing.Flag {
		return routing.Flag{
			Key: opus, Kind: kind, Value: value, Share: share, Decision: decision, Reason: "approved by ada",
			RenewedAt: three.Add(20 * time.Minute), ExpiresAt: three.Add(2 * time.Hour),
		}
	}
	s.Flags = []routing.Flag{
		flag(routing.Route, "claude-3-sonnet", 0.5, act), flag(routing.Sampling, "", 1, nightly),
		flag(routing.Pin, "claude-3-opus-20240229", 0.95, act), flag(routing.Stop, "", 0.1, act),
	}
	s.Flags[1].Reason, s.Flags[1].ExpiresAt = "both arms need scores.", time.Time{}
}

func incidentState(change func(*contract.IncidentState)) contract.IncidentState {
	s := contract.IncidentState{
		ID: nightly, Level: detect.Page, Phase: contract.IncidentOpen, Finding: found(), Reason: found().Verdict.Reason, NextAt: three,
		Input: contract.IncidentInput{Key: opus, Opened: three, Level: detect.Page, Finding: found(), Loop: contract.AlertLoopID(opus), Tuning: night},
	}
	if change != nil {
		change(&s)
	}
	return s
}

// walked has the incident walk steps with these verdicts.
func walked(s *contract.IncidentState, verdicts ...runbook.Verdict) {
	plan := runbook.Plan(1)
	for n, v := range verdicts {
		s.Step = plan[n].Name
		s.Steps = append(s.Steps, runbook.Done{Step: plan[n], At: three.Add(plan[n].After), Verdict: v})
	}
	s.NextAt = time.Time{}
	if next := len(verdicts); next < len(plan) {
		s.NextAt = three.Add(plan[next].After)
	}
}

func asksPeople(s *contract.IncidentState) {
	walked(s, runbook.JudgeChange(nil, nil, three))
	s.Decisions = []contract.DecisionSummary{{
		ID: act, Action: "downgrade", Kind: routing.Route, Value: "claude-3-sonnet", Status: contract.AwaitingApproval,
		Reason: "people have approved 3 of the 10 decisions that downgrade needs before it may act alone", ExpiresAt: three.Add(30 * time.Minute),
	}}
}

func templateDeployed(s *contract.IncidentState) {
	shipped := []usage.Deployment{{
		Service: "support-bot", Version: "8f2c1d", By: "ann", Timestamp: three.Add(-time.Minute),
		Previous: map[string]string{"prompt_template_version": "rag-v3.2"},
	}}
	walked(s, runbook.JudgeChange(shipped, nil, three),
		runbook.Verdict{Status: runbook.Found, Cause: runbook.CauseDeployment, Text: "a change explains it: " + rollback(runbook.CauseDeployment, &shipped[0])})
	s.Advice = "a deployment changed the prompt template just before: roll it back to rag-v3.2 by hand, which no flag can do"
	s.Acknowledged = &contract.Acknowledgement{Who: "ann", Note: "rolling it back", At: three.Add(3 * time.Minute)}
}

// ragDeployed is a deployment just before the night's incident.
var ragDeployed = usage.Deployment{ID: "d-9", Service: "support-bot", Version: "8f2c1d", By: "ann", Timestamp: three.Add(-time.Minute)}

// isLeft is an incident whose cause only people can undo, muted, with notes and an earlier one.
func isLeft(s *contract.IncidentState) {
	templateDeployed(s)
	s.Acknowledged = nil
	s.Steps[1].Needs = "roll it back, to the prompt template rag-v3.2"
	s.Steps[0] = runbook.Again(s.Steps[0], runbook.Done{Step: s.Steps[0].Step, At: three.Add(time.Minute), Verdict: s.Steps[0].Verdict, Why: "walked again by bob: the deployment was told of late"})
	s.Steps[0].Earlier[0].Verdict = runbook.JudgeChange(nil, nil, three)
	s.Mute = &contract.Mute{Who: "ada", Reason: "a load test", At: three, Until: three.Add(time.Hour)}
	s.Notes = []contract.Note{{Who: "ada", Text: "the launch\nis today", At: three.Add(2 * time.Minute)}}
	s.Previous = &contract.PastIncident{ID: contract.IncidentID(opus, three.Add(-48*time.Hour)), Opened: three.Add(-48 * time.Hour), Cause: runbook.CauseSpike, Reason: "resolved by bob: a loop in the agent", Query: "SELECT 1"}
}

// rolledBack is one whose deployment a webhook was asked to undo, twice.
func rolledBack(s *contract.IncidentState) {
	walked(s, runbook.JudgeChange([]usage.Deployment{ragDeployed}, nil, three))
	s.Decisions = []contract.DecisionSummary{{ID: contract.DecisionID(nightly, contract.RollBack, 1), Action: contract.RollBack, Value: "support-bot", Status: contract.Approved, Reason: "approved by ada"}}
	s.Evidence.Rollbacks = []contract.RollbackResult{
		{Service: "support-bot", Version: "8f2c1d", Failed: "it answered 401 Unauthorized: wrong signature", At: three.Add(3 * time.Minute)},
		{Service: "support-bot", Version: "8f2c1d", Status: 202, Body: "queued as job 7", At: three.Add(4 * time.Minute)},
	}
	s.Recalibration = contract.CalibrationID("org_42")
}

func recovers(s *contract.IncidentState) {
	s.Evidence.Provider = runbook.ProviderHealth{Provider: "anthropic", Indicator: "major", Description: "Partial outage", Link: "https://status.anthropic.com/incidents/1"}
	s.Evidence.Completion = runbook.Completion{Now: 0.5, Before: 0.5, Calls: 900, Worst: []string{"trace-1", "trace-2"}}
	walked(s, runbook.JudgeChange(nil, nil, three), runbook.JudgeProvider(s.Evidence.Provider), runbook.JudgeCompletion(s.Evidence.Completion, 50))
	s.Phase, s.Reason, s.Silent = contract.IncidentRecovering, "the finding is gone from the untreated traffic", true
	s.Decisions = []contract.DecisionSummary{
		{ID: act, Action: "downgrade", Value: "claude-3-sonnet", Status: contract.Denied, Reason: "denied by ada: it is the launch."},
		{ID: contract.DecisionID(nightly, "hard_stop", 1), Action: "hard_stop", Status: contract.Actuating, Share: 0.1, Reason: "approved by bob"},
	}
}

func closes(s *contract.IncidentState) {
	recovers(s)
	s.Phase, s.Silent, s.Reason, s.ClosedAt = contract.IncidentClosed, false, "the finding stayed away from the untreated traffic", three.Add(40*time.Minute)
	s.Report = runbook.Report{ID: s.ID, Key: opus, Opened: three, Closed: s.ClosedAt, Finding: s.Finding, Steps: s.Steps}.Markdown()
}

func decisionState(change func(*contract.DecisionState)) contract.DecisionState {
	const why = "cost per call is 3.00× its baseline"
	s := contract.DecisionState{
		ID: act, Status: contract.Proposed, Reason: why, Opened: three, ChangedAt: three, Effect: contract.Unproven,
		Input: contract.DecisionInput{Key: opus, Incident: nightly, Attempt: 1, Tuning: night, Finding: found(), Proposal: contract.Proposal{
			Action: "downgrade", Mode: contract.Auto, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost,
			Approvers: []string{"on-call", "owner"}, Expiry: 30 * time.Minute, Rule: "downgrade", Reason: why, Revision: "4be1f0",
		}},
		History: []contract.Transition{{At: three, Status: contract.Proposed, Reason: why}},
	}
	if change != nil {
		change(&s)
	}
	return s
}

// asksFor is a question about a key with so many calls a second.
func asksFor(perSecond float64) func(*contract.DecisionState) {
	return func(s *contract.DecisionState) {
		s.Plan = contract.RolloutPlan{PerSecond: perSecond, Plan: routing.PlanRollout(perSecond, night.Limits)}
		s.Status, s.ExpiresAt = contract.AwaitingApproval, three.Add(30*time.Minute)
		s.Reason = "people have approved 3 of the 10 decisions that downgrade needs before it may act alone"
		s.History = append(s.History, contract.Transition{At: three.Add(time.Second), Status: s.Status, Reason: s.Reason})
	}
}

func holds(s *contract.DecisionState) {
	asksFor(5)(s)
	s.Status, s.Share, s.Reason, s.Effect, s.ExpiresAt = contract.Holding, 0.95, "the act helps", contract.Proven, time.Time{}
	s.Verdict = &contract.DecideRequest{Verdict: contract.Approve, Who: "ada"}
	s.Rollout = routing.Start(s.Plan.Plan, night.Limits, routing.CutCost, three)
	s.Rollout.Phase, s.Rollout.Effect = routing.Holding, &routing.Comparison{
		TreatedCost: kpi.Sample{N: 1200}, HoldbackCost: kpi.Sample{N: 63}, TreatedQuality: kpi.Sample{N: 1200, Median: 0.86}, HoldbackQuality: kpi.Sample{N: 63, Median: 0.7},
		CostRatio: 0.33, CostZ: -31.4, Verdict: routing.Proof("helps"), Reason: "treated calls cost less and are no worse",
	}
	for n, share := range []float64{0.1, 0.5, 0.95} {
		s.History = append(s.History, contract.Transition{At: three.Add(time.Duration(2+3*n) * time.Minute), Status: contract.Actuating, Share: share, Reason: "approved by ada"})
	}
}

func denied(s *contract.DecisionState) {
	asksFor(5)(s)
	s.Verdict = &contract.DecideRequest{Verdict: contract.Deny, Who: "ada", Reason: "it is the launch"}
	s.Status, s.Reason, s.ExpiresAt = contract.Denied, byWhom("denied", "ada", "it is the launch"), time.Time{}
	s.History = append(s.History, contract.Transition{At: three.Add(5 * time.Minute), Status: s.Status, Reason: s.Reason})
}

func TestLasting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		2 * time.Hour: "2h", 90 * time.Minute: "1h30m", 3 * time.Minute: "3m", 10 * time.Second: "10s", 100 * time.Minute: "1h40m",
		200*time.Minute + 30*time.Second: "3h20m30s", 0: "0s", time.Hour + time.Second: "1h0m1s",
	} {
		require.Equal(t, want, lasting(d))
	}
}
