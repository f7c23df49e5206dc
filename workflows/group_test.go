package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

// manyKeys drives a group whose notices, records and words to loops are watched.
type manyKeys struct {
	*testsuite.TestWorkflowEnvironment
	t        *testing.T
	mu       sync.Mutex
	notices  []contract.Notice
	recorded contract.GroupState
	said     map[string][]any // to loops, by their id
	gone     map[string]bool  // loops that are
	postErr  func() error
}

func newManyKeys(t *testing.T) *manyKeys {
	g := &manyKeys{t: t, said: map[string][]any{}, gone: map[string]bool{}}
	g.TestWorkflowEnvironment = newEnv(t, nil)
	g.SetStartWorkflowOptions(startOptions(storm))
	g.OnActivity(notify.Post, anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.postErr != nil {
			if err := g.postErr(); err != nil {
				return contract.PostResult{}, err
			}
		}
		g.notices = append(g.notices, n)
		return contract.PostResult{}, nil
	})
	g.OnActivity(telemetry.RecordGroup, anyArgs()...).Return(func(_ context.Context, s contract.GroupState) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.recorded = s
		return nil
	})
	g.OnActivity(telemetry.FindChanges, anyArgs()...).Return(contract.Changes{}, nil)
	g.OnActivity(providers.CheckProvider, anyArgs()...).Return(func(context.Context, contract.EvidenceRequest) (runbook.ProviderHealth, error) {
		return runbook.ProviderHealth{Provider: "anthropic", Indicator: "major", Description: "Elevated errors", Link: "https://status.example"}, nil
	})
	g.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(
		func(_, id, _, _ string, arg any) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.gone[id] {
				return errors.New("workflow execution already completed")
			}
			g.said[id] = append(g.said[id], arg)
			return nil
		})
	return g
}

// member is one of a storm's keys.
func member(n int) usage.Key { return usage.Key{Tenant: fmt.Sprintf("t%03d", n), Model: key.Model} }

// atOnce is how many signals the environment takes at one moment.
const atOnce = 400

// tell has the loops of the keys [from, to) tell the group a change after d.
func (g *manyKeys) tell(d time.Duration, change contract.AlertChange, level detect.Level, from, to int) {
	at(g.TestWorkflowEnvironment, d, func() {
		for n := from; n < min(to, from+atOnce); n++ {
			g.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{
				Key: member(n), Change: change, Level: level, At: g.Now(), Reason: "cost × 3.00",
			})
		}
	})
	if from+atOnce < to {
		g.tell(d+time.Millisecond, change, level, from+atOnce, to)
	}
}

func (g *manyKeys) run() {
	g.ExecuteWorkflow(workflows.Group, contract.GroupInput{Cause: "provider:anthropic", Opened: start, Tuning: tuning})
	require.True(g.t, g.IsWorkflowCompleted())
}

func (g *manyKeys) state() contract.GroupState {
	return query[contract.GroupState](g.t, g.TestWorkflowEnvironment)
}

// calls are the notices but for updates of the message.
func (g *manyKeys) calls() (kinds []contract.NoticeKind) {
	for _, n := range g.notices {
		if n.Kind != contract.NoticeUpdated {
			kinds = append(kinds, n.Kind)
		}
	}
	return kinds
}

// One provider fails for 500 keys: one page, one message, and no payload that grows out of bounds.
func TestGroupOfFiveHundredKeys(t *testing.T) {
	const many = 500
	g := newManyKeys(t)
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, many)
	at(g.TestWorkflowEnvironment, time.Minute, func() {
		s := g.state()
		require.Equal(t, many, s.In)
		require.Len(t, s.Keys, many)
		require.Equal(t, contract.IncidentOpen, s.Phase)
	})
	g.tell(5*time.Minute, contract.Recovering, detect.Page, 0, many)
	at(g.TestWorkflowEnvironment, 6*time.Minute, func() { require.Equal(t, contract.IncidentRecovering, g.state().Phase) })
	g.tell(7*time.Minute, contract.Resolved, detect.Page, 0, many)
	g.run()
	require.NoError(t, g.GetWorkflowError())
	require.Equal(t, []contract.NoticeKind{contract.NoticeOpened, contract.NoticeClosed}, g.calls())
	require.Less(t, len(g.notices), 12, "the message is brought up to date now and then, not for each key")

	opened := g.notices[0]
	require.Equal(t, contract.OnCall, opened.Audience)
	require.Equal(t, "PAGE the provider anthropic: 500 keys fail together", opened.Title)
	require.Len(t, opened.Group.Keys, contract.GroupKeysShown)
	require.Equal(t, many, opened.Group.In)
	require.Contains(t, opened.Text, "and 450 more")
	require.Contains(t, opened.Text, "No act is decided on for a group")
	for i, n := range g.notices {
		require.Equal(t, storm, n.ID)
		require.Equal(t, i+1, n.Seq)
		text, err := json.Marshal(n)
		require.NoError(t, err)
		require.Less(t, len(text), 64<<10)
	}
	whole, err := json.Marshal(g.recorded)
	require.NoError(t, err)
	require.Less(t, len(whole), 512<<10, "Temporal warns of more, and refuses four times as much")
	require.Equal(t, contract.IncidentClosed, g.recorded.Phase)
	require.Equal(t, many, g.recorded.Joined)
	require.Equal(t, runbook.CauseProvider, runbook.Cause(g.recorded.Steps))
	require.Len(t, g.recorded.Steps, 2)

	var result contract.GroupResult
	require.NoError(t, g.GetWorkflowResult(&result))
	require.Equal(t, many, result.Keys)
}

