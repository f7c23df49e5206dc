package workflows_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

// What the workflows do when something that they need refuses for good: they go on, say so, and still
// come to an end that leaves nothing behind.

var refusal = temporal.NewNonRetryableApplicationError("not such a thing", contract.ErrBadInput, nil)

func TestIncidentMakesOnlySoManyDecisions(t *testing.T) {
	const most = 8
	i := newKeyIncident(t)
	i.propose = downgrade
	i.end = contract.Expired
	for n := range most + 3 {
		at(i.TestWorkflowEnvironment, time.Duration(n+1)*10*time.Second, func() {
			if n < most {
				require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, "downgrade", n+1), "end", nil))
			}
		})
		i.changed(time.Duration(n+1)*10*time.Second+time.Second, contract.AlertChangedMessage{Change: contract.Escalated, Level: detect.Page})
	}
	i.resolve(3 * time.Minute)
	state := i.run(tuning)
	require.Len(t, i.started, most, "a policy that proposes for ever does not act for ever")
	require.Len(t, state.Decisions, most)
	require.Len(t, i.asked, most, "and is not asked any more")
}

func TestIncidentWhoseDecisionCannotStart(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.OnWorkflow(contract.Decision, anyArgs()...).Return(contract.DecisionResult{}, testsuite.ErrMockStartChildWorkflowFailed)
	i.resolve(3 * time.Minute)
	state := i.run(tuning)
	require.Len(t, state.Decisions, 1, "it is not tried again")
	require.Equal(t, contract.Reverted, state.Decisions[0].Status)
	require.Contains(t, state.Decisions[0].Reason, "without a verdict")
	require.Len(t, i.orders, 1, "whatever had run under its id leaves no flag")
	require.Equal(t, routing.Route, i.orders[0].Flag.Kind)
	require.Zero(t, i.orders[0].Flag.Share)
}

func TestIncidentGoesOnWithoutThePolicy(t *testing.T) {
	i := newKeyIncident(t)
	i.actErr = refusal
	i.resolve(45 * time.Minute)
	state := i.run(tuning)
	require.Equal(t, []string{"T0 clear", "T+2 clear", "T+5 clear", "T+10 unknown", "T+30 unknown"}, steps(state))
	require.Len(t, i.asked, 5, "it is asked at each step all the same")
	require.Empty(t, i.started)
	require.Empty(t, state.Advice)
}

func TestIncidentClosesWithoutItsReportAndRecord(t *testing.T) {
	i := newKeyIncident(t)
	i.reportErr, i.recordErr, i.loopErr = refusal, refusal, errors.New("the loop is gone")
	i.resolve(3 * time.Minute)
	state := i.run(tuning)
	require.NoError(t, i.GetWorkflowError())
	require.Empty(t, state.Report)
	require.Equal(t, []contract.NoticeKind{contract.NoticeOpened, contract.NoticeStep, contract.NoticeStep, contract.NoticeClosed}, i.told())
}

func TestIncidentThatCannotRaiseSamplingSaysSo(t *testing.T) {
	for name, when := range map[string]func(r contract.SetKeyFlagRequest) bool{
		"raising":   func(r contract.SetKeyFlagRequest) bool { return r.Flag.Share > 0 },
		"restoring": func(r contract.SetKeyFlagRequest) bool { return r.Flag.Share == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			i.orderErr = func(r contract.SetKeyFlagRequest) error {
				if when(r) {
					return refusal
				}
				return nil
			}
			i.resolve(12 * time.Minute)
			state := i.run(tuning)
			require.NoError(t, i.GetWorkflowError())
			require.Len(t, i.orders, 2, "it is put back in any case: the answer may have been lost")
			text := state.Steps[3].Verdict.Text
			if name == "raising" {
				require.Contains(t, text, "could not be raised")
			} else {
				require.Contains(t, text, "every call is now scored")
			}
		})
	}
}

func TestIncidentWhoseOrphanedFlagStays(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.fail = true
	i.orderErr = func(r contract.SetKeyFlagRequest) error {
		if r.Flag.Kind == routing.Route {
			return refusal
		}
		return nil
	}
	at(i.TestWorkflowEnvironment, time.Minute, func() {
		require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, "downgrade", 1), "end", nil))
	})
	i.changed(90*time.Second, contract.AlertChangedMessage{Change: contract.Escalated, Level: detect.Page})
	at(i.TestWorkflowEnvironment, 100*time.Second, func() { // news of a decision that is not the incident's
		i.SignalWorkflow(contract.DecisionMoved, contract.DecisionState{ID: "decision/of/another", History: make([]contract.Transition, 9)})
	})
	i.resolve(3 * time.Minute)
	state := i.run(tuning)
	require.Len(t, state.Decisions, 1)
	require.Equal(t, contract.Reverted, state.Decisions[0].Status)
}

