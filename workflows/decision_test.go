package workflows_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

var incidentID = contract.IncidentID(key, start)

// act is one look at a rollout: what the watching activity does to it.
type act func(r routing.Rollout) (routing.Rollout, routing.Act)

// up and down move a rollout one step, as its pure Step would.
func up(r routing.Rollout) (routing.Rollout, routing.Act) {
	r.Index, r.Proven = r.Index+1, true
	return r, routing.Act{Change: true, Share: r.Share(), Reason: "the act helps"}
}

func hold(r routing.Rollout) (routing.Rollout, routing.Act) {
	r.Phase = routing.Holding
	return r, routing.Act{}
}

func down(r routing.Rollout) (routing.Rollout, routing.Act) {
	r.Phase = routing.Falling
	if r.Index == 0 {
		return ended(routing.Released)(r)
	}
	r.Index--
	return r, routing.Act{Change: true, Share: r.Share(), Reason: "the untreated traffic is well"}
}

func ended(o routing.Outcome) act {
	return func(r routing.Rollout) (routing.Rollout, routing.Act) {
		r.Phase, r.Outcome, r.Index = routing.Ended, o, -1
		return r, routing.Act{Change: true, Reason: "it is " + string(o)}
	}
}

// keyDecision drives a decision whose orders and outcomes are watched.
type keyDecision struct {
	*testsuite.TestWorkflowEnvironment
	t        *testing.T
	in       contract.DecisionInput
	plan     contract.RolloutPlan
	granted  bool
	acts     []act // of the looks at the rollout, one each; after the last it watches until called off
	watchErr error

	orders   []contract.SetKeyFlagRequest
	mixes    []*routing.Mix // that the watches were given
	shares   []float64
	updates  map[string]float64
	outcomes []string
	asked    int
	posted   []contract.Notice
	reached  bool // the channel is there
	recorded []contract.DecisionState
	heard    sync.Mutex
	moves    int // that the incident has heard of
	watched  []routing.Rollout
	setErr   func(r contract.SetKeyFlagRequest) error
	trusting func()        // is called while the ledger is asked
	before   *routing.Flag // that stood before the first order
	lasts    time.Duration // each look

	// With what these fail: planning, asking and telling the ledger, the record.
	planErr, askErr, tellErr, recordErr error
}

