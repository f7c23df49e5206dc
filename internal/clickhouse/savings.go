package clickhouse

import (
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// callsLast is how long after a flag came off its calls can complete, which is when they are stored under.
const callsLast = 24 * time.Hour

// measureSettings let an act of a hundred million calls be measured in bounded memory.
var measureSettings = ch.Settings{
	"join_algorithm": "grace_hash", "max_bytes_in_join": 512 << 20, "max_bytes_before_external_group_by": 512 << 20,
}

// ofDecision is the condition on spans and the parameters of a measurement.
const ofDecision = `tenant_id = {tenant:String} AND requested_model = {model:String} AND decision_id = {decision:String} AND arm != 'none'
    AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}`

// stepOf is how many steps of the rollout began at or before a call's end, and groupOf the group of its session.
var (
	stepOf  = "toInt64(arrayCount(t -> t <= toUnixTimestamp64Milli(at), {steps:Array(Int64)}))"
	groupOf = fmt.Sprintf("toInt64(cityHash64(if(session_id = '', trace_id, session_id)) %% %d)", effect.Groups)
)

// Measure reads what is stored of a decision's calls and says what it was worth. Calls are those that carry its id,
// so no call is measured for two decisions; scores are those of their traces, human ratings apart, in the same arm.
// It is as of the server's clock, so that measurements by different workers have one order.
func (s *Store) Measure(ctx context.Context, r contract.MeasureRequest) (effect.Effect, error) {
	if len(r.Steps) == 0 {
		return effect.Effect{}, fmt.Errorf("measuring %s: it never touched a call", r.Decision)
	}
	var now time.Time
	if err := s.conn.QueryRow(ctx, "SELECT now64(3, 'UTC')").Scan(&now); err != nil {
		return effect.Effect{}, fmt.Errorf("measuring %s: %w", r.Decision, err)
	}
	until := r.Until
	if until.IsZero() {
		until = now
	}
	steps := make([]int64, len(r.Steps))
	for i, step := range r.Steps {
		steps[i] = step.From.UnixMilli()
	}
	// A second before, since gateways may hear of a flag before its decision does.
	args := append(rangeArgs(r.Key, millis(r.Steps[0].From.Add(-time.Second)), millis(until.Add(callsLast))),
		ch.Named("decision", r.Decision), ch.Named("steps", steps))
	ctx = ch.Context(ctx, ch.WithSettings(measureSettings))
	costs, err := collect(ctx, s, fmt.Sprintf(`SELECT
  step, day, arm, session_group, toInt64(countIf(priced)), toInt64(countIf(NOT priced)), sumIf(toInt128(cost_pico_usd), priced), toInt64(0), toInt64(0)
FROM (
  SELECT timestamp AS at, %s AS step, toDate(at) AS day, toString(arm) AS arm, %s AS session_group, cost_pico_usd, price_version != '%s' AS priced
  FROM spans
  WHERE %s
)
GROUP BY step, day, arm, session_group`, stepOf, groupOf, UnknownPrice, ofDecision), args, scanCell(r.Steps))
	if err != nil {
		return effect.Effect{}, fmt.Errorf("measuring what the calls of %s cost: %w", r.Decision, err)
	}
	scores, err := collect(ctx, s, fmt.Sprintf(`SELECT
  %s AS step, toDate(at) AS day, toString(c.arm), c.session_group, toInt64(0), toInt64(0), toInt128(0), toInt64(sum(q.scores)), toInt64(sum(q.micro))
FROM (
  SELECT trace_id, arm, min(timestamp) AS at, min(%s) AS session_group
  FROM spans
  WHERE %s
  GROUP BY trace_id, arm
) AS c
INNER JOIN (
  SELECT trace_id, arm, count() AS scores, sum(toInt64(floor(calibrated * 1000000 + 0.5))) AS micro
  FROM quality
  WHERE tenant_id = {tenant:String} AND requested_model = {model:String} AND arm != 'none' AND kind != 'human' AND counts
    AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
  GROUP BY trace_id, arm
) AS q ON c.trace_id = q.trace_id AND c.arm = q.arm
GROUP BY step, day, c.arm, c.session_group`, stepOf, groupOf, ofDecision), args, scanCell(r.Steps))
	if err != nil {
		return effect.Effect{}, fmt.Errorf("measuring how good the calls of %s were: %w", r.Decision, err)
	}
	return effect.Measure(append(costs, scores...), r.Refused, now.UTC()), nil
}

// scanCell reads a cell. A call that ended before the first step is counted to it.
func scanCell(steps []contract.Step) func(driver.Rows, *effect.Cell) error {
	return func(rows driver.Rows, c *effect.Cell) error {
		var step, group int64
		var arm string
		c.Cost = new(big.Int)
		if err := rows.Scan(&step, &c.Day, &arm, &group, &c.Calls, &c.Unpriced, c.Cost, &c.Scores, &c.ScoreMicro); err != nil {
			return err
		}
		c.Share, c.Day, c.Arm, c.Group = steps[max(step, 1)-1].Share, c.Day.UTC(), usage.Arm(arm), int(group)
		return nil
	}
}

var savingsTable = table{"savings", []column{
	{"tenant_id", symbol},
	{"decision_id", "String"},
	{"day", "Date"},
	{"model", symbol},
	{"action", symbol},
	{"estimated", "Bool"},
	{"treated_calls", "Int64"},
	{"holdback_calls", "Int64"},
	{"compared_calls", "Int64"},
	{"cost_pico_usd", "Int128"},
	{"saved_pico_usd", "Nullable(Int128)"},
	{"measured_at", instant},
}}

// RecordSavings enters a measurement into the ledger, in place of every earlier one of its decision. One that is older
// than what stands there changes nothing, and repeating one does no harm. A measurement of no call enters nothing.
func (s *Store) RecordSavings(ctx context.Context, r contract.SavingsRecord) error {
	e := r.Effect
	err := s.insert(ctx, savingsTable, "", len(e.Days), func(i int) []any {
		d := e.Days[i]
		return []any{
			r.Key.Tenant, r.Decision, d.Day, r.Key.Model, r.Action, e.Estimated, d.Treated, d.Holdback, d.Compared,
			d.Cost, nullable(d.Saved), e.MeasuredAt.UTC(),
		}
	})
	if err != nil {
		return fmt.Errorf("recording what %s saved: %w", r.Decision, err)
	}
	return nil
}

// nullable is an amount as a column takes it that may be NULL.
func nullable(i *big.Int) any {
	if i == nil {
		return nil
	}
	return i
}

// What savings can be told apart by.
const (
	SavingsByTenant   = "tenant_id"
	SavingsByModel    = "model"
	SavingsByAction   = "action"
	SavingsByDay      = "day"
	SavingsByDecision = "decision_id"
)

// SavingsDimensions are all of them.
var SavingsDimensions = []string{SavingsByTenant, SavingsByModel, SavingsByAction, SavingsByDay, SavingsByDecision}

// SavingsQuery asks what decisions saved on the UTC days in [From, To).
type SavingsQuery struct {
	From, To time.Time
	Tenant   string   // empty: all
	GroupBy  []string // of SavingsDimensions
}

// Savings are what the decisions of one combination of dimensions saved, by their newest measurements.
type Savings struct {
	Values    []string // of GroupBy, in its order
	Decisions int64    // that touched calls
	Unknown   int64    // of them nothing could be compared of on these days: they are in no amount
	Treated   int64    // calls
	Compared  int64    // of them, or estimates of refused ones
	Cost      *big.Int // of the compared, pico-dollars
	Saved     *big.Int // by the decisions that saved
	Spent     *big.Int // by those that cost more than their holdback; negative
	Estimated *big.Int // the part of both that is an estimate of what refused calls would have cost
}

// Net is what was saved less what was spent.
func (v Savings) Net() *big.Int { return new(big.Int).Add(v.Saved, v.Spent) }

// sql is the query's text and its parameters. Of one decision the days that are asked for together are added up
// first: whether it saved is a question of all of them. Drills spend nobody's money.
func (q SavingsQuery) sql() (string, []any) {
	args := []any{ch.Named("from", bounded(q.From).Format(time.DateOnly)), ch.Named("to", bounded(q.To).Format(time.DateOnly))}
	tenants := "tenant_id = {tenant:String}"
	if q.Tenant != "" {
		args = append(args, ch.Named("tenant", q.Tenant))
	} else {
		tenants = "tenant_id != {drill:String} AND NOT startsWith(tenant_id, concat({drill:String}, '-'))"
		args = append(args, ch.Named("drill", usage.DrillPrefix))
	}
	columns, together, group, order := "", "tenant_id, decision_id, model, action", "", ""
	for _, d := range q.GroupBy {
		columns += "toString(" + d + "), "
		if d == SavingsByDay {
			together += ", day"
		}
	}
	if by := strings.Join(q.GroupBy, ", "); by != "" {
		group, order = "\nGROUP BY "+by, "\nORDER BY "+by
	}
	return fmt.Sprintf(`SELECT
  %stoInt64(uniqExact(tenant_id, decision_id)) AS decisions, toInt64(countIf(compared = 0)), toInt64(sum(treated)), toInt64(sum(compared)),
  sum(cost), sumIf(saved, saved > 0), sumIf(saved, saved < 0), sumIf(saved, estimated)
FROM (
  SELECT %s, max(estimated) AS estimated, sum(treated_calls) AS treated, sum(compared_calls) AS compared,
    sum(cost_pico_usd) AS cost, sum(ifNull(saved_pico_usd, 0)) AS saved
  FROM savings FINAL
  WHERE %s AND day >= {from:Date} AND day < {to:Date} AND (tenant_id, decision_id, measured_at) IN (
    SELECT tenant_id, decision_id, max(measured_at) FROM savings WHERE %[3]s GROUP BY tenant_id, decision_id)
  GROUP BY %[2]s
)%[4]s
HAVING decisions > 0%[5]s
LIMIT %[6]d`, columns, together, tenants, group, order, maxSavings), args
}

// maxSavings bounds how many rows one question returns.
const maxSavings = 100_000

// Savings answers the query, ordered by its dimensions.
func (s *Store) Savings(ctx context.Context, q SavingsQuery) ([]Savings, error) {
	for _, d := range q.GroupBy {
		if !slices.Contains(SavingsDimensions, d) {
			return nil, fmt.Errorf("reading the ledger of savings: %q is no dimension: they are %v", d, SavingsDimensions)
		}
	}
	sql, args := q.sql()
	rows, err := collect(ctx, s, sql, args, func(rows driver.Rows, v *Savings) error {
		v.Values = make([]string, len(q.GroupBy))
		v.Cost, v.Saved, v.Spent, v.Estimated = new(big.Int), new(big.Int), new(big.Int), new(big.Int)
		var dest []any
		for i := range v.Values {
			dest = append(dest, &v.Values[i])
		}
		return rows.Scan(append(dest, &v.Decisions, &v.Unknown, &v.Treated, &v.Compared, v.Cost, v.Saved, v.Spent, v.Estimated)...)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the ledger of savings: %w", err)
	}
	return rows, nil
}
