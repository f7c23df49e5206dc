package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Calibration computes baselines anew: once as it starts, and once more for every request that comes while it
// runs, those that come during one run together. It completes when nobody has asked for another.
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
}

func newCalibration(ctx workflow.Context, in contract.CalibrationInput) (*calibration, error) {
	if in.Tuning == (contract.Tuning{}) { // started by hand with {}
		in.Tuning = contract.NewTuning(1)
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	c := &calibration{
		in: in, state: contract.CalibrationState{Tenant: in.Tenant}, signals: workflow.GetSignalChannel(ctx, contract.Recalibrate),
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
	return c, nil
}

// run computes for as long as somebody wants it. A signal that comes with the start is the reason of the
// first run, not a second one.
func (c *calibration) run(ctx workflow.Context) (contract.CalibrationResult, error) {
	for {
		for c.receive() {
		}
		switch {
		case c.wanted != nil && c.ran && workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx):
			state := c.state
			state.Who, state.Why = c.wanted.Who, c.wanted.Reason
			return contract.CalibrationResult{}, workflow.NewContinueAsNewError(ctx, Calibration, contract.CalibrationInput{Tenant: c.in.Tenant, Tuning: c.in.Tuning, State: &state})
		case c.wanted != nil:
			if err := c.compute(ctx); err != nil {
				return contract.CalibrationResult{}, err
			}
			continue
		}
		if err := workflow.Await(ctx, func() bool { return c.wanted != nil || c.signals.Len() > 0 || workflow.AllHandlersFinished(ctx) }); err != nil {
			return contract.CalibrationResult{}, err
		}
		if c.wanted == nil && c.signals.Len() == 0 {
			return contract.CalibrationResult{Runs: c.state.Runs}, nil
		}
	}
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
	options := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: computeOnce, ScheduleToCloseTimeout: computeWithin,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: time.Minute},
		Summary:     "compute the baselines anew",
	})
	var baselines int
	err := workflow.ExecuteActivity(options, telemetry.Recalibrate, contract.RecalibrateActivityRequest{
		Tenant: c.in.Tenant, Minimums: c.in.Tuning.Limits.Minimums, At: workflow.Now(ctx),
	}).Get(ctx, &baselines)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.ran = true
	c.state.Runs++
	c.state.At, c.state.Failed = workflow.Now(ctx), ""
	if err != nil {
		c.state.Failed = err.Error()
		workflow.GetLogger(ctx).Error("the baselines could not be computed", "tenant", c.in.Tenant, "error", err)
	} else {
		c.state.Baselines = baselines
	}
	c.publish(ctx, "idle")
	return nil
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

func (c *calibration) publish(ctx workflow.Context, state string) {
	c.visible.set(ctx, attributes{State: state})
	workflow.SetCurrentDetails(ctx, calibrationDetails(c.state))
}
