package workflows_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/workflows"
)

// storm and another are groups that facts may name.
var (
	storm   = contract.GroupID("provider:anthropic", start)
	another = contract.GroupID("model:claude-3-opus", start)
)

// groups stand in for the groups that a loop speaks to: they record what they hear, and are not there once
// they are gone.
type groups struct {
	mu   sync.Mutex
	told map[string][]contract.AlertChangedMessage
	gone map[string]bool
}

func newGroups(l *keyLoop) *groups {
	g := &groups{told: map[string][]contract.AlertChangedMessage{}, gone: map[string]bool{}}
	l.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, contract.AlertChanged, mock.Anything).Return(
		func(_, id, _, _ string, arg any) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.gone[id] {
				return errors.New("workflow execution already completed")
			}
			g.told[id] = append(g.told[id], arg.(contract.AlertChangedMessage))
			return nil
		})
	return g
}

func (g *groups) end(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone[id] = true
}

func (g *groups) changes(id string) (changes []contract.AlertChange) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.told[id] {
		changes = append(changes, m.Change)
	}
	return changes
}

// grouped has the sweep find a level of a group from one time until another, every half minute.
func (l *keyLoop) grouped(group string, level detect.Level, from, until time.Duration) {
	for d := from; d < until; d += 30 * time.Second {
		at(l.TestWorkflowEnvironment, d, func() {
			l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(l.Now(), level), Group: group})
		})
	}
}

func (l *keyLoop) state() contract.AlertLoopState {
	return query[contract.AlertLoopState](l.t, l.TestWorkflowEnvironment)
}

