package workflows_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/workflows"
)

const fallbackRule = "fallback/a"

// wouldFall is the tenant's nth call that would fall back.
func wouldFall(n int, rule string) contract.FallbackCase {
	return contract.FallbackCase{
		Tenant: key.Tenant, Trace: fmt.Sprint("trace/", n), Span: "s", Session: "c1", At: start.Add(time.Duration(n) * time.Second), Served: key.Model, Cost: 210_000_000_000,
		Case: routing.Case{
			Rule: rule, Task: "rag", Model: key.Model, Instead: "claude-3-haiku", Estimate: 300_000_000_000, Cheaper: 25_000_000_000, Ceiling: 50_000_000_000,
			Quality: 0.55, Threshold: 0.7, Predictor: "v3", Floor: 0.8,
		},
	}
}

func wouldFallBetween(from, to int, rule string) (cases []contract.FallbackCase) {
	for n := from; n < to; n++ {
		cases = append(cases, wouldFall(n, rule))
	}
	return cases
}

// offers are what finders of cases offer to the tenant's ledger, several at once in each round.
type offers struct {
	Rounds [][]contract.OpenCasesRequest
}

// findCases offers the rounds beside the tenant's ledger, which runs as it is, an hour apart.
func findCases(ctx workflow.Context, in offers) error {
	ledger := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: contract.AutonomyID(key.Tenant), StaticSummary: "of the test"}),
		contract.Autonomy, contract.AutonomyInput{Tenant: key.Tenant})
	if err := ledger.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		return err
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute, Summary: "offer", RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}})
	for _, round := range in.Rounds {
		var all []workflow.Future
		for _, offer := range round {
			all = append(all, workflow.ExecuteActivity(ctx, loops.OpenCases, offer))
		}
		for _, f := range all {
			if err := f.Get(ctx, nil); err != nil {
				return err
			}
		}
		if err := workflow.NewTimerWithOptions(ctx, time.Hour, workflow.TimerOptions{Summary: "between"}).Get(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// trial is a tenant whose people answer cases as verdict says: approve, deny, or nothing.
type trial struct {
	mu      sync.Mutex // activities run beside each other
	asked   []string   // in their order
	last    map[string]contract.DecisionState
	notices []contract.Notice
	ledger  contract.AutonomyState
}

func runTrial(t *testing.T, rounds [][]contract.OpenCasesRequest, verdict func(nth int) string) *trial {
	env := newEnv(t, nil)
	env.RegisterWorkflowWithOptions(findCases, workflow.RegisterOptions{Name: "findCases"})
	env.RegisterActivityWithOptions(&activities.Loop{Client: inEnv{env: env}, Log: slog.New(slog.DiscardHandler)},
		activity.RegisterOptions{DisableAlreadyRegisteredCheck: true})
	tr := &trial{last: map[string]contract.DecisionState{}}
	env.OnActivity(telemetry.RecordDecision, anyArgs()...).Return(func(_ context.Context, s contract.DecisionState) error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.last[s.ID] = s
		return nil
	})
	env.OnActivity(notify.Post, anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.notices = append(tr.notices, n)
		if n.Kind != contract.NoticeQuestion {
			return contract.PostResult{}, nil
		}
		tr.asked = append(tr.asked, n.ID)
		v := verdict(len(tr.asked))
		if v == "" {
			return contract.PostResult{}, nil
		}
		answer(t, env, n.ID, contract.DecideRequest{Verdict: v, Who: "ada", Reason: "seen"})
		return contract.PostResult{}, nil
	})
	env.ExecuteWorkflow(findCases, offers{rounds})
	require.NoError(t, env.GetWorkflowError())
	state, err := env.QueryWorkflowByID(contract.AutonomyID(key.Tenant), contract.State)
	require.NoError(t, err)
	require.NoError(t, state.Get(&tr.ledger))
	return tr
}

func offer(rule string, cases []contract.FallbackCase) contract.OpenCasesRequest {
	return contract.OpenCasesRequest{Tenant: key.Tenant, Rule: rule, Tuning: tuning, Cases: cases}
}

func approves(int) string { return contract.Approve }

