package inbox

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestWhatATargetMeans(t *testing.T) {
	loop := func(tenant, model string) string {
		return contract.AlertLoopID(usage.Key{Tenant: tenant, Model: model})
	}
	for name, c := range map[string]struct {
		name, want, fails string
	}{
		"an incident's key":                   {incidents[0], contract.AlertLoopID(key), ""},
		"an incident's handle":                {contract.Handle(incidents[0]), contract.AlertLoopID(key), ""},
		"a decision's key":                    {contract.Handle(decisions[0]), contract.AlertLoopID(key), ""},
		"a group":                             {contract.Handle(groups[0]), groups[0], ""},
		"a group's id":                        {groups[0], groups[0], ""},
		"a key":                               {"acme/gpt-4o", loop("acme", "gpt-4o"), ""},
		"a key whose model has a slash":       {"acme/openai/gpt-4o", loop("acme", "openai/gpt-4o"), ""},
		"a key whose tenant has one":          {"alert/org%2042%2Feu/claude-3-opus", contract.AlertLoopID(key), ""},
		"a tenant":                            {"acme", loop("acme", "*"), ""},
		"all of a tenant":                     {"acme/*", loop("acme", "*"), ""},
		"a tenant that is called like a word": {"group", loop("group", "*"), ""},
		"a tenant that looks like a handle":   {"a0b1c2/*", loop("a0b1c2", "*"), ""},
		"a handle of nothing":                 {"a0b1c2", "", "a tenant of that name is written a0b1c2/*"},
		"nothing":                             {"", "", "say what"},
		"half a key":                          {"acme/", "", "is no key"},
		"the other half":                      {"/gpt-4o", "", "is no key"},
		"half an id":                          {"alert/acme", "", "names no key"},
		"a name beyond reason":                {"acme/" + string(make([]byte, 400)), "", "is no key"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := New(newServer()).Target(t.Context(), c.name)
			if c.fails != "" {
				require.ErrorIs(t, err, ErrNotFound)
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, id)
		})
	}
}

func TestMuteStartsTheLoopOfAQuietKey(t *testing.T) {
	s := newServer()
	demo := contract.NewTuning(0.1)
	s.states[contract.SweepID(0)] = contract.SweepState{Tuning: demo}
	until := opened.Add(time.Hour)
	quiet := usage.Key{Tenant: "acme", Model: "o3"}
	s.states[contract.AlertLoopID(quiet)] = contract.MuteState{Mute: &contract.Mute{Until: until, Who: "ann"}}
	ask := contract.MuteRequest{For: time.Hour, Who: "ann", Reason: "load test"}

	o, state, err := New(s).Mute(t.Context(), "acme/o3", ask)
	require.NoError(t, err)
	require.Equal(t, Outcome{ID: contract.AlertLoopID(quiet), Answered: true}, o)
	require.Equal(t, until, state.Mute.Until)
	require.Len(t, s.starts, 1)
	require.Equal(t, contract.AlertLoopInput{Key: quiet, Tuning: demo}, s.starts[0].input, "with the tuning of all loops")
	require.Equal(t, contract.TaskQueue, s.starts[0].options.TaskQueue)
	require.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, s.starts[0].options.WorkflowIDConflictPolicy)
	require.Equal(t, contract.SetMute, s.updates[0].UpdateName)
	require.Equal(t, []any{ask}, s.updates[0].Args)

	_, _, err = New(s).Mute(t.Context(), "acme/o3", ask)
	require.NoError(t, err)
	require.NotEqual(t, s.updates[0].UpdateID, s.updates[1].UpdateID, "the second hour is asked for too")

	_, _, err = New(s).Mute(t.Context(), groups[0], ask)
	require.NoError(t, err)
	require.Equal(t, groups[0], s.updates[2].WorkflowID)
	_, _, err = New(s).Unmute(t.Context(), "acme/o3", "ann", "")
	require.NoError(t, err)
	require.Equal(t, []any{contract.MuteRequest{Who: "ann"}}, s.updates[3].Args)
	require.Len(t, s.starts, 2, "no loop is started for a group, nor to unmute")

	_, _, err = New(s).Mute(t.Context(), "acme", contract.MuteRequest{Who: "ann"})
	require.ErrorIs(t, err, ErrRefused)

	s.mute = true
	o, _, err = impatient(s).Mute(t.Context(), "acme", ask)
	require.NoError(t, err)
	require.False(t, o.Answered)
	require.Equal(t, []string{"mute " + loops[1]}, s.signals)
	require.Len(t, s.starts, 4, "the signal starts the loop too")

	delete(s.states, contract.SweepID(0))
	_, _, err = impatient(s).Mute(t.Context(), "acme", ask)
	require.NoError(t, err)
	require.Equal(t, contract.NewTuning(1), s.starts[5].input.(contract.AlertLoopInput).Tuning, "nobody was there to tell another")
}

