package activities

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// fakeRouter keeps what was posted.
type fakeRouter struct {
	posted []contract.Notice
	result contract.PostResult
	err    error
}

func (f *fakeRouter) Post(_ context.Context, n contract.Notice) (contract.PostResult, error) {
	f.posted = append(f.posted, n)
	return f.result, f.err
}

// finalError is one that trying again does not mend.
type finalError struct{ error }

func (finalError) Retryable() bool { return false }

var notice = contract.Notice{
	Kind: contract.NoticeOpened, ID: "incident/org_42/claude-3-opus/1", Incident: "incident/org_42/claude-3-opus/1",
	Key: opus, Level: detect.Page, Opened: now.Add(-time.Minute), At: now, Title: "PAGE org_42/claude-3-opus",
}

func TestPostTellsTheLogAndTheRouter(t *testing.T) {
	t.Parallel()
	logger, text := recorded()
	result, err := (&Notify{Log: logger}).Post(t.Context(), notice)
	require.NoError(t, err, "the log alone is a way too")
	require.Empty(t, result)
	require.Contains(t, text.String(), `level=INFO msg="PAGE org_42/claude-3-opus" notice=opened id=incident/org_42/claude-3-opus/1`)
	require.Contains(t, text.String(), "audience=on_call")

	router := &fakeRouter{result: contract.PostResult{Posted: []string{"slack"}}}
	result, err = (&Notify{Log: logger, Router: router}).Post(t.Context(), notice)
	require.NoError(t, err)
	require.Equal(t, router.result, result)
	require.Equal(t, []contract.Notice{notice}, router.posted)
}

// TestPostIsTriedAgainWhileThatCanHelp: what Temporal tries again, and what the history then says.
func TestPostIsTriedAgainWhileThatCanHelp(t *testing.T) {
	t.Parallel()
	slackOnly := contract.PostResult{Posted: []string{"slack"}, Unreached: map[string]string{"pagerduty": "away"}}
	nobody := contract.PostResult{Unreached: map[string]string{"pagerduty": "away"}}
	for name, c := range map[string]struct {
		kind   contract.NoticeKind
		result contract.PostResult
		err    error
		within time.Duration // in which the workflow wants it tried; one try may take 15 s
		fails  bool
		final  bool
	}{
		"everybody heard":                         {result: contract.PostResult{Posted: []string{"slack"}}},
		"one is away":                             {result: slackOnly, err: errAway},
		"one is away at the end":                  {kind: contract.NoticeClosed, result: slackOnly, err: errAway, fails: true},
		"one is away at the end, time is up":      {kind: contract.NoticeClosed, result: slackOnly, err: errAway, within: 10 * time.Second},
		"one cannot take the end":                 {kind: contract.NoticeClosed, result: slackOnly, err: finalError{errors.New("bad key")}},
		"nobody heard, time is up":                {result: nobody, err: errAway, within: 10 * time.Second, fails: true},
		"nobody heard, and nobody ever can":       {result: nobody, err: finalError{errors.New("bad key")}, fails: true, final: true},
		"nobody is configured for the audience":   {},
		"nobody heard, and there is time for one": {result: nobody, err: errAway, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logger, _ := recorded()
			notice := notice
			notice.Kind = cmp.Or(c.kind, notice.Kind)
			var suite testsuite.WorkflowTestSuite
			env := suite.NewTestWorkflowEnvironment()
			n := &Notify{Log: logger, Router: &fakeRouter{result: c.result, err: c.err}}
			env.RegisterActivity(n)
			env.ExecuteWorkflow(func(ctx workflow.Context) (result contract.PostResult, err error) {
				ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
					StartToCloseTimeout: 15 * time.Second, ScheduleToCloseTimeout: cmp.Or(c.within, time.Minute),
					RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
				})
				err = workflow.ExecuteActivity(ctx, n.Post, notice).Get(ctx, &result)
				return result, err
			})
			err := env.GetWorkflowError()
			if c.fails {
				var application *temporal.ApplicationError
				require.Equal(t, c.final, errors.As(err, &application) && application.NonRetryable(), "%v", err)
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			var result contract.PostResult
			require.NoError(t, env.GetWorkflowResult(&result))
			require.Equal(t, c.result, result)
		})
	}
}

// fakeTenantLoops answers for the alert loops of tenants.
type fakeTenantLoops struct {
	mutes map[string]*contract.Mute
	err   error
	asked int
}

type stateOf struct {
	converter.EncodedValue
	state contract.AlertLoopState
}

func (s stateOf) Get(into any) error { *into.(*contract.AlertLoopState) = s.state; return nil }

