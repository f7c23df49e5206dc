package workflows_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

// keyIncident drives an incident whose evidence, decisions and orders are watched.
type keyIncident struct {
	*testsuite.TestWorkflowEnvironment
	t          *testing.T
	changes    contract.Changes
	health     runbook.ProviderHealth
	completion runbook.Completion
	away       error // of everything that evidence comes from
	propose    func(r contract.ActRequest) contract.Proposal

	checked      []string
	asked        []contract.ActRequest
	posted       []contract.Notice
	called       []contract.RollbackRequest
	recalibrated []contract.AskRecalibrationRequest
	started      []contract.DecisionInput
	withdraw     []contract.WithdrawMessage
	frozen       []contract.FreezeMessage
	orders       []contract.SetKeyFlagRequest
	recorded     []contract.IncidentState
	ended        []contract.IncidentEndedMessage
	end          contract.Status // with which the next decision ends once it is withdrawn or told to
	fail         bool            // it ends without a verdict, as if terminated
	lastAct      time.Time       // on the key, of an earlier incident
	past         *contract.PastIncident
	mute         *contract.Mute
	key          usage.Key
	level        detect.Level
	shift        runbook.Shift // of the tenant's requested mix

	// With what these fail: asking the policy, orders of flags, the report, the record, telling the loop.
	actErr, reportErr, recordErr, loopErr error
	orderErr                              func(r contract.SetKeyFlagRequest) error
	postErr                               func(n contract.Notice) error
	callErr                               func(r contract.RollbackRequest) (contract.RollbackResult, error)
	said                                  int
}

