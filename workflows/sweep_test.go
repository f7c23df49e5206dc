package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/workflows"
)

func sweepInput() contract.SweepInput { return contract.SweepInput{Shards: 1, Tuning: tuning} }

// nextSweep reads what a sweep continues with.
func nextSweep(t *testing.T, err error) (in contract.SweepInput) {
	t.Helper()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, err, &next)
	require.NoError(t, dataConverter.FromPayloads(next.Input, &in))
	return in
}

func TestSweepGoesRoundAndContinuesAsNew(t *testing.T) {
	env := newEnv(t, nil)
	rounds := 0
	env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(func(_ context.Context, r contract.SweepRequest) (contract.SweepReport, error) {
		require.Equal(t, contract.SweepRequest{Shards: 1, Tuning: tuning}, r)
		if rounds++; rounds == 3 {
			env.SetContinueAsNewSuggested(true)
		}
		return contract.SweepReport{Ticks: 720, Keys: 12}, nil
	})
	in := sweepInput()
	in.Rounds = 7
	env.ExecuteWorkflow(workflows.Sweep, in)
	in.Rounds = 10
	require.Equal(t, in, nextSweep(t, env.GetWorkflowError()))
	state := query[contract.SweepState](t, env)
	require.Equal(t, 10, state.Rounds)
	require.Equal(t, 12, state.Last.Keys)
}

func TestSweepIsRetuned(t *testing.T) {
	demo := contract.NewTuning(0.1)
	env := newEnv(t, nil)
	env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(contract.SweepReport{}, activity.ErrResultPending)
	at(env, time.Minute, func() { // what it is already, and what cannot be
		env.SignalWorkflow(contract.Retune, contract.RetuneMessage{Shards: 1, Tuning: tuning})
		env.SignalWorkflow(contract.Retune, contract.RetuneMessage{Shards: 1})
	})
	at(env, time.Hour, func() { env.SignalWorkflow(contract.Retune, contract.RetuneMessage{Shards: 2, Tuning: demo}) })
	env.ExecuteWorkflow(workflows.Sweep, sweepInput())
	require.Equal(t, contract.SweepInput{Shards: 2, Tuning: demo, Rounds: 1}, nextSweep(t, env.GetWorkflowError()))
	require.Equal(t, start.Add(time.Hour), env.Now().UTC())
}

func TestSweepOfAShardThatIsNoMoreEnds(t *testing.T) {
	env := newEnv(t, nil)
	env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(contract.SweepReport{}, activity.ErrResultPending)
	at(env, time.Minute, func() { env.SignalWorkflow(contract.Retune, contract.RetuneMessage{Shards: 1, Tuning: tuning}) })
	env.ExecuteWorkflow(workflows.Sweep, contract.SweepInput{Shard: 1, Shards: 2, Tuning: tuning})
	require.NoError(t, env.GetWorkflowError())
}

func TestSweepCancelledEnds(t *testing.T) {
	env := newEnv(t, nil)
	env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(contract.SweepReport{}, activity.ErrResultPending)
	at(env, time.Minute, env.CancelWorkflow)
	env.ExecuteWorkflow(workflows.Sweep, sweepInput())
	require.True(t, temporal.IsCanceledError(env.GetWorkflowError()))
}

func TestSweepFailsWithItsActivity(t *testing.T) {
	env := newEnv(t, nil)
	broken := temporal.NewNonRetryableApplicationError("no such shard", contract.ErrBadInput, errors.New("cause"))
	env.OnActivity(sweeper.SweepKeys, anyArgs()...).Return(contract.SweepReport{}, broken)
	env.ExecuteWorkflow(workflows.Sweep, sweepInput())
	require.ErrorContains(t, env.GetWorkflowError(), "no such shard")
}

func TestSweepRefusesABadInput(t *testing.T) {
	for _, in := range []contract.SweepInput{{Tuning: tuning}, {Shard: 1, Shards: 1, Tuning: tuning}, {Shards: 1}} {
		env := newEnv(t, nil)
		env.ExecuteWorkflow(workflows.Sweep, in)
		var application *temporal.ApplicationError
		require.ErrorAs(t, env.GetWorkflowError(), &application)
		require.Equal(t, contract.ErrBadInput, application.Type())
	}
}