func (f *fakeTenantLoops) QueryWorkflow(_ context.Context, id, _, query string, _ ...any) (converter.EncodedValue, error) {
	f.asked++
	mute, runs := f.mutes[id]
	switch {
	case query != contract.State:
		return nil, errors.New("another query")
	case f.err != nil:
		return nil, f.err
	case !runs:
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	return stateOf{state: contract.AlertLoopState{Mute: mute}}, nil
}

func tenantLoop(tenant string) string {
	return contract.AlertLoopID(usage.Key{Tenant: tenant, Model: usage.AnyModel})
}

func TestMutesOfTenants(t *testing.T) {
	t.Parallel()
	mute := &contract.Mute{Who: "ann", At: now.Add(-30 * time.Second), Until: now.Add(time.Hour)}
	over := &contract.Mute{Who: "ann", At: now.Add(-2 * time.Hour), Until: now.Add(-time.Second)}
	of := func(kind contract.NoticeKind, opened time.Time) contract.Notice {
		n := notice
		n.Kind, n.Opened = kind, opened
		return n
	}
	group := func(tenants ...string) contract.Notice {
		n := contract.Notice{Kind: contract.NoticeOpened, ID: "incident/group/x/1", Group: &contract.GroupState{}}
		for _, tenant := range tenants {
			n.Group.Keys = append(n.Group.Keys, contract.GroupKey{Key: usage.Key{Tenant: tenant, Model: "m"}})
		}
		return n
	}
	before, after := now.Add(-time.Minute), now.Add(-10*time.Second)
	for name, c := range map[string]struct {
		mutes  map[string]*contract.Mute
		err    error
		notice contract.Notice
		held   bool
	}{
		"no loop runs":                             {notice: notice},
		"the loop mutes nobody":                    {mutes: map[string]*contract.Mute{tenantLoop("org_42"): nil}, notice: notice},
		"muted":                                    {mutes: map[string]*contract.Mute{tenantLoop("org_42"): mute}, notice: notice, held: true},
		"the mute is over":                         {mutes: map[string]*contract.Mute{tenantLoop("org_42"): over}, notice: notice},
		"Temporal does not answer":                 {err: context.DeadlineExceeded, notice: notice},
		"another tenant is":                        {mutes: map[string]*contract.Mute{tenantLoop("org_7"): mute}, notice: notice},
		"a reminder":                               {mutes: map[string]*contract.Mute{tenantLoop("org_42"): mute}, notice: of(contract.NoticeReminder, before), held: true},
		"an update of what was posted before":      {mutes: map[string]*contract.Mute{tenantLoop("org_42"): mute}, notice: of(contract.NoticeUpdated, before)},
		"its end":                                  {mutes: map[string]*contract.Mute{tenantLoop("org_42"): mute}, notice: of(contract.NoticeClosed, before)},
		"an update of what never was":              {mutes: map[string]*contract.Mute{tenantLoop("org_42"): mute}, notice: of(contract.NoticeUpdated, after), held: true},
		"a group of one muted tenant":              {mutes: map[string]*contract.Mute{tenantLoop("a"): mute}, notice: group("a", "a"), held: true},
		"a group of which one tenant is not muted": {mutes: map[string]*contract.Mute{tenantLoop("a"): mute}, notice: group("a", "b")},
		"telemetry of everything":                  {notice: contract.Notice{Kind: contract.NoticeOpened}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logger, text := recorded()
			router := &fakeRouter{}
			n := &Notify{Log: logger, Router: router, Mutes: NewMutes(&fakeTenantLoops{mutes: c.mutes, err: c.err}, func() time.Time { return now })}
			result, err := n.Post(t.Context(), c.notice)
			require.NoError(t, err)
			require.NotEmpty(t, text.String(), "the log is told whoever is muted")
			if c.held {
				require.Equal(t, contract.PostResult{Muted: "ann, until 2026-03-02T04:10:00Z"}, result)
			}
			require.Equal(t, c.held, len(router.posted) == 0)
		})
	}
}

// TestMutesAreAskedOnceInAStorm: notices of one tenant within seconds are one question, and a mute holds
// seconds after it was set.
func TestMutesAreAskedOnceInAStorm(t *testing.T) {
	t.Parallel()
	at := now
	loops := &fakeTenantLoops{mutes: map[string]*contract.Mute{}}
	mutes := NewMutes(loops, func() time.Time { return at })
	for range 100 {
		require.Empty(t, mutes.holds(t.Context(), notice))
	}
	require.Equal(t, 1, loops.asked)
	loops.mutes[tenantLoop("org_42")] = &contract.Mute{Who: "ann", At: at, Until: at.Add(time.Hour)}
	at = at.Add(muteFresh)
	require.NotEmpty(t, mutes.holds(t.Context(), notice))
	require.Equal(t, 2, loops.asked)
}
