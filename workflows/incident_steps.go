package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The steps of the runbook: what each checks and concludes, and the report.

// perform walks one step: the evidence it asks for, and what that says.
func (i *incident) perform(ctx workflow.Context, step runbook.Step) {
	i.state.Step = step.Name
	i.publish(ctx)
	var v runbook.Verdict
	if r, ok := i.skip[step.Name]; ok {
		v = runbook.Verdict{Status: runbook.Skipped, Text: byWhom("skipped", r.Who, r.Reason)}
	} else {
		if step.Name == runbook.T0 {
			i.callPeople(ctx, contract.NoticeOpened)
		}
		v = i.check(ctx, step.Name)
	}
	i.state.Steps = append(i.state.Steps, runbook.Done{Step: step, At: workflow.Now(ctx), Verdict: v})
	i.walked(ctx, step.Name, v)
}

// performAgain walks a step once more that somebody wants walked again. The new verdict takes the place of
// the old one, which stays on record.
func (i *incident) performAgain(ctx workflow.Context) {
	r := i.reruns[0]
	delete(i.skip, r.Step)
	v := i.check(ctx, r.Step)
	i.reruns = i.reruns[1:]
	done := i.done(r.Step)
	if done == nil { // the incident was resolved and taken up again meanwhile
		return
	}
	*done = runbook.Again(*done, runbook.Done{Step: done.Step, At: workflow.Now(ctx), Verdict: v, Why: byWhom("walked again", r.Who, r.Reason)})
	i.walked(ctx, r.Step, v)
	if last := i.done(runbook.T30); last != nil && r.Step != runbook.T30 {
		last.Verdict = i.conclusion()
		i.report(ctx)
		i.recorded(ctx)
	}
}

// walked tells of a step that has been walked.
func (i *incident) walked(ctx workflow.Context, step string, v runbook.Verdict) {
	i.postText(ctx, contract.NoticeStep, fmt.Sprintf("%s %s", step, v.Status), v.Text)
	if step == runbook.T30 {
		i.recalibrate(ctx)
		i.report(ctx)
		i.post(ctx, contract.NoticeReport)
	}
	i.recorded(ctx)
}

// done is the step as it was walked last; nil when it has not been.
func (i *incident) done(step string) *runbook.Done {
	n := slices.IndexFunc(i.state.Steps, func(d runbook.Done) bool { return d.Step.Name == step })
	if n < 0 {
		return nil
	}
	return &i.state.Steps[n]
}

// conclude skips the checks that are still ahead when the incident is resolved, and has its report written at
// once.
func (i *incident) conclude(ctx workflow.Context) {
	i.concluded, i.ahead, i.plan = true, i.plan, nil
	why := "recovered"
	if i.who != "" {
		why = i.state.Reason
	}
	for _, step := range i.ahead {
		d := runbook.Done{Step: step, At: workflow.Now(ctx), Verdict: runbook.Verdict{Status: runbook.Skipped, Text: why}}
		if step.Name == runbook.T30 {
			d.Verdict = i.conclusion()
		}
		i.state.Steps = append(i.state.Steps, d)
	}
	i.state.NextAt = time.Time{}
	i.recalibrate(ctx)
	i.report(ctx)
	i.recorded(ctx)
}

// takeUpAgain goes on with the runbook where it was when the incident was resolved.
func (i *incident) takeUpAgain() {
	if !i.concluded {
		return
	}
	i.state.Steps = i.state.Steps[:len(i.state.Steps)-len(i.ahead)]
	i.concluded, i.plan, i.ahead = false, i.ahead, nil
}

// leaveToPeople keeps the step that found a change open when no act undoes it: a person has to. The steps
// after it do not wait.
func (i *incident) leaveToPeople(ctx workflow.Context) {
	d := i.done(runbook.T2)
	if !i.bulletin.ordered || d == nil || d.Needs != "" || d.Verdict.Status != runbook.Found || d.Verdict.Cause == runbook.CauseProvider {
		return
	}
	if slices.ContainsFunc(i.state.Decisions, func(d contract.DecisionSummary) bool { return undoes(d.Action) }) {
		return // a person has been asked, or an act is under way
	}
	i.need(ctx, d, i.undo(d.Verdict.Cause))
}

// undoes reports whether the action takes a change back.
func undoes(action string) bool { return action == pinBack || action == contract.RollBack }

// pinBack is the action of serving by the model that was there before.
const pinBack = "pin"