func newKeyIncident(t *testing.T) *keyIncident {
	i := &keyIncident{
		t: t, key: key, level: detect.Page, health: runbook.ProviderHealth{Provider: "anthropic", Indicator: "none", Description: "All Systems Operational"},
		completion: runbook.Completion{Now: 0.5, Before: 0.5, Calls: 900, Worst: []string{"trace-1"}}, end: contract.Withdrawn,
	}
	i.TestWorkflowEnvironment = newEnv(t, map[string]any{contract.Decision: i.decision})
	i.SetStartWorkflowOptions(startOptions(incidentID))
	i.OnActivity(telemetry.FindChanges, anyArgs()...).Return(func(context.Context, contract.EvidenceRequest) (contract.Changes, error) {
		i.checked = append(i.checked, "changes "+i.since())
		return i.changes, i.away
	})
	i.OnActivity(providers.CheckProvider, anyArgs()...).Return(func(context.Context, contract.EvidenceRequest) (runbook.ProviderHealth, error) {
		i.checked = append(i.checked, "provider "+i.since())
		return i.health, i.away
	})
	i.OnActivity(telemetry.CompareCompletion, anyArgs()...).Return(func(context.Context, contract.EvidenceRequest) (runbook.Completion, error) {
		i.checked = append(i.checked, "completion "+i.since())
		return i.completion, i.away
	})
	i.OnActivity(telemetry.PlanRollout, anyArgs()...).Return(func(context.Context, contract.PlanRolloutRequest) (contract.RolloutPlan, error) {
		return provable, i.away
	})
	i.OnActivity(policies.ProposeAct, anyArgs()...).Return(func(_ context.Context, r contract.ActRequest) (contract.Proposal, error) {
		i.asked = append(i.asked, r)
		if i.propose == nil {
			return contract.Proposal{}, i.actErr
		}
		return i.propose(r), nil
	})
	i.OnActivity(telemetry.LastAct, anyArgs()...).Return(func(_ context.Context, k usage.Key) (time.Time, error) {
		require.Contains(t, []string{key.Tenant, usage.AnyModel}, k.Tenant)
		return i.lastAct, i.away
	})
	i.OnActivity(telemetry.AttributeShift, anyArgs()...).Return(func(_ context.Context, r contract.EvidenceRequest) (runbook.Shift, error) {
		require.True(t, r.Key.Pseudo())
		i.checked = append(i.checked, "shift "+i.since())
		return i.shift, i.away
	})
	i.OnActivity(telemetry.WriteReport, anyArgs()...).Return(func(_ context.Context, r runbook.Report) (contract.WrittenReport, error) {
		return contract.WrittenReport{Markdown: r.Markdown()}, i.reportErr
	})
	i.OnActivity(notify.Post, anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		i.posted = append(i.posted, n)
		if i.postErr != nil {
			return contract.PostResult{}, i.postErr(n)
		}
		return contract.PostResult{}, nil
	})
	i.OnActivity(telemetry.PastIncident, anyArgs()...).Return(func(context.Context, contract.EvidenceRequest) (*contract.PastIncident, error) {
		return i.past, i.away
	})
	i.OnActivity(telemetry.AttributeRise, anyArgs()...).Return(func(context.Context, contract.EvidenceRequest) (runbook.Attribution, error) {
		return runbook.Attribute(runbook.Times{Before: start.Add(-time.Hour), From: start, To: start.Add(time.Hour)}, []string{runbook.ByTemplate}, []runbook.Flow{
			{Template: "rag-v3.2", Now: runbook.Traffic{Requests: 100, Cost: 10e12}, Before: runbook.Traffic{Requests: 100, Cost: 1e12}},
			{Template: "chat", Now: runbook.Traffic{Requests: 100, Cost: 2e12}, Before: runbook.Traffic{Requests: 100, Cost: 1e12}},
		})
	})
	i.OnActivity(loops.AskRecalibration, anyArgs()...).Return(func(_ context.Context, r contract.AskRecalibrationRequest) error {
		i.recalibrated = append(i.recalibrated, r)
		return nil
	})
	i.OnActivity(rollbacks.CallRollback, anyArgs()...).Return(func(_ context.Context, r contract.RollbackRequest) (contract.RollbackResult, error) {
		i.called = append(i.called, r)
		if i.callErr != nil {
			return i.callErr(r)
		}
		return contract.RollbackResult{Service: r.Deployment.Service, Version: r.Deployment.Version, Status: 202, Body: "queued as job 7"}, nil
	})
	i.OnActivity(loops.SetKeyFlag, anyArgs()...).Return(func(_ context.Context, r contract.SetKeyFlagRequest) (contract.SetFlagResult, error) {
		i.orders = append(i.orders, r)
		if i.orderErr != nil {
			return contract.SetFlagResult{}, i.orderErr(r)
		}
		return contract.SetFlagResult{}, nil
	})
	i.OnActivity(telemetry.RecordIncident, anyArgs()...).Return(func(_ context.Context, s contract.IncidentState) error {
		i.recorded = append(i.recorded, s)
		return i.recordErr
	})
	i.OnSignalExternalWorkflow(anyString, contract.AlertLoopID(key), anyString, contract.IncidentEnded, anyString).
		Return(func(_, _, _, _ string, m any) error {
			i.ended = append(i.ended, m.(contract.IncidentEndedMessage))
			return i.loopErr
		})
	return i
}

// told are the kinds of the notices that went out, but for changes of the card.
func (i *keyIncident) told() (kinds []contract.NoticeKind) {
	for _, n := range i.posted {
		if n.Kind != contract.NoticeUpdated {
			kinds = append(kinds, n.Kind)
		}
	}
	return kinds
}

// since is the time since the incident opened.
func (i *keyIncident) since() string { return i.Now().Sub(start).Round(time.Second).String() }

