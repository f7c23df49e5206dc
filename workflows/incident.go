package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Incident walks the runbook on durable timers, starts decisions when act.yaml proposes them, and ends
// when its alert is resolved and its decisions have ended, with a report.
func Incident(ctx workflow.Context, in contract.IncidentInput) (contract.IncidentResult, error) {
	i, err := newIncident(ctx, in)
	if err != nil {
		return contract.IncidentResult{}, err
	}
	return i.run(ctx)
}

// maxDecisions bounds the decisions of one incident: a policy that proposes for ever must not act for
// ever.
const maxDecisions = 8

type incident struct {
	in         contract.IncidentInput
	state      contract.IncidentState
	target     usage.Key      // whose flags its acts are: the key itself, or the model that a pseudo-key's callers turned to
	mix        *routing.Mix   // that turn
	plan       []runbook.Step // still to be walked
	visible    attributes
	journal    journal
	bulletin   bulletin
	live       string // the decision under way
	reconsider bool   // something happened that may call for an act
	scoring    bool   // every call is to be scored
	skip       map[string]contract.SkipStepRequest
	reruns     []contract.RerunStepRequest // steps to be walked again, in the order asked for
	calls      []string                    // approved rollbacks whose webhook is to be called
	undone     map[string]usage.Deployment // by the rollback that undoes it
	resolved   bool
	concluded  bool           // and the steps that were still ahead have been skipped for it
	ahead      []runbook.Step // those, should the finding come back
	released   bool           // by a person: flags come off at once
	who        string
	lastAct    workflow.Future   // when an act on the key ended last before this incident
	told       contract.Audience // who was called last; empty: nobody yet
	remindAt   time.Time         // of the next reminder, if one is due at all
	over       bool
}

func newIncident(ctx workflow.Context, in contract.IncidentInput) (*incident, error) {
	if in.Key.Tenant == "" || in.Key.Model == "" || in.Opened.IsZero() {
		return nil, invalid("an incident needs its key and the time when it opened")
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	i := &incident{
		in: in, target: in.Key, plan: runbook.Plan(in.Tuning.TimeScale), skip: map[string]contract.SkipStepRequest{}, undone: map[string]usage.Deployment{},
		state: contract.IncidentState{
			ID: workflow.GetInfo(ctx).WorkflowExecution.ID, Input: in, Level: in.Level, Phase: contract.IncidentOpen,
			Finding: in.Finding, Reason: in.Finding.Verdict.Reason,
		},
	}
	if in.Mute.On(workflow.Now(ctx)) {
		i.state.Mute = in.Mute
	}
	return i, i.listen(ctx)
}

func (i *incident) listen(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.IncidentState, error) { return i.state, nil }); err != nil {
		return fmt.Errorf("registering the state query: %w", err)
	}
	if err := errors.Join(
		said(ctx, contract.Acknowledge, "Take the incident on: {who, note}.", i.checkAcknowledge, i.acknowledge),
		said(ctx, contract.SkipStep, "Skip a step of the runbook, or what a step waits for: {step: T+5, who, reason}.", i.checkSkip, i.skipStep),
		said(ctx, contract.RerunStep, "Walk a step of the runbook again: {step: T+5, who, reason}.", i.checkRerun, i.rerunStep),
		said(ctx, contract.Annotate, "Write a remark into the incident's timeline: {who, text}.", i.checkNote, i.annotate),
	); err != nil {
		return err
	}
	twins(ctx, contract.AlertChanged, func(ctx workflow.Context, m contract.AlertChangedMessage) error {
		i.alertChanged(ctx, m)
		return nil
	})
	twins(ctx, contract.DecisionMoved, func(ctx workflow.Context, s contract.DecisionState) error {
		i.decisionMoved(ctx, s.Summary())
		return nil
	})
	i.journal.open(ctx, func(ctx workflow.Context) error {
		return workflow.ExecuteActivity(doing(ctx, "record the incident"), telemetry.RecordIncident, i.state).Get(ctx, nil)
	})
	i.bulletin.open(ctx, i.fill)
	i.remind(ctx)
	return nil
}

func (i *incident) run(ctx workflow.Context) (contract.IncidentResult, error) {
	i.publish(ctx)
	i.lastAct = workflow.ExecuteActivity(asking(ctx, "when did the last act on this key end?"), telemetry.LastAct, i.in.Key)
	err := i.walk(ctx)
	if err != nil { // cancelled: nothing may stay behind
		i.resolved, i.released, i.who = true, true, "whoever cancelled the incident"
		i.state.Phase, i.state.Reason = contract.IncidentClosing, "the incident was cancelled"
		i.withdraw(ctx)
	}
	i.over = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	_ = workflow.Await(ctx, func() bool { return i.live == "" })
	i.close(ctx, err != nil)
	return contract.IncidentResult{Cause: runbook.Cause(i.state.Steps), Reason: i.state.Reason, Report: i.state.Report}, err
}