func TestDecisionThatCannotBeginIsWithdrawn(t *testing.T) {
	for name, spoil := range map[string]func(d *keyDecision){
		"planning": func(d *keyDecision) { d.planErr = refusal },
		"trust":    func(d *keyDecision) { d.askErr = refusal },
	} {
		t.Run(name, func(t *testing.T) {
			d := newKeyDecision(t, contract.Auto)
			spoil(d)
			state := d.run()
			require.ErrorContains(t, d.GetWorkflowError(), "not such a thing")
			require.Equal(t, contract.Withdrawn, state.Status)
			require.Contains(t, state.Reason, "could not be carried out")
			require.Empty(t, d.shares)
			require.Empty(t, d.outcomes)
		})
	}
}

func TestDecisionWhoseShareCannotBeChanged(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.acts = []act{up}
	d.setErr = func(r contract.SetKeyFlagRequest) error {
		if r.Flag.Share == 0.5 {
			return refusal
		}
		return nil
	}
	state := d.run()
	require.ErrorContains(t, d.GetWorkflowError(), "changing the share to 50 %")
	require.Equal(t, contract.Reverted, state.Status)
	require.Equal(t, []float64{0.1, 0}, rounded(d.shares))
}

// A flag that cannot be taken off is not called withdrawn: it may be on, and its trust is lost.
func TestDecisionWhoseFlagCannotBeTakenOff(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	d.acts = []act{ended(routing.Released)}
	d.setErr = func(r contract.SetKeyFlagRequest) error {
		if r.Flag.Share == 0 {
			return refusal
		}
		return nil
	}
	d.ExecuteWorkflow(workflows.Decision, d.in)
	require.ErrorContains(t, d.GetWorkflowError(), "taking the flag off")
	state := query[contract.DecisionState](t, d.TestWorkflowEnvironment)
	require.Equal(t, contract.Reverted, state.Status)
	require.Contains(t, state.Reason, "may still be on until it expires")
	require.Equal(t, 0.1, state.Share)
	require.Equal(t, []string{contract.OutcomeReverted}, d.outcomes)
}

func TestDecisionGoesOnWithoutLedgerAndRecord(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.tellErr, d.recordErr = refusal, refusal
	d.acts = []act{ended(routing.Released)}
	d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	state := d.run()
	require.NoError(t, d.GetWorkflowError())
	require.Equal(t, contract.Released, state.Status)
	require.NotEmpty(t, d.outcomes)
}

func TestDecisionThatActsTakesNoVerdict(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	late := d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Deny, Who: "ada"})
	at(d.TestWorkflowEnvironment, 2*time.Minute, func() {
		d.SignalWorkflow(contract.Withdraw, contract.WithdrawMessage{Who: "ada", Release: true})
	})
	d.run()
	require.ErrorContains(t, late.rejected, "waits for nobody: it is actuating")
}

func TestDecisionWithoutAnExpiryAsksForAnHour(t *testing.T) {
	d := newKeyDecision(t, contract.Ask)
	d.in.Proposal.Expiry = 0
	state := d.run()
	require.Equal(t, contract.Expired, state.Status)
	require.Equal(t, start.Add(time.Hour), state.ChangedAt.UTC().Truncate(time.Second))
}

func TestDecisionOnceFrozenIsFrozenOnce(t *testing.T) {
	d := newKeyDecision(t, contract.Auto)
	d.granted = true
	at(d.TestWorkflowEnvironment, time.Minute, func() { d.SignalWorkflow(contract.Freeze, contract.FreezeMessage{Reason: "unclear at T+10"}) })
	at(d.TestWorkflowEnvironment, 2*time.Minute, func() {
		d.acts = []act{hold, ended(routing.Released)}
		d.SignalWorkflow(contract.Withdraw, contract.WithdrawMessage{Reason: "over"}) // which only has it look again
	})
	state := d.run()
	require.Equal(t, contract.Released, state.Status)
	frozen := 0
	for _, h := range state.History {
		if h.Reason == "frozen at its share: unclear at T+10" && h.Status == contract.Actuating {
			frozen++
		}
	}
	require.Equal(t, 1, frozen)
}

func TestAlertLoopForgetsAnIncidentThatIsGone(t *testing.T) {
	l := newKeyLoop(t)
	l.gone = true
	l.fact(detect.Page, 0, time.Minute)
	at(l.TestWorkflowEnvironment, 50*time.Second, func() {
		require.NotEmpty(t, query[contract.AlertLoopState](t, l.TestWorkflowEnvironment).Incident, "nothing had to be told yet")
	})
	l.fact(detect.None, time.Minute, 4*time.Minute)
	at(l.TestWorkflowEnvironment, 70*time.Second, func() {
		s := query[contract.AlertLoopState](t, l.TestWorkflowEnvironment)
		require.Equal(t, alert.Recovering, s.Alert.Phase)
		require.Empty(t, s.Incident)
	})
	l.run()
	require.NoError(t, l.GetWorkflowError(), "the loop of a terminated incident still ends")
	require.Len(t, l.incidents, 1)
}

