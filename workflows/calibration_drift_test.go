package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

// drifting drives a Calibration that finds moves beyond their bounds, of so many tenants.
type drifting struct {
	*testsuite.TestWorkflowEnvironment
	moved   []contract.MoveLevelsRequest
	notices []contract.Notice
	fails   error // of the next MoveLevels
	found   contract.DriftReport
}

func drifts(t *testing.T, tenants int) *drifting {
	env, _ := rebuilding(t, nil)
	d := &drifting{TestWorkflowEnvironment: env}
	for n := range tenants {
		d.found.Refused = append(d.found.Refused, contract.LevelDrift{
			Key: usage.Key{Tenant: fmt.Sprint("org_", n), Model: "m"}, Measure: contract.CostMeasure, From: 20, To: 20.5, Bound: 0.22, Since: start.AddDate(0, -1, 0),
		})
	}
	d.found.Compared = 9
	env.OnActivity("MeasureDrift", anyArgs()...).Return(func(_ context.Context, r contract.DriftRequest) (contract.DriftReport, error) {
		require.Equal(t, contract.DefaultBounds, r.Bounds)
		require.Equal(t, tuning.Limits.Minimums.Buckets, r.Buckets)
		report := d.found
		report.Refused = append([]contract.LevelDrift(nil), d.found.Refused...)
		return report, nil
	})
	env.OnActivity("MoveLevels", anyArgs()...).After(time.Minute).Return(func(_ context.Context, r contract.MoveLevelsRequest) error {
		if d.fails != nil {
			err := d.fails
			d.fails = nil
			return err
		}
		d.moved = append(d.moved, r)
		return nil
	}).Maybe()
	env.OnActivity("Post", anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		d.notices = append(d.notices, n)
		return contract.PostResult{}, nil
	}).Maybe()
	return d
}

func (d *drifting) run(t *testing.T) contract.CalibrationState {
	d.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Tuning: tuning})
	require.True(t, d.IsWorkflowCompleted())
	require.NoError(t, d.GetWorkflowError())
	return query[contract.CalibrationState](t, d.TestWorkflowEnvironment)
}

func verdict(verdict, tenant string) contract.DecideMovesRequest {
	return contract.DecideMovesRequest{Verdict: verdict, Tenant: tenant, Who: "ada", Reason: "longer prompts"}
}

// A move is approved, another denied by a signal, and the third by an update for all that is left.
func TestCalibrationMovesLevelsThatPeopleApprove(t *testing.T) {
	d := drifts(t, 3)
	var approved, twice, bad, rest *outcome
	at(d.TestWorkflowEnvironment, time.Hour, func() {
		require.Contains(t, details(t, d.TestWorkflowEnvironment), "Moves that wait for a person, until 2026-03-08")
		approved = update(d.TestWorkflowEnvironment, contract.Decide, "1", verdict(contract.Approve, "org_0"))
		twice = update(d.TestWorkflowEnvironment, contract.Decide, "2", verdict(contract.Deny, "org_0"))
		bad = update(d.TestWorkflowEnvironment, contract.Decide, "3", verdict("perhaps", ""))
	})
	at(d.TestWorkflowEnvironment, 2*time.Hour, func() {
		d.SignalWorkflow(contract.Decide, contract.DecideMovesRequest{Verdict: contract.Deny}) // without a name: nothing
		d.SignalWorkflow(contract.Decide, verdict(contract.Deny, "org_1"))
	})
	at(d.TestWorkflowEnvironment, 3*time.Hour, func() { rest = update(d.TestWorkflowEnvironment, contract.Decide, "4", verdict(contract.Approve, "")) })
	state := d.run(t)
	require.NoError(t, approved.err)
	require.ErrorContains(t, errors.Join(twice.rejected, twice.err), "no move of these waits")
	require.ErrorContains(t, bad.rejected, "must be approve or deny")
	require.NoError(t, rest.err)
	require.Len(t, d.moved, 2)
	require.Len(t, d.moved[0].Levels, 1)
	require.Equal(t, contract.Level{
		Key: d.found.Refused[0].Key, Measure: contract.CostMeasure, At: start.Add(time.Hour), Value: 20.5, Bound: contract.DefaultBounds.Of(contract.CostMeasure),
		By: "ada", Reason: "longer prompts",
	}, d.moved[0].Levels[0])
	require.Equal(t, "org_0", d.moved[0].Recalibrate.Tenant)
	require.Equal(t, "org_2", d.moved[1].Levels[0].Key.Tenant)
	require.Zero(t, state.Drift.Open())
	require.Zero(t, state.Expired)
	require.Len(t, d.notices, 1)
	require.Equal(t, contract.Findings, d.notices[0].For())
	require.Equal(t, "3 baselines would move beyond their bound", d.notices[0].Title)
	require.Contains(t, d.notices[0].Text, "org_1/m**: cost of a call × 1.65 since 2026-02-02, refused")
	require.Contains(t, details(t, d.TestWorkflowEnvironment), "held, denied by ada")
}

// Nobody answers: what is held stays held, and the calibration ends before the next weekly one.
func TestCalibrationEndsWithoutAnAnswer(t *testing.T) {
	d := drifts(t, 2)
	state := d.run(t)
	require.Equal(t, 2, state.Expired)
	require.Empty(t, d.moved)
	open := d.Now().Sub(start)
	require.Greater(t, open, 6*24*time.Hour)
	require.Less(t, open, 7*24*time.Hour)
}

