package clickhouse

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/budget"
)

var budgetsTable = table{"budgets", []column{
	{"tenant_id", symbol},
	{"id", "String"},
	{"revision", "UInt32"},
	{"per", symbol},
	{"only", "String"},
	{"period", symbol},
	{"time_zone", symbol},
	{"starts_on", "UInt8"},
	{"ceiling_micro_usd", "Int64"},
	{"removed", "Bool"},
	{"set_at", instant},
	{"by", "String"},
	{"reason", "String"},
	{"nonce", "String"},
}}

// ErrBudgetChanged says that somebody has changed the budget meanwhile.
var ErrBudgetChanged = errors.New("the budget was changed meanwhile: read it again, and make the change from what it is now")

// SetBudget stores a version of a budget. Its revision is one more than that of the newest version, 1 for a new budget;
// ErrBudgetChanged says that it is not. Of any number who store the same revision at once exactly one is told that it
// did: the insert's token names the revision, and the table stores one insert of a token, on all replicas together.
func (s *Store) SetBudget(ctx context.Context, v budget.Version) error {
	if err := v.Validate(); err != nil {
		return fmt.Errorf("storing the budget %q of %q: %w", v.ID, v.Tenant, err)
	}
	err := s.setBudget(ctx, v)
	if err != nil && !errors.Is(err, ErrBudgetChanged) {
		return fmt.Errorf("storing the budget %q of %q: %w", v.ID, v.Tenant, err)
	}
	return err
}

func (s *Store) setBudget(ctx context.Context, v budget.Version) error {
	args := []any{ch.Named("tenant", v.Tenant), ch.Named("id", v.ID), ch.Named("revision", uint32(v.Revision))}
	var newest uint32
	if err := s.conn.QueryRow(ctx, "SELECT max(revision) FROM budgets WHERE tenant_id = {tenant:String} AND id = {id:String}", args...).Scan(&newest); err != nil {
		return err
	}
	if int(newest) != v.Revision-1 {
		return ErrBudgetChanged
	}
	nonce := rand.Text()
	if err := s.insertOnce(ctx, budgetsTable, budgetToken(v), 1, func(int) []any {
		return []any{
			v.Tenant, v.ID, uint32(v.Revision), string(v.Per), v.Only, string(v.Period), v.TimeZone, uint8(v.StartsOn), int64(v.Ceiling),
			v.Removed, millis(v.SetAt), v.By, v.Reason, nonce,
		}
	}); err != nil {
		return err
	}
	stored, err := collect(ctx, s, "SELECT nonce FROM budgets WHERE tenant_id = {tenant:String} AND id = {id:String} AND revision = {revision:UInt32}", args,
		func(rows driver.Rows, nonce *string) error { return rows.Scan(nonce) })
	if err == nil && !slices.Contains(stored, nonce) {
		err = ErrBudgetChanged
	}
	return err
}

// budgetToken names a version; names may hold anything, so their lengths keep them apart.
func budgetToken(v budget.Version) string {
	return fmt.Sprintf("budget-%d-%s-%s-%d", len(v.Tenant), v.Tenant, v.ID, v.Revision)
}

