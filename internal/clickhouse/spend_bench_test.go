package clickhouse

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
)

// BenchmarkSpend measures what the reconciler asks every few seconds, over a day of 10 million calls of one tenant in
// sessions of eight calls within some minutes, by 200 keys, stored hour by hour: with projections, and by the calls
// alone. Run it with FLYBALL_BENCH=1; it needs some minutes to load. FLYBALL_BENCH_N is another number of calls.
func BenchmarkSpend(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	calls := 10_000_000
	if n := os.Getenv("FLYBALL_BENCH_N"); n != "" {
		_, err := fmt.Sscan(n, &calls)
		require.NoError(b, err)
	}
	s := startServer(b).database(b)
	day := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	loadSpend(b, s, day, calls)
	sessions := make([]string, 100)
	for i := range sessions {
		require.NoError(b, s.conn.QueryRow(b.Context(), fmt.Sprintf("SELECT hex(sipHash128(toUInt64(%d)))", i*calls/900)).Scan(&sessions[i]))
	}
	for _, of := range []struct {
		name string
		q    SpendQuery
	}{
		{"100-sessions", SpendQuery{Per: budget.PerSession, Of: sessions}},
		{"10-keys", SpendQuery{Per: budget.PerKey, Of: strings.Fields("key-1 key-2 key-3 key-4 key-5 key-6 key-7 key-8 key-9 key-10")}},
		{"each-key", SpendQuery{Per: budget.PerKey}},
	} {
		of.q.Tenant, of.q.From, of.q.To = "org_1", day, day.Add(24*time.Hour)
		var same []map[string]budget.Micro
		for _, projections := range []int{1, 0} {
			b.Run(fmt.Sprintf("%s/projections=%d", of.name, projections), func(b *testing.B) {
				ctx, id := b.Context(), ""
				var took []time.Duration
				var spend map[string]budget.Micro
				for b.Loop() {
					id = uuid.NewString()
					start := time.Now()
					var err error
					spend, err = s.Spend(ch.Context(ctx, ch.WithQueryID(id), ch.WithSettings(ch.Settings{"optimize_use_projections": projections})), of.q)
					took = append(took, time.Since(start))
					require.NoError(b, err)
				}
				require.NotEmpty(b, spend)
				same = append(same, spend)
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(rowsRead(b, s, of.q, projections)), "rows-read")
				b.ReportMetric(0, "ns/op")
			})
		}
		if len(same) == 2 {
			require.Equal(b, same[0], same[1])
		}
	}
}

// rowsRead is how many rows the query's plan reads.
func rowsRead(tb testing.TB, s *Store, q SpendQuery, projections int) (rows uint64) {
	tb.Helper()
	sql, args := q.sql()
	var database, table string
	var parts, marks uint64
	require.NoError(tb, s.conn.QueryRow(ch.Context(tb.Context(), ch.WithSettings(ch.Settings{"optimize_use_projections": projections})),
		"EXPLAIN ESTIMATE "+sql, args...).Scan(&database, &table, &parts, &rows, &marks))
	return rows
}

// loadSpend stores the day's calls.
func loadSpend(tb testing.TB, s *Store, day time.Time, calls int) {
	tb.Helper()
	for _, view := range []string{"kpi_1m_from_spans", "sweep_1m_from_spans", "bucket_changes_from_spans", "fallback_cases_from_spans"} {
		require.NoError(tb, s.conn.Exec(tb.Context(), "DROP VIEW IF EXISTS "+view))
	}
	for hour := range 24 {
		from, to := calls*hour/24, calls*(hour+1)/24
		require.NoError(tb, s.conn.Exec(tb.Context(), fmt.Sprintf(`INSERT INTO spans (trace_id, span_id, timestamp, tenant_id, requested_model, session_id, tags, cost_pico_usd, price_version)
SELECT hex(sipHash128(number)), hex(sipHash64(number)), fromUnixTimestamp64Milli(toInt64(%d + toUInt64(number) * 86400000 / %d), 'UTC'),
  'org_1', concat('model-', toString(number %% 5)),
  hex(sipHash128(toUInt64(intDiv(number, 800) * 100 + number %% 100))), map('virtual_key', concat('key-', toString(sipHash64(number %% 1000) %% 200))),
  toInt64(1e9 + sipHash64(number) %% 1000000000), 'v' FROM numbers(%d, %d)`, day.UnixMilli(), calls, from, to-from)))
	}
}