// walk does whatever is next until the incident is resolved and its decisions have ended. A finding
// that comes back while it is closing takes it up again where it was.
func (i *incident) walk(ctx workflow.Context) error {
	for !i.resolved || i.live != "" || len(i.calls) > 0 {
		step, due := i.next()
		switch {
		case len(i.calls) > 0: // approved: it is made even if the finding has gone since
			i.rollBack(ctx)
			continue
		case i.resolved && i.bulletin.ordered && !i.concluded:
			i.conclude(ctx)
			if len(i.ahead) > 0 { // else it has been told of at T+30
				i.post(ctx, contract.NoticeReport)
			}
			continue
		case i.resolved: // only waits for its decisions
		case len(i.reruns) > 0:
			i.performAgain(ctx)
			i.consider(ctx)
			i.leaveToPeople(ctx)
			continue
		case i.reconsider:
			i.reconsider = false
			i.consider(ctx)
			continue
		case i.scoringWanted():
			_ = i.score(ctx) // which logs why not
			continue
		case step != nil && (!workflow.Now(ctx).Before(due) || i.skipped(step.Name)):
			i.plan = i.plan[1:]
			i.perform(ctx, *step)
			i.consider(ctx)
			i.leaveToPeople(ctx)
			continue
		}
		if err := i.wait(ctx, step, due); err != nil {
			return err
		}
	}
	return nil
}

// next is the next step of the runbook and when it is due; nil after the last.
func (i *incident) next() (*runbook.Step, time.Time) {
	if len(i.plan) == 0 {
		return nil, time.Time{}
	}
	return &i.plan[0], i.in.Opened.Add(i.plan[0].After)
}

// wait returns when the next step is due or something has happened.
func (i *incident) wait(ctx workflow.Context, step *runbook.Step, due time.Time) error {
	i.state.NextAt = due
	i.publish(ctx)
	resolved, live := i.resolved, i.live
	happened := func() bool {
		return i.resolved != resolved || i.live != live || len(i.calls) > 0 ||
			!i.resolved && (len(i.reruns) > 0 || i.reconsider || i.scoringWanted() || step != nil && i.skipped(step.Name))
	}
	if step == nil || i.resolved {
		return workflow.Await(ctx, happened)
	}
	_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout:      max(due.Sub(workflow.Now(ctx)), time.Millisecond),
		TimerOptions: workflow.TimerOptions{Summary: step.Name + ": " + step.Title},
	}, happened)
	return err
}

// alertChanged takes the alert loop's news.
func (i *incident) alertChanged(ctx workflow.Context, m contract.AlertChangedMessage) {
	if i.over && i.bulletin.ordered {
		return // too late: its loop opens another one
	}
	if m.Finding != nil && m.Finding.Tick > i.state.Finding.Tick && up(m.Finding.Verdict.Level) {
		i.state.Finding = *m.Finding
	}
	switch m.Change {
	case contract.Silent:
		i.state.Silent = true
	case contract.Heard:
		i.state.Silent = false
	case contract.Escalated:
		i.state.Level = m.Level
		i.reconsider = true
		i.callPeople(ctx, contract.NoticeEscalated)
	case contract.Recovering:
		i.state.Silent = false
		i.state.Phase = contract.IncidentRecovering
	case contract.Refired:
		i.state.Silent = false // what fell silent before a person closed it is heard of here first
		i.resolved, i.released = false, false
		i.takeUpAgain()
		i.state.Phase = contract.IncidentOpen
		i.reconsider = true
	case contract.Muted:
		i.setMute(ctx, m.Mute)
		return
	case contract.Resolved:
		if i.resolved {
			return // a reminder
		}
		i.resolved, i.released, i.who = true, m.Who != "", m.Who
		i.state.Phase = contract.IncidentClosing
		i.state.Reason = m.Reason
		if m.Who != "" {
			i.state.Reason = byWhom("resolved", m.Who, m.Reason)
		}
		i.withdraw(ctx)
		i.recorded(ctx)
		return
	}
	i.state.Reason = m.Reason
	i.recorded(ctx)
}

// up reports whether the level is that of a finding.
func up(l detect.Level) bool { return l == detect.Page || l == detect.Investigate }

// signal sends a message without waiting; whoever is gone needs none.
func (i *incident) signal(ctx workflow.Context, id, name string, message any) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.SignalExternalWorkflow(ctx, id, "", name, message)
}

// close ends the incident: it leaves no flag, tells its loop, and writes the final report.
func (i *incident) close(ctx workflow.Context, cancelled bool) {
	if i.state.Scoring {
		order := i.sampling(0, "the incident has ended", workflow.Now(ctx))
		if err := workflow.ExecuteActivity(doing(ctx, "score as before"), loops.SetKeyFlag, order).Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Error("sampling could not be put back", "error", err)
		}
		i.state.Scoring = false
	}
	i.state.Phase, i.state.ClosedAt, i.state.NextAt = contract.IncidentClosed, workflow.Now(ctx), time.Time{}
	if i.bulletin.ordered && !i.concluded {
		i.conclude(ctx)
	} else {
		i.report(ctx)
	}
	i.sayClosed(ctx)
	i.recorded(ctx)
	i.journal.close(ctx)
	ended := contract.IncidentEndedMessage{Incident: i.state.ID, Cancelled: cancelled}
	if err := workflow.SignalExternalWorkflow(ctx, i.in.Loop, "", contract.IncidentEnded, ended).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("the alert loop is gone", "loop", i.in.Loop, "error", err)
	}
	i.bulletin.close(ctx)
	_ = workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
}

// recorded shows a change and has it written.
func (i *incident) recorded(ctx workflow.Context) {
	i.state.UpdatedAt = workflow.Now(ctx)
	i.publish(ctx)
	i.journal.changed()
	if i.told != "" && !i.state.Mute.On(i.state.UpdatedAt) {
		i.bulletin.changed()
	}
}

// publish shows the state to people: search attributes and current details.
func (i *incident) publish(ctx workflow.Context) {
	i.visible.set(ctx, attributes{Severity: string(i.state.Level), State: string(i.state.Phase), Step: i.state.Step})
	workflow.SetCurrentDetails(ctx, incidentDetails(i.state))
}
