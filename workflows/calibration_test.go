package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/workflows"
)

// calibrating drives a Calibration each of whose runs takes a minute.
func calibrating(t *testing.T, fails func(run int) error) (*testsuite.TestWorkflowEnvironment, *[]contract.RecalibrateActivityRequest) {
	env, runs := rebuilding(t, fails)
	env.OnActivity("MeasureDrift", anyArgs()...).Return(contract.DriftReport{}, nil).Maybe()
	return env, runs
}

func rebuilding(t *testing.T, fails func(run int) error) (*testsuite.TestWorkflowEnvironment, *[]contract.RecalibrateActivityRequest) {
	env := newEnv(t, nil)
	env.SetStartWorkflowOptions(startOptions(contract.CalibrationID("")))
	var runs []contract.RecalibrateActivityRequest
	env.OnActivity("Recalibrate", anyArgs()...).After(time.Minute).Return(func(_ context.Context, r contract.RecalibrateActivityRequest) (int, error) {
		runs = append(runs, r)
		if fails != nil {
			return 0, fails(len(runs))
		}
		return 12, nil
	}).Maybe()
	return env, &runs
}

func TestCalibrationByHand(t *testing.T) {
	env, runs := calibrating(t, nil)
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{}) // as tctl -i '{}' has it
	require.NoError(t, env.GetWorkflowError())
	require.Len(t, *runs, 1)
	require.Empty(t, (*runs)[0].Tenant)
	require.Equal(t, detect.DefaultMinimums, (*runs)[0].Minimums)
	require.True(t, (*runs)[0].At.Equal(start))
	state := query[contract.CalibrationState](t, env)
	require.Equal(t, 12, state.Baselines)
	require.Equal(t, 1, state.Runs)
	require.Contains(t, details(t, env), "stored 12 baselines")
}

func TestCalibrationOfATenantWithASignal(t *testing.T) {
	env, runs := calibrating(t, nil)
	at(env, 0, func() {
		env.SignalWorkflow(contract.Recalibrate, contract.RecalibrateRequest{Who: incidentID, Reason: "claude-x has come"})
	})
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Tenant: "org_42", Tuning: tuning})
	require.Equal(t, "org_42", (*runs)[0].Tenant)
	require.Equal(t, incidentID, query[contract.CalibrationState](t, env).Who)
}

func TestCalibrationTakesRequestsTogether(t *testing.T) {
	for _, by := range []string{"update", "signal"} {
		t.Run(by, func(t *testing.T) {
			env, runs := calibrating(t, nil)
			var answers []*outcome
			for n, who := range []string{"ada", "bob", ""} {
				at(env, time.Duration(20+n)*time.Second, func() {
					if r := (contract.RecalibrateRequest{Who: who, Reason: "by hand"}); by == "update" {
						answers = append(answers, update(env, contract.Recalibrate, who+by, r))
					} else if who != "" {
						env.SignalWorkflow(contract.Recalibrate, r)
					}
				})
			}
			env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Tuning: tuning})
			require.NoError(t, env.GetWorkflowError())
			require.Len(t, *runs, 2, "one under way, and one for both who asked meanwhile")
			state := query[contract.CalibrationState](t, env)
			require.Equal(t, "bob", state.Who)
			require.Equal(t, 2, state.Runs)
			if by == "update" {
				for _, a := range answers[:2] {
					require.NoError(t, a.err)
					require.Equal(t, 2, a.result.(contract.CalibrationState).Runs, "the answer is of a run that began after the request")
				}
				require.Error(t, answers[2].rejected)
			}
		})
	}
}

func TestCalibrationThatFailsSaysSo(t *testing.T) {
	env, runs := calibrating(t, func(run int) error {
		if run > 1 {
			return nil
		}
		return temporal.NewNonRetryableApplicationError("no such tenant", contract.ErrBadInput, nil)
	})
	at(env, 30*time.Second, func() { env.SignalWorkflow(contract.Recalibrate, contract.RecalibrateRequest{}) })
	at(env, 90*time.Second, func() {
		require.Contains(t, query[contract.CalibrationState](t, env).Failed, "no such tenant")
		require.Contains(t, details(t, env), "The last run failed")
	})
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Tuning: tuning})
	require.NoError(t, env.GetWorkflowError())
	require.Len(t, *runs, 2)
	require.Empty(t, query[contract.CalibrationState](t, env).Failed)
}

func TestCalibrationContinuesAsNew(t *testing.T) {
	env, runs := calibrating(t, nil)
	env.SetContinueAsNewSuggested(true)
	at(env, 30*time.Second, func() {
		env.SignalWorkflow(contract.Recalibrate, contract.RecalibrateRequest{Who: "ada", Reason: "once more"})
	})
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Tenant: "org_42", Tuning: tuning})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, env.GetWorkflowError(), &again)
	require.Len(t, *runs, 1)
	var in contract.CalibrationInput
	require.NoError(t, dataConverter.FromPayloads(again.Input, &in))

	next, runs := calibrating(t, nil)
	next.ExecuteWorkflow(workflows.Calibration, in)
	require.NoError(t, next.GetWorkflowError())
	require.Len(t, *runs, 1)
	state := query[contract.CalibrationState](t, next)
	require.Equal(t, 2, state.Runs)
	require.Equal(t, "ada", state.Who)
	require.Equal(t, "org_42", state.Tenant)
}

func TestCalibrationRefusesABadTuning(t *testing.T) {
	env := newEnv(t, nil)
	bad := tuning
	bad.Limits.MaxHold = 0
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Tuning: bad})
	var application *temporal.ApplicationError
	require.ErrorAs(t, env.GetWorkflowError(), &application)
	require.Equal(t, contract.ErrBadInput, application.Type())
}
