package clickhouse

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkSweep measures a tick as the sweep activity sees it: the query, the transfer and the decoding
// into observations, of keys whose traffic is Zipf-distributed, 20 calls per key and hour on average, a
// tenth of them scored. Rows lie in a few unmerged parts, as under live inserts. Run it with
// FLYBALL_BENCH=1; it needs some seconds to load.
func BenchmarkSweep(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	server := startServer(b)
	for _, keys := range []int{1_000, 10_000, 100_000} {
		store := server.database(b)
		at := time.Now().UTC()
		loadSweep(b, store, keys, at)
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			var took []time.Duration
			var observations int
			for b.Loop() {
				start := time.Now()
				got, err := store.Sweep(b.Context(), SweepQuery{At: at, Shards: 1})
				took = append(took, time.Since(start))
				require.NoError(b, err)
				observations = len(got)
			}
			require.NotZero(b, observations)
			slices.Sort(took)
			milliseconds := func(share float64) float64 {
				return float64(took[int(share*float64(len(took)-1))].Microseconds()) / 1000
			}
			b.ReportMetric(milliseconds(0.50), "p50-ms")
			b.ReportMetric(milliseconds(0.95), "p95-ms")
			b.ReportMetric(float64(observations), "observations")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// loadSweep fills the hour before at, minute by minute in five inserts.
func loadSweep(tb testing.TB, s *Store, keys int, at time.Time) {
	calls := 20 * keys
	for part := range 5 {
		require.NoError(tb, s.conn.Exec(tb.Context(), fmt.Sprintf(`INSERT INTO sweep_1m (minute, key, tenant_id, model, cohort, arm, requests, cost_pico_usd, input_tokens, output_tokens, cache_read_tokens, cost_codes, quality_codes)
SELECT
  minute, cityHash64(tenant_id, model), tenant_id, model, 'production', 'none',
  count(), sum(toInt128(1e9)), sum(1000), sum(200), sum(100),
  groupArray(4096)(toInt16(3000 + rand(3) %% 300)), groupArrayIf(4096)(toInt16(150 + rand(4) %% 40), rand(5) %% 10 = 0)
FROM (
  SELECT
    toUInt32(floor(exp(rand(1) / 4294967296. * log(%[1]d)))) AS rank,
    concat('tenant-', toString(rank %% 1000)) AS tenant_id, concat('model-', toString(intDiv(rank, 1000))) AS model,
    toDateTime(%[2]d, 'UTC') - INTERVAL %[3]d + rand(2) %% 12 MINUTE AS minute
  FROM numbers(%[4]d)
)
GROUP BY minute, tenant_id, model`, keys, at.Truncate(time.Minute).Unix(), 12*part, calls/5)))
	}
}
