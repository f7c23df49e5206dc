package workflows_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// say sends what people say, as an update or as its signal twin.
func (i *keyIncident) say(by, name string, arg any) *outcome {
	if by == "signal" {
		i.SignalWorkflow(name, arg)
		return &outcome{}
	}
	i.said++
	return update(i.TestWorkflowEnvironment, name, name+string(rune('a'+i.said)), arg)
}

func (i *keyIncident) state() contract.IncidentState {
	return query[contract.IncidentState](i.t, i.TestWorkflowEnvironment)
}

func TestIncidentEscalates(t *testing.T) {
	i := newKeyIncident(t)
	newer := finding(start.Add(time.Minute), detect.Page)
	newer.Verdict.Reason = "worse"
	i.changed(time.Minute, contract.AlertChangedMessage{Change: contract.Escalated, Level: detect.Page, Finding: &newer})
	i.changed(70*time.Second, contract.AlertChangedMessage{Change: contract.Silent})
	at(i.TestWorkflowEnvironment, 80*time.Second, func() {
		require.True(t, query[contract.IncidentState](t, i.TestWorkflowEnvironment).Silent)
	})
	i.changed(85*time.Second, contract.AlertChangedMessage{Change: contract.Heard, Reason: "facts are back"})
	at(i.TestWorkflowEnvironment, 88*time.Second, func() {
		s := query[contract.IncidentState](t, i.TestWorkflowEnvironment)
		require.False(t, s.Silent)
		require.Equal(t, contract.IncidentOpen, s.Phase, "what is heard again has not moved")
	})
	i.resolve(90 * time.Second)
	state := i.run(tuning)
	require.Equal(t, "worse", state.Finding.Verdict.Reason)
	require.Equal(t, []contract.NoticeKind{contract.NoticeOpened, contract.NoticeStep, contract.NoticeEscalated, contract.NoticeClosed}, i.told())
	require.Len(t, i.asked, 2, "the policy is asked again")
}

func TestIncidentPeople(t *testing.T) {
	for _, by := range []string{"update", "signal"} {
		t.Run(by, func(t *testing.T) {
			i := newKeyIncident(t)
			var outcomes []*outcome
			send := func(name string, arg any) {
				if by == "update" {
					outcomes = append(outcomes, update(i.TestWorkflowEnvironment, name, name+i.since()+time.Duration(len(outcomes)).String(), arg))
				} else {
					i.SignalWorkflow(name, arg)
				}
			}
			at(i.TestWorkflowEnvironment, time.Minute, func() {
				send(contract.Acknowledge, contract.AcknowledgeRequest{})
				send(contract.SkipStep, contract.SkipStepRequest{Step: "T0", Who: "ada"})
				send(contract.SkipStep, contract.SkipStepRequest{Step: "T+30", Who: "ada"})
				send(contract.SkipStep, contract.SkipStepRequest{Step: "T+2"})
				send(contract.Acknowledge, contract.AcknowledgeRequest{Who: "ada", Note: "on it"})
				send(contract.SkipStep, contract.SkipStepRequest{Step: "T+2", Who: "ada", Reason: "the provider is fine"})
				send(contract.SkipStep, contract.SkipStepRequest{Step: "T+10", Who: "ada"})
			})
			i.resolve(20 * time.Minute)
			state := i.run(tuning)
			require.Equal(t, []string{"T0 clear", "T+2 skipped", "T+5 clear", "T+10 skipped", "T+30 unknown"}, steps(state))
			require.WithinDuration(t, start.Add(time.Minute), state.Steps[1].At, time.Second, "the next step is skipped at once")
			require.WithinDuration(t, start.Add(10*time.Minute), state.Steps[3].At, 6*time.Minute)
			require.Equal(t, "ada", state.Acknowledged.Who)
			require.Empty(t, i.orders)
			if by == "update" {
				for n, refused := range []bool{true, true, true, true, false, false, false} {
					require.Equal(t, refused, outcomes[n].rejected != nil, n)
				}
			}
		})
	}
}

