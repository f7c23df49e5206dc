package activities

import (
	"context"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/drift"
)

// LevelStore keeps where keys and evaluators were calibrated: package clickhouse.
type LevelStore interface {
	Levels(ctx context.Context, tenant string, at time.Time) ([]contract.Level, error)
	DrawnLevels(ctx context.Context, tenant string, at time.Time, buckets int) ([]contract.DrawnLevel, error)
	SetLevels(ctx context.Context, levels []contract.Level) error
	HumanPairs(ctx context.Context, q contract.HumanPairsQuery) ([]contract.RatedScore, error)
	EvaluatorHistory(ctx context.Context) ([]contract.EvaluatorRecord, error)
	SetEvaluators(ctx context.Context, records []contract.EvaluatorRecord) error
}

// MeasureDrift compares keys' levels with those where they were calibrated, and stores what no person has to be asked
// about: first levels, and moves that people's ratings confirm. The same time again stores the same rows.
func (t *Telemetry) MeasureDrift(ctx context.Context, r contract.DriftRequest) (contract.DriftReport, error) {
	var known drift.Known
	var err error
	if known.Levels, err = t.Levels.Levels(ctx, r.Tenant, r.At.Add(-time.Millisecond)); err != nil { // none of this run's own
		return contract.DriftReport{}, err
	}
	if known.Drawn, err = t.Levels.DrawnLevels(ctx, r.Tenant, r.At, r.Buckets); err != nil {
		return contract.DriftReport{}, err
	}
	if known.Rated, err = t.Levels.HumanPairs(ctx, contract.HumanPairsQuery{Tenant: r.Tenant, From: r.At.Add(-drift.Window), To: r.At}); err != nil {
		return contract.DriftReport{}, err
	}
	if known.History, err = t.Levels.EvaluatorHistory(ctx); err != nil {
		return contract.DriftReport{}, err
	}
	report, store := drift.Levels(known, r.Bounds, r.At)
	if len(store) == 0 {
		return report, nil
	}
	return report, t.Levels.SetLevels(ctx, store)
}

// MoveLevels stores levels that a person has approved, and has baselines follow at once.
func (t *Telemetry) MoveLevels(ctx context.Context, r contract.MoveLevelsRequest) error {
	if err := t.Levels.SetLevels(ctx, r.Levels); err != nil {
		return err
	}
	_, err := t.Recalibrate(ctx, r.Recalibrate)
	return err
}

// JudgeEvaluators compares every evaluator with people, and stores which of them fail, and how the others' scores are
// brought back to their anchor.
func (t *Telemetry) JudgeEvaluators(ctx context.Context, r contract.EvaluatorsRequest) ([]contract.EvaluatorDrift, error) {
	history, err := t.Levels.EvaluatorHistory(ctx)
	if err != nil {
		return nil, err
	}
	rated, err := t.Levels.HumanPairs(ctx, contract.HumanPairsQuery{From: r.At.Add(-drift.Window), To: r.At})
	if err != nil {
		return nil, err
	}
	found, store := drift.Evaluators(rated, history, r.At)
	if len(store) == 0 {
		return found, nil
	}
	return found, t.Levels.SetEvaluators(ctx, store)
}