// need leaves something of a step to people. Whoever has taken the incident on already does that too.
func (i *incident) need(ctx workflow.Context, d *runbook.Done, what string) {
	d.Needs, d.Settled = what, ""
	if a := i.state.Acknowledged; a != nil {
		d.Settled = a.Who + " has taken the incident on"
	}
	i.recorded(ctx)
}

// check carries out a step's check.
func (i *incident) check(ctx workflow.Context, step string) runbook.Verdict {
	switch step {
	case runbook.T0:
		return i.checkChanges(ctx)
	case runbook.T2:
		return i.checkProvider(ctx)
	case runbook.T5:
		return i.checkCompletion(ctx)
	case runbook.T10:
		return i.raiseScrutiny(ctx)
	}
	if i.bulletin.ordered {
		i.attribute(ctx)
	}
	return i.conclusion()
}

// conclusion is what the last step says.
func (i *incident) conclusion() runbook.Verdict {
	cause := runbook.Cause(i.state.Steps)
	if cause == "" {
		return runbook.Verdict{Status: runbook.Unknown, Text: "the cause is unclear; the report has the query to go on with"}
	}
	return runbook.Verdict{Status: runbook.Found, Cause: cause, Text: "the report is written; the cause is " + cause}
}

func (i *incident) evidence() contract.EvidenceRequest {
	return contract.EvidenceRequest{Key: i.in.Key, Opened: i.in.Opened, WindowMinutes: i.in.Finding.Facts.WindowMinutes}
}

// checkChanges looks for a deployment, or a first-seen model or template, shortly before the incident; and,
// beside it, for what carries the rise and for what the key's last incident taught.
func (i *incident) checkChanges(ctx workflow.Context) runbook.Verdict {
	changes := workflow.ExecuteActivity(asking(ctx, "deployments and first-seen tags"), telemetry.FindChanges, i.evidence())
	i.lookBack(ctx)
	if err := changes.Get(ctx, &i.state.Evidence.Changes); err != nil {
		return unknown("changes", err)
	}
	return runbook.JudgeChange(i.state.Evidence.Changes.Deployments, i.state.Evidence.Changes.FirstSeen, i.in.Opened)
}

// lookBack reads what carries the rise, and what the key's last incident taught. The incident can do without.
func (i *incident) lookBack(ctx workflow.Context) {
	if !i.bulletin.ordered {
		return
	}
	past := workflow.ExecuteActivity(asking(ctx, "the key's last incident"), telemetry.PastIncident, i.evidence())
	i.attribute(ctx)
	if err := past.Get(ctx, &i.state.Previous); err != nil {
		workflow.GetLogger(ctx).Warn("the key's last incident could not be read", "error", err)
	}
}

// checkProvider reads the provider's status page, unless a change explains the incident already.
func (i *incident) checkProvider(ctx workflow.Context) runbook.Verdict {
	switch cause := runbook.CauseBefore(i.state.Steps, runbook.T2); cause {
	case runbook.CauseDeployment, runbook.CauseFirstSeen:
		return runbook.Verdict{Status: runbook.Found, Cause: cause, Text: "a change explains it: " + i.undo(cause)}
	}
	err := workflow.ExecuteActivity(asking(ctx, "the provider's status page"), providers.CheckProvider, i.evidence()).Get(ctx, &i.state.Evidence.Provider)
	if err != nil {
		return unknown("the provider's status", err)
	}
	return runbook.JudgeProvider(i.state.Evidence.Provider)
}

// undo says what a person is to go back to.
func (i *incident) undo(cause string) string {
	return rollback(cause, runbook.Correlated(i.state.Evidence.Changes.Deployments, i.in.Opened))
}