func TestIncidentWalksAStepAgain(t *testing.T) {
	for _, by := range []string{"update", "signal"} {
		t.Run(by, func(t *testing.T) {
			i := newKeyIncident(t)
			var early, none, twice, late *outcome
			at(i.TestWorkflowEnvironment, time.Minute, func() {
				early = i.say(by, contract.RerunStep, contract.RerunStepRequest{Step: "T+5", Who: "ada"})
				none = i.say(by, contract.RerunStep, contract.RerunStepRequest{Step: "T0"})
			})
			at(i.TestWorkflowEnvironment, 6*time.Minute, func() {
				i.health.Indicator, i.health.Description = "major", "Partial outage"
				i.say(by, contract.RerunStep, contract.RerunStepRequest{Step: "T+2", Who: "ada", Reason: "their page is up to date now"})
				twice = i.say(by, contract.RerunStep, contract.RerunStepRequest{Step: "T+2", Who: "bob"})
			})
			at(i.TestWorkflowEnvironment, 7*time.Minute, func() {
				require.Equal(t, 4, len(i.asked), "act.yaml is asked again")
				require.Equal(t, runbook.CauseProvider, runbook.Cause(i.asked[3].Steps))
			})
			at(i.TestWorkflowEnvironment, 31*time.Minute, func() {
				require.Equal(t, runbook.CauseProvider, i.state().Steps[4].Verdict.Cause)
				i.health.Indicator = "none"
				i.say(by, contract.RerunStep, contract.RerunStepRequest{Step: "T+2", Who: "ada"})
			})
			i.resolve(40 * time.Minute)
			at(i.TestWorkflowEnvironment, 40*time.Minute, func() {
				late = i.say(by, contract.RerunStep, contract.RerunStepRequest{Step: "T+2", Who: "ada"})
			})
			state := i.run(tuning)
			require.Equal(t, "T0 clear, T+2 clear, T+5 clear, T+10 skipped, T+30 unknown", strings.Join(steps(state), ", "), "the conclusion follows")
			step := state.Steps[1]
			require.Len(t, step.Earlier, 2)
			require.Equal(t, []runbook.Status{runbook.Clear, runbook.Found}, []runbook.Status{step.Earlier[0].Verdict.Status, step.Earlier[1].Verdict.Status})
			require.Equal(t, "walked again by ada: their page is up to date now", step.Earlier[1].Why)
			require.Equal(t, 2, strings.Count(state.Report, "- before, at"))
			var told int
			for _, n := range i.posted {
				if n.Kind == contract.NoticeStep && strings.HasPrefix(n.Title, "T+2") {
					told++
				}
			}
			require.Equal(t, 3, told)
			if by == "update" {
				for n, o := range []*outcome{early, none, twice} {
					require.Error(t, o.rejected, n)
				}
				require.True(t, late.rejected != nil || late.err != nil)
			}
		})
	}
}

func TestIncidentRemembersNotesAndTheOneBefore(t *testing.T) {
	i := newKeyIncident(t)
	i.past = &contract.PastIncident{ID: "incident/org_42/claude-3-opus/1", Opened: start.Add(-48 * time.Hour), Cause: "deployment", Reason: "it was rag-v3.1", Query: "SELECT 1"}
	var noBody, nobody, long, good *outcome
	at(i.TestWorkflowEnvironment, time.Minute, func() {
		noBody = i.say("update", contract.Annotate, contract.AnnotateRequest{Who: "ada"})
		nobody = i.say("update", contract.Annotate, contract.AnnotateRequest{Text: "hm"})
		long = i.say("update", contract.Annotate, contract.AnnotateRequest{Who: "ada", Text: strings.Repeat("x", 5000)})
		good = i.say("update", contract.Annotate, contract.AnnotateRequest{Who: "ada", Text: "the launch\nis today"})
		i.say("signal", contract.Annotate, contract.AnnotateRequest{Who: "bob", Text: "so it is"})
	})
	at(i.TestWorkflowEnvironment, 90*time.Second, func() {
		text := details(t, i.TestWorkflowEnvironment)
		require.Contains(t, text, "ada: the launch is today")
		require.Contains(t, text, "It was rag-v3.1", "the last incident is shown at T0")
		require.Contains(t, text, "rag-v3.2 carries 90 % of the rise")
	})
	i.resolve(3 * time.Minute)
	state := i.run(tuning)
	for n, o := range []*outcome{noBody, nobody, long} {
		require.Error(t, o.rejected, n)
	}
	require.Equal(t, "ada", good.result.(contract.Note).Who)
	require.Len(t, state.Notes, 2)
	require.Equal(t, i.past.ID, state.Previous.ID)
	for _, want := range []string{"bob: so it is", "the one before", "SELECT 1", "What carries it", "| rag-v3.2 |"} {
		require.Contains(t, strings.ToLower(state.Report), strings.ToLower(want))
	}
}

