package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// comparedWith is the length of the time before an incident that it is compared with: near enough to have the same
// traffic, and long enough that a busy minute does not make it.
const comparedWith = time.Hour

// compared are the times that an incident's evidence compares, in whole minutes: from where the finding that opened it
// began to look until now, and the hour before that.
func compared(r contract.EvidenceRequest, now time.Time) runbook.Times {
	window := r.WindowMinutes
	if window <= 0 {
		window = int64(detect.Windows[len(detect.Windows)-1])
	}
	from := r.Opened.UTC().Add(-time.Duration(window) * time.Minute).Truncate(time.Minute)
	to := now.UTC().Truncate(time.Minute)
	if !to.After(from) {
		to = from.Add(time.Minute)
	}
	return runbook.Times{Before: from.Add(-comparedWith), From: from, To: to}
}

// AttributeRise splits what changed in a key's traffic, since its incident began, over the served models and prompt
// templates; of a pseudo-key over the requested models too.
func (t *Telemetry) AttributeRise(ctx context.Context, r contract.EvidenceRequest) (runbook.Attribution, error) {
	times := compared(r, time.Now())
	flows, err := t.Evidence.Flows(ctx, r.Key, times)
	if err != nil {
		return runbook.Attribution{}, err
	}
	dimensions := []string{runbook.ByTemplate, runbook.ByModel}
	if r.Key.Pseudo() {
		dimensions = append([]string{runbook.ByRequested}, dimensions...)
	}
	a, err := runbook.Attribute(times, dimensions, flows)
	if err != nil {
		return runbook.Attribution{}, badInput(fmt.Sprintf("the rise of %s cannot be split: %v", r.Key, err), err)
	}
	return a, nil
}

// AttributeShift finds the model that the callers of a pseudo-key's tenant turned to, if that explains its incident.
func (t *Telemetry) AttributeShift(ctx context.Context, r contract.EvidenceRequest) (runbook.Shift, error) {
	if !r.Key.Pseudo() || r.Key == usage.Everything {
		return runbook.Shift{}, badInput(r.Key.String()+" is no tenant's pseudo-key: its finding names its model already", nil)
	}
	times := compared(r, time.Now())
	flows, err := t.Evidence.Flows(ctx, r.Key, times)
	if err != nil {
		return runbook.Shift{}, err
	}
	shift, err := runbook.JudgeShift(times, flows)
	if err != nil {
		return runbook.Shift{}, badInput(fmt.Sprintf("the shift of %s cannot be judged: %v", r.Key, err), err)
	}
	return shift, nil
}

// PastIncident is what the key's last incident before this one has to teach; nil when it had none.
func (t *Telemetry) PastIncident(ctx context.Context, r contract.EvidenceRequest) (*contract.PastIncident, error) {
	return t.Evidence.PastIncident(ctx, r.Key, r.Opened)
}

// AcceptLevel makes a key's level its usual one. A key without one is a refusal, which no retry mends.
func (t *Telemetry) AcceptLevel(ctx context.Context, r contract.AcceptLevelActivityRequest) (contract.AcceptLevelResult, error) {
	level, err := t.Baselines.AcceptLevel(ctx, r.Key, r.At, r.Who, r.Reason, r.Minimums)
	if errors.Is(err, clickhouse.ErrNoLevel) {
		return contract.AcceptLevelResult{}, temporal.NewNonRetryableApplicationError(err.Error(), contract.ErrRefused, err)
	}
	return contract.AcceptLevelResult{Baseline: level}, err
}

// Recalibrate computes baselines anew, and returns how many it stored.
func (t *Telemetry) Recalibrate(ctx context.Context, r contract.RecalibrateActivityRequest) (int, error) {
	if r.Tenant == "" {
		return t.Baselines.RebuildBaselines(ctx, r.At, r.Minimums)
	}
	return t.Baselines.RebuildTenant(ctx, r.Tenant, r.At, r.Minimums)
}
