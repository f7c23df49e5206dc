package workflows

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/contract"
)

// night0 is when nothing depends on the time.
var night0 = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)

func newLedger() ledger {
	return ledger{Tenant: "org_42", Classes: map[string]contract.Trust{}}
}

func asked(decision, rule string) contract.TrustRequest {
	return contract.TrustRequest{Tenant: "org_42", Action: "downgrade", Rule: rule, Decision: decision}
}

func told(decision, rule, outcome string) contract.TrustOutcomeRequest {
	return contract.TrustOutcomeRequest{Tenant: "org_42", Action: "downgrade", Rule: rule, Decision: decision, Outcome: outcome}
}

// earned is a ledger in which people have approved n decisions for the rule.
func earned(n int, rule string) ledger {
	l := newLedger()
	for i := range n {
		l.tell(told(fmt.Sprint("d", i), rule, contract.OutcomeApproved), night0)
	}
	return l
}

func TestTrustIsEarnedByTenApprovals(t *testing.T) {
	for n := range 12 {
		answer := earned(n, "dual").ask(asked("new", "dual"), night0)
		require.Equal(t, n >= 10, answer.Granted, "after %d approvals", n)
		require.Equal(t, 10, answer.Needed)
		require.NotEmpty(t, answer.Reason)
	}
}

func TestTrustIsLost(t *testing.T) {
	for name, lose := range map[string]func(l ledger){
		"by a denial":                      func(l ledger) { l.tell(told("x", "dual", contract.OutcomeDenied), night0) },
		"by a revert":                      func(l ledger) { l.tell(told("x", "dual", contract.OutcomeReverted), night0) },
		"when the rule that fires changes": func(l ledger) { l.ask(asked("x", "severe"), night0) },
	} {
		t.Run(name, func(t *testing.T) {
			l := earned(10, "dual")
			require.True(t, l.ask(asked("before", "dual"), night0).Granted)
			lose(l)
			require.False(t, l.ask(asked("after", "dual"), night0).Granted)
		})
	}
}

func TestTrustOfAnotherActionIsItsOwn(t *testing.T) {
	l := earned(10, "dual")
	r := asked("x", "dual")
	r.Action = "upgrade"
	require.False(t, l.ask(r, night0).Granted)
}

// However outcomes and questions interleave and repeat, the count is the number of different decisions
// that people approved since trust was last lost, and nothing is granted below ten.
func TestTrustIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger()
		rule, approved := "", map[string]bool{}
		seen := map[string]bool{}
		for range rapid.IntRange(0, 120).Draw(t, "events") {
			decision := fmt.Sprint("d", rapid.IntRange(0, 30).Draw(t, "decision"))
			r := rapid.SampledFrom([]string{"dual", "dual", "dual", "dual", "dual", "dual", "severe"}).Draw(t, "rule")
			if r != rule {
				rule, approved = r, map[string]bool{}
			}
			what := rapid.SampledFrom([]string{"ask", "ask", "approved", "approved", "approved", "approved", "denied", "reverted"}).Draw(t, "what")
			if what == "ask" {
				answer := l.ask(asked(decision, r), night0)
				require.Equal(t, len(approved) >= trustNeeded, answer.Granted)
				require.Equal(t, len(approved), answer.Approved)
				continue
			}
			l.tell(told(decision, r, what), night0)
			if seen[decision+what] {
				continue
			}
			seen[decision+what] = true
			if what == contract.OutcomeApproved {
				approved[decision] = true
			} else {
				approved = map[string]bool{}
			}
		}
		require.LessOrEqual(t, len(l.Classes["downgrade"].Seen), seenAtMost)
	})
}

// However many decisions a storm of keys makes in two days, each outcome is counted once; what is older is forgotten.
func TestLedgerRemembersOnlySoMuch(t *testing.T) {
	l := newLedger()
	outcome := func(i int, at time.Time) { l.tell(told(fmt.Sprint("d", i), "dual", contract.OutcomeApproved), at) }
	const many = 2 * seenKept
	for i := range many {
		outcome(i, night0)
	}
	for i := range many {
		outcome(i, night0.Add(seenFor))
	}
	require.Equal(t, many, l.Classes["downgrade"].Approved, "told again within their time")
	outcome(many, night0.Add(seenFor+time.Second))
	require.Len(t, l.Classes["downgrade"].Seen, seenKept)
	for i := range 2 * seenAtMost {
		outcome(many+i, night0.Add(seenFor+time.Second))
	}
	require.Len(t, l.Classes["downgrade"].Seen, seenAtMost)
	l.Classes["downgrade"] = contract.Trust{Rule: "dual", Approved: 3, Seen: []string{"d1 approved"}}
	outcome(1, night0)
	require.Equal(t, 3, l.Classes["downgrade"].Approved, "remembered by an older release")
}

// answers collects the outcomes of updates by their ids.
type answers map[string]any

func (a answers) update(env *testsuite.TestWorkflowEnvironment, name, id string, arg any) {
	env.UpdateWorkflow(name, id, &testsuite.TestUpdateCallback{
		OnAccept: func() {},
		OnReject: func(err error) { a[id] = err },
		OnComplete: func(result any, err error) {
			a[id] = result
			if err != nil {
				a[id] = err
			}
		},
	}, arg)
}

