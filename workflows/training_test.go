package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/workflows"
)

// trained drives a RouterTraining with the given verdict and training.
type trained struct {
	*testsuite.TestWorkflowEnvironment
	changed [][]router.Change
	trained int
	notices []contract.Notice
}

func trains(t *testing.T, verdict contract.RouterVerdict, next contract.TrainedRouter, fails error) *trained {
	r := &trained{TestWorkflowEnvironment: newEnv(t, nil)}
	r.SetStartWorkflowOptions(startOptions(contract.RouterTrainingID))
	r.OnActivity("JudgeRouter", anyArgs()...).Return(func(_ context.Context, q contract.RouterActivityRequest) (contract.RouterVerdict, error) {
		require.True(t, q.At.Equal(start))
		return verdict, nil
	})
	r.OnActivity("TrainRouter", anyArgs()...).After(30 * time.Minute).Return(func(_ context.Context, q contract.RouterActivityRequest) (contract.TrainedRouter, error) {
		require.True(t, q.At.Equal(start), "by the same calls, however long the verdict took")
		r.trained++
		return next, fails
	}).Maybe()
	r.OnActivity("ChangeRouter", anyArgs()...).Return(func(_ context.Context, q contract.ChangeRouterRequest) error {
		r.changed = append(r.changed, q.Changes)
		return nil
	}).Maybe()
	r.OnActivity("Post", anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		r.notices = append(r.notices, n)
		return contract.PostResult{}, nil
	}).Maybe()
	return r
}

func TestRouterTrainingRollsBackAndTrains(t *testing.T) {
	back := []router.Change{{Version: "v2", State: router.RolledBack, Since: start, Reason: "worse"}, {Version: "v1", State: router.InUse, Since: start}}
	shadow := []router.Change{{Version: "v3", State: router.Shadow, Since: start}}
	r := trains(t, contract.RouterVerdict{Verdict: router.Verdict{Changes: back, Says: []string{"**v2** is rolled back: worse."}}},
		contract.TrainedRouter{Version: "v3", N: 900, Heads: 2, Changes: shadow}, nil)
	at(r.TestWorkflowEnvironment, 10*time.Minute, func() {
		require.Equal(t, [][]router.Change{back}, r.changed, "what is worse is not used while the next one is trained")
		require.Contains(t, details(t, r.TestWorkflowEnvironment), "being trained")
	})
	r.ExecuteWorkflow(workflows.RouterTraining, contract.RouterTrainingInput{})
	require.NoError(t, r.GetWorkflowError())
	require.Equal(t, [][]router.Change{back, shadow}, r.changed)
	require.Len(t, r.notices, 1)
	require.Equal(t, contract.Findings, r.notices[0].Audience)
	require.Contains(t, r.notices[0].Title, "rolled back")
	require.Contains(t, r.notices[0].Text, "**v2** is rolled back: worse.")
	require.Contains(t, r.notices[0].Text, "**v3** was trained from 900 scored calls")
	require.Equal(t, "v3", query[contract.RouterTrainingState](t, r.TestWorkflowEnvironment).Trained.Version)
}

// A version that waits in the shadow is not pushed out by a new one each week: it would never be judged.
func TestRouterTrainingLeavesTheShadowToWait(t *testing.T) {
	r := trains(t, contract.RouterVerdict{Waits: "v2"}, contract.TrainedRouter{}, nil)
	r.ExecuteWorkflow(workflows.RouterTraining, contract.RouterTrainingInput{})
	require.NoError(t, r.GetWorkflowError())
	require.Zero(t, r.trained)
	require.Empty(t, r.changed)
	require.Empty(t, r.notices)
	require.Contains(t, details(t, r.TestWorkflowEnvironment), "**v2** waits in the shadow")
}

// The watch between two trainings rolls back and tells so; it trains nothing, and a watch that finds nothing is quiet.
func TestRouterWatchRollsBackAlone(t *testing.T) {
	back := []router.Change{{Version: "v2", State: router.RolledBack, Since: start, Reason: "lately worse"}}
	for _, verdict := range []router.Verdict{{Changes: back, Says: []string{"**v2** is rolled back: lately worse."}}, {Says: []string{"nothing to do"}}} {
		r := trains(t, contract.RouterVerdict{Verdict: verdict}, contract.TrainedRouter{}, nil)
		r.ExecuteWorkflow(workflows.RouterTraining, contract.RouterTrainingInput{Watch: true})
		require.NoError(t, r.GetWorkflowError())
		require.Zero(t, r.trained)
		require.Len(t, r.notices, len(verdict.Changes))
		require.Len(t, r.changed, len(verdict.Changes))
		require.Contains(t, details(t, r.TestWorkflowEnvironment), "hourly watch")
	}
}

func TestRouterTrainingOfTooFewCallsIsQuiet(t *testing.T) {
	r := trains(t, contract.RouterVerdict{}, contract.TrainedRouter{Few: "too few scored calls: 3 in all"}, nil)
	r.ExecuteWorkflow(workflows.RouterTraining, contract.RouterTrainingInput{})
	require.NoError(t, r.GetWorkflowError())
	require.Empty(t, r.changed)
	require.Empty(t, r.notices)
	require.Contains(t, details(t, r.TestWorkflowEnvironment), "too few scored calls: 3 in all")
}

func TestRouterTrainingThatFailsSaysSo(t *testing.T) {
	r := trains(t, contract.RouterVerdict{}, contract.TrainedRouter{}, temporal.NewNonRetryableApplicationError("no memory", "OOM", errors.New("no memory")))
	r.ExecuteWorkflow(workflows.RouterTraining, contract.RouterTrainingInput{})
	require.ErrorContains(t, r.GetWorkflowError(), "no memory")
	require.Len(t, r.notices, 1)
	require.Contains(t, r.notices[0].Text, "no memory")
}