// decision stands in for the incident's decisions: it acts until it is withdrawn with a release, or
// told to end.
func (i *keyIncident) decision(ctx workflow.Context, in contract.DecisionInput) (contract.DecisionResult, error) {
	i.started = append(i.started, in)
	state := contract.DecisionState{
		ID: workflow.GetInfo(ctx).WorkflowExecution.ID, Input: in, Status: contract.AwaitingApproval,
		History: make([]contract.Transition, 2), ExpiresAt: workflow.Now(ctx).Add(time.Hour),
	}
	tell := func() {
		_ = workflow.SignalExternalWorkflow(ctx, in.Incident, "", contract.DecisionMoved, state).Get(ctx, nil)
	}
	tell()
	withdrawn, frozen := workflow.GetSignalChannel(ctx, contract.Withdraw), workflow.GetSignalChannel(ctx, contract.Freeze)
	approved, told := workflow.GetSignalChannel(ctx, "approve"), workflow.GetSignalChannel(ctx, "end")
	for over := false; !over; {
		s := workflow.NewSelector(ctx)
		s.AddReceive(withdrawn, func(c workflow.ReceiveChannel, _ bool) {
			var m contract.WithdrawMessage
			c.Receive(ctx, &m)
			i.withdraw = append(i.withdraw, m)
			over = m.Release || state.Share == 0
		})
		s.AddReceive(frozen, func(c workflow.ReceiveChannel, _ bool) {
			var m contract.FreezeMessage
			c.Receive(ctx, &m)
			i.frozen = append(i.frozen, m)
		})
		s.AddReceive(approved, func(c workflow.ReceiveChannel, _ bool) {
			c.Receive(ctx, nil)
			state.Share, state.Status, state.Verdict = 0.1, contract.Actuating, &contract.DecideRequest{Verdict: contract.Approve, Who: "ada"}
			state.History = append(state.History, contract.Transition{Share: state.Share})
			tell()
			old := state
			old.History, old.Share = old.History[:1], 0.9 // late news of the past
			_ = workflow.SignalExternalWorkflow(ctx, in.Incident, "", contract.DecisionMoved, old).Get(ctx, nil)
		})
		s.AddReceive(told, func(c workflow.ReceiveChannel, _ bool) {
			c.Receive(ctx, nil)
			over = true
		})
		s.Select(ctx)
	}
	if i.fail {
		return contract.DecisionResult{}, errors.New("terminated")
	}
	return contract.DecisionResult{Status: i.end, Reason: "over"}, nil
}

// changed has the alert loop say something after d.
func (i *keyIncident) changed(d time.Duration, m contract.AlertChangedMessage) {
	at(i.TestWorkflowEnvironment, d, func() { i.SignalWorkflow(contract.AlertChanged, m) })
}

func (i *keyIncident) resolve(d time.Duration) {
	i.changed(d, contract.AlertChangedMessage{Change: contract.Resolved, Reason: "the finding stayed away"})
}

func (i *keyIncident) run(tuning contract.Tuning) contract.IncidentState {
	i.ExecuteWorkflow(workflows.Incident, contract.IncidentInput{
		Key: i.key, Opened: start, Level: i.level, Finding: finding(start, i.level), Loop: contract.AlertLoopID(key), Tuning: tuning, Mute: i.mute,
	})
	require.True(i.t, i.IsWorkflowCompleted())
	state := query[contract.IncidentState](i.t, i.TestWorkflowEnvironment)
	require.Equal(i.t, contract.IncidentClosed, state.Phase)
	if i.reportErr == nil {
		require.Contains(i.t, state.Report, incidentID)
	}
	last := i.recorded[len(i.recorded)-1]
	require.Equal(i.t, contract.IncidentClosed, last.Phase, "the end is on record")
	require.Equal(i.t, state.Report, last.Report)
	require.Len(i.t, i.ended, 1, "the loop hears of the end once")
	require.Equal(i.t, incidentID, i.ended[0].Incident)
	return state
}

func downgrade(contract.ActRequest) contract.Proposal {
	return contract.Proposal{Action: "downgrade", Mode: contract.Auto, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost, Expiry: time.Hour, Rule: "downgrade"}
}

// steps are the verdicts of the steps walked, "T0 clear".
func steps(s contract.IncidentState) []string {
	var all []string
	for _, d := range s.Steps {
		all = append(all, d.Step.Name+" "+string(d.Verdict.Status))
	}
	return all
}

