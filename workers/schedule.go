package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
)

// scheduleCalibration has every tenant's baselines computed anew each week, in the night from Sunday to Monday
// (UTC), when little depends on them. One that is there already goes on, with the tuning of now.
func scheduleCalibration(ctx context.Context, o Options) error {
	action := &client.ScheduleWorkflowAction{
		ID: contract.CalibrationID(""), Workflow: contract.Calibration, TaskQueue: contract.TaskQueue,
		WorkflowTaskTimeout: contract.WorkflowTaskTimeout, StaticSummary: "computes all baselines anew",
		Args: []any{contract.CalibrationInput{Tuning: o.Tuning}},
	}
	schedules := o.Client.ScheduleClient()
	_, err := schedules.Create(ctx, client.ScheduleOptions{
		ID: contract.CalibrationSchedule, Action: action, Overlap: enums.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: 24 * time.Hour,
		Spec: client.ScheduleSpec{Calendars: []client.ScheduleCalendarSpec{{
			DayOfWeek: []client.ScheduleRange{{Start: 1}}, Hour: []client.ScheduleRange{{Start: 3}}, Comment: "Mondays, 03:00 UTC",
		}}},
	})
	if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		err = schedules.GetHandle(ctx, contract.CalibrationSchedule).Update(ctx, client.ScheduleUpdateOptions{
			DoUpdate: func(have client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
				have.Description.Schedule.Action = action
				return &client.ScheduleUpdate{Schedule: &have.Description.Schedule}, nil
			},
		})
	}
	if err != nil {
		return fmt.Errorf("scheduling %s: %w", contract.CalibrationSchedule, err)
	}
	return nil
}