// Keys beyond those that a group lists are counted.
func TestGroupBeyondWhatItLists(t *testing.T) {
	const many, beyond = contract.GroupKeysKept, 7
	g := newManyKeys(t)
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, many+beyond)
	at(g.TestWorkflowEnvironment, time.Minute, func() {
		s := g.state()
		require.Equal(t, many+beyond, s.In)
		require.Equal(t, beyond, s.Beyond)
		text, err := json.Marshal(s)
		require.NoError(t, err)
		require.Less(t, len(text), 512<<10)
	})
	g.tell(5*time.Minute, contract.Resolved, detect.Page, 0, many)
	at(g.TestWorkflowEnvironment, 10*time.Minute, func() { require.Equal(t, beyond, g.state().In, "it waits for them too") })
	g.tell(11*time.Minute, contract.Resolved, detect.Page, many, many+beyond)
	g.run()
	require.NoError(t, g.GetWorkflowError())
}

func TestGroupEscalatesOnceAndReminds(t *testing.T) {
	g := newManyKeys(t)
	g.tell(10*time.Second, contract.Joined, detect.Investigate, 0, 10)
	g.tell(20*time.Second, contract.Joined, detect.Page, 10, 20)
	g.tell(40*time.Second, contract.Escalated, detect.Page, 0, 10)
	var nobody, taken *outcome
	at(g.TestWorkflowEnvironment, 65*time.Minute, func() {
		nobody = update(g.TestWorkflowEnvironment, contract.Acknowledge, "1", contract.AcknowledgeRequest{})
		taken = update(g.TestWorkflowEnvironment, contract.Acknowledge, "2", contract.AcknowledgeRequest{Who: "ada", Note: "on it"})
		g.SignalWorkflow(contract.Annotate, contract.AnnotateRequest{Who: "bob", Text: "they are rolling back"})
		g.SignalWorkflow(contract.Annotate, contract.AnnotateRequest{Who: "bob"})
	})
	g.tell(3*time.Hour, contract.Resolved, detect.Page, 0, 20)
	g.run()
	require.NoError(t, g.GetWorkflowError())
	require.Equal(t, []contract.NoticeKind{
		contract.NoticeOpened, contract.NoticeEscalated, contract.NoticeReminder, contract.NoticeReminder, contract.NoticeClosed,
	}, g.calls())
	require.Equal(t, contract.Findings, g.notices[0].Audience)
	require.Equal(t, contract.OnCall, g.notices[1].Audience)
	require.ErrorContains(t, nobody.rejected, "who")
	require.Equal(t, "ada", taken.result.(contract.GroupState).Acknowledged.Who)
	require.Len(t, g.recorded.Notes, 1)
}

func TestGroupIsMuted(t *testing.T) {
	g := newManyKeys(t)
	at(g.TestWorkflowEnvironment, 0, func() {
		update(g.TestWorkflowEnvironment, contract.SetMute, "1", contract.MuteRequest{For: 10 * time.Minute, Who: "ada", Reason: "known"})
	})
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, 10)
	at(g.TestWorkflowEnvironment, 9*time.Minute, func() { require.Empty(t, g.notices) })
	at(g.TestWorkflowEnvironment, 11*time.Minute, func() {
		require.Equal(t, []contract.NoticeKind{contract.NoticeOpened}, g.calls())
		g.SignalWorkflow(contract.SetMute, contract.MuteRequest{For: time.Hour, Who: "ada", Reason: "still"})
		g.SignalWorkflow(contract.SetMute, contract.MuteRequest{For: time.Hour})
	})
	at(g.TestWorkflowEnvironment, 70*time.Minute, func() {
		require.Equal(t, []contract.NoticeKind{contract.NoticeOpened}, g.calls())
		update(g.TestWorkflowEnvironment, contract.SetMute, "2", contract.MuteRequest{Who: "ada"})
	})
	g.tell(80*time.Minute, contract.Resolved, detect.Page, 0, 10)
	g.run()
	require.NoError(t, g.GetWorkflowError())
	require.Equal(t, []contract.NoticeKind{contract.NoticeOpened, contract.NoticeReminder, contract.NoticeClosed}, g.calls())
}

