package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

var levelsTable = table{"calibrated_levels", []column{
	{"tenant_id", symbol},
	{"model", symbol},
	{"measure", symbol},
	{"calibrated_at", instant},
	{"level", "Float64"},
	{"bound", "Float64"},
	{"rated", "UInt32"},
	{"human_mean", "Float64"},
	{"human_sd", "Float64"},
	{"residual_mean", "Float64"},
	{"residual_sd", "Float64"},
	{"by", "String"},
	{"reason", "String"},
}}

// SetLevels stores where keys' baselines were calibrated: all of them or none. The same key, measure and time again
// replaces. The next rebuild holds baselines within them.
func (s *Store) SetLevels(ctx context.Context, levels []contract.Level) error {
	if err := s.insert(ctx, levelsTable, "", len(levels), func(i int) []any {
		l := &levels[i]
		human, residual := l.Ratings.Human, l.Ratings.Residual
		return []any{
			l.Key.Tenant, l.Key.Model, string(l.Measure), millis(l.At), l.Value, l.Bound,
			uint32(human.N), human.Mean, human.SD, residual.Mean, residual.SD, l.By, l.Reason,
		}
	}); err != nil {
		return fmt.Errorf("storing calibrated levels: %w", err)
	}
	return nil
}

// Levels returns the latest calibrated level of each key and measure by a time, those of one tenant or, with an empty one,
// of all, by key and measure.
func (s *Store) Levels(ctx context.Context, tenant string, at time.Time) ([]contract.Level, error) {
	ofTenant, args := baselineQuery{Tenant: tenant}.ofTenant()
	levels, err := collect(ctx, s, `SELECT tenant_id, model, measure, calibrated_at, level, bound, rated, human_mean, human_sd, residual_mean, residual_sd, `+"`by`"+`, reason
FROM calibrated_levels FINAL
WHERE calibrated_at <= {at:DateTime64(3, 'UTC')}`+ofTenant+`
ORDER BY tenant_id, model, measure, calibrated_at DESC LIMIT 1 BY tenant_id, model, measure`, append(args, ch.Named("at", millis(at))),
		func(rows driver.Rows, l *contract.Level) error {
			var rated uint32
			human, residual := &l.Ratings.Human, &l.Ratings.Residual
			err := rows.Scan(&l.Key.Tenant, &l.Key.Model, (*string)(&l.Measure), &l.At, &l.Value, &l.Bound,
				&rated, &human.Mean, &human.SD, &residual.Mean, &residual.SD, &l.By, &l.Reason)
			l.At, human.N, residual.N = l.At.UTC(), int(rated), int(rated)
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("reading calibrated levels: %w", err)
	}
	return levels, nil
}

// DrawnLevels returns where the keys' baselines of the last day lie by their buckets alone, of those with at least so many
// buckets, by key and measure: the median of the hours, which takes the time of day out.
func (s *Store) DrawnLevels(ctx context.Context, tenant string, at time.Time, buckets int) ([]contract.DrawnLevel, error) {
	ofTenant, args := baselineQuery{Tenant: tenant}.ofTenant()
	args = append(args, ch.Named("at", at.UTC().Truncate(time.Hour)), ch.Named("from", at.UTC().Truncate(time.Hour).Add(-baselineMaxAge)),
		ch.Named("buckets", max(buckets, 1)))
	levels, err := collect(ctx, s, `SELECT tenant_id, model, pair.1 AS measure, quantileExact(0.5)(pair.2)
FROM (
  SELECT tenant_id, model, arrayJoin(arrayConcat(
    if(cost_buckets >= {buckets:UInt32}, [('`+string(contract.CostMeasure)+`', ln_cost + ln_cost_held)], []),
    if(quality_buckets >= {buckets:UInt32}, [('`+string(contract.QualityMeasure)+`', quality + quality_held)], []))) AS pair
  FROM baselines FINAL
  WHERE slot > {from:DateTime('UTC')} AND slot <= {at:DateTime('UTC')}`+ofTenant+`
)
GROUP BY tenant_id, model, measure
ORDER BY tenant_id, model, measure`, args,
		func(rows driver.Rows, l *contract.DrawnLevel) error {
			return rows.Scan(&l.Key.Tenant, &l.Key.Model, (*string)(&l.Measure), &l.Value)
		})
	if err != nil {
		return nil, fmt.Errorf("reading where baselines lie: %w", err)
	}
	return levels, nil
}

// holdAfter is how long after a level was calibrated baselines are held within its bound: from then on the hours of a
// whole day, all of them drawn since, can be compared with it.
const holdAfter = baselineMaxAge

// hold moves the baselines of keys whose level has drifted beyond its bound back onto the bound, every hour of the day by
// as much, so that what creeps is found and never becomes the usual.
func (s *Store) hold(ctx context.Context, q baselineQuery, baselines map[usage.Key]detect.Baseline) error {
	levels, err := s.Levels(ctx, q.Tenant, q.At.Add(-holdAfter))
	if err != nil || len(levels) == 0 {
		return err
	}
	latest, err := s.Levels(ctx, q.Tenant, q.At) // one of the last day puts an end to what the older one held
	if err != nil {
		return err
	}
	drawn, err := s.DrawnLevels(ctx, q.Tenant, q.At, q.Minimums.Buckets)
	if err != nil {
		return err
	}
	type measured struct {
		key     usage.Key
		measure contract.Measure
	}
	lies := make(map[measured]float64, len(drawn))
	for _, d := range drawn {
		lies[measured{d.Key, d.Measure}] = d.Value
	}
	stands := make(map[measured]time.Time, len(latest))
	for _, l := range latest {
		stands[measured{l.Key, l.Measure}] = l.At
	}
	for _, l := range levels {
		b, ok := baselines[l.Key]
		of := measured{l.Key, l.Measure}
		if !ok || !stands[of].Equal(l.At) {
			continue
		}
		lie, known := lies[of]
		switch {
		case l.Measure == contract.CostMeasure && b.CostBuckets > 0:
			if !known {
				lie = b.LnCost
			}
			b.LnCostHeld = l.Excess(lie)
			b.LnCost -= b.LnCostHeld
		case l.Measure == contract.QualityMeasure && b.QualityBuckets > 0:
			if !known {
				lie = b.Quality
			}
			b.QualityHeld = l.Excess(lie)
			b.Quality -= b.QualityHeld
		}
		baselines[l.Key] = b
	}
	return nil
}

// calibrated are the levels that an accepted baseline stands for: a person's word moves them, too.
func calibrated(b detect.Baseline, at time.Time, who, reason string) (levels []contract.Level) {
	level := contract.Level{Key: b.Key, At: at, By: who, Reason: reason}
	if b.CostBuckets > 0 {
		level.Measure, level.Value, level.Bound = contract.CostMeasure, b.LnCost, contract.DefaultBounds.Of(contract.CostMeasure)
		levels = append(levels, level)
	}
	if b.QualityBuckets > 0 {
		level.Measure, level.Value, level.Bound = contract.QualityMeasure, b.Quality, contract.DefaultBounds.Of(contract.QualityMeasure)
		levels = append(levels, level)
	}
	return levels
}
