package activities

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// Policy asks the policies. Set returns the set now in force, so that a reload takes effect at the
// next question and never inside one.
type Policy struct {
	Set func() *policy.Set
	// Rollback reports whether a service's deployments can be undone through a webhook; nil: none can.
	Rollback func(service string) bool
}

// kinds and goals translate act.yaml's actions into orders for the gateways.
var (
	kinds = map[policy.Action]routing.Kind{
		policy.Downgrade: routing.Route, policy.Upgrade: routing.Route, policy.Pin: routing.Pin,
		policy.HardStop: routing.Stop, policy.Shaping: routing.Shape, policy.Sampling: routing.Sampling,
	}
	goals = map[policy.Action]routing.Goal{
		policy.Upgrade: routing.MendQuality, policy.HardStop: routing.CutSpend, policy.Shaping: routing.CutSpend,
	}
)

// ProposeAct asks act.yaml what to do about an incident.
func (p *Policy) ProposeAct(_ context.Context, r contract.ActRequest) (contract.Proposal, error) {
	set := p.Set()
	proposal, err := set.Act(p.actFacts(r, set.Tradeoff()))
	if err != nil {
		return contract.Proposal{}, badInput(fmt.Sprintf("act.yaml cannot be asked about %s: %v", r.Key, err), err)
	}
	out := contract.Proposal{
		Mode: contract.Mode(proposal.Mode), Value: proposal.Target, Approvers: proposal.Approvers, Expiry: proposal.Expiry,
		Rule: proposal.Rule, Reason: proposal.Reason, Revision: set.Revision(),
	}
	if proposal.Action == policy.NoAction {
		return out, nil
	}
	out.Action, out.Kind, out.Goal = string(proposal.Action), kinds[proposal.Action], goals[proposal.Action]
	if out.Goal == "" {
		out.Goal = routing.CutCost
	}
	if proposal.Action == policy.Pin && r.Finding.Facts.CostRatio < 1.2 {
		out.Goal = routing.MendQuality // what was rolled out made answers worse, not dearer
	}
	return out, nil
}

// actFacts are the incident as act.yaml sees it.
func (p *Policy) actFacts(r contract.ActRequest, t routing.Tradeoff) policy.ActFacts {
	tenant, f := t.Tenant(r.Key.Tenant), r.Finding.Facts
	_, experiment, _ := r.Key.Experiment()
	facts := policy.ActFacts{
		Tenant: r.Key.Tenant, TenantClass: string(tenant.Class), RiskClass: string(tenant.Risk), Model: r.Key.Model, Experiment: experiment,
		Level: string(r.Level), AlertRule: r.Finding.Verdict.Rule, Step: minute(r.Step),
		CostKnown: f.CostKnown, CostRatio: f.CostRatio, QualityKnown: f.QualityKnown, QualityRatio: f.QualityRatio,
		SpendKnown: f.SpendKnown, SpendRatio: f.SpendRatio, VolumeRatio: f.VolumeRatio,
		TargetModel: t.Downgrade(r.Key.Tenant, r.Key.Model).Model, UpgradeModel: t.Upgrade(r.Key.Model).Model,
		CauseFound: runbook.Cause(r.Steps) != "",
		Provable:   r.Provable, CoolingDown: r.CoolingDown, Frozen: r.Frozen, SamplingRaised: r.Scoring,
	}
	if r.Volume > 0 { // of now: the finding's is of when its level changed
		facts.VolumeRatio = r.Volume
	}
	for _, d := range r.Steps {
		if d.Verdict.Status != runbook.Found {
			continue
		}
		switch d.Verdict.Cause {
		case runbook.CauseDeployment:
			facts.DeploymentCorrelated = true
		case runbook.CauseProvider:
			facts.ProviderUnhealthy = true
		case runbook.CauseSpike:
			facts.CompletionSpike = true
		case runbook.CauseDrop:
			facts.CompletionDrop = true
		}
	}
	deployment := r.Deployment
	if deployment == nil && len(r.Changes.Deployments) > 0 { // asked by a workflow that does not say which
		deployment = &r.Changes.Deployments[0]
	}
	if facts.DeploymentCorrelated && deployment != nil {
		facts.PreviousModel, facts.PreviousTemplate = deployment.Previous["model"], deployment.Previous["prompt_template_version"]
		facts.DeployedService = deployment.Service
		facts.RollbackAvailable = r.Deployment != nil && p.Rollback != nil && p.Rollback(deployment.Service)
	}
	return facts
}

// minute is the number in a step's name: 10 of "T+10", 0 of "T0".
func minute(step string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(strings.TrimPrefix(step, "T"), "+"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
