package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ofKey is the condition that a row of kpi_1m or spans belongs to the key; for a pseudo-key, to any of
// the tenant's models.
func ofKey(key usage.Key) string {
	if key.Pseudo() {
		return "tenant_id = {tenant:String} AND {model:String} = '*'"
	}
	return "tenant_id = {tenant:String} AND requested_model = {model:String}"
}

// rangeArgs are the parameters of a query on one key between two times.
func rangeArgs(key usage.Key, from, to time.Time) []any {
	return append(keyArgs(key), ch.Named("from", from), ch.Named("to", to))
}

// Deployments returns what was shipped in [from, to) and could concern the key, newest first: what
// names its tenant and model, or leaves them open. To a pseudo-key any model of the tenant belongs.
func (s *Store) Deployments(ctx context.Context, key usage.Key, from, to time.Time) ([]usage.Deployment, error) {
	deployments, err := collect(ctx, s, fmt.Sprintf("SELECT id, service, tenant_id, model, prompt_template_version, previous, version, `by`, timestamp\n"+
		`FROM deployments FINAL
WHERE tenant_id IN ('', {tenant:String}) AND (model IN ('', {model:String}) OR {model:String} = '*')
  AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
ORDER BY timestamp DESC, id LIMIT %d`, maxRecords), rangeArgs(key, millis(from), millis(to)),
		func(rows driver.Rows, d *usage.Deployment) error {
			if err := rows.Scan(&d.ID, &d.Service, &d.TenantID, &d.Model, &d.PromptTemplate, &d.Previous, &d.Version, &d.By, &d.Timestamp); err != nil {
				return err
			}
			d.Timestamp = d.Timestamp.UTC()
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading the deployments around %s: %w", key, err)
	}
	return deployments, nil
}

// What can be seen for the first time.
const (
	SeenModel     = "model"                   // a model that served
	SeenTemplate  = "prompt_template_version" // a prompt template
	SeenRequested = "requested_model"         // a model that was asked for; of pseudo-keys only
)

// Sighting is a served model, prompt template or requested model that appeared in a window.
type Sighting struct {
	Kind     string    `json:"kind"`
	Value    string    `json:"value"`
	FirstAt  time.Time `json:"first_at"` // its minute
	Requests int64     `json:"requests"` // in the window
}

// FirstSeen returns what untreated traffic of the key showed in [from, to) and not in the lookback
// before it, earliest first. Of a key without any traffic in the lookback nothing is first seen: there
// is nothing to tell it from.
func (s *Store) FirstSeen(ctx context.Context, key usage.Key, from, to time.Time, lookback time.Duration) ([]Sighting, error) {
	since, _ := minutes(from.Add(-lookback), to)
	from, to = minutes(from, to)
	kinds, values := "['model', 'prompt_template_version']", "[toString(model), toString(prompt_template_version)]"
	if key.Pseudo() {
		kinds, values = "['model', 'prompt_template_version', 'requested_model']", "[toString(model), toString(prompt_template_version), toString(requested_model)]"
	}
	sql := fmt.Sprintf(`WITH seen AS (
  SELECT minute, requests, model, prompt_template_version, requested_model FROM kpi_1m
  WHERE %s AND cohort = 'production' AND arm != 'treated' AND minute >= {since:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
)
SELECT kind, value, min(minute) AS first, toInt64(sum(requests))
FROM seen ARRAY JOIN %s AS kind, %s AS value
WHERE value != ''
GROUP BY kind, value
HAVING first >= {from:DateTime('UTC')} AND (SELECT count() FROM seen WHERE minute < {from:DateTime('UTC')}) > 0
ORDER BY first, kind, value`, ofKey(key), kinds, values)
	sightings, err := collect(ctx, s, sql, append(rangeArgs(key, from, to), ch.Named("since", since)),
		func(rows driver.Rows, seen *Sighting) error {
			if err := rows.Scan(&seen.Kind, &seen.Value, &seen.FirstAt, &seen.Requests); err != nil {
				return err
			}
			seen.FirstAt = seen.FirstAt.UTC()
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading what %s showed for the first time: %w", key, err)
	}
	return sightings, nil
}

// completionBefore is the time before a window that its completion ratios are compared with.
const completionBefore = 24 * time.Hour

// CompletionChange compares the completion ratio (output over input tokens) of one prompt template, and what
// its calls led to, with those of the day before.
type CompletionChange struct {
	Template       string  `json:"prompt_template_version"`
	Requests       int64   `json:"requests"`
	RequestsBefore int64   `json:"requests_before"`
	Ratio          float64 `json:"ratio"`        // 0 without input tokens
	RatioBefore    float64 `json:"ratio_before"` // 0 without input tokens
	Change         float64 `json:"change"`       // Ratio / RatioBefore; 0 when either is unknown

	Outcomes       int64 `json:"outcomes"` // that happened in the range, whenever their calls were
	Good           int64 `json:"good"`
	OutcomesBefore int64 `json:"outcomes_before"`
	GoodBefore     int64 `json:"good_before"`
}

// OutcomeRate is the share of the template's calls with a good outcome, in the range and before it; not known
// where nobody reports outcomes.
func (c CompletionChange) OutcomeRate() (now, before float64, known bool) {
	if c.Outcomes == 0 || c.OutcomesBefore == 0 || c.Requests == 0 || c.RequestsBefore == 0 {
		return 0, 0, false
	}
	return float64(c.Good) / float64(c.Requests), float64(c.GoodBefore) / float64(c.RequestsBefore), true
}

// Completion compares the completion ratios and the outcomes of the key's untreated production traffic in [from, to)
// with those of the 24 hours before, per prompt template, busiest first.
func (s *Store) Completion(ctx context.Context, key usage.Key, from, to time.Time) ([]CompletionChange, error) {
	from, to = minutes(from, to)
	sql := fmt.Sprintf(`SELECT
  prompt_template_version,
  toInt64(sumIf(requests, now)) AS calls, toInt64(sumIf(requests, NOT now)),
  toFloat64(if(sumIf(input_tokens, now) = 0, 0, sumIf(output_tokens, now) / sumIf(input_tokens, now))),
  toFloat64(if(sumIf(input_tokens, NOT now) = 0, 0, sumIf(output_tokens, NOT now) / sumIf(input_tokens, NOT now))),
  toInt64(sumIf(outcomes, now)), toInt64(sumIf(good, now)), toInt64(sumIf(outcomes, NOT now)), toInt64(sumIf(good, NOT now))
FROM (
  SELECT
    prompt_template_version, requests, output_tokens, minute >= {from:DateTime('UTC')} AS now,
    uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens AS input_tokens,
    toUInt64(0) AS outcomes, toUInt64(0) AS good
  FROM kpi_1m
  WHERE %[1]s AND cohort = 'production' AND arm != 'treated'
    AND minute >= {before:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
  UNION ALL
  SELECT prompt_template_version, toUInt64(0), toInt64(0), minute >= {from:DateTime('UTC')}, toInt64(0), outcomes, good
  FROM outcomes_1m
  WHERE %[1]s AND cohort = 'production' AND arm != 'treated'
    AND minute >= {before:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
)
GROUP BY prompt_template_version
ORDER BY calls DESC, prompt_template_version`, ofKey(key))
	changes, err := collect(ctx, s, sql, append(rangeArgs(key, from, to), ch.Named("before", from.Add(-completionBefore))),
		func(rows driver.Rows, c *CompletionChange) error {
			if err := rows.Scan(&c.Template, &c.Requests, &c.RequestsBefore, &c.Ratio, &c.RatioBefore,
				&c.Outcomes, &c.Good, &c.OutcomesBefore, &c.GoodBefore); err != nil {
				return err
			}
			if c.Ratio > 0 && c.RatioBefore > 0 {
				c.Change = c.Ratio / c.RatioBefore
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("comparing the completion ratios of %s: %w", key, err)
	}
	return changes, nil
}

// maxTraces bounds how many traces one question returns.
const maxTraces = 100

// Trace is one call, as evidence.
type Trace struct {
	TraceID        string        `json:"trace_id"`
	SpanID         string        `json:"span_id"`
	Timestamp      time.Time     `json:"timestamp"`
	RequestedModel string        `json:"requested_model"`
	Model          string        `json:"model"`
	PromptTemplate string        `json:"prompt_template_version"`
	Cost           usage.PicoUSD `json:"cost_pico_usd"`
	InputTokens    int64         `json:"input_tokens"`
	OutputTokens   int64         `json:"output_tokens"`
	LatencyMS      int64         `json:"latency_ms"`
	Score          *float64      `json:"score,omitempty"` // the lowest that the trace got; nil when it got none
}

// WorstTraces returns the n untreated production calls in [from, to) that cost most per unit of
// quality, worst first: cost over the lowest score of the trace, which counts as 1 while there is none
// and as 0.05 when it is below. People's ratings count here; scores that are kept aside do not.
func (s *Store) WorstTraces(ctx context.Context, key usage.Key, from, to time.Time, n int) ([]Trace, error) {
	sql := fmt.Sprintf(`SELECT
  s.trace_id, s.span_id, s.timestamp, s.requested_model, s.model, s.prompt_template_version, s.cost_pico_usd,
  s.uncached_input_tokens + s.cache_read_tokens + s.cache_write_5m_tokens + s.cache_write_1h_tokens,
  s.output_tokens, s.latency_ms, q.scored > 0, q.score
FROM (
  SELECT * FROM spans
  WHERE %s AND cohort = 'production' AND arm != 'treated'
    AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
) AS s
LEFT JOIN (
  SELECT trace_id, min(calibrated) AS score, count() AS scored FROM quality
  WHERE %[1]s AND (counts OR kind = 'human') AND cohort = 'production' AND timestamp >= {from:DateTime64(3, 'UTC')}
  GROUP BY trace_id
) AS q ON s.trace_id = q.trace_id
ORDER BY s.cost_pico_usd / if(q.scored > 0, greatest(q.score, 0.05), 1) DESC, s.timestamp, s.span_id
LIMIT %d`, ofKey(key), max(0, min(n, maxTraces)))
	traces, err := collect(ctx, s, sql, rangeArgs(key, millis(from), millis(to)), func(rows driver.Rows, t *Trace) error {
		var cost int64
		var scored bool
		var score float64
		if err := rows.Scan(&t.TraceID, &t.SpanID, &t.Timestamp, &t.RequestedModel, &t.Model, &t.PromptTemplate, &cost,
			&t.InputTokens, &t.OutputTokens, &t.LatencyMS, &scored, &score); err != nil {
			return err
		}
		t.Timestamp, t.Cost = t.Timestamp.UTC(), usage.PicoUSD(cost)
		if scored {
			t.Score = &score
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the worst traces of %s: %w", key, err)
	}
	return traces, nil
}

// Flows returns the key's production calls and scores by requested model, served model and prompt template, in
// whole minutes of both times: exact sums over all arms, since all of them are paid for. Human ratings do not
// count, nor do scores that are kept aside.
func (s *Store) Flows(ctx context.Context, key usage.Key, times runbook.Times) ([]runbook.Flow, error) {
	from, to := minutes(times.From, times.To)
	before, _ := minutes(times.Before, times.From)
	sql := fmt.Sprintf(`SELECT
  requested_model, model, prompt_template_version,
  toInt64(sumIf(calls, now)), accurateCast(sumIf(cost, now), 'Int64'), toInt64(sumIf(scores, now)), toInt64(sumIf(codes, now)),
  toInt64(sumIf(calls, NOT now)), accurateCast(sumIf(cost, NOT now), 'Int64'), toInt64(sumIf(scores, NOT now)), toInt64(sumIf(codes, NOT now))
FROM (
  SELECT requested_model, model, prompt_template_version, minute >= {from:DateTime('UTC')} AS now,
    requests AS calls, cost_pico_usd AS cost, toUInt64(0) AS scores, toInt64(0) AS codes
  FROM kpi_1m
  WHERE %[1]s AND cohort = 'production' AND minute >= {before:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
  UNION ALL
  SELECT requested_model, model, prompt_template_version, minute >= {from:DateTime('UTC')}, toUInt64(0), toInt128(0), scored, code_sum
  FROM quality_1m
  WHERE %[1]s AND cohort = 'production' AND kind != 'human' AND minute >= {before:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
)
GROUP BY requested_model, model, prompt_template_version
ORDER BY requested_model, model, prompt_template_version`, ofKey(key))
	flows, err := collect(ctx, s, sql, append(rangeArgs(key, from, to), ch.Named("before", before)),
		func(rows driver.Rows, f *runbook.Flow) error {
			return rows.Scan(&f.RequestedModel, &f.Model, &f.Template,
				&f.Now.Requests, (*int64)(&f.Now.Cost), &f.Now.Scored, &f.Now.ScoreCodes,
				&f.Before.Requests, (*int64)(&f.Before.Cost), &f.Before.Scored, &f.Before.ScoreCodes)
		})
	if err != nil {
		return nil, fmt.Errorf("reading what %s is made of: %w", key, err)
	}
	return flows, nil
}
