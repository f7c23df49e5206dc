package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
)

// Decision is one attempt at an act and its fate: the verdict (of trust or of a person), the rollout
// against the holdback, and the end, which always leaves the flag off.
func Decision(ctx workflow.Context, in contract.DecisionInput) (contract.DecisionResult, error) {
	d, err := newDecision(ctx, in)
	if err != nil {
		return contract.DecisionResult{}, err
	}
	return d.run(ctx)
}

// defaultExpiry is how long a question waits for its answer when the policy does not say.
const defaultExpiry = time.Hour

// expirySlack is how long after the rollout's own end its flag is obeyed at the latest. It only
// matters when nobody is left to take the flag off.
const expirySlack = time.Hour

type decision struct {
	in         contract.DecisionInput
	state      contract.DecisionState
	visible    attributes
	journal    journal
	bulletin   bulletin
	mute       *contract.Mute
	asked      bool            // people have been told of the question
	news       workflow.Future // of the last move, to the incident
	withdrawn  *contract.WithdrawMessage
	measuredAt time.Time           // when what it is worth was last asked for, while it is under way
	recall     workflow.CancelFunc // calls off the watch under way, to look at what has changed
}

func newDecision(ctx workflow.Context, in contract.DecisionInput) (*decision, error) {
	switch {
	case in.Incident == "" && in.Case == nil || in.Key.Tenant == "" || in.Key.Model == "":
		return nil, invalid("a decision needs its key and its incident, or the call that it is about")
	case !in.Key.OwnsFlags():
		return nil, invalid("a decision needs a key that owns flags, not " + in.Key.String())
	case !in.Proposal.Wanted():
		return nil, invalid("a decision needs a proposal that wants something done")
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	now := workflow.Now(ctx)
	d := &decision{in: in, state: contract.DecisionState{
		ID: workflow.GetInfo(ctx).WorkflowExecution.ID, Input: in, Status: contract.Proposed,
		Reason: in.Proposal.Reason, Opened: now, ChangedAt: now, Effect: contract.Unproven, Trust: in.Standing,
	}, mute: in.Mute}
	return d, d.listen(ctx)
}

func (d *decision) listen(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.DecisionState, error) { return d.state, nil }); err != nil {
		return fmt.Errorf("registering the state query: %w", err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.Decide, d.decide, workflow.UpdateHandlerOptions{
		Validator: d.checkVerdict, Description: "Approve or deny: {verdict: approve|deny, who, reason}.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.Decide, err)
	}
	twins(ctx, contract.Decide, func(ctx workflow.Context, r contract.DecideRequest) error {
		// A verdict by signal may be earlier than the question; it then waits for it.
		if err := workflow.Await(ctx, func() bool { return d.state.Status != contract.Proposed }); err != nil {
			return err
		}
		if err := d.checkVerdict(r); err != nil {
			return err
		}
		_, err := d.decide(ctx, r)
		return err
	})
	twins(ctx, contract.Withdraw, func(_ workflow.Context, m contract.WithdrawMessage) error {
		if d.withdrawn == nil || m.Release {
			d.withdrawn = &m
		}
		d.lookUp()
		return nil
	})
	twins(ctx, contract.Freeze, func(_ workflow.Context, m contract.FreezeMessage) error {
		if d.state.Frozen == "" && !d.state.Status.Final() && !d.forPeople() {
			d.state.Frozen = m.Reason
			d.lookUp()
		}
		return nil
	})
	twins(ctx, contract.AlertChanged, func(ctx workflow.Context, m contract.AlertChangedMessage) error {
		if m.Change == contract.Muted {
			d.setMute(ctx, m.Mute)
		}
		return nil
	})
	d.journal.open(ctx, func(ctx workflow.Context) error {
		return workflow.ExecuteActivity(doing(ctx, "record the decision as "+string(d.state.Status)), telemetry.RecordDecision, d.state).Get(ctx, nil)
	})
	d.bulletin.open(ctx, d.fill)
	return nil
}

// setMute hears that the key is muted, or is not any more. A question that nobody was told of is put when it is
// not; a decision knows when its mute ends by its incident.
func (d *decision) setMute(ctx workflow.Context, m *contract.Mute) {
	if d.mute = m; !d.asked && d.state.Status == contract.AwaitingApproval && d.state.Verdict == nil {
		d.tell(ctx, contract.NoticeQuestion, "")
	}
}

// tell tells people of the decision, unless they have muted its key. An empty text is all of it.
func (d *decision) tell(ctx workflow.Context, kind contract.NoticeKind, text string) {
	if d.mute.On(workflow.Now(ctx)) {
		return
	}
	d.asked = d.asked || kind == contract.NoticeQuestion
	d.bulletin.post(ctx, contract.Notice{Kind: kind, Text: text})
}

// fill completes a notice with the decision as it is now.
func (d *decision) fill(n *contract.Notice) {
	level := d.in.Finding.Verdict.Level
	state := d.state
	n.ID, n.Incident, n.Key, n.Level, n.Opened, n.Decision = d.state.ID, d.in.Incident, d.in.Key, level, d.in.Opened, &state
	n.Audience, n.Title = contract.AudienceOf(d.in.Key, level), decisionTitle(d.state)
	if n.Text == "" {
		n.Text = decisionDetails(d.state)
	}
}

// forPeople reports whether a person decides, or has decided. Only what acts by itself is frozen: whoever
// approves an act sees that the cause is unclear.
func (d *decision) forPeople() bool {
	return d.state.Verdict != nil || d.state.Status == contract.AwaitingApproval
}

// lookUp calls off the watch under way, so that the workflow looks at what a message changed.
func (d *decision) lookUp() {
	if d.recall != nil {
		d.recall()
	}
}

func (d *decision) run(ctx workflow.Context) (contract.DecisionResult, error) {
	d.move(ctx, contract.Proposed, d.in.Proposal.Reason)
	var err error
	if d.in.Proposal.Action != contract.RollBack && d.in.Case == nil { // which have no shares to plan
		err = d.plan(ctx)
	}
	if err == nil {
		err = d.permit(ctx)
	}
	switch {
	case err != nil || d.state.Status.Final():
	case d.withdrawn != nil: // while leave was being given
		d.move(ctx, contract.Withdrawn, d.withdrawn.Reason)
	case d.in.Case != nil:
		d.move(ctx, contract.Approved, d.leave()+"; it counts towards the trust in the rule")
	case d.in.Proposal.Action == contract.ScoreCalls:
		d.move(ctx, contract.Approved, d.leave()+"; the incident has every call scored")
	case d.in.Proposal.Action == contract.RollBack:
		d.move(ctx, contract.Approved, d.leave()+"; the incident calls the webhook of "+d.in.Proposal.Value)
	default:
		err = d.rollOut(ctx)
	}
	if !d.state.Status.Final() {
		status, reason := d.fate(err)
		d.move(ctx, status, reason)
	}
	d.tellTrust(ctx)
	d.journal.close(ctx)
	d.bulletin.close(ctx)
	d.measureLater(ctx)
	drained, _ := workflow.NewDisconnectedContext(ctx)
	if d.news != nil {
		_ = d.news.Get(drained, nil) // an incident that is gone needs none
	}
	_ = workflow.Await(drained, func() bool { return workflow.AllHandlersFinished(drained) })
	return contract.DecisionResult{Status: d.state.Status, Reason: d.state.Reason}, err
}

// fate is the end of a decision that was cancelled, or that failed, without another. When it began its
// flag could not be taken off either, and ends by its own expiry at the latest.
func (d *decision) fate(err error) (contract.Status, string) {
	switch {
	case !d.state.Rollout.Started.IsZero():
		return contract.Reverted, fmt.Sprintf("its flag may still be on until it expires: %v", err)
	case err != nil && !temporal.IsCanceledError(err):
		return contract.Withdrawn, "it could not be carried out: " + err.Error()
	}
	return contract.Withdrawn, "the decision was cancelled before it was carried out"
}

// plan asks how the act would be rolled out: it decides whether the act can be automatic at all.
func (d *decision) plan(ctx workflow.Context) error {
	request := contract.PlanRolloutRequest{Key: d.in.Key, Kind: d.in.Proposal.Kind, Limits: d.in.Tuning.Limits, Spend: d.in.Finding.Facts.SpendRatio}
	err := workflow.ExecuteActivity(doing(ctx, "size the steps and the holdback"), telemetry.PlanRollout, request).Get(ctx, &d.state.Plan)
	if err != nil {
		return fmt.Errorf("planning the rollout: %w", err)
	}
	return nil
}

// permit gets leave to act, from trust or from a person. When it returns without an error and the
// status is not final, the act is allowed.
func (d *decision) permit(ctx workflow.Context) error {
	if d.withdrawn != nil {
		d.move(ctx, contract.Withdrawn, d.withdrawn.Reason)
		return nil
	}
	why := d.in.Proposal.Reason
	if d.in.Proposal.Mode == contract.Auto {
		switch {
		case !d.state.Plan.Plan.Provable && d.in.Proposal.Action != contract.RollBack:
			why = "no automatic act: " + d.state.Plan.Plan.Reason
		default:
			granted, reason, err := d.askTrust(ctx)
			if err != nil {
				return err
			}
			if granted {
				return nil
			}
			why = reason
		}
	}
	return d.ask(ctx, why)
}

// askTrust asks the tenant's ledger, which grants each decision once and only here: right before it
// is carried out.
func (d *decision) askTrust(ctx workflow.Context) (granted bool, reason string, err error) {
	var answer contract.TrustAnswer
	err = workflow.ExecuteActivity(doing(ctx, "has this action earned trust?"), loops.AskTrust, contract.TrustRequest{
		Tenant: d.in.Key.Tenant, Action: d.in.Proposal.Action, Rule: d.in.Finding.Verdict.Rule, Decision: d.state.ID,
	}).Get(ctx, &answer)
	if err != nil {
		return false, "", fmt.Errorf("asking for trust: %w", err)
	}
	d.state.Trust = &answer
	return answer.Granted, answer.Reason, nil
}

// ask puts the question to people and waits for the verdict.
func (d *decision) ask(ctx workflow.Context, why string) error {
	expiry := d.in.Proposal.Expiry
	if expiry <= 0 {
		expiry = defaultExpiry
	}
	d.state.ExpiresAt = workflow.Now(ctx).Add(expiry)
	d.move(ctx, contract.AwaitingApproval, why)
	d.tell(ctx, contract.NoticeQuestion, "")
	left := d.state.ExpiresAt.Sub(workflow.Now(ctx))
	answered, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout: max(left, time.Millisecond), TimerOptions: workflow.TimerOptions{Summary: "the question expires"},
	}, func() bool { return d.state.Verdict != nil || d.withdrawn != nil })
	if err != nil {
		return err
	}
	d.state.ExpiresAt = time.Time{}
	switch v := d.state.Verdict; {
	case v != nil && v.Verdict == contract.Deny:
		d.move(ctx, contract.Denied, byWhom("denied", v.Who, v.Reason))
	case v != nil: // approved
	case answered:
		d.move(ctx, contract.Withdrawn, d.withdrawn.Reason)
	default:
		d.move(ctx, contract.Expired, fmt.Sprintf("nobody answered within %s", expiry))
	}
	answer := d.state.Reason
	if v := d.state.Verdict; v != nil && v.Verdict == contract.Approve {
		answer = d.leave()
	}
	d.tell(ctx, contract.NoticeDecided, sentence(answer))
	return nil
}

