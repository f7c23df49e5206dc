package clickhouse

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

func TestKPIRefusesCompacted(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	day := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }
	for _, test := range []struct {
		from, to time.Time
		step     time.Duration
		refused  bool
	}{
		{day(2023, 1, 1), day(2023, 3, 1), 0, false},
		{day(2023, 1, 1), day(2024, 1, 1), 0, false},
		{day(2023, 1, 1), day(2025, 7, 17), 0, false},
		{day(2024, 1, 1), day(2024, 1, 2), 24 * time.Hour, false},
		{day(2023, 12, 31), day(2024, 2, 1), 0, true},
		{day(2023, 1, 2), day(2023, 3, 1), 0, true},
		{day(2023, 1, 1), day(2023, 3, 2), 0, true},
		{day(2023, 1, 1), day(2023, 2, 1), 24 * time.Hour, true},
	} {
		q := KPIQuery{From: test.from, To: test.to, Step: test.step, Outcomes: true}
		_, _, err := q.SQL(now)
		require.NoError(t, err, "sums stay by the day: %v", q)
		for _, q := range []KPIQuery{{From: test.from, To: test.to, Step: test.step, Percentiles: true}, {From: test.from, To: test.to, Step: test.step, Quality: true}} {
			if _, _, err = q.SQL(now); test.refused {
				require.ErrorContains(t, err, "percentiles before 2024-01-01 are kept by the month")
			} else {
				require.NoError(t, err, "%v", q)
			}
		}
	}
}

func TestKeyRanges(t *testing.T) {
	keys := []keyRows{{"a", "m", 3}, {"a", "n", 2}, {"b", "m", 9}, {"c", "m", 1}, {"c", "n", 1}}
	require.Equal(t, []keyRange{{keys[0], keys[1]}, {keys[2], keys[2]}, {keys[3], keys[4]}}, keyRanges(keys, 5))
	require.Empty(t, keyRanges(nil, 5))
}

