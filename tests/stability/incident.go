package stability

import (
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// incident is an open incident of the key, walked as the Incident workflow walks one.
type incident struct {
	opened     time.Time
	level      detect.Level
	facts      detect.Facts
	plan       []runbook.Step // still to be walked
	done       []runbook.Done
	frozen     bool
	scoring    bool
	reconsider bool
	reverted   []policy.Action
	question   *question
}

// question is an act that waits for a person.
type question struct {
	action           policy.Action
	answers, expires time.Time // answers is zero when nobody will
}

func newIncident(level detect.Level, facts detect.Facts, now time.Time) *incident {
	return &incident{opened: now, level: level, facts: facts, plan: runbook.Plan(1)}
}

// closes is how long after its opening a person closes an incident that is still open though no fault
// is on, no act and no grace: what it does next must be seen too.
const closes = time.Hour

// walk does what is due in the incident: steps of the runbook, and what act.yaml wants after each.
func (l *loop) walk(now time.Time) {
	i := l.incident
	switch q := i.question; {
	case q == nil:
	case !q.answers.IsZero() && !now.Before(q.answers):
		i.question = nil
		l.begin(q.action, l.plan(), false, now)
	case !now.Before(q.expires):
		i.question = nil
	}
	for len(i.plan) > 0 && now.Sub(i.opened) >= i.plan[0].After {
		l.perform(i.plan[0], now)
		i.plan = i.plan[1:]
		l.consider(now)
	}
	if i.reconsider {
		i.reconsider = false
		l.consider(now)
	}
	if l.act == nil && now.Sub(i.opened) >= closes && (l.fault == nil || l.now < l.fault.start || l.now >= l.fault.end+grace) {
		l.advance(alert.Event{Resolved: true}, now)
		l.told, l.fresh = nil, true // what comes next must begin anew
	}
}

// perform walks one step. The plant has no deployments, and its answers are as long as ever.
func (l *loop) perform(step runbook.Step, now time.Time) {
	i := l.incident
	var v runbook.Verdict
	switch step.Name {
	case runbook.T0:
		v = runbook.JudgeChange(nil, nil, now)
	case runbook.T2:
		v = runbook.JudgeProvider(runbook.ProviderHealth{Provider: "p", Indicator: l.provider})
	case runbook.T5:
		v = runbook.JudgeCompletion(runbook.Completion{Now: 1, Before: 1, Calls: 100}, l.limits.Minimums.Cost)
	case runbook.T10:
		if runbook.Cause(i.done) == "" {
			if l.act != nil && l.act.auto {
				l.act.rollout, _ = l.act.rollout.Freeze()
			}
			i.frozen = true
			l.score()
		}
	}
	i.done = append(i.done, runbook.Done{Step: step, At: now, Verdict: v})
}

// score orders that every call is scored while the incident lasts.
func (l *loop) score() {
	i := l.incident
	if i == nil || i.scoring {
		return
	}
	i.scoring = true
	l.later(func() { l.scoreAll = l.incident == i })
}

// plan sizes an act by the key's traffic, or its usual traffic if that is less.
func (l *loop) plan() routing.Plan {
	return routing.PlanRollout(min(l.perSecond(l.now), l.base.RequestsPerMin/60), l.limits)
}

// consider asks act.yaml, and begins what it wants or puts the question to a person. Trust in every
// action has been earned.
func (l *loop) consider(now time.Time) {
	i := l.incident
	if l.act != nil || i.question != nil {
		return
	}
	plan := l.plan()
	p := l.rules.act(l.actFacts(plan, now))
	switch {
	case p.Mode == policy.Never || slices.Contains(i.reverted, p.Action):
	case p.Action == policy.Sampling && p.Mode == policy.Auto:
		l.score()
	case p.Mode == policy.Auto && plan.Provable:
		l.begin(p.Action, plan, true, now)
	default:
		i.question = &question{action: p.Action, expires: now.Add(p.Expiry)}
		if l.answers > 0 && (p.Action == policy.Downgrade || p.Action == policy.Upgrade) {
			i.question.answers = now.Add(l.answers)
		}
	}
}

func (l *loop) actFacts(plan routing.Plan, now time.Time) policy.ActFacts {
	i, f := l.incident, l.incident.facts
	facts := policy.ActFacts{
		Tenant: key.Tenant, TenantClass: string(routing.Standard), RiskClass: string(routing.Ordinary), Model: key.Model, Level: string(i.level),
		CostKnown: f.CostKnown, CostRatio: f.CostRatio, QualityKnown: f.QualityKnown, QualityRatio: f.QualityRatio,
		SpendKnown: f.SpendKnown, SpendRatio: f.SpendRatio, VolumeRatio: f.VolumeRatio, TargetModel: "cheaper", UpgradeModel: "better",
		CauseFound: runbook.Cause(i.done) != "", ProviderUnhealthy: runbook.Cause(i.done) == runbook.CauseProvider,
		Provable: plan.Provable, CoolingDown: !l.lastEnd.IsZero() && now.Sub(l.lastEnd) < l.limits.CoolDown,
		Frozen: i.frozen, SamplingRaised: i.scoring,
	}
	if n := len(i.done); n > 0 {
		facts.Step = int64(i.done[n-1].Step.After / time.Minute)
	}
	return facts
}
