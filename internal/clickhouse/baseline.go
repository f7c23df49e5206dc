package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

const (
	// baselineSpan is how far back baselines look.
	baselineSpan = 28 * 24 * time.Hour
	// bucketLength is the length of the buckets, that of the longest detection window.
	bucketLength = 15 * time.Minute
	// bucketsPerInsert bounds how much one rebuild reads at once: a day.
	bucketsPerInsert = int(24 * time.Hour / bucketLength)
	// baselineMaxAge is how old a slot may be when a newer one is missing: an old baseline is better
	// than none.
	baselineMaxAge = 24 * time.Hour
)

// RebuildBaselines brings the 15-minute buckets up to date and computes every key's baseline for the
// slot of at: its hour. It returns how many baselines it stored. Repeating it replaces them.
//
// A baseline is drawn from the buckets of the last 28 days that ended by at and lie within ±30 minutes
// of the middle of the slot, weighted 2^(−age/7 d). Experiments, treated calls and the key's incidents
// (with the 15 minutes before them; for a pseudo-key those of all the tenant's keys but its experiments) are left out. A
// bucket counts for cost, spend and ratios with minimums.Cost costs, for quality with minimums.Quality scores,
// for outcomes with minimums.Cost costs and any outcome.
// Where fewer than minimums.Buckets count, all hours of the day are taken instead, for cost and quality
// apart. A baseline with fewer buckets even so is stored as it is: its counts say that it is not to be
// relied on.
//
// Of a key whose level a person has accepted within the 28 days, only buckets after that are taken, and while fewer
// than minimums.Buckets count, the accepted level stands.
//
// Cost and quality of a key whose level has drifted beyond the bound of where it was calibrated stay on the bound.
func (s *Store) RebuildBaselines(ctx context.Context, at time.Time, minimums detect.Minimums) (n int, err error) {
	return s.rebuildBaselines(ctx, baselineQuery{At: at, Minimums: minimums})
}

// RebuildTenant computes the baselines of one tenant's keys anew, as RebuildBaselines does; those of all when the
// hour has none yet, since a slot stands for every key.
func (s *Store) RebuildTenant(ctx context.Context, tenant string, at time.Time, minimums detect.Minimums) (n int, err error) {
	q := baselineQuery{At: at, Minimums: minimums, Tenant: tenant}
	last, err := s.lastSlot(ctx, at)
	if err != nil {
		return 0, err
	}
	stored, err := s.BaselinesStored(ctx, last)
	if err != nil {
		return 0, err
	}
	if stored.IsZero() || last.Before(at.UTC().Truncate(time.Hour)) {
		q.Tenant = ""
	}
	return s.rebuildBaselines(ctx, q)
}

func (s *Store) rebuildBaselines(ctx context.Context, q baselineQuery) (n int, err error) {
	if err := s.rebuildBuckets(ctx, q.At); err != nil {
		return 0, fmt.Errorf("rebuilding the baseline buckets: %w", err)
	}
	slot := q.At.UTC().Truncate(time.Hour)
	baselines, err := s.computeBaselines(ctx, q)
	if err != nil {
		return 0, fmt.Errorf("computing the baselines of %s: %w", slot.Format(time.RFC3339), err)
	}
	wideQuery := q
	wideQuery.AllHours = true
	everyHour, err := s.computeBaselines(ctx, wideQuery)
	if err != nil {
		return 0, fmt.Errorf("computing the baselines of all hours: %w", err)
	}
	fill(baselines, everyHour, q.Minimums)
	ofTenant, args := q.ofTenant()
	accepted, err := s.acceptedLevels(ctx, ofTenant, q.At, args...)
	if err != nil {
		return 0, err
	}
	fill(baselines, accepted, q.Minimums)
	if err := s.hold(ctx, q, baselines); err != nil {
		return 0, err
	}
	if err := s.expectCalls(ctx, q.At, baselines); err != nil {
		return 0, err
	}
	if err := s.insertBaselines(ctx, slot, q.At, baselines); err != nil {
		return 0, fmt.Errorf("storing the baselines of %s: %w", slot.Format(time.RFC3339), err)
	}
	// What was accepted meanwhile has been overwritten, perhaps.
	now, err := s.acceptedLevels(ctx, ofTenant, q.At, args...)
	if err != nil {
		return 0, err
	}
	maps.DeleteFunc(now, func(key usage.Key, level detect.Baseline) bool { return accepted[key] == level })
	if err := s.expectCalls(ctx, q.At, now); err != nil {
		return 0, err
	}
	if err := s.insertBaselines(ctx, slot, q.At, now); err != nil {
		return 0, fmt.Errorf("storing levels that were accepted meanwhile: %w", err)
	}
	return len(baselines), nil
}

