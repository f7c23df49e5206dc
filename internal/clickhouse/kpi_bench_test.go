package clickhouse

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkQuery measures dashboard queries at the shape of 10 million calls a day: 2,000 keys of 100 tenants,
// Zipf-distributed, costs and latencies lognormal; 30 days by the day, the last day by the hour and the last
// hour by the minute, in a few unmerged parts. Run it with FLYBALL_BENCH=1; it needs half a minute to load.
func BenchmarkQuery(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	store := startServer(b).database(b)
	now := time.Now().UTC()
	loadRollups(b, store, now, 31, 25, 62)
	hour, month := now.Add(-time.Hour), now.AddDate(0, 0, -30)
	org := map[Dimension][]string{ByTenant: {"org_1"}}
	for _, bench := range []struct {
		name  string
		query KPIQuery
	}{
		{"hour/by-minute", KPIQuery{From: hour, To: now, Step: time.Minute}},
		{"hour/by-key", KPIQuery{From: hour, To: now, GroupBy: []Dimension{ByTenant, ByRequestedModel}}},
		{"hour/by-minute-percentiles", KPIQuery{From: hour, To: now, Step: time.Minute, Percentiles: true}},
		{"hour/tenant-everything", KPIQuery{From: hour, To: now, Step: time.Minute, GroupBy: []Dimension{ByRequestedModel}, Where: org, Percentiles: true, Quality: true, Outcomes: true}},
		{"month/by-day", KPIQuery{From: month, To: now, Step: 24 * time.Hour}},
		{"month/by-key", KPIQuery{From: month, To: now, GroupBy: []Dimension{ByTenant, ByRequestedModel}}},
		{"month/tenant-everything", KPIQuery{From: month, To: now, Step: 24 * time.Hour, GroupBy: []Dimension{ByRequestedModel}, Where: org, Percentiles: true, Quality: true, Outcomes: true}},
		{"month/by-day-percentiles", KPIQuery{From: month, To: now, Step: 24 * time.Hour, Percentiles: true}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var took []time.Duration
			rows := 0
			for b.Loop() {
				start := time.Now()
				got, err := store.KPI(b.Context(), bench.query, now)
				took = append(took, time.Since(start))
				require.NoError(b, err)
				rows = len(got)
			}
			require.NotZero(b, rows)
			slices.Sort(took)
			for _, level := range []float64{0.50, 0.95, 0.99} {
				b.ReportMetric(float64(took[int(level*float64(len(took)-1))].Microseconds())/1000, fmt.Sprintf("p%.0f-ms", level*100))
			}
			b.ReportMetric(float64(rows), "rows")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// loadRollups fills each resolution with its last so many steps, on its own: the views between them are taken away
// first.
func loadRollups(tb testing.TB, s *Store, now time.Time, days, hours, minutes int) {
	tb.Helper()
	for _, view := range []string{"kpi_1d_from_kpi_1h", "kpi_1h_from_kpi_1m", "quality_1d_from_quality_1h", "quality_1h_from_quality_1m"} {
		require.NoError(tb, s.conn.Exec(tb.Context(), "DROP VIEW "+view))
	}
	for _, r := range []struct {
		resolution
		count int
	}{{resolutions[0], days}, {resolutions[1], hours}, {resolutions[2], minutes}} {
		if r.count == 0 {
			continue
		}
		first := now.Truncate(r.grain).Add(-time.Duration(r.count-1) * r.grain)
		at := fmt.Sprintf("toDateTime(%d + number * %d, 'UTC')", first.Unix(), int(r.grain/time.Second))
		// n calls of the key of rank r fall into a row; codes lie around the centre by a normal density, what is below
		// one call by chance.
		shapes := "shapes_" + r.suffix
		require.NoError(tb, s.conn.Exec(tb.Context(), fmt.Sprintf(`CREATE TABLE %s ENGINE = Memory AS SELECT
  number AS r, greatest(1, 1e7 * %g / ((r + 1) * 8.17)) AS n,
  arrayFilter(t -> t.2 > 0, arrayMap(c -> (toInt16(c), toUInt64(floor(n * 0.00346 * exp(-c * c / 26450) + (cityHash64(number, c) %% 1000) / 1000))), range(-450, 450))) AS z
FROM numbers(2000)`, shapes, r.grain.Hours()/24)))
		source := fmt.Sprintf("FROM (SELECT number FROM numbers(%d)) AS t CROSS JOIN %s", r.count, shapes)
		key := at + ", concat('org_', toString(r % 100)), concat('model-', toString(intDiv(r, 100))), 'openai', 'm', 't', 'production', 'none'"
		columns := r.column + ", tenant_id, requested_model, provider, model, prompt_template_version, cohort, arm"
		require.NoError(tb, s.conn.Exec(tb.Context(), fmt.Sprintf(`INSERT INTO kpi_%s (%s, requests,
  uncached_input_tokens, cache_read_tokens, output_tokens, cost_pico_usd, complexity_milli, velocity_tokens, velocity_ms,
  cost_histogram, latency_histogram, ttft_histogram)
SELECT %s, toUInt64(n), toInt64(n * 1000), toInt64(n * 300), toInt64(n * 200), toInt128(n * 1e9), toInt64(n * 1000), toInt64(n * 200), toInt64(n * 1500),
  mapFromArrays(arrayMap(c -> toInt16(c + 2900), z.1), z.2), mapFromArrays(arrayMap(c -> toInt16(c + 1000), z.1), z.2), mapFromArrays(arrayMap(c -> toInt16(c + 800), z.1), z.2)
%s`, r.suffix, columns, key, source)))
		require.NoError(tb, s.conn.Exec(tb.Context(), fmt.Sprintf(`INSERT INTO quality_%s (%s, evaluator, kind, scored, code_sum, quality_histogram)
SELECT %s, 'judge', 'judge', toUInt64(n / 10), toInt64(n * 17), mapFromArrays(arrayMap(c -> toInt16(c), range(140, 200)), arrayMap(c -> toUInt64(1 + n / 600), range(140, 200)))
%s`, r.suffix, columns, key, source)))
	}
}