// A group all of whose keys are muted calls nobody; one key that is not is enough.
func TestGroupOfMutedKeys(t *testing.T) {
	g := newManyKeys(t)
	at(g.TestWorkflowEnvironment, 20*time.Second, func() {
		for n := range 10 {
			g.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{
				Key: member(n), Change: contract.Joined, Level: detect.Page, At: g.Now(), Mute: &contract.Mute{Until: start.Add(time.Hour), Who: "ada"},
			})
		}
	})
	at(g.TestWorkflowEnvironment, 5*time.Minute, func() { require.Empty(t, g.notices) })
	g.tell(6*time.Minute, contract.Muted, detect.Page, 3, 4) // without a mute: it is over
	at(g.TestWorkflowEnvironment, 7*time.Minute, func() { require.Equal(t, contract.NoticeOpened, g.notices[0].Kind) })
	g.tell(8*time.Minute, contract.Resolved, detect.Page, 0, 10)
	g.run()
	require.NoError(t, g.GetWorkflowError())
}

func TestGroupSplits(t *testing.T) {
	g := newManyKeys(t)
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, 10)
	var foreign, o *outcome
	at(g.TestWorkflowEnvironment, time.Minute, func() {
		foreign = update(g.TestWorkflowEnvironment, contract.Split, "1", contract.SplitRequest{Key: key, Who: "ada"})
		o = update(g.TestWorkflowEnvironment, contract.Split, "2", contract.SplitRequest{Key: member(3), Who: "ada", Reason: "it is worse"})
		g.SignalWorkflow(contract.Split, contract.SplitRequest{Key: member(4), Who: "ada"})
	})
	g.tell(2*time.Minute, contract.Parted, detect.Page, 5, 6) // of its own accord
	at(g.TestWorkflowEnvironment, 3*time.Minute, func() { require.Equal(t, 7, g.state().In) })
	g.tell(4*time.Minute, contract.Resolved, detect.Page, 0, 10)
	g.run()
	require.NoError(t, g.GetWorkflowError())
	require.ErrorContains(t, foreign.rejected, "not among")
	require.NoError(t, o.err)
	ended := contract.IncidentEndedMessage{Incident: storm}
	require.Equal(t, map[string][]any{contract.AlertLoopID(member(3)): {ended}, contract.AlertLoopID(member(4)): {ended}}, g.said)
	require.Equal(t, contract.Parted, g.recorded.Keys[3].Left)
	require.Contains(t, g.recorded.Notes[0].Text, "it is worse")
}

func TestGroupResolvedByAPerson(t *testing.T) {
	for _, by := range []string{"update", "signal"} {
		t.Run(by, func(t *testing.T) {
			g := newManyKeys(t)
			g.tell(20*time.Second, contract.Joined, detect.Page, 0, 10)
			g.tell(50*time.Second, contract.Resolved, detect.Page, 0, 1)
			g.gone[contract.AlertLoopID(member(9))] = true
			request := contract.ResolveRequest{Who: "ada", Reason: "a drill"}
			var early *outcome
			at(g.TestWorkflowEnvironment, time.Second, func() { early = update(g.TestWorkflowEnvironment, contract.Resolve, "1", request) })
			at(g.TestWorkflowEnvironment, time.Minute, func() {
				if by == "update" {
					update(g.TestWorkflowEnvironment, contract.Resolve, "2", request)
				} else {
					g.SignalWorkflow(contract.Resolve, contract.ResolveRequest{})
					g.SignalWorkflow(contract.Resolve, request)
				}
			})
			at(g.TestWorkflowEnvironment, 61*time.Second, func() { // as the loops do
				for n := 1; n < 9; n++ {
					require.Equal(t, []any{request}, g.said[contract.AlertLoopID(member(n))])
					g.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{
						Key: member(n), Change: contract.Resolved, Level: detect.Page, At: g.Now(), Who: "ada", Reason: "a drill",
					})
				}
			})
			g.run()
			require.NoError(t, g.GetWorkflowError())
			require.ErrorContains(t, early.rejected, "no key")
			require.Empty(t, g.said[contract.AlertLoopID(member(0))], "it had left")
			require.Equal(t, "resolved by ada: a drill", g.recorded.Reason)
			require.WithinDuration(t, start.Add(61*time.Second+tuning.Holds.Page), g.Now(), time.Second)
		})
	}
}

func TestGroupThatNobodyJoinsTellsNobody(t *testing.T) {
	g := newManyKeys(t)
	g.run()
	require.NoError(t, g.GetWorkflowError())
	require.Empty(t, g.notices)
	require.Equal(t, contract.IncidentClosed, g.recorded.Phase)
	require.WithinDuration(t, start.Add(tuning.Holds.Silence), g.Now(), time.Second)
}

