package workflows_test

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/workflows"
)

// attributesOf gathers, by attribute, the values that a workflow makes visible in lists, in their order.
func attributesOf(t *testing.T, env *testsuite.TestWorkflowEnvironment) map[string][]string {
	seen := map[string][]string{}
	env.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Run(func(args mock.Arguments) {
		for key, value := range args.Get(0).(temporal.SearchAttributes).GetUntypedValues() {
			name := key.GetName()
			if before := seen[name]; len(before) > 0 {
				require.NotEqual(t, before[len(before)-1], value, "each upsert is an event: only what has changed is written")
			}
			seen[name] = append(seen[name], value.(string))
		}
	})
	return seen
}

func TestWorkflowsAreVisibleInLists(t *testing.T) {
	t.Run("AlertLoop", func(t *testing.T) {
		l := newKeyLoop(t)
		seen := attributesOf(t, l.TestWorkflowEnvironment)
		l.fact(detect.Investigate, 0, time.Minute)
		l.fact(detect.Page, time.Minute, 2*time.Minute)
		l.fact(detect.None, 10*time.Minute, 14*time.Minute)
		l.run()
		require.Equal(t, map[string][]string{
			contract.AttrState:    {"pending", "firing", "silent", "recovering", "quiet"},
			contract.AttrSeverity: {"INVESTIGATE", "PAGE", "INCONCLUSIVE", "NONE"},
		}, seen)
	})
	t.Run("Incident", func(t *testing.T) {
		i := newKeyIncident(t)
		seen := attributesOf(t, i.TestWorkflowEnvironment)
		i.changed(35*time.Minute, contract.AlertChangedMessage{Change: contract.Recovering, Reason: "it is gone"})
		i.resolve(40 * time.Minute)
		i.run(tuning)
		require.Equal(t, map[string][]string{
			contract.AttrSeverity: {"PAGE"},
			contract.AttrState:    {"open", "recovering", "closing", "closed"},
			contract.AttrStep:     {"T0", "T+2", "T+5", "T+10", "T+30"},
		}, seen)
	})
	t.Run("Decision", func(t *testing.T) {
		d := newKeyDecision(t, contract.Auto)
		seen := attributesOf(t, d.TestWorkflowEnvironment)
		d.acts = []act{up, up, hold, down, down, down}
		d.answer(time.Minute, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
		d.run()
		require.Equal(t, map[string][]string{
			contract.AttrSeverity: {"PAGE"},
			contract.AttrState:    {"proposed", "awaiting_approval", "actuating", "holding", "releasing", "released"},
		}, seen)
	})
	t.Run("Autonomy", func(t *testing.T) {
		env := newEnv(t, nil)
		seen := attributesOf(t, env)
		at(env, time.Second, env.CancelWorkflow)
		env.ExecuteWorkflow(workflows.Autonomy, contract.AutonomyInput{Tenant: "org_42"})
		require.Equal(t, map[string][]string{contract.AttrState: {"ledger"}}, seen)
	})
	t.Run("Sweep", func(t *testing.T) {
		env := newEnv(t, nil)
		seen := attributesOf(t, env)
		env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(contract.SweepReport{}, nil)
		env.SetContinueAsNewSuggested(true)
		env.ExecuteWorkflow(workflows.Sweep, sweepInput())
		require.Equal(t, map[string][]string{contract.AttrState: {"sweeping"}}, seen)
	})
}

// details are what the page of the workflow shows now.
func details(t *testing.T, env *testsuite.TestWorkflowEnvironment) string {
	t.Helper()
	answer, err := env.QueryWorkflow("__temporal_workflow_metadata")
	require.NoError(t, err)
	var metadata sdkpb.WorkflowMetadata
	require.NoError(t, answer.Get(&metadata))
	return metadata.GetCurrentDetails()
}

// What the details say is in details_test.go; this is that they are shown, and follow.
func TestWorkflowsShowTheirDetails(t *testing.T) {
	t.Run("AlertLoop", func(t *testing.T) {
		l := newKeyLoop(t)
		l.fact(detect.Page, 0, time.Minute)
		at(l.TestWorkflowEnvironment, 10*time.Second, func() { require.Contains(t, details(t, l.TestWorkflowEnvironment), "Pending") })
		at(l.TestWorkflowEnvironment, 40*time.Second, func() {
			require.Contains(t, details(t, l.TestWorkflowEnvironment), "flyball incidents resolve "+contract.Handle(contract.IncidentID(key, start.Add(20*time.Second))))
			update(l.TestWorkflowEnvironment, contract.SetFlag, "1", contract.SetFlagRequest{Kind: routing.Stop, Share: 1, Decision: "d", ExpiresAt: start.Add(time.Hour)})
		})
		at(l.TestWorkflowEnvironment, 41*time.Second, func() {
			require.Contains(t, details(t, l.TestWorkflowEnvironment), "100 % of the calls are refused")
			l.CancelWorkflow()
		})
		l.run()
	})
	t.Run("Incident", func(t *testing.T) {
		i := newKeyIncident(t)
		i.propose = downgrade
		at(i.TestWorkflowEnvironment, time.Minute, func() {
			text := details(t, i.TestWorkflowEnvironment)
			require.Contains(t, text, "flyball approve "+contract.Handle(contract.DecisionID(incidentID, "downgrade", 1)))
			require.Contains(t, text, "03:02:00, T+2")
		})
		i.resolve(3 * time.Minute)
		i.run(tuning)
		require.Contains(t, details(t, i.TestWorkflowEnvironment), "How to see it again")
	})
	t.Run("Incident without an act", func(t *testing.T) {
		i := newKeyIncident(t)
		i.propose = func(r contract.ActRequest) contract.Proposal {
			if r.Step == "T0" {
				return contract.Proposal{Mode: contract.Never, Rule: "rollback-template", Reason: "roll the template back by hand"}
			}
			return contract.Proposal{Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: "claude-3-sonnet", Expiry: time.Hour}
		}
		at(i.TestWorkflowEnvironment, time.Minute, func() {
			require.Contains(t, details(t, i.TestWorkflowEnvironment), "The policy proposes nothing now: roll the template back by hand.")
		})
		at(i.TestWorkflowEnvironment, 150*time.Second, func() {
			require.NotContains(t, details(t, i.TestWorkflowEnvironment), "proposes nothing", "what holds no more is not said")
		})
		i.resolve(3 * time.Minute)
		i.run(tuning)
	})
	t.Run("Decision", func(t *testing.T) {
		d := newKeyDecision(t, contract.Auto)
		at(d.TestWorkflowEnvironment, time.Minute, func() { require.Contains(t, details(t, d.TestWorkflowEnvironment), "It waits for you") })
		d.answer(2*time.Minute, contract.DecideRequest{Verdict: contract.Deny, Who: "ada", Reason: "it is the launch"})
		d.run()
		require.Contains(t, details(t, d.TestWorkflowEnvironment), "Denied by ada: it is the launch.")
	})
	t.Run("Autonomy", func(t *testing.T) {
		env := newEnv(t, nil)
		at(env, 0, func() {
			env.SignalWorkflow(contract.TrustOutcome, contract.TrustOutcomeRequest{Tenant: "org_42", Action: "downgrade", Rule: "dual", Decision: "d", Outcome: contract.OutcomeApproved})
		})
		at(env, time.Second, env.CancelWorkflow)
		env.ExecuteWorkflow(workflows.Autonomy, contract.AutonomyInput{Tenant: "org_42"})
		require.Contains(t, details(t, env), "| downgrade | dual | 1 | not yet: 9 to go | 0 |")
	})
	t.Run("Sweep", func(t *testing.T) {
		env := newEnv(t, nil)
		rounds := 0
		env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(func(context.Context, contract.SweepRequest) (contract.SweepReport, error) {
			if rounds++; rounds == 2 {
				env.SetContinueAsNewSuggested(true)
			}
			return contract.SweepReport{Ticks: 720, Keys: 12, LastTick: start}, nil
		})
		env.ExecuteWorkflow(workflows.Sweep, sweepInput())
		require.Contains(t, details(t, env), "saw 12 keys")
	})
}

// summaries checks in every test of this package that whatever the workflows wait for says what it is.
type summaries struct {
	interceptor.WorkerInterceptorBase
	t *testing.T
}

func (s *summaries) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &summariesInbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, s.t}
}

type summariesInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	t *testing.T
}

func (s *summariesInbound) Init(outbound interceptor.WorkflowOutboundInterceptor) error {
	return s.Next.Init(&summariesOutbound{interceptor.WorkflowOutboundInterceptorBase{Next: outbound}, s.t.Errorf})
}

type summariesOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	errorf func(format string, args ...any)
}

func (s *summariesOutbound) ExecuteActivity(ctx workflow.Context, activityType string, args ...any) workflow.Future {
	if workflow.GetActivityOptions(ctx).Summary == "" {
		s.errorf("the activity %s says nothing of what it is for", activityType)
	}
	return s.Next.ExecuteActivity(ctx, activityType, args...)
}

func (s *summariesOutbound) ExecuteChildWorkflow(ctx workflow.Context, childType string, args ...any) workflow.ChildWorkflowFuture {
	if workflow.GetChildWorkflowOptions(ctx).StaticSummary == "" {
		s.errorf("the child %s says nothing of what it is for", childType)
	}
	return s.Next.ExecuteChildWorkflow(ctx, childType, args...)
}

func (s *summariesOutbound) NewTimerWithOptions(ctx workflow.Context, d time.Duration, o workflow.TimerOptions) workflow.Future {
	if o.Summary == "" {
		s.errorf("a timer of %s says nothing of what it is for", d)
	}
	return s.Next.NewTimerWithOptions(ctx, d, o)
}

