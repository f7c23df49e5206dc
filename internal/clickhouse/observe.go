package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ObserveQuery asks for one key's windows at a moment, from stored calls, scores and outcomes instead of the
// sweep's own table, which keeps a day and no record of when anything came.
type ObserveQuery struct {
	Key usage.Key // a pseudo-key too, and that of an experiment
	At  time.Time // nothing later counts, also within its minute
	// StoredBy leaves out what was stored later: what the sweep could not know then. Zero: nothing is left out.
	StoredBy time.Time
}

// Observe returns the windows of one key as Sweep does; ok is false when it had neither calls, scores nor outcomes
// in the longest window. Of a minute with more than kpi.CodeCap calls the medians may be of others of them than
// the sweep took.
func (s *Store) Observe(ctx context.Context, q ObserveQuery) (o detect.Observation, ok bool, err error) {
	sweep := SweepQuery{At: q.At, only: &q}
	_, _, sweep.Experiments = q.Key.Experiment()
	found, err := s.Sweep(ctx, sweep)
	if err != nil {
		return o, false, fmt.Errorf("observing %s: %w", q.Key, err)
	}
	for _, o := range found {
		if o.Key == q.Key {
			return o, true, nil
		}
	}
	return detect.Observation{Key: q.Key}, false, nil
}

// source is what the sweep reads in place of sweep_1m: the rows that its views make, of one key alone.
func (q ObserveQuery) source() (string, []any) {
	of := q.Key
	which := "tenant_id = {tenant:String} AND timestamp >= {begin:DateTime64(3, 'UTC')} AND timestamp <= {at:DateTime64(3, 'UTC')}"
	begin := q.At.UTC().Truncate(time.Minute).Add(-time.Duration(detect.Windows[len(detect.Windows)-1]-1) * time.Minute)
	args := []any{ch.Named("begin", millis(begin)), ch.Named("at", millis(q.At))}
	if base, id, experiment := q.Key.Experiment(); experiment {
		of = base
		which += " AND experiment_id = {experiment:String}"
		args = append(args, ch.Named("experiment", id))
	}
	args = append(args, ch.Named("tenant", of.Tenant))
	if !of.Pseudo() {
		which += " AND requested_model = {model:String}"
		args = append(args, ch.Named("model", of.Model))
	}
	if !q.StoredBy.IsZero() {
		which += " AND ingested_at <= {stored:DateTime64(3, 'UTC')}"
		args = append(args, ch.Named("stored", millis(q.StoredBy)))
	}
	const group = "minute, tenant_id, model, cohort, arm, experiment_id"
	const dimensions = "toStartOfMinute(r.timestamp) AS minute, r.tenant_id AS tenant_id, r.requested_model AS model, r.cohort AS cohort, r.arm AS arm, r.experiment_id AS experiment_id"
	return fmt.Sprintf(`(
        SELECT %[1]s,
          count() AS requests, sum(toInt128(r.cost_pico_usd)) AS cost_pico_usd,
          sum(r.uncached_input_tokens + r.cache_read_tokens + r.cache_write_5m_tokens + r.cache_write_1h_tokens) AS input_tokens,
          sum(r.output_tokens) AS output_tokens, sum(r.cache_read_tokens) AS cache_read_tokens,
          countIf(r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms) AS streamed,
          sumIf(r.output_tokens, r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms) AS velocity_tokens,
          sumIf(r.latency_ms - r.ttft_ms, r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms) AS velocity_ms,
          groupArrayIf(%[4]d)(toInt16(floor(log2(greatest(r.cost_pico_usd, 1)) * 100 + 0.5)), r.cost_pico_usd > 0) AS cost_codes,
          emptyArrayInt16() AS quality_codes, toUInt64(0) AS outcomes, toUInt64(0) AS good
        FROM spans AS r WHERE %[2]s GROUP BY %[3]s
        UNION ALL
        SELECT %[1]s, 0, toInt128(0), toInt64(0), toInt64(0), toInt64(0), 0, toInt64(0), toInt64(0), emptyArrayInt16(),
          groupArray(%[4]d)(toInt16(floor(r.calibrated * 200 + 0.5))), 0, 0
        FROM quality AS r WHERE %[2]s AND kind != 'human' AND counts GROUP BY %[3]s
        UNION ALL
        SELECT %[1]s, 0, toInt128(0), toInt64(0), toInt64(0), toInt64(0), 0, toInt64(0), toInt64(0), emptyArrayInt16(), emptyArrayInt16(),
          count(), countIf(r.value > 0)
        FROM outcomes AS r WHERE %[2]s GROUP BY %[3]s
      )`, dimensions, which, group, kpi.CodeCap), args
}

// StoredLater counts the calls, and the scores, of the key in the longest window at a moment that were stored after
// another: the sweep did not know them then.
func (s *Store) StoredLater(ctx context.Context, q ObserveQuery, than time.Time) (n int64, err error) {
	q.StoredBy = time.Time{}
	all, _, err := s.Observe(ctx, q)
	if err != nil {
		return 0, err
	}
	q.StoredBy = than
	known, _, err := s.Observe(ctx, q)
	w := len(detect.Windows) - 1
	return all.Whole.Requests - known.Whole.Requests + int64(all.Windows[w].QualityN-known.Windows[w].QualityN), err
}

// LastCall is when the key called last before a moment, within a day; zero: not within it. usage.Everything stands
// for all keys of all tenants.
func (s *Store) LastCall(ctx context.Context, key usage.Key, before time.Time) (time.Time, error) {
	which := "timestamp > {from:DateTime64(3, 'UTC')} AND timestamp <= {to:DateTime64(3, 'UTC')}"
	if key != usage.Everything {
		which += " AND tenant_id = {tenant:String} AND requested_model = {model:String} AND cohort = 'production'"
	}
	last, err := collect(ctx, s, "SELECT maxOrNull(timestamp) FROM spans WHERE "+which,
		append(keyArgs(key), ch.Named("from", millis(before.Add(-24*time.Hour))), ch.Named("to", millis(before))),
		func(rows driver.Rows, at **time.Time) error { return rows.Scan(at) })
	if err != nil {
		return time.Time{}, fmt.Errorf("asking when %s called last: %w", key, err)
	}
	return end(last[0]), nil // an aggregate is always one row
}
