package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// listen registers what makes cases of the fallback rule count: the ledger itself has them put to people, one question
// at a time, so that no more are asked than may still count, however many gateways and workers find cases.
func (a *autonomy) listen(ctx workflow.Context) error {
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.OpenCases, a.openCases, workflow.UpdateHandlerOptions{
		Validator: func(ctx workflow.Context, r contract.OpenCasesRequest) error {
			if err := a.check(r.Tenant, contract.FallBack, r.Rule); err != nil {
				return err
			}
			if len(a.ledger.choose(r, workflow.Now(ctx))) == 0 { // so that what changes nothing leaves no trace in the history
				return refuse("no case is to be asked about")
			}
			return nil
		},
		Description: "Here are calls that would fall back: have as many put to people as may count.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.OpenCases, err)
	}
	return said(ctx, contract.HoldTrust, "Withdraw the trust in an action, or lift that: {tenant, action, hold, who, reason}.", a.checkHold, a.hold)
}

func (a *autonomy) openCases(ctx workflow.Context, r contract.OpenCasesRequest) (contract.OpenCasesResult, error) {
	chosen, stale := a.ledger.open(r, workflow.Now(ctx))
	a.withdraw(ctx, stale, contract.WithdrawMessage{Reason: "the rule has changed, and earns trust anew"})
	var result contract.OpenCasesResult
	for _, c := range chosen {
		t := a.ledger.Classes[contract.FallBack]
		in := c.Decision(r.Tuning, answer(t, false, fmt.Sprintf("people have approved %d of the %d cases that the rule needs before it may act alone", t.Approved, trustNeeded)))
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: c.ID(), ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
			WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
			TypedSearchAttributes: keyAttributes(c.Key(), string(in.Finding.Verdict.Level), string(contract.Proposed)),
			StaticSummary:         fmt.Sprintf("would %s of %s have been right?", headline(contract.FallBack, c.Instead), c.Key()),
		}), Decision, in)
		if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil { // it was asked about in a time that is forgotten
			workflow.GetLogger(ctx).Warn("a case could not be put to people", "decision", c.ID(), "error", err)
			delete(a.ledger.Classes[contract.FallBack].Open, c.ID())
			continue
		}
		result.Opened = append(result.Opened, c.ID())
	}
	a.show(ctx)
	return result, nil
}

// withdraw ends questions whose answers count no more.
func (a *autonomy) withdraw(ctx workflow.Context, decisions []string, m contract.WithdrawMessage) {
	for _, id := range decisions {
		workflow.SignalExternalWorkflow(ctx, id, "", contract.Withdraw, m) // one that has ended needs none
	}
}

func (a *autonomy) checkHold(r contract.HoldTrustRequest) error {
	if err := a.check(r.Tenant, r.Action, "hold"); err != nil {
		return err
	}
	held := a.ledger.Classes[r.Action].Held != nil
	switch {
	case r.Who == "":
		return invalid("say who does so (who)")
	case r.Hold && held:
		return refuse("it is held already")
	case !r.Hold && !held:
		return refuse("it is not held")
	}
	return nil
}

func (a *autonomy) hold(ctx workflow.Context, r contract.HoldTrustRequest) (contract.AutonomyState, error) {
	a.withdraw(ctx, a.ledger.hold(r, workflow.Now(ctx)), contract.WithdrawMessage{Who: r.Who, Reason: byWhom("trust was withdrawn", r.Who, r.Reason)})
	a.show(ctx)
	return contract.AutonomyState(a.ledger), nil
}

// asked reports whether people are asked about the decision, and the answer counts.
func (l ledger) asked(decision string) bool {
	_, open := l.Classes[contract.FallBack].Open[decision]
	return open
}

// answerSlack is how long after a question's own end it still takes a place: a decision that was terminated tells
// nothing.
const answerSlack = time.Hour

// choose is which of the cases are to be put to people: the earliest that were not yet, and no more than may still
// count. People have then been asked about ten when the tenth of their approvals makes the rule act.
func (l ledger) choose(r contract.OpenCasesRequest, now time.Time) (chosen []contract.FallbackCase) {
	t := l.Classes[contract.FallBack]
	if t.Held != nil {
		return nil
	}
	free := trustNeeded
	if t.Rule == r.Rule {
		free -= t.Approved
		for _, id := range workflow.DeterministicKeys(t.Open) {
			if now.Before(t.Open[id]) {
				free--
			}
		}
	}
	for _, c := range r.Cases {
		if len(chosen) >= free {
			break
		}
		twice := slices.ContainsFunc(chosen, func(x contract.FallbackCase) bool { return x.ID() == c.ID() })
		if c.Tenant == r.Tenant && c.Rule == r.Rule && !twice && !saw(t, c.ID()+" asked") {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// open notes that the cases that choose gives are put to people, and says which of another rule wait in vain.
func (l ledger) open(r contract.OpenCasesRequest, now time.Time) (chosen []contract.FallbackCase, stale []string) {
	chosen = l.choose(r, now)
	if len(chosen) == 0 {
		return nil, nil
	}
	if before := l.Classes[contract.FallBack]; before.Rule != r.Rule {
		stale = workflow.DeterministicKeys(before.Open)
	}
	t := l.class(contract.FallBack, r.Rule)
	if t.Open == nil {
		t.Open = map[string]time.Time{}
	}
	for _, id := range workflow.DeterministicKeys(t.Open) {
		if !now.Before(t.Open[id]) {
			delete(t.Open, id)
		}
	}
	for _, c := range chosen {
		in := c.Decision(r.Tuning, contract.TrustAnswer{})
		t.Open[c.ID()] = now.Add(in.Proposal.Expiry + answerSlack)
		see(&t, c.ID()+" asked", now)
	}
	l.Classes[contract.FallBack] = t
	return chosen, stale
}

// hold withdraws trust, or lifts that; it is then earned from the start. It says which questions wait in vain.
func (l ledger) hold(r contract.HoldTrustRequest, now time.Time) (stale []string) {
	t := l.Classes[r.Action]
	stale = workflow.DeterministicKeys(t.Open)
	t.Approved, t.Open, t.Held = 0, nil, nil
	if r.Hold {
		t.Held = &contract.TrustHold{Who: r.Who, Reason: r.Reason, At: now}
	}
	l.Classes[r.Action] = t
	return stale
}
