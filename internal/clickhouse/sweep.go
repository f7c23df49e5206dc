package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/go-faster/city"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// SweepQuery asks for the windows of every key at one instant, in one pass over the last 15 minutes.
// Keys are spread over shards by their tenant, so that a tenant's pseudo-key is computed where its keys
// are.
type SweepQuery struct {
	At          time.Time // the watermark; its minute is the current, partial one
	Shard       int
	Shards      int  // 0 and 1 mean that there is one
	Experiments bool // in place of production: one row for each experiment of a key, the busiest of them

	only *ObserveQuery // of one key, from stored calls (see Observe)
}

// maxExperiments bounds how many experiments a shard is asked for: whoever sends calls may name as many as they
// like.
const maxExperiments = 1000

// SQL is the query's text and its named parameters. Each row is a key or, where the model is *, a
// tenant's pseudo-key: its traffic of all models together. Grouping sets compute both in the one pass,
// since the pseudo-keys' medians cannot be had from the keys'.
//
// Aggregate functions cost most, one random access for each row, so there is one for all windows: it
// collects the codes, each times 4 plus the index of the shortest window that it lies in. Sorted once,
// the codes of a window are those with at most its index, and still in order. This takes half the time
// of a median function per window.
func (q SweepQuery) SQL() (string, []any) {
	current := q.At.UTC().Truncate(time.Minute)
	args := []any{
		ch.Named("current", current), ch.Named("last", current.Add(-time.Minute)),
		ch.Named("scale", detect.SpendScale(q.At.Sub(current))),
	}
	var shortest, filters, medians strings.Builder
	longest := len(detect.Windows) - 1
	for i, n := range detect.Windows {
		args = append(args, ch.Named(fmt.Sprintf("w%d", n), current.Add(-time.Duration(n-1)*time.Minute)))
		if i < longest {
			fmt.Fprintf(&shortest, "minute >= {w%d:DateTime('UTC')}, %d, ", n, i)
		}
		for _, codes := range []string{"cost", "quality"} {
			in := codes
			if i < longest {
				in = fmt.Sprintf("arrayFilter(c -> bitAnd(c, 3) <= %d, %s)", i, codes)
			}
			fmt.Fprintf(&filters, ",\n    %s AS %s_%d", in, codes, n)
			fmt.Fprintf(&medians, ",\n  toInt64(length(%[1]s_%[2]d)), bitShiftRight(%[1]s_%[2]d[intDiv(length(%[1]s_%[2]d) + 1, 2)], 2)", codes, n)
		}
	}
	cohort, name, group, limit := usage.Production, "if(grouping(model) = 1, '*', model)", "GROUPING SETS ((tenant_id, model), (tenant_id))", ""
	if q.Experiments {
		cohort, name, group = usage.Experiment, "concat(model, {mark:String}, experiment_id)", "tenant_id, model, experiment_id"
		limit = fmt.Sprintf("\n    ORDER BY calls DESC, tenant_id, name LIMIT %d", maxExperiments)
		args = append(args, ch.Named("mark", usage.ExperimentMark))
	}
	shard := ""
	if q.Shards > 1 {
		shard = "\n        AND cityHash64(tenant_id) % {shards:UInt64} = {shard:UInt64}"
		args = append(args, ch.Named("shards", q.Shards), ch.Named("shard", q.Shard))
	}
	source := "sweep_1m"
	if q.only != nil {
		var more []any
		source, more = q.only.source()
		args = append(args, more...)
	}
	return fmt.Sprintf(`SELECT
  tenant_id, name, calls, input, output, cached, calls_5, input_5, output_5, cached_5, untreated_calls, outcomes_all, outcomes_good, spend_last,
  streams, streams_tokens, streams_ms, streams_5, streams_tokens_5, streams_ms_5%s
FROM (
  SELECT *%s
  FROM (
    SELECT
      tenant_id, %s AS name,
      toInt64(sum(requests)) AS calls, sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cache_read_tokens) AS cached,
      greatest(toFloat64(sumIf(cost_pico_usd, minute = {last:DateTime('UTC')})), toFloat64(sumIf(cost_pico_usd, minute = {current:DateTime('UTC')})) * {scale:Float64}) AS spend_last,
      toInt64(sumIf(requests, minute >= {w5:DateTime('UTC')})) AS calls_5, sumIf(input_tokens, minute >= {w5:DateTime('UTC')}) AS input_5,
      sumIf(output_tokens, minute >= {w5:DateTime('UTC')}) AS output_5, sumIf(cache_read_tokens, minute >= {w5:DateTime('UTC')}) AS cached_5,
      toInt64(sumIf(requests, untreated)) AS untreated_calls, toInt64(sumIf(outcomes, untreated)) AS outcomes_all, toInt64(sumIf(good, untreated)) AS outcomes_good,
      toInt64(sumIf(streamed, untreated)) AS streams, sumIf(velocity_tokens, untreated) AS streams_tokens, sumIf(velocity_ms, untreated) AS streams_ms,
      toInt64(sumIf(streamed, untreated AND minute >= {w5:DateTime('UTC')})) AS streams_5,
      sumIf(velocity_tokens, untreated AND minute >= {w5:DateTime('UTC')}) AS streams_tokens_5, sumIf(velocity_ms, untreated AND minute >= {w5:DateTime('UTC')}) AS streams_ms_5,
      arraySort(groupArrayArrayIf(arrayMap(c -> toInt16(c * 4 + shortest), cost_codes), untreated)) AS cost,
      arraySort(groupArrayArrayIf(arrayMap(c -> toInt16(c * 4 + shortest), quality_codes), untreated)) AS quality
    FROM (
      SELECT
        minute, tenant_id, model, experiment_id, requests, input_tokens, output_tokens, cache_read_tokens, cost_pico_usd, outcomes, good,
        streamed, velocity_tokens, velocity_ms, cost_codes, quality_codes, arm != 'treated' AS untreated, multiIf(%s%d) AS shortest
      FROM %s
      WHERE minute >= {w%d:DateTime('UTC')} AND minute <= {current:DateTime('UTC')} AND cohort = '%s'%s
    )
    GROUP BY %s%s
  )
)`, medians.String(), filters.String(), name, shortest.String(), longest, source, detect.Windows[longest], cohort, shard, group, limit), args
}