func TestMutesAreListed(t *testing.T) {
	s := newServer()
	mute := func(until time.Duration) *contract.Mute { return &contract.Mute{Until: opened.Add(until), Who: "ann"} }
	s.states[loops[0]] = contract.AlertLoopState{Key: key, Mute: mute(2 * time.Hour)}
	s.states[loops[1]] = contract.AlertLoopState{Key: usage.Key{Tenant: "acme", Model: usage.AnyModel}, Mute: mute(time.Hour)}
	s.states[loops[2]] = contract.AlertLoopState{Key: usage.Key{Tenant: "acme", Model: "gpt-4o"}, Mute: mute(0)} // over
	s.states[groups[0]] = contract.GroupState{ID: groups[0], Mute: mute(30 * time.Minute)}
	all, err := New(s).Mutes(t.Context(), opened)
	require.NoError(t, err)
	require.Zero(t, all.Unanswered)
	var targets []string
	for _, m := range all.Muted {
		targets = append(targets, m.Target)
		again, err := New(s).Target(t.Context(), m.Target)
		require.NoError(t, err)
		require.Equal(t, m.ID, again, "what is listed can be unmuted by that name")
	}
	require.Equal(t, []string{contract.Handle(groups[0]), "acme/*", loops[0]}, targets)
	require.Equal(t, "provider:openai", all.Muted[0].Cause)

	delete(s.states, loops[0])
	all, err = impatient(s).Mutes(t.Context(), opened)
	require.NoError(t, err)
	require.Equal(t, 1, all.Unanswered)
	require.Len(t, all.Muted, 2)
}

func TestRequestsToIncidentsAndGroups(t *testing.T) {
	s := newServer()
	b := New(s)
	for _, id := range []string{incidents[0], groups[0]} {
		name := contract.Handle(id)
		_, err := b.Acknowledge(t.Context(), name, contract.AcknowledgeRequest{Who: "ann"})
		require.NoError(t, err)
		for range 2 {
			_, err = b.Annotate(t.Context(), name, contract.AnnotateRequest{Who: "ann", Text: "still so"})
			require.NoError(t, err)
		}
		requireOwn(t, s, id, 3)
	}
	name := contract.Handle(incidents[0])
	_, err := b.SkipStep(t.Context(), name, contract.SkipStepRequest{Step: "T+5", Who: "ann"})
	require.NoError(t, err)
	for range 2 {
		_, err = b.RerunStep(t.Context(), name, contract.RerunStepRequest{Step: "T0", Who: "ann"})
		require.NoError(t, err)
	}
	requireOwn(t, s, incidents[0], 3)
	_, err = b.RerunStep(t.Context(), groups[0], contract.RerunStepRequest{Step: "T0", Who: "ann"})
	require.ErrorIs(t, err, ErrNotFound, "a group walks no runbook")
	_, err = b.Resolve(t.Context(), contract.Handle(groups[0]), contract.ResolveRequest{Who: "ann"})
	require.NoError(t, err)
	requireOwn(t, s, groups[0], 1)

	_, err = b.Split(t.Context(), contract.Handle(groups[0]), contract.SplitRequest{Key: key, Who: "ann"})
	require.NoError(t, err)
	require.Equal(t, contract.Split, s.updates[0].UpdateName)
	_, err = b.Split(t.Context(), contract.Handle(incidents[0]), contract.SplitRequest{Key: key, Who: "ann"})
	require.ErrorIs(t, err, ErrNotFound)

	s.states[contract.AlertLoopID(key)] = contract.AcceptLevelResult{Incident: incidents[0], Baseline: detect.Baseline{Version: "accepted"}}
	_, accepted, err := b.AcceptLevel(t.Context(), incidents[0], contract.AcceptLevelRequest{Who: "ann"})
	require.NoError(t, err)
	require.Equal(t, "accepted", accepted.Baseline.Version)
	require.Equal(t, contract.AlertLoopID(key), s.updates[1].WorkflowID)
	_, _, err = b.AcceptLevel(t.Context(), groups[0], contract.AcceptLevelRequest{Who: "ann"})
	require.ErrorIs(t, err, ErrRefused)
	require.Empty(t, s.signals)
}