func (s *summariesOutbound) NewTimer(ctx workflow.Context, d time.Duration) workflow.Future {
	s.errorf("a timer of %s says nothing of what it is for", d)
	return s.Next.NewTimer(ctx, d)
}

func (s *summariesOutbound) AwaitWithOptions(ctx workflow.Context, o workflow.AwaitOptions, condition func() bool) (bool, error) {
	if o.TimerOptions.Summary == "" {
		s.errorf("a wait of %s says nothing of what it is for", o.Timeout)
	}
	return s.Next.AwaitWithOptions(ctx, o, condition)
}

func (s *summariesOutbound) AwaitWithTimeout(ctx workflow.Context, d time.Duration, condition func() bool) (bool, error) {
	s.errorf("a wait of %s says nothing of what it is for", d)
	return s.Next.AwaitWithTimeout(ctx, d, condition)
}

// What a real server recorded shows the same: every activity, timer and child has its summary, and every
// child starts with its key's attributes.
func TestHistoriesCarrySummaries(t *testing.T) {
	files, err := filepath.Glob("testdata/replay_*.json.gz")
	require.NoError(t, err)
	counted := map[string]int{}
	for _, file := range files {
		for _, e := range recorded(t, file).GetEvents() {
			var kind string
			switch {
			case e.GetActivityTaskScheduledEventAttributes() != nil:
				kind = "activities"
			case e.GetTimerStartedEventAttributes() != nil:
				kind = "timers"
			case e.GetStartChildWorkflowExecutionInitiatedEventAttributes() != nil:
				kind = "children"
				attributes := e.GetStartChildWorkflowExecutionInitiatedEventAttributes().GetSearchAttributes().GetIndexedFields()
				require.Subset(t, slices.Collect(maps.Keys(attributes)),
					[]string{contract.AttrTenant, contract.AttrModel, contract.AttrSeverity, contract.AttrState}, file)
			default:
				continue
			}
			counted[kind]++
			var summary string
			require.NoError(t, dataConverter.FromPayload(e.GetUserMetadata().GetSummary(), &summary), "%s: event %d (%s)", file, e.GetEventId(), e.GetEventType())
			require.NotEmpty(t, summary, "%s: event %d (%s)", file, e.GetEventId(), e.GetEventType())
		}
	}
	for _, kind := range []string{"activities", "timers", "children"} {
		require.NotZero(t, counted[kind], kind)
	}
}