func TestAlertLoopJoinsAGroup(t *testing.T) {
	l := newKeyLoop(t)
	g := newGroups(l)
	l.grouped(storm, detect.Investigate, 0, time.Minute)
	l.grouped(storm, detect.Page, time.Minute, 2*time.Minute)
	at(l.TestWorkflowEnvironment, 15*time.Second, func() { require.Equal(t, storm, l.state().Incident) })
	l.fact(detect.None, 2*time.Minute, 2*time.Minute+10*time.Second)
	l.grouped(storm, detect.Page, 3*time.Minute, 3*time.Minute+10*time.Second)
	l.fact(detect.None, 4*time.Minute, 7*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.Empty(t, l.incidents, "the group is its incident")
	require.Equal(t, []contract.AlertChange{
		contract.Joined, contract.Escalated, contract.Recovering, contract.Refired, contract.Recovering, contract.Resolved,
	}, g.changes(storm))
	for _, m := range g.told[storm] {
		require.Equal(t, key, m.Key)
	}
	require.Equal(t, "cost × 3.00 and quality × 0.80", g.told[storm][0].Reason)
	require.Equal(t, detect.Page, g.told[storm][1].Level)
}

func TestAlertLoopIsLeftToItselfWithoutItsGroup(t *testing.T) {
	t.Run("ended before it fired", func(t *testing.T) {
		l := newKeyLoop(t)
		newGroups(l).end(storm)
		l.grouped(storm, detect.Page, 0, time.Minute)
		l.fact(detect.None, time.Minute, 5*time.Minute)
		l.run()
		require.NoError(t, l.GetWorkflowError())
		require.Len(t, l.incidents, 1)
	})
	t.Run("terminated while it recovers, and nothing explains it when it comes back", func(t *testing.T) {
		l := newKeyLoop(t)
		g := newGroups(l)
		l.grouped(storm, detect.Page, 0, time.Minute)
		at(l.TestWorkflowEnvironment, time.Minute, func() { g.end(storm) })
		l.fact(detect.None, time.Minute, 90*time.Second)
		l.grouped("", detect.Page, 2*time.Minute, 3*time.Minute)
		l.fact(detect.None, 3*time.Minute, 7*time.Minute)
		l.run()
		require.NoError(t, l.GetWorkflowError())
		require.Len(t, l.incidents, 1, "it fires, so somebody must hear")
	})
	t.Run("terminated while it fires", func(t *testing.T) {
		l := newKeyLoop(t)
		g := newGroups(l)
		l.grouped(storm, detect.Investigate, 0, time.Minute)
		at(l.TestWorkflowEnvironment, 50*time.Second, func() { g.end(storm) })
		l.grouped(storm, detect.Page, time.Minute, 2*time.Minute)
		l.fact(detect.None, 2*time.Minute, 6*time.Minute)
		l.run()
		require.NoError(t, l.GetWorkflowError())
		require.Len(t, l.incidents, 1, "as soon as there is something to tell")
		require.Equal(t, detect.Page, l.incidents[0].Level)
	})
	t.Run("terminated while it recovers", func(t *testing.T) {
		l := newKeyLoop(t)
		g := newGroups(l)
		l.grouped(storm, detect.Page, 0, time.Minute)
		at(l.TestWorkflowEnvironment, 50*time.Second, func() { g.end(storm) })
		l.fact(detect.None, time.Minute, time.Minute+10*time.Second)
		at(l.TestWorkflowEnvironment, 80*time.Second, func() { require.Empty(t, l.incidents, "what recovers needs no incident") })
		l.grouped(storm, detect.Page, 90*time.Second, 100*time.Second)
		l.fact(detect.None, 2*time.Minute, 5*time.Minute)
		l.run()
		require.NoError(t, l.GetWorkflowError())
		require.Len(t, l.incidents, 1)
	})
}

func TestAlertLoopPartsFromItsGroup(t *testing.T) {
	for name, to := range map[string]string{"to none": "", "to another": another} {
		t.Run(name, func(t *testing.T) {
			l := newKeyLoop(t)
			g := newGroups(l)
			l.grouped(storm, detect.Page, 0, 2*time.Minute)
			l.grouped("", detect.Page, 2*time.Minute, 3*time.Minute)    // a sweep that does not know its storms yet
			l.grouped(storm, detect.Page, 3*time.Minute, 4*time.Minute) // and does now
			l.grouped(to, detect.Page, 4*time.Minute, 7*time.Minute)
			at(l.TestWorkflowEnvironment, 5*time.Minute+50*time.Second, func() { require.Equal(t, storm, l.state().Incident) })
			l.grouped(storm, detect.Page, 7*time.Minute, 12*time.Minute) // to an incident of its own that is too late
			l.fact(detect.None, 12*time.Minute, 15*time.Minute)
			l.run()
			require.NoError(t, l.GetWorkflowError())
			if to == "" {
				require.Equal(t, []contract.AlertChange{contract.Joined, contract.Parted}, g.changes(storm))
				require.Len(t, l.incidents, 1)
				require.Equal(t, start.Add(6*time.Minute), l.incidents[0].Opened)
				require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved}, l.changes())
				return
			}
			require.Equal(t, []contract.AlertChange{contract.Joined, contract.Parted}, g.changes(another))
			require.Equal(t, []contract.AlertChange{
				contract.Joined, contract.Parted, contract.Joined, contract.Recovering, contract.Resolved,
			}, g.changes(storm), "it follows its facts; nobody is called for a key that moves between groups")
			require.Empty(t, l.incidents)
		})
	}
}

func TestAlertLoopSplitOffByAPerson(t *testing.T) {
	for name, cancelled := range map[string]bool{"split": false, "the group was cancelled": true} {
		t.Run(name, func(t *testing.T) {
			l := newKeyLoop(t)
			g := newGroups(l)
			l.grouped(storm, detect.Page, 0, 3*time.Minute)
			at(l.TestWorkflowEnvironment, 70*time.Second, func() {
				l.SignalWorkflow(contract.IncidentEnded, contract.IncidentEndedMessage{Incident: storm, Cancelled: cancelled})
			})
			l.fact(detect.None, 3*time.Minute, 6*time.Minute)
			l.run()
			require.NoError(t, l.GetWorkflowError())
			require.Equal(t, []contract.AlertChange{contract.Joined}, g.changes(storm), "it does not go back")
			if cancelled {
				require.Empty(t, l.incidents, "what an operator cancelled is not opened again")
			} else {
				require.Len(t, l.incidents, 1)
			}
		})
	}
}