func (d *decision) checkVerdict(r contract.DecideRequest) error {
	switch {
	case r.Verdict != contract.Approve && r.Verdict != contract.Deny:
		return invalid(fmt.Sprintf("unknown verdict %q: say approve or deny", r.Verdict))
	case r.Who == "":
		return invalid("say who decides (who)")
	case d.state.Verdict != nil:
		return refuse(fmt.Sprintf("%s has already said %s", d.state.Verdict.Who, d.state.Verdict.Verdict))
	case d.state.Status != contract.AwaitingApproval || d.withdrawn != nil:
		return refuse(fmt.Sprintf("this decision waits for nobody: it is %s", d.state.Status))
	}
	return nil
}

func (d *decision) decide(_ workflow.Context, r contract.DecideRequest) (contract.DecisionState, error) {
	d.state.Verdict = &r
	return d.state, nil
}

// rollOut applies the act by steps until the pure rollout ends it. Whatever goes wrong once a flag is
// on, the flag comes off: on a context that a cancelled decision does not cancel.
func (d *decision) rollOut(ctx workflow.Context) error {
	r := routing.Start(d.state.Plan.Plan, d.in.Tuning.Limits, d.in.Proposal.Goal, workflow.Now(ctx))
	d.state.Rollout = r
	if err := d.apply(ctx, r.Share(), d.leave()); err != nil {
		return d.revert(ctx, fmt.Errorf("putting the flag on: %w", err))
	}
	d.tellTrust(ctx)
	for d.state.Rollout.Phase != routing.Ended {
		act, err := d.watch(ctx)
		switch {
		case err != nil:
			return d.revert(ctx, err)
		case d.withdrawn != nil && d.withdrawn.Release:
			return d.takeOff(ctx, contract.Released, byWhom("released", d.withdrawn.Who, d.withdrawn.Reason))
		case d.state.Rollout.Phase == routing.Ended:
			return d.takeOff(ctx, contract.Status(d.state.Rollout.Outcome), act.Reason)
		case act.Change:
			if err := d.apply(ctx, act.Share, act.Reason); err != nil {
				return d.revert(ctx, fmt.Errorf("changing the share to %.0f %%: %w", act.Share*100, err))
			}
		case d.state.Frozen != "":
			d.freeze(ctx)
		}
		d.settle(ctx)
		d.measureHourly(ctx)
	}
	return nil
}

