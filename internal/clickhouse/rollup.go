package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// days are those, in order, of which the table, partitioned by day, has rows and which the range touches.
func (s *Store) days(ctx context.Context, table string, from, to time.Time) ([]time.Time, error) {
	days, err := collect(ctx, s, `SELECT DISTINCT toDateTime(parseDateTimeBestEffort(partition, 'UTC'), 'UTC') AS day FROM system.parts
WHERE database = {database:String} AND table = {table:String} AND active
  AND day >= {from:DateTime('UTC')} AND day < {to:DateTime('UTC')} ORDER BY day`,
		[]any{ch.Named("database", s.database), ch.Named("table", table), ch.Named("from", bounded(from).Truncate(24*time.Hour)), ch.Named("to", bounded(to).Add(24*time.Hour-1).Truncate(24*time.Hour))},
		func(rows driver.Rows, day *time.Time) error { return rows.Scan(day) })
	if err != nil {
		return nil, fmt.Errorf("reading which days %s has: %w", table, err)
	}
	for i := range days {
		days[i] = days[i].UTC()
	}
	return days, nil
}

// rollups are the raw tables with the rollups that come of them, the finest first, each with the view that
// fills it.
var rollups = []struct {
	raw    string
	tables []string
	count  string // how many raw rows a rollup's rows stand for
}{
	{"spans", []string{"kpi_1m", "kpi_1h", "kpi_1d"}, "requests"},
	{"quality", []string{"quality_1m", "quality_1h", "quality_1d"}, "scored + aside"},
	{"outcomes", []string{"outcomes_1m", "outcomes_1h", "outcomes_1d"}, "outcomes"},
}

// RebuildRollups computes the rollups of whole months anew from the raw rows, by the queries of their own views:
// what an upgrade that adds rollups needs once. Every month is built aside and swapped in, so a run that is cut
// short leaves each month old or new, and is repeated. Rows that come in meanwhile would be lost to
// the rollups, and a batch that is under way would count twice: ingest must have emptied its spool and be stopped;
// a month that does not agree with its raw rows is an error. Runs of Rerate that were cut short are finished first,
// since their tokens, once used, correct nothing that is built from the old prices; none may begin meanwhile.
// Months of which raw rows have expired are refused, since their rollups are all that is left.
func (s *Store) RebuildRollups(ctx context.Context, from, to time.Time, progress func(step string)) error {
	if err := s.finishRerates(ctx, progress); err != nil {
		return err
	}
	for _, r := range rollups {
		days, err := s.days(ctx, r.raw, monthOf(from), monthOf(to.AddDate(0, 1, 0).Add(-1)))
		if err != nil {
			return err
		}
		for len(days) > 0 {
			month := monthOf(days[0])
			n := 0
			for n < len(days) && monthOf(days[n]).Equal(month) {
				n++
			}
			if err := s.rebuildMonth(ctx, r.raw, r.tables, r.count, month, days[:n]); err != nil {
				return fmt.Errorf("rebuilding the rollups of %s for %s: %w", r.raw, month.Format("2006-01"), err)
			}
			progress(fmt.Sprintf("%s %s", month.Format("2006-01"), r.raw))
			days = days[n:]
		}
	}
	return nil
}

