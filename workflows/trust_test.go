package workflows_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
)

// Trust, joined up: decisions and the tenant's ledger run as they are, and speak through the activities
// that they speak through in earnest. People approve ten, the eleventh acts by itself, and one denial
// starts the count again.
func TestTheEleventhActGoesByItself(t *testing.T) {
	env := newEnv(t, nil)
	env.RegisterWorkflowWithOptions(oneTenant, workflow.RegisterOptions{Name: "oneTenant"})
	env.RegisterActivityWithOptions(&activities.Loop{Client: inEnv{env: env}, Log: slog.New(slog.DiscardHandler)},
		activity.RegisterOptions{DisableAlreadyRegisteredCheck: true})
	env.OnActivity(telemetry.PlanRollout, anyArgs()...).Return(provable, nil)
	last := map[string]contract.DecisionState{}
	env.OnActivity(telemetry.RecordDecision, anyArgs()...).Return(func(_ context.Context, s contract.DecisionState) error {
		last[s.ID] = s
		return nil
	})
	env.OnActivity(telemetry.AwaitRollout, anyArgs()...).Return(func(_ context.Context, r contract.AwaitRolloutRequest) (contract.AwaitRolloutResult, error) {
		rollout, act := ended(routing.Released)(r.Rollout)
		return contract.AwaitRolloutResult{Rollout: rollout, Act: act}, nil
	})
	shares := map[string][]float64{}
	env.OnActivity(loops.SetKeyFlag, anyArgs()...).Return(func(_ context.Context, r contract.SetKeyFlagRequest) (contract.SetFlagResult, error) {
		shares[r.Flag.Decision] = append(shares[r.Flag.Decision], r.Flag.Share)
		return contract.SetFlagResult{Changed: true}, nil
	})
	var asked []string
	env.OnActivity(notify.Post, anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		if n.Kind != contract.NoticeQuestion {
			return contract.PostResult{}, nil
		}
		asked = append(asked, n.ID)
		verdict := contract.DecideRequest{Verdict: contract.Approve, Who: "ada"}
		if n.ID == nth(12) {
			verdict = contract.DecideRequest{Verdict: contract.Deny, Who: "ada", Reason: "it is the launch"}
		}
		answer(t, env, n.ID, verdict)
		return contract.PostResult{}, nil
	})
	env.OnSignalExternalWorkflow(anyString, anyString, anyString, contract.DecisionMoved, anyString).Return(nil)

	modes := make([]contract.Mode, 13)
	for n := range modes {
		modes[n] = contract.Auto
	}
	modes[11] = contract.Ask // the twelfth, so that a person can say no once trust has been earned
	env.ExecuteWorkflow(oneTenant, modes)
	require.NoError(t, env.GetWorkflowError())

	for n := 1; n <= 10; n++ {
		d := last[nth(n)]
		require.Equal(t, contract.Released, d.Status, n)
		require.Equal(t, "ada", d.Verdict.Who, n)
		require.Equal(t, contract.TrustAnswer{Approved: n - 1, Needed: 10, Reason: d.Trust.Reason}, *d.Trust, n)
	}
	eleventh := last[nth(11)]
	require.Equal(t, contract.Released, eleventh.Status)
	require.True(t, eleventh.Trust.Granted)
	require.Nil(t, eleventh.Verdict)
	require.NotContains(t, asked, nth(11), "nobody is asked")
	require.NotContains(t, statuses(eleventh), contract.AwaitingApproval)
	require.Equal(t, []float64{0.1, 0}, rounded(shares[nth(11)]), "and it acts")

	require.Equal(t, contract.Denied, last[nth(12)].Status)
	require.Empty(t, shares[nth(12)])
	require.Contains(t, asked, nth(13))
	require.Equal(t, contract.TrustAnswer{Needed: 10, Reason: last[nth(13)].Trust.Reason}, *last[nth(13)].Trust, "the count starts again")

	state, err := env.QueryWorkflowByID(contract.AutonomyID(key.Tenant), contract.State)
	require.NoError(t, err)
	var ledger contract.AutonomyState
	require.NoError(t, state.Get(&ledger))
	require.Equal(t, 1, ledger.Classes["downgrade"].Approved, "of the thirteenth")
	require.Equal(t, 1, ledger.Classes["downgrade"].Granted)
}

// nth is the id of the tenant's nth decision, each of an incident of its own.
func nth(n int) string {
	return contract.DecisionID(contract.IncidentID(key, start.Add(time.Duration(n)*time.Hour)), "downgrade", 1)
}

// oneTenant runs a tenant's ledger and beside it a decision after the other, of the given modes.
func oneTenant(ctx workflow.Context, modes []contract.Mode) error {
	child := func(id string) workflow.Context {
		return workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: id, StaticSummary: "of the test"})
	}
	ledger := workflow.ExecuteChildWorkflow(child(contract.AutonomyID(key.Tenant)), contract.Autonomy, contract.AutonomyInput{Tenant: key.Tenant})
	if err := ledger.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		return err
	}
	for n, mode := range modes {
		err := workflow.ExecuteChildWorkflow(child(nth(n+1)), contract.Decision, contract.DecisionInput{
			Key: key, Incident: contract.IncidentID(key, start.Add(time.Duration(n+1)*time.Hour)), Attempt: 1, Tuning: tuning, Finding: finding(start, detect.Page),
			Proposal: contract.Proposal{
				Action: "downgrade", Mode: mode, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost,
				Expiry: 30 * time.Minute, Rule: "downgrade", Reason: "it is dear",
			},
		}).Get(ctx, nil)
		if err != nil {
			return fmt.Errorf("decision %d: %w", n+1, err)
		}
	}
	return nil
}

// answer signals a verdict to a decision, as a person does who was just asked. The environment's own loop sends it:
// activities run beside that loop, which keeps its workflows in a map without a lock.
func answer(t *testing.T, env *testsuite.TestWorkflowEnvironment, id string, verdict contract.DecideRequest) {
	env.RegisterDelayedCallback(func() { require.NoError(t, env.SignalWorkflowByID(id, contract.Decide, verdict)) }, 0)
}

// inEnv is the client by which activities speak to the workflows of a test environment.
type inEnv struct {
	activities.Temporal // what the test does not need
	env                 *testsuite.TestWorkflowEnvironment
}

func (c inEnv) NewWithStartWorkflowOperation(client.StartWorkflowOptions, any, ...any) client.WithStartWorkflowOperation {
	return nil // the workflow runs already
}

// UpdateWithStartWorkflow has the environment's own loop send the update: it keeps updates in a map without a lock.
func (c inEnv) UpdateWithStartWorkflow(_ context.Context, o client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	u := o.UpdateOptions
	h := &updateHandle{done: make(chan struct{})}
	fail := func(err error) { h.err = err; close(h.done) }
	c.env.RegisterDelayedCallback(func() {
		err := c.env.UpdateWorkflowByID(u.WorkflowID, u.UpdateName, u.UpdateID, &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: fail,
			OnComplete: func(result any, err error) { h.result = result; fail(err) },
		}, u.Args...)
		if err != nil {
			fail(err)
		}
	}, 0)
	return h, nil
}

// updateHandle is an update on its way.
type updateHandle struct {
	client.WorkflowUpdateHandle
	done   chan struct{}
	result any
	err    error
}

func (h *updateHandle) Get(_ context.Context, into any) error {
	<-h.done
	if h.err != nil {
		return h.err
	}
	payload, err := converter.GetDefaultDataConverter().ToPayload(h.result)
	if err != nil {
		return err
	}
	return converter.GetDefaultDataConverter().FromPayload(payload, into)
}