// A run that is asked for meanwhile asks anew, tells of nothing twice, and forgets no denial.
func TestCalibrationAsksAnew(t *testing.T) {
	d := drifts(t, 2)
	at(d.TestWorkflowEnvironment, time.Hour, func() { update(d.TestWorkflowEnvironment, contract.Decide, "1", verdict(contract.Deny, "org_0")) })
	at(d.TestWorkflowEnvironment, 48*time.Hour, func() { d.SignalWorkflow(contract.Recalibrate, contract.RecalibrateRequest{Who: "bob"}) })
	at(d.TestWorkflowEnvironment, 49*time.Hour, func() {
		state := query[contract.CalibrationState](t, d.TestWorkflowEnvironment)
		require.Equal(t, 2, state.Runs)
		require.Equal(t, 1, state.Drift.Open())
		require.True(t, state.Expires.After(start.Add(7*24*time.Hour)), "the newest question's own time")
	})
	state := d.run(t)
	require.Equal(t, 1, state.Expired)
	require.Len(t, d.notices, 1)
	require.Greater(t, d.Now().Sub(start), 8*24*time.Hour)
}

// A move that cannot be stored waits again.
func TestCalibrationKeepsAMoveThatFails(t *testing.T) {
	d := drifts(t, 1)
	d.fails = temporal.NewNonRetryableApplicationError("ClickHouse is full", contract.ErrBadInput, nil)
	var failed, again *outcome
	at(d.TestWorkflowEnvironment, time.Hour, func() {
		failed = update(d.TestWorkflowEnvironment, contract.Decide, "1", verdict(contract.Approve, ""))
	})
	at(d.TestWorkflowEnvironment, 2*time.Hour, func() {
		require.ErrorContains(t, failed.err, "ClickHouse is full")
		require.Equal(t, 1, query[contract.CalibrationState](t, d.TestWorkflowEnvironment).Drift.Open())
		again = update(d.TestWorkflowEnvironment, contract.Decide, "2", verdict(contract.Approve, ""))
	})
	d.run(t)
	require.NoError(t, again.err)
	require.Len(t, d.moved, 1)
}

func TestCalibrationWhoseDriftCannotBeMeasured(t *testing.T) {
	env, _ := rebuilding(t, nil)
	env.OnActivity("MeasureDrift", anyArgs()...).Return(contract.DriftReport{}, errors.New("ClickHouse is away"))
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{})
	require.NoError(t, env.GetWorkflowError())
	state := query[contract.CalibrationState](t, env)
	require.Contains(t, state.Failed, "ClickHouse is away")
	require.Equal(t, 12, state.Baselines, "the baselines are there")
}

func TestCalibrationOfEvaluators(t *testing.T) {
	for _, fails := range []bool{true, false} {
		env, runs := rebuilding(t, nil)
		var notices []contract.Notice
		env.OnActivity("JudgeEvaluators", anyArgs()...).Return([]contract.EvaluatorDrift{{
			EvaluatorVersion: contract.EvaluatorVersion{Evaluator: "helpfulness", Version: "1"}, Standing: contract.Failing, Failed: fails,
			Verdict: calibrate.Fails, Text: "Spearman 0.41",
		}, {EvaluatorVersion: contract.EvaluatorVersion{Evaluator: "tone"}, Standing: contract.Counting, Text: "passes"}}, nil)
		tries := 0
		env.OnActivity("Post", anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
			if tries++; tries < 4 {
				return contract.PostResult{}, errors.New("Slack is away")
			}
			notices = append(notices, n)
			return contract.PostResult{}, nil
		})
		env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Evaluators: true})
		require.NoError(t, env.GetWorkflowError())
		require.Empty(t, *runs)
		require.Len(t, notices, 1, "somebody is told, however long the channel was away")
		require.Equal(t, contract.Findings, notices[0].For())
		if fails {
			require.Equal(t, "Evaluators do not agree with people any more: helpfulness 1", notices[0].Title)
			require.Contains(t, notices[0].Text, "pages nobody")
		}
		require.NotContains(t, notices[0].Text, "tone")
		require.Contains(t, details(t, env), "| helpfulness 1 | failing | Spearman 0.41 |")
	}
	env := newEnv(t, nil)
	env.ExecuteWorkflow(workflows.Calibration, contract.CalibrationInput{Evaluators: true, Tenant: "org_42"})
	require.ErrorContains(t, env.GetWorkflowError(), "over all tenants")
}

// A look that comes while an approved move is being stored does not ask about it again; when the move fails, it waits
// again in the report that is there by then.
func TestCalibrationLooksWhileAMoveIsStored(t *testing.T) {
	for name, fails := range map[string]error{"stored": nil, "failed": temporal.NewNonRetryableApplicationError("no", "x", nil)} {
		t.Run(name, func(t *testing.T) {
			d := drifts(t, 2)
			d.fails = fails
			at(d.TestWorkflowEnvironment, time.Hour, func() { update(d.TestWorkflowEnvironment, contract.Decide, "1", verdict(contract.Approve, "org_0")) })
			at(d.TestWorkflowEnvironment, time.Hour-30*time.Second, func() { d.SignalWorkflow(contract.Recalibrate, contract.RecalibrateRequest{Who: "bob"}) })
			at(d.TestWorkflowEnvironment, time.Hour+50*time.Second, func() {
				state := query[contract.CalibrationState](t, d.TestWorkflowEnvironment)
				require.Equal(t, 2, state.Runs)
				require.Equal(t, 1, state.Drift.Open(), "the other one alone")
			})
			at(d.TestWorkflowEnvironment, 2*time.Hour, func() {
				open := 1
				if fails != nil {
					open = 2
				}
				require.Equal(t, open, query[contract.CalibrationState](t, d.TestWorkflowEnvironment).Drift.Open())
			})
			d.run(t)
		})
	}
}