// An incident that opened within a hold of the storm becomes a part of it; one that people have had time to
// see stays, and so does one that has acted.
func TestAlertLoopWithAnIncidentOfItsOwnAndAStorm(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration // the incident, which opens at 20 s
		acted bool
		joins bool
	}{
		"young": {after: 5 * time.Second, joins: true},
		"old":   {after: 25 * time.Second},
		"acted": {after: 5 * time.Second, acted: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newKeyLoop(t)
			g := newGroups(l)
			l.fact(detect.Page, 0, time.Second)
			if c.acted {
				at(l.TestWorkflowEnvironment, 21*time.Second, func() {
					update(l.TestWorkflowEnvironment, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d1", ExpiresAt: start.Add(2 * time.Minute)})
				})
			}
			l.grouped(storm, detect.Page, 20*time.Second+c.after, 2*time.Minute)
			l.fact(detect.None, 2*time.Minute, 6*time.Minute)
			l.run()
			require.NoError(t, l.GetWorkflowError())
			require.Len(t, l.incidents, 1)
			if c.joins {
				require.Equal(t, []contract.AlertChange{contract.Joined, contract.Recovering, contract.Resolved}, g.changes(storm))
				require.Equal(t, []contract.AlertChange{contract.Resolved}, l.changes())
				require.Contains(t, l.told[0].Reason, storm)
			} else {
				require.Empty(t, g.changes(storm))
				require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved}, l.changes())
			}
		})
	}
}

func TestAlertLoopIsMuted(t *testing.T) {
	l := newKeyLoop(t)
	refusals := map[string]*outcome{}
	for message, r := range map[string]contract.MuteRequest{
		"who":    {For: time.Hour, Reason: "r"},
		"why":    {For: time.Hour, Who: "ada"},
		"720h":   {For: 31 * 24 * time.Hour, Who: "ada", Reason: "r"},
		"for -1": {For: -1, Who: "ada", Reason: "r"},
	} {
		at(l.TestWorkflowEnvironment, 0, func() { refusals[message] = update(l.TestWorkflowEnvironment, contract.SetMute, message, r) })
	}
	var first, again *outcome
	at(l.TestWorkflowEnvironment, 0, func() {
		first = update(l.TestWorkflowEnvironment, contract.SetMute, "mute", contract.MuteRequest{For: time.Hour, Who: "ada", Reason: "a load test"})
	})
	l.fact(detect.Page, time.Minute, 2*time.Minute)
	l.fact(detect.None, 2*time.Minute, 5*time.Minute)
	at(l.TestWorkflowEnvironment, 10*time.Minute, func() {
		require.True(t, l.state().Alert.Idle())
		require.Equal(t, "ada", l.state().Mute.Who)
	})
	l.fact(detect.Page, 30*time.Minute, 31*time.Minute)
	at(l.TestWorkflowEnvironment, 31*time.Minute, func() { // by signal, as tctl would, and one that is refused
		l.SignalWorkflow(contract.SetMute, contract.MuteRequest{})
		l.SignalWorkflow(contract.SetMute, contract.MuteRequest{Who: "bob"})
	})
	at(l.TestWorkflowEnvironment, 32*time.Minute, func() {
		require.Nil(t, l.state().Mute)
		again = update(l.TestWorkflowEnvironment, contract.SetMute, "again", contract.MuteRequest{For: 2 * time.Minute, Who: "ada", Reason: "and yet"})
	})
	l.fact(detect.Page, 32*time.Minute, 36*time.Minute)
	l.fact(detect.None, 36*time.Minute, 39*time.Minute)
	l.run()
	require.NoError(t, l.GetWorkflowError())
	for message, o := range refusals {
		require.ErrorContains(t, o.rejected, message)
	}
	mute := first.result.(contract.MuteState).Mute
	require.Equal(t, start.Add(time.Hour), mute.Until.UTC())
	require.NotNil(t, again.result.(contract.MuteState).Mute)

	require.Len(t, l.incidents, 2)
	require.Equal(t, "a load test", l.incidents[0].Mute.Reason, "an incident knows it as it opens")
	require.Equal(t, []contract.AlertChange{
		contract.Recovering, contract.Resolved, contract.Muted, contract.Muted, contract.Muted, contract.Recovering, contract.Resolved,
	}, l.changes())
	require.Nil(t, l.told[2].Mute)
	require.Equal(t, "bob", l.told[2].Who)
	require.Equal(t, "and yet", l.told[3].Mute.Reason)
	require.Nil(t, l.told[4].Mute)
	require.Empty(t, l.told[4].Who)
}