func TestIncidentWalksTheRunbook(t *testing.T) {
	for _, scale := range []float64{1, 0.1} {
		i := newKeyIncident(t)
		pace := func(d time.Duration) time.Duration { return time.Duration(float64(d) * scale) }
		i.resolve(pace(40 * time.Minute))
		state := i.run(contract.NewTuning(scale))
		require.NoError(t, i.GetWorkflowError())
		require.Equal(t, []string{"T0 clear", "T+2 clear", "T+5 clear", "T+10 unknown", "T+30 unknown"}, steps(state))
		for n, step := range runbook.Plan(scale) {
			require.WithinDuration(t, start.Add(step.After), state.Steps[n].At, time.Second)
		}
		require.Equal(t, []string{"changes 0s", "provider " + pace(2*time.Minute).String(), "completion " + pace(5*time.Minute).String()}, i.checked)
		require.Len(t, i.asked, 5, "the policy is asked after each step")
		require.Equal(t, []contract.NoticeKind{
			contract.NoticeOpened, contract.NoticeStep, contract.NoticeStep, contract.NoticeStep, contract.NoticeActed, contract.NoticeStep,
			contract.NoticeReminder, contract.NoticeStep, contract.NoticeReport, contract.NoticeClosed,
		}, i.told(), "in the order in which it happened")
		for n, notice := range i.posted {
			require.Equal(t, n+1, notice.Seq)
			require.Equal(t, incidentID, notice.Incident)
			require.Equal(t, contract.OnCall, notice.Audience)
			require.Equal(t, key, notice.Key)
			require.True(t, notice.Opened.Equal(start))
			require.NotEmpty(t, notice.Title)
			require.NotNil(t, notice.State)
		}
		require.Equal(t, contract.IncidentClosed, i.posted[len(i.posted)-1].State.Phase)
		require.Len(t, i.orders, 2, "at T+10 every call is scored, until the end")
		require.Equal(t, routing.Sampling, i.orders[0].Flag.Kind)
		require.Equal(t, 1.0, i.orders[0].Flag.Share)
		require.Zero(t, i.orders[1].Flag.Share)
	}
}

func TestIncidentEndsEarlyWithItsReport(t *testing.T) {
	i := newKeyIncident(t)
	i.resolve(3 * time.Minute)
	i.resolve(3 * time.Minute) // a reminder
	state := i.run(tuning)
	require.Equal(t, []string{"T0 clear", "T+2 clear", "T+5 skipped", "T+10 skipped", "T+30 unknown"}, steps(state))
	require.Equal(t, "recovered", state.Steps[2].Verdict.Text)
	require.Equal(t, "the finding stayed away", state.Reason)
	require.Equal(t, start.Add(3*time.Minute), state.ClosedAt.UTC())
	require.Empty(t, i.orders)
}

func TestIncidentCauses(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*keyIncident)
		steps string
		cause string
	}{
		"deployment": {
			func(i *keyIncident) {
				i.changes.Deployments = []usage.Deployment{{Service: "rag", Version: "v3.2", By: "bob", Timestamp: start.Add(-time.Minute)}}
			},
			"T0 found, T+2 found, T+5 clear, T+10 skipped, T+30 found", runbook.CauseDeployment,
		},
		"first seen": {
			func(i *keyIncident) {
				i.changes.FirstSeen = []runbook.FirstSeen{{Kind: "model", Value: "claude-x", At: start.Add(-time.Minute), Share: 0.9}}
			},
			"T0 found, T+2 found, T+5 clear, T+10 skipped, T+30 found", runbook.CauseFirstSeen,
		},
		"provider": {
			func(i *keyIncident) { i.health.Indicator = "major" },
			"T0 clear, T+2 found, T+5 skipped, T+10 skipped, T+30 found", runbook.CauseProvider,
		},
		"completion spike": {
			func(i *keyIncident) { i.completion.Now = 2 },
			"T0 clear, T+2 clear, T+5 found, T+10 skipped, T+30 found", runbook.CauseSpike,
		},
		"nothing can be read": {
			func(i *keyIncident) { i.away = errors.New("ClickHouse is away") },
			"T0 unknown, T+2 unknown, T+5 unknown, T+10 unknown, T+30 unknown", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			c.set(i)
			i.resolve(45 * time.Minute)
			state := i.run(tuning)
			require.Equal(t, c.steps, strings.Join(steps(state), ", "))
			var result contract.IncidentResult
			require.NoError(t, i.GetWorkflowResult(&result))
			require.Equal(t, c.cause, result.Cause)
		})
	}
}

