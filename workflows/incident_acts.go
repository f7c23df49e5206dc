package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// What an incident has done about it: the questions to act.yaml, its decisions, and the rollbacks that it
// carries out itself.

// consider asks act.yaml what to do now, and starts the decision that it proposes: at most one at a
// time, and none that a person or the holdback has said no to in this incident.
func (i *incident) consider(ctx workflow.Context) {
	if i.live != "" || i.resolved || len(i.state.Decisions) >= maxDecisions || !i.aim(ctx) {
		return
	}
	var plan contract.RolloutPlan // what cannot be asked is not provable, and so is left to people
	request := contract.PlanRolloutRequest{Key: i.target, Kind: routing.Route, Limits: i.in.Tuning.Limits}
	if err := workflow.ExecuteActivity(asking(ctx, "can an act be proved here?"), telemetry.PlanRollout, request).Get(ctx, &plan); err != nil {
		workflow.GetLogger(ctx).Warn("the traffic could not be sized", "error", err)
	}
	var p contract.Proposal
	err := workflow.ExecuteActivity(asking(ctx, "what does act.yaml propose?"), policies.ProposeAct, contract.ActRequest{
		Key: i.target, Level: i.state.Level, Finding: i.state.Finding, Step: i.state.Step, Steps: i.state.Steps,
		Changes: i.state.Evidence.Changes, Provable: plan.Plan.Provable, Volume: plan.Volume, CoolingDown: i.coolingDown(ctx),
		Frozen: i.state.Frozen, Scoring: i.state.Scoring, Deployment: i.deployment(),
	}).Get(ctx, &p)
	i.state.Advice = ""
	if err == nil && !p.Wanted() {
		i.state.Advice = p.Reason
	}
	switch {
	case err != nil:
		workflow.GetLogger(ctx).Warn("the policy could not be asked", "error", err)
	case !p.Wanted() || i.resolved || !i.target.OwnsFlags() || i.rejected(p.Action) || i.overtaken(ctx, p.Action):
	case p.Action == contract.ScoreCalls && p.Mode == contract.Auto:
		_ = i.score(ctx)
	default:
		if p.Action == contract.RollBack {
			p.Deployment = i.deployment()
		}
		i.decide(ctx, p)
	}
}

// deployment is the one that explains the incident; nil: none does.
func (i *incident) deployment() *usage.Deployment {
	if runbook.Cause(i.state.Steps) != runbook.CauseDeployment {
		return nil
	}
	return runbook.Correlated(i.state.Evidence.Changes.Deployments, i.in.Opened)
}

// coolingDown reports whether an act on the key ended a short time ago, in this incident or before it:
// the next one then asks. A question that found no answer was no act.
func (i *incident) coolingDown(ctx workflow.Context) bool {
	if err := i.lastAct.Get(ctx, &i.state.LastAct); err != nil {
		workflow.GetLogger(ctx).Warn("the last act on the key could not be read", "error", err)
	}
	after := workflow.Now(ctx).Add(-i.in.Tuning.Limits.CoolDown)
	return i.state.LastAct.After(after) || slices.ContainsFunc(i.state.Decisions, func(d contract.DecisionSummary) bool {
		return d.Acted && d.Status.Final() && d.ChangedAt.After(after)
	})
}

// rejected reports whether the action was denied or reverted in this incident: asking again, or trying
// again, would be oscillation. A rollback that its webhook has taken is done.
func (i *incident) rejected(action string) bool {
	return slices.ContainsFunc(i.state.Decisions, func(d contract.DecisionSummary) bool {
		return d.Action == action && (d.Status == contract.Denied || d.Status == contract.Reverted || d.Action == contract.RollBack && i.rolledBack(d.ID))
	})
}

// rolledBack reports whether the decision's webhook has taken the order.
func (i *incident) rolledBack(decision string) bool {
	return slices.ContainsFunc(i.state.Evidence.Rollbacks, func(r contract.RollbackResult) bool {
		return r.Decision == decision && r.Failed == ""
	})
}

// overtaken reports whether the action was released after what the finding was drawn from: the holdback has shown
// since that the fault was over, while windows that reach back into it still look ill. A finding that comes back
// brings newer facts.
func (i *incident) overtaken(ctx workflow.Context, action string) bool {
	f := i.state.Finding
	seen := f.EvaluatedAt.Add(-time.Duration(f.Facts.WindowMinutes) * time.Minute)
	released := slices.ContainsFunc(i.state.Decisions, func(d contract.DecisionSummary) bool {
		return d.Action == action && d.Status == contract.Released && d.ChangedAt.After(seen)
	})
	// 1: before it, a step of the runbook that came due between the release and the recovery asked people to do
	// again what had just proved to be needed no more.
	return released && workflow.GetVersion(ctx, "released-overtakes-finding", workflow.DefaultVersion, 1) >= 1
}

