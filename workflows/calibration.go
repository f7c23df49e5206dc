package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Calibration computes baselines anew and says how far keys have drifted since they were calibrated: once as it starts, and
// once more for every request that comes while it runs, those that come during one run together. With Evaluators it judges
// evaluators against people instead. It completes when nobody has asked for another run and no move waits for a person.
func Calibration(ctx workflow.Context, in contract.CalibrationInput) (contract.CalibrationResult, error) {
	c, err := newCalibration(ctx, in)
	if err != nil {
		return contract.CalibrationResult{}, err
	}
	return c.run(ctx)
}

type calibration struct {
	in      contract.CalibrationInput
	state   contract.CalibrationState
	visible attributes
	wanted  *contract.RecalibrateRequest // the newest request that no run has answered
	ran     bool                         // in this run of the workflow
	signals workflow.ReceiveChannel
	moves   movesAsked
}

func newCalibration(ctx workflow.Context, in contract.CalibrationInput) (*calibration, error) {
	if in.Tuning == (contract.Tuning{}) { // started by hand with {}
		in.Tuning = contract.NewTuning(1)
	}
	if in.Bounds == (contract.Bounds{}) {
		in.Bounds = contract.DefaultBounds
	}
	if err := errors.Join(in.Tuning.Validate(), in.Bounds.Validate()); err != nil {
		return nil, invalid(err.Error())
	}
	if in.Evaluators && in.Tenant != "" {
		return nil, invalid("evaluators are judged over all tenants: leave tenant or evaluators out")
	}
	c := &calibration{
		in: in, state: contract.CalibrationState{Tenant: in.Tenant, Judges: in.Evaluators}, signals: workflow.GetSignalChannel(ctx, contract.Recalibrate),
		wanted: &contract.RecalibrateRequest{Reason: "it was started"},
	}
	if in.State != nil { // continued as new, for a request that the state tells of
		c.state, c.wanted = *in.State, &contract.RecalibrateRequest{Who: in.State.Who, Reason: in.State.Why}
	}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.CalibrationState, error) { return c.state, nil }); err != nil {
		return nil, fmt.Errorf("registering the state query: %w", err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.Recalibrate, c.recalibrate, workflow.UpdateHandlerOptions{
		Validator: checkRecalibrate, Description: "Compute the baselines once more, and answer when that is done: {who, reason}.",
	}); err != nil {
		return nil, fmt.Errorf("registering %s: %w", contract.Recalibrate, err)
	}
	if err := c.askForVerdicts(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// run computes for as long as somebody wants it. A signal that comes with the start is the reason of the
// first run, not a second one.
func (c *calibration) run(ctx workflow.Context) (contract.CalibrationResult, error) {
	for {
		for c.receive() || c.receiveVerdict(ctx) {
		}
		switch {
		case c.wanted != nil && c.ran && workflow.GetInfo(ctx).GetContinueAsNewSuggested() && c.moves.telling == 0 && workflow.AllHandlersFinished(ctx):
			state := c.state
			state.Who, state.Why = c.wanted.Who, c.wanted.Reason
			return contract.CalibrationResult{}, workflow.NewContinueAsNewError(ctx, Calibration, contract.CalibrationInput{
				Tenant: c.in.Tenant, Tuning: c.in.Tuning, Bounds: c.in.Bounds, Evaluators: c.in.Evaluators, State: &state,
			})
		case c.wanted != nil:
			if err := c.compute(ctx); err != nil {
				return contract.CalibrationResult{}, err
			}
			continue
		}
		c.moves.expire(ctx, c)
		if err := workflow.Await(ctx, func() bool {
			return c.called() || c.moves.alarm.rang() || !c.open() && c.moves.telling == 0 && workflow.AllHandlersFinished(ctx)
		}); err != nil {
			return contract.CalibrationResult{}, err
		}
		if !c.called() && !c.open() && c.moves.telling == 0 && workflow.AllHandlersFinished(ctx) {
			return contract.CalibrationResult{Runs: c.state.Runs}, nil
		}
	}
}

// called reports whether somebody wants something.
func (c *calibration) called() bool {
	return c.wanted != nil || c.signals.Len() > 0 || c.moves.signals.Len() > 0
}

// receive takes one signal of those that wait.
func (c *calibration) receive() bool {
	var r contract.RecalibrateRequest
	if !c.signals.ReceiveAsync(&r) {
		return false
	}
	c.wanted = &r // one without a name too: a recalibration does no harm, and tctl users may send {}
	return true
}

// computeWithin bounds one run over all keys, and its retries.
const (
	computeOnce   = 10 * time.Minute
	computeWithin = time.Hour
)

// compute has the baselines computed. One that fails for an hour is given up and says so: the hourly job goes
// on with the old ones, and the next request tries again.
func (c *calibration) compute(ctx workflow.Context) error {
	r := *c.wanted
	c.wanted = nil
	c.state.Who, c.state.Why = r.Who, r.Reason
	c.publish(ctx, "running")
	var err error
	if c.in.Evaluators {
		err = c.judgeEvaluators(ctx)
	} else {
		err = c.computeBaselines(calculating(ctx, "compute the baselines anew"))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.ran = true
	c.state.Runs++
	c.state.At, c.state.Failed = workflow.Now(ctx), ""
	if err != nil {
		c.state.Failed = err.Error()
		workflow.GetLogger(ctx).Error("the calibration failed", "tenant", c.in.Tenant, "error", err)
	}
	c.rest(ctx)
	return nil
}

// computeBaselines computes them and, but in a history from before drift was measured, compares them with where they were
// calibrated.
func (c *calibration) computeBaselines(ctx workflow.Context) error {
	var baselines int
	if err := workflow.ExecuteActivity(ctx, telemetry.Recalibrate, c.recalibration(ctx, c.in.Tenant)).Get(ctx, &baselines); err != nil {
		return err
	}
	c.state.Baselines = baselines
	if workflow.GetVersion(ctx, "calibration-drift", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return nil
	}
	return c.measureDrift(ctx)
}

func (c *calibration) recalibration(ctx workflow.Context, tenant string) contract.RecalibrateActivityRequest {
	return contract.RecalibrateActivityRequest{Tenant: tenant, Minimums: c.in.Tuning.Limits.Minimums, At: workflow.Now(ctx)}
}

// calculating is the context of a calculation over all keys. One that fails for an hour is given up.
func calculating(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: computeOnce, ScheduleToCloseTimeout: computeWithin,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: time.Minute},
		Summary:     summary,
	})
}

func checkRecalibrate(r contract.RecalibrateRequest) error {
	if r.Who == "" {
		return invalid("say who wants the baselines computed anew (who)")
	}
	return nil
}

// recalibrate has them computed once more and answers with what came of it: a run that is under way already
// may have read its facts before the request, so the next one answers.
func (c *calibration) recalibrate(ctx workflow.Context, r contract.RecalibrateRequest) (contract.CalibrationState, error) {
	c.wanted = &r
	err := workflow.Await(ctx, func() bool { return c.wanted == nil })
	if err != nil {
		return contract.CalibrationState{}, err
	}
	runs := c.state.Runs
	if err := workflow.Await(ctx, func() bool { return c.state.Runs > runs }); err != nil {
		return contract.CalibrationState{}, err
	}
	return c.state, nil
}

// rest shows that no run is under way, and whether a person is asked.
func (c *calibration) rest(ctx workflow.Context) {
	if c.open() {
		c.publish(ctx, string(contract.AwaitingApproval))
	} else {
		c.publish(ctx, "idle")
	}
}

func (c *calibration) publish(ctx workflow.Context, state string) {
	c.visible.set(ctx, attributes{State: state})
	workflow.SetCurrentDetails(ctx, calibrationDetails(c.state))
}
