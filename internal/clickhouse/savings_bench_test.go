package clickhouse

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// BenchmarkMeasure measures a decision of 300,000 calls, all of them scored, in sessions of three, beside as many of
// another decision on the same key. Run it with FLYBALL_BENCH=1; it needs half a minute to load.
func BenchmarkMeasure(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	const calls = 300_000
	s := startServer(b).database(b)
	begin := time.Date(2026, 3, 2, 18, 0, 0, 0, time.UTC)
	for _, view := range []string{"kpi_1m_from_spans", "quality_1m_from_quality", "bucket_changes_from_spans", "bucket_changes_from_quality"} {
		require.NoError(b, s.conn.Exec(b.Context(), "DROP VIEW "+view))
	}
	made := fmt.Sprintf(`SELECT hex(sipHash128(number)) AS trace_id, toDateTime64('%s', 3, 'UTC') + intDiv(number, 50) / 1000 * 2 AS timestamp,
  'org_1' AS tenant_id, 'opus' AS requested_model, if(sipHash64(intDiv(number, 6)) %% 100 < 95, 'treated', 'holdback') AS arm, number
FROM numbers(%d)`, begin.Format("2006-01-02 15:04:05"), 2*calls)
	require.NoError(b, s.conn.Exec(b.Context(), `INSERT INTO spans (trace_id, timestamp, tenant_id, requested_model, session_id, decision_id, arm, cost_pico_usd, price_version)
SELECT trace_id, timestamp, tenant_id, requested_model, toString(intDiv(number, 6)), if(number % 2 = 0, 'd', 'e'), arm,
  toInt64(1e9 + sipHash64(number) % 1000000000), 'v' FROM (`+made+`)`))
	require.NoError(b, s.conn.Exec(b.Context(), `INSERT INTO quality (trace_id, timestamp, tenant_id, requested_model, arm, kind, score)
SELECT trace_id, timestamp, tenant_id, requested_model, arm, 'judge', (sipHash64(number) % 1000) / 1000 FROM (`+made+`)`))
	r := contract.MeasureRequest{
		Decision: "d", Key: usage.Key{Tenant: "org_1", Model: "opus"}, Steps: []contract.Step{{From: begin, Share: 0.95}}, Until: begin.Add(48 * time.Hour),
	}
	for b.Loop() {
		e, err := s.Measure(b.Context(), r)
		require.NoError(b, err)
		require.EqualValues(b, calls, e.Treated+e.Holdback)
		require.NotNil(b, e.Quality)
	}
	b.ReportMetric(calls*float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
