package backtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// walk does the steps of the runbook that are due in the key's incident, and asks act.yaml after each.
func (c *Course) walk(set *policy.Set, key usage.Key, l *life, now time.Time) error {
	if !l.Alert.Open() || l.Opened.IsZero() {
		return nil
	}
	plan := runbook.Plan(c.tuning.TimeScale)
	var failed error
	for len(l.Done) < len(plan) {
		step := plan[len(l.Done)]
		at := l.Opened.Add(step.After)
		if at.After(now) || step.Name == runbook.T30 { // the last one only concludes
			return failed
		}
		l.Done = append(l.Done, runbook.Done{Step: step, At: at, Verdict: c.evidence(step, key, l, at)})
		if err := c.ask(set, key, l, at); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

// unknown is the verdict of what nobody can look up any more.
var unknown = runbook.Verdict{Status: runbook.Unknown, Text: "not known afterwards"}

// evidence is what a step of the runbook can say from what is stored: deployments and the completion ratio of all of the
// key's calls. First-seen models and templates, the provider's status page and what people said are not known.
func (c *Course) evidence(step runbook.Step, key usage.Key, l *life, at time.Time) runbook.Verdict {
	switch step.Name {
	case runbook.T0:
		if c.deploys == nil {
			return unknown
		}
		return runbook.JudgeChange(c.deploys(key, l.Opened.Add(-time.Hour), at), nil, l.Opened)
	case runbook.T5:
		if runbook.Cause(l.Done) != "" {
			return runbook.Verdict{Status: runbook.Skipped}
		}
		f := l.Facts
		if !f.CompletionKnown {
			return unknown
		}
		return runbook.JudgeCompletion(runbook.Completion{Now: f.Completion, Before: f.CompletionBaseline, Calls: l.calls}, c.tuning.Limits.Minimums.Cost)
	}
	return unknown
}

// ask puts the incident to act.yaml, and tells of what it wants that it has not wanted before.
func (c *Course) ask(set *policy.Set, key usage.Key, l *life, at time.Time) error {
	p, err := set.Act(c.actFacts(set, key, l, at))
	if err != nil {
		return fmt.Errorf("asking what to do about %s: %w", key, err)
	}
	step := runbook.T0
	if n := len(l.Done); n > 0 {
		step = l.Done[n-1].Step.Name
	}
	a := Act{Step: step, Action: p.Action, Target: p.Target, Mode: p.Mode, Rule: p.Rule, Reason: p.Reason}
	if p.Action == policy.NoAction || !key.OwnsFlags() || slices.ContainsFunc(l.Proposed, a.same) {
		return nil
	}
	l.Proposed = append(l.Proposed, a)
	c.change(key, l, Change{At: at, Kind: Propose, Level: l.Alert.Peak, Rule: p.Rule, Reason: p.Reason, Act: &a, Revision: set.Revision()})
	return nil
}

// actFacts are the incident as act.yaml sees it. What cannot be known of the past is neutral: nothing cools down, since
// nothing is done; no provider is known to be ill; no service's webhook is known of.
func (c *Course) actFacts(set *policy.Set, key usage.Key, l *life, at time.Time) policy.ActFacts {
	t, f := set.Tradeoff(), l.Facts
	tenant := t.Tenant(key.Tenant)
	model, experiment := key.Model, ""
	if _, id, ok := key.Experiment(); ok {
		experiment = id
	}
	perSecond := float64(l.calls) / (15 * 60)
	if l.base.RequestsPerMin > 0 {
		perSecond = min(perSecond, l.base.RequestsPerMin/60)
	}
	facts := policy.ActFacts{
		Tenant: key.Tenant, TenantClass: string(tenant.Class), RiskClass: string(tenant.Risk), Model: model, Experiment: experiment,
		Level: string(l.Alert.Peak), AlertRule: l.Rule,
		CostKnown: f.CostKnown, CostRatio: f.CostRatio, QualityKnown: f.QualityKnown, QualityRatio: f.QualityRatio,
		SpendKnown: f.SpendKnown, SpendRatio: f.SpendRatio, VolumeRatio: f.VolumeRatio,
		TargetModel: t.Downgrade(key.Tenant, key.Model).Model, UpgradeModel: t.Upgrade(key.Model).Model,
		CauseFound: runbook.Cause(l.Done) != "",
		Provable:   routing.PlanRollout(perSecond, c.tuning.Limits).Provable,
	}
	for _, d := range l.Done {
		facts.Step = stepMinute(d.Step.Name)
		switch found := d.Verdict.Status == runbook.Found; {
		case found && d.Verdict.Cause == runbook.CauseDeployment:
			facts.DeploymentCorrelated = true
		case found && d.Verdict.Cause == runbook.CauseSpike:
			facts.CompletionSpike = true
		case found && d.Verdict.Cause == runbook.CauseDrop:
			facts.CompletionDrop = true
		case d.Step.Name == runbook.T10 && !facts.CauseFound:
			facts.Frozen, facts.SamplingRaised = true, true
		}
	}
	if facts.DeploymentCorrelated && c.deploys != nil {
		if d := runbook.Correlated(c.deploys(key, l.Opened.Add(-time.Hour), at), l.Opened); d != nil {
			facts.PreviousModel, facts.PreviousTemplate, facts.DeployedService = d.Previous["model"], d.Previous["prompt_template_version"], d.Service
		}
	}
	return facts
}

// stepMinute is the number in the name of a step.
func stepMinute(name string) int64 {
	for _, s := range runbook.Plan(1) {
		if s.Name == name {
			return int64(s.After / time.Minute)
		}
	}
	return 0
}