// Budgets returns the version of every budget that is in force, removed ones left out, by tenant and id.
func (s *Store) Budgets(ctx context.Context) ([]budget.Version, error) {
	all, err := s.budgets(ctx, "", nil, "LIMIT 1 BY tenant_id, id")
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, v := range all {
		if !v.Removed {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

// BudgetHistory returns all versions of a budget, the newest first.
func (s *Store) BudgetHistory(ctx context.Context, tenant, id string) ([]budget.Version, error) {
	return s.budgets(ctx, "WHERE tenant_id = {tenant:String} AND id = {id:String}", []any{ch.Named("tenant", tenant), ch.Named("id", id)}, "")
}

func (s *Store) budgets(ctx context.Context, where string, args []any, limit string) ([]budget.Version, error) {
	list, err := collect(ctx, s, "SELECT tenant_id, id, revision, per, only, period, time_zone, starts_on, ceiling_micro_usd, removed, set_at, `by`, reason\n"+
		"FROM (SELECT * FROM budgets "+where+" ORDER BY tenant_id, id, revision, stored_at, nonce LIMIT 1 BY tenant_id, id, revision)\n"+
		"ORDER BY tenant_id, id, revision DESC "+limit, args,
		func(rows driver.Rows, v *budget.Version) error {
			var revision uint32
			var startsOn uint8
			err := rows.Scan(&v.Tenant, &v.ID, &revision, (*string)(&v.Per), &v.Only, (*string)(&v.Period), &v.TimeZone, &startsOn,
				(*int64)(&v.Ceiling), &v.Removed, &v.SetAt, &v.By, &v.Reason)
			v.Revision, v.StartsOn, v.SetAt = int(revision), int(startsOn), v.SetAt.UTC()
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("reading the budgets: %w", err)
	}
	return list, nil
}

// SpendQuery asks what a tenant's calls have cost that ended in [From, To), whole minutes.
type SpendQuery struct {
	Tenant   string
	Per      budget.Per
	Of       []string // the keys, sessions or models, none: each; of a whole tenant the one ""
	From, To time.Time
}

// Spend is what they have cost, rounded up to µ$ once; what has cost nothing is left out.
func (s *Store) Spend(ctx context.Context, q SpendQuery) (map[string]budget.Micro, error) {
	sql, args := q.sql()
	type row struct {
		of   string
		cost big.Int
	}
	rows, err := collect(ctx, s, sql, args, func(rows driver.Rows, r *row) error { return rows.Scan(&r.of, &r.cost) })
	if err != nil {
		return nil, fmt.Errorf("summing what the budgets of %q have spent: %w", q.Tenant, err)
	}
	spend := make(map[string]budget.Micro, len(rows))
	for _, r := range rows {
		if r.cost.Sign() <= 0 {
			continue
		}
		amount, err := ceil(&r.cost)
		if err != nil {
			return nil, fmt.Errorf("summing what the budgets of %q have spent: %w", q.Tenant, err)
		}
		spend[r.of] = amount
	}
	return spend, nil
}

// ceil is a sum of pico-dollars in µ$, rounded up. An int64 holds only nine million dollars of the former.
func ceil(pico *big.Int) (budget.Micro, error) {
	const picoPerMicro = 1_000_000
	micro, rest := new(big.Int).QuoRem(pico, big.NewInt(picoPerMicro), new(big.Int))
	if rest.Sign() > 0 {
		micro.Add(micro, big.NewInt(1))
	}
	if !micro.IsInt64() {
		return 0, fmt.Errorf("%s pico-dollars are too much to count", pico)
	}
	return budget.Micro(micro.Int64()), nil
}

// sql reads whole hours from their rollup and the minutes before and after from theirs, where these have the dimension.
// Sessions and keys are in the calls alone, whose projections have their minutes: the condition is on the minute, since
// it is all of the time that those know.
func (q SpendQuery) sql() (string, []any) {
	instant := func(name string, t time.Time) any { return ch.Named(name, millis(t)) }
	args := []any{ch.Named("tenant", q.Tenant), ch.Named("of", q.Of)}
	if q.Per == budget.PerSession || q.Per == budget.PerKey {
		column := map[budget.Per]string{budget.PerSession: "session_id", budget.PerKey: "virtual_key"}[q.Per]
		return fmt.Sprintf(`SELECT %[1]s AS of, sum(toInt128(cost_pico_usd)) FROM spans
WHERE tenant_id = {tenant:String} AND toStartOfMinute(timestamp) >= {from:DateTime64(3, 'UTC')} AND toStartOfMinute(timestamp) < {to:DateTime64(3, 'UTC')} AND %s
GROUP BY of`, column, q.which(column)), append(args, instant("from", q.From), instant("to", q.To))
	}
	of, where := "''", ""
	if q.Per == budget.PerModel {
		of, where = "requested_model", " AND "+q.which("requested_model")
	}
	first := q.From.Add(time.Hour - 1).Truncate(time.Hour)
	last := q.To.Truncate(time.Hour)
	if first.After(last) { // within an hour
		first, last = q.To, q.To
	}
	part := func(table, column, from, to string) string {
		return fmt.Sprintf("SELECT %s AS of, cost_pico_usd AS cost FROM %s WHERE tenant_id = {tenant:String}%s AND %s >= {%s:DateTime64(3, 'UTC')} AND %[4]s < {%[6]s:DateTime64(3, 'UTC')}",
			of, table, where, column, from, to)
	}
	sql := "SELECT of, sum(cost) FROM (\n" + strings.Join([]string{
		part("kpi_1m", "minute", "from", "first"), part("kpi_1h", "hour", "first", "last"), part("kpi_1m", "minute", "last", "to"),
	}, "\nUNION ALL ") + "\n) GROUP BY of"
	return sql, append(args, instant("from", q.From), instant("first", first), instant("last", last), instant("to", q.To))
}

// which is the condition that a call is of what is asked about.
func (q SpendQuery) which(column string) string {
	if len(q.Of) == 0 {
		return column + " != ''"
	}
	return column + " IN {of:Array(String)}"
}

// Spool is how far a spool has delivered what it had accepted, by its own clock.
type Spool struct {
	Last    time.Time // as it said last: all that it accepted before is there, whatever its clock did
	Highest time.Time // that it ever said: later than Last while its clock is behind what it was
}

// Spools returns every spool that was heard in the last days.
func (s *Store) Spools(ctx context.Context) (map[string]Spool, error) {
	type mark struct {
		spool string
		Spool
	}
	// One that was not heard since the last ones are kept has said only the highest.
	marks, err := collect(ctx, s, `SELECT spool, if(last.said = 0, highest.at, last.at), highest.at
FROM (SELECT spool, max(at) AS at FROM ingest_watermarks GROUP BY spool) AS highest
LEFT JOIN (SELECT spool, argMax(at, stored_at) AS at, count() AS said FROM ingest_watermarks_last GROUP BY spool) AS last USING (spool)`, nil,
		func(rows driver.Rows, m *mark) error { return rows.Scan(&m.spool, &m.Last, &m.Highest) })
	if err != nil {
		return nil, fmt.Errorf("reading the watermarks of the spools: %w", err)
	}
	all := make(map[string]Spool, len(marks))
	for _, m := range marks {
		all[m.spool] = Spool{m.Last.UTC(), m.Highest.UTC()}
	}
	return all, nil
}

// Call names one call: an agent's trace has many.
type Call struct{ Trace, Span string }

// CallsBefore returns which of the tenant's calls are in the store and ended in [from, to).
func (s *Store) CallsBefore(ctx context.Context, tenant string, calls []Call, from, to time.Time) ([]Call, error) {
	traces, spans := make([]string, len(calls)), make([]string, len(calls))
	for i, c := range calls {
		traces[i], spans[i] = c.Trace, c.Span
	}
	found, err := collect(ctx, s, `SELECT DISTINCT trace_id, span_id FROM spans
WHERE tenant_id = {tenant:String} AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
  AND trace_id IN {traces:Array(String)} AND has(arrayZip({traces:Array(String)}, {spans:Array(String)}), (trace_id, span_id))`,
		[]any{ch.Named("tenant", tenant), ch.Named("traces", traces), ch.Named("spans", spans), ch.Named("from", millis(from)), ch.Named("to", millis(to))},
		func(rows driver.Rows, c *Call) error { return rows.Scan(&c.Trace, &c.Span) })
	if err != nil {
		return nil, fmt.Errorf("looking for the calls of lapsed holds: %w", err)
	}
	return found, nil
}
