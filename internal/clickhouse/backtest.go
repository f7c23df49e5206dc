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

// What was known when: the telemetry in the order in which it came in, and the baselines as they were stored.

// KnownQuery asks for the telemetry of a range in the order in which it came in, gathered by the ticks of a sweep.
type KnownQuery struct {
	From, To time.Time     // the first tick, and the end of the ticks
	Every    time.Duration // between two ticks
	Tenant   string        // empty: every one
	Model    string        // the requested one; empty: every one
}

const (
	// knownChunk is how much of what came in one query reads: it bounds what the server gathers and sorts.
	knownChunk = time.Hour
	// knownLate is how late a call, score or outcome may come and still be seen by a sweep: by the length of the longest
	// window, which is of whole minutes. What comes later never counts, so that reading no older partitions loses nothing.
	knownLate = 16 * time.Minute
	// knownAhead is how far in the future a record may lie: ingest refuses those beyond.
	knownAhead = time.Hour + time.Minute
)

// knownSettings bound the server's memory of one chunk: what does not fit is sorted and gathered on disk.
var knownSettings = ch.Settings{
	"max_bytes_before_external_group_by": 1 << 30,
	"max_bytes_before_external_sort":     1 << 30,
}

// SQL is the text and parameters of the query of a chunk: what came in after one time until another. A row is what came
// in of one minute, key and arm between two ticks. Codes are those of the sweep's own table.
func (q KnownQuery) SQL(after, until time.Time) (string, []any) {
	args := []any{
		ch.Named("first", q.From.UnixMilli()), ch.Named("every", q.Every.Milliseconds()),
		ch.Named("after", millis(after)), ch.Named("until", millis(until)),
		ch.Named("oldest", millis(after.Add(-knownLate))), ch.Named("newest", millis(until.Add(knownAhead))),
	}
	which := ""
	if q.Tenant != "" {
		which += " AND r.tenant_id = {tenant:String}"
		args = append(args, ch.Named("tenant", q.Tenant))
	}
	if q.Model != "" {
		which += " AND r.requested_model = {model:String}"
		args = append(args, ch.Named("model", q.Model))
	}
	part := func(table, sums, only string) string {
		return fmt.Sprintf(`
  SELECT
    greatest(intDiv(toUnixTimestamp64Milli(r.ingested_at) - {first:Int64} + {every:Int64} - 1, {every:Int64}), 0) AS tick,
    toInt64(intDiv(toUnixTimestamp(r.timestamp), 60)) AS minute, r.tenant_id AS tenant, r.requested_model AS model,
    r.experiment_id AS experiment, r.arm AS arm, %s
  FROM %s AS r
  WHERE r.timestamp >= {oldest:DateTime64(3, 'UTC')} AND r.timestamp < {newest:DateTime64(3, 'UTC')}
    AND r.ingested_at > {after:DateTime64(3, 'UTC')} AND r.ingested_at <= {until:DateTime64(3, 'UTC')}
    AND r.timestamp >= r.ingested_at - INTERVAL %d SECOND%s%s
  GROUP BY tick, minute, tenant, model, experiment, arm`, sums, table, int(knownLate.Seconds()), only, which)
	}
	const streamed = "r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms"
	return fmt.Sprintf(`SELECT tick, minute, tenant, model, experiment, toString(arm), calls, cost, input, output, cached, streams, stream_tokens, stream_ms, outcomes, good, costs, scores
FROM (%s
  UNION ALL%s
  UNION ALL%s
)
ORDER BY tick`,
		part("spans", `toInt64(count()) AS calls, accurateCast(sum(toInt128(r.cost_pico_usd)), 'Int64') AS cost,
    sum(r.uncached_input_tokens + r.cache_read_tokens + r.cache_write_5m_tokens + r.cache_write_1h_tokens) AS input,
    sum(r.output_tokens) AS output, sum(r.cache_read_tokens) AS cached,
    toInt64(countIf(`+streamed+`)) AS streams, sumIf(r.output_tokens, `+streamed+`) AS stream_tokens, sumIf(r.latency_ms - r.ttft_ms, `+streamed+`) AS stream_ms,
    toInt64(0) AS outcomes, toInt64(0) AS good,
    groupArrayIf(`+fmt.Sprint(kpi.CodeCap)+`)(toInt16(floor(log2(greatest(r.cost_pico_usd, 1)) * 100 + 0.5)), r.cost_pico_usd > 0 AND r.arm != 'treated') AS costs, CAST([], 'Array(Int16)') AS scores`, ""),
		part("quality", `toInt64(0) AS calls, toInt64(0) AS cost, toInt64(0) AS input, toInt64(0) AS output, toInt64(0) AS cached,
    toInt64(0) AS streams, toInt64(0) AS stream_tokens, toInt64(0) AS stream_ms, toInt64(0) AS outcomes, toInt64(0) AS good,
    CAST([], 'Array(Int16)') AS costs, groupArrayIf(`+fmt.Sprint(kpi.CodeCap)+`)(toInt16(floor(r.calibrated * 200 + 0.5)), r.arm != 'treated') AS scores`, " AND r.kind != 'human' AND r.counts"),
		part("outcomes", `toInt64(0) AS calls, toInt64(0) AS cost, toInt64(0) AS input, toInt64(0) AS output, toInt64(0) AS cached,
    toInt64(0) AS streams, toInt64(0) AS stream_tokens, toInt64(0) AS stream_ms, toInt64(count()) AS outcomes, toInt64(countIf(r.value > 0)) AS good,
    CAST([], 'Array(Int16)') AS costs, CAST([], 'Array(Int16)') AS scores`, ""),
	), args
}

