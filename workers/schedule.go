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

// scheduleCalibrations has every tenant's baselines computed anew, and compared with where they were calibrated, each week
// in the night from Sunday to Monday (UTC), when little depends on them; and evaluators judged against people on the first of each
// month. Schedules that are there already go on, with the tuning of now.
func scheduleCalibrations(ctx context.Context, o Options) error {
	return errors.Join(
		schedule(ctx, o, contract.CalibrationSchedule, &client.ScheduleWorkflowAction{
			Workflow: contract.Calibration, ID: contract.CalibrationID(""), StaticSummary: "computes all baselines anew, and says how far keys have drifted",
			Args: []any{contract.CalibrationInput{Tuning: o.Tuning, Bounds: contract.DefaultBounds}},
		}, client.ScheduleCalendarSpec{
			DayOfWeek: []client.ScheduleRange{{Start: 1}}, Hour: []client.ScheduleRange{{Start: 3}}, Comment: "Mondays, 03:00 UTC",
		}),
		schedule(ctx, o, contract.EvaluatorsSchedule, &client.ScheduleWorkflowAction{
			Workflow: contract.Calibration, ID: contract.EvaluatorsID, StaticSummary: "judges evaluators against people's ratings",
			Args: []any{contract.CalibrationInput{Tuning: o.Tuning, Evaluators: true}},
		}, client.ScheduleCalendarSpec{
			DayOfMonth: []client.ScheduleRange{{Start: 1}}, Hour: []client.ScheduleRange{{Start: 4}}, Comment: "the first of each month, 04:00 UTC",
		}),
	)
}

// scheduleTraining has the predictor of quality judged, and the next version trained, each week, after the calibration by
// which scores count. Each hour the version in use is watched: one that has come to be worse must not act for a week.
func scheduleTraining(ctx context.Context, o Options) error {
	return errors.Join(schedule(ctx, o, contract.RouterTrainingSchedule, &client.ScheduleWorkflowAction{
		Workflow: contract.RouterTraining, ID: contract.RouterTrainingID, StaticSummary: "judges the predictor of quality, and trains the next version",
		Args: []any{contract.RouterTrainingInput{}},
	}, client.ScheduleCalendarSpec{
		DayOfWeek: []client.ScheduleRange{{Start: 1}}, Hour: []client.ScheduleRange{{Start: 5}}, Comment: "Mondays, 05:00 UTC",
	}), schedule(ctx, o, contract.RouterWatchSchedule, &client.ScheduleWorkflowAction{
		Workflow: contract.RouterTraining, ID: contract.RouterWatchID, StaticSummary: "rolls the predictor of quality back, should it have come to be worse",
		Args: []any{contract.RouterTrainingInput{Watch: true}},
	}, client.ScheduleCalendarSpec{
		Hour: []client.ScheduleRange{{Start: 0, End: 23}}, Minute: []client.ScheduleRange{{Start: 37}}, Comment: "each hour, at 37 past",
	}))
}

// schedule has a workflow started by the calendar. A run that is due while the last one is open is skipped: a calibration's
// questions end before then.
func schedule(ctx context.Context, o Options, id string, action *client.ScheduleWorkflowAction, calendar client.ScheduleCalendarSpec) error {
	action.TaskQueue, action.WorkflowTaskTimeout = contract.TaskQueue, contract.WorkflowTaskTimeout
	schedules := o.Client.ScheduleClient()
	_, err := schedules.Create(ctx, client.ScheduleOptions{
		ID: id, Action: action, Overlap: enums.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: 24 * time.Hour,
		Spec: client.ScheduleSpec{Calendars: []client.ScheduleCalendarSpec{calendar}},
	})
	if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		err = schedules.GetHandle(ctx, id).Update(ctx, client.ScheduleUpdateOptions{
			DoUpdate: func(have client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
				have.Description.Schedule.Action = action
				return &client.ScheduleUpdate{Schedule: &have.Description.Schedule}, nil
			},
		})
	}
	if err != nil {
		return fmt.Errorf("scheduling %s: %w", id, err)
	}
	return nil
}