func newKeyDecision(t *testing.T, mode contract.Mode) *keyDecision {
	d := &keyDecision{t: t, plan: provable, updates: map[string]float64{}, TestWorkflowEnvironment: newEnv(t, nil)}
	d.in = contract.DecisionInput{
		Key: key, Incident: incidentID, Attempt: 1, Tuning: tuning, Finding: finding(start, detect.Page),
		Proposal: contract.Proposal{
			Action: "downgrade", Mode: mode, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost,
			Expiry: 30 * time.Minute, Rule: "downgrade", Reason: "cost per call is 3.00× its baseline", Approvers: []string{"on-call"},
		},
	}
	d.SetStartWorkflowOptions(startOptions(contract.DecisionID(incidentID, "downgrade", 1)))
	d.OnActivity(telemetry.PlanRollout, anyArgs()...).Return(func(context.Context, contract.PlanRolloutRequest) (contract.RolloutPlan, error) {
		return d.plan, d.planErr
	})
	d.OnActivity(telemetry.RecordDecision, anyArgs()...).Return(func(_ context.Context, s contract.DecisionState) error {
		d.recorded = append(d.recorded, s)
		return d.recordErr
	})
	d.OnActivity(notify.Post, anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		d.posted = append(d.posted, n)
		if d.reached {
			return contract.PostResult{}, nil
		}
		return contract.PostResult{}, errors.New("the channel is away")
	})
	d.OnActivity(loops.AskTrust, anyArgs()...).Return(func(context.Context, contract.TrustRequest) (contract.TrustAnswer, error) {
		if d.asked++; d.trusting != nil {
			d.trusting()
		}
		return contract.TrustAnswer{Granted: d.granted, Approved: 3, Needed: 10, Reason: "people have approved 3 of the 10"}, d.askErr
	})
	d.OnActivity(loops.TellTrust, anyArgs()...).Return(func(_ context.Context, r contract.TrustOutcomeRequest) (contract.TrustAnswer, error) {
		d.outcomes = append(d.outcomes, r.Outcome)
		return contract.TrustAnswer{}, d.tellErr
	})
	d.OnActivity(loops.SetKeyFlag, anyArgs()...).Return(func(_ context.Context, r contract.SetKeyFlagRequest) (contract.SetFlagResult, error) {
		if d.setErr != nil {
			if err := d.setErr(r); err != nil {
				return contract.SetFlagResult{}, err
			}
		}
		require.NotContains(t, d.updates, r.UpdateID, "each order has its own id")
		d.updates[r.UpdateID] = r.Flag.Share
		d.shares, d.orders = append(d.shares, r.Flag.Share), append(d.orders, r)
		before := d.before
		d.before = &routing.Flag{Kind: r.Flag.Kind, Value: r.Flag.Value, Share: r.Flag.Share, Decision: r.Flag.Decision}
		return contract.SetFlagResult{Flag: *d.before, Changed: true, Before: before}, nil
	})
	d.OnActivity(telemetry.AwaitRollout, anyArgs()...).AfterFn(func() time.Duration { return d.lasts }).Return(func(_ context.Context, r contract.AwaitRolloutRequest) (contract.AwaitRolloutResult, error) {
		d.watched, d.mixes = append(d.watched, r.Rollout), append(d.mixes, r.Mix)
		if d.watchErr != nil {
			return contract.AwaitRolloutResult{}, d.watchErr
		}
		if len(d.acts) == 0 {
			return contract.AwaitRolloutResult{}, activity.ErrResultPending // it goes on watching
		}
		next := d.acts[0]
		d.acts = d.acts[1:]
		rollout, a := next(r.Rollout)
		return contract.AwaitRolloutResult{Rollout: rollout, Act: a}, nil
	})
	d.OnSignalExternalWorkflow(anyString, anyString, anyString, contract.DecisionMoved, anyString).
		Return(func(_, id, _, _ string, s any) error {
			require.Equal(t, incidentID, id)
			d.heard.Lock() // signals are delivered beside the workflow, in any order
			defer d.heard.Unlock()
			d.moves = max(d.moves, len(s.(contract.DecisionState).History))
			return nil
		})
	return d
}

func (d *keyDecision) run() contract.DecisionState {
	d.ExecuteWorkflow(workflows.Decision, d.in)
	require.True(d.t, d.IsWorkflowCompleted())
	state := query[contract.DecisionState](d.t, d.TestWorkflowEnvironment)
	require.True(d.t, state.Status.Final(), "it ends with a fate: %s", state.Status)
	require.NotEmpty(d.t, d.recorded)
	require.Equal(d.t, state.Status, d.recorded[len(d.recorded)-1].Status, "the end is on record")
	if len(d.shares) > 0 {
		require.Zero(d.t, d.shares[len(d.shares)-1], "no flag is left on")
	}
	return state
}

// answer gives a verdict after delay, and returns where its outcome appears.
func (d *keyDecision) answer(delay time.Duration, r contract.DecideRequest) *outcome {
	o := &outcome{}
	at(d.TestWorkflowEnvironment, delay, func() { d.UpdateWorkflow(contract.Decide, delay.String()+r.Verdict+r.Who, o, r) })
	return o
}