func TestIncidentWithADecision(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.end = contract.Released
	id := contract.DecisionID(incidentID, "downgrade", 1)
	signal := func(d time.Duration, name string) {
		at(i.TestWorkflowEnvironment, d, func() { require.NoError(t, i.SignalWorkflowByID(id, name, nil)) })
	}
	signal(time.Minute, "approve")
	at(i.TestWorkflowEnvironment, 90*time.Second, func() {
		s := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
		require.Len(t, s.Decisions, 1)
		require.Equal(t, contract.Actuating, s.Decisions[0].Status)
		require.Equal(t, 0.1, s.Decisions[0].Share, "old news is dropped")
		require.True(t, s.Scoring, "both arms are scored")
	})
	i.changed(15*time.Minute, contract.AlertChangedMessage{Change: contract.Recovering, Reason: "the finding is gone"})
	signal(16*time.Minute, "end")
	i.resolve(20 * time.Minute)
	state := i.run(tuning)
	require.Len(t, i.started, 1, "one decision at a time, and none while it is recovering well")
	require.Equal(t, 1, i.started[0].Attempt)
	require.Equal(t, contract.Released, state.Decisions[0].Status)
	require.Len(t, i.frozen, 1, "at T+10 the cause is unclear: the act stays at its share")
	require.Empty(t, i.withdraw)
	require.Len(t, i.orders, 2)
	require.Contains(t, state.Report, "released")
}

func TestIncidentWithdrawsAnOpenQuestion(t *testing.T) {
	for _, who := range []string{"", "ada"} {
		i := newKeyIncident(t)
		i.propose = downgrade
		i.changed(90*time.Second, contract.AlertChangedMessage{Change: contract.Resolved, Who: who, Reason: "over"})
		state := i.run(tuning)
		require.Equal(t, contract.Withdrawn, state.Decisions[0].Status)
		require.Len(t, i.withdraw, 1)
		require.Equal(t, who != "", i.withdraw[0].Release, "only a person has a flag taken off at once")
	}
}

func TestIncidentWaitsForItsDecisions(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.end = contract.Released
	id := contract.DecisionID(incidentID, "downgrade", 1)
	at(i.TestWorkflowEnvironment, time.Minute, func() { require.NoError(t, i.SignalWorkflowByID(id, "approve", nil)) })
	i.resolve(3 * time.Minute)
	at(i.TestWorkflowEnvironment, 20*time.Minute, func() {
		s := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
		require.Equal(t, contract.IncidentClosing, s.Phase)
		require.Len(t, s.Steps, 5, "what is skipped is shown at once")
		require.Contains(t, s.Report, "still open", "and so is the report")
		require.Contains(t, i.told(), contract.NoticeReport)
		require.NoError(t, i.SignalWorkflowByID(id, "end", nil))
	})
	state := i.run(tuning)
	require.Equal(t, start.Add(20*time.Minute), state.ClosedAt.UTC())
	require.Equal(t, []string{"T0 clear", "T+2 clear", "T+5 skipped", "T+10 skipped", "T+30 unknown"}, steps(state))
}

func TestIncidentTakenUpAgainWhileClosing(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.end = contract.Released
	id := contract.DecisionID(incidentID, "downgrade", 1)
	at(i.TestWorkflowEnvironment, time.Minute, func() { require.NoError(t, i.SignalWorkflowByID(id, "approve", nil)) })
	i.resolve(3 * time.Minute)
	i.changed(4*time.Minute, contract.AlertChangedMessage{Change: contract.Refired, Reason: "it came back"})
	i.resolve(12 * time.Minute)
	at(i.TestWorkflowEnvironment, 13*time.Minute, func() { require.NoError(t, i.SignalWorkflowByID(id, "end", nil)) })
	state := i.run(tuning)
	require.Equal(t, []string{"T0 clear", "T+2 clear", "T+5 clear", "T+10 unknown", "T+30 unknown"}, steps(state), "the runbook goes on where it was")
}

func TestIncidentDoesNotAskAgainWhatWasRejected(t *testing.T) {
	for end, attempts := range map[contract.Status]int{contract.Denied: 1, contract.Reverted: 1, contract.Expired: 5} {
		t.Run(string(end), func(t *testing.T) {
			i := newKeyIncident(t)
			i.propose = downgrade
			i.end = end
			for n, step := range runbook.Plan(1) {
				at(i.TestWorkflowEnvironment, step.After+30*time.Second, func() {
					if n < attempts {
						require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, "downgrade", n+1), "end", nil))
					}
				})
			}
			i.resolve(45 * time.Minute)
			i.run(tuning)
			require.Len(t, i.started, attempts)
			for n, in := range i.started {
				require.Equal(t, n+1, in.Attempt)
			}
			require.False(t, i.asked[1].CoolingDown, "a question was no act")
		})
	}
}

