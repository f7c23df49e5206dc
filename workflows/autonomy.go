package workflows

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Autonomy is a tenant's ledger of trust: how many decisions of each class of action people have
// approved, and so whether the next may be carried out without asking. One workflow answers one
// question at a time, which makes the count exact however many decisions ask at once.
func Autonomy(ctx workflow.Context, in contract.AutonomyInput) (contract.AutonomyResult, error) {
	a, err := newAutonomy(ctx, in)
	if err != nil {
		return contract.AutonomyResult{}, err
	}
	return a.run(ctx)
}

// trustNeeded is how many human-approved decisions a class of action needs before it may act alone.
const trustNeeded = contract.TrustNeeded

// What was counted is remembered for as long as whoever told it may tell it again, so that each is counted once
// however many others come between: a decision lives for a day, and the question before it for hours. seenKept is
// how many are kept whatever their age, seenAtMost how many at the most, for the state's size: a tenant that decides
// more of one class in two days than that has other troubles.
const (
	seenFor    = 48 * time.Hour
	seenKept   = 256
	seenAtMost = 4096
)

type autonomy struct {
	ledger  ledger
	visible attributes
}

func newAutonomy(ctx workflow.Context, in contract.AutonomyInput) (*autonomy, error) {
	if in.Tenant == "" {
		return nil, invalid("a trust ledger needs its tenant")
	}
	a := &autonomy{ledger: ledger{Tenant: in.Tenant, Classes: map[string]contract.Trust{}}}
	if in.State != nil {
		a.ledger = ledger(*in.State)
	}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.AutonomyState, error) {
		return contract.AutonomyState(a.ledger), nil
	}); err != nil {
		return nil, fmt.Errorf("registering the state query: %w", err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.AskTrust, func(ctx workflow.Context, r contract.TrustRequest) (contract.TrustAnswer, error) {
		answer := a.ledger.ask(r, workflow.Now(ctx))
		a.show(ctx)
		return answer, nil
	}, workflow.UpdateHandlerOptions{
		Validator:   func(r contract.TrustRequest) error { return a.check(r.Tenant, r.Action, r.Decision) },
		Description: "May this decision be carried out without a person?",
	}); err != nil {
		return nil, fmt.Errorf("registering %s: %w", contract.AskTrust, err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.TrustOutcome, func(ctx workflow.Context, r contract.TrustOutcomeRequest) (contract.TrustAnswer, error) {
		answer := a.ledger.tell(r, workflow.Now(ctx))
		a.show(ctx)
		return answer, nil
	}, workflow.UpdateHandlerOptions{
		Validator:   a.checkOutcome,
		Description: "What became of a decision: approved (and carried out), denied or reverted.",
	}); err != nil {
		return nil, fmt.Errorf("registering %s: %w", contract.TrustOutcome, err)
	}
	return a, a.listen(ctx)
}

func (a *autonomy) run(ctx workflow.Context) (contract.AutonomyResult, error) {
	a.show(ctx)
	outcomes := workflow.GetSignalChannel(ctx, contract.TrustOutcome)
	for {
		var r contract.TrustOutcomeRequest
		for outcomes.ReceiveAsync(&r) {
			if err := a.checkOutcome(r); err != nil {
				workflow.GetLogger(ctx).Warn("a signal was refused", "signal", contract.TrustOutcome, "error", err)
				continue
			}
			a.ledger.tell(r, workflow.Now(ctx))
			a.show(ctx)
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx) {
			state := contract.AutonomyState(a.ledger)
			return contract.AutonomyResult{}, workflow.NewContinueAsNewError(ctx, Autonomy, contract.AutonomyInput{Tenant: state.Tenant, State: &state})
		}
		err := workflow.Await(ctx, func() bool {
			return outcomes.Len() > 0 || workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx)
		})
		if err != nil {
			return contract.AutonomyResult{State: contract.AutonomyState(a.ledger)}, err
		}
	}
}

func (a *autonomy) check(tenant, action, decision string) error {
	switch {
	case tenant != a.ledger.Tenant:
		return invalid(fmt.Sprintf("this is the ledger of %s, not of %s", a.ledger.Tenant, tenant))
	case action == "" || decision == "":
		return invalid("say which action and which decision")
	}
	return nil
}