func TestDecisionApproved(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.acts = []act{up, up, hold, down, down, down}
	at(d.TestWorkflowEnvironment, time.Minute, func() {
		s := query[contract.DecisionState](t, d.TestWorkflowEnvironment)
		require.Equal(t, contract.AwaitingApproval, s.Status)
		require.Equal(t, start.Add(30*time.Minute), s.ExpiresAt.UTC())
	})
	approved := d.answer(2*time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada", Reason: "go on"})
	state := d.run()
	require.NoError(t, d.GetWorkflowError())
	require.NoError(t, approved.err)
	require.Equal(t, contract.Released, state.Status)
	require.Equal(t, contract.Proven, state.Effect)
	require.Equal(t, []float64{0.1, 0.5, 0.95, 0.5, 0.1, 0}, rounded(d.shares))
	require.Equal(t, []string{contract.OutcomeApproved}, d.outcomes)
	require.Equal(t, 1, d.asked)
	require.NotEmpty(t, d.posted, "a channel that is away stops nothing")
	require.Contains(t, statuses(state), contract.Holding)
	require.Contains(t, statuses(state), contract.Releasing)
	require.Equal(t, len(state.History), d.moves, "the incident hears every move")
}

// An act on the model that a tenant's callers turned to watches the mix, and its key's loop may have to be started.
func TestDecisionOnAShiftedModel(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.in.Mix = &routing.Mix{Usual: 0.2, Shifted: 0.6}
	d.acts = []act{up, down, ended(routing.Released)}
	require.Equal(t, contract.Released, d.run().Status)
	require.NotEmpty(t, d.orders)
	for _, order := range d.orders {
		require.True(t, order.Start)
	}
	for _, mix := range d.mixes {
		require.Equal(t, d.in.Mix, mix)
	}
	require.Len(t, d.mixes, 3)
}

func TestDecisionByTrust(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.acts = []act{up, down, ended(routing.Released)}
	state := d.run()
	require.NoError(t, d.GetWorkflowError())
	require.Equal(t, contract.Released, state.Status)
	for _, n := range d.posted {
		require.Equal(t, contract.NoticeActed, n.Kind, "nobody is asked")
	}
	require.Empty(t, d.outcomes, "only what people approved counts towards trust")
	require.NotContains(t, statuses(state), contract.AwaitingApproval)
}

func TestDecisionThatOnlyPeopleMayMake(t *testing.T) {
	d := newKeyDecision(t, contract.Ask)
	d.granted = true
	state := d.run()
	require.Zero(t, d.asked, "trust is not asked where the policy asks people")
	require.Equal(t, contract.Expired, state.Status)
}

func TestDecisionDenied(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Deny, Who: "ada", Reason: "it is the launch"})
	state := d.run()
	require.Equal(t, contract.Denied, state.Status)
	require.Equal(t, "denied by ada: it is the launch", state.Reason)
	require.Empty(t, d.shares)
	require.Equal(t, []string{contract.OutcomeDenied}, d.outcomes)
}

func TestDecisionExpires(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.answer(time.Hour, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	state := d.run()
	require.Equal(t, contract.Expired, state.Status, "time out is no denial")
	require.Empty(t, d.shares)
	require.Empty(t, d.outcomes, "and moves no trust")
}

func TestDecisionVerdictsThatAreRefused(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.acts = []act{ended(routing.Reverted)}
	nobody := d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve})
	unknown := d.answer(time.Minute, contract.DecideRequest{Verdict: "maybe", Who: "ada"})
	first := d.answer(2*time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	second := d.answer(2*time.Minute, contract.DecideRequest{Verdict: contract.Deny, Who: "bob"})
	state := d.run()
	require.ErrorContains(t, nobody.rejected, "who")
	require.ErrorContains(t, unknown.rejected, "approve or deny")
	require.NoError(t, first.err)
	require.Error(t, errors.Join(second.rejected, second.err), "there is one verdict")
	require.Equal(t, "ada", state.Verdict.Who)
	require.Equal(t, contract.Reverted, state.Status)
	require.Equal(t, []string{contract.OutcomeApproved, contract.OutcomeReverted}, d.outcomes)
}