func TestIncidentRemindsOfAPageThatNobodyTakesOn(t *testing.T) {
	remind := tuning
	remind.RemindEvery = 5 * time.Minute
	never := tuning
	never.RemindEvery = 0
	for name, c := range map[string]struct {
		tuning contract.Tuning
		level  detect.Level
		key    usage.Key
		want   int
		heard  contract.Audience
	}{
		"a page":                    {remind, detect.Page, key, 2, contract.OnCall},
		"without reminders":         {never, detect.Page, key, 0, contract.OnCall},
		"to be looked into":         {remind, detect.Investigate, key, 0, contract.Findings},
		"an experiment, which none": {remind, detect.Page, key.OfExperiment("ab-7"), 0, contract.Experiments},
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			i.level, i.key = c.level, c.key
			i.propose = downgrade
			if c.heard != contract.Experiments {
				i.propose = nil
			}
			at(i.TestWorkflowEnvironment, 12*time.Minute, func() {
				i.say("signal", contract.Acknowledge, contract.AcknowledgeRequest{Who: "ada"})
			})
			i.resolve(29 * time.Minute)
			i.run(c.tuning)
			n := 0
			for _, notice := range i.posted {
				if require.Equal(t, c.heard, notice.Audience); notice.Kind == contract.NoticeReminder {
					n++
				}
			}
			require.Equal(t, c.want, n, "none after it has been taken on")
			require.Empty(t, i.started, "nothing is done to an experiment")
		})
	}
}

func TestIncidentMuted(t *testing.T) {
	mute := func(i *keyIncident, after, length time.Duration) {
		m := contract.AlertChangedMessage{Change: contract.Muted, Mute: &contract.Mute{Who: "ada", Reason: "a load test", At: start.Add(after), Until: start.Add(after + length)}}
		if length == 0 {
			m.Mute = nil
		}
		i.changed(after, m)
	}
	escalates := func(i *keyIncident) {
		i.changed(3*time.Minute, contract.AlertChangedMessage{Change: contract.Escalated, Level: detect.Page})
	}
	for name, c := range map[string]struct {
		set  func(*keyIncident)
		want string // told, by minute
	}{
		"from its opening, until the mute's end": {
			func(i *keyIncident) {
				i.mute = &contract.Mute{Who: "ada", Until: start.Add(6 * time.Minute), At: start}
			},
			"6 opened, 10 acted, 10 step, 20 closed",
		},
		"from its opening to its end": {
			func(i *keyIncident) { i.mute = &contract.Mute{Who: "ada", Until: start.Add(time.Hour), At: start} }, "",
		},
		"once it was told of": {
			func(i *keyIncident) { mute(i, time.Minute, 6*time.Minute) },
			"0 opened, 0 step, 7 reminder, 10 acted, 10 step, 20 closed",
		},
		"and unmuted": {
			func(i *keyIncident) { mute(i, time.Minute, time.Hour); mute(i, 4*time.Minute, 0) },
			"0 opened, 0 step, 4 reminder, 5 step, 10 acted, 10 step, 20 closed",
		},
		"to its end": {
			func(i *keyIncident) { mute(i, time.Minute, time.Hour) },
			"0 opened, 0 step, 20 closed",
		},
		"while it became a page": {
			func(i *keyIncident) { i.level = detect.Investigate; escalates(i); mute(i, time.Minute, 3*time.Minute) },
			"0 opened, 0 step, 4 escalated, 5 step, 10 acted, 10 step, 20 closed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			c.set(i)
			i.resolve(20 * time.Minute)
			state := i.run(tuning)
			var told []string
			for _, n := range i.posted {
				if n.Kind != contract.NoticeUpdated {
					told = append(told, strings.TrimSuffix(n.At.Sub(start).Truncate(time.Minute).String(), "m0s")+" "+string(n.Kind))
				}
			}
			require.Equal(t, c.want, strings.ReplaceAll(strings.Join(told, ", "), "0s ", "0 "))
			require.Len(t, state.Steps, 5, "it goes on as ever")
			require.NotEmpty(t, i.recorded)
		})
	}
}