// A released act is not proposed again by facts that are older than the release.
func TestIncidentDoesNotAskAgainWhatWasReleased(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.end = contract.Released
	first := contract.DecisionID(incidentID, "downgrade", 1)
	at(i.TestWorkflowEnvironment, 30*time.Second, func() { require.NoError(t, i.SignalWorkflowByID(first, "approve", nil)) })
	at(i.TestWorkflowEnvironment, time.Minute, func() { require.NoError(t, i.SignalWorkflowByID(first, "end", nil)) })
	at(i.TestWorkflowEnvironment, 19*time.Minute, func() { require.Len(t, i.started, 1, "at none of the steps meanwhile") })
	again := finding(start.Add(20*time.Minute), detect.Page)
	i.changed(20*time.Minute, contract.AlertChangedMessage{Change: contract.Refired, Finding: &again, Reason: "it came back"})
	i.resolve(25 * time.Minute)
	i.run(tuning)
	require.Len(t, i.started, 2, "a fault that comes back is acted upon")
}

func TestIncidentCoolsDownAfterAnActOnItsKey(t *testing.T) {
	limit := tuning.Limits.CoolDown
	for name, c := range map[string]struct {
		before time.Duration // so long before this incident an act on the key ended
		want   []bool        // at the steps of the runbook
	}{
		"none":                  {0, []bool{false, false, false, false, false}},
		"a short time before":   {time.Minute, []bool{true, true, true, true, false}},
		"nearly cooled down":    {limit - 3*time.Minute, []bool{true, true, false, false, false}},
		"a long time before it": {limit, []bool{false, false, false, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			if c.before > 0 {
				i.lastAct = start.Add(-c.before)
			}
			i.resolve(45 * time.Minute)
			state := i.run(tuning)
			require.True(t, i.lastAct.Equal(state.LastAct))
			var got []bool
			for _, r := range i.asked {
				got = append(got, r.CoolingDown)
			}
			require.Equal(t, c.want, got)
		})
	}
	for _, end := range []contract.Status{contract.Released, contract.Reverted, contract.Expired} {
		t.Run("in it: "+string(end), func(t *testing.T) {
			i := newKeyIncident(t)
			i.propose = downgrade
			i.end = end
			id := contract.DecisionID(incidentID, "downgrade", 1)
			at(i.TestWorkflowEnvironment, 30*time.Second, func() { require.NoError(t, i.SignalWorkflowByID(id, "approve", nil)) })
			at(i.TestWorkflowEnvironment, time.Minute, func() { require.NoError(t, i.SignalWorkflowByID(id, "end", nil)) })
			i.resolve(3 * time.Minute)
			state := i.run(tuning)
			require.True(t, state.Decisions[0].Acted)
			require.False(t, i.asked[0].CoolingDown)
			require.True(t, i.asked[1].CoolingDown)
		})
	}
}

func TestIncidentCleansUpAfterATerminatedDecision(t *testing.T) {
	for _, kind := range []routing.Kind{routing.Route, routing.Pin, routing.Stop} {
		t.Run(string(kind), func(t *testing.T) {
			i := newKeyIncident(t)
			i.propose = func(r contract.ActRequest) contract.Proposal {
				p := downgrade(r)
				p.Kind = kind
				return p
			}
			i.fail = true
			id := contract.DecisionID(incidentID, "downgrade", 1)
			at(i.TestWorkflowEnvironment, time.Minute, func() { require.NoError(t, i.SignalWorkflowByID(id, "approve", nil)) })
			at(i.TestWorkflowEnvironment, 90*time.Second, func() { require.NoError(t, i.SignalWorkflowByID(id, "end", nil)) })
			i.resolve(3 * time.Minute)
			state := i.run(tuning)
			require.Equal(t, contract.Reverted, state.Decisions[0].Status)
			var off []contract.SetKeyFlagRequest
			for _, o := range i.orders {
				if o.Flag.Kind != routing.Sampling {
					off = append(off, o)
				}
			}
			require.Len(t, off, 1, "the flag that nobody owns comes off")
			require.Equal(t, kind, off[0].Flag.Kind)
			require.Zero(t, off[0].Flag.Share)
			require.Equal(t, id, off[0].Flag.Decision)
		})
	}
}

