package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
)

const (
	// maxBoth bounds how many calls that two evaluators scored are read at once.
	maxBoth = 100_000
	// maxSpans bounds how many scores of one trace are paired.
	maxSpans = 64
)

// BothScored returns the calls that both versions have scored in the range, in the order of time, and the share of the
// traces that was looked at, one in part: with more calls than the limit, those whose trace ids a hash picks, the
// same ones whoever asks. Scores of one span make a pair; where one of the two names no spans, the means of the trace do.
func (s *Store) BothScored(ctx context.Context, q contract.BothScoredQuery) (pairs []contract.BothScored, part int, err error) {
	limit := q.Limit
	if limit <= 0 || limit > maxBoth {
		limit = maxBoth
	}
	args := []any{
		ch.Named("from", millis(q.From)), ch.Named("to", millis(q.To)),
		ch.Named("old", q.Old.Evaluator), ch.Named("old_version", q.Old.Version), ch.Named("new", q.New.Evaluator), ch.Named("new_version", q.New.Version),
	}
	const inRange = "kind != 'human' AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}"
	const isOld = "evaluator = {old:String} AND evaluator_version = {old_version:String}"
	const isNew = "evaluator = {new:String} AND evaluator_version = {new_version:String}"
	fail := func(err error) ([]contract.BothScored, int, error) {
		return nil, 0, fmt.Errorf("reading what %s and %s said of the same calls: %w", q.Old, q.New, err)
	}
	var scored uint64
	if err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT least(countIf(%s), countIf(%s)) FROM quality WHERE %s", isOld, isNew, inRange), args...).Scan(&scored); err != nil {
		return fail(err)
	}
	part = max(1, (int(scored)+limit-1)/limit)
	traces, err := collect(ctx, s, fmt.Sprintf(`SELECT tenant_id, any(requested_model), trace_id, max(timestamp) AS at,
  groupArrayIf(%d)(span_id, is_old), groupArrayIf(%[1]d)(score, is_old), groupArrayIf(%[1]d)(span_id, NOT is_old), groupArrayIf(%[1]d)(score, NOT is_old)
FROM (
  SELECT tenant_id, requested_model, trace_id, span_id, timestamp, score, %s AS is_old FROM quality
  WHERE %s AND ((%[2]s) OR (%[4]s)) AND cityHash64(trace_id) %% {part:UInt64} = 0
  ORDER BY tenant_id, trace_id, timestamp, id
)
GROUP BY tenant_id, trace_id
HAVING countIf(is_old) > 0 AND countIf(NOT is_old) > 0
ORDER BY at, tenant_id, trace_id
LIMIT %d`, maxSpans, isOld, inRange, isNew, 2*maxBoth), append(args, ch.Named("part", uint64(part))),
		func(rows driver.Rows, out *[]contract.BothScored) error {
			var b contract.BothScored
			var oldSpans, newSpans []string
			var oldScores, newScores []float64
			if err := rows.Scan(&b.Key.Tenant, &b.Key.Model, &b.TraceID, &b.At, &oldSpans, &oldScores, &newSpans, &newScores); err != nil {
				return err
			}
			b.At = b.At.UTC()
			*out = pairSpans(b, meansBySpan(oldSpans, oldScores), meansBySpan(newSpans, newScores))
			return nil
		})
	if err != nil {
		return fail(err)
	}
	return slices.Concat(traces...), part, nil
}

// spanMean is the mean score of one span of a trace.
type spanMean struct {
	span string
	mean float64
}

// meansBySpan are the spans' mean scores, by span id.
func meansBySpan(spans []string, scores []float64) []spanMean {
	sum, n := map[string]float64{}, map[string]int{}
	for i, span := range spans {
		sum[span] += scores[i]
		n[span]++
	}
	means := make([]spanMean, 0, len(sum))
	for span := range sum {
		means = append(means, spanMean{span, sum[span] / float64(n[span])})
	}
	slices.SortFunc(means, func(a, b spanMean) int { return cmp.Compare(a.span, b.span) })
	return means
}

// pairSpans pairs the scores of one trace: those of one span or, where either side names none, the means of the trace.
func pairSpans(trace contract.BothScored, old, now []spanMean) (pairs []contract.BothScored) {
	for _, a := range old {
		for _, b := range now {
			if a.span == b.span {
				trace.Old, trace.New = a.mean, b.mean
				pairs = append(pairs, trace)
			}
		}
	}
	if pairs == nil && (old[0].span == "" || now[0].span == "") {
		trace.Old, trace.New = meanOf(old), meanOf(now)
		pairs = append(pairs, trace)
	}
	return pairs
}

func meanOf(means []spanMean) (mean float64) {
	for _, m := range means {
		mean += m.mean / float64(len(means))
	}
	return mean
}

// EvaluatorScores returns what each version of an evaluator gave in the range, as given and on the scale of baselines, by
// name, version and kind: at most 1,000 of them, the busiest.
func (s *Store) EvaluatorScores(ctx context.Context, from, to time.Time) ([]contract.EvaluatorScores, error) {
	scores, err := collect(ctx, s, `SELECT * FROM (
  SELECT evaluator, evaluator_version, kind, toInt64(count()) AS scored, toInt64(countIf(counts)), avg(score), avg(calibrated), max(timestamp)
  FROM quality WHERE timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
  GROUP BY evaluator, evaluator_version, kind ORDER BY scored DESC LIMIT 1000
)
ORDER BY 1, 2, 3`, []any{ch.Named("from", millis(from)), ch.Named("to", millis(to))},
		func(rows driver.Rows, e *contract.EvaluatorScores) error {
			err := rows.Scan(&e.Evaluator, &e.Version, &e.Kind, &e.Scored, &e.Counted, &e.Mean, &e.Calibrated, &e.Last)
			e.Last = e.Last.UTC()
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("reading what evaluators gave: %w", err)
	}
	return scores, nil
}