// checkCompletion compares output with input tokens, unless the provider explains the incident.
func (i *incident) checkCompletion(ctx workflow.Context) runbook.Verdict {
	if runbook.CauseBefore(i.state.Steps, runbook.T5) == runbook.CauseProvider {
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
	if cause := runbook.CauseBefore(i.state.Steps, runbook.T10); cause != "" {
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
	if i.state.Scoring || !i.target.OwnsFlags() {
		return nil
	}
	i.state.Scoring = true
	ctx = workflow.WithScheduleToCloseTimeout(doing(ctx, "score every call"), evidenceWithin)
	err := workflow.ExecuteActivity(ctx, loops.SetKeyFlag, i.sampling(1, "both arms need scores", workflow.Now(ctx))).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Warn("sampling could not be raised", "error", err)
		return err
	}
	i.postText(ctx, contract.NoticeActed, "every call is scored", "Every call of "+i.target.String()+" is scored for as long as the incident lasts.")
	return nil
}

// sampling is the order that sets the key's sampling flag.
func (i *incident) sampling(share float64, reason string, now time.Time) contract.SetKeyFlagRequest {
	return contract.SetKeyFlagRequest{
		Key: i.target, Tuning: i.in.Tuning, Start: i.mix != nil, UpdateID: fmt.Sprintf("%s/sampling/%g", i.state.ID, share),
		Flag: contract.SetFlagRequest{
			Kind: routing.Sampling, Share: share, Reason: reason, Decision: i.state.ID,
			ExpiresAt: now.Add(i.in.Tuning.Limits.MaxHold + expirySlack),
		},
	}
}

// attribute asks what carries the rise: as the incident opens, and with more calls to go by for its report.
func (i *incident) attribute(ctx workflow.Context) {
	if err := workflow.ExecuteActivity(asking(ctx, "what carries the rise?"), telemetry.AttributeRise, i.evidence()).Get(ctx, &i.state.Evidence.Attribution); err != nil {
		workflow.GetLogger(ctx).Warn("the rise could not be split", "error", err)
	}
}

// attributed says what carries the rise; empty: that is not known.
func attributed(e contract.Evidence) string {
	var said []string
	if s := e.Shift; s != nil && s.Text != "" {
		said = append(said, s.Text)
	}
	if e.Attribution != nil {
		said = append(said, e.Attribution.Text())
	}
	return strings.Join(said, "; ")
}

// recalibrate asks for new baselines when another model has come to serve the key: once, since the next run
// learns everything that has changed.
func (i *incident) recalibrate(ctx workflow.Context) {
	changes := i.state.Evidence.Changes
	model := runbook.NewModel(changes.Deployments, changes.FirstSeen, i.in.Opened)
	if !i.bulletin.ordered || model == "" || i.state.Recalibration != "" || i.in.Key == usage.Everything {
		return
	}
	request := contract.AskRecalibrationRequest{Tenant: i.in.Key.Tenant, Tuning: i.in.Tuning, Request: contract.RecalibrateRequest{
		Who: i.state.ID, Reason: model + " has come to serve " + i.in.Key.String(),
	}}
	if err := workflow.ExecuteActivity(asking(ctx, "baselines for a new model"), loops.AskRecalibration, request).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("new baselines could not be asked for", "error", err)
		return
	}
	i.state.Recalibration = contract.CalibrationID(i.in.Key.Tenant)
}

// report has the report written as far as it can be told now.
func (i *incident) report(ctx workflow.Context) {
	var written contract.WrittenReport
	if err := workflow.ExecuteActivity(doing(ctx, "write the report"), telemetry.WriteReport, reportOf(i.state)).Get(ctx, &written); err != nil {
		workflow.GetLogger(ctx).Error("the report could not be written", "error", err)
		return
	}
	i.state.Report = written.Markdown
}

// reportOf is what the report tells of an incident.
func reportOf(s contract.IncidentState) runbook.Report {
	r := runbook.Report{
		ID: s.ID, Key: s.Input.Key, Opened: s.Input.Opened, Closed: s.ClosedAt, Finding: s.Input.Finding, Steps: s.Steps,
		Worst: s.Evidence.Completion.Lines(), Timeline: s.Timeline(), Recalibration: s.Recalibration, Previous: (*runbook.Past)(s.Previous), Rise: s.Evidence.Attribution, Shift: s.Evidence.Shift,
	}
	for _, d := range s.Decisions {
		r.Acts = append(r.Acts, runbook.Act{ID: d.ID, Action: d.Action, Target: d.Value, State: string(d.Status) + ", " + d.Reason, Effect: string(d.Effect), By: d.Who})
	}
	for _, a := range s.Evidence.Rollbacks {
		r.Acts = append(r.Acts, runbook.Act{ID: a.Decision, Action: "webhook", State: a.Text()})
	}
	if a := s.Acknowledged; a != nil {
		r.Notes = append(r.Notes, runbook.Event{At: a.At, Text: strings.TrimSuffix(a.Who+" took it on: "+a.Note, ": ")})
	}
	for _, n := range s.Notes {
		r.Notes = append(r.Notes, runbook.Event{At: n.At, Text: n.Who + ": " + n.Text})
	}
	if link := s.Evidence.Provider.Link; link != "" {
		r.Links = append(r.Links, link)
	}
	return r
}
