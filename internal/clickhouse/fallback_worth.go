package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// WorthQuery asks what fallback rules were worth by the calls of a time.
type WorthQuery struct {
	From, To time.Time
	Tenant   string // empty: each but those of drills
}

// fallbackShare stands for the share of a rule that acts: it is the same for all of its calls, or nearly so, since
// a rule has one holdback. Both arms of a rule are compared as one.
const fallbackShare = 0.5

// FallbackWorth measures each rule of each tenant that acted in the time: calls that fell back against those of the
// holdback, which its spans carry as their arm. Scores are those of their traces, human ratings apart, in the same arm.
func (s *Store) FallbackWorth(ctx context.Context, q WorthQuery) ([]contract.FallbackWorth, error) {
	args := []any{ch.Named("from", millis(q.From)), ch.Named("to", millis(q.To)), ch.Named("rules", "fallback/")}
	tenants := notDrills
	if q.Tenant != "" {
		tenants, args = "tenant_id = {tenant:String}", append(args, ch.Named("tenant", q.Tenant))
	}
	tenants += " AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}"
	of := tenants + " AND startsWith(decision_id, {rules:String}) AND arm != 'none'"
	ctx = ch.Context(ctx, ch.WithSettings(measureSettings))
	type cell struct {
		tenant, rule string
		effect.Cell
	}
	scan := func(rows driver.Rows, c *cell) error {
		var group int64
		var arm string
		c.Cost, c.Share = new(big.Int), fallbackShare
		if err := rows.Scan(&c.tenant, &c.rule, &c.Day, &arm, &group, &c.Calls, &c.Unpriced, c.Cost, &c.Scores, &c.ScoreMicro); err != nil {
			return err
		}
		c.Day, c.Arm, c.Group = c.Day.UTC(), usage.Arm(arm), int(group)
		return nil
	}
	costs, err := collect(ctx, s, fmt.Sprintf(`SELECT
  tenant, rule, day, the_arm, session_group, toInt64(countIf(priced)), toInt64(countIf(NOT priced)), sumIf(toInt128(cost), priced), toInt64(0), toInt64(0)
FROM (
  SELECT toString(tenant_id) AS tenant, toString(decision_id) AS rule, toDate(timestamp) AS day, toString(arm) AS the_arm, %s AS session_group,
    cost_pico_usd AS cost, price_version != '%s' AS priced
  FROM spans WHERE %s
)
GROUP BY tenant, rule, day, the_arm, session_group`, groupOf, UnknownPrice, of), args, scan)
	if err != nil {
		return nil, fmt.Errorf("measuring what calls of the fallback rule cost: %w", err)
	}
	scores, err := collect(ctx, s, fmt.Sprintf(`SELECT
  c.tenant, c.rule, toDate(c.at), c.the_arm, c.session_group, toInt64(0), toInt64(0), toInt128(0), toInt64(sum(q.scores)), toInt64(sum(q.micro))
FROM (
  SELECT toString(tenant_id) AS tenant, toString(decision_id) AS rule, trace_id AS trace, toString(arm) AS the_arm, min(timestamp) AS at, min(%s) AS session_group
  FROM spans WHERE %s
  GROUP BY tenant, rule, trace, the_arm
) AS c
INNER JOIN (
  SELECT toString(tenant_id) AS tenant, trace_id AS trace, toString(arm) AS the_arm, count() AS scores, sum(toInt64(floor(calibrated * 1000000 + 0.5))) AS micro
  FROM quality
  WHERE %s AND arm != 'none' AND kind != 'human' AND counts
  GROUP BY tenant, trace, the_arm
) AS q ON c.tenant = q.tenant AND c.trace = q.trace AND c.the_arm = q.the_arm
GROUP BY c.tenant, c.rule, toDate(c.at), c.the_arm, c.session_group`, groupOf, of, tenants), args, scan)
	if err != nil {
		return nil, fmt.Errorf("measuring how good calls of the fallback rule were: %w", err)
	}
	type name struct{ tenant, rule string }
	cells := map[name][]effect.Cell{}
	for _, c := range append(costs, scores...) {
		cells[name{c.tenant, c.rule}] = append(cells[name{c.tenant, c.rule}], c.Cell)
	}
	worth := make([]contract.FallbackWorth, 0, len(cells))
	for n, of := range cells {
		worth = append(worth, contract.FallbackWorth{Tenant: n.tenant, Rule: n.rule, Effect: effect.Measure(of, false, time.Now().UTC())})
	}
	slices.SortFunc(worth, func(a, b contract.FallbackWorth) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Rule, b.Rule))
	})
	return worth, nil
}
