package inbox

import (
	"context"
	"fmt"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Calibration is one as it stands, open or the last to have ended.
type Calibration struct {
	ID       string                    `json:"id"`
	Open     bool                      `json:"open"`
	State    contract.CalibrationState `json:"state"`
	Details  string                    `json:"details"` // its story as Markdown
	Answered bool                      `json:"answered"`
}

// Calibrations are the open ones, newest first; when none is open, the last that ended.
func (b *Inbox) Calibrations(ctx context.Context) ([]Calibration, error) {
	open, err := list(ctx, b, contract.Calibration, func(ctx context.Context, id string, _ *workflow.WorkflowExecutionInfo) Calibration {
		return b.calibration(ctx, id, true)
	})
	if err != nil || len(open) > 0 {
		return open, err
	}
	ended, err := b.listed(ctx, contract.Calibration, false)
	if err != nil || len(ended) == 0 {
		return nil, err
	}
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	return []Calibration{b.calibration(patient, ended[0].GetExecution().GetWorkflowId(), false)}, nil
}

func (b *Inbox) calibration(ctx context.Context, id string, open bool) Calibration {
	c := Calibration{ID: id, Open: open}
	if c.Answered = b.query(ctx, id, &c.State); c.Answered {
		var metadata sdk.WorkflowMetadata
		if b.ask(ctx, id, metadataQuery, &metadata) == nil {
			c.Details = metadata.GetCurrentDetails()
		}
	}
	return c
}

// Calibrate has a tenant's baselines, all with an empty one, or evaluators calibrated, by one that is started when none is
// open.
func (b *Inbox) Calibrate(ctx context.Context, in contract.CalibrationInput, r contract.RecalibrateRequest) (Outcome, error) {
	id := contract.CalibrationID(in.Tenant)
	if in.Evaluators {
		id = contract.EvaluatorsID
	}
	_, err := b.temporal.SignalWithStartWorkflow(ctx, id, contract.Recalibrate, r, client.StartWorkflowOptions{
		ID: id, TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
	}, contract.Calibration, in)
	if err != nil {
		return Outcome{}, explain(id, err)
	}
	return Outcome{ID: id, Answered: true}, nil
}

// DecideMoves gives a person's verdict on moves that wait, in whichever open calibrations they do. It returns how many moves
// the verdict was about.
func (b *Inbox) DecideMoves(ctx context.Context, r contract.DecideMovesRequest) (outcomes []Outcome, moves int, err error) {
	open, err := b.Calibrations(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, c := range open {
		about := 0
		if c.State.Drift != nil {
			for _, d := range c.State.Drift.Refused {
				if d.Verdict == "" && r.Of(d) {
					about++
				}
			}
		}
		if !c.Open || c.Answered && about == 0 {
			continue
		}
		answered, err := b.send(ctx, c.ID, request{update: contract.Decide, arg: r})
		if err != nil {
			return outcomes, moves, err
		}
		outcomes, moves = append(outcomes, Outcome{ID: c.ID, Answered: answered}), moves+about
	}
	if len(outcomes) == 0 {
		return nil, 0, fmt.Errorf("%w: no move of these waits for a person; flyball calibration show tells what does", ErrRefused)
	}
	return outcomes, moves, nil
}
