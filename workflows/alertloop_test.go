package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

// keyLoop drives an alert loop whose incidents and flags are watched.
type keyLoop struct {
	*testsuite.TestWorkflowEnvironment
	t         *testing.T
	incidents []contract.IncidentInput
	told      []contract.AlertChangedMessage
	written   []routing.Flag // applied, or released with share 0
	renewed   int
	refuse    func() error // with which a release fails
	stubborn  bool         // the incident does not end when it is told that it is resolved
	gone      bool         // somebody terminates each incident as soon as it has opened
	applyErr  func() error // with which putting a flag on fails
}

func newKeyLoop(t *testing.T) *keyLoop {
	l := &keyLoop{t: t}
	l.TestWorkflowEnvironment = newEnv(t, map[string]any{contract.Incident: l.incident})
	l.SetStartWorkflowOptions(startOptions(contract.AlertLoopID(key)))
	l.OnActivity(flags.ApplyFlag, anyArgs()...).Return(func(_ context.Context, f routing.Flag) error {
		if l.applyErr != nil {
			if err := l.applyErr(); err != nil {
				return err
			}
		}
		l.written = append(l.written, f)
		return nil
	})
	l.OnActivity(flags.ReleaseFlag, anyArgs()...).Return(func(_ context.Context, f routing.Flag) error {
		require.Zero(t, f.Share)
		if l.refuse != nil {
			if err := l.refuse(); err != nil {
				return err
			}
		}
		l.written = append(l.written, f)
		return nil
	})
	l.OnActivity(flags.RenewFlags, anyArgs()...).Return(func(context.Context, []routing.Flag) error { l.renewed++; return nil })
	return l
}

// incident stands in for the incidents that the loop opens.
func (l *keyLoop) incident(ctx workflow.Context, in contract.IncidentInput) (contract.IncidentResult, error) {
	l.incidents = append(l.incidents, in)
	if l.gone {
		return contract.IncidentResult{}, errors.New("terminated")
	}
	changes := workflow.GetSignalChannel(ctx, contract.AlertChanged)
	for {
		var m contract.AlertChangedMessage
		changes.Receive(ctx, &m)
		l.told = append(l.told, m)
		if m.Change == contract.Resolved && !l.stubborn {
			id := workflow.GetInfo(ctx).WorkflowExecution.ID
			err := workflow.SignalExternalWorkflow(ctx, in.Loop, "", contract.IncidentEnded, contract.IncidentEndedMessage{Incident: id}).Get(ctx, nil)
			return contract.IncidentResult{}, err
		}
	}
}

// fact has the sweep find a level after d, and say so again every half minute until the given time.
func (l *keyLoop) fact(level detect.Level, from, until time.Duration) {
	for d := from; d < until; d += 30 * time.Second {
		at(l.TestWorkflowEnvironment, d, func() {
			l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(l.Now(), level)})
		})
	}
}

func (l *keyLoop) run() {
	l.ExecuteWorkflow(workflows.AlertLoop, contract.AlertLoopInput{Key: key, Tuning: tuning})
	require.True(l.t, l.IsWorkflowCompleted())
}

func (l *keyLoop) changes() []contract.AlertChange {
	var changes []contract.AlertChange
	for _, m := range l.told {
		changes = append(changes, m.Change)
	}
	return changes
}

func TestAlertLoopOpensAnIncidentAndEndsQuiet(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Page, 0, 3*time.Minute)
	at(l.TestWorkflowEnvironment, time.Minute, func() {
		s := query[contract.AlertLoopState](t, l.TestWorkflowEnvironment)
		require.Equal(t, alert.Firing, s.Alert.Phase)
		require.Equal(t, contract.IncidentID(key, start.Add(20*time.Second)), s.Incident)
	})
	l.fact(detect.None, 3*time.Minute, 6*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Len(t, l.incidents, 1)
	require.Equal(t, detect.Page, l.incidents[0].Level)
	require.Equal(t, start.Add(20*time.Second), l.incidents[0].Opened.UTC())
	require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved}, l.changes())
	var result contract.AlertLoopResult
	require.NoError(t, l.GetWorkflowResult(&result))
	require.Equal(t, 1, result.Incidents)
}

func TestAlertLoopForgetsWhatDidNotHold(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Page, 0, time.Second)
	l.fact(detect.None, 10*time.Second, 11*time.Second)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Empty(t, l.incidents)
}

