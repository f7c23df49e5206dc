package workflows_test

import (
	"context"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/workflows"
)

// still is a look at the rollout that changes nothing.
func still(r routing.Rollout) (routing.Rollout, routing.Act) { return r, routing.Act{} }

// A decision keeps the flags before and after, is measured about every hour while it is carried out, and is handed to
// Effects with its end.
func TestDecisionIsMeasured(t *testing.T) {
	var handed []contract.EffectsInput
	d := newKeyDecision(t, contract.Auto)
	d.OnWorkflow(contract.Effects, anyArgs()...).Return(func(_ workflow.Context, in contract.EffectsInput) error {
		handed = append(handed, in)
		return nil
	})
	var measured []contract.MeasureRequest
	d.OnActivity(savings.MeasureDecision, anyArgs()...).Return(func(_ context.Context, r contract.MeasureRequest) (effect.Effect, error) {
		if measured = append(measured, r); len(measured) == 1 {
			return effect.Effect{}, errors.New("ClickHouse is away")
		}
		return effect.Effect{MeasuredAt: d.Now(), Treated: 5, Compared: 5, Cost: big.NewInt(3), Saved: &effect.Amount{Pico: big.NewInt(7)}}, nil
	})
	stood := routing.Flag{Kind: routing.Route, Decision: "another", Share: 0.3}
	d.before = &stood
	d.granted = true
	d.acts = []act{still, still, still, still, hold, down}
	d.lasts = 40 * time.Minute
	state := d.run()
	require.NoError(t, d.GetWorkflowError())
	require.Equal(t, contract.Released, state.Status)
	require.GreaterOrEqual(t, len(measured), 2)
	require.Zero(t, measured[0].Until, "its flag is on")
	require.Equal(t, []contract.Step{{From: measured[0].Steps[0].From, Share: provable.Plan.Steps[0]}}, measured[0].Steps)
	require.EqualValues(t, 7, state.Measured.Saved.Pico.Int64(), "a measurement that failed is made up for")
	require.Equal(t, "another", state.FlagBefore.Decision)
	require.Zero(t, state.FlagAfter.Share)
	require.NotNil(t, d.recorded[len(d.recorded)-1].Measured, "it is in the row")

	require.Len(t, handed, 1)
	require.Equal(t, contract.Released, handed[0].Decision.Status)
	request, ok := handed[0].Decision.Measure()
	require.True(t, ok)
	require.Equal(t, state.ChangedAt.UTC(), request.Until.UTC())
}

// What never touched a call is not measured.
func TestDecisionThatDidNothingIsNotMeasured(t *testing.T) {
	d := newKeyDecision(t, contract.Ask)
	d.OnWorkflow(contract.Effects, anyArgs()...).Return(func(workflow.Context, contract.EffectsInput) error {
		t.Error("it was handed over")
		return nil
	})
	state := d.run()
	require.Equal(t, contract.Expired, state.Status)
	require.Nil(t, state.FlagAfter)
}

func TestEffects(t *testing.T) {
	in := contract.EffectsInput{Decision: contract.DecisionState{
		ID: contract.DecisionID(incidentID, "downgrade", 1), Status: contract.Released, Opened: start.Add(-time.Hour), ChangedAt: start,
		Input:   contract.DecisionInput{Key: key, Tuning: tuning, Proposal: contract.Proposal{Action: "downgrade", Kind: routing.Route}},
		History: []contract.Transition{{At: start.Add(-time.Hour), Share: 0.5}, {At: start}},
	}}
	env := newEnv(t, nil)
	var at []time.Duration
	env.OnActivity(savings.MeasureDecision, anyArgs()...).Return(func(_ context.Context, r contract.MeasureRequest) (effect.Effect, error) {
		require.Equal(t, start, r.Until.UTC())
		at = append(at, env.Now().Sub(start).Round(time.Minute))
		if len(at) == 1 {
			return effect.Effect{}, errors.New("telemetry is stored until a minute ago only")
		}
		return effect.Effect{MeasuredAt: env.Now(), Treated: int64(len(at))}, nil
	})
	var recorded []contract.DecisionState
	env.OnActivity(telemetry.RecordDecision, anyArgs()...).Return(func(_ context.Context, s contract.DecisionState) error {
		recorded = append(recorded, s)
		return nil
	})
	env.SetStartWorkflowOptions(startOptions(contract.EffectsID(in.Decision.ID)))
	env.ExecuteWorkflow(workflows.Effects, in)
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, []time.Duration{time.Minute, time.Minute, time.Hour, 24 * time.Hour}, at, "a measurement that failed is tried again")
	require.Len(t, recorded, 3)
	for i, s := range recorded {
		require.EqualValues(t, i+2, s.Measured.Treated)
		require.Equal(t, contract.Released, s.Status, "the rest of its row is as it was")
	}

	env = newEnv(t, nil)
	in.Decision.History = in.Decision.History[:1]
	env.SetStartWorkflowOptions(startOptions(contract.EffectsID(in.Decision.ID)))
	env.ExecuteWorkflow(workflows.Effects, in)
	require.ErrorContains(t, env.GetWorkflowError(), "does so no more")
}