// The last key has left, and another comes while the group's end is being told: it is not left with an
// incident that has ended.
func TestGroupSendsLateKeysBack(t *testing.T) {
	g := newManyKeys(t)
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, 10)
	g.tell(time.Minute, contract.Resolved, detect.Page, 0, 10)
	g.tell(70*time.Second, contract.Joined, detect.Page, 10, 11) // within the hold: it stays open for it
	g.tell(2*time.Minute, contract.Resolved, detect.Page, 10, 11)
	g.postErr = func() error {
		if g.Now().After(start.Add(130*time.Second)) && g.Now().Before(start.Add(150*time.Second)) {
			return errAway
		}
		return nil
	}
	g.tell(145*time.Second, contract.Joined, detect.Page, 11, 12)
	g.tell(145*time.Second, contract.Recovering, detect.Page, 3, 4)
	g.run()
	require.NoError(t, g.GetWorkflowError())
	require.Equal(t, map[string][]any{contract.AlertLoopID(member(11)): {contract.IncidentEndedMessage{Incident: storm}}}, g.said)
	require.Equal(t, 11, g.recorded.Joined)
}

func TestGroupCancelled(t *testing.T) {
	g := newManyKeys(t)
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, 10)
	at(g.TestWorkflowEnvironment, time.Minute, g.CancelWorkflow)
	g.run()
	require.Error(t, g.GetWorkflowError())
	require.Len(t, g.said, 10)
	require.Equal(t, []any{contract.IncidentEndedMessage{Incident: storm, Cancelled: true}}, g.said[contract.AlertLoopID(member(3))])
	require.Equal(t, []contract.NoticeKind{contract.NoticeOpened, contract.NoticeClosed}, g.calls())
}

func TestGroupContinuesAsNew(t *testing.T) {
	g := newManyKeys(t)
	g.tell(20*time.Second, contract.Joined, detect.Page, 0, 20)
	at(g.TestWorkflowEnvironment, time.Minute, func() {
		update(g.TestWorkflowEnvironment, contract.Acknowledge, "1", contract.AcknowledgeRequest{Who: "ada"})
		update(g.TestWorkflowEnvironment, contract.SetMute, "2", contract.MuteRequest{For: time.Hour, Who: "ada", Reason: "r"})
	})
	g.tell(3*time.Minute, contract.Resolved, detect.Page, 0, 1)
	var before contract.GroupState
	at(g.TestWorkflowEnvironment, 5*time.Minute, func() {
		before = g.state()
		// What comes with the task that ends the run must not be lost between the runs.
		g.SignalWorkflowSkippingWorkflowTask(contract.AlertChanged, contract.AlertChangedMessage{
			Key: member(1), Change: contract.Resolved, Level: detect.Page, At: g.Now(),
		})
	})
	at(g.TestWorkflowEnvironment, 5*time.Minute+time.Millisecond, func() { g.SetContinueAsNewSuggested(true) })
	g.run()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, g.GetWorkflowError(), &next)
	var in contract.GroupInput
	require.NoError(t, dataConverter.FromPayloads(next.Input, &in))
	require.Equal(t, before.Acknowledged, in.State.Acknowledged)
	require.Equal(t, before.Mute, in.State.Mute)
	require.Equal(t, before.Steps, in.State.Steps)
	require.Equal(t, contract.Resolved, in.State.Keys[1].Left)
	require.Equal(t, before.Keys[2:], in.State.Keys[2:])
	require.Equal(t, 18, in.State.In)
	require.Nil(t, in.State.Input.State, "a state does not carry itself")

	n := newManyKeys(t)
	n.SetStartTime(start.Add(10 * time.Minute))
	n.tell(time.Second, contract.Resolved, detect.Page, 2, 20)
	n.ExecuteWorkflow(workflows.Group, in)
	require.NoError(t, n.GetWorkflowError())
	require.Equal(t, []contract.NoticeKind{contract.NoticeClosed}, n.calls(), "people have been told before")
	require.Greater(t, n.notices[0].Seq, before.Posted)
	require.Equal(t, 20, n.recorded.Joined)
	require.False(t, slices.ContainsFunc(n.recorded.Keys, func(k contract.GroupKey) bool { return k.LeftAt.IsZero() }))
}

func TestGroupRefusesABadInput(t *testing.T) {
	for _, in := range []contract.GroupInput{{Opened: start, Tuning: tuning}, {Cause: "c", Tuning: tuning}, {Cause: "c", Opened: start}} {
		env := newEnv(t, nil)
		env.ExecuteWorkflow(workflows.Group, in)
		require.Error(t, env.GetWorkflowError())
	}
}
