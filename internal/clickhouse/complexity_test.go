package clickhouse

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

func testComplexity(t *testing.T, s *Store) {
	read := func() []kpi.TaskScore {
		scores, err := s.Complexity(t.Context())
		require.NoError(t, err)
		return scores
	}
	require.Empty(t, read())
	at := time.Date(2026, 1, 15, 9, 23, 47, 123_000_000, time.UTC)
	contract := kpi.TaskScore{Task: "contract", Source: kpi.FromTime, Milli: 24_000, Samples: 3, Minutes: 240.5, SetAt: at, By: "ana"}
	own := kpi.TaskScore{Tenant: "org_1", Task: "contract", Source: kpi.FromPerson, Milli: 1, SetAt: at, By: "bo"}
	far := kpi.TaskScore{Tenant: "org_2", Task: "contract", Source: kpi.FromDistance, Milli: 2500, Samples: 9, SetAt: at}
	require.NoError(t, s.SetComplexity(t.Context(), []kpi.TaskScore{far, own, contract}))
	require.Equal(t, []kpi.TaskScore{contract, own, far}, read())
	for i := range 3 { // one in force, the last, before any merge and after
		contract.Milli = int64(100 + i)
		require.NoError(t, s.SetComplexity(t.Context(), []kpi.TaskScore{contract}))
		require.Equal(t, []kpi.TaskScore{contract, own, far}, read())
	}
	require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE complexity FINAL"))
	require.EqualValues(t, 3, number(t, s, "SELECT count() FROM complexity"))
	require.Equal(t, []kpi.TaskScore{contract, own, far}, read())
	require.NoError(t, s.SetComplexity(t.Context(), nil))
}

// testKPIByHand is a handful of calls whose KPIs are worked out here, to the pico-dollar.
func testKPIByHand(t *testing.T, s *Store) {
	now := time.Now().UTC()
	at := now.Truncate(24 * time.Hour).Add(-10 * time.Hour)
	call := func(id, model string, cost usage.PicoUSD, complexity float64, tokens usage.Tokens, latency, ttft int64) usage.Span {
		return usage.Span{
			TraceID: id, SpanID: id, TenantID: "org", RequestedModel: model, Model: model, Provider: "openai", Timestamp: at, Cost: cost, Priced: true,
			PriceVersion: "v1", Complexity: complexity, Tokens: tokens, UsageComplete: true, LatencyMS: latency, TTFTMS: ttft,
		}
	}
	unpriced := call("d", "big", 0, 9, usage.Tokens{UncachedInput: 100, Output: 40}, 0, 0)
	unpriced.Priced = false
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{
		call("a", "big", 4_710_000_001, 2.5, usage.Tokens{UncachedInput: 447, CacheRead: 800, Output: 342}, 1843, 210),
		call("b", "big", 1_290_000_002, 0.5, usage.Tokens{UncachedInput: 100, CacheWrite5m: 150, CacheWrite1h: 50, Output: 58}, 700, 200),
		call("c", "big", 0, 0, usage.Tokens{UncachedInput: 253, Output: 10}, 90, 0), // free, of unknown complexity; its first token was not told
		unpriced,
		call("e", "small", 300_000_000, 0.001, usage.Tokens{UncachedInput: 60, CacheRead: 60, Output: 30}, 1100, 100),
	}, "by hand"))
	var outcomes []usage.Outcome
	for i, value := range []float64{1, 1, -1, 0, 2.5} {
		outcomes = append(outcomes, usage.Outcome{
			ID: string(rune('a' + i)), TraceID: "a", TenantID: "org", Model: "big", ServedModel: "big", Provider: "openai",
			Arm: usage.None, Kind: "conversion", Value: value, Timestamp: at,
		})
	}
	require.NoError(t, s.InsertOutcomes(t.Context(), outcomes, "by hand"))

	for _, step := range []time.Duration{0, time.Minute, time.Hour, 24 * time.Hour} { // from days, minutes, hours, days
		from := at.Truncate(24 * time.Hour)
		rows, err := s.KPI(t.Context(), KPIQuery{From: from, To: from.AddDate(0, 0, 1), Step: step, GroupBy: []Dimension{ByRequestedModel}, Outcomes: true, Percentiles: true}, now)
		require.NoError(t, err)
		require.Len(t, rows, 2, step)
		big0, small := rows[0], rows[1]

		// big: 4,710,000,001 + 1,290,000,002 + 0 pico-dollars of the priced calls a, b, c, whose complexity is
		// 2.5 + 0.5 + 1 (unknown) = 4. The unpriced d has neither cost nor complexity.
		require.Equal(t, []any{int64(4), int64(1), big.NewInt(6_000_000_003), int64(4000)}, []any{big0.Requests, big0.Unpriced, big0.Cost, big0.ComplexityMilli})
		require.InDelta(t, 0.006_000_000_003/4, *big0.NTC(), 1e-18, "0.00150000000075 dollars a unit of complexity")
		// Of a and b: 342 + 58 = 400 tokens in (1843 − 210) + (700 − 200) = 2133 ms.
		require.InDelta(t, 400/2.133, *big0.Velocity(), 1e-9)
		// Output 342 + 58 + 10 + 40 = 450; input (447 + 800) + (100 + 150 + 50) + 253 + 100 = 1900, of which 800 from a cache.
		require.InDelta(t, 450.0/1900, *big0.CompletionRatio(), 1e-12)
		require.InDelta(t, 800.0/1900, *big0.CacheHitRate(), 1e-12)
		// Three of the five outcomes are above 0, of four calls.
		require.InDelta(t, 3.0/4, *big0.OutcomeRate(), 1e-12)
		// The middle of 90, 700 and 1843 ms, to half a code: 0.35 %.
		require.EqualValues(t, 3, big0.LatencyMS.N)
		require.InEpsilon(t, 700, big0.LatencyMS.P50, 0.0036)
		require.InEpsilon(t, 1843, big0.LatencyMS.P99, 0.0036)
		// Of two costs the nearest rank of one half is the first.
		require.EqualValues(t, 2, big0.CostUSD.N)
		require.InEpsilon(t, 0.001_290_000_002, big0.CostUSD.P50, 0.0036)

		// small: 300,000,000 pico-dollars over a thousandth of a unit are 0.3 dollars a unit; 30 tokens in 1 s; 30 of 120; 60 of 120.
		require.Equal(t, []any{big.NewInt(300_000_000), int64(1)}, []any{small.Cost, small.ComplexityMilli})
		require.InDelta(t, 0.3, *small.NTC(), 1e-15)
		require.InDelta(t, 30, *small.Velocity(), 1e-12)
		require.InDelta(t, 0.25, *small.CompletionRatio(), 1e-12)
		require.InDelta(t, 0.5, *small.CacheHitRate(), 1e-12)
		require.Nil(t, small.OutcomeRate(), "no outcome is known: that is not a rate of 0")
	}
}