// leave says why the act may be carried out.
func (d *decision) leave() string {
	if v := d.state.Verdict; v != nil {
		return byWhom("approved", v.Who, v.Reason)
	}
	return d.state.Trust.Reason
}

// apply sets the flag's share, and then counts the rollout's time at it from when it was set.
func (d *decision) apply(ctx workflow.Context, share float64, reason string) error {
	if err := d.setFlag(ctx, share, reason); err != nil {
		return err
	}
	now := workflow.Now(ctx)
	d.state.Rollout.Since = now
	d.state.Share = share
	d.move(ctx, d.phase(), reason)
	d.acted(ctx)
	return nil
}

// acted tells what the flag now does.
func (d *decision) acted(ctx workflow.Context) {
	p := d.in.Proposal
	d.tell(ctx, contract.NoticeActed, fmt.Sprintf("%s%s: %s", headline(p.Action, p.Value), atShare(d.state.Share), stopped(d.state.Reason)))
}

// phase is the status that the rollout's phase means.
func (d *decision) phase() contract.Status {
	switch d.state.Rollout.Phase {
	case routing.Holding:
		return contract.Holding
	case routing.Falling:
		return contract.Releasing
	}
	return contract.Actuating
}

// settle shows a change of phase that changed no share.
func (d *decision) settle(ctx workflow.Context) {
	if d.state.Rollout.Proven {
		d.state.Effect = contract.Proven
	}
	if s := d.phase(); s != d.state.Status {
		d.move(ctx, s, d.state.Reason)
	}
}