func TestAlertLoopWhoseIncidentCannotOpen(t *testing.T) {
	l := newKeyLoop(t)
	l.OnWorkflow(contract.Incident, anyArgs()...).Return(contract.IncidentResult{}, testsuite.ErrMockStartChildWorkflowFailed)
	l.fact(detect.Page, 0, time.Minute)
	l.fact(detect.None, time.Minute, 4*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	var result contract.AlertLoopResult
	require.NoError(t, l.GetWorkflowResult(&result))
	require.Zero(t, result.Incidents)
	require.Empty(t, l.told)
}

func TestAlertLoopRemindsAnIncidentThatDoesNotEnd(t *testing.T) {
	l := newKeyLoop(t)
	l.stubborn = true
	l.fact(detect.Page, 0, time.Minute)
	l.fact(detect.None, time.Minute, 4*time.Minute)
	at(l.TestWorkflowEnvironment, 5*time.Minute, func() { l.stubborn = false }) // the first message was lost on it
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved, contract.Resolved}, l.changes())
	require.Contains(t, l.told[2].Reason, "reminder")
	require.WithinDuration(t, l.told[1].At.Add(routing.RenewEvery), l.told[2].At, time.Second)
}

func TestAlertLoopGivesAFlagToOneOfTwo(t *testing.T) {
	l := newKeyLoop(t)
	var first, second *outcome
	at(l.TestWorkflowEnvironment, 0, func() { // both find the key without a flag; the second waits for the first's write
		stop := contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(time.Minute)}
		first = update(l.TestWorkflowEnvironment, contract.SetFlag, "1", stop)
		stop.Decision = "d2"
		second = update(l.TestWorkflowEnvironment, contract.SetFlag, "2", stop)
		l.SignalWorkflow(contract.SetFlag, contract.SetFlagRequest{Kind: "halt", Share: 1, Decision: "d3"}) // which is refused, and told to nobody
	})
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.NoError(t, first.err)
	require.ErrorContains(t, errors.Join(second.rejected, second.err), "belongs to d1")
	require.Len(t, l.written, 2, "on and, at its end, off")
}

func TestAlertLoopWhoseFlagCannotBePutOn(t *testing.T) {
	l := newKeyLoop(t)
	var failed, again *outcome
	stop := contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(time.Minute)}
	l.applyErr = func() error { return refusal }
	l.fact(detect.Page, 0, 15*time.Second)
	at(l.TestWorkflowEnvironment, time.Second, func() { failed = update(l.TestWorkflowEnvironment, contract.SetFlag, "1", stop) })
	at(l.TestWorkflowEnvironment, 2*time.Second, func() {
		require.Empty(t, query[contract.AlertLoopState](t, l.TestWorkflowEnvironment).Flags)
		l.applyErr = nil
		again = update(l.TestWorkflowEnvironment, contract.SetFlag, "2", stop)
	})
	l.fact(detect.None, 15*time.Second, 16*time.Second)
	l.run()
	require.ErrorContains(t, failed.err, "putting the stop flag of org_42/claude-3-opus on")
	require.NoError(t, again.err)
	require.Equal(t, int64(2), l.written[0].Sequence.N, "a number that may have been used is not used again")
}

func TestAlertLoopCancelledWhileFlagsAreWritten(t *testing.T) {
	l := newKeyLoop(t)
	var writing, waiting *outcome
	l.fact(detect.Page, 0, time.Second)
	at(l.TestWorkflowEnvironment, 2*time.Second, func() {
		l.applyErr = func() error { return activity.ErrResultPending }
		stop := contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(time.Hour)}
		writing = update(l.TestWorkflowEnvironment, contract.SetFlag, "1", stop)
		waiting = update(l.TestWorkflowEnvironment, contract.SetFlag, "2", stop)
	})
	at(l.TestWorkflowEnvironment, 4*time.Second, l.CancelWorkflow)
	l.run()
	require.True(t, temporal.IsCanceledError(l.GetWorkflowError()))
	require.Error(t, writing.err)
	require.ErrorContains(t, waiting.err, "waiting for another write")
}

func TestAlertLoopCancelledWhoseFlagStays(t *testing.T) {
	l := newKeyLoop(t)
	l.refuse = func() error { return refusal }
	at(l.TestWorkflowEnvironment, 0, func() {
		l.SignalWorkflow(contract.SetFlag, contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(time.Hour)})
	})
	at(l.TestWorkflowEnvironment, time.Minute, l.CancelWorkflow)
	l.run()
	require.True(t, temporal.IsCanceledError(l.GetWorkflowError()), "it ends all the same; the flag ends by its expiry")
	require.Len(t, l.written, 1)
}

func TestIncidentOfAPseudoKeyScoresNothingAtT10(t *testing.T) {
	i := newKeyIncident(t)
	pseudo := usage.Key{Tenant: "org_42", Model: usage.AnyModel}
	i.OnSignalExternalWorkflow(anyString, contract.AlertLoopID(pseudo), anyString, contract.IncidentEnded, anyString).Return(nil)
	i.resolve(12 * time.Minute)
	i.ExecuteWorkflow(workflows.Incident, contract.IncidentInput{
		Key: pseudo, Opened: start, Level: detect.Page, Finding: finding(start, detect.Page), Loop: contract.AlertLoopID(pseudo), Tuning: tuning,
	})
	state := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
	require.Equal(t, "still unclear", state.Steps[3].Verdict.Text)
}
