package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/routing"
)

// ordered keeps the flag that stood before the decision's first order, and the one that its last left.
func (d *decision) ordered(r contract.SetFlagResult) {
	if d.state.FlagAfter == nil {
		d.state.FlagBefore = r.Before
	}
	d.state.FlagAfter = &r.Flag
}

// measureHourly measures a decision under way when the last measurement is an hour old. Nothing depends on it, so one
// that fails is left out.
func (d *decision) measureHourly(ctx workflow.Context) {
	last := d.state.Rollout.Started
	if d.measuredAt.After(last) {
		last = d.measuredAt
	}
	if d.state.Rollout.Phase == routing.Ended || workflow.Now(ctx).Sub(last) < d.in.Tuning.Scaled(contract.MeasureEvery) {
		return
	}
	// 1: before it, decisions were not measured.
	request, ok := d.state.Measure()
	if !ok || workflow.GetVersion(ctx, "measured-hourly", workflow.DefaultVersion, 1) < 1 {
		return
	}
	ctx = workflow.WithScheduleToCloseTimeout(measuring(ctx, "what has it been worth so far?"), evidenceWithin) // nobody watches meanwhile
	var measured effect.Effect
	err := workflow.ExecuteActivity(ctx, savings.MeasureDecision, request).Get(ctx, &measured)
	d.measuredAt = workflow.Now(ctx) // a store that is away is not asked again before its time: nobody watches meanwhile
	if err != nil {
		workflow.GetLogger(ctx).Warn("the decision could not be measured", "error", err)
		return
	}
	d.state.Measured = &measured
	d.journal.changed()
}

// measureLater has a decision that has touched calls measured once they are stored, which is after its end.
func (d *decision) measureLater(ctx workflow.Context) {
	// 1: before it, decisions were not measured.
	if _, ok := d.state.Measure(); !ok || workflow.GetVersion(ctx, "measured-after-its-end", workflow.DefaultVersion, 1) < 1 {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            contract.EffectsID(d.state.ID),
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowTaskTimeout:   contract.WorkflowTaskTimeout,
		TypedSearchAttributes: keyAttributes(d.in.Key, string(d.in.Finding.Verdict.Level), string(d.state.Status)),
		StaticSummary:         fmt.Sprintf("what %s of %s was worth", headline(d.in.Proposal.Action, d.in.Proposal.Value), d.in.Key),
	}), Effects, contract.EffectsInput{Decision: d.state})
	if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		workflow.GetLogger(ctx).Error("the decision will not be measured", "error", err)
	}
}

// Effects measures what a decision that has ended was worth, each time all of it anew, and puts it into its row:
// calls come late, so it does so several times (contract.MeasureAfter).
func Effects(ctx workflow.Context, in contract.EffectsInput) error {
	state := in.Decision
	request, ok := state.Measure()
	if !ok || request.Until.IsZero() {
		return invalid("only a decision that has touched calls, and does so no more, is measured at its end")
	}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.DecisionState, error) { return state, nil }); err != nil {
		return fmt.Errorf("registering the state query: %w", err)
	}
	for n, after := range contract.MeasureAfter {
		at := request.Until.Add(state.Input.Tuning.Scaled(after))
		workflow.SetCurrentDetails(ctx, effectsDetails(state, at))
		if err := workflow.NewTimerWithOptions(ctx, max(at.Sub(workflow.Now(ctx)), time.Millisecond), workflow.TimerOptions{
			Summary: fmt.Sprintf("measurement %d of %d", n+1, len(contract.MeasureAfter)),
		}).Get(ctx, nil); err != nil {
			return err
		}
		var measured effect.Effect
		if err := workflow.ExecuteActivity(measuring(ctx, "what was it worth?"), savings.MeasureDecision, request).Get(ctx, &measured); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			workflow.GetLogger(ctx).Error("the decision could not be measured", "decision", state.ID, "error", err)
			continue // the next one measures all of it anew
		}
		state.Measured = &measured
		if err := workflow.ExecuteActivity(doing(ctx, "put it into the decision's row"), telemetry.RecordDecision, state).Get(ctx, nil); err != nil {
			return fmt.Errorf("recording what %s was worth: %w", state.ID, err)
		}
	}
	workflow.SetCurrentDetails(ctx, effectsDetails(state, time.Time{}))
	return nil
}

func effectsDetails(s contract.DecisionState, next time.Time) string {
	var t text
	t.line("Measures what `%s` was worth, as calls that come late allow. All times are UTC.", s.ID)
	t.section("So far")
	t.line("%s", s.Measured.Text())
	if !next.IsZero() {
		t.section("What is next")
		t.line("It is measured at %s UTC.", next.UTC().Format(time.DateTime))
	}
	return t.String()
}