// testCompact compares what can be asked of compacted years with plain Go over the raw facts: after a run, after runs
// that were cut short or went on at the same time, and after rows that came late.
func testCompact(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(31, 32))
	now := time.Now().UTC()
	limit := compactBefore(now)
	from := limit.AddDate(0, -2, 0)
	// Two days in each of two months to compact, and two that must stay as they are.
	days := func(n int) (f facts) {
		for _, first := range []time.Time{from.AddDate(0, 0, 3), from.AddDate(0, 1, 27), limit} {
			part := manyFacts(random, n, first, first.AddDate(0, 0, 2))
			f.spans, f.evaluations, f.outcomes = append(f.spans, part.spans...), append(f.evaluations, part.evaluations...), append(f.outcomes, part.outcomes...)
		}
		return f
	}
	f := days(700)
	insert := func(f facts, token string) {
		require.NoError(t, s.InsertSpans(t.Context(), f.spans, token))
		require.NoError(t, s.InsertQuality(t.Context(), f.evaluations, token))
		require.NoError(t, s.InsertOutcomes(t.Context(), f.outcomes, token))
	}
	insert(f, "first")

	agree := func(message string) {
		t.Helper()
		for _, q := range []KPIQuery{
			{From: from, To: limit.AddDate(0, 1, 0), GroupBy: dimensions, Percentiles: true, Quality: true, Outcomes: true},
			{From: from, To: from.AddDate(0, 1, 0), GroupBy: []Dimension{ByModel}, Percentiles: true, Quality: true, QualityKinds: []string{"human"}, Outcomes: true},
			{From: from, To: limit.AddDate(0, 0, 2), Step: 24 * time.Hour, GroupBy: []Dimension{ByTenant, ByProvider}, Outcomes: true},
			{From: limit, To: limit.AddDate(0, 0, 2), Step: 24 * time.Hour, GroupBy: []Dimension{ByTenant}, Percentiles: true, Quality: true, Outcomes: true},
		} {
			got, err := s.KPI(t.Context(), q, now)
			require.NoError(t, err, message)
			requireKPIs(t, f.measured(q), got, fmt.Sprintf("%s: %+v", message, q))
		}
	}
	compact := func(dry bool) (moved uint64) {
		t.Helper()
		require.NoError(t, s.Compact(t.Context(), 0, now, dry, func(c Compaction) {
			require.True(t, c.Month.Before(limit))
			moved += c.Moved
		}))
		return moved
	}
	// misplaced are the rows of old days whose histograms are not on their first day.
	misplaced := func() (n int64) {
		for _, c := range compacted[:2] {
			dimensions, err := s.rollupDimensions(t.Context(), c.table)
			require.NoError(t, err)
			m := histogramMove{c.table, dimensions, c.histograms}
			n += number(t, s, fmt.Sprintf(`SELECT count() FROM (SELECT day, first, %s AS counted FROM (SELECT *, min(day) OVER (PARTITION BY toYYYYMM(day), %s) AS first
				FROM %s FINAL WHERE day < toDate('%s'))) WHERE counted AND day != first`,
				m.each("arrayExists(n -> n != 0, %s.values)", " OR "), strings.Join(dimensions, ", "), c.table, limit.Format(time.DateOnly)))
		}
		return n
	}
	agree("before")
	require.Positive(t, misplaced())
	planned := compact(true)
	require.Positive(t, planned)
	require.Positive(t, misplaced(), "a dry run moves nothing")
	require.ErrorContains(t, s.Compact(t.Context(), limit.Year()+1, now, false, nil), fmt.Sprintf("percentiles of %d and later are kept by the day", limit.Year()))

	// Cut short after some keys of a month.
	dimensions, err := s.rollupDimensions(t.Context(), "kpi_1d")
	require.NoError(t, err)
	m := histogramMove{"kpi_1d", dimensions, compacted[0].histograms}
	part := keyRange{keyRows{tenant: "org_0", model: "model-3"}, keyRows{tenant: "org_1", model: "model-2"}}
	parts := func() int64 {
		return number(t, s, "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'kpi_1d' AND active")
	}
	require.NoError(t, s.conn.Exec(t.Context(), "SYSTEM STOP MERGES kpi_1d"))
	before := parts()
	require.NoError(t, s.moveRange(t.Context(), m, part, ch.Named("from", from), ch.Named("to", from.AddDate(0, 1, 0))))
	require.Equal(t, before+1, parts(), "a move is one part")
	require.NoError(t, s.conn.Exec(t.Context(), "SYSTEM START MERGES kpi_1d"))
	agree("cut short")

	compact(false)
	agree("compacted")
	require.Zero(t, misplaced())
	require.Zero(t, number(t, s, fmt.Sprintf("SELECT countIf(has(cost_histogram.values, 0)) FROM kpi_1d WHERE day < toDate('%s')", limit.Format(time.DateOnly))))
	require.Zero(t, compact(false), "nothing is left to move")

	// Late rows, of days and combinations that were there and of new ones, and two runs while more come in.
	add := func(token string) {
		late := days(60)
		insert(late, token)
		f.spans, f.evaluations, f.outcomes = append(f.spans, late.spans...), append(f.evaluations, late.evaluations...), append(f.outcomes, late.outcomes...)
	}
	add("late")
	agree("late rows")
	require.Positive(t, misplaced())
	var runs sync.WaitGroup
	for range 2 {
		runs.Go(func() {
			if err := s.Compact(t.Context(), 0, now, false, func(Compaction) {}); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 2 {
		add(fmt.Sprint("later-", i))
	}
	runs.Wait()
	agree("two runs at once")
	compact(false)
	agree("compacted again")
	require.Zero(t, misplaced())
}

// BenchmarkCompact measures a month of day rollups at the shape of BenchmarkQuery, before and after, and the same
// with everything by the month, for comparison. Run it with FLYBALL_BENCH=1.
func BenchmarkCompact(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	store := startServer(b).database(b)
	now := time.Now().UTC()
	loadRollups(b, store, compactBefore(now).Add(-time.Hour), 31, 0, 0) // the 31 days of a December
	for b.Loop() {
		for _, table := range []string{"kpi_1d", "quality_1d"} {
			require.NoError(b, store.conn.Exec(b.Context(), "OPTIMIZE TABLE "+table+" FINAL"))
			b.ReportMetric(float64(number(b, store, "SELECT count() FROM "+table)), table+"-rows")
		}
		b.ReportMetric(monthly(b, store), "kpi_1d-bytes-by-month")
		start := time.Now()
		require.NoError(b, store.Compact(b.Context(), 0, now, false, func(c Compaction) {
			b.ReportMetric(float64(c.Before), c.Table+"-bytes-before")
			b.ReportMetric(float64(c.After), c.Table+"-bytes-after")
		}))
		b.ReportMetric(time.Since(start).Seconds(), "s")
	}
	b.ReportMetric(0, "ns/op")
}

// monthly is what the day rollup of calls would take if all of a month were one row.
func monthly(b *testing.B, s *Store) float64 {
	for _, sql := range []string{"CREATE TABLE monthly AS kpi_1d", "INSERT INTO monthly SELECT * REPLACE (toStartOfMonth(day) AS day) FROM kpi_1d", "OPTIMIZE TABLE monthly FINAL"} {
		require.NoError(b, s.conn.Exec(b.Context(), sql))
	}
	return float64(number(b, s, "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = currentDatabase() AND table = 'monthly' AND active"))
}
