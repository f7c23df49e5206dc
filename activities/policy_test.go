package activities

import (
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// found is a step that explains the incident.
func found(step, cause string) runbook.Done {
	return runbook.Done{Step: runbook.Step{Name: step}, Verdict: runbook.Verdict{Status: runbook.Found, Cause: cause}}
}

func TestProposeAct(t *testing.T) {
	t.Parallel()
	const opusModel, sonnet = "claude-3-opus", "claude-3-sonnet"
	// costly is an incident of a key that is three times as dear and a fifth worse, at its beginning.
	costly := func(change func(*contract.ActRequest)) contract.ActRequest {
		r := contract.ActRequest{
			Key: opus, Level: detect.Page, Step: runbook.T0, Provable: true,
			Finding: detect.Finding{Verdict: detect.Verdict{Rule: "page-cost-and-quality"}, Facts: detect.Facts{
				CostKnown: true, CostRatio: 3, QualityKnown: true, QualityRatio: 0.8, SpendRatio: 1,
			}},
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	worse := func(r *contract.ActRequest) { r.Finding.Facts.CostRatio = 1 }
	deployed := func(r *contract.ActRequest) {
		r.Step, r.Steps = runbook.T2, []runbook.Done{found(runbook.T0, runbook.CauseDeployment)}
		r.Changes.Deployments = []usage.Deployment{
			{ID: "d2", Previous: map[string]string{"model": "claude-3-opus-0", "prompt_template_version": "v1"}},
			{ID: "d1", Previous: map[string]string{"model": "older"}},
		}
	}
	downgrade := contract.Proposal{
		Action: "downgrade", Mode: contract.Auto, Kind: routing.Route, Value: sonnet, Goal: routing.CutCost,
		Approvers: []string{"on-call"}, Expiry: 30 * time.Minute, Rule: "downgrade",
	}
	asked := downgrade
	asked.Mode = contract.Ask
	for name, tc := range map[string]struct {
		request contract.ActRequest
		want    contract.Proposal // but for reason and revision
	}{
		"a downgrade cuts cost": {costly(nil), downgrade},
		"a regulated tenant is asked": {
			costly(func(r *contract.ActRequest) { r.Key.Tenant = "acme_bank" }),
			contract.Proposal{
				Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: sonnet, Goal: routing.CutCost,
				Approvers: []string{"compliance"}, Expiry: 30 * time.Minute, Rule: "downgrade",
			},
		},
		"so is one whose provider is failing": {
			costly(func(r *contract.ActRequest) { r.Steps = []runbook.Done{found(runbook.T2, runbook.CauseProvider)} }), asked,
		},
		"and one that is cooling down": {costly(func(r *contract.ActRequest) { r.CoolingDown = true }), asked},
		"and one that is frozen":       {costly(func(r *contract.ActRequest) { r.Frozen = true }), asked},
		"a provider that was looked at and is well asks nobody": {
			costly(func(r *contract.ActRequest) {
				r.Steps = []runbook.Done{{Verdict: runbook.Verdict{Status: runbook.Clear}}, {Verdict: runbook.Verdict{Status: runbook.Unknown, Cause: runbook.CauseProvider}}}
			}), downgrade,
		},
		"an upgrade mends quality": {
			costly(func(r *contract.ActRequest) { worse(r); r.Key.Model = sonnet }),
			contract.Proposal{
				Action: "upgrade", Mode: contract.Ask, Kind: routing.Route, Value: opusModel, Goal: routing.MendQuality,
				Approvers: []string{"on-call"}, Expiry: 30 * time.Minute, Rule: "upgrade",
			},
		},
		"a rollback goes back to what the newest deployment replaced": {
			costly(deployed),
			contract.Proposal{
				Action: "pin", Mode: contract.Ask, Kind: routing.Pin, Value: "claude-3-opus-0", Goal: routing.CutCost,
				Approvers: []string{"on-call"}, Expiry: 30 * time.Minute, Rule: "rollback",
			},
		},
		"and mends quality where the deployment made nothing dearer": {
			costly(func(r *contract.ActRequest) { worse(r); deployed(r) }),
			contract.Proposal{
				Action: "pin", Mode: contract.Ask, Kind: routing.Pin, Value: "claude-3-opus-0", Goal: routing.MendQuality,
				Approvers: []string{"on-call"}, Expiry: 30 * time.Minute, Rule: "rollback",
			},
		},
		"a template that was replaced is rolled back by hand, ahead of a downgrade": {
			costly(func(r *contract.ActRequest) {
				deployed(r)
				r.Changes.Deployments[0].Previous = map[string]string{"prompt_template_version": "v1"}
			}),
			contract.Proposal{Mode: contract.Never, Rule: "rollback-template"},
		},
		"a deployment that explains nothing is no suspect": {
			costly(func(r *contract.ActRequest) { deployed(r); r.Steps[0].Verdict.Status = runbook.Clear }), downgrade,
		},
		"runaway spend is stopped": {
			costly(func(r *contract.ActRequest) {
				r.Level = detect.Investigate
				r.Finding.Facts.SpendKnown, r.Finding.Facts.SpendRatio = true, 12
			}),
			contract.Proposal{
				Action: "hard_stop", Mode: contract.Ask, Kind: routing.Stop, Goal: routing.CutSpend,
				Approvers: []string{"on-call", "owner"}, Expiry: 15 * time.Minute, Rule: "hard-stop-runaway",
			},
		},
		"unknown quality is scored": {
			costly(func(r *contract.ActRequest) {
				r.Finding.Facts.QualityKnown, r.Finding.Facts.QualityRatio = false, 1
			}),
			contract.Proposal{
				Action: contract.ScoreCalls, Mode: contract.Auto, Kind: routing.Sampling, Goal: routing.CutCost,
				Approvers: []string{"on-call"}, Expiry: 2 * time.Hour, Rule: "sampling-quality-unknown",
			},
		},
		"so is an unclear cause at T+10": {
			costly(func(r *contract.ActRequest) { r.Step = runbook.T10 }),
			contract.Proposal{
				Action: contract.ScoreCalls, Mode: contract.Auto, Kind: routing.Sampling, Goal: routing.CutCost,
				Approvers: []string{"on-call"}, Expiry: 2 * time.Hour, Rule: "sampling-cause-unclear",
			},
		},
		"once": {costly(func(r *contract.ActRequest) { r.Step, r.Scoring = runbook.T10, true }), downgrade},
		"long answers ask first": {
			costly(func(r *contract.ActRequest) {
				r.Step, r.Steps = runbook.T5, []runbook.Done{found(runbook.T5, runbook.CauseSpike)}
			}),
			contract.Proposal{
				Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: sonnet, Goal: routing.CutCost,
				Approvers: []string{"on-call"}, Expiry: 30 * time.Minute, Rule: "downgrade-completion-spike",
			},
		},
		"cut answers are not mended by another model": {
			costly(func(r *contract.ActRequest) {
				r.Step, r.Steps = runbook.T5, []runbook.Done{found(runbook.T5, runbook.CauseDrop)}
			}),
			contract.Proposal{Mode: contract.Never, Rule: "truncation"},
		},
		"nothing for the whole tenant": {
			costly(func(r *contract.ActRequest) { r.Key = whole }),
			contract.Proposal{Mode: contract.Never, Rule: "nothing-to-act-on"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := shippedSet(t)
			got, err := (&Policy{Set: set}).ProposeAct(t.Context(), tc.request)
			require.NoError(t, err)
			require.NotEmpty(t, got.Reason)
			require.Equal(t, set().Revision(), got.Revision)
			require.Equal(t, tc.want.Action != "", got.Wanted())
			got.Reason, got.Revision = "", ""
			require.Equal(t, tc.want, got)
		})
	}
}

// Runaway spend that is many calls is shaped, by what they are now and not when the finding began.
func TestProposeActShapes(t *testing.T) {
	t.Parallel()
	for volume, action := range map[float64]string{0: "", 1.4: "", 4: "shape"} {
		got, err := (&Policy{Set: shippedSet(t)}).ProposeAct(t.Context(), contract.ActRequest{
			Key: opus, Level: detect.Investigate, Step: runbook.T2, Volume: volume,
			Finding: detect.Finding{Facts: detect.Facts{CostRatio: 1, QualityRatio: 1, SpendKnown: true, SpendRatio: 5, VolumeRatio: 1.3}},
		})
		require.NoError(t, err)
		require.Equal(t, action, got.Action, "%v", volume)
		if action != "" {
			require.Equal(t, routing.Shape, got.Kind)
			require.Equal(t, routing.CutSpend, got.Goal)
		}
	}
}

// Whatever a policy says, an act for a regulated tenant asks.
func TestARegulatedTenantAlwaysAsks(t *testing.T) {
	t.Parallel()
	careless := `name: act
imports: [{name: policy.Proposal}]
rule:
  match:
    - output: 'Proposal{action: "downgrade", target: "x", mode: "auto", expiry: duration("1h"), rule: "always", reason: "because"}'
`
	set, err := policy.Load(fstest.MapFS{"act.yaml": {Data: []byte(careless)}})
	require.NoError(t, err)
	for tenant, mode := range map[string]contract.Mode{"acme_bank": contract.Ask, "org_42": contract.Auto} {
		got, err := (&Policy{Set: func() *policy.Set { return set }}).ProposeAct(t.Context(), contract.ActRequest{Key: usage.Key{Tenant: tenant, Model: "m"}, Level: detect.Page})
		require.NoError(t, err)
		require.Equal(t, mode, got.Mode, tenant)
	}
}

func TestProposeActRollsBackThroughAWebhook(t *testing.T) {
	t.Parallel()
	deployed := &usage.Deployment{Service: "support-bot", Version: "v2", Previous: map[string]string{"model": "claude-2"}}
	newer := usage.Deployment{Service: "unrelated"} // listed first, and too late to explain anything
	r := contract.ActRequest{
		Key: opus, Level: detect.Page, Step: runbook.T2, Steps: []runbook.Done{found(runbook.T0, runbook.CauseDeployment)},
		Changes: contract.Changes{Deployments: []usage.Deployment{newer, *deployed}}, Deployment: deployed,
	}
	p := &Policy{Set: shippedSet(t), Rollback: RollbackHooks{{Service: "support-bot"}}.Has}
	got, err := p.ProposeAct(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, contract.RollBack, got.Action)
	require.Equal(t, "support-bot", got.Value)
	require.Equal(t, contract.Ask, got.Mode)
	require.Empty(t, got.Kind, "it sets no flag")

	p.Rollback = RollbackHooks{{Service: "another"}}.Has
	got, err = p.ProposeAct(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, "pin", got.Action, "a service without a webhook has its model pinned")
	require.Equal(t, "claude-2", got.Value)
}

func TestProposeActIsFinalWhenThePolicyCannotAnswer(t *testing.T) {
	t.Parallel()
	set, err := policy.Compile(fstest.MapFS{"act.yaml": {Data: []byte(`
name: act
imports:
  - name: policy.Proposal
rule:
  id: act
  match:
    - condition: |
        int(model) > 0
      output: |
        Proposal{action: "none", mode: "never", rule: "never", reason: "no model is a number"}
    - output: |
        Proposal{action: "none", mode: "never", rule: "always", reason: "nothing"}
`)}})
	require.NoError(t, err)
	_, err = (&Policy{Set: func() *policy.Set { return set }}).ProposeAct(t.Context(), contract.ActRequest{Key: opus, Level: detect.Page})
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	require.Equal(t, contract.ErrBadInput, application.Type())
	require.True(t, application.NonRetryable(), "asking again gives the same answer")
	require.Contains(t, application.Message(), "act.yaml cannot be asked about org_42/claude-3-opus")
}

func TestMinute(t *testing.T) {
	t.Parallel()
	for step, want := range map[string]int64{runbook.T0: 0, runbook.T2: 2, runbook.T5: 5, runbook.T10: 10, runbook.T30: 30, "": 0, "report": 0} {
		require.Equal(t, want, minute(step), step)
	}
}