// sweepSettings let a few hundred thousand rows be read by all cores: the default would give them to
// one.
var sweepSettings = ch.Settings{
	"merge_tree_min_rows_for_concurrent_read":  16384,
	"merge_tree_min_bytes_for_concurrent_read": 0,
}

// Sweep returns the windows of every key that had production traffic or scores in the 15-minute window,
// and of every tenant's pseudo-key; or of every experiment that had some. Medians are the lower ones, of untreated calls; a window without
// samples has a zero median.
func (s *Store) Sweep(ctx context.Context, q SweepQuery) ([]detect.Observation, error) {
	sql, args := q.SQL()
	var row [len(detect.Windows)]struct {
		costN, qualityN int64
		cost, quality   int16
	}
	var o detect.Observation
	dest := []any{
		&o.Key.Tenant, &o.Key.Model, &o.Whole.Requests, &o.Whole.InputTokens, &o.Whole.OutputTokens, &o.Whole.CacheRead,
		&o.Recent.Requests, &o.Recent.InputTokens, &o.Recent.OutputTokens, &o.Recent.CacheRead,
		&o.Outcomes.Calls, &o.Outcomes.All, &o.Outcomes.Good, &o.SpendLastPico,
		&o.WholeStream.Calls, &o.WholeStream.Tokens, &o.WholeStream.MS, &o.RecentStream.Calls, &o.RecentStream.Tokens, &o.RecentStream.MS,
	}
	for i := range row {
		dest = append(dest, &row[i].costN, &row[i].cost, &row[i].qualityN, &row[i].quality)
	}
	// A hundred thousand observations grow by copying megabytes unless there is room from the start.
	var room []detect.Observation
	everyKey := !q.Experiments && q.only == nil
	if everyKey {
		room = make([]detect.Observation, 0, s.swept.Load()+s.swept.Load()/8)
	}
	observations, err := collectInto(ch.Context(ctx, ch.WithSettings(sweepSettings)), s, room, sql, args,
		func(rows driver.Rows, out *detect.Observation) error {
			if err := rows.Scan(dest...); err != nil {
				return err
			}
			for i, w := range row {
				o.Windows[i] = detect.Window{CostN: int(w.costN), QualityN: int(w.qualityN)}
				if w.costN > 0 { // the median of nothing comes as 0, which is a code
					o.Windows[i].LnCost = kpi.LnCost(float64(w.cost))
				}
				if w.qualityN > 0 {
					o.Windows[i].Quality = kpi.Score(float64(w.quality))
				}
			}
			*out = o
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("sweeping shard %d at %s: %w", q.Shard, q.At.UTC().Format(time.RFC3339), err)
	}
	if everyKey {
		s.swept.Store(int64(len(observations)))
	}
	return observations, nil
}

// ShardOf is the shard that a tenant's keys are swept in, as SweepQuery spreads them.
func ShardOf(tenant string, shards int) int {
	if shards <= 1 {
		return 0
	}
	return int(city.CH64([]byte(tenant)) % uint64(shards))
}

// Minutes returns the key's stored minutes in [from, to), one per minute and arm, in order: production traffic, or
// an experiment's where the key is one's; of a pseudo-key those of all the tenant's models together. They are kept
// for a day.
func (s *Store) Minutes(ctx context.Context, key usage.Key, from, to time.Time) ([]kpi.Minute, error) {
	from, to = minutes(from, to)
	which := "cohort = {cohort:String} AND experiment_id = {experiment:String} AND tenant_id = {tenant:String}"
	cohort, of, experiment := usage.Production, key, ""
	if base, id, ok := key.Experiment(); ok {
		cohort, of, experiment = usage.Experiment, base, id
	}
	args := []any{
		ch.Named("from", from), ch.Named("to", to), ch.Named("tenant", of.Tenant),
		ch.Named("cohort", string(cohort)), ch.Named("experiment", experiment),
	}
	if !key.Pseudo() {
		which += " AND key = cityHash64({tenant:String}, {model:String}) AND model = {model:String}"
		args = append(args, ch.Named("model", of.Model))
	}
	sql := fmt.Sprintf(`SELECT
  minute, toString(arm),
  toInt64(sum(requests)), accurateCast(sum(cost_pico_usd), 'Int64'),
  sum(input_tokens), sum(output_tokens), sum(cache_read_tokens),
  groupArrayArray(%d)(cost_codes), groupArrayArray(%[1]d)(quality_codes)
FROM sweep_1m
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND %s
GROUP BY minute, arm
ORDER BY minute, arm`, kpi.CodeCap, which)
	stored, err := collect(ctx, s, sql, args, func(rows driver.Rows, m *kpi.Minute) error {
		var arm string
		if err := rows.Scan(&m.Start, &arm, &m.Requests, &m.CostPico, &m.InputTokens, &m.OutputTokens, &m.CacheRead,
			&m.CostCodes, &m.QualityCodes); err != nil {
			return err
		}
		m.Start, m.Arm = m.Start.UTC(), usage.Arm(arm)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the minutes of %s: %w", key, err)
	}
	return stored, nil
}