// Known gives what came in, each with the number of the tick by which it was known, in order of those. What was known
// before the first tick and counts there comes with tick 0. It reads in chunks of an hour of what came in, and rows
// as they are taken, so that neither side holds more than that.
func (s *Store) Known(ctx context.Context, q KnownQuery, take func(tick int64, a detect.Arrival) error) error {
	after := q.From.Add(-knownLate)
	for after.Before(q.To) {
		until := after.Add(knownChunk)
		if after.Before(q.From) {
			until = q.From
		}
		if until.After(q.To) {
			until = q.To
		}
		if err := s.known(ctx, q, after, until, take); err != nil {
			return fmt.Errorf("reading what came in from %s to %s: %w", after.UTC().Format(time.RFC3339), until.UTC().Format(time.RFC3339), err)
		}
		after = until
	}
	return nil
}

func (s *Store) known(ctx context.Context, q KnownQuery, after, until time.Time, take func(tick int64, a detect.Arrival) error) error {
	sql, args := q.SQL(after, until)
	rows, err := s.conn.Query(ch.Context(ctx, ch.WithSettings(knownSettings)), sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var tick int64
	var experiment, arm string
	for rows.Next() {
		var a detect.Arrival
		if err := rows.Scan(&tick, &a.Minute, &a.Key.Tenant, &a.Key.Model, &experiment, &arm, &a.Volume.Requests, &a.CostPico,
			&a.Volume.InputTokens, &a.Volume.OutputTokens, &a.Volume.CacheRead, &a.Streams.Calls, &a.Streams.Tokens, &a.Streams.MS,
			&a.Outcomes, &a.Good, &a.Costs, &a.Scores); err != nil {
			return err
		}
		if a.Arm = usage.Arm(arm); experiment != "" {
			a.Key = a.Key.OfExperiment(experiment)
		}
		if err := take(tick, a); err != nil {
			return err
		}
	}
	return rows.Err()
}

// BaselineChanges are the times in [from, to) at which baselines of the slots that serve there were stored, as far as a
// later one of the same slot and key has not replaced them.
func (s *Store) BaselineChanges(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	changes, err := collect(ctx, s, `SELECT DISTINCT computed_at FROM baselines
WHERE slot > {oldest:DateTime('UTC')} AND slot <= {to:DateTime('UTC')}
  AND computed_at >= {from:DateTime64(3, 'UTC')} AND computed_at < {to:DateTime64(3, 'UTC')}
ORDER BY computed_at`,
		[]any{ch.Named("oldest", bounded(from).Add(-baselineMaxAge).Truncate(time.Hour)), ch.Named("from", millis(from)), ch.Named("to", millis(to))},
		func(rows driver.Rows, at *time.Time) error { return rows.Scan(at) })
	if err != nil {
		return nil, fmt.Errorf("reading when baselines were stored: %w", err)
	}
	return changes, nil
}

// BaselinesKnown are the baselines that a sweep at the time compared with: of the latest slot of the day before that was
// stored by then, as they were stored by then.
func (s *Store) BaselinesKnown(ctx context.Context, at time.Time) (map[usage.Key]detect.Baseline, error) {
	return s.readBaselines(ctx, "baselines", `slot = (SELECT max(slot) FROM baselines
  WHERE slot <= {slot:DateTime('UTC')} AND slot > {oldest:DateTime('UTC')} AND computed_at <= {known:DateTime64(3, 'UTC')})
  AND computed_at <= {known:DateTime64(3, 'UTC')}
ORDER BY computed_at DESC LIMIT 1 BY tenant_id, model`, at, ch.Named("known", millis(at)))
}

// RecomputeBaselines are the baselines of the hour as RebuildBaselines would have computed them, without storing them:
// from the 15-minute buckets that had ended, as they are now (scores and calls that came in later for them count),
// incidents as they were by then, and the levels accepted and calibrated by then.
func (s *Store) RecomputeBaselines(ctx context.Context, at time.Time, minimums detect.Minimums) (map[usage.Key]detect.Baseline, error) {
	at = at.UTC().Truncate(time.Hour)
	q := baselineQuery{At: at, Minimums: minimums}
	baselines, err := s.computeBaselines(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("computing the baselines of %s again: %w", at.Format(time.RFC3339), err)
	}
	q.AllHours = true
	everyHour, err := s.computeBaselines(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("computing the baselines of all hours again: %w", err)
	}
	fill(baselines, everyHour, minimums)
	accepted, err := s.acceptedLevels(ctx, "AND accepted_at <= {known:DateTime64(3, 'UTC')}", at, ch.Named("known", millis(at)))
	if err != nil {
		return nil, err
	}
	fill(baselines, accepted, minimums)
	if err := s.hold(ctx, q, baselines); err != nil {
		return nil, err
	}
	if err := s.expectCalls(ctx, at, baselines); err != nil {
		return nil, err
	}
	for key, b := range baselines {
		b.Slot = at
		if b.Version == "" {
			b.Version = "recomputed"
		}
		baselines[key] = b
	}
	return baselines, nil
}

// KnownDeployment is a deployment, and since when it was known.
type KnownDeployment struct {
	usage.Deployment
	Known time.Time
}

// KnownDeployments are those of [from, to), of every key, newest first.
func (s *Store) KnownDeployments(ctx context.Context, from, to time.Time) ([]KnownDeployment, error) {
	all, err := collect(ctx, s, "SELECT id, service, tenant_id, model, prompt_template_version, previous, version, `by`, timestamp, ingested_at\n"+
		fmt.Sprintf(`FROM deployments FINAL
WHERE timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
ORDER BY timestamp DESC, id LIMIT %d`, maxKnownDeployments), []any{ch.Named("from", millis(from)), ch.Named("to", millis(to))},
		func(rows driver.Rows, d *KnownDeployment) error {
			if err := rows.Scan(&d.ID, &d.Service, &d.TenantID, &d.Model, &d.PromptTemplate, &d.Previous, &d.Version, &d.By, &d.Timestamp, &d.Known); err != nil {
				return err
			}
			d.Timestamp, d.Known = d.Timestamp.UTC(), d.Known.UTC()
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading the deployments of the range: %w", err)
	}
	return all, nil
}

// maxKnownDeployments bounds the memory that deployments of a range take.
const maxKnownDeployments = 100_000