// The card that people see of a muted incident says so, and then stays as it is.
func TestIncidentShowsItsMuteOnce(t *testing.T) {
	i := newKeyIncident(t)
	i.changed(time.Minute, contract.AlertChangedMessage{Change: contract.Muted, Mute: &contract.Mute{Who: "ada", Reason: "r", At: start, Until: start.Add(time.Hour)}})
	i.resolve(20 * time.Minute)
	i.run(tuning)
	last := i.posted[len(i.posted)-2]
	require.Equal(t, contract.NoticeUpdated, last.Kind)
	require.Equal(t, "ada", last.State.Mute.Who)
	require.Less(t, last.At.Sub(start), 2*time.Minute)
}

func TestIncidentLeavesToPeopleWhatNoActUndoes(t *testing.T) {
	for name, c := range map[string]struct {
		settle func(i *keyIncident)
		says   string
	}{
		"acknowledged": {func(i *keyIncident) {
			i.say("signal", contract.Acknowledge, contract.AcknowledgeRequest{Who: "ada", Note: "on it"})
		}, "taken on by ada: on it"},
		"skipped": {func(i *keyIncident) {
			i.say("signal", contract.SkipStep, contract.SkipStepRequest{Step: "T+2", Who: "bob", Reason: "it is wanted"})
		}, "skipped by bob: it is wanted"},
		"nobody": {func(*keyIncident) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			i.changes.Deployments = []usage.Deployment{{Service: "rag", Version: "v3.2", Timestamp: start.Add(-time.Minute), Previous: map[string]string{"prompt_template_version": "rag-v3.1"}}}
			at(i.TestWorkflowEnvironment, 6*time.Minute, func() {
				s := i.state()
				require.True(t, s.Steps[1].Open())
				require.Len(t, s.Steps, 3, "the steps after it do not wait")
				require.Contains(t, details(t, i.TestWorkflowEnvironment), "It is left to you")
				c.settle(i)
			})
			i.resolve(20 * time.Minute)
			state := i.run(tuning)
			require.Equal(t, "roll it back, to the prompt template rag-v3.1", state.Steps[1].Needs)
			require.Equal(t, c.says, state.Steps[1].Settled)
		})
	}
}

func TestNoticesGoOutInOrderAndDoNotWaitForEver(t *testing.T) {
	i := newKeyIncident(t)
	tries := map[contract.NoticeKind]int{}
	i.postErr = func(n contract.Notice) error {
		if tries[n.Kind]++; n.Kind == contract.NoticeOpened {
			return errors.New("the channel is away")
		}
		return nil
	}
	at(i.TestWorkflowEnvironment, 20*time.Second, func() {
		for range 20 {
			i.say("signal", contract.Annotate, contract.AnnotateRequest{Who: "ada", Text: "and another thing"})
		}
	})
	i.resolve(15 * time.Minute)
	state := i.run(tuning)
	require.WithinDuration(t, start.Add(15*time.Minute), state.ClosedAt, time.Second, "the incident waits for no channel")
	require.WithinDuration(t, start.Add(10*time.Minute), state.Steps[3].At, time.Second)
	require.Equal(t, 10, tries[contract.NoticeOpened], "as often as the test environment tries")
	var kinds []contract.NoticeKind
	seq := 0
	for _, n := range i.posted {
		require.GreaterOrEqual(t, n.Seq, seq, "one after another")
		if n.Seq != seq {
			kinds = append(kinds, n.Kind)
		}
		seq = n.Seq
	}
	require.Equal(t, contract.NoticeOpened, kinds[0])
	require.Equal(t, contract.NoticeClosed, kinds[len(kinds)-1])
	updates := 0
	for _, k := range kinds {
		if k == contract.NoticeUpdated {
			updates++
		}
	}
	require.LessOrEqual(t, updates, 6, "of what changed while another was under way the newest is told, once")
}

