package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// compacted are the rollups that are kept for ever, each with its histograms: most of its bytes.
var compacted = []struct {
	table      string
	histograms []string
}{
	{"kpi_1d", []string{"cost_histogram", "latency_histogram", "ttft_histogram"}},
	{"quality_1d", []string{"quality_histogram"}},
	{"outcomes_1d", nil},
}

// compactBefore is the start of the years whose percentiles are kept by the day: this one and the two before. Older
// days are all that is left of their calls, hours and raw rows having expired.
func compactBefore(now time.Time) time.Time {
	return time.Date(now.UTC().Year()-2, 1, 1, 0, 0, 0, 0, time.UTC)
}

// Compaction is what was done, or would be, to a month of a rollup.
type Compaction struct {
	Table         string
	Month         time.Time
	Moved         uint64 // rows whose histograms went to their month
	Before, After uint64 // bytes on disk; a dry run knows no After
}

// Compact shrinks the day rollups of the years before the given one, which CheckCompactBefore takes; 0 is the
// latest such year. Sums stay by the day, for ever; histograms, and so percentiles, are kept by the month
// from then on: those of every combination of dimensions are moved to the row of its first day in the month.
//
// It may run while rows come in, be killed, run twice at once and be repeated. Nothing is replaced: what is
// inserted takes a histogram from one day and adds it to another of the same month, in one part, so the month's sum
// never changes and a row that comes late is simply moved by the next run.
func (s *Store) Compact(ctx context.Context, before int, now time.Time, dryRun bool, progress func(Compaction)) error {
	limit := compactBefore(now)
	if before != 0 {
		if err := CheckCompactBefore(before, now); err != nil {
			return err
		}
		limit = time.Date(before, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	for _, c := range compacted {
		months, err := s.months(ctx, c.table, limit)
		if err != nil {
			return fmt.Errorf("reading which months %s has: %w", c.table, err)
		}
		for _, month := range months {
			done, err := s.compactMonth(ctx, c.table, c.histograms, month, dryRun)
			if err != nil {
				return fmt.Errorf("compacting %s of %s: %w", month.Format("2006-01"), c.table, err)
			}
			progress(done)
		}
	}
	return nil
}

// months are those, in order, of which the table, partitioned by month, has rows before the limit.
func (s *Store) months(ctx context.Context, table string, limit time.Time) ([]time.Time, error) {
	names, err := collect(ctx, s, `SELECT DISTINCT partition FROM system.parts
WHERE database = {database:String} AND table = {table:String} AND active AND partition < {limit:String} ORDER BY partition`,
		[]any{ch.Named("database", s.database), ch.Named("table", table), ch.Named("limit", limit.Format("200601"))},
		func(rows driver.Rows, name *string) error { return rows.Scan(name) })
	if err != nil {
		return nil, err
	}
	months := make([]time.Time, len(names))
	for i, name := range names {
		if months[i], err = time.Parse("200601", name); err != nil {
			return nil, err
		}
	}
	return months, nil
}

// CheckCompactBefore says whether Compact takes the year.
func CheckCompactBefore(year int, now time.Time) error {
	if latest := compactBefore(now).Year(); year < earliest.Year() || year > latest {
		return fmt.Errorf("%d is not from %d to %d: percentiles of %[3]d and later are kept by the day", year, earliest.Year(), latest)
	}
	return nil
}

func (s *Store) compactMonth(ctx context.Context, table string, histograms []string, month time.Time, dryRun bool) (Compaction, error) {
	c := Compaction{Table: table, Month: month}
	var err error
	if c.Before, err = s.partitionBytes(ctx, table, month); err != nil {
		return c, err
	}
	if !dryRun {
		if err := s.mergeMonth(ctx, table, month); err != nil {
			return c, err
		}
	}
	if histograms != nil {
		if err := s.moveHistograms(ctx, &c, histograms, dryRun); err != nil {
			return c, err
		}
	}
	if !dryRun {
		c.After, err = s.partitionBytes(ctx, table, month)
	}
	return c, err
}

// moveHistograms moves a month's histograms to the first days, and then drops the counts of 0 that this leaves.
func (s *Store) moveHistograms(ctx context.Context, c *Compaction, histograms []string, dryRun bool) error {
	dimensions, err := s.rollupDimensions(ctx, c.Table)
	if err != nil {
		return err
	}
	m := histogramMove{c.Table, dimensions, histograms}
	from, to := ch.Named("from", c.Month), ch.Named("to", c.Month.AddDate(0, 1, 0))
	var zeros uint64
	if err := s.conn.QueryRow(ctx, m.pendingSQL(), from, to).Scan(&c.Moved, &zeros); err != nil || dryRun {
		return err
	}
	if c.Moved > 0 {
		keys, err := collect(ctx, s, "SELECT tenant_id, requested_model, count() FROM "+c.Table+" WHERE "+inMonth+" GROUP BY 1, 2 ORDER BY 1, 2", []any{from, to},
			func(rows driver.Rows, k *keyRows) error { return rows.Scan(&k.tenant, &k.model, &k.rows) })
		if err != nil {
			return err
		}
		for _, r := range keyRanges(keys, rowsPerMove) {
			if err := s.moveRange(ctx, m, r, from, to); err != nil {
				return err
			}
		}
		if err := s.mergeMonth(ctx, c.Table, c.Month); err != nil {
			return err
		}
	}
	if c.Moved > 0 || zeros > 0 {
		return s.conn.Exec(ch.Context(ctx, ch.WithSettings(ch.Settings{"mutations_sync": 2})), m.dropZerosSQL(c.Month))
	}
	return nil
}

// moveRange moves the histograms of some keys. All that one move takes and adds must be stored or not stored
// together: it is one block, which is one part.
func (s *Store) moveRange(ctx context.Context, m histogramMove, r keyRange, from, to any) error {
	whole := ch.Context(ctx, ch.WithSettings(ch.Settings{
		"max_threads":                 1,
		"max_insert_threads":          1,
		"min_insert_block_size_rows":  1 << 40,
		"min_insert_block_size_bytes": 1 << 50,
		"max_insert_block_size":       1 << 40,
		"insert_deduplicate":          0, // the same move may be due again, for rows that came late
	}))
	return s.conn.Exec(whole, m.moveSQL(), from, to, ch.Named("tenant0", r.first.tenant), ch.Named("model0", r.first.model),
		ch.Named("tenant1", r.last.tenant), ch.Named("model1", r.last.model))
}

// mergeMonth makes one part of a month where there are more.
func (s *Store) mergeMonth(ctx context.Context, table string, month time.Time) error {
	return s.conn.Exec(ch.Context(ctx, ch.WithSettings(ch.Settings{"optimize_skip_merged_partitions": 1})),
		"OPTIMIZE TABLE "+table+" PARTITION "+month.Format("200601")+" FINAL")
}

func (s *Store) partitionBytes(ctx context.Context, table string, month time.Time) (bytes uint64, err error) {
	err = s.conn.QueryRow(ctx, "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = {database:String} AND table = {table:String} AND partition = {month:String} AND active",
		ch.Named("database", s.database), ch.Named("table", table), ch.Named("month", month.Format("200601"))).Scan(&bytes)
	return bytes, err
}

// rollupDimensions are the columns that tell a day's rows apart, as the engine has them.
func (s *Store) rollupDimensions(ctx context.Context, table string) ([]string, error) {
	var key string
	if err := s.conn.QueryRow(ctx, "SELECT sorting_key FROM system.tables WHERE database = {database:String} AND name = {table:String}",
		ch.Named("database", s.database), ch.Named("table", table)).Scan(&key); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Split(key, ", "), func(column string) bool { return column == "day" }), nil
}

// rowsPerMove bounds the memory of one move: a row with three full histograms takes tens of kilobytes.
const rowsPerMove = 4_000

// keyRows is how many rows a key has in a month.
type keyRows struct {
	tenant, model string
	rows          uint64
}

// keyRange is keys from first to last, in the order of tenant and requested model.
type keyRange struct{ first, last keyRows }

// keyRanges cuts sorted keys into ranges of about so many rows, never within a key.
func keyRanges(keys []keyRows, rows uint64) (ranges []keyRange) {
	var n uint64
	for _, k := range keys {
		if n == 0 || n+k.rows > rows {
			ranges, n = append(ranges, keyRange{first: k}), 0
		}
		ranges[len(ranges)-1].last = k
		n += k.rows
	}
	return ranges
}

// histogramMove writes the SQL that moves the histograms of a rollup.
type histogramMove struct {
	table                  string
	dimensions, histograms []string
}

const inMonth = "day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})"

// each joins the histograms, each in its place of a format.
func (m histogramMove) each(format, separator string) string {
	parts := make([]string, len(m.histograms))
	for i, h := range m.histograms {
		parts[i] = fmt.Sprintf(format, h)
	}
	return strings.Join(parts, separator)
}

// pendingSQL counts the rows whose histograms are not on their first day, and those that hold counts of 0.
func (m histogramMove) pendingSQL() string {
	return fmt.Sprintf(`SELECT countIf(counted AND day != first), countIf(zeros) FROM (
  SELECT day, min(day) OVER (PARTITION BY %s) AS first, %s AS counted, %s AS zeros FROM %s WHERE %s
)`, strings.Join(m.dimensions, ", "), m.each("arrayExists(n -> n != 0, %s.values)", " OR "), m.each("has(%s.values, 0)", " OR "), m.table, inMonth)
}

// moveSQL makes two rows of every row that is not on its first day: one that takes its histograms away (UInt64 wraps)
// and one that adds them to the first day. It reads the table once, so both are of the same row.
func (m histogramMove) moveSQL() string {
	dimensions := strings.Join(m.dimensions, ", ")
	return fmt.Sprintf(`INSERT INTO %[1]s (day, %[2]s, %[3]s)
SELECT onto.1, %[2]s, %[4]s
FROM (
  SELECT day, %[2]s, %[3]s, min(day) OVER (PARTITION BY %[2]s) AS first FROM %[1]s
  WHERE %[5]s AND tenant_id >= {tenant0:String} AND tenant_id <= {tenant1:String}
    AND (tenant_id, requested_model) >= ({tenant0:String}, {model0:String}) AND (tenant_id, requested_model) <= ({tenant1:String}, {model1:String})
)
ARRAY JOIN [(day, toUInt64(-1)), (first, toUInt64(1))] AS onto
WHERE day != first AND (%[6]s)`, m.table, dimensions, strings.Join(m.histograms, ", "),
		m.each("mapApply((code, n) -> (code, n * onto.2), mapFilter((code, n) -> n != 0, %s))", ", "), inMonth,
		m.each("arrayExists(n -> n != 0, mapValues(%s))", " OR "))
}

// dropZerosSQL takes counts of 0 out of a month's histograms: row by row, so whatever comes meanwhile is left as it is.
func (m histogramMove) dropZerosSQL(month time.Time) string {
	return fmt.Sprintf("ALTER TABLE %s UPDATE %s IN PARTITION %s WHERE %s", m.table,
		m.each("%[1]s = mapFilter((code, n) -> n != 0, %[1]s)", ", "), month.Format("200601"), m.each("has(mapValues(%s), 0)", " OR "))
}