func TestDecisionBySignal(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.acts = []act{ended(routing.Released)}
	at(d.TestWorkflowEnvironment, 0, func() { // before the question is even put, as when no worker was there
		d.SignalWorkflow(contract.Decide, contract.DecideRequest{Verdict: "perhaps", Who: "ada"})
		d.SignalWorkflow(contract.Decide, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
		d.SignalWorkflow(contract.Decide, contract.DecideRequest{Verdict: contract.Deny, Who: "bob"})
		d.SignalWorkflow(contract.Decide, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	})
	state := d.run()
	require.Equal(t, contract.Released, state.Status)
	require.Equal(t, "ada", state.Verdict.Who)
	require.Equal(t, []float64{0.1, 0}, rounded(d.shares))
}

func TestDecisionWithdrawn(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Minute} {
		d := newKeyDecision(t, contract.Auto)
		at(d.TestWorkflowEnvironment, delay, func() {
			d.SignalWorkflow(contract.Withdraw, contract.WithdrawMessage{Reason: "the incident resolved"})
		})
		late := d.answer(2*time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
		state := d.run()
		require.Equal(t, contract.Withdrawn, state.Status)
		require.Empty(t, d.shares)
		require.Empty(t, d.outcomes)
		require.False(t, late.accepted)
	}
}

func TestDecisionWithdrawnWhileLeaveIsGiven(t *testing.T) {
	withdraw := contract.WithdrawMessage{Reason: "the incident resolved"}
	for name, set := range map[string]func(d *keyDecision){
		"by a person, in the same task": func(d *keyDecision) {
			at(d.TestWorkflowEnvironment, time.Minute, func() {
				d.SignalWorkflowSkippingWorkflowTask(contract.Decide, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
				d.SignalWorkflow(contract.Withdraw, withdraw)
			})
		},
		"by a person, to score every call": func(d *keyDecision) {
			d.in.Proposal.Action, d.in.Proposal.Kind = contract.ScoreCalls, routing.Sampling
			at(d.TestWorkflowEnvironment, time.Minute, func() {
				d.SignalWorkflowSkippingWorkflowTask(contract.Decide, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
				d.SignalWorkflow(contract.Withdraw, withdraw)
			})
		},
		"by trust": func(d *keyDecision) {
			d.granted = true
			d.trusting = func() { d.SignalWorkflow(contract.Withdraw, withdraw) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newKeyDecision(t, contract.Auto)
			set(d)
			state := d.run()
			require.NoError(t, d.GetWorkflowError())
			require.Equal(t, contract.Withdrawn, state.Status)
			require.Equal(t, withdraw.Reason, state.Reason)
			require.Empty(t, d.shares, "no flag goes on")
			require.Empty(t, d.outcomes, "what was not carried out moves no trust")
		})
	}
}

func TestDecisionReverts(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.acts = []act{up, ended(routing.Reverted)}
	state := d.run()
	require.Equal(t, contract.Reverted, state.Status)
	require.Equal(t, []float64{0.1, 0.5, 0}, rounded(d.shares))
	require.Equal(t, []string{contract.OutcomeReverted}, d.outcomes)
}

func TestDecisionCancelledTakesItsFlagOff(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.acts = []act{up}
	at(d.TestWorkflowEnvironment, time.Hour, d.CancelWorkflow)
	state := d.run()
	require.True(t, temporal.IsCanceledError(d.GetWorkflowError()))
	require.Equal(t, contract.Reverted, state.Status)
	require.Equal(t, "the decision was cancelled", state.Reason)
	require.Equal(t, []float64{0.1, 0.5, 0}, rounded(d.shares))
}

func TestDecisionCancelledBeforeItBegan(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	at(d.TestWorkflowEnvironment, time.Minute, d.CancelWorkflow)
	state := d.run()
	require.Equal(t, contract.Withdrawn, state.Status)
	require.Empty(t, d.shares)
	require.Empty(t, d.outcomes)
}

func TestDecisionWhoseWatchBreaksReverts(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.watchErr = temporal.NewNonRetryableApplicationError("no such decoder", contract.ErrBadInput, nil)
	state := d.run()
	require.Equal(t, contract.Reverted, state.Status)
	require.Contains(t, state.Reason, "no such decoder")
	require.Error(t, d.GetWorkflowError())
}

func TestDecisionWhoseFlagIsRefused(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.setErr = func(r contract.SetKeyFlagRequest) error {
		if r.Flag.Share > 0 {
			return temporal.NewNonRetryableApplicationError("the route flag belongs to another decision", contract.ErrRefused, nil)
		}
		return nil
	}
	state := d.run()
	require.Equal(t, contract.Reverted, state.Status)
	require.Contains(t, state.Reason, "belongs to another")
	require.Equal(t, []float64{0}, d.shares)
}

func TestDecisionReleasedByAPerson(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.acts = []act{up}
	at(d.TestWorkflowEnvironment, 10*time.Minute, func() { // an incident that resolves by itself leaves the act to its holdback
		d.SignalWorkflow(contract.Withdraw, contract.WithdrawMessage{Reason: "the finding stayed away"})
	})
	at(d.TestWorkflowEnvironment, 20*time.Minute, func() {
		require.Equal(t, []float64{0.1, 0.5}, rounded(d.shares))
		d.SignalWorkflow(contract.Withdraw, contract.WithdrawMessage{Who: "ada", Reason: "false alarm", Release: true})
	})
	state := d.run()
	require.NoError(t, d.GetWorkflowError())
	require.Equal(t, contract.Released, state.Status)
	require.Equal(t, "released by ada: false alarm", state.Reason)
	require.Equal(t, []float64{0.1, 0.5, 0}, rounded(d.shares))
}

func TestDecisionFrozenStaysAtItsShare(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	at(d.TestWorkflowEnvironment, 10*time.Minute, func() {
		d.SignalWorkflow(contract.Freeze, contract.FreezeMessage{Reason: "unclear at T+10"})
		d.SignalWorkflow(contract.Freeze, contract.FreezeMessage{Reason: "again"})
	})
	at(d.TestWorkflowEnvironment, 20*time.Minute, func() {
		s := query[contract.DecisionState](t, d.TestWorkflowEnvironment)
		require.Equal(t, []float64{0.1}, rounded(s.Rollout.Plan.Steps), "the share applied is the last")
		require.Equal(t, "unclear at T+10", s.Frozen)
		d.acts = []act{ended(routing.Released)}
		d.SignalWorkflow(contract.Withdraw, contract.WithdrawMessage{Who: "ada", Release: true})
	})
	state := d.run()
	require.Equal(t, contract.Released, state.Status)
	require.Equal(t, []float64{0.1, 0}, rounded(d.shares))
}

func TestDecisionOfAPersonIsNotFrozen(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	freeze := func() { d.SignalWorkflow(contract.Freeze, contract.FreezeMessage{Reason: "unclear at T+10"}) }
	at(d.TestWorkflowEnvironment, time.Minute, freeze)
	d.answer(2*time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	d.acts = []act{up, up}
	at(d.TestWorkflowEnvironment, 3*time.Minute, freeze)
	at(d.TestWorkflowEnvironment, 4*time.Minute, d.CancelWorkflow)
	state := d.run()
	require.Empty(t, state.Frozen)
	require.Equal(t, []float64{0.1, 0.5, 0.95, 0}, rounded(d.shares))
}

func TestDecisionWithTooLittleTraffic(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.plan = unprovable
	d.acts = []act{ended(routing.Expired)}
	d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	state := d.run()
	require.Zero(t, d.asked, "no automatic act")
	require.Equal(t, contract.Expired, state.Status)
	require.Equal(t, contract.Unproven, state.Effect)
	require.Equal(t, []float64{0.5, 0}, rounded(d.shares))
	require.Equal(t, []string{contract.OutcomeApproved}, d.outcomes)
}

func TestDecisionToScoreEveryCallIsHandedOver(t *testing.T) {
	d := newKeyDecision(t, contract.Ask)
	d.in.Proposal.Action, d.in.Proposal.Kind = contract.ScoreCalls, routing.Sampling
	d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	state := d.run()
	require.Equal(t, contract.Approved, state.Status)
	require.Empty(t, d.shares)
	require.Equal(t, []string{contract.OutcomeApproved}, d.outcomes)
}

func TestDecisionRefusesABadInput(t *testing.T) {
	good := newKeyDecision(t, contract.Ask).in
	for name, spoil := range map[string]func(*contract.DecisionInput){
		"no incident": func(in *contract.DecisionInput) { in.Incident = "" },
		"no tuning":   func(in *contract.DecisionInput) { in.Tuning = contract.Tuning{} },
		"no proposal": func(in *contract.DecisionInput) { in.Proposal.Mode = contract.Never },
		"pseudo-key":  func(in *contract.DecisionInput) { in.Key = usage.Key{Tenant: "org_42", Model: usage.AnyModel} },
		"experiment":  func(in *contract.DecisionInput) { in.Key = in.Key.OfExperiment("ab-1") },
	} {
		t.Run(name, func(t *testing.T) {
			env, in := newEnv(t, nil), good
			spoil(&in)
			env.ExecuteWorkflow(workflows.Decision, in)
			var application *temporal.ApplicationError
			require.ErrorAs(t, env.GetWorkflowError(), &application)
			require.Equal(t, contract.ErrBadInput, application.Type())
		})
	}
}

// rounded are the shares to a hundredth.
func rounded(shares []float64) []float64 {
	r := make([]float64, len(shares))
	for i, s := range shares {
		r[i] = float64(int(s*100+0.5)) / 100
	}
	return r
}

func statuses(s contract.DecisionState) []contract.Status {
	var all []contract.Status
	for _, h := range s.History {
		all = append(all, h.Status)
	}
	return all
}

func TestDecisionTellsPeople(t *testing.T) {
	d := newKeyDecision(t, contract.Ask)
	d.in.Opened, d.reached = start, true
	d.acts = []act{up, ended(routing.Released)}
	d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada", Reason: "agreed"})
	d.run()
	var told []string
	for n, notice := range d.posted {
		told = append(told, string(notice.Kind))
		require.Equal(t, n+1, notice.Seq)
		require.Equal(t, incidentID, notice.Incident)
		require.Equal(t, contract.OnCall, notice.Audience)
		require.True(t, start.Equal(notice.Opened))
		require.NotNil(t, notice.Decision)
	}
	require.Equal(t, []string{"question", "decided", "acted", "acted", "acted"}, told)
	require.Equal(t, "Approved by ada: agreed.", d.posted[1].Text)
	require.Contains(t, d.posted[2].Text, "at 10 %")
}

func TestDecisionMutedAsksWhenTheMuteEnds(t *testing.T) {
	for name, c := range map[string]struct {
		unmute time.Duration // zero: the mute lasts
		want   []string
	}{
		"while it waits": {time.Minute, []string{"question", "decided"}},
		"not at all":     {0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newKeyDecision(t, contract.Ask)
			d.reached = true
			d.in.Mute = &contract.Mute{Who: "ada", At: start, Until: start.Add(time.Hour)}
			if c.unmute > 0 {
				at(d.TestWorkflowEnvironment, 2*c.unmute, func() { // muted again, and not any more: it has been asked
					d.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{Change: contract.Muted, Mute: &contract.Mute{Until: start.Add(time.Hour)}})
					d.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{Change: contract.Muted})
				})
				at(d.TestWorkflowEnvironment, c.unmute, func() {
					d.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{Change: contract.Muted})
				})
			}
			d.answer(5*time.Minute, contract.DecideRequest{Verdict: contract.Deny, Who: "ada"})
			state := d.run()
			require.Equal(t, contract.Denied, state.Status, "it can be answered all the same")
			var told []string
			for _, n := range d.posted {
				told = append(told, string(n.Kind))
			}
			require.Equal(t, c.want, told)
		})
	}
}

func TestDecisionToRollBackIsHandedOver(t *testing.T) {
	for _, mode := range []contract.Mode{contract.Ask, contract.Auto} {
		t.Run(string(mode), func(t *testing.T) {
			d := newKeyDecision(t, mode)
			d.planErr = errors.New("there is nothing to plan")
			d.granted = true
			d.in.Proposal.Action, d.in.Proposal.Kind, d.in.Proposal.Value = contract.RollBack, "", "support-bot"
			if mode == contract.Ask {
				d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
			}
			state := d.run()
			require.NoError(t, d.GetWorkflowError())
			require.Equal(t, contract.Approved, state.Status)
			require.Contains(t, state.Reason, "the incident calls the webhook of support-bot")
			require.Empty(t, d.shares, "it sets no flag")
			if mode == contract.Ask {
				require.Equal(t, []string{contract.OutcomeApproved}, d.outcomes, "it earns trust as any other")
			}
		})
	}
}