func (a *autonomy) checkOutcome(r contract.TrustOutcomeRequest) error {
	switch r.Outcome {
	case contract.OutcomeApproved, contract.OutcomeDenied, contract.OutcomeReverted, contract.OutcomeLapsed:
		return a.check(r.Tenant, r.Action, r.Decision)
	}
	return invalid(fmt.Sprintf("unknown outcome %q: say approved, denied, reverted or lapsed", r.Outcome))
}

// show makes the ledger readable.
func (a *autonomy) show(ctx workflow.Context) {
	state := contract.StateLedger
	if a.ledger.Classes[contract.FallBack].Trusted() {
		state = contract.StateTrusted
	}
	a.visible.set(ctx, attributes{State: state})
	workflow.SetCurrentDetails(ctx, autonomyDetails(contract.AutonomyState(a.ledger)))
}

// ledger is the arithmetic of trust.
type ledger contract.AutonomyState

// ask grants a decision when its class has earned trust with the rule that fired. The same decision
// asking again gets the same answer, unless the class has lost its trust meanwhile.
func (l ledger) ask(r contract.TrustRequest, now time.Time) contract.TrustAnswer {
	t := l.class(r.Action, r.Rule)
	defer func() { l.Classes[r.Action] = t }()
	if t.Held != nil {
		return answer(t, false, byWhom("trust was withdrawn", t.Held.Who, t.Held.Reason))
	}
	if t.Approved < trustNeeded {
		return answer(t, false, fmt.Sprintf("people have approved %d of the %d decisions that %s needs before it may act alone", t.Approved, trustNeeded, r.Action))
	}
	if see(&t, r.Decision+" granted", now) {
		t.Granted++
	}
	return answer(t, true, fmt.Sprintf("%s has earned trust: people approved %d decisions", r.Action, t.Approved))
}

// tell counts an outcome, each of a decision once. An approval counts towards trust; a denial or a
// revert starts the count again.
func (l ledger) tell(r contract.TrustOutcomeRequest, now time.Time) contract.TrustAnswer {
	if r.Action == contract.FallBack && !l.asked(r.Decision) {
		return answer(l.Classes[r.Action], false, "not counted: it is no case of the rule that is asked about")
	}
	t := l.class(r.Action, r.Rule)
	if see(&t, r.Decision+" "+r.Outcome, now) {
		switch r.Outcome {
		case contract.OutcomeApproved:
			t.Approved++
		case contract.OutcomeLapsed:
		default:
			t.Approved = 0
		}
	}
	delete(t.Open, r.Decision)
	l.Classes[r.Action] = t
	return answer(t, false, fmt.Sprintf("counted as %s", r.Outcome))
}

// class is the standing of an action, begun again if another rule fires than the one it was earned
// with. What was seen stays seen.
func (l ledger) class(action, rule string) contract.Trust {
	t := l.Classes[action]
	if t.Rule != rule {
		t.Rule, t.Approved, t.Open = rule, 0, nil
	}
	return t
}

// see remembers an event, "decision outcome unix-time", and reports whether it is new. An event that an older release
// remembered has no time.
func see(t *contract.Trust, what string, now time.Time) bool {
	if saw(*t, what) {
		return false
	}
	t.Seen = append(t.Seen, fmt.Sprintf("%s %d", what, now.Unix()))
	forget := 0
	for n := len(t.Seen); n-forget > seenKept && (n-forget > seenAtMost || now.Sub(seenAt(t.Seen[forget])) > seenFor); {
		forget++
	}
	t.Seen = slices.Delete(t.Seen, 0, forget)
	return true
}

// saw reports whether the event is remembered.
func saw(t contract.Trust, what string) bool {
	return slices.ContainsFunc(t.Seen, func(s string) bool { return s == what || strings.HasPrefix(s, what+" ") })
}

// seenAt is when the event was remembered.
func seenAt(event string) time.Time {
	sec, err := strconv.ParseInt(event[strings.LastIndexByte(event, ' ')+1:], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(sec, 0)
}

func answer(t contract.Trust, granted bool, reason string) contract.TrustAnswer {
	return contract.TrustAnswer{Granted: granted, Approved: t.Approved, Needed: trustNeeded, Reason: reason}
}