func TestAlertLoopDropsRepeatedAndOlderFacts(t *testing.T) {
	l := newKeyLoop(t)
	page, none := finding(start.Add(time.Second), detect.Page), finding(start, detect.None)
	at(l.TestWorkflowEnvironment, 0, func() { l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: page}) })
	for _, late := range []detect.Finding{page, none, none} { // each would end what is pending, if it counted
		at(l.TestWorkflowEnvironment, 5*time.Second, func() { l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: late}) })
	}
	l.fact(detect.None, time.Minute, 5*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Len(t, l.incidents, 1)
}

func TestAlertLoopEscalatesAndRefires(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Investigate, 0, time.Minute)
	l.fact(detect.Page, time.Minute, 3*time.Minute)
	l.fact(detect.None, 3*time.Minute, 4*time.Minute)
	l.fact(detect.Page, 4*time.Minute, 5*time.Minute)
	l.fact(detect.None, 5*time.Minute, 8*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Len(t, l.incidents, 1)
	require.Equal(t, detect.Investigate, l.incidents[0].Level)
	require.Equal(t, []contract.AlertChange{contract.Escalated, contract.Recovering, contract.Refired, contract.Recovering, contract.Resolved}, l.changes())
	require.Equal(t, detect.Page, l.told[0].Level)
}

func TestAlertLoopSilenceIsInconclusive(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Page, 0, time.Minute)
	at(l.TestWorkflowEnvironment, 10*time.Minute, func() {
		s := query[contract.AlertLoopState](t, l.TestWorkflowEnvironment)
		require.True(t, s.Alert.Silent)
		require.Equal(t, alert.Firing, s.Alert.Phase, "silence is not recovery")
	})
	l.fact(detect.None, 11*time.Minute, 14*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Equal(t, []contract.AlertChange{contract.Silent, contract.Heard, contract.Recovering, contract.Resolved}, l.changes())
}

func TestAlertLoopResolvedByAPerson(t *testing.T) {
	for _, by := range []string{"update", "signal"} {
		t.Run(by, func(t *testing.T) {
			l := newKeyLoop(t)
			l.fact(detect.Page, 0, time.Minute)
			request := contract.ResolveRequest{Who: "ada", Reason: "load test"}
			var nobody, early, late *outcome
			at(l.TestWorkflowEnvironment, 5*time.Second, func() { early = update(l.TestWorkflowEnvironment, contract.Resolve, "early", request) })
			at(l.TestWorkflowEnvironment, 40*time.Second, func() {
				nobody = update(l.TestWorkflowEnvironment, contract.Resolve, "nobody", contract.ResolveRequest{})
			})
			at(l.TestWorkflowEnvironment, 90*time.Second, func() {
				if by == "update" {
					late = update(l.TestWorkflowEnvironment, contract.Resolve, "late", request)
				} else {
					l.SignalWorkflow(contract.Resolve, contract.ResolveRequest{})
					l.SignalWorkflow(contract.Resolve, request)
					l.SignalWorkflow(contract.Resolve, request)
				}
			})
			l.run()
			require.NoError(t, l.GetWorkflowError())
			require.ErrorContains(t, early.rejected, "no incident")
			require.ErrorContains(t, nobody.rejected, "who")
			if by == "update" {
				require.NoError(t, late.err)
				require.Equal(t, contract.IncidentID(key, start.Add(20*time.Second)), late.result.(contract.ResolveResult).Incident)
			}
			require.Equal(t, []contract.AlertChange{contract.Resolved}, l.changes())
			require.Equal(t, "ada", l.told[0].Who)
		})
	}
}

