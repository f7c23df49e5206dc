package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
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
	plan       []runbook.Step // still to be walked
	visible    attributes
	journal    journal
	bulletin   bulletin
	live       string // the decision under way
	reconsider bool   // something happened that may call for an act
	scoring    bool   // every call is to be scored
	skip       map[string]contract.SkipStepRequest
	resolved   bool
	released   bool // by a person: flags come off at once
	who        string
	lastAct    workflow.Future // when an act on the key ended last before this incident
}

func newIncident(ctx workflow.Context, in contract.IncidentInput) (*incident, error) {
	if in.Key.Tenant == "" || in.Key.Model == "" || in.Opened.IsZero() {
		return nil, invalid("an incident needs its key and the time when it opened")
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	i := &incident{
		in: in, plan: runbook.Plan(in.Tuning.TimeScale), skip: map[string]contract.SkipStepRequest{},
		state: contract.IncidentState{
			ID: workflow.GetInfo(ctx).WorkflowExecution.ID, Input: in, Level: in.Level, Phase: contract.IncidentOpen,
			Finding: in.Finding, Reason: in.Finding.Verdict.Reason,
		},
	}
	return i, i.listen(ctx)
}

func (i *incident) listen(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.IncidentState, error) { return i.state, nil }); err != nil {
		return fmt.Errorf("registering the state query: %w", err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.Acknowledge, i.acknowledge, workflow.UpdateHandlerOptions{
		Validator: i.checkAcknowledge, Description: "Take the incident on: {who, note}.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.Acknowledge, err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.SkipStep, i.skipStep, workflow.UpdateHandlerOptions{
		Validator: i.checkSkip, Description: "Skip a step of the runbook: {step: T+5, who, reason}.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.SkipStep, err)
	}
	twins(ctx, contract.Acknowledge, func(ctx workflow.Context, r contract.AcknowledgeRequest) error {
		if err := i.checkAcknowledge(r); err != nil {
			return err
		}
		_, err := i.acknowledge(ctx, r)
		return err
	})
	twins(ctx, contract.SkipStep, func(ctx workflow.Context, r contract.SkipStepRequest) error {
		if err := i.checkSkip(r); err != nil {
			return err
		}
		_, err := i.skipStep(ctx, r)
		return err
	})
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
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	_ = workflow.Await(ctx, func() bool { return i.live == "" })
	i.close(ctx, err != nil)
	return contract.IncidentResult{Cause: runbook.Cause(i.state.Steps), Reason: i.state.Reason, Report: i.state.Report}, err
}

// walk does whatever is next until the incident is resolved and its decisions have ended. A finding
// that comes back while it is closing takes it up again where it was.
func (i *incident) walk(ctx workflow.Context) error {
	for !i.resolved || i.live != "" {
		step, due := i.next()
		switch {
		case i.resolved: // only waits for its decisions
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
		return i.resolved != resolved || i.live != live || !i.resolved && (i.reconsider || i.scoringWanted() || step != nil && i.skipped(step.Name))
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

// perform walks one step: the evidence it asks for, and what that says.
func (i *incident) perform(ctx workflow.Context, step runbook.Step) {
	i.state.Step = step.Name
	i.publish(ctx)
	var v runbook.Verdict
	if r, ok := i.skip[step.Name]; ok {
		v = runbook.Verdict{Status: runbook.Skipped, Text: byWhom("skipped", r.Who, r.Reason)}
	} else {
		v = i.check(ctx, step.Name)
	}
	i.state.Steps = append(i.state.Steps, runbook.Done{Step: step, At: workflow.Now(ctx), Verdict: v})
	if step.Name == runbook.T30 {
		i.report(ctx)
		i.post(ctx, contract.NoticeReport)
	}
	i.recorded(ctx)
}

// check carries out a step's check.
func (i *incident) check(ctx workflow.Context, step string) runbook.Verdict {
	switch step {
	case runbook.T0:
		i.post(ctx, contract.NoticeOpened)
		return i.checkChanges(ctx)
	case runbook.T2:
		return i.checkProvider(ctx)
	case runbook.T5:
		return i.checkCompletion(ctx)
	case runbook.T10:
		return i.raiseScrutiny(ctx)
	}
	cause := runbook.Cause(i.state.Steps)
	if cause == "" {
		return runbook.Verdict{Status: runbook.Unknown, Text: "the cause is unclear; the report has the query to go on with"}
	}
	return runbook.Verdict{Status: runbook.Found, Cause: cause, Text: "the report is written; the cause is " + cause}
}

func (i *incident) evidence() contract.EvidenceRequest {
	return contract.EvidenceRequest{Key: i.in.Key, Opened: i.in.Opened}
}

// checkChanges looks for a deployment, or a first-seen model or template, shortly before the incident.
func (i *incident) checkChanges(ctx workflow.Context) runbook.Verdict {
	err := workflow.ExecuteActivity(asking(ctx, "deployments and first-seen tags"), telemetry.FindChanges, i.evidence()).Get(ctx, &i.state.Evidence.Changes)
	if err != nil {
		return unknown("changes", err)
	}
	return runbook.JudgeChange(i.state.Evidence.Changes.Deployments, i.state.Evidence.Changes.FirstSeen, i.in.Opened)
}

// checkProvider reads the provider's status page, unless a change explains the incident already.
func (i *incident) checkProvider(ctx workflow.Context) runbook.Verdict {
	switch cause := runbook.Cause(i.state.Steps); cause {
	case runbook.CauseDeployment, runbook.CauseFirstSeen:
		return runbook.Verdict{Status: runbook.Found, Cause: cause, Text: "a change explains it: " + rollback(cause, i.state.Evidence.Changes.Deployments)}
	}
	err := workflow.ExecuteActivity(asking(ctx, "the provider's status page"), providers.CheckProvider, i.evidence()).Get(ctx, &i.state.Evidence.Provider)
	if err != nil {
		return unknown("the provider's status", err)
	}
	return runbook.JudgeProvider(i.state.Evidence.Provider)
}

// checkCompletion compares output with input tokens, unless the provider explains the incident.
func (i *incident) checkCompletion(ctx workflow.Context) runbook.Verdict {
	if runbook.Cause(i.state.Steps) == runbook.CauseProvider {
		return runbook.Verdict{Status: runbook.Skipped, Text: "the provider's own problem explains it"}
	}
	err := workflow.ExecuteActivity(asking(ctx, "completion ratio and worst traces"), telemetry.CompareCompletion, i.evidence()).Get(ctx, &i.state.Evidence.Completion)
	if err != nil {
		return unknown("the completion ratio", err)
	}
	return runbook.JudgeCompletion(i.state.Evidence.Completion, i.in.Tuning.Limits.Minimums.Cost)
}

// raiseScrutiny scores every call, and freezes an act that goes by itself, while the cause is unclear.
func (i *incident) raiseScrutiny(ctx workflow.Context) runbook.Verdict {
	if cause := runbook.Cause(i.state.Steps); cause != "" {
		return runbook.Verdict{Status: runbook.Skipped, Text: "the cause is known: " + cause}
	}
	text := "still unclear"
	if i.live != "" {
		i.signal(ctx, i.live, contract.Freeze, contract.FreezeMessage{Reason: "the cause is still unclear at " + runbook.T10})
		text += "; an automatic act stays at its share"
	}
	i.state.Frozen = true
	switch err := i.score(ctx); {
	case err != nil:
		text += "; not every call is scored, since sampling could not be raised"
	case i.state.Scoring:
		text += "; every call is now scored"
	}
	return runbook.Verdict{Status: runbook.Unknown, Text: text}
}

// unknown is the verdict of a check that could not be made.
func unknown(what string, err error) runbook.Verdict {
	return runbook.Verdict{Status: runbook.Unknown, Text: fmt.Sprintf("%s could not be read: %v", what, err)}
}

// scoringWanted reports whether every call should be scored and is not: a person said so, or a decision
// moves calls, whose arms would not gather scores fast enough.
func (i *incident) scoringWanted() bool {
	return !i.state.Scoring && (i.scoring || slices.ContainsFunc(i.state.Decisions, func(d contract.DecisionSummary) bool { return d.Share > 0 }))
}

// score has every call of the key scored, for as long as the incident lasts. It sets Scoring even when
// the flag could not be set, since the incident can do without; the release at the end is harmless.
func (i *incident) score(ctx workflow.Context) error {
	if i.state.Scoring || !i.in.Key.OwnsFlags() {
		return nil
	}
	i.state.Scoring = true
	ctx = workflow.WithScheduleToCloseTimeout(doing(ctx, "score every call"), evidenceWithin)
	err := workflow.ExecuteActivity(ctx, loops.SetKeyFlag, i.sampling(1, "both arms need scores", workflow.Now(ctx))).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Warn("sampling could not be raised", "error", err)
	}
	return err
}

// sampling is the order that sets the key's sampling flag.
func (i *incident) sampling(share float64, reason string, now time.Time) contract.SetKeyFlagRequest {
	return contract.SetKeyFlagRequest{
		Key: i.in.Key, Tuning: i.in.Tuning, UpdateID: fmt.Sprintf("%s/sampling/%g", i.state.ID, share),
		Flag: contract.SetFlagRequest{
			Kind: routing.Sampling, Share: share, Reason: reason, Decision: i.state.ID,
			ExpiresAt: now.Add(i.in.Tuning.Limits.MaxHold + expirySlack),
		},
	}
}

// consider asks act.yaml what to do now, and starts the decision that it proposes: at most one at a
// time, and none that a person or the holdback has said no to in this incident.
func (i *incident) consider(ctx workflow.Context) {
	if i.live != "" || i.resolved || !i.in.Key.OwnsFlags() || len(i.state.Decisions) >= maxDecisions {
		return
	}
	var plan contract.RolloutPlan // what cannot be asked is not provable, and so is left to people
	request := contract.PlanRolloutRequest{Key: i.in.Key, Kind: routing.Route, Limits: i.in.Tuning.Limits}
	if err := workflow.ExecuteActivity(asking(ctx, "can an act be proved here?"), telemetry.PlanRollout, request).Get(ctx, &plan); err != nil {
		workflow.GetLogger(ctx).Warn("the traffic could not be sized", "error", err)
	}
	var p contract.Proposal
	err := workflow.ExecuteActivity(asking(ctx, "what does act.yaml propose?"), policies.ProposeAct, contract.ActRequest{
		Key: i.in.Key, Level: i.state.Level, Finding: i.state.Finding, Step: i.state.Step, Steps: i.state.Steps,
		Changes: i.state.Evidence.Changes, Provable: plan.Plan.Provable, CoolingDown: i.coolingDown(ctx),
		Frozen: i.state.Frozen, Scoring: i.state.Scoring,
	}).Get(ctx, &p)
	i.state.Advice = ""
	if err == nil && !p.Wanted() {
		i.state.Advice = p.Reason
	}
	switch {
	case err != nil:
		workflow.GetLogger(ctx).Warn("the policy could not be asked", "error", err)
	case !p.Wanted() || i.resolved || i.rejected(p.Action) || i.overtaken(ctx, p.Action):
	case p.Action == contract.ScoreCalls && p.Mode == contract.Auto:
		_ = i.score(ctx)
	default:
		i.decide(ctx, p)
	}
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
// again, would be oscillation.
func (i *incident) rejected(action string) bool {
	return slices.ContainsFunc(i.state.Decisions, func(d contract.DecisionSummary) bool {
		return d.Action == action && (d.Status == contract.Denied || d.Status == contract.Reverted)
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
	attempt := 1
	for _, d := range i.state.Decisions {
		if d.Action == p.Action {
			attempt++
		}
	}
	id := contract.DecisionID(i.state.ID, p.Action, attempt)
	// On a context of its own: to cancel the incident is to withdraw its decision, not to cancel it.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowTaskTimeout:   contract.WorkflowTaskTimeout,
		TypedSearchAttributes: keyAttributes(i.in.Key, string(i.state.Level), string(contract.Proposed)),
		StaticSummary:         fmt.Sprintf("%s %s %s", p.Action, i.in.Key, p.Value),
	}), Decision, contract.DecisionInput{
		Key: i.in.Key, Incident: i.state.ID, Attempt: attempt, Tuning: i.in.Tuning, Proposal: p, Finding: i.state.Finding,
	})
	i.live = id
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
	case !d.Status.Final():
		p := contract.SetKeyFlagRequest{
			Key: i.in.Key, Tuning: i.in.Tuning, UpdateID: id + "/orphaned",
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
		i.scoring = true
	}
	d.ChangedAt = workflow.Now(ctx)
	i.recorded(ctx)
}

// alertChanged takes the alert loop's news.
func (i *incident) alertChanged(ctx workflow.Context, m contract.AlertChangedMessage) {
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
		i.post(ctx, contract.NoticeEscalated)
	case contract.Recovering:
		i.state.Silent = false
		i.state.Phase = contract.IncidentRecovering
	case contract.Refired:
		i.state.Silent = false // what fell silent before a person closed it is heard of here first
		i.resolved, i.released = false, false
		i.state.Phase = contract.IncidentOpen
		i.reconsider = true
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

// withdraw tells the decision under way that the incident is over.
func (i *incident) withdraw(ctx workflow.Context) {
	if i.live != "" {
		i.signal(ctx, i.live, contract.Withdraw, contract.WithdrawMessage{Who: i.who, Reason: i.state.Reason, Release: i.released})
	}
}

// signal sends a message without waiting; whoever is gone needs none.
func (i *incident) signal(ctx workflow.Context, id, name string, message any) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.SignalExternalWorkflow(ctx, id, "", name, message)
}

func (i *incident) checkAcknowledge(r contract.AcknowledgeRequest) error {
	if r.Who == "" {
		return invalid("say who takes the incident on (who)")
	}
	return nil
}

func (i *incident) acknowledge(ctx workflow.Context, r contract.AcknowledgeRequest) (contract.IncidentState, error) {
	i.state.Acknowledged = &contract.Acknowledgement{Who: r.Who, Note: r.Note, At: workflow.Now(ctx)}
	i.recorded(ctx)
	return i.state, nil
}

func (i *incident) checkSkip(r contract.SkipStepRequest) error {
	switch {
	case r.Who == "":
		return invalid("say who skips the step (who)")
	case r.Step == runbook.T30:
		return refuse("the report cannot be skipped")
	case !slices.ContainsFunc(i.plan, func(s runbook.Step) bool { return s.Name == r.Step }):
		return refuse(fmt.Sprintf("there is no step %q ahead", r.Step))
	}
	return nil
}

// skipStep has a step skipped: at once if it is the next, else when its turn comes.
func (i *incident) skipStep(_ workflow.Context, r contract.SkipStepRequest) (contract.IncidentState, error) {
	i.skip[r.Step] = r
	return i.state, nil
}

func (i *incident) skipped(step string) bool {
	_, ok := i.skip[step]
	return ok
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
	i.report(ctx)
	i.post(ctx, contract.NoticeClosed)
	i.recorded(ctx)
	i.journal.close(ctx)
	ended := contract.IncidentEndedMessage{Incident: i.state.ID, Cancelled: cancelled}
	if err := workflow.SignalExternalWorkflow(ctx, i.in.Loop, "", contract.IncidentEnded, ended).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("the alert loop is gone", "loop", i.in.Loop, "error", err)
	}
	i.bulletin.close(ctx)
	_ = workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
}

// report has the report written as far as it can be told now.
func (i *incident) report(ctx workflow.Context) {
	r := runbook.Report{ID: i.state.ID, Key: i.in.Key, Opened: i.in.Opened, Closed: i.state.ClosedAt, Finding: i.in.Finding, Steps: i.state.Steps}
	for _, d := range i.state.Decisions {
		r.Acts = append(r.Acts, runbook.Act{ID: d.ID, Action: d.Action, Target: d.Value, State: string(d.Status) + ", " + d.Reason, Effect: string(d.Effect), By: d.Who})
	}
	var written contract.WrittenReport
	if err := workflow.ExecuteActivity(doing(ctx, "write the report"), telemetry.WriteReport, r).Get(ctx, &written); err != nil {
		workflow.GetLogger(ctx).Error("the report could not be written", "error", err)
		return
	}
	i.state.Report = written.Markdown
}

// post tells the people on call how the incident stands.
func (i *incident) post(ctx workflow.Context, kind contract.NoticeKind) {
	text := incidentDetails(i.state)
	if i.state.Report != "" {
		text = i.state.Report
	}
	i.bulletin.post(ctx, contract.Notice{
		Kind: kind, ID: i.state.ID, Key: i.in.Key, Level: i.state.Level, At: workflow.Now(ctx), Title: incidentTitle(i.state), Text: text,
	})
}

// recorded shows a change and has it written.
func (i *incident) recorded(ctx workflow.Context) {
	i.state.UpdatedAt = workflow.Now(ctx)
	i.publish(ctx)
	i.journal.changed()
}

// publish shows the state to people: search attributes and current details.
func (i *incident) publish(ctx workflow.Context) {
	i.visible.set(ctx, attributes{Severity: string(i.state.Level), State: string(i.state.Phase), Step: i.state.Step})
	workflow.SetCurrentDetails(ctx, incidentDetails(i.state))
}