// expectCalls says of each baseline how many calls there are at least at this time.
func (s *Store) expectCalls(ctx context.Context, at time.Time, baselines map[usage.Key]detect.Baseline) error {
	if len(baselines) == 0 {
		return nil
	}
	least, err := s.leastCalls(ctx, at)
	if err != nil {
		return fmt.Errorf("computing the calls to expect at %s: %w", at.UTC().Format(time.RFC3339), err)
	}
	for key, calls := range least {
		if b, ok := baselines[key]; ok {
			b.LeastCalls = calls
			baselines[key] = b
		}
	}
	return nil
}

// fill takes from others what baselines have too few buckets for.
func fill(baselines, others map[usage.Key]detect.Baseline, minimums detect.Minimums) {
	for key, wide := range others {
		b := baselines[key]
		b.Key = key
		if b.CostBuckets < minimums.Buckets {
			b = withCost(b, wide)
		}
		if b.QualityBuckets < minimums.Buckets {
			b = withQuality(b, wide)
			b.Version = wide.Version
		}
		baselines[key] = b
	}
}

// withCost is b with everything that wide draws from buckets with costs.
func withCost(b, wide detect.Baseline) detect.Baseline {
	wide.Key = b.Key
	return withQuality(wide, b)
}

// withQuality is b with wide's quality.
func withQuality(b, wide detect.Baseline) detect.Baseline {
	b.QualityBuckets, b.Quality, b.QualityDev = wide.QualityBuckets, wide.Quality, wide.QualityDev
	b.QualitySD, b.QualityBucketN = wide.QualitySD, wide.QualityBucketN
	return b
}

// rebuildBuckets computes the buckets that rows have reached since they were last computed.
func (s *Store) rebuildBuckets(ctx context.Context, at time.Time) error {
	var started time.Time
	if err := s.conn.QueryRow(ctx, "SELECT now64(3, 'UTC')").Scan(&started); err != nil {
		return err
	}
	// A row may become visible up to a minute after it was stamped: the margin.
	changed, err := collect(ctx, s, `SELECT bucket
FROM (SELECT bucket, max(changed_at) AS changed FROM bucket_changes
  WHERE bucket >= {from:DateTime('UTC')} AND bucket <= {to:DateTime('UTC')} GROUP BY bucket) AS c
LEFT JOIN (SELECT bucket, max(built_at) AS built FROM bucket_builds GROUP BY bucket) AS b USING bucket
WHERE changed >= built - INTERVAL 1 MINUTE
ORDER BY bucket`,
		[]any{ch.Named("from", firstBucket(at)), ch.Named("to", lastBucket(at))},
		func(rows driver.Rows, bucket *time.Time) error { return rows.Scan(bucket) })
	if err != nil {
		return err
	}
	for buckets := range slices.Chunk(changed, bucketsPerInsert) {
		sql, args := bucketsSQL(buckets, started)
		if err := s.conn.Exec(ctx, sql, args...); err != nil {
			return fmt.Errorf("from %s on: %w", buckets[0].Format(time.RFC3339), err)
		}
		if err := s.insert(ctx, table{"bucket_builds", []column{{"bucket", "DateTime('UTC')"}, {"built_at", instant}}}, "", len(buckets),
			func(i int) []any { return []any{buckets[i], started} }); err != nil {
			return err
		}
	}
	return nil
}

// firstBucket and lastBucket are the first and last buckets that a baseline at the time may use: those
// that began within 28 days and have ended.
func firstBucket(at time.Time) time.Time {
	return at.UTC().Add(-baselineSpan + bucketLength - 1).Truncate(bucketLength)
}

func lastBucket(at time.Time) time.Time {
	return at.UTC().Truncate(bucketLength).Add(-bucketLength)
}