// However many find cases at once, and however often: people are asked about the first ten, each once, and when they
// have approved these the rule is trusted and nobody is asked again.
func TestExactlyTenCasesAreAsked(t *testing.T) {
	all := offer(fallbackRule, wouldFallBetween(0, 30, fallbackRule))
	early := offer(fallbackRule, wouldFallBetween(0, 3, fallbackRule))
	late := offer(fallbackRule, wouldFallBetween(30, 60, fallbackRule))
	tr := runTrial(t, [][]contract.OpenCasesRequest{{early, early}, {all, all, all}, {all, late, late}}, approves)

	var first []string
	for _, c := range wouldFallBetween(0, 10, fallbackRule) {
		first = append(first, c.ID())
	}
	require.ElementsMatch(t, first, tr.asked)
	trust := tr.ledger.Classes[contract.FallBack]
	require.True(t, trust.Trusted())
	require.Equal(t, 10, trust.Approved)
	require.Equal(t, fallbackRule, trust.Rule)
	require.Empty(t, trust.Open)
	for i, c := range wouldFallBetween(0, 10, fallbackRule) {
		d := tr.last[c.ID()]
		require.Equal(t, contract.Approved, d.Status, i)
		require.Equal(t, "ada", d.Verdict.Who)
		require.Empty(t, d.Plan.Plan.Steps, "nothing is carried out")
		require.Equal(t, c, *d.Input.Case)
	}
	require.Equal(t, contract.Findings, tr.notices[0].For(), "nobody is woken")
	require.Contains(t, tr.notices[0].Text, "The call of trace trace/") // whose question goes out first is chance
	require.Contains(t, tr.notices[0].Text, "is estimated to save $0.275; its quality with claude-3-opus was predicted to be 0.55")
	require.Contains(t, tr.notices[0].Text, "flyball approve "+contract.Handle(tr.notices[0].ID))
}

// A denial of the tenth starts the count again: ten more have to be approved.
func TestADeniedCaseStartsTheCountAgain(t *testing.T) {
	nine, all := offer(fallbackRule, wouldFallBetween(0, 9, fallbackRule)), offer(fallbackRule, wouldFallBetween(0, 60, fallbackRule))
	rounds := [][]contract.OpenCasesRequest{{nine}, {all}, {all}, {all}}
	tr := runTrial(t, rounds, func(nth int) string {
		if nth == 10 {
			return contract.Deny
		}
		return contract.Approve
	})
	require.Len(t, tr.asked, 20, "ten more, after the tenth was denied")
	require.True(t, tr.ledger.Classes[contract.FallBack].Trusted())
}

// What nobody answers counts neither way, and another is asked about in its place once its time is over.
func TestALapsedCaseCountsNeitherWay(t *testing.T) {
	all := offer(fallbackRule, wouldFallBetween(0, 60, fallbackRule))
	var rounds [][]contract.OpenCasesRequest
	for range 80 { // hours
		rounds = append(rounds, []contract.OpenCasesRequest{all})
	}
	tr := runTrial(t, rounds, func(nth int) string {
		if nth == 4 {
			return ""
		}
		return contract.Approve
	})
	require.Len(t, tr.asked, 11)
	require.Equal(t, contract.Expired, tr.last[tr.asked[3]].Status)
	require.True(t, tr.ledger.Classes[contract.FallBack].Trusted())
}

// Another rule earns trust anew, and what was asked of the old one counts no more.
func TestAnotherRuleEarnsTrustAnew(t *testing.T) {
	old, other := offer(fallbackRule, wouldFallBetween(0, 30, fallbackRule)), offer("fallback/b", wouldFallBetween(30, 60, "fallback/b"))
	mixed := offer("fallback/b", wouldFallBetween(0, 60, fallbackRule))
	tr := runTrial(t, [][]contract.OpenCasesRequest{{old}, {mixed}, {other}}, func(nth int) string {
		if nth <= 5 {
			return "" // they still wait when the rule changes
		}
		return contract.Approve
	})
	require.Len(t, tr.asked, 20)
	for _, id := range tr.asked[:5] {
		require.Equal(t, contract.Withdrawn, tr.last[id].Status)
	}
	trust := tr.ledger.Classes[contract.FallBack]
	require.True(t, trust.Trusted())
	require.Equal(t, "fallback/b", trust.Rule)
}