func TestIncidentAsksForBaselinesOfANewModel(t *testing.T) {
	for name, c := range map[string]struct {
		changes contract.Changes
		want    string
	}{
		"first seen":           {contract.Changes{FirstSeen: []runbook.FirstSeen{{Kind: "model", Value: "claude-x", At: start.Add(-time.Minute), Share: 0.9}}}, "claude-x has come to serve org_42/claude-3-opus"},
		"deployed":             {contract.Changes{Deployments: []usage.Deployment{{Service: "rag", Version: "v2", Model: "claude-y", Timestamp: start, Previous: map[string]string{"model": "claude-w"}}}}, "claude-y has come to serve org_42/claude-3-opus"},
		"a template, no model": {contract.Changes{FirstSeen: []runbook.FirstSeen{{Kind: "prompt_template_version", Value: "rag-v3", At: start, Share: 0.9}}}, ""},
	} {
		for end, after := range map[string]time.Duration{"the whole runbook": 45 * time.Minute, "an early end": 3 * time.Minute} {
			t.Run(name+", "+end, func(t *testing.T) {
				i := newKeyIncident(t)
				i.changes = c.changes
				i.resolve(after)
				state := i.run(tuning)
				if c.want == "" {
					require.Empty(t, i.recalibrated)
					return
				}
				require.Len(t, i.recalibrated, 1, "once")
				require.Equal(t, contract.RecalibrateRequest{Who: incidentID, Reason: c.want}, i.recalibrated[0].Request)
				require.Equal(t, key.Tenant, i.recalibrated[0].Tenant)
				require.Equal(t, contract.CalibrationID(key.Tenant), state.Recalibration)
				require.Contains(t, state.Report, state.Recalibration)
			})
		}
	}
}

// rollBackAt proposes the webhook from T+2 on, as act.yaml does.
func rollBackAt(r contract.ActRequest) contract.Proposal {
	if r.Deployment == nil || r.Step == runbook.T0 {
		return contract.Proposal{Reason: "nothing yet"}
	}
	return contract.Proposal{Action: contract.RollBack, Mode: contract.Ask, Value: r.Deployment.Service, Expiry: time.Hour, Rule: "rollback-webhook", Reason: "it came just before"}
}

func TestIncidentRollsBackThroughAWebhook(t *testing.T) {
	deployed := usage.Deployment{ID: "d-9", Service: "rag", Version: "v3.2", Timestamp: start.Add(-time.Minute)}
	later := usage.Deployment{ID: "d-11", Service: "other", Version: "v1", Timestamp: start.Add(10 * time.Minute)} // which explains nothing
	refused := errors.New("the webhook of rag answered 503 Service Unavailable: not now")
	for name, c := range map[string]struct {
		end    contract.Status
		answer func(contract.RollbackRequest) (contract.RollbackResult, error)
		calls  int
		says   string
		left   bool
	}{
		"approved": {contract.Approved, nil, 1, "The rollback webhook of rag answered 202: queued as job 7.", false},
		"denied":   {contract.Denied, nil, 0, "over", false},
		"out of order": {contract.Approved, func(contract.RollbackRequest) (contract.RollbackResult, error) {
			return contract.RollbackResult{}, refused
		}, 20, "503 Service Unavailable", true},
		"refused": {contract.Approved, func(r contract.RollbackRequest) (contract.RollbackResult, error) {
			return contract.RollbackResult{Service: r.Deployment.Service, Status: 401, Failed: "it answered 401 Unauthorized: wrong signature"}, nil
		}, 1, "401 Unauthorized", true},
	} {
		t.Run(name, func(t *testing.T) {
			i := newKeyIncident(t)
			i.changes.Deployments = []usage.Deployment{later, deployed}
			i.propose, i.end, i.callErr = rollBackAt, c.end, c.answer
			at(i.TestWorkflowEnvironment, 3*time.Minute, func() {
				require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, contract.RollBack, 1), "end", nil))
			})
			at(i.TestWorkflowEnvironment, 4*time.Minute, func() { i.propose = nil })
			i.resolve(20 * time.Minute)
			state := i.run(tuning)
			require.NotEmpty(t, i.started)
			require.Equal(t, deployed.ID, i.started[0].Proposal.Deployment.ID, "what explains the incident is undone")
			require.True(t, len(i.called) == c.calls || c.calls > 1 && len(i.called) >= 5, len(i.called))
			for _, call := range i.called {
				require.Equal(t, deployed.ID, call.Deployment.ID)
				require.Equal(t, i.called[0].IdempotencyKey(), call.IdempotencyKey())
			}
			require.Contains(t, state.Decisions[0].Reason, c.says)
			require.Equal(t, c.left, state.Steps[1].Needs != "", "a webhook that fails leaves it to people")
			require.Len(t, state.Evidence.Rollbacks, min(c.calls, 1))
			if c.calls > 0 {
				require.Contains(t, state.Report, "webhook of rag")
				require.Contains(t, i.told(), contract.NoticeActed)
			}
			require.Empty(t, i.orders[:max(len(i.orders)-2, 0)], "no flag is set for it")
		})
	}
}

