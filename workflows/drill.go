package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/contract"
)

// Drill waits for its window, runs the drill and tells its report to the channel of drills. A tenant has one at a
// time, by its id; one that was started under another, as those of a schedule are, runs as a child under it.
func Drill(ctx workflow.Context, in contract.DrillInput) (contract.DrillResult, error) {
	in = in.WithDefaults()
	if err := in.Validate(); err != nil {
		return contract.DrillResult{}, invalid(err.Error())
	}
	if id := contract.DrillID(in.Tenant); workflow.GetInfo(ctx).WorkflowExecution.ID != id {
		return drillUnder(ctx, id, in)
	}
	d := &drill{in: in, state: contract.DrillState{Input: in, Phase: "starting"}}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.DrillState, error) { return d.state, nil }); err != nil {
		return contract.DrillResult{}, fmt.Errorf("registering the state query: %w", err)
	}
	return d.run(ctx)
}

// drillUnder runs the drill under the tenant's own id, unless one runs there.
func drillUnder(ctx workflow.Context, id string, in contract.DrillInput) (contract.DrillResult, error) {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: id, TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		WaitForCancellation: true, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		TypedSearchAttributes: keyAttributes(in.Key(), "", "starting"), StaticSummary: "a drill of " + in.Key().String(),
	})
	var result contract.DrillResult
	err := workflow.ExecuteChildWorkflow(ctx, contract.Drill, in).Get(ctx, &result)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return contract.DrillResult{
			Tenant: in.Tenant, Model: in.Model, Schedule: in.Schedule, Began: workflow.Now(ctx), Ended: workflow.Now(ctx),
			Verdict: contract.DrillAborted, Reason: contract.DrillOverlap,
		}, nil
	}
	return result, err
}

// drill is one drill of a tenant.
type drill struct {
	in      contract.DrillInput
	state   contract.DrillState
	visible attributes
}

func (d *drill) run(ctx workflow.Context) (contract.DrillResult, error) {
	until, err := d.await(ctx)
	if err != nil {
		return contract.DrillResult{}, err
	}
	d.publish(ctx, "running", until)
	err = workflow.ExecuteActivity(drilling(ctx, "strike "+d.in.Key().String()), drills.RunDrill, contract.DrillRequest{Input: d.in, Until: until}).Get(ctx, &d.state.Result)
	if err != nil {
		return contract.DrillResult{}, err
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx) // called off or not, what was seen is told
	d.publish(ctx, "ended", time.Time{})
	id := fmt.Sprintf("%s/%d", contract.DrillID(d.in.Tenant), d.state.Result.Began.Unix())
	if err := workflow.ExecuteActivity(telling(ctx, contract.NoticeReport), notify.Post, contract.Notice{
		Kind: contract.NoticeReport, ID: id, Incident: id, Seq: 1, Audience: contract.Drills, Key: d.in.Key(),
		Opened: d.state.Result.Began, At: workflow.Now(ctx), Title: d.state.Result.Title(), Text: d.state.Result.Markdown(),
	}).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("a drill's report could not be posted; its result has it", "error", err)
	}
	return d.state.Result, nil
}

// await waits for the window, and returns its end.
func (d *drill) await(ctx workflow.Context) (until time.Time, err error) {
	if d.in.Window == "" {
		return time.Time{}, nil
	}
	window, err := contract.ParseWindow(d.in.Window)
	if err != nil {
		return time.Time{}, invalid(err.Error())
	}
	from, until := window.Next(workflow.Now(ctx))
	if wait := from.Sub(workflow.Now(ctx)); wait > 0 {
		d.publish(ctx, "waiting", from)
		timer := workflow.NewTimerWithOptions(ctx, wait, workflow.TimerOptions{Summary: "the window " + d.in.Window + " UTC"})
		if err := timer.Get(ctx, nil); err != nil {
			return time.Time{}, err
		}
	}
	return until, nil
}

func (d *drill) publish(ctx workflow.Context, phase string, until time.Time) {
	d.state.Phase, d.state.Until = phase, until
	workflow.SetCurrentDetails(ctx, drillDetails(d.state))
	d.visible.set(ctx, attributes{State: phase})
}

// drilling is the context of a drill's activity. Its heart says where it stands.
func drilling(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 24 * time.Hour,
		HeartbeatTimeout:    activities.HeartbeatTimeout,
		WaitForCancellation: true, // so that it cleans up, and what it has seen comes back
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 10 * time.Second},
		Summary:             summary,
	})
}

func drillDetails(s contract.DrillState) string {
	var t text
	in := s.Input
	t.line("A drill of %s: %v, one after the other, at %.3g calls a second. Nobody is woken by it.", in.Key(), in.Faults, in.Rate)
	switch s.Phase {
	case "waiting":
		t.line("\nIt waits for its window, which begins at %s UTC.", s.Until.UTC().Format(time.DateTime))
	case "running":
		t.line("\nIt is under way; its pending activity's heartbeat says where it stands. Cancelling this workflow ends it and cleans up.")
	case "ended":
		t.line("")
		t.WriteString(s.Result.Markdown())
	}
	return t.String()
}