// bucketsSQL is the statement that computes the given buckets, in order, from the rollups.
func bucketsSQL(buckets []time.Time, builtAt time.Time) (string, []any) {
	starts := make([]uint32, len(buckets))
	for i, b := range buckets {
		starts[i] = uint32(b.Unix())
	}
	sql := `INSERT INTO baseline_buckets
SELECT
  toHour(bucket) * 2 + intDiv(toMinute(bucket), 30), bucket, tenant_id, if(grouping(model) = 1, '*', model),
  toUInt32(sum(length(cost_codes))),
  quantilesExactLowArray(0.25, 0.5, 0.75)(cost_codes)[1], quantilesExactLowArray(0.25, 0.5, 0.75)(cost_codes)[2], quantilesExactLowArray(0.25, 0.5, 0.75)(cost_codes)[3],
  toUInt32(sum(length(quality_codes))),
  quantilesExactLowArray(0.25, 0.5, 0.75)(quality_codes)[1], quantilesExactLowArray(0.25, 0.5, 0.75)(quality_codes)[2], quantilesExactLowArray(0.25, 0.5, 0.75)(quality_codes)[3],
  sum(requests), sum(cost_pico_usd), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens),
  sum(untreated), sum(outcomes), sum(good), sum(velocity_tokens), sum(velocity_ms),
  if(arraySum(sumMap([at], [spent]).2 AS spends) > 0, greatest(15 / 14 * (15 * arraySum(x -> x * x, spends) / pow(arraySum(spends), 2) - 1), 0), 0),
  {built:DateTime64(3, 'UTC')}
FROM (
  SELECT
    toStartOfFifteenMinutes(minute) AS bucket, toUInt8(toMinute(minute) % 15) AS at, tenant_id, requested_model AS model,
    if(arm = 'treated', CAST([], 'Array(Int16)'), cost_codes) AS cost_codes, CAST([], 'Array(Int16)') AS quality_codes,
    requests, cost_pico_usd, toFloat64(cost_pico_usd) AS spent, output_tokens, cache_read_tokens,
    uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens AS input_tokens,
    if(arm = 'treated', toUInt64(0), requests) AS untreated, toUInt64(0) AS outcomes, toUInt64(0) AS good,
    if(arm = 'treated', toInt64(0), velocity_tokens) AS velocity_tokens, if(arm = 'treated', toInt64(0), velocity_ms) AS velocity_ms
  FROM kpi_1m
  WHERE cohort = 'production' AND minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
    AND has({buckets:Array(UInt32)}, toUInt32(toStartOfFifteenMinutes(minute)))
  UNION ALL
  SELECT
    toStartOfFifteenMinutes(minute), toUInt8(0), tenant_id, requested_model,
    CAST([], 'Array(Int16)'), quality_codes,
    toUInt64(0), toInt128(0), toFloat64(0), toInt64(0), toInt64(0), toInt64(0),
    toUInt64(0), toUInt64(0), toUInt64(0), toInt64(0), toInt64(0)
  FROM quality_1m
  WHERE cohort = 'production' AND arm != 'treated' AND kind != 'human'
    AND minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
    AND has({buckets:Array(UInt32)}, toUInt32(toStartOfFifteenMinutes(minute)))
  UNION ALL
  SELECT
    toStartOfFifteenMinutes(minute), toUInt8(0), tenant_id, requested_model,
    CAST([], 'Array(Int16)'), CAST([], 'Array(Int16)'),
    toUInt64(0), toInt128(0), toFloat64(0), toInt64(0), toInt64(0), toInt64(0),
    toUInt64(0), outcomes, good, toInt64(0), toInt64(0)
  FROM outcomes_1m
  WHERE cohort = 'production' AND arm != 'treated'
    AND minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
    AND has({buckets:Array(UInt32)}, toUInt32(toStartOfFifteenMinutes(minute)))
)
GROUP BY GROUPING SETS ((bucket, tenant_id, model), (bucket, tenant_id))`
	return sql, []any{
		ch.Named("buckets", starts), ch.Named("built", builtAt),
		ch.Named("from", buckets[0]), ch.Named("to", buckets[len(buckets)-1].Add(bucketLength)),
	}
}