// requireOwn requires that so many requests went to the workflow, each one of its own, and forgets them.
func requireOwn(t *testing.T, s *server, id string, want int) {
	t.Helper()
	ids := map[string]bool{}
	for _, u := range s.updates {
		require.Equal(t, id, u.WorkflowID)
		ids[u.UpdateID] = true
	}
	require.Len(t, ids, want)
	s.updates = nil
}

func TestWhatWasTakenIsNotAskedTwice(t *testing.T) {
	s := newServer()
	s.slow = true
	o, err := impatient(s).RerunStep(t.Context(), incidents[0], contract.RerunStepRequest{Step: "T0", Who: "ann"})
	require.NoError(t, err)
	require.False(t, o.Answered)
	require.Empty(t, s.signals, "the update is in the workflow's history: a signal would walk the step twice")
}

func TestGroups(t *testing.T) {
	s := newServer()
	open, err := New(s).Groups(t.Context())
	require.NoError(t, err)
	require.Len(t, open, 1)
	require.True(t, open[0].Answered)
	require.Len(t, open[0].State.Keys, 3)

	s.states = nil
	open, err = impatient(s).Groups(t.Context())
	require.NoError(t, err)
	g := open[0]
	require.False(t, g.Answered)
	require.Equal(t, contract.GroupInput{Cause: "provider:openai", Opened: opened}, g.State.Input)
	require.Equal(t, detect.Page, g.State.Level)
	require.Equal(t, contract.IncidentOpen, g.State.Phase)
}

func TestStoriesAndReports(t *testing.T) {
	s := newServer()
	ended := contract.IncidentID(key, opened.Add(-time.Hour))
	s.ended[contract.Incident] = []string{ended, ended} // continued as new once
	s.states[ended] = contract.IncidentState{ID: ended, Report: "# What it was\n"}
	b := New(s)

	story, err := b.Story(t.Context(), contract.Handle(incidents[0]))
	require.NoError(t, err)
	require.Equal(t, incidents[0], story.Incident.ID)
	require.Equal(t, "the story of "+incidents[0], story.Details)
	story, err = b.Story(t.Context(), groups[0])
	require.NoError(t, err)
	require.Len(t, story.Group.Keys, 3)
	story, err = b.Story(t.Context(), decisions[0])
	require.NoError(t, err)
	require.Equal(t, contract.AwaitingApproval, story.Decision.Status)

	report, err := b.Report(t.Context(), incidents[0])
	require.NoError(t, err)
	require.Equal(t, notYet+"the story of "+incidents[0]+"\n", report)
	for _, name := range []string{ended, contract.Handle(ended)} {
		report, err = b.Report(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, "# What it was\n", report)
	}
	report, err = b.Report(t.Context(), groups[0])
	require.NoError(t, err)
	require.Equal(t, "the story of "+groups[0]+"\n", report)

	_, err = b.Story(t.Context(), "zzz")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, `no incident or decision is called "zzz"`)
	delete(s.states, incidents[0])
	_, err = impatient(s).Story(t.Context(), incidents[0])
	require.ErrorIs(t, err, ErrAway)
	s.down = serviceerror.NewUnavailable("not yet")
	_, err = b.Story(t.Context(), incidents[0])
	require.ErrorIs(t, err, ErrAway)
}

