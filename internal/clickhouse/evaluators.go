package clickhouse

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
)

var evaluatorsTable = table{"evaluators", []column{
	{"evaluator", symbol},
	{"evaluator_version", symbol},
	{"since", instant},
	{"standing", symbol},
	{"mapping", "String"},
	{"anchor_mean", "Float64"},
	{"anchor_sd", "Float64"},
	{"anchor_n", "UInt32"},
	{"anchor_human_mean", "Float64"},
	{"anchor_human_sd", "Float64"},
	{"anchor_residual_sd", "Float64"},
	{"by", "String"},
	{"reason", "String"},
}}

// SetEvaluator stores what a version of an evaluator counts for from Since on. Every ingest hears of it within a minute,
// and scores that are stored stay as they are.
func (s *Store) SetEvaluator(ctx context.Context, r contract.EvaluatorRecord) error {
	return s.SetEvaluators(ctx, []contract.EvaluatorRecord{r})
}

// SetEvaluators stores records together: all of them or none.
func (s *Store) SetEvaluators(ctx context.Context, records []contract.EvaluatorRecord) error {
	mappings := make([]string, len(records))
	for i, r := range records {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("storing what evaluator %q counts for: %w", r.Evaluator, err)
		}
		text, err := json.Marshal(r.Mapping)
		if err != nil {
			return fmt.Errorf("storing what evaluator %q counts for: %w", r.Evaluator, err)
		}
		mappings[i] = string(text)
	}
	err := s.insert(ctx, evaluatorsTable, "", len(records), func(i int) []any {
		r := &records[i]
		return []any{
			r.Evaluator, r.Version, millis(r.Since), string(r.Standing), mappings[i], r.AnchorMean, r.AnchorSD,
			uint32(r.AnchorN), r.AnchorHumanMean, r.AnchorHumanSD, r.AnchorResidualSD, r.By, r.Reason,
		}
	})
	if err != nil {
		return fmt.Errorf("storing what evaluators count for: %w", err)
	}
	return nil
}

// evaluatorRecords bounds how many records of one version are read: what stands, and what did when late scores were given.
const evaluatorRecords = 32

// Evaluators returns the newest record of each version of an evaluator, one that is to come included, by name and version.
func (s *Store) Evaluators(ctx context.Context) ([]contract.EvaluatorRecord, error) {
	return s.evaluators(ctx, 1)
}

// EvaluatorHistory returns the latest records of each version, by name and version, the newest first.
func (s *Store) EvaluatorHistory(ctx context.Context) ([]contract.EvaluatorRecord, error) {
	return s.evaluators(ctx, evaluatorRecords)
}

func (s *Store) evaluators(ctx context.Context, each int) ([]contract.EvaluatorRecord, error) {
	records, err := collect(ctx, s, fmt.Sprintf("SELECT evaluator, evaluator_version, since, standing, mapping, anchor_mean, anchor_sd,\n"+
		"  anchor_n, anchor_human_mean, anchor_human_sd, anchor_residual_sd, `by`, reason\n"+
		"FROM evaluators FINAL ORDER BY evaluator, evaluator_version, since DESC LIMIT %d BY evaluator, evaluator_version", each), nil,
		func(rows driver.Rows, r *contract.EvaluatorRecord) error {
			var mapping string
			var rated uint32
			if err := rows.Scan(&r.Evaluator, &r.Version, &r.Since, (*string)(&r.Standing), &mapping, &r.AnchorMean, &r.AnchorSD,
				&rated, &r.AnchorHumanMean, &r.AnchorHumanSD, &r.AnchorResidualSD, &r.By, &r.Reason); err != nil {
				return err
			}
			r.Since, r.AnchorN = r.Since.UTC(), int(rated)
			if err := json.Unmarshal([]byte(mapping), &r.Mapping); err != nil {
				return fmt.Errorf("the mapping of %s %s: %w", r.Evaluator, r.Version, err)
			}
			return r.Validate()
		})
	if err != nil {
		return nil, fmt.Errorf("reading what evaluators count for: %w", err)
	}
	return records, nil
}

