package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// FallbackQuery asks for the calls of a time that the fallback rule fired on.
type FallbackQuery struct {
	From, To  time.Time // when they were stored if Stored is set, else when they were made
	Stored    bool
	Tenant    string // empty: of every tenant but those of drills
	Shadowed  bool   // those alone on which the rule did not act
	PerTenant int    // the earliest of each tenant at the most
}

// SQL is the query's text and its named parameters.
func (q FallbackQuery) SQL() (string, []any) {
	args := []any{ch.Named("from", millis(q.From)), ch.Named("to", millis(q.To)), ch.Named("each", fmt.Sprint(q.PerTenant))}
	where := notDrills
	if q.Tenant != "" {
		where, args = "tenant_id = {tenant:String}", append(args, ch.Named("tenant", q.Tenant))
	}
	if q.Shadowed {
		where += " AND arm = 'none'"
	}
	at := "timestamp"
	if q.Stored { // no call is stored a day after it was made but by a replay, of which nobody asks people
		at, where = "stored_at", where+" AND timestamp >= {from:DateTime64(3, 'UTC')} - INTERVAL 1 DAY"
	}
	return fmt.Sprintf(`SELECT timestamp, tenant_id, trace_id, span_id, session_id, requested_model, model, task, toString(arm), cost_pico_usd, rule,
  instead, estimate_pico_usd, instead_pico_usd, ceiling_pico_usd, quality, threshold, predictor
FROM fallback_cases FINAL
WHERE %s AND %s >= {from:DateTime64(3, 'UTC')} AND %[2]s < {to:DateTime64(3, 'UTC')}
ORDER BY timestamp, trace_id, span_id
LIMIT {each:UInt32} BY tenant_id`, where, at), args
}

// FallbackCases are the calls that the query asks for, the earliest first.
func (s *Store) FallbackCases(ctx context.Context, q FallbackQuery) ([]contract.FallbackCase, error) {
	sql, args := q.SQL()
	cases, err := collect(ctx, s, sql, args, func(rows driver.Rows, c *contract.FallbackCase) error {
		var arm string
		var cost, estimate, instead, ceiling int64
		if err := rows.Scan(&c.At, &c.Tenant, &c.Trace, &c.Span, &c.Session, &c.Model, &c.Served, &c.Task, &arm, &cost, &c.Rule,
			&c.Instead, &estimate, &instead, &ceiling, &c.Quality, &c.Threshold, &c.Predictor); err != nil {
			return err
		}
		c.At, c.Arm, c.Cost = c.At.UTC(), usage.Arm(arm), usage.PicoUSD(cost)
		c.Estimate, c.Cheaper, c.Ceiling = usage.PicoUSD(estimate), usage.PicoUSD(instead), usage.PicoUSD(ceiling)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the calls that would fall back: %w", err)
	}
	return cases, nil
}