func TestIncidentScoresEveryCall(t *testing.T) {
	score := func(mode contract.Mode) func(contract.ActRequest) contract.Proposal {
		return func(r contract.ActRequest) contract.Proposal {
			if r.Scoring {
				return contract.Proposal{}
			}
			return contract.Proposal{Action: contract.ScoreCalls, Mode: mode, Kind: routing.Sampling, Expiry: time.Hour}
		}
	}
	t.Run("at once", func(t *testing.T) {
		i := newKeyIncident(t)
		i.propose = score(contract.Auto)
		i.resolve(time.Minute)
		i.run(tuning)
		require.Empty(t, i.started)
		require.Len(t, i.orders, 2)
	})
	t.Run("when a person has approved it", func(t *testing.T) {
		i := newKeyIncident(t)
		i.propose = score(contract.Ask)
		i.end = contract.Approved
		at(i.TestWorkflowEnvironment, time.Minute, func() {
			require.Empty(t, i.orders)
			require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, contract.ScoreCalls, 1), "end", nil))
		})
		i.resolve(3 * time.Minute)
		i.run(tuning)
		require.Len(t, i.started, 1)
		require.Len(t, i.orders, 2)
	})
}

func TestIncidentOfAPseudoKeyOnlyTells(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.shift = runbook.Shift{Text: "no model's share of the calls rose"}
	pseudo := usage.Key{Tenant: "org_42", Model: usage.AnyModel}
	i.OnSignalExternalWorkflow(anyString, contract.AlertLoopID(pseudo), anyString, contract.IncidentEnded, anyString).Return(nil)
	i.resolve(45 * time.Minute)
	i.ExecuteWorkflow(workflows.Incident, contract.IncidentInput{
		Key: pseudo, Opened: start, Level: detect.Page, Finding: finding(start, detect.Page), Loop: contract.AlertLoopID(pseudo), Tuning: tuning,
	})
	require.NoError(t, i.GetWorkflowError())
	require.NotEmpty(t, i.asked, "act.yaml says why")
	require.Equal(t, pseudo, i.asked[0].Key)
	require.Empty(t, i.started, "whatever it wants")
	require.Empty(t, i.orders)
	state := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
	require.Equal(t, &i.shift, state.Evidence.Shift)
	require.Contains(t, state.Report, i.shift.Text)
}

// The finding of a pseudo-key names the model that callers turned to: what is done is done on that model's key, until
// the requested mix is back.
func TestIncidentOfAPseudoKeyActsOnTheShiftedModel(t *testing.T) {
	i := newKeyIncident(t)
	pseudo := usage.Key{Tenant: key.Tenant, Model: usage.AnyModel}
	i.propose = func(r contract.ActRequest) contract.Proposal {
		if r.Key.Pseudo() {
			return contract.Proposal{Action: "none", Mode: contract.Never, Reason: "the finding names no single model"}
		}
		return downgrade(r)
	}
	i.end = contract.Released
	i.SetStartWorkflowOptions(startOptions(contract.IncidentID(pseudo, start)))
	i.OnSignalExternalWorkflow(anyString, contract.AlertLoopID(pseudo), anyString, contract.IncidentEnded, anyString).Return(nil)
	at(i.TestWorkflowEnvironment, time.Minute, func() {
		s := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
		require.Equal(t, "the finding names no single model", s.Advice)
		require.Empty(t, i.started, "no model explains it yet")
		i.shift = runbook.Shift{Model: key.Model, Before: 0.2, Now: 0.6, Known: true, Text: "callers turned to claude-3-opus"}
	})
	id := contract.DecisionID(contract.IncidentID(pseudo, start), "downgrade", 1)
	signal := func(d time.Duration, name string) {
		at(i.TestWorkflowEnvironment, d, func() { require.NoError(t, i.SignalWorkflowByID(id, name, nil)) })
	}
	signal(3*time.Minute, "approve")
	signal(20*time.Minute, "end")
	i.resolve(25 * time.Minute)
	pseudoFinding := finding(start, detect.Page)
	pseudoFinding.Key = pseudo
	i.ExecuteWorkflow(workflows.Incident, contract.IncidentInput{
		Key: pseudo, Opened: start, Level: detect.Page, Finding: pseudoFinding, Loop: contract.AlertLoopID(pseudo), Tuning: tuning,
	})
	require.NoError(t, i.GetWorkflowError())
	require.Len(t, i.started, 1)
	in := i.started[0]
	require.Equal(t, key, in.Key)
	require.Equal(t, &routing.Mix{Usual: 0.2, Shifted: 0.6}, in.Mix)
	require.Equal(t, pseudo, in.Finding.Key)
	require.Contains(t, in.Proposal.Reason, "; callers turned to claude-3-opus")
	require.Equal(t, []usage.Key{pseudo, key}, []usage.Key{i.asked[0].Key, i.asked[1].Key})
	require.Len(t, i.orders, 2, "both arms are scored, and then as before")
	for _, order := range i.orders {
		require.Equal(t, key, order.Key)
		require.True(t, order.Start, "the model's own loop may not run")
	}
	state := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
	require.Equal(t, contract.Released, state.Decisions[0].Status)
	require.Equal(t, &i.shift, state.Evidence.Shift)
	require.Contains(t, state.Report, i.shift.Text)
}