// decide starts a decision and follows it to its end.
func (i *incident) decide(ctx workflow.Context, p contract.Proposal) {
	if i.mix != nil {
		p.Reason += "; " + i.state.Evidence.Shift.Text
	}
	attempt := attempts(i.state.Decisions, p.Action) + 1
	id := contract.DecisionID(i.state.ID, p.Action, attempt)
	// On a context of its own: to cancel the incident is to withdraw its decision, not to cancel it.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowTaskTimeout:   contract.WorkflowTaskTimeout,
		TypedSearchAttributes: keyAttributes(i.target, string(i.state.Level), string(contract.Proposed)),
		StaticSummary:         fmt.Sprintf("%s %s %s", p.Action, i.target, p.Value),
	}), Decision, contract.DecisionInput{
		Key: i.target, Incident: i.state.ID, Attempt: attempt, Tuning: i.in.Tuning, Proposal: p, Finding: i.state.Finding, Mix: i.mix,
		Opened: i.in.Opened, Mute: i.state.Mute,
	})
	i.live = id
	if p.Deployment != nil {
		i.undone[id] = *p.Deployment
	}
	i.state.Decisions = append(i.state.Decisions, contract.DecisionSummary{
		ID: id, Action: p.Action, Kind: p.Kind, Value: p.Value, Status: contract.Proposed, Reason: p.Reason, Effect: contract.Unproven,
	})
	workflow.GoNamed(ctx, "decision", func(ctx workflow.Context) {
		var result contract.DecisionResult
		err := child.Get(ctx, &result)
		i.decisionEnded(ctx, id, result, err)
	})
	if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Error("the decision could not be started", "decision", id, "error", err)
	}
	if i.resolved { // meanwhile; what was sent before it had started reached nobody
		i.withdraw(ctx)
	}
	i.recorded(ctx)
}

// decisionMoved takes a decision's news.
func (i *incident) decisionMoved(ctx workflow.Context, news contract.DecisionSummary) {
	if d := i.decision(news.ID); d != nil && news.Moves > d.Moves {
		*d = news
		i.recorded(ctx)
	}
}

func (i *incident) decision(id string) *contract.DecisionSummary {
	n := slices.IndexFunc(i.state.Decisions, func(d contract.DecisionSummary) bool { return d.ID == id })
	if n < 0 {
		return nil
	}
	return &i.state.Decisions[n]
}

// decisionEnded closes a decision's line. One that ended without a verdict was terminated, perhaps with
// its flag on: the incident then takes it off.
func (i *incident) decisionEnded(ctx workflow.Context, id string, result contract.DecisionResult, err error) {
	d := i.decision(id)
	switch {
	case err == nil:
		d.Status, d.Reason, d.Share = result.Status, result.Reason, 0
	case !d.Status.Final() && d.Action == contract.RollBack: // it had no flag
		d.Status, d.Reason = contract.Withdrawn, "it ended without a verdict: "+err.Error()
	case !d.Status.Final():
		p := contract.SetKeyFlagRequest{
			Key: i.target, Tuning: i.in.Tuning, UpdateID: id + "/orphaned",
			Flag: contract.SetFlagRequest{Kind: d.Kind, Decision: id, Reason: "its decision ended without taking it off"},
		}
		if err := workflow.ExecuteActivity(doing(ctx, "take an orphaned flag off"), loops.SetKeyFlag, p).Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Error("an orphaned flag could not be taken off", "decision", id, "error", err)
		}
		d = i.decision(id) // the slice may have moved meanwhile
		d.Status, d.Reason, d.Share = contract.Reverted, "it ended without a verdict: "+err.Error(), 0
	}
	if i.live == id {
		i.live = ""
	}
	if d.Status == contract.Approved {
		if d.Action == contract.RollBack {
			i.calls = append(i.calls, id)
		} else {
			i.scoring = true
		}
	}
	d.ChangedAt = workflow.Now(ctx)
	i.recorded(ctx)
}

// withdraw tells the decision under way that the incident is over.
func (i *incident) withdraw(ctx workflow.Context) {
	if i.live != "" {
		i.signal(ctx, i.live, contract.Withdraw, contract.WithdrawMessage{Who: i.who, Reason: i.state.Reason, Release: i.released})
	}
}

// rollBack calls the webhook of an approved rollback, and keeps what it answers. When it fails, the step that
// found the deployment is left to people.
func (i *incident) rollBack(ctx workflow.Context) {
	id := i.calls[0]
	i.calls = i.calls[1:]
	deployment := i.undone[id]
	result := contract.RollbackResult{Decision: id, Service: deployment.Service, Version: deployment.Version, At: workflow.Now(ctx)}
	if i.released {
		result.Failed = "it was not called: " + i.state.Reason
	} else {
		request := contract.RollbackRequest{Incident: i.state.ID, Key: i.in.Key, Deployment: deployment, Attempt: attempts(i.state.Decisions, contract.RollBack)}
		err := workflow.ExecuteActivity(calling(ctx, "call the rollback webhook of "+deployment.Service), rollbacks.CallRollback, request).Get(ctx, &result)
		result.Decision, result.At = id, workflow.Now(ctx)
		if err != nil {
			result.Failed = err.Error()
		}
	}
	i.state.Evidence.Rollbacks = append(i.state.Evidence.Rollbacks, result)
	d := i.decision(id)
	d.Reason = stopped(d.Reason) + " " + sentence(result.Text())
	i.postText(ctx, contract.NoticeActed, headline(d.Action, d.Value), sentence(result.Text()))
	if step := i.done(runbook.T2); result.Failed != "" && step != nil && !i.resolved {
		i.need(ctx, step, i.undo(runbook.CauseDeployment)+", by hand: "+result.Text())
	}
	i.recorded(ctx)
}

// attempts is how often an action has been tried.
func attempts(all []contract.DecisionSummary, action string) (n int) {
	for _, d := range all {
		if d.Action == action {
			n++
		}
	}
	return n
}