func TestAlertLoopOfNothingButAMuteEndsWithIt(t *testing.T) {
	l := newKeyLoop(t)
	at(l.TestWorkflowEnvironment, 0, func() {
		l.SignalWorkflow(contract.SetMute, contract.MuteRequest{For: 3 * 24 * time.Hour, Who: "ada", Reason: "a migration"})
	})
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.WithinDuration(t, start.Add(3*24*time.Hour), l.Now(), time.Minute)
}

// A mute that arrives together with what ends the loop is not lost.
func TestAlertLoopHearsAMuteAtItsEnd(t *testing.T) {
	request := contract.MuteRequest{For: time.Hour, Who: "ada", Reason: "r"}
	for _, by := range []string{"update", "signal"} {
		l := newKeyLoop(t)
		l.fact(detect.Page, 0, time.Second)
		var o *outcome
		at(l.TestWorkflowEnvironment, 5*time.Second, func() {
			if by == "update" {
				o = update(l.TestWorkflowEnvironment, contract.SetMute, "1", request)
			} else {
				l.SignalWorkflow(contract.SetMute, request)
			}
			l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(l.Now(), detect.None)})
		})
		l.run()
		require.NoError(t, l.GetWorkflowError())
		if by == "update" {
			require.True(t, o.accepted)
		}
		require.WithinDuration(t, start.Add(time.Hour), l.Now(), time.Minute, by)
	}
}

func TestAlertLoopAcceptsALevel(t *testing.T) {
	for _, by := range []string{"update", "signal"} {
		t.Run(by, func(t *testing.T) {
			l := newKeyLoop(t)
			baseline := detect.Baseline{Key: key, LnCost: 23}
			var asked []contract.AcceptLevelActivityRequest
			accepts(l, func(r contract.AcceptLevelActivityRequest) (contract.AcceptLevelResult, error) {
				asked = append(asked, r)
				return contract.AcceptLevelResult{Baseline: baseline}, nil
			})
			l.fact(detect.Page, 0, time.Minute)
			request := contract.AcceptLevelRequest{Who: "ada", Reason: "a dearer model, on purpose"}
			var nobody, o *outcome
			at(l.TestWorkflowEnvironment, time.Minute, func() {
				nobody = update(l.TestWorkflowEnvironment, contract.AcceptLevel, "nobody", contract.AcceptLevelRequest{Reason: "r"})
				if by == "signal" {
					l.SignalWorkflow(contract.AcceptLevel, contract.AcceptLevelRequest{})
					l.SignalWorkflow(contract.AcceptLevel, request)
				} else {
					o = update(l.TestWorkflowEnvironment, contract.AcceptLevel, "1", request)
				}
			})
			l.run()
			require.NoError(t, l.GetWorkflowError())
			require.ErrorContains(t, nobody.rejected, "who")
			require.Len(t, asked, 1)
			require.Equal(t, contract.AcceptLevelActivityRequest{
				Key: key, Who: "ada", Reason: request.Reason, Minimums: tuning.Limits.Minimums, At: start.Add(time.Minute),
			}, asked[0])
			if by == "update" {
				require.Equal(t, contract.AcceptLevelResult{Baseline: baseline, Incident: contract.IncidentID(key, start.Add(20*time.Second))}, o.result)
			}
			require.Equal(t, []contract.AlertChange{contract.Resolved}, l.changes())
			require.Equal(t, "ada", l.told[0].Who)
			require.Equal(t, "level accepted by ada: a dearer model, on purpose", l.told[0].Reason)
		})
	}
}