// All telemetry together has no model to act on.
func TestIncidentOfEverythingAsksForNothing(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.OnSignalExternalWorkflow(anyString, contract.AlertLoopID(usage.Everything), anyString, contract.IncidentEnded, anyString).Return(nil)
	i.resolve(12 * time.Minute)
	i.ExecuteWorkflow(workflows.Incident, contract.IncidentInput{
		Key: usage.Everything, Opened: start, Level: detect.Page, Finding: finding(start, detect.Page), Loop: contract.AlertLoopID(usage.Everything), Tuning: tuning,
	})
	require.NoError(t, i.GetWorkflowError())
	require.Empty(t, i.asked)
	require.Empty(t, i.started)
}

// flagless are the kinds of key that own no flags.
var flagless = map[string]usage.Key{
	"a tenant's pseudo-key": {Tenant: "org_42", Model: usage.AnyModel},
	"an experiment":         key.OfExperiment("ab-1"),
	"everything":            usage.Everything,
}

func TestIncidentOfAKeyWithoutFlagsOnlyTells(t *testing.T) {
	for name, of := range flagless {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			i.propose = downgrade
			i.OnSignalExternalWorkflow(anyString, contract.AlertLoopID(of), anyString, contract.IncidentEnded, anyString).Return(nil)
			i.resolve(45 * time.Minute)
			i.ExecuteWorkflow(workflows.Incident, contract.IncidentInput{
				Key: of, Opened: start, Level: detect.Page, Finding: finding(start, detect.Page), Loop: contract.AlertLoopID(of), Tuning: tuning,
			})
			require.NoError(t, i.GetWorkflowError())
			require.Empty(t, i.started)
			require.Empty(t, i.orders)
		})
	}
}

func TestIncidentCancelledLeavesNothing(t *testing.T) {
	i := newKeyIncident(t)
	i.propose = downgrade
	i.end = contract.Released
	at(i.TestWorkflowEnvironment, time.Minute, func() {
		require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, "downgrade", 1), "approve", nil))
	})
	at(i.TestWorkflowEnvironment, 5*time.Minute, i.CancelWorkflow)
	state := i.run(tuning)
	require.True(t, temporal.IsCanceledError(i.GetWorkflowError()))
	require.True(t, i.ended[0].Cancelled)
	require.Len(t, i.withdraw, 1)
	require.True(t, i.withdraw[0].Release)
	require.Equal(t, contract.Released, state.Decisions[0].Status)
	require.Zero(t, i.orders[len(i.orders)-1].Flag.Share, "sampling is put back")
}

func TestIncidentRefusesABadInput(t *testing.T) {
	good := contract.IncidentInput{Key: key, Opened: start, Tuning: tuning}
	noKey, noTime, noTuning := good, good, good
	noKey.Key, noTime.Opened, noTuning.Tuning = usage.Key{}, time.Time{}, contract.Tuning{}
	for _, in := range []contract.IncidentInput{noKey, noTime, noTuning} {
		env := newEnv(t, nil)
		env.ExecuteWorkflow(workflows.Incident, in)
		var application *temporal.ApplicationError
		require.ErrorAs(t, env.GetWorkflowError(), &application)
		require.Equal(t, contract.ErrBadInput, application.Type())
	}
}