func TestAutonomyWorkflow(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterWorkflow(Autonomy)
	got := answers{}
	env.RegisterDelayedCallback(func() {
		for i := range 9 {
			got.update(env, contract.TrustOutcome, fmt.Sprint(i), told(fmt.Sprint("d", i), "dual", contract.OutcomeApproved))
		}
		got.update(env, contract.AskTrust, "early", asked("x", "dual"))
	}, 0)
	env.RegisterDelayedCallback(func() {
		env.SignalWorkflow(contract.TrustOutcome, told("d9", "dual", contract.OutcomeApproved)) // as tctl would
		env.SignalWorkflow(contract.TrustOutcome, told("d9", "dual", contract.OutcomeApproved))
		env.SignalWorkflow(contract.TrustOutcome, told("d10", "dual", "perhaps"))
		got.update(env, contract.TrustOutcome, "unknown", told("d10", "dual", "perhaps"))
		foreign := asked("x", "dual")
		foreign.Tenant = "other"
		got.update(env, contract.AskTrust, "foreign", foreign)
		got.update(env, contract.AskTrust, "nameless", contract.TrustRequest{Tenant: "org_42"})
	}, time.Millisecond)
	env.RegisterDelayedCallback(func() {
		got.update(env, contract.AskTrust, "late", asked("x", "dual"))
	}, time.Second)
	env.RegisterDelayedCallback(func() {
		answer, err := env.QueryWorkflow(contract.State)
		require.NoError(t, err)
		var state contract.AutonomyState
		require.NoError(t, answer.Get(&state))
		require.Equal(t, 10, state.Classes["downgrade"].Approved)
		require.Equal(t, 1, state.Classes["downgrade"].Granted)
		env.SetContinueAsNewSuggested(true)
		env.SignalWorkflow(contract.TrustOutcome, told("d9", "dual", contract.OutcomeApproved))
	}, 2*time.Second)
	env.ExecuteWorkflow(Autonomy, contract.AutonomyInput{Tenant: "org_42"})

	require.False(t, got["early"].(contract.TrustAnswer).Granted)
	require.True(t, got["late"].(contract.TrustAnswer).Granted)
	require.ErrorContains(t, got["unknown"].(error), "unknown outcome")
	require.ErrorContains(t, got["foreign"].(error), "ledger of org_42")
	require.ErrorContains(t, got["nameless"].(error), "which action")

	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, env.GetWorkflowError(), &next)
	var in contract.AutonomyInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	env = suite.NewTestWorkflowEnvironment()
	env.RegisterWorkflow(Autonomy)
	env.RegisterDelayedCallback(func() {
		got.update(env, contract.AskTrust, "again", asked("x", "dual"))
		got.update(env, contract.TrustOutcome, "denied", told("x", "dual", contract.OutcomeDenied))
	}, 0)
	env.RegisterDelayedCallback(func() { got.update(env, contract.AskTrust, "lost", asked("y", "dual")) }, time.Millisecond)
	env.RegisterDelayedCallback(env.CancelWorkflow, time.Second)
	env.ExecuteWorkflow(Autonomy, in)
	require.True(t, got["again"].(contract.TrustAnswer).Granted)
	require.False(t, got["lost"].(contract.TrustAnswer).Granted)
}

func TestAutonomyRefusesANamelessTenant(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterWorkflow(Autonomy)
	env.ExecuteWorkflow(Autonomy, contract.AutonomyInput{})
	var application *temporal.ApplicationError
	require.ErrorAs(t, env.GetWorkflowError(), &application)
	require.Equal(t, contract.ErrBadInput, application.Type())
}

// Decisions that ask at once, while people answer others, are granted exactly from the tenth approval on: none before,
// all after, each counted once however often it asks.
func TestDecisionsThatAskAtOnce(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterWorkflow(Autonomy)
	got := answers{}
	for i := range 20 {
		env.RegisterDelayedCallback(func() {
			got.update(env, contract.AskTrust, fmt.Sprint("ask", i), asked(fmt.Sprint("a", i), "dual"))
			got.update(env, contract.AskTrust, fmt.Sprint("again", i), asked(fmt.Sprint("a", i), "dual"))
			got.update(env, contract.AskTrust, fmt.Sprint("other", i), asked(fmt.Sprint("b", i), "dual"))
		}, time.Duration(2*i)*time.Millisecond)
		env.RegisterDelayedCallback(func() {
			got.update(env, contract.TrustOutcome, fmt.Sprint("tell", i), told(fmt.Sprint("d", i), "dual", contract.OutcomeApproved))
			env.SignalWorkflow(contract.TrustOutcome, told(fmt.Sprint("d", i), "dual", contract.OutcomeApproved))
		}, time.Duration(2*i+1)*time.Millisecond)
	}
	env.RegisterDelayedCallback(func() {
		state, err := env.QueryWorkflow(contract.State)
		require.NoError(t, err)
		var s contract.AutonomyState
		require.NoError(t, state.Get(&s))
		require.Equal(t, 20, s.Classes["downgrade"].Approved)
		require.Equal(t, 20, s.Classes["downgrade"].Granted, "two of each moment")
		env.CancelWorkflow()
	}, time.Minute)
	env.ExecuteWorkflow(Autonomy, contract.AutonomyInput{Tenant: "org_42"})
	for i := range 20 {
		for _, id := range []string{fmt.Sprint("ask", i), fmt.Sprint("again", i), fmt.Sprint("other", i)} {
			require.Equal(t, i >= 10, got[id].(contract.TrustAnswer).Granted, id)
		}
	}
}
