package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// SeriesPoint is one key in one arm in one step of time.
type SeriesPoint struct {
	Key      usage.Key     `json:"key"`
	Arm      usage.Arm     `json:"arm"`
	At       time.Time     `json:"at"` // the step's start
	Requests int64         `json:"requests"`
	Spend    usage.PicoUSD `json:"spend_pico_usd"`
	CostP50  float64       `json:"cost_p50_ln_pico"` // ln of the median cost in pico-dollars; 0 when CostN is
	CostN    int64         `json:"cost_n"`
	Quality  float64       `json:"quality_p50"` // 0 when Scored is
	Scored   int64         `json:"scored"`
}

// Live returns spend, requests and quality of production traffic of the keys that spent most in
// [from, to), at most limit of them, per step of whole minutes and arm, ordered by key, time and arm.
// Human ratings and drills do not count, nor do evaluators that are on trial or failing.
func (s *Store) Live(ctx context.Context, from, to time.Time, step time.Duration, limit int) ([]SeriesPoint, error) {
	if step < time.Minute || step%time.Minute != 0 {
		return nil, errors.New("reading the live series: the step must be whole minutes, at least one")
	}
	from, to = minutes(from, to)
	points, err := collect(ctx, s, `WITH top AS (
  SELECT tenant_id, requested_model FROM kpi_1m
  WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND cohort = 'production' AND `+notDrills+`
  GROUP BY tenant_id, requested_model ORDER BY sum(cost_pico_usd) DESC, tenant_id, requested_model LIMIT {keys:UInt32}
)
SELECT
  tenant_id, requested_model, toString(arm), toStartOfInterval(minute, INTERVAL {step:UInt32} SECOND, 'UTC') AS at,
  toInt64(sum(requests)), accurateCast(sum(cost_pico_usd), 'Int64'),
  toInt64(sum(length(cost_codes))), quantileExactLowArray(0.5)(cost_codes),
  toInt64(sum(length(quality_codes))), quantileExactLowArray(0.5)(quality_codes)
FROM (
  SELECT minute, tenant_id, requested_model, arm, requests, cost_pico_usd, cost_codes, CAST([], 'Array(Int16)') AS quality_codes
  FROM kpi_1m
  WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND cohort = 'production' AND (tenant_id, requested_model) IN top
  UNION ALL
  SELECT minute, tenant_id, requested_model, arm, toUInt64(0), toInt128(0), CAST([], 'Array(Int16)'), quality_codes
  FROM quality_1m
  WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND cohort = 'production' AND kind != 'human' AND (tenant_id, requested_model) IN top
)
GROUP BY tenant_id, requested_model, at, arm
ORDER BY tenant_id, requested_model, at, arm`,
		[]any{ch.Named("keys", int64(limit)), ch.Named("from", from), ch.Named("to", to), ch.Named("step", int64(step/time.Second))},
		func(rows driver.Rows, p *SeriesPoint) error {
			var cost, quality int16
			if err := rows.Scan(&p.Key.Tenant, &p.Key.Model, (*string)(&p.Arm), &p.At, &p.Requests, (*int64)(&p.Spend),
				&p.CostN, &cost, &p.Scored, &quality); err != nil {
				return err
			}
			p.At = p.At.UTC()
			if p.CostN > 0 {
				p.CostP50 = kpi.LnCost(float64(cost))
			}
			if p.Scored > 0 {
				p.Quality = kpi.Score(float64(quality))
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading the live series: %w", err)
	}
	return points, nil
}

// Totals is what all keys together did.
type Totals struct {
	Keys         int64    `json:"keys"`
	Requests     int64    `json:"requests"`
	Unpriced     int64    `json:"unpriced"` // requests that no price was found for
	InputTokens  int64    `json:"input_tokens"`
	OutputTokens int64    `json:"output_tokens"`
	CacheRead    int64    `json:"cache_read_tokens"`
	Spend        *big.Int `json:"spend_pico_usd"` // a long range may exceed 64 bits
	Scored       int64    `json:"scored"`
	MeanQuality  float64  `json:"quality_mean"` // 0 when Scored is
}

// Totals sums all traffic in [from, to) but that of drills: every cohort and arm; human ratings do not count as
// scores, nor do those of evaluators that are on trial or failing.
func (s *Store) Totals(ctx context.Context, from, to time.Time) (Totals, error) {
	from, to = minutes(from, to)
	t := Totals{Spend: new(big.Int)}
	var codes int64
	err := s.conn.QueryRow(ctx, `SELECT
  toInt64(keys), toInt64(requests), toInt64(unpriced), input, output, cached, spend, toInt64(scored), codes
FROM (
  SELECT
    uniqExact(tenant_id, requested_model) AS keys, sum(k.requests) AS requests, sum(k.unpriced) AS unpriced,
    sum(uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens) AS input,
    sum(output_tokens) AS output, sum(cache_read_tokens) AS cached, sum(cost_pico_usd) AS spend
  FROM kpi_1m AS k WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND `+notDrills+`
) AS k, (
  SELECT sum(q.scored) AS scored, sum(code_sum) AS codes
  FROM quality_1m AS q WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')} AND kind != 'human' AND `+notDrills+`
) AS q`, ch.Named("from", from), ch.Named("to", to)).Scan(
		&t.Keys, &t.Requests, &t.Unpriced, &t.InputTokens, &t.OutputTokens, &t.CacheRead, t.Spend, &t.Scored, &codes)
	if err != nil {
		return Totals{}, fmt.Errorf("reading the totals: %w", err)
	}
	if t.Scored > 0 {
		t.MeanQuality = kpi.Score(float64(codes)) / float64(t.Scored)
	}
	return t, nil
}

// HasSpan reports whether a call of the tenant with this trace id is stored.
func (s *Store) HasSpan(ctx context.Context, tenant, traceID string) (bool, error) {
	var n uint64
	err := s.conn.QueryRow(ctx, `SELECT count() FROM spans WHERE tenant_id = {tenant:String} AND trace_id = {trace:String} AND timestamp >= now() - 3600`,
		ch.Named("tenant", tenant), ch.Named("trace", traceID)).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("looking for trace %s: %w", traceID, err)
	}
	return n > 0, nil
}