func monthOf(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// rebuildMonth builds shadows of the month's partitions day by day and, when they hold what the raw rows do, swaps
// them in.
func (s *Store) rebuildMonth(ctx context.Context, raw string, tables []string, count string, month time.Time, days []time.Time) error {
	agree := func(rollup string, fewer bool, problem string) error {
		var rows, counted uint64
		args := []any{ch.Named("from", month), ch.Named("to", month.AddDate(0, 1, 0))}
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM "+raw+" WHERE timestamp >= {from:DateTime('UTC')} AND timestamp < {to:DateTime('UTC')}", args...).Scan(&rows); err != nil {
			return err
		}
		if err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT sum(%s) FROM %s WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})", count, rollup), args...).Scan(&counted); err != nil {
			return err
		}
		if counted > rows || counted < rows && !fewer {
			return fmt.Errorf("%s counts %d and %s has %d rows: %s", rollup, counted, raw, rows, problem)
		}
		return nil
	}
	const late = "rows came in meanwhile: stop ingest and run it again"
	byDay := tables[len(tables)-1]
	if err := agree(byDay, true, "raw rows have expired, and the rollup is all that is left"); err != nil {
		return err
	}
	source := raw
	for _, table := range tables {
		shadow := table + "_rebuild"
		// Minutes that expire at once must stay until hours have been made of them.
		for _, sql := range []string{"DROP TABLE IF EXISTS " + shadow, "CREATE TABLE " + shadow + " AS " + table, "SYSTEM STOP TTL MERGES " + shadow} {
			if err := s.conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		sql, err := s.rebuildSQL(ctx, table, raw, source, shadow)
		if err != nil {
			return err
		}
		for _, day := range days {
			if err := s.conn.Exec(ctx, sql, ch.Named("from", day), ch.Named("to", day.AddDate(0, 0, 1))); err != nil {
				return err
			}
		}
		source = shadow
	}
	if err := agree(source, false, late); err != nil {
		return err
	}
	for _, table := range tables {
		if err := s.swapIn(ctx, table, days, month); err != nil {
			return err
		}
	}
	return agree(byDay, false, late)
}

// rebuildSQL is the query of the view that fills a table, reading one day of another source into another target.
func (s *Store) rebuildSQL(ctx context.Context, table, raw, source, target string) (string, error) {
	from := raw
	if source != raw {
		from = strings.TrimSuffix(source, "_rebuild")
	}
	var query string
	if err := s.conn.QueryRow(ctx, "SELECT as_select FROM system.tables WHERE database = {database:String} AND name = {view:String}",
		ch.Named("database", s.database), ch.Named("view", table+"_from_"+from)).Scan(&query); err != nil {
		return "", fmt.Errorf("reading the view %s_from_%s: %w", table, from, err)
	}
	column := map[string]string{"m": "timestamp", "h": "minute", "d": "hour"}[table[len(table)-1:]]
	filtered := fmt.Sprintf("FROM (SELECT * FROM %s.%s WHERE %s >= {from:DateTime('UTC')} AND %[3]s < {to:DateTime('UTC')}) AS ", s.database, source, column)
	replaced := strings.Replace(query, fmt.Sprintf("FROM %s.%s AS ", s.database, from), filtered, 1)
	if replaced == query {
		return "", fmt.Errorf("the view %s_from_%s does not read %s as it should: %s", table, from, from, query)
	}
	columns, err := collect(ctx, s, "SELECT name FROM system.columns WHERE database = {database:String} AND table = {view:String} ORDER BY position",
		[]any{ch.Named("database", s.database), ch.Named("view", table+"_from_"+from)},
		func(rows driver.Rows, name *string) error { return rows.Scan(name) })
	if err != nil {
		return "", err
	}
	return "INSERT INTO " + target + " (" + strings.Join(columns, ", ") + ") " + replaced, nil
}

// swapIn replaces the partitions of the days, or of the month, by those of the table's shadow. Minutes that have
// expired in the shadow expire in the table too.
func (s *Store) swapIn(ctx context.Context, table string, days []time.Time, month time.Time) error {
	partitions := []string{month.Format("200601")}
	if strings.HasSuffix(table, "_1m") {
		partitions = nil
		for _, day := range days {
			partitions = append(partitions, day.Format("20060102"))
		}
	}
	for _, p := range partitions {
		if err := s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s REPLACE PARTITION %s FROM %[1]s_rebuild", table, p)); err != nil {
			return err
		}
	}
	return s.conn.Exec(ctx, "DROP TABLE "+table+"_rebuild")
}