func TestIncidentDoesNotRollBackTwice(t *testing.T) {
	i := newKeyIncident(t)
	i.changes.Deployments = []usage.Deployment{{Service: "rag", Version: "v3.2", Timestamp: start.Add(-time.Minute)}}
	i.propose, i.end = rollBackAt, contract.Approved
	at(i.TestWorkflowEnvironment, 3*time.Minute, func() {
		require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, contract.RollBack, 1), "end", nil))
	})
	i.resolve(40 * time.Minute)
	i.run(tuning)
	require.Len(t, i.called, 1)
	require.Len(t, i.started, 1)
}

// What a person has approved is carried out even if the finding goes at that moment, unless a person said that
// there is no fault.
func TestIncidentCarriesAnApprovedRollbackOut(t *testing.T) {
	for who, calls := range map[string]int{"": 1, "ada": 0} {
		i := newKeyIncident(t)
		i.changes.Deployments = []usage.Deployment{{Service: "rag", Version: "v3.2", Timestamp: start.Add(-time.Minute)}}
		i.propose, i.end = rollBackAt, contract.Approved
		at(i.TestWorkflowEnvironment, 3*time.Minute, func() { // the verdict and the end cross each other
			i.SignalWorkflow(contract.AlertChanged, contract.AlertChangedMessage{Change: contract.Resolved, Who: who, Reason: "over"})
		})
		state := i.run(tuning)
		require.Len(t, i.called, calls)
		require.Len(t, state.Evidence.Rollbacks, 1)
		require.Equal(t, calls == 0, state.Evidence.Rollbacks[0].Failed != "")
	}
}

func TestIncidentWhoseRollbackIsTerminated(t *testing.T) {
	i := newKeyIncident(t)
	i.changes.Deployments = []usage.Deployment{{Service: "rag", Version: "v3.2", Timestamp: start.Add(-time.Minute)}}
	i.propose, i.fail = rollBackAt, true
	at(i.TestWorkflowEnvironment, 3*time.Minute, func() {
		i.propose = nil
		require.NoError(t, i.SignalWorkflowByID(contract.DecisionID(incidentID, contract.RollBack, 1), "end", nil))
	})
	i.resolve(4 * time.Minute)
	state := i.run(tuning)
	require.Equal(t, contract.Withdrawn, state.Decisions[0].Status)
	require.Empty(t, i.orders, "it had no flag")
	require.Empty(t, i.called)
	require.False(t, temporal.IsCanceledError(i.GetWorkflowError()))
}

// What people add to an incident rides in every notice and record of it, so it is bounded.
func TestIncidentBoundsWhatPeopleAdd(t *testing.T) {
	i := newKeyIncident(t)
	for n := range 60 {
		at(i.TestWorkflowEnvironment, time.Minute+time.Duration(n)*100*time.Millisecond, func() {
			i.say("signal", contract.RerunStep, contract.RerunStepRequest{Step: "T0", Who: "ada"})
			i.say("signal", contract.Annotate, contract.AnnotateRequest{Who: "ada", Text: strings.Repeat("x", 1000)})
		})
	}
	i.resolve(3 * time.Minute)
	state := i.run(tuning)
	require.Len(t, state.Steps[0].Earlier, 20)
	require.Len(t, state.Notes, 50)
}