func TestAlertLoopOwnsFlags(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Page, 0, time.Minute)
	on := contract.SetFlagRequest{Kind: routing.Route, Value: "claude-3-sonnet", Share: 0.1, Decision: "d1", ExpiresAt: start.Add(24 * time.Hour)}
	more, off, other := on, on, on
	more.Share, off.Share, other.Decision = 0.5, 0, "d2"
	var first, again, second, foreign, release, foreignOff, late *outcome
	set := func(d time.Duration, o **outcome, id string, r contract.SetFlagRequest) {
		at(l.TestWorkflowEnvironment, d, func() { *o = update(l.TestWorkflowEnvironment, contract.SetFlag, id, r) })
	}
	set(time.Minute, &first, "1", on)
	set(61*time.Second, &again, "2", on)
	set(2*time.Minute, &second, "3", more)
	set(3*time.Minute, &foreign, "4", other)
	set(4*time.Minute, &foreignOff, "5", contract.SetFlagRequest{Kind: routing.Route, Decision: "d2"})
	l.fact(detect.None, 5*time.Minute, 29*time.Minute)
	l.fact(detect.Page, 29*time.Minute, 31*time.Minute)
	at(l.TestWorkflowEnvironment, 20*time.Minute, func() {
		s := query[contract.AlertLoopState](t, l.TestWorkflowEnvironment)
		require.Equal(t, alert.Recovering, s.Alert.Phase, "an incident does not resolve while a flag is on")
		require.Len(t, s.Flags, 1)
	})
	set(30*time.Minute, &release, "6", off)
	set(30*time.Minute+time.Second, &late, "7", more)
	l.fact(detect.None, 31*time.Minute, 35*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())

	require.True(t, first.result.(contract.SetFlagResult).Changed)
	require.False(t, again.result.(contract.SetFlagResult).Changed, "the same order twice is one")
	require.True(t, second.result.(contract.SetFlagResult).Changed)
	require.ErrorContains(t, foreign.rejected, "belongs to d1")
	require.NoError(t, foreignOff.err)
	require.False(t, foreignOff.result.(contract.SetFlagResult).Changed, "a decision takes off only its own flag")
	require.NoError(t, release.err)
	require.Nil(t, first.result.(contract.SetFlagResult).Before, "none stood")
	require.Equal(t, 0.1, second.result.(contract.SetFlagResult).Before.Share)
	require.Equal(t, "d1", foreignOff.result.(contract.SetFlagResult).Before.Decision)
	require.Equal(t, 0.5, release.result.(contract.SetFlagResult).Before.Share)
	require.Zero(t, release.result.(contract.SetFlagResult).Flag.Share)
	require.ErrorContains(t, late.rejected, "taken its flag off", "an order that arrives after the end is refused")

	require.Len(t, l.written, 3)
	for i, f := range l.written {
		require.Equal(t, routing.Sequence{Loop: start.UnixMilli(), N: int64(i + 1)}, f.Sequence)
	}
	require.Equal(t, 2, l.renewed, "every ten minutes while a flag is on")
}

func TestAlertLoopRefusesFlagsThatMakeNoSense(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Page, 0, time.Second)
	outcomes := map[string]*outcome{}
	for message, r := range map[string]contract.SetFlagRequest{
		"needs the model": {Kind: routing.Route, Share: 0.1, Decision: "d"},
		"unknown kind":    {Kind: "halt", Share: 0.1, Decision: "d"},
		"not between":     {Kind: routing.Stop, Share: 1.1, Decision: "d"},
		"decision":        {Kind: routing.Stop, Share: 1},
	} {
		at(l.TestWorkflowEnvironment, time.Second, func() { outcomes[message] = update(l.TestWorkflowEnvironment, contract.SetFlag, message, r) })
	}
	l.fact(detect.None, 10*time.Second, 11*time.Second)
	l.run()
	require.Len(t, outcomes, 4)
	for message, o := range outcomes {
		require.ErrorContains(t, o.rejected, message)
	}
	require.Empty(t, l.written)
}

func TestAlertLoopTakesExpiredFlagsOff(t *testing.T) {
	l := newKeyLoop(t)
	at(l.TestWorkflowEnvironment, 0, func() { // by signal, as tctl would
		l.SignalWorkflow(contract.SetFlag, contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(time.Hour)})
	})
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Len(t, l.written, 2)
	require.Zero(t, l.written[1].Share)
	require.Equal(t, start.Add(time.Hour), l.Now().UTC().Truncate(time.Second))
}