// baselineQuery asks for the baselines of every key at one time.
type baselineQuery struct {
	At       time.Time
	Minimums detect.Minimums
	AllHours bool   // in place of the slot's own hour, and only keys for which that has too few buckets
	Tenant   string // empty: every tenant
}

// ofTenant is the condition that a row is of the tenant that is asked about, with its parameter.
func (q baselineQuery) ofTenant() (condition string, args []any) {
	if q.Tenant == "" {
		return "", nil
	}
	return "\n    AND tenant_id = {only:String}", []any{ch.Named("only", q.Tenant)}
}

// SQL is the query's text and parameters. Medians stay codes until they are read: differences of codes
// are differences of logarithms.
func (q baselineQuery) SQL() (string, []any) {
	slot := q.At.UTC().Truncate(time.Hour)
	args := []any{
		ch.Named("at", q.At.UTC().Truncate(time.Second)),
		ch.Named("first", firstBucket(q.At)), ch.Named("last", lastBucket(q.At)),
		ch.Named("min_cost", max(q.Minimums.Cost, 1)), ch.Named("min_quality", max(q.Minimums.Quality, 1)),
		ch.Named("half", 2*slot.Hour()), ch.Named("mark", usage.ExperimentMark),
	}
	ofTenant, only := q.ofTenant()
	args = append(args, only...)
	which := "half_hour IN ({half:UInt8}, {half:UInt8} + 1)"
	if q.AllHours {
		args = append(args, ch.Named("min_buckets", q.Minimums.Buckets))
		which = `(tenant_id, model) NOT IN (
      SELECT tenant_id, model FROM usable WHERE half_hour IN ({half:UInt8}, {half:UInt8} + 1)
      GROUP BY tenant_id, model
      HAVING countIf(for_cost) >= {min_buckets:UInt32} AND countIf(for_quality) >= {min_buckets:UInt32})`
	}
	return `WITH
left_out AS (
  SELECT tenant_id, arrayJoin(arraySlice([model, '*'], 1, if(position(model, {mark:String}) > 0, 1, 2))) AS model, toDateTime(arrayJoin(range(begins, ends, 900)), 'UTC') AS bucket
  FROM (
    SELECT tenant_id, model,
      toUInt32(greatest(toStartOfFifteenMinutes(opened_at - INTERVAL 15 MINUTE), {first:DateTime('UTC')})) AS begins,
      toUInt32(least(ifNull(toDateTime(ended_at), {at:DateTime('UTC')}), {at:DateTime('UTC')})) AS ends
    FROM incidents FINAL
    WHERE opened_at < {at:DateTime('UTC')} AND (ended_at IS NULL OR ended_at > {first:DateTime('UTC')})
  )
  UNION ALL
  SELECT tenant_id, model, toDateTime(arrayJoin(range(toUInt32({first:DateTime('UTC')}), toUInt32(toDateTime(accepted_at)), 900)), 'UTC')
  FROM accepted_levels FINAL
  WHERE accepted_at > {first:DateTime('UTC')}
),
usable AS (
  SELECT *, cost_n >= {min_cost:UInt32} AS for_cost, quality_n >= {min_quality:UInt32} AS for_quality,
    for_cost AND outcomes > 0 AND untreated > 0 AS for_outcomes, for_cost AND velocity_ms > 0 AS for_velocity
  FROM baseline_buckets FINAL
  WHERE bucket >= {first:DateTime('UTC')} AND bucket <= {last:DateTime('UTC')} AND (for_cost OR for_quality)
    AND (tenant_id, model, bucket) NOT IN (SELECT tenant_id, model, bucket FROM left_out)` + ofTenant + `
)
SELECT
  tenant_id, model,
  toInt64(length(cw)),
  arrayReduce('quantileExactWeighted(0.5)', cost, cw) AS cost_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> toInt64(abs(x - cost_m)), cost), cw),
  arrayReduce('quantileExactWeighted(0.5)', cost_iqr, cw),
  arrayReduce('quantileExactWeighted(0.5)', costs, cw),
  toInt64(length(qw)),
  arrayReduce('quantileExactWeighted(0.5)', quality, qw) AS quality_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> toInt64(abs(x - quality_m)), quality), qw),
  arrayReduce('quantileExactWeighted(0.5)', quality_iqr, qw),
  arrayReduce('quantileExactWeighted(0.5)', scores, qw),
  arrayReduce('quantileExactWeighted(0.5)', spend, cw) AS spend_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> abs(log(x / spend_m)), spend), cw),
  arrayReduce('quantileExactWeighted(0.5)', bursts, cw),
  arrayReduce('quantileExactWeighted(0.5)', calls, cw),
  arrayReduce('quantileExactWeighted(0.5)', completion, cw),
  arrayReduce('quantileExactWeighted(0.5)', cached, cw),
  toInt64(length(ow)),
  arrayReduce('quantileExactWeighted(0.5)', rates, ow) AS rate_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> abs(x - rate_m), rates), ow),
  arrayReduce('quantileExactWeighted(0.5)', untreated_calls, ow),
  toInt64(length(vw)),
  arrayReduce('quantileExactWeighted(0.5)', velocities, vw) AS velocity_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> abs(log(x / velocity_m)), velocities), vw)
FROM (
  SELECT
    tenant_id, model,
    groupArrayIf(toInt64(cost_q50), for_cost) AS cost, groupArrayIf(toInt64(if(cost_n < 4, 0, cost_q75 - cost_q25)), for_cost) AS cost_iqr,
    groupArrayIf(toInt64(cost_n), for_cost) AS costs, groupArrayIf(weight, for_cost) AS cw,
    groupArrayIf(toInt64(quality_q50), for_quality) AS quality, groupArrayIf(toInt64(if(quality_n < 4, 0, quality_q75 - quality_q25)), for_quality) AS quality_iqr,
    groupArrayIf(toInt64(quality_n), for_quality) AS scores, groupArrayIf(weight, for_quality) AS qw,
    groupArrayIf(toFloat64(cost_pico_usd) / 15, for_cost) AS spend, groupArrayIf(spend_burst, for_cost) AS bursts,
    groupArrayIf(toInt64(requests), for_cost) AS calls,
    groupArrayIf(if(input_tokens > 0, output_tokens / input_tokens, 0), for_cost) AS completion,
    groupArrayIf(if(input_tokens > 0, cache_read_tokens / input_tokens, 0), for_cost) AS cached,
    groupArrayIf(good / untreated, for_outcomes) AS rates, groupArrayIf(toInt64(untreated), for_outcomes) AS untreated_calls,
    groupArrayIf(weight, for_outcomes) AS ow,
    groupArrayIf(1000 * velocity_tokens / velocity_ms, for_velocity) AS velocities, groupArrayIf(weight, for_velocity) AS vw
  FROM (
    SELECT *, toUInt32(round(1e6 * exp2(-dateDiff('second', bucket, {at:DateTime('UTC')}) / 604800))) AS weight
    FROM usable
    WHERE ` + which + `
  )
  GROUP BY tenant_id, model
)`, args
}