// A person withdraws trust: nothing is granted and nobody asked until that is lifted, and then it is earned from the start.
func TestTrustIsWithdrawn(t *testing.T) {
	env := newEnv(t, map[string]any{contract.Decision: func(ctx workflow.Context, _ contract.DecisionInput) (contract.DecisionResult, error) {
		return contract.DecisionResult{}, workflow.Await(ctx, func() bool { return false })
	}})
	env.OnSignalExternalWorkflow(anyString, anyString, anyString, contract.Withdraw, anyString).Return(nil).Times(10)
	offered := offer(fallbackRule, wouldFallBetween(0, 30, fallbackRule))
	trust := func() contract.Trust { return query[contract.AutonomyState](t, env).Classes[contract.FallBack] }
	hold := contract.HoldTrustRequest{Tenant: key.Tenant, Action: contract.FallBack, Hold: true, Who: "ada", Reason: "customers complain"}
	lift := hold
	lift.Hold = false
	nameless := hold
	nameless.Who = ""
	var opened, held, again, early, unheld, who, reopened *outcome
	at(env, 0, func() { opened = update(env, contract.OpenCases, "1", offered) })
	at(env, time.Second, func() { require.Len(t, trust().Open, 10) })
	at(env, 2*time.Second, func() { who = update(env, contract.HoldTrust, "2", nameless) })
	at(env, 3*time.Second, func() { unheld = update(env, contract.HoldTrust, "3", lift) })
	at(env, 4*time.Second, func() { held = update(env, contract.HoldTrust, "4", hold) })
	at(env, 5*time.Second, func() {
		require.Equal(t, "ada", trust().Held.Who)
		require.Empty(t, trust().Open)
		early = update(env, contract.OpenCases, "5", offered)
	})
	at(env, 6*time.Second, func() { again = update(env, contract.HoldTrust, "6", hold) })
	at(env, 7*time.Second, func() { env.SignalWorkflow(contract.HoldTrust, lift) })
	at(env, 8*time.Second, func() { reopened = update(env, contract.OpenCases, "7", offered) })
	at(env, 9*time.Second, func() {
		require.Nil(t, trust().Held)
		require.Len(t, trust().Open, 10)
		env.CancelWorkflow()
	})
	env.ExecuteWorkflow(workflows.Autonomy, contract.AutonomyInput{Tenant: key.Tenant})

	require.Len(t, opened.result.(contract.OpenCasesResult).Opened, 10)
	require.True(t, held.accepted)
	require.ErrorContains(t, who.rejected, "say who")
	require.ErrorContains(t, unheld.rejected, "it is not held")
	require.ErrorContains(t, early.rejected, "no case is to be asked about")
	require.ErrorContains(t, again.rejected, "held already")
	require.Equal(t, wouldFall(10, "").ID(), reopened.result.(contract.OpenCasesResult).Opened[0], "those that were asked about are not asked about again")
}

func TestFallbackGoesOnForEver(t *testing.T) {
	env := newEnv(t, nil)
	env.RegisterActivity(&activities.Fallbacks{})
	rounds := 0
	env.OnActivity("WatchFallbacks", anyString).Return(func(context.Context) (contract.FallbackReport, error) {
		if rounds++; rounds == 3 {
			env.SetContinueAsNewSuggested(true)
		}
		return contract.FallbackReport{Asked: rounds, Trusted: 7}, nil
	})
	env.ExecuteWorkflow(workflows.Fallback, contract.FallbackInput{Rounds: 40})
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, env.GetWorkflowError(), &next)
	var in contract.FallbackInput
	require.NoError(t, dataConverter.FromPayloads(next.Input, &in))
	require.Equal(t, contract.FallbackInput{Rounds: 43}, in)
	require.Equal(t, contract.FallbackState{Rounds: 43, Last: contract.FallbackReport{Asked: 3, Trusted: 7}}, query[contract.FallbackState](t, env))
}