func TestOrdersFromTheConsole(t *testing.T) {
	loop := contract.AlertLoopID(key)
	for _, c := range []struct {
		order    console.Order
		workflow string
		update   string
		arg      any
	}{
		{console.Order{Do: contract.Acknowledge, ID: incidents[0], Reason: "looking"}, incidents[0], contract.Acknowledge, contract.AcknowledgeRequest{Who: "ann", Note: "looking"}},
		{console.Order{Do: contract.Resolve, ID: incidents[0], Reason: "over"}, loop, contract.Resolve, contract.ResolveRequest{Who: "ann", Reason: "over"}},
		{console.Order{Do: contract.SkipStep, ID: incidents[0], Step: "T+5"}, incidents[0], contract.SkipStep, contract.SkipStepRequest{Step: "T+5", Who: "ann"}},
		{console.Order{Do: contract.RerunStep, ID: incidents[0], Step: "T0"}, incidents[0], contract.RerunStep, contract.RerunStepRequest{Step: "T0", Who: "ann"}},
		{console.Order{Do: contract.Annotate, ID: groups[0], Reason: "known"}, groups[0], contract.Annotate, contract.AnnotateRequest{Who: "ann", Text: "known"}},
		{console.Order{Do: contract.SetMute, ID: "acme/*", Minutes: 90, Reason: "test"}, loops[1], contract.SetMute, contract.MuteRequest{For: 90 * time.Minute, Who: "ann", Reason: "test"}},
		{console.Order{Do: console.Unmute, ID: "acme/*"}, loops[1], contract.SetMute, contract.MuteRequest{Who: "ann"}},
		{console.Order{Do: contract.AcceptLevel, ID: incidents[0], Reason: "meant"}, loop, contract.AcceptLevel, contract.AcceptLevelRequest{Who: "ann", Reason: "meant"}},
		{console.Order{Do: contract.Split, ID: groups[0], Key: "acme/o3", Reason: "its own"}, groups[0], contract.Split, contract.SplitRequest{Key: usage.Key{Tenant: "acme", Model: "o3"}, Who: "ann", Reason: "its own"}},
	} {
		s := newServer()
		s.states[contract.SweepID(0)] = contract.SweepState{Tuning: contract.NewTuning(1)}
		s.states[loops[1]] = contract.MuteState{}
		var page console.Work = Work{Inbox: New(s), UI: func() string { return "" }}
		c.order.Who = "ann"
		o, err := page.Order(t.Context(), c.order)
		require.NoError(t, err, c.order.Do)
		require.True(t, o.Answered)
		require.Equal(t, c.workflow, s.updates[0].WorkflowID, c.order.Do)
		require.Equal(t, c.update, s.updates[0].UpdateName)
		require.Equal(t, []any{c.arg}, s.updates[0].Args)
		s.refuse = temporal.NewNonRetryableApplicationError("no", contract.ErrRefused, nil)
		_, err = page.Order(t.Context(), c.order)
		require.ErrorIs(t, err, console.ErrRefused)
	}
	s := newServer()
	w := Work{Inbox: New(s), UI: func() string { return "http://ui" }, Namespace: "default"}
	shown, err := w.Groups(t.Context())
	require.NoError(t, err)
	require.Len(t, shown[0].Keys, 3)
	require.Contains(t, shown[0].Link, "http://ui/")
	_, err = w.Order(t.Context(), console.Order{Do: contract.Split, ID: groups[0], Key: "/", Who: "ann"})
	require.ErrorIs(t, err, console.ErrNotFound)
	_, err = w.Report(t.Context(), "zzz")
	require.ErrorIs(t, err, console.ErrNotFound)
	s.states[loops[0]] = contract.AlertLoopState{Key: key, Mute: &contract.Mute{Until: time.Now().Add(time.Hour), Who: "ann"}}
	s.states[loops[1]], s.states[loops[2]] = contract.AlertLoopState{}, contract.AlertLoopState{}
	mutes, err := w.Mutes(t.Context())
	require.NoError(t, err)
	require.Equal(t, loops[0], mutes.Muted[0].Target)
}