// maxBaselineMemory bounds the hourly job on the server: 100,000 keys take 1.6 GB.
const maxBaselineMemory = 8 << 30

// A code of cost is a hundredth of a doubling; one of quality two hundredths. The interquartile range
// of a normal distribution is 1.349 deviations, its median absolute deviation 1/1.4826.
const (
	iqrPerSD = 1.349
	sdPerMAD = 1.4826
)

func (s *Store) computeBaselines(ctx context.Context, q baselineQuery) (map[usage.Key]detect.Baseline, error) {
	sql, args := q.SQL()
	rows, err := s.conn.Query(ch.Context(ctx, ch.WithSettings(ch.Settings{"max_memory_usage": maxBaselineMemory})), sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[usage.Key]detect.Baseline{}
	for rows.Next() {
		var (
			b                                                       detect.Baseline
			costBuckets, cost, costMAD, costIQR, costs              int64 // medians and spreads in codes
			qualityBuckets, quality, qualityMAD, qualityIQR, scores int64
			requests                                                int64
			spend, spendMAD, burst, completion, cached              float64
			outcomeBuckets, untreated                               int64
			rate, rateMAD                                           float64
			velocityBuckets                                         int64
			velocity, velocityMAD                                   float64
		)
		if err := rows.Scan(&b.Key.Tenant, &b.Key.Model, &costBuckets, &cost, &costMAD, &costIQR, &costs,
			&qualityBuckets, &quality, &qualityMAD, &qualityIQR, &scores,
			&spend, &spendMAD, &burst, &requests, &completion, &cached,
			&outcomeBuckets, &rate, &rateMAD, &untreated, &velocityBuckets, &velocity, &velocityMAD); err != nil {
			return nil, err
		}
		if b.CostBuckets = int(costBuckets); b.CostBuckets > 0 {
			b.LnCost = kpi.LnCost(float64(cost))
			b.LnCostSD = kpi.LnCost(float64(costIQR)) / iqrPerSD
			b.CostBucketN = float64(costs)
			b.SpendPerMinute = spend
			b.RequestsPerMin = float64(requests) / bucketLength.Minutes()
			b.SpendBurst, b.Completion, b.CacheHit = burst, completion, cached
		}
		if b.CostBuckets > 1 {
			b.LnCostDev = sdPerMAD * kpi.LnCost(deviation(costMAD))
			b.SpendDev = sdPerMAD * spendMAD
		}
		if b.QualityBuckets = int(qualityBuckets); b.QualityBuckets > 0 {
			b.Quality = kpi.Score(float64(quality))
			b.QualitySD = kpi.Score(float64(qualityIQR)) / iqrPerSD
			b.QualityBucketN = float64(scores)
		}
		if b.QualityBuckets > 1 {
			b.QualityDev = sdPerMAD * kpi.Score(deviation(qualityMAD))
		}
		if b.OutcomeBuckets = int(outcomeBuckets); b.OutcomeBuckets > 0 {
			b.OutcomeRate, b.OutcomeDev, b.OutcomeBucketN = rate, sdPerMAD*rateMAD, float64(untreated)
		}
		if b.VelocityBuckets = int(velocityBuckets); b.VelocityBuckets > 0 {
			b.Velocity, b.VelocityDev = velocity, sdPerMAD*velocityMAD
		}
		all[b.Key] = b
	}
	return all, rows.Err()
}

// deviation is a median absolute deviation in codes, never below half of one: codes cannot show a
// smaller one, and 0 would say that it is unknown.
func deviation(mad int64) float64 { return max(float64(mad), 0.5) }

var baselinesTable = table{"baselines", []column{
	{"slot", "DateTime('UTC')"},
	{"tenant_id", symbol},
	{"model", symbol},
	{"version", symbol},
	{"cost_buckets", "UInt32"},
	{"ln_cost", "Float64"},
	{"ln_cost_dev", "Float64"},
	{"ln_cost_sd", "Float64"},
	{"cost_bucket_n", "Float64"},
	{"quality_buckets", "UInt32"},
	{"quality", "Float64"},
	{"quality_dev", "Float64"},
	{"quality_sd", "Float64"},
	{"quality_bucket_n", "Float64"},
	{"spend_per_minute_pico", "Float64"},
	{"spend_dev", "Float64"},
	{"spend_burst", "Float64"},
	{"requests_per_minute", "Float64"},
	{"completion_ratio", "Float64"},
	{"cache_hit_rate", "Float64"},
	{"outcome_buckets", "UInt32"},
	{"outcome_rate", "Float64"},
	{"outcome_dev", "Float64"},
	{"outcome_bucket_n", "Float64"},
	{"velocity_buckets", "UInt32"},
	{"velocity", "Float64"},
	{"velocity_dev", "Float64"},
	{"least_calls", "Float64"},
	{"ln_cost_held", "Float64"},
	{"quality_held", "Float64"},
}}

// insertBaselines stores the baselines of a slot. Their version says when they were computed, or accepted.
func (s *Store) insertBaselines(ctx context.Context, slot, at time.Time, baselines map[usage.Key]detect.Baseline) error {
	rows := slices.Collect(maps.Values(baselines))
	version := at.UTC().Format(time.RFC3339)
	return s.insert(ctx, baselinesTable, "", len(rows), func(i int) []any {
		b := rows[i]
		return []any{
			slot, b.Key.Tenant, b.Key.Model, cmp.Or(b.Version, version),
			uint32(b.CostBuckets), b.LnCost, b.LnCostDev, b.LnCostSD, b.CostBucketN,
			uint32(b.QualityBuckets), b.Quality, b.QualityDev, b.QualitySD, b.QualityBucketN,
			b.SpendPerMinute, b.SpendDev, b.SpendBurst, b.RequestsPerMin, b.Completion, b.CacheHit,
			uint32(b.OutcomeBuckets), b.OutcomeRate, b.OutcomeDev, b.OutcomeBucketN,
			uint32(b.VelocityBuckets), b.Velocity, b.VelocityDev, b.LeastCalls, b.LnCostHeld, b.QualityHeld,
		}
	})
}

// Baselines returns every key's baseline for the slot that holds the time (its hour), or the latest of
// the 24 hours before while that is not computed yet.
func (s *Store) Baselines(ctx context.Context, slot time.Time) (map[usage.Key]detect.Baseline, error) {
	return s.baselines(ctx, slot, "")
}

// Baseline is that of one key; the zero one when it has none.
func (s *Store) Baseline(ctx context.Context, key usage.Key, slot time.Time) (detect.Baseline, error) {
	all, err := s.baselines(ctx, slot, "\n  AND tenant_id = {tenant:String} AND model = {model:String}",
		ch.Named("tenant", key.Tenant), ch.Named("model", key.Model))
	return all[key], err
}

func (s *Store) baselines(ctx context.Context, slot time.Time, which string, args ...any) (map[usage.Key]detect.Baseline, error) {
	return s.readBaselines(ctx, "baselines FINAL", "slot = (SELECT max(slot) FROM baselines WHERE slot <= {slot:DateTime('UTC')} AND slot > {oldest:DateTime('UTC')})"+which, slot, args...)
}

// readBaselines reads those that a condition on the hour slot, and on how old it may be at the most, names.
func (s *Store) readBaselines(ctx context.Context, from, where string, slot time.Time, args ...any) (map[usage.Key]detect.Baseline, error) {
	slot = slot.UTC().Truncate(time.Hour)
	args = append(args, ch.Named("slot", slot), ch.Named("oldest", slot.Add(-baselineMaxAge)))
	rows, err := s.conn.Query(ctx, `SELECT
  tenant_id, model, slot, version,
  toInt64(cost_buckets), ln_cost, ln_cost_dev, ln_cost_sd, cost_bucket_n,
  toInt64(quality_buckets), quality, quality_dev, quality_sd, quality_bucket_n,
  spend_per_minute_pico, spend_dev, spend_burst, requests_per_minute, completion_ratio, cache_hit_rate,
  toInt64(outcome_buckets), outcome_rate, outcome_dev, outcome_bucket_n,
  toInt64(velocity_buckets), velocity, velocity_dev, least_calls, ln_cost_held, quality_held
FROM `+from+`
WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the baselines of %s: %w", slot.Format(time.RFC3339), err)
	}
	defer rows.Close()
	all := map[usage.Key]detect.Baseline{}
	for rows.Next() {
		var b detect.Baseline
		var costBuckets, qualityBuckets, outcomeBuckets, velocityBuckets int64
		if err := rows.Scan(&b.Key.Tenant, &b.Key.Model, &b.Slot, &b.Version,
			&costBuckets, &b.LnCost, &b.LnCostDev, &b.LnCostSD, &b.CostBucketN,
			&qualityBuckets, &b.Quality, &b.QualityDev, &b.QualitySD, &b.QualityBucketN,
			&b.SpendPerMinute, &b.SpendDev, &b.SpendBurst, &b.RequestsPerMin, &b.Completion, &b.CacheHit,
			&outcomeBuckets, &b.OutcomeRate, &b.OutcomeDev, &b.OutcomeBucketN,
			&velocityBuckets, &b.Velocity, &b.VelocityDev, &b.LeastCalls, &b.LnCostHeld, &b.QualityHeld); err != nil {
			return nil, fmt.Errorf("reading a baseline: %w", err)
		}
		b.Slot, b.CostBuckets, b.QualityBuckets = b.Slot.UTC(), int(costBuckets), int(qualityBuckets)
		b.OutcomeBuckets, b.VelocityBuckets = int(outcomeBuckets), int(velocityBuckets)
		all[b.Key] = b
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the baselines of %s: %w", slot.Format(time.RFC3339), err)
	}
	return all, nil
}