// watch waits until the rollout wants something done, or until a message calls it off.
func (d *decision) watch(ctx workflow.Context) (routing.Act, error) {
	watch, recall := workflow.WithCancel(watching(ctx, fmt.Sprintf("compare treated (%.0f %%) with the holdback", d.state.Share*100)))
	d.recall = recall
	defer func() { recall(); d.recall = nil }()
	if d.withdrawn != nil && d.withdrawn.Release || d.state.Frozen != "" && !d.frozen() {
		return routing.Act{}, nil // the message came before the watch
	}
	var result contract.AwaitRolloutResult
	err := workflow.ExecuteActivity(watch, telemetry.AwaitRollout, contract.AwaitRolloutRequest{
		Key: d.in.Key, Decision: d.state.ID, Rollout: d.state.Rollout, Baseline: d.state.Plan.Baseline, Mix: d.in.Mix,
	}).Get(watch, &result)
	switch {
	case ctx.Err() != nil:
		return routing.Act{}, ctx.Err()
	case err != nil && watch.Err() != nil:
		return routing.Act{}, nil // called off before it could say what it saw
	case err != nil:
		return routing.Act{}, fmt.Errorf("watching the rollout: %w", err)
	}
	d.state.Rollout = result.Rollout
	return result.Act, nil
}

// frozen reports whether the rollout can rise no further than its share.
func (d *decision) frozen() bool {
	return d.state.Rollout.Index >= len(d.state.Rollout.Plan.Steps)-1
}

// freeze keeps the rollout at its share: the cause is unclear, and a downgrade that goes on rising would
// blur it.
func (d *decision) freeze(ctx workflow.Context) {
	frozen, changed := d.state.Rollout.Freeze()
	if !changed {
		return
	}
	d.state.Rollout = frozen
	d.move(ctx, d.state.Status, "frozen at its share: "+d.state.Frozen)
}