const (
	// maxRated bounds how many rated calls one question returns, and looks at.
	maxRated = 100_000
	// ratedBefore is how long before an evaluator's score a person may have rated the call: sets of rated calls are
	// scored again.
	ratedBefore = 90 * 24 * time.Hour
)

// HumanPairs returns the calls that people rated and the evaluator scored in the range, one row per trace and version,
// in the order of time. A rating that names a span is of that span's scores, and of those that name none; other ratings
// are of the whole trace. A rater who rated a call twice counts once, by the mean; so does an evaluator.
func (s *Store) HumanPairs(ctx context.Context, q contract.HumanPairsQuery) ([]contract.RatedScore, error) {
	sql, args := humanPairsSQL(q)
	pairs, err := collect(ctx, s, sql, args, func(rows driver.Rows, r *contract.RatedScore) error {
		var raters uint64
		err := rows.Scan(&r.Key.Tenant, &r.Key.Model, &r.Evaluator, &r.Version, &r.TraceID, &r.At, &r.Human, &r.Judge, &raters)
		r.At, r.Raters = r.At.UTC(), int(raters)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading what people and evaluators said of the same calls: %w", err)
	}
	return pairs, nil
}

func humanPairsSQL(q contract.HumanPairsQuery) (string, []any) {
	limit := q.Limit
	if limit <= 0 || limit > maxRated {
		limit = maxRated
	}
	args := []any{
		ch.Named("from", millis(q.From)), ch.Named("to", millis(q.To)), ch.Named("rated_from", millis(q.From.Add(-ratedBefore))),
	}
	tenant, evaluator := "", ""
	if q.Tenant != "" {
		tenant = " AND tenant_id = {tenant:String}"
		args = append(args, ch.Named("tenant", q.Tenant))
	}
	if q.Evaluator != "" {
		evaluator = " AND evaluator = {evaluator:String}"
		args = append(args, ch.Named("evaluator", q.Evaluator))
	}
	if q.Version != "" {
		evaluator += " AND evaluator_version = {version:String}"
		args = append(args, ch.Named("version", q.Version))
	}
	return fmt.Sprintf(`WITH
rated AS (
  SELECT tenant_id, trace_id, span_id, avg(rating) AS human, count() AS raters
  FROM (
    SELECT tenant_id, trace_id, span_id, evaluator, avg(score) AS rating FROM quality
    WHERE kind = 'human' AND timestamp >= {rated_from:DateTime64(3, 'UTC')}%s
    GROUP BY tenant_id, trace_id, span_id, evaluator
  )
  GROUP BY tenant_id, trace_id, span_id
),
scored AS (
  SELECT tenant_id, requested_model, trace_id, span_id, evaluator, evaluator_version, max(timestamp) AS scored_at, avg(score) AS judge FROM quality
  WHERE kind != 'human' AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}%[1]s%s
    AND (tenant_id, trace_id) IN (SELECT tenant_id, trace_id FROM rated)
  GROUP BY tenant_id, requested_model, trace_id, span_id, evaluator, evaluator_version
)
SELECT * FROM (
  SELECT s.tenant_id AS tenant, any(s.requested_model) AS model, s.evaluator AS name, s.evaluator_version AS version, s.trace_id AS trace,
    max(s.scored_at) AS at, avg(r.human) AS human, avg(s.judge) AS judge, max(r.raters) AS raters
  FROM scored AS s INNER JOIN rated AS r ON s.tenant_id = r.tenant_id AND s.trace_id = r.trace_id
  WHERE s.span_id = r.span_id OR s.span_id = '' OR r.span_id = ''
  GROUP BY tenant, name, version, trace
  ORDER BY at DESC, tenant, name, version, trace
  LIMIT %d
)
ORDER BY at, tenant, name, version, trace`, tenant, evaluator, limit), args
}