// A level that cannot be accepted closes nothing.
func TestAlertLoopCannotAcceptALevel(t *testing.T) {
	l := newKeyLoop(t)
	accepts(l, func(contract.AcceptLevelActivityRequest) (contract.AcceptLevelResult, error) {
		return contract.AcceptLevelResult{}, errAway
	})
	l.fact(detect.Page, 0, 4*time.Minute)
	l.fact(detect.None, 4*time.Minute, 7*time.Minute)
	var o *outcome
	at(l.TestWorkflowEnvironment, time.Minute, func() {
		o = update(l.TestWorkflowEnvironment, contract.AcceptLevel, "1", contract.AcceptLevelRequest{Who: "ada", Reason: "r"})
	})
	l.run()
	require.NoError(t, l.GetWorkflowError())
	require.ErrorContains(t, o.err, "accepting the new level")
	require.Equal(t, []contract.AlertChange{contract.Recovering, contract.Resolved}, l.changes())
}

var errAway = errors.New("connection refused")

func TestAlertLoopContinuesAsNewInAGroupAndMuted(t *testing.T) {
	l := newKeyLoop(t)
	newGroups(l)
	l.grouped(storm, detect.Page, 0, time.Minute)
	l.grouped("", detect.Page, time.Minute, 80*time.Second)
	var before contract.AlertLoopState
	at(l.TestWorkflowEnvironment, 80*time.Second, func() {
		update(l.TestWorkflowEnvironment, contract.SetMute, "1", contract.MuteRequest{For: time.Hour, Who: "ada", Reason: "r"})
	})
	at(l.TestWorkflowEnvironment, 90*time.Second, func() {
		before = l.state()
		l.SetContinueAsNewSuggested(true)
		l.SignalWorkflow(contract.Facts, contract.FactsMessage{Finding: finding(start.Add(time.Second), detect.Page)}) // an old one, to wake it
	})
	l.run()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, l.GetWorkflowError(), &next)
	var in contract.AlertLoopInput
	require.NoError(t, dataConverter.FromPayloads(next.Input, &in))
	require.Equal(t, before, *in.State)
	require.Equal(t, storm, in.State.Incident)
	require.False(t, in.State.Astray.IsZero())
	require.NotNil(t, in.State.Mute)

	// The next run goes on: it still strays, and parts when it has done so for long enough.
	n := newKeyLoop(t)
	g := newGroups(n)
	n.SetStartTime(start.Add(2 * time.Minute))
	n.grouped("", detect.Page, 0, 2*time.Minute)
	n.fact(detect.None, 2*time.Minute, 5*time.Minute)
	n.ExecuteWorkflow(workflows.AlertLoop, in)
	require.NoError(t, n.GetWorkflowError())
	require.Equal(t, []contract.AlertChange{contract.Parted}, g.changes(storm))
	require.Len(t, n.incidents, 1)
	require.NotNil(t, n.incidents[0].Mute)
	require.WithinDuration(t, before.Mute.Until, n.Now(), time.Minute, "it stays open for the mute")
}

func TestAlertLoopCancelledInAGroup(t *testing.T) {
	l := newKeyLoop(t)
	g := newGroups(l)
	l.grouped(storm, detect.Page, 0, time.Minute)
	at(l.TestWorkflowEnvironment, time.Minute, l.CancelWorkflow)
	l.run()
	require.Error(t, l.GetWorkflowError())
	require.Equal(t, []contract.AlertChange{contract.Joined, contract.Resolved}, g.changes(storm))
}