// revert takes the flag off because of an error, and hands the error on. A cancelled decision, or one
// whose watch broke, has not shown that it helps.
func (d *decision) revert(ctx workflow.Context, cause error) error {
	reason := "it could not be watched any further: " + cause.Error()
	if temporal.IsCanceledError(cause) {
		reason = "the decision was cancelled"
	}
	if err := d.takeOff(ctx, contract.Reverted, reason); err != nil {
		return err
	}
	return cause
}

// takeOff ends the decision with its flag off.
func (d *decision) takeOff(ctx workflow.Context, status contract.Status, reason string) error {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := d.setFlag(ctx, 0, reason); err != nil {
		return fmt.Errorf("taking the flag off: %w", err)
	}
	d.state.Share = 0
	d.state.Rollout.Phase, d.state.Rollout.Index = routing.Ended, -1
	if d.state.Rollout.Proven {
		d.state.Effect = contract.Proven
	}
	d.move(ctx, status, reason)
	d.acted(ctx)
	return nil
}

// setFlag asks the key's loop for the share. The update's id is fixed by what is asked, and by how
// often the decision has moved, so that a retry is the same update.
func (d *decision) setFlag(ctx workflow.Context, share float64, reason string) error {
	hold := d.in.Tuning.Limits.MaxHold
	if !d.state.Plan.Plan.Provable {
		hold = d.in.Tuning.Limits.UnprovenHold
	}
	request := contract.SetKeyFlagRequest{
		Key: d.in.Key, Tuning: d.in.Tuning, Start: d.in.Mix != nil, // the model has no alert of its own
		UpdateID: fmt.Sprintf("%s/%d/%g", d.state.ID, len(d.state.History), share),
		Flag: contract.SetFlagRequest{
			Kind: d.in.Proposal.Kind, Value: d.in.Proposal.Value, Share: share, Reason: reason, Decision: d.state.ID,
			ExpiresAt: d.state.Rollout.Started.Add(hold + expirySlack),
		},
	}
	ctx = doing(ctx, fmt.Sprintf("%s %s: share %.0f %%", d.in.Proposal.Action, d.in.Key, share*100))
	var result contract.SetFlagResult
	if err := workflow.ExecuteActivity(ctx, loops.SetKeyFlag, request).Get(ctx, &result); err != nil {
		return err
	}
	d.ordered(result)
	return nil
}

// tellTrust tells the tenant's ledger what became of the decision, as far as it moves trust. It
// may be called twice with the same outcome: the ledger counts each once.
func (d *decision) tellTrust(ctx workflow.Context) {
	var outcome string
	switch {
	case d.state.Status == contract.Denied:
		outcome = contract.OutcomeDenied
	case d.state.Status == contract.Reverted:
		outcome = contract.OutcomeReverted
	case d.state.Verdict != nil && (d.state.Share > 0 || d.state.Status == contract.Approved):
		outcome = contract.OutcomeApproved
	case d.in.Case != nil:
		outcome = contract.OutcomeLapsed
	default:
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	err := workflow.ExecuteActivity(doing(ctx, "tell the trust ledger: "+outcome), loops.TellTrust, contract.TrustOutcomeRequest{
		Tenant: d.in.Key.Tenant, Action: d.in.Proposal.Action, Rule: d.in.Finding.Verdict.Rule, Decision: d.state.ID, Outcome: outcome,
	}).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Error("the trust ledger could not be told", "outcome", outcome, "error", err)
	}
}

// move records a change and shows it: to the incident, to people and to the tables.
func (d *decision) move(ctx workflow.Context, s contract.Status, reason string) {
	now := workflow.Now(ctx)
	d.state.Status, d.state.Reason, d.state.ChangedAt = s, reason, now
	d.state.History = append(d.state.History, contract.Transition{At: now, Status: s, Share: d.state.Share, Reason: reason})
	d.visible.set(ctx, attributes{Severity: string(d.in.Finding.Verdict.Level), State: string(s)})
	workflow.SetCurrentDetails(ctx, decisionDetails(d.state))
	d.journal.changed()
	if d.in.Incident == "" {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	d.news = workflow.SignalExternalWorkflow(ctx, d.in.Incident, "", contract.DecisionMoved, d.state)
}

// byWhom joins what a person did with who and why.
func byWhom(did, who, why string) string {
	s := did
	if who != "" {
		s += " by " + who
	}
	if why != "" {
		s += ": " + why
	}
	return s
}