// While an expired flag cannot be taken off, the loop must wait for the store, not spin.
func TestAlertLoopWaitsForTheStoreToTakeAnExpiredFlagOff(t *testing.T) {
	const outage = 20 * time.Minute
	expires := start.Add(time.Hour)
	for name, refusal := range map[string]error{
		"away":    errors.New("connection refused"),
		"refused": temporal.NewNonRetryableApplicationError("not such a flag", contract.ErrBadInput, nil),
	} {
		t.Run(name, func(t *testing.T) {
			l := newKeyLoop(t)
			var tries, timers int
			l.refuse = func() error {
				if tries++; l.Now().Before(expires.Add(outage)) {
					return refusal
				}
				return nil
			}
			l.SetOnTimerScheduledListener(func(string, time.Duration) { timers++ })
			at(l.TestWorkflowEnvironment, 0, func() {
				l.SignalWorkflow(contract.SetFlag, contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: expires})
			})
			l.run()
			require.NoError(t, l.GetWorkflowError())
			require.Len(t, l.written, 2)
			require.Zero(t, l.written[1].Share)
			require.WithinDuration(t, expires.Add(outage), l.Now(), 2*time.Minute, "it comes off as soon as it can")
			require.Greater(t, tries, 1)
			require.Less(t, tries, 200)
			require.Less(t, timers, 60)
		})
	}
}

func TestAlertLoopWritesItsFlagsAgainWhenTheStoreHasLostThem(t *testing.T) {
	l := newKeyLoop(t)
	hear := func(after time.Duration, epoch string) {
		at(l.TestWorkflowEnvironment, after, func() {
			l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(l.Now(), detect.Page), Epoch: epoch})
		})
	}
	hear(0, "first")
	at(l.TestWorkflowEnvironment, time.Second, func() {
		update(l.TestWorkflowEnvironment, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(time.Minute)})
	})
	hear(2*time.Second, "first")
	at(l.TestWorkflowEnvironment, 3*time.Second, func() { require.Zero(t, l.renewed, "nothing is lost") })
	hear(4*time.Second, "second")
	hear(5*time.Second, "second")
	at(l.TestWorkflowEnvironment, 6*time.Second, func() {
		require.Equal(t, 1, l.renewed, "at once, and once")
		l.CancelWorkflow()
	})
	l.run()
}

func TestAlertLoopSamplingDoesNotKeepAnIncidentOpen(t *testing.T) {
	l := newKeyLoop(t)
	l.stubborn = true
	l.fact(detect.Page, 0, time.Minute)
	at(l.TestWorkflowEnvironment, time.Minute, func() {
		update(l.TestWorkflowEnvironment, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Sampling, Share: 1, Decision: "i", ExpiresAt: start.Add(time.Hour)})
	})
	l.fact(detect.None, time.Minute, 5*time.Minute)
	at(l.TestWorkflowEnvironment, 10*time.Minute, func() {
		require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved}, l.changes())
		update(l.TestWorkflowEnvironment, contract.SetFlag, "2", contract.SetFlagRequest{Kind: routing.Sampling, Decision: "i"})
		l.SignalWorkflow(contract.IncidentEnded, contract.IncidentEndedMessage{Incident: "incident/of/another/1"})
		l.SignalWorkflow(contract.IncidentEnded, contract.IncidentEndedMessage{Incident: contract.IncidentID(key, start.Add(20*time.Second))})
	})
	l.run()
	require.NoError(t, l.GetWorkflowError())
}

func TestAlertLoopTakesAClosingIncidentUpAgain(t *testing.T) {
	l := newKeyLoop(t)
	l.stubborn = true // its decisions have not ended
	l.fact(detect.Page, 0, time.Minute)
	l.fact(detect.None, time.Minute, 4*time.Minute)
	l.fact(detect.Page, 5*time.Minute, 6*time.Minute)
	at(l.TestWorkflowEnvironment, 6*time.Minute, func() { l.stubborn = false })
	l.fact(detect.None, 6*time.Minute, 10*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Len(t, l.incidents, 1, "one incident at a time")
	require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved, contract.Refired, contract.Recovering, contract.Resolved}, l.changes())
}

func TestAlertLoopOpensAnotherIncidentWhenTheFirstEndedTooSoon(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		l := newKeyLoop(t)
		l.fact(detect.Page, 0, 3*time.Minute)
		at(l.TestWorkflowEnvironment, 2*time.Minute, func() {
			l.SignalWorkflow(contract.IncidentEnded, contract.IncidentEndedMessage{Incident: contract.IncidentID(key, start.Add(20*time.Second)), Cancelled: cancelled})
		})
		l.fact(detect.None, 3*time.Minute, 6*time.Minute)
		l.run()
		require.NoError(t, l.GetWorkflowError())
		if cancelled {
			require.Len(t, l.incidents, 1, "what an operator cancelled is not opened again")
		} else {
			require.Len(t, l.incidents, 2)
		}
	}
}

func TestAlertLoopContinuesAsNew(t *testing.T) {
	l := newKeyLoop(t)
	l.stubborn = true
	l.fact(detect.Page, 0, time.Minute)
	at(l.TestWorkflowEnvironment, time.Minute, func() {
		update(l.TestWorkflowEnvironment, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d", ExpiresAt: start.Add(time.Hour)})
	})
	var before contract.AlertLoopState
	at(l.TestWorkflowEnvironment, 90*time.Second, func() {
		before = query[contract.AlertLoopState](t, l.TestWorkflowEnvironment)
		l.SetContinueAsNewSuggested(true)
		l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(start.Add(time.Second), detect.Page)}) // an old one, to wake it
	})
	l.run()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, l.GetWorkflowError(), &next)
	var in contract.AlertLoopInput
	require.NoError(t, dataConverter.FromPayloads(next.Input, &in))
	require.Equal(t, key, in.Key)
	require.Equal(t, tuning, in.Tuning)
	require.Equal(t, before, *in.State, "nothing is lost on the way")

	// The next run goes on: the same incident, the same flag, the next number of the same sequence.
	n := newKeyLoop(t)
	n.SetStartTime(start.Add(2 * time.Minute))
	n.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, contract.AlertChanged, mock.Anything).Return(nil)
	at(n.TestWorkflowEnvironment, time.Second, func() {
		update(n.TestWorkflowEnvironment, contract.SetFlag, "2", contract.SetFlagRequest{Kind: routing.Stop, Decision: "d"})
	})
	n.fact(detect.None, 2*time.Second, 4*time.Minute)
	at(n.TestWorkflowEnvironment, 5*time.Minute, func() {
		n.SignalWorkflow(contract.IncidentEnded, contract.IncidentEndedMessage{Incident: before.Incident})
	})
	n.ExecuteWorkflow(workflows.AlertLoop, in)
	require.NoError(t, n.GetWorkflowError())
	require.Len(t, n.written, 1)
	require.Equal(t, routing.Sequence{Loop: start.UnixMilli(), N: 2}, n.written[0].Sequence)
	require.Empty(t, n.incidents)
}

func TestAlertLoopCancelledLeavesNothing(t *testing.T) {
	l := newKeyLoop(t)
	l.fact(detect.Page, 0, time.Minute)
	at(l.TestWorkflowEnvironment, time.Minute, func() {
		update(l.TestWorkflowEnvironment, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d", ExpiresAt: start.Add(time.Hour)})
	})
	at(l.TestWorkflowEnvironment, 2*time.Minute, l.CancelWorkflow)
	l.run()
	require.True(t, temporal.IsCanceledError(l.GetWorkflowError()))
	require.Equal(t, []contract.AlertChange{contract.Resolved}, l.changes())
	require.Len(t, l.written, 2)
	require.Zero(t, l.written[1].Share)
}

func TestAlertLoopRefusesABadInput(t *testing.T) {
	for _, in := range []contract.AlertLoopInput{{Tuning: tuning}, {Key: usage.Key{Tenant: "a", Model: "b"}}} {
		env := newEnv(t, nil)
		env.ExecuteWorkflow(workflows.AlertLoop, in)
		var application *temporal.ApplicationError
		require.ErrorAs(t, env.GetWorkflowError(), &application)
		require.Equal(t, contract.ErrBadInput, application.Type())
	}
}

func TestWhoOwnsNoFlags(t *testing.T) {
	for name, of := range flagless {
		t.Run(name, func(t *testing.T) {
			env := newEnv(t, nil)
			var o *outcome
			at(env, 0, func() {
				f := finding(start, detect.Page)
				env.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: f})
				o = update(env, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d"})
			})
			at(env, time.Second, func() {
				env.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(start.Add(time.Second), detect.None)})
			})
			env.ExecuteWorkflow(workflows.AlertLoop, contract.AlertLoopInput{Key: of, Tuning: tuning})
			require.NoError(t, env.GetWorkflowError())
			require.ErrorContains(t, o.rejected, "owns no flags")
		})
	}
}
